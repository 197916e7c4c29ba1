//! What the gateway understands of the messages it relays, and the messages it makes itself.
//!
//! Pure. Stricter than the service towards clients, so that a test which sees no violation has seen a clean client.

use bytes::Bytes;

use super::clock;
use crate::wire::{
    Acknowledge, ChannelClosed, Draft, FlagKind, Flags, Header, Message, MessageId, MessageKind, PayloadKind,
    SequenceNumber, to_json,
};

/// A message of a client that is as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromClient {
    StreamData {
        /// Bytes of payload.
        payload: usize,
        /// It is the TerminateSession flag.
        terminates: bool,
    },
    Acknowledge,
}

/// Reads a client's message; the error says what is wrong with it, without its payload.
pub(super) fn inspect(frame: &Bytes) -> Result<FromClient, String> {
    let message = Message::decode(frame.clone()).map_err(|error| error.to_string())?;
    message.check_digest().map_err(|error| error.to_string())?;
    let header = &message.header;
    if usize::try_from(message.declared_len) != Ok(message.payload.len()) {
        return Err(format!("declares {} bytes of payload and has {}", message.declared_len, message.payload.len()));
    }
    if header.schema_version != 1 {
        return Err(format!("schema version {}, expected 1", header.schema_version));
    }
    match header.kind {
        MessageKind::InputStreamData if message.payload.is_empty() => Err("stream data without payload".into()),
        MessageKind::InputStreamData if header.sequence < SequenceNumber::ZERO => {
            Err(format!("sequence number {}", header.sequence))
        }
        MessageKind::InputStreamData => {
            let flag = header.payload_kind == PayloadKind::Flag;
            let terminates = flag
                && FlagKind::decode(&message.payload).map_err(|error| error.to_string())? == FlagKind::TerminateSession;
            Ok(FromClient::StreamData { payload: message.payload.len(), terminates })
        }
        MessageKind::Acknowledge => {
            let body = Acknowledge::decode(&message.payload).map_err(|error| error.to_string())?;
            if body.kind != MessageKind::OutputStreamData.as_str() || body.sequence < 0 {
                return Err(format!("acknowledges {} {}", body.kind, body.sequence));
            }
            Ok(FromClient::Acknowledge)
        }
        _ => Err(format!("a client does not send {}", header.kind)),
    }
}

/// A message of the agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromAgent {
    StreamData {
        /// Bytes of payload.
        payload: usize,
    },
    /// `agent_session_state`: not relayed.
    ForTheGateway,
    Other,
}

/// Tells the agent's messages apart. Ours, so it is well formed.
pub(super) fn classify(frame: &Bytes) -> FromAgent {
    match Message::decode(frame.clone()) {
        Ok(message) if message.header.kind == MessageKind::OutputStreamData => {
            FromAgent::StreamData { payload: message.payload.len() }
        }
        Ok(message) if message.header.kind == MessageKind::AgentSessionState => FromAgent::ForTheGateway,
        _ => FromAgent::Other,
    }
}

/// Makes the gateway's own messages.
pub(super) struct Mint {
    session: String,
    target: String,
    rng: fastrand::Rng,
}

impl Mint {
    pub(super) fn new(session: &str, target: &str, seed: u64) -> Self {
        Self { session: session.into(), target: target.into(), rng: fastrand::Rng::with_seed(seed) }
    }

    /// `start_publication` or `pause_publication`.
    pub(super) fn publication(&mut self, kind: MessageKind) -> Bytes {
        Draft::new(&self.header(kind, clock::epoch_ms()), 0).seal()
    }

    /// `channel_closed`: with a text for the client, without for the agent.
    pub(super) fn channel_closed(&mut self, output: Option<&str>) -> Bytes {
        let created_ms = clock::epoch_ms();
        let header = self.header(MessageKind::ChannelClosed, created_ms);
        let body = to_json(&ChannelClosed {
            message_id: header.id.to_string(),
            created_date: created_ms.to_string(),
            destination_id: self.target.clone(),
            session_id: self.session.clone(),
            message_type: header.kind.to_string(),
            schema_version: 1,
            output: output.map(Into::into),
        });
        let mut draft = Draft::new(&header, body.len());
        draft.payload_mut().extend_from_slice(&body);
        draft.seal()
    }

    fn header(&mut self, kind: MessageKind, created_ms: u64) -> Header {
        Header {
            kind,
            schema_version: 1,
            created_ms,
            sequence: SequenceNumber::ZERO,
            flags: Flags::SYN_FIN,
            id: MessageId::from_random(self.rng.u128(..)),
            payload_kind: PayloadKind::Undefined,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: MessageKind, payload_kind: PayloadKind, payload: &[u8]) -> Vec<u8> {
        let mut mint = Mint::new("s", "i", 0);
        let mut draft = Draft::new(&Header { payload_kind, ..mint.header(kind, 1) }, 0);
        draft.payload_mut().extend_from_slice(payload);
        draft.seal().to_vec()
    }

    #[test]
    fn clean_messages_are_recognised() {
        let data = frame(MessageKind::InputStreamData, PayloadKind::Output, b"hello");
        assert_eq!(inspect(&data.into()), Ok(FromClient::StreamData { payload: 5, terminates: false }));
        let flag = frame(MessageKind::InputStreamData, PayloadKind::Flag, &FlagKind::TerminateSession.encode());
        assert_eq!(inspect(&flag.into()), Ok(FromClient::StreamData { payload: 4, terminates: true }));
        let mut body = bytes::BytesMut::new();
        Acknowledge::encode_into(&mut body, "output_stream_data", MessageId::default(), SequenceNumber(3));
        let acknowledge = frame(MessageKind::Acknowledge, PayloadKind::Undefined, &body);
        assert_eq!(inspect(&acknowledge.into()), Ok(FromClient::Acknowledge));
    }

    #[test]
    fn everything_else_is_a_violation_that_is_named() {
        let good = || frame(MessageKind::InputStreamData, PayloadKind::Output, b"secret");
        let changed = |at: usize, byte: u8| {
            let mut frame = good();
            frame[at] = byte;
            frame
        };
        for (bytes, named) in [
            (changed(125, b'x'), "digest"),
            (changed(3, 0), "header length"),
            (changed(39, 2), "schema"),
            (changed(119, 5), "declares"),
            (changed(48, 0x80), "sequence number"),
            (good()[..100].to_vec(), "header"),
            (frame(MessageKind::InputStreamData, PayloadKind::Output, b""), "without payload"),
            (frame(MessageKind::InputStreamData, PayloadKind::Flag, b"1"), "flag"),
            (frame(MessageKind::OutputStreamData, PayloadKind::Output, b"x"), "output_stream_data"),
            (frame(MessageKind::StartPublication, PayloadKind::Undefined, b""), "start_publication"),
            (frame(MessageKind::Acknowledge, PayloadKind::Undefined, b"{}"), "acknowledge"),
        ] {
            let error = inspect(&bytes.into()).expect_err(named);
            assert!(error.contains(named) && !error.contains("secret"), "{named}: {error}");
        }
    }

    #[test]
    fn the_gateways_own_messages_are_well_formed() {
        let mut mint = Mint::new("user-0", "i-0", 7);
        let start = Message::decode(mint.publication(MessageKind::StartPublication)).expect("well formed");
        assert!(start.header.created_ms > 0, "the agent requires a date");
        let closed = Message::decode(mint.channel_closed(Some("over"))).expect("well formed");
        closed.check_digest().expect("its digest");
        let body: ChannelClosed = crate::wire::from_json("channel_closed", &closed.payload).expect("its body");
        assert_eq!((body.session_id.as_str(), body.output.as_deref()), ("user-0", Some("over")));
        assert_eq!(body.message_id, closed.header.id.to_string());
    }
}
