//! What a forwarder tells: typed, without text for people.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Connector, LocalAddress, Monitor, Tunnel};
use crate::{
    proto::{Cause, CloseReason, Initiator},
    session::{self, ConnectError, SessionEvent, SessionId, StartRequest},
};

/// Told everything that happens, from whichever task it happens in: must not block.
pub type Observer = Arc<dyn Fn(Event) + Send + Sync>;

/// Something that happened in a forward.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A local address is bound. One event per address.
    Listening(LocalAddress),
    /// Something happened in an SSM session; first of all that it was started.
    Session {
        /// Which: a stalled one lives on beside those that serve new connections.
        session: SessionId,
        /// Its place in the forward's pool, from 0.
        member: u32,
        /// What.
        event: SessionEvent,
    },
    /// A local program connected.
    ConnectionOpened {
        /// Who.
        peer: Peer,
    },
    /// A local connection is over: told just before its socket is closed or reset.
    ConnectionClosed {
        /// Who.
        peer: Peer,
        /// Bytes given to the stream.
        bytes_up: u64,
        /// Bytes given to the local program.
        bytes_down: u64,
        /// From accept to close.
        duration: Duration,
        /// How it ended.
        end: ConnectionEnd,
    },
    /// The destination refused a connection; its `ConnectionClosed` follows.
    DestinationRefused {
        /// Whose connection it was.
        peer: Peer,
    },
    /// A connection could not be accepted for want of descriptors or memory: tried again a little later.
    AcceptFailed(String),
    /// A connection waits, because there are as many as there may be: told at the first that does, and again only after
    /// one that did not have to. Those behind it wait in the kernel; each is served when another one ends.
    ConnectionsLimited {
        /// So many there may be.
        limit: usize,
    },
    /// A session is over: told once for each that was told to be started, also if it never got ready. Its connections
    /// are being reset, but for those whose stream had ended before it: they get the rest of what they were sent. What
    /// follows, if no other session serves new connections, is [`Self::Dormant`] or attempts to replace it.
    SessionEnded {
        /// Which.
        session: SessionId,
        /// Its place in the forward's pool, from 0.
        member: u32,
        /// Why.
        reason: CloseReason,
        /// No connection had used it for a while, so that its end resets none: it was not ready yet, another session
        /// serves, or we have ended it for that (`reason` says so: [`Initiator::Library`], [`Cause::Timeout`]).
        idle: bool,
        /// Bytes of connections that were put into messages.
        bytes_up: u64,
        /// Bytes of connections that were received.
        bytes_down: u64,
    },
    /// What a session has carried since it was last told, or since it was ready: every ten seconds, if it has carried
    /// anything.
    SessionRates {
        /// Which.
        session: SessionId,
        /// Its place in the forward's pool, from 0.
        member: u32,
        /// Bytes per second upwards, on average.
        bytes_up_per_s: u64,
        /// Bytes per second downwards, on average.
        bytes_down_per_s: u64,
        /// Connections that use it now.
        connections: usize,
    },
    /// There are fewer sessions than were asked for, because one process may not have more to a target: told once.
    SessionsLimited {
        /// So many were asked for.
        wanted: usize,
        /// So many there are, or are being started.
        allowed: usize,
    },
    /// A session beside others could not be started: tried again much later, and told once until one could.
    NotGrown {
        /// Why not.
        error: Arc<ConnectError>,
        /// So many sessions there are.
        present: usize,
        /// How many there are to be, if that was asked for: else the forward has only tried to be faster.
        wanted: Option<usize>,
    },
    /// A session has taken the place of one that was lost.
    SessionReplaced {
        /// The new one.
        session: SessionId,
        /// Its place in the forward's pool, from 0.
        member: u32,
        /// The one that was lost.
        replaces: SessionId,
        /// Why the one before was lost.
        reason: CloseReason,
    },
    /// The session was not lost, but ended, by the service or the agent, or by us: the next connection starts another, and
    /// nothing else does.
    Dormant {
        /// Why.
        reason: CloseReason,
        /// The session was one of a single connection, which it has carried to its end: nothing to tell people.
        fulfilled: bool,
        /// All sessions are being ended by us, because no connection has used the forward for so long: the
        /// [`Self::SessionEnded`] of each follows.
        idle: Option<Duration>,
    },
    /// New connections are refused from now on, because the reconnect window has closed: told at the first that is, and
    /// once for each outage.
    WindowClosed {
        /// How long nothing could be carried until then.
        outage: Duration,
    },
    /// No session could be started, and new connections have none. Attempts go on: for ever if a session was lost, else
    /// while a connection waits.
    StartFailed {
        /// Why not.
        error: Arc<ConnectError>,
        /// From 1, in a row.
        attempt: u32,
        /// So many sessions there are that new connections cannot use now, but may again.
        present: usize,
    },
}

/// Starts a session for a place in the pool and tells what happens in it; also its end, if it does not get ready.
pub(super) async fn start<C: Connector>(
    connector: &C,
    request: StartRequest,
    member: u32,
    (observer, monitor): (&Observer, &Monitor),
    cancel: CancellationToken,
) -> Result<C::Tunnel, ConnectError> {
    let started = Arc::<OnceLock<SessionId>>::default();
    let of_session: session::Observer = Arc::new({
        let (observer, started) = (observer.clone(), started.clone());
        move |event| {
            if let SessionEvent::Started { session, .. } = &event {
                started.get_or_init(|| session.clone());
            }
            // Nothing can happen in it before.
            if let Some(session) = started.get().cloned() {
                observer(Event::Session { session, member, event });
            }
        }
    });
    let result = connector.connect(request, of_session, cancel).await;
    if let Err(error) = &result {
        monitor.start_failed(error);
    }
    if let (Err(error), Some(session)) = (&result, started.get().cloned()) {
        let reason = end_of_start(error);
        observer(Event::SessionEnded { session, member, reason, idle: true, bytes_up: 0, bytes_down: 0 });
    }
    result
}

/// The end of a session that was ready.
pub(super) fn end_of<T: Tunnel>(tunnel: &T, member: u32, reason: CloseReason, idle: bool) -> Event {
    let statistics = tunnel.statistics();
    let (bytes_up, bytes_down) = (statistics.bytes_up, statistics.bytes_down);
    Event::SessionEnded { session: tunnel.id().clone(), member, reason, idle, bytes_up, bytes_down }
}

/// What ended a session that did not get ready.
fn end_of_start(error: &ConnectError) -> CloseReason {
    match error {
        ConnectError::Closed(reason) => reason.clone(),
        ConnectError::Cancelled => CloseReason::new(Initiator::Us, Cause::Requested),
        ConnectError::TimedOut(_) => CloseReason::new(Initiator::Library, Cause::Timeout("the start of the session")),
        ConnectError::Dial(error) => CloseReason::new(Initiator::Transport, Cause::ConnectionLost(error.to_string())),
        ConnectError::Control(error) => CloseReason::new(Initiator::Library, Cause::Handshake(error.to_string())),
    }
}

/// The local end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address.
    Tcp(SocketAddr),
    /// Clients of unix sockets have no address.
    Unix,
    /// Whoever has started this process, by its stdin and stdout.
    Stdio,
}

/// `127.0.0.1:50000`, `unix` or `stdio`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Stdio => f.write_str("stdio"),
        }
    }
}

/// How a connection ended. The list is closed; its names are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionEnd {
    /// The local program ended first, then the destination.
    LocalClosed,
    /// The destination ended first.
    DestinationClosed,
    /// The local program ended, and the destination was silent for the linger time: it was cut off.
    LingerExpired,
    /// The local socket failed: the local program gave up or died.
    LocalReset,
    /// The destination refused the connection.
    DestinationRefused,
    /// The agent did not answer our FIN.
    Unanswered,
    /// The SSM session was lost under the connection.
    SessionEnded,
    /// The local program had stopped reading and held up the other connections of the session.
    SlowReader,
    /// No session could be had for it in time.
    NoSession,
    /// The forward was stopped under the connection.
    Stopped,
}

impl ConnectionEnd {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::LocalClosed,
        Self::DestinationClosed,
        Self::LingerExpired,
        Self::LocalReset,
        Self::DestinationRefused,
        Self::Unanswered,
        Self::SessionEnded,
        Self::SlowReader,
        Self::NoSession,
        Self::Stopped,
    ];

    /// The name in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalClosed => "local_closed",
            Self::DestinationClosed => "destination_closed",
            Self::LingerExpired => "linger_expired",
            Self::LocalReset => "local_reset",
            Self::DestinationRefused => "destination_refused",
            Self::Unanswered => "unanswered",
            Self::SessionEnded => "session_ended",
            Self::SlowReader => "slow_reader",
            Self::NoSession => "no_session",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
