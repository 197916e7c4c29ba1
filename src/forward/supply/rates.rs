//! Tells from time to time how much each session has carried.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Event, Tunnel,
    member::{Member, MemberId},
};
use crate::proto::Statistics;

/// Between two tellings.
const EVERY: Duration = Duration::from_secs(10);

/// What was told of which session.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// When to look again; not before there is a connection if it is missing.
    at: Option<Instant>,
    told: HashMap<MemberId, Told>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    bytes_up: u64,
    bytes_down: u64,
}

impl Told {
    fn now(at: Instant, statistics: &Statistics) -> Self {
        Self { at, bytes_up: statistics.bytes_up, bytes_down: statistics.bytes_down }
    }
}

impl Rates {
    /// What is to be told now, and when to look again although nothing happens: not at all while there are no
    /// connections and nothing moves.
    pub(super) fn look<'a, T: Tunnel>(
        &mut self,
        now: Instant,
        connections: usize,
        members: impl Iterator<Item = &'a Arc<Member<T>>>,
    ) -> (Vec<Event>, Option<Instant>) {
        let Some(at) = self.at else {
            self.at = (connections > 0).then(|| now + EVERY);
            if self.at.is_some() {
                // What was carried before, and the time without connections, say nothing about the rates from now on.
                self.told = members.map(|member| (member.id, Told::now(now, &member.tunnel.statistics()))).collect();
            }
            return (Vec::new(), self.at);
        };
        if now < at {
            return (Vec::new(), self.at);
        }
        let mut events = Vec::new();
        let mut told = HashMap::new();
        for member in members {
            let before = self.told.get(&member.id);
            let before = before.copied().unwrap_or(Told { at: member.ready_at, bytes_up: 0, bytes_down: 0 });
            let statistics = member.tunnel.statistics();
            let moved = (statistics.bytes_up - before.bytes_up, statistics.bytes_down - before.bytes_down);
            let micros = now.saturating_duration_since(before.at).as_micros().max(1);
            let rate = |bytes: u64| u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX);
            if moved != (0, 0) {
                events.push(Event::SessionRates {
                    session: member.tunnel.id().clone(),
                    member: member.slot,
                    bytes_up_per_s: rate(moved.0),
                    bytes_down_per_s: rate(moved.1),
                    connections: member.leases(),
                });
            }
            told.insert(member.id, Told::now(now, &statistics));
        }
        self.told = told;
        self.at = (connections > 0 || !events.is_empty()).then(|| now + EVERY);
        (events, self.at)
    }
}
