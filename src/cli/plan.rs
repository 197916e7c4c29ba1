//! What is to be done: the arguments, validated and completed. Making a plan has no side effects.

use std::{collections::BTreeMap, time::Duration};

use http::Uri;

use super::{
    args::{AccessArgs, Args, ProcessArgs, SessionArgs},
    grammar,
    report::Report,
};
use crate::{
    aws::{EndpointKind, MfaCode, Target, TargetError, keys_in_environment},
    forward::{ForwardSpec, ForwarderOptions, Listen},
    session::{SessionOptions, StartRequest},
};

/// The longest reason that StartSession takes, in characters (`proto-notes/control-plane.md#operations`).
const REASON_MAX: usize = 256;

/// Everything that a run needs to know.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// In command order.
    pub(super) forwards: Vec<PlannedForward>,
    pub(super) process: ProcessSettings,
}

/// What the program does for those around it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ProcessSettings {
    /// Wait for the destinations, not for the sessions alone, before COMMAND is run.
    pub(super) wait: bool,
    /// Is told when all forwards are ready: above 2, and not known to be open.
    pub(super) ready_fd: Option<i32>,
    /// The ADDR of the admin endpoint, as given.
    pub(super) admin: Option<String>,
}

/// One forward with its target, and everything that concerns it alone. Two that are equal need not be told apart.
#[derive(Debug, Clone)]
pub(super) struct PlannedForward {
    /// The name of the tunnel, if the configuration file has it.
    pub(super) tunnel: Option<String>,
    pub(super) spec: ForwardSpec,
    /// What StartSession is asked for.
    pub(super) request: StartRequest,
    /// Who asks AWS, and where.
    pub(super) access: Access,
    pub(super) options: ForwarderOptions,
    /// The first session is started when a connection comes.
    pub(super) lazy: bool,
    pub(super) session: SessionSettings,
}

/// How each session is started, and what bounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionSettings {
    pub(super) connect_timeout: Duration,
    pub(super) ping_interval: Duration,
    pub(super) stall_timeout: Duration,
    /// `None`: the service may end an idle session.
    pub(super) keep_alive: Option<Duration>,
    pub(super) max_payload: usize,
    /// 0: no limit.
    pub(super) max_message_rate: u32,
}

/// The choice of credentials, region and endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Access {
    pub(super) profile: Option<String>,
    pub(super) region: Option<String>,
    pub(super) endpoint_url: Option<String>,
    /// For the first question after one.
    pub(super) mfa_code: Option<MfaCode>,
    /// Renewing the credentials takes a code of an MFA device.
    pub(super) uses_mfa: bool,
    pub(super) ssmmessages_endpoint: Option<String>,
    pub(super) use_fips: bool,
    pub(super) use_dual_stack: bool,
    /// The keys are those of the environment: no login and no file changes them while the program runs.
    pub(super) keys_in_environment: bool,
}

impl Access {
    /// What was typed, checked.
    pub(super) fn of(args: &AccessArgs) -> Result<Self, Report> {
        let endpoint_url = given(&args.endpoint_url);
        if let Some(url) = &endpoint_url {
            check_endpoint(url)?;
        }
        Ok(Self {
            profile: given(&args.profile),
            region: given(&args.region),
            endpoint_url,
            ssmmessages_endpoint: given(&args.ssmmessages_endpoint),
            use_fips: args.use_fips_endpoint,
            use_dual_stack: args.use_dualstack_endpoint,
            mfa_code: mfa_code(&args.mfa_code)?,
            ..Self::default()
        })
    }

    /// The kind of endpoint that was asked for.
    pub(super) fn endpoint_kind(&self) -> EndpointKind {
        EndpointKind { use_fips: self.use_fips, use_dual_stack: self.use_dual_stack }
    }

    /// Without --profile, the keys of the environment come first.
    pub(super) fn look_at_environment(&mut self) {
        self.keys_in_environment = self.profile.is_none() && keys_in_environment();
    }
}

impl PlannedForward {
    /// Checks what was typed for one forward and fills in what follows from it.
    fn new(text: &str, args: &Args) -> Result<Self, Report> {
        let spec = spec(text, &args.session)?;
        Self::of(spec, args)
    }

    /// The same for a forward that has been read.
    pub(super) fn of(spec: ForwardSpec, args: &Args) -> Result<Self, Report> {
        let Args { session, access, forward, .. } = args;
        let document = given(&session.document);
        let parameters = parameters(&session.parameters)?;
        let reason = given(&session.reason);
        reason.iter().try_for_each(|reason| check_reason(reason))?;
        let target = spec.target.clone().or_else(|| given(&session.target));
        let target = target.ok_or_else(|| no_target(&spec))?;
        check_target(&target)?;
        let request = StartRequest {
            target,
            document: document.or_else(|| spec.destination.document().map(Into::into)),
            parameters: with_parameters(&spec, &parameters)?,
            reason,
        };
        Ok(Self {
            tunnel: None,
            spec,
            request,
            access: Access::of(access)?,
            options: ForwarderOptions {
                max_connections: forward.max_connections,
                linger: forward.linger,
                reconnect_window: forward.reconnect_window,
                idle_close: forward.idle_close,
                drain: forward.drain,
                sessions: forward.sessions,
                ..ForwarderOptions::default()
            },
            lazy: forward.lazy,
            session: SessionSettings {
                connect_timeout: session.connect_timeout,
                ping_interval: forward.ping_interval,
                stall_timeout: forward.stall_timeout,
                keep_alive: forward.keep_alive,
                max_payload: forward.max_payload,
                max_message_rate: forward.max_message_rate,
            },
        })
    }

    /// The name in events and errors: that of the tunnel, or FORWARD as typed.
    pub(super) fn name(&self) -> &str {
        self.tunnel.as_deref().unwrap_or(&self.spec.text)
    }

    /// The destination for people.
    pub(super) fn destination(&self) -> String {
        self.spec.destination.describe(&self.request.target)
    }
}

/// Equal if nothing has to be done to make one the other.
impl PartialEq for PlannedForward {
    fn eq(&self, other: &Self) -> bool {
        let settings = |options: &ForwarderOptions| {
            // All fields, but for what is the process's.
            let ForwarderOptions {
                max_connections,
                linger,
                reconnect_window,
                idle_close,
                drain,
                hurry: _,
                sessions,
                accounts: _,
            } = *options;
            (max_connections, linger, reconnect_window, idle_close, drain, sessions)
        };
        (&self.tunnel, &self.spec, &self.request, &self.access, &self.lazy, &self.session)
            == (&other.tunnel, &other.spec, &other.request, &other.access, &other.lazy, &other.session)
            && settings(&self.options) == settings(&other.options)
    }
}

impl SessionSettings {
    /// As a session takes them.
    pub(super) fn options(&self) -> SessionOptions {
        SessionOptions {
            ping_interval: self.ping_interval,
            connect_timeout: self.connect_timeout,
            stall_timeout: self.stall_timeout,
            keep_alive: self.keep_alive,
            max_payload: self.max_payload,
            max_message_rate: self.max_message_rate,
            ..SessionOptions::default()
        }
    }
}

impl Plan {
    /// Checks the arguments and fills in what follows from them.
    pub(super) fn new(args: &Args) -> Result<Self, Report> {
        let forward = |text: &String| PlannedForward::new(text, args);
        Self::of(args.forward.forwards.iter().map(forward).collect::<Result<_, _>>()?, args)
    }

    /// Forwards that are in nobody's way, and what the arguments say beside them.
    pub(super) fn of(forwards: Vec<PlannedForward>, args: &Args) -> Result<Self, Report> {
        for (at, PlannedForward { spec, .. }) in forwards.iter().enumerate() {
            if let Some(other) = forwards[..at].iter().find(|other| other.spec.listen.collides_with(&spec.listen)) {
                return Err(collision(&other.spec, spec));
            }
        }
        let ProcessArgs { wait, ready_fd, admin, .. } = &args.process;
        let process = ProcessSettings { wait: *wait, ready_fd: *ready_fd, admin: given(admin) };
        // Whether a destination accepts is found out through a session.
        let needs_session = *wait && !args.forward.exec.is_empty();
        let begin = |forward: PlannedForward| PlannedForward { lazy: forward.lazy && !needs_session, ..forward };
        Ok(Self { forwards: forwards.into_iter().map(begin).collect(), process })
    }
}

/// Reads a FORWARD: with a document, its destination may be missing.
pub(super) fn spec(text: &str, session: &SessionArgs) -> Result<ForwardSpec, Report> {
    let has_document = given(&session.document).is_some();
    grammar::parse(text, has_document).map_err(|error| Report::usage(error.to_string()))
}

/// Checks the value of an option as far as that can be done by itself, and the definition does not.
pub(super) fn check_value(option: &str, value: &str) -> Result<(), Report> {
    match option {
        _ if value.is_empty() => Ok(()),
        "target" => check_target(value),
        "endpoint-url" => check_endpoint(value),
        "parameter" => parameters(&[value.to_owned()]).map(drop),
        "reason" => check_reason(value),
        _ => Ok(()),
    }
}

/// The value is not shown: it may be good after all.
fn mfa_code(text: &Option<String>) -> Result<Option<MfaCode>, Report> {
    let wrong =
        || Report::usage("--mfa-code (or SSMFWD_MFA_CODE) is not valid: expected the six digits that the device shows");
    given(text).map(|text| MfaCode::parse(&text).ok_or_else(wrong)).transpose()
}

/// An empty text, as from an empty variable, is none.
pub(super) fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

fn collision(first: &ForwardSpec, second: &ForwardSpec) -> Report {
    let what = match second.listen {
        Listen::Tcp { port, .. } => format!("local port {port}"),
        Listen::Unix(_) => format!("unix socket {}", second.listen),
    };
    Report::usage(format!("{what} is used twice: by {} and by {}", first.text, second.text))
        .with_hint("give each forward a LOCAL of its own; 0 takes any free port")
}

fn no_target(spec: &ForwardSpec) -> Report {
    Report::usage(format!("no target for {}", spec.text)).with_hint(format!(
        "name one with --target i-0123456789abcdef0 or --target name:NAME (or SSMFWD_TARGET), or for this forward alone \
         as {}@i-0123456789abcdef0; `ssmfwd ls` lists them",
        spec.text
    ))
}

fn check_reason(reason: &str) -> Result<(), Report> {
    match reason.chars().count() {
        ..=REASON_MAX => Ok(()),
        _ => Err(Report::usage(format!("--reason is too long: at most {REASON_MAX} characters"))),
    }
}

fn check_target(target: &str) -> Result<(), Report> {
    let checked = target.parse::<Target>().map(drop);
    checked.map_err(|error| Report::usage(error.to_string()).with_hint(format!("targets are {}", TargetError::forms())))
}

fn check_endpoint(url: &str) -> Result<(), Report> {
    let uri = url.parse::<Uri>().ok();
    if uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()) {
        return Ok(());
    }
    Err(Report::usage("--endpoint-url is not valid: expected a URL such as https://ssm.eu-west-1.amazonaws.com"))
}

/// `K=V` texts; a key that is repeated collects its values.
fn parameters(texts: &[String]) -> Result<BTreeMap<String, Vec<String>>, Report> {
    let mut parameters = BTreeMap::<_, Vec<_>>::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = pair.ok_or_else(|| {
            Report::usage(format!("--parameter {text:?} is not valid: expected K=V, such as portNumber=3306"))
        })?;
        parameters.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    Ok(parameters)
}

/// The parameters of FORWARD and those of `--parameter`. Neither overrides the other: what would be forwarded then?
fn with_parameters(
    spec: &ForwardSpec,
    extra: &BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, Vec<String>>, Report> {
    let mut parameters = spec.destination.parameters();
    for (key, values) in extra {
        if parameters.insert(key.clone(), values.clone()).is_some() {
            return Err(Report::usage(format!("--parameter {key} says again what {} says", spec.text))
                .with_hint("leave one of them out"));
        }
    }
    Ok(parameters)
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::{super::exit::Exit, *};
    use crate::forward::Sessions;

    fn plan(words: &[&str]) -> Result<Plan, Report> {
        let args = Args::try_parse_from(std::iter::once(&"ssmfwd").chain(words)).expect("valid arguments");
        Plan::new(&args)
    }

    /// The only forward of a valid command line.
    pub(in super::super) fn planned(words: &[&str]) -> PlannedForward {
        plan(words).expect("a valid plan").forwards.remove(0)
    }

    fn request(words: &[&str]) -> StartRequest {
        planned(words).request
    }

    fn map(entries: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        let owned = |(key, values): &(&str, &[&str])| {
            ((*key).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
        };
        entries.iter().map(owned).collect()
    }

    #[test]
    fn the_request_follows_from_the_forward() {
        let request = request(&["13306:db:3306", "-t", "i-0a", "--reason", "a ticket"]);
        assert_eq!(
            request,
            StartRequest {
                target: "i-0a".into(),
                document: Some("AWS-StartPortForwardingSessionToRemoteHost".into()),
                parameters: map(&[("host", &["db"]), ("portNumber", &["3306"])]),
                reason: Some("a ticket".into()),
            }
        );
    }

    #[test]
    fn a_document_replaces_the_usual_one_and_parameters_are_added() {
        let request = request(&[
            "2222:22",
            "-t",
            "i-0a",
            "--document",
            "Mine",
            "--parameter",
            "tag=a",
            "--parameter",
            "tag=b=c",
            "--parameter",
            "x=",
        ]);
        assert_eq!(request.document.as_deref(), Some("Mine"));
        assert_eq!(request.parameters, map(&[("portNumber", &["22"]), ("tag", &["a", "b=c"]), ("x", &[""])]));
    }

    #[test]
    fn a_document_may_know_the_destination() {
        let request = request(&["13306", "-t", "i-0a", "--document", "Mine", "--parameter", "portNumber=1"]);
        assert_eq!(request.parameters, map(&[("portNumber", &["1"])]));
        assert_eq!(plan(&["13306", "-t", "i-0a"]).expect_err("no document").exit, Exit::Usage);
    }

    #[test]
    fn each_forward_may_have_its_target() {
        let words = ["1:2", "3:4@mi-0b", "5:6@ecs:my_cluster_task_runtime-1", "-t", "i-0a"];
        let forwards = plan(&words).expect("a valid plan").forwards;
        let targets: Vec<_> = forwards.iter().map(|forward| &forward.request.target[..]).collect();
        assert_eq!(targets, ["i-0a", "mi-0b", "ecs:my_cluster_task_runtime-1"]);
        assert_eq!((forwards[1].name(), &forwards[1].destination()[..]), ("3:4@mi-0b", "mi-0b:4"));
        plan(&["1:2@i-0a"]).expect("no default needed");
    }

    #[test]
    fn a_target_may_be_what_has_to_be_looked_up() {
        let words = ["1:2@tag:k=a@b", "3:4@ecs:cluster/service", "5:6", "-t", "bastion"];
        let forwards = plan(&words).expect("a valid plan").forwards;
        let targets: Vec<_> = forwards.iter().map(|forward| &forward.request.target[..]).collect();
        assert_eq!(targets, ["tag:k=a@b", "ecs:cluster/service", "bastion"]);
    }

    #[test]
    fn sessions_are_passed_on() {
        let plan = |words: &[&str]| planned(&[&["1:2", "-t", "i-0a"], words].concat()).options;
        assert_eq!(plan(&[]).sessions, Sessions::Auto);
        assert_eq!(plan(&["--sessions", "8"]).sessions.to_string(), "8");
    }

    #[test]
    fn times_are_passed_on() {
        let words = ["1:2", "-t", "i-0a", "--reconnect-window", "0", "--stall-timeout", "10", "--keep-alive", "9"];
        let PlannedForward { options, session, .. } = planned(&words);
        assert_eq!((options.reconnect_window, session.stall_timeout), (Duration::ZERO, Duration::from_secs(10)));
        let options = session.options();
        assert_eq!((options.stall_timeout, options.keep_alive), (session.stall_timeout, Some(Duration::from_secs(9))));
        assert_eq!((options.connect_timeout, options.ping_interval), (session.connect_timeout, session.ping_interval));
    }

    #[test]
    fn what_bounds_messages_is_passed_on() {
        let words = ["1:2", "-t", "i-0a", "--max-payload", "2048", "--max-message-rate", "7"];
        let options = planned(&words).session.options();
        assert_eq!((options.max_payload, options.max_message_rate), (2048, 7));
    }

    #[test]
    fn access_is_passed_on_and_empty_texts_are_none() {
        let words = ["1:2", "-t", "i-0a", "--profile", "p", "--region", "", "--parameter", ""];
        let words = [&words[..], &["--endpoint-url", "http://127.0.0.1:1"]].concat();
        let access = planned(&words).access;
        assert_eq!((access.profile.as_deref(), access.region), (Some("p"), None));
        assert_eq!(access.endpoint_url.as_deref(), Some("http://127.0.0.1:1"));
    }

    #[test]
    fn mistakes_are_usage_errors_that_say_what_to_do() {
        for (words, expected) in [
            (&["1:2"][..], "--target"),
            (&["1:2", "-t", ""], "--target"),
            (&["1:2", "-t", "name:"], "NAME is missing"),
            (&["1:2", "-t", "Role=bastion"], "tag:Role=bastion"),
            (&["1:2", "-t", "i-"], "i-…"),
            (&["1:2", "-t", "i-0a/b"], "i-…"),
            (&["1:2", "-t", "i:0a"], "i-…"),
            (&["1:2", "-t", "ecs:cluster/a/b/c"], "ecs:CLUSTER_TASK_RUNTIME"),
            (&["1:2", "-t", "ecs:a_b"], "ecs:CLUSTER_TASK_RUNTIME"),
            (&["1:2", "-t", "ecs:a__b"], "ecs:CLUSTER_TASK_RUNTIME"),
            (&["1:2@tag:k", "-t", "i-0a"], "expected tag:KEY=VALUE"),
            (&["1:2:3:4:5", "-t", "i-0a"], "FORWARD \"1:2:3:4:5\""),
            (
                &["13306:a:1", "13306:b:1", "-t", "i-0a"],
                "local port 13306 is used twice: by 13306:a:1 and by 13306:b:1",
            ),
            (&["1:2", "127.0.0.1:1:3", "-t", "i-0a"], "local port 1 is used twice"),
            (&["/a:1", "/a:2", "-t", "i-0a"], "unix socket /a is used twice"),
            (&["1:2", "-t", "i-0a", "--parameter", "x"], "expected K=V"),
            (&["1:2", "-t", "i-0a", "--parameter", "=x"], "expected K=V"),
            (&["1:2", "-t", "i-0a", "--parameter", "portNumber=1"], "says again what 1:2 says"),
            (&["1:2", "-t", "i-0a", "--endpoint-url", "ftp://h"], "--endpoint-url"),
            (&["1:2", "-t", "i-0a", "--endpoint-url", "h"], "--endpoint-url"),
            (&["1:2", "-t", "i-0a", "--mfa-code", "12345"], "--mfa-code (or SSMFWD_MFA_CODE) is not valid"),
        ] {
            let report = plan(words).expect_err(&words.join(" "));
            assert_eq!(report.exit, Exit::Usage, "{words:?}");
            assert!(report.to_string().contains(expected), "{words:?}: {report}");
        }
        let long = "x".repeat(257);
        assert_eq!(plan(&["1:2", "-t", "i-0a", "--reason", &long]).expect_err("too long").exit, Exit::Usage);
    }

    #[test]
    fn free_ports_and_other_addresses_are_no_duplicates() {
        plan(&["0:1", "0:2", "127.0.0.1:9:1", "127.0.0.2:9:1", "-t", "i-0a"]).expect("a valid plan");
    }
}
