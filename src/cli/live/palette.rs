//! The colours of the view: few, and nothing is said by a colour alone.

use dialoguer::console::Style;

/// What a text is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Works.
    Good,
    /// Waits for something.
    Waits,
    /// Rests, which is as it should be; also what only frames the rest.
    Rests,
    /// Is over.
    Bad,
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Palette {
    pub(super) colours: bool,
}

impl Palette {
    /// A text in its colour. It takes as many columns as before.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.colours || text.is_empty() {
            return text.to_owned();
        }
        let style = Style::new().force_styling(true);
        let style = match tone {
            Tone::Good => style.green(),
            Tone::Waits => style.yellow(),
            Tone::Rests => style.dim(),
            Tone::Bad => style.red(),
        };
        style.apply_to(text).to_string()
    }
}
