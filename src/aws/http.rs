//! The SDK's HTTP client, on our own connections: the API goes the way of the websocket, through the same proxies, with
//! the same certificates, to addresses that are raced in the same manner, and its failures are told in the same words.
//!
//! The SDK's own client would read the same variables, but it forgets the status with which a proxy refuses, takes
//! certificates from the machine only, and reads these a second time. What ours lacks is a pool: each call has a
//! connection of its own, since a call an hour gains nothing from one that is kept.

use std::{io, sync::Arc, time::Duration};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        connection::{CaptureSmithyConnection, ConnectionMetadata},
        connector_metadata::ConnectorMetadata,
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
            SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::{body::SdkBody, retry::ErrorKind};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header, uri::PathAndQuery};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::session::{DialError, Outbound, Proxy, Watch};

/// Bytes of an answer's head.
const HEAD_LIMIT: usize = 64 << 10;

/// How long connecting may take at least where a proxy is used: it looks up and connects too, and TLS comes on top.
/// Three tries of it fit into a call, which can then say that it was the proxy.
const THROUGH_A_PROXY: Duration = Duration::from_secs(8);

/// A client whose connections go this way.
pub(super) fn client(outbound: Arc<Outbound>) -> SharedHttpClient {
    SharedHttpClient::new(Client { outbound })
}

#[derive(Debug)]
struct Client {
    outbound: Arc<Outbound>,
}

impl HttpClient for Client {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            outbound: Arc::clone(&self.outbound),
            connect_timeout: settings.connect_timeout(),
            read_timeout: settings.read_timeout(),
        })
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        Some(ConnectorMetadata::new("hyper", Some("1.x".into())))
    }
}

#[derive(Debug, Clone)]
struct Connector {
    outbound: Arc<Outbound>,
    connect_timeout: Option<Duration>,
    read_timeout: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            this.exchange(request).await
        })
    }
}

/// Where a request goes.
struct Place {
    tls: bool,
    host: String,
    port: u16,
}

impl Place {
    fn of(uri: &Uri) -> Option<Self> {
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?.to_owned();
        Some(Self { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
    }

    /// As the `Host` header has it, and the signature: without the usual port.
    fn host_header(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

impl Connector {
    async fn exchange(&self, mut request: Request<SdkBody>) -> Result<HttpResponse, ConnectorError> {
        // The SDK wants to be told of a connection that it can give up after a failure; without one it complains.
        if let Some(capture) = request.extensions().get::<CaptureSmithyConnection>() {
            capture.set_connection_retriever(|| Some(used_once()));
        }
        let place = Place::of(request.uri());
        let place = place.ok_or_else(|| ConnectorError::user("the URL is not one of HTTP".into()))?;
        let proxy = self.outbound.proxies().of(place.tls, &place.host, place.port);
        let proxy = proxy.map_err(|error| ConnectorError::user(DialError::ProxySetting(error).into()))?;
        if !request.headers().contains_key(header::HOST) {
            let host = HeaderValue::from_str(&place.host_header());
            request.headers_mut().insert(header::HOST, host.map_err(|error| ConnectorError::user(error.into()))?);
        }
        // Only what is not encrypted is told to a proxy; the rest goes through a tunnel.
        let told = proxy.as_ref().filter(|_| !place.tls);
        address(&mut request, told);
        let authority = format!("{}:{}", place.host, place.port);
        let connecting = async {
            match told {
                Some(proxy) => {
                    let (reached, admission) = self.outbound.connect_to_proxy(proxy, &authority).await?;
                    Ok((reached, Some((proxy, admission))))
                }
                None => {
                    let reached = self.outbound.connect(place.tls, &place.host, place.port, Watch::default()).await?;
                    Ok((reached, None))
                }
            }
        };
        let limit = self.connect_timeout.map(|limit| if proxy.is_some() { limit.max(THROUGH_A_PROXY) } else { limit });
        let connected = match limit {
            Some(limit) => {
                timeout(limit, connecting).await.map_err(|_| no_connection(&place, proxy.as_ref(), limit))?
            }
            None => connecting.await,
        };
        let (reached, asked) = connected.map_err(dial_error)?;
        let io = TokioIo::new(reached.io);
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(HEAD_LIMIT).handshake(io).await.map_err(http_error)?;
        // Given up with this call; from the answer on it ends when that has been read, or nobody wants it any more.
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a connection of the API");
            }
        }));
        let answered = match self.read_timeout {
            Some(limit) => timeout(limit, sender.send_request(request))
                .await
                .map_err(|_| ConnectorError::timeout(in_time("no answer", limit).into()))?,
            None => sender.send_request(request).await,
        };
        let answer = answered.map_err(http_error)?;
        if let Some((proxy, admission)) = asked {
            let status = answer.status();
            if wants_authentication(status, answer.headers()) {
                let meaning = proxy.wants_authentication();
                admission.refused(status.as_u16(), meaning);
                let (proxy, meaning) = (proxy.to_string(), meaning.to_owned());
                let refused = DialError::ProxyRefused { proxy, host: authority, status: status.as_u16(), meaning };
                return Err(dial_error(refused));
            }
            if status.is_success() {
                admission.accepted();
            }
        }
        drop(driver.detach());
        let answer = answer.map(SdkBody::from_body_1_x);
        HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
    }
}

/// Writes the request's target as who gets it expects it (RFC 9112, section 3.2): the path for the far end, the whole
/// URL for a proxy.
fn address(request: &mut Request<SdkBody>, proxy: Option<&Proxy>) {
    match proxy {
        Some(proxy) => {
            if let Some(authorization) = proxy.authorization() {
                request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization.clone());
            }
        }
        None => {
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
        }
    }
}

/// Whether an answer is a proxy's, about user and password. For a wrong password tinyproxy has 401, which is elsewhere
/// the far end's.
fn wants_authentication(status: StatusCode, headers: &HeaderMap) -> bool {
    let is_tinyproxy = || headers.get(header::SERVER).is_some_and(|server| server.as_bytes().starts_with(b"tinyproxy"));
    status == StatusCode::PROXY_AUTHENTICATION_REQUIRED || (status == StatusCode::UNAUTHORIZED && is_tinyproxy())
}

/// A connection is for one call: nothing has to be done so that no other call gets it.
fn used_once() -> ConnectionMetadata {
    ConnectionMetadata::builder().proxied(false).poison_fn(|| ()).build()
}

fn in_time(what: &str, limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {} s", limit.as_secs_f64()))
}

fn no_connection(place: &Place, proxy: Option<&Proxy>, limit: Duration) -> ConnectorError {
    let through = proxy.map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
    ConnectorError::timeout(in_time(&format!("no connection to {}:{}{through}", place.host, place.port), limit).into())
}

/// What is worth another try: what the SDK's own client would try again, but not what a proxy forbids.
fn dial_error(error: DialError) -> ConnectorError {
    match error {
        DialError::ProxySetting(_) | DialError::Trust(_) => ConnectorError::user(error.into()),
        error if error.is_refused_by_proxy() => ConnectorError::other(error.into(), None),
        error => ConnectorError::io(error.into()),
    }
}

fn http_error(error: hyper::Error) -> ConnectorError {
    let kind = (
        error.is_timeout(),
        error.is_user(),
        error.is_incomplete_message(),
        error.is_closed() || error.is_canceled() || is_io(&error),
    );
    let error = BoxError::from(error);
    match kind {
        (true, ..) => ConnectorError::timeout(error),
        (_, true, ..) => ConnectorError::user(error),
        (_, _, true, _) => ConnectorError::other(error, Some(ErrorKind::TransientError)),
        (_, _, _, true) => ConnectorError::io(error),
        _ => ConnectorError::other(error, None),
    }
}

fn is_io(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<io::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Proxies;

    #[test]
    fn places_are_those_of_http_urls() {
        for (url, place, header) in [
            (
                "https://ssm.eu-west-1.amazonaws.com/",
                ("ssm.eu-west-1.amazonaws.com", 443),
                "ssm.eu-west-1.amazonaws.com",
            ),
            ("https://h:443/", ("h", 443), "h"),
            ("https://h:80/", ("h", 80), "h:80"),
            ("http://h/x", ("h", 80), "h"),
            ("http://[::1]:8080/x?y", ("[::1]", 8080), "[::1]:8080"),
        ] {
            let found = Place::of(&url.parse().expect("a URI")).expect(url);
            assert_eq!(((&*found.host, found.port), &*found.host_header()), (place, header), "{url}");
        }
        for url in ["/path", "ftp://h/", "h:443"] {
            assert!(Place::of(&url.parse().expect("a URI")).is_none(), "{url}");
        }
    }

    #[test]
    fn only_what_is_surely_the_proxys_is_about_its_password() {
        for (status, server, proxys) in [
            (407, "", true),
            (401, "tinyproxy/1.11.1", true),
            (401, "Server", false),
            (401, "", false),
            (403, "tinyproxy/1.11.1", false),
            (200, "tinyproxy/1.11.1", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::SERVER, HeaderValue::from_static(server));
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(wants_authentication(status, &headers), proxys, "{status} {server}");
        }
    }

    #[test]
    fn a_proxy_gets_the_whole_url_and_the_far_end_the_path() {
        let proxies = Proxies::from_variables(|name| (name == "HTTP_PROXY").then(|| "http://me:pw@p:1".to_owned()));
        let proxy = proxies.of(false, "h", 80).expect("usable").expect("a proxy");
        for (url, told, target) in
            [("http://h:1/a?b", true, "http://h:1/a?b"), ("http://h:1/a?b", false, "/a?b"), ("https://h", false, "/")]
        {
            let mut request = Request::get(url).body(SdkBody::empty()).expect("a request");
            address(&mut request, told.then_some(&proxy));
            assert_eq!(request.uri().to_string(), target);
            let authorization = request.headers().get(header::PROXY_AUTHORIZATION);
            assert_eq!(authorization.is_some_and(|value| value == "Basic bWU6cHc="), told, "{url}");
            assert!(authorization.is_none_or(HeaderValue::is_sensitive));
        }
    }
}
