//! A terminal of its own for a program: what somebody types and sees.
//!
//! Like one that has just been opened: 24 lines of 80 columns, and what is typed is shown unless the program wants it
//! otherwise.

use std::{os::unix::process::ExitStatusExt as _, process::Command, time::Duration};

use pty_process::{Pty, Size};
use rustix::{
    process::{Pid, Signal, kill_process},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Child,
    time::timeout,
};

/// How long anything may take. Far more than it does on an idle machine: it only ends tests that would hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal and the program in it. Dropped, its window is closed and the program killed.
pub(crate) struct Terminal {
    pty: Pty,
    child: Child,
    /// All that has been on the screen.
    pub(crate) shown: String,
    /// Up to where [`shows`](Self::shows) has looked.
    seen: usize,
}

impl Terminal {
    /// Starts a program with the arguments of a command and only the variables that are set there.
    pub(crate) fn start(command: &Command) -> Self {
        let (pty, tty) = pty_process::open().expect("a terminal");
        pty.resize(Size::new(24, 80)).expect("a terminal");
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let program = pty_process::Command::new(command.get_program()).args(command.get_args());
        let program = program.env_clear().envs(variables).kill_on_drop(true);
        let child = program.spawn(tty).expect("it can be started");
        Self { pty, child, shown: String::new(), seen: 0 }
    }

    /// Runs a shell's line with these variables only.
    pub(crate) fn line<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>, line: &str) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.envs(variables).args(["-c", line]);
        Self::start(&shell)
    }

    /// The process of the program.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Makes the window this large.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        self.pty.resize(Size::new(rows, columns)).expect("a terminal");
    }

    /// Types.
    pub(crate) async fn types(&mut self, keys: &str) {
        self.pty.write_all(keys.as_bytes()).await.expect("a keyboard");
    }

    /// Reads until a text has been on the screen.
    pub(crate) async fn until(&mut self, text: &str) {
        let mut from = 0;
        while !self.shown[from..].contains(text) {
            from = self.shown.len().saturating_sub(text.len() + 4);
            from = (0..=from).rev().find(|&at| self.shown.is_char_boundary(at)).unwrap_or(0);
            assert!(self.read(text).await, "no {text:?} in:\n{}", self.shown);
        }
    }

    /// Reads until a text is shown behind the one that was waited for last; returns what was before it.
    pub(crate) async fn shows(&mut self, text: &str) -> String {
        loop {
            if let Some((before, _)) = self.shown[self.seen..].split_once(text) {
                let before = before.to_owned();
                self.seen += before.len() + text.len();
                return before;
            }
            assert!(self.read(text).await, "no {text:?} in:\n{}", &self.shown[self.seen..]);
        }
    }

    /// `false` at the end.
    async fn read(&mut self, awaited: &str) -> bool {
        let mut buffer = [0; 4096];
        let read = timeout(PATIENCE, self.pty.read(&mut buffer)).await;
        // On Linux a terminal whose programs have ended gives an error.
        let count =
            read.unwrap_or_else(|_| panic!("no {awaited:?} within {PATIENCE:?} in:\n{}", self.shown)).unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
        count > 0
    }

    /// The modes of the terminal.
    pub(crate) fn modes(&self) -> Termios {
        tcgetattr(&self.pty).expect("a terminal")
    }

    pub(crate) fn set_modes(&self, modes: &Termios) {
        tcsetattr(&self.pty, OptionalActions::Now, modes).expect("a terminal");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).expect("it runs");
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for the end, without looking: the exit status as a shell gives it.
    pub(crate) async fn end_unseen(mut self) -> Option<i32> {
        let status =
            timeout(PATIENCE, self.child.wait()).await.unwrap_or_else(|_| panic!("no end within {PATIENCE:?}"));
        let status = status.expect("a child of ours");
        status.code().or_else(|| status.signal().map(|signal| 128 + signal))
    }

    /// Waits for the end: the exit status as a shell gives it, and all that was shown.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        while self.read("end").await {}
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("no end within {PATIENCE:?} after:\n{}", self.shown));
        let status = status.expect("a child of ours");
        (status.code().or_else(|| status.signal().map(|signal| 128 + signal)), self.shown)
    }
}
