use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use http::HeaderName;

use super::*;
use crate::session::{Gateway, Grant, Proxies, SessionId, StartRequest, Trust};

fn dialer() -> Dialer {
    Dialer::over(Arc::new(Outbound::new(Proxies::none(), Trust::Machine)))
}

/// A gateway that says this to whoever comes, and hangs up.
async fn gateway(says: &'static str) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if tcp.read(&mut request).await.is_ok() {
                tcp.write_all(says.as_bytes()).await.ok();
            }
        }
    });
    port
}

/// What an attempt fails with, and how many addresses the next one passes over.
async fn attempt(dialer: &Dialer, scheme: &str, port: u16) -> (DialError, usize) {
    let url = StreamUrl::parse(format!("{scheme}://127.0.0.1:{port}/")).expect("a URL");
    let host = format!("127.0.0.1:{port}");
    let error = dialer.attempt(&url, &host, Vec::new(), None).await.expect_err("no websocket");
    (error, dialer.outbound.passed_over(&host))
}

#[tokio::test]
async fn what_fails_is_passed_over_and_what_refuses_is_not() {
    let dialer = dialer();
    let free = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port").local_addr().expect("an address").port();
    for failures in 1..3 {
        let (error, passed_over) = attempt(&dialer, "ws", free).await;
        assert!(
            matches!(&error, DialError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
        );
        assert_eq!(passed_over, failures);
    }

    let broken = gateway("").await;
    for failures in 1..3 {
        let (error, passed_over) = attempt(&dialer, "ws", broken).await;
        assert!(matches!(error, DialError::Upgrade { .. }), "{error:?}");
        assert_eq!(passed_over, failures);
    }

    let (error, passed_over) = attempt(&dialer, "wss", gateway("no TLS at all").await).await;
    assert!(matches!(error, DialError::Tls { .. }), "{error:?}");
    assert_eq!(passed_over, 1);

    let refuses = gateway("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    let (error, passed_over) = attempt(&dialer, "ws", refuses).await;
    assert_eq!((error.status(), passed_over), (Some(StatusCode::FORBIDDEN), 0));
}

/// Knows only where the data channel will be.
struct Expects(Gateway);

impl ControlPlane for Expects {
    fn start<'a>(&'a self, _: &'a StartRequest) -> BoxFuture<'a, Result<Grant, ControlError>> {
        unreachable!("nobody starts a session")
    }

    fn resume<'a>(&'a self, _: &'a SessionId) -> BoxFuture<'a, Result<Option<Grant>, ControlError>> {
        unreachable!("nobody resumes a session")
    }

    fn terminate<'a>(&'a self, _: &'a SessionId) -> BoxFuture<'a, Result<(), ControlError>> {
        unreachable!("nobody ends a session")
    }

    fn gateway(&self) -> BoxFuture<'_, Option<Gateway>> {
        Box::pin(std::future::ready(Some(self.0.clone())))
    }

    fn sign_upgrade<'a>(
        &'a self,
        _: &'a StreamUrl,
        _: QueryForm,
    ) -> BoxFuture<'a, Result<Vec<(HeaderName, HeaderValue)>, ControlError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

/// Lets in whoever asks for a websocket; hangs up on the first connections. Says how many there were.
async fn open_gateway(hangs_up: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if count.fetch_add(1, Ordering::SeqCst) >= hangs_up {
                tokio::spawn(tokio_tungstenite::accept_async(tcp));
            }
        }
    });
    (port, accepted)
}

#[tokio::test]
async fn the_connection_that_was_opened_ahead_is_used_if_it_leads_there_and_lives() {
    for (hangs_up, elsewhere, connections) in [(0, false, 1), (1, false, 2), (0, true, 1)] {
        let (port, accepted) = open_gateway(hangs_up).await;
        let (other_port, _) = open_gateway(0).await;
        let expected = if elsewhere { other_port } else { port };
        let control = Expects(Gateway { host: "127.0.0.1".into(), port: expected, tls: false });
        let dialer = dialer();
        let ahead = dialer.connect_ahead(&control).await.expect("somebody listens");
        let url = StreamUrl::parse(format!("ws://127.0.0.1:{port}/")).expect("a URL");
        dialer.dial(&control, &url, Some(ahead)).await.expect("a websocket");
        assert_eq!(accepted.load(Ordering::SeqCst), connections, "{hangs_up} {elsewhere}");
        let host = format!("127.0.0.1:{port}");
        assert_eq!(dialer.outbound.passed_over(&host), 0, "no fault of the gateway's");
    }
}

#[tokio::test]
async fn nothing_is_lost_if_nobody_is_there_ahead() {
    let free = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port").local_addr().expect("an address").port();
    let control = Expects(Gateway { host: "127.0.0.1".into(), port: free, tls: false });
    assert!(dialer().connect_ahead(&control).await.is_none());
}
