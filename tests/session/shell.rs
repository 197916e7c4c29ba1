//! Shells through the driver: a scripted peer at the end of websockets in memory, which says what it likes.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderName, HeaderValue};
use ssmfwd::{
    proto::{Cause, Initiator},
    session::{
        BoxFuture, ConnectError, ControlError, ControlErrorKind, ControlPlane, DataKeyGrant, DataKeyRequest, Grant,
        Mode, OpenError, QueryForm, Session, SessionEvent, SessionId, SessionKinds, SessionOptions, ShellOutput,
        ShellReader, Size, StartRequest, StreamUrl, Token,
    },
    wire::{
        Acknowledge, DataKey, EncChallenge, Flags, HandshakeResponse, Header, Message, MessageId, MessageKind,
        PayloadKind, SequenceNumber, from_json, to_json,
    },
};
use tokio::{io::AsyncWriteExt as _, sync::mpsc};
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{dialer::MemoryDialer, gateway::Websocket, setup::SESSION};

const TARGET: &str = "i-0123456789abcdef0";
const KMS: &str = r#"{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"key/1","Challenge":"AAAA"}},"#;

/// What GenerateDataKey does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kms {
    Grants,
    Denies,
    /// Of a wrong length.
    GrantsShort,
    Hangs,
}

struct Api {
    kms: Kms,
    asked: Mutex<Vec<DataKeyRequest>>,
    terminated: Mutex<usize>,
    resumed: Mutex<usize>,
}

impl Api {
    fn new(kms: Kms) -> Arc<Self> {
        Arc::new(Self { kms, asked: Mutex::default(), terminated: Mutex::default(), resumed: Mutex::default() })
    }

    fn terminated(&self) -> usize {
        *self.terminated.lock().expect("no test panics with it")
    }
}

fn grant(presigned: bool) -> Grant {
    let presigned = if presigned { "&X-Amz-Signature=00" } else { "" };
    let url = format!(
        "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/{SESSION}?role=publish_subscribe{presigned}"
    );
    Grant {
        session_id: SessionId(SESSION.to_owned()),
        token: Token::new("token"),
        url: StreamUrl::parse(url).expect("a URL"),
        target: None,
    }
}

impl ControlPlane for Api {
    fn start<'a>(&'a self, _: &'a StartRequest) -> BoxFuture<'a, Result<Grant, ControlError>> {
        Box::pin(async { Ok(grant(false)) })
    }

    fn resume<'a>(&'a self, _: &'a SessionId) -> BoxFuture<'a, Result<Option<Grant>, ControlError>> {
        *self.resumed.lock().expect("no test panics with it") += 1;
        Box::pin(async { Ok(Some(grant(false))) })
    }

    fn terminate<'a>(&'a self, _: &'a SessionId) -> BoxFuture<'a, Result<(), ControlError>> {
        *self.terminated.lock().expect("no test panics with it") += 1;
        Box::pin(async { Ok(()) })
    }

    fn data_key<'a>(&'a self, request: &'a DataKeyRequest) -> BoxFuture<'a, Result<DataKeyGrant, ControlError>> {
        self.asked.lock().expect("no test panics with it").push(request.clone());
        Box::pin(async {
            let plaintext = match self.kms {
                Kms::Grants => (0..64).collect(),
                Kms::GrantsShort => (0..32).collect(),
                Kms::Hangs => std::future::pending().await,
                Kms::Denies => {
                    return Err(ControlError {
                        kind: ControlErrorKind::AccessDenied,
                        operation: "GenerateDataKey",
                        resource: request.key_id.clone(),
                        message: "not authorized to perform kms:GenerateDataKey".to_owned(),
                        source: None,
                    });
                }
            };
            Ok(DataKeyGrant { plaintext: Zeroizing::new(plaintext), ciphertext: vec![1, 2] })
        })
    }

    fn sign_upgrade<'a>(
        &'a self,
        _: &'a StreamUrl,
        _: QueryForm,
    ) -> BoxFuture<'a, Result<Vec<(HeaderName, HeaderValue)>, ControlError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Gateway and agent, message by message.
struct Peer {
    websockets: mpsc::Receiver<Websocket>,
    websocket: Option<Websocket>,
    next: i64,
    /// Stream data of the client that was not asked for yet; acknowledged when it came.
    inbox: VecDeque<(PayloadKind, Bytes)>,
    expected: i64,
}

impl Peer {
    /// Waits for the next websocket and its first message.
    async fn accept(&mut self) {
        let mut websocket = self.websockets.recv().await.expect("a websocket");
        let first = websocket.next().await.expect("a message").expect("a good one");
        assert!(first.is_text(), "the token comes first");
        self.websocket = Some(websocket);
    }

    async fn send(&mut self, kind: MessageKind, payload_kind: PayloadKind, number: i64, payload: &[u8]) {
        let header = Header {
            kind,
            schema_version: 1,
            created_ms: 1,
            sequence: SequenceNumber(number),
            flags: Flags::NONE,
            id: MessageId::from_random(number.unsigned_abs().into()),
            payload_kind,
        };
        let message = Message { header, digest: [0; 32], payload: Bytes::copy_from_slice(payload), declared_len: 0 };
        let websocket = self.websocket.as_mut().expect("a websocket");
        // A client that has gone hears nothing more; what a test waits for will not come then.
        drop(websocket.send(tungstenite::Message::Binary(message.encode())).await);
    }

    async fn say(&mut self, kind: PayloadKind, payload: impl AsRef<[u8]>) {
        self.next += 1;
        self.send(MessageKind::OutputStreamData, kind, self.next - 1, payload.as_ref()).await;
    }

    async fn publish(&mut self) {
        self.send(MessageKind::StartPublication, PayloadKind::Undefined, 0, b"").await;
    }

    async fn close(&mut self, text: &str) {
        let body = format!(r#"{{"Output":"{text}"}}"#);
        self.send(MessageKind::ChannelClosed, PayloadKind::Undefined, 0, body.as_bytes()).await;
    }

    fn drop_websocket(&mut self) {
        self.websocket = None;
    }

    /// The client's next stream data, which is acknowledged. None if the websocket is gone.
    async fn hear(&mut self) -> Option<(PayloadKind, Bytes)> {
        loop {
            if let Some(heard) = self.inbox.pop_front() {
                return Some(heard);
            }
            let frame = match self.websocket.as_mut()?.next().await? {
                Ok(tungstenite::Message::Binary(frame)) => frame,
                Ok(_) => continue,
                Err(_) => return None,
            };
            let message = Message::decode(frame).expect("valid");
            if message.header.kind != MessageKind::InputStreamData {
                continue;
            }
            let number = message.header.sequence.0;
            let mut body = bytes::BytesMut::new();
            let kind = MessageKind::InputStreamData;
            Acknowledge::encode_into(&mut body, kind.as_str(), message.header.id, message.header.sequence);
            self.send(MessageKind::Acknowledge, PayloadKind::Undefined, 0, &body).await;
            if number == self.expected {
                self.expected += 1;
                self.inbox.push_back((message.header.payload_kind, message.payload));
            }
        }
    }

    async fn hear_kind(&mut self, kind: PayloadKind) -> Bytes {
        let (heard, payload) = self.hear().await.expect("a message");
        assert_eq!(heard, kind);
        payload
    }

    /// A shell without a handshake.
    async fn begin(&mut self) {
        self.accept().await;
        self.publish().await;
        self.say(PayloadKind::Output, "$ ").await;
        assert_eq!(self.hear_kind(PayloadKind::Size).await, r#"{"cols":120,"rows":40}"#);
    }

    async fn ask(&mut self, session_type: &str, actions: &str) {
        let request = format!(
            r#"{{"AgentVersion":"3.3.987.0","RequestedClientActions":[{actions}{{"ActionType":"SessionType","ActionParameters":{{"SessionType":"{session_type}","Properties":null}}}}]}}"#
        );
        self.accept().await;
        self.publish().await;
        self.say(PayloadKind::HandshakeRequest, request).await;
    }
}

struct World {
    api: Arc<Api>,
    dialer: Arc<MemoryDialer>,
    events: Arc<Mutex<Vec<SessionEvent>>>,
    options: SessionOptions,
    cancel: CancellationToken,
}

fn world(kms: Kms) -> (World, Peer) {
    let (gateway, websockets) = mpsc::channel(16);
    let dialer = MemoryDialer { pipe: 64 << 10, stutter: Vec::new(), dials: Arc::default(), gateway };
    let events: Arc<Mutex<Vec<SessionEvent>>> = Arc::default();
    let observed = Arc::clone(&events);
    let mut options = SessionOptions::default();
    options.kinds = SessionKinds::Shell;
    options.terminal = Size { cols: 120, rows: 40 };
    options.observer = Some(Arc::new(move |event| observed.lock().expect("no test panics with it").push(event)));
    let peer = Peer { websockets, websocket: None, next: 0, inbox: VecDeque::new(), expected: 0 };
    let cancel = CancellationToken::new();
    (World { api: Api::new(kms), dialer: Arc::new(dialer), events, options, cancel }, peer)
}

impl World {
    fn connect(&self) -> impl Future<Output = Result<Session, ConnectError>> + use<> {
        let request = StartRequest { target: TARGET.to_owned(), ..StartRequest::default() };
        let api = Arc::<Api>::clone(&self.api);
        Session::connect(api, Arc::clone(&self.dialer), request, self.options.clone(), self.cancel.clone())
    }

    fn adopt(&self, presigned: bool) -> impl Future<Output = Result<Session, ConnectError>> + use<> {
        let api = Arc::<Api>::clone(&self.api);
        let (dialer, target) = (Arc::clone(&self.dialer), TARGET.to_owned());
        Session::adopt(api, dialer, grant(presigned), Some(target), self.options.clone(), self.cancel.clone())
    }
}

/// Everything up to the end, in words.
async fn rest(reader: &mut ShellReader) -> (String, io::Result<()>) {
    let mut said = String::new();
    loop {
        match reader.next().await {
            Ok(Some(ShellOutput::Output(bytes))) => said += &String::from_utf8_lossy(&bytes),
            Ok(Some(ShellOutput::ErrorOutput(bytes))) => said += &format!("[{}]", String::from_utf8_lossy(&bytes)),
            Ok(None) => return (said, Ok(())),
            Err(error) => return (said, Err(error)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shell_from_its_first_prompt_to_its_exit_code() {
    let (world, mut peer) = world(Kms::Denies);
    let (session, ()) = tokio::join!(world.connect(), peer.begin());
    let session = session.expect("a session");
    assert_eq!((session.mode(), session.agent_version(), session.is_sealed()), (Mode::Shell, None, false));
    assert!(matches!(session.open().await, Err(OpenError::WrongKind)));
    let shell = session.shell().expect("the shell");
    assert!(matches!(session.shell(), Err(OpenError::Used)));
    shell.resize(80, 24);
    assert_eq!(peer.hear_kind(PayloadKind::Size).await, r#"{"cols":80,"rows":24}"#);
    let (mut writer, mut reader) = shell.split();
    writer.write_all(b"make\n").await.expect("open");
    assert_eq!(peer.hear_kind(PayloadKind::Output).await, "make\n");
    session.drained().await.expect("taken");
    session.resize(81, 24);
    assert_eq!(peer.hear_kind(PayloadKind::Size).await, r#"{"cols":81,"rows":24}"#);
    peer.say(PayloadKind::Output, "cc x.c\n").await;
    peer.say(PayloadKind::StdErr, "x.c: no\n").await;
    peer.say(PayloadKind::Output, "done").await;
    peer.say(PayloadKind::ExitCode, "EXIT_CODE: 2").await;
    peer.close("").await;
    let (said, end) = rest(&mut reader).await;
    assert_eq!(said, "$ cc x.c\n[x.c: no\n]done");
    end.expect("a clean end");
    assert_eq!((reader.exit_code(), session.exit_code()), (Some(2), Some(2)));
    let reason = session.closed().await;
    assert_eq!((reason.initiator, reason.cause), (Initiator::Agent, Cause::ChannelClosed(String::new())));
    session.close().await;
    assert_eq!(world.api.terminated(), 0, "the agent has ended it");
    assert!(writer.write_all(b"x").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_over_at_once_has_said_what_it_said() {
    for (output, text) in [("hi", ""), ("", ""), ("hi", "Your session timed out")] {
        let (world, mut peer) = world(Kms::Denies);
        let agent = async {
            peer.accept().await;
            peer.publish().await;
            if !output.is_empty() {
                peer.say(PayloadKind::Output, output).await;
            }
            peer.close(text).await;
        };
        let (session, ()) = tokio::join!(world.connect(), agent);
        let session = session.expect("a session that is over");
        let (_, mut reader) = session.shell().expect("its shell").split();
        let (said, end) = rest(&mut reader).await;
        assert_eq!((&*said, end.is_ok()), (output, text.is_empty()));
        assert!(matches!(session.shell(), Err(OpenError::Closed(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_command_is_waited_for_until_somebody_cancels() {
    let (world, mut peer) = world(Kms::Denies);
    let connecting = tokio::spawn(world.connect());
    peer.accept().await;
    peer.publish().await;
    let silence = tokio::time::timeout(Duration::from_secs(300), peer.hear()).await;
    assert!(silence.is_err() && !connecting.is_finished(), "{silence:?}");
    world.cancel.cancel();
    assert!(matches!(connecting.await.expect("no panic"), Err(ConnectError::Cancelled)));
    assert_eq!(world.api.terminated(), 1);
}

#[tokio::test(start_paused = true)]
async fn ending_a_shell_calls_the_api_once_its_input_is_taken() {
    let (world, mut peer) = world(Kms::Denies);
    let (session, ()) = tokio::join!(world.connect(), peer.begin());
    let session = session.expect("a session");
    let (mut writer, reader) = session.shell().expect("the shell").split();
    writer.write_all(b"bye").await.expect("open");
    let (reason, heard) = tokio::join!(session.close(), peer.hear());
    assert_eq!(heard, Some((PayloadKind::Output, Bytes::from_static(b"bye"))));
    assert_eq!((reason.cause, world.api.terminated()), (Cause::Requested, 1));
    assert_eq!(peer.hear().await, None, "no flag");
    drop(reader);
}

#[tokio::test(start_paused = true)]
async fn a_lost_websocket_is_replaced_at_every_point_of_a_shells_life() {
    let (world, mut peer) = world(Kms::Denies);
    let connecting = tokio::spawn(world.connect());
    // Before anything was said.
    peer.accept().await;
    peer.publish().await;
    peer.drop_websocket();
    // At the first output.
    peer.accept().await;
    peer.say(PayloadKind::Output, "$ ").await;
    peer.hear_kind(PayloadKind::Size).await;
    let session = connecting.await.expect("no panic").expect("a session");
    let (mut writer, mut reader) = session.shell().expect("the shell").split();
    for round in 0..3 {
        peer.drop_websocket();
        writer.write_all(format!("line {round}\n").as_bytes()).await.expect("open");
        session.resize(round, round);
        peer.accept().await;
        let (one, other) = (peer.hear().await.expect("one"), peer.hear().await.expect("the other"));
        let heard = [one, other].map(|(_, payload)| String::from_utf8_lossy(&payload).into_owned());
        assert!(heard.contains(&format!("line {round}\n")), "{heard:?}");
        assert!(heard.contains(&format!(r#"{{"cols":{round},"rows":{round}}}"#)), "{heard:?}");
        peer.say(PayloadKind::Output, format!("did {round}\n")).await;
    }
    peer.close("").await;
    assert_eq!(rest(&mut reader).await.0, "$ did 0\ndid 1\ndid 2\n");
    assert_eq!(*world.api.resumed.lock().expect("no panic"), 4);
}

#[tokio::test(start_paused = true)]
async fn an_adopted_session_is_resumed_like_any_other_unless_its_url_is_presigned() {
    for presigned in [false, true] {
        let (world, mut peer) = world(Kms::Denies);
        let (session, ()) = tokio::join!(world.adopt(presigned), peer.begin());
        let session = session.expect("a session");
        let (_, mut reader) = session.shell().expect("the shell").split();
        let started = SessionEvent::Started { session: SessionId(SESSION.to_owned()), target: TARGET.to_owned() };
        assert_eq!(world.events.lock().expect("no panic").first(), Some(&started));
        peer.drop_websocket();
        if presigned {
            assert!(rest(&mut reader).await.1.is_err());
            assert!(matches!(session.closed().await.cause, Cause::ConnectionLost(_)));
            session.close().await;
            assert_eq!((world.api.terminated(), *world.api.resumed.lock().expect("no panic")), (1, 0));
        } else {
            peer.accept().await;
            peer.say(PayloadKind::Output, "again").await;
            peer.close("").await;
            assert_eq!(rest(&mut reader).await.0, "$ again");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_adopted_session_that_comes_to_nothing_is_ended() {
    // Cancelled before, and refused after the dial.
    let (world, _peer) = world(Kms::Denies);
    world.cancel.cancel();
    assert!(matches!(world.adopt(false).await, Err(ConnectError::Cancelled)));
    assert_eq!(world.api.terminated(), 1);
    let (world, mut peer) = self::world(Kms::Denies);
    let (session, ()) = tokio::join!(world.adopt(false), peer.ask("Port", ""));
    let Err(ConnectError::Closed(reason)) = session else { panic!("{session:?}") };
    assert!(matches!(&reason.cause, Cause::Handshake(text) if text.contains("Port")), "{reason}");
    assert_eq!(world.api.terminated(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sealed_shell_asks_for_its_key_and_talks_with_it() {
    let (world, mut peer) = world(Kms::Grants);
    let key = DataKey::new(&(0..64).collect::<Vec<u8>>()).expect("64 bytes");
    let agent = async {
        peer.ask("Standard_Stream", KMS).await;
        let response = peer.hear_kind(PayloadKind::HandshakeResponse).await;
        let response: HandshakeResponse = from_json("response", &response).expect("valid");
        assert_eq!(response.errors, None);
        let challenge = EncChallenge { challenge: Some(key.agent_to_client().seal([0; 12], &[4; 64]).to_vec()) };
        peer.say(PayloadKind::EncChallengeRequest, to_json(&challenge)).await;
        let answer: EncChallenge =
            from_json("answer", &peer.hear_kind(PayloadKind::EncChallengeResponse).await).expect("valid");
        let opened = key.client_to_agent().open(&answer.challenge.expect("one"));
        assert_eq!(opened.as_deref(), Ok(&[4; 64][..]));
        peer.say(PayloadKind::HandshakeComplete, "{}").await;
    };
    let (session, ()) = tokio::join!(world.connect(), agent);
    let session = session.expect("a session");
    assert!(session.is_sealed() && session.agent_version().as_deref() == Some("3.3.987.0"));
    let expected = DataKeyRequest {
        key_id: "key/1".to_owned(),
        session_id: SessionId(SESSION.to_owned()),
        target: TARGET.to_owned(),
        challenge: Some("AAAA".to_owned()),
    };
    assert_eq!(*world.api.asked.lock().expect("no panic"), [expected]);
    let (mut writer, mut reader) = session.shell().expect("the shell").split();
    peer.hear_kind(PayloadKind::Size).await;
    writer.write_all(b"secret").await.expect("open");
    let heard = peer.hear_kind(PayloadKind::Output).await;
    assert_eq!(key.client_to_agent().open(&heard).as_deref(), Ok(&b"secret"[..]));
    peer.say(PayloadKind::Output, key.agent_to_client().seal([1; 12], b"ok")).await;
    peer.say(PayloadKind::Output, "plain").await;
    let (said, end) = rest(&mut reader).await;
    assert!(said == "ok" && end.is_err());
    let reason = session.close().await;
    assert!(matches!(reason.cause, Cause::Encryption(_)) && world.api.terminated() == 1, "{reason}");
}

#[tokio::test(start_paused = true)]
async fn without_a_key_the_failed_call_is_the_error_and_the_agent_is_told() {
    for (kms, kind, says) in [
        (Kms::Denies, ControlErrorKind::AccessDenied, "kms:GenerateDataKey"),
        (Kms::GrantsShort, ControlErrorKind::BadAnswer, "32"),
        (Kms::Hangs, ControlErrorKind::Network, "not answered"),
    ] {
        let (world, mut peer) = world(kms);
        let agent = async {
            peer.ask("InteractiveCommands", KMS).await;
            let response = peer.hear_kind(PayloadKind::HandshakeResponse).await;
            from_json::<HandshakeResponse>("response", &response).expect("valid").errors.expect("what went wrong")
        };
        let (session, errors) = tokio::join!(world.connect(), agent);
        let Err(ConnectError::Control(error)) = session else { panic!("{session:?}") };
        assert_eq!((error.kind, error.operation, &*error.resource), (kind, "GenerateDataKey", "key/1"));
        assert!(error.message.contains(says) && errors == [error.to_string()], "{error}");
        assert_eq!(world.api.terminated(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_comes_while_there_is_no_websocket_is_used_on_the_next() {
    let (world, mut peer) = world(Kms::Grants);
    let connecting = tokio::spawn(world.connect());
    peer.ask("Standard_Stream", KMS).await;
    // The answer to KMS is there before the websocket is known to be lost, or after: both must do.
    peer.drop_websocket();
    peer.accept().await;
    let response = peer.hear_kind(PayloadKind::HandshakeResponse).await;
    assert!(from_json::<HandshakeResponse>("response", &response).expect("valid").errors.is_none());
    world.cancel.cancel();
    assert!(matches!(connecting.await.expect("no panic"), Err(ConnectError::Cancelled)));
}
