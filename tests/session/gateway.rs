//! Gateway, agent and destinations in one task, over any in-memory websocket.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
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
        ChannelClosed, FlagKind, Flags, Header, Message, MessageId, MessageKind, PayloadKind, SequenceNumber, to_json,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
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
    /// The websocket is gone.
    pub(crate) gone: bool,
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

pub(crate) struct Gateway<S> {
    websocket: WebSocketStream<S>,
    agent: AgentCore,
    service: Service,
    /// Reads only when everything it had to say is written, like an agent whose reader acknowledges.
    reads_after_writing: bool,
    connections: BTreeMap<ConnectionId, Connection>,
    inbound: VecDeque<Bytes>,
    outbox: VecDeque<tungstenite::Message>,
    written: bool,
    sleep: Pin<Box<Sleep>>,
    commands: mpsc::Receiver<Command>,
    seen: Arc<Mutex<Seen>>,
    silent: bool,
    deaf: bool,
    leaving: bool,
    garbage: bool,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gateway<S> {
    pub(crate) fn new(
        websocket: WebSocketStream<S>,
        options: AgentOptions,
        service: Service,
        reads_after_writing: bool,
        commands: mpsc::Receiver<Command>,
        seen: Arc<Mutex<Seen>>,
    ) -> Self {
        Self {
            websocket,
            agent: AgentCore::new(options, now()),
            service,
            reads_after_writing,
            connections: BTreeMap::new(),
            inbound: VecDeque::new(),
            outbox: VecDeque::new(),
            written: true,
            sleep: Box::pin(sleep_until(tokio::time::Instant::now())),
            commands,
            seen,
            silent: false,
            deaf: false,
            leaving: false,
            garbage: false,
        }
    }

    /// Runs until the websocket is gone.
    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        if self.garbage {
            let written = self.websocket.get_mut().write_all(&[0xff; 64]).await;
            // Stays open, so that only the garbage can end the session.
            written.expect("the client is there");
            std::future::pending::<()>().await;
        }
        self.seen().gone = true;
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test panics with it")
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut progress = false;
            while let Poll::Ready(Some(command)) = self.commands.poll_recv(cx) {
                self.command(command);
                progress = true;
            }
            while !self.deaf && self.inbound.len() < INBOUND && (self.written || !self.reads_after_writing) {
                let Poll::Ready(message) = Pin::new(&mut self.websocket).poll_next(cx) else { break };
                progress = true;
                match message {
                    Some(Ok(tungstenite::Message::Binary(frame))) => self.inbound.push_back(frame),
                    Some(Ok(tungstenite::Message::Text(_))) => self.agent.handle(now(), AgentInput::Connected),
                    // A pong may have been queued.
                    Some(Ok(_)) => self.written = false,
                    Some(Err(_)) | None => return Poll::Ready(()),
                }
            }
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
                Err(_) => return Poll::Ready(()),
            }
            if self.written && (self.leaving || self.garbage) {
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
        while !self.outbox.is_empty() {
            match Pin::new(&mut self.websocket).poll_ready(cx) {
                Poll::Pending => return Ok(wrote),
                Poll::Ready(ready) => ready?,
            }
            let Some(message) = self.outbox.pop_front() else { break };
            self.written = false;
            wrote = true;
            Pin::new(&mut self.websocket).start_send(message)?;
        }
        if !self.written
            && let Poll::Ready(flushed) = Pin::new(&mut self.websocket).poll_flush(cx)
        {
            flushed?;
            self.written = true;
            wrote = true;
        }
        Ok(wrote)
    }

    fn note(&self, frame: &Bytes) {
        let message = Message::decode(frame.clone()).expect("the client sends valid messages");
        message.check_digest().expect("with valid digests");
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
            Command::Deaf => self.deaf = true,
            Command::Listen => self.deaf = false,
            Command::Close(code, reason) => {
                let frame = CloseFrame { code, reason: reason.into() };
                self.outbox.push_back(tungstenite::Message::Close(Some(frame)));
            }
            Command::Garbage => self.garbage = true,
            Command::Raw(frame) => self.outbox.push_back(tungstenite::Message::Binary(frame)),
            Command::Drop => self.leaving = true,
            Command::Ended(text) => self.outbox.push_back(channel_closed(text)),
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
                    self.outbox.push_back(tungstenite::Message::Binary(frame));
                }
                return;
            }
            AgentOutput::Ended(text) => {
                if !self.silent {
                    self.outbox.push_back(channel_closed(&text));
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
