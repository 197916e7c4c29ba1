//! The library's client against an emulated AWS, over real sockets: what a program has that links ssmfwd instead of
//! starting it.

use std::io;

use futures_util::StreamExt as _;
use ssmfwd::{
    Client, ClientError, ClientOptions, ClientStream, Tunnel,
    aws::{Aws, AwsOptions},
    emulator::{Action, EmulatorState, EndedBy, FailureKind, Operation},
    forward::{Event, ForwardSpec, ForwardState},
    session::SessionEvent,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::harness::{Closed, Destination, RefusingPort, World, failing, within};

fn client(world: &World) -> Client {
    client_with(world, |_| {})
}

fn client_with(world: &World, change: impl FnOnce(&mut ClientOptions)) -> Client {
    let aws = Aws::from_sdk_config(&world.emulator.sdk_config(), AwsOptions::default()).expect("a control plane");
    let mut options = ClientOptions::default();
    change(&mut options);
    Client::new(aws, options)
}

async fn connect(client: &Client, port: u16) -> ClientStream {
    within("a stream", client.connect(World::TARGET, port)).await.expect("a stream")
}

async fn echoes(stream: &mut ClientStream, text: &[u8]) {
    stream.write_all(text).await.expect("written");
    let mut echo = vec![0; text.len()];
    within("an echo", stream.read_exact(&mut echo)).await.expect("the echo");
    assert_eq!(echo, text);
}

#[tokio::test]
async fn streams_to_one_destination_share_a_session() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let client = client_with(&world, |options| options.reason = Some("a ticket".to_owned()));
    let mut streams: Vec<_> = futures_util::future::join_all((0..8).map(|_| connect(&client, echo.port))).await;
    for (number, stream) in streams.iter_mut().enumerate() {
        echoes(stream, format!("stream {number}").as_bytes()).await;
    }
    drop(streams);
    for _ in 0..8 {
        echoes(&mut connect(&client, echo.port).await, b"again").await;
    }
    let other = Destination::farewell(b"elsewhere").await;
    let remote = format!("127.0.0.1:{}", other.port);
    let mut stream = client.connect(World::TARGET, &remote).await.expect("a stream");
    let mut farewell = String::new();
    stream.read_to_string(&mut farewell).await.expect("the farewell");
    assert_eq!(farewell, "elsewhere");
    client.close().await;
    let error = client.connect(World::TARGET, echo.port).await.expect_err("closed");
    assert!(matches!(error, ClientError::Closed), "{error}");
    let state = world.settled().await;
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Flag)), (2, 2));
    assert!(state.sessions.values().all(|session| session.reason.as_deref() == Some("a ticket")), "{state:?}");
}

#[tokio::test]
async fn dropping_client_and_stream_ends_the_session() {
    let (world, sink) = (World::ideal(), Destination::sink().await);
    let mut stream = {
        let client = client(&world);
        connect(&client, sink.port).await
    };
    stream.write_all(b"it outlives its client; ").await.expect("written");
    sink.until_accepted(1).await;
    assert_eq!(world.emulator.state().live_sessions(), 1);
    stream.write_all(b"last words").await.expect("written");
    drop(stream);
    assert_eq!(sink.outcome().await, Closed::Cleanly(34));
    assert_eq!(world.settled().await.ended_by(EndedBy::Flag), 1);
}

#[tokio::test]
async fn a_reply_comes_after_the_request_was_shut_down() {
    let world = World::ideal();
    let destination = Destination::serve(|mut socket| async move {
        let mut request = [0; 7];
        let read = socket.read_exact(&mut request).await;
        let answered = socket.write_all(b"the reply").await.is_ok();
        Closed::of(read.map(|count| count + usize::from(answered)))
    })
    .await;
    let client = client(&world);
    let mut stream = connect(&client, destination.port).await;
    stream.write_all(b"request").await.expect("written");
    stream.shutdown().await.expect("shut down");
    let mut reply = String::new();
    within("a reply", stream.read_to_string(&mut reply)).await.expect("the reply");
    assert_eq!((reply.as_str(), destination.outcome().await), ("the reply", Closed::Cleanly(8)));
    client.close().await;
    world.settled().await;
}

#[tokio::test]
async fn a_refused_destination_is_an_error_of_the_stream() {
    let (world, refusing) = (World::ideal(), RefusingPort::new());
    let client = client(&world);
    let mut stream = connect(&client, refusing.port).await;
    let error = within("a refusal", stream.read_u8()).await.expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    client.close().await;
    world.settled().await;
}

#[tokio::test]
async fn what_the_api_says_is_the_error_of_all_who_waited() {
    let world = World::with(|config| config.failures = failing(Operation::StartSession, FailureKind::AccessDenied));
    let client = client(&world);
    let (one, other) = tokio::join!(client.connect(World::TARGET, 22), client.connect(World::TARGET, 22));
    for error in [one.expect_err("denied"), other.expect_err("denied")] {
        let ClientError::Start(error) = error else { panic!("{error:?}") };
        assert!(error.to_string().contains("AccessDenied") || error.to_string().contains("StartSession"), "{error}");
    }
    let error = client.connect(World::TARGET, "not:a:destination").await.expect_err("no destination");
    assert!(matches!(error, ClientError::Destination(_)), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    world.emulator.configure(|config| config.failures.clear());
    let echo = Destination::echo().await;
    echoes(&mut connect(&client, echo.port).await, b"granted").await;
    client.close().await;
    world.settled().await;
}

#[tokio::test]
async fn a_session_that_was_ended_is_replaced_for_the_next_stream() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let client = client(&world);
    let mut events = client.events();
    let mut stream = connect(&client, echo.port).await;
    echoes(&mut stream, b"one").await;
    world.emulator.act(Action::ChannelClosed { output: "an administrator".into() });
    let error = within("the end", stream.read_u8()).await.expect_err("cut");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let mut again = connect(&client, echo.port).await;
    echoes(&mut again, b"two").await;
    assert_ne!(stream.session(), again.session());
    let mut seen = (false, false);
    while seen != (true, true) {
        match within("events", events.next()).await.expect("it goes on").expect("none missed") {
            Event::Session { event: SessionEvent::Ready, .. } => seen.0 = true,
            Event::Dormant { .. } => seen.1 = true,
            _ => {}
        }
    }
    drop((client, stream, again));
    let state = world.settled().await;
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Service)), (2, 1));
}

#[tokio::test]
async fn a_lost_websocket_is_resumed_under_a_stream() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let client = client(&world);
    let mut stream = connect(&client, echo.port).await;
    echoes(&mut stream, b"before").await;
    world.emulator.act(Action::Disconnect);
    echoes(&mut stream, b"after").await;
    client.close().await;
    let state = world.settled().await;
    assert_eq!((state.sessions_started, state.upgrades_accepted), (1, 2));
}

#[tokio::test]
async fn sessions_without_streams_are_ended_after_the_idle_timeout() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let client = client_with(&world, |options| options.idle_timeout = std::time::Duration::from_millis(1));
    echoes(&mut connect(&client, echo.port).await, b"hello").await;
    let none_lives = |state: &EmulatorState| state.live_sessions() == 0;
    world.until("an idle session", none_lives).await;
    echoes(&mut connect(&client, echo.port).await, b"hello again").await;
    drop(client);
    assert_eq!(world.settled().await.sessions_started, 2);
}

fn tunnel(client: &Client, port: u16) -> Tunnel {
    let forward: ForwardSpec = format!("127.0.0.1:0:127.0.0.1:{port}").parse().expect("a forward");
    client.tunnel(forward).target(World::TARGET).bind().expect("a free port")
}

async fn local(tunnel: &Tunnel) -> TcpStream {
    TcpStream::connect(tunnel.local_addr().expect("a TCP address")).await.expect("it listens")
}

#[tokio::test]
async fn a_tunnel_listens_tells_and_ends() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let client = client(&world);
    let tunnel = tunnel(&client, echo.port);
    let events = tunnel.events();
    // Before it is ready: it is bound.
    let mut socket = local(&tunnel).await;
    socket.write_all(b"early").await.expect("written");
    within("ready", tunnel.ready()).await.expect("ready");
    let mut echoed = [0; 5];
    within("an echo", socket.read_exact(&mut echoed)).await.expect("the echo");
    assert_eq!(&echoed, b"early");
    let status = tunnel.status();
    assert_eq!((status.state, status.sessions.len(), status.connections.len()), (ForwardState::Ready, 1, 1));
    drop(socket);
    assert_eq!(echo.outcome().await, Closed::Cleanly(5));
    within("the end", tunnel.close()).await.expect("closed");
    let told: Vec<_> = within("all events", events.collect::<Vec<_>>()).await;
    let told: Vec<_> = told.into_iter().map(|event| event.expect("none missed")).collect();
    let at = |what: &str, is: fn(&Event) -> bool| {
        told.iter().position(is).unwrap_or_else(|| panic!("nothing of {what}: {told:?}"))
    };
    let order = [
        at("listening", |event| matches!(event, Event::Listening(_))),
        at("a session", |event| matches!(event, Event::Session { event: SessionEvent::Started { .. }, .. })),
        at("a connection", |event| matches!(event, Event::ConnectionOpened { .. })),
        at("its end", |event| matches!(event, Event::ConnectionClosed { bytes_up: 5, bytes_down: 5, .. })),
        at("the end", |event| matches!(event, Event::SessionEnded { .. })),
    ];
    assert!(order.is_sorted(), "{told:?}");
    // The client lives on.
    echoes(&mut connect(&client, echo.port).await, b"hello").await;
    client.close().await;
    assert_eq!(world.settled().await.sessions_started, 2);
}

#[tokio::test]
async fn a_tunnel_that_is_dropped_ends_its_session() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let client = client(&world);
    let tunnel = tunnel(&client, echo.port);
    drop(client);
    within("ready", tunnel.ready()).await.expect("it outlives its client");
    let address = tunnel.local_addr().expect("a TCP address");
    drop(tunnel);
    assert_eq!(world.settled().await.ended_by(EndedBy::Flag), 1);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_tunnel_that_cannot_start_says_why() {
    let world = World::with(|config| config.failures = failing(Operation::StartSession, FailureKind::AccessDenied));
    let client = client(&world);
    let tunnel = tunnel(&client, 9);
    assert!(matches!(within("a failure", tunnel.ready()).await, Err(ClientError::Start(_))));
    assert!(matches!(tunnel.ended().await, Err(ClientError::Start(_))));
    assert!(matches!(tunnel.close().await, Err(ClientError::Start(_))));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    let forward: ForwardSpec = format!("127.0.0.1:{port}:9").parse().expect("a forward");
    let error = client.tunnel(forward.clone()).target(World::TARGET).bind().expect_err("taken");
    assert!(matches!(error, ClientError::Bind(_)), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AddrInUse);
    let error = client.tunnel(forward.clone()).bind().expect_err("no target");
    assert!(matches!(error, ClientError::NoTarget { .. }), "{error}");
    client.close().await;
    let error = client.tunnel(forward).target(World::TARGET).bind().expect_err("closed");
    assert!(matches!(error, ClientError::Closed), "{error}");
    world.settled().await;
}

#[tokio::test]
async fn closing_the_client_ends_its_tunnels() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let client = client(&world);
    let tunnel = tunnel(&client, echo.port);
    within("ready", tunnel.ready()).await.expect("ready");
    within("the end", client.close()).await;
    tunnel.ended().await.expect("closed");
    assert!(matches!(tunnel.ready().await, Err(ClientError::Closed)));
    assert_eq!(world.settled().await.live_sessions(), 0);
}

#[tokio::test]
async fn a_lazy_tunnel_starts_its_session_for_the_first_connection() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let client = client(&world);
    let forward: ForwardSpec = format!("127.0.0.1:0:{}", echo.port).parse().expect("a forward");
    let tunnel = client.tunnel(forward).target(World::TARGET).lazy().bind().expect("a free port");
    tunnel.ready().await.expect("bound");
    assert_eq!(world.emulator.state().sessions_started, 0);
    let mut socket = local(&tunnel).await;
    socket.write_all(b"now").await.expect("written");
    let mut echoed = [0; 3];
    within("an echo", socket.read_exact(&mut echoed)).await.expect("the echo");
    within("the end", client.close()).await;
    assert_eq!(world.settled().await.sessions_started, 1);
}
