//! Real loopback sockets on the local side, an in-memory tunnel on the other. Real time, and nothing waits for it.

use std::{io, net::SocketAddr, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};

use super::*;
use crate::{
    forward::{Bind, Destination, Listen, TestTunnel, test_tunnel::TestPeer},
    proto::{Cause, Initiator},
};

struct World {
    address: SocketAddr,
    tunnel: TestTunnel,
    peers: mpsc::Receiver<TestPeer>,
    events: Arc<Mutex<Vec<Event>>>,
    drain: CancellationToken,
    forwarder: JoinHandle<CloseReason>,
}

fn world(max_connections: u32) -> World {
    let spec = ForwardSpec {
        text: "0:22".into(),
        listen: Listen::Tcp { bind: Bind::Address([127, 0, 0, 1].into()), port: 0 },
        destination: Destination::default(),
        target: None,
    };
    let options = ForwarderOptions {
        max_connections: NonZeroU32::new(max_connections).expect("not zero"),
        linger: Duration::from_secs(600),
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
    let forwarder = tokio::spawn(forwarder.run(tunnel.clone(), drain.clone()));
    World { address, tunnel, peers, events, drain, forwarder }
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
    assert_eq!(world.forwarder.await.expect("no panic").cause, Cause::Requested);
    assert!(world.tunnel.has_ended(), "the session is closed");

    let events = world.events.lock().expect("no panic under the lock");
    assert!(matches!(events[0], Event::Listening(LocalAddress::Tcp(address)) if address == world.address));
    assert!(matches!(events[1], Event::ConnectionOpened { peer: from } if from == peer));
    assert!(matches!(
        events[2],
        Event::ConnectionClosed { peer: from, bytes_up: 4, bytes_down: 6, end: ConnectionEnd::DestinationClosed, .. }
            if from == peer
    ));
    assert!(matches!(&events[3], Event::SessionEnded(reason) if reason.cause == Cause::Requested));
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
async fn a_lost_session_resets_all_connections_and_ends_the_forward() {
    let mut world = world(4);
    let mut one = TcpStream::connect(world.address).await.expect("a listener");
    let _agent = world.peers.recv().await.expect("a stream");
    let mut two = TcpStream::connect(world.address).await.expect("a listener");
    let _agent_too = world.peers.recv().await.expect("a stream");
    world.tunnel.end(lost());
    assert_eq!(read_error(&mut one).await, io::ErrorKind::ConnectionReset);
    assert_eq!(read_error(&mut two).await, io::ErrorKind::ConnectionReset);
    assert_eq!(world.forwarder.await.expect("no panic"), lost());
    assert!(world.tunnel.is_finished(), "TerminateSession was waited for");
    assert_eq!(ends(&world.events), [ConnectionEnd::SessionEnded; 2]);
    TcpStream::connect(world.address).await.expect_err("nothing listens any more");
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
    assert_eq!(world.forwarder.await.expect("no panic").cause, Cause::Requested);
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
    let options = ForwarderOptions { max_connections: NonZeroU32::MIN, linger: Duration::ZERO };
    let forwarder = Forwarder::bind(&spec, options, Arc::new(|_| {})).expect("a free path");
    let (tunnel, mut peers) = TestTunnel::new();
    let drain = CancellationToken::new();
    let forwarder = tokio::spawn(forwarder.run(tunnel, drain.clone()));
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
