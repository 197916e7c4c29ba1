//! Real loopback sockets on the local side, an in-memory tunnel on the other. Real time, and nothing waits for it.

use std::{io, net::SocketAddr, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};

use super::*;
use crate::{
    forward::{
        Accepted, Bind, ConnectionEnd, Destination, Listen, LocalSocket, Peer, Script, TestConnector, TestTunnel,
        start_failure, test_tunnel::TestPeer,
    },
    proto::{Cause, CloseReason, Initiator, Mode},
    session::{ControlErrorKind, Health},
};

mod lifecycle;
mod memory;
mod status;

fn one_at_a_time() -> ForwarderOptions {
    ForwarderOptions {
        max_connections: NonZeroU32::MIN,
        linger: Duration::ZERO,
        reconnect_window: Duration::ZERO,
        ..ForwarderOptions::default()
    }
}

struct World {
    address: SocketAddr,
    tunnel: TestTunnel,
    peers: mpsc::Receiver<TestPeer>,
    events: Arc<Mutex<Vec<Event>>>,
    drain: CancellationToken,
    connector: Arc<TestConnector>,
    forwarder: JoinHandle<ForwardEnd>,
}

fn world(max_connections: u32) -> World {
    world_with(max_connections, Duration::from_secs(600))
}

fn world_with(max_connections: u32, reconnect_window: Duration) -> World {
    let spec = ForwardSpec {
        text: "0:22".into(),
        listen: Listen::Tcp { bind: Bind::Address([127, 0, 0, 1].into()), port: 0 },
        destination: Destination::default(),
        target: None,
    };
    let options = ForwarderOptions {
        max_connections: NonZeroU32::new(max_connections).expect("not zero"),
        linger: Duration::from_secs(600),
        reconnect_window,
        ..ForwarderOptions::default()
    };
    let events = Arc::<Mutex<Vec<Event>>>::default();
    let observer: Observer = Arc::new({
        let events = events.clone();
        move |event| events.lock().expect("no panic under the lock").push(event)
    });
    let forwarder = Forwarder::bind(&spec, options, observer).expect("a free port");
    let LocalAddress::Tcp(address) = forwarder.addresses()[0].clone() else { panic!("a TCP listener") };
    let (tunnel, peers) = TestTunnel::new();
    let drain = CancellationToken::new();
    let connector = Arc::<TestConnector>::default();
    let running = forwarder.run(connector.clone(), StartRequest::default(), tunnel.clone(), drain.clone());
    let forwarder = tokio::spawn(running);
    World { address, tunnel, peers, events, drain, connector, forwarder }
}

fn ends(events: &Mutex<Vec<Event>>) -> Vec<ConnectionEnd> {
    let events = events.lock().expect("no panic under the lock");
    let end = |event: &Event| match event {
        Event::ConnectionClosed { end, .. } => Some(*end),
        _ => None,
    };
    events.iter().filter_map(end).collect()
}

fn lost() -> CloseReason {
    CloseReason::new(Initiator::Transport, Cause::ConnectionLost("gone".into()))
}

impl World {
    /// Waits until this many events have come that answer.
    async fn events(&self, count: usize, of: impl Fn(&Event) -> bool) {
        while self.events.lock().expect("no panic under the lock").iter().filter(|event| of(event)).count() < count {
            tokio::task::yield_now().await;
        }
    }

    async fn accepted(&self, count: usize) {
        self.events(count, |event| matches!(event, Event::ConnectionOpened { .. })).await;
    }

    async fn closed(&self, count: usize) {
        self.events(count, |event| matches!(event, Event::ConnectionClosed { .. })).await;
    }

    fn accepted_by_now(&self) -> usize {
        let events = self.events.lock().expect("no panic under the lock");
        events.iter().filter(|event| matches!(event, Event::ConnectionOpened { .. })).count()
    }
}

async fn read_error(socket: &mut TcpStream) -> io::ErrorKind {
    socket.read_to_end(&mut Vec::new()).await.expect_err("a reset").kind()
}

#[tokio::test]
async fn connections_are_carried_counted_and_reported() {
    let mut world = world(4);
    let mut app = TcpStream::connect(world.address).await.expect("a listener");
    let mut agent = world.peers.recv().await.expect("a stream");
    app.write_all(b"ping").await.expect("a write");
    let mut got = [0; 4];
    agent.io.read_exact(&mut got).await.expect("a read");
    agent.io.write_all(b"hello!").await.expect("a write");
    agent.io.shutdown().await.expect("the agent's FIN");
    let mut reply = Vec::new();
    app.read_to_end(&mut reply).await.expect("a clean end");
    assert_eq!((&got, &reply[..]), (b"ping", &b"hello!"[..]));
    let peer = Peer::Tcp(app.local_addr().expect("an address"));
    drop(app);
    world.drain.cancel();
    assert!(matches!(world.forwarder.await.expect("no panic"), ForwardEnd::Stopped));
    assert!(world.tunnel.has_ended(), "the session is closed");

    let events = world.events.lock().expect("no panic under the lock");
    assert!(matches!(events[0], Event::Listening(LocalAddress::Tcp(address)) if address == world.address));
    assert!(matches!(events[1], Event::ConnectionOpened { peer: from } if from == peer));
    assert!(matches!(
        events[2],
        Event::ConnectionClosed { peer: from, bytes_up: 4, bytes_down: 6, end: ConnectionEnd::DestinationClosed, .. }
            if from == peer
    ));
    assert!(matches!(&events[3], Event::SessionEnded { reason, .. } if reason.cause == Cause::Requested));
    assert_eq!(events.len(), 4);
}

#[tokio::test]
async fn a_refused_destination_resets_just_that_connection() {
    let mut world = world(4);
    let mut refused = TcpStream::connect(world.address).await.expect("a listener");
    let refused_agent = world.peers.recv().await.expect("a stream");
    let mut other = TcpStream::connect(world.address).await.expect("a listener");
    let mut other_agent = world.peers.recv().await.expect("a stream");
    refused_agent.refuse();
    assert_eq!(read_error(&mut refused).await, io::ErrorKind::ConnectionReset);
    other.write_all(b"x").await.expect("the forward lives on");
    assert_eq!(other_agent.io.read_u8().await.expect("a read"), b'x');
    world.drain.cancel();
    world.forwarder.await.expect("no panic");
    let events = world.events.lock().expect("no panic under the lock");
    let peer = Peer::Tcp(refused.local_addr().expect("an address"));
    assert!(events.iter().any(|event| matches!(event, Event::DestinationRefused { peer: from } if *from == peer)));
}

#[tokio::test]
async fn a_lost_session_resets_its_connections_and_the_forward_goes_on_with_another() {
    let mut world = world(4);
    let mut one = TcpStream::connect(world.address).await.expect("a listener");
    let _agent = world.peers.recv().await.expect("a stream");
    let mut two = TcpStream::connect(world.address).await.expect("a listener");
    let _agent_too = world.peers.recv().await.expect("a stream");
    let (next, mut peers) = TestTunnel::with("test-0b", Mode::Mux);
    world.connector.script("", [Script::Ready(next.clone())]);
    world.tunnel.end(lost());
    assert_eq!(read_error(&mut one).await, io::ErrorKind::ConnectionReset);
    assert_eq!(read_error(&mut two).await, io::ErrorKind::ConnectionReset);
    let mut three = TcpStream::connect(world.address).await.expect("the listener never went away");
    three.write_all(b"x").await.expect("a write");
    let mut agent = peers.recv().await.expect("a stream of the new session");
    assert_eq!(agent.io.read_u8().await.expect("a read"), b'x');
    world.drain.cancel();
    world.forwarder.await.expect("no panic");
    assert!(world.tunnel.is_finished(), "TerminateSession was waited for");
    assert!(next.is_finished());
    let expected = [ConnectionEnd::SessionEnded, ConnectionEnd::SessionEnded, ConnectionEnd::Stopped];
    assert_eq!(ends(&world.events), expected);
    TcpStream::connect(world.address).await.expect_err("nothing listens any more");
}

/// A connection with a complete reply that its local program has not begun to read, and how long that is: more than
/// sockets and streams take.
async fn complete_reply(world: &mut World) -> (TcpStream, usize) {
    let app = TcpStream::connect(world.address).await.expect("a listener");
    let mut agent = world.peers.recv().await.expect("a stream");
    let mut size = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), agent.io.write(&[7; 64 * 1024])).await {
        size += written.expect("a write");
    }
    agent.complete().await;
    (app, size)
}

#[tokio::test]
async fn a_complete_reply_outlives_its_session() {
    let mut world = world(4);
    let (mut app, size) = complete_reply(&mut world).await;
    let (next, _peers) = TestTunnel::with("test-0b", Mode::Mux);
    world.connector.script("", [Script::Ready(next)]);
    world.tunnel.end(lost());
    world.events(1, |event| matches!(event, Event::SessionReplaced { .. })).await;
    // Longer than any notice that a connection could be given.
    tokio::time::timeout(Duration::from_millis(1500), world.closed(1))
        .await
        .expect_err("it waits for its local program");
    let mut reply = Vec::new();
    app.read_to_end(&mut reply).await.expect("a clean end");
    assert_eq!(reply.len(), size);
    drop(app);
    world.closed(1).await;
    assert_eq!(ends(&world.events), [ConnectionEnd::DestinationClosed]);
    world.drain.cancel();
    world.forwarder.await.expect("no panic");
}

#[tokio::test]
async fn draining_does_not_wait_for_a_local_program_that_does_not_read() {
    let mut world = world(4);
    let (mut app, _) = complete_reply(&mut world).await;
    world.tunnel.end(CloseReason::new(Initiator::Service, Cause::SessionOver));
    world.events(1, |event| matches!(event, Event::Dormant { .. })).await;
    world.drain.cancel();
    let ended =
        tokio::time::timeout(Duration::from_secs(10), world.forwarder).await.expect("a bound").expect("no panic");
    assert!(matches!(ended, ForwardEnd::Stopped));
    assert_eq!(read_error(&mut app).await, io::ErrorKind::ConnectionReset);
    assert_eq!(ends(&world.events), [ConnectionEnd::Stopped]);
}

#[tokio::test]
async fn a_session_that_is_not_used_after_all_is_told_to_be_over() {
    let spec = ForwardSpec {
        text: "0:22".into(),
        listen: Listen::Tcp { bind: Bind::Address([127, 0, 0, 1].into()), port: 0 },
        destination: Destination::default(),
        target: None,
    };
    let options = one_at_a_time();
    let told = Arc::<Mutex<Vec<String>>>::default();
    let observer: Observer = Arc::new({
        let told = told.clone();
        move |event| match event {
            Event::Session { session, .. } => told.lock().expect("no panic under the lock").push(session.to_string()),
            Event::SessionEnded { session, reason, .. } => {
                told.lock().expect("no panic under the lock").push(format!("{session}: {reason}"));
            }
            _ => {}
        }
    });
    let forwarder = Forwarder::bind(&spec, options, observer).expect("a free port");
    let connector = TestConnector::default();
    let cancel = CancellationToken::new();
    connector.script("", [Script::Ready(TestTunnel::with("s-1", Mode::Mux).0)]);
    let tunnel = forwarder.connect(&connector, StartRequest::default(), cancel.clone()).await.expect("a session");
    forwarder.discard(tunnel).await;
    // Nor is one that does not get ready.
    cancel.cancel();
    let failed = forwarder.connect(&connector, StartRequest::default(), cancel).await;
    assert!(matches!(failed, Err(ConnectError::Cancelled)));
    let told = told.lock().expect("no panic under the lock");
    assert_eq!(told[..], ["s-1", "s-1: ended as asked", "start-2", "start-2: ended as asked"]);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let mut world = world(2);
    let mut apps = Vec::new();
    for _ in 0..3 {
        apps.push(TcpStream::connect(world.address).await.expect("the kernel takes it"));
    }
    let first = world.peers.recv().await.expect("a stream");
    let _second = world.peers.recv().await.expect("a stream");
    assert!(world.peers.try_recv().is_err(), "the third has to wait");
    first.refuse();
    world.peers.recv().await.expect("and gets its turn");
    world.drain.cancel();
    world.forwarder.await.expect("no panic");
}

#[tokio::test]
async fn lingering_connections_do_not_count() {
    let mut world = world(1);
    let mut agents = Vec::new();
    for _ in 0..3 {
        let mut app = TcpStream::connect(world.address).await.expect("a listener");
        app.write_all(b"no reply will come").await.expect("a write");
        drop(app);
        agents.push(world.peers.recv().await.expect("a stream, although the one before lingers"));
    }
    // Nor are they waited for long: their linger time is ten minutes, and these agents never end.
    world.drain.cancel();
    assert!(matches!(world.forwarder.await.expect("no panic"), ForwardEnd::Stopped));
    assert_eq!(ends(&world.events), [ConnectionEnd::Stopped; 3]);
}

#[tokio::test]
async fn draining_brings_lingering_connections_to_their_end() {
    let mut world = world(4);
    let mut app = TcpStream::connect(world.address).await.expect("a listener");
    app.write_all(b"the last words").await.expect("a write");
    drop(app);
    let mut agent = world.peers.recv().await.expect("a stream");
    world.drain.cancel();
    let mut words = Vec::new();
    agent.io.read_to_end(&mut words).await.expect("our FIN");
    assert_eq!(words, b"the last words");
    assert!(!world.tunnel.has_ended(), "the session waits for the agent's FIN");
    agent.io.shutdown().await.expect("the agent's FIN");
    world.forwarder.await.expect("no panic");
    assert_eq!(ends(&world.events), [ConnectionEnd::Stopped]);
}

#[tokio::test]
async fn draining_cuts_connections_that_go_on() {
    let mut world = world(4);
    let mut app = TcpStream::connect(world.address).await.expect("a listener");
    let _agent = world.peers.recv().await.expect("a stream");
    world.drain.cancel();
    assert_eq!(read_error(&mut app).await, io::ErrorKind::ConnectionReset);
    world.forwarder.await.expect("no panic");
    assert_eq!(ends(&world.events), [ConnectionEnd::Stopped]);
}

#[tokio::test]
async fn a_local_reset_ends_the_stream() {
    let mut world = world(4);
    let app = TcpStream::connect(world.address).await.expect("a listener");
    let mut agent = world.peers.recv().await.expect("a stream");
    app.set_reset_on_drop(true).expect("an option");
    drop(app);
    assert_eq!(agent.io.read_to_end(&mut Vec::new()).await.expect("a FIN"), 0);
    world.drain.cancel();
    world.forwarder.await.expect("no panic");
    assert_eq!(ends(&world.events), [ConnectionEnd::LocalReset]);
}

#[tokio::test]
async fn what_a_held_connection_sent_arrives_when_it_is_served() {
    let mut world = world(4);
    world.tunnel.set_health(Health::Reconnecting { since: Instant::now() });
    let mut app = TcpStream::connect(world.address).await.expect("the listener never goes away");
    app.write_all(b"early").await.expect("a write");
    world.accepted(1).await;
    assert!(world.peers.try_recv().is_err());
    world.tunnel.set_health(Health::Ready);
    let mut agent = world.peers.recv().await.expect("a stream");
    app.write_all(b" and late").await.expect("a write");
    let mut got = [0; 14];
    agent.io.read_exact(&mut got).await.expect("a read");
    assert_eq!(&got, b"early and late");
    world.drain.cancel();
    world.forwarder.await.expect("no panic");
}

#[tokio::test]
async fn a_connection_without_a_session_is_reset() {
    let world = world_with(4, Duration::ZERO);
    world.tunnel.set_health(Health::Reconnecting { since: Instant::now() });
    let mut app = TcpStream::connect(world.address).await.expect("the listener never goes away");
    assert_eq!(read_error(&mut app).await, io::ErrorKind::ConnectionReset);
    world.closed(1).await;
    assert_eq!(ends(&world.events), [ConnectionEnd::NoSession]);
    world.drain.cancel();
    world.forwarder.await.expect("no panic");
}

#[tokio::test]
async fn who_gives_up_while_held_is_let_go() {
    let mut world = world(1);
    world.tunnel.set_health(Health::Reconnecting { since: Instant::now() });

    let app = TcpStream::connect(world.address).await.expect("a listener");
    world.accepted(1).await;
    let next = TcpStream::connect(world.address).await.expect("the kernel takes it");
    assert_eq!(world.accepted_by_now(), 1, "a connection that is held counts");
    drop(app);
    world.closed(1).await;
    world.accepted(2).await;

    // With bytes that nobody has read.
    next.set_reset_on_drop(true).expect("an option");
    let mut next = next;
    next.write_all(b"x").await.expect("a write");
    drop(next);
    world.closed(2).await;
    assert_eq!(ends(&world.events), [ConnectionEnd::LocalReset; 2]);

    // Who has said everything has not given up.
    let mut app = TcpStream::connect(world.address).await.expect("a listener");
    app.write_all(b"question").await.expect("a write");
    app.shutdown().await.expect("a half-close");
    world.accepted(3).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    world.tunnel.set_health(Health::Ready);
    let mut agent = world.peers.recv().await.expect("a stream");
    let mut got = [0; 8];
    agent.io.read_exact(&mut got).await.expect("a read");
    assert_eq!(&got, b"question");
    agent.io.write_all(b"answer").await.expect("a write");
    agent.io.shutdown().await.expect("the agent's FIN");
    let mut reply = Vec::new();
    app.read_to_end(&mut reply).await.expect("a clean end");
    assert_eq!(reply, b"answer");
    world.drain.cancel();
    world.forwarder.await.expect("no panic");
}

#[tokio::test]
async fn a_held_connection_is_cut_when_the_forward_stops() {
    let world = world(1);
    world.tunnel.set_health(Health::Reconnecting { since: Instant::now() });
    let mut app = TcpStream::connect(world.address).await.expect("a listener");
    world.accepted(1).await;
    world.drain.cancel();
    assert_eq!(read_error(&mut app).await, io::ErrorKind::ConnectionReset);
    assert!(matches!(world.forwarder.await.expect("no panic"), ForwardEnd::Stopped));
    assert_eq!(ends(&world.events), [ConnectionEnd::Stopped]);
}

#[tokio::test]
async fn a_forward_without_any_session_to_be_had_ends_and_lets_go() {
    let mut world = world(4);
    let mut app = TcpStream::connect(world.address).await.expect("a listener");
    let _agent = world.peers.recv().await.expect("a stream");
    world.connector.script("", [Script::Fails(|| start_failure(ControlErrorKind::InvalidDocument))]);
    world.tunnel.end(lost());
    assert_eq!(read_error(&mut app).await, io::ErrorKind::ConnectionReset);
    let end = world.forwarder.await.expect("no panic");
    assert!(matches!(end, ForwardEnd::Failed(ConnectError::Control(_))), "{end:?}");
    assert!(world.tunnel.is_finished());
    TcpStream::connect(world.address).await.expect_err("nothing listens any more");
}

#[cfg(unix)]
#[tokio::test]
async fn who_gives_up_on_a_unix_socket_is_let_go_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db.sock");
    let mut listeners = Listeners::bind(&Listen::Unix(path.clone())).expect("a free path");
    for sent in [&b""[..], b"early"] {
        let mut app = tokio::net::UnixStream::connect(&path).await.expect("a listener");
        app.write_all(sent).await.expect("a write");
        let Accepted::Unix(mut socket) = listeners.accept().await.expect("a connection") else { panic!("not TCP") };
        let gave_up = tokio::time::timeout(Duration::ZERO, socket.gave_up()).await;
        assert!(gave_up.is_err(), "it waits");
        app.shutdown().await.expect("a half-close");
        if sent.is_empty() {
            socket.gave_up().await;
        }
        let mut got = Vec::new();
        socket.read_to_end(&mut got).await.expect("a clean end");
        assert_eq!(got, sent, "nothing was taken");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn unix_sockets_are_served_and_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db.sock");
    let spec = ForwardSpec {
        text: String::new(),
        listen: Listen::Unix(path.clone()),
        destination: Destination::default(),
        target: None,
    };
    let options = one_at_a_time();
    let forwarder = Forwarder::bind(&spec, options, Arc::new(|_| {})).expect("a free path");
    let (tunnel, mut peers) = TestTunnel::new();
    let drain = CancellationToken::new();
    let connector = Arc::<TestConnector>::default();
    let forwarder = tokio::spawn(forwarder.run(connector, StartRequest::default(), tunnel, drain.clone()));
    let mut app = tokio::net::UnixStream::connect(&path).await.expect("a listener");
    app.write_all(b"ping").await.expect("a write");
    let mut agent = peers.recv().await.expect("a stream");
    let mut got = [0; 4];
    agent.io.read_exact(&mut got).await.expect("a read");
    assert_eq!(&got, b"ping");
    drop(app);
    drain.cancel();
    forwarder.await.expect("no panic");
    assert!(!path.exists());
}
