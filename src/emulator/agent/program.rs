//! The program of a shell session, as the document describes it (`proto-notes/agent.md#shells`). Running it is left to
//! the shell around the core.

use serde_json::Value;

use super::SessionType;
use crate::wire::agent_newer_than;

/// Agents newer than this know sessions of commands without a pty.
const NON_INTERACTIVE_SINCE: &str = "3.0.1123.0";
/// Agents newer than this can keep output and error output apart; others take no notice of the wish.
const SEPARATE_SINCE: &str = "3.1.1510.0";
/// Longest prefix of separate output, characters.
const MAX_PREFIX: usize = 30;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// With a pty, the command for the shell, as `sh -c` takes it; none: the shell itself. Without, the words of the
    /// program and its arguments: no shell reads them.
    pub command: Option<String>,
    /// How it is connected.
    pub streams: Streams,
}

/// How a program is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// To a pty, its controlling terminal.
    Pty,
    /// No input; output and error output together, and only once it is over.
    Collected,
    /// No input; output and error output apart, as they come.
    Separate,
}

/// What a byte of input means to a program without a pty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramSignal {
    /// SIGINT, for 0x03.
    Interrupt,
    /// SIGQUIT, for 0x1c.
    Quit,
}

impl ProgramSignal {
    /// The signal that a byte of input stands for.
    pub(super) fn of(byte: u8) -> Option<Self> {
        match byte {
            0x03 => Some(Self::Interrupt),
            0x1c => Some(Self::Quit),
            _ => None,
        }
    }
}

/// What a document says about the program of its sessions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) program: Program,
    /// Typed into the pty before anybody else can.
    pub(super) profile: String,
    /// What each piece of output begins with, and of error output.
    pub(super) prefixes: [String; 2],
}

impl Order {
    /// Reads the document's properties, or its part for Linux, as an agent of this version does.
    ///
    /// # Errors
    /// The text that ends the session.
    pub(super) fn from_properties(
        version: &str,
        session_type: SessionType,
        properties: &Value,
    ) -> Result<Self, String> {
        if session_type == SessionType::NonInteractiveCommands && !agent_newer_than(version, NON_INTERACTIVE_SINCE) {
            return Err(format!("Plugin with name {} is not supported", session_type.name()));
        }
        let text = |name| property(properties, name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let command = Some(text("commands")).filter(|_| session_type != SessionType::StandardStream);
        if command.as_deref() == Some("") {
            return Err(format!("Commands cannot be empty for session type {}", session_type.name()));
        }
        let separate = match property(properties, "separateOutputStream") {
            Some(Value::Bool(separate)) => *separate,
            Some(Value::String(separate)) => separate.eq_ignore_ascii_case("true"),
            _ => false,
        };
        let streams = match session_type {
            SessionType::NonInteractiveCommands if separate && agent_newer_than(version, SEPARATE_SINCE) => {
                Streams::Separate
            }
            SessionType::NonInteractiveCommands => Streams::Collected,
            _ => Streams::Pty,
        };
        let mut prefixes = [String::new(), String::new()];
        for (prefix, name) in prefixes.iter_mut().zip(["stdOutSeparatorPrefix", "stdErrSeparatorPrefix"]) {
            *prefix = text(name);
            if prefix.len() > MAX_PREFIX || !prefix.bytes().all(is_prefix_byte) {
                return Err(format!("Invalid {name} in session properties."));
            }
        }
        let profile = property(properties, "shellProfile");
        let profile = profile.map(|profile| profile.get("linux").unwrap_or(profile)).and_then(Value::as_str);
        Ok(Self { program: Program { command, streams }, profile: profile.unwrap_or_default().to_owned(), prefixes })
    }
}

fn property<'a>(properties: &'a Value, name: &str) -> Option<&'a Value> {
    properties.get("linux").and_then(|linux| linux.get(name)).or_else(|| properties.get(name))
}

fn is_prefix_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"\r\n_:-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_say_what_runs_and_how() {
        let order = |session_type, properties| Order::from_properties("3.3.987.0", session_type, &properties);
        let shell = order(SessionType::StandardStream, json!({"shellProfile": {"linux": "cd /", "windows": "cls"}}));
        let shell = shell.expect("a shell");
        assert_eq!(
            (shell.program.command, shell.program.streams, shell.profile.as_str()),
            (None, Streams::Pty, "cd /")
        );

        let command =
            order(SessionType::InteractiveCommands, json!({"linux": {"commands": "top"}})).expect("a command");
        let program = Program { command: Some("top".into()), streams: Streams::Pty };
        assert_eq!((command.program, command.profile.as_str()), (program, ""));

        for (separate, streams) in [
            (json!(true), Streams::Separate),
            (json!("True"), Streams::Separate),
            (json!("false"), Streams::Collected),
            (json!(null), Streams::Collected),
        ] {
            let properties = json!({
                "commands": "ls", "separateOutputStream": separate,
                "stdOutSeparatorPrefix": "OUT:", "stdErrSeparatorPrefix": "ERR:",
            });
            let order = order(SessionType::NonInteractiveCommands, properties).expect("a command");
            assert_eq!((order.program.streams, order.prefixes), (streams, ["OUT:".to_owned(), "ERR:".to_owned()]));
        }
    }

    #[test]
    fn nothing_to_run_and_odd_prefixes_end_the_session() {
        let order = |properties| Order::from_properties("3.3.987.0", SessionType::NonInteractiveCommands, &properties);
        let empty = "Commands cannot be empty for session type NonInteractiveCommands";
        assert_eq!(order(json!({})), Err(empty.to_owned()));
        for prefix in ["a b", &"x".repeat(31)] {
            let error = order(json!({"commands": "ls", "stdErrSeparatorPrefix": prefix})).expect_err(prefix);
            assert!(error.contains("stdErrSeparatorPrefix"), "{error}");
        }
    }

    #[test]
    fn old_agents_do_without() {
        let separate = json!({"commands": "ls", "separateOutputStream": true});
        let order = |version| Order::from_properties(version, SessionType::NonInteractiveCommands, &separate);
        assert!(order("3.0.1120.0").expect_err("too old").contains("NonInteractiveCommands is not supported"));
        let streams = |version| order(version).expect("a command").program.streams;
        assert_eq!((streams("3.0.1124.0"), streams("3.1.1511.0")), (Streams::Collected, Streams::Separate));
    }
}
