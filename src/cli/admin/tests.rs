//! The endpoint over real sockets, with snapshots made by hand.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::*;

async fn admin(address: &str) -> Admin {
    let address = address.parse().expect("an address");
    Admin::serve(address, samples::snapshot).await.expect("a free address")
}

fn tcp(admin: &Admin) -> SocketAddr {
    match &admin.addresses()[0] {
        LocalAddress::Tcp(address) => *address,
        LocalAddress::Unix(path) => panic!("{path:?}"),
    }
}

/// One request, and all that comes until the end.
fn exchange(mut socket: impl Read + Write, request: &str) -> String {
    socket.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers");
    answer
}

fn get(address: SocketAddr, path: &str, host: &str) -> String {
    let socket = TcpStream::connect(address).expect("it listens");
    exchange(socket, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

#[tokio::test]
async fn it_serves_from_the_moment_that_it_is_bound_until_it_is_dropped() {
    let admin = admin("0").await;
    let address = tcp(&admin);
    assert!(address.ip().is_loopback() && address.port() != 0);
    assert_eq!(admin.public_addresses().count(), 0);
    assert_eq!(shown(&admin.addresses()[0]), format!("http://{address}/"));
    let answer = get(address, "/healthz", &address.to_string());
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    // One that stays, and one that has begun.
    let mut idle = TcpStream::connect(address).expect("it listens");
    let mut begun = TcpStream::connect(address).expect("it listens");
    begun.write_all(b"GET / HTTP/1.1\r\n").expect("it reads");
    drop(admin);
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0, "nothing keeps it");
    TcpStream::connect(address).expect_err("nothing listens");
}

#[tokio::test]
async fn hosts_follow_the_address() {
    for (address, host, status) in [
        ("127.0.0.1:0", "127.0.0.1:1", 200),
        ("127.0.0.1:0", "10.0.0.7", 421),
        ("127.0.0.1:0", "evil.example", 421),
        ("127.0.0.1:0", "ssmfwd", 421),
        ("0.0.0.0:0", "10.0.0.7", 200),
        ("0.0.0.0:0", "ssmfwd:9090", 200),
        ("0.0.0.0:0", "evil.example", 421),
    ] {
        let admin = admin(address).await;
        assert_eq!(admin.public_addresses().count(), usize::from(address.starts_with("0.")), "{address}");
        let reached = SocketAddr::from(([127, 0, 0, 1], tcp(&admin).port()));
        let answer = get(reached, "/status", host);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{address} {host}: {answer}");
    }
}

#[tokio::test]
async fn a_head_has_no_body_and_the_length_of_one() {
    let admin = admin("0").await;
    let socket = TcpStream::connect(tcp(&admin)).expect("it listens");
    let answer = exchange(socket, "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\n") && answer.contains("content-length: 3\r\n"), "{answer}");
}

#[tokio::test]
async fn requests_without_a_host_are_refused() {
    let admin = admin("0").await;
    for request in ["GET /status HTTP/1.0\r\n\r\n", "GET /status HTTP/1.1\r\nConnection: close\r\n\r\n"] {
        let answer = exchange(TcpStream::connect(tcp(&admin)).expect("it listens"), request);
        assert!(answer.contains(" 421 "), "{answer}");
    }
}

#[tokio::test]
async fn a_busy_port_is_an_error() {
    let first = admin("0").await;
    let address = tcp(&first).to_string();
    let error = Admin::serve(address.parse().expect("an address"), samples::snapshot).await.err().expect("it is taken");
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
    assert!(matches!(error, AdminError::Bind(_)));
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_an_error() {
    let address = "no-such-host.invalid:0".parse().expect("a name");
    let error = Admin::serve(address, samples::snapshot).await.err().expect("it leads nowhere");
    assert_eq!(error.to_string(), "cannot look up the address of --admin no-such-host.invalid:0");
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_private_and_gone_at_the_end() {
    use std::os::unix::{fs::PermissionsExt, net::UnixStream};

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin");
    let admin = admin(path.to_str().expect("UTF-8")).await;
    assert_eq!(std::fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
    let socket = UnixStream::connect(&path).expect("it listens");
    let answer = exchange(socket, "GET /metrics HTTP/1.1\r\nHost: anything.example\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(shown(&admin.addresses()[0]), path.display().to_string());
    drop(admin);
    assert!(!path.exists());
}

/// Three times as many as are served at once, all there before the first one asks.
#[tokio::test]
async fn every_request_of_a_crowd_is_answered() {
    let admin = admin("0").await;
    let address = tcp(&admin);
    let mut crowd: Vec<_> = (0..200).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    for socket in &mut crowd {
        socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it waits or is served");
    }
    for (at, mut socket) in crowd.into_iter().enumerate() {
        let mut status = [0; 12];
        socket.read_exact(&mut status).unwrap_or_else(|error| panic!("answer {at}: {error}"));
        assert_eq!(&status, b"HTTP/1.1 503", "{at}");
    }
}

/// As many as are served at once, which say nothing: each request is answered.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let admin = admin("0").await;
    let address = tcp(&admin);
    let silent: Vec<_> = (0..64).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    for _ in 0..20 {
        assert!(get(address, "/readyz", "localhost").starts_with("HTTP/1.1 503 "));
    }
    drop(silent);
}

/// Nobody waits for the forwards of others' snapshots.
#[tokio::test]
async fn what_was_asked_is_told_anew() {
    let asked = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let snapshot = move || {
        let mut snapshot = samples::snapshot();
        snapshot.forwards[0].status.totals.connections = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        snapshot
    };
    let admin = Admin::serve("0".parse().expect("an address"), snapshot).await.expect("a free port");
    for expected in 0..5 {
        let answer = get(tcp(&admin), "/metrics", "localhost");
        let line = format!("ssmfwd_connections_opened_total{{forward=\"db\"}} {expected}\n");
        assert!(answer.contains(&line), "{answer}");
    }
}
