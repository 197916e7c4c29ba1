//! `ssmfwd doctor`: each step of a forward, in order, with the time it takes. The first that fails is explained as a
//! forward would explain it.
//!
//! ```text
//! credentials ─▶ beside one another: identity, what SSM knows of the target, preferences ─▶ region, clock
//!      └───────▶ a session, as a forward starts it: permission, target, document, dns, tcp, proxy, tls, signature, handshake
//!                      └─▶ a connection that ends at once: destination ─▶ the session is ended, whatever happened
//! ```
//!
//! The session needs what a forward needs and nothing else; whatever beside it may not be asked is said to be unknown.

mod checklist;
mod session;
mod survey;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::{
    checklist::{Check, Checklist},
    survey::Survey,
};
use super::{
    args::{Args, SessionArgs},
    exit::Exit,
    plan::{Access, Plan, PlannedForward},
    report::{Report, Symptom},
    reporter::Reporter,
    run::{configured, late_configuration},
};
use crate::{
    aws::Aws,
    session::{ConnectError, ControlError, ControlErrorKind},
};

/// How long a name lookup may take, and what is asked beside the session.
const PATIENCE: Duration = Duration::from_secs(10);

/// From here on signatures are refused by whoever does not correct for it.
const SKEWED: i64 = 300;

const MANUAL: &str = "\
Starts a session as a forward would, connects to the destination once, ends the connection at once, and ends the session, \
also after Ctrl-C. Nothing is bound on this machine: LOCAL is read and not used.

Checks:
  credentials   loaded, and how long they last
  identity      whose they are (STS)
  region        its name, and whether the SSM API is found and answers
  clock         of this machine, compared with that of AWS
  permission    StartSession, by starting a session
  target        connected; its agent, if that may be asked
  document      exists, and takes these parameters
  dns, tcp, proxy, tls, signature
                the steps of the websocket; with a proxy the first two are those to it
  handshake     the agent answers
  destination   accepts, refuses, or does not answer
  timeouts      when sessions of this account end, if that may be asked

Each line says ok, failed, unknown (could not be asked, which is no failure) or skipped. The exit status is 0, or the \
one of the first failure: 8 for a destination that refuses or does not answer, the others as of a forward.

Example:
    ssmfwd doctor 13306:mydb.example.internal:3306 --target i-0123456789abcdef0";

/// What only this command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = MANUAL)]
pub(super) struct DoctorArgs {
    /// What would be forwarded, such as 13306:db:3306. Nothing is bound: LOCAL is not used
    #[arg(value_name = "FORWARD")]
    forward: String,

    #[command(flatten)]
    session: SessionArgs,
}

/// A forward under examination.
struct Patient {
    forward: PlannedForward,
}

impl Patient {
    fn new(args: &DoctorArgs, all: &Args) -> Result<Self, Report> {
        let mut as_forward = all.clone();
        as_forward.forward.forwards = vec![args.forward.clone()];
        as_forward.session.clone_from(&args.session);
        let mut plan = Plan::new(&as_forward)?;
        let forward = plan.forwards.pop().ok_or_else(|| Report::new(Exit::Usage, "no forward"))?;
        Ok(Self { forward })
    }

    fn access(&self) -> &Access {
        &self.forward.access
    }

    /// What a forward would say of a failed call.
    fn call_failed(&self, error: ControlError) -> Report {
        self.failed(&ConnectError::Control(error))
    }

    fn failed(&self, error: &ConnectError) -> Report {
        Report::connect(error, &self.forward, self.access())
    }
}

/// Runs the checks. When `stop` is cancelled, what was started is ended before this returns.
///
/// # Errors
/// The report of the first check that failed.
pub(super) async fn run(
    args: &DoctorArgs,
    all: &Args,
    reporter: &Arc<Reporter>,
    stop: &CancellationToken,
) -> Result<(), Report> {
    let mut patient = Patient::new(args, all)?;
    let mut checks = Checklist::new(reporter.clone());
    let begun = Instant::now();
    let aws = match timeout(patient.forward.session.connect_timeout, configured(&mut patient.forward.access)).await {
        Ok(Ok(aws)) => Arc::new(aws),
        Ok(Err(error)) => {
            let report = Report::configuration(&error, patient.access());
            let check = if error.kind == ControlErrorKind::NoRegion { Check::Region } else { Check::Credentials };
            return Err(checks.failed(check, begun, report));
        }
        Err(_) => return Err(checks.failed(Check::Credentials, begun, late_configuration())),
    };
    reporter.uses(&patient.forward);
    let examined = async {
        // As a forward does: the time that somebody takes to type is none of the first check.
        aws.ask_for_code().await;
        examine(&patient, &aws, &mut checks).await
    };
    tokio::select! {
        examined = examined => examined?,
        () = stop.cancelled() => return Ok(()),
    }
    session::check(&patient, &aws, &mut checks, stop).await
}

/// What can be known without a session.
async fn examine(patient: &Patient, aws: &Arc<Aws>, checks: &mut Checklist) -> Result<(), Report> {
    let begun = Instant::now();
    match aws.credentials().await {
        Ok(left) => checks.ok(Check::Credentials, begun.elapsed(), source(patient.access(), left)),
        Err(error) => return Err(checks.failed(Check::Credentials, begun, patient.call_failed(error))),
    }
    let survey = Survey::begin(aws, &patient.forward.request.target);
    let begun = Instant::now();
    match survey.identity().await {
        (Ok(identity), took) => checks.ok(Check::Identity, took, identity),
        // Whatever else STS says, the session needs none of it.
        (Err(error), _) if error.kind == ControlErrorKind::ExpiredCredentials => {
            return Err(checks.failed(Check::Identity, begun, patient.call_failed(error)));
        }
        (Err(error), took) => checks.unknown(Check::Identity, took, &error.message),
    }
    region(patient, aws, &survey, checks).await?;
    match aws.clock() {
        Some(skew) if skew.0.abs() >= SKEWED => {
            checks.ok(Check::Clock, None, format!("{skew}; ssmfwd corrects for it, other programs may fail"));
        }
        Some(skew) => checks.ok(Check::Clock, None, skew.to_string()),
        None => checks.unknown(Check::Clock, None, "AWS has not said what time it is"),
    }
    checks.survey = Some(survey);
    Ok(())
}

/// The API is found, and answers: with a refusal if it likes. Whoever answers has been found, by a proxy or by us.
async fn region(patient: &Patient, aws: &Aws, survey: &Survey, checks: &mut Checklist) -> Result<(), Report> {
    let begun = Instant::now();
    let Ok(Some((host, proxy))) = timeout(PATIENCE, aws.api()).await else {
        let report = Report::new(Exit::Failure, "no call to the SSM API could be made");
        return Err(checks.failed(Check::Region, begun, report));
    };
    let (answer, took) = survey.preferences().await;
    if let Err(error) = answer
        && matches!(error.kind, ControlErrorKind::Network | ControlErrorKind::ClockSkew)
    {
        let check = if error.kind == ControlErrorKind::Network { Check::Region } else { Check::Clock };
        if check == Check::Clock {
            checks.ok(Check::Region, took, format!("{}, {host} answers", aws.region()));
        }
        return Err(checks.failed(check, begun, patient.call_failed(error)));
    }
    let way = proxy.map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
    checks.ok(Check::Region, took, format!("{}, {host} answers{way}", aws.region()));
    Ok(())
}

/// Where the credentials come from, and how long they last.
fn source(access: &Access, left: Option<Duration>) -> String {
    let from = match &access.profile {
        _ if access.keys_in_environment => "from the environment".to_owned(),
        Some(profile) => format!("of profile {profile}"),
        None => "of the default profile or this machine's role".to_owned(),
    };
    match left.map(|left| left.as_secs() / 60) {
        None => format!("{from}, without an expiry"),
        Some(minutes @ 0..120) => format!("{from}, valid for {minutes} min"),
        Some(minutes) => format!("{from}, valid for {} h", minutes / 60),
    }
}

/// The check that a failed start belongs to.
const fn check_of(symptom: Option<Symptom>) -> Check {
    match symptom {
        Some(symptom) if symptom.is_of_lookup() => Check::Target,
        Some(Symptom::TargetNotConnected | Symptom::TargetOffline | Symptom::TargetUnknown) => Check::Target,
        Some(
            Symptom::NoDocument
            | Symptom::DocumentNotForSessions
            | Symptom::InvalidRequest
            | Symptom::RemoteHostsUnsupported,
        ) => Check::Document,
        Some(Symptom::GatewayUnresolved) => Check::Dns,
        Some(Symptom::GatewayUnreachable) => Check::Tcp,
        Some(Symptom::ProxyUnreachable | Symptom::ProxyRefused) => Check::Proxy,
        Some(Symptom::GatewayTls) => Check::Tls,
        Some(Symptom::DataChannelDenied | Symptom::UpgradeRefused | Symptom::UpgradeBroken) => Check::Signature,
        Some(
            Symptom::DestinationUnacknowledged
            | Symptom::DestinationUnreachable
            | Symptom::HostUnresolved
            | Symptom::ForbiddenAddress,
        ) => Check::Destination,
        Some(
            Symptom::AgentLate
            | Symptom::AgentTooOld
            | Symptom::AgentFailed
            | Symptom::EncryptionDenied
            | Symptom::EncryptionAsked
            | Symptom::NotAPortSession
            | Symptom::EndedEarly,
        ) => Check::Handshake,
        _ => Check::Permission,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_told_with_their_source_and_their_end() {
        let profile = Access { profile: Some("dev".into()), ..Access::default() };
        let environment = Access { keys_in_environment: true, ..Access::default() };
        let minutes = |count: u64| Some(Duration::from_secs(count * 60));
        for (access, left, text) in [
            (&profile, minutes(58), "of profile dev, valid for 58 min"),
            (&profile, minutes(300), "of profile dev, valid for 5 h"),
            (&environment, None, "from the environment, without an expiry"),
            (&Access::default(), minutes(0), "of the default profile or this machine's role, valid for 0 min"),
        ] {
            assert_eq!(source(access, left), text);
        }
    }
}
