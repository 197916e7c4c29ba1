//! What a session is started with.

use std::time::Duration;

use clap::Args;

use super::values::some_seconds;

/// The target, the document and its parameters.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct SessionArgs {
    /// The target: i-…, mi-…, ecs:CLUSTER_TASK_RUNTIME, ecs:CLUSTER/SERVICE[/CONTAINER], name:NAME (or a name alone),
    /// tag:KEY=VALUE; asked for on a terminal
    #[arg(short, long, value_name = "TARGET", env = "SSMFWD_TARGET", hide_env_values = true)]
    pub(in crate::cli) target: Option<String>,

    /// The session document, instead of the one that FORWARD stands for
    #[arg(long, value_name = "NAME", env = "SSMFWD_DOCUMENT", hide_env_values = true)]
    pub(in crate::cli) document: Option<String>,

    /// A parameter of the document; may be repeated, also with the same key
    #[arg(long = "parameter", value_name = "K=V", env = "SSMFWD_PARAMETER", hide_env_values = true)]
    pub(in crate::cli) parameters: Vec<String>,

    /// The reason for the session, which lands in CloudTrail
    #[arg(long, value_name = "TEXT", env = "SSMFWD_REASON", hide_env_values = true)]
    pub(in crate::cli) reason: Option<String>,

    /// How long a session may take from its start until it is ready, and up to 5 s more to end a session that starts
    /// late
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_CONNECT_TIMEOUT", hide_env_values = true, default_value = "30")]
    #[arg(value_parser = some_seconds, allow_negative_numbers = true)]
    pub(in crate::cli) connect_timeout: Duration,
}
