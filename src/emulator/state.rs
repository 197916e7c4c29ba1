//! What an emulator has seen: a snapshot for assertions, without secrets.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

/// How many violations are kept in words; the rest is only counted.
const MAX_VIOLATIONS: usize = 100;
/// How many ended sessions are kept.
const MAX_ENDED: usize = 1000;
/// How many names a counter distinguishes: names come from requests.
const MAX_NAMES: usize = 64;

/// A snapshot of everything observable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EmulatorState {
    /// API calls by operation, refused ones included.
    pub calls: BTreeMap<String, u64>,
    /// API calls that failed, by error code.
    pub errors: BTreeMap<String, u64>,
    /// Websocket upgrades that were accepted.
    pub upgrades_accepted: u64,
    /// Websocket upgrades that were refused.
    pub upgrades_refused: u64,
    /// New connections that were reset because of an outage.
    pub connections_refused: u64,
    /// New connections that got no answer because of a black hole.
    pub connections_unanswered: u64,
    /// First messages with a token that is unknown, used, stale, or of another session or StreamUrl. Not those whose
    /// session ended after the upgrade.
    pub tokens_refused: u64,
    /// Client websockets open now.
    pub websockets: u64,
    /// Agents running now.
    pub agents: u64,
    /// Restarts of agents that are over.
    pub agent_restarts: u64,
    /// Sessions started.
    pub sessions_started: u64,
    /// Sessions ended, by who ended them.
    pub sessions_ended: BTreeMap<EndedBy, u64>,
    /// What clients did against the protocol: the first hundred, in words.
    pub violations: Vec<String>,
    /// How often clients acted against the protocol.
    pub violation_count: u64,
    /// Sessions by id: all live ones, and the last thousand ended ones.
    pub sessions: BTreeMap<String, SessionState>,
    #[serde(skip)]
    ended_order: VecDeque<String>,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SessionState {
    /// The target.
    pub target: String,
    /// The document.
    pub document: String,
    /// The text for CloudTrail.
    pub reason: Option<String>,
    /// Where the client is.
    pub channel: ChannelState,
    /// Who ended it, once it ended.
    pub ended: Option<EndedBy>,
    /// The version that the client claimed in its first message.
    pub client_version: Option<String>,
    /// Websockets the client opened, successfully.
    pub websockets: u64,
    /// ResumeSession calls that gave a token, stale ones included.
    pub resumes: u64,
    /// Those of them whose token was stale.
    pub stale_tokens: u64,
    /// ResumeSession calls that gave none: the session was over, or the call failed.
    pub resumes_refused: u64,
    /// The client's websockets that the gateway reset, whichever lever it was. Outages are not in it.
    pub cuts: u64,
    /// The client's websockets that were closed with `1000 Bye`.
    pub byes: u64,
    /// Websockets the agent opened.
    pub agent_websockets: u64,
    /// Stream data from the client.
    pub up: Traffic,
    /// Stream data from the agent.
    pub down: Traffic,
    /// Acknowledgements from the client.
    pub acknowledgements_up: u64,
    /// Relayed messages that faults made vanish.
    pub dropped: u64,
    /// Relayed messages that faults doubled.
    pub duplicated: u64,
    /// Relayed messages that faults delayed.
    pub reordered: u64,
    /// `pause_publication` messages to the client.
    pub pauses: u64,
    /// `start_publication` messages that a client waits for in vain.
    pub starts_lost: u64,
    /// Largest payload taken from the client, bytes.
    pub largest_payload: usize,
    /// Connections to destinations open now, and programs that run.
    pub destinations: u64,
    /// Those of them that were dialled and do not answer.
    pub dials_unanswered: u64,
    /// Payloads are sealed with a data key of KMS.
    pub sealed: bool,
    /// Data of the client that the agent could not open, or got before there was a key. Each is a violation.
    pub unsealed_inputs: u64,
}

impl SessionState {
    pub(super) fn new(target: &str, document: &str, reason: Option<String>) -> Self {
        Self {
            target: target.into(),
            document: document.into(),
            reason,
            channel: ChannelState::Never,
            ended: None,
            client_version: None,
            websockets: 0,
            resumes: 0,
            stale_tokens: 0,
            resumes_refused: 0,
            cuts: 0,
            byes: 0,
            agent_websockets: 0,
            up: Traffic::default(),
            down: Traffic::default(),
            acknowledgements_up: 0,
            dropped: 0,
            duplicated: 0,
            reordered: 0,
            pauses: 0,
            starts_lost: 0,
            largest_payload: 0,
            destinations: 0,
            dials_unanswered: 0,
            sealed: false,
            unsealed_inputs: 0,
        }
    }
}

/// Stream-data messages and their payload, retransmissions included, before faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Traffic {
    /// Messages.
    pub messages: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, payload: usize) {
        self.messages += 1;
        self.bytes += payload as u64;
    }
}

/// Where the client of a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelState {
    /// It has not opened its websocket yet.
    Never,
    /// Its websocket is open.
    Open,
    /// Its websocket was lost or closed.
    Lost,
}

/// Who ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndedBy {
    /// The client, with the TerminateSession flag.
    Flag,
    /// The client, with the TerminateSession call.
    Api,
    /// The agent, by itself.
    Agent,
    /// The service: an administrator, or a policy.
    Service,
    /// The service, because no stream data flowed for the idle timeout.
    Idle,
    /// The service, because the session was as old as sessions may become.
    MaxDuration,
}

impl EmulatorState {
    /// Calls of one operation.
    #[must_use]
    pub fn calls_of(&self, operation: &str) -> u64 {
        self.calls.get(operation).copied().unwrap_or(0)
    }

    /// Sessions that have not ended.
    #[must_use]
    pub fn live_sessions(&self) -> usize {
        self.sessions.values().filter(|session| session.ended.is_none()).count()
    }

    /// Sessions that ended in one way.
    #[must_use]
    pub fn ended_by(&self, who: EndedBy) -> u64 {
        self.sessions_ended.get(&who).copied().unwrap_or(0)
    }

    pub(super) fn count_call(&mut self, operation: &str) {
        count(&mut self.calls, operation);
    }

    pub(super) fn count_error(&mut self, code: &str) {
        count(&mut self.errors, code);
    }

    pub(super) fn violate(&mut self, what: String) {
        self.violation_count += 1;
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(what);
        }
    }

    /// Marks a session as ended; `false` if it was already.
    pub(super) fn end(&mut self, id: &str, by: EndedBy) -> bool {
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.ended.is_none()) else { return false };
        session.ended = Some(by);
        *self.sessions_ended.entry(by).or_default() += 1;
        self.ended_order.push_back(id.to_owned());
        if self.ended_order.len() > MAX_ENDED
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.sessions.remove(&oldest);
        }
        true
    }
}

fn count(counters: &mut BTreeMap<String, u64>, name: &str) {
    let name = if counters.len() < MAX_NAMES || counters.contains_key(name) { name } else { "(others)" };
    *counters.entry(name.to_owned()).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_sessions_are_counted_once_and_forgotten_in_order() {
        let mut state = EmulatorState::default();
        for number in 0..=MAX_ENDED {
            let id = format!("s{number}");
            state.sessions.insert(id.clone(), SessionState::new("i-0", "d", None));
            assert!(state.end(&id, EndedBy::Api));
            assert!(!state.end(&id, EndedBy::Flag));
        }
        assert_eq!(state.ended_by(EndedBy::Api), MAX_ENDED as u64 + 1);
        assert_eq!((state.ended_by(EndedBy::Flag), state.sessions.len()), (0, MAX_ENDED));
        assert!(!state.sessions.contains_key("s0") && state.sessions.contains_key("s1"));
    }

    #[test]
    fn names_from_requests_cannot_grow_a_counter_without_bound() {
        let mut state = EmulatorState::default();
        for number in 0..1000 {
            state.count_call(&format!("Op{number}"));
        }
        assert_eq!(state.calls.len(), MAX_NAMES + 1);
        assert_eq!(state.calls.values().sum::<u64>(), 1000);
    }
}
