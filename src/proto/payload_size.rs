//! Payload-size discovery, one session's part: the probe in flight and what becomes of it
//! (`proto-notes/sending.md#payload-size`).
//!
//! A probe carries no user data. It has two forms: the large one goes out once; whatever is sent again under its number
//! is a few bytes that mean nothing, and harmless whichever of the two the agent takes.

use std::time::Instant;

use super::{limits, path::PathState};
use crate::wire::SequenceNumber;

/// Before anything is known of the rate: the first step of the discovery, so that it starts with the first backlog.
const WANTED_AT_FIRST: usize = 4096;

/// How large this session's messages may be.
#[derive(Debug)]
pub(super) struct PayloadSize {
    path: PathState,
    cap: usize,
    probe: Option<Probe>,
    /// A message that was full has gone out since the last probe: data is never made to wait for a probe first.
    filled: bool,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    sequence: SequenceNumber,
    size: usize,
    /// A message behind it was acknowledged first.
    overtaken: bool,
}

impl PayloadSize {
    /// `cap`: no message is larger, bytes.
    pub(super) fn new(path: PathState, cap: usize) -> Self {
        Self { path, cap, probe: None, filled: false }
    }

    /// The largest payload that may be sent now.
    pub(super) fn limit(&self) -> usize {
        self.path.payload().max(limits::PAYLOAD).min(self.cap)
    }

    /// The size that messages should have, given the size that the rate asks for, if it is known.
    pub(super) fn target(&self, wanted: Option<usize>) -> usize {
        self.limit().min(wanted.unwrap_or(WANTED_AT_FIRST).max(limits::PAYLOAD))
    }

    /// A data message went out that had no room for more.
    pub(super) fn filled(&mut self) {
        self.filled = true;
    }

    /// The size of the probe that is to go out now. `wanted` as for [`target`](Self::target): a larger payload than
    /// will be used is not looked for. `waiting`: whether so many bytes wait to be sent.
    pub(super) fn next_probe(
        &mut self,
        now: Instant,
        wanted: Option<usize>,
        waiting: impl FnOnce(usize) -> bool,
    ) -> Option<usize> {
        let limit = self.limit();
        let worth = limit < self.cap && wanted.unwrap_or(WANTED_AT_FIRST) > limit;
        if !worth || self.probe.is_some() || !self.filled || !waiting(limit) {
            return None;
        }
        self.filled = false;
        self.path.claim(now, self.cap)
    }

    /// A probe has gone out.
    pub(super) fn probing(&mut self, sequence: SequenceNumber, size: usize) {
        self.probe = Some(Probe { sequence, size, overtaken: false });
    }

    /// A message was acknowledged for the first time. `once`: it had been sent once.
    pub(super) fn acknowledged(&mut self, now: Instant, sequence: SequenceNumber, once: bool) {
        let Some(probe) = &mut self.probe else { return };
        if sequence > probe.sequence {
            probe.overtaken = true;
        }
        if sequence != probe.sequence {
            return;
        }
        let Probe { size, overtaken, .. } = *probe;
        self.probe = None;
        if once {
            self.path.passed(size);
        } else if overtaken {
            // The carrier keeps order: the large form did not arrive.
            self.path.failed(now, size);
        } else {
            self.path.uncertain(now, size);
        }
    }

    /// The websocket is lost, and the probe in flight may be why. If it was acknowledged and that was lost, nobody
    /// will ever know.
    pub(super) fn websocket_lost(&mut self, now: Instant) {
        if let Some(probe) = self.probe.take() {
            self.path.failed(now, probe.size);
        }
    }

    /// A message of this size has killed one websocket after another.
    pub(super) fn lower(&mut self, now: Instant, size: usize) {
        self.path.lower(now, size);
    }
}
