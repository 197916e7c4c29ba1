//! The admin endpoint of the built program: what it tells is true, and whoever else is on the machine gains nothing.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Stdio,
};

use rustix::process::Signal;
use serde_json::Value;
use ssmfwd::emulator::Action;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::harness::{Client, Destination, Program, World, receive, send, within};

/// A forward to a port of this machine and an endpoint, ready.
async fn forward(world: &World, port: u16, options: &[&str]) -> (Program, SocketAddr) {
    let program = world.forward(port, &[&["--admin", "127.0.0.1:0"], options].concat()).await;
    let address = address(&program).await;
    (program, address)
}

async fn address(program: &Program) -> SocketAddr {
    let event = program.event("admin").await;
    event["address"].as_str().and_then(|text| text.parse().ok()).expect("an address")
}

/// Status and body of the answer to a request of these lines.
async fn ask(address: SocketAddr, lines: &[&str]) -> (u16, String) {
    let mut socket = within("connecting", TcpStream::connect(address)).await.expect("an endpoint");
    let request = format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"));
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    within("an answer", socket.read_to_string(&mut answer)).await.expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    ask(address, &[&format!("GET {path} HTTP/1.1"), "Host: localhost"]).await
}

async fn status(address: SocketAddr) -> Value {
    serde_json::from_str(&get(address, "/status").await.1).expect("JSON")
}

/// The value of a series of the only forward.
async fn metric(address: SocketAddr, name: &str, label: &str) -> Option<f64> {
    let (_, text) = get(address, "/metrics").await;
    let found = text.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label))?;
    found.rsplit(' ').next()?.parse().ok()
}

/// Asks until the answer is as expected: the events that tests wait for are told beside the figures, not after them.
async fn until<T, F: Future<Output = T>>(what: &str, ask: impl Fn() -> F, is_it: impl Fn(&T) -> bool) -> T {
    let asking = async {
        loop {
            let answer = ask().await;
            if is_it(&answer) {
                return answer;
            }
        }
    };
    within(what, asking).await
}

async fn until_ready(address: SocketAddr) {
    let (_, body) = until("ready", || get(address, "/readyz"), |(status, _)| *status == 200).await;
    assert_eq!(body, "ok\n");
}

#[tokio::test]
async fn people_are_told_where_it_is() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let mut command = world.command(&["--target", World::TARGET, "--admin", "0"]);
    command.arg(format!("0:127.0.0.1:{}", echo.port));
    let program = Program::start(command);
    let line = program.line("admin at").await;
    let url = line.strip_prefix("ssmfwd: admin at http://").expect(&line);
    let address: SocketAddr = url.strip_suffix('/').expect(&line).parse().expect(&line);
    assert!(address.ip().is_loopback(), "{line}");
    program.line("ready in").await;
    until_ready(address).await;
    assert!(!program.transcript().contains("warning"), "{}", program.transcript());
    world.finish(program).await;
}

#[tokio::test]
async fn ready_follows_the_forwards() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (program, admin) = forward(&world, echo.port, &[]).await;
    assert_eq!(get(admin, "/healthz").await, (200, "ok\n".into()));
    until_ready(admin).await;

    world.emulator.configure(|config| config.outage = true);
    program.event("reconnecting").await;
    let (_, said) = until("not ready", || get(admin, "/readyz"), |(status, _)| *status == 503).await;
    assert_eq!(said, format!("0:127.0.0.1:{}: reconnecting\n", echo.port));
    assert_eq!(get(admin, "/healthz").await.0, 200);
    assert_eq!(metric(admin, "ssmfwd_forward_state", "state=\"reconnecting\"").await, Some(1.0));

    world.emulator.configure(|config| config.outage = false);
    program.event("resumed").await;
    until_ready(admin).await;
    let count = until("its count", || metric(admin, "ssmfwd_session_resumptions_total", ""), Option::is_some).await;
    assert!(count >= Some(1.0), "{count:?}");

    // A dormant forward can carry a connection: it takes a session first.
    world.emulator.act(Action::ChannelClosed { output: "enough".into() });
    program.event("dormant").await;
    until("dormant", || metric(admin, "ssmfwd_forward_state", "state=\"dormant\""), |state| *state == Some(1.0)).await;
    assert_eq!(get(admin, "/readyz").await.0, 200);
    // Nothing was asked of the destination.
    assert_eq!(echo.accepted(), 0);
    world.finish(program).await;
}

#[tokio::test]
async fn counters_agree_with_what_was_moved() {
    const UP: usize = 1_000_003;
    const DOWN: usize = 700_001;
    let world = World::ideal();
    let server = Destination::serve(|mut socket| async move {
        receive(&mut socket, 1, UP).await?;
        send(&mut socket, 2, DOWN).await
    })
    .await;
    let (program, admin) = forward(&world, server.port, &[]).await;
    let mut client = program.connect().await;
    until("a connection", || metric(admin, "ssmfwd_connections", ""), |open| *open == Some(1.0)).await;
    let ((), ()) = program
        .within("a transfer", async {
            send(&mut client.0, 1, UP).await.expect("all is taken");
            world.emulator.act(Action::Disconnect);
            receive(&mut client.0, 2, DOWN).await.expect("all comes");
            ((), ())
        })
        .await;
    let peer = client.address().to_string();
    let live = status(admin).await;
    let connection = &live["forwards"][0]["connections"][0];
    assert_eq!((&connection["peer"], &connection["bytes_up"]), (&peer.into(), &UP.into()), "{live}");
    client.end().await;
    let closed = program.event("connection_closed").await;
    assert_eq!((&closed["bytes_up"], &closed["bytes_down"]), (&UP.into(), &DOWN.into()));
    until("no connection", || metric(admin, "ssmfwd_connections", ""), |open| *open == Some(0.0)).await;
    for (name, label, expected) in [
        ("ssmfwd_bytes_total", "direction=\"up\"", UP),
        ("ssmfwd_bytes_total", "direction=\"down\"", DOWN),
        ("ssmfwd_connections_opened_total", "", 1),
        ("ssmfwd_sessions_started_total", "", 1),
        ("ssmfwd_destination_refused_total", "", 0),
    ] {
        assert_eq!(metric(admin, name, label).await, Some(expected as f64), "{name} {label}");
    }
    let resumptions = || metric(admin, "ssmfwd_session_resumptions_total", "");
    until("a resumption", resumptions, |count| *count == Some(1.0)).await;
    let status = status(admin).await;
    let started = program.event("session_started").await;
    let session = &status["forwards"][0]["sessions"][0];
    assert_eq!((&session["session_id"], &session["member"]), (&started["session_id"], &started["member"]), "{status}");
    assert_eq!((&session["bytes_up"], &session["bytes_down"]), (&UP.into(), &DOWN.into()), "{status}");
    world.finish(program).await;
}

#[tokio::test]
async fn pages_of_other_sites_learn_nothing() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (program, admin) = forward(&world, echo.port, &[]).await;
    let own = format!("Host: {admin}");
    for (lines, expected) in [
        (&["GET /status HTTP/1.1", &own][..], 200),
        (&["GET /status HTTP/1.1", "Host: rebound.example"], 421),
        (&["GET /status HTTP/1.1", &own, "Host: rebound.example"], 421),
        (&["GET http://rebound.example/status HTTP/1.1", &own], 421),
        (&["GET /status HTTP/1.0"], 421),
        (&["GET /status HTTP/1.1", &own, "Origin: http://rebound.example"], 403),
        (&["GET /status HTTP/1.1", &own, "Sec-Fetch-Site: cross-site"], 403),
        (&["POST /status HTTP/1.1", &own, "Content-Length: 0"], 405),
    ] {
        let (status, body) = ask(admin, lines).await;
        assert_eq!(status, expected, "{lines:?}");
        assert_eq!(body.contains("\"destination\""), expected == 200, "{lines:?}: {body}");
    }
    world.finish(program).await;
}

/// Somebody who connects as often as he can and never asks a whole question.
#[tokio::test]
async fn slow_and_many_requests_hold_up_neither_forwarding_nor_the_end() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (program, admin) = forward(&world, echo.port, &[]).await;
    let descriptors = program.descriptors();
    until_ready(admin).await;
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut socket = within("connecting", TcpStream::connect(admin)).await.expect("an endpoint");
        if number % 3 != 0 {
            // May be ended already, by those that came after it.
            socket.write_all(b"GET /status HTTP/1.1\r\nHost: local").await.ok();
        }
        slow.push(socket);
    }
    for _ in 0..10 {
        assert_eq!(get(admin, "/readyz").await.0, 200);
    }
    // Long heads end their connection.
    let mut socket = TcpStream::connect(admin).await.expect("an endpoint");
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nx: {}", "x".repeat(1 << 20));
    socket.write_all(head.as_bytes()).await.ok();
    let mut said = Vec::new();
    within("a refusal", socket.read_to_end(&mut said)).await.ok();
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&said));
    if let (Some(before), Some(now)) = (descriptors, program.descriptors()) {
        assert!(now <= before + 80, "{before} descriptors, then {now}");
    }
    let mut client = program.connect().await;
    client.echo(b"as ever").await;
    drop(client);
    world.finish(program).await;
    drop(slow);
}

#[tokio::test]
async fn a_unix_socket_is_for_its_owner() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let folder = tempfile::tempdir().expect("a folder");
    // Anybody may look for it.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a folder of ours");
    let path = folder.path().join("admin");
    let program = world.forward(echo.port, &["--admin", path.to_str().expect("UTF-8")]).await;
    assert_eq!(program.event("admin").await["address"], path.to_str().expect("UTF-8"));
    assert_eq!(fs::metadata(&path).expect("a socket").mode() & 0o777, 0o600);
    let curl = |wrapper: &[&str]| {
        let mut words =
            [wrapper, &["curl", "--silent", "--fail", "--max-time", "60", "--unix-socket"]].concat().into_iter();
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).arg(&path).arg("http://whatever.example/healthz").stdin(Stdio::null());
        command
    };
    let ours = within("curl", curl(&[]).output()).await.expect("curl is installed");
    assert_eq!(String::from_utf8_lossy(&ours.stdout), "ok\n");
    // Whoever is not root cannot be somebody else.
    if fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) && Path::new("/usr/bin/setpriv").exists() {
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let theirs = within("curl", curl(&nobody).output()).await.expect("setpriv and curl are installed");
        assert_eq!((theirs.status.code(), &theirs.stdout[..]), (Some(7), &b""[..]), "it could not connect");
    }
    world.finish(program).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_busy_address_is_status_3_and_costs_no_session() {
    let world = World::ideal();
    let busy = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = busy.local_addr().expect("an address").to_string();
    let ended = world.run(&["--target", World::TARGET, "0:1", "--admin", &address]).await.expect_status(3);
    ended.expect_stderr(&format!("cannot listen on {address}")).expect_stderr("in use");
    let state = world.settled().await;
    assert_eq!(state.sessions_started, 0);
}

#[tokio::test]
async fn what_is_no_address_is_status_2() {
    let world = World::ideal();
    for address in ["localhost", "127.0.0.1:http", "70000"] {
        let ended = world.run(&["--target", World::TARGET, "0:1", "--admin", address]).await.expect_status(2);
        ended.expect_stderr("--admin").expect_stderr("HOST:PORT");
    }
    world.settled().await;
}

#[tokio::test]
async fn anything_but_loopback_is_warned_of() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--admin", "0.0.0.0:0"]).await;
    let address = address(&program).await;
    assert!(address.ip().is_unspecified());
    let reached = SocketAddr::from(([127, 0, 0, 1], address.port()));
    assert_eq!(ask(reached, &["GET /healthz HTTP/1.1", "Host: 192.0.2.7:9090"]).await.0, 200);
    assert_eq!(ask(reached, &["GET /healthz HTTP/1.1", "Host: rebound.example"]).await.0, 421);
    program.signal(Signal::TERM);
    let ended = program.exit().await.expect_status(143);
    ended.expect_stderr(&format!("{address} can be reached from the network"));
    world.settled().await;
}

/// The endpoint tells of each of many forwards and connections.
#[tokio::test]
async fn many_connections_are_all_told() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (program, admin) = forward(&world, echo.port, &[]).await;
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client: Client = program.connect().await;
        client.echo(b"x").await;
        clients.push(client);
    }
    let live = status(admin).await;
    let told = live["forwards"][0]["connections"].as_array().expect("a list");
    let mut peers: Vec<_> = told.iter().map(|one| one["peer"].as_str().expect("a peer").to_owned()).collect();
    let mut expected: Vec<_> = clients.iter().map(|client| client.address().to_string()).collect();
    peers.sort();
    expected.sort();
    assert_eq!(peers, expected);
    assert!(told.iter().all(|one| one["bytes_up"] == 1), "{live}");
    drop(clients);
    world.finish(program).await;
}
