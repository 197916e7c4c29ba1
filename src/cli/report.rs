//! What is said when something failed: what, why, and what the user can do now.

use std::{error::Error, fmt, net::SocketAddr};

use super::{
    console::printable,
    exit::Exit,
    plan::{Access, PlannedForward},
    targets,
};
use crate::{
    aws::{self, Fault},
    forward::BindError,
    proto::{Cause, CloseReason, Initiator},
    session::{ConnectError, ControlError, ControlErrorKind, DialError},
};

/// What helps when something takes too long, or tells what it is.
const MORE_TIME: &str = "allow more time with --connect-timeout, or see where it stops with -v";

/// How the text of a handshake begins that only the destination can have held up: in basic mode the agent acknowledges
/// the first bytes once it is connected there.
const NO_DESTINATION: &str = "the agent acknowledges no data";

/// A failure, ready to be shown.
///
/// ```text
/// error: <what failed>
///   caused by: <why>
///
/// hint: <what to do>
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) error: String,
    pub(super) causes: Vec<String>,
    pub(super) hint: Option<String>,
    pub(super) exit: Exit,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.error)?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl Report {
    /// A failure without a cause that would explain more.
    pub(super) fn new(exit: Exit, error: impl Into<String>) -> Self {
        Self { error: printable(&error.into()), causes: Vec::new(), hint: None, exit }
    }

    /// A mistake on the command line.
    pub(super) fn usage(error: impl Into<String>) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// What the user can do now.
    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Why: an error and those below it. What the line above says already is not repeated.
    pub(super) fn caused_by(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let cause = printable(&error.to_string());
            if !cause.is_empty() && !self.causes.last().unwrap_or(&self.error).contains(&cause) {
                self.causes.push(cause);
            }
            next = error.source();
        }
        self
    }

    /// A local address that cannot be bound.
    pub(super) fn bind(error: &BindError) -> Self {
        let hint = match error {
            BindError::Tcp { address, source } => match source.kind() {
                std::io::ErrorKind::AddrInUse => {
                    Some("another program uses it: take another LOCAL, or 0 for any free port")
                }
                std::io::ErrorKind::PermissionDenied => {
                    Some("take a LOCAL of 1024 or more: those below need privileges")
                }
                std::io::ErrorKind::InvalidInput if is_link_local(address) => {
                    Some("a link-local address needs a scope, which BIND cannot say: take another address")
                }
                std::io::ErrorKind::AddrNotAvailable => Some("BIND must be an address of this machine"),
                _ => None,
            },
            BindError::NoPair { .. } => Some("name one address, as in 127.0.0.1:0:HOST:PORT"),
            BindError::UnixInUse { .. } => Some("take another PATH, or end the program that listens on it"),
            BindError::NotASocket { .. } => Some("take another PATH; ssmfwd replaces nothing but unused sockets"),
            BindError::Unix { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Some("the folder of PATH must exist: make it, or take another PATH"),
                std::io::ErrorKind::PermissionDenied => Some("take a PATH in a folder that you may write to"),
                std::io::ErrorKind::InvalidInput => Some("take a shorter PATH: about 100 bytes are the limit"),
                _ => None,
            },
            BindError::Unsupported { .. } => None,
        };
        let report = Self::new(Exit::Bind, error.to_string());
        let report = error.source().into_iter().fold(report, |report, source| report.caused_by(source));
        hint.into_iter().fold(report, Self::with_hint)
    }

    /// The AWS configuration cannot be used.
    pub(super) fn configuration(error: &ControlError, access: &Access) -> Self {
        let exit = match error.kind {
            // Nothing has been sent yet: what is invalid is what was typed.
            ControlErrorKind::InvalidRequest => Exit::Usage,
            kind => exit_of(kind),
        };
        let report = Self::new(exit, "the AWS configuration cannot be used").caused_by(error);
        control_hint(error, None, access).into_iter().fold(report, Self::with_hint)
    }

    /// A call that failed outside any forward.
    pub(super) fn call(what: &str, error: &ControlError, access: &Access) -> Self {
        let report = Self::new(exit_of(error.kind), what).caused_by(error);
        control_hint(error, None, access).into_iter().fold(report, Self::with_hint)
    }

    /// A session that did not become ready.
    pub(super) fn connect(error: &ConnectError, forward: &PlannedForward, access: &Access) -> Self {
        let (exit, hint) = match error {
            ConnectError::Control(error) => (exit_of(error.kind), control_hint(error, Some(forward), access)),
            ConnectError::Dial(DialError::Sign(error)) => {
                (exit_of(error.kind), control_hint(error, Some(forward), access))
            }
            ConnectError::Dial(DialError::Refused { status: 403, .. }) => {
                (Exit::Denied, Some(open_data_channel_hint(access)))
            }
            ConnectError::Dial(_) => {
                let hint = "the data channel goes to the ssmmessages endpoint, port 443: check firewall and proxy";
                (Exit::Failure, Some(hint.to_owned()))
            }
            ConnectError::Closed(reason) => closed_early(reason),
            ConnectError::TimedOut(_) => (Exit::Failure, Some(MORE_TIME.into())),
            ConnectError::Cancelled => (Exit::Failure, None),
        };
        let report = Self::new(exit, format!("no session for {}", forward.name())).caused_by(error);
        hint.into_iter().fold(report, Self::with_hint)
    }

    /// A session that was lost for good: no other one can be started in its place.
    pub(super) fn not_replaced(error: &ConnectError, forward: &PlannedForward, access: &Access) -> Self {
        let report = Self::connect(error, forward, access);
        Self { error: printable(&format!("no new session for {}", forward.name())), ..report }
    }
}

/// An error and those below it, in one line.
pub(super) fn in_one_line(error: &(dyn Error + 'static)) -> String {
    Report::new(Exit::Failure, "").caused_by(error).causes.join(": ")
}

/// What helps when credentials have expired under a tunnel.
pub(super) fn renewal_hint(access: &Access) -> String {
    if access.keys_in_environment {
        return "the keys come from the environment, which is read only once: set new ones and start ssmfwd again"
            .into();
    }
    if access.uses_mfa {
        let profile = access.profile.as_ref().map_or_else(String::new, |profile| format!(" --profile {profile}"));
        return format!(
            "in another terminal, `aws sts get-caller-identity{profile}` asks for the code of the MFA device: the tunnel \
             goes on by itself then"
        );
    }
    let login = login_command(access);
    format!("log in with `{login}`, or put new keys into the file they come from: the tunnel goes on by itself then")
}

fn exit_of(kind: ControlErrorKind) -> Exit {
    match kind {
        ControlErrorKind::NoCredentials | ControlErrorKind::ExpiredCredentials => Exit::Credentials,
        ControlErrorKind::NoRegion => Exit::Usage,
        ControlErrorKind::AccessDenied => Exit::Denied,
        ControlErrorKind::TargetNotConnected | ControlErrorKind::InvalidDocument | ControlErrorKind::InvalidRequest => {
            Exit::Target
        }
        ControlErrorKind::NoSuchSession => Exit::Lost,
        ControlErrorKind::ClockSkew
        | ControlErrorKind::Throttled
        | ControlErrorKind::Service
        | ControlErrorKind::Network
        | ControlErrorKind::BadAnswer => Exit::Failure,
    }
}

/// A session that was closed before it was ready. If the agent did it, it cannot serve the document.
fn closed_early(reason: &CloseReason) -> (Exit, Option<String>) {
    match (reason.initiator, &reason.cause) {
        (Initiator::Service, _) => (Exit::Lost, None),
        (Initiator::Agent, _) | (_, Cause::ChannelClosed(_)) => {
            let hint = "the agent refused: its version, the document or the destination does not allow this";
            (Exit::Target, Some(hint.into()))
        }
        (_, Cause::Timeout(what)) if what.starts_with(NO_DESTINATION) => {
            (Exit::Failure, Some("check that the destination listens and is reachable from the target".into()))
        }
        (_, Cause::Timeout(_)) => (Exit::Failure, Some(MORE_TIME.into())),
        _ => (Exit::Failure, None),
    }
}

fn control_hint(error: &ControlError, forward: Option<&PlannedForward>, access: &Access) -> Option<String> {
    let region = access.region.as_deref().unwrap_or("*");
    if let Some(fault) = aws::fault(error) {
        return Some(fault_hint(fault, access));
    }
    if let Some(hint) = targets::hint(error, access) {
        return Some(hint);
    }
    Some(match error.kind {
        ControlErrorKind::NoCredentials => {
            format!("log in with `{}`, or name a profile with --profile", login_command(access))
        }
        ControlErrorKind::ExpiredCredentials if access.keys_in_environment => {
            "the keys come from the environment (AWS_ACCESS_KEY_ID): set new ones, or name a profile with --profile"
                .into()
        }
        ControlErrorKind::ExpiredCredentials => {
            format!("log in again, as with `{}`, or put new keys into the file they come from", login_command(access))
        }
        ControlErrorKind::ClockSkew => "set the clock of this machine: signatures are good for minutes".into(),
        ControlErrorKind::NoRegion => "name a region with --region eu-west-1, AWS_REGION, or in the profile".into(),
        ControlErrorKind::AccessDenied => match (error.operation, forward) {
            ("OpenDataChannel", _) => open_data_channel_hint(access),
            ("StartSession", Some(forward)) => format!(
                "the policy must allow ssm:StartSession on {} and on {}",
                // Not the forward's, which may be a name.
                target_arn(&error.resource, region),
                document_arn(forward.request.document.as_deref(), region),
            ),
            (operation, _) => {
                let partition = partition(region);
                format!(
                    "the policy must allow ssm:{operation} on \
                     arn:{partition}:ssm:{region}:*:session/${{aws:username}}-*"
                )
            }
        },
        ControlErrorKind::TargetNotConnected => {
            let place = access.region.as_ref().map_or_else(String::new, |region| format!(" {region}"));
            format!("check the id, the account and the region{place}, and that the SSM agent of the target is online")
        }
        ControlErrorKind::InvalidDocument => {
            "the document must exist in this account and region, and be one for sessions".into()
        }
        ControlErrorKind::InvalidRequest if forward.is_some() => {
            "check the target, the destination and every --parameter against the document".into()
        }
        ControlErrorKind::Throttled => "too many calls in this account: try again in a minute".into(),
        ControlErrorKind::Network => "check the network, the region and --endpoint-url".into(),
        _ => return None,
    })
}

fn fault_hint(fault: Fault, access: &Access) -> String {
    let profile = access.profile.as_deref().unwrap_or("default");
    match fault {
        Fault::NoSuchProfile => "`aws configure list-profiles` lists those there are; name one with --profile".into(),
        Fault::BrokenConfiguration => format!(
            "correct the profile {} in the AWS configuration file, which is ~/.aws/config unless AWS_CONFIG_FILE names \
             another",
            profile,
        ),
        Fault::CredentialProcess => {
            format!("run the credential_process of the profile {profile} by hand: it must print its answer as JSON")
        }
        Fault::WebIdentity => {
            "check the file of the web identity, whose token is good for a while only, and the trust policy of the role"
                .into()
        }
        Fault::Environment => format!(
            "the profile {profile} wants the keys of the environment: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ),
        Fault::MfaCode => {
            "start ssmfwd in a terminal, or give the code that the device shows now with SSMFWD_MFA_CODE or --mfa-code"
                .into()
        }
        Fault::WrongKeys => "check the access key and secret of the credentials".into(),
    }
}

fn login_command(access: &Access) -> String {
    let profile = access.profile.as_ref().map_or_else(String::new, |profile| format!(" --profile {profile}"));
    format!("ssmfwd login{profile}")
}

fn open_data_channel_hint(access: &Access) -> String {
    let region = access.region.as_deref().unwrap_or("*");
    let partition = partition(region);
    format!("the policy must allow ssmmessages:OpenDataChannel on arn:{partition}:ssm:{region}:*:session/*")
}

/// The partition of a region, as ARNs name it.
fn partition(region: &str) -> &'static str {
    match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

fn is_link_local(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(address) if address.ip().is_unicast_link_local())
}

/// The target as policies name it.
fn target_arn(target: &str, region: &str) -> String {
    let partition = partition(region);
    match target.strip_prefix("ecs:") {
        Some(container) => {
            // From the end: clusters may have an underscore in their name, tasks and runtime ids have none.
            let mut parts = container.rsplitn(3, '_').skip(1);
            let (task, cluster) = (parts.next(), parts.next());
            format!("arn:{partition}:ecs:{region}:*:task/{}/{}", cluster.unwrap_or("*"), task.unwrap_or("*"))
        }
        None if target.starts_with("mi-") => format!("arn:{partition}:ssm:{region}:*:managed-instance/{target}"),
        None => format!("arn:{partition}:ec2:{region}:*:instance/{target}"),
    }
}

/// The document as policies name it: those of AWS have an empty account.
fn document_arn(document: Option<&str>, region: &str) -> String {
    let partition = partition(region);
    match document {
        Some(document) if document.starts_with("arn:") => document.to_owned(),
        Some(document) if document.starts_with("AWS-") => format!("arn:{partition}:ssm:*::document/{document}"),
        Some(document) => format!("arn:{partition}:ssm:{region}:*:document/{document}"),
        None => "its session document".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cli::grammar;

    fn forward(text: &str, target: &str) -> PlannedForward {
        let spec = grammar::parse(text, true).expect("a valid forward");
        let request = crate::session::StartRequest {
            target: target.into(),
            document: spec.destination.document().map(Into::into),
            ..Default::default()
        };
        PlannedForward { spec, request }
    }

    fn access() -> Access {
        Access { profile: Some("dev".into()), region: Some("eu-west-1".into()), ..Access::default() }
    }

    fn control(kind: ControlErrorKind, operation: &'static str) -> ConnectError {
        ConnectError::Control(ControlError {
            kind,
            operation,
            resource: "i-0a".into(),
            message: "no".into(),
            source: Some("deeper".into()),
        })
    }

    fn connect(error: &ConnectError) -> Report {
        Report::connect(error, &forward("1:db:2", "i-0a"), &access())
    }

    #[test]
    fn the_form_is_error_causes_hint() {
        let text = connect(&control(ControlErrorKind::ExpiredCredentials, "StartSession")).to_string();
        assert_eq!(
            text,
            "error: no session for 1:db:2\n  caused by: StartSession of i-0a failed: no\n  caused by: deeper\n\n\
             hint: log in again, as with `ssmfwd login --profile dev`, or put new keys into the file they come from"
        );
        assert_eq!(Report::usage("no").to_string(), "error: no");
    }

    #[test]
    fn causes_are_not_repeated_and_cannot_play_tricks() {
        let report = Report::new(Exit::Failure, "a: b").caused_by(&io::Error::other("b"));
        assert!(report.causes.is_empty());
        let report = Report::new(Exit::Failure, "a").caused_by(&io::Error::other("\u{1b}[2J\nb"));
        assert_eq!(report.causes, ["\\u{1b}[2J / b"]);
    }

    #[test]
    fn every_failed_call_has_its_status_and_hint() {
        use ControlErrorKind as Kind;
        for (kind, exit, hint) in [
            (Kind::NoCredentials, Exit::Credentials, Some("ssmfwd login --profile dev")),
            (Kind::ExpiredCredentials, Exit::Credentials, Some("ssmfwd login --profile dev")),
            (Kind::ClockSkew, Exit::Failure, Some("clock")),
            (Kind::NoRegion, Exit::Usage, Some("--region")),
            (
                Kind::AccessDenied,
                Exit::Denied,
                Some(
                    "ssm:StartSession on arn:aws:ec2:eu-west-1:*:instance/i-0a and on \
                arn:aws:ssm:*::document/AWS-StartPortForwardingSessionToRemoteHost",
                ),
            ),
            (Kind::TargetNotConnected, Exit::Target, Some("eu-west-1")),
            (Kind::InvalidDocument, Exit::Target, Some("document")),
            (Kind::InvalidRequest, Exit::Target, Some("--parameter")),
            (Kind::NoSuchSession, Exit::Lost, None),
            (Kind::Throttled, Exit::Failure, Some("again")),
            (Kind::Service, Exit::Failure, None),
            (Kind::Network, Exit::Failure, Some("network")),
            (Kind::BadAnswer, Exit::Failure, None),
        ] {
            let report = connect(&control(kind, "StartSession"));
            assert_eq!(report.exit, exit, "{kind:?}");
            assert_eq!(report.hint.is_some(), hint.is_some(), "{kind:?}");
            assert!(report.hint.unwrap_or_default().contains(hint.unwrap_or_default()), "{kind:?}");
        }
    }

    #[test]
    fn faults_of_the_configuration_have_their_own_hints() {
        for (fault, hint) in [
            (Fault::NoSuchProfile, "aws configure list-profiles"),
            (Fault::BrokenConfiguration, "the profile dev in the AWS configuration file"),
            (Fault::CredentialProcess, "by hand"),
            (Fault::WebIdentity, "the file of the web identity"),
            (Fault::Environment, "the profile dev wants the keys of the environment"),
            (Fault::MfaCode, "SSMFWD_MFA_CODE"),
            (Fault::WrongKeys, "access key and secret"),
        ] {
            let given = fault_hint(fault, &access());
            assert!(given.contains(hint) && !given.contains("log in"), "{given}");
        }
    }

    #[test]
    fn denied_calls_name_action_and_resource() {
        let hint = |error: &ConnectError| connect(error).hint.unwrap_or_default();
        let denied = |operation| control(ControlErrorKind::AccessDenied, operation);
        assert!(
            hint(&denied("OpenDataChannel"))
                .contains("ssmmessages:OpenDataChannel on arn:aws:ssm:eu-west-1:*:session/*")
        );
        assert!(hint(&denied("TerminateSession")).contains("ssm:TerminateSession on arn:aws:ssm:eu-west-1:*:session/"));
        let refused = ConnectError::Dial(DialError::Refused { host: "h:443".into(), status: 403 });
        assert_eq!(connect(&refused).exit, Exit::Denied);
        assert!(hint(&refused).contains("ssmmessages:OpenDataChannel"));
        assert_eq!(target_arn("mi-0b", "*"), "arn:aws:ssm:*:*:managed-instance/mi-0b");
        assert_eq!(target_arn("ecs:my_cluster_0a1b_0a1b-42", "r"), "arn:aws:ecs:r:*:task/my_cluster/0a1b");
        assert_eq!(document_arn(Some("Mine"), "r"), "arn:aws:ssm:r:*:document/Mine");
        assert_eq!(target_arn("i-0a", "cn-north-1"), "arn:aws-cn:ec2:cn-north-1:*:instance/i-0a");
        assert_eq!(document_arn(Some("AWS-X"), "us-gov-east-1"), "arn:aws-us-gov:ssm:*::document/AWS-X");
        assert_eq!(document_arn(Some("arn:aws:ssm:r:1:document/Mine"), "r"), "arn:aws:ssm:r:1:document/Mine");
    }

    #[test]
    fn sessions_that_fail_early_have_their_statuses() {
        let closed = |initiator, cause| ConnectError::Closed(CloseReason::new(initiator, cause));
        for (error, exit) in [
            (
                closed(Initiator::Agent, Cause::ChannelClosed("Forwarding to IP address x is forbidden.".into())),
                Exit::Target,
            ),
            (
                closed(Initiator::Agent, Cause::ChannelClosed("Plugin with name Port is not supported".into())),
                Exit::Target,
            ),
            (closed(Initiator::Service, Cause::ChannelClosed("maintenance".into())), Exit::Lost),
            (closed(Initiator::Transport, Cause::ConnectionLost("gone".into())), Exit::Failure),
            (closed(Initiator::Library, Cause::Protocol("nonsense".into())), Exit::Failure),
            (ConnectError::TimedOut(std::time::Duration::from_secs(30)), Exit::Failure),
            (
                ConnectError::Dial(DialError::Upgrade { host: "h:443".into(), message: "no route".into() }),
                Exit::Failure,
            ),
        ] {
            let report = connect(&error);
            assert_eq!(report.exit, exit, "{error}");
            assert_eq!(report.causes.first(), Some(&error.to_string()));
            let blames_agent = report.hint.is_some_and(|hint| hint.contains("the agent refused"));
            assert_eq!(blames_agent, exit == Exit::Target, "{error}");
        }
    }

    #[test]
    fn a_login_is_not_asked_for_where_it_cannot_help() {
        let keys_in_environment = Access { keys_in_environment: true, ..access() };
        let error = control(ControlErrorKind::ExpiredCredentials, "StartSession");
        let at_start = Report::connect(&error, &forward("1:db:2", "i-0a"), &keys_in_environment);
        for hint in [renewal_hint(&keys_in_environment), at_start.hint.unwrap_or_default()] {
            assert!(hint.contains("environment") && hint.contains("set new ones") && !hint.contains("login"), "{hint}");
        }
        assert!(renewal_hint(&access()).contains("ssmfwd login --profile dev"));
        assert!(renewal_hint(&access()).contains("into the file"));
    }

    #[test]
    fn a_session_that_cannot_be_replaced_has_the_status_of_why() {
        for (kind, exit) in
            [(ControlErrorKind::AccessDenied, Exit::Denied), (ControlErrorKind::InvalidDocument, Exit::Target)]
        {
            let report = Report::not_replaced(&control(kind, "StartSession"), &forward("1:db:2", "i-0a"), &access());
            assert_eq!((report.exit, &report.error[..]), (exit, "no new session for 1:db:2"));
            assert!(report.hint.is_some());
        }
    }

    #[test]
    fn a_chain_fits_in_a_line() {
        let ConnectError::Control(error) = control(ControlErrorKind::Service, "StartSession") else { unreachable!() };
        assert_eq!(in_one_line(&error), "StartSession of i-0a failed: no: deeper");
    }

    #[test]
    fn a_silent_destination_is_told_from_a_slow_agent() {
        for (what, hint) in [
            ("the agent acknowledges no data: the destination refused the connection", "the destination listens"),
            ("the agent did not complete the handshake", "--connect-timeout"),
        ] {
            let reason = CloseReason::new(Initiator::Library, Cause::Timeout(what));
            let report = connect(&ConnectError::Closed(reason));
            assert_eq!(report.exit, Exit::Failure);
            assert!(report.hint.is_some_and(|given| given.contains(hint)), "{what}");
        }
    }

    #[test]
    fn addresses_that_cannot_be_bound_have_their_hints() {
        use io::ErrorKind as Kind;
        let unix = |kind: Kind| BindError::Unix { path: "/no/x".into(), source: kind.into() };
        let tcp = |address: &str, kind: Kind| BindError::Tcp {
            address: address.parse().expect("an address"),
            source: kind.into(),
        };
        for (error, hint) in [
            (unix(Kind::NotFound), Some("must exist")),
            (unix(Kind::PermissionDenied), Some("write")),
            (unix(Kind::InvalidInput), Some("shorter")),
            (unix(Kind::OutOfMemory), None),
            (tcp("[fe80::1]:1", Kind::InvalidInput), Some("scope")),
            (tcp("[fd00::1]:1", Kind::InvalidInput), None),
        ] {
            let report = Report::bind(&error);
            assert_eq!(report.hint.is_some(), hint.is_some(), "{error:?}");
            assert!(report.hint.unwrap_or_default().contains(hint.unwrap_or_default()), "{error:?}");
        }
    }

    #[test]
    fn a_busy_port_is_named() {
        let source = io::ErrorKind::AddrInUse.into();
        let error = BindError::Tcp { address: ([127, 0, 0, 1], 13306).into(), source };
        let report = Report::bind(&error);
        assert_eq!(report.exit, Exit::Bind);
        let text = report.to_string();
        assert!(text.starts_with("error: cannot listen on 127.0.0.1:13306\n  caused by: "), "{text}");
        assert!(text.contains("\n\nhint: another program uses it"), "{text}");
    }

    #[test]
    fn a_broken_configuration_is_a_usage_error() {
        let error = |kind| ControlError {
            kind,
            operation: "StartSession",
            resource: "the endpoint".into(),
            message: "no".into(),
            source: None,
        };
        for (kind, exit) in [
            (ControlErrorKind::NoRegion, Exit::Usage),
            (ControlErrorKind::InvalidRequest, Exit::Usage),
            (ControlErrorKind::NoCredentials, Exit::Credentials),
        ] {
            assert_eq!(Report::configuration(&error(kind), &access()).exit, exit);
        }
    }
}
