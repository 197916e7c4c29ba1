//! The signals: most end the program, SIGUSR1 shows what it is doing, and SIGHUP has it read its configuration again
//! where there is no terminal that could be gone.

use std::{
    future::{self, Future},
    io,
    pin::pin,
};

use tokio::sync::mpsc;

use super::{exec::has_terminal, exit::Exit};

/// Signals that wait to be handled. More of them say nothing new.
const WAITING: usize = 4;

/// A wish to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(unix), expect(dead_code, reason = "only unix has others than Ctrl-C"))]
pub(super) enum Signal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal is gone, or the configuration is to be read again.
    HangUp,
    /// SIGQUIT, Ctrl-\.
    Quit,
    /// SIGUSR1: what is the program doing?
    User1,
    /// SIGUSR2, which like the next means nothing here but would end the program and leave its sessions behind.
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

/// What somebody wants of a program that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// That it ends.
    End(Signal),
    /// That it reads its configuration again.
    Reload,
}

/// The signals of the program, from [`install`](Signals::install) on.
pub(super) struct Signals {
    receiver: mpsc::Receiver<Signal>,
    /// Ctrl-C has been pressed.
    interrupted: bool,
    /// Shows what the program is doing.
    show_state: Option<Box<dyn Fn() + Send>>,
    hang_up: HangUp,
}

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HangUp {
    Ends,
    Reloads {
        /// It has come.
        wished: bool,
    },
}

impl Signals {
    /// Takes over the signals. Must run inside a tokio runtime.
    pub(super) fn install() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(WAITING);
        listen(&sender)?;
        Ok(receiver.into())
    }

    /// From now on SIGUSR1 shows what the program is doing.
    pub(super) fn show_state(&mut self, show_state: impl Fn() + Send + 'static) {
        self.show_state = Some(Box::new(show_state));
    }

    /// From now on SIGHUP has the program read its configuration again, unless there is a terminal: with that gone,
    /// forwards must not run on.
    pub(super) fn serve(&mut self) {
        if !has_terminal() {
            self.hang_up = HangUp::Reloads { wished: false };
        }
    }

    /// From now on every signal is returned: they are for somebody else.
    pub(super) fn pass_all(&mut self) {
        self.show_state = None;
        self.hang_up = HangUp::Ends;
    }

    /// As without a terminal.
    #[cfg(test)]
    pub(super) fn reload_on_hang_up(&mut self) {
        self.hang_up = HangUp::Reloads { wished: false };
    }

    /// The next signal that ends the program. A wish to reload is kept for later. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signal {
        loop {
            if let Wish::End(signal) = self.receive().await {
                return signal;
            }
            self.hang_up = HangUp::Reloads { wished: true };
        }
    }

    /// What is wanted next. Cancel-safe.
    pub(super) async fn wish(&mut self) -> Wish {
        if self.hang_up == (HangUp::Reloads { wished: true }) {
            self.hang_up = HangUp::Reloads { wished: false };
            return Wish::Reload;
        }
        self.receive().await
    }

    async fn receive(&mut self) -> Wish {
        loop {
            match self.receiver.recv().await {
                Some(Signal::HangUp) if self.hang_up != HangUp::Ends => return Wish::Reload,
                Some(Signal::User1) if self.show_state.is_some() => {
                    self.show_state.iter().for_each(|show_state| show_state());
                }
                Some(signal) => {
                    self.interrupted |= signal == Signal::Interrupt;
                    return Wish::End(signal);
                }
                // Nobody can send one any more.
                None => future::pending().await,
            }
        }
    }

    /// As if no signal had come: those that have were for somebody else.
    pub(super) fn forget(&mut self) {
        self.interrupted = false;
    }

    /// Waits for `work`, but not past a second Ctrl-C: `None`. At the first one, `hurry` is called.
    pub(super) async fn unless_interrupted<F: Future>(&mut self, work: F, hurry: impl Fn()) -> Option<F::Output> {
        let mut work = pin!(work);
        loop {
            let again = self.interrupted;
            tokio::select! {
                output = &mut work => return Some(output),
                signal = self.next() => match signal {
                    Signal::Interrupt if again => return None,
                    Signal::Interrupt => hurry(),
                    _ => {}
                }
            }
        }
    }
}

impl From<mpsc::Receiver<Signal>> for Signals {
    fn from(receiver: mpsc::Receiver<Signal>) -> Self {
        Self { receiver, interrupted: false, show_state: None, hang_up: HangUp::Ends }
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
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_wish_to_reload_is_kept_until_it_can_be_heeded() {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut signals = Signals::from(receiver);
        let shown = Arc::<AtomicU32>::default();
        let count = shown.clone();
        signals.show_state(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        signals.reload_on_hang_up();
        for signal in [Signal::User1, Signal::HangUp, Signal::HangUp, Signal::Terminate] {
            sender.try_send(signal).expect("room");
        }
        assert_eq!(signals.next().await, Signal::Terminate);
        assert_eq!(shown.load(Ordering::Relaxed), 1);
        assert_eq!(signals.wish().await, Wish::Reload);
        sender.try_send(Signal::HangUp).expect("room");
        sender.try_send(Signal::Interrupt).expect("room");
        assert_eq!(signals.wish().await, Wish::Reload);
        assert_eq!(signals.wish().await, Wish::End(Signal::Interrupt));
    }

    #[tokio::test]
    async fn with_a_terminal_a_hang_up_ends() {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut signals = Signals::from(receiver);
        signals.serve();
        signals.pass_all();
        sender.try_send(Signal::HangUp).expect("room");
        assert_eq!(signals.wish().await, Wish::End(Signal::HangUp));
    }

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
