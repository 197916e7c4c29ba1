//! Opens the websocket: TCP, TLS, the signed upgrade and its fallbacks (`proto-notes/websocket.md#signature`).

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode, header};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, handshake::client::generate_key, protocol::WebSocketConfig},
};

use super::{ControlError, ControlPlane, QueryForm, StreamUrl, transport::Transport};

/// Bytes of TLS records that may wait to be written: the default of 64 KiB makes short writes of what the websocket
/// hands over, and each costs a move of the rest.
const TLS_BUFFER: usize = 256 << 10;

/// How long one address of the gateway may take to answer.
const PER_ADDRESS: Duration = Duration::from_secs(5);

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

/// How an upgrade is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Authentication {
    Signed(QueryForm),
    Unsigned,
}

/// An open websocket and how the gateway let us in.
pub(super) struct Dialled {
    pub(super) websocket: WebSocketStream<Transport>,
    /// A signed upgrade was refused and the same without a signature was not.
    pub(super) fell_back_to_unsigned: bool,
}

/// Opens websockets. Trusted roots are read once; what a gateway accepts is remembered.
pub struct Dialer {
    tls: TlsConnector,
    accepted: Mutex<HashMap<String, Authentication>>,
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
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), accepted: Mutex::default() })
    }

    /// Opens a websocket. A 403 is tried again with the other reading of `+` in the query if there is one, then without
    /// a signature; presigned URLs carry their own and are tried once.
    pub(super) async fn dial(&self, control: &dyn ControlPlane, url: &StreamUrl) -> Result<Dialled, DialError> {
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
                        self.remember(&host, authentication);
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

    fn remember(&self, host: &str, authentication: Authentication) {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.insert(host.to_owned(), authentication);
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
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remembered) = accepted.get(host)
            && let Some(place) = attempts.iter().position(|attempt| attempt == remembered)
        {
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
        let transport = self.connect(url, host).await?;
        match client_async_with_config(request, transport, Some(websocket_config())).await {
            Ok((websocket, _)) => Ok(websocket),
            Err(tungstenite::Error::Http(response)) => {
                Err(DialError::Refused { host: host.to_owned(), status: response.status().as_u16() })
            }
            Err(error) => Err(DialError::Upgrade { host: host.to_owned(), message: error.to_string() }),
        }
    }

    async fn connect(&self, url: &StreamUrl, host: &str) -> Result<Transport, DialError> {
        let name = url.host().trim_start_matches('[').trim_end_matches(']');
        let connect_error = |source| DialError::Connect { host: host.to_owned(), source };
        let tcp = connect_to_any(name, url.port()).await.map_err(connect_error)?;
        // Without it a small message waits for the acknowledgement of the one before: 40 ms in the handshake.
        tcp.set_nodelay(true).map_err(connect_error)?;
        if !url.is_tls() {
            return Ok(Transport::Plain(tcp));
        }
        let tls_error = |source| DialError::Tls { host: host.to_owned(), source };
        let server = ServerName::try_from(name.to_owned()).map_err(|error| tls_error(io::Error::other(error)))?;
        let tls = self.tls.connect_with(server, tcp, |connection| connection.set_buffer_limit(Some(TLS_BUFFER)));
        Ok(Transport::Tls(Box::new(tls.await.map_err(tls_error)?)))
    }
}

/// Tries the addresses of a name one after another; one that does not answer does not use up all the time there is.
async fn connect_to_any(name: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = None;
    for address in lookup_host((name, port)).await? {
        match timeout(PER_ADDRESS, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => failure = Some(error),
            Err(_) => failure = Some(io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer"))),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
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
