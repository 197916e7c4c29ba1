//! The demonstration's destination: a small HTTP server, as somebody's private host might have.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Largest body that `GET /bytes/N` makes.
const MOST_BYTES: usize = 64 << 20;

/// Starts the server on a free port of loopback and returns its address. It lives as long as the runtime.
pub(super) async fn start() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                // A client that goes away is none of the server's business.
                http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer)).await.ok();
            });
        }
    });
    Ok(address)
}

/// `GET /`: a greeting. `GET /bytes/N`: N bytes. `POST /`: says how many bytes it got.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if request.method() == Method::POST {
        let mut body = request.into_body();
        let mut received = 0;
        while let Some(Ok(frame)) = body.frame().await {
            received += frame.data_ref().map_or(0, Bytes::len);
        }
        return Ok(reply(StatusCode::OK, format!("{received}\n")));
    }
    if path == "/" {
        return Ok(reply(StatusCode::OK, "Hello from a private host behind SSM Session Manager.\n"));
    }
    let count = path.strip_prefix("/bytes/").and_then(|count| count.parse().ok());
    Ok(match count.filter(|count| *count <= MOST_BYTES) {
        Some(count) => reply(StatusCode::OK, vec![b'.'; count]),
        None => reply(StatusCode::NOT_FOUND, "try /, /bytes/100000 or a POST\n"),
    })
}

fn reply(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
