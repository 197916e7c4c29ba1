//! The controlling terminal: whether there is one, whether it is ours at the moment, and how it was found.

/// Whether the program has a controlling terminal. Without one, SIGHUP does not mean that a window was closed.
pub(in crate::cli) fn has_terminal() -> bool {
    #[cfg(unix)]
    return unix::open().is_some();
    #[cfg(not(unix))]
    true
}

#[cfg(unix)]
pub(super) use unix::Terminal;

#[cfg(unix)]
mod unix {
    use std::{
        fs::OpenOptions,
        io,
        os::fd::{AsFd, OwnedFd},
    };

    use rustix::{
        process::{getpgrp, getpid, getsid},
        termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr},
    };

    /// The terminal as it was when a child was started.
    pub(in super::super) struct Terminal {
        /// `None`: there was no terminal.
        modes: Option<Termios>,
    }

    impl Terminal {
        pub(in super::super) fn note() -> Self {
            Self { modes: open().and_then(|terminal| tcgetattr(terminal).ok()) }
        }

        pub(in super::super) fn was_there(&self) -> bool {
            self.modes.is_some()
        }

        /// Whether what is typed comes to our process group as signals.
        pub(in super::super) fn in_foreground(&self) -> bool {
            open().is_some_and(|terminal| is_foreground(&terminal))
        }

        /// Whether it has gone while others in this session were told as well: the kernel tells the session's leader, and
        /// he, or the kernel in his place, the process groups.
        pub(in super::super) fn has_hung_up_on_all(&self) -> bool {
            self.was_there() && open().is_none() && getsid(None).is_ok_and(|leader| leader != getpid())
        }

        /// Puts the modes back after a child that could not do it itself. In the background the terminal is somebody
        /// else's, and trying would stop us.
        pub(in super::super) fn restore(&self) {
            let (Some(modes), Some(terminal)) = (&self.modes, open()) else { return };
            if is_foreground(&terminal)
                && let Err(error) = tcsetattr(&terminal, OptionalActions::Now, modes)
            {
                tracing::debug!(%error, "the terminal is not as it was");
            }
        }
    }

    fn is_foreground(terminal: &OwnedFd) -> bool {
        tcgetpgrp(terminal).is_ok_and(|foreground| foreground == getpgrp())
    }

    /// The controlling terminal: by its name, or where a container has no such file, as whichever of stdin, stdout and
    /// stderr is it.
    pub(super) fn open() -> Option<OwnedFd> {
        if let Ok(terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") {
            return Some(terminal.into());
        }
        fn own(standard: impl AsFd) -> Option<OwnedFd> {
            // Asking any other terminal, or none, for its foreground is an error.
            tcgetpgrp(&standard).ok()?;
            standard.as_fd().try_clone_to_owned().ok()
        }
        own(io::stdin()).or_else(|| own(io::stdout())).or_else(|| own(io::stderr()))
    }
}
