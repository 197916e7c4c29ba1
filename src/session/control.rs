//! What a session needs of the AWS API: a trait, so that the layers below never see the SDK.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin};

use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::{Gateway, StreamUrl};
pub use crate::proto::Token;

/// A future on the heap, for a trait that is used as an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The identity of an SSM session, such as `alice-0123456789abcdef0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionId(pub String);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What StartSession is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartRequest {
    /// What the control plane takes: `i-…`, `mi-…`, `ecs:CLUSTER_TASK_RUNTIME`, or what it resolves to one of these.
    pub target: String,
    /// The session document; none is the account's default, a shell.
    pub document: Option<String>,
    /// Parameters of the document.
    pub parameters: BTreeMap<String, Vec<String>>,
    /// Text for CloudTrail.
    pub reason: Option<String>,
}

/// Permission to open one websocket.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The session.
    pub session_id: SessionId,
    /// Good for one websocket.
    pub token: Token,
    /// Where to connect; already checked by the control plane.
    pub url: StreamUrl,
    /// The target that the session was started on, where the control plane says so: the request's may be a name.
    pub target: Option<String>,
}

/// What KMS is asked for when a session is to be sealed: a data key of 64 bytes
/// (`proto-notes/handshake.md#encryption`).
///
/// The encryption context is `aws:ssm:SessionId`, `aws:ssm:TargetId` and, where there is a challenge,
/// `aws:ssm:RandomChallenge`; nothing else, or the agent cannot open the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKeyRequest {
    /// Id, ARN or alias of the key, as the account's preferences have it.
    pub key_id: String,
    /// The session.
    pub session_id: SessionId,
    /// The target exactly as it was given to StartSession.
    pub target: String,
    /// The agent's challenge; agents before 3.3.808.0 send none.
    pub challenge: Option<String>,
}

/// A data key in both forms that KMS gives.
#[derive(Clone)]
pub struct DataKeyGrant {
    /// 64 bytes.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// For the agent, who has KMS open it.
    pub ciphertext: Vec<u8>,
}

/// Shows no key.
impl fmt::Debug for DataKeyGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKeyGrant(redacted)")
    }
}

/// The call that makes a data key, as it is named in errors.
pub(super) const GENERATE_DATA_KEY: &str = "GenerateDataKey";

/// How a `+` in the query of a StreamUrl is read when the upgrade request is signed: it is not known which the
/// service expects (`proto-notes/websocket.md#signature`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueryForm {
    /// As a space (`%20`), like the signers of the genuine plugin.
    PlusIsSpace,
    /// As itself (`%2B`).
    PlusIsLiteral,
}

/// The calls of the AWS API that a session makes.
pub trait ControlPlane: Send + Sync + 'static {
    /// Starts a session.
    fn start<'a>(&'a self, request: &'a StartRequest) -> BoxFuture<'a, Result<Grant, ControlError>>;

    /// Permission for a new websocket of a session; `None` when the session is over.
    fn resume<'a>(&'a self, session: &'a SessionId) -> BoxFuture<'a, Result<Option<Grant>, ControlError>>;

    /// Ends a session. Ending one that is over is not an error.
    fn terminate<'a>(&'a self, session: &'a SessionId) -> BoxFuture<'a, Result<(), ControlError>>;

    /// Where the data channel that the present call asks for will most likely be, as soon as that can be told: so that
    /// a connection is there when its StreamUrl comes. `None` if nothing is known.
    fn gateway(&self) -> BoxFuture<'_, Option<Gateway>> {
        Box::pin(std::future::ready(None))
    }

    /// A data key for a session whose agent asks for encryption. What fails ends the session before it is ready. A
    /// control plane that has no KMS says so.
    fn data_key<'a>(&'a self, request: &'a DataKeyRequest) -> BoxFuture<'a, Result<DataKeyGrant, ControlError>> {
        Box::pin(std::future::ready(Err(ControlError {
            kind: ControlErrorKind::InvalidRequest,
            operation: GENERATE_DATA_KEY,
            resource: request.key_id.clone(),
            message: "this program makes no data keys".to_owned(),
            source: None,
        })))
    }

    /// Headers that sign the websocket upgrade, made afresh for every dial. Never called for presigned URLs.
    /// Empty when there are no credentials to sign with.
    fn sign_upgrade<'a>(
        &'a self,
        url: &'a StreamUrl,
        form: QueryForm,
    ) -> BoxFuture<'a, Result<Vec<(HeaderName, HeaderValue)>, ControlError>>;
}

/// What kind of failure a [`ControlError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlErrorKind {
    /// No credentials were found, or for ResumeSession none could be had because the role may not be used.
    NoCredentials,
    /// Credentials are expired or not accepted.
    ExpiredCredentials,
    /// The clock of this machine is too far off for signatures.
    ClockSkew,
    /// No region is known.
    NoRegion,
    /// IAM says no.
    AccessDenied,
    /// The agent of the target is not connected, or there is no such target.
    TargetNotConnected,
    /// The document does not exist in this account and region, or cannot be used here.
    InvalidDocument,
    /// A parameter or the target has a form that the service refuses.
    InvalidRequest,
    /// The session does not exist (any more).
    NoSuchSession,
    /// Too many calls.
    Throttled,
    /// The service failed.
    Service,
    /// The service could not be reached.
    Network,
    /// The service answered with something that cannot be trusted or used, such as a StreamUrl elsewhere.
    BadAnswer,
}

impl ControlErrorKind {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Service | Self::Network | Self::TargetNotConnected)
    }

    /// Whether a session that was ready is worth trying for as long as it takes: what passes by itself, and what
    /// passes when somebody logs in again or sets a clock, while the tunnel waits.
    #[must_use]
    pub fn heals(self) -> bool {
        self.is_transient() || matches!(self, Self::ExpiredCredentials | Self::NoCredentials | Self::ClockSkew)
    }
}

/// A call of the AWS API that failed: which, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of {resource} failed: {message}")]
pub struct ControlError {
    /// What kind of failure.
    pub kind: ControlErrorKind,
    /// `StartSession`, `ResumeSession`, `TerminateSession`, `OpenDataChannel`, `GenerateDataKey`, or what a control plane does to find the
    /// target of a name.
    pub operation: &'static str,
    /// The target (its id, once that is known) or the session.
    pub resource: String,
    /// What the service said, or what could not be done. Without secrets.
    pub message: String,
    /// The error below.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

#[cfg(test)]
mod tests {
    use super::ControlErrorKind as Kind;

    #[test]
    fn what_passes_heals_and_what_is_decided_does_not() {
        for (kind, transient, heals) in [
            (Kind::Network, true, true),
            (Kind::Throttled, true, true),
            (Kind::Service, true, true),
            (Kind::TargetNotConnected, true, true),
            (Kind::ExpiredCredentials, false, true),
            (Kind::NoCredentials, false, true),
            (Kind::ClockSkew, false, true),
            (Kind::NoRegion, false, false),
            (Kind::AccessDenied, false, false),
            (Kind::InvalidDocument, false, false),
            (Kind::InvalidRequest, false, false),
            (Kind::NoSuchSession, false, false),
            (Kind::BadAnswer, false, false),
        ] {
            assert_eq!((kind.is_transient(), kind.heals()), (transient, heals), "{kind:?}");
        }
    }
}
