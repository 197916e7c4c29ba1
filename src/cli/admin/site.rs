//! What is answered to which request. All of it can be asked without changing anything.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Body;

use super::{
    exposition::Exposition,
    metrics,
    page::PAGE,
    snapshots::Snapshots,
    status,
    visitor::{Hosts, Refusal},
};
use crate::cli::{board::Snapshot, console::printable};

const PLAIN: &str = "text/plain; charset=utf-8";
/// Of everything but the page: nothing that a browser could run or load.
const NOTHING: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Of every answer.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// The endpoint without its sockets.
pub(super) struct Site {
    hosts: Hosts,
    snapshots: Snapshots,
}

type Answer = Response<Full<Bytes>>;

impl Site {
    pub(super) fn new(hosts: Hosts, snapshots: Snapshots) -> Self {
        Self { hosts, snapshots }
    }

    /// The answer to a request, whose body is not read.
    pub(super) async fn answer<B: Body>(&self, request: Request<B>) -> Answer {
        let has_body = !request.body().is_end_stream();
        let (request, _) = request.into_parts();
        let mut answer = match self.hosts.admit(&request) {
            Err(refusal @ Refusal::Host) => plain(StatusCode::MISDIRECTED_REQUEST, format!("{refusal}\n")),
            Err(refusal @ Refusal::CrossSite) => plain(StatusCode::FORBIDDEN, format!("{refusal}\n")),
            Ok(()) => self.of_path(&request.method, request.uri.path(), has_body).await,
        };
        if has_body {
            // What follows on this connection is the body.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn of_path(&self, method: &Method, path: &str, has_body: bool) -> Answer {
        if !matches!(path, "/" | "/healthz" | "/readyz" | "/metrics" | "/status") {
            return plain(StatusCode::NOT_FOUND, "there are /, /healthz, /readyz, /metrics and /status\n");
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        if has_body {
            return plain(StatusCode::BAD_REQUEST, "nothing here takes a body\n");
        }
        match path {
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => readiness(&self.snapshots.next().await),
            "/metrics" => {
                respond(StatusCode::OK, Exposition::CONTENT_TYPE, metrics::render(&self.snapshots.next().await))
            }
            "/status" => respond(StatusCode::OK, "application/json", status::render(&self.snapshots.next().await)),
            _ => {
                let mut answer = respond(StatusCode::OK, "text/html; charset=utf-8", &*PAGE.html);
                answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, PAGE.policy.clone());
                answer
            }
        }
    }
}

/// 503 names every forward that is not ready. No destination is asked: databases count connections that say nothing.
fn readiness(snapshot: &Snapshot) -> Answer {
    if snapshot.is_ready() {
        return plain(StatusCode::OK, "ok\n");
    }
    if snapshot.forwards.is_empty() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "no forward is open\n");
    }
    let mut lines = String::new();
    for forward in snapshot.forwards.iter().filter(|forward| !forward.status.state.is_ready()) {
        // A String takes everything.
        writeln!(lines, "{}: {}", printable(&forward.name), forward.status.state.name()).ok();
    }
    plain(StatusCode::SERVICE_UNAVAILABLE, lines)
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    respond(status, PLAIN, text)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(NOTHING));
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};

    use super::*;
    use crate::{cli::admin::samples, forward::ForwardState};

    fn site() -> Site {
        Site::new(Hosts::Tcp { public: false, name: None }, Snapshots::new(samples::snapshot))
    }

    async fn body(answer: Answer) -> String {
        let bytes = answer.into_body().collect().await.expect("a body in memory").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    async fn ask(method: &str, path: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        site().answer(request.body(Empty::<Bytes>::new()).expect("a request")).await
    }

    #[tokio::test]
    async fn every_answer_is_of_its_type_and_guarded() {
        for (path, status, content_type, start) in [
            ("/healthz", 200, PLAIN, "ok\n"),
            ("/readyz", 503, PLAIN, "cache / \"\\</script>: reconnecting\n"),
            ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8", "# HELP ssmfwd_build_info "),
            ("/metrics?name=x", 200, "text/plain; version=0.0.4; charset=utf-8", "# HELP ssmfwd_build_info "),
            ("/status", 200, "application/json", "{\"version\":"),
            ("/", 200, "text/html; charset=utf-8", "<!DOCTYPE html>"),
            ("/Status", 404, PLAIN, "there are"),
            ("/status/", 404, PLAIN, "there are"),
            ("//", 404, PLAIN, "there are"),
            ("/../etc/passwd", 404, PLAIN, "there are"),
            ("/favicon.ico", 404, PLAIN, "there are"),
        ] {
            let answer = ask("GET", path).await;
            assert_eq!(answer.status(), status, "{path}");
            let headers = answer.headers().clone();
            assert_eq!(headers["content-type"], content_type, "{path}");
            for (name, value) in [("cache-control", "no-store"), ("x-content-type-options", "nosniff")] {
                assert_eq!(headers[name], value, "{path}");
            }
            let policy = headers["content-security-policy"].to_str().expect("text");
            assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
            assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control")), "{headers:?}");
            let body = body(answer).await;
            assert!(body.starts_with(start), "{path}: {body}");
        }
    }

    #[tokio::test]
    async fn nothing_but_reading_is_allowed() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND"] {
            let answer = ask(method, "/status").await;
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["allow"]),
                (405, &"GET, HEAD".parse().expect("text"))
            );
        }
        assert_eq!(ask("HEAD", "/status").await.status(), 200);
        let request = Request::get("/status").header("host", "localhost").body(Full::new(Bytes::from_static(b"x")));
        let answer = site().answer(request.expect("a request")).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()["connection"]), (400, &"close".parse().expect("text")));
    }

    #[tokio::test]
    async fn refusals_say_why() {
        let ask = async |headers: &[(&str, &str)]| {
            let request =
                headers.iter().fold(Request::get("/status"), |request, (name, value)| request.header(*name, *value));
            let answer = site().answer(request.body(Empty::<Bytes>::new()).expect("a request")).await;
            (answer.status().as_u16(), body(answer).await)
        };
        let (status, text) = ask(&[("host", "evil.example")]).await;
        assert!(status == 421 && text.contains("DNS rebinding") && !text.contains("db.internal"), "{status} {text}");
        let (status, text) = ask(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]).await;
        assert!(status == 403 && text.contains("another site") && !text.contains("db.internal"), "{status} {text}");
    }

    #[tokio::test]
    async fn ready_is_when_every_forward_is() {
        let mut snapshot = samples::snapshot();
        let ready = async |snapshot: &Snapshot| {
            let answer = readiness(snapshot);
            (answer.status().as_u16(), body(answer).await)
        };
        for state in [ForwardState::Ready, ForwardState::Dormant, ForwardState::Waking] {
            snapshot.forwards[1].status.state = state;
            assert_eq!(ready(&snapshot).await, (200, "ok\n".into()));
        }
        snapshot.forwards[0].status.state = ForwardState::Starting;
        snapshot.forwards[1].status.state = ForwardState::Stopping;
        assert_eq!(ready(&snapshot).await, (503, "db: starting\ncache / \"\\</script>: stopping\n".into()));
        snapshot.forwards.clear();
        assert_eq!(ready(&snapshot).await, (503, "no forward is open\n".into()));
    }
}
