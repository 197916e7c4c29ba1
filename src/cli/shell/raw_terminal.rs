//! The local terminal in raw mode: every key is for the remote shell, and what that writes is shown as it is.
//!
//! Put back on every way out: the end of the guard, a panic, and the signals that the program handles, because they
//! come to the end of the guard as well. Killed, nobody can.

#[cfg(unix)]
pub(super) use self::unix::{JobControl, RawTerminal, follow_size, size};
#[cfg(not(unix))]
pub(super) use self::without::{JobControl, RawTerminal, follow_size, size};

#[cfg(unix)]
mod unix {
    use std::{
        convert::Infallible,
        io,
        sync::{Mutex, Once, PoisonError},
    };

    use rustix::termios::{OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr};
    use tokio::signal::unix::{Signal, SignalKind, signal};

    use crate::cli::{console, prompt::in_foreground};

    /// Not when what was written before has been shown: with a terminal that shows nothing at the moment (Ctrl-S), the
    /// end would wait for whoever has stopped it.
    const AT_ONCE: OptionalActions = OptionalActions::Now;

    /// The modes to go back to. Not in the guard: whoever panics unwinds past that, but shows its message before.
    static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

    /// The terminal at stdin in raw mode.
    pub(in super::super) struct RawTerminal {
        modes: Termios,
    }

    impl RawTerminal {
        /// `None` if stdin is no terminal, or nothing is to be typed.
        ///
        /// # Errors
        /// When its modes cannot be changed.
        pub(in super::super) fn enter(types: bool) -> io::Result<Option<Self>> {
            if !types || !isatty(io::stdin()) {
                return Ok(None);
            }
            let before = tcgetattr(io::stdin())?;
            let mut raw = before.clone();
            raw.make_raw();
            *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            restore_before_panics();
            let guard = Self { modes: raw };
            tcsetattr(io::stdin(), AT_ONCE, &guard.modes)?;
            console::set_raw(true);
            Ok(Some(guard))
        }

        /// Once more: while we were stopped (SIGSTOP), somebody else had the terminal.
        pub(in super::super) fn resume(&self) {
            if in_foreground()
                && let Err(error) = tcsetattr(io::stdin(), AT_ONCE, &self.modes)
            {
                tracing::debug!(%error, "the terminal is not in raw mode");
            }
        }
    }

    impl Drop for RawTerminal {
        fn drop(&mut self) {
            restore();
        }
    }

    fn restore() {
        let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(before) = before else { return };
        console::set_raw(false);
        // A terminal that is gone needs no repair.
        if let Err(error) = tcsetattr(io::stdin(), AT_ONCE, &before) {
            tracing::debug!(%error, "the terminal is not as it was");
        }
    }

    fn restore_before_panics() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                next(panic);
            }));
        });
    }

    /// Columns and rows of the terminal that shows the output, or at which somebody types.
    pub(in super::super) fn size() -> Option<(u32, u32)> {
        let of = |size: rustix::io::Result<Winsize>| {
            let size = size.ok().filter(|size| size.ws_col > 0 && size.ws_row > 0)?;
            Some((u32::from(size.ws_col), u32::from(size.ws_row)))
        };
        of(tcgetwinsize(io::stdout())).or_else(|| of(tcgetwinsize(io::stdin())))
    }

    /// Tells the size now, and whenever it has changed. Without a terminal, or signals, never.
    pub(in super::super) async fn follow_size(mut tell: impl FnMut(u32, u32)) -> Infallible {
        let mut changes = signal(SignalKind::window_change());
        loop {
            if let Some((columns, rows)) = size() {
                tell(columns, rows);
            }
            let changed = match &mut changes {
                Ok(changes) => changes.recv().await,
                Err(_) => None,
            };
            if changed.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A signal of job control.
    pub(in super::super) struct JobControl(Option<Signal>);

    impl JobControl {
        /// SIGTSTP, which is not for us: what runs in the shell is to be suspended.
        pub(in super::super) fn suspensions() -> Self {
            Self::of(rustix::process::Signal::TSTP)
        }

        /// SIGCONT: we go on.
        pub(in super::super) fn continuations() -> Self {
            Self::of(rustix::process::Signal::CONT)
        }

        /// They have no names of their own there.
        fn of(kind: rustix::process::Signal) -> Self {
            Self(signal(SignalKind::from_raw(kind.as_raw())).ok())
        }

        /// Cancel-safe.
        pub(in super::super) async fn next(&mut self) {
            let came = match &mut self.0 {
                Some(signals) => signals.recv().await,
                None => None,
            };
            if came.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(not(unix))]
mod without {
    use std::{convert::Infallible, io};

    /// There is no raw mode: lines are typed, and sent whole.
    pub(in super::super) struct RawTerminal(());

    impl RawTerminal {
        pub(in super::super) fn enter(_: bool) -> io::Result<Option<Self>> {
            Ok(None)
        }

        pub(in super::super) fn resume(&self) {}
    }

    pub(in super::super) fn size() -> Option<(u32, u32)> {
        None
    }

    pub(in super::super) async fn follow_size(_: impl FnMut(u32, u32)) -> Infallible {
        std::future::pending().await
    }

    /// There are none.
    pub(in super::super) struct JobControl(());

    impl JobControl {
        pub(in super::super) fn suspensions() -> Self {
            Self(())
        }

        pub(in super::super) fn continuations() -> Self {
            Self(())
        }

        pub(in super::super) async fn next(&mut self) {
            std::future::pending().await
        }
    }
}
