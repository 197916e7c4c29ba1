//! The live view of a terminal: one line a forward at the bottom, redrawn in place; everything that is said scrolls by
//! above it.
//!
//! ```text
//! Board ─ status ──▶ Rates ──┐
//!                            ├──▶ layout ── lines ──▶ Painter, in the console's thread ──▶ stderr
//! events ──────▶ Progress ───┘
//! ```
//!
//! Nobody waits for the terminal but the console's thread. What is shown is only ever a look at what is there: no
//! event is told here that is not told elsewhere.

mod cell;
mod layout;
mod painter;
mod palette;
mod progress;
mod rates;
mod words;

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use dialoguer::console::{Term, colors_enabled_stderr};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::{
    layout::{Shown, render},
    palette::Palette,
    rates::{Rate, Rates},
};
pub(super) use self::{
    painter::{Painter, View},
    progress::Progress,
};
use super::{
    args::{Format, SayArgs},
    board::Board,
    prompt::{in_foreground, is_asking},
};

/// Between two looks while something moves or is waited for, and while nothing does.
const LIVELY: Duration = Duration::from_millis(250);
const CALM: Duration = Duration::from_secs(1);

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// Whether people are to have a view: on a terminal that can be drawn on, in text, unless they want none. A command that
/// shares the terminal is another reason for none.
pub(super) fn is_wanted(say: &SayArgs) -> bool {
    io::stderr().is_terminal() && is_asked_for(say, |name| std::env::var(name).ok())
}

fn is_asked_for(say: &SayArgs, variable: impl Fn(&str) -> Option<String>) -> bool {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let can_draw = is_set("TERM") && variable("TERM").is_some_and(|term| term != "dumb");
    // The log goes to the same terminal, past the console.
    let is_undisturbed = say.verbose == 0 && !is_set("RUST_LOG");
    say.output == Format::Text && !say.quiet && is_undisturbed && can_draw && !is_set("NO_COLOR")
}

/// Calls back whenever the program goes on after it was stopped, until the handle is dropped: for
/// [`Console::redraw`](super::console::Console::redraw). Must run inside a tokio runtime. `None` if that cannot be known:
/// then the view is drawn anew at its next change.
#[cfg(unix)]
pub(super) fn on_continue(call: impl Fn() + Send + 'static) -> Option<AbortOnDropHandle<()>> {
    use rustix::process::Signal;
    use tokio::signal::unix::{SignalKind, signal};

    let mut continued = signal(SignalKind::from_raw(Signal::CONT.as_raw())).ok()?;
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        while continued.recv().await.is_some() {
            call();
        }
    })))
}

/// Nothing stops a program here.
#[cfg(not(unix))]
pub(super) fn on_continue(_call: impl Fn() + Send + 'static) -> Option<AbortOnDropHandle<()>> {
    None
}

/// The view of all forwards, on stderr.
pub(super) struct LiveView {
    board: Arc<Board>,
    progress: Arc<Progress>,
    rates: Rates,
    palette: Palette,
    terminal: Term,
    lively: bool,
}

impl LiveView {
    /// A view of these forwards. `progress` hears their events.
    pub(super) fn new(board: Arc<Board>, progress: Arc<Progress>) -> Self {
        let palette = Palette { colours: colors_enabled_stderr() };
        Self { board, progress, rates: Rates::default(), palette, terminal: Term::stderr(), lively: true }
    }
}

impl View for LiveView {
    fn size(&self) -> Option<Size> {
        // A background job must not write cursor codes over what the foreground is doing, nor we over a question.
        let is_ours = || in_foreground() && !is_asking();
        let (rows, columns) = self.terminal.size_checked().filter(|_| is_ours())?;
        Some(Size { columns: columns.into(), rows: rows.into() })
    }

    fn lines(&mut self, size: Size) -> Vec<String> {
        let (snapshot, now) = (self.board.snapshot(), Instant::now());
        let rates = self.rates.note(&snapshot);
        let shown = |(forward, rate)| Shown { forward, rate, waiting: self.progress.of(&forward.name, now) };
        let shown: Vec<_> = snapshot.forwards.iter().zip(rates).map(shown).collect();
        self.lively = shown.iter().any(|shown| shown.rate != Rate::default()) || !snapshot.is_ready();
        render(&shown, self.palette, size)
    }

    fn patience(&self) -> Duration {
        if self.lively { LIVELY } else { CALM }
    }
}

#[cfg(test)]
mod tests;
