//! The table at the end.

use std::{collections::BTreeMap, time::Duration};

use ssmfwd::emulator::{EmulatorState, SessionState};

use crate::{
    gauge::{Gauge, Sample},
    traffic::Totals,
};

/// What there is to tell about a run.
pub(crate) struct Report {
    pub(crate) totals: Totals,
    /// Transactions, and the slowest of them.
    pub(crate) transactions: Option<(u64, Duration)>,
    pub(crate) moves: Vec<(&'static str, u64)>,
    /// Sessions ended from outside, and the connections that went with them at most.
    pub(crate) ended: u64,
    pub(crate) may_be_lost: u64,
    /// Events of the program.
    pub(crate) losses: u64,
    pub(crate) resumes: u64,
    pub(crate) worst_outage: Duration,
    pub(crate) reasons: BTreeMap<String, u64>,
    /// Connections at the destination.
    pub(crate) left_open: u64,
    pub(crate) state: EmulatorState,
    pub(crate) ready: Sample,
    pub(crate) gauge: Gauge,
}

impl Report {
    pub(crate) fn print(&self) {
        let row = |name: &str, text: String| println!("{name:<22} {text}");
        let totals = self.totals;
        let sum = |of: fn(&SessionState) -> u64| self.state.sessions.values().map(of).sum::<u64>();
        row("moved", format!("{:.1} MB up, {:.1} MB down", mega(totals.up), mega(totals.down)));
        row("requests", format!("{}, the slowest {}", totals.requests, seconds(totals.slowest)));
        row(
            "connections",
            format!(
                "{}; {} lost with {} ended sessions, which had {} at most; {} given up, {} open at the end",
                totals.connections, totals.lost, self.ended, self.may_be_lost, totals.given_up, self.left_open
            ),
        );
        if let Some((count, slowest)) = self.transactions {
            row("transactions", format!("{count} on one connection, the slowest {}", seconds(slowest)));
        }
        row(
            "websockets lost",
            format!(
                "{} by reset, {} by 1000 Bye; the agent opened {}",
                sum(|session| session.cuts),
                sum(|session| session.byes),
                sum(|session| session.agent_websockets)
            ),
        );
        row(
            "resumes",
            format!(
                "{} after {} attempts, the worst outage {}; {} ResumeSession calls, {} refused, {} stale tokens",
                self.resumes,
                self.losses,
                seconds(self.worst_outage),
                self.state.calls_of("ResumeSession"),
                sum(|session| session.resumes_refused),
                sum(|session| session.stale_tokens)
            ),
        );
        row(
            "messages",
            format!(
                "{} dropped, {} doubled, {} late; {} pauses",
                sum(|session| session.dropped),
                sum(|session| session.duplicated),
                sum(|session| session.reordered),
                sum(|session| session.pauses)
            ),
        );
        row("moves", list(self.moves.iter().map(|(name, count)| (*name, *count))));
        row("errors of the API", list(self.state.errors.iter().map(|(name, count)| (name.as_str(), *count))));
        row("ends of connections", list(self.reasons.iter().map(|(name, count)| (name.as_str(), *count))));
        let (least, most) = self.gauge.range(|sample| sample.resident);
        let quarters = self.gauge.quarters(|sample| sample.resident);
        row(
            "resident memory",
            format!("{} KiB when ready, {least} to {most}, by quarters {quarters:?}", self.ready.resident),
        );
        let (least, most) = self.gauge.range(|sample| sample.descriptors);
        let quarters = self.gauge.quarters(|sample| sample.descriptors);
        row(
            "descriptors",
            format!("{} when ready, {least} to {most}, by quarters {quarters:?}", self.ready.descriptors),
        );
        let (least, most) = self.gauge.range(|sample| sample.threads);
        row("threads", format!("{} when ready, {least} to {most}", self.ready.threads));
    }
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn list<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> String {
    counts.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}
