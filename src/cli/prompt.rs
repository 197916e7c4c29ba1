//! Questions to whoever sits at the terminal: whether anybody does, and the code of an MFA device.
//!
//! Nobody is asked who is not there: stderr must be a terminal, and the program in its foreground. A code is read from
//! the terminal itself, so that a pipe on stdin is nobody's answer; other questions need a terminal on stdin too.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
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

/// Questions that wait for an answer. There is one terminal, whoever asks.
static QUESTIONS: AtomicUsize = AtomicUsize::new(0);

/// Whether somebody is being asked: nothing else may be drawn on the terminal.
pub(super) fn is_asking() -> bool {
    QUESTIONS.load(Ordering::SeqCst) > 0
}

/// A question, from before it is asked until it is answered or given up.
struct Question;

impl Question {
    fn new() -> Self {
        QUESTIONS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        QUESTIONS.fetch_sub(1, Ordering::SeqCst);
    }
}

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
        let _question = Question::new();
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
        if !is_watched() {
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

/// Whether there is somebody who sees a question and can answer it on stdin.
pub(super) fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && is_watched()
}

/// Whether somebody sees what is written to stderr, and the program may read from that terminal: in the background it
/// would be stopped for trying, with its ports bound.
fn is_watched() -> bool {
    io::stderr().is_terminal() && in_foreground()
}

/// Whether the terminal has given itself to our process group.
#[cfg(unix)]
pub(super) fn in_foreground() -> bool {
    use rustix::{process::getpgrp, termios::tcgetpgrp};
    tcgetpgrp(io::stderr()).is_ok_and(|foreground| foreground == getpgrp())
}

/// Consoles have no background.
#[cfg(not(unix))]
pub(super) fn in_foreground() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

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
