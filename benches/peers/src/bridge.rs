//! A forwarder made of the library `aws-ssm-bridge`, as its own example makes one: one port, one session.
//!
//! `bridge PORT BYTES`: forwards to PORT of the target, in messages of so many bytes. Tells its address in a line of JSON,
//! as every client does that a bench starts.

use std::{env, error::Error, sync::Arc};

use aws_ssm_bridge::{
    EndpointPolicy, PortForwardConfig, PortForwarder, SessionBuilder, ShutdownSignal, install_signal_handlers,
};

/// Its own default refuses the connection after the hundredth.
const CONNECTIONS: usize = 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let port: u16 = arguments.next().ok_or("expected PORT BYTES")?.parse()?;
    let bytes: usize = arguments.next().ok_or("expected PORT BYTES")?.parse()?;
    let target = env::var("SSMFWD_TARGET").unwrap_or_else(|_| "i-0123456789abcdef0".into());
    let shutdown = ShutdownSignal::new();
    install_signal_handlers(shutdown.clone());
    let session = SessionBuilder::new(target)
        .port_forward(port)
        .payload_chunk_size(bytes)
        // The emulated gateway is on loopback and speaks plain ws.
        .endpoint_policy(EndpointPolicy::AllowAny)
        .start()
        .await?;
    let session = Arc::new(session);
    let config = PortForwardConfig { max_connections: CONNECTIONS, ..PortForwardConfig::default() };
    let forwarder = PortForwarder::bind(config).await?;
    println!("{}", serde_json::json!({"address": forwarder.local_addr().to_string()}));
    forwarder.forward(Arc::clone(&session), shutdown).await?;
    session.terminate().await?;
    Ok(())
}
