//! Paused time, in-memory IO, scripted sessions.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::*;
use crate::{
    forward::{Script, SessionAccounts, Sessions, TestConnector, TestTunnel, start_failure},
    proto::{Cause, CloseReason, Initiator, Mode},
    session::ControlErrorKind,
};

const IDLE: Duration = Duration::from_secs(30);

struct World {
    connector: Arc<TestConnector>,
    pools: Arc<Pools<TestConnector>>,
    life: Life,
}

impl World {
    fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        let connector = Arc::<TestConnector>::default();
        connector.script("i-0a", scripts);
        let options = DirectOptions {
            sessions: Sessions::Auto,
            accounts: SessionAccounts::default(),
            reconnect_window: Duration::from_secs(60),
            idle: IDLE,
        };
        let life = Life::default();
        let request = StartRequest { reason: Some("why".into()), ..StartRequest::default() };
        let pools = Pools::new(connector.clone(), options, request, Arc::new(|_| {}), life.clone());
        Self { connector, pools: Arc::new(pools), life }
    }

    fn open(&self) -> JoinHandle<Result<DirectStream<TestTunnel>, ClientError>> {
        let pools = self.pools.clone();
        tokio::spawn(async move { pools.open("i-0a", 22.into()).await })
    }

    async fn opened(&self) -> DirectStream<TestTunnel> {
        self.open().await.expect("no panic").expect("a stream")
    }

    async fn nothing_is_left(self) {
        drop(self.pools);
        self.life.tasks.close();
        self.life.tasks.wait().await;
    }
}

/// A session, and what keeps its streams open.
fn tunnel(id: &str) -> (TestTunnel, mpsc::Receiver<impl Sized + use<>>) {
    TestTunnel::with(id, Mode::Mux)
}

async fn pass(time: Duration) {
    sleep_until(Instant::now() + time).await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_while_a_session_is_started_shares_it() {
    let (session, _peers) = tunnel("s-1");
    let world = World::new([Script::ReadyAfter(Duration::from_secs(2), session.clone())]);
    let asking: Vec<_> = (0..20).map(|_| world.open()).collect();
    for stream in asking {
        assert_eq!(stream.await.expect("no panic").expect("a stream").session().0, "s-1");
    }
    // A connection pool comes and goes.
    for _ in 0..20 {
        drop(world.opened().await);
        pass(IDLE / 2).await;
    }
    assert_eq!(world.connector.starts(), 1);
    let request = world.connector.started.lock().expect("no panic under the lock")[0].clone();
    assert_eq!((&*request.target, request.reason.as_deref()), ("i-0a", Some("why")));
    assert_eq!(request.document.as_deref(), Some("AWS-StartPortForwardingSession"));
    assert_eq!(request.parameters["portNumber"], ["22"]);
    world.nothing_is_left().await;
    assert!(session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_and_the_next_one_tries_again() {
    let (session, _peers) = tunnel("s-1");
    let refused = Script::Fails(|| start_failure(ControlErrorKind::TargetNotConnected));
    let world = World::new([refused, Script::Ready(session)]);
    let asking = [world.open(), world.open(), world.open()];
    for stream in asking {
        let error = stream.await.expect("no panic").err().expect("refused");
        assert!(matches!(error, ClientError::Start(_)), "{error:?}");
    }
    assert_eq!(world.connector.starts(), 1);
    world.opened().await;
    world.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_its_caller_has_given_up_serves_the_next_one() {
    let (session, _peers) = tunnel("s-1");
    let world = World::new([Script::ReadyAfter(Duration::from_secs(2), session)]);
    let asking = world.open();
    pass(Duration::from_secs(1)).await;
    asking.abort();
    pass(Duration::from_secs(5)).await;
    assert_eq!(world.opened().await.session().0, "s-1");
    assert_eq!(world.connector.starts(), 1);
    world.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_is_ended_and_the_next_stream_gets_another() {
    let ((first, _peers), (second, _more)) = (tunnel("s-1"), tunnel("s-2"));
    let world = World::new([Script::Ready(first.clone()), Script::Ready(second)]);
    drop(world.opened().await);
    pass(IDLE * 2).await;
    assert!(first.is_finished());
    assert!(world.pools.lock().by_key.is_empty(), "nothing is kept of it");
    assert_eq!(world.opened().await.session().0, "s-2");
    world.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn streams_outlive_the_pools_and_their_sessions_end_with_them() {
    let (session, _peers) = tunnel("s-1");
    let world = World::new([Script::Ready(session.clone())]);
    let stream = world.opened().await;
    let tasks = world.life.tasks.clone();
    drop(world);
    pass(Duration::from_secs(3600)).await;
    assert!(!session.has_ended());
    drop(stream);
    tasks.close();
    tasks.wait().await;
    assert!(session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nobody_can_use_is_cancelled() {
    let world = World::new([Script::Hangs]);
    let asking = world.open();
    pass(Duration::from_secs(1)).await;
    assert_eq!(world.connector.pending(), 1);
    asking.abort();
    // It holds the pools until it is gone.
    asking.await.err().expect("aborted");
    let connector = world.connector.clone();
    world.nothing_is_left().await;
    assert_eq!(connector.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn closing_ends_streams_and_starts() {
    let (session, _peers) = tunnel("s-1");
    let world = World::new([Script::Ready(session.clone()), Script::Hangs]);
    let _open = world.opened().await;
    let pools = world.pools.clone();
    let starting = tokio::spawn(async move { pools.open("i-0a", 23.into()).await });
    pass(Duration::from_secs(1)).await;
    world.life.closing.cancel();
    let error = starting.await.expect("no panic").err().expect("closed");
    assert!(matches!(error, ClientError::Closed), "{error:?}");
    assert!(matches!(world.open().await.expect("no panic"), Err(ClientError::Closed)));
    assert_eq!(world.connector.starts(), 2);
    world.nothing_is_left().await;
    assert!(session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_can_have_no_sessions_any_more_is_replaced_by_the_next_who_asks() {
    let ((first, _peers), (second, _more)) = (tunnel("s-1"), tunnel("s-2"));
    let gone = Script::Fails(|| start_failure(ControlErrorKind::InvalidDocument));
    let world = World::new([Script::Ready(first.clone()), gone, Script::Ready(second)]);
    drop(world.opened().await);
    first.end(CloseReason::new(Initiator::Transport, Cause::ConnectionLost("gone".into())));
    pass(Duration::from_secs(1)).await;
    assert_eq!(world.opened().await.session().0, "s-2");
    world.nothing_is_left().await;
}
