//! Paused time, in-memory IO, scripted sessions.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;
use crate::{
    forward::{Script, TestConnector, TestPeer, TestTunnel, start_failure},
    proto::{Cause, CloseReason, Initiator, Mode},
    session::ControlErrorKind,
};

const IDLE: Duration = Duration::from_secs(30);

struct World {
    connector: Arc<TestConnector>,
    source: Arc<DirectSource<TestTunnel>>,
    stop: CancellationToken,
    keeper: JoinHandle<KeeperEnd>,
    events: Arc<Mutex<Vec<Event>>>,
}

type Peers = tokio::sync::mpsc::Receiver<TestPeer>;

async fn world(first: TestTunnel, then: impl IntoIterator<Item = Script>) -> World {
    let connector = Arc::<TestConnector>::default();
    connector.script("i-0a", [Script::Ready(first)].into_iter().chain(then));
    let events = Arc::<Mutex<Vec<Event>>>::default();
    let observer: Observer = Arc::new({
        let events = events.clone();
        move |event| events.lock().expect("no panic under the lock").push(event)
    });
    let options = DirectOptions {
        sessions: Sessions::Auto,
        accounts: SessionAccounts::default(),
        reconnect_window: Duration::from_secs(60),
        idle: IDLE,
    };
    let request = StartRequest { target: "i-0a".into(), ..StartRequest::default() };
    let started = start(connector.clone(), request, options, observer, CancellationToken::new()).await;
    let (source, mut keeper) = started.expect("a session");
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let keeper = tokio::spawn(async move {
        let end = keeper.keep(&stopped).await;
        keeper.close(end, &stopped).await;
        end
    });
    World { connector, source: Arc::new(source), stop, keeper, events }
}

fn tunnel(id: &str) -> (TestTunnel, Peers) {
    TestTunnel::with(id, Mode::Mux)
}

fn lost() -> CloseReason {
    CloseReason::new(Initiator::Transport, Cause::ConnectionLost("gone".into()))
}

async fn pass(time: Duration) {
    tokio::time::sleep_until(Instant::now() + time).await;
}

#[tokio::test(start_paused = true)]
async fn streams_share_a_session_and_carry_bytes() {
    let (session, mut peers) = tunnel("s-1");
    let world = world(session, []).await;
    let mut one = world.source.open().await.expect("a stream");
    let other = world.source.open().await.expect("a stream");
    assert_eq!((&*one.session().0, &*other.session().0), ("s-1", "s-1"));
    let mut peer = peers.recv().await.expect("the other end");
    one.write_all(b"ping").await.expect("written");
    let mut up = [0; 4];
    peer.io.read_exact(&mut up).await.expect("read");
    peer.io.write_all(b"pong").await.expect("written");
    let mut down = [0; 4];
    one.read_exact(&mut down).await.expect("read");
    assert_eq!((&up, &down), (b"ping", b"pong"));
    assert_eq!(world.connector.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_replaced_before_anybody_asks() {
    let ((first, _peers), (second, _more)) = (tunnel("s-1"), tunnel("s-2"));
    let world = world(first.clone(), [Script::Ready(second)]).await;
    let mut cut = world.source.open().await.expect("a stream");
    first.end(lost());
    assert_eq!(cut.read_u8().await.expect_err("cut").kind(), io::ErrorKind::ConnectionReset);
    let stream = world.source.open().await.expect("a stream of the other session");
    assert_eq!(stream.session().0, "s-2");
    assert_eq!(world.connector.starts(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_idle_time_counts_from_the_last_stream() {
    let (session, _peers) = tunnel("s-1");
    let world = world(session.clone(), []).await;
    pass(IDLE / 2).await;
    let stream = world.source.open().await.expect("a stream");
    pass(IDLE * 3).await;
    assert!(!session.has_ended(), "it is in use");
    drop(stream);
    pass(IDLE - Duration::from_millis(1)).await;
    assert!(!session.has_ended());
    pass(Duration::from_millis(2)).await;
    assert_eq!(world.keeper.await.expect("no panic"), KeeperEnd::Unused);
    assert!(session.is_finished());
    assert!(matches!(world.source.open().await, Err(NoStream::Over)));
}

#[tokio::test(start_paused = true)]
async fn sessions_end_when_the_source_and_its_streams_are_gone() {
    let (session, _peers) = tunnel("s-1");
    let World { source, keeper, .. } = world(session.clone(), []).await;
    let stream = source.open().await.expect("a stream");
    drop(source);
    pass(Duration::from_secs(1)).await;
    assert!(!session.has_ended(), "a stream is left");
    drop(stream);
    assert_eq!(keeper.await.expect("no panic"), KeeperEnd::Unused);
    assert!(session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_everything_and_tells_it() {
    let (session, _peers) = tunnel("s-1");
    let world = world(session.clone(), []).await;
    let mut stream = world.source.open().await.expect("a stream");
    world.stop.cancel();
    assert_eq!(stream.read_u8().await.expect_err("cut").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(world.keeper.await.expect("no panic"), KeeperEnd::Stopped);
    assert!(session.is_finished());
    let events = world.events.lock().expect("no panic under the lock");
    assert!(events.iter().any(|event| matches!(event, Event::SessionEnded { .. })), "{events:?}");
}

/// The kind of failure that whoever waits for a stream in vain is told.
async fn told(world: &World) -> ControlErrorKind {
    let Err(NoStream::NoSession(Some(error))) = world.source.open().await else { panic!("a stream of nothing") };
    let ConnectError::Control(error) = &*error else { panic!("{error}") };
    error.kind
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_learns_of_the_last_failure() {
    let (first, _peers) = tunnel("s-1");
    let network = Script::Fails(|| start_failure(ControlErrorKind::Network));
    let world = world(first.clone(), [network]).await;
    first.end(lost());
    assert_eq!(told(&world).await, ControlErrorKind::Network);
    drop(world.source);
    assert_eq!(world.keeper.await.expect("no panic"), KeeperEnd::Unused);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_heal_ends_the_source() {
    let (first, _peers) = tunnel("s-1");
    let gone = Script::Fails(|| start_failure(ControlErrorKind::InvalidDocument));
    let world = world(first.clone(), [gone]).await;
    first.end(lost());
    assert_eq!(told(&world).await, ControlErrorKind::InvalidDocument);
    assert!(matches!(world.source.open().await, Err(NoStream::Over)));
    // Streams of other sessions could be left.
    drop(world.source);
    assert_eq!(world.keeper.await.expect("no panic"), KeeperEnd::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_the_callers_to_know() {
    let connector = Arc::<TestConnector>::default();
    connector.script("i-0a", [Script::Fails(|| start_failure(ControlErrorKind::TargetNotConnected))]);
    let accounts = SessionAccounts::default();
    let options = DirectOptions {
        sessions: Sessions::Auto,
        accounts: accounts.clone(),
        reconnect_window: Duration::ZERO,
        idle: IDLE,
    };
    let request = StartRequest { target: "i-0a".into(), ..StartRequest::default() };
    let started = start(connector, request, options, Arc::new(|_| {}), CancellationToken::new()).await;
    assert!(matches!(started, Err(ConnectError::Control(_))));
}
