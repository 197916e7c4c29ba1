//! A client made by hand from wire types: no retransmission, no cleverness, signed by the signer of the AWS SDK.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message as Frame, client::IntoClientRequest, protocol::CloseFrame},
};

use super::super::{Credentials, Emulator};
use crate::wire::{
    Acknowledge, ActionStatus, ChannelClosed, Draft, FlagKind, Flags, HandshakeRequest, HandshakeResponse, Header,
    Message, MessageId, MessageKind, OpenDataChannel, PayloadKind, ProcessedAction, SequenceNumber, from_json,
    smux::{self, FrameHeader, StreamId},
    to_json,
};

/// Far longer than anything takes: reaching it is a failure.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// Fails a test instead of hanging.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("this should have happened by now")
}

/// What is signed: the emulator's identity or another, now or at another time.
#[derive(Clone)]
pub(super) struct Signer {
    pub(super) credentials: Credentials,
    pub(super) region: &'static str,
    pub(super) ahead: i64,
}

impl Default for Signer {
    fn default() -> Self {
        Self { credentials: Credentials::default(), region: "us-east-1", ahead: 0 }
    }
}

impl Signer {
    pub(super) fn sign(
        &self,
        method: &str,
        url: &str,
        service: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> HeaderMap {
        use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
        let Credentials { access_key_id, secret_access_key, session_token } = self.credentials.clone();
        let identity =
            aws_credential_types::Credentials::new(access_key_id, secret_access_key, session_token, None, "test")
                .into();
        let now = super::super::clock::epoch().as_secs().checked_add_signed(self.ahead).unwrap();
        let params = aws_sigv4::sign::v4::SigningParams::builder()
            .identity(&identity)
            .region(self.region)
            .name(service)
            .time(SystemTime::UNIX_EPOCH + Duration::from_secs(now))
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let signable = SignableRequest::new(method, url, headers.iter().copied(), SignableBody::Bytes(body)).unwrap();
        let (instructions, _) = sign(signable, &params).unwrap().into_parts();
        let all = headers.iter().copied().chain(instructions.headers());
        all.map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }
}

/// What an HTTP request was answered with.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    /// As it came.
    pub(super) text: String,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn code(&self) -> &str {
        self.body["__type"].as_str().unwrap_or_default()
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.body[name].as_str().unwrap_or_else(|| panic!("no {name} in {:?}", self.body)).to_owned()
    }
}

pub(super) fn authority(emulator: &Emulator) -> &str {
    emulator.endpoint_url().split_once("://").unwrap().1
}

/// One request on a connection of its own.
pub(super) async fn http(emulator: &Emulator, method: &str, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(authority(emulator)).await.unwrap();
    exchange(&mut stream, method, path, headers, body).await
}

pub(super) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    method: &str,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    if !headers.contains_key("host") {
        head += "host: emulator\r\n";
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let text = body.to_owned();
    Answer { status, head: head.to_ascii_lowercase(), body: serde_json::from_str(body).unwrap_or_default(), text }
}

pub(super) async fn call_as(emulator: &Emulator, signer: &Signer, operation: &str, input: &Value) -> Answer {
    call_service(emulator, signer, "ssm", &format!("AmazonSSM.{operation}"), input).await
}

/// A call of any service that speaks AWS JSON, its operation as `X-Amz-Target` has it.
pub(super) async fn call_service(
    emulator: &Emulator,
    signer: &Signer,
    service: &str,
    target: &str,
    input: &Value,
) -> Answer {
    let body = input.to_string();
    let host = authority(emulator);
    let plain = [("host", host), ("x-amz-target", target), ("content-type", "application/x-amz-json-1.1")];
    let headers = signer.sign("POST", &format!("{}/", emulator.endpoint_url()), service, &plain, body.as_bytes());
    http(emulator, "POST", "/", &headers, body.as_bytes()).await
}

/// A call of the query protocol to STS.
pub(super) async fn query_as(emulator: &Emulator, signer: &Signer, action: &str, members: &[(&str, &str)]) -> Answer {
    let form = [("Action", action), ("Version", "2011-06-15")];
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).extend_pairs(members).finish();
    let plain = [("host", authority(emulator)), ("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    let headers = signer.sign("POST", &format!("{}/", emulator.endpoint_url()), "sts", &plain, body.as_bytes());
    http(emulator, "POST", "/", &headers, body.as_bytes()).await
}

pub(super) async fn call(emulator: &Emulator, operation: &str, input: &Value) -> Answer {
    call_as(emulator, &Signer::default(), operation, input).await
}

/// StartSession for a port of this machine.
pub(super) async fn start(emulator: &Emulator, port: u16) -> Answer {
    let input = serde_json::json!({
        "Target": emulator.target(),
        "DocumentName": "AWS-StartPortForwardingSessionToRemoteHost",
        "Parameters": {"portNumber": [port.to_string()], "host": ["127.0.0.1"]},
    });
    let answer = call(emulator, "StartSession", &input).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// How the `+` of a StreamUrl is spelled for the signer.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Space,
    Literal,
    Unsigned,
}

type WsResult<T> = Result<T, tungstenite::Error>;

pub(super) async fn upgrade(url: &str, form: Form) -> WsResult<WebSocketStream<TcpStream>> {
    let mut request = url.into_client_request()?;
    let host = request.uri().authority().unwrap().to_string();
    let spelled = match form {
        Form::Space => Some(url.replace('+', "%20")),
        Form::Literal => Some(url.replace('+', "%2B")),
        Form::Unsigned => None,
    };
    if let Some(spelled) = spelled {
        // The signer encodes the path once more but takes the query as encoded already.
        let (path, query) = spelled.split_once('?').unwrap();
        let url = format!("{path}?{}", query.replace("==", "%3D%3D").replace('/', "%2F")).replace("ws://", "http://");
        let headers = Signer::default().sign("GET", &url, "ssmmessages", &[("host", &host)], b"");
        request.headers_mut().extend(headers);
    }
    let tcp = TcpStream::connect(host).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    Ok(tokio_tungstenite::client_async(request, tcp).await?.0)
}

/// What ends a data channel.
#[derive(Debug)]
pub(super) enum Last {
    ChannelClosed(String),
    Close(u16, String),
    /// Broken without a close frame; true if by a reset.
    Cut(bool),
}

/// A data channel with mux streams, or one of a shell.
pub(super) struct Client {
    pub(super) websocket: WebSocketStream<TcpStream>,
    /// Next to send, and next to receive.
    pub(super) sequence: i64,
    pub(super) expected: i64,
    pub(super) acknowledged: Vec<i64>,
    pub(super) kinds: Vec<MessageKind>,
    pub(super) received: Vec<u8>,
    /// Every payload behind the handshake with its kind, as it came.
    pub(super) payloads: Vec<(PayloadKind, Bytes)>,
    /// The request of the handshake.
    pub(super) request: Option<HandshakeRequest>,
    /// Whether the client leaves answering to its test.
    pub(super) by_hand: bool,
    pub(super) complete: bool,
    pub(super) client_version: &'static str,
}

impl Client {
    /// Opens the websocket and sends the first message.
    pub(super) async fn open(grant: &Answer) -> Self {
        let websocket = upgrade(&grant.text("StreamUrl"), Form::Space).await.expect("the upgrade");
        Self::first(websocket, &grant.text("TokenValue")).await
    }

    pub(super) async fn first(mut websocket: WebSocketStream<TcpStream>, token: &str) -> Self {
        let open = OpenDataChannel {
            message_schema_version: OpenDataChannel::SCHEMA.into(),
            request_id: uuid::Uuid::new_v4().to_string(),
            token_value: token.into(),
            client_id: Some(uuid::Uuid::new_v4().to_string()),
            client_version: Some("1.2.764.0".into()),
        };
        let text = String::from_utf8(to_json(&open).to_vec()).unwrap();
        websocket.send(Frame::Ping(Bytes::from_static(b"keepalive"))).await.unwrap();
        websocket.send(Frame::Text(text.into())).await.unwrap();
        Self {
            websocket,
            sequence: 0,
            expected: 0,
            acknowledged: Vec::new(),
            kinds: Vec::new(),
            received: Vec::new(),
            payloads: Vec::new(),
            request: None,
            by_hand: false,
            complete: false,
            client_version: "1.2.764.0",
        }
    }

    /// The same session on a new websocket.
    pub(super) async fn resume(mut self, grant: &Answer) -> Self {
        let Self { websocket, .. } = Self::open(grant).await;
        self.websocket = websocket;
        self
    }

    /// Starts a session to a port, up to the end of the handshake.
    pub(super) async fn ready(emulator: &Emulator, port: u16) -> (Self, String) {
        let grant = start(emulator, port).await;
        let mut client = Self::open(&grant).await;
        client.until(|client| client.complete && client.acknowledged.contains(&0)).await;
        (client, grant.text("SessionId"))
    }

    pub(super) fn message(&mut self, kind: PayloadKind, payload: &[u8]) -> Bytes {
        let header = Header {
            kind: MessageKind::InputStreamData,
            schema_version: 1,
            created_ms: 1_700_000_000_000,
            sequence: SequenceNumber(self.sequence),
            flags: Flags::NONE,
            id: MessageId::from_random(fastrand::u128(..)),
            payload_kind: kind,
        };
        self.sequence += 1;
        let mut draft = Draft::new(&header, payload.len());
        draft.payload_mut().extend_from_slice(payload);
        draft.seal()
    }

    pub(super) async fn send(&mut self, kind: PayloadKind, payload: &[u8]) {
        let message = self.message(kind, payload);
        self.websocket.send(Frame::Binary(message)).await.unwrap();
    }

    /// Sends so many harmless messages, or fewer if the websocket does not last.
    pub(super) async fn send_until_cut(&mut self, count: usize) {
        for _ in 0..count {
            let message = self.message(PayloadKind::Output, &FrameHeader::nop().encode());
            if self.websocket.send(Frame::Binary(message)).await.is_err() {
                return;
            }
        }
    }

    /// SYN, if it is the stream's first, and data.
    pub(super) async fn stream_data(&mut self, stream: StreamId, first: bool, data: &[u8]) {
        let mut payload = Vec::new();
        if first {
            payload.extend(FrameHeader::syn(stream).encode());
        }
        payload.extend(FrameHeader::psh(stream, data.len().try_into().unwrap()).encode());
        payload.extend(data);
        self.send(PayloadKind::Output, &payload).await;
    }

    pub(super) async fn terminate(&mut self) {
        self.send(PayloadKind::Flag, &FlagKind::TerminateSession.encode()).await;
    }

    /// Handles messages until something is so.
    pub(super) async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let last = self.step().await;
            assert!(last.is_none(), "the channel ended: {last:?}");
        }
    }

    /// Handles messages until the channel ends.
    pub(super) async fn last(&mut self) -> Last {
        loop {
            if let Some(last) = self.step().await {
                return last;
            }
        }
    }

    async fn step(&mut self) -> Option<Last> {
        let message = match soon(self.websocket.next()).await {
            Some(Ok(Frame::Binary(message))) => message,
            Some(Ok(Frame::Close(frame))) => {
                let CloseFrame { code, reason } = frame.expect("a reason to close");
                return Some(Last::Close(code.into(), reason.to_string()));
            }
            Some(Ok(_)) => return None,
            Some(Err(tungstenite::Error::Io(error))) => {
                return Some(Last::Cut(error.kind() == std::io::ErrorKind::ConnectionReset));
            }
            Some(Err(_)) | None => return Some(Last::Cut(false)),
        };
        let message = Message::decode(message).expect("a well-formed message");
        message.check_digest().expect("its digest");
        self.kinds.push(message.header.kind.clone());
        match message.header.kind {
            MessageKind::Acknowledge => {
                self.acknowledged.push(Acknowledge::decode(&message.payload).unwrap().sequence);
            }
            MessageKind::OutputStreamData => self.stream_message(message).await,
            MessageKind::ChannelClosed => {
                let body: ChannelClosed = from_json("channel_closed", &message.payload).unwrap();
                return Some(Last::ChannelClosed(body.output.unwrap_or_default()));
            }
            _ => {}
        }
        None
    }

    async fn stream_message(&mut self, message: Message) {
        let Header { sequence, id, payload_kind, .. } = message.header;
        let header = Header {
            kind: MessageKind::Acknowledge,
            schema_version: 1,
            created_ms: 1,
            sequence: SequenceNumber::ZERO,
            flags: Flags::SYN_FIN,
            id: MessageId::from_random(fastrand::u128(..)),
            payload_kind: PayloadKind::Undefined,
        };
        let mut draft = Draft::new(&header, 0);
        Acknowledge::encode_into(draft.payload_mut(), "output_stream_data", id, sequence);
        self.websocket.send(Frame::Binary(draft.seal())).await.unwrap();
        if sequence.0 != self.expected {
            return; // a retransmission: nothing overtakes on loopback
        }
        self.expected += 1;
        match payload_kind {
            PayloadKind::HandshakeRequest => {
                let request: HandshakeRequest = from_json("request", &message.payload).unwrap();
                self.request = Some(request.clone());
                if self.by_hand {
                    return;
                }
                let processed = request.requested_client_actions.iter().map(|action| ProcessedAction {
                    action_type: action.name().into(),
                    action_status: ActionStatus::Success,
                    action_result: Value::Null,
                    error: String::new(),
                });
                let response = HandshakeResponse {
                    client_version: self.client_version.into(),
                    processed_client_actions: processed.collect(),
                    errors: None,
                };
                self.send(PayloadKind::HandshakeResponse, &to_json(&response)).await;
            }
            PayloadKind::HandshakeComplete => self.complete = true,
            kind => {
                if kind == PayloadKind::Output {
                    self.received.extend_from_slice(&message.payload);
                }
                self.payloads.push((kind, message.payload));
            }
        }
    }

    /// Whether this text was received, wherever the payloads were cut.
    pub(super) fn has(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.received).contains(text)
    }

    /// The text of all payloads of one kind.
    pub(super) fn text_of(&self, kind: PayloadKind) -> String {
        let payloads = self.payloads.iter().filter(|(of, _)| *of == kind).flat_map(|(_, payload)| payload.to_vec());
        String::from_utf8(payloads.collect()).expect("text")
    }

    /// Sends a message until it is acknowledged: early ones are refused.
    pub(super) async fn send_surely(&mut self, kind: PayloadKind, payload: &[u8]) {
        let sequence = self.sequence;
        while !self.acknowledged.contains(&sequence) {
            self.sequence = sequence;
            self.send(kind, payload).await;
            let answered = self.until(|client| client.acknowledged.contains(&sequence));
            drop(tokio::time::timeout(Duration::from_millis(100), answered).await);
        }
    }

    /// The data of one stream among the frames received so far, and whether its FIN is there.
    pub(super) fn stream(&self, stream: StreamId) -> (Vec<u8>, bool) {
        let (mut data, mut rest, mut fin) = (Vec::new(), &self.received[..], false);
        while let Some((header, after)) = rest.split_first_chunk::<{ smux::HEADER_LEN }>() {
            let header = FrameHeader::decode(*header).unwrap();
            let Some((body, after)) = after.split_at_checked(header.data_len()) else { break };
            if header.stream == stream {
                data.extend_from_slice(body);
                fin |= header.command == smux::Command::Fin;
            }
            rest = after;
        }
        (data, fin)
    }
}
