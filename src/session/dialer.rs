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
    tungstenite::{
        self,
        handshake::client::generate_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{
    Ahead, BoxFuture, ControlError, ControlPlane, Gateway, QueryForm, StreamUrl,
    race::{in_turn, race},
    socket::Socket,
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

/// A connection to one of a gateway's addresses.
struct Reached {
    address: SocketAddr,
    transport: Transport,
    /// How many addresses are to be passed over next time if this one is no good.
    others_first: usize,
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

    /// Connects to where [`ControlPlane::gateway`] says; `None` if it says nothing, or that is to no avail. Dropping the
    /// future gives the attempt up.
    fn connect_ahead<'a>(&'a self, _: &'a dyn ControlPlane) -> BoxFuture<'a, Option<Ahead<Self::Io>>> {
        Box::pin(std::future::ready(None))
    }

    /// Opens a websocket, over the connection that was opened ahead if it leads there. Dropping the future gives the
    /// attempt up.
    fn dial<'a>(
        &'a self,
        control: &'a dyn ControlPlane,
        url: &'a StreamUrl,
        ahead: Option<Ahead<Self::Io>>,
    ) -> BoxFuture<'a, Result<Dialled<Self::Io>, DialError>>;
}

impl Dial for Dialer {
    type Io = Transport;

    fn connect_ahead<'a>(&'a self, control: &'a dyn ControlPlane) -> BoxFuture<'a, Option<Ahead<Transport>>> {
        Box::pin(async {
            let gateway = control.gateway().await?;
            match self.reach(&gateway).await {
                Ok(Reached { address, transport, others_first }) => {
                    Some(Ahead { gateway, address, others_first, io: transport })
                }
                Err(error) => {
                    tracing::debug!(host = gateway.host, %error, "not connected ahead");
                    None
                }
            }
        })
    }

    fn dial<'a>(
        &'a self,
        control: &'a dyn ControlPlane,
        url: &'a StreamUrl,
        ahead: Option<Ahead<Transport>>,
    ) -> BoxFuture<'a, Result<Dialled<Transport>, DialError>> {
        Box::pin(self.open(control, url, ahead))
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
    async fn open(
        &self,
        control: &dyn ControlPlane,
        url: &StreamUrl,
        ahead: Option<Ahead<Transport>>,
    ) -> Result<Dialled<Transport>, DialError> {
        let host = format!("{}:{}", url.host(), url.port());
        let mut ahead = ahead.filter(|ahead| ahead.gateway.serves(url));
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
            match self.attempt(url, &host, headers, ahead.take()).await {
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
        with(known.entry(host.to_ascii_lowercase()).or_default())
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
        ahead: Option<Ahead<Transport>>,
    ) -> Result<WebSocketStream<Transport>, DialError> {
        let request = upgrade_request(url, headers)
            .map_err(|error| DialError::Upgrade { host: host.to_owned(), message: error.to_string() })?;
        if let Some(Ahead { address, others_first, io, .. }) = ahead {
            match upgrade(request.clone(), address, io).await {
                // It may have been closed because nothing came, with or without a word: no fault of the gateway's.
                Err(NotUpgraded::Broken(message)) => tracing::debug!(%host, message, "connected ahead in vain"),
                Err(NotUpgraded::Refused(408)) => tracing::debug!(%host, "connected ahead for too long"),
                upgraded => return self.upgraded(upgraded, host, others_first),
            }
        }
        let gateway = Gateway { host: url.host().to_owned(), port: url.port(), tls: url.is_tls() };
        let Reached { address, transport, others_first } = self.reach(&gateway).await?;
        let upgraded = upgrade(request, address, transport).await;
        self.upgraded(upgraded, host, others_first)
    }

    /// What a failed upgrade means: others go first next time, unless the gateway has answered.
    fn upgraded<T>(&self, upgraded: Result<T, NotUpgraded>, host: &str, others_first: usize) -> Result<T, DialError> {
        upgraded.map_err(|failure| {
            let host = host.to_owned();
            match failure {
                NotUpgraded::Refused(status) => DialError::Refused { host, status },
                NotUpgraded::Broken(message) | NotUpgraded::Late(message) => {
                    self.known(&host, |known| known.passed_over = others_first);
                    DialError::Upgrade { host, message }
                }
            }
        })
    }

    /// TCP and TLS to the first address that answers.
    async fn reach(&self, gateway: &Gateway) -> Result<Reached, DialError> {
        let host = &format!("{}:{}", gateway.host, gateway.port);
        let name = gateway.host.trim_start_matches('[').trim_end_matches(']');
        let tls_error = |error| DialError::Tls { host: host.clone(), source: io::Error::other(error) };
        let server = gateway.tls.then(|| ServerName::try_from(name.to_owned())).transpose().map_err(tls_error)?;
        let passed_over = self.known(host, |known| known.passed_over);

        let found = timeout(LOOKUP, lookup_host((name, gateway.port))).await;
        let found = found
            .unwrap_or_else(|_| Err(late("the name was not resolved", LOOKUP)))
            .map_err(|source| DialError::Connect { host: host.clone(), source })?;
        let addresses = in_turn(found, passed_over);
        tracing::trace!(%host, ?addresses, "connecting");
        let raced = race(&addresses, |address| self.connect(address, server.clone(), host)).await;
        let (address, transport) = raced.map_err(|failures| {
            // So that those not reached yet come first next time.
            self.known(host, |known| known.passed_over = passed_over.wrapping_add(failures.len()));
            all_failed(host, failures)
        })?;
        let tried = addresses.iter().take_while(|tried| **tried != address).count() + 1;
        Ok(Reached { address, transport, others_first: passed_over.wrapping_add(tried) })
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
        let socket = Socket::new(tcp);
        let Some(server) = server else { return Ok(Transport::plain(socket)) };
        let tls = self.tls.connect_with(server, socket, |connection| connection.set_buffer_limit(Some(TLS_BUFFER)));
        let tls = timeout_at(until, tls).await.unwrap_or_else(|_| Err(late("no answer", PER_ADDRESS)));
        tls.map(Transport::tls).map_err(|source| DialError::Tls { host: host.to_owned(), source })
    }
}

/// Why there is no websocket on a connection.
enum NotUpgraded {
    /// The gateway answered with an HTTP status.
    Refused(u16),
    /// The connection ended, or what came was no answer.
    Broken(String),
    /// Nothing came.
    Late(String),
}

/// Asks for a websocket on a connection.
async fn upgrade(
    request: Request<()>,
    address: SocketAddr,
    transport: Transport,
) -> Result<WebSocketStream<Transport>, NotUpgraded> {
    let upgrade = client_async_with_config(request, transport, Some(websocket_config()));
    Err(match timeout(UPGRADE, upgrade).await {
        Ok(Ok((websocket, _))) => {
            // Nothing is lost: the transport gives out what came behind the answer once it is asked for it.
            let transport = websocket.into_inner();
            return Ok(WebSocketStream::from_raw_socket(transport, Role::Client, Some(websocket_config())).await);
        }
        Ok(Err(tungstenite::Error::Http(response))) => NotUpgraded::Refused(response.status().as_u16()),
        Ok(Err(error)) => NotUpgraded::Broken(error.to_string()),
        Err(_) => NotUpgraded::Late(format!("{address}: {}", late("no answer", UPGRADE))),
    })
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
mod tests;
