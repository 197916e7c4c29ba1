//! The one port of the emulator: API calls, websocket upgrades, and the control path.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};
use tokio_util::sync::CancellationToken;

use super::{
    FailureKind, Operation, UpgradePolicy,
    api::{self, ApiRequest, MAX_BODY},
    conn::Conn,
    control, gateway,
    network::{Beginning, Valve, Weather},
    service::Service,
    sigv4::{Plus, SignedRequest},
    sso::IdentityCenter,
    sts,
};

const CHANNEL_PATH: &str = "/v1/data-channel/";
/// Clients that are served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take for a request line with its headers, and for a TLS handshake.
const HEADER_LIMIT: Duration = Duration::from_secs(30);

/// What every connection needs.
pub(super) struct Server {
    pub(super) service: Arc<Service>,
    pub(super) identity_center: IdentityCenter,
    pub(super) tls: Option<TlsAcceptor>,
    /// Host and port that StreamUrls name when a request does not say how it reached us.
    pub(super) authority: String,
}

/// Accepts connections until cancelled.
pub(super) async fn run(server: Arc<Server>, listener: TcpListener, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let tcp = match listener.accept().await {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let (server, stop) = (Arc::clone(&server), stop.clone());
            tokio::spawn(async move {
                let _permit = permit;
                if let Some(Err(error)) = stop.run_until_cancelled(serve(server, tcp)).await {
                    tracing::debug!(%error, "connection");
                }
            });
        }
    };
    stop.run_until_cancelled(accepting).await;
}

async fn serve(server: Arc<Server>, tcp: TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?; // without it the handshake of a session takes 40 ms longer
    let mut socket = server.service.network().plug(tcp);
    let valve = socket.valve();
    let beginning = tokio::time::timeout(HEADER_LIMIT, socket.beginning(control::PATH)).await;
    let beginning = beginning.map_err(|_| io::ErrorKind::TimedOut)??;
    valve.exempt(beginning == Beginning::Wanted);
    match valve.weather() {
        Weather::Fair => {}
        Weather::Cut => server.service.observe(|state| state.connections_refused += 1),
        Weather::Silent => server.service.observe(|state| state.connections_unanswered += 1),
    }
    socket.until_heard().await?;
    // Under TLS the control path is served without it too: an outage is told apart by the first bytes.
    let control_only = server.tls.is_some() && beginning != Beginning::Tls;
    let conn = match server.tls.as_ref().filter(|_| !control_only) {
        Some(tls) => {
            let accepted = tokio::time::timeout(HEADER_LIMIT, tls.accept(socket)).await;
            Conn::Tls(Box::new(accepted.map_err(|_| io::ErrorKind::TimedOut)??))
        }
        None => Conn::Plain(socket),
    };
    let service = service_fn(move |request| {
        let (server, valve) = (Arc::clone(&server), Arc::clone(&valve));
        async move { Ok::<_, std::convert::Infallible>(server.route(request, &valve, control_only).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(conn), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)
}

impl Server {
    async fn route(&self, request: Request<Incoming>, valve: &Valve, control_only: bool) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let control = path.starts_with(control::PATH);
        valve.exempt(control); // clients use connections again
        if control_only && !control {
            return refuse(StatusCode::BAD_REQUEST, "without TLS only the control path is served");
        }
        if let Some(id) = path.strip_prefix(CHANNEL_PATH) {
            return self.upgrade(id, request);
        }
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broken");
        };
        let body = body.to_bytes();
        if let Some(path) = path.strip_prefix(control::PATH) {
            return control::answer(&self.service, &parts.method, path, &body);
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", self.authority_of(&parts.headers));
        if let Some(answer) = self.identity_center.answer(&self.service, &parts, &body, &base) {
            return answer;
        }
        if parts.method != Method::POST || path != "/" {
            return refuse(StatusCode::NOT_FOUND, "the emulator serves the APIs of SSM and STS on POST /");
        }
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        let stream_base = self.service.config().stream_base.clone();
        let stream_base = stream_base.unwrap_or_else(|| format!("{scheme}://{}", self.authority_of(&parts.headers)));
        let request = ApiRequest {
            path: &path,
            query: parts.uri.query().unwrap_or_default(),
            headers: &parts.headers,
            body: &body,
            stream_base: &stream_base,
        };
        if sts::is_query(&parts.headers) {
            return sts::answer(&self.service, &request);
        }
        api::answer(&self.service, &request)
    }

    /// The name by which the client knows us: StreamUrls must have the same host.
    fn authority_of(&self, headers: &HeaderMap) -> String {
        let plain = |host: &&str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(plain);
        host.filter(|host| !host.is_empty()).unwrap_or(&self.authority).to_owned()
    }

    fn upgrade(&self, id: &str, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        let accepted = self.check_upgrade(id, &request);
        let cell = query_value(request.uri().query().unwrap_or_default(), "cell-number").to_owned();
        let accept = match accepted {
            Ok(accept) => accept,
            Err((status, why)) => {
                self.service.observe(|state| state.upgrades_refused += 1);
                tracing::info!(session = id, why, "upgrade refused");
                return refuse(status, &why);
            }
        };
        self.service.observe(|state| state.upgrades_accepted += 1);
        let (service, session) = (Arc::clone(&self.service), decode_path(id));
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            // Tests close sockets at any moment: that an upgrade does not complete is nobody's fault.
            let Ok(upgraded) = upgrade.await else { return };
            let Ok(parts) = upgraded.downcast::<TokioIo<Conn>>() else { return };
            let websocket = WebSocketStream::from_partially_read(
                parts.io.into_inner(),
                parts.read_buf.into(),
                Role::Server,
                Some(gateway::websocket_config()),
            );
            gateway::serve(service, websocket.await, session, cell).await;
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            .header(header::SEC_WEBSOCKET_ACCEPT, accept)
            .body(Full::default());
        response.unwrap_or_else(|_| refuse(StatusCode::INTERNAL_SERVER_ERROR, ""))
    }

    /// The value of `Sec-WebSocket-Accept`, or why not.
    fn check_upgrade(&self, id: &str, request: &Request<Incoming>) -> Result<String, (StatusCode, String)> {
        let headers = request.headers();
        let has = |name, wanted: &str| {
            let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            lists.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(wanted))
        };
        let key = headers.get(header::SEC_WEBSOCKET_KEY);
        let websocket = request.method() == Method::GET
            && has(header::UPGRADE, "websocket")
            && has(header::CONNECTION, "upgrade")
            && has(header::SEC_WEBSOCKET_VERSION, "13");
        let Some(key) = key.filter(|_| websocket) else {
            return Err((StatusCode::BAD_REQUEST, "not a websocket upgrade".into()));
        };
        if let Some(kind) = self.service.take_failure(Operation::OpenDataChannel, |_| true) {
            let status = match kind {
                FailureKind::Throttled => StatusCode::TOO_MANY_REQUESTS,
                FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
                FailureKind::Unavailable | FailureKind::UnavailableEmpty => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::FORBIDDEN,
            };
            return Err((status, "a failure on order".into()));
        }
        self.check_signature(request).map_err(|why| (StatusCode::FORBIDDEN, why))?;
        if !self.service.is_live(&decode_path(id)) {
            return Err((StatusCode::NOT_FOUND, "no such session".into()));
        }
        Ok(derive_accept_key(key.as_bytes()))
    }

    fn check_signature(&self, request: &Request<Incoming>) -> Result<(), String> {
        let config = self.service.config();
        let signed = request.headers().contains_key(header::AUTHORIZATION);
        let forms: &[Plus] = match (config.upgrade, signed) {
            (UpgradePolicy::Unsigned, true) => return Err("a signature is not accepted here".into()),
            (UpgradePolicy::Unsigned | UpgradePolicy::Any, false) => return Ok(()),
            (UpgradePolicy::Signed, _) => &[Plus::Space],
            (UpgradePolicy::SignedLiteralPlus, _) => &[Plus::Literal],
            (UpgradePolicy::Any, true) => &[Plus::Space, Plus::Literal],
        };
        let target = SignedRequest {
            method: "GET",
            path: request.uri().path(),
            query: request.uri().query().unwrap_or_default(),
            headers: request.headers(),
            body: b"",
        };
        let mut result = Ok(());
        for plus in forms {
            let caller = self.service.authenticate(&target, "ssmmessages", *plus);
            result = caller.map(drop).map_err(|rejection| rejection.to_string());
            if result.is_ok() {
                break;
            }
        }
        result?;
        if config.expired_credentials {
            return Err("The security token included in the request is expired".into());
        }
        if config.denies(Operation::OpenDataChannel) {
            return Err("not authorized to perform: ssmmessages:OpenDataChannel".into());
        }
        Ok(())
    }
}

/// The raw value of a query parameter, or nothing.
fn query_value<'a>(query: &'a str, name: &str) -> &'a str {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
}

/// A session id in a path; clients may encode its `@` and `+`.
fn decode_path(id: &str) -> String {
    id.replace("%40", "@").replace("%2B", "+").replace("%2C", ",").replace("%3D", "=")
}

/// An answer in words; with the shape of an AWS error, so that clients can show it.
pub(super) fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(serde_json::json!({"message": why}).to_string().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_raw() {
        let query = "role=publish_subscribe&cell-number=AA+b/c==";
        assert_eq!(query_value(query, "cell-number"), "AA+b/c==");
        assert_eq!(query_value(query, "cell"), "");
    }
}
