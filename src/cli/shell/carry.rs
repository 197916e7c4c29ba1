//! A shell on the local terminal, or on whatever stdin, stdout and stderr are.
//!
//! ```text
//! stdin ──▶ escapes ──▶ line ends ──┐
//! SIGINT, SIGQUIT, SIGTSTP as bytes ┴▶ ShellWriter
//! SIGWINCH ─────────────────────────▶ resize
//! stdout, stderr ◀──────────────────── ShellReader
//! ```

use std::{io, iter, pin::pin, time::Duration};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    escape::{Asked, Escapes},
    raw_terminal::{self, JobControl, RawTerminal},
};
use crate::{
    cli::{
        args::Escape,
        reporter::Reporter,
        signals::{Signal, Signals},
    },
    forward::stdio::{Input as LocalInput, Output, Stdin, outage},
    proto::{CloseReason, StreamError},
    session::{Session, ShellOutput, ShellReader, ShellWriter},
};

/// The type of sessions whose command takes signals for its only input.
const NON_INTERACTIVE: &str = "NonInteractiveCommands";

/// Bytes that are typed, or pasted, at once.
const CHUNK: usize = 16 << 10;

/// Bytes that wait for a shell that takes nothing. Beyond that nothing is read, not even escapes.
const WAITING: usize = 1 << 20;

/// After so long the end of stdin is typed again, and then after twice as long each time; for some minutes, and then no
/// more, so that no idle timeout is kept away by it.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_LAST: Duration = Duration::from_secs(256);

/// Keys that wait for a shell that takes nothing.
const KEYS: usize = 8;

/// The exit status of a command that could not be started, as agents give it where they give one.
const NOT_STARTED: i32 = 1;

/// Two interrupts within this time are for us.
const TWICE: Duration = Duration::from_secs(2);

/// What the keys are sent as that a terminal would make signals of.
const INTERRUPT: u8 = 0x03;
const QUIT: u8 = 0x1c;
const SUSPEND: u8 = 0x1a;
/// What a terminal takes for the end of its input, at the beginning of a line.
const END_OF_INPUT: u8 = 0x04;

const HELP: &str = "~.  end the session\n~?  this list\n~-  no more escapes\n~~  one ~ for the shell\n\
    (only at the beginning of a line)";

/// How a shell is to be carried.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct ShellOptions {
    /// What escapes begin with.
    pub(in crate::cli) escape: Escape,
    /// How long a session may be away where nobody is there to give up.
    pub(in crate::cli) reconnect_window: Duration,
}

/// How a shell came to its end.
#[derive(Debug)]
pub(in crate::cli) enum ShellEnd {
    /// By itself; with its exit status, if the agent tells it.
    Ended(Option<i32>),
    /// The session is over.
    Session(CloseReason),
    /// It was not back in time.
    Outage(Duration),
    /// The user wants no more of it.
    Left,
    Signal(Signal),
    /// The local terminal, or what is in its place, failed.
    Local(io::Error),
}

impl ShellEnd {
    /// What was pressed was for the shell, unless it was what ended it.
    pub(in crate::cli) fn forget(&self, signals: &mut Signals) {
        if !matches!(self, Self::Signal(_)) {
            signals.forget();
        }
    }
}

/// Carries the shell of a session to its end. The terminal is as it was when this returns; the session is not ended.
pub(in crate::cli) async fn carry(
    session: &Session,
    stdin: &Stdin,
    options: ShellOptions,
    signals: &mut Signals,
    reporter: &Reporter,
) -> ShellEnd {
    let Ok(shell) = session.shell() else { return ShellEnd::Session(session.closed().await) };
    let stdin = match stdin.open() {
        Ok(stdin) => stdin,
        Err(error) => return ShellEnd::Local(of("stdin", &error)),
    };
    let (writer, reader) = shell.split();
    let takes_input = session.declared().is_none_or(|declared| declared.session_type != NON_INTERACTIVE);
    let terminal = match RawTerminal::enter(takes_input) {
        Ok(terminal) => terminal,
        Err(error) => return ShellEnd::Local(of("the terminal", &error)),
    };
    let is_terminal = terminal.is_some();
    let escapes = Escapes::new(options.escape.0.filter(|_| is_terminal));
    let (keys, pressed) = mpsc::channel(KEYS);
    let stdout = match Output::stdout() {
        Ok(stdout) => stdout,
        Err(error) => return ShellEnd::Local(of("stdout", &error)),
    };
    let mut output = pin!(show(reader, stdout, !takes_input));
    let mut input = pin!(type_in(Input { stdin, writer, pressed, escapes, is_terminal, takes_input, reporter }));
    let mut sizes = pin!(raw_terminal::follow_size(|columns, rows| session.resize(columns, rows)));
    let (mut suspensions, mut continuations) = (JobControl::suspensions(), JobControl::continuations());
    let mut away = pin!(outage(session.health(), options.reconnect_window));
    let mut interrupted: Option<Instant> = None;
    let mut types = true;
    loop {
        tokio::select! {
            biased;
            ended = &mut output => return match ended {
                Ok(code) => ShellEnd::Ended(code),
                Err(error) => failed(error, session).await,
            },
            typed = &mut input, if types => match typed {
                Typed::Left => return ShellEnd::Left,
                Typed::HungUp => return ShellEnd::Signal(Signal::HangUp),
                Typed::Failed(error) => return ShellEnd::Local(error),
                // What the shell has written before is still shown.
                Typed::Over => types = false,
            },
            signal = signals.next() => {
                let key = match signal {
                    // Who has no patience with what takes no notice of it leaves.
                    Signal::Interrupt if interrupted.is_some_and(|at| at.elapsed() < TWICE) => {
                        return ShellEnd::Signal(signal);
                    }
                    Signal::Interrupt => {
                        interrupted = Some(Instant::now());
                        INTERRUPT
                    }
                    Signal::Quit => QUIT,
                    signal => return ShellEnd::Signal(signal),
                };
                // A shell that takes nothing for so long takes no signals either.
                keys.try_send(key).ok();
            }
            never = &mut sizes => match never {},
            () = suspensions.next() => drop(keys.try_send(SUSPEND)),
            () = continuations.next() => terminal.iter().for_each(RawTerminal::resume),
            // At a terminal somebody is there to wait, or to leave.
            outage = &mut away, if !is_terminal => return ShellEnd::Outage(outage),
        }
    }
}

/// Why the output broke off.
async fn failed(error: io::Error, session: &Session) -> ShellEnd {
    if error.get_ref().is_some_and(|error| error.is::<StreamError>()) {
        return ShellEnd::Session(session.closed().await);
    }
    match error.kind() {
        // Who has read enough, as `head` has, wants no more.
        io::ErrorKind::BrokenPipe => ShellEnd::Left,
        _ => ShellEnd::Local(error),
    }
}

/// Shows what the shell writes, until it has ended; returns its exit status, if it is told. Where it is not, of a program
/// without a terminal, error output says why it could not be started, and nothing else.
async fn show(mut reader: ShellReader, mut stdout: Output, is_program: bool) -> io::Result<Option<i32>> {
    let mut stderr = tokio::io::stderr();
    let (mut has_output, mut has_error_output) = (false, false);
    while let Some(output) = reader.next().await? {
        match output {
            ShellOutput::Output(bytes) => {
                has_output = true;
                write(&mut stdout, &bytes).await.map_err(|error| of("stdout", &error))
            }
            ShellOutput::ErrorOutput(bytes) => {
                has_error_output = true;
                write(&mut stderr, &bytes).await.map_err(|error| of("stderr", &error))
            }
        }?;
    }
    let not_started = is_program && has_error_output && !has_output;
    Ok(reader.exit_code().or_else(|| not_started.then_some(NOT_STARTED)))
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

fn of(which: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{which}: {error}"))
}

/// How the input came to its end. Where stdin ends before the shell, it does not.
enum Typed {
    /// The user wants no more.
    Left,
    /// The terminal is gone.
    HungUp,
    /// The shell takes nothing any more.
    Over,
    Failed(io::Error),
}

struct Input<'a> {
    stdin: LocalInput,
    writer: ShellWriter,
    /// Keys that came as signals.
    pressed: mpsc::Receiver<u8>,
    escapes: Escapes,
    is_terminal: bool,
    takes_input: bool,
    reporter: &'a Reporter,
}

/// Passes on what is typed. A shell that takes nothing does not keep escapes from being found.
async fn type_in(input: Input<'_>) -> Typed {
    let Input { mut stdin, mut writer, mut pressed, mut escapes, is_terminal, takes_input, reporter } = input;
    let mut buffer = vec![0; CHUNK];
    let mut reads = takes_input;
    let mut within_line = false;
    let mut waiting = BytesMut::new();
    let mut end: Option<EndOfInput> = None;
    loop {
        let mut for_shell = Vec::new();
        let again = end.as_ref().and_then(|end| end.again);
        let has_room = waiting.len() < WAITING;
        tokio::select! {
            biased;
            written = writer.write(&waiting), if !waiting.is_empty() => match written {
                Ok(count) if count > 0 => waiting.advance(count),
                _ => return Typed::Over,
            },
            Some(key) = pressed.recv(), if has_room => for_shell.push(key),
            read = stdin.read(&mut buffer), if reads && has_room => {
                let mut typed = match read {
                    Ok(0) if is_terminal => return Typed::HungUp,
                    Ok(0) => {
                        reads = false;
                        // The first one of two ends a line that has begun.
                        for_shell.extend(iter::repeat_n(END_OF_INPUT, 1 + usize::from(within_line)));
                        end = Some(EndOfInput::now());
                        &[][..]
                    }
                    Ok(count) => &buffer[..count],
                    Err(error) => return Typed::Failed(of("stdin", &error)),
                };
                if let Some(last) = typed.last() {
                    within_line = !matches!(last, b'\n' | b'\r');
                }
                while let Some((asked, rest)) = escapes.pass(typed, &mut for_shell) {
                    match asked {
                        Asked::End => return Typed::Left,
                        Asked::Help => escapes.shown(HELP).lines().for_each(|line| reporter.show(line)),
                    }
                    typed = rest;
                }
            }
            () = at(again), if waiting.is_empty() => if let Some(end) = &mut end {
                end.later();
                // One that edits its line itself takes the key for another one within it.
                if std::mem::take(&mut within_line) {
                    for_shell.push(b'\r');
                }
                for_shell.push(END_OF_INPUT);
            },
        }
        // Agents on Windows want the key and not the character. A line feed within other input they turn themselves.
        if for_shell == b"\n" {
            for_shell = vec![b'\r'];
        }
        waiting.extend_from_slice(&for_shell);
    }
}

/// The end of stdin, typed. A shell that was busy when it came may not have noticed: what a terminal makes of the key
/// depends on who reads. So it is typed again, less and less often.
struct EndOfInput {
    again: Option<Instant>,
    wait: Duration,
}

impl EndOfInput {
    fn now() -> Self {
        Self { again: Some(Instant::now() + AGAIN), wait: AGAIN }
    }

    fn later(&mut self) {
        self.wait = self.wait.saturating_mul(2);
        self.again = Some(Instant::now() + self.wait).filter(|_| self.wait <= AGAIN_AT_LAST);
    }
}

/// Completes then, if ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
