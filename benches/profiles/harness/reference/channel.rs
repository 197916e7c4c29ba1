//! The data channel: opening, handshake, acknowledgements, the oldest message again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use ssmfwd::{
    session::{Token, Transport},
    wire::{
        Acknowledge, ActionStatus, Draft, Flags, HandshakeRequest, HandshakeResponse, Header, Message, MessageId,
        MessageKind, OpenDataChannel, PayloadKind, ProcessedAction, SequenceNumber, from_json, to_json,
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message as Frame};

use super::{pump, pump::Outgoing, streams::Streams};
use crate::harness::Outcome;

/// The version that it claims: multiplexing, and no cut of idle sessions.
const CLIENT_VERSION: &str = "1.2.764.0";
/// How often it looks at its oldest message.
const TICK: Duration = Duration::from_millis(100);
/// How old that may become.
const OVERDUE: Duration = Duration::from_secs(2);

pub(super) struct Channel {
    websocket: WebSocketStream<Transport>,
    streams: Arc<Streams>,
    expected: i64,
    unacknowledged: VecDeque<(i64, Option<Bytes>, Instant)>,
    complete: bool,
}

impl Channel {
    pub(super) async fn open(
        mut websocket: WebSocketStream<Transport>,
        token: &Token,
        streams: Arc<Streams>,
    ) -> Outcome<Self> {
        let open = OpenDataChannel {
            message_schema_version: OpenDataChannel::SCHEMA.into(),
            request_id: uuid::Uuid::new_v4().to_string(),
            token_value: token.expose().into(),
            client_id: Some(uuid::Uuid::new_v4().to_string()),
            client_version: Some(CLIENT_VERSION.into()),
        };
        let text = String::from_utf8(to_json(&open).to_vec())?;
        websocket.send(Frame::Text(text.into())).await?;
        Ok(Self { websocket, streams, expected: 0, unacknowledged: VecDeque::new(), complete: false })
    }

    /// Answers until the agent says that the handshake is complete, and has acknowledged the answer.
    pub(super) async fn handshake(&mut self) -> Outcome<()> {
        while !self.complete || !self.unacknowledged.is_empty() {
            let frame = self.websocket.next().await.ok_or("the channel ended in the handshake")??;
            self.take(frame).await?;
            self.websocket.flush().await?;
        }
        Ok(())
    }

    /// Sends what the pump has and takes what comes, until the channel ends.
    pub(super) async fn run(&mut self, mut outgoing: mpsc::Receiver<Outgoing>) -> Outcome<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                frame = self.websocket.next() => {
                    self.take(frame.ok_or("the channel ended")??).await?;
                    while let Some(Some(frame)) = self.websocket.next().now_or_never() {
                        self.take(frame?).await?;
                    }
                }
                Some((sequence, message)) = outgoing.recv() => {
                    self.send(sequence, message).await?;
                    while let Ok((sequence, message)) = outgoing.try_recv() {
                        self.send(sequence, message).await?;
                    }
                }
                _ = ticks.tick() => self.resend().await?,
            }
            self.websocket.flush().await?;
        }
    }

    async fn send(&mut self, sequence: i64, message: Bytes) -> Outcome<()> {
        self.unacknowledged.push_back((sequence, Some(message.clone()), Instant::now()));
        Ok(self.websocket.feed(Frame::Binary(message)).await?)
    }

    async fn resend(&mut self) -> Outcome<()> {
        if let Some((_, Some(message), sent)) = self.unacknowledged.front_mut()
            && sent.elapsed() > OVERDUE
        {
            *sent = Instant::now();
            self.websocket.feed(Frame::Binary(message.clone())).await?;
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame) -> Outcome<()> {
        let Frame::Binary(frame) = frame else { return Ok(()) };
        let message = Message::decode(frame)?;
        message.check_digest()?;
        match message.header.kind {
            MessageKind::Acknowledge => {
                let acknowledged = Acknowledge::decode(&message.payload)?.sequence;
                if let Ok(at) = self.unacknowledged.binary_search_by_key(&acknowledged, |(sequence, ..)| *sequence) {
                    self.unacknowledged[at].1 = None;
                }
                while self.unacknowledged.front().is_some_and(|(_, message, _)| message.is_none()) {
                    self.unacknowledged.pop_front();
                }
            }
            MessageKind::OutputStreamData => self.stream_data(message).await?,
            MessageKind::ChannelClosed => return Err("the session was ended".into()),
            _ => {}
        }
        Ok(())
    }

    async fn stream_data(&mut self, message: Message) -> Outcome<()> {
        let Header { sequence, id, payload_kind, .. } = message.header;
        self.websocket.feed(Frame::Binary(acknowledgement(id, sequence))).await?;
        if sequence.0 != self.expected {
            return Ok(()); // once more: a websocket loses and reorders nothing
        }
        self.expected += 1;
        match payload_kind {
            PayloadKind::HandshakeRequest => {
                let request: HandshakeRequest = from_json("handshake request", &message.payload)?;
                let processed = request.requested_client_actions.iter().map(|action| ProcessedAction {
                    action_type: action.name().into(),
                    action_status: ActionStatus::Success,
                    action_result: serde_json::Value::Null,
                    error: String::new(),
                });
                let response = HandshakeResponse {
                    client_version: CLIENT_VERSION.into(),
                    processed_client_actions: processed.collect(),
                    errors: None,
                };
                self.send(0, pump::data(0, PayloadKind::HandshakeResponse, &to_json(&response))).await?;
            }
            PayloadKind::HandshakeComplete => self.complete = true,
            PayloadKind::Output => self.streams.deliver(message.payload).await?,
            _ => {}
        }
        Ok(())
    }
}

fn acknowledgement(id: MessageId, sequence: SequenceNumber) -> Bytes {
    let header = Header {
        kind: MessageKind::Acknowledge,
        schema_version: 1,
        created_ms: 1_700_000_000_000,
        sequence: SequenceNumber::ZERO,
        flags: Flags::SYN_FIN,
        id: MessageId::from_random(fastrand::u128(..)),
        payload_kind: PayloadKind::Undefined,
    };
    let mut draft = Draft::new(&header, 192);
    Acknowledge::encode_into(draft.payload_mut(), "output_stream_data", id, sequence);
    draft.seal()
}
