//! A recording as a script: what the user did, what the agent and the gateway sent, in this order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use ssmfwd::{
    proto::{Mode, StreamId},
    wire::{
        AgentFeatures, ClientAction, FlagKind, HandshakeRequest, Message, MessageKind, OpenDataChannel, PayloadKind,
        from_json, smux::Command,
    },
};

use super::{
    conversation::Conversation,
    words::{Frame, Places, frames},
};
use crate::recording::{Direction, Line, Operation, Recording};

/// What a user, or a local program, does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// Makes a connection. The ids are the recording's.
    Connect(StreamId),
    Write(StreamId, Bytes),
    /// Has nothing more to write.
    Finish(StreamId),
    /// Ctrl-C.
    Interrupt,
}

/// What happens next.
#[derive(Debug)]
pub(super) enum Cue {
    /// The first websocket is open, or another one; with this token.
    Opened(String),
    /// The genuine client says this message for the first time, for these reasons.
    Said(i64, Vec<Act>),
    /// Stream data of the agent.
    Data(Message),
    /// The agent acknowledges a message of the genuine client.
    Acknowledged(i64),
    /// The gateway's own.
    Gateway(Message),
    /// The client's websocket is cut.
    Cut,
    /// ResumeSession has no token to give.
    NotResumable,
    /// The genuine client has gone of itself, and its local programs with it.
    Gone,
}

/// One recorded session.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) mode: Mode,
    pub(super) agent_version: String,
    pub(super) cues: Vec<(Duration, String, Cue)>,
    /// What the genuine client sent.
    pub(super) genuine: Conversation,
    /// What its messages say, by their numbers.
    pub(super) places: BTreeMap<i64, Places>,
    /// What it said that was lost on its way to the agent.
    pub(super) lost: Places,
    /// Messages that it sent again although their acknowledgement was there.
    pub(super) repeated_in_vain: BTreeSet<i64>,
    /// Whether the agent took the first message behind the handshake, each time that it came.
    pub(super) first_taken: Vec<bool>,
    /// All that the agent sent for each connection.
    pub(super) down: BTreeMap<StreamId, Vec<u8>>,
}

impl Script {
    #[track_caller]
    pub(super) fn read(recording: &Recording) -> Self {
        let mut genuine = Conversation::default();
        let (mut agreed, mut from_agent) = (None, BTreeMap::new());
        let (mut acknowledged, mut repeated_in_vain) = (BTreeSet::new(), BTreeSet::new());
        let (mut first_taken, mut lost) = (Vec::new(), Vec::new());
        let mut cues = Vec::new();
        let last_open = recording.lines.iter().rposition(opens);
        for (index, line) in recording.lines.iter().enumerate() {
            let mut cue = |cue| cues.push((line.at, line.place.clone(), cue));
            match (line.direction, line.operation) {
                (Direction::ClientToGateway | Direction::Unnamed, Operation::Ping) => genuine.pings += 1,
                (Direction::ClientToGateway, Operation::Text) => {
                    let open: OpenDataChannel = from_json("open message", line.text.as_bytes()).expect(&line.place);
                    cue(Cue::Opened(open.token_value));
                    genuine.opened.push(line.text.clone());
                }
                (Direction::ClientToGateway, Operation::Binary) => {
                    let Some(number) = genuine.sends(&line.place, &line.bytes) else { continue };
                    if number == 1 {
                        first_taken.push(false);
                    }
                    if line.passed_on == 0 {
                        lost.push(number);
                    }
                    if genuine.times[&number] == 1 {
                        cue(Cue::Said(number, Vec::new()));
                    } else if acknowledged.contains(&number) {
                        repeated_in_vain.insert(number);
                    }
                }
                (Direction::ClientToGateway, Operation::Event) if last_open.is_some_and(|open| index < open) => {
                    cue(Cue::Cut);
                }
                (Direction::ClientToGateway, Operation::Event) => {
                    let refused = recording.lines[index..].iter().any(|line| line.call == "ResumeSession");
                    cue(if refused { Cue::Cut } else { Cue::Gone });
                }
                (Direction::ClientToApi, _) if line.call == "ResumeSession" && last_open.is_some_and(|o| o < index) => {
                    cue(Cue::NotResumable);
                }
                (Direction::AgentToGateway | Direction::GatewayToClient, Operation::Binary) => {
                    let message = Message::decode(line.bytes.clone()).expect(&line.place);
                    for _ in 0..line.passed_on {
                        let message = message.clone();
                        match message.header.kind {
                            MessageKind::OutputStreamData => {
                                if message.header.payload_kind == PayloadKind::HandshakeRequest {
                                    agreed = Some(agreement(line, &message));
                                }
                                from_agent.insert(message.header.sequence.0, message.clone());
                                cue(Cue::Data(message));
                            }
                            MessageKind::Acknowledge => {
                                let number = acknowledged_number(line, &message);
                                acknowledged.insert(number);
                                if number == 1 {
                                    *first_taken.last_mut().expect("sent before") = true;
                                }
                                cue(Cue::Acknowledged(number));
                            }
                            _ => cue(Cue::Gateway(message)),
                        }
                    }
                }
                _ => {}
            }
        }
        let (mode, agent_version) = agreed.expect("a handshake");
        let places = genuine.places(mode);
        let lost = lost.into_iter().flat_map(|number| places[&number].clone()).collect();
        let mut acts = acts(mode, &genuine);
        for (.., cue) in &mut cues {
            if let Cue::Said(number, to_do) = cue {
                *to_do = acts.remove(number).unwrap_or_default();
            }
        }
        let down = carried(mode, &from_agent);
        Self { mode, agent_version, cues, genuine, places, lost, repeated_in_vain, first_taken, down }
    }
}

fn opens(line: &Line) -> bool {
    line.direction == Direction::ClientToGateway && line.operation == Operation::Text
}

/// The mode that follows from the handshake, and the agent's version.
fn agreement(line: &Line, message: &Message) -> (Mode, String) {
    let request: HandshakeRequest = from_json("request", &message.payload).expect(&line.place);
    let forwards = request.requested_client_actions.iter().any(
        |action| matches!(action, ClientAction::SessionType(kind) if kind.property("type") == "LocalPortForwarding"),
    );
    let mode = match AgentFeatures::of(&request.agent_version).smux {
        true if forwards => Mode::Mux,
        false if forwards => Mode::Basic,
        _ => Mode::Raw,
    };
    (mode, request.agent_version)
}

fn acknowledged_number(line: &Line, message: &Message) -> i64 {
    ssmfwd::wire::Acknowledge::decode(&message.payload).expect(&line.place).sequence
}

/// What was done to make the client say what it says, by the numbers of its messages.
fn acts(mode: Mode, genuine: &Conversation) -> BTreeMap<i64, Vec<Act>> {
    let mut acts = BTreeMap::<i64, Vec<Act>>::new();
    let (mut carried, mut owners) = (Vec::new(), Vec::new());
    // In raw mode there is one from the start.
    let (mut connection, mut connected) = (StreamId::FIRST, mode == Mode::Raw);
    for (number, message) in &genuine.messages {
        let payload = &message.payload;
        let of_message = acts.entry(*number).or_default();
        match message.header.payload_kind {
            PayloadKind::Flag if FlagKind::decode(payload) == Ok(FlagKind::TerminateSession) => {
                of_message.push(Act::Interrupt);
            }
            PayloadKind::Flag => {
                of_message.push(Act::Finish(connection));
                (connection, connected) = (StreamId(connection.0 + 2), false);
            }
            PayloadKind::Output if mode == Mode::Mux => {
                carried.extend_from_slice(payload);
                owners.resize(carried.len(), *number);
            }
            PayloadKind::Output => {
                if !std::mem::replace(&mut connected, true) {
                    of_message.push(Act::Connect(connection));
                }
                of_message.push(Act::Write(connection, typed(payload)));
            }
            _ => {}
        }
    }
    for Frame { at, header, data } in frames(&carried.into()) {
        // A local program writes all at once what the genuine client cuts.
        let of_message = acts.entry(owners[at]).or_default();
        match header.command {
            Command::Syn => of_message.push(Act::Connect(header.stream)),
            Command::Psh => of_message.push(Act::Write(header.stream, data)),
            Command::Fin => of_message.push(Act::Finish(header.stream)),
            Command::Nop => {}
        }
    }
    acts
}

/// What was written that the genuine client sends as this: a payload of one line feed it sends as a carriage return, and
/// no recorded program has written that.
fn typed(payload: &Bytes) -> Bytes {
    if payload == "\r" { Bytes::from_static(b"\n") } else { payload.clone() }
}

/// The bytes for each connection. Of one after another, which the agent does not tell apart, all count for the first.
fn carried(mode: Mode, from_agent: &BTreeMap<i64, Message>) -> BTreeMap<StreamId, Vec<u8>> {
    let in_order = (0..).map_while(|number| from_agent.get(&number));
    let data = in_order.filter(|message| message.header.payload_kind == PayloadKind::Output);
    let all: Vec<u8> = data.flat_map(|message| message.payload.clone()).collect();
    let mut down = BTreeMap::<_, Vec<u8>>::new();
    if mode != Mode::Mux {
        down.insert(StreamId::FIRST, all);
        return down;
    }
    for Frame { header, data, .. } in frames(&all.into()) {
        down.entry(header.stream).or_default().extend_from_slice(&data);
    }
    down
}
