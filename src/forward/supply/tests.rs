//! Paused time, in-memory IO: connections are calls of `open`, sessions are scripted. Time moves on by itself once
//! nothing else does.

use std::{io, sync::Mutex};

use tokio::{io::AsyncReadExt, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    forward::{
        Event, Monitor, Observer, Script, SessionAccounts, Sessions, TestConnector, TestStream, TestTunnel,
        start_failure,
    },
    proto::{Cause, CloseReason, Initiator, Mode},
    session::{ConnectError, ControlErrorKind, SessionId, StartRequest},
};

mod dormant;
mod idle;
mod lazy;
mod policy;
mod pool;
mod raw;
mod refusal;
mod replaced;
mod retired;
mod shrink;
mod status;
mod stop;
mod turns;
mod vacancy;
mod wake;
mod window;

const WINDOW: Duration = Duration::from_secs(60);

type Open = Result<Opened<TestStream, TestTunnel>, NoSession>;
type Over = (Option<ConnectError>, Vec<(SessionId, CloseReason)>);

struct World {
    supply: Arc<Supply<TestTunnel>>,
    monitor: Monitor,
    connector: Arc<TestConnector>,
    /// The session that is there at first, if there is one.
    first: TestTunnel,
    events: Arc<Mutex<Vec<Event>>>,
    stop: CancellationToken,
    supervisor: JoinHandle<Over>,
}

fn world() -> World {
    world_with(tunnel("s-1"), WINDOW)
}

fn world_with(first: TestTunnel, window: Duration) -> World {
    world_of(first, window, Sessions::Auto, &SessionAccounts::default())
}

fn world_of(first: TestTunnel, window: Duration, sessions: Sessions, accounts: &SessionAccounts) -> World {
    world_from(Some(first), window, sessions, None, accounts)
}

/// With a session at first, or with none.
fn world_from(
    first: Option<TestTunnel>,
    window: Duration,
    sessions: Sessions,
    idle_close: Option<Duration>,
    accounts: &SessionAccounts,
) -> World {
    let connector = Arc::<TestConnector>::default();
    let events = Arc::<Mutex<Vec<Event>>>::default();
    let observer: Observer = Arc::new({
        let events = events.clone();
        move |event| events.lock().expect("no panic under the lock").push(event)
    });
    let request = StartRequest::default();
    let begin = first.clone().map(|first| (first, accounts.take(&request.target)));
    let monitor = Monitor::default();
    let observer = monitor.observe(observer);
    let source = Source {
        connector: connector.clone(),
        request,
        observer,
        monitor: monitor.clone(),
        sessions,
        idle_close,
        accounts: accounts.clone(),
    };
    let (supply, mut supervisor) = supply(source, begin, window, fastrand::Rng::with_seed(3));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let supervisor = tokio::spawn(async move {
        let failure = tokio::select! {
            failure = supervisor.supply() => Some(failure),
            () = stopped.cancelled() => None,
        };
        supervisor.stop();
        let mut ends = Vec::new();
        supervisor.close(&mut ends).await;
        let end = |event| match event {
            Event::SessionEnded { session, reason, .. } => (session, reason),
            event => panic!("{event:?}"),
        };
        (failure, ends.into_iter().map(end).collect())
    });
    World {
        supply: Arc::new(supply),
        monitor,
        connector,
        first: first.unwrap_or_else(|| tunnel("s-0")),
        events,
        stop,
        supervisor,
    }
}

/// A session whose streams nobody needs at the other end.
fn tunnel(id: &str) -> TestTunnel {
    with_mode(id, Mode::Mux)
}

fn with_mode(id: &str, mode: Mode) -> TestTunnel {
    let (tunnel, mut peers) = TestTunnel::with(id, mode);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Some(peer) = peers.recv().await {
            open.push(peer);
        }
    });
    tunnel
}

fn lost() -> CloseReason {
    CloseReason::new(Initiator::Transport, Cause::ConnectionLost("gone".into()))
}

fn stall_timeout() -> CloseReason {
    CloseReason::new(Initiator::Library, Cause::Timeout("the agent"))
}

fn idle_timeout() -> CloseReason {
    CloseReason::new(Initiator::Service, Cause::ChannelClosed("idle".into()))
}

fn requested() -> CloseReason {
    CloseReason::new(Initiator::Us, Cause::Requested)
}

fn end_of_data() -> CloseReason {
    CloseReason::new(Initiator::Agent, Cause::ChannelClosed(String::new()))
}

fn network() -> Script {
    Script::Fails(|| start_failure(ControlErrorKind::Network))
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Lets time pass, and before it everything that can happen without.
async fn pass(time: Duration) {
    time::sleep_until(Instant::now() + time).await;
}

/// Lets everything happen that can happen by now.
async fn calm() {
    pass(Duration::from_millis(1)).await;
}

impl World {
    fn script(&self, scripts: impl IntoIterator<Item = Script>) {
        self.connector.script("", scripts);
    }

    /// A new connection.
    fn open(&self) -> JoinHandle<Open> {
        let supply = self.supply.clone();
        tokio::spawn(async move { supply.open().await })
    }

    /// A new connection, how it went: the session's name, and after how many seconds.
    async fn outcome(&self) -> (Option<String>, u64) {
        let start = Instant::now();
        let opened = self.open().await.expect("no panic").ok().map(|opened| session_of(&opened));
        (opened, start.elapsed().as_secs())
    }

    /// What was told, in short.
    fn told(&self) -> Vec<String> {
        told(&self.events)
    }

    /// Stops, and checks that nothing is left; what was still to be told.
    async fn end(self) -> Vec<(SessionId, CloseReason)> {
        self.stop.cancel();
        let (failure, ends) = time::timeout(seconds(20), self.supervisor).await.expect("it ends").expect("no panic");
        assert!(failure.is_none(), "{failure:?}");
        assert_eq!(self.connector.pending(), 0, "a start is under way");
        assert_eq!(self.supply.open().await.err(), Some(NoSession));
        ends
    }
}

fn told(events: &Mutex<Vec<Event>>) -> Vec<String> {
    let events = events.lock().expect("no panic under the lock");
    let text = |event: &Event| match event {
        Event::SessionEnded { session, reason, .. } => Some(format!("ended {session}: {:?}", reason.initiator)),
        Event::SessionReplaced { session, replaces, reason, .. } => {
            Some(format!("{replaces} replaced by {session}: {:?}", reason.initiator))
        }
        Event::Dormant { idle: Some(idle), .. } => Some(format!("idle for {} s", idle.as_secs())),
        Event::Dormant { reason, fulfilled: false, .. } => Some(format!("dormant: {:?}", reason.initiator)),
        Event::Dormant { reason, fulfilled: true, .. } => Some(format!("fulfilled: {:?}", reason.initiator)),
        Event::WindowClosed { outage } => Some(format!("refusing after {} s", outage.as_secs())),
        Event::NotGrown { present, wanted: None, .. } => Some(format!("{present} not started")),
        Event::NotGrown { present, wanted: Some(wanted), .. } => Some(format!("1 not started, {present} of {wanted}")),
        Event::SessionsLimited { wanted, allowed } => Some(format!("{allowed} of {wanted} allowed")),
        Event::StartFailed { error, attempt, present: 0 } => Some(format!("failed {attempt}: {error}")),
        Event::StartFailed { error, attempt, present } => Some(format!("failed {attempt} beside {present}: {error}")),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

fn session_of(opened: &Opened<TestStream, TestTunnel>) -> String {
    opened.lease.tunnel().id().to_string()
}

async fn served(connection: JoinHandle<Open>) -> Opened<TestStream, TestTunnel> {
    connection.await.expect("no panic").unwrap_or_else(|_| panic!("no session"))
}

async fn refused(connection: JoinHandle<Open>) {
    assert!(connection.await.expect("no panic").is_err(), "served");
}

async fn is_reset(opened: &mut Opened<TestStream, TestTunnel>) -> bool {
    matches!(opened.stream.read_u8().await, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

fn named(id: &str, after: u64) -> (Option<String>, u64) {
    (Some(id.to_owned()), after)
}
