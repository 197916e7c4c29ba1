//! What can be typed, and the manual that `--help` prints. What it means is the plan's business.

mod access;
mod forward;
mod process;
mod reading;
#[cfg(test)]
mod readme;
mod say;
mod session;
mod shell;
mod stdio;
mod up;
mod values;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use self::reading::Origin;
pub(super) use self::{
    access::AccessArgs,
    forward::ForwardArgs,
    process::ProcessArgs,
    reading::Defaults,
    say::{Format, SayArgs},
    session::SessionArgs,
    shell::{Escape, ShellArgs},
    stdio::StdioArgs,
    up::UpArgs,
};

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

TARGET:
  i-…, mi-…                        a managed node by its id: nothing is looked up
  name:NAME, or NAME alone         by its tag Name, else registered or computer name
  tag:KEY=VALUE                    by any tag
  ecs:CLUSTER/SERVICE[/CONTAINER]  the newest running task of a service with exec enabled
  ecs:CLUSTER_TASK_RUNTIME         a container by its id

`ssmfwd ls` lists the managed nodes. Without a target, a terminal is asked for one.
`ssmfwd login` logs in to IAM Identity Center; `ssmfwd doctor FORWARD` explains failures.
`ssmfwd stdio --help` shows the configuration for OpenSSH.

Examples:
  A database behind a bastion, on local port 13306:
    ssmfwd 13306:mydb.example.internal:3306 --target i-0123456789abcdef0

  SSH of the target itself, on any free port, with a named profile:
    ssmfwd 0:22 -t i-0123456789abcdef0 --profile dev --region eu-west-1

  Through whatever runs as the service web, looked up anew for every session:
    ssmfwd 13306:db.internal:3306 --target ecs:prod/web

  Two forwards at once, the second through another target:
    ssmfwd 13306:db:3306 16379:redis:6379@mi-0fedcba987654321 -t i-0123456789abcdef0

  A unix socket, which other local users cannot open:
    ssmfwd /tmp/db.sock:db:5432 --target i-0123456789abcdef0

  Tunnels by the names that ssmfwd.toml gives them:
    ssmfwd up db cache

  A command that runs when the forward is ready, and decides the exit status:
    ssmfwd 0:db:5432 -t i-0123456789abcdef0 -- psql -h {host} -p {port}

Exit status:
  0    ended as asked; with COMMAND: it succeeded
  1    any other failure: network, TLS, throttling, not ready in time
  2    command line, configuration file, region or target are missing or not valid
  3    a local address cannot be bound; no session was started
  4    no credentials, expired ones, or no code of an MFA device
  5    access denied
  6    the target does not exist, is not connected, or cannot serve the document
  7    a session was ended before it was ready; with COMMAND, stdio: one is lost for good
  8    the destination refused or did not answer (doctor, stdio, --wait)
  126, 127  COMMAND cannot be executed, is not there; every other status of it is ours too
  128+n  signal n: 129 SIGHUP, 130 SIGINT (Ctrl-C), 131 SIGQUIT, 143 SIGTERM

Signals:
  SIGINT ends at once, SIGTERM after --drain; SIGHUP ends, or without a terminal reads the
  configuration again; SIGUSR1 shows the state. With COMMAND, signals are its own.

Environment:
  SSMFWD_TARGET stands for --target, and so on; a flag wins over its variable, and both
  over the configuration file
  SSMFWD_MFA_CODE is safer than --mfa-code, which every user of the machine can read
  HTTPS_PROXY, ALL_PROXY, NO_PROXY are for the API and the websocket
  AWS_CA_BUNDLE names the certificates to trust instead of the machine's
  RUST_LOG sets the level of ssmfwd's own log, such as RUST_LOG=debug";

/// The arguments as typed.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ssmfwd",
    version = super::version::SHORT,
    long_version = super::version::LONG,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_long_help = MANUAL,
    after_help = "See --help for the forms of FORWARD, examples and exit statuses.",
    max_term_width = 120,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    // In the order of the help.
    #[command(flatten)]
    pub(super) session: SessionArgs,

    /// The configuration file, instead of the first ssmfwd.toml upward from here or in the user's folder
    #[arg(long, global = true, value_name = "FILE", env = "SSMFWD_CONFIG", hide_env_values = true)]
    pub(super) config: Option<PathBuf>,

    #[command(flatten)]
    pub(super) access: AccessArgs,

    #[command(flatten)]
    pub(super) forward: ForwardArgs,

    #[command(flatten)]
    pub(super) process: ProcessArgs,

    #[command(flatten)]
    pub(super) say: SayArgs,

    /// What has been typed: the same can be read again with other defaults.
    #[arg(skip)]
    origin: Origin,
}

/// What is to be done instead of forwarding.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Command {
    /// Open named tunnels of the configuration file
    #[command(after_long_help = up::MANUAL)]
    Up(UpArgs),
    /// Carry one connection on stdin and stdout: OpenSSH's ProxyCommand
    #[command(long_about = stdio::ABOUT, after_long_help = stdio::MANUAL)]
    Stdio(StdioArgs),
    /// Open a shell on the target
    #[command(long_about = shell::ABOUT, after_long_help = shell::MANUAL)]
    Shell(ShellArgs),
    /// Log in to AWS IAM Identity Center
    #[command(long_about = super::login::LONG_ABOUT)]
    Login(super::login::LoginArgs),
    /// List the managed nodes: the targets that are no containers
    Ls(super::ls::LsArgs),
    /// Check each step of a forward in order, and explain the first that fails
    Doctor(super::doctor::DoctorArgs),
    /// Read the configuration file, and say what its tunnels come to
    #[command(long_about = super::config::CHECK_ABOUT)]
    CheckConfig,
    /// Print completions for a shell
    #[command(after_long_help = super::completions::MANUAL)]
    Completions(super::completions::CompletionsArgs),
    /// Print the manual page
    #[command(after_long_help = super::manual::MANUAL)]
    Man,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::forward::Sessions;

    fn args(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("ssmfwd").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Args::definition().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let args = args("1:2 -t i-0a").expect("valid arguments");
        assert_eq!(args.forward.forwards, ["1:2"]);
        assert_eq!(args.session.target.as_deref(), Some("i-0a"));
        assert_eq!(args.forward.sessions, Sessions::Auto);
        assert_eq!(args.forward.max_connections.get(), 1024);
        assert_eq!(args.forward.linger, Duration::from_secs(5));
        assert_eq!(args.session.connect_timeout, Duration::from_secs(30));
        assert_eq!(args.forward.ping_interval, Duration::from_secs(20));
        assert_eq!(args.forward.reconnect_window, Duration::from_secs(60));
        assert_eq!(args.forward.stall_timeout, Duration::from_secs(300));
        assert_eq!(args.forward.keep_alive, None);
        assert_eq!((args.forward.max_payload, args.forward.max_message_rate), (32_768, 900));
        assert_eq!((args.say.output, args.say.log_format), (Format::Text, Format::Text));
        assert_eq!((args.say.verbose, args.say.quiet), (0, false));
        assert_eq!((args.forward.lazy, args.forward.idle_close, args.forward.drain.as_secs()), (false, None, 1));
        let ProcessArgs { wait, ready_fd, admin, .. } = &args.process;
        assert_eq!((*wait, *ready_fd, admin.as_deref()), (false, None, None));
        assert!(args.forward.exec.is_empty() && args.config.is_none());
    }

    #[test]
    fn every_option_is_taken() {
        let args = args(
            "1:2 3:4 --target mi-0a --profile p --region r --endpoint-url http://h --document d --parameter a=b \
             --parameter a=c --reason why --sessions 16 --max-connections 7 --linger 0.5 --connect-timeout 1 \
             --ping-interval 2 --reconnect-window 0 --stall-timeout 10 --keep-alive 0.5 --max-payload 65536 \
             --max-message-rate 0 --output json --log-format json -vv --lazy --idle-close 60 --drain 0 --wait \
             --ready-fd 3 --admin 9090 --config x.toml",
        )
        .expect("valid arguments");
        assert_eq!(args.forward.forwards, ["1:2", "3:4"]);
        assert_eq!(args.session.parameters, ["a=b", "a=c"]);
        assert_eq!(args.forward.linger, Duration::from_millis(500));
        assert_eq!(
            (args.forward.reconnect_window, args.forward.stall_timeout),
            (Duration::ZERO, Duration::from_secs(10))
        );
        assert_eq!(args.forward.keep_alive, Some(Duration::from_millis(500)));
        assert_eq!((args.forward.max_payload, args.forward.max_message_rate), (65_536, 0));
        assert_eq!((args.forward.max_connections.get(), args.say.verbose), (7, 2));
        assert_eq!(args.forward.sessions.most(), 16);
        let ForwardArgs { lazy, idle_close, drain, .. } = &args.forward;
        assert_eq!((*lazy, *idle_close, *drain), (true, Some(Duration::from_secs(60)), Duration::ZERO));
        let ProcessArgs { wait, ready_fd, admin, .. } = &args.process;
        assert_eq!((*wait, *ready_fd, admin.as_deref()), (true, Some(3), Some("9090")));
        assert_eq!(args.config, Some("x.toml".into()));
        assert_eq!((args.say.output, args.say.log_format), (Format::Json, Format::Json));
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
            "1:2 --wait=1",
            "1:2 --ready-fd 2",
            "1:2 --ready-fd x",
            "1:2 --idle-close 0",
            "1:2 --drain -1",
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
            assert_eq!(values::verbosity(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn every_option_has_its_variable() {
        let definition = Args::definition();
        let up = definition.find_subcommand("up").expect("there is one").get_arguments();
        for argument in definition.get_arguments().chain(up) {
            let Some(long) = argument.get_long().filter(|long| !["help", "version"].contains(long)) else { continue };
            let variable = format!("SSMFWD_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(&variable[..]));
        }
    }

    #[test]
    fn only_who_asks_says_so() {
        let mut definition = Args::definition();
        let mut help = |command: &str| {
            let command = definition.find_subcommand_mut(command).expect("there is one");
            command.render_long_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert!(help("shell").contains("tag:KEY=VALUE; asked for on a terminal"));
        assert!(help("up").contains("tag:KEY=VALUE; asked for on a terminal"));
        assert!(help("stdio").contains("--target <TARGET> The target: i-…") && !help("stdio").contains("asked for"));
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
            if args.command.is_none() {
                super::super::plan::Plan::new(&args).expect(example);
            }
        }
    }
}
