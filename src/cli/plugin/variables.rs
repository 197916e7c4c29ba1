//! The variables of our own options, under a name that takes no options: those count that concern what is done here.
//!
//! What a forward, a tunnel or another command alone would look at does not matter, whatever it holds: it was set for
//! those. One that counts and cannot be used is an error, as anywhere else.

use std::ffi::{OsStr, OsString};

use crate::cli::{
    args::{Args, Command, Escape},
    own_variables::OwnVariables,
    report::Report,
};

/// What can be done about one of them.
pub(super) const HINT: &str = "in place of session-manager-plugin ssmfwd takes its options from the environment \
     (SSMFWD_LINGER is --linger): correct that variable, or unset it";

/// The options whose variables count.
const OPTIONS: [&str; 22] = [
    // Who asks AWS, and where, as far as the caller leaves it open.
    "profile",
    "region",
    "endpoint-url",
    "mfa-code",
    "ssmmessages-endpoint",
    "use-fips-endpoint",
    "use-dualstack-endpoint",
    // The session.
    "connect-timeout",
    "ping-interval",
    "reconnect-window",
    "stall-timeout",
    "keep-alive",
    "max-payload",
    "max-message-rate",
    // What it carries.
    "max-connections",
    "linger",
    "drain",
    "escape",
    // What is told.
    "output",
    "log-format",
    "verbose",
    "quiet",
];

/// What the variables come to.
pub(super) struct Settings {
    pub(super) args: Args,
    pub(super) escape: Escape,
}

impl Settings {
    /// Reads them: `taken` out of the environment, or in it.
    pub(super) fn read(taken: &OwnVariables) -> Result<Self, Report> {
        // Of a shell: it has options of its own, and all the others are read beside them. Its target stands for any.
        let words = ["ssmfwd", "shell", "--target", "i-00000000000000000"].map(OsString::from);
        // One that is empty counts as not set.
        let variable = |name: &OsStr| {
            let value = || taken.get(name).or_else(|| std::env::var_os(name));
            if counts(name) { value() } else { Some(OsString::new()) }
        };
        let args = Args::read(words, variable).map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            Report::usage(line.strip_prefix("error: ").unwrap_or(line)).with_hint(HINT)
        })?;
        let escape = match &args.command {
            Some(Command::Shell(shell)) => shell.escape,
            _ => Escape(Some(b'~')),
        };
        Ok(Self { args, escape })
    }
}

/// Whether a variable is that of an option that counts.
fn counts(name: &OsStr) -> bool {
    let option = name.to_str().and_then(|name| name.strip_prefix("SSMFWD_"));
    let option = option.map(|option| option.to_ascii_lowercase().replace('_', "-"));
    option.is_some_and(|option| OPTIONS.contains(&&option[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of forwards and their sessions, of what surrounds them, and of other commands.
    const OTHERS: [&str; 10] = [
        "SSMFWD_TARGET",
        "SSMFWD_DOCUMENT",
        "SSMFWD_PARAMETER",
        "SSMFWD_REASON",
        "SSMFWD_SESSIONS",
        "SSMFWD_LAZY",
        "SSMFWD_IDLE_CLOSE",
        "SSMFWD_WAIT",
        "SSMFWD_READY_FD",
        "SSMFWD_ADMIN",
    ];

    /// Whoever adds an option decides here.
    #[test]
    fn every_option_counts_or_does_not_matter() {
        let definition = Args::definition();
        let shell = definition.find_subcommand("shell").expect("there is one");
        let mut names: Vec<_> = definition
            .get_arguments()
            .chain(shell.get_arguments())
            .filter_map(|argument| argument.get_env()?.to_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        let (counting, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| counts(OsStr::new(name)));
        assert_eq!(counting.len(), OPTIONS.len(), "{counting:?}");
        let known = |name: &&str| OTHERS.contains(name) || ["SSMFWD_CONFIG", "SSMFWD_NO_WAIT"].contains(name);
        let unknown: Vec<_> = others.into_iter().filter(|name| !known(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
