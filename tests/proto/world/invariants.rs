//! What must hold after every step, whatever the network does.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ssmfwd::{
    emulator::agent::AgentCore,
    proto::{Session, limits},
    wire::{
        Acknowledge, Message, MessageKind, PayloadKind,
        smux::{FrameHeader, HEADER_LEN},
    },
};

use super::Profile;

/// What a destination takes for one message, and the agent to store it.
pub(super) const WRITE: Duration = Duration::from_micros(3200);

/// What the recovery from an outage depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    /// The longest round trip of the line.
    pub(super) rtt: Duration,
    /// Messages of the agent that were lost when the network came back, or whose acknowledgement was.
    pub(super) lost_of_agent: u32,
    /// Something upward was lost, and no new websocket of the client tells it: losses on a live one, a websocket of
    /// the agent that was replaced.
    pub(super) unannounced: bool,
    /// The session is not ready: its first message has a timer of its own.
    pub(super) starting: bool,
    /// Arrivals that the agent refuses at the start.
    pub(super) refusals: u32,
    /// What is left of a pause whose end was lost.
    pub(super) pause: Duration,
    /// How long readers stop.
    pub(super) naps: Duration,
    /// Connections that are carried one after another.
    pub(super) in_turn: u32,
    /// Connections, and messages in each direction, all at most.
    pub(super) connections: u32,
    pub(super) up: u32,
    pub(super) down: u32,
    /// Probes that may still be lost alone, without a word.
    pub(super) lost_probes: u32,
    /// For how long the client holds its oldest message back.
    pub(super) holds: Duration,
    pub(super) sending: Sending,
}

/// What the sending side itself takes, whatever the network does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    /// Between two data messages, once the burst is spent.
    pub(super) token: Duration,
    /// Bytes on the wire, with the probes among them.
    pub(super) bytes: usize,
    /// What the link takes for them.
    pub(super) link: Duration,
}

/// What the window begins with after a resume (`proto-notes/sending.md#window`).
const WINDOW: usize = 32 << 10;
/// A data message of the size that always passes, with its header.
pub(super) const MESSAGE: usize = 1200;

impl Sending {
    /// How much later than at once the last of `messages` is sent: a token for each; and unless all fit into the first
    /// window, a round trip until what was under way before is acknowledged, and one for each doubling.
    pub(super) fn takes(&self, messages: u32, rtt: Duration) -> Duration {
        let windows = self.bytes.div_ceil(WINDOW);
        let rounds = if windows <= 1 { 0 } else { 1 + windows.next_power_of_two().ilog2() };
        self.token * messages + self.link + (rtt + self.link / 4) * rounds
    }
}

/// Invariant 4 of the design: how long after the network has returned for good everything that was queued is
/// delivered, at the latest (`proto-notes/reliability.md#recovery`). Virtual time; every seed is held to it.
///
/// * Upwards: a new websocket of the client needs one round trip until the head is acknowledged, and half of one for
///   the rest. A loss that no new websocket announces waits for the head's timeout, which has backed off to 10 s at
///   most, and one more for what was sent after the head; the shield of a session that is not ready waits for itself,
///   and as long. Each refusal at the start doubles a timeout.
/// * Downwards: the agent looks at its oldest message every 100 ms, once its own timeout of up to 1 s has passed, and
///   each that was lost costs such a tick and the round trip of its acknowledgement.
/// * Upwards, all of it takes its tokens, the doublings of the window, and the time of the link; a probe that is lost
///   alone costs a timeout. A large message that websockets were lost with is held back for a while.
/// * Not recovery, but in the way of it: a pause; a reader that stops; connections that have to be carried in turn; what the agent and its
///   destinations take for each message and dial of this world.
pub(super) fn recovery_bound(outage: &Outage) -> Duration {
    const TICK: Duration = Duration::from_millis(100);
    const AGENT_TIMEOUT: Duration = Duration::from_secs(1);
    const TIMEOUT: Duration = Duration::from_millis(200);
    const BACKED_OFF: Duration = Duration::from_secs(10);
    const DIAL: Duration = Duration::from_millis(20);
    const PUMP: Duration = Duration::from_micros(1330);

    let rto = TIMEOUT.max((outage.rtt + outage.sending.link) * 3);
    // How long one message may wait for its next transmission, and how many waits may follow each other.
    let upwards = outage.rtt * 3 / 2
        + if outage.unannounced {
            BACKED_OFF * (1 + u32::from(outage.starting) + outage.refusals) + rto
        } else {
            rto * ((1 << outage.refusals) - 1)
        };
    let downwards = AGENT_TIMEOUT + TICK + (TICK + outage.rtt) * outage.lost_of_agent;
    // A question, its answer and the end of a stream; in turn also the silence before the next.
    let rounds = outage.rtt * 3 + (outage.rtt * 6 + limits::SETTLE) * outage.in_turn;
    upwards
        + outage.sending.takes(outage.up, outage.rtt)
        + rto * outage.lost_probes
        + outage.holds
        + downwards
        + outage.pause
        + outage.naps
        + rounds
        + DIAL * outage.connections
        + WRITE * outage.up
        + PUMP * outage.down
}

/// What was queued upwards when the client got a new websocket, and by when it is delivered: the round trip that shows
/// that the agent is there, and the way of the rest.
#[derive(Debug)]
pub(super) struct Resumed {
    pub(super) by: Instant,
    /// Connections and how many bytes of each.
    pub(super) queued: Vec<(usize, usize)>,
}

impl Resumed {
    /// `sending`: what the client takes for it by itself.
    pub(super) fn new(now: Instant, longest_way: Duration, sending: Duration, queued: Vec<(usize, usize)>) -> Self {
        Self { by: now + longest_way * 3 + sending, queued }
    }
}

/// Watches what the client sends, what it is told and what it tells, and how full it is.
pub(super) struct Observer {
    seed: u64,
    profile: Profile,
    websocket: u32,
    /// Since when there is this websocket.
    opened: Option<Instant>,
    /// Something of the agent or the gateway came in on it, other than an answer to a ping.
    heard: bool,
    /// When anything last came in on the present websocket.
    gateway_heard: Option<Instant>,
    /// How long the client has listened to an agent that had something to acknowledge and said nothing.
    silence: Duration,
    /// Until when `silence` is added up.
    until: Option<Instant>,
    sent: BTreeMap<i64, Sent>,
    next: i64,
    /// The largest payload of a data message that may be sent: that of the largest acknowledged probe.
    largest: usize,
    /// Websockets that were lost since anything was acknowledged.
    vain: u32,
    /// Data messages a second, 0 without a limit, and when the bucket is full again.
    rate: u32,
    full_at: Option<Instant>,
}

/// When a message was last sent, on which websocket, when and how often on that, and its bytes.
struct Sent {
    at: Instant,
    websocket: u32,
    first: Instant,
    times: u32,
    /// What is sent again.
    bytes: Bytes,
    shield: bool,
    /// It was sent again.
    again: bool,
    /// It was acknowledged.
    done: bool,
    /// The payload's size, of a probe.
    probe: Option<usize>,
}

/// How long an empty bucket takes to fill.
const BURST: Duration = Duration::from_millis(30);

/// The size of a probe: it is larger than what always passes, and says nothing.
fn probe_size(kind: PayloadKind, payload: &[u8]) -> Option<usize> {
    let is_nop = |frame: &[u8]| frame == FrameHeader::nop().encode();
    let says_nothing = match kind {
        PayloadKind::Output => payload.chunks(HEADER_LEN).all(is_nop),
        PayloadKind::Size => true,
        _ => false,
    };
    (says_nothing && payload.len() > limits::PAYLOAD).then_some(payload.len())
}

/// What may pass between two steps of the same moment in both clocks.
const SLACK: Duration = Duration::from_millis(1);

impl Observer {
    pub(super) fn new(seed: u64, profile: Profile, rate: u32) -> Self {
        Self {
            seed,
            profile,
            websocket: 0,
            opened: None,
            heard: false,
            gateway_heard: None,
            silence: Duration::ZERO,
            until: None,
            sent: BTreeMap::new(),
            next: 0,
            largest: limits::PAYLOAD,
            vain: 0,
            rate,
            full_at: None,
        }
    }

    pub(super) fn websocket(&mut self, now: Instant) {
        self.gateway_is_gone(now);
        self.websocket += 1;
        self.opened = Some(now);
        self.gateway_heard = Some(now);
        self.heard = false;
    }

    pub(super) fn lost(&mut self, now: Instant) {
        self.gateway_is_gone(now);
        self.opened = None;
        self.vain += 1;
    }

    /// For how long the client may hold its oldest message back on a new websocket: it may be what the others were lost
    /// with (`proto-notes/sending.md#payload-size`).
    pub(super) fn holds(&self) -> Duration {
        let suspects = self.largest > limits::PAYLOAD && self.vain >= limits::KILLS;
        if suspects { limits::STEADY } else { Duration::ZERO }
    }

    /// Anything comes in, if only a pong.
    pub(super) fn gateway_heard(&mut self, now: Instant) {
        self.gateway_heard = Some(now);
    }

    /// While the gateway was not heard either, it was not the agent that was silent.
    fn gateway_is_gone(&mut self, now: Instant) {
        let gone_for = self.gateway_heard.take().map_or(Duration::ZERO, |heard| now - heard);
        self.silence = self.silence.saturating_sub(gone_for);
    }

    /// A message comes in.
    pub(super) fn heard(&mut self, now: Instant, bytes: &Bytes) {
        self.heard = true;
        self.gateway_heard(now);
        let message = Message::decode(bytes.clone()).expect("the peer's message");
        if matches!(message.header.kind, MessageKind::OutputStreamData | MessageKind::Acknowledge) {
            self.silence = Duration::ZERO;
            self.until = Some(now);
        }
        if message.header.kind == MessageKind::Acknowledge
            && let Ok(body) = Acknowledge::decode(&message.payload)
            && let Some(sent) = self.sent.get_mut(&body.sequence)
        {
            sent.done = true;
            self.vain = 0;
            self.largest = self.largest.max(sent.probe.filter(|_| !sent.again).unwrap_or(0));
        }
    }

    /// How many probes have shown that their size passes.
    pub(super) fn probes(&self) -> u32 {
        let passed = self.sent.values().filter(|sent| sent.probe.is_some() && sent.done && !sent.again);
        u32::try_from(passed.count()).unwrap_or(u32::MAX)
    }

    /// A data message or a probe goes out for the first time: there was a token for it.
    fn take_token(&mut self, now: Instant) {
        let Some(interval) = 1_000_000_000_000u64.checked_div(u64::from(self.rate) * 1000) else { return };
        let full = self.full_at.unwrap_or(now);
        assert!(full <= now + BURST, "seed {}: sent {:?} too early", self.seed, full - now - BURST);
        self.full_at = Some(full.max(now) + Duration::from_nanos(interval));
    }

    /// Time has passed: an agent that is gone is given up in time, however the time was filled (pauses, websockets that
    /// do not last). Time in which nobody could listen does not count.
    pub(super) fn passes(&mut self, now: Instant, session: &Session) {
        let passed = self.until.replace(now).map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        if session.occupancy().unacked_messages == 0 || !session.wants_messages() || session.mode().is_none() {
            self.silence = Duration::ZERO;
        } else if self.opened.is_some() {
            self.silence += passed;
        }
        let limit = limits::STALL_TIMEOUT + SLACK;
        assert!(self.silence <= limit, "seed {}: listens to nobody for {:?}", self.seed, self.silence);
    }

    /// The agent is called silent.
    pub(super) fn stalled(&self, now: Instant) {
        let online = self.opened.map(|opened| now - opened);
        let patient = online.is_some_and(|online| online.min(self.silence + SLACK) >= limits::STALLED);
        let given_up = self.silence + SLACK >= limits::STALL_TIMEOUT;
        assert!(patient || given_up, "seed {}: silent for {:?}, online for {online:?}", self.seed, self.silence);
    }

    /// The session is said to go on.
    pub(super) fn resumed(&self, now: Instant) {
        let online = self.opened.map(|opened| now - opened);
        let shown = online.is_some_and(|online| self.heard || online >= limits::STEADY);
        assert!(shown, "seed {}: resumed after {online:?} without a message", self.seed);
    }

    /// Numbers without gaps, retransmissions byte for byte and not before their time.
    pub(super) fn transmitted(&mut self, now: Instant, bytes: &Bytes, again: bool) {
        let message = Message::decode(bytes.clone()).expect("our own message");
        message.check_digest().expect("our own digest");
        if message.header.kind != MessageKind::InputStreamData {
            assert_eq!(message.header.kind, MessageKind::Acknowledge);
            return;
        }
        assert!(!message.payload.is_empty(), "seed {}: empty stream data", self.seed);
        let number = message.header.sequence.0;
        let (kind, len) = (message.header.payload_kind, message.payload.len());
        let (seed, websocket) = (self.seed, self.websocket);
        if !again {
            assert_eq!(number, self.next, "seed {seed}: numbers have no gaps");
            self.next += 1;
            let shield = number == 1;
            let probe = probe_size(kind, &message.payload);
            let fits = kind != PayloadKind::Output || len <= self.largest || probe.is_some();
            assert!(fits, "seed {seed}: {number} has {len} bytes, and the largest probe had {}", self.largest);
            let one = self.sent.values().filter(|sent| sent.probe.is_some() && !sent.again).all(|sent| sent.done);
            assert!(probe.is_none() || one, "seed {seed}: two probes at a time");
            if (kind == PayloadKind::Output && !shield) || probe.is_some() {
                self.take_token(now);
            }
            let bytes = bytes.clone();
            let sent = Sent { at: now, websocket, first: now, times: 1, bytes, shield, again, done: false, probe };
            self.sent.insert(number, sent);
            return;
        }
        let sent = self.sent.get_mut(&number).expect("sent before");
        if sent.probe.is_some() && !sent.again {
            assert!(len <= 32 && probe_size(kind, &message.payload).is_none(), "seed {seed}: {number} is not harmless");
            sent.bytes = bytes.clone();
        }
        sent.again = true;
        assert_eq!(sent.bytes, bytes, "seed {seed}: a retransmission is the same message");
        if sent.websocket == websocket {
            // Once for each websocket, and once more for each timeout on it.
            let least = Duration::from_millis(if sent.shield { 30 } else { 200 });
            assert!(now - sent.at >= least, "seed {seed}: {number} again after {:?}", now - sent.at);
            assert!(now - sent.first >= least * sent.times, "seed {seed}: {number} for the {}th time", sent.times);
            sent.times += 1;
        } else {
            (sent.websocket, sent.first, sent.times) = (websocket, now, 1);
        }
        sent.at = now;
    }

    /// Every buffer within its bound, and every estimate within what the network allows.
    pub(super) fn check(&self, session: &Session, agent: &AgentCore, longest_round_trip: Duration) {
        let occupancy = session.occupancy();
        let bounds = [
            (occupancy.unacked_messages, limits::IN_FLIGHT_MESSAGES + 4),
            (occupancy.unacked_bytes, limits::IN_FLIGHT_BYTES + 8192),
            (occupancy.early_messages, limits::EARLY_MESSAGES),
            (occupancy.early_bytes, limits::EARLY_BYTES),
            (occupancy.waiting_acknowledgements, limits::WAITING_ACKNOWLEDGEMENTS),
            (occupancy.parked_bytes, limits::PARKED_BYTES),
            (occupancy.largest_unsent, limits::STREAM_UNSENT),
        ];
        for (index, (value, bound)) in bounds.into_iter().enumerate() {
            assert!(value <= bound, "seed {}: bound {index} exceeded: {occupancy:?}", self.seed);
        }
        let (rtt, rto) = (session.rtt(), session.rto());
        let range = Duration::from_millis(200)..=Duration::from_secs(10);
        assert!(range.contains(&rto), "seed {} {:?}: RTO {rto:?}", self.seed, self.profile);
        assert!(
            rtt <= longest_round_trip,
            "seed {} {:?}: a round trip of {rtt:?}, of {longest_round_trip:?} at most",
            self.seed,
            self.profile
        );
        // Neither the smoothed value nor the mean deviation exceeds the longest sample.
        let highest = (*range.start()).max(longest_round_trip * 5);
        assert!(rto <= highest, "seed {} {:?}: RTO {rto:?}", self.seed, self.profile);
        assert!(agent.early() <= limits::IN_FLIGHT_SPAN, "seed {}: more early messages than a window", self.seed);
    }
}
