//! Where local programs connect to.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::harness::{Client, Closed, Destination, World, within};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn has_ipv6() -> bool {
    StdListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// The addresses of a forward, each of which is tried.
async fn addresses_of(world: &World, bind: &str) -> (Vec<SocketAddr>, crate::harness::Program) {
    let echo = Destination::echo().await;
    let program = world.start(&[&format!("{bind}:127.0.0.1:{}", echo.port)]);
    let addresses = program.addresses(0).await;
    for address in &addresses {
        let reachable = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => LOCALHOST,
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Client::to((reachable, address.port()).into()).await.echo(b"hello").await;
    }
    let listening = program.events_so_far("listening");
    let told: Vec<_> =
        listening.iter().map(|event| event["address"].as_str().expect("an address").to_owned()).collect();
    assert_eq!(told, addresses.iter().map(ToString::to_string).collect::<Vec<_>>());
    (addresses, program)
}

#[tokio::test]
async fn both_loopback_addresses_share_a_free_port() {
    let world = World::ideal();
    let (addresses, program) = addresses_of(&world, "0").await;
    let ips: Vec<_> = addresses.iter().map(SocketAddr::ip).collect();
    if has_ipv6() {
        assert_eq!(ips, [LOCALHOST, Ipv6Addr::LOCALHOST.into()]);
        assert_eq!(addresses[0].port(), addresses[1].port());
    } else {
        assert_eq!(ips, [LOCALHOST]);
    }
    let (ended, _) = world.finish(program).await;
    assert_eq!(ended.stderr, "", "loopback needs no warning");
}

#[tokio::test]
async fn an_address_is_bound_alone() {
    for bind in ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"] {
        if bind.starts_with('[') && !has_ipv6() {
            continue;
        }
        let world = World::ideal();
        let (addresses, program) = addresses_of(&world, bind).await;
        let [address] = addresses[..] else { panic!("{addresses:?}") };
        assert_eq!(
            Some(address.to_string().as_str()),
            bind.strip_suffix('0').map(|ip| format!("{ip}{}", address.port())).as_deref()
        );
        let (ended, _) = world.finish(program).await;
        assert_eq!(ended.stderr, "");
    }
}

#[tokio::test]
async fn localhost_is_both_loopback_addresses() {
    let world = World::ideal();
    let (addresses, program) = addresses_of(&world, "localhost:0").await;
    assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    assert_eq!(addresses.len(), if has_ipv6() { 2 } else { 1 });
    world.finish(program).await;
}

#[tokio::test]
async fn all_addresses_are_bound_with_a_warning() {
    for bind in ["*:0", "0.0.0.0:0"] {
        let world = World::ideal();
        let (addresses, program) = addresses_of(&world, bind).await;
        assert!(addresses.iter().all(|address| address.ip().is_unspecified()));
        assert_eq!(addresses.len(), if bind.starts_with('*') && has_ipv6() { 2 } else { 1 });
        let (ended, _) = world.finish(program).await;
        let warnings = ended.stderr.lines().filter(|line| line.contains("can be reached from the network")).count();
        assert_eq!(warnings, addresses.len(), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_fixed_port_is_that_port_and_free_again_afterwards() {
    // The system's choice, given back: nobody else asks for it by number, and it is not handed out again soon.
    let port =
        StdListener::bind((LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port").port();
    for _ in 0..2 {
        let world = World::ideal();
        let (addresses, program) = addresses_of(&world, &format!("127.0.0.1:{port}")).await;
        assert_eq!(addresses, [SocketAddr::from((LOCALHOST, port))]);
        world.finish(program).await;
    }
}

#[tokio::test]
async fn a_busy_port_is_status_3_with_its_address_and_costs_no_session() {
    let world = World::ideal();
    let busy = StdListener::bind((LOCALHOST, 0)).expect("a free port");
    let address = busy.local_addr().expect("an address");
    let program = world.start(&[&format!("{}:db:3306", address.port()), "0:db:3307"]);
    let ended = program.exit().await.expect_status(3);
    let ended = ended
        .expect_stderr(&format!("error: cannot listen on {address}"))
        .expect_stderr("caused by: Address already in use");
    let ended = ended.expect_stderr("hint: another program uses it: take another LOCAL, or 0 for any free port");
    assert_eq!(ended.event_names(), ["error", "stopped"]);
    assert_eq!((&ended.events[0]["status"], &ended.events[1]["exit"]), (&3.into(), &3.into()));
    assert!(ended.events[0]["message"].as_str().is_some_and(|text| text.contains(&address.to_string())));
    let state = world.settled().await;
    assert_eq!(state.calls_of("StartSession"), 0);
}

#[tokio::test]
async fn a_port_that_is_busy_on_the_second_address_only_is_status_3_too() {
    if !has_ipv6() {
        return;
    }
    let world = World::ideal();
    let busy = StdListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a free port");
    let address = busy.local_addr().expect("an address");
    let ended = world.run(&[&format!("{}:db:3306", address.port()), "-t", World::TARGET]).await.expect_status(3);
    ended.expect_stderr(&format!("cannot listen on {address}"));
    assert_eq!(world.settled().await.calls_of("StartSession"), 0);
}

#[tokio::test]
async fn an_address_of_another_machine_is_status_3() {
    let world = World::ideal();
    let ended = world.run(&["203.0.113.1:0:db:3306", "-t", World::TARGET]).await.expect_status(3);
    ended.expect_stderr("cannot listen on 203.0.113.1:0").expect_stderr("BIND must be an address of this machine");
    assert_eq!(world.settled().await.calls_of("StartSession"), 0);
}

/// A greeting through a unix socket.
async fn greeted(path: &Path) {
    let mut client = within("connecting", UnixStream::connect(path)).await.expect("a listener");
    let mut greeting = [0; 5];
    within("a greeting", client.read_exact(&mut greeting)).await.expect("a greeting");
    assert_eq!(&greeting, b"hello");
    client.write_all(b"bye").await.expect("an open connection");
}

#[tokio::test]
async fn a_unix_socket_is_private_and_removed_on_exit() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db.sock");
    let (world, server) = (World::ideal(), Destination::greeting(b"hello").await);
    let program = world.start(&[&format!("{}:127.0.0.1:{}", path.display(), server.port), "--linger", "0.5"]);
    let ready = program.event("ready").await;
    assert_eq!(ready["forwards"][0]["addresses"], serde_json::json!([path.display().to_string()]));
    let metadata = fs::symlink_metadata(&path).expect("the socket's file");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    greeted(&path).await;
    assert_eq!(server.outcome().await, Closed::Cleanly(3));
    assert_eq!(program.event("connection_opened").await["peer"], "unix");
    world.finish(program).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_unix_socket_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a free path"));
    let (world, server) = (World::ideal(), Destination::greeting(b"hello").await);
    let program = world.start(&[&format!("{}:127.0.0.1:{}", path.display(), server.port)]);
    program.event("ready").await;
    greeted(&path).await;
    world.finish(program).await;
}

#[tokio::test]
async fn a_killed_program_leaves_a_socket_that_the_next_one_replaces() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db.sock");
    let (world, server) = (World::ideal(), Destination::greeting(b"hello").await);
    let forward = format!("{}:127.0.0.1:{}", path.display(), server.port);
    let first = world.start(&[&forward]);
    let session = first.event("session_started").await["session_id"].as_str().expect("an id").to_owned();
    first.event("ready").await;
    first.signal(rustix::process::Signal::KILL);
    first.exit().await;
    assert!(path.exists(), "nobody can clean up after SIGKILL");
    // Nor end the session: its idle timeout does.
    assert!(world.emulator.act_on(&session, ssmfwd::emulator::Action::ChannelClosed { output: String::new() }));
    let second = world.start(&[&forward]);
    second.event("ready").await;
    greeted(&path).await;
    world.finish(second).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_live_unix_socket_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db.sock");
    let _live = std::os::unix::net::UnixListener::bind(&path).expect("a free path");
    let world = World::ideal();
    let ended = world.run(&[&format!("{}:db:1", path.display()), "-t", World::TARGET]).await.expect_status(3);
    ended.expect_stderr(&format!("cannot listen on {}: another program does", path.display()));
    std::os::unix::net::UnixStream::connect(&path).expect("still there");
    assert_eq!(world.settled().await.calls_of("StartSession"), 0);
}

#[tokio::test]
async fn what_is_not_a_socket_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("precious");
    fs::write(&path, "data").expect("a file");
    let world = World::ideal();
    let ended = world.run(&[&format!("{}:db:1", path.display()), "-t", World::TARGET]).await.expect_status(3);
    ended.expect_stderr(&path.display().to_string());
    assert_eq!(fs::read(&path).expect("still there"), b"data");
    assert_eq!(world.settled().await.calls_of("StartSession"), 0);
}
