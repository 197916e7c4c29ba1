//! What a session's thread has counted since it last told the state.

use super::state::{SessionState, Traffic};

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) up: Traffic,
    pub(super) down: Traffic,
    pub(super) acknowledgements_up: u64,
    pub(super) dropped: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) pauses: u64,
    pub(super) starts_lost: u64,
    pub(super) cuts: u64,
    pub(super) byes: u64,
    pub(super) agent_websockets: u64,
    /// A maximum, not a sum: kept.
    pub(super) largest_payload: usize,
    dials: Dials,
}

/// Connections to destinations, as they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Dials {
    pub(super) open: u64,
    pub(super) unanswered: u64,
}

impl Tally {
    /// Whether there is anything to tell.
    pub(super) fn is_new(&self, dials: Dials) -> bool {
        self.dials != dials
            || self.up.messages + self.down.messages + self.acknowledgements_up > 0
            || self.dropped + self.duplicated + self.reordered + self.pauses + self.starts_lost > 0
            || self.cuts + self.byes + self.agent_websockets > 0
    }

    /// Adds everything to the state and starts over.
    pub(super) fn publish(&mut self, session: &mut SessionState, dials: Dials) {
        let told = std::mem::take(self);
        for (sum, part) in [(&mut session.up, told.up), (&mut session.down, told.down)] {
            sum.messages += part.messages;
            sum.bytes += part.bytes;
        }
        session.acknowledgements_up += told.acknowledgements_up;
        session.dropped += told.dropped;
        session.duplicated += told.duplicated;
        session.reordered += told.reordered;
        session.pauses += told.pauses;
        session.starts_lost += told.starts_lost;
        session.cuts += told.cuts;
        session.byes += told.byes;
        session.agent_websockets += told.agent_websockets;
        session.largest_payload = session.largest_payload.max(told.largest_payload);
        session.destinations = dials.open;
        session.dials_unanswered = dials.unanswered;
        self.largest_payload = told.largest_payload;
        self.dials = dials;
    }
}
