//! A link with a bandwidth, an agent that takes what comes, and a destination with a pace of its own: what the sending
//! side makes of it. Virtual time.
//!
//! It is not the emulated agent: it knows no streams and loses nothing, it only takes time. What it is for are figures:
//! how much of the link is used, and how long a byte on one stream waits beside a bulk transfer on another.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ssmfwd::{
    proto::{Config, Event, Inbound, Input, Output, Session, StreamError, StreamId, Token, Transmit},
    wire::{
        Message, MessageKind, PayloadKind,
        smux::{Command, FrameHeader, HEADER_LEN},
    },
};

use crate::peer::{NEW, acknowledgement, message, ms, psh, request};

/// What the agent's shared bucket holds, and the socket before it (`proto-notes/smux.md#back-pressure`).
const BUCKET: u64 = 4 << 20;
const SOCKET: u64 = 212 << 10;

/// The path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    /// Both ways together, without any queue.
    pub(crate) round_trip: Duration,
    /// Upwards, bytes a second.
    pub(crate) bandwidth: u64,
    /// What the destination of the bulk transfer takes, bytes a second.
    pub(crate) destination: Option<u64>,
    /// Its socket takes nothing until it has room for so much, as a kernel's does.
    pub(crate) lump: u64,
    /// The client's machine does nothing for so long, every so often.
    pub(crate) hiccups: Option<(Duration, Duration)>,
}

impl Path {
    /// A link of so many milliseconds and bytes a second.
    pub(crate) fn new(round_trip_ms: u64, bandwidth: u64) -> Self {
        Self { round_trip: ms(round_trip_ms), bandwidth, destination: None, lump: 1, hiccups: None }
    }
}

#[derive(Debug)]
enum Packet {
    ToAgent(Bytes),
    ToClient(Bytes),
}

/// A client at one end of the path.
pub(crate) struct Link {
    path: Path,
    pub(crate) session: Session,
    pub(crate) now: Instant,
    origin: Instant,
    deadline: Option<Instant>,
    packets: BTreeMap<(Instant, u64), Packet>,
    order: u64,
    /// Until when the link is busy.
    busy: Instant,
    /// The agent's next stream data.
    number: i64,
    bulk: Option<StreamId>,
    ping: Option<(StreamId, Instant)>,
    /// The agent's next number of ours.
    expected: i64,
    /// Bulk bytes that the agent has got, and when the first came.
    taken: u64,
    taken_since: Option<Instant>,
    /// When each byte-and-echo began and how long it took.
    pub(crate) pings: Vec<(Instant, Duration)>,
    /// Payload sizes of the data messages, when sent.
    pub(crate) sizes: Vec<(Instant, usize)>,
    pub(crate) events: Vec<Event>,
}

impl Link {
    /// A session that is ready, over this path.
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    pub(crate) fn ready(path: Path, change: impl FnOnce(&mut Config)) -> Self {
        let now = Instant::now();
        let mut config = Config::new(uuid::Uuid::from_u128(1), 1, 1_700_000_000_000);
        change(&mut config);
        let mut link = Self {
            path,
            session: Session::new(config, now),
            now,
            origin: now,
            deadline: None,
            packets: BTreeMap::new(),
            order: 0,
            busy: now,
            number: 0,
            bulk: None,
            ping: None,
            expected: 0,
            taken: 0,
            taken_since: None,
            pings: Vec::new(),
            sizes: Vec::new(),
            events: Vec::new(),
        };
        link.session.handle(now, Input::Connected(Token::new("token")));
        link.drain();
        link.say(PayloadKind::HandshakeRequest, request(NEW, r#"{"type":"LocalPortForwarding"}"#).as_bytes());
        link.run(ms(1000));
        link.say(PayloadKind::HandshakeComplete, b"{}");
        link.run(ms(2000));
        assert!(link.session.is_ready());
        link
    }

    fn push(&mut self, at: Instant, packet: Packet) {
        self.order += 1;
        self.packets.insert((at, self.order), packet);
    }

    /// Stream data of the agent.
    fn say(&mut self, kind: PayloadKind, payload: &[u8]) {
        let bytes = message(MessageKind::OutputStreamData, kind, self.number, payload);
        self.number += 1;
        self.push(self.now + self.path.round_trip / 2, Packet::ToClient(bytes));
    }

    pub(crate) fn set_bandwidth(&mut self, bandwidth: u64) {
        self.path.bandwidth = bandwidth;
    }

    /// What is under way keeps its time; order is kept by what the link is busy with.
    pub(crate) fn set_round_trip(&mut self, round_trip: Duration) {
        self.path.round_trip = round_trip;
    }

    pub(crate) fn set_hiccups(&mut self, hiccups: Option<(Duration, Duration)>) {
        self.path.hiccups = hiccups;
    }

    /// From now on there is always something to upload.
    pub(crate) fn upload(&mut self) {
        self.bulk = Some(self.session.open_stream().expect("ready"));
        self.drain();
    }

    /// From now on one byte goes to and fro on a stream of its own.
    pub(crate) fn ping(&mut self) {
        let stream = self.session.open_stream().expect("ready");
        self.send_ping(stream);
    }

    fn send_ping(&mut self, stream: StreamId) {
        assert_eq!(self.session.write(stream, b"!"), Ok(1));
        self.ping = Some((stream, self.now));
    }

    /// Time passes.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.drain();
        loop {
            let packet = self.packets.first_key_value().map(|((at, _), packet)| match packet {
                Packet::ToAgent(_) => *at,
                Packet::ToClient(_) => self.awake(*at),
            });
            let deadline = self.deadline.map(|at| self.awake(at));
            let Some(next) = packet.into_iter().chain(deadline).min().filter(|at| *at <= end) else { break };
            self.now = next.max(self.now);
            while let Some(entry) = self.packets.first_entry().filter(|entry| entry.key().0 <= self.now) {
                match entry.remove() {
                    Packet::ToAgent(bytes) => self.arrived(bytes),
                    Packet::ToClient(bytes) => self.session.handle(self.now, Input::Message(Inbound::from(bytes))),
                }
            }
            self.session.handle(self.now, Input::Timeout);
            self.drain();
        }
        self.now = end;
    }

    /// When the client gets to what happens at that time.
    fn awake(&self, at: Instant) -> Instant {
        let Some((lasts, every)) = self.path.hiccups else { return at };
        let since = at.saturating_duration_since(self.origin).as_nanos() % every.as_nanos();
        let left = lasts.as_nanos().saturating_sub(since);
        at + Duration::from_nanos(u64::try_from(left).expect("milliseconds"))
    }

    /// When so many bulk bytes have left the agent for the destination.
    fn drained(&self, bytes: u64) -> Instant {
        match (self.path.destination, self.taken_since) {
            (Some(rate), Some(since)) => {
                let bytes = bytes.next_multiple_of(self.path.lump);
                since + Duration::from_secs_f64(bytes as f64 / rate as f64)
            }
            _ => self.now,
        }
    }

    fn arrived(&mut self, bytes: Bytes) {
        let message = Message::decode(bytes).expect("our own message");
        if message.header.kind != MessageKind::InputStreamData {
            return;
        }
        // The carrier keeps order: what is behind is sent again.
        let again = message.header.sequence.0 < self.expected;
        self.expected = self.expected.max(message.header.sequence.0 + 1);
        if !again && self.session.is_ready() && message.header.payload_kind == PayloadKind::Output {
            self.frames(&message.payload);
        }
        // Acknowledged when it is written: when the socket has room for it.
        let written = self.drained(self.taken.saturating_sub(BUCKET + SOCKET)).max(self.now);
        let acknowledgement = acknowledgement(message.header.sequence.0);
        self.push(written + self.path.round_trip / 2, Packet::ToClient(acknowledgement));
    }

    fn frames(&mut self, mut payload: &[u8]) {
        while let Some((header, rest)) = payload.split_first_chunk::<HEADER_LEN>() {
            let header = FrameHeader::decode(*header).expect("a frame");
            let (_, rest) = rest.split_at(header.data_len());
            payload = rest;
            if header.command != Command::Psh {
                continue;
            }
            if Some(header.stream) == self.bulk {
                self.taken_since.get_or_insert(self.now);
                self.taken += header.data_len() as u64;
            } else {
                // It is read when the socket before it is empty.
                let read = self.drained(self.taken.saturating_sub(BUCKET)).max(self.now);
                let echo = psh(header.stream, b"!");
                let bytes = message(MessageKind::OutputStreamData, PayloadKind::Output, self.number, &echo);
                self.number += 1;
                self.push(read + self.path.round_trip / 2, Packet::ToClient(bytes));
            }
        }
    }

    fn drain(&mut self) {
        loop {
            let mut wrote = false;
            loop {
                match self.session.poll_output(self.now) {
                    Output::Transmit(Transmit::Binary(frame)) => {
                        let bytes = frame.into_bytes();
                        let header = Message::decode(bytes.clone()).expect("our own message").header;
                        if header.kind == MessageKind::InputStreamData {
                            self.sizes.push((self.now, bytes.len()));
                        }
                        let takes = Duration::from_secs_f64(bytes.len() as f64 / self.path.bandwidth as f64);
                        self.busy = self.busy.max(self.now) + takes;
                        self.push(self.busy + self.path.round_trip / 2, Packet::ToAgent(bytes));
                    }
                    Output::Transmit(Transmit::Text(_)) | Output::Ping => {
                        self.session.handle(self.now, Input::Pong);
                    }
                    Output::Event(event) => self.events.push(event),
                    Output::Timeout(deadline) => {
                        self.deadline = deadline;
                        break;
                    }
                }
            }
            if let Some(stream) = self.bulk {
                match self.session.write(stream, &[7; 16 << 10]) {
                    Ok(count) => wrote = count > 0,
                    Err(StreamError::SessionEnded(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            if let Some((stream, since)) = self.ping {
                let mut byte = [0; 1];
                if let Ok(ssmfwd::proto::Read::Data(1)) = self.session.read(stream, &mut &mut byte[..]) {
                    self.pings.push((since, self.now - since));
                    self.send_ping(stream);
                    wrote = true;
                }
            }
            if !wrote {
                return;
            }
        }
    }

    /// Bulk bytes a second that the agent gets, from now on for so long.
    pub(crate) fn throughput(&mut self, time: Duration) -> f64 {
        let before = self.taken;
        self.run(time);
        (self.taken - before) as f64 / time.as_secs_f64()
    }

    /// The middle and the longest of all but a hundredth of the pings that began since then, milliseconds.
    pub(crate) fn latency(&self, since: Instant) -> (f64, f64) {
        let mut times: Vec<_> = self.pings.iter().filter(|(at, _)| *at >= since).map(|(_, time)| *time).collect();
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        (at(0.5), at(0.99))
    }
}
