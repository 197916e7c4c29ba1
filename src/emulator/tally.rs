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
    /// A maximum, not a sum: kept.
    pub(super) largest_payload: usize,
    destinations: u64,
}

impl Tally {
    /// Whether there is anything to tell.
    pub(super) fn is_new(&self, destinations: u64) -> bool {
        self.destinations != destinations
            || self.up.messages + self.down.messages + self.acknowledgements_up > 0
            || self.dropped + self.duplicated + self.reordered + self.pauses > 0
    }

    /// Adds everything to the state and starts over.
    pub(super) fn publish(&mut self, session: &mut SessionState, destinations: u64) {
        let Self { up, down, acknowledgements_up, dropped, duplicated, reordered, pauses, largest_payload, .. } =
            std::mem::take(self);
        for (sum, part) in [(&mut session.up, up), (&mut session.down, down)] {
            sum.messages += part.messages;
            sum.bytes += part.bytes;
        }
        session.acknowledgements_up += acknowledgements_up;
        session.dropped += dropped;
        session.duplicated += duplicated;
        session.reordered += reordered;
        session.pauses += pauses;
        session.largest_payload = session.largest_payload.max(largest_payload);
        session.destinations = destinations;
        self.largest_payload = largest_payload;
        self.destinations = destinations;
    }
}
