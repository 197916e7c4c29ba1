//! `/status`: the snapshot as JSON. Fields are only ever added.

use std::time::Duration;

use serde::Serialize;

use super::metrics::name_of;
use crate::{
    cli::{
        board::{ForwardSnapshot, Snapshot},
        clock::Timestamp,
    },
    forward::{ConnectionStatus, ForwardState, SessionStatus, Totals},
};

#[derive(Serialize)]
struct Program<'a> {
    version: &'static str,
    /// When this was written.
    time: String,
    started_at: String,
    uptime_ms: u64,
    ready: bool,
    forwards: Vec<Forward<'a>>,
}

#[derive(Serialize)]
struct Forward<'a> {
    forward: &'a str,
    destination: &'a str,
    target: &'a str,
    addresses: Vec<String>,
    state: &'static str,
    ready: bool,
    /// In no other state than `reconnecting`.
    reconnecting_ms: Option<u64>,
    totals: Sums,
    sessions: Vec<Session<'a>>,
    connections: Vec<Connection<'a>>,
}

#[derive(Serialize)]
struct Sums {
    connections: u64,
    bytes_up: u64,
    bytes_down: u64,
    refused: u64,
    unserved: u64,
    limited: u64,
    sessions: u64,
    start_failures: u64,
    replacements: u64,
    resumptions: u64,
    retransmissions: u64,
}

#[derive(Serialize)]
struct Session<'a> {
    session_id: &'a str,
    member: u32,
    health: &'static str,
    serves: bool,
    connections: usize,
    age_ms: u64,
    /// With microseconds; none before the first measurement.
    rtt_ms: Option<f64>,
    bytes_up: u64,
    bytes_down: u64,
    bytes_up_per_s: u64,
    bytes_down_per_s: u64,
    retransmissions: u64,
}

#[derive(Serialize)]
struct Connection<'a> {
    id: u64,
    peer: String,
    age_ms: u64,
    /// None while it waits for a session.
    session_id: Option<&'a str>,
    bytes_up: u64,
    bytes_down: u64,
}

/// One JSON object and a newline.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let program = Program {
        version: env!("CARGO_PKG_VERSION"),
        time: Timestamp::now().to_string(),
        started_at: snapshot.started_at.to_string(),
        uptime_ms: millis(snapshot.uptime),
        ready: snapshot.is_ready(),
        forwards: snapshot.forwards.iter().map(Forward::of).collect(),
    };
    // Strings and numbers always serialise.
    let mut text = serde_json::to_string(&program).unwrap_or_default();
    text.push('\n');
    text
}

impl<'a> Forward<'a> {
    fn of(forward: &'a ForwardSnapshot) -> Self {
        let ForwardSnapshot { name, destination, target, status } = forward;
        Self {
            forward: name,
            destination,
            target,
            addresses: status.addresses.iter().map(ToString::to_string).collect(),
            state: status.state.name(),
            ready: status.state.is_ready(),
            reconnecting_ms: match status.state {
                ForwardState::Reconnecting { since } => Some(millis(since)),
                _ => None,
            },
            totals: Sums::from(status.totals),
            sessions: status.sessions.iter().map(Session::of).collect(),
            connections: status.connections.iter().map(Connection::of).collect(),
        }
    }
}

impl From<Totals> for Sums {
    fn from(totals: Totals) -> Self {
        // All of them: who adds one is reminded here.
        let Totals {
            connections,
            bytes_up,
            bytes_down,
            refused,
            unserved,
            limited,
            sessions,
            start_failures,
            replacements,
            resumptions,
            retransmissions,
        } = totals;
        Self {
            connections,
            bytes_up,
            bytes_down,
            refused,
            unserved,
            limited,
            sessions,
            start_failures,
            replacements,
            resumptions,
            retransmissions,
        }
    }
}

impl<'a> Session<'a> {
    fn of(session: &'a SessionStatus) -> Self {
        let statistics = &session.statistics;
        Self {
            session_id: &session.session.0,
            member: session.member,
            health: name_of(&session.health),
            serves: session.serves,
            connections: session.connections,
            age_ms: millis(session.age),
            rtt_ms: session.rtt.map(|rtt| rtt.as_micros() as f64 / 1000.0),
            bytes_up: statistics.bytes_up,
            bytes_down: statistics.bytes_down,
            bytes_up_per_s: statistics.bytes_up_per_s,
            bytes_down_per_s: statistics.bytes_down_per_s,
            retransmissions: statistics.retransmissions,
        }
    }
}

impl<'a> Connection<'a> {
    fn of(connection: &'a ConnectionStatus) -> Self {
        Self {
            id: connection.id,
            peer: connection.peer.to_string(),
            age_ms: millis(connection.age),
            session_id: connection.session.as_ref().map(|session| &session.0[..]),
            bytes_up: connection.bytes_up,
            bytes_down: connection.bytes_down,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cli::admin::samples;

    const README: &str = include_str!("../../../README.md");

    fn status() -> Value {
        serde_json::from_str(&render(&samples::snapshot())).expect("JSON")
    }

    #[test]
    fn everything_is_told() {
        let mut status = status();
        let time = status["time"].take();
        assert!(time.as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{time}");
        assert_eq!(status["started_at"], "2023-11-14T22:13:20.000Z");
        assert_eq!((&status["uptime_ms"], &status["ready"]), (&json!(3_723_500), &json!(false)));
        let db = &status["forwards"][0];
        assert_eq!(db["addresses"], json!(["127.0.0.1:13306", "[::1]:13306"]));
        assert_eq!((&db["state"], &db["ready"], &db["reconnecting_ms"]), (&json!("ready"), &json!(true), &Value::Null));
        assert_eq!(
            db["sessions"][0],
            json!({
                "session_id": "alice-0123456789abcdef0", "member": 0, "health": "ready", "serves": true, "connections": 1,
                "age_ms": 3_600_000, "rtt_ms": 23.5, "bytes_up": 4000, "bytes_down": 5000, "bytes_up_per_s": 1000,
                "bytes_down_per_s": 20_000, "retransmissions": 6,
            })
        );
        assert_eq!(
            db["connections"],
            json!([
                {"id": 3, "peer": "127.0.0.1:50000", "age_ms": 61_000, "session_id": "alice-0123456789abcdef0",
                 "bytes_up": 4000, "bytes_down": 5000},
                {"id": 7, "peer": "127.0.0.1:50001", "age_ms": 20, "session_id": null, "bytes_up": 0, "bytes_down": 0},
            ])
        );
        let cache = &status["forwards"][1];
        assert_eq!((&cache["state"], &cache["reconnecting_ms"]), (&json!("reconnecting"), &json!(2500)));
        assert_eq!(cache["addresses"], json!(["/run/user/1000/cache"]));
    }

    /// Every field at every depth is named in README.
    #[test]
    fn readme_documents_every_field() {
        fn check(value: &Value, section: &str) {
            match value {
                Value::Object(fields) => {
                    for (name, value) in fields {
                        assert!(section.contains(&format!("`{name}`")), "README does not name `{name}`");
                        check(value, section);
                    }
                }
                Value::Array(values) => values.iter().for_each(|value| check(value, section)),
                _ => {}
            }
        }
        let section = README.split_once("\n### Status\n").expect("a section Status").1;
        let section = section.split_once("\n#").map_or(section, |(section, _)| section);
        check(&status(), section);
    }
}
