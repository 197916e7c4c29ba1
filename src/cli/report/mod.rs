//! What is said when something failed: what, why, and what the user can do now.
//!
//! ```text
//! error ── diagnosis ──▶ symptom ── table, facts ──▶ report
//! ```

mod diagnosis;
mod facts;
#[cfg(test)]
mod readme;
mod symptom;
mod table;

use std::{error::Error, fmt};

use self::facts::{Details, Facts, login_command};
pub(super) use self::{diagnosis::of_end, symptom::Symptom};
use super::{
    console::printable,
    exit::Exit,
    plan::{Access, PlannedForward},
};
use crate::{
    aws::{Denial, NodeInfo},
    forward::BindError,
    proto::CloseReason,
    session::{ConnectError, ControlError, ControlErrorKind, DialError},
};

/// The outermost text of every failure to open a websocket.
const DATA_CHANNEL: &str = "cannot open the data channel";

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
    /// Its row in the error table.
    pub(super) symptom: Option<Symptom>,
    /// The forward that it is about.
    pub(super) about: Option<Box<About>>,
}

/// A forward that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    /// Its name.
    pub(super) forward: String,
    /// The id of its target, as far as a call has named it.
    pub(super) target: Option<String>,
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
        Self { error: printable(&error.into()), causes: Vec::new(), hint: None, exit, symptom: None, about: None }
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

    /// What the table knows of it: the status, the hint, and what it means if its own words do not say that.
    fn of_symptom(mut self, symptom: Symptom, facts: Facts<'_>) -> Self {
        let row = symptom.row();
        if row.explains {
            self.causes.push(printable(&facts.fill(row.cause)));
        }
        self.hint = Some(facts.fill(row.hint)).filter(|hint| !hint.is_empty());
        self.exit = row.exit.unwrap_or(self.exit);
        self.symptom = Some(symptom);
        self
    }

    /// A session that was ready and is over, where nothing takes its place.
    pub(super) fn over(reason: &CloseReason, forward: &PlannedForward) -> Self {
        let report = Self::new(Exit::Lost, format!("{}: the session is over", forward.name())).caused_by(reason);
        let facts = Facts { access: &forward.access, forward: Some(forward), details: &Details::default() };
        let report = match of_end(reason) {
            Some(symptom) => report.of_symptom(symptom, facts),
            None => report,
        };
        // The one connection that there was has ended it.
        if reason.is_destination_unreachable() { Self { exit: Exit::Destination, ..report } } else { report }
    }

    /// A local address that cannot be bound.
    pub(super) fn bind(error: &BindError) -> Self {
        let report = Self::new(Exit::Bind, error.to_string());
        let report = error.source().into_iter().fold(report, |report, source| report.caused_by(source));
        let facts = Facts { access: &Access::default(), forward: None, details: &Details::default() };
        report.of_symptom(diagnosis::of_bind(error), facts)
    }

    /// The AWS configuration cannot be used.
    pub(super) fn configuration(error: &ControlError, access: &Access) -> Self {
        let (symptom, details) = match diagnosis::of_control(error, access) {
            // Nothing has been sent yet: what is invalid is what was typed.
            (Symptom::InvalidRequest, details) => (Symptom::BadConfiguration, details),
            known => known,
        };
        let report = Self::new(Exit::Usage, "the AWS configuration cannot be used").caused_by(error);
        report.of_symptom(symptom, Facts { access, forward: None, details: &details })
    }

    /// A call that failed outside any forward.
    pub(super) fn call(what: &str, error: &ControlError, access: &Access) -> Self {
        let (symptom, details) = diagnosis::of_control(error, access);
        let report = Self::new(exit_of(error.kind), what).caused_by(error);
        report.of_symptom(symptom, Facts { access, forward: None, details: &details })
    }

    /// A session that did not become ready.
    pub(super) fn connect(error: &ConnectError, forward: &PlannedForward, access: &Access) -> Self {
        let (symptom, details) = diagnosis::of_connect(error, access);
        let exit = match error {
            ConnectError::Control(error) | ConnectError::Dial(DialError::Sign(error)) => exit_of(error.kind),
            _ => Exit::Failure,
        };
        let report = Self::new(exit, format!("no session for {}", forward.name())).caused_by(error);
        let about = About { forward: forward.name().to_owned(), target: details.target.clone() };
        let report = Self { about: Some(Box::new(about)), ..report };
        match symptom {
            Some(symptom) => report.of_symptom(symptom, Facts { access, forward: Some(forward), details: &details }),
            None => report,
        }
    }

    /// What failed, in one line: that there is no session for a forward says nothing new to who looks for the reason.
    pub(super) fn in_short(&self) -> &str {
        let cause = self.causes.iter().find(|cause| *cause != DATA_CHANNEL);
        cause.filter(|_| self.about.is_some()).unwrap_or(&self.error)
    }

    /// A target that is not connected, with what SSM knows of it: nothing if there is no such node.
    pub(super) fn knowing(self, node: Option<NodeInfo>, forward: &PlannedForward, access: &Access) -> Self {
        let (symptom, agent) = match node {
            None => (Symptom::TargetUnknown, [None, None]),
            Some(node) if !node.is_online() => {
                let heard = node.last_heard();
                (Symptom::TargetOffline, [node.agent_version, heard])
            }
            // It has just come back: what has been said will do.
            Some(_) => return self,
        };
        let target = self.about.as_ref().and_then(|about| about.target.clone());
        let details = Details { agent, target, ..Details::default() };
        self.of_symptom(symptom, Facts { access, forward: Some(forward), details: &details })
    }

    /// A destination that a check could not connect to.
    pub(super) fn destination(symptom: Symptom, forward: &PlannedForward, access: &Access) -> Self {
        let how = if symptom == Symptom::DestinationRefused { "refuses connections" } else { "does not answer" };
        let report = Self::new(Exit::Destination, format!("{} {how}", forward.destination()));
        report.of_symptom(symptom, Facts { access, forward: Some(forward), details: &Details::default() })
    }

    /// Where somebody waits for the destination: what it kept from getting ready has its status.
    pub(super) fn for_destination(self) -> Self {
        match self.symptom {
            Some(symptom) if symptom.is_of_destination() => Self { exit: Exit::Destination, ..self },
            _ => self,
        }
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

/// What the table advises about a call that IAM denies, if that is what a text says.
pub(super) fn denied_hint(said: &str, forward: &PlannedForward, access: &Access) -> Option<String> {
    let details = Details { denial: Some(Denial::parse(said)?), ..Details::default() };
    Some(Facts { access, forward: Some(forward), details: &details }.fill(Symptom::CallDenied.row().hint))
}

/// The status of a failed call.
fn exit_of(kind: ControlErrorKind) -> Exit {
    match kind {
        ControlErrorKind::NoCredentials | ControlErrorKind::ExpiredCredentials => Exit::Credentials,
        ControlErrorKind::NoRegion => Exit::Usage,
        ControlErrorKind::AccessDenied => Exit::Denied,
        ControlErrorKind::TargetNotConnected | ControlErrorKind::InvalidDocument | ControlErrorKind::InvalidRequest => {
            Exit::Target
        }
        ControlErrorKind::NoSuchSession => Exit::Lost,
        _ => Exit::Failure,
    }
}

/// What the table advises, where something is told that a forward survives.
pub(super) fn hint(symptom: Symptom, forward: &PlannedForward, access: &Access) -> String {
    Facts { access, forward: Some(forward), details: &Details::default() }.fill(symptom.row().hint)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{
        cli::plan::tests::planned,
        proto::{Cause, CloseReason, Initiator},
    };

    fn forward(text: &str, target: &str) -> PlannedForward {
        planned(&[text, "-t", target])
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
            (Kind::NoSuchSession, Exit::Lost, Some("again")),
            (Kind::Throttled, Exit::Failure, Some("again")),
            (Kind::Service, Exit::Failure, Some("again")),
            (Kind::Network, Exit::Failure, Some("network")),
            (Kind::BadAnswer, Exit::Failure, Some("proxy")),
        ] {
            let report = connect(&control(kind, "StartSession"));
            assert_eq!(report.exit, exit, "{kind:?}");
            assert_eq!(report.hint.is_some(), hint.is_some(), "{kind:?}");
            assert!(report.hint.unwrap_or_default().contains(hint.unwrap_or_default()), "{kind:?}");
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
            (
                "the agent acknowledges no data: the destination refused the connection or did not answer",
                "the destination listens",
            ),
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
