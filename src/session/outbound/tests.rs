use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 443))
}

fn failure(tls: bool, text: &str) -> DialError {
    let (host, source) = ("gateway:443".to_owned(), io::Error::new(io::ErrorKind::TimedOut, text));
    if tls { DialError::Tls { host, source } } else { DialError::Connect { host, source } }
}

#[test]
fn of_many_failures_the_one_that_got_furthest_is_told() {
    let (tcp, tls) = (|text| failure(false, text), |text| failure(true, text));
    for (failures, text, cause) in [
        (vec![], "cannot resolve the name of gateway:443", "the name has no address"),
        (vec![(address(1), tcp("refused"))], "cannot connect to gateway:443", "refused"),
        (
            vec![(address(1), tcp("no route")), (address(3), tcp("refused")), (address(2), tcp("late"))],
            "cannot connect to gateway:443",
            "10.0.0.2:443: late (3 addresses were tried)",
        ),
        (
            vec![(address(1), tls("expired")), (address(3), tls("unknown issuer")), (address(2), tcp("late"))],
            "TLS handshake with gateway:443 failed",
            "10.0.0.3:443: unknown issuer (3 addresses were tried)",
        ),
    ] {
        let error = all_failed("gateway:443", End::Far, failures);
        assert_eq!(error.to_string(), text);
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some(cause));
    }
}

/// A way through a proxy here that answers each request so; and how many requests there were so far. Connections on
/// which nothing is said are left alone.
async fn proxied(answer: &'static [u8]) -> (Outbound, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://me:pw@{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if !socket.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                        return;
                    }
                }
                count.fetch_add(1, Ordering::SeqCst);
                socket.write_all(answer).await.ok();
            });
        }
    });
    let proxies = Proxies::from_variables(|name| (name == "HTTP_PROXY").then(|| url.clone()));
    (Outbound::new(proxies, Trust::Machine), asked)
}

#[tokio::test]
async fn a_wrong_password_is_sent_once_however_many_ask() {
    for answer in [&b"HTTP/1.1 407 x\r\n\r\n"[..], b"HTTP/1.1 401 Unauthorized\r\n\r\n"] {
        let (outbound, asked) = proxied(answer).await;
        let connect = |host: &'static str| outbound.connect(false, host, 80, Watch::default());
        let (a, b, c) = tokio::join!(connect("a"), connect("b"), connect("c"));
        for (ended, host) in [(a, "a:80"), (b, "b:80"), (c, "c:80"), (connect("d").await, "d:80")] {
            let Err(DialError::ProxyRefused { host: told, status: 401 | 407, meaning, .. }) = ended else {
                panic!("not refused: {host}");
            };
            assert_eq!(told, host);
            assert!(meaning.contains("does not accept the user"), "{meaning}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
    // Another refusal is not about the password.
    let (outbound, asked) = proxied(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
    for _ in 0..2 {
        assert!(outbound.connect(false, "a", 80, Watch::default()).await.is_err());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_address_of_a_proxy_that_was_given_up_late_goes_last() {
    let outbound = Outbound::new(Proxies::none(), Trust::Machine);
    let path = Path { address: address(1), of: "http://p:1".into(), others_first: 1 };
    tokio::time::pause();
    let begun = Instant::now();
    let waiting = || GivenUp { outbound: &outbound, path: &path, begun, ended: false };
    // Nobody needs it any more.
    drop(waiting());
    tokio::time::advance(GIVEN_UP).await;
    waiting().ended();
    assert_eq!(outbound.passed_over("http://p:1"), 0);
    drop(waiting());
    assert_eq!(outbound.passed_over("http://p:1"), 1);
}
