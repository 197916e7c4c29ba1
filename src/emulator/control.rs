//! The control path: what a test in another language uses where Rust has [`Emulator`](super::Emulator)'s methods.
//!
//! | request | does |
//! | --- | --- |
//! | `GET  /_emulator/state` | everything observable, as [`EmulatorState`](super::EmulatorState) |
//! | `GET  /_emulator/config` | the configuration, without credentials |
//! | `POST /_emulator/config` | changes the fields in the body, answers with the whole configuration |
//! | `POST /_emulator/actions` | an [`Action`](super::Action), such as `{"action": "bye"}`; with `"session"`, for that one only |

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use serde_json::{Value, json};

use super::{actions::ActionRequest, server::refuse, service::Service};

/// Where the control path starts.
pub(super) const PATH: &str = "/_emulator";

/// Answers one request; `path` is what follows [`PATH`].
pub(super) fn answer(service: &Arc<Service>, method: &Method, path: &str, body: &[u8]) -> Response<Full<Bytes>> {
    match (method, path) {
        (&Method::GET, "/state") => json_answer(&service.snapshot()),
        (&Method::GET, "/config") => json_answer(&*service.config()),
        (&Method::POST, "/config") => configure(service, body),
        (&Method::POST, "/actions") => act(service, body),
        _ => refuse(StatusCode::NOT_FOUND, "GET state, GET or POST config, POST actions"),
    }
}

fn configure(service: &Arc<Service>, body: &[u8]) -> Response<Full<Bytes>> {
    let patch: Value = match serde_json::from_slice(body) {
        Ok(patch) => patch,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let mut outcome = Ok(());
    service.configure(|config| match config.patched(&patch) {
        Ok(patched) => *config = patched,
        Err(error) => outcome = Err(error),
    });
    match outcome {
        Ok(()) => json_answer(&*service.config()),
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn act(service: &Arc<Service>, body: &[u8]) -> Response<Full<Bytes>> {
    match serde_json::from_slice::<ActionRequest>(body) {
        Ok(request) => {
            let (session, action) = request.into_parts();
            json_answer(&json!({"sessions": service.act(session.as_deref(), &action)}))
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn json_answer(body: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(body) {
        Ok(body) => {
            let mut response = Response::new(Full::new(body.into()));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
