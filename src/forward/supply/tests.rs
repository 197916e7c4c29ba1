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

mod idle;
mod lazy;
mod policy;
mod pool;
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

#[tokio::test(start_paused = true)]
async fn a_ready_session_serves_at_once_and_is_the_only_one() {
    let world = world();
    assert_eq!(world.outcome().await, named("s-1", 0));
    pass(seconds(3600)).await;
    assert_eq!(world.outcome().await, named("s-1", 0));
    assert_eq!(world.connector.starts(), 0);
    let first = world.first.clone();
    assert_eq!(world.end().await.len(), 1);
    assert!(first.is_finished());
}

#[tokio::test(start_paused = true)]
async fn connections_are_held_while_the_websocket_is_replaced() {
    let world = world();
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    let (one, other) = (world.open(), world.open());
    pass(seconds(59)).await;
    assert!(!one.is_finished() && !other.is_finished());
    world.first.set_health(Health::Ready);
    assert_eq!([session_of(&served(one).await), session_of(&served(other).await)], ["s-1", "s-1"]);
    assert_eq!(world.connector.starts(), 0, "the session was resumed, not replaced");
}

#[tokio::test(start_paused = true)]
async fn the_reconnect_window_counts_from_the_loss_and_then_refusals_are_quick() {
    let world = world();
    let since = Instant::now();
    world.first.set_health(Health::Reconnecting { since });
    assert_eq!(world.outcome().await, (None, 60));
    assert_eq!(world.outcome().await, (None, 0));
    world.first.set_health(Health::Reconnecting { since: Instant::now() - seconds(20) });
    assert_eq!(world.outcome().await, (None, 40));
    world.first.set_health(Health::Ready);
    assert_eq!(world.outcome().await, named("s-1", 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_replaced_without_being_asked_for() {
    for reason in [lost(), stall_timeout()] {
        let world = world();
        let mut old = served(world.open()).await;
        world.script([Script::Ready(tunnel("s-2"))]);
        world.first.end(reason.clone());
        calm().await;
        assert_eq!(world.connector.starts(), 1);
        let by = reason.initiator;
        assert_eq!(world.told(), [format!("ended s-1: {by:?}"), format!("s-1 replaced by s-2: {by:?}")]);
        assert!(is_reset(&mut old).await);
        assert_eq!(world.outcome().await, named("s-2", 0));
        drop(old);
        calm().await;
        assert!(world.first.is_finished(), "the API was told, if it had to be");
        assert_eq!(world.end().await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replacement_is_tried_for_ever_while_connections_are_held_and_then_refused() {
    let world = world();
    world.script([network()]);
    world.first.end(lost());
    assert_eq!(world.outcome().await, (None, 60));
    pass(seconds(3600)).await;
    let starts = world.connector.starts();
    assert!((120..600).contains(&starts), "{starts} in an hour: a pause of 15 s on average");
    assert_eq!(world.outcome().await, (None, 0));
    world.script([Script::Ready(tunnel("s-2"))]);
    pass(seconds(61)).await;
    assert_eq!(world.outcome().await, named("s-2", 0));
    let told = world.told();
    assert_eq!(told[..2], ["ended s-1: Transport", "failed 1: StartSession of i-0a failed: no"]);
    assert_eq!(told.last().map(String::as_str), Some("s-1 replaced by s-2: Transport"));
    let dormant = told.iter().any(|told| told.starts_with("dormant"));
    assert!(!dormant, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn the_outage_of_a_session_that_could_not_be_resumed_began_with_its_websocket() {
    let world = world();
    world.script([network()]);
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    let held = world.open();
    pass(seconds(50)).await;
    world.first.end(lost());
    let start = Instant::now();
    refused(held).await;
    assert_eq!(start.elapsed(), seconds(10));
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_lost_again_and_again_are_replaced_ever_more_slowly() {
    let world = world_with(tunnel("s-1"), seconds(600));
    let tunnels: Vec<_> = (2..10).map(|at| tunnel(&format!("s-{at}"))).collect();
    world.script(tunnels.iter().cloned().map(Script::Ready));
    let mut current = &world.first;
    let mut pauses = Vec::new();
    for next in &tunnels {
        let start = Instant::now();
        current.end(lost());
        assert_eq!(world.outcome().await.0.as_ref(), Some(&next.id().0));
        pauses.push(start.elapsed().as_secs());
        current = next;
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60]);
}

#[tokio::test(start_paused = true)]
async fn what_the_service_ended_stays_ended_until_a_connection_comes() {
    for reason in [idle_timeout(), end_of_data(), requested()] {
        let world = world();
        world.script([Script::Ready(tunnel("s-2"))]);
        world.first.end(reason.clone());
        pass(seconds(24 * 3600)).await;
        assert_eq!(world.connector.starts(), 0, "{reason}");
        let by = reason.initiator;
        assert_eq!(world.told(), [format!("ended s-1: {by:?}"), format!("dormant: {by:?}")]);

        let connections: Vec<_> = (0..10).map(|_| world.open()).collect();
        for connection in connections {
            assert_eq!(session_of(&served(connection).await), "s-2");
        }
        assert_eq!(world.connector.starts(), 1);
        assert_eq!(world.told().len(), 2, "the session's own event tells that it started");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_held_when_the_service_ends_the_session_start_another() {
    let world = world();
    world.script([Script::Ready(tunnel("s-2"))]);
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    let held = world.open();
    pass(seconds(30)).await;
    world.first.end(idle_timeout());
    assert_eq!(session_of(&served(held).await), "s-2");
    assert_eq!(world.told(), ["ended s-1: Service", "dormant: Service"]);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_keep_ending_are_started_ever_more_slowly() {
    let world = world();
    let tunnels: Vec<_> = (2..13).map(|at| tunnel(&format!("s-{at}"))).collect();
    world.script(tunnels.iter().cloned().map(Script::Ready));
    let mut current = &world.first;
    let mut pauses = Vec::new();
    for (at, next) in tunnels.iter().enumerate() {
        if at == 9 {
            pass(seconds(60)).await;
        }
        current.end(idle_timeout());
        let (session, pause) = world.outcome().await;
        assert_eq!(session.as_ref(), Some(&next.id().0));
        pauses.push(pause);
        current = next;
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60, /* one that lasted */ 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn sessions_for_one_connection_follow_each_other_at_once() {
    let world = world_with(with_mode("s-1", Mode::Raw), WINDOW);
    let tunnels: Vec<_> = (2..8).map(|at| with_mode(&format!("s-{at}"), Mode::Raw)).collect();
    world.script(tunnels.iter().cloned().map(Script::Ready));
    let mut current = &world.first;
    for next in &tunnels {
        assert_eq!(world.outcome().await, (Some(current.id().0.clone()), 0));
        current.end(end_of_data());
        calm().await;
        current = next;
    }
    // One that ends without having carried anything is another matter.
    let unused = &tunnels[5];
    world.script([Script::Ready(tunnel("s-8")), Script::Ready(tunnel("s-9"))]);
    assert_eq!(world.connector.starts(), 5);
    assert_eq!(world.outcome().await, (Some(unused.id().0.clone()), 0));
}

#[tokio::test(start_paused = true)]
async fn connections_at_the_same_time_get_sessions_of_their_own_where_a_session_carries_one() {
    let world = world_with(with_mode("s-1", Mode::Raw), WINDOW);
    world.script([Script::Ready(with_mode("s-2", Mode::Raw)), Script::Ready(with_mode("s-3", Mode::Raw))]);
    let one = served(world.open()).await;
    let (two, three) = (world.open(), world.open());
    let mut sessions = [session_of(&one), session_of(&served(two).await), session_of(&served(three).await)];
    sessions.sort();
    assert_eq!(sessions, ["s-1", "s-2", "s-3"]);
    assert!(!world.first.has_ended(), "it is in use");
    drop(one);
    calm().await;
    assert!(world.first.is_finished());
    assert_eq!(world.told(), ["ended s-2: Us", "ended s-1: Us"], "s-2 was dropped first");
}

#[tokio::test(start_paused = true)]
async fn for_a_dormant_forward_starts_are_tried_only_while_a_connection_waits() {
    let world = world();
    world.script([network()]);
    world.first.end(idle_timeout());
    calm().await;
    let waiting = world.open();
    pass(seconds(20)).await;
    let starts = world.connector.starts();
    assert!(starts > 1, "{starts}");
    waiting.abort();
    pass(seconds(3600)).await;
    assert_eq!(world.connector.starts(), starts);
    // The window counts from the first that waits, again and again.
    for _ in 0..2 {
        let one = world.open();
        pass(seconds(50)).await;
        assert_eq!(world.outcome().await, (None, 10));
        refused(one).await;
        let starts = world.connector.starts();
        pass(seconds(3600)).await;
        assert_eq!(world.connector.starts(), starts);
    }
    let waiting = world.open();
    calm().await;
    world.script([Script::Ready(tunnel("s-2"))]);
    assert_eq!(session_of(&served(waiting).await), "s-2");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nobody_waits_for_any_more_serves_the_next_connection() {
    let world = world();
    world.script([Script::ReadyAfter(seconds(20), tunnel("s-2")), network()]);
    world.first.end(idle_timeout());
    for _ in 0..5 {
        let gave_up = world.open();
        pass(seconds(3)).await;
        gave_up.abort();
        calm().await;
    }
    assert_eq!((world.connector.starts(), world.connector.pending()), (1, 1), "neither cancelled nor repeated");
    pass(seconds(600)).await;
    assert_eq!((world.outcome().await, world.connector.starts()), (named("s-2", 0), 1));
}

#[tokio::test(start_paused = true)]
async fn access_denied_for_a_minute_ends_the_forward() {
    for held in [false, true] {
        let world = world_with(tunnel("s-1"), seconds(600));
        world.script([Script::Fails(|| start_failure(ControlErrorKind::AccessDenied))]);
        let start = Instant::now();
        // In the second round the forward is dormant, and a connection waits.
        world.first.end(if held { idle_timeout() } else { lost() });
        let connection = held.then(|| world.open());
        let (failure, _) = world.supervisor.await.expect("no panic");
        assert!(matches!(failure, Some(ConnectError::Control(error)) if error.kind == ControlErrorKind::AccessDenied));
        let after = start.elapsed().as_secs();
        assert!((60..91).contains(&after), "{after}");
        if let Some(connection) = connection {
            refused(connection).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn access_denied_between_other_failures_does_not_end_the_forward() {
    let world = world();
    let denied = || Script::Fails(|| start_failure(ControlErrorKind::AccessDenied));
    world.script((0..40).flat_map(|_| [denied(), denied(), network()]));
    world.first.end(lost());
    pass(seconds(600)).await;
    assert!(world.connector.starts() > 20 && !world.supervisor.is_finished());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_document_that_is_gone_ends_the_forward_at_once() {
    let world = world();
    world.script([Script::Fails(|| start_failure(ControlErrorKind::InvalidDocument))]);
    world.first.end(lost());
    let start = Instant::now();
    let (failure, _) = world.supervisor.await.expect("no panic");
    assert!(matches!(failure, Some(ConnectError::Control(error)) if error.kind == ControlErrorKind::InvalidDocument));
    assert_eq!((start.elapsed(), world.connector.starts()), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_between_the_offer_and_the_open_is_not_used() {
    let world = world();
    world.script([Script::Ready(tunnel("s-2")), Script::Ready(tunnel("s-3"))]);
    // Its health does not tell yet.
    world.first.refuse_streams(OpenError::Ending);
    let connection = world.open();
    pass(seconds(1)).await;
    assert!(!connection.is_finished());
    world.first.end(idle_timeout());
    let opened = served(connection).await;
    assert_eq!(session_of(&opened), "s-2");

    // Nor did the supervisor notice: this runs before it.
    let supply = world.supply.clone();
    let second = opened.lease.tunnel().clone();
    second.end(lost());
    let opened = supply.open().await.unwrap_or_else(|_| panic!("no session"));
    assert_eq!(session_of(&opened), "s-3");
}

#[tokio::test(start_paused = true)]
async fn a_basic_session_that_reconnects_does_not_keep_its_queue_beyond_the_window() {
    let (first, peers) = TestTunnel::with("s-1", Mode::Basic);
    let world = world_with(first, WINDOW);
    // As while another connection has its turn: the tunnel's `open` waits.
    world.first.take_turns();
    let queued = world.open();
    pass(seconds(3600)).await;
    assert!(!queued.is_finished());
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    let start = Instant::now();
    refused(queued).await;
    assert_eq!(start.elapsed(), WINDOW);
    drop(peers);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_everything_in_every_state() {
    // Serving and in use.
    let one = world();
    let (first, _open) = (one.first.clone(), served(one.open()).await);
    let ends = one.end().await;
    assert_eq!(ends, [(SessionId("s-1".into()), requested())]);
    assert!(first.is_finished());

    // Reconnecting, a connection held.
    let one = world();
    one.first.set_health(Health::Reconnecting { since: Instant::now() });
    let (first, held) = (one.first.clone(), one.open());
    calm().await;
    assert_eq!(one.end().await.len(), 1);
    refused(held).await;
    assert!(first.is_finished());

    // Replacing: a start under way, a connection held.
    let one = world();
    one.script([Script::Hangs]);
    one.first.end(lost());
    let (first, held) = (one.first.clone(), one.open());
    calm().await;
    assert_eq!(one.connector.pending(), 1);
    assert_eq!(one.end().await, []);
    refused(held).await;
    assert!(first.is_finished());

    // Replacing: between two starts.
    let one = world();
    one.script([network()]);
    one.first.end(lost());
    pass(seconds(100)).await;
    assert_eq!((one.connector.pending(), one.end().await), (0, vec![]));

    // Dormant.
    let one = world();
    one.first.end(idle_timeout());
    calm().await;
    let first = one.first.clone();
    assert_eq!(one.end().await, []);
    assert!(first.is_finished());

    // Woken: a start under way.
    let one = world();
    one.script([Script::Hangs]);
    one.first.end(idle_timeout());
    let held = one.open();
    calm().await;
    assert_eq!(one.connector.pending(), 1);
    assert_eq!(one.end().await, []);
    refused(held).await;

    // Retired sessions.
    let (one, tunnels, _open) = retired::world_of_stalled().await;
    assert_eq!(one.end().await.len(), 5);
    assert!(tunnels.iter().all(TestTunnel::is_finished));
}
