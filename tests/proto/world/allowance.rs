//! How long a world may take for what is left to be done: from its plan, its network and what the client has met.

use std::time::{Duration, Instant};

use ssmfwd::proto::{Mode, limits};

use super::{
    Profile, World,
    invariants::{MESSAGE, Outage, Sending, recovery_bound},
    plan::Plan,
};

/// Messages that may be too large for the way: four that are known to have failed, and those of unknown fate between them.
pub(super) const TOO_LARGE: u32 = 28;

impl World {
    /// By when everything has to be delivered; known once the network has returned for good.
    pub(super) fn deadline(&self) -> Instant {
        let sum = |size: fn(&Plan) -> usize| self.apps.iter().map(|app| size(&app.plan)).sum::<usize>();
        let count = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let connections = count(self.apps.len());
        let rest_of = |end: Option<Instant>| end.map_or(Duration::ZERO, |end| end.saturating_duration_since(self.now));
        let outage = Outage {
            rtt: self.network.longest_way() * 2,
            lost_of_agent: self.network.lost_of_agent(self.agent.next_sequence()),
            unannounced: self.profile != Profile::Carrier || self.network.agent_was_cut(),
            starting: !self.ready,
            refusals: self.refusals,
            pause: rest_of(self.network.pause_ends()),
            in_turn: if self.mode == Mode::Basic { connections } else { 0 },
            connections,
            up: self.messages_up(),
            down: count(sum(|plan| plan.down) * 2 / self.chunk) + 8 * connections,
            naps: self.naps(),
            lost_probes: if self.loses_probes() { TOO_LARGE } else { 0 },
            holds: self.observer.holds(),
            sending: self.sending(sum(|plan| plan.up)),
        };
        self.now + recovery_bound(&outage)
    }

    /// Whether probes may be lost without a word.
    pub(super) fn loses_probes(&self) -> bool {
        self.network.narrow().is_some_and(|narrow| narrow.silent && narrow.limit < self.max_payload)
    }

    /// What the sending side takes for so many bytes.
    pub(super) fn sending(&self, up: usize) -> Sending {
        let share = self.slowdown.share(self.now);
        // A pause may still come, and without a limit makes one.
        let (rate, least) = match (self.rate, self.network.pauses()) {
            (0, false) => return self.sending_at(up, Duration::ZERO),
            (0, true) => (limits::MESSAGE_RATE, 62),
            (rate, pauses) => (rate, if pauses { 62 } else { share }),
        };
        self.sending_at(up, Duration::from_secs(1000) / (rate * least))
    }

    /// Bytes of all probes that there can be: three steps up, and those that fail.
    fn probes(&self) -> usize {
        let cap = self.max_payload;
        let failures = if self.network.narrow().is_some() { 4 } else { 0 };
        if cap <= limits::PAYLOAD { 0 } else { cap.min(4096) + cap.min(16 << 10) + cap * (1 + failures) }
    }

    fn sending_at(&self, up: usize, token: Duration) -> Sending {
        let bytes = up + self.messages(up) as usize * (MESSAGE - limits::PAYLOAD) + self.probes();
        Sending { token, bytes, link: self.network.takes(bytes) }
    }

    /// How many messages carry what the apps write, at most. Chunks are random: half of the largest message on average,
    /// and some for each connection.
    pub(super) fn messages_up(&self) -> u32 {
        self.messages(self.apps.iter().map(|app| app.plan.up).sum())
    }

    /// The same for so many bytes of it.
    pub(super) fn messages(&self, up: usize) -> u32 {
        u32::try_from(up / 512 + 8 * self.apps.len()).unwrap_or(u32::MAX)
    }

    /// For how long readers may still hold things up.
    pub(super) fn naps(&self) -> Duration {
        self.apps.iter().map(|app| app.naps(self.now)).sum()
    }
}
