//! Gateway, agent and destinations in one task, over in-memory websockets, one after another.
//!
//! The agent's own websocket stays: what it sends while the client has none is lost, and so is what is under way.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Sink, Stream as _};
use ssmfwd::{
    emulator::agent::{AgentCore, AgentInput, AgentOptions, AgentOutput, ConnectionId},
    wire::{
        ChannelClosed, FlagKind, Flags, Header, Message, MessageId, MessageKind, OpenDataChannel, PayloadKind,
        SequenceNumber, from_json, to_json,
    },
};
use tokio::{
    io::{AsyncWrite, DuplexStream},
    sync::mpsc,
    time::{Sleep, sleep_until},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::control::Control;

/// The gateway's end of a websocket.
pub(crate) type Websocket = WebSocketStream<DuplexStream>;

/// Messages that wait while the agent does not read: more than a client has in flight.
const INBOUND: usize = 2048;

/// What the destinations do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Sends back what it gets.
    Echo,
    /// Sends that many bytes of [`pattern`], then closes.
    Source(usize),
    /// Takes nothing until told to.
    Stalled,
    /// Cannot be dialled.
    Refused,
}

/// What a test makes happen.
#[derive(Debug)]
pub(crate) enum Command {
    /// The destination of the first connection sends that many bytes.
    Send(usize),
    /// Stalled destinations take everything from now on.
    Unstall,
    /// The agent vanishes: nothing is acknowledged or sent any more.
    Silence,
    /// The agent is back.
    Speak,
    /// The websocket is not read any more, pings included.
    Deaf,
    /// The websocket is read again.
    Listen,
    /// The websocket is closed with this frame.
    Close(CloseCode, &'static str),
    /// Bytes that are no websocket frame.
    Garbage,
    /// A message of any content.
    Raw(Bytes),
    /// The connection is dropped once all is written.
    Drop,
    /// The connection is dropped at once.
    Cut,
    /// The gateway says that the session is over.
    Ended(&'static str),
}

/// What happened behind the gateway.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Flags of the client, in order.
    pub(crate) flags: Vec<FlagKind>,
    /// `dial 1`, `write 1 text`, `close 1`.
    pub(crate) steps: Vec<String>,
    /// What destinations got, all together.
    pub(crate) received: usize,
    /// The websocket is gone, and no other will come.
    pub(crate) gone: bool,
    /// Who opened the data channel: the client's id, once for each websocket.
    pub(crate) opened: Vec<String>,
    /// Websockets that came with a token that was not granted, or was used before.
    pub(crate) stale: usize,
    /// The highest sequence number of the client.
    pub(crate) sequence: i64,
}

/// Byte `at` of what sources send.
pub(crate) fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 13) as u8
}

#[derive(Default)]
struct Connection {
    dialled: bool,
    closed: bool,
    /// Written by the agent, not taken yet.
    untaken: usize,
    reply: BytesMut,
    /// Of a source: sent so far, and to be sent.
    sent: usize,
    total: Option<usize>,
}

pub(crate) struct Gateway {
    /// Where websockets come from; none any more: there will be no other.
    websockets: Option<mpsc::Receiver<Websocket>>,
    websocket: Option<Websocket>,
    /// The token of the present websocket was good.
    opened: bool,
    control: Arc<Control>,
    agent: AgentCore,
    agent_started: bool,
    service: Service,
    /// Reads only when everything it had to say is written, like an agent whose reader acknowledges.
    reads_after_writing: bool,
    connections: BTreeMap<ConnectionId, Connection>,
    inbound: VecDeque<Bytes>,
    outbox: VecDeque<tungstenite::Message>,
    /// Hashes of what the client sent, by sequence number.
    sent: BTreeMap<i64, u64>,
    written: bool,
    sleep: Pin<Box<Sleep>>,
    commands: mpsc::Receiver<Command>,
    seen: Arc<Mutex<Seen>>,
    silent: bool,
    deaf: bool,
    leaving: bool,
    /// Bytes to be written that are no frame.
    garbage: usize,
    /// The websocket stays open, and that is all.
    mute: bool,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Gateway {
    pub(crate) fn new(
        websockets: mpsc::Receiver<Websocket>,
        control: Arc<Control>,
        options: AgentOptions,
        (service, reads_after_writing): (Service, bool),
        commands: mpsc::Receiver<Command>,
        seen: Arc<Mutex<Seen>>,
    ) -> Self {
        Self {
            websockets: Some(websockets),
            websocket: None,
            opened: false,
            control,
            agent: AgentCore::new(options, now()),
            agent_started: false,
            service,
            reads_after_writing,
            connections: BTreeMap::new(),
            inbound: VecDeque::new(),
            outbox: VecDeque::new(),
            sent: BTreeMap::new(),
            written: true,
            sleep: Box::pin(sleep_until(tokio::time::Instant::now())),
            commands,
            seen,
            silent: false,
            deaf: false,
            leaving: false,
            garbage: 0,
            mute: false,
        }
    }

    /// Runs until the last websocket is gone.
    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        self.seen().gone = true;
    }

    /// Whatever was under way is lost.
    fn replace(&mut self, websocket: Option<Websocket>) {
        self.websocket = websocket;
        self.outbox.clear();
        self.written = true;
        (self.opened, self.deaf, self.leaving, self.mute, self.garbage) = (false, false, false, false, 0);
    }

    /// Takes what the client says. Says whether there was anything.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while !self.deaf && !self.mute && self.inbound.len() < INBOUND && (self.written || !self.reads_after_writing) {
            let Some(websocket) = &mut self.websocket else { break };
            let Poll::Ready(message) = Pin::new(websocket).poll_next(cx) else { break };
            progress = true;
            match message {
                Some(Ok(tungstenite::Message::Binary(frame))) => {
                    assert!(self.opened, "the token comes first");
                    self.inbound.push_back(frame);
                }
                Some(Ok(tungstenite::Message::Text(text))) => self.open(text.as_bytes()),
                // A pong may have been queued.
                Some(Ok(_)) => self.written = false,
                Some(Err(_)) | None => self.replace(None),
            }
        }
        progress
    }

    fn open(&mut self, text: &[u8]) {
        let body: OpenDataChannel = from_json("open_data_channel", text).expect("the client opens the data channel");
        if !self.control.redeem(&body.token_value) {
            self.seen().stale += 1;
            return self.replace(None);
        }
        self.opened = true;
        self.seen().opened.push(body.client_id.expect("a client id"));
        if !std::mem::replace(&mut self.agent_started, true) {
            self.agent.handle(now(), AgentInput::Connected);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test panics with it")
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut progress = false;
            while let Some(websockets) = &mut self.websockets {
                let Poll::Ready(websocket) = websockets.poll_recv(cx) else { break };
                progress = true;
                match websocket {
                    Some(websocket) => self.replace(Some(websocket)),
                    None => self.websockets = None,
                }
            }
            while let Poll::Ready(Some(command)) = self.commands.poll_recv(cx) {
                self.command(command);
                progress = true;
            }
            progress |= self.read(cx);
            if self.sleep.as_mut().poll(cx).is_ready() {
                self.agent.handle(now(), AgentInput::Timeout);
            }
            progress |= self.drain();
            while self.agent.wants_messages() || self.silent {
                let Some(frame) = self.inbound.pop_front() else { break };
                progress = true;
                self.note(&frame);
                if !self.silent {
                    self.agent.handle(now(), AgentInput::Binary(frame));
                    self.drain();
                }
            }
            match self.write(cx) {
                Ok(wrote) => progress |= wrote,
                Err(_) => {
                    progress = true;
                    self.replace(None);
                }
            }
            if self.written && self.leaving {
                progress = true;
                self.replace(None);
            }
            if self.websocket.is_none() && self.websockets.is_none() {
                return Poll::Ready(());
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Says whether anything was handed over.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, tungstenite::Error> {
        let mut wrote = false;
        let Some(websocket) = self.websocket.as_mut().filter(|_| !self.mute) else { return Ok(false) };
        while !self.outbox.is_empty() {
            match Pin::new(&mut *websocket).poll_ready(cx) {
                Poll::Pending => return Ok(wrote),
                Poll::Ready(ready) => ready?,
            }
            let Some(message) = self.outbox.pop_front() else { break };
            self.written = false;
            wrote = true;
            Pin::new(&mut *websocket).start_send(message)?;
        }
        if !self.written
            && let Poll::Ready(flushed) = Pin::new(&mut *websocket).poll_flush(cx)
        {
            flushed?;
            self.written = true;
            wrote = true;
        }
        while self.written && self.garbage > 0 {
            let Poll::Ready(written) = Pin::new(websocket.get_mut()).poll_write(cx, &[0xff]) else { break };
            written?;
            self.garbage -= 1;
            // Stays open, so that only the garbage can end it.
            self.mute = self.garbage == 0;
            wrote = true;
        }
        Ok(wrote)
    }

    /// To the client, if it is there.
    fn send(&mut self, message: tungstenite::Message) {
        if self.websocket.is_some() && self.opened {
            self.outbox.push_back(message);
        }
    }

    fn note(&mut self, frame: &Bytes) {
        let message = Message::decode(frame.clone()).expect("the client sends valid messages");
        message.check_digest().expect("with valid digests");
        if message.header.kind == MessageKind::InputStreamData {
            let mut hash = DefaultHasher::new();
            frame.hash(&mut hash);
            let (sequence, hash) = (message.header.sequence.0, hash.finish());
            let before = self.sent.insert(sequence, hash);
            assert!(before.is_none_or(|before| before == hash), "{sequence} was sent again with other content");
            let mut seen = self.seen();
            seen.sequence = seen.sequence.max(sequence);
        }
        if message.header.payload_kind == PayloadKind::Flag {
            self.seen().flags.push(FlagKind::decode(&message.payload).expect("a flag"));
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Send(count) => {
                let connection = self.connections.values_mut().next().expect("a connection");
                let end = connection.sent + count;
                connection.reply.extend((connection.sent..end).map(pattern));
                connection.sent = end;
            }
            Command::Unstall => {
                self.service = Service::Echo;
                for (id, connection) in &mut self.connections {
                    let taken = std::mem::take(&mut connection.untaken);
                    if taken > 0 {
                        self.agent.handle(now(), AgentInput::Written(*id, taken));
                    }
                }
            }
            Command::Silence => self.silent = true,
            Command::Speak => self.silent = false,
            Command::Deaf => self.deaf = true,
            Command::Listen => self.deaf = false,
            Command::Close(code, reason) => {
                let frame = CloseFrame { code, reason: reason.into() };
                self.send(tungstenite::Message::Close(Some(frame)));
            }
            Command::Garbage => self.garbage = 64,
            Command::Raw(frame) => self.send(tungstenite::Message::Binary(frame)),
            Command::Drop => self.leaving = true,
            Command::Cut => self.replace(None),
            Command::Ended(text) => self.send(channel_closed(text)),
        }
    }

    /// Carries out what the agent wants. Says whether it wanted anything.
    fn drain(&mut self) -> bool {
        let mut progress = false;
        loop {
            match self.agent.poll_output(now()) {
                AgentOutput::Timeout(deadline) => {
                    if self.feed() {
                        progress = true;
                        continue;
                    }
                    // Far away when there is none: the sleep is always polled.
                    let deadline = deadline.map_or_else(
                        || tokio::time::Instant::now() + std::time::Duration::from_secs(1 << 20),
                        tokio::time::Instant::from_std,
                    );
                    if self.sleep.deadline() != deadline {
                        self.sleep.as_mut().reset(deadline);
                        progress = true;
                    }
                    return progress;
                }
                output => {
                    progress = true;
                    self.output(output);
                }
            }
        }
    }

    fn output(&mut self, output: AgentOutput) {
        let input = match output {
            AgentOutput::Transmit(frame) => {
                if !self.silent {
                    self.send(tungstenite::Message::Binary(frame));
                }
                return;
            }
            AgentOutput::Ended(text) => {
                if !self.silent {
                    self.send(channel_closed(&text));
                }
                return;
            }
            AgentOutput::Dial(id, ..) => {
                self.seen().steps.push(format!("dial {}", id.0));
                let total = if let Service::Source(total) = self.service { Some(total) } else { None };
                self.connections.insert(id, Connection { total, ..Connection::default() });
                if self.service == Service::Refused {
                    AgentInput::DialFailed(id, "refused".to_owned())
                } else {
                    self.connections.entry(id).or_default().dialled = true;
                    AgentInput::Dialled(id)
                }
            }
            AgentOutput::Write(id, data) => {
                {
                    let mut seen = self.seen();
                    seen.received += data.len();
                    if data.len() < 40 {
                        seen.steps.push(format!("write {} {}", id.0, data.escape_ascii()));
                    }
                }
                let connection = self.connections.entry(id).or_default();
                if self.service == Service::Stalled {
                    connection.untaken += data.len();
                    return;
                }
                if self.service == Service::Echo {
                    connection.reply.extend_from_slice(&data);
                }
                AgentInput::Written(id, data.len())
            }
            AgentOutput::Close(id) => {
                self.seen().steps.push(format!("close {}", id.0));
                self.connections.entry(id).or_default().closed = true;
                return;
            }
            AgentOutput::Timeout(_) => return,
            other => panic!("port sessions only: {other:?}"),
        };
        self.agent.handle(now(), input);
    }

    /// Destinations send, as far as the agent reads them.
    fn feed(&mut self) -> bool {
        let mut fed = false;
        for (id, connection) in &mut self.connections {
            while connection.dialled && !connection.closed && self.agent.wants_data(*id) {
                if let Some(total) = connection.total.filter(|_| connection.reply.is_empty()) {
                    let end = total.min(connection.sent + 16_384);
                    connection.reply.extend((connection.sent..end).map(pattern));
                    connection.sent = end;
                }
                if !connection.reply.is_empty() {
                    let count = connection.reply.len().min(16_384);
                    let data = connection.reply.split_to(count).freeze();
                    self.agent.handle(now(), AgentInput::Received(*id, data));
                    fed = true;
                } else if connection.total.is_some() {
                    connection.closed = true;
                    self.agent.handle(now(), AgentInput::Eof(*id));
                    fed = true;
                } else {
                    break;
                }
            }
        }
        fed
    }
}

/// A message of the gateway itself.
pub(crate) fn message(kind: MessageKind, payload: &[u8]) -> Bytes {
    let header = Header {
        kind,
        schema_version: 1,
        created_ms: 1,
        sequence: SequenceNumber::ZERO,
        flags: Flags::SYN_FIN,
        id: MessageId::default(),
        payload_kind: PayloadKind::Undefined,
    };
    Message { header, digest: [0; 32], payload: Bytes::copy_from_slice(payload), declared_len: 0 }.encode()
}

fn channel_closed(text: &str) -> tungstenite::Message {
    let body = ChannelClosed { output: Some(text.to_owned()), ..ChannelClosed::default() };
    tungstenite::Message::Binary(message(MessageKind::ChannelClosed, &to_json(&body)))
}
