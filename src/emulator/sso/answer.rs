//! Answers of the two APIs, and how each spells an error.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::emulator::{FailureKind, Operation};

/// Which API refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    /// `{"error": "invalid_grant", "error_description": ...}`, as RFC 6749 has it.
    Oidc,
    /// `{"__type": ..., "message": ...}`.
    Portal,
    /// A page.
    Page,
}

/// An error.
#[derive(Debug)]
pub(super) struct Refusal {
    api: Api,
    status: StatusCode,
    pub(super) code: &'static str,
    /// The code in the words of RFC 6749.
    word: &'static str,
    pub(super) said: String,
}

impl Refusal {
    fn oidc(status: StatusCode, code: &'static str, word: &'static str, said: impl Into<String>) -> Self {
        Self { api: Api::Oidc, status, code, word, said: said.into() }
    }

    fn portal(status: StatusCode, code: &'static str, said: impl Into<String>) -> Self {
        Self { api: Api::Portal, status, code, word: "", said: said.into() }
    }

    pub(super) fn page(said: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::BAD_REQUEST, "InvalidRequestException");
        Self { api: Api::Page, status, code, word: "invalid_request", said: said.into() }
    }

    pub(super) fn invalid_request(said: impl Into<String>) -> Self {
        Self::oidc(StatusCode::BAD_REQUEST, "InvalidRequestException", "invalid_request", said)
    }

    pub(super) fn invalid_metadata(said: impl Into<String>) -> Self {
        Self::oidc(StatusCode::BAD_REQUEST, "InvalidClientMetadataException", "invalid_client_metadata", said)
    }

    pub(super) fn invalid_redirect(said: impl Into<String>) -> Self {
        Self::oidc(StatusCode::BAD_REQUEST, "InvalidRedirectUriException", "invalid_redirect_uri", said)
    }

    pub(super) fn invalid_scope() -> Self {
        Self::oidc(StatusCode::BAD_REQUEST, "InvalidScopeException", "invalid_scope", "Invalid scope requested")
    }

    pub(super) fn invalid_client(said: impl Into<String>) -> Self {
        Self::oidc(StatusCode::UNAUTHORIZED, "InvalidClientException", "invalid_client", said)
    }

    pub(super) fn unauthorized_client(said: impl Into<String>) -> Self {
        Self::oidc(StatusCode::BAD_REQUEST, "UnauthorizedClientException", "unauthorized_client", said)
    }

    pub(super) fn invalid_grant(said: impl Into<String>) -> Self {
        Self::oidc(StatusCode::BAD_REQUEST, "InvalidGrantException", "invalid_grant", said)
    }

    pub(super) fn unsupported_grant() -> Self {
        let said = "Grant type is not supported";
        Self::oidc(StatusCode::BAD_REQUEST, "UnsupportedGrantTypeException", "unsupported_grant_type", said)
    }

    pub(super) fn pending() -> Self {
        Self::oidc(StatusCode::BAD_REQUEST, "AuthorizationPendingException", "authorization_pending", "")
    }

    pub(super) fn slow_down() -> Self {
        Self::oidc(StatusCode::BAD_REQUEST, "SlowDownException", "slow_down", "")
    }

    pub(super) fn expired() -> Self {
        Self::oidc(StatusCode::BAD_REQUEST, "ExpiredTokenException", "expired_token", "Device code has expired")
    }

    pub(super) fn denied() -> Self {
        let said = "The authorization request was denied";
        Self::oidc(StatusCode::BAD_REQUEST, "AccessDeniedException", "access_denied", said)
    }

    pub(super) fn no_such_token() -> Self {
        Self::portal(StatusCode::UNAUTHORIZED, "UnauthorizedException", "Session token not found or invalid")
    }

    pub(super) fn forbidden() -> Self {
        Self::portal(StatusCode::FORBIDDEN, "ForbiddenException", "No access")
    }

    pub(super) fn bad_portal_request(said: impl Into<String>) -> Self {
        Self::portal(StatusCode::BAD_REQUEST, "InvalidRequestException", said)
    }

    /// A failure on order, as each API has it.
    pub(super) fn on_order(kind: FailureKind, operation: Operation) -> Self {
        use FailureKind as Kind;
        let is_portal = matches!(
            operation,
            Operation::GetRoleCredentials | Operation::ListAccounts | Operation::ListAccountRoles | Operation::Logout
        );
        let said = "A failure on order";
        match (kind, is_portal) {
            (_, false) if operation == Operation::Authorize => Self::page(said),
            (Kind::Throttled, true) => {
                Self::portal(StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", "Rate exceeded")
            }
            (Kind::Throttled, false) => Self::slow_down(),
            (Kind::Internal, true) => Self::portal(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerException", said),
            (Kind::Internal, false) => {
                Self::oidc(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerException", "server_error", said)
            }
            (Kind::Unavailable | Kind::UnavailableEmpty, _) => {
                Self { api: Api::Page, ..Self::portal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", said) }
            }
            (Kind::ExpiredToken, true) => Self::no_such_token(),
            (Kind::ExpiredToken, false) => Self::expired(),
            (Kind::AccessDenied, true) => Self::forbidden(),
            (Kind::AccessDenied, false) => Self::denied(),
            (Kind::DoesNotExist, true) => Self::portal(StatusCode::NOT_FOUND, "ResourceNotFoundException", said),
            (_, true) => Self::bad_portal_request(said),
            (_, false) => Self::invalid_grant(said),
        }
    }

    /// On the wire.
    pub(super) fn answer(&self, request_id: &str) -> Response<Full<Bytes>> {
        let mut response = match self.api {
            Api::Oidc => json_answer(&json!({ "error": self.word, "error_description": self.said })),
            Api::Portal => {
                let code = format!("com.amazonaws.switchboard.portal#{}", self.code);
                json_answer(&json!({ "message": self.said, "__type": code }))
            }
            Api::Page => super::pages::page("Something went wrong", &format!("<p>{}</p>", escape(&self.said))),
        };
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.api != Api::Page {
            headers.insert("x-amzn-errortype", HeaderValue::from_static(self.code));
        }
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(HeaderName::from_static("x-amzn-requestid"), id);
        }
        response
    }
}

/// A JSON answer that no cache keeps.
pub(super) fn json_answer(body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.to_string().into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Text in a page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
