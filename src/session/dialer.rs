//! Opens the websocket: the signed upgrade and its fallbacks (`proto-notes/websocket.md#signature`), on a connection
//! that `outbound` has made.

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
    time::{Instant, timeout},
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
    Ahead, BoxFuture, ControlError, ControlPlane, Outbound, QueryForm, StreamUrl, TrustError, UnusableProxy,
    outbound::{Path, Reached, late},
    transport::Transport,
};

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
    /// The gateway's name could not be resolved.
    #[error("cannot resolve the name of {host}")]
    Resolve {
        /// Host and port.
        host: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
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
    /// Nobody can be trusted.
    #[error(transparent)]
    Trust(TrustError),
    /// The environment names a proxy that cannot be used.
    #[error("the proxy cannot be used")]
    ProxySetting(#[source] UnusableProxy),
    /// No connection to the proxy.
    #[error("cannot connect to the proxy {proxy}")]
    ProxyConnect {
        /// The proxy, without user and password.
        proxy: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake with the proxy itself failed.
    #[error("TLS handshake with the proxy {proxy} failed")]
    ProxyTls {
        /// The proxy, without user and password.
        proxy: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The proxy does not let us through.
    #[error("the proxy {proxy} refused a tunnel to {host} with HTTP status {status}: {meaning}")]
    ProxyRefused {
        /// The proxy, without user and password.
        proxy: String,
        /// Host and port of the far end.
        host: String,
        /// The status of the answer; 407 is about authentication.
        status: u16,
        /// What that means, in words.
        meaning: String,
    },
    /// The proxy gave no answer to CONNECT, or not one of HTTP.
    #[error("the proxy {proxy} did not open a tunnel to {host}")]
    ProxyAnswer {
        /// The proxy, without user and password.
        proxy: String,
        /// Host and port of the far end.
        host: String,
        /// What came instead.
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

/// A step of opening a websocket that has succeeded. Steps may be taken ahead of the answer that says where to, and
/// those of an address that loses the race are told too. Where a proxy is used, the name and TCP are the proxy's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialStep {
    /// The name was resolved.
    Resolved {
        /// To so many addresses.
        addresses: usize,
    },
    /// TCP.
    Connected(SocketAddr),
    /// A proxy has opened a tunnel: which, without user and password.
    Tunnelled(String),
    /// TLS with the gateway.
    Secured,
    /// The gateway has accepted the upgrade.
    Upgraded {
        /// With a signature.
        signed: bool,
    },
}

/// Told each step and how long it took. Called where the dialling happens: must not block.
pub type DialObserver = Arc<dyn Fn(DialStep, Duration) + Send + Sync>;

/// Somebody who may want to know of steps.
#[derive(Clone, Copy, Default)]
pub(crate) struct Watch<'a>(Option<&'a DialObserver>);

impl Watch<'_> {
    pub(super) fn tell(self, step: DialStep, since: Instant) {
        if let Some(observer) = self.0 {
            observer(step, since.elapsed());
        }
    }
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

    /// Connects to where [`ControlPlane::gateway`] says; `None` if it says nothing, or that is to no avail. Dropping
    /// the future gives the attempt up.
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
            match self.outbound.connect(gateway.tls, &gateway.host, gateway.port, self.watch()).await {
                Ok(Reached { io, path }) => Some(Ahead { gateway, path, io }),
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

/// Opens websockets. What a gateway accepts is remembered.
pub struct Dialer {
    outbound: Arc<Outbound>,
    /// How each gateway let us in last.
    accepted: Mutex<HashMap<String, Authentication>>,
    observer: Option<DialObserver>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("outbound", &self.outbound).finish_non_exhaustive()
    }
}

impl Dialer {
    /// A dialer that goes the way which the environment says (`HTTPS_PROXY` and so on), and trusts the certificates of
    /// `AWS_CA_BUNDLE`, or the machine's roots (or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`). Reads them at once.
    ///
    /// # Errors
    /// When there is nobody to trust.
    pub fn new() -> io::Result<Self> {
        let mut outbound = Outbound::from_env();
        outbound.ready_now().map_err(io::Error::other)?;
        Ok(Self::over(Arc::new(outbound)))
    }

    /// A dialer that goes this way.
    #[must_use]
    pub fn over(outbound: Arc<Outbound>) -> Self {
        Self { outbound, accepted: Mutex::default(), observer: None }
    }

    /// The same, observed.
    #[must_use]
    pub fn observed(self, observer: DialObserver) -> Self {
        Self { observer: Some(observer), ..self }
    }

    fn watch(&self) -> Watch<'_> {
        Watch(self.observer.as_ref())
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
                        self.accepted().insert(host.to_ascii_lowercase(), authentication);
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

    fn accepted(&self) -> std::sync::MutexGuard<'_, HashMap<String, Authentication>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
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
        let accepted = self.accepted().get(&host.to_ascii_lowercase()).copied();
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
        let signed = request.headers().contains_key(header::AUTHORIZATION);
        if let Some(Ahead { path, io, .. }) = ahead {
            let begun = Instant::now();
            match upgrade(request.clone(), path.address, io).await {
                // It may have been closed because nothing came, with or without a word: no fault of the gateway's.
                Err(NotUpgraded::Broken(message)) => tracing::debug!(%host, message, "connected ahead in vain"),
                Err(NotUpgraded::Refused(408)) => tracing::debug!(%host, "connected ahead for too long"),
                upgraded => return self.upgraded(upgraded, host, &path, signed, begun),
            }
        }
        let Reached { io, path } = self.outbound.connect(url.is_tls(), url.host(), url.port(), self.watch()).await?;
        let begun = Instant::now();
        let upgraded = upgrade(request, path.address, io).await;
        self.upgraded(upgraded, host, &path, signed, begun)
    }

    /// What a failed upgrade means: others go first next time, unless the gateway has answered.
    fn upgraded<T>(
        &self,
        upgraded: Result<T, NotUpgraded>,
        host: &str,
        path: &Path,
        signed: bool,
        begun: Instant,
    ) -> Result<T, DialError> {
        if upgraded.is_ok() {
            self.watch().tell(DialStep::Upgraded { signed }, begun);
        }
        upgraded.map_err(|failure| {
            let host = host.to_owned();
            match failure {
                NotUpgraded::Refused(status) => DialError::Refused { host, status },
                NotUpgraded::Broken(message) | NotUpgraded::Late(message) => {
                    self.outbound.failed(path);
                    DialError::Upgrade { host, message }
                }
            }
        })
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

    /// Whether a proxy has decided against it: the same again would be refused again, and wrong passwords that are
    /// repeated lock accounts.
    #[must_use]
    pub fn is_refused_by_proxy(&self) -> bool {
        matches!(self, Self::ProxyRefused { status, .. } if *status < 500)
    }
}

#[cfg(test)]
mod tests;
