//! What is told, and how. For every command.

use clap::{ArgAction, Args, ValueEnum, builder::FalseyValueParser};

use super::values::verbosity;

/// Output and log.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct SayArgs {
    /// text: lines for people on stderr; json: events as JSON lines on stdout
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "SSMFWD_OUTPUT",
        hide_env_values = true,
        default_value = "text"
    )]
    pub(in crate::cli) output: Format,

    /// The format of the log on stderr
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "SSMFWD_LOG_FORMAT",
        hide_env_values = true,
        default_value = "text"
    )]
    pub(in crate::cli) log_format: Format,

    /// Log more; twice: much more
    #[arg(short, long, global = true, action = ArgAction::Count, env = "SSMFWD_VERBOSE", hide_env_values = true)]
    #[arg(value_parser = verbosity)]
    pub(in crate::cli) verbose: u8,

    /// Say nothing but errors
    #[arg(short, long, global = true, action = ArgAction::SetTrue, env = "SSMFWD_QUIET", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(in crate::cli) quiet: bool,
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// For people.
    Text,
    /// One object a line.
    Json,
}
