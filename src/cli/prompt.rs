//! Questions to whoever sits at the terminal: the code of an MFA device.
//!
//! Nobody is asked who is not there: stderr must be a terminal, the program in its foreground, and what is read comes
//! from the terminal itself, so that a pipe on stdin is nobody's answer.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    sync::{Mutex, PoisonError},
};

use tokio::{sync::Mutex as AsyncMutex, task::JoinHandle};

use super::console::printable;
use crate::{
    aws::{MfaCode, MfaPrompt, MfaRequest, NoCode},
    session::BoxFuture,
};

/// Lines that are no codes before the question is given up.
const TRIES: u32 = 3;

/// A line that is longer is not typed by hand. Bytes.
const LINE_MAX: u64 = 1024;

/// Asks on the terminal, unless the code was given beforehand.
#[derive(Debug)]
pub(super) struct TerminalPrompt {
    /// For the first question.
    given: Mutex<Option<MfaCode>>,
    /// What is typed now. It cannot be stopped, so a question that was given up leaves it to the next one.
    typing: AsyncMutex<Option<JoinHandle<io::Result<String>>>>,
}

impl TerminalPrompt {
    pub(super) fn new(given: Option<MfaCode>) -> Self {
        Self { given: Mutex::new(given), typing: AsyncMutex::default() }
    }

    async fn ask(&self, request: &MfaRequest) -> Result<MfaCode, NoCode> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(code) = given {
            return Ok(code);
        }
        let mut typing = self.typing.lock().await;
        let mut terminal = Terminal::open().ok_or(NoCode::NoTerminal)?;
        if let Some(said) = &request.refused {
            terminal.write(&format!("ssmfwd: not accepted: {}\n", printable(said)))?;
        }
        let (serial, profile) = (printable(&request.serial), printable(&request.profile));
        for _ in 0..TRIES {
            terminal.write(&format!("ssmfwd: code of the MFA device {serial} (profile {profile}): "))?;
            let line = match &mut *typing {
                Some(line) => line,
                none => none.insert(terminal.line()?),
            };
            let line = line.await;
            *typing = None;
            let line = line.map_err(io::Error::other)??;
            if line.is_empty() {
                // The end of input, as Ctrl-D makes it: its line has no end yet.
                terminal.write("\n")?;
                return Err(NoCode::Cancelled);
            }
            match MfaCode::parse(&line) {
                Some(code) => return Ok(code),
                None => terminal.write("ssmfwd: a code is six digits\n")?,
            }
        }
        Err(NoCode::Cancelled)
    }
}

impl MfaPrompt for TerminalPrompt {
    fn code<'a>(&'a self, request: &'a MfaRequest) -> BoxFuture<'a, Result<MfaCode, NoCode>> {
        Box::pin(self.ask(request))
    }
}

/// The terminal that the program was started in.
struct Terminal(File);

impl Terminal {
    fn open() -> Option<Self> {
        if !io::stderr().is_terminal() || !in_foreground() {
            return None;
        }
        let name = if cfg!(windows) { "CONIN$" } else { "/dev/tty" };
        OpenOptions::new().read(true).write(true).open(name).ok().map(Self)
    }

    /// Short enough for a terminal to take at once.
    fn write(&mut self, text: &str) -> io::Result<()> {
        if cfg!(windows) {
            return io::stderr().write_all(text.as_bytes());
        }
        self.0.write_all(text.as_bytes())
    }

    /// Reads a line on a thread of its own: the sessions go on meanwhile.
    fn line(&self) -> io::Result<JoinHandle<io::Result<String>>> {
        let terminal = self.0.try_clone()?;
        Ok(tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(terminal.take(LINE_MAX)).read_line(&mut line)?;
            Ok(line)
        }))
    }
}

/// Whether the program may read from its terminal: in the background it would be stopped for trying. Where the system
/// does not tell, it may.
fn in_foreground() -> bool {
    std::fs::read_to_string("/proc/self/stat").map_or(true, |stat| is_foreground(&stat).unwrap_or(true))
}

/// From Linux's `/proc/self/stat`: behind the name, which can contain anything, come the state, the parent, the process
/// group, the session, the terminal and the terminal's foreground group.
fn is_foreground(stat: &str) -> Option<bool> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let group = fields.nth(2)?;
    Some(group == fields.nth(2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_foreground_is_where_the_terminal_says() {
        for (stat, expected) in [
            ("12 (ssmfwd) R 1 12 1 34816 12 4194304", Some(true)),
            ("12 (a ) b) S 1 12 1 34816 99 4194304", Some(false)),
            ("12 (ssmfwd) R 1 12 1 0 -1 4194304", Some(false)),
            ("12 (ssmfwd) R", None),
            ("", None),
        ] {
            assert_eq!(is_foreground(stat), expected, "{stat}");
        }
    }

    #[tokio::test]
    async fn a_code_that_was_given_is_for_the_first_question() {
        let code = MfaCode::parse("123456").expect("digits");
        let prompt = TerminalPrompt::new(Some(code.clone()));
        let request = MfaRequest::new("dev", "arn:aws:iam::1:mfa/x", "arn:aws:iam::1:role/x");
        assert_eq!(prompt.code(&request).await.expect("as given"), code);
        // Whether there is a terminal depends on who runs the tests.
        assert_eq!(*prompt.given.lock().expect("no panic"), None);
    }
}
