//! A session and what it talks to.

use std::sync::{Arc, Mutex, MutexGuard};

use ssmfwd::{
    emulator::agent::{AgentOptions, Behaviour},
    session::{ConnectError, Session, SessionEvent, SessionId, SessionOptions, Token, websocket_config},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, duplex},
    sync::mpsc,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use tokio_util::sync::CancellationToken;

use crate::{
    control::Control,
    gateway::{Command, Gateway, Seen, Service},
    stutter::Stutter,
};

pub(crate) const SESSION: &str = "user-0123456789abcdef0";

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What a world is made of.
pub(crate) struct Setup {
    pub(crate) service: Service,
    pub(crate) version: &'static str,
    pub(crate) properties: serde_json::Value,
    pub(crate) behaviour: Behaviour,
    /// Bytes that the transport under the websocket holds, each way.
    pub(crate) pipe: usize,
    pub(crate) reads_after_writing: bool,
    pub(crate) control: Arc<Control>,
    pub(crate) cancel: CancellationToken,
    pub(crate) options: SessionOptions,
    /// How the client's transport stutters; see [`Stutter`].
    pub(crate) stutter: Vec<u8>,
    pub(crate) first_commands: Vec<Command>,
}

impl Setup {
    pub(crate) fn new(service: Service) -> Self {
        Self {
            service,
            version: "3.3.987.0",
            properties: serde_json::json!({"type": "LocalPortForwarding", "portNumber": "80", "localPortNumber": "0"}),
            behaviour: Behaviour::ideal(),
            pipe: 64 << 10,
            reads_after_writing: false,
            control: Arc::default(),
            cancel: CancellationToken::new(),
            options: SessionOptions::default(),
            stutter: Vec::new(),
            first_commands: Vec::new(),
        }
    }

    pub(crate) async fn connect(self) -> World {
        let (control, result, remote) = self.try_connect().await;
        World { session: result.expect("a session"), control, remote }
    }

    pub(crate) async fn try_connect(mut self) -> (Arc<Control>, Result<Session, ConnectError>, Remote) {
        let (ours, theirs) = duplex(self.pipe);
        let (commands, receiver) = mpsc::channel(16);
        let remote = Remote { commands, seen: Arc::default(), events: Arc::default() };
        for command in self.first_commands.drain(..) {
            remote.tell(command);
        }
        let server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let agent = AgentOptions {
            version: self.version.to_owned(),
            session_id: SESSION.to_owned(),
            properties: self.properties,
            behaviour: self.behaviour,
            seed: 7,
            epoch_ms: 1_700_000_000_000,
        };
        let seen = Arc::clone(&remote.seen);
        let gateway = Gateway::new(server, agent, self.service, self.reads_after_writing, receiver, seen);
        tokio::spawn(gateway.run());

        let ours: Box<dyn Io> =
            if self.stutter.is_empty() { Box::new(ours) } else { Box::new(Stutter::new(ours, self.stutter)) };
        let client = WebSocketStream::from_raw_socket(ours, Role::Client, Some(websocket_config())).await;
        let control = self.control;
        let events = Arc::clone(&remote.events);
        self.options.observer = Some(Arc::new(move |event| events.lock().expect("no test panics with it").push(event)));
        let session = Session::over(
            Arc::<Control>::clone(&control),
            SessionId(SESSION.to_owned()),
            Token::new("token"),
            client,
            self.options,
            self.cancel,
        );
        let result = session.await;
        (control, result, remote)
    }
}

/// The other end, as a test sees it.
#[derive(Clone)]
pub(crate) struct Remote {
    commands: mpsc::Sender<Command>,
    seen: Arc<Mutex<Seen>>,
    events: Arc<Mutex<Vec<SessionEvent>>>,
}

impl Remote {
    pub(crate) fn tell(&self, command: Command) {
        self.commands.try_send(command).expect("the gateway is there");
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test panics with it")
    }

    /// What the session's observer was told.
    pub(crate) fn events(&self) -> Vec<SessionEvent> {
        self.events.lock().expect("no test panics with it").clone()
    }

    /// Waits until this is so. The clock is paused: time passes only when nothing else can happen.
    pub(crate) async fn until(&self, what: impl Fn(&Seen) -> bool) {
        for _ in 0..1_000_000 {
            if what(&self.seen()) {
                return;
            }
            tokio::time::advance(std::time::Duration::from_millis(1)).await;
        }
        panic!("never: {:?}", self.seen());
    }
}

pub(crate) struct World {
    pub(crate) session: Session,
    pub(crate) control: Arc<Control>,
    pub(crate) remote: Remote,
}
