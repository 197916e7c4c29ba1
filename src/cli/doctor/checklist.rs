//! The lines of `doctor`: one for each check, in order.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::survey::Survey;
use crate::cli::{
    args::Format,
    console::printable,
    events::Body,
    report::Report,
    reporter::{Reporter, millis},
};

/// What is checked, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Credentials,
    Identity,
    Region,
    Clock,
    Permission,
    Target,
    Document,
    Dns,
    Tcp,
    Proxy,
    Tls,
    Signature,
    Handshake,
    Destination,
    Timeouts,
}

impl Check {
    const ALL: [Self; 15] = [
        Self::Credentials,
        Self::Identity,
        Self::Region,
        Self::Clock,
        Self::Permission,
        Self::Target,
        Self::Document,
        Self::Dns,
        Self::Tcp,
        Self::Proxy,
        Self::Tls,
        Self::Signature,
        Self::Handshake,
        Self::Destination,
        Self::Timeouts,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Identity => "identity",
            Self::Region => "region",
            Self::Clock => "clock",
            Self::Permission => "permission",
            Self::Target => "target",
            Self::Document => "document",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Signature => "signature",
            Self::Handshake => "handshake",
            Self::Destination => "destination",
            Self::Timeouts => "timeouts",
        }
    }
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    Failed,
    /// It could not be found out, which is no failure.
    Unknown,
    /// Something before it has failed.
    Skipped,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
        }
    }
}

/// Tells how each check went, each once and in order. What is passed over is told as skipped.
pub(super) struct Checklist {
    reporter: Arc<Reporter>,
    told: usize,
    /// What is being found out beside the session.
    pub(super) survey: Option<Survey>,
}

impl Checklist {
    pub(super) fn new(reporter: Arc<Reporter>) -> Self {
        Self { reporter, told: 0, survey: None }
    }

    pub(super) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    pub(super) fn ok(&mut self, check: Check, took: impl Into<Option<Duration>>, detail: impl AsRef<str>) {
        self.tell(check, Outcome::Ok, took.into(), detail.as_ref());
    }

    pub(super) fn unknown(&mut self, check: Check, took: impl Into<Option<Duration>>, why: &str) {
        self.tell(check, Outcome::Unknown, took.into(), why);
    }

    /// The first failure: all that would follow is skipped. Gives back its report.
    pub(super) fn failed(&mut self, check: Check, since: Instant, report: Report) -> Report {
        self.tell(check, Outcome::Failed, Some(since.elapsed()), report.in_short());
        while let Some(check) = Check::ALL.get(self.told) {
            self.tell(*check, Outcome::Skipped, None, "");
        }
        report
    }

    /// Whether it is this check's turn, or was before.
    pub(super) fn is_told(&self, check: Check) -> bool {
        (check as usize) < self.told
    }

    fn tell(&mut self, check: Check, outcome: Outcome, took: Option<Duration>, detail: &str) {
        while let Some(passed_over) = Check::ALL.get(self.told).filter(|next| **next != check) {
            if self.is_told(check) {
                return;
            }
            self.told += 1;
            self.write(*passed_over, Outcome::Skipped, None, "");
        }
        self.told += 1;
        self.write(check, outcome, took, detail);
    }

    fn write(&self, check: Check, outcome: Outcome, took: Option<Duration>, detail: &str) {
        let detail = printable(detail);
        match self.reporter.format() {
            Format::Text => self.reporter.data(line(check, outcome, took, &detail)),
            Format::Json => self.reporter.emit(&Body::Check {
                name: check.name(),
                ok: match outcome {
                    Outcome::Ok => Some(true),
                    Outcome::Failed => Some(false),
                    Outcome::Unknown | Outcome::Skipped => None,
                },
                outcome: outcome.word(),
                elapsed_ms: took.map(millis),
                detail: &detail,
            }),
        }
    }
}

/// `ok       credentials      12 ms   of profile dev, valid for 58 min`.
fn line(check: Check, outcome: Outcome, took: Option<Duration>, detail: &str) -> String {
    let took = took.map_or_else(String::new, |took| format!("{} ms", millis(took)));
    format!("{:<8} {:<12} {took:>8}   {detail}", outcome.word(), check.name()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{exit::Exit, reporter::tests::told};

    fn checklist(format: Format, tell: impl FnOnce(&mut Checklist)) -> Vec<String> {
        let (stdout, stderr) = told(format, false, |reporter| tell(&mut Checklist::new(reporter.clone())));
        assert_eq!(stderr, "");
        stdout.lines().map(str::to_owned).collect()
    }

    #[test]
    fn checks_are_told_in_order_and_those_after_a_failure_are_skipped() {
        let lines = checklist(Format::Text, |checks| {
            checks.ok(Check::Credentials, Duration::from_millis(12), "of profile dev");
            checks.unknown(Check::Identity, None, "denied");
            checks.ok(Check::Credentials, None, "again");
            let report = Report::new(Exit::Usage, "no region");
            assert_eq!(checks.failed(Check::Clock, Instant::now(), report).error, "no region");
        });
        assert_eq!(lines.len(), Check::ALL.len());
        assert_eq!(lines[0], "ok       credentials     12 ms   of profile dev");
        assert_eq!(lines[1], "unknown  identity                denied");
        assert_eq!(lines[2], "skipped  region");
        assert!(lines[3].starts_with("failed   clock") && lines[3].ends_with("no region"), "{}", lines[3]);
        assert!(lines[4..].iter().all(|line| line.starts_with("skipped  ")), "{lines:?}");
    }

    #[test]
    fn programs_get_an_object_for_each() {
        let lines =
            checklist(Format::Json, |checks| checks.ok(Check::Credentials, Duration::from_millis(12), "x\u{1b}"));
        let event: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!((&event["event"], &event["name"]), (&"check".into(), &"credentials".into()));
        assert_eq!((&event["ok"], &event["outcome"]), (&true.into(), &"ok".into()));
        assert_eq!((&event["elapsed_ms"], &event["detail"]), (&12.into(), &"x\\u{1b}".into()));
    }

    #[test]
    fn the_order_is_that_of_the_list() {
        for (at, check) in Check::ALL.iter().enumerate() {
            assert_eq!(*check as usize, at);
        }
    }
}
