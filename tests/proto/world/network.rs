//! The network between the two ends, gateway included.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ssmfwd::proto::limits;
use ssmfwd::wire::{
    Acknowledge, Flags, Header, Message, MessageId, MessageKind, PAYLOAD_OFFSET, PayloadKind, SequenceNumber,
};

use super::Profile;

/// What arrives.
#[derive(Debug)]
pub(super) enum Packet {
    ToAgent(Bytes),
    ToClient(Bytes),
    /// The gateway says so by itself, on whatever websocket the client has.
    Publication(MessageKind),
    /// The gateway's answer to a ping.
    Pong,
    CutClient,
    RestoreClient,
    /// The client has a websocket that the gateway will not keep: its token is stale.
    StaleClient,
    CutAgent,
    RestoreAgent,
    /// The agent's worker is killed: it will never be heard of again.
    AgentGone,
}

/// Which ends take what has arrived for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reads {
    pub(super) agent: bool,
    pub(super) client: bool,
}

/// What becomes of messages that are too large for the way to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Narrow {
    /// Largest payload that passes.
    pub(super) limit: usize,
    /// They are lost without a word; otherwise with the client's websocket.
    pub(super) silent: bool,
}

/// How much later than others a message that is reordered or repeated may arrive.
const OVERTAKEN: Duration = Duration::from_millis(50);

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
    /// There are faults of single messages, or were.
    disorder: bool,
    /// By time, then by order of sending.
    packets: BTreeMap<(Instant, u64), Packet>,
    order: u64,
    last_to_agent: Instant,
    last_to_client: Instant,
    client_up: bool,
    agent_up: bool,
    calm_since: Instant,
    pause_ends: Option<Instant>,
    gone: bool,
    agent_was_cut: bool,
    /// The gateway answers each message for an agent that is away with a pause.
    pauses: bool,
    /// Numbers of the agent's stream data whose acknowledgement has reached the agent.
    acknowledged: BTreeSet<i64>,
    narrow: Option<Narrow>,
    /// Messages that were too large.
    too_large: u32,
    /// Bytes a second upwards, and until when the link is busy.
    bandwidth: Option<u32>,
    link_free: Instant,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("delay", &self.delay)
            .field("faults", &self.faults)
            .field("narrow", &self.narrow)
            .field("bandwidth", &self.bandwidth)
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
            Profile::Ordeal if random.bool() => Faults::default(),
            Profile::Carrier => Faults::default(),
            _ => Faults { drop: random.u8(..4), duplicate: random.u8(..4), reorder: random.u8(..10) },
        };
        let pauses = profile == Profile::Ordeal && random.bool();
        let narrow = (random.u8(..3) == 0).then(|| Narrow {
            limit: random.usize(limits::PAYLOAD..40_000),
            // Where single messages are lost anyway, nobody can tell.
            silent: random.bool(),
        });
        let bandwidth = (random.u8(..3) == 0).then(|| random.u32(100_000..5_000_000));
        let mut network = Self {
            random,
            delay,
            faults,
            disorder: faults.reorder > 0 || faults.duplicate > 0,
            packets: BTreeMap::new(),
            order: 0,
            last_to_agent: now,
            last_to_client: now,
            client_up: true,
            agent_up: true,
            calm_since: now,
            pause_ends: None,
            gone: false,
            agent_was_cut: false,
            pauses,
            acknowledged: BTreeSet::new(),
            narrow,
            too_large: 0,
            bandwidth,
            link_free: now,
        };
        network.plan_cuts(now, profile);
        network
    }

    /// Cuts of either websocket, with pauses as the gateway announces them, all within the first seconds.
    fn plan_cuts(&mut self, now: Instant, profile: Profile) {
        let mut at = now;
        // Most connections are short: cuts that come soon after each other hit more of them.
        let apart = if self.random.bool() { 8 * self.delay.as_micros() as u64 + 100_000 } else { 3_000_000 };
        for _ in 0..self.random.usize(..5) {
            at += Duration::from_micros(self.random.u64(1000..apart));
            let mut back = at + Duration::from_micros(self.random.u64(1000..2_000_000));
            let (cut, restore) = if self.random.bool() {
                back += self.long_outage(profile);
                while self.random.u8(..4) == 0 {
                    self.push(back, Packet::StaleClient);
                    back += Duration::from_micros(self.random.u64(1000..1_000_000));
                    self.push(back, Packet::CutClient);
                    back += Duration::from_micros(self.random.u64(1000..1_000_000));
                }
                (Packet::CutClient, Packet::RestoreClient)
            } else {
                self.agent_was_cut = true;
                // Not as long as a session waits for its agent.
                back += self.long_outage(profile) / 20;
                (Packet::CutAgent, Packet::RestoreAgent)
            };
            self.push(at, cut);
            self.push(back, restore);
            at = back;
        }
        if self.random.bool() {
            let paused = now + Duration::from_micros(self.random.u64(1000..3_000_000));
            self.push(paused, Packet::Publication(MessageKind::PausePublication));
            // Sometimes it is lost.
            if self.random.bool() {
                let lifted = paused + Duration::from_millis(self.random.u64(1..3000));
                self.push(lifted, Packet::Publication(MessageKind::StartPublication));
            }
            // A pause holds new data for as long as a lost start would have ended it.
            self.pause_ends = Some(paused + limits::PAUSE);
        }
        let chance = match profile {
            Profile::Carrier => 0,
            Profile::Harsh => 32,
            Profile::Ordeal => 64,
        };
        if self.random.u8(..) < chance {
            let gone = now + Duration::from_micros(self.random.u64(1000..6_000_000));
            self.push(gone, Packet::AgentGone);
            if profile == Profile::Ordeal && self.random.bool() {
                at = self.plan_flapping(at.max(gone));
            }
        }
        // Single messages are lost, repeated and reordered for as long.
        self.calm_since = at.max(now + Duration::from_millis(self.random.u64(1000..8000)));
    }

    /// How much longer than others an outage lasts.
    fn long_outage(&mut self, profile: Profile) -> Duration {
        let longest = match self.random.u8(..4) {
            0 if profile == Profile::Ordeal => 600_000_000,
            1 if profile == Profile::Ordeal => 30_000_000,
            _ => return Duration::ZERO,
        };
        Duration::from_micros(self.random.u64(..longest))
    }

    /// One short-lived websocket after another, until there was one for longer than any session waits for its agent.
    fn plan_flapping(&mut self, mut at: Instant) -> Instant {
        let life = self.random.u64(2_000_000..60_000_000);
        let mut online = Duration::ZERO;
        while online < limits::STALL_TIMEOUT * 2 {
            let lives = Duration::from_micros(self.random.u64(1000..life));
            online += lives;
            at += lives;
            self.push(at, Packet::CutClient);
            at += Duration::from_micros(self.random.u64(1000..60_000_000));
            self.push(at, Packet::RestoreClient);
        }
        at
    }

    fn push(&mut self, at: Instant, packet: Packet) {
        self.order += 1;
        self.packets.insert((at, self.order), packet);
    }

    fn percent(&mut self, percent: u8) -> bool {
        percent > 0 && self.random.u8(..100) < percent
    }

    /// The client's own websocket takes a ping, and the gateway answers it.
    pub(super) fn ping(&mut self, now: Instant) {
        if self.client_up {
            self.push(now + self.delay * 2, Packet::Pong);
        }
    }

    pub(super) fn send_to_agent(&mut self, now: Instant, bytes: Bytes) {
        if self.client_up && !self.agent_up && self.pauses {
            let at = now + self.delay * 2;
            self.push(at, Packet::ToClient(publication(MessageKind::PausePublication)));
            self.pause_ends = self.pause_ends.max(Some(at + limits::PAUSE));
        }
        if !self.client_up || !self.agent_up {
            return;
        }
        if let Some(narrow) = self.narrow.filter(|narrow| payload_len(&bytes) > narrow.limit) {
            self.too_large += 1;
            if !narrow.silent {
                let cut = now + self.delay / 2;
                let back = cut + Duration::from_micros(self.random.u64(1000..500_000));
                self.push(cut, Packet::CutClient);
                self.push(back, Packet::RestoreClient);
                self.calm_since = self.calm_since.max(back);
            }
            return;
        }
        self.link_free = self.link_free.max(now) + self.takes(bytes.len());
        let at = self.arrival(self.link_free, self.last_to_agent);
        self.last_to_agent = self.last_to_agent.max(at);
        self.send(now, at, bytes, Packet::ToAgent);
    }

    /// How long so many bytes occupy the link.
    pub(super) fn takes(&self, bytes: usize) -> Duration {
        let of = |bandwidth| Duration::from_secs_f64(bytes as f64 / f64::from(bandwidth));
        self.bandwidth.map_or(Duration::ZERO, of)
    }

    /// The largest payload that passes, if there is one.
    pub(super) fn narrow(&self) -> Option<Narrow> {
        self.narrow
    }

    /// Whether there are pauses, or may be.
    pub(super) fn pauses(&self) -> bool {
        self.pauses || self.pause_ends.is_some()
    }

    /// How many messages were too large for the way.
    pub(super) fn too_large(&self) -> u32 {
        self.too_large
    }

    pub(super) fn send_to_client(&mut self, now: Instant, bytes: Bytes) {
        if !self.client_up || !self.agent_up {
            return;
        }
        let at = self.arrival(now, self.last_to_client);
        self.last_to_client = self.last_to_client.max(at);
        self.send(now, at, bytes, Packet::ToClient);
    }

    /// The carrier keeps order; only a reordered message may be overtaken.
    fn arrival(&mut self, now: Instant, last: Instant) -> Instant {
        let jitter = Duration::from_micros(self.random.u64(..1 + self.delay.as_micros() as u64 / 10));
        (now + self.delay + jitter).max(last)
    }

    fn send(&mut self, now: Instant, at: Instant, bytes: Bytes, packet: fn(Bytes) -> Packet) {
        if now >= self.calm_since {
            self.faults = Faults::default();
        }
        if self.percent(self.faults.drop) {
            return;
        }
        if self.percent(self.faults.duplicate) {
            let late = at + Duration::from_micros(self.random.u64(..50_000));
            self.push(late, packet(bytes.clone()));
        }
        let extra = if self.percent(self.faults.reorder) { self.random.u64(..40_000) } else { 0 };
        self.push(at + Duration::from_micros(extra), packet(bytes));
    }

    /// When the next packet arrives. What is for an end that does not read waits.
    pub(super) fn next(&self, reads: Reads) -> Option<Instant> {
        self.deliverable(reads).map(|(at, _)| at)
    }

    fn deliverable(&self, reads: Reads) -> Option<(Instant, u64)> {
        let readable = |packet: &Packet| match packet {
            Packet::ToAgent(_) => reads.agent,
            Packet::ToClient(_) | Packet::Pong => reads.client,
            _ => true,
        };
        self.packets.iter().find(|(_, packet)| readable(packet)).map(|(key, _)| *key)
    }

    /// The next packet that has arrived.
    pub(super) fn due(&mut self, now: Instant, reads: Reads) -> Option<Packet> {
        let key = self.deliverable(reads).filter(|(at, _)| *at <= now)?;
        let packet = self.packets.remove(&key)?;
        match packet {
            // A cut loses everything that is under way.
            Packet::CutClient => {
                self.client_up = false;
                self.link_free = now;
                self.lose();
                self.packets.retain(|_, packet| !matches!(packet, Packet::Pong));
            }
            Packet::CutAgent => {
                self.agent_up = false;
                self.lose();
            }
            Packet::RestoreClient => self.client_up = true,
            Packet::RestoreAgent => self.agent_up = !self.gone,
            Packet::AgentGone => {
                self.agent_up = false;
                self.gone = true;
                self.lose();
            }
            Packet::ToAgent(_) | Packet::ToClient(_) | Packet::Publication(_) | Packet::Pong | Packet::StaleClient => {}
        }
        if let Packet::ToAgent(bytes) = &packet {
            self.acknowledged.extend(acknowledges(bytes));
        }
        Some(packet)
    }

    /// Pongs are the gateway's, whatever becomes of the agent.
    fn lose(&mut self) {
        self.packets.retain(|_, packet| !matches!(packet, Packet::ToAgent(_) | Packet::ToClient(_)));
    }

    /// No faults of single messages any more, and cuts that were planned do not happen.
    pub(super) fn stop_faults(&mut self, now: Instant) {
        self.faults = Faults::default();
        // What is up stays as it is, and what is down comes back once.
        let (mut client_up, mut agent_up) = (self.client_up, self.agent_up);
        self.packets.retain(|_, packet| match packet {
            Packet::CutClient | Packet::CutAgent | Packet::StaleClient => false,
            Packet::RestoreClient => !std::mem::replace(&mut client_up, true),
            Packet::RestoreAgent => !std::mem::replace(&mut agent_up, true),
            _ => true,
        });
        self.calm_since = self.calm_since.min(now);
    }

    pub(super) fn calm_since(&self) -> Instant {
        self.calm_since
    }

    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    /// What a message takes at most, in one direction, when nothing holds it up: with all the jitter.
    pub(super) fn longest_way(&self) -> Duration {
        self.delay * 11 / 10 + Duration::from_micros(1)
    }

    /// What no round trip exceeds that nothing but the network has held up.
    pub(super) fn longest_round_trip(&self) -> Duration {
        (self.longest_way() + if self.disorder { OVERTAKEN } else { Duration::ZERO }) * 2
    }

    /// Whether the client has a websocket.
    pub(super) fn is_client_up(&self) -> bool {
        self.client_up
    }

    /// Whether both ends have a websocket.
    pub(super) fn is_up(&self) -> bool {
        self.client_up && self.agent_up
    }

    /// Whether the agent's websocket was ever cut, which the client is not told.
    pub(super) fn agent_was_cut(&self) -> bool {
        self.agent_was_cut
    }

    /// When the longest pause that was announced is over by itself.
    pub(super) fn pause_ends(&self) -> Option<Instant> {
        self.pause_ends
    }

    pub(super) fn is_agent_gone(&self) -> bool {
        self.gone
    }

    /// Of the agent's stream data below this number: how many are lost, or delivered with their acknowledgement lost,
    /// and not under way again.
    pub(super) fn lost_of_agent(&self, next: i64) -> u32 {
        let mut on_their_way = BTreeSet::new();
        for packet in self.packets.values() {
            match packet {
                Packet::ToAgent(bytes) => on_their_way.extend(acknowledges(bytes)),
                Packet::ToClient(bytes) => on_their_way.extend(stream_data(bytes)),
                _ => {}
            }
        }
        let known = |number: &i64| self.acknowledged.contains(number) || on_their_way.contains(number);
        u32::try_from((0..next).filter(|number| !known(number)).count()).unwrap_or(u32::MAX)
    }
}

fn payload_len(bytes: &Bytes) -> usize {
    bytes.len().saturating_sub(PAYLOAD_OFFSET)
}

/// The number of the agent's stream data in a message.
fn stream_data(bytes: &Bytes) -> Option<i64> {
    let message = Message::decode(bytes.clone()).ok()?;
    (message.header.kind == MessageKind::OutputStreamData).then_some(message.header.sequence.0)
}

/// The number that a message of the client acknowledges.
fn acknowledges(bytes: &Bytes) -> Option<i64> {
    let message = Message::decode(bytes.clone()).ok()?;
    let is_acknowledgement = message.header.kind == MessageKind::Acknowledge;
    is_acknowledgement.then(|| Acknowledge::decode(&message.payload).ok()).flatten().map(|body| body.sequence)
}

pub(super) fn publication(kind: MessageKind) -> Bytes {
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
