//! The text format of Prometheus, version 0.0.4: how names, labels and numbers are written. Not which there are.

use std::fmt::Write as _;

/// What a family of metrics is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows; starts again at 0 with the program, or with its forward after a reload.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A text that is being written.
#[derive(Default)]
pub(super) struct Exposition {
    text: String,
    /// Of the family that is being written.
    name: &'static str,
}

impl Exposition {
    /// What every scraper of this format is told.
    pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family. `help` is one line.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.name = name;
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {}", kind.name()));
    }

    /// One value of the family.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        self.text.push_str(self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.text.push_str(if index == 0 { "{" } else { "," });
            self.text.push_str(label);
            self.text.push_str("=\"");
            self.push_escaped(text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        match value.into() {
            Value::Whole(value) => self.line(format_args!(" {value}")),
            Value::Real(value) => self.line(format_args!(" {value}")),
        }
    }

    /// Label values may hold anything, if these three are written with a backslash.
    fn push_escaped(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                _ => self.text.push(character),
            }
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A String takes everything.
        writeln!(self.text, "{line}").ok();
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// A number: counters stay exact beyond 2^53 on our side.
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut exposition = Exposition::default();
        exposition.family("x_total", Kind::Counter, "Something.");
        exposition.sample(&[("forward", "a\\b\"c\nd\r\t{}=,é"), ("direction", "up")], u64::MAX);
        exposition.sample(&[], 0.000_25);
        assert_eq!(
            exposition.finish(),
            "# HELP x_total Something.\n# TYPE x_total counter\n\
             x_total{forward=\"a\\\\b\\\"c\\nd\r\t{}=,é\",direction=\"up\"} 18446744073709551615\n\
             x_total 0.00025\n"
        );
    }
}
