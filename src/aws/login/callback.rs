//! The listener on loopback that a login page sends the browser back to (RFC 8252, 7.3).
//!
//! Browsers ask for more than they were sent for (icons, connections that are never used), and anything on this machine
//! can connect. So connections are served side by side and each for a while only, requests are bounded, and what does
//! not carry this login's state ends nothing: an error without any state is kept, to be told if nothing better comes.

use std::{
    convert::Infallible,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use url::form_urlencoded;

use super::secret::Secret;

const PATH: &str = "/oauth/callback";

/// Connections that are served at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;

/// How long one connection is served: browsers open some that they never use.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// Largest head of a request, bytes, give or take a read. Codes are a few KiB long.
const REQUEST_MAX: usize = 32 << 10;

/// A listener for one login.
pub(super) struct Callback {
    listener: TcpListener,
    port: u16,
    stateless: Stateless,
}

/// The last error that named no state, so that anybody may have sent it.
type Stateless = Arc<Mutex<Option<PageError>>>;

/// What the page says.
pub(super) enum Answer {
    Code(Secret),
    Error(PageError),
}

/// What the page says went wrong, as in RFC 6749, 4.1.2.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageError {
    pub(super) error: String,
    pub(super) description: String,
}

/// What a request says.
enum Said {
    /// It carries the state of this login.
    Ours(Answer),
    /// It carries none: perhaps of a server that does not know it.
    Stateless(PageError),
    /// Nothing of this login.
    Nothing,
}

impl Callback {
    /// The address as clients register it: any port of it may be used.
    pub(super) const REGISTERED: &str = "http://127.0.0.1/oauth/callback";

    /// Listens on a free port of 127.0.0.1 and nowhere else.
    pub(super) async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port, stateless: Stateless::default() })
    }

    /// The address with its port.
    pub(super) fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}{PATH}", self.port)
    }

    /// The error that came without a state, if one did: nobody knows from whom.
    pub(super) fn stateless(&self) -> Option<PageError> {
        self.stateless.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the answer that carries `state`. By then the browser has its page.
    pub(super) async fn answer(&self, state: &str) -> io::Result<Answer> {
        let state: Arc<str> = state.into();
        let mut serving = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if serving.len() < CONNECTIONS_MAX => match accepted {
                    Ok((socket, _)) => {
                        drop(serving.spawn(serve(socket, Arc::clone(&state), Arc::clone(&self.stateless))));
                    }
                    // Gone before it was accepted.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => return Err(error),
                },
                Some(served) = serving.join_next() => if let Ok(Some(answer)) = served {
                    return Ok(answer);
                },
            }
        }
    }
}

/// One connection, one request.
async fn serve(socket: TcpStream, state: Arc<str>, stateless: Stateless) -> Option<Answer> {
    let answer = Arc::new(Mutex::new(None));
    let service = {
        let answer = Arc::clone(&answer);
        service_fn(move |request: Request<Incoming>| {
            let (page, said) = reply(request.method(), request.uri().path(), request.uri().query(), &state);
            match said {
                Said::Ours(ours) => *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours),
                Said::Stateless(error) => *stateless.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
                Said::Nothing => {}
            }
            async move { Ok::<_, Infallible>(page) }
        })
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_LIMIT)
        .max_buf_size(REQUEST_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service);
    // Whatever became of the connection, what was read is read.
    match timeout(CONNECTION_LIMIT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => tracing::debug!("a connection to the login's listener did not end well"),
    }
    answer.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The page for the browser, and what a request says.
fn reply(method: &Method, path: &str, query: Option<&str>, state: &str) -> (Response<Full<Bytes>>, Said) {
    if path != PATH {
        return (page(StatusCode::NOT_FOUND, "There is nothing here."), Said::Nothing);
    }
    if method != Method::GET {
        return (page(StatusCode::METHOD_NOT_ALLOWED, "There is nothing here."), Said::Nothing);
    }
    let (mut code, mut error, mut description, mut theirs) = (None, None, String::new(), None);
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "code" => code = Some(Secret::new(value)),
            "error" => error = Some(value.into_owned()),
            "error_description" => description = value.into_owned(),
            "state" => theirs = Some(value.into_owned()),
            _ => {}
        }
    }
    let is_ours = |theirs: &String| verify_slices_are_equal(theirs.as_bytes(), state.as_bytes()).is_ok();
    match (code, error) {
        (_, Some(error)) if theirs.as_ref().is_some_and(is_ours) => {
            let said = "The login was not completed. The terminal says more; you can close this page.";
            (page(StatusCode::OK, said), Said::Ours(Answer::Error(PageError { error, description })))
        }
        // Where a server does not know the state, it cannot repeat it. But then it may be anybody.
        (_, Some(error)) if theirs.is_none() => {
            tracing::warn!("the login page reports an error, but not of which login: still waiting");
            let said =
                "The login was not completed. ssmfwd still waits: open the address that the terminal shows again.";
            (page(StatusCode::OK, said), Said::Stateless(PageError { error, description }))
        }
        (Some(code), None) if theirs.as_ref().is_some_and(is_ours) => {
            let said = "ssmfwd has what it needs. You can close this page and go back to the terminal.";
            (page(StatusCode::OK, said), Said::Ours(Answer::Code(code)))
        }
        _ => {
            tracing::warn!("an answer that belongs to another login was ignored");
            let said = "This answer belongs to another login. Open the address that the terminal shows.";
            (page(StatusCode::BAD_REQUEST, said), Said::Nothing)
        }
    }
}

/// A page of ours. Nothing of the request is in it, and nothing of it goes anywhere.
fn page(status: StatusCode, said: &'static str) -> Response<Full<Bytes>> {
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>ssmfwd</title></head>\
         <body><h1>ssmfwd</h1><p>{said}</p></body></html>\n"
    );
    let mut response = Response::new(Full::new(html.into()));
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (header::CONNECTION, "close"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(port: u16, request: &str) -> String {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("a listener");
        socket.write_all(request.as_bytes()).await.expect("it is open");
        let mut answer = Vec::new();
        // Refused requests may end with a reset.
        socket.read_to_end(&mut answer).await.ok();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    }

    #[tokio::test]
    async fn only_the_answer_with_the_state_counts() {
        let callback = Callback::bind().await.expect("a free port");
        assert_eq!(callback.redirect_uri(), format!("http://127.0.0.1:{}/oauth/callback", callback.port));
        assert!(callback.listener.local_addr().expect("an address").ip().is_loopback());
        let port = callback.port;
        let answer = tokio::spawn(async move { callback.answer("right").await });

        // A connection that is never used must not hold anything up.
        let _idle = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("a listener");
        let long = format!("/oauth/callback?code=c&state=right&x={}", "x".repeat(4 * REQUEST_MAX));
        for (request, status) in [
            (get("/favicon.ico"), "404"),
            (get("/"), "404"),
            (get("/oauth/callback"), "400"),
            (get("/oauth/callback?code=c"), "400"),
            (get("/oauth/callback?code=c&state=wrong"), "400"),
            (get("/oauth/callback?error=access_denied&state=wrong"), "400"),
            (get("/oauth/callback?state=right"), "400"),
            (get("/oauth/callback?code=c&state=right").replace("GET", "POST"), "405"),
            (get("/oauth/callback?code=c&state=right").replace("GET", "DELETE"), "405"),
            (get(&long), "431"),
            ("nonsense\r\n\r\n".to_owned(), "400"),
            ("\0\u{1}\u{2}".to_owned(), ""),
        ] {
            if status.is_empty() {
                let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("a listener");
                socket.write_all(request.as_bytes()).await.expect("it is open");
                continue;
            }
            let answer = ask(port, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {answer}", &request[..20]);
        }
        assert!(!answer.is_finished());
        let page = ask(port, &get("/oauth/callback?code=a%2Bb%20c&state=right")).await;
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("close this page"), "{page}");
        assert!(!page.contains("a+b"), "{page}");
        let Ok(Answer::Code(code)) = answer.await.expect("no panic") else { panic!("no code") };
        assert_eq!(code.expose(), "a+b c");
    }

    #[tokio::test]
    async fn an_error_is_an_answer_if_it_carries_the_state() {
        let callback = Arc::new(Callback::bind().await.expect("a free port"));
        let port = callback.port;
        let waiting = Arc::clone(&callback);
        let answer = tokio::spawn(async move { waiting.answer("right").await });
        for description in ["", "&error_description=Some+reason"] {
            let page = ask(port, &get(&format!("/oauth/callback?error=server_error{description}"))).await;
            assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("still waits"), "{page}");
        }
        assert!(!answer.is_finished());
        let error = |error: &str, description: &str| PageError { error: error.into(), description: description.into() };
        assert_eq!(callback.stateless(), Some(error("server_error", "Some reason")));

        let page = ask(port, &get("/oauth/callback?error=access_denied&state=right")).await;
        assert!(page.contains("not completed") && !page.contains("still waits"), "{page}");
        let Ok(Answer::Error(said)) = answer.await.expect("no panic") else { panic!("no error") };
        assert_eq!(said, error("access_denied", ""));
    }
}
