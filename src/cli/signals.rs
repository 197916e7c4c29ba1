//! The signals that end the program.

use std::{
    future::{self, Future},
    io,
    pin::pin,
};

use tokio::sync::mpsc;

use super::exit::Exit;

/// Signals that wait to be handled. More of them say nothing new.
const WAITING: usize = 4;

/// A wish to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal is gone.
    HangUp,
    /// SIGQUIT, Ctrl-\.
    Quit,
    /// SIGUSR1, which like the next two means nothing here but would end the program and leave its sessions behind.
    User1,
    /// SIGUSR2.
    User2,
    /// SIGALRM.
    Alarm,
}

impl Signal {
    pub(super) const fn exit(self) -> Exit {
        match self {
            Self::Interrupt => Exit::Interrupt,
            Self::Terminate => Exit::Terminate,
            Self::HangUp => Exit::HangUp,
            Self::Quit => Exit::Quit,
            Self::User1 => Exit::User1,
            Self::User2 => Exit::User2,
            Self::Alarm => Exit::Alarm,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
            Self::Quit => "SIGQUIT",
            Self::User1 => "SIGUSR1",
            Self::User2 => "SIGUSR2",
            Self::Alarm => "SIGALRM",
        }
    }
}

/// The signals of the program, from [`install`](Signals::install) on.
pub(super) struct Signals {
    receiver: mpsc::Receiver<Signal>,
    seen: bool,
}

impl Signals {
    /// Takes over the signals. Must run inside a tokio runtime.
    pub(super) fn install() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(WAITING);
        listen(&sender)?;
        Ok(receiver.into())
    }

    /// The next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signal {
        match self.receiver.recv().await {
            Some(signal) => {
                self.seen = true;
                signal
            }
            // Nobody can send one any more.
            None => future::pending().await,
        }
    }

    /// Waits for `work`, but not past a Ctrl-C that is not the first signal: `None`.
    pub(super) async fn unless_interrupted<F: Future>(&mut self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        loop {
            let again = self.seen;
            tokio::select! {
                output = &mut work => return Some(output),
                signal = self.next() => if again && signal == Signal::Interrupt {
                    return None;
                }
            }
        }
    }
}

impl From<mpsc::Receiver<Signal>> for Signals {
    fn from(receiver: mpsc::Receiver<Signal>) -> Self {
        Self { receiver, seen: false }
    }
}

#[cfg(unix)]
fn listen(sender: &mpsc::Sender<Signal>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    // What `nohup` has switched off stays off. Where there is no such file, nothing tells.
    let ignores_hang_up = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hang_up(&status));
    for (kind, meaning) in [
        (SignalKind::interrupt(), Signal::Interrupt),
        (SignalKind::terminate(), Signal::Terminate),
        (SignalKind::hangup(), Signal::HangUp),
        (SignalKind::quit(), Signal::Quit),
        (SignalKind::user_defined1(), Signal::User1),
        (SignalKind::user_defined2(), Signal::User2),
        (SignalKind::alarm(), Signal::Alarm),
    ] {
        if meaning == Signal::HangUp && ignores_hang_up {
            continue;
        }
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move { while signals.recv().await.is_some() && sender.send(meaning).await.is_ok() {} });
    }
    Ok(())
}

/// Whether a process ignores SIGHUP, from its `status` in Linux's `/proc`: the lowest bit is signal 1.
#[cfg(unix)]
fn ignores_hang_up(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(not(unix))]
fn listen(sender: &mpsc::Sender<Signal>) -> io::Result<()> {
    let sender = sender.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() && sender.send(Signal::Interrupt).await.is_ok() {}
    });
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hang_up_is_seen() {
        for (status, ignores) in [
            ("Name:\tssmfwd\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n", true),
            ("Name:\tssmfwd\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n", false),
            ("SigIgn:\tx\n", false),
            ("", false),
        ] {
            assert_eq!(ignores_hang_up(status), ignores, "{status}");
        }
    }
}
