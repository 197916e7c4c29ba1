//! Opens the websocket: addresses, TCP, TLS (`proto-notes/websocket.md#addresses`), the signed upgrade and its fallbacks
//! (`proto-notes/websocket.md#signature`).

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode, header};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, handshake::client::generate_key, protocol::WebSocketConfig},
};

use super::{
    BoxFuture, ControlError, ControlPlane, QueryForm, StreamUrl,
    race::{in_turn, race},
    transport::Transport,
};

/// Bytes of TLS records that may wait to be written: the default of 64 KiB makes short writes of what the websocket
/// hands over, and each costs a move of the rest.
const TLS_BUFFER: usize = 256 << 10;

/// How long the lookup of the gateway's name may take. Resolvers wait 5 s for a server before they ask the next.
const LOOKUP: Duration = Duration::from_secs(10);

/// How long one address of the gateway may take for TCP and TLS together.
const PER_ADDRESS: Duration = Duration::from_secs(8);

/// How long the gateway may take to answer the upgrade.
const UPGRADE: Duration = Duration::from_secs(10);

/// The websocket's bounds. The library's defaults have none for what waits to be written, and 64 MiB for messages.
#[must_use]
pub fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(32 << 10)
        .write_buffer_size(64 << 10)
        .max_write_buffer_size(1 << 20)
        .max_message_size(Some(1 << 20))
        .max_frame_size(Some(1 << 20))
}

/// Why a websocket could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No connection to the gateway.
    #[error("cannot connect to {host}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS handshake with {host} failed")]
    Tls {
        /// Host and port.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The gateway answered the upgrade with an HTTP error.
    #[error("{host} refused the websocket with HTTP status {status}")]
    Refused {
        /// Host and port.
        host: String,
        /// The status of the answer.
        status: u16,
    },
    /// The upgrade did not come about for another reason.
    #[error("websocket handshake with {host} failed: {message}")]
    Upgrade {
        /// Host and port.
        host: String,
        /// What the websocket library says.
        message: String,
    },
    /// The upgrade could not be signed.
    #[error(transparent)]
    Sign(#[from] ControlError),
}

/// What is remembered of a gateway.
#[derive(Debug, Default)]
struct Known {
    /// What it accepted last.
    accepted: Option<Authentication>,
    /// How many of its addresses others go before, because they failed.
    passed_over: usize,
}

/// How an upgrade is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Authentication {
    Signed(QueryForm),
    Unsigned,
}

/// An open websocket and how the gateway let us in.
#[derive(Debug)]
pub struct Dialled<S> {
    /// The websocket; its settings should be those of [`websocket_config`].
    pub websocket: WebSocketStream<S>,
    /// A signed upgrade was refused and the same without a signature was not.
    pub fell_back_to_unsigned: bool,
}

/// Opens the websockets of sessions, the first and those that replace it. Any transport will do.
pub trait Dial: Send + Sync + 'static {
    /// What the websocket runs over.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Opens a websocket. Dropping the future gives the attempt up.
    fn dial<'a>(
        &'a self,
        control: &'a dyn ControlPlane,
        url: &'a StreamUrl,
    ) -> BoxFuture<'a, Result<Dialled<Self::Io>, DialError>>;
}

impl Dial for Dialer {
    type Io = Transport;

    fn dial<'a>(
        &'a self,
        control: &'a dyn ControlPlane,
        url: &'a StreamUrl,
    ) -> BoxFuture<'a, Result<Dialled<Transport>, DialError>> {
        Box::pin(self.open(control, url))
    }
}

/// Opens websockets. Trusted roots are read once; what a gateway accepts, and which of its addresses failed, is
/// remembered.
pub struct Dialer {
    tls: TlsConnector,
    known: Mutex<HashMap<String, Known>>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

impl Dialer {
    /// A dialer that trusts the machine's roots (or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`).
    ///
    /// # Errors
    /// When no root can be read.
    pub fn new() -> io::Result<Self> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (valid, _) = roots.add_parsable_certificates(found.certs);
        if valid == 0 {
            let cause = found.errors.first().map_or_else(|| "the store is empty".to_owned(), ToString::to_string);
            return Err(io::Error::other(format!("no trusted root certificate was found: {cause}")));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), known: Mutex::default() })
    }

    /// Opens a websocket. A 403 is tried again with the other reading of `+` in the query if there is one, then without
    /// a signature; presigned URLs carry their own and are tried once.
    async fn open(&self, control: &dyn ControlPlane, url: &StreamUrl) -> Result<Dialled<Transport>, DialError> {
        let host = format!("{}:{}", url.host(), url.port());
        let mut signature_refused = false;
        for authentication in self.attempts(url, &host) {
            let headers = match authentication {
                Authentication::Unsigned => Vec::new(),
                Authentication::Signed(form) => control.sign_upgrade(url, form).await?,
            };
            // Without credentials there is no signature, and no other way either.
            let signed = !headers.is_empty();
            let last = authentication != Authentication::Unsigned && !signed;
            tracing::debug!(%host, ?authentication, "dialling");
            match self.attempt(url, &host, headers).await {
                Ok(websocket) => {
                    tracing::debug!(%host, signed, "websocket open");
                    if !url.is_presigned() && !last {
                        self.known(&host, |known| known.accepted = Some(authentication));
                    }
                    return Ok(Dialled { websocket, fell_back_to_unsigned: signature_refused && !signed });
                }
                Err(DialError::Refused { status: 403, .. }) if !last => {
                    tracing::debug!(%host, ?authentication, "upgrade refused");
                    signature_refused |= signed;
                }
                Err(error) => return Err(error),
            }
        }
        Err(DialError::Refused { host, status: 403 })
    }

    fn known<T>(&self, host: &str, with: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        with(known.entry(host.to_owned()).or_default())
    }

    /// What to try, in order: what worked last, then the rest, because permissions change.
    fn attempts(&self, url: &StreamUrl, host: &str) -> Vec<Authentication> {
        if url.is_presigned() {
            return vec![Authentication::Unsigned];
        }
        let mut attempts = vec![Authentication::Signed(QueryForm::PlusIsSpace)];
        if url.query().contains('+') {
            attempts.push(Authentication::Signed(QueryForm::PlusIsLiteral));
        }
        attempts.push(Authentication::Unsigned);
        let accepted = self.known(host, |known| known.accepted);
        if let Some(place) = attempts.iter().position(|attempt| Some(*attempt) == accepted) {
            attempts[..=place].rotate_right(1);
        }
        attempts
    }

    async fn attempt(
        &self,
        url: &StreamUrl,
        host: &str,
        headers: Vec<(http::HeaderName, HeaderValue)>,
    ) -> Result<WebSocketStream<Transport>, DialError> {
        let request = upgrade_request(url, headers)
            .map_err(|error| DialError::Upgrade { host: host.to_owned(), message: error.to_string() })?;
        let name = url.host().trim_start_matches('[').trim_end_matches(']');
        let tls_error = |error| DialError::Tls { host: host.to_owned(), source: io::Error::other(error) };
        let server = url.is_tls().then(|| ServerName::try_from(name.to_owned())).transpose().map_err(tls_error)?;
        let passed_over = self.known(host, |known| known.passed_over);
        // So that those not reached yet, or not at fault, come first next time.
        let pass_over = |more| self.known(host, |known| known.passed_over = passed_over.wrapping_add(more));

        let found = timeout(LOOKUP, lookup_host((name, url.port()))).await;
        let found = found
            .unwrap_or_else(|_| Err(late("the name was not resolved", LOOKUP)))
            .map_err(|source| DialError::Connect { host: host.to_owned(), source })?;
        let addresses = in_turn(found, passed_over);
        tracing::trace!(%host, ?addresses, "connecting");
        let raced = race(&addresses, |address| self.connect(address, server.clone(), host)).await;
        let (address, transport) = raced.map_err(|failures| {
            pass_over(failures.len());
            all_failed(host, failures)
        })?;
        let upgrade = client_async_with_config(request, transport, Some(websocket_config()));
        let message = match timeout(UPGRADE, upgrade).await {
            Ok(Ok((websocket, _))) => return Ok(websocket),
            Ok(Err(tungstenite::Error::Http(response))) => {
                return Err(DialError::Refused { host: host.to_owned(), status: response.status().as_u16() });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("{address}: {}", late("no answer", UPGRADE)),
        };
        pass_over(addresses.iter().take_while(|tried| **tried != address).count() + 1);
        Err(DialError::Upgrade { host: host.to_owned(), message })
    }

    /// TCP and TLS to one address.
    async fn connect(
        &self,
        address: SocketAddr,
        server: Option<ServerName<'static>>,
        host: &str,
    ) -> Result<Transport, DialError> {
        let until = Instant::now() + PER_ADDRESS;
        let connect_error = |source| DialError::Connect { host: host.to_owned(), source };
        let tcp = timeout_at(until, TcpStream::connect(address)).await;
        let tcp = tcp.unwrap_or_else(|_| Err(late("no answer", PER_ADDRESS))).map_err(connect_error)?;
        // Without it a small message waits for the acknowledgement of the one before: 40 ms in the handshake.
        tcp.set_nodelay(true).map_err(connect_error)?;
        let Some(server) = server else { return Ok(Transport::plain(tcp)) };
        let tls = self.tls.connect_with(server, tcp, |connection| connection.set_buffer_limit(Some(TLS_BUFFER)));
        let tls = timeout_at(until, tls).await.unwrap_or_else(|_| Err(late("no answer", PER_ADDRESS)));
        tls.map(Transport::tls).map_err(|source| DialError::Tls { host: host.to_owned(), source })
    }
}

fn late(what: &str, limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {} s", limit.as_secs()))
}

/// The failure that came last, of those that got furthest; of several it is said that they were.
fn all_failed(host: &str, mut failures: Vec<(SocketAddr, DialError)>) -> DialError {
    let tried = failures.len();
    failures.sort_by_key(|(_, error)| matches!(error, DialError::Tls { .. }));
    let Some((address, error)) = failures.pop() else {
        let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return DialError::Connect { host: host.to_owned(), source };
    };
    let one_of_many = |source: io::Error| match tried {
        1 => source,
        _ => io::Error::new(source.kind(), format!("{address}: {source} ({tried} addresses were tried)")),
    };
    match error {
        DialError::Connect { host, source } => DialError::Connect { host, source: one_of_many(source) },
        DialError::Tls { host, source } => DialError::Tls { host, source: one_of_many(source) },
        other => other,
    }
}

/// The request line carries path and query as the service gave them.
fn upgrade_request(url: &StreamUrl, headers: Vec<(http::HeaderName, HeaderValue)>) -> Result<Request<()>, http::Error> {
    let mut request = Request::get(url.as_str())
        .header(header::HOST, url.authority())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .body(())?;
    for (name, mut value) in headers {
        value.set_sensitive(true);
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

impl DialError {
    /// The HTTP status of a refused upgrade.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => StatusCode::from_u16(*status).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

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
            (vec![], "cannot connect to gateway:443", "the name has no address"),
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
            let error = all_failed("gateway:443", failures);
            assert_eq!(error.to_string(), text);
            assert_eq!(error.source().map(ToString::to_string).as_deref(), Some(cause));
        }
    }

    fn dialer() -> Dialer {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        Dialer { tls: TlsConnector::from(Arc::new(config)), known: Mutex::default() }
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
        let error = dialer.attempt(&url, &host, Vec::new()).await.expect_err("no websocket");
        (error, dialer.known(&host, |known| known.passed_over))
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
}
