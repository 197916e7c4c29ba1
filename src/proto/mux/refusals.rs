//! Which stream was refused. The agent's flag does not say (`proto-notes/port-sessions.md#refusals`).

use crate::wire::smux::StreamId;

/// Refusals that were announced and have not found their stream.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    pending: usize,
    /// The last-opened stream that received something: the agent dials one after another, so all before it were
    /// dialled.
    newest_served: Option<StreamId>,
}

impl Refusals {
    /// The agent says that it could not reach a destination. `streams`: how many there are that it could mean.
    pub(super) fn announced(&mut self, streams: usize) {
        self.pending = (self.pending + 1).min(streams);
    }

    /// A stream received data.
    pub(super) fn received(&mut self, id: StreamId) {
        self.newest_served = self.newest_served.max(Some(id));
    }

    /// Whether the FIN of this stream is that of a refused one: it never received a byte, and neither did a stream
    /// that was opened later.
    pub(super) fn claims(&mut self, id: StreamId, received: bool) -> bool {
        let refused = self.pending > 0 && !received && self.newest_served < Some(id);
        self.pending -= usize::from(refused);
        refused
    }
}
