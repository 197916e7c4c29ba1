//! How long things last that options say: paused time, short values.

use super::{
    memory::{calm, pass, world},
    *,
};
use crate::forward::{ForwardState, test_tunnel::TestPeer};

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A byte goes through, and another one back.
async fn works(app: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), agent: &mut TestPeer) -> bool {
    let there = app.write_all(b"?").await.is_ok() && agent.io.read_u8().await.is_ok();
    there && agent.io.write_all(b"!").await.is_ok() && app.read_u8().await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn connections_go_on_for_the_drain_time_and_no_longer() {
    let (tunnel, mut peers) = TestTunnel::new();
    let options = ForwarderOptions { drain: seconds(5), ..ForwarderOptions::default() };
    let mut world = world(options, Some(tunnel.clone()));
    let mut app = world.connect().await.expect("a listener");
    let mut agent = peers.recv().await.expect("a stream");
    world.drain.cancel();
    let start = Instant::now();
    calm().await;
    assert!(world.connect().await.is_none(), "nothing listens any more");
    pass(seconds(4)).await;
    assert!(works(&mut app, &mut agent).await && !world.forwarder.is_finished());
    let told = world.events.clone();
    assert!(matches!(world.forwarder.await.expect("no panic"), ForwardEnd::Stopped));
    assert_eq!(start.elapsed().as_secs(), 5);
    assert!(tunnel.is_finished());
    assert_eq!(ends(&told), [ConnectionEnd::Stopped]);
}

#[tokio::test(start_paused = true)]
async fn draining_is_over_with_the_last_connection() {
    let (tunnel, mut peers) = TestTunnel::new();
    let options = ForwarderOptions { drain: seconds(600), linger: seconds(600), ..ForwarderOptions::default() };
    let mut world = world(options, Some(tunnel));
    let mut app = world.connect().await.expect("a listener");
    let mut agent = peers.recv().await.expect("a stream");
    // One that lingers is not waited for longer than its agent takes.
    let lingering = world.connect().await.expect("a listener");
    let mut other = peers.recv().await.expect("a stream");
    works(&mut app, &mut agent).await;
    drop(lingering);
    calm().await;
    world.drain.cancel();
    let start = Instant::now();
    other.io.read_to_end(&mut Vec::new()).await.expect("our FIN");
    other.io.shutdown().await.expect("the agent's FIN");
    pass(seconds(2)).await;
    agent.complete().await;
    app.read_to_end(&mut Vec::new()).await.expect("a clean end");
    drop(app);
    let events = world.events.clone();
    world.forwarder.await.expect("no panic");
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_eq!(ends(&events).last(), Some(&ConnectionEnd::DestinationClosed));
}

#[tokio::test(start_paused = true)]
async fn without_time_to_drain_connections_are_cut_at_once() {
    let (tunnel, mut peers) = TestTunnel::new();
    let options = ForwarderOptions { drain: Duration::ZERO, ..ForwarderOptions::default() };
    let mut world = world(options, Some(tunnel.clone()));
    let _app = world.connect().await.expect("a listener");
    let _agent = peers.recv().await.expect("a stream");
    let (start, events) = (Instant::now(), world.events.clone());
    world.stop().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(tunnel.is_finished() && ends(&events) == [ConnectionEnd::Stopped]);
}

/// As a reload does that removes one.
#[tokio::test(start_paused = true)]
async fn one_forward_is_stopped_and_the_other_goes_on() {
    let options = ForwarderOptions::default();
    let ((one, mut of_one), (other, mut of_other)) = (TestTunnel::new(), TestTunnel::new());
    let (mut stays, mut goes) = (world(options.clone(), Some(one.clone())), world(options, Some(other.clone())));
    let (mut app, _cut) = (stays.connect().await.expect("a listener"), goes.connect().await.expect("a listener"));
    let (mut agent, _agent) = (of_one.recv().await.expect("a stream"), of_other.recv().await.expect("a stream"));
    goes.stop().await;
    assert!(other.is_finished() && !one.has_ended());
    assert!(works(&mut app, &mut agent).await);
    assert!(stays.connect().await.is_some());
    of_one.recv().await.expect("a stream");
    stays.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lazy_forward_holds_its_first_connection_until_its_session_is_ready() {
    let (tunnel, mut peers) = TestTunnel::with("s-1", Mode::Mux);
    let mut world = world(ForwarderOptions::default(), None);
    world.script([Script::ReadyAfter(seconds(2), tunnel.clone())]);
    pass(seconds(3600)).await;
    assert_eq!((world.connector.starts(), world.monitor.status().state), (0, ForwardState::Dormant));
    let start = Instant::now();
    let mut app = world.connect().await.expect("it listens all the time");
    app.write_all(b"?").await.expect("a write");
    let mut agent = peers.recv().await.expect("a stream");
    assert_eq!((agent.io.read_u8().await.expect("a read"), start.elapsed().as_secs()), (b'?', 2));
    assert_eq!(world.monitor.status().state, ForwardState::Ready);
    world.stop().await;
    assert!(tunnel.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_lazy_forward_whose_session_cannot_be_started_refuses_in_time() {
    let options = ForwarderOptions { reconnect_window: seconds(2), ..ForwarderOptions::default() };
    let mut world = world(options, None);
    world.script([Script::Fails(|| start_failure(ControlErrorKind::Network))]);
    let mut app = world.connect().await.expect("a listener");
    let start = Instant::now();
    assert_eq!(app.read(&mut [0]).await.expect("the end of a duplex"), 0);
    assert_eq!(start.elapsed(), crate::forward::CONNECT_TIMEOUT);
    let told = world.told();
    assert_eq!(
        (&told[..3], told.last()),
        (&["opened", "failed 1", "failed 2"].map(String::from)[..], Some(&"closed: no_session".to_owned()))
    );
    assert_eq!(world.monitor.status().state, ForwardState::Dormant);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lazy_forward_stops_whatever_it_was_about() {
    for waits in [false, true] {
        let mut world = world(ForwarderOptions::default(), None);
        let app = if waits { world.connect().await } else { None };
        calm().await;
        assert_eq!(world.connector.pending(), usize::from(waits));
        let (events, connector) = (world.events.clone(), world.connector.clone());
        let start = Instant::now();
        assert!(matches!(world.stop().await, ForwardEnd::Stopped));
        assert_eq!((connector.pending(), start.elapsed()), (0, Duration::ZERO));
        assert_eq!(ends(&events), vec![ConnectionEnd::Stopped; usize::from(waits)]);
        drop(app);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_forward_ends_its_session_and_lingering_is_not_idle() {
    let ((one, mut peers), (two, mut others)) =
        (TestTunnel::with("s-1", Mode::Mux), TestTunnel::with("s-2", Mode::Mux));
    let options = ForwarderOptions { idle_close: Some(seconds(5)), linger: seconds(10), ..ForwarderOptions::default() };
    let mut world = world(options, Some(one.clone()));
    world.script([Script::Ready(two.clone())]);
    let mut app = world.connect().await.expect("a listener");
    app.write_all(b"a question").await.expect("a write");
    let mut agent = peers.recv().await.expect("a stream");
    drop(app);
    let ended = Instant::now();
    // Without an answer our FIN goes out after the linger time.
    agent.io.read_to_end(&mut Vec::new()).await.expect("our FIN");
    assert_eq!(ended.elapsed().as_secs(), 10);
    assert!(!one.has_ended());
    agent.io.shutdown().await.expect("the agent's FIN");
    pass(seconds(4)).await;
    assert!(!one.has_ended());
    pass(seconds(2)).await;
    assert!(one.is_finished());
    assert_eq!(
        world.told(),
        [
            "opened",
            "closed: linger_expired",
            "dormant",
            "ended s-1: timed out: no connection used the forward (by ssmfwd)",
        ]
        .map(String::from)
    );

    let mut app = world.connect().await.expect("a listener");
    let mut agent = others.recv().await.expect("a stream of another session");
    assert!(works(&mut app, &mut agent).await);
    pass(seconds(60)).await;
    assert!(works(&mut app, &mut agent).await, "nor is silence");
    let (monitor, state) = (world.monitor.clone(), world.monitor.status().state);
    assert_eq!(state, ForwardState::Ready);
    world.stop().await;
    assert_eq!(monitor.status().totals.sessions, 2);
}

/// Through a real socket, and nothing waits for time.
#[tokio::test]
async fn a_lazy_forward_listens_before_it_has_a_session() {
    let spec = ForwardSpec {
        text: "0:22".into(),
        listen: Listen::Tcp { bind: Bind::Address([127, 0, 0, 1].into()), port: 0 },
        destination: Destination::default(),
        target: None,
    };
    let forwarder = Forwarder::bind(&spec, ForwarderOptions::default(), Arc::new(|_| {})).expect("a free port");
    let LocalAddress::Tcp(address) = forwarder.addresses()[0].clone() else { panic!("a TCP listener") };
    serves_lazily(forwarder, TcpStream::connect(address)).await;
}

#[tokio::test]
async fn an_adopted_listener_is_served() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let ours = listener.try_clone().expect("another descriptor");
    let adopted = vec![AdoptedListener::Tcp(listener)];
    let events = Arc::<Mutex<Vec<Event>>>::default();
    let told = events.clone();
    let observer: Observer = Arc::new(move |event| told.lock().expect("no panic under the lock").push(event));
    let forwarder = Forwarder::adopt(adopted, ForwarderOptions::default(), observer).expect("it listens");
    let listening =
        matches!(&events.lock().expect("no panic")[..], [Event::Listening(LocalAddress::Tcp(at))] if *at == address);
    assert!(listening);
    serves_lazily(forwarder, TcpStream::connect(address)).await;
    // Whoever has made it still has it.
    let client = TcpStream::connect(address).await.expect("it still listens");
    assert_eq!(ours.accept().expect("a connection").1, client.local_addr().expect("an address"));
}

async fn serves_lazily(forwarder: Forwarder, app: impl Future<Output = io::Result<TcpStream>>) {
    let (connector, drain) = (Arc::<TestConnector>::default(), CancellationToken::new());
    let (tunnel, mut peers) = TestTunnel::with("s-1", Mode::Mux);
    connector.script("", [Script::Ready(tunnel)]);
    let running = tokio::spawn(forwarder.run_lazy(connector.clone(), StartRequest::default(), drain.clone()));
    assert_eq!(connector.starts(), 0);
    let mut app = app.await.expect("a listener");
    let mut agent = peers.recv().await.expect("a stream");
    assert!(works(&mut app, &mut agent).await);
    drain.cancel();
    drop(app);
    running.await.expect("no panic");
}
