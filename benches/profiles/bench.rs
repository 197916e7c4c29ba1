//! A run: what was asked, which rows there are, what came out.

use std::collections::HashMap;

use tokio::process::Command;

use crate::{
    harness::{
        Outcome, built,
        client::Client,
        destination::Destination,
        emulator::Emulator,
        reference::Shape,
        report::{Row, table},
        window::Timing,
        workload::Field,
    },
    options::Options,
};

/// What is measured in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// The built program with these options.
    Ssmfwd(&'a [&'a str]),
    /// The client for comparison.
    Reference(Shape),
}

/// Pacing off, as far as the program knows about it.
pub(crate) const UNPACED: &[&str] = &["--max-message-rate", "0"];

/// A run of rows.
pub(crate) struct Bench {
    pub(crate) options: Options,
    /// What the program says about itself: options that it does not have skip their rows.
    help: String,
    rows: Vec<Row>,
    /// Figures of rows that others are compared with.
    known: HashMap<String, f64>,
    missed: Vec<String>,
    failed: Vec<String>,
    /// The most memory that the program had in any row, MiB.
    pub(crate) peak: (f64, String),
}

impl Bench {
    pub(crate) async fn new(options: Options) -> Outcome<Self> {
        let help = Command::new(built("ssmfwd")?).arg("--help").output().await?;
        Ok(Self {
            options,
            help: String::from_utf8_lossy(&help.stdout).into_owned(),
            rows: Vec::new(),
            known: HashMap::new(),
            missed: Vec::new(),
            failed: Vec::new(),
            peak: (0.0, String::new()),
        })
    }

    pub(crate) fn wants(&self, row: &str) -> bool {
        self.options.wants(row)
    }

    pub(crate) fn timing(&self) -> Timing {
        self.options.timing()
    }

    /// The options of `arguments` that the program has not; none means that the row can be measured.
    pub(crate) fn unknown<'a>(&self, arguments: &[&'a str]) -> Option<&'a str> {
        let known = |option: &str| self.help.split_whitespace().any(|word| word == option);
        arguments.iter().copied().find(|argument| argument.starts_with("--") && !known(argument))
    }

    /// Those options of `arguments` that the program has, with their values.
    pub(crate) fn only_known<'a>(&self, arguments: &[&'a str]) -> Vec<&'a str> {
        let pairs = arguments.chunks(2).filter(|pair| self.unknown(pair).is_none());
        pairs.flatten().copied().collect()
    }

    /// Starts the emulated AWS, a destination and a client, lets them work, and ends the client.
    pub(crate) async fn work<T>(
        &mut self,
        name: &str,
        setting: Setting<'_>,
        subject: Subject<'_>,
        work: impl AsyncFnOnce(Field<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        let emulator = Emulator::start(setting.switches).await?;
        let destination = Destination::with_rate(setting.destination_rate)?;
        let client = match subject {
            Subject::Ssmfwd(options) => Client::ssmfwd(&emulator, destination.port, options).await?,
            Subject::Reference(shape) => Client::part(Some(&emulator), &shape.arguments(destination.port)).await?,
        };
        let timing = setting.timing.unwrap_or_else(|| self.timing());
        let field = Field { emulator: &emulator, destination: &destination, client: &client, timing, strict: true };
        let done = work(field).await?;
        let peak = client.usage()?.peak as f64 / 1024.0;
        client.stop().await?;
        if matches!(subject, Subject::Ssmfwd(_)) && peak > self.peak.0 {
            self.peak = (peak, name.to_owned());
        }
        Ok(done)
    }

    /// Takes a row, or why there is none.
    pub(crate) fn take(&mut self, name: &str, row: Outcome<Row>) {
        let row = row.unwrap_or_else(|error| {
            self.failed.push(format!("{name}: {error}"));
            Row::new(name).note(format!("FAILED: {error}"))
        });
        for ratio in row.ratios.iter().filter(|ratio| !ratio.is_met()) {
            self.missed.push(format!("{}: {}", row.name, ratio.text()));
        }
        #[expect(clippy::print_stderr, reason = "tells that it goes on")]
        if !self.options.quick {
            eprintln!("  {name}");
        }
        self.rows.push(row);
    }

    /// Remembers the figure of a row for others.
    pub(crate) fn remember(&mut self, row: &str, figure: f64) -> f64 {
        self.known.insert(row.to_owned(), figure);
        figure
    }

    /// The figure of a row that was measured before.
    pub(crate) fn known(&self, row: &str) -> Option<f64> {
        self.known.get(row).copied()
    }

    /// Prints what has come together.
    #[expect(clippy::print_stdout, reason = "the report is what it is for")]
    pub(crate) fn print(&mut self, title: &str) {
        let rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            println!("### {title}\n\n{}", table(&rows));
        }
    }

    /// Prints what was not reached, and says whether everything was right.
    #[expect(clippy::print_stdout, reason = "the report is what it is for")]
    pub(crate) fn end(self) -> bool {
        if !self.options.quick {
            println!("not reached: {}", if self.missed.is_empty() { "nothing" } else { "" });
            self.missed.iter().for_each(|missed| println!("- {missed}"));
        }
        self.failed.iter().for_each(|failed| println!("FAILED: {failed}"));
        self.failed.is_empty()
    }
}

/// What surrounds a client.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setting<'a> {
    /// Of the emulator.
    pub(crate) switches: &'a [&'a str],
    /// What the destination takes, bytes per second.
    pub(crate) destination_rate: Option<u64>,
    pub(crate) timing: Option<Timing>,
}

impl<'a> Setting<'a> {
    pub(crate) fn of(switches: &'a [&'a str]) -> Self {
        Self { switches, ..Self::default() }
    }

    pub(crate) fn timed(self, timing: Timing) -> Self {
        Self { timing: Some(timing), ..self }
    }
}
