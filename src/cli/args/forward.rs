//! The forwards and how their sessions and connections are treated.

use std::{ffi::OsString, num::NonZeroU32, time::Duration};

use clap::{ArgAction, Args, builder::FalseyValueParser};

use super::values::{connections, messages, payload, seconds, some_seconds, stall_seconds};
use crate::forward::Sessions;

/// What only forwards take.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ForwardArgs {
    /// What to forward.
    #[arg(value_name = "FORWARD", required = true)]
    #[arg(help = "What to forward: [BIND:]LOCAL:HOST:PORT, [BIND:]LOCAL:PORT, PATH:HOST:PORT or PATH:PORT")]
    pub(in crate::cli) forwards: Vec<String>,

    /// What to run when all are ready, with its arguments; its exit status becomes that of ssmfwd
    #[arg(value_name = "COMMAND", last = true)]
    pub(in crate::cli) exec: Vec<OsString>,

    /// SSM sessions behind one forward, 1 to 16, each of which downloads at most about 0.7 MB/s; auto: one, and up to 4
    /// while several connections are as fast as it goes
    #[arg(long, value_name = "N|auto", env = "SSMFWD_SESSIONS", hide_env_values = true, default_value = "auto")]
    #[arg(allow_negative_numbers = true)]
    pub(in crate::cli) sessions: Sessions,

    /// Connections of one forward at a time; others wait
    #[arg(long, value_name = "N", env = "SSMFWD_MAX_CONNECTIONS", hide_env_values = true, default_value = "1024")]
    #[arg(value_parser = connections, allow_negative_numbers = true)]
    pub(in crate::cli) max_connections: NonZeroU32,

    /// How long a reply is waited for after the local program has ended its side; 0: not at all
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_LINGER", hide_env_values = true, default_value = "5")]
    #[arg(value_parser = seconds, allow_negative_numbers = true)]
    pub(in crate::cli) linger: Duration,

    /// How long new connections wait while a session is brought back, after that they are refused; 0: at once
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_RECONNECT_WINDOW", hide_env_values = true, default_value = "60")]
    #[arg(value_parser = seconds, allow_negative_numbers = true)]
    pub(in crate::cli) reconnect_window: Duration,

    /// How long data may go unacknowledged by a silent agent until another session replaces this one; 10 at least
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_STALL_TIMEOUT", hide_env_values = true, default_value = "300")]
    #[arg(value_parser = stall_seconds, allow_negative_numbers = true)]
    pub(in crate::cli) stall_timeout: Duration,

    /// How often an idle session shows a sign of life, so that the service's idle timeout does not end it [default: off,
    /// because the account's policy wants idle sessions to end]
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_KEEP_ALIVE", hide_env_values = true)]
    #[arg(value_parser = some_seconds, allow_negative_numbers = true)]
    pub(in crate::cli) keep_alive: Option<Duration>,

    /// Start the SSM session when the first connection comes, not before
    #[arg(long, action = ArgAction::SetTrue, env = "SSMFWD_LAZY", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(in crate::cli) lazy: bool,

    /// After how long without a connection the SSM sessions are ended; the next connection starts another [default: off]
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_IDLE_CLOSE", hide_env_values = true)]
    #[arg(value_parser = some_seconds, allow_negative_numbers = true)]
    pub(in crate::cli) idle_close: Option<Duration>,

    /// How long open connections may go on when the program is asked to end; 0: not at all
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_DRAIN", hide_env_values = true, default_value = "1")]
    #[arg(value_parser = seconds, allow_negative_numbers = true)]
    pub(in crate::cli) drain: Duration,

    /// How often the data channel is probed; after two silent intervals the program reconnects
    #[arg(long, value_name = "SECONDS", env = "SSMFWD_PING_INTERVAL", hide_env_values = true, default_value = "20")]
    #[arg(value_parser = some_seconds, allow_negative_numbers = true)]
    pub(in crate::cli) ping_interval: Duration,

    /// Largest message that may be sent to the agent, once a trial without data has shown that it passes; 1024: no trials
    #[arg(long, value_name = "BYTES", env = "SSMFWD_MAX_PAYLOAD", hide_env_values = true, default_value = "32768")]
    #[arg(value_parser = payload, allow_negative_numbers = true)]
    pub(in crate::cli) max_payload: usize,

    /// Data messages a second and session, as a mean; the service may drop sessions that send more than 1000; 0: no limit
    #[arg(long, value_name = "N", env = "SSMFWD_MAX_MESSAGE_RATE", hide_env_values = true, default_value = "900")]
    #[arg(value_parser = messages, allow_negative_numbers = true)]
    pub(in crate::cli) max_message_rate: u32,
}
