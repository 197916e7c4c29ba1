//! The emulated agent's serial dialling against the client: a destination that does not answer holds up the
//! connections behind it, and the client says so (`proto-notes/agent.md#serial-dialling`).

use std::time::{Duration, Instant};

use ssmfwd::{
    emulator::agent::{AgentCore, AgentInput, AgentOptions, AgentOutput, Behaviour, ConnectionId, SessionType},
    proto::{Config, Event, Inbound, Input, Output, Session, StreamId, Token, Transmit, limits},
};

const NOBODY: [usize; 0] = [];

/// Both ends, joined by a line without delay.
struct Pair {
    now: Instant,
    session: Session,
    agent: AgentCore,
    deadlines: [Option<Instant>; 2],
    dials: Vec<ConnectionId>,
    events: Vec<Event>,
}

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    fn new(behaviour: Behaviour) -> Self {
        let now = Instant::now();
        let options = AgentOptions {
            version: "3.3.987.0".to_owned(),
            session_id: "user-0123456789abcdef0".to_owned(),
            target: "i-0123456789abcdef0".to_owned(),
            session_type: SessionType::Port,
            properties: serde_json::json!({ "type": "LocalPortForwarding", "portNumber": "80" }),
            behaviour,
            seed: 1,
            epoch_ms: 1_700_000_000_000,
        };
        let mut config = Config::new(uuid::Uuid::from_u128(1), 1, 1_700_000_000_000);
        // It sends much, and no time passes.
        config.max_message_rate = 0;
        let mut pair = Self {
            now,
            session: Session::new(config, now),
            agent: AgentCore::new(options, now),
            deadlines: [None; 2],
            dials: Vec::new(),
            events: Vec::new(),
        };
        pair.agent.handle(now, AgentInput::Connected);
        pair.session.handle(now, Input::Connected(Token::new("token")));
        pair.pass(1);
        assert!(matches!(pair.events[..], [Event::Ready { .. }]), "{:?}", pair.events);
        pair.events.clear();
        pair
    }

    /// Hands messages over until neither end has more to say at this time.
    fn exchange(&mut self) {
        loop {
            let mut quiet = true;
            self.deadlines[0] = loop {
                match self.session.poll_output(self.now) {
                    Output::Transmit(Transmit::Text(_)) => {}
                    Output::Transmit(Transmit::Binary(frame)) => {
                        quiet = false;
                        self.agent.handle(self.now, AgentInput::Binary(frame.into_bytes()));
                    }
                    Output::Ping => {
                        self.session.handle(self.now, Input::PingSent);
                        self.session.handle(self.now, Input::Pong);
                    }
                    Output::Event(event) => self.events.push(event),
                    Output::Timeout(deadline) => break deadline,
                }
            };
            self.deadlines[1] = loop {
                match self.agent.poll_output(self.now) {
                    AgentOutput::Transmit(bytes) => {
                        quiet = false;
                        self.session.handle(self.now, Input::Message(Inbound::from(bytes)));
                    }
                    AgentOutput::Dial(id, ..) => self.dials.push(id),
                    AgentOutput::Timeout(deadline) => break deadline,
                    AgentOutput::Write(id, data) => {
                        quiet = false;
                        self.agent.handle(self.now, AgentInput::Written(id, data.len()));
                    }
                    AgentOutput::Close(_) => {}
                    other => panic!("{other:?}"),
                }
            };
            if quiet {
                return;
            }
        }
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        loop {
            self.exchange();
            let next = self.deadlines.iter().flatten().min().copied();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next;
            self.session.handle(next, Input::Timeout);
            self.agent.handle(next, AgentInput::Timeout);
        }
        self.now = end;
        self.session.handle(end, Input::Timeout);
        self.exchange();
    }

    fn open(&mut self, says: &[u8]) -> StreamId {
        let stream = self.session.open_stream().expect("ready");
        assert_eq!(self.session.write(stream, says), Ok(says.len()));
        self.exchange();
        stream
    }

    fn agent(&mut self, input: AgentInput) {
        self.agent.handle(self.now, input);
        self.exchange();
    }

    fn unanswered(&mut self) -> Vec<usize> {
        let of_kind = |event| if let Event::Unanswered(count) = event { Some(count) } else { None };
        self.events.drain(..).filter_map(of_kind).collect()
    }
}

#[test]
fn a_destination_that_does_not_answer_is_reported_with_all_that_wait_behind_it() {
    let mut pair = Pair::new(Behaviour::realistic());
    for _ in 0..5 {
        pair.open(b"hello");
    }
    assert_eq!(pair.dials.len(), 1, "one after another");
    pair.pass(limits::UNANSWERED.as_secs() - 1);
    assert_eq!(pair.unanswered(), NOBODY);
    pair.pass(2);
    assert_eq!(pair.unanswered(), [5]);
    pair.pass(120);
    assert_eq!(pair.unanswered(), NOBODY, "told once, however long the kernel tries");
    // It gives up, and the next one does not answer either.
    pair.agent(AgentInput::DialFailed(pair.dials[0], "timed out".to_owned()));
    pair.pass(limits::UNANSWERED.as_secs() + 1);
    assert_eq!((pair.dials.len(), pair.unanswered()), (2, vec![4]));
    // The destination is back.
    for at in 1..5 {
        let id = pair.dials[at];
        pair.agent(AgentInput::Dialled(id));
        pair.agent(AgentInput::Received(id, bytes::Bytes::from_static(b"hello yourself")));
    }
    pair.pass(600);
    assert_eq!((pair.dials.len(), pair.unanswered()), (5, vec![]));
}

/// An agent that dials side by side: what is answered later says nothing of what was opened before, and is not told.
#[test]
fn one_slow_answer_among_many_is_not_reported() {
    let mut pair = Pair::new(Behaviour::ideal());
    pair.open(b"a slow question");
    pair.open(b"a quick one");
    assert_eq!(pair.dials.len(), 2);
    for id in pair.dials.clone() {
        pair.agent(AgentInput::Dialled(id));
    }
    pair.agent(AgentInput::Received(pair.dials[1], bytes::Bytes::from_static(b"a quick answer")));
    pair.pass(120);
    assert_eq!(pair.unanswered(), NOBODY);
}

/// A destination that takes more than agent and window can hold is there, although it says nothing until the end.
#[test]
fn a_long_upload_is_not_reported_as_unanswered() {
    for dialled in [true, false] {
        let mut pair = Pair::new(Behaviour::realistic());
        let stream = pair.open(b"x");
        if dialled {
            pair.agent(AgentInput::Dialled(pair.dials[0]));
        }
        let mut sent = 0;
        while sent < 2 * limits::TAKEN_UPWARDS {
            let taken = pair.session.write(stream, &[7; 65_536]).expect("open");
            pair.exchange();
            sent += taken as u64;
            if taken == 0 {
                break;
            }
        }
        assert_eq!(sent >= limits::TAKEN_UPWARDS, dialled, "{sent} bytes");
        pair.pass(60);
        // One that fills the agent is told in other words.
        assert_eq!(pair.events.contains(&Event::Stalled(true)), !dialled);
        assert_eq!(pair.unanswered(), NOBODY);
    }
}
