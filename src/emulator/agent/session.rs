//! The agent's side of one session: what comes in, in which phase, and what goes out.

mod opening;

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    AgentInput, AgentOptions, AgentOutput, CLOSING_TIMEOUT, ConnectionId, Mode,
    channel::{Channel, Place},
    handshake::Handshake,
    plugin::{Actions, Plugin, Verdict, WriteState},
    sealing::{Sealer, Unopened},
};
use crate::wire::{
    AgentFeatures, ClientFeatures, FlagKind, Header, Message, MessageKind, PayloadKind, Size, from_json,
};

/// Messages kept that were delivered although the reader was blocked.
const UNREAD_LIMIT: usize = 64;

/// ```text
/// New ──Connected──▶ Handshaking ──▶ Open ──▶ Ending ──▶ Over(ended)
///  │                      └────────────┼─────────▲
///  └──shells without a KMS key────────▶└──▶ Over(crashed)
/// ```
enum Phase {
    New,
    Handshaking(Handshake),
    Open(Box<dyn Plugin>),
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
    random: fastrand::Rng,
    /// In sessions with a KMS key, once the data key is there.
    sealer: Option<Sealer>,
    unsealed: u64,
    nonces_reused: u64,
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
            random: fastrand::Rng::with_seed(options.seed ^ 0x5ea1),
            sealer: None,
            unsealed: 0,
            nonces_reused: 0,
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
            AgentInput::Dialled(id) => self.tell(|plugin, actions| plugin.dialled(id, actions)),
            AgentInput::DialFailed(id, error) => self.tell(|plugin, actions| plugin.dial_failed(id, &error, actions)),
            AgentInput::Received(id, data) => self.tell(|plugin, actions| plugin.received(id, data, actions)),
            AgentInput::Eof(id) => self.tell(|plugin, actions| plugin.eof(id, actions)),
            AgentInput::Written(id, len) => self.tell(|plugin, actions| plugin.written(id, len, actions)),
            AgentInput::Started(id) => self.tell(|plugin, actions| plugin.started(now, id, actions)),
            AgentInput::StartFailed(id, error) => {
                self.tell(|plugin, actions| plugin.start_failed(now, id, &error, actions));
            }
            AgentInput::ReceivedError(id, data) => {
                self.tell(|plugin, actions| plugin.received_error(id, data, actions));
            }
            AgentInput::Exited(id, status) => self.tell(|plugin, actions| plugin.exited(id, status, actions)),
            AgentInput::Decrypted(key) => self.decrypted(now, key),
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
        !self.channel.paused && matches!(&self.phase, Phase::Open(plugin) if plugin.wants_data(id))
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
        if let Phase::Open(plugin) = &self.phase { plugin.open_streams() } else { 0 }
    }

    /// Whether payloads are sealed.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealer.is_some()
    }

    /// Data of the client that should have been sealed for this agent and was not: plain, damaged, or too early.
    #[must_use]
    pub fn unsealed(&self) -> u64 {
        self.unsealed
    }

    /// Data of the client that was sealed with a nonce that it had used before.
    #[must_use]
    pub fn nonces_reused(&self) -> u64 {
        self.nonces_reused
    }

    fn tell(&mut self, event: impl FnOnce(&mut dyn Plugin, &mut Actions)) {
        if let Phase::Open(plugin) = &mut self.phase {
            event(plugin.as_mut(), &mut self.actions);
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
                self.complete(now, client);
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
            Phase::Handshaking(_) => return self.shake_hands(payload_kind, &payload),
            // Acknowledged and thrown away.
            Phase::Open(_) if self.swallow > 0 => {
                self.swallow -= 1;
                Verdict::Done
            }
            Phase::Open(_) if self.refuse > 0 => {
                self.refuse -= 1;
                Verdict::Refused
            }
            Phase::Open(plugin) if !plugin.ready() => Verdict::Refused,
            Phase::Open(plugin) => match payload_kind {
                PayloadKind::Output if !payload.is_empty() => match &mut self.sealer {
                    None => plugin.data(payload, &mut self.actions),
                    Some(sealer) => match sealer.open(&payload) {
                        Ok(payload) => plugin.data(payload, &mut self.actions),
                        Err(unopened) => {
                            let count = match unopened {
                                Unopened::NotSealed => &mut self.unsealed,
                                Unopened::NonceReused => &mut self.nonces_reused,
                            };
                            *count += 1;
                            Verdict::Refused
                        }
                    },
                },
                PayloadKind::Size => match from_json::<Size>("size", &payload) {
                    Ok(size) => {
                        plugin.size(size, &mut self.actions);
                        Verdict::Done
                    }
                    // To ports a size means nothing, whatever is in it.
                    Err(_) if plugin.obeys_flags() => Verdict::Done,
                    Err(_) => Verdict::Refused,
                },
                PayloadKind::Flag if plugin.obeys_flags() => {
                    match FlagKind::decode(&payload) {
                        Ok(FlagKind::DisconnectToPort) => plugin.disconnect(&mut self.actions),
                        Ok(FlagKind::TerminateSession) if AgentFeatures::of(&self.options.version).terminate_flag => {
                            self.actions.end = Some(String::new());
                        }
                        _ => {}
                    }
                    Verdict::Done
                }
                _ => Verdict::Done,
            },
            _ => Verdict::Done,
        })
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
                let state = match &self.phase {
                    Phase::Open(plugin) => plugin.write_state(),
                    Phase::Handshaking(handshake) if handshake.awaits_key().is_some() => WriteState::Blocked,
                    _ => WriteState::Failed,
                };
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
            Phase::Open(plugin) => plugin.close(&mut self.actions),
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
            Phase::Open(plugin) => plugin.advance(now, &mut self.actions),
            _ => {}
        }
        self.settle(now);
    }

    /// Sends one message of what destinations have sent, then sleeps. Says whether there was one.
    fn pump(&mut self, now: Instant) -> bool {
        if self.pump_at > now || !self.pump_runs() {
            return false;
        }
        let Phase::Open(plugin) = &mut self.phase else { return false };
        let (kind, payload) = plugin.take_output(self.options.behaviour.chunk.max(1));
        if !payload.is_empty() {
            let payload = if let Some(sealer) = &mut self.sealer { sealer.seal(&payload) } else { payload };
            self.channel.send(now, kind, &payload, &mut self.actions.outputs);
        }
        plugin.output_sent(&mut self.actions);
        if plugin.paced() {
            self.pump_at = now + self.options.behaviour.pace;
        }
        self.settle(now);
        true
    }

    /// Whether the pump would send something if it were awake.
    fn pump_runs(&self) -> bool {
        let window = self.options.behaviour.window.unwrap_or(usize::MAX);
        // While the reader is blocked no acknowledgement is read. Waiting for one then would be a deadlock that the
        // genuine agent does not have: a destination that echoes reads on only when its own data is taken.
        let open = self.unacked() < window || self.blocked.is_some();
        !self.channel.paused && open && matches!(&self.phase, Phase::Open(plugin) if plugin.has_output())
    }

    fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::New | Phase::Over { .. } => return None,
            Phase::Handshaking(handshake) => Some(handshake.deadline()),
            Phase::Open(plugin) => plugin.deadline(),
            Phase::Ending { deadline, .. } => Some(*deadline),
        };
        let pump = self.pump_runs().then_some(self.pump_at);
        [phase, pump, self.channel.deadline()].into_iter().flatten().min()
    }
}
