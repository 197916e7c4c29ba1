//! The metrics: which there are, and where their values come from.
//!
//! One table makes the exposition and README's list. Labels are bounded by the configuration: forwards and their places in
//! the pool, never session ids or peers.

use std::collections::{BTreeMap, HashSet};

use super::exposition::{Exposition, Kind};
use crate::{
    cli::{
        board::{ForwardSnapshot, Snapshot},
        version,
    },
    forward::{ForwardState, SessionStatus},
    session::Health,
};

/// A family of metrics.
struct Family {
    name: &'static str,
    kind: Kind,
    /// As README lists them.
    #[cfg_attr(not(test), expect(dead_code, reason = "README shows it"))]
    labels: &'static [&'static str],
    /// What it counts or measures: the name says it too.
    #[cfg_attr(not(test), expect(dead_code, reason = "README shows it"))]
    unit: &'static str,
    /// One line.
    help: &'static str,
    write: fn(&Scene<'_>, &mut Exposition),
}

/// A snapshot, with a label for each forward that no other has.
struct Scene<'a> {
    snapshot: &'a Snapshot,
    forwards: Vec<(String, &'a ForwardSnapshot)>,
}

/// Every state of a forward, for the state set.
const STATES: [&str; 7] = ["starting", "ready", "dormant", "waking", "reconnecting", "stopping", "stopped"];
/// Every health of a session that has not ended.
const HEALTHS: [&str; 3] = ["ready", "reconnecting", "stalled"];

const BUILD: &[&str] = &["version", "commit", "features", "target"];
const FORWARD: &[&str] = &["forward"];
const MEMBER: &[&str] = &["forward", "member"];
const DIRECTION: &[&str] = &["forward", "direction"];

#[rustfmt::skip]
const METRICS: &[Family] = &[
    Family { name: "ssmfwd_build_info", kind: Kind::Gauge, labels: BUILD, unit: "",
        help: "Always 1; which ssmfwd this is, as --version says.",
        write: |_, out| out.sample(&[
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", commit_in(version::SHORT)),
            ("features", env!("SSMFWD_BUILD_FEATURES")),
            ("target", env!("SSMFWD_BUILD_TARGET")),
        ], true) },
    Family { name: "ssmfwd_start_time_seconds", kind: Kind::Gauge, labels: &[], unit: "s since 1970",
        help: "When the program was started.",
        write: |scene, out| out.sample(&[], scene.snapshot.started_at.since_epoch().as_secs_f64()) },
    Family { name: "ssmfwd_uptime_seconds", kind: Kind::Gauge, labels: &[], unit: "s",
        help: "Time since the program was started, by a monotonic clock.",
        write: |scene, out| out.sample(&[], scene.snapshot.uptime.as_secs_f64()) },
    Family { name: "ssmfwd_ready", kind: Kind::Gauge, labels: &[], unit: "0 or 1",
        help: "Whether every forward can carry a connection, as /readyz says.",
        write: |scene, out| out.sample(&[], scene.snapshot.is_ready()) },
    Family { name: "ssmfwd_forward_info", kind: Kind::Gauge, labels: &["forward", "destination", "target"], unit: "",
        help: "Always 1; where a forward leads.",
        write: |scene, out| for (label, forward) in &scene.forwards {
            out.sample(&[("forward", label), ("destination", &forward.destination), ("target", &forward.target)], true);
        } },
    Family { name: "ssmfwd_forward_ready", kind: Kind::Gauge, labels: FORWARD, unit: "0 or 1",
        help: "Whether a connection that came now would be carried.",
        write: |scene, out| each(scene, out, |forward| forward.status.state.is_ready()) },
    Family { name: "ssmfwd_forward_state", kind: Kind::Gauge, labels: &["forward", "state"], unit: "0 or 1",
        help: "1 for the state that a forward is in: starting, ready, dormant, waking, reconnecting, stopping, stopped.",
        write: |scene, out| for (label, forward) in &scene.forwards {
            for state in STATES {
                out.sample(&[("forward", label), ("state", state)], state == forward.status.state.name());
            }
        } },
    Family { name: "ssmfwd_reconnecting_seconds", kind: Kind::Gauge, labels: FORWARD, unit: "s",
        help: "For how long no session could carry anything; 0 while one can.",
        write: |scene, out| each(scene, out, |forward| match forward.status.state {
            ForwardState::Reconnecting { since } => since.as_secs_f64(),
            _ => 0.0,
        }) },
    Family { name: "ssmfwd_connections", kind: Kind::Gauge, labels: FORWARD, unit: "connections",
        help: "Open connections of local programs, those that wait for a session included.",
        write: |scene, out| each(scene, out, |forward| forward.status.connections.len()) },
    Family { name: "ssmfwd_connections_waiting", kind: Kind::Gauge, labels: FORWARD, unit: "connections",
        help: "Open connections that wait for a session.",
        write: |scene, out| each(scene, out, |forward| {
            forward.status.connections.iter().filter(|connection| connection.session.is_none()).count()
        }) },
    Family { name: "ssmfwd_connections_opened_total", kind: Kind::Counter, labels: FORWARD, unit: "connections",
        help: "Connections accepted from local programs.",
        write: |scene, out| each(scene, out, |forward| forward.status.totals.connections) },
    Family { name: "ssmfwd_connections_unserved_total", kind: Kind::Counter, labels: FORWARD, unit: "connections",
        help: "Connections that were reset because no session could be had in time.",
        write: |scene, out| each(scene, out, |forward| forward.status.totals.unserved) },
    Family { name: "ssmfwd_connections_limited_total", kind: Kind::Counter, labels: FORWARD, unit: "times",
        help: "How often connections began to wait because --max-connections were open.",
        write: |scene, out| each(scene, out, |forward| forward.status.totals.limited) },
    Family { name: "ssmfwd_destination_refused_total", kind: Kind::Counter, labels: FORWARD, unit: "connections",
        help: "Connections that the destination refused.",
        write: |scene, out| each(scene, out, |forward| forward.status.totals.refused) },
    Family { name: "ssmfwd_bytes_total", kind: Kind::Counter, labels: DIRECTION, unit: "bytes",
        help: "Bytes of connections: up to the destination, or down to local programs.",
        write: |scene, out| for (label, forward) in &scene.forwards {
            let totals = &forward.status.totals;
            out.sample(&[("forward", label), ("direction", "up")], totals.bytes_up);
            out.sample(&[("forward", label), ("direction", "down")], totals.bytes_down);
        } },
    Family { name: "ssmfwd_retransmissions_total", kind: Kind::Counter, labels: FORWARD, unit: "messages",
        help: "Messages to the agent that were sent again.",
        write: |scene, out| each(scene, out, |forward| forward.status.totals.retransmissions) },
    Family { name: "ssmfwd_sessions", kind: Kind::Gauge, labels: &["forward", "health"], unit: "sessions",
        help: "SSM sessions that have not ended, by health: ready, reconnecting, stalled.",
        write: |scene, out| for (label, forward) in &scene.forwards {
            for health in HEALTHS {
                let count = forward.status.sessions.iter().filter(|session| name_of(&session.health) == health).count();
                out.sample(&[("forward", label), ("health", health)], count);
            }
        } },
    Family { name: "ssmfwd_sessions_started_total", kind: Kind::Counter, labels: FORWARD, unit: "sessions",
        help: "SSM sessions that became ready.",
        write: |scene, out| each(scene, out, |forward| forward.status.totals.sessions) },
    Family { name: "ssmfwd_session_start_failures_total", kind: Kind::Counter, labels: FORWARD, unit: "attempts",
        help: "Attempts to start an SSM session that failed.",
        write: |scene, out| each(scene, out, |forward| forward.status.totals.start_failures) },
    Family { name: "ssmfwd_session_replacements_total", kind: Kind::Counter, labels: FORWARD, unit: "sessions",
        help: "SSM sessions that took the place of a lost one, whose connections were reset.",
        write: |scene, out| each(scene, out, |forward| forward.status.totals.replacements) },
    Family { name: "ssmfwd_session_resumptions_total", kind: Kind::Counter, labels: FORWARD, unit: "websockets",
        help: "Websockets that were lost under a session and replaced, its connections kept.",
        write: |scene, out| each(scene, out, |forward| forward.status.totals.resumptions) },
    Family { name: "ssmfwd_session_connections", kind: Kind::Gauge, labels: MEMBER, unit: "connections",
        help: "Open connections of one place in the pool.",
        write: |scene, out| each_member(scene, out, |member| {
            Some(member.iter().map(|session| session.connections).sum::<usize>() as f64)
        }) },
    Family { name: "ssmfwd_session_bytes_per_second", kind: Kind::Gauge, labels: &["forward", "member", "direction"], unit: "bytes/s",
        help: "Bytes per second of one place in the pool, over the last half to whole second.",
        write: |scene, out| for (label, forward) in &scene.forwards {
            for (place, member) in members(forward) {
                let rate = |of: fn(&SessionStatus) -> u64| member.iter().map(|session| of(session)).sum::<u64>();
                let labels = |direction| [("forward", label.as_str()), ("member", place.as_str()), ("direction", direction)];
                out.sample(&labels("up"), rate(|session| session.statistics.bytes_up_per_s));
                out.sample(&labels("down"), rate(|session| session.statistics.bytes_down_per_s));
            }
        } },
    Family { name: "ssmfwd_session_rtt_seconds", kind: Kind::Gauge, labels: MEMBER, unit: "s",
        help: "Smoothed round trip time to the agent, once it was measured.",
        write: |scene, out| each_member(scene, out, |member| {
            // The one that serves; others of the place only live on.
            let session = member.iter().find(|session| session.serves).or_else(|| member.last())?;
            Some(session.rtt?.as_secs_f64())
        }) },
    Family { name: "ssmfwd_session_age_seconds", kind: Kind::Gauge, labels: MEMBER, unit: "s",
        help: "Age of the oldest session of one place in the pool.",
        write: |scene, out| each_member(scene, out, |member| {
            Some(member.iter().map(|session| session.age).max()?.as_secs_f64())
        }) },
];

/// All metrics, as they are scraped.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let scene = Scene::new(snapshot);
    let mut out = Exposition::default();
    for family in METRICS {
        out.family(family.name, family.kind, family.help);
        (family.write)(&scene, &mut out);
    }
    out.finish()
}

impl<'a> Scene<'a> {
    /// Equal forwards may be given twice (`0:db:3306 0:db:3306`): a label is given once.
    fn new(snapshot: &'a Snapshot) -> Self {
        let mut taken = HashSet::new();
        let forwards = snapshot.forwards.iter().map(|forward| {
            let numbered = (2..).map(|number| format!("{} #{number}", forward.name));
            let mut names = std::iter::once(forward.name.clone()).chain(numbered);
            let name = names.find(|name| taken.insert(name.clone())).unwrap_or_default();
            (name, forward)
        });
        Self { snapshot, forwards: forwards.collect() }
    }
}

/// The commit in `0.1.0 (abc1234)`; empty where there is none.
fn commit_in(version: &str) -> &str {
    version.split_once(" (").and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or_default()
}

/// One sample a forward.
fn each<V: Into<super::exposition::Value>>(scene: &Scene<'_>, out: &mut Exposition, value: fn(&ForwardSnapshot) -> V) {
    for (label, forward) in &scene.forwards {
        out.sample(&[("forward", label)], value(forward));
    }
}

/// One sample a place in the pool, if there is something to say.
fn each_member(scene: &Scene<'_>, out: &mut Exposition, value: fn(&[&SessionStatus]) -> Option<f64>) {
    for (label, forward) in &scene.forwards {
        for (place, member) in members(forward) {
            if let Some(value) = value(&member) {
                out.sample(&[("forward", label), ("member", &place)], value);
            }
        }
    }
}

/// The sessions by their place: one that stalls lives on beside the one in its place.
fn members(forward: &ForwardSnapshot) -> impl Iterator<Item = (String, Vec<&SessionStatus>)> {
    let mut members = BTreeMap::<_, Vec<_>>::new();
    for session in &forward.status.sessions {
        members.entry(session.member).or_default().push(session);
    }
    members.into_iter().map(|(place, member)| (place.to_string(), member))
}

/// The name of a session's health, in metrics and in `/status`.
pub(super) const fn name_of(health: &Health) -> &'static str {
    match health {
        Health::Ready => "ready",
        Health::Reconnecting { .. } => "reconnecting",
        Health::Stalled => "stalled",
        Health::Ended(_) => "ended",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::admin::samples;

    const README: &str = include_str!("../../../README.md");
    const BEGIN: &str = "<!-- metrics: made from src/cli/admin/metrics.rs -->\n";
    const END: &str = "<!-- end of the metrics -->";

    #[test]
    fn readme_lists_the_metrics() {
        let mut wanted = "\n| metric | type | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n".to_owned();
        for Family { name, kind, labels, unit, help, .. } in METRICS {
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let (kind, labels, help) = (kind.name(), labels.join(", "), help.strip_suffix('.').expect("a sentence"));
            wanted += &format!("| `{name}` | {kind} | {unit} | {labels} | {help} |\n");
        }
        wanted.push('\n');
        let found = README.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(table, _)| table);
        assert!(found == Some(&wanted), "README should have between `{}` and `{END}`:\n{wanted}", BEGIN.trim_end());
    }

    /// Each sample, as name, labels and value.
    fn parsed(text: &str) -> Vec<(&str, &str, f64)> {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            (name, labels.strip_suffix('}').expect("labels end"), value.parse().expect("a number"))
        });
        samples.collect()
    }

    #[test]
    fn names_follow_the_rules_and_labels_the_table() {
        let text = render(&samples::snapshot());
        for Family { name, kind, labels, help, .. } in METRICS {
            assert!(text.contains(&format!("# HELP {name} {help}\n# TYPE {name} {}\n{name}", kind.name())), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(!help.contains(['\n', '\\', '|']), "{help}");
            for (_, written, _) in parsed(&text).into_iter().filter(|(of, ..)| of == name) {
                let mut at = 0;
                for label in *labels {
                    at += written[at..].find(&format!("{label}=\"")).expect(label) + label.len();
                }
            }
        }
        let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(families, METRICS.len());
    }

    #[test]
    fn no_series_is_told_twice() {
        let mut snapshot = samples::snapshot();
        snapshot.forwards.extend(samples::snapshot().forwards);
        snapshot.forwards.extend(samples::snapshot().forwards);
        // One that lives on beside the one in its place.
        let session = snapshot.forwards[0].status.sessions[0].clone();
        snapshot.forwards[0].status.sessions.push(session);
        let text = render(&snapshot);
        let mut seen = HashSet::new();
        for (name, labels, _) in parsed(&text) {
            assert!(seen.insert((name, labels)), "{name}{{{labels}}}");
        }
        assert!(text.contains("forward=\"db #2\"") && text.contains("forward=\"db #3\""), "{text}");
    }

    #[test]
    fn values_are_those_of_the_snapshot() {
        let text = render(&samples::snapshot());
        for line in [
            "ssmfwd_start_time_seconds 1700000000",
            "ssmfwd_uptime_seconds 3723.5",
            "ssmfwd_ready 0",
            "ssmfwd_forward_info{forward=\"db\",destination=\"db.internal:3306\",target=\"name:bastion\"} 1",
            "ssmfwd_forward_ready{forward=\"db\"} 1",
            "ssmfwd_forward_state{forward=\"db\",state=\"ready\"} 1",
            "ssmfwd_forward_state{forward=\"db\",state=\"dormant\"} 0",
            "ssmfwd_reconnecting_seconds{forward=\"db\"} 0",
            "ssmfwd_reconnecting_seconds{forward=\"cache\\n\\\"\\\\</script>\"} 2.5",
            "ssmfwd_connections{forward=\"db\"} 2",
            "ssmfwd_connections_waiting{forward=\"db\"} 1",
            "ssmfwd_connections_opened_total{forward=\"db\"} 7",
            "ssmfwd_connections_unserved_total{forward=\"db\"} 2",
            "ssmfwd_connections_limited_total{forward=\"db\"} 8",
            "ssmfwd_destination_refused_total{forward=\"db\"} 1",
            "ssmfwd_bytes_total{forward=\"db\",direction=\"up\"} 9007199254740993",
            "ssmfwd_bytes_total{forward=\"db\",direction=\"down\"} 5000",
            "ssmfwd_retransmissions_total{forward=\"db\"} 6",
            "ssmfwd_sessions{forward=\"db\",health=\"ready\"} 1",
            "ssmfwd_sessions{forward=\"db\",health=\"stalled\"} 1",
            "ssmfwd_sessions{forward=\"db\",health=\"reconnecting\"} 0",
            "ssmfwd_sessions_started_total{forward=\"db\"} 3",
            "ssmfwd_session_start_failures_total{forward=\"db\"} 4",
            "ssmfwd_session_replacements_total{forward=\"db\"} 1",
            "ssmfwd_session_resumptions_total{forward=\"db\"} 5",
            "ssmfwd_session_connections{forward=\"db\",member=\"0\"} 1",
            "ssmfwd_session_bytes_per_second{forward=\"db\",member=\"0\",direction=\"up\"} 1000",
            "ssmfwd_session_bytes_per_second{forward=\"db\",member=\"0\",direction=\"down\"} 20000",
            "ssmfwd_session_rtt_seconds{forward=\"db\",member=\"0\"} 0.0235",
            "ssmfwd_session_age_seconds{forward=\"db\",member=\"0\"} 3600",
        ] {
            assert!(text.lines().any(|written| written == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn the_build_is_told_as_version_does() {
        for (version, commit) in [("0.1.0", ""), ("0.1.0 (abc1234)", "abc1234"), ("1.0.0-rc.1 (v1+dirty)", "v1+dirty")]
        {
            assert_eq!(commit_in(version), commit, "{version}");
        }
        let text = render(&samples::snapshot());
        let (_, labels, _) = parsed(&text).into_iter().find(|(name, ..)| *name == "ssmfwd_build_info").expect("it");
        let of = |name: &str| {
            let value = labels.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
            value.map(|(value, _)| value.to_owned()).unwrap_or_else(|| panic!("no {name} in {labels}"))
        };
        let commit = Some(of("commit")).filter(|commit| !commit.is_empty()).map(|commit| format!(" ({commit})"));
        let wanted = format!(
            "{}{}\nfeatures: {}\ntarget:   {}\n",
            of("version"),
            commit.unwrap_or_default(),
            of("features"),
            of("target")
        );
        assert!(version::LONG.starts_with(&wanted), "{wanted}{}", version::LONG);
    }

    #[test]
    fn every_state_and_health_is_in_its_list() {
        let since = Duration::ZERO;
        let states = [
            ForwardState::Starting,
            ForwardState::Ready,
            ForwardState::Dormant,
            ForwardState::Waking,
            ForwardState::Reconnecting { since },
            ForwardState::Stopping,
            ForwardState::Stopped,
        ];
        assert_eq!(states.map(ForwardState::name), STATES);
        let since = tokio::time::Instant::now();
        assert_eq!([Health::Ready, Health::Reconnecting { since }, Health::Stalled].each_ref().map(name_of), HEALTHS);
    }

    #[test]
    fn a_program_without_forwards_has_metrics_too() {
        let text = render(&Snapshot { forwards: Vec::new(), ..samples::snapshot() });
        assert!(text.contains("ssmfwd_ready 0\n"), "{text}");
    }
}
