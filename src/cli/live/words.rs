//! What is said of a forward that cannot carry anything now: what it waits for, in wordings of several lengths.

use std::time::Duration;

use super::{palette::Tone, progress::Waiting};
use crate::{
    forward::{ForwardState, ForwardStatus},
    session::Health,
};

/// From here on it is said for how long something has been waited for.
const WORTH_A_WORD: Duration = Duration::from_secs(2);

/// What to say of a forward, the longest wording first; `None` of one that carries connections.
pub(super) fn of(status: &ForwardStatus, waiting: &Waiting) -> Option<(Tone, Vec<String>)> {
    let held = status.connections.len();
    Some(match status.state {
        ForwardState::Ready => return None,
        ForwardState::Starting | ForwardState::Waking => (Tone::Waits, with_more(start(waiting), None, held)),
        ForwardState::Reconnecting { since } => {
            let is_silent = || status.sessions.iter().any(|session| session.health == Health::Stalled);
            let (words, down) = match waiting.resumes_in {
                Some(wait) => (vec![format!("resuming in {} s", whole_seconds(wait))], Some(since)),
                None if waiting.resuming => (vec!["resuming".to_owned()], Some(since)),
                None if is_silent() => (vec!["the agent is silent".to_owned(), "agent silent".to_owned()], Some(since)),
                None => {
                    // How long nothing can be carried says more than how long this is tried.
                    let agent = waiting.agent.and(Some(Duration::ZERO));
                    (start(&Waiting { agent, none: Duration::ZERO, ..*waiting }), Some(since))
                }
            };
            (Tone::Waits, with_more(words, down, held))
        }
        ForwardState::Dormant => {
            let words = ["dormant: the next connection starts a session", "dormant until it is used", "dormant"];
            (Tone::Rests, words.map(str::to_owned).into())
        }
        ForwardState::Stopping => (Tone::Rests, stopping(held)),
        ForwardState::Stopped => (Tone::Bad, vec!["over".to_owned()]),
    })
}

/// A session is being started.
fn start(waiting: &Waiting) -> Vec<String> {
    let (long, short, since) = match waiting.agent {
        Some(since) => ("waiting for the agent", "waiting for agent", since),
        None if waiting.failures > 0 => ("starting session again", "starting again", waiting.none),
        None => ("starting session", "starting session", waiting.none),
    };
    if since < WORTH_A_WORD {
        return vec![long.to_owned(), short.to_owned()];
    }
    let since = span(since);
    vec![format!("{long}, {since}"), format!("{short}, {since}"), long.to_owned(), short.to_owned()]
}

/// The same, in front with how long nothing can be carried and how many connections wait for that.
fn with_more(words: Vec<String>, down: Option<Duration>, held: usize) -> Vec<String> {
    let down = down.filter(|down| *down >= WORTH_A_WORD).map(|down| format!("down for {}", span(down)));
    let held = (held > 0).then(|| format!("{} held", connections(held)));
    let Some(first) = words.first() else { return words };
    let long = [Some(first.clone()), down, held.clone()].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let short = held.map(|held| format!("{first}, {held}"));
    [Some(long), short].into_iter().flatten().chain(words).collect()
}

fn stopping(left: usize) -> Vec<String> {
    match left {
        0 => vec!["ending".to_owned()],
        _ => vec![format!("ending: {} left", connections(left)), "ending".to_owned()],
    }
}

fn connections(count: usize) -> String {
    format!("{count} connection{}", if count == 1 { "" } else { "s" })
}

fn whole_seconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// `12 s`, `5 min`, `3 h`.
fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Columns that a round trip takes at most.
pub(super) const ROUND_TRIP: usize = 6;

/// `32 ms`, `1.2 s`, `-` before there is a measurement.
pub(super) fn round_trip(rtt: Option<Duration>) -> String {
    let Some(rtt) = rtt else { return "-".to_owned() };
    match rtt.as_micros() {
        0..1000 => "<1 ms".to_owned(),
        micros @ 1000..1_000_000 => format!("{} ms", micros / 1000),
        _ if rtt.as_secs() < 99 => format!("{:.1} s", rtt.as_secs_f64()),
        _ => ">99 s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest(state: ForwardState, waiting: Waiting) -> String {
        let status = ForwardStatus { state, ..ForwardStatus::default() };
        let (_, wordings) = of(&status, &waiting).expect("something to say");
        wordings.into_iter().next().expect("a wording")
    }

    #[test]
    fn what_is_waited_for_is_said() {
        let s = Duration::from_secs;
        let down = ForwardState::Reconnecting { since: s(12) };
        let idle = Waiting::default();
        let resuming = Waiting { resuming: true, ..idle };
        for (state, waiting, expected) in [
            (ForwardState::Starting, idle, "starting session"),
            (ForwardState::Starting, Waiting { none: s(5), ..idle }, "starting session, 5 s"),
            (ForwardState::Starting, Waiting { agent: Some(s(1)), ..idle }, "waiting for the agent"),
            (ForwardState::Waking, Waiting { agent: Some(s(200)), ..idle }, "waiting for the agent, 3 min"),
            (
                down,
                Waiting { resumes_in: Some(Duration::from_millis(2100)), ..resuming },
                "resuming in 3 s, down for 12 s",
            ),
            (down, resuming, "resuming, down for 12 s"),
            (down, Waiting { agent: Some(s(5)), ..idle }, "waiting for the agent, down for 12 s"),
            (down, Waiting { failures: 2, none: s(9), ..idle }, "starting session again, down for 12 s"),
            (ForwardState::Dormant, idle, "dormant: the next connection starts a session"),
            (ForwardState::Stopping, idle, "ending"),
        ] {
            assert_eq!(longest(state, waiting), expected);
        }
        let status = ForwardStatus { state: ForwardState::Ready, ..ForwardStatus::default() };
        assert_eq!(of(&status, &idle), None);
    }

    #[test]
    fn connections_that_are_held_are_counted() {
        let words = with_more(vec!["resuming".into()], Some(Duration::from_secs(12)), 2);
        assert_eq!(words, ["resuming, down for 12 s, 2 connections held", "resuming, 2 connections held", "resuming"]);
        assert_eq!(stopping(1), ["ending: 1 connection left", "ending"]);
    }

    #[test]
    fn round_trips_have_one_width() {
        for (micros, expected) in [
            (0, "<1 ms"),
            (999, "<1 ms"),
            (1000, "1 ms"),
            (999_999, "999 ms"),
            (1_000_000, "1.0 s"),
            (98_960_000, "99.0 s"),
            (1 << 40, ">99 s"),
        ] {
            let words = round_trip(Some(Duration::from_micros(micros)));
            assert_eq!(words, expected);
            assert!(words.len() <= ROUND_TRIP);
        }
        assert_eq!(round_trip(None), "-");
    }
}
