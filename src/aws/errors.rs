//! What the SDK's errors mean: its types and the service's codes to [`ControlError`].
//!
//! The remedies are not here; the command line adds them by kind.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sso::operation::get_role_credentials::GetRoleCredentialsError;
use aws_smithy_runtime_api::{client::result::ConnectorError, http::Response};

use super::profiles::{RoleError, UnreadableIdentity};
use crate::session::{ControlError, ControlErrorKind, DialError};

/// Characters of a foreign text that are kept.
const TEXT_LIMIT: usize = 600;

/// Links of a foreign chain of errors that are kept.
const CHAIN_LIMIT: usize = 12;

/// What the SDK says of a file that should hold an SSO token and is empty or cut off, where it does not name it. The
/// AWS CLI writes it in place, so that may be a login that goes on.
const BROKEN_TOKEN_FILE: [&str; 3] =
    ["expected a JSON document starting with", "expected object key", "found more JSON tokens"];

/// Where credentials were looked for in vain, for people.
const NOT_FOUND: &str =
    "none are in the environment (which --profile overrides), the profile or the role of this machine";

/// How the texts of rustls begin, or what they contain.
const TLS_TROUBLE: [&str; 5] = [
    "invalid peer certificate",
    "received corrupt message",
    "received fatal alert",
    "peer is incompatible",
    "peer misbehaved",
];

/// What exactly is wrong with configuration or credentials, where the kind of an error has more than one remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The profile that was named does not exist.
    NoSuchProfile,
    /// The profile, or another one that it needs, is incomplete or contradicts itself.
    BrokenConfiguration,
    /// The program that a profile names gave no credentials.
    CredentialProcess,
    /// There is no web identity, or STS does not take it.
    WebIdentity,
    /// The environment has no keys, and a profile wants those.
    Environment,
    /// A role takes a code of an MFA device, and there is none or a wrong one.
    MfaCode,
    /// The service does not know the access key, or its secret is another one.
    WrongKeys,
    /// Not the call, but the role or account of the profile is denied.
    RoleDenied,
    /// The name of the service has no address.
    Unresolved,
    /// TLS with the service failed: a certificate that is not trusted, or something that speaks no TLS.
    Tls,
    /// There is no way to the proxy, or it gives no answer.
    Proxy,
    /// The proxy does not let us through.
    ProxyRefused,
}

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Self::NoSuchProfile => "neither the config file nor the credentials file has it",
            Self::BrokenConfiguration => "the profile or one that it needs is not valid",
            Self::CredentialProcess => "the program of the profile gave no credentials",
            Self::WebIdentity => "there is no web identity that is accepted",
            Self::Environment => "the environment has no keys",
            Self::MfaCode => "a code of an MFA device is needed",
            Self::WrongKeys => "the access key is not known, or the secret is not the one of this key",
            Self::RoleDenied => "the policy of the role or account does not let it be used",
            Self::Unresolved => "the name has no address",
            Self::Tls => "TLS failed",
            Self::Proxy => "there is no way through the proxy",
            Self::ProxyRefused => "the proxy does not let us through",
        }
    }
}

/// The fault behind an error of this module, if it is one of those that are told apart.
pub(crate) fn fault(error: &ControlError) -> Option<Fault> {
    error.source.as_ref()?.downcast_ref::<Cause>()?.fault
}

/// The same failure once more, with what is below it and its [`fault`]: for an answer that is told more than once.
pub(crate) fn repeated(error: &ControlError) -> ControlError {
    let below = error.source.as_deref();
    let cause = below.and_then(|below| below.downcast_ref().cloned().or_else(|| Cause::of(below, CHAIN_LIMIT)));
    let call = Call { operation: error.operation, resource: &error.resource };
    ControlError { source: cause.map(|cause: Cause| Box::new(cause) as _), ..call.error(error.kind, &error.message) }
}

/// A call in progress: what an error needs to know of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) operation: &'static str,
    pub(super) resource: &'a str,
}

impl Call<'_> {
    /// An error without another one below.
    pub(super) fn error(self, kind: ControlErrorKind, message: impl Into<String>) -> ControlError {
        ControlError {
            kind,
            operation: self.operation,
            resource: self.resource.to_owned(),
            message: message.into(),
            source: None,
        }
    }

    /// An error that another one explains.
    pub(super) fn caused(self, kind: ControlErrorKind, message: impl Into<String>, below: &dyn Error) -> ControlError {
        let source = Cause::of(below, CHAIN_LIMIT).map(|cause| Box::new(cause) as _);
        ControlError { source, ..self.error(kind, message) }
    }

    /// Credentials could not be loaded. For ResumeSession every kind of that heals.
    pub(super) fn no_credentials(self, error: &CredentialsError) -> ControlError {
        use ControlErrorKind as Kind;
        let kind = credentials_kind(error);
        let message = match kind {
            Kind::NoCredentials if needs_code(error) => "the role of the profile takes a code of an MFA device",
            Kind::NoCredentials => "no credentials could be loaded",
            Kind::ExpiredCredentials => "the credentials or the login behind them have expired",
            Kind::AccessDenied => "the role or account of the profile is not allowed to be used",
            Kind::ClockSkew => "credentials could not be loaded because the clock of this machine is wrong",
            Kind::Throttled => "too many calls for credentials",
            _ => "credentials could not be loaded",
        };
        // The outermost text says no more than this.
        let below = error.source().and_then(|below| Cause::of(below, CHAIN_LIMIT));
        let cause = match error {
            _ if kind == Kind::NoCredentials && fault_of(error).is_some() => {
                below.map(|cause| Cause { fault: fault_of(error), ..cause })
            }
            CredentialsError::InvalidConfiguration(_) => below.map(|cause| cause.with(Fault::BrokenConfiguration)),
            _ if kind == Kind::AccessDenied => {
                Some(below.unwrap_or_else(|| Cause::new(Fault::RoleDenied.text())).with(Fault::RoleDenied))
            }
            // Every provider and why it has none, most of them nothing that the user has ever heard of.
            _ => below.map(|cause| match cause.text.starts_with("no credentials found in chain") {
                true if kind == Kind::NoCredentials => Cause::new(NOT_FOUND),
                _ => cause,
            }),
        };
        let kind = match kind {
            // Denied is the load, not the session: that may live, and be resumed with what a later load brings.
            Kind::AccessDenied if self.operation == "ResumeSession" => Kind::NoCredentials,
            kind => kind,
        };
        ControlError { source: cause.map(|cause| Box::new(cause) as _), ..self.error(kind, message) }
    }

    /// A configuration that is no use as it is.
    pub(super) fn fault(self, kind: ControlErrorKind, message: impl Into<String>, fault: Fault) -> ControlError {
        let cause = Cause::new(fault.text()).with(fault);
        ControlError { source: Some(Box::new(cause)), ..self.error(kind, message) }
    }

    /// A call failed. `to` is the host and port it went to, if it got that far.
    pub(super) fn failed<E>(self, error: &SdkError<E, Response>, to: Option<&str>) -> ControlError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        use ControlErrorKind as Kind;
        if let Some(credentials) = find::<CredentialsError>(error) {
            return self.no_credentials(credentials);
        }
        let host = to.unwrap_or("the service");
        match error {
            SdkError::ServiceError(refusal) => {
                let status = refusal.raw().status().as_u16();
                let code = refusal.err().code().unwrap_or_default();
                let said = refusal.err().message().map(one_line).unwrap_or_default();
                let kind = service_kind(code, &said, status);
                let message = match (said.trim_end_matches('.'), code) {
                    ("", "") => format!("{host} answered with status {status}"),
                    ("", code) => one_line(code),
                    (said, "") => said.to_owned(),
                    (said, code) => format!("{said} ({})", one_line(code)),
                };
                // What the service said is the whole story; the SDK's error repeats it.
                match kind {
                    Kind::ExpiredCredentials if means_wrong_keys(code) => self.fault(kind, message, Fault::WrongKeys),
                    _ => self.error(kind, message),
                }
            }
            SdkError::ResponseError(answer) => {
                let status = answer.raw().status().as_u16();
                let (kind, message) = match status {
                    _ if is_broken_off(error) => (Kind::Network, format!("the answer of {host} broke off")),
                    429 => (Kind::Throttled, format!("{host} answered with status 429")),
                    500.. => (Kind::Service, format!("{host} answered with status {status}")),
                    200..300 => (Kind::BadAnswer, format!("the answer of {host} cannot be read")),
                    // A service of AWS always names an error: this is somebody in between.
                    _ => (Kind::BadAnswer, format!("{host} answered with status {status} and no reason: a proxy?")),
                };
                self.below(kind, message, error)
            }
            SdkError::TimeoutError(_) => self.below(Kind::Network, format!("{host} did not answer in time"), error),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                self.below(Kind::Network, format!("{host} did not answer in time"), error)
            }
            SdkError::DispatchFailure(failure)
                if failure.is_io() || find(error).is_some_and(DialError::is_refused_by_proxy) =>
            {
                self.below(Kind::Network, format!("{host} cannot be reached"), error)
            }
            SdkError::DispatchFailure(failure) if failure.as_other().is_some() || is_broken_off(error) => {
                self.below(Kind::Network, format!("the exchange with {host} failed"), error)
            }
            SdkError::DispatchFailure(_) => self.below(Kind::InvalidRequest, "the request cannot be sent", error),
            // The SDK refused its input or its settings (and whatever a later SDK adds).
            _ => self.below(Kind::InvalidRequest, "the request cannot be made", error),
        }
    }

    /// With what is below the outermost texts, which say no more than `message`.
    fn below(self, kind: ControlErrorKind, message: impl Into<String>, error: &(dyn Error + 'static)) -> ControlError {
        let below = chain(error).skip(1).find(|error| !error.is::<ConnectorError>());
        let cause = below.and_then(|below| Cause::of(below, CHAIN_LIMIT));
        let cause = match network_fault(error).filter(|_| kind == ControlErrorKind::Network) {
            Some(fault) => Some(cause.unwrap_or_else(|| Cause::new(fault.text())).with(fault)),
            None => cause,
        };
        ControlError { source: cause.map(|cause| Box::new(cause) as _), ..self.error(kind, message) }
    }
}

/// The kind of a refusal, by its code; by its text where a code means several things.
fn service_kind(code: &str, said: &str, status: u16) -> ControlErrorKind {
    use ControlErrorKind as Kind;
    match code {
        "TargetNotConnected" | "InvalidInstanceId" => Kind::TargetNotConnected,
        "DoesNotExistException" => Kind::NoSuchSession,
        "BadRequest" | "BadRequestException" | "ValidationException" if says_not_connected(said) => {
            Kind::TargetNotConnected
        }
        // An agent or a service that is too old for the document, or a document for another kind of target.
        "BadRequest" | "BadRequestException" | "ValidationException" if said.contains("not supported") => {
            Kind::InvalidDocument
        }
        "RequestExpired" | "RequestTimeTooSkewed" | "RequestInTheFuture" => Kind::ClockSkew,
        // "Signature expired: ... is now earlier than ..." and "Signature not yet current: ...".
        "InvalidSignatureException" | "SignatureDoesNotMatch"
            if said.contains("Signature expired") || said.contains("Signature not yet current") =>
        {
            Kind::ClockSkew
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "TokenRefreshRequired" => Kind::ExpiredCredentials,
        "RequestLimitExceeded" | "BandwidthLimitExceeded" | "SlowDown" => Kind::Throttled,
        "UnauthorizedOperation" | "NotAuthorized" | "OptInRequired" => Kind::AccessDenied,
        // "The security token included in the request is expired": not a decision of a policy, whatever its code.
        _ if code.starts_with("AccessDenied") && said.contains("security token") => Kind::ExpiredCredentials,
        _ if code.starts_with("AccessDenied") => Kind::AccessDenied,
        _ if code.starts_with("InvalidDocument") => Kind::InvalidDocument,
        _ if code.starts_with("ExpiredToken") => Kind::ExpiredCredentials,
        _ if code.starts_with("Throttl")
            || code.starts_with("TooManyRequests")
            || code.starts_with("RequestThrottl") =>
        {
            Kind::Throttled
        }
        _ if status >= 500 || code.starts_with("InternalServer") || code.starts_with("ServiceUnavailable") => {
            Kind::Service
        }
        _ if status == 429 => Kind::Throttled,
        _ if status == 403 => Kind::AccessDenied,
        _ => Kind::InvalidRequest,
    }
}

/// Whether a code says that the keys never were right, or are no longer known; to log in again may not help.
fn means_wrong_keys(code: &str) -> bool {
    matches!(
        code,
        "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidAccessKeyId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
    )
}

/// "i-0123456789abcdef0 is not connected.", which some paths of the service send as a bad request.
fn says_not_connected(said: &str) -> bool {
    said.contains("is not connected") || said.contains("TargetNotConnected")
}

/// Which of the places where credentials come from has failed, as far as its texts tell.
fn fault_of(error: &CredentialsError) -> Option<Fault> {
    let says = |words: &str| chain(error).any(|error| error.to_string().contains(words));
    if needs_code(error) {
        Some(Fault::MfaCode)
    } else if find::<UnreadableIdentity>(error).is_some() || says("InvalidIdentityToken") {
        Some(Fault::WebIdentity)
    } else if matches!(error, CredentialsError::CredentialsNotLoaded(_)) && says("no credentials found in chain") {
        None
    } else if says("external process") {
        Some(Fault::CredentialProcess)
    } else if says("environment variable not set") {
        Some(Fault::Environment)
    } else {
        None
    }
}

/// Whether a role was not assumed for want of a code.
fn needs_code(error: &CredentialsError) -> bool {
    matches!(find::<RoleError>(error), Some(RoleError::NeedsCode { .. } | RoleError::WrongCode { .. }))
}

/// The kind of a failure to load credentials. Its types are mostly private to the SDK, so its texts must do.
fn credentials_kind(error: &CredentialsError) -> ControlErrorKind {
    use ControlErrorKind as Kind;
    if matches!(error, CredentialsError::ProviderTimedOut(_)) {
        return Kind::Network;
    }
    if needs_code(error) {
        return Kind::NoCredentials;
    }
    let texts: Vec<String> = chain(error).map(ToString::to_string).collect();
    let says = |words: &[&str]| texts.iter().any(|text| words.iter().any(|word| text.contains(word)));
    if says(&["Signature expired", "Signature not yet current", "RequestTimeTooSkewed"]) {
        Kind::ClockSkew
    } else if let Some(kind) = find(error).and_then(portal_kind) {
        kind
    } else if says(&["ExpiredToken", "UnauthorizedException", "SSO token", "InvalidClientTokenId", "InvalidGrant"])
        || says(&BROKEN_TOKEN_FILE)
        || texts.iter().any(|text| text.contains("failed to read") && text.contains("sso"))
    {
        // A login that has expired, was ended, or never took place here: the remedy is one.
        Kind::ExpiredCredentials
    } else if matches!(error, CredentialsError::CredentialsNotLoaded(_)) {
        Kind::NoCredentials
    } else if says(&["AccessDenied", "ForbiddenException"]) {
        Kind::AccessDenied
    } else if says(&["Throttl", "TooManyRequests"]) {
        Kind::Throttled
    } else if says(&["InternalFailure", "InternalServer", "ServiceUnavailable"]) {
        Kind::Service
    } else if find::<ConnectorError>(error).is_some() || says(&["request has timed out"]) {
        Kind::Network
    } else {
        Kind::NoCredentials
    }
}

/// The kind of a refusal of the SSO portal, where its status tells it; its access token is the login.
fn portal_kind(error: &SdkError<GetRoleCredentialsError, Response>) -> Option<ControlErrorKind> {
    match error.raw_response()?.status().as_u16() {
        401 => Some(ControlErrorKind::ExpiredCredentials),
        403 => Some(ControlErrorKind::AccessDenied),
        429 => Some(ControlErrorKind::Throttled),
        500.. => Some(ControlErrorKind::Service),
        _ => None,
    }
}

/// Which trouble of the network it is, where it is one that has a remedy of its own: as our own way out says it, or for
/// an HTTP client of somebody else's the texts of the resolver and of rustls.
fn network_fault(error: &(dyn Error + 'static)) -> Option<Fault> {
    const UNRESOLVED: [&str; 2] = ["dns error", "failed to lookup address information"];
    match find::<DialError>(error) {
        Some(DialError::Resolve { .. }) => return Some(Fault::Unresolved),
        Some(DialError::Tls { .. }) => return Some(Fault::Tls),
        Some(DialError::ProxyRefused { .. }) => return Some(Fault::ProxyRefused),
        Some(DialError::ProxyConnect { .. } | DialError::ProxyTls { .. } | DialError::ProxyAnswer { .. }) => {
            return Some(Fault::Proxy);
        }
        _ => {}
    }
    let texts: Vec<String> = chain(error).map(ToString::to_string).collect();
    let says = |words: &[&str]| texts.iter().any(|text| words.iter().any(|word| text.contains(word)));
    if says(&UNRESOLVED) {
        Some(Fault::Unresolved)
    } else if says(&TLS_TROUBLE) {
        Some(Fault::Tls)
    } else {
        None
    }
}

/// Whether an exchange failed at or below HTTP, which is the network's fault and not the service's.
fn is_broken_off(error: &(dyn Error + 'static)) -> bool {
    find::<hyper::Error>(error).is_some() || find::<std::io::Error>(error).is_some()
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source()).take(CHAIN_LIMIT)
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// A foreign error as text, and those below it. The errors of the SDK are not kept themselves: printed with `{:?}`, the
/// way of `unwrap` and of many loggers, they show raw answers, and answers hold tokens.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
struct Cause {
    text: String,
    fault: Option<Fault>,
    #[source]
    below: Option<Box<Self>>,
}

impl Cause {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), fault: None, below: None }
    }

    fn with(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    /// `None` for an error without words. One that repeats the end of the one above is left out, as are those too deep.
    fn of(error: &dyn Error, depth: usize) -> Option<Self> {
        let depth = depth.checked_sub(1)?;
        let text = one_line(&error.to_string());
        let below = error.source().and_then(|below| Self::of(below, depth));
        match below {
            Some(below) if text.is_empty() || text == below.text => Some(below),
            Some(below) if text.ends_with(&below.text) => Some(Self { text, fault: None, below: below.below }),
            None if text.is_empty() => None,
            below => Some(Self { text, fault: None, below: below.map(Box::new) }),
        }
    }
}

/// A foreign text in one line of bounded length. A refused signature is explained with the canonical request, security
/// token included: that part is dropped.
fn one_line(text: &str) -> String {
    let text = text.split("The Canonical String").next().unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line: String =
        lines.join("; ").replace(":; ", ": ").chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    match line.char_indices().nth(TEXT_LIMIT) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests;
