//! Failures of the API on order: which operation, how, and how often.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An API operation that fails. The first one in the configuration that fits a call strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiFailure {
    /// What fails.
    pub operation: Operation,
    /// How it fails.
    pub kind: FailureKind,
    /// So many of the next calls; counts down, and the failure vanishes at zero. `None`: until it is taken away.
    #[serde(default)]
    pub times: Option<u32>,
}

/// What an [`ApiFailure`] strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// The call that starts a session.
    StartSession,
    /// The call for another token.
    ResumeSession,
    /// The call that ends a session.
    TerminateSession,
    /// The websocket upgrade. It fails by status code: 429, 500, 503 or 403.
    OpenDataChannel,
    /// IAM Identity Center: a client registers.
    RegisterClient,
    /// IAM Identity Center: a device asks for a code.
    StartDeviceAuthorization,
    /// IAM Identity Center: a code or a refresh token becomes a token.
    CreateToken,
    /// IAM Identity Center: its login pages, which are no API.
    Authorize,
    /// The access portal: credentials of a role.
    GetRoleCredentials,
    /// The access portal.
    ListAccounts,
    /// The access portal.
    ListAccountRoles,
    /// The access portal.
    Logout,
    /// SSM's inventory.
    DescribeInstanceInformation,
    /// SSM's inventory, with names.
    DescribeInstanceProperties,
    /// Whether a target is connected.
    GetConnectionStatus,
    /// The call that reads a document: the preferences of Session Manager are one.
    GetDocument,
    /// The tasks of an ECS service.
    ListTasks,
    /// What tasks of ECS are.
    DescribeTasks,
    /// The services of an ECS cluster.
    ListServices,
    /// ECS: a command in a container.
    ExecuteCommand,
    /// KMS: the data key of a sealed session.
    GenerateDataKey,
    /// The three API calls of a session; not the upgrade.
    Any,
    /// STS: whose credentials are these. The real one denies it to nobody.
    GetCallerIdentity,
    /// STS: credentials of a role.
    AssumeRole,
    /// STS: credentials of a role for a token from elsewhere.
    AssumeRoleWithWebIdentity,
}

impl Operation {
    /// The API call of this name.
    pub(super) fn of_call(name: &str) -> Option<Self> {
        match name {
            "StartSession" => Some(Self::StartSession),
            "ResumeSession" => Some(Self::ResumeSession),
            "TerminateSession" => Some(Self::TerminateSession),
            "DescribeInstanceInformation" => Some(Self::DescribeInstanceInformation),
            "DescribeInstanceProperties" => Some(Self::DescribeInstanceProperties),
            "GetConnectionStatus" => Some(Self::GetConnectionStatus),
            "ListTasks" => Some(Self::ListTasks),
            "DescribeTasks" => Some(Self::DescribeTasks),
            "ListServices" => Some(Self::ListServices),
            "ExecuteCommand" => Some(Self::ExecuteCommand),
            "GenerateDataKey" => Some(Self::GenerateDataKey),
            "GetDocument" => Some(Self::GetDocument),
            _ => None,
        }
    }

    /// The STS call of this name.
    pub(super) fn of_sts(name: &str) -> Option<Self> {
        [Self::GetCallerIdentity, Self::AssumeRole, Self::AssumeRoleWithWebIdentity]
            .into_iter()
            .find(|operation| operation.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::StartSession => "StartSession",
            Self::ResumeSession => "ResumeSession",
            Self::TerminateSession => "TerminateSession",
            Self::OpenDataChannel => "OpenDataChannel",
            Self::RegisterClient => "RegisterClient",
            Self::StartDeviceAuthorization => "StartDeviceAuthorization",
            Self::CreateToken => "CreateToken",
            Self::Authorize => "Authorize",
            Self::GetRoleCredentials => "GetRoleCredentials",
            Self::ListAccounts => "ListAccounts",
            Self::ListAccountRoles => "ListAccountRoles",
            Self::Logout => "Logout",
            Self::DescribeInstanceInformation => "DescribeInstanceInformation",
            Self::DescribeInstanceProperties => "DescribeInstanceProperties",
            Self::GetConnectionStatus => "GetConnectionStatus",
            Self::ListTasks => "ListTasks",
            Self::DescribeTasks => "DescribeTasks",
            Self::ListServices => "ListServices",
            Self::ExecuteCommand => "ExecuteCommand",
            Self::GenerateDataKey => "GenerateDataKey",
            Self::GetDocument => "GetDocument",
            Self::Any => "Any",
            Self::GetCallerIdentity => "GetCallerIdentity",
            Self::AssumeRole => "AssumeRole",
            Self::AssumeRoleWithWebIdentity => "AssumeRoleWithWebIdentity",
        }
    }

    /// The service that the call is one of, as signatures and policies name it.
    pub(super) fn service(self) -> &'static str {
        match self {
            Self::ListTasks | Self::DescribeTasks | Self::ListServices | Self::ExecuteCommand => "ecs",
            Self::GenerateDataKey => "kms",
            Self::OpenDataChannel => "ssmmessages",
            Self::GetCallerIdentity | Self::AssumeRole | Self::AssumeRoleWithWebIdentity => "sts",
            _ => "ssm",
        }
    }

    /// Whether it is one of the three calls of a session.
    pub(super) fn is_of_a_session(self) -> bool {
        matches!(self, Self::StartSession | Self::ResumeSession | Self::TerminateSession)
    }
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// `ThrottlingException`, as `throttle` does it.
    Throttled,
    /// `InternalServerError`, status 500.
    Internal,
    /// Status 503 with an HTML page, as a load balancer answers.
    Unavailable,
    /// Status 503 without a body.
    UnavailableEmpty,
    /// `ExpiredTokenException`, as `expired_credentials` does it.
    ExpiredToken,
    /// `AccessDeniedException`, as `denied` does it.
    AccessDenied,
    /// `TargetNotConnected`.
    TargetNotConnected,
    /// `InvalidDocument`.
    InvalidDocument,
    /// `DoesNotExistException`: the service has forgotten the session.
    DoesNotExist,
    /// `AccessDeniedException` because of an explicit deny in an identity-based policy.
    ExplicitDeny,
    /// The same because a session policy does not allow it.
    SessionPolicy,
    /// The same because a permissions boundary does not allow it.
    PermissionsBoundary,
    /// The same because of an explicit deny in a service control policy.
    ServiceControlPolicy,
    /// The same because the policy of the VPC endpoint does not allow it.
    VpcEndpointPolicy,
    /// `InvalidSignatureException`: the time of the signature is too far off, however often it is corrected.
    ClockSkew,
    /// `UnrecognizedClientException`: the key is not known.
    WrongKeys,
    /// `BadRequest`: no forwards to other hosts, as in regions and on agents that do not know them.
    RemoteHosts,
    /// `InvalidDocument`: the document is one, but not for sessions. Its text is a guess.
    NotForSessions,
    /// `BadRequest`: there are too many sessions. Code and text are a guess.
    SessionLimit,
    /// `NotFoundException`: KMS does not have the key.
    KeyNotFound,
    /// `DisabledException`: the key is disabled.
    KeyDisabled,
}

impl FailureKind {
    /// Whether it strikes before the signature of a call is looked at.
    pub(super) fn precedes_signature(self) -> bool {
        matches!(self, Self::Throttled | Self::Internal | Self::Unavailable | Self::UnavailableEmpty)
    }
}

/// Takes the first failure that fits, and counts it down.
pub(super) fn take(
    failures: &mut Vec<ApiFailure>,
    operation: Operation,
    fits: impl Fn(FailureKind) -> bool,
) -> Option<FailureKind> {
    let strikes = |failure: &ApiFailure| {
        let any = failure.operation == Operation::Any && operation.is_of_a_session();
        (any || failure.operation == operation) && failure.times != Some(0)
    };
    let index = failures.iter().position(strikes)?;
    let failure = failures.get_mut(index).filter(|failure| fits(failure.kind))?;
    let kind = failure.kind;
    if let Some(times) = &mut failure.times {
        *times -= 1; // not zero: checked above
    }
    failures.retain(|failure| failure.times != Some(0));
    Some(kind)
}

/// `OPERATION:KIND` or `OPERATION:KIND:TIMES`, in the words of JSON.
impl FromStr for ApiFailure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, ':');
        let operation = word(parts.next().unwrap_or_default(), "an operation")?;
        let kind = word(parts.next().unwrap_or_default(), "a kind of failure")?;
        let times = parts.next().map(|times| times.parse().map_err(|_| format!("`{times}` is not a number of calls")));
        Ok(Self { operation, kind, times: times.transpose()? })
    }
}

/// An enum's name, as JSON writes it.
fn word<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| format!("`{text}` is not {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_taken_in_order_and_counted_down() {
        let parse = |text: &str| text.parse::<ApiFailure>().expect("a failure");
        let mut failures = vec![
            parse("ResumeSession:throttled:2"),
            parse("Any:internal:1"),
            parse("OpenDataChannel:unavailable"),
            parse("ResumeSession:unavailable_empty"),
        ];
        let mut next = |operation| take(&mut failures, operation, |_| true);
        assert_eq!(next(Operation::ResumeSession), Some(FailureKind::Throttled));
        assert_eq!(next(Operation::StartSession), Some(FailureKind::Internal));
        assert_eq!(next(Operation::StartSession), None);
        for kind in [FailureKind::Throttled, FailureKind::UnavailableEmpty, FailureKind::UnavailableEmpty] {
            assert_eq!(next(Operation::ResumeSession), Some(kind));
        }
        assert_eq!(next(Operation::OpenDataChannel), Some(FailureKind::Unavailable));
        assert_eq!(failures.len(), 2);
    }

    #[test]
    fn a_failure_that_does_not_fit_is_left_in_place() {
        let mut failures = vec!["Any:access_denied:1".parse().expect("a failure")];
        assert_eq!(take(&mut failures, Operation::StartSession, FailureKind::precedes_signature), None);
        assert_eq!(take(&mut failures, Operation::StartSession, |_| true), Some(FailureKind::AccessDenied));
        assert_eq!(failures, []);
    }

    #[test]
    fn words_that_are_none_are_named() {
        for (text, named) in
            [("Resume:throttled", "Resume"), ("Any:slow", "slow"), ("Any", "kind"), ("Any:internal:x", "`x`")]
        {
            let error = text.parse::<ApiFailure>().expect_err(text);
            assert!(error.contains(named), "{error}");
        }
    }
}
