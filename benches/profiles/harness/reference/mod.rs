//! A client as simple as can be, written for comparison: no window, no pacing but a fixed sleep, no recovery.
//!
//! With messages of 1024 bytes and the sleep that Go makes of one millisecond it has the shape of the genuine plugin;
//! without the sleep it shows what the other end permits. It signs, shakes hands, multiplexes, hashes what it sends and
//! what it receives, acknowledges, and sends its oldest message again when that is overdue.
//!
//! ```text
//!  local sockets ─▶ frames ─▶ pipe ─▶ pump (a thread that sleeps) ─▶ channel ─▶ websocket
//!  local sockets ◀──────────── frames ◀──────────────────────────── channel ◀─ websocket
//! ```

mod channel;
mod pump;
mod streams;

use std::{env, net::Ipv4Addr, sync::Arc, time::Duration};

use ssmfwd::{
    aws::{Aws, AwsOptions},
    session::{ControlPlane, Dial, Dialer, StartRequest},
};
use tokio::net::TcpListener;

use self::{channel::Channel, streams::Streams};
use super::Outcome;

/// What Go makes of a sleep of one millisecond.
pub(crate) const GO_MILLISECOND: Duration = Duration::from_micros(1110);

/// How it behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Bytes of a message, at most.
    pub(crate) payload: usize,
    /// After each message.
    pub(crate) sleep: Duration,
}

impl Shape {
    /// The genuine plugin.
    pub(crate) const PLUGIN: Self = Self { payload: 1024, sleep: GO_MILLISECOND };
    /// As fast as it goes.
    pub(crate) const UNPACED: Self = Self { payload: 1024, sleep: Duration::ZERO };

    /// The arguments that start a part of this shape.
    pub(crate) fn arguments(self, port: u16) -> [String; 4] {
        let micros = self.sleep.as_micros().to_string();
        ["reference".into(), port.to_string(), self.payload.to_string(), micros]
    }

    fn parse(arguments: &[String]) -> Outcome<(u16, Self)> {
        let [port, payload, micros] = arguments else { return Err("expected PORT PAYLOAD MICROSECONDS".into()) };
        let sleep = Duration::from_micros(micros.parse()?);
        Ok((port.parse()?, Self { payload: payload.parse()?, sleep }))
    }
}

/// The part's process: tells its address, and forwards until it is ended.
pub(crate) async fn run(arguments: &[String]) -> Outcome<()> {
    let (port, shape) = Shape::parse(arguments)?;
    let control = Aws::load(AwsOptions::default()).await?;
    let request = StartRequest {
        target: env::var("SSMFWD_TARGET").unwrap_or_else(|_| "i-0123456789abcdef0".into()),
        document: Some("AWS-StartPortForwardingSession".into()),
        parameters: [("portNumber".to_owned(), vec![port.to_string()])].into(),
        reason: None,
    };
    let grant = control.start(&request).await?;
    let websocket = Dialer::new()?.dial(&control, &grant.url, None).await?.websocket;
    let streams = Arc::new(Streams::default());
    let (pump, pipe) = pump::pipe();
    let mut channel = Channel::open(websocket, &grant.token, Arc::clone(&streams)).await?;
    channel.handshake().await?;
    let outgoing = pump::start(pipe, shape);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    super::announce(listener.local_addr()?)?;
    let accepting = async {
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            streams::serve(Arc::clone(&streams), socket, pump.clone());
        }
    };
    tokio::select! {
        ended = channel.run(outgoing) => ended,
        failed = accepting => failed,
    }
}
