//! The view at the bottom of a terminal: taken away, everything said written above it, and drawn again, in one write.
//!
//! The cursor stays in front of the line below the view, where a shell's prompt, what is typed and what others write do
//! no harm; it is never hidden, and nothing has to be put right when the program dies. Sequences are those of ECMA-48
//! and, for drawing without flicker, private modes that terminals which do not know them pass over.

use std::time::Duration;

use dialoguer::console::measure_text_width;
use tokio::time::Instant;

use super::Size;

/// How long the thread may be late: beyond it the program was stopped, and a shell has written below the view.
const STOPPED: Duration = Duration::from_millis(700);

/// How long what is shown may contradict what was just said. No shorter: much may be said at once.
const FRESH: Duration = Duration::from_millis(50);

/// What follows is shown at once.
const BEGIN: &str = "\x1b[?2026h";
const END: &str = "\x1b[?2026l";
/// What is too long for a line is cut, or goes on in the next one.
const CUT: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
/// From the cursor to the end of the line, or of everything.
const ERASE_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";

/// What is shown at the bottom of a terminal.
pub(in crate::cli) trait View: Send {
    /// The size of the terminal; `None` as long as it is not ours to draw on.
    fn size(&self) -> Option<Size>;

    /// The lines now, none longer than the terminal is wide.
    fn lines(&mut self, size: Size) -> Vec<String>;

    /// For how long the lines are good.
    fn patience(&self) -> Duration;
}

/// Draws a view. Makes what is to be written and writes nothing.
pub(in crate::cli) struct Painter {
    view: Box<dyn View>,
    lines: Vec<String>,
    size: Option<Size>,
    /// The columns of each line that is on the terminal, which had that size then.
    drawn: Vec<usize>,
    drawn_at: Option<Size>,
    due: Instant,
    /// When the view was asked last.
    looked: Option<Instant>,
}

impl Painter {
    /// One that has drawn nothing yet.
    pub(in crate::cli) fn new(view: Box<dyn View>, now: Instant) -> Self {
        Self { view, lines: Vec::new(), size: None, drawn: Vec::new(), drawn_at: None, due: now, looked: None }
    }

    /// When to [look again](Self::tick).
    pub(in crate::cli) fn due(&self) -> Instant {
        self.due
    }

    /// What was to be written has been, which may have taken long.
    pub(in crate::cli) fn written(&mut self, now: Instant) {
        self.due = self.due.max(now);
    }

    /// What was drawn is no more where it was: something else has written on the terminal. It stays there.
    pub(in crate::cli) fn forget(&mut self, now: Instant) {
        self.drawn.clear();
        self.due = now;
    }

    /// The time has come: the view as it is now, if that is another one.
    pub(in crate::cli) fn tick(&mut self, now: Instant) -> String {
        let size = self.size;
        let before = self.look(now);
        let is_there = !self.drawn.is_empty() || self.lines.is_empty();
        if self.size.is_none() || (is_there && size == self.size && before.as_ref() == Some(&self.lines)) {
            return String::new();
        }
        self.draw("")
    }

    /// Lines that stay, above the view. Each has its end.
    pub(in crate::cli) fn say(&mut self, said: &str, now: Instant) -> String {
        let is_fresh = self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < FRESH);
        if now >= self.due || !is_fresh || self.view.size() != self.size {
            self.look(now);
        }
        // What is said may be ahead of what the view knows.
        self.due = self.due.min(now + FRESH);
        if self.size.is_none() {
            return said.to_owned();
        }
        self.draw(said)
    }

    /// Takes the view away.
    pub(in crate::cli) fn take_away(&mut self) -> String {
        self.size = self.view.size();
        let erased = if self.size.is_some() { self.erased() } else { String::new() };
        self.drawn.clear();
        // Whatever comes next is drawn anew.
        self.size = None;
        erased
    }

    /// Asks the view. Returns the lines of before.
    fn look(&mut self, now: Instant) -> Option<Vec<String>> {
        if now.saturating_duration_since(self.due) > STOPPED {
            self.drawn.clear();
        }
        self.due = now + self.view.patience();
        self.looked = Some(now);
        self.size = self.view.size();
        let Some(size) = self.size else {
            // In the background others write.
            self.drawn.clear();
            return None;
        };
        Some(std::mem::replace(&mut self.lines, self.view.lines(size)))
    }

    fn draw(&mut self, said: &str) -> String {
        if self.lines.is_empty() && self.drawn.is_empty() {
            return said.to_owned();
        }
        let mut text = String::from(BEGIN);
        // Lines that a terminal has wrapped are lines that it joins again, unless they are taken away first.
        if !said.is_empty() || self.drawn_at != self.size {
            text.push_str(&self.erased());
            text.push_str(said);
        } else {
            text.push_str(&up(self.height()));
        }
        text.push_str(CUT);
        for line in &self.lines {
            text.push_str(line);
            text.push_str(ERASE_LINE);
            text.push_str("\r\n");
        }
        text.push_str(WRAP);
        text.push_str(ERASE_BELOW);
        text.push_str(END);
        self.drawn_at = self.size;
        self.drawn = self.lines.iter().map(|line| measure_text_width(line)).collect();
        text
    }

    /// Takes away what was drawn, line by line: where everything below the first line of the screen is erased at once,
    /// tmux keeps it above.
    fn erased(&self) -> String {
        match self.height() {
            0 => String::new(),
            lines => format!("{ERASE_BELOW}{}{}{}", up(lines), "\x1b[2K\x1b[B".repeat(lines), up(lines)),
        }
    }

    /// Lines of the terminal that the view takes. Terminals wrap what has become too long when they are made narrower.
    fn height(&self) -> usize {
        let columns = self.size.map_or(usize::MAX, |size| size.columns.max(1));
        let lines: usize = self.drawn.iter().map(|drawn| drawn.div_ceil(columns).max(1)).sum();
        lines.min(self.size.map_or(usize::MAX, |size| size.rows.saturating_sub(1)))
    }
}

/// To the beginning of the line so many lines above.
fn up(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\r\x1b[{lines}A") }
}

#[cfg(test)]
mod tests;
