//! Our client in the genuine one's place: it hears what the genuine one heard, and its user does the same.
//!
//! The recorded agent cannot react. Two rules make up for it:
//!
//! - A message of ours is acknowledged, under our number and id, as soon as the recorded agent has acknowledged all that
//!   it says. If the genuine client's was lost on its way, ours is lost too, once. What says nothing, and stands where
//!   the genuine client's first data stood, is taken or refused as that was.
//! - The agent's data waits until our client has said what the genuine one had said by then: it may be the answer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ssmfwd::{
    proto::{
        Cause, CloseReason, Event, Inbound, Initiator, Input, Mode, OpenError, Read, StreamError, StreamId, Token,
        limits,
    },
    wire::{Message, MessageKind, PayloadKind},
};

use super::{
    conversation::{Conversation, acknowledgement},
    script::{Act, Cue, Script},
    words::Places,
};
use crate::peer::{Peer, Sent, message};

/// How long our client may take to say what the genuine one has said: longer than any of its waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a session that goes on after the last recorded line is watched: longer than a handshake may take, shorter
/// than a stall.
const AFTERWARDS: Duration = Duration::from_secs(60);

/// What became of our client.
#[derive(Debug, Default)]
pub(super) struct Played {
    pub(super) ours: Conversation,
    /// What the application was told, in words.
    pub(super) told: Vec<String>,
    /// What was delivered on each connection.
    pub(super) down: BTreeMap<StreamId, Vec<u8>>,
    /// Pings that went out at once when a websocket was there.
    pub(super) pings_at_once: usize,
    /// Duplicates that were acknowledged again, and receipts that were repeated on a new websocket.
    pub(super) duplicates: usize,
    pub(super) receipts: usize,
    /// A connection had to wait for the one before.
    pub(super) waited: bool,
}

pub(super) struct Stage<'a> {
    script: &'a Script,
    peer: Peer,
    begin: Instant,
    online: bool,
    /// The websocket has had its first message.
    greeted: bool,
    played: Played,
    to_do: VecDeque<Act>,
    /// Our ids of the recording's connections that are open.
    streams: BTreeMap<StreamId, StreamId>,
    /// What the genuine client has said by now, and what of it the agent has acknowledged.
    said: Places,
    taken: Places,
    /// Our messages that have reached the agent, and those that are acknowledged.
    arrived: BTreeSet<i64>,
    acknowledged: BTreeSet<i64>,
    /// Whether the agent takes the first message behind the handshake, from here on.
    first_taken: VecDeque<bool>,
    /// What acknowledges the agent's messages that were passed on, each once.
    heard: Vec<Bytes>,
    /// The user has ended the session.
    leaving: bool,
}

/// Plays the whole recording.
#[track_caller]
pub(super) fn play(script: &Script) -> Played {
    let peer = Peer::unconnected(Peer::config());
    let mut stage = Stage {
        script,
        begin: peer.now,
        peer,
        online: false,
        greeted: false,
        played: Played::default(),
        to_do: VecDeque::new(),
        streams: BTreeMap::new(),
        said: Places::new(),
        taken: Places::new(),
        arrived: BTreeSet::new(),
        acknowledged: BTreeSet::new(),
        first_taken: script.first_taken.iter().copied().collect(),
        heard: Vec::new(),
        leaving: false,
    };
    if script.mode == Mode::Raw {
        stage.to_do.push_back(Act::Connect(StreamId::FIRST));
    }
    for (at, place, cue) in &script.cues {
        stage.pass_until(stage.begin + *at);
        stage.cue(place, cue);
    }
    if stage.leaving || !stage.peer.session.is_ready() {
        stage.pass_while(AFTERWARDS, |stage| stage.peer.session.closed().is_none());
    }
    stage.played
}

impl Stage<'_> {
    fn cue(&mut self, place: &str, cue: &Cue) {
        match cue {
            Cue::Opened(token) => self.opened(place, token),
            Cue::Said(number, acts) => {
                self.said.extend(&self.script.places[number]);
                self.to_do.extend(acts.iter().cloned());
                self.go_on();
                // Nobody waits with Ctrl-C for what cannot be done yet.
                if self.to_do.contains(&Act::Interrupt) {
                    self.to_do = [Act::Interrupt].into();
                    self.go_on();
                }
            }
            Cue::Data(message) => self.data(place, message),
            Cue::Acknowledged(number) => self.acknowledged(*number),
            Cue::Gateway(message) => {
                let before = self.played.ours.count();
                self.hear(message);
                assert_eq!(self.played.ours.count(), before, "{place}: nothing is answered to it");
            }
            Cue::Cut => {
                self.peer.input(Input::Disconnected);
                self.online = false;
                self.go_on();
            }
            Cue::NotResumable => {
                let cause = Cause::NotResumable("no token".to_owned());
                self.peer.session.abort(CloseReason::new(Initiator::Library, cause));
                self.peer.drain();
                self.go_on();
            }
            Cue::Gone if self.script.mode == Mode::Raw => {
                self.leaving = true;
                self.to_do.push_back(Act::Finish(StreamId::FIRST));
                self.go_on();
            }
            Cue::Gone => {}
        }
    }

    /// A websocket is there: our client opens it, and acknowledges once more what it had acknowledged on the last.
    fn opened(&mut self, place: &str, token: &str) {
        (self.online, self.greeted) = (true, false);
        let (before, pings) = (self.played.ours.acknowledgements.len(), self.played.ours.pings);
        self.peer.input(Input::Connected(Token::new(token)));
        self.go_on();
        self.played.pings_at_once += self.played.ours.pings - pings;
        let receipts = &self.played.ours.acknowledgements[before..];
        let expected = &self.heard[self.heard.len().saturating_sub(limits::REMEMBERED_RECEIPTS)..];
        assert_eq!(receipts, expected, "{place}");
        self.played.receipts += receipts.len();
    }

    /// Stream data of the agent: acknowledged at once, once, and whatever it is.
    fn data(&mut self, place: &str, message: &Message) {
        let wanted = self.said.clone();
        self.pass_while(PATIENCE, |stage| !stage.has_said(&wanted) && stage.peer.session.closed().is_none());
        if !self.online || self.peer.session.closed().is_some() {
            return;
        }
        assert!(self.has_said(&wanted), "{place}: our client does not say what the genuine one has said");
        let body = acknowledgement(&MessageKind::OutputStreamData, message.header.id, message.header.sequence);
        if self.heard.contains(&body) {
            self.played.duplicates += 1;
        } else {
            self.heard.push(body.clone());
        }
        let before = self.played.ours.acknowledgements.len();
        self.hear(message);
        assert_eq!(self.played.ours.acknowledgements[before..], [body], "{place}");
    }

    fn acknowledged(&mut self, number: i64) {
        self.taken.extend(&self.script.places[&number]);
        let ours = self.played.ours.places(self.script.mode);
        let taken = |(number, places): &(&i64, &Places)| {
            !places.is_empty() && places.is_subset(&self.taken) && self.arrived.contains(number)
        };
        let taken: Vec<_> = ours.iter().filter(taken).collect();
        let mut numbers: Vec<_> = taken.iter().map(|(number, _)| **number).collect();
        numbers.retain(|number| !self.acknowledged.contains(number));
        if numbers.is_empty() {
            // The message had come twice, or its acknowledgement is repeated.
            let same = |places: &Places| !places.is_disjoint(&self.script.places[&number]);
            numbers.extend(taken.iter().filter(|(_, places)| same(places)).map(|(number, _)| **number));
        }
        for number in numbers {
            self.acknowledge(number);
        }
        self.go_on();
    }

    /// Passes on a message, if the websocket is there.
    fn hear(&mut self, message: &Message) {
        if self.online {
            self.peer.input(Input::Message(Inbound::from(message.encode())));
            self.go_on();
        }
    }

    /// The agent acknowledges our message of this number.
    fn acknowledge(&mut self, number: i64) {
        if !self.online {
            return;
        }
        self.acknowledged.insert(number);
        let header = &self.played.ours.messages[&number].header;
        let body = acknowledgement(&MessageKind::InputStreamData, header.id, header.sequence);
        let frame = message(MessageKind::Acknowledge, PayloadKind::Undefined, 0, &body);
        self.peer.input(Input::Message(Inbound::from(frame)));
    }

    /// Our client has sent a message: does it reach the recorded agent, and has that acknowledged it?
    fn said(&mut self, number: i64) {
        let ours = self.played.ours.places(self.script.mode);
        let places = ours.get(&number).cloned().unwrap_or_default();
        if places.is_empty() && number == 1 {
            let again = self.first_taken.len() < self.script.first_taken.len();
            if self.first_taken.pop_front() != Some(true) {
                return;
            }
            if again {
                // The genuine client's data would not have been refused behind it.
                self.taken.extend(&self.script.places[&1]);
            }
        } else {
            if self.played.ours.times[&number] == 1 && !places.is_disjoint(&self.script.lost) {
                return;
            }
            self.arrived.insert(number);
            if !places.is_subset(&self.taken) {
                return;
            }
        }
        self.acknowledge(number);
    }

    fn has_said(&self, wanted: &Places) -> bool {
        let mut ours = self.played.ours.places(self.script.mode);
        ours.retain(|number, _| self.arrived.contains(number));
        let said: Places = ours.into_values().flatten().collect();
        wanted.is_subset(&said)
    }

    // --- time, the application, the user ---------------------------------------------------------------------

    fn pass_until(&mut self, end: Instant) {
        while let Some(at) = self.peer.deadline.filter(|at| *at <= end) {
            self.pass_to(at);
        }
        self.pass_to(end);
    }

    fn pass_while(&mut self, longest: Duration, goes_on: impl Fn(&Self) -> bool) {
        let end = self.peer.now + longest;
        while goes_on(self)
            && let Some(at) = self.peer.deadline.filter(|at| *at <= end)
        {
            self.pass_to(at);
        }
    }

    fn pass_to(&mut self, at: Instant) {
        self.peer.pass(at.saturating_duration_since(self.peer.now));
        self.go_on();
    }

    /// Until nothing follows any more.
    fn go_on(&mut self) {
        loop {
            let (sent, events) = (self.peer.sent_as_is(), self.peer.events());
            let mut acted = false;
            for sent in &sent {
                let first = !std::mem::replace(&mut self.greeted, true);
                assert_eq!(first, matches!(sent, Sent::Text(_)), "a text opens a websocket: {sent:?}");
                match sent {
                    Sent::Text(text) => self.played.ours.opened.push(text.clone()),
                    Sent::Frame(frame) => {
                        if let Some(number) = self.played.ours.sends("ours", frame) {
                            self.said(number);
                        }
                    }
                    Sent::Ping => {
                        self.played.ours.pings += 1;
                        self.peer.input(Input::PingSent);
                        self.peer.input(Input::Pong);
                    }
                }
            }
            for event in &events {
                match event {
                    // Those that wake; and when to dial is not of a recording.
                    Event::Readable(_) | Event::Writable(_) | Event::CanOpen | Event::Reconnect => {}
                    Event::Ready { mode, agent_version } => {
                        assert_eq!((*mode, agent_version), (self.script.mode, &self.script.agent_version));
                        self.played.told.push("ready".to_owned());
                    }
                    Event::Closed { reason, terminate } => {
                        let api = if *terminate { ", API" } else { "" };
                        self.played.told.push(format!("{:?}: {}{api}", reason.initiator, reason.cause));
                    }
                    Event::DestinationRefused(id) => self.played.told.push(format!("{id} refused by its destination")),
                    other => self.played.told.push(format!("{other:?}")),
                }
            }
            while let Some(act) = self.to_do.front().cloned() {
                if !self.act(&act) {
                    break;
                }
                self.to_do.pop_front();
                acted = true;
            }
            self.peer.drain();
            self.read();
            if sent.is_empty() && events.is_empty() && !acted {
                return;
            }
        }
    }

    /// Does it, if it can be done now.
    fn act(&mut self, act: &Act) -> bool {
        let session = &mut self.peer.session;
        match act {
            Act::Connect(id) => match session.open_stream() {
                Ok(stream) => drop(self.streams.insert(*id, stream)),
                Err(OpenError::Busy) => {
                    self.played.waited = true;
                    return false;
                }
                Err(OpenError::NotReady) => return false,
                Err(OpenError::Closed(_)) => {}
                Err(other) => panic!("{other}"),
            },
            Act::Write(id, data) => {
                if let Some(stream) = self.streams.get(id) {
                    assert!(matches!(session.write(*stream, data), Ok(taken) if taken == data.len()), "{id}");
                }
            }
            Act::Finish(id) => {
                if let Some(stream) = self.streams.get(id) {
                    session.finish(*stream);
                }
            }
            Act::Interrupt => {
                self.leaving = true;
                session.end(self.peer.now);
            }
        }
        true
    }

    /// Takes everything that can be read, and lets go of what has ended.
    fn read(&mut self) {
        for (id, stream) in self.streams.clone() {
            let (data, end) = self.peer.read(stream);
            self.played.down.entry(id).or_default().extend(data);
            let end = match end {
                Ok(Read::End) => "ended",
                Err(StreamError::Refused) => "refused",
                Err(StreamError::SessionEnded(_)) => "cut",
                Err(other) => panic!("{other}"),
                Ok(_) => continue,
            };
            self.played.told.push(format!("{id} {end}"));
            self.streams.remove(&id);
            self.peer.release(stream);
        }
    }
}
