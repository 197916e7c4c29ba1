//! The network between the two ends, gateway included.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ssmfwd::wire::{Flags, Header, Message, MessageId, MessageKind, PayloadKind, SequenceNumber};

use super::Profile;

/// What arrives.
#[derive(Debug)]
pub(super) enum Packet {
    ToAgent(Bytes),
    ToClient(Bytes),
    CutClient,
    RestoreClient,
    CutAgent,
    RestoreAgent,
}

/// Faults of single messages, in percent.
#[derive(Debug, Default, Clone, Copy)]
struct Faults {
    drop: u8,
    duplicate: u8,
    reorder: u8,
}

pub(super) struct Network {
    random: fastrand::Rng,
    delay: Duration,
    faults: Faults,
    /// By time, then by order of sending.
    packets: BTreeMap<(Instant, u64), Packet>,
    order: u64,
    last_to_agent: Instant,
    last_to_client: Instant,
    client_up: bool,
    agent_up: bool,
    calm_since: Instant,
    lost_of_agent: u32,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("delay", &self.delay)
            .field("faults", &self.faults)
            .field("under_way", &self.packets.len())
            .field("client_up", &self.client_up)
            .field("agent_up", &self.agent_up)
            .finish_non_exhaustive()
    }
}

impl Network {
    pub(super) fn new(mut random: fastrand::Rng, profile: Profile, now: Instant) -> Self {
        let delay = Duration::from_micros(match random.u8(..3) {
            0 => random.u64(10..500),
            1 => random.u64(500..20_000),
            _ => random.u64(20_000..150_000),
        });
        let faults = match profile {
            Profile::Carrier => Faults::default(),
            Profile::Harsh => Faults { drop: random.u8(..4), duplicate: random.u8(..4), reorder: random.u8(..10) },
        };
        let mut network = Self {
            random,
            delay,
            faults,
            packets: BTreeMap::new(),
            order: 0,
            last_to_agent: now,
            last_to_client: now,
            client_up: true,
            agent_up: true,
            calm_since: now,
            lost_of_agent: 0,
        };
        network.plan_cuts(now);
        network
    }

    /// Cuts of either websocket, with pauses as the gateway announces them, all within the first seconds.
    fn plan_cuts(&mut self, now: Instant) {
        let mut at = now;
        for _ in 0..self.random.usize(..5) {
            at += Duration::from_micros(self.random.u64(1000..3_000_000));
            let back = at + Duration::from_micros(self.random.u64(1000..2_000_000));
            let (cut, restore) = if self.random.bool() {
                (Packet::CutClient, Packet::RestoreClient)
            } else {
                (Packet::CutAgent, Packet::RestoreAgent)
            };
            self.push(at, cut);
            self.push(back, restore);
            at = back;
        }
        if self.random.bool() {
            let paused = now + Duration::from_micros(self.random.u64(1000..3_000_000));
            let pause = publication(MessageKind::PausePublication);
            let start = publication(MessageKind::StartPublication);
            self.push(paused, Packet::ToClient(pause));
            // Sometimes it is lost.
            if self.random.bool() {
                let lifted = paused + Duration::from_millis(self.random.u64(1..3000));
                self.push(lifted, Packet::ToClient(start));
            }
            at = at.max(paused);
        }
        self.calm_since = at.max(now + Duration::from_secs(3));
    }

    fn push(&mut self, at: Instant, packet: Packet) {
        self.order += 1;
        self.packets.insert((at, self.order), packet);
    }

    fn percent(&mut self, percent: u8) -> bool {
        percent > 0 && self.random.u8(..100) < percent
    }

    pub(super) fn send_to_agent(&mut self, now: Instant, bytes: Bytes) {
        if !self.client_up || !self.agent_up {
            return;
        }
        let at = self.arrival(now, self.last_to_agent);
        self.last_to_agent = self.last_to_agent.max(at);
        self.send(at, bytes, Packet::ToAgent);
    }

    pub(super) fn send_to_client(&mut self, now: Instant, bytes: Bytes) {
        if !self.client_up || !self.agent_up {
            self.lost_of_agent += 1;
            return;
        }
        let at = self.arrival(now, self.last_to_client);
        self.last_to_client = self.last_to_client.max(at);
        self.send(at, bytes, Packet::ToClient);
    }

    /// The carrier keeps order; only a reordered message may be overtaken.
    fn arrival(&mut self, now: Instant, last: Instant) -> Instant {
        let jitter = Duration::from_micros(self.random.u64(..1 + self.delay.as_micros() as u64 / 10));
        (now + self.delay + jitter).max(last)
    }

    fn send(&mut self, at: Instant, bytes: Bytes, packet: fn(Bytes) -> Packet) {
        if self.percent(self.faults.drop) {
            self.lost_of_agent += 1;
            return;
        }
        if self.percent(self.faults.duplicate) {
            let late = at + Duration::from_micros(self.random.u64(..50_000));
            self.push(late, packet(bytes.clone()));
        }
        let extra = if self.percent(self.faults.reorder) { self.random.u64(..40_000) } else { 0 };
        self.push(at + Duration::from_micros(extra), packet(bytes));
    }

    /// When the next packet arrives. While the agent does not read, what is for it waits.
    pub(super) fn next(&self, agent_reads: bool) -> Option<Instant> {
        self.deliverable(agent_reads).map(|(at, _)| at)
    }

    fn deliverable(&self, agent_reads: bool) -> Option<(Instant, u64)> {
        let readable = |packet: &Packet| agent_reads || !matches!(packet, Packet::ToAgent(_));
        self.packets.iter().find(|(_, packet)| readable(packet)).map(|(key, _)| *key)
    }

    /// The next packet that has arrived.
    pub(super) fn due(&mut self, now: Instant, agent_reads: bool) -> Option<Packet> {
        let key = self.deliverable(agent_reads).filter(|(at, _)| *at <= now)?;
        let packet = self.packets.remove(&key)?;
        match packet {
            // A cut loses everything that is under way.
            Packet::CutClient => {
                self.client_up = false;
                self.lose();
            }
            Packet::CutAgent => {
                self.agent_up = false;
                self.lose();
            }
            Packet::RestoreClient => self.client_up = true,
            Packet::RestoreAgent => self.agent_up = true,
            Packet::ToAgent(_) | Packet::ToClient(_) => {}
        }
        Some(packet)
    }

    fn lose(&mut self) {
        let before = self.packets.len();
        self.packets.retain(|_, packet| {
            !matches!(packet, Packet::ToAgent(_))
                && !matches!(packet, Packet::ToClient(bytes) if !is_publication(bytes))
        });
        self.lost_of_agent += u32::try_from(before - self.packets.len()).unwrap_or(u32::MAX);
    }

    /// No faults of single messages any more, and cuts that were planned do not happen.
    pub(super) fn stop_faults(&mut self, now: Instant) {
        self.faults = Faults::default();
        self.packets.retain(|_, packet| !matches!(packet, Packet::CutClient | Packet::CutAgent));
        self.calm_since = self.calm_since.min(now);
    }

    pub(super) fn calm_since(&self) -> Instant {
        self.calm_since
    }

    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    /// Messages that were lost: of either direction, because a lost acknowledgement costs the agent as much.
    pub(super) fn lost_of_agent(&self) -> u32 {
        self.lost_of_agent
    }
}

fn publication(kind: MessageKind) -> Bytes {
    let header = Header {
        kind,
        schema_version: 1,
        created_ms: 1_700_000_000_000,
        sequence: SequenceNumber::ZERO,
        flags: Flags::SYN_FIN,
        id: MessageId::default(),
        payload_kind: PayloadKind::Undefined,
    };
    Message { header, digest: [0; 32], payload: Bytes::new(), declared_len: 0 }.encode()
}

fn is_publication(bytes: &Bytes) -> bool {
    Message::decode(bytes.clone()).is_ok_and(|message| {
        matches!(message.header.kind, MessageKind::StartPublication | MessageKind::PausePublication)
    })
}
