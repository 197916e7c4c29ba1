//! The emulator through real sockets, driven by a hand-made client.

mod api;
mod channel;
mod client;
mod faults;
mod kms;
mod levers;
#[cfg(unix)]
mod shells;
mod sso;
mod sts;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{AgentKind, Emulator, EmulatorConfig};

fn ideal() -> EmulatorConfig {
    EmulatorConfig { agent: AgentKind::Ideal, seed: 7, ..EmulatorConfig::default() }
}

fn emulator() -> Emulator {
    Emulator::start(ideal()).expect("an emulator")
}

/// A destination that sends back what it gets, until its test ends.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}
