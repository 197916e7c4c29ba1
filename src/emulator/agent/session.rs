//! The agent's side of one session: what comes in, in which phase, and what goes out.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    AgentInput, AgentOptions, AgentOutput, CLOSING_TIMEOUT, ConnectionId, Mode,
    channel::{Channel, Place},
    handshake::{Answer, Handshake},
    port::{Actions, Port, Verdict, WriteState, open_port},
};
use crate::wire::{AgentFeatures, ClientFeatures, FlagKind, Header, Message, MessageKind, PayloadKind};

/// Messages kept that were delivered although the reader was blocked.
const UNREAD_LIMIT: usize = 64;

/// ```text
/// New ──Connected──▶ Handshaking ──▶ Open ──▶ Ending ──▶ Over(ended)
///                         └────────────┼─────────▲
///                                      └──▶ Over(crashed)
/// ```
enum Phase {
    New,
    Handshaking(Handshake),
    Open(Box<dyn Port>),
    /// Waits for the acknowledgements of what was sent, then tells the gateway.
    Ending {
        deadline: Instant,
        text: String,
    },
    Over {
        crashed: bool,
    },
}

/// What is to be done with a message once it has been processed.
enum Processed {
    Verdict(Verdict),
    /// Acknowledge it, then complete the handshake.
    Handshaken(ClientFeatures),
}

/// The agent of one session. See [the module](super) for how to drive it.
pub struct AgentCore {
    options: AgentOptions,
    phase: Phase,
    mode: Option<Mode>,
    channel: Channel,
    actions: Actions,
    /// The message whose write the websocket reader waits for; its header if it is still to be acknowledged.
    blocked: Option<Option<Header>>,
    unread: VecDeque<Bytes>,
    /// When the pump wakes from its sleep.
    pump_at: Instant,
    swallow: u32,
    refuse: u32,
}

/// Counters only.
impl fmt::Debug for AgentCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentCore")
            .field("session_id", &self.options.session_id)
            .field("mode", &self.mode)
            .field("expected", &self.expected_sequence())
            .field("next", &self.next_sequence())
            .field("unacked", &self.unacked())
            .field("early", &self.early())
            .field("streams", &self.open_streams())
            .finish_non_exhaustive()
    }
}

impl AgentCore {
    /// An agent that has been told to start a session and opens its websocket.
    #[must_use]
    pub fn new(options: AgentOptions, now: Instant) -> Self {
        Self {
            phase: Phase::New,
            mode: None,
            channel: Channel::new(&options, now),
            actions: Actions::default(),
            blocked: None,
            unread: VecDeque::new(),
            pump_at: now,
            swallow: options.behaviour.swallow_early,
            refuse: options.behaviour.refuse_early,
            options,
        }
    }

    /// Takes one input. Timers that are due are run first.
    pub fn handle(&mut self, now: Instant, input: AgentInput) {
        self.advance(now);
        match input {
            AgentInput::Connected => self.connected(now),
            AgentInput::Disconnected => {
                self.channel.connected = false;
                self.unread.clear();
            }
            AgentInput::Binary(frame) => self.arrived(now, frame),
            AgentInput::Timeout => {}
            AgentInput::Dialled(id) => self.port(|port, actions| port.dialled(id, actions)),
            AgentInput::DialFailed(id, error) => self.port(|port, actions| port.dial_failed(id, &error, actions)),
            AgentInput::Received(id, data) => self.port(|port, actions| port.received(id, data, actions)),
            AgentInput::Eof(id) => self.port(|port, actions| port.eof(id, actions)),
            AgentInput::Written(id, len) => self.port(|port, actions| port.written(id, len, actions)),
        }
        self.settle(now);
    }

    /// The next thing to do. To be called after every [`handle`](Self::handle), until it returns
    /// [`AgentOutput::Timeout`].
    pub fn poll_output(&mut self, now: Instant) -> AgentOutput {
        if self.actions.outputs.is_empty() {
            self.advance(now);
            // Without websocket a message is sent without an output.
            while self.actions.outputs.is_empty() && self.pump(now) {}
        }
        self.actions.outputs.pop_front().unwrap_or_else(|| AgentOutput::Timeout(self.deadline()))
    }

    /// Whether messages and pongs may be delivered. False while the websocket reader is blocked in a write towards a
    /// destination: the genuine agent leaves everything that comes in its socket then.
    #[must_use]
    pub fn wants_messages(&self) -> bool {
        self.blocked.is_none()
    }

    /// Whether this destination is to be read.
    #[must_use]
    pub fn wants_data(&self, id: ConnectionId) -> bool {
        !self.channel.paused && matches!(&self.phase, Phase::Open(port) if port.wants_data(id))
    }

    /// Changes how many messages to the client may be unacknowledged before the pump waits
    /// ([`Behaviour::window`](super::Behaviour::window)).
    pub fn set_window(&mut self, window: Option<usize>) {
        self.options.behaviour.window = window;
    }

    /// How the session carries connections, once the handshake has decided it.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// Whether `Ended` has been put out.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Over { .. }) && !self.crashed() && self.actions.outputs.is_empty()
    }

    /// Whether the session's worker has died. Its websocket is then cut, and neither client nor gateway is told.
    #[must_use]
    pub fn crashed(&self) -> bool {
        matches!(self.phase, Phase::Over { crashed: true })
    }

    /// Whether publication is paused.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.channel.paused
    }

    /// Number of the client message whose turn it is.
    #[must_use]
    pub fn expected_sequence(&self) -> i64 {
        self.channel.expected().0
    }

    /// Number of the next message to the client.
    #[must_use]
    pub fn next_sequence(&self) -> i64 {
        self.channel.next().0
    }

    /// Messages to the client that are kept until they are acknowledged.
    #[must_use]
    pub fn unacked(&self) -> usize {
        self.channel.outgoing().len()
    }

    /// Messages of the client that came before their turn and are kept.
    #[must_use]
    pub fn early(&self) -> usize {
        self.channel.early()
    }

    /// The current retransmission timeout.
    #[must_use]
    pub fn rto(&self) -> Duration {
        self.channel.outgoing().rto()
    }

    /// Streams, or connections, that are not over.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        if let Phase::Open(port) = &self.phase { port.open_streams() } else { 0 }
    }

    fn connected(&mut self, now: Instant) {
        self.channel.connected = true;
        if matches!(self.phase, Phase::New) {
            let (handshake, request) = Handshake::start(&self.options, now);
            self.channel.send_state(now, "Connected", &mut self.actions.outputs);
            self.channel.send(now, PayloadKind::HandshakeRequest, &request, &mut self.actions.outputs);
            self.phase = Phase::Handshaking(handshake);
        }
    }

    fn port(&mut self, event: impl FnOnce(&mut dyn Port, &mut Actions)) {
        if let Phase::Open(port) = &mut self.phase {
            event(port.as_mut(), &mut self.actions);
        }
    }

    /// A frame from the websocket. What cannot be read is ignored.
    fn arrived(&mut self, now: Instant, frame: Bytes) {
        if !self.channel.connected || matches!(self.phase, Phase::New | Phase::Over { .. }) {
            return;
        }
        let reading = self.blocked.is_none() && self.unread.is_empty();
        if reading || Message::decode(frame.clone()).is_ok_and(|it| it.header.kind == MessageKind::ChannelClosed) {
            self.read(now, frame);
        } else if self.unread.len() < UNREAD_LIMIT {
            self.unread.push_back(frame);
        }
    }

    fn read(&mut self, now: Instant, frame: Bytes) {
        let Ok(message) = Message::decode(frame) else { return };
        // The genuine agent checks this for every kind; `Message::decode` is lenient with publication messages.
        if message.header.created_ms == 0 {
            return;
        }
        match message.header.kind {
            MessageKind::InputStreamData => {
                self.channel.paused = false;
                self.stream_data(now, message);
            }
            MessageKind::Acknowledge => {
                self.channel.paused = false;
                self.channel.acknowledged(now, &message.payload);
            }
            MessageKind::PausePublication => self.channel.paused = true,
            MessageKind::StartPublication => self.channel.paused = false,
            MessageKind::ChannelClosed => self.end(now, String::new()),
            _ => {}
        }
    }

    /// The rules of acknowledging: the past again, the present once it is processed, the early once it is kept.
    fn stream_data(&mut self, now: Instant, message: Message) {
        match self.channel.place(message.header.sequence) {
            Place::Past => self.channel.acknowledge(now, &message.header, &mut self.actions.outputs),
            Place::Early => {
                if self.channel.keep_early(&message) {
                    self.channel.acknowledge(now, &message.header, &mut self.actions.outputs);
                }
            }
            Place::Now => {
                let header = message.header.clone();
                if self.turn(now, message, Some(header)) {
                    self.take_early(now);
                }
            }
        }
    }

    /// Early messages whose turn has come.
    fn take_early(&mut self, now: Instant) {
        while let Some(message) = self.channel.kept_for_now() {
            if !self.turn(now, message, None) {
                return;
            }
        }
    }

    /// Processes the message whose turn it is, and acknowledges it unless it was when it came. Says whether it is done.
    fn turn(&mut self, now: Instant, message: Message, unacknowledged: Option<Header>) -> bool {
        match self.process(message) {
            Processed::Verdict(Verdict::Refused) => return false,
            Processed::Verdict(Verdict::Blocked) => {
                self.blocked = Some(unacknowledged);
                return false;
            }
            Processed::Verdict(Verdict::Done) => self.done(now, unacknowledged),
            Processed::Handshaken(client) => {
                self.done(now, unacknowledged);
                self.open(now, client);
            }
        }
        true
    }

    fn done(&mut self, now: Instant, unacknowledged: Option<Header>) {
        if let Some(header) = unacknowledged {
            self.channel.acknowledge(now, &header, &mut self.actions.outputs);
        }
        self.channel.advance();
    }

    fn process(&mut self, message: Message) -> Processed {
        let Message { header: Header { payload_kind, .. }, payload, .. } = message;
        Processed::Verdict(match &mut self.phase {
            Phase::Handshaking(_) if payload_kind == PayloadKind::HandshakeResponse => {
                match Handshake::answer(&payload) {
                    Answer::Accepted(client) => return Processed::Handshaken(client),
                    Answer::Failed(text) => {
                        self.actions.end = Some(text);
                        Verdict::Done
                    }
                    Answer::Malformed => Verdict::Refused,
                }
            }
            // Anything else before the handshake is done: acknowledged and thrown away.
            Phase::Open(_) if self.swallow > 0 => {
                self.swallow -= 1;
                Verdict::Done
            }
            Phase::Open(_) if self.refuse > 0 => {
                self.refuse -= 1;
                Verdict::Refused
            }
            Phase::Open(port) if !port.ready() => Verdict::Refused,
            Phase::Open(port) if payload_kind == PayloadKind::Output && !payload.is_empty() => {
                port.data(payload, &mut self.actions)
            }
            Phase::Open(port) if payload_kind == PayloadKind::Flag => {
                match FlagKind::decode(&payload) {
                    Ok(FlagKind::DisconnectToPort) => port.disconnect(&mut self.actions),
                    Ok(FlagKind::TerminateSession) if AgentFeatures::of(&self.options.version).terminate_flag => {
                        self.actions.end = Some(String::new());
                    }
                    _ => {}
                }
                Verdict::Done
            }
            _ => Verdict::Done,
        })
    }

    /// The client has answered: chooses the mode and starts.
    fn open(&mut self, now: Instant, client: ClientFeatures) {
        let Phase::Handshaking(handshake) = &self.phase else { return };
        let complete = handshake.complete(now);
        self.channel.send(now, PayloadKind::HandshakeComplete, &complete, &mut self.actions.outputs);
        let mode = Mode::choose(&self.options, client);
        self.mode = Some(mode);
        match open_port(&self.options, mode, client, now, &mut self.actions) {
            Ok(port) => self.phase = Phase::Open(port),
            Err(text) => self.actions.end = Some(text),
        }
    }

    /// Carries out what an input has led to, until nothing more follows.
    fn settle(&mut self, now: Instant) {
        loop {
            for _ in 0..std::mem::take(&mut self.actions.connect_errors) {
                let flag = FlagKind::ConnectToPortError.encode();
                self.channel.send(now, PayloadKind::Flag, &flag, &mut self.actions.outputs);
            }
            if std::mem::take(&mut self.actions.crashed) {
                self.over(true);
                return;
            }
            if let Some(text) = self.actions.end.take() {
                self.end(now, text);
            }
            if self.blocked.is_some() {
                let state = if let Phase::Open(port) = &self.phase { port.write_state() } else { WriteState::Failed };
                match state {
                    WriteState::Blocked => break,
                    // Not acknowledged, and expected again; unless it was acknowledged early: then it stays kept.
                    WriteState::Failed => self.blocked = None,
                    WriteState::Done => {
                        let unacknowledged = self.blocked.take().flatten();
                        self.done(now, unacknowledged);
                        self.take_early(now);
                    }
                }
            } else if let Some(frame) = self.unread.pop_front() {
                self.read(now, frame);
            } else {
                break;
            }
        }
        self.finish_ending(now);
    }

    /// Starts to end the session. The streams are not told.
    fn end(&mut self, now: Instant, text: String) {
        match &mut self.phase {
            Phase::Ending { .. } | Phase::Over { .. } => return,
            Phase::Open(port) => port.close(&mut self.actions),
            Phase::New | Phase::Handshaking(_) => {}
        }
        self.blocked = None;
        self.phase = Phase::Ending { deadline: now + CLOSING_TIMEOUT, text };
    }

    fn finish_ending(&mut self, now: Instant) {
        let Phase::Ending { deadline, text } = &mut self.phase else { return };
        if *deadline <= now || self.channel.outgoing().len() == 0 {
            let text = std::mem::take(text);
            self.channel.send_state(now, "Terminating", &mut self.actions.outputs);
            self.actions.outputs.push_back(AgentOutput::Ended(text));
            self.over(false);
        }
    }

    fn over(&mut self, crashed: bool) {
        self.phase = Phase::Over { crashed };
        self.blocked = None;
        self.unread.clear();
    }

    /// Runs the timers that are due.
    fn advance(&mut self, now: Instant) {
        if matches!(self.phase, Phase::New | Phase::Over { .. }) {
            return;
        }
        self.channel.tick(now, &mut self.actions.outputs);
        match &mut self.phase {
            Phase::Handshaking(handshake) if handshake.deadline() <= now => {
                self.actions.end = Some("Handshake timed out.".to_owned());
            }
            Phase::Open(port) => port.advance(now, &mut self.actions),
            _ => {}
        }
        self.settle(now);
    }

    /// Sends one message of what destinations have sent, then sleeps. Says whether there was one.
    fn pump(&mut self, now: Instant) -> bool {
        if self.pump_at > now || !self.pump_runs() {
            return false;
        }
        let Phase::Open(port) = &mut self.phase else { return false };
        let payload = port.take_output(self.options.behaviour.chunk.max(1));
        self.channel.send(now, PayloadKind::Output, &payload, &mut self.actions.outputs);
        port.output_sent(&mut self.actions);
        self.pump_at = now + self.options.behaviour.pace;
        self.settle(now);
        true
    }

    /// Whether the pump would send something if it were awake.
    fn pump_runs(&self) -> bool {
        let window = self.options.behaviour.window.unwrap_or(usize::MAX);
        // While the reader is blocked no acknowledgement is read. Waiting for one then would be a deadlock that the
        // genuine agent does not have: a destination that echoes reads on only when its own data is taken.
        let open = self.unacked() < window || self.blocked.is_some();
        !self.channel.paused && open && matches!(&self.phase, Phase::Open(port) if port.has_output())
    }

    fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::New | Phase::Over { .. } => return None,
            Phase::Handshaking(handshake) => Some(handshake.deadline()),
            Phase::Open(port) => port.deadline(),
            Phase::Ending { deadline, .. } => Some(*deadline),
        };
        let pump = self.pump_runs().then_some(self.pump_at);
        [phase, pump, self.channel.deadline()].into_iter().flatten().min()
    }
}
