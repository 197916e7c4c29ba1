//! What the program does for those around it. For all forwards together.

use clap::{ArgAction, ArgMatches, Args, builder::FalseyValueParser, parser::ValueSource};

use super::values::descriptor;

/// Readiness and the admin endpoint.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ProcessArgs {
    /// Before COMMAND is run, wait until every destination accepts a connection
    #[arg(long, action = ArgAction::SetTrue, env = "SSMFWD_WAIT", hide_env_values = true, overrides_with = "no_wait")]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(in crate::cli) wait: bool,

    /// Run COMMAND as soon as the sessions are ready, which is the default
    #[arg(long, action = ArgAction::SetTrue, env = "SSMFWD_NO_WAIT", hide_env_values = true, overrides_with = "wait")]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(super) no_wait: bool,

    /// An open file descriptor that is told when all forwards are ready: a line with their addresses, 3 at least
    #[arg(long, value_name = "N", env = "SSMFWD_READY_FD", hide_env_values = true, allow_negative_numbers = true)]
    #[arg(value_parser = descriptor)]
    pub(in crate::cli) ready_fd: Option<i32>,

    /// Serve /healthz, /readyz, /metrics, /status and a live page over HTTP: PORT, HOST:PORT or the path of a unix socket
    #[arg(long, value_name = "ADDR", env = "SSMFWD_ADMIN", hide_env_values = true)]
    pub(in crate::cli) admin: Option<String>,
}

impl ProcessArgs {
    /// `--no-wait` and `--wait` contradict each other: the one that is said nearer counts.
    pub(super) fn settle(&mut self, matches: &ArgMatches) {
        let rank = |id: &str, says: bool| match matches.value_source(id).filter(|_| says) {
            Some(ValueSource::CommandLine) => 3,
            Some(ValueSource::EnvVariable) => 2,
            Some(_) => 1,
            None => 0,
        };
        self.wait = rank("wait", self.wait) > rank("no_wait", self.no_wait);
    }
}
