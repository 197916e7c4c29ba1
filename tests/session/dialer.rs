//! Opens websockets in memory, or does not, as its script says.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use ssmfwd::session::{
    Ahead, BoxFuture, ControlPlane, Dial, DialError, Dialled, QueryForm, StreamUrl, websocket_config,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, duplex},
    sync::mpsc,
    time::Instant,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use crate::{
    gateway::Websocket,
    line::{Breaker, Dropped, Failing, Fault, Hook, Line},
    stutter::Stutter,
};

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What becomes of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialling {
    Opens,
    /// The transport fails after that many bytes, both ways together.
    Fails(usize, Fault),
    /// The transport fails after that many bytes that come in.
    FailsReading(usize),
    /// There is no way to the gateway.
    Unreachable,
    Hangs,
}

/// What was dialled, and what becomes of the next dials.
#[derive(Default)]
pub(crate) struct Dials {
    pub(crate) next: VecDeque<Dialling>,
    /// When, where and with which signature.
    pub(crate) made: Vec<(Instant, String, String)>,
    pub(crate) lines: Vec<Breaker>,
    pub(crate) dropped: Hook,
}

pub(crate) struct MemoryDialer {
    /// Bytes that the transport under the websocket holds, each way.
    pub(crate) pipe: usize,
    /// How the client's transport stutters; see [`Stutter`].
    pub(crate) stutter: Vec<u8>,
    pub(crate) dials: Arc<Mutex<Dials>>,
    pub(crate) gateway: mpsc::Sender<Websocket>,
}

impl MemoryDialer {
    fn dials(&self) -> MutexGuard<'_, Dials> {
        self.dials.lock().expect("no test panics with it")
    }

    /// A websocket to the gateway.
    pub(crate) async fn open(&self, failing: Option<Failing>) -> WebSocketStream<Box<dyn Io>> {
        let (ours, theirs) = duplex(self.pipe);
        let server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        self.gateway.try_send(server).expect("the gateway takes websockets as fast as they come");
        let hook = Arc::clone(&self.dials().dropped);
        let (line, breaker) = Line::new(ours, failing, hook);
        self.dials().lines.push(breaker);
        let io: Box<dyn Io> =
            if self.stutter.is_empty() { Box::new(line) } else { Box::new(Stutter::new(line, self.stutter.clone())) };
        WebSocketStream::from_raw_socket(io, Role::Client, Some(websocket_config())).await
    }
}

impl Dial for MemoryDialer {
    type Io = Box<dyn Io>;

    fn dial<'a>(
        &'a self,
        control: &'a dyn ControlPlane,
        url: &'a StreamUrl,
        _: Option<Ahead<Self::Io>>,
    ) -> BoxFuture<'a, Result<Dialled<Self::Io>, DialError>> {
        Box::pin(async move {
            let _dropped = Dropped(Arc::clone(&self.dials().dropped));
            let headers = control.sign_upgrade(url, QueryForm::PlusIsSpace).await?;
            let signature = headers.iter().map(|(_, value)| value.to_str().expect("text")).collect();
            let dialling = {
                let mut dials = self.dials();
                dials.made.push((Instant::now(), url.request_target().to_owned(), signature));
                dials.next.pop_front().unwrap_or(Dialling::Opens)
            };
            let failing = match dialling {
                Dialling::Opens => None,
                Dialling::Fails(after, fault) => Some(Failing { after, read: false, fault }),
                Dialling::FailsReading(after) => Some(Failing { after, read: true, fault: Fault::Broken }),
                Dialling::Unreachable => {
                    let source = io::ErrorKind::NetworkUnreachable.into();
                    return Err(DialError::Connect { host: url.host().to_owned(), source });
                }
                Dialling::Hangs => std::future::pending().await,
            };
            Ok(Dialled { websocket: self.open(failing).await, fell_back_to_unsigned: false })
        })
    }
}
