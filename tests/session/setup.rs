//! A session and what it talks to.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ssmfwd::{
    emulator::agent::{AgentOptions, Behaviour, SessionType},
    session::{ConnectError, Health, Session, SessionEvent, SessionId, SessionOptions, StartRequest, Token},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    control::Control,
    dialer::{Dialling, Dials, MemoryDialer},
    gateway::{Command, Gateway, Seen, Service},
    line::Fault,
};

pub(crate) const SESSION: &str = "user-0123456789abcdef0";

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
    /// What becomes of the first dials.
    pub(crate) first_dials: Vec<Dialling>,
    /// Whether the session knows how to open another websocket.
    pub(crate) resumable: bool,
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
            first_dials: Vec::new(),
            resumable: false,
        }
    }

    pub(crate) fn resumable(service: Service) -> Self {
        Self { resumable: true, ..Self::new(service) }
    }

    pub(crate) async fn connect(self) -> World {
        let (control, result, remote) = self.try_connect().await;
        World { session: result.expect("a session"), control, remote }
    }

    pub(crate) async fn try_connect(mut self) -> (Arc<Control>, Result<Session, ConnectError>, Remote) {
        let (commands, receiver) = mpsc::channel(64);
        let (gateway, websockets) = mpsc::channel(16);
        let remote = Remote {
            commands,
            seen: Arc::default(),
            events: Arc::default(),
            dials: Arc::new(Mutex::new(Dials { next: self.first_dials.into(), ..Dials::default() })),
        };
        for command in self.first_commands.drain(..) {
            remote.tell(command);
        }
        let agent = AgentOptions {
            version: self.version.to_owned(),
            session_id: SESSION.to_owned(),
            target: "i-0123456789abcdef0".to_owned(),
            session_type: SessionType::Port,
            properties: self.properties,
            behaviour: self.behaviour,
            seed: 7,
            epoch_ms: 1_700_000_000_000,
        };
        let control = self.control;
        let seen = Arc::clone(&remote.seen);
        let service = (self.service, self.reads_after_writing);
        tokio::spawn(Gateway::new(websockets, Arc::clone(&control), agent, service, receiver, seen).run());

        let dialer = MemoryDialer { pipe: self.pipe, stutter: self.stutter, dials: Arc::clone(&remote.dials), gateway };
        let events = Arc::clone(&remote.events);
        self.options.observer = Some(Arc::new(move |event| events.lock().expect("no test panics with it").push(event)));
        let api = Arc::<Control>::clone(&control);
        let result = if self.resumable {
            let request = StartRequest::default();
            Session::connect(api, Arc::new(dialer), request, self.options, self.cancel).await
        } else {
            control.grant("token");
            let websocket = dialer.open(None).await;
            drop(dialer);
            let (session, token) = (SessionId(SESSION.to_owned()), Token::new("token"));
            Session::over(api, session, token, websocket, self.options, self.cancel).await
        };
        (control, result, remote)
    }
}

/// The other end, as a test sees it.
#[derive(Clone)]
pub(crate) struct Remote {
    commands: mpsc::Sender<Command>,
    seen: Arc<Mutex<Seen>>,
    events: Arc<Mutex<Vec<SessionEvent>>>,
    dials: Arc<Mutex<Dials>>,
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

    pub(crate) fn dials(&self) -> MutexGuard<'_, Dials> {
        self.dials.lock().expect("no test panics with it")
    }

    /// Makes the transport of the newest websocket fail.
    pub(crate) fn trip(&self, fault: Fault) {
        let line = self.dials().lines.last().cloned();
        line.expect("a websocket").trip(fault);
    }

    /// Waits until this is so. The clock is paused: time passes only when nothing else can happen.
    pub(crate) async fn until(&self, what: impl Fn(&Seen) -> bool) {
        for _ in 0..1_000_000 {
            if what(&self.seen()) {
                return;
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        panic!("never: {:?}", self.seen());
    }
}

pub(crate) struct World {
    pub(crate) session: Session,
    pub(crate) control: Arc<Control>,
    pub(crate) remote: Remote,
}

/// Every health that a session shows, one after another.
pub(crate) fn watch_health(session: &Session) -> Arc<Mutex<Vec<Health>>> {
    let mut health = session.health();
    let shown = Arc::new(Mutex::new(vec![health.borrow_and_update().clone()]));
    let list = Arc::clone(&shown);
    tokio::spawn(async move {
        while health.changed().await.is_ok() {
            list.lock().expect("no test panics with it").push(health.borrow_and_update().clone());
        }
    });
    shown
}
