//! What the monitor says of a forward and its connections.

use tokio::io::DuplexStream;

use super::{
    memory::{calm, pass, world},
    *,
};
use crate::forward::{ConnectionStatus, ForwardState, Totals};

fn options() -> ForwarderOptions {
    ForwarderOptions { linger: Duration::from_secs(2), ..ForwarderOptions::default() }
}

#[tokio::test]
async fn a_forward_that_never_ran_is_starting_and_then_over() {
    let spec = ForwardSpec {
        text: "0:22".into(),
        listen: Listen::Tcp { bind: Bind::Address([127, 0, 0, 1].into()), port: 0 },
        destination: Destination::default(),
        target: None,
    };
    let forwarder = Forwarder::bind(&spec, options(), Arc::new(|_| {})).expect("a free port");
    let monitor = forwarder.monitor();
    let status = monitor.status();
    assert_eq!((status.state, status.addresses), (ForwardState::Starting, forwarder.addresses()));
    let connector = TestConnector::default();
    connector.script(
        "",
        [
            Script::Fails(|| start_failure(ControlErrorKind::Network)),
            Script::Ready(TestTunnel::with("s-1", Mode::Mux).0),
        ],
    );
    let failed = forwarder.connect(&connector, StartRequest::default(), CancellationToken::new()).await;
    assert!(failed.is_err());
    let tunnel = forwarder.connect(&connector, StartRequest::default(), CancellationToken::new()).await;
    forwarder.discard(tunnel.expect("a session")).await;
    assert_eq!(monitor.status().totals, Totals { sessions: 1, start_failures: 1, ..Totals::default() });
    drop(forwarder);
    assert_eq!(monitor.status().state, ForwardState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_seen_from_accept_to_its_end() {
    let (tunnel, mut peers) = TestTunnel::new();
    let mut world = world(options(), Some(tunnel.clone()));
    tunnel.set_health(Health::Reconnecting { since: Instant::now() });
    let mut app = world.connect().await.expect("a listener");
    pass(Duration::from_secs(3)).await;
    let expected = ConnectionStatus {
        id: 1,
        peer: Peer::Tcp(([127, 0, 0, 1], 1).into()),
        age: Duration::from_secs(3),
        session: None,
        bytes_up: 0,
        bytes_down: 0,
    };
    assert_eq!(world.monitor.status().connections, std::slice::from_ref(&expected), "it waits");

    tunnel.set_health(Health::Ready);
    let mut agent = peers.recv().await.expect("a stream");
    app.write_all(b"ping").await.expect("a write");
    agent.io.write_all(b"hello!").await.expect("a write");
    pass(Duration::from_secs(1)).await;
    let status = world.monitor.status();
    let session = Some(tunnel.id().clone());
    let carried = ConnectionStatus { age: Duration::from_secs(4), session, bytes_up: 4, bytes_down: 6, ..expected };
    assert_eq!(status.connections, [carried]);
    assert_eq!((status.totals.bytes_up, status.totals.bytes_down, status.sessions[0].connections), (4, 6, 1));

    // Lingering, it is still seen.
    drop(app);
    calm().await;
    assert_eq!(world.monitor.status().connections.len(), 1);
    pass(Duration::from_secs(100)).await;
    let status = world.monitor.status();
    assert_eq!((status.connections.len(), status.sessions[0].connections), (0, 0));
    assert_eq!(status.totals, Totals { connections: 1, bytes_up: 4, bytes_down: 6, sessions: 1, ..Totals::default() });
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_forward_is_stopping_while_its_connections_end() {
    let (tunnel, mut peers) = TestTunnel::new();
    let mut world = world(ForwarderOptions { drain: Duration::from_secs(30), ..options() }, Some(tunnel.clone()));
    let _app = world.connect().await.expect("a listener");
    let mut agent = peers.recv().await.expect("a stream");
    assert_eq!(world.monitor.status().state, ForwardState::Ready);
    world.drain.cancel();
    pass(Duration::from_secs(10)).await;
    let status = world.monitor.status();
    assert_eq!((status.state, status.connections.len(), status.sessions.len()), (ForwardState::Stopping, 1, 1));
    assert!(!status.sessions[0].serves && !status.state.is_ready());
    agent.io.shutdown().await.expect("the agent's FIN");
    world.forwarder.await.expect("no panic");
    let status = world.monitor.status();
    assert_eq!((status.state, status.connections.len(), status.sessions.len()), (ForwardState::Stopped, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_forward_that_is_dropped_is_over() {
    let (tunnel, _peers) = TestTunnel::new();
    let mut world = world(options(), Some(tunnel));
    let _app = world.connect().await.expect("a listener");
    calm().await;
    world.forwarder.abort();
    calm().await;
    let status = world.monitor.status();
    assert_eq!((status.state, status.sessions.len(), status.connections.len()), (ForwardState::Stopped, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn connections_that_get_no_session_or_no_destination_are_counted() {
    let (tunnel, mut peers) = TestTunnel::new();
    let options = ForwarderOptions { reconnect_window: Duration::from_secs(3), ..options() };
    let mut world = world(options, Some(tunnel.clone()));
    let _refused = world.connect().await.expect("a listener");
    peers.recv().await.expect("a stream").refuse();
    calm().await;
    tunnel.set_health(Health::Reconnecting { since: Instant::now() });
    let _unserved = world.connect().await.expect("a listener");
    pass(Duration::from_secs(2)).await;
    assert_eq!(world.monitor.status().totals.unserved, 0);
    pass(Duration::from_secs(2)).await;
    let totals = world.monitor.status().totals;
    assert_eq!((totals.connections, totals.refused, totals.unserved), (2, 1, 1));
    // Held when the forward stops: that is not for want of a session.
    let _held = world.connect().await.expect("a listener");
    let (monitor, told) = (world.monitor.clone(), world.told());
    assert_eq!(told, ["opened", "closed: destination_refused", "opened", "closed: no_session"]);
    world.stop().await;
    assert_eq!(monitor.status().totals.unserved, 1);
}

/// One connection of a random kind, from both ends: what it has moved, if it came to an end in order.
async fn live(mut random: fastrand::Rng, mut app: DuplexStream, mut agent: TestPeer, tunnel: TestTunnel) {
    for _ in 0..random.usize(0..6) {
        let piece = vec![7; random.usize(1..40_000)];
        if random.bool() {
            app.write_all(&piece).await.ok();
        } else {
            agent.io.write_all(&piece).await.ok();
        }
        pass(Duration::from_millis(random.u64(0..300))).await;
        let mut space = vec![0; 60_000];
        tokio::time::timeout(Duration::from_millis(1), app.read(&mut space)).await.ok();
        tokio::time::timeout(Duration::from_millis(1), agent.io.read(&mut space)).await.ok();
    }
    match random.u8(0..12) {
        0..4 => agent.complete().await,
        4..8 => drop(app.shutdown().await),
        8 => agent.refuse(),
        9 => agent.lose(),
        10 => agent.reset_slow_reader(),
        // A session that is lost takes all along.
        _ => tunnel.end(lost()),
    }
    let mut rest = (Vec::new(), Vec::new());
    let ends = async {
        tokio::join!(app.read_to_end(&mut rest.0), async {
            agent.io.read_to_end(&mut rest.1).await.ok();
            agent.io.shutdown().await.ok();
        })
    };
    tokio::time::timeout(Duration::from_secs(random.u64(1..10)), ends).await.ok();
}

#[tokio::test(start_paused = true)]
async fn totals_agree_with_the_events_and_never_go_backwards() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut tunnels = Vec::new();
        let (arrivals, mut peers) = mpsc::channel(64);
        for number in 0..20 {
            let (tunnel, mut peers) = TestTunnel::with(&format!("s-{number}"), Mode::Mux);
            let (arrivals, of) = (arrivals.clone(), tunnel.clone());
            tokio::spawn(async move {
                while let Some(peer) = peers.recv().await {
                    if arrivals.send((peer, of.clone())).await.is_err() {
                        return;
                    }
                }
            });
            tunnels.push(tunnel);
        }
        let options = ForwarderOptions { drain: Duration::from_secs(random.u64(0..3)), ..options() };
        let mut tunnels = tunnels.into_iter();
        let mut world = world(options, tunnels.next());
        world.script(tunnels.map(Script::Ready));
        let mut before = Totals::default();
        let mut look = |monitor: &Monitor| {
            let status = monitor.status();
            let now = status.totals;
            assert!(
                now.bytes_up >= before.bytes_up && now.bytes_down >= before.bytes_down,
                "seed {seed}: {now:?} after {before:?}"
            );
            assert!(now.connections >= before.connections && now.refused >= before.refused, "seed {seed}");
            assert!(now.sessions >= before.sessions && now.replacements >= before.replacements, "seed {seed}");
            before = now;
            status
        };
        let mut lives = Vec::new();
        for _ in 0..random.usize(1..15) {
            let app = world.connect().await.expect("a listener");
            let (peer, tunnel) = peers.recv().await.expect("a stream");
            lives.push(tokio::spawn(live(random.fork(), app, peer, tunnel)));
            pass(Duration::from_millis(random.u64(0..500))).await;
            look(&world.monitor);
        }
        for _ in 0..random.u64(0..60) {
            pass(Duration::from_millis(100)).await;
            look(&world.monitor);
        }
        let (monitor, events) = (world.monitor.clone(), world.events.clone());
        world.stop().await;
        let status = look(&monitor);
        let events = events.lock().expect("no panic under the lock");
        let mut told = Totals::default();
        for event in &*events {
            match event {
                Event::ConnectionOpened { .. } => told.connections += 1,
                Event::ConnectionClosed { bytes_up, bytes_down, end, .. } => {
                    told.bytes_up += bytes_up;
                    told.bytes_down += bytes_down;
                    told.unserved += u64::from(*end == ConnectionEnd::NoSession);
                }
                Event::DestinationRefused { .. } => told.refused += 1,
                Event::SessionEnded { .. } => told.sessions += 1,
                Event::SessionReplaced { .. } => told.replacements += 1,
                _ => {}
            }
        }
        let left = (status.connections.len(), status.sessions.len());
        assert_eq!((status.totals, left), (told, (0, 0)), "seed {seed}");
        lives.into_iter().for_each(|life| life.abort());
    }
}
