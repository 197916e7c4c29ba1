//! `ssmfwd shell`: what only this command takes. Its options are those of a FORWARD that concern a session, which the
//! definition adds.

use clap::Args;

pub(super) const ABOUT: &str = "\
Open a shell on the target, or run the command of a session document. Without --document it is the shell that the \
account's Session Manager preferences name. On a terminal every key is the shell's; without one, stdin is what is typed. \
Who names no target is asked for one, on a terminal.";

pub(super) const MANUAL: &str = "\
Typed at the beginning of a line, the escapes of ssh are for ssmfwd: ~. ends the session, ~? lists them, ~- ends \
them, ~~ is one ~.

Without a terminal, the end of stdin is typed as Ctrl-D, and the window is said to have 300 columns and 100 rows. A \
command that reports its standard error and its exit status apart (AWS-StartNonInteractiveCommand can) has them here, \
too; it takes no input but Ctrl-C and Ctrl-\\. Nothing is sent before the first output: agents tell nothing else of a \
shell's beginning. So a command that waits for input and says nothing before, such as cat, cannot be used.

The exit status is that of the command where the agent tells it, else 0 when the shell has ended. Status 7: the session \
was lost, or ended by the service.

Examples:
    ssmfwd shell --target i-0123456789abcdef0
    ssmfwd shell -t name:bastion --document AWS-StartInteractiveCommand --parameter 'command=sudo -i'
    ssmfwd shell -t ecs:prod/web/app --document AWS-StartNonInteractiveCommand --parameter command='df -h'";

/// Of options that other commands have too, what they say here.
pub(super) const DOCUMENT: &str = "The session document, instead of the one that the account's preferences name";
pub(super) const RECONNECT_WINDOW: &str =
    "How long the session may be without a websocket until it is given up, where no terminal is";

/// The options of a FORWARD that mean nothing here: they are about listeners and connections, or who waits for them.
pub(super) const NOT_TAKEN: [&str; 12] = [
    "sessions",
    "max-connections",
    "max-payload",
    "linger",
    "lazy",
    "idle-close",
    "drain",
    "wait",
    "no-wait",
    "ready-fd",
    "admin",
    "keep-alive",
];

/// A shell.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ShellArgs {
    /// What escapes begin with, instead of ~; none: there are no escapes
    #[arg(long, value_name = "CHARACTER", env = "SSMFWD_ESCAPE", hide_env_values = true, default_value = "~")]
    #[arg(value_parser = escape, hide_default_value = true)]
    pub(in crate::cli) escape: Escape,
}

/// The character that escapes begin with, if there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Escape(pub(in crate::cli) Option<u8>);

fn escape(text: &str) -> Result<Escape, String> {
    match text.as_bytes() {
        b"none" => Ok(Escape(None)),
        &[byte] if byte.is_ascii_graphic() => Ok(Escape(Some(byte))),
        _ => Err("one visible ASCII character, or none".to_owned()),
    }
}
