//! Something between the program and the emulated AWS: it can hold back answers, and it sees what is secret.

use std::{net::Ipv4Addr, sync::Arc};

use ssmfwd::emulator::Emulator;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
    task::JoinHandle,
};

/// Relays connections to an emulator, API calls and websockets alike.
pub(crate) struct ApiRelay {
    pub(crate) url: String,
    flowing: watch::Sender<bool>,
    seen: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl ApiRelay {
    /// A relay that passes everything on.
    pub(crate) async fn to(emulator: &Emulator) -> Self {
        Self::without(emulator, None).await
    }

    /// A relay that passes everything on, but nothing more of a connection on which a request has these words.
    pub(crate) async fn swallowing(emulator: &Emulator, words: &'static str) -> Self {
        Self::without(emulator, Some(words)).await
    }

    async fn without(emulator: &Emulator, swallowed: Option<&'static str>) -> Self {
        let target = emulator.endpoint_url().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (flowing, flow) = watch::channel(true);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.expect("the emulator");
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(copy(from_client, to_server, Until::Words(swallowed), Arc::clone(&record)));
                tokio::spawn(copy(from_server, to_client, Until::Held(flow.clone()), Arc::clone(&record)));
            }
        });
        Self { url, flowing, seen, task }
    }

    /// Holds back all answers from now on.
    pub(crate) fn hold(&self) {
        self.flowing.send_replace(false);
    }

    pub(crate) fn release(&self) {
        self.flowing.send_replace(true);
    }

    /// Everything that was relayed, in both directions.
    pub(crate) async fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().await).into_owned()
    }
}

impl Drop for ApiRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long a direction is passed on.
enum Until {
    Words(Option<&'static str>),
    Held(watch::Receiver<bool>),
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut until: Until,
    record: Arc<Mutex<Vec<u8>>>,
) {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        match &mut until {
            Until::Words(Some(words)) if String::from_utf8_lossy(&chunk[..count]).contains(*words) => {
                return std::future::pending().await;
            }
            Until::Words(_) => {}
            Until::Held(flow) => {
                if flow.wait_for(|flowing| *flowing).await.is_err() {
                    return;
                }
            }
        }
        record.lock().await.extend_from_slice(&chunk[..count]);
        if to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
    drop(to.shutdown().await);
}
