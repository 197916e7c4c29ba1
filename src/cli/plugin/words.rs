//! What `session-manager-plugin` writes to stdout, to the byte: other tools look for these lines
//! (`proto-notes/plugin.md#output`).

use std::fmt;

use crate::session::SessionId;

/// The version that is claimed. The AWS CLI passes the token in the environment, and not among the arguments, to
/// programs newer than 1.2.497.0; newer features of the genuine program that its callers ask the version for end at
/// this one.
pub(super) const VERSION: &str = "1.2.889.0";

/// The answer to a call without arguments.
pub(super) const PRESENCE: &str =
    "\nThe Session Manager plugin was installed successfully. Use the AWS CLI to start a session.\n\n";

/// One of the texts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Line<'a> {
    /// Always the first.
    Starting(&'a SessionId),
    /// A forward listens at a port of localhost.
    Port(u16, &'a SessionId),
    /// A forward listens at a unix socket.
    UnixSocket(&'a str, &'a SessionId),
    /// In the line of either of them begins what is behind it, in a session with streams.
    Waiting,
    /// The first connection of a session with streams.
    FirstConnection(&'a SessionId),
    /// Each connection of a session without.
    Connection(&'a SessionId),
    /// The agent could not reach the destination.
    DestinationFailed,
    /// Ctrl-C.
    Interrupted,
    /// What the service or the agent says to the user.
    Message(&'a str),
    /// The session is over, and the service has said why.
    Closed(&'a SessionId, &'a str),
    /// The session is over.
    Exiting(&'a SessionId),
    /// The session was over when it was to be resumed.
    TimedOut(&'a SessionId),
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting(id) => write!(f, "\nStarting session with SessionId: {id}\n"),
            Self::Port(port, id) => write!(f, "Port {port} opened for sessionId {id}."),
            Self::UnixSocket(path, id) => write!(f, "Unix socket {} opened for sessionId {id}.", harmless(path)),
            Self::Waiting => f.write_str("\nWaiting for connections...\n"),
            Self::FirstConnection(id) => write!(f, "\nConnection accepted for session [{id}]\n"),
            Self::Connection(id) => writeln!(f, "Connection accepted for session {id}."),
            Self::DestinationFailed => f.write_str("\nConnection to destination port failed, check SSM Agent logs.\n"),
            Self::Interrupted => f.write_str("Terminate signal received, exiting.\n"),
            Self::Message(text) => writeln!(f, "{}", harmless(text)),
            Self::Closed(id, text) => write!(f, "\n\nSessionId: {id} : {}\n\n", harmless(text)),
            Self::Exiting(id) => write!(f, "\n\nExiting session with sessionId: {id}.\n\n"),
            Self::TimedOut(id) => writeln!(f, "Session: {id} timed out."),
        }
    }
}

/// Text from elsewhere as it came, but for what would steer the terminal.
fn harmless(text: &str) -> String {
    let steers = |character: char| character.is_control() && !matches!(character, '\n' | '\r' | '\t');
    let show = |character: char| if steers(character) { '\u{fffd}' } else { character };
    text.chars().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_other_tools_look_for() {
        let id = &SessionId("alice-1".to_owned());
        for (line, text) in [
            (Line::Starting(id), "\nStarting session with SessionId: alice-1\n"),
            (Line::Port(13306, id), "Port 13306 opened for sessionId alice-1."),
            (Line::UnixSocket("/a b", id), "Unix socket /a b opened for sessionId alice-1."),
            (Line::Waiting, "\nWaiting for connections...\n"),
            (Line::FirstConnection(id), "\nConnection accepted for session [alice-1]\n"),
            (Line::Connection(id), "Connection accepted for session alice-1.\n"),
            (Line::DestinationFailed, "\nConnection to destination port failed, check SSM Agent logs.\n"),
            (Line::Interrupted, "Terminate signal received, exiting.\n"),
            (Line::Message("encrypted"), "encrypted\n"),
            (Line::Closed(id, "bye"), "\n\nSessionId: alice-1 : bye\n\n"),
            (Line::Closed(id, "\nno:\r\n\tbad\u{1b}[2J\n"), "\n\nSessionId: alice-1 : \nno:\r\n\tbad\u{fffd}[2J\n\n\n"),
            (Line::Exiting(id), "\n\nExiting session with sessionId: alice-1.\n\n"),
            (Line::TimedOut(id), "Session: alice-1 timed out.\n"),
        ] {
            assert_eq!(line.to_string(), text);
        }
        let parts: Vec<u32> = VERSION.split('.').map(|part| part.parse().expect("a number")).collect();
        assert!(parts > vec![1, 2, 764, 0]);
    }
}
