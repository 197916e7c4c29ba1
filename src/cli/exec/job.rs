//! Signals and job control of COMMAND: one job with us, in the eyes of the shell that started us.
//!
//! # One process group
//!
//! COMMAND stays in our process group. What is typed reaches it as it would without us: the terminal sends SIGINT, SIGQUIT
//! and SIGTSTP to the whole group. A shell's way, a group of its own that is given the terminal, was decided against: in
//! `ssmfwd … -- psql | less` it would take the terminal away from `less`, which belongs to the same job and would be
//! stopped for reading keys; the user's shell would not know the group that has its terminal, nor get it back if we are
//! killed. `env`, `sudo` and `nice` leave their command in their group, and programs expect it: psql, vim, less and
//! interactive shells as COMMAND do what they do under these. (An interactive bash makes a group for itself, takes the
//! terminal and gives it back at its end.)
//!
//! | signal | to us alone, by `kill` or a supervisor | to the whole group |
//! | --- | --- | --- |
//! | SIGINT, SIGQUIT | passed on, unless we are in the terminal's foreground | typed: COMMAND has it already |
//! | SIGHUP | passed on | the terminal is gone: the kernel or the shell has told the group, unless we lead the session |
//! | SIGTERM, SIGUSR1, SIGUSR2, SIGALRM | passed on | passed on, too: nobody can tell the difference, and a second one changes nothing for most programs |
//! | SIGTSTP, SIGTTIN, SIGTTOU | stops us alone: sessions survive it | stops both |
//! | SIGCONT | COMMAND is continued if it is stopped | both go on |
//! | SIGWINCH | nothing | COMMAND has it already |
//!
//! Who sent a signal cannot be seen from here (tokio does not tell), so whether the terminal has sent it to the group is
//! concluded from whether it could have: hence a SIGINT that somebody sends to a foreground ssmfwd with `kill` is lost on
//! COMMAND. A second one for an editor that is saving its files would be worse.
//!
//! # Stopping together
//!
//! The shell takes the job for stopped when we are. If COMMAND stops alone, as with the `suspend` of bash, we stop as well,
//! a moment later: had it been the terminal, we were stopped already, and its SIGCONT would be seen first. SIGTSTP does it,
//! which the kernel ignores where there would be nobody to continue us. Without a terminal there are no jobs, and tunnels
//! go on.
//!
//! # Dying together
//!
//! `sys::prepare`: on Linux COMMAND is killed when we are. Its own children are its own affair.

use std::{future::pending, io, time::Duration};

use rustix::process::{Pid, Signal as Number, getpid, kill_process};
use tokio::{
    signal::unix::{self, SignalKind},
    time::{Instant, sleep_until},
};

use super::terminal::Terminal;
use crate::cli::signals::Signal;

/// How long COMMAND may be stopped before we follow. Longer than the terminal takes to stop both, shorter than somebody
/// waits for a prompt.
const FOLLOW: Duration = Duration::from_millis(50);

/// What the terminal and the shell have to do with COMMAND.
pub(super) struct Job {
    terminal: Terminal,
    /// SIGCHLD: it has stopped, or goes on.
    changed: unix::Signal,
    /// SIGCONT: we go on.
    continued: unix::Signal,
    /// When to stop, because COMMAND has.
    follow: Option<Instant>,
}

impl Job {
    /// Must run inside a tokio runtime, before COMMAND is started.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminal: Terminal::note(),
            changed: unix::signal(SignalKind::child())?,
            continued: unix::signal(SignalKind::from_raw(Number::CONT.as_raw()))?,
            follow: None,
        })
    }

    /// Stops when COMMAND does and lets it go on when we do, for ever. Cancel-safe.
    pub(super) async fn keep_in_step(&mut self, child: u32) {
        let Some(child) = pid(child) else { return pending().await };
        loop {
            let follow = self.follow;
            let follow = async {
                match follow {
                    Some(follow) => sleep_until(follow).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // That we have been continued comes before all that happened while we were stopped.
                biased;
                _ = self.continued.recv() => {
                    self.follow = None;
                    if is_stopped(child) {
                        send(child, Number::CONT);
                    }
                }
                _ = self.changed.recv() => {
                    let stopped = self.terminal.was_there() && is_stopped(child);
                    self.follow = stopped.then(|| self.follow.unwrap_or_else(|| Instant::now() + FOLLOW));
                }
                () = follow => {
                    self.follow = None;
                    if is_stopped(child) {
                        send(getpid(), Number::TSTP);
                    }
                }
            }
        }
    }

    /// Sends a signal to COMMAND, unless it has got it with us.
    pub(super) fn pass_on(&self, signal: Signal, child: u32) {
        let Some(child) = pid(child) else { return };
        let has_it = match signal {
            Signal::Interrupt | Signal::Quit => self.terminal.in_foreground(),
            Signal::HangUp => self.terminal.has_hung_up_on_all(),
            Signal::Terminate | Signal::User1 | Signal::User2 | Signal::Alarm => false,
        };
        if has_it {
            return;
        }
        send(child, number(signal));
        // What is stopped would see its end only when somebody continues it.
        if matches!(signal, Signal::Terminate | Signal::HangUp) && is_stopped(child) {
            send(child, Number::CONT);
        }
    }

    /// After a COMMAND that a signal has ended.
    pub(super) fn restore_terminal(&self) {
        self.terminal.restore();
    }
}

fn pid(child: u32) -> Option<Pid> {
    i32::try_from(child).ok().and_then(Pid::from_raw)
}

fn number(signal: Signal) -> Number {
    match signal {
        Signal::Interrupt => Number::INT,
        Signal::Terminate => Number::TERM,
        Signal::HangUp => Number::HUP,
        Signal::Quit => Number::QUIT,
        Signal::User1 => Number::USR1,
        Signal::User2 => Number::USR2,
        Signal::Alarm => Number::ALARM,
    }
}

/// A child that runs as somebody else, `sudo` for instance, may not be sent anything: then nothing can be done.
fn send(to: Pid, signal: Number) {
    if let Err(error) = kill_process(to, signal) {
        tracing::debug!(%error, "COMMAND could not be sent a signal");
    }
}

/// Whether a child is stopped at the moment. Asks without taking the answer away: its end is waited for elsewhere.
#[cfg(not(target_os = "openbsd"))]
fn is_stopped(child: Pid) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(child), options), Ok(Some(status)) if status.stopped())
}

/// It has no waitid.
#[cfg(target_os = "openbsd")]
fn is_stopped(_child: Pid) -> bool {
    false
}
