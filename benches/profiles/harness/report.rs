//! Rows of figures, and the ratios that are to be reached, as markdown.

use super::{ping_pong::Latency, window::Span};

/// One row. What it does not measure is left empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) mb_per_s: Option<f64>,
    pub(crate) per_s: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// Seconds for a gigabyte.
    pub(crate) cpu: Option<f64>,
    /// Cores that the client and the other end used.
    pub(crate) loads: Option<(f64, f64)>,
    pub(crate) peak_mib: Option<f64>,
    pub(crate) allocations: Option<f64>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) note: String,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// A row that was not measured, and why.
    pub(crate) fn skipped(name: impl Into<String>, why: &str) -> Self {
        Self { note: format!("skipped: {why}"), ..Self::new(name) }
    }

    /// With the figures of bytes that were moved.
    pub(crate) fn moved(mut self, span: &Span) -> Self {
        self.mb_per_s = Some(span.mb_per_s());
        self.cpu = Some(span.cpu_per_gb());
        self.used(span)
    }

    /// With what the processes used.
    pub(crate) fn used(mut self, span: &Span) -> Self {
        self.loads = Some(span.loads());
        self.peak_mib = Some(span.peak as f64 / 1024.0);
        self
    }

    pub(crate) fn took(mut self, latency: &Latency) -> Self {
        (self.p50, self.p99) = (latency.permille(500), latency.permille(990));
        self
    }

    pub(crate) fn ratio(mut self, ratio: Ratio) -> Self {
        self.ratios.push(ratio);
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// A figure that is to be reached.
#[derive(Debug, Clone)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    /// Of what.
    pub(crate) of: &'static str,
    demand: Demand,
}

#[derive(Debug, Clone, Copy)]
enum Demand {
    AtLeast(f64),
    AtMost(f64),
    Nothing,
}

impl Ratio {
    pub(crate) fn at_least(value: f64, least: f64, of: &'static str) -> Self {
        Self { value, of, demand: Demand::AtLeast(least) }
    }

    pub(crate) fn at_most(value: f64, most: f64, of: &'static str) -> Self {
        Self { value, of, demand: Demand::AtMost(most) }
    }

    /// Just to be read.
    pub(crate) fn shown(value: f64, of: &'static str) -> Self {
        Self { value, of, demand: Demand::Nothing }
    }

    pub(crate) fn is_met(&self) -> bool {
        match self.demand {
            Demand::AtLeast(least) => self.value >= least,
            Demand::AtMost(most) => self.value <= most,
            Demand::Nothing => true,
        }
    }

    pub(crate) fn text(&self) -> String {
        let value = figure(self.value);
        let missed = if self.is_met() { "" } else { " MISSED" };
        match self.demand {
            Demand::AtLeast(least) => format!("{value} {} (≥ {least}){missed}", self.of),
            Demand::AtMost(most) => format!("{value} {} (≤ {most}){missed}", self.of),
            Demand::Nothing => format!("{value} {}", self.of),
        }
    }
}

/// A column: its head, and what it shows of a row.
type Column = (&'static str, fn(&Row) -> String);

const COLUMNS: [Column; 10] = [
    ("row", |row| row.name.clone()),
    ("MB/s", |row| optional(row.mb_per_s)),
    ("per s", |row| optional(row.per_s)),
    ("p50 ms", |row| optional(row.p50)),
    ("p99 ms", |row| optional(row.p99)),
    ("CPU s/GB", |row| optional(row.cpu)),
    ("cores, client + other", |row| {
        row.loads.map_or_else(String::new, |(client, other)| format!("{client:.2} + {other:.2}"))
    }),
    ("peak MiB", |row| optional(row.peak_mib)),
    ("allocations/message", |row| row.allocations.map_or_else(String::new, |count| format!("{count:.4}"))),
    ("result", |row| {
        let mut parts: Vec<_> = row.ratios.iter().map(Ratio::text).collect();
        if !row.note.is_empty() {
            parts.push(row.note.clone());
        }
        parts.join("; ")
    }),
];

/// Rows as an aligned markdown table; columns that nobody fills are left out.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut columns: Vec<Vec<String>> = Vec::new();
    for (head, show) in COLUMNS {
        let cells: Vec<_> = rows.iter().map(show).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            columns.push(std::iter::once(head.to_owned()).chain(cells).collect());
        }
    }
    let width = |cells: &[String]| cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = columns.iter().map(|cells| width(cells)).collect();
    let mut text = String::new();
    for line in 0..=rows.len() {
        for (number, (cells, width)) in columns.iter().zip(&widths).enumerate() {
            let (cell, width) = (&cells[line], *width);
            // Words on the left, figures on the right.
            let words = number == 0 || number + 1 == columns.len();
            text += &if words { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
        }
        text += "|\n";
        if line == 0 {
            widths.iter().for_each(|width| text += &format!("| {} ", "-".repeat((*width).max(3))));
            text += "|\n";
        }
    }
    text
}

fn optional(value: Option<f64>) -> String {
    value.map(figure).unwrap_or_default()
}

/// Three digits that matter.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
