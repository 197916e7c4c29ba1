//! What can be typed, and the manual that `--help` prints. What it means is the plan's business.

use std::{
    ffi::{OsStr, OsString},
    num::NonZeroU32,
    time::Duration,
};

use clap::{
    ArgAction, CommandFactory, FromArgMatches, Parser, ValueEnum,
    builder::{FalseyValueParser, Resettable},
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{forward::Sessions, proto::limits};

/// The longest time that an option takes: a day. What is meant to last longer is meant to be something else.
const SECONDS_MAX: f64 = 86_400.0;

/// More messages a second than any machine sends: what is more is a mistake.
const MESSAGES_MAX: u32 = 1_000_000;

const ABOUT: &str = "Forward local ports through AWS SSM Session Manager";

const LONG_ABOUT: &str = "\
Forward local ports through AWS SSM Session Manager, natively: no AWS CLI, no session-manager-plugin, no open inbound \
port. Opens every FORWARD in SSM sessions of its own, says when all are ready, and stays until Ctrl-C.";

/// Paragraphs are one line each, wrapped to the terminal; the other lines are short enough for any.
const MANUAL: &str = "\
FORWARD:
  [BIND:]LOCAL:HOST:PORT   HOST:PORT as the target sees it
  [BIND:]LOCAL:PORT        PORT on the target itself
  PATH:HOST:PORT           the same behind a unix socket of mode 0600
  PATH:PORT                (PATH contains a /)
  ...@TARGET               a target of its own for this forward

LOCAL is a port, 0 for any free one. BIND is an address, localhost, or * for every address; without it both \
loopback addresses are bound. IPv6 addresses are written in brackets. With --document, [BIND:]LOCAL alone will do.

Examples:
  A database behind a bastion, on local port 13306:
    ssmfwd 13306:mydb.example.internal:3306 --target i-0123456789abcdef0

  SSH of the target itself, on any free port, with a named profile:
    ssmfwd 0:22 -t i-0123456789abcdef0 --profile dev --region eu-west-1

  Two forwards at once, the second through another target:
    ssmfwd 13306:db:3306 16379:redis:6379@mi-0fedcba987654321 -t i-0123456789abcdef0

  A unix socket, which other local users cannot open:
    ssmfwd /tmp/db.sock:db:5432 --target i-0123456789abcdef0

Exit status:
  1    any other failure: network, TLS, throttling, not ready in time
  2    the command line, the region or the target is missing or not valid
  3    a local address cannot be bound; no session was started
  4    no credentials, or expired ones
  5    access denied
  6    the target does not exist, is not connected, or cannot serve the document
  7    the service ended the SSM session before it was ready
  128+n  signal n: 129 SIGHUP, 130 SIGINT (Ctrl-C), 131 SIGQUIT, 143 SIGTERM

Environment:
  SSMFWD_TARGET stands for --target, and so on; a flag wins over its variable
  RUST_LOG sets the level of ssmfwd's own log, such as RUST_LOG=debug";

/// The arguments as typed.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ssmfwd",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_long_help = MANUAL,
    after_help = "See --help for the forms of FORWARD, examples and exit statuses.",
    max_term_width = 120
)]
pub(super) struct Args {
    /// What to forward.
    #[arg(value_name = "FORWARD", required = true)]
    #[arg(help = "What to forward: [BIND:]LOCAL:HOST:PORT, [BIND:]LOCAL:PORT, PATH:HOST:PORT or PATH:PORT")]
    pub(super) forwards: Vec<String>,

    /// The target: i-…, mi-… or ecs:CLUSTER_TASK_RUNTIME
    #[arg(short, long, value_name = "TARGET", env = "SSMFWD_TARGET", hide_env_values = true)]
    pub(super) target: Option<String>,

    /// The profile of the AWS configuration files
    #[arg(long, value_name = "NAME", env = "SSMFWD_PROFILE", hide_env_values = true)]
    pub(super) profile: Option<String>,

    /// The AWS region
    #[arg(long, value_name = "REGION", env = "SSMFWD_REGION", hide_env_values = true)]
    pub(super) region: Option<String>,

    /// Where the SSM API is, if not at its usual place
    #[arg(long, value_name = "URL", env = "SSMFWD_ENDPOINT_URL", hide_env_values = true)]
    pub(super) endpoint_url: Option<String>,

    /// The session document, instead of the one that FORWARD stands for
    #[arg(long, value_name = "NAME", env = "SSMFWD_DOCUMENT", hide_env_values = true)]
    pub(super) document: Option<String>,

    /// A parameter of the document; may be repeated, also with the same key
    #[arg(long = "parameter", value_name = "K=V", env = "SSMFWD_PARAMETER", hide_env_values = true)]
    pub(super) parameters: Vec<String>,

    /// The reason for the session, which lands in CloudTrail
    #[arg(long, value_name = "TEXT", env = "SSMFWD_REASON", hide_env_values = true)]
    pub(super) reason: Option<String>,

    /// SSM sessions behind one forward, 1 to 16, each of which downloads at most about 0.7 MB/s; auto: one, and up to 4
    /// while several connections are as fast as it goes
    #[arg(long, value_name = "N|auto", env = "SSMFWD_SESSIONS", hide_env_values = true, default_value = "auto")]
    #[arg(allow_negative_numbers = true)]
    pub(super) sessions: Sessions,

    /// Connections of one forward at a time; others wait
    #[arg(long, value_name = "N", env = "SSMFWD_MAX_CONNECTIONS", hide_env_values = true, default_value = "1024")]
    #[arg(value_parser = connections, allow_negative_numbers = true)]
    pub(super) max_connections: NonZeroU32,

    /// How long a reply is waited for after the local program has ended its side; 0: not at all
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_LINGER", hide_env_values = true, default_value = "5")]
    #[arg(value_parser = seconds, allow_negative_numbers = true)]
    pub(super) linger: Duration,

    /// How long a session may take from its start until it is ready, and up to 5 s more to end a session that starts
    /// late
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_CONNECT_TIMEOUT", hide_env_values = true, default_value = "30")]
    #[arg(value_parser = some_seconds, allow_negative_numbers = true)]
    pub(super) connect_timeout: Duration,

    /// How long new connections wait while a session is brought back, after that they are refused; 0: at once
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_RECONNECT_WINDOW", hide_env_values = true, default_value = "60")]
    #[arg(value_parser = seconds, allow_negative_numbers = true)]
    pub(super) reconnect_window: Duration,

    /// How long data may go unacknowledged by a silent agent until another session replaces this one; 10 at least
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_STALL_TIMEOUT", hide_env_values = true, default_value = "300")]
    #[arg(value_parser = stall_seconds, allow_negative_numbers = true)]
    pub(super) stall_timeout: Duration,

    /// How often an idle session shows a sign of life, so that the service's idle timeout does not end it [default: off,
    /// because the account's policy wants idle sessions to end]
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_KEEP_ALIVE", hide_env_values = true)]
    #[arg(value_parser = some_seconds, allow_negative_numbers = true)]
    pub(super) keep_alive: Option<Duration>,

    /// How often the data channel is probed; after two silent intervals the program reconnects
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_PING_INTERVAL", hide_env_values = true, default_value = "20")]
    #[arg(value_parser = some_seconds, allow_negative_numbers = true)]
    pub(super) ping_interval: Duration,

    /// Largest message that may be sent to the agent, once a trial without data has shown that it passes; 1024: no trials
    #[arg(long, value_name = "BYTES", env = "SSMFWD_MAX_PAYLOAD", hide_env_values = true, default_value = "32768")]
    #[arg(value_parser = payload, allow_negative_numbers = true)]
    pub(super) max_payload: usize,

    /// Data messages a second and session, as a mean; the service may drop sessions that send more than 1000; 0: no limit
    #[arg(long, value_name = "N", env = "SSMFWD_MAX_MESSAGE_RATE", hide_env_values = true, default_value = "900")]
    #[arg(value_parser = messages, allow_negative_numbers = true)]
    pub(super) max_message_rate: u32,

    /// text: lines for people on stderr; json: events as JSON lines on stdout
    #[arg(long, value_name = "FORMAT", env = "SSMFWD_OUTPUT", hide_env_values = true, default_value = "text")]
    pub(super) output: Format,

    /// The format of the log on stderr
    #[arg(long, value_name = "FORMAT", env = "SSMFWD_LOG_FORMAT", hide_env_values = true, default_value = "text")]
    pub(super) log_format: Format,

    /// Log more; twice: much more
    #[arg(short, long, action = ArgAction::Count, env = "SSMFWD_VERBOSE", hide_env_values = true)]
    #[arg(value_parser = verbosity)]
    pub(super) verbose: u8,

    /// Say nothing but errors
    #[arg(short, long, action = ArgAction::SetTrue, env = "SSMFWD_QUIET", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(super) quiet: bool,
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Args {
    /// The arguments in `words` and, where they say nothing, in the variables that `variable` knows: those of the
    /// environment, whose values the definition has read already.
    ///
    /// # Errors
    /// What clap says; also for the help and the version.
    pub(super) fn read(
        words: impl IntoIterator<Item = OsString>,
        variable: impl Fn(&OsStr) -> Option<OsString>,
    ) -> Result<Self, clap::Error> {
        let words: Vec<_> = words.into_iter().collect();
        let is_empty = |name: &OsStr| variable(name).is_some_and(|value| value.is_empty());
        // An empty variable is none, also where a number or a format is expected.
        let mut command = Self::command().mut_args(|argument| match argument.get_env().is_some_and(is_empty) {
            true => argument.env(Resettable::Reset),
            false => argument,
        });
        let matches = command.try_get_matches_from_mut(&words).map_err(|error| name_variable(error, &command, &words));
        Self::from_arg_matches(&matches?).map_err(|error| error.format(&mut command))
    }
}

/// Says where a bad value comes from, if not from the command line.
fn name_variable(mut error: clap::Error, command: &clap::Command, words: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg).cloned() else { return error };
    let Some(flag) = shown.split(' ').next().filter(|flag| flag.starts_with("--")) else { return error };
    let is_typed = |word: &OsString| {
        let rest = word.to_str().and_then(|word| word.strip_prefix(flag));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let argument = command.get_arguments().find(|argument| argument.get_long() == flag.get(2..));
    let variable = argument.and_then(clap::Arg::get_env).and_then(OsStr::to_str);
    if let Some(variable) =
        variable.filter(|_| error.kind() == ErrorKind::ValueValidation || error.kind() == ErrorKind::InvalidValue)
        && !words.iter().any(is_typed)
    {
        error.insert(ContextKind::InvalidArg, ContextValue::String(format!("{shown} (from {variable})")));
    }
    error
}

/// How often `-v`, as a variable says it: a number, or yes or no.
fn verbosity(text: &str) -> Result<u8, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "t" => Ok(1),
        "false" | "no" | "off" | "n" | "f" => Ok(0),
        number => number.parse().map_err(|_| "expected a number, true or false"),
    }
}

fn connections(text: &str) -> Result<NonZeroU32, &'static str> {
    text.parse().map_err(|_| "expected a number, 1 at least")
}

fn payload(text: &str) -> Result<usize, String> {
    let range = limits::PAYLOAD..=limits::PAYLOAD_LIMIT;
    let payload = text.parse().ok().filter(|payload| range.contains(payload));
    payload.ok_or_else(|| format!("expected a number of bytes, {} to {}", range.start(), range.end()))
}

fn messages(text: &str) -> Result<u32, &'static str> {
    text.parse()
        .ok()
        .filter(|messages| *messages <= MESSAGES_MAX)
        .ok_or("expected a number of messages, at most 1000000")
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| format!("expected a number of seconds, at most {SECONDS_MAX}"))
}

fn some_seconds(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|time| if time.is_zero() { Err("must be more than 0".into()) } else { Ok(time) })
}

/// Before ten seconds a silent agent is not even said to be silent (`proto::limits::STALLED`).
fn stall_seconds(text: &str) -> Result<Duration, String> {
    let least = limits::STALLED;
    seconds(text).and_then(|time| match time < least {
        true => Err(format!("must be {} or more", least.as_secs())),
        false => Ok(time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("ssmfwd").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let args = args("1:2 -t i-0a").expect("valid arguments");
        assert_eq!(args.forwards, ["1:2"]);
        assert_eq!(args.target.as_deref(), Some("i-0a"));
        assert_eq!(args.sessions, Sessions::Auto);
        assert_eq!(args.max_connections.get(), 1024);
        assert_eq!(args.linger, Duration::from_secs(5));
        assert_eq!(args.connect_timeout, Duration::from_secs(30));
        assert_eq!(args.ping_interval, Duration::from_secs(20));
        assert_eq!(args.reconnect_window, Duration::from_secs(60));
        assert_eq!(args.stall_timeout, Duration::from_secs(300));
        assert_eq!(args.keep_alive, None);
        assert_eq!((args.max_payload, args.max_message_rate), (32_768, 900));
        assert_eq!((args.output, args.log_format), (Format::Text, Format::Text));
        assert_eq!((args.verbose, args.quiet), (0, false));
    }

    #[test]
    fn every_option_is_taken() {
        let args = args(
            "1:2 3:4 --target mi-0a --profile p --region r --endpoint-url http://h --document d --parameter a=b \
             --parameter a=c --reason why --sessions 16 --max-connections 7 --linger 0.5 --connect-timeout 1 \
             --ping-interval 2 --reconnect-window 0 --stall-timeout 10 --keep-alive 0.5 --max-payload 65536 \
             --max-message-rate 0 --output json --log-format json -vv",
        )
        .expect("valid arguments");
        assert_eq!(args.forwards, ["1:2", "3:4"]);
        assert_eq!(args.parameters, ["a=b", "a=c"]);
        assert_eq!(args.linger, Duration::from_millis(500));
        assert_eq!((args.reconnect_window, args.stall_timeout), (Duration::ZERO, Duration::from_secs(10)));
        assert_eq!(args.keep_alive, Some(Duration::from_millis(500)));
        assert_eq!((args.max_payload, args.max_message_rate), (65_536, 0));
        assert_eq!((args.max_connections.get(), args.verbose), (7, 2));
        assert_eq!(args.sessions.most(), 16);
        assert_eq!((args.output, args.log_format), (Format::Json, Format::Json));
    }

    #[test]
    fn bad_values_are_refused_with_the_status_of_a_usage_error() {
        for line in [
            "",
            "1:2 --linger -1",
            "1:2 --linger x",
            "1:2 --linger inf",
            "1:2 --linger nan",
            "1:2 --linger 1e9",
            "1:2 --connect-timeout 0",
            "1:2 --ping-interval 0",
            "1:2 --keep-alive 0",
            "1:2 --reconnect-window x",
            "1:2 --stall-timeout 9.9",
            "1:2 --stall-timeout 1e9",
            "1:2 --max-connections 0",
            "1:2 --max-payload 1023",
            "1:2 --max-payload 65537",
            "1:2 --max-payload -1",
            "1:2 --max-message-rate -1",
            "1:2 --max-message-rate 1000001",
            "1:2 --max-message-rate 0.5",
            "1:2 --output yaml",
            "1:2 --sessions 0",
            "1:2 --sessions 17",
            "1:2 --sessions -1",
            "1:2 --sessions many",
            "1:2 --sessions",
            "1:2 --wait",
        ] {
            assert_eq!(args(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_negative_time_is_told_what_is_expected() {
        for option in [
            "--linger",
            "--connect-timeout",
            "--ping-interval",
            "--reconnect-window",
            "--stall-timeout",
            "--keep-alive",
        ] {
            let text = args(&format!("1:2 {option} -1")).expect_err("negative").to_string();
            assert!(text.contains("expected a number of seconds"), "{text}");
        }
    }

    #[test]
    fn verbosity_is_a_number_or_yes_or_no() {
        for (text, expected) in [("0", Some(0)), ("2", Some(2)), ("true", Some(1)), ("FALSE", Some(0)), ("x", None)] {
            assert_eq!(verbosity(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn an_empty_variable_is_none() {
        let words = || ["ssmfwd", "1:2"].map(OsString::from);
        Args::read(words(), |_| Some(OsString::new())).expect("as without variables");
        Args::read(words(), |_| None).expect("without variables");
    }

    #[test]
    fn a_bad_value_from_a_variable_names_it() {
        let error = |words: &[&str]| {
            let mut command = Args::command();
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            let error = command.try_get_matches_from_mut(["ssmfwd", "1:2", "--linger", "x"]).expect_err("no number");
            name_variable(error, &command, &words).to_string()
        };
        assert!(error(&["ssmfwd", "1:2"]).contains("--linger <SECONDS> (from SSMFWD_LINGER)"));
        assert!(!error(&["ssmfwd", "1:2", "--linger", "x"]).contains("SSMFWD_LINGER"));
        assert!(!error(&["ssmfwd", "1:2", "--linger=x"]).contains("SSMFWD_LINGER"));
    }

    #[test]
    fn every_option_has_its_variable() {
        for argument in Args::command().get_arguments() {
            let Some(long) = argument.get_long().filter(|long| !["help", "version"].contains(long)) else { continue };
            let variable = format!("SSMFWD_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(&variable[..]));
        }
    }

    #[test]
    fn the_manual_fits_a_terminal() {
        let is_paragraph = |line: &str| line.starts_with("LOCAL is");
        for line in MANUAL.lines().filter(|line| !is_paragraph(line)) {
            assert!(line.chars().count() <= 90, "{line}");
        }
    }

    #[test]
    fn the_manual_has_examples_that_are_valid() {
        let examples: Vec<_> = MANUAL.lines().filter_map(|line| line.trim().strip_prefix("ssmfwd ")).collect();
        assert!(examples.len() >= 4);
        for example in examples {
            let args = args(example).expect(example);
            super::super::plan::Plan::new(&args).expect(example);
        }
    }
}
