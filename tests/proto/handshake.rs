//! From the first websocket to ready: what is sent, in which order, and what waits.

use ssmfwd::{
    proto::{Event, Input, Mode, OpenError, Read},
    wire::{MessageKind, PayloadKind},
};

use crate::peer::{BASIC, KEEPALIVE, NEW, Peer, ms, request};

const FORWARDING: &str = r#"{"type":"LocalPortForwarding"}"#;

/// Up to HandshakeComplete. Returns what was sent.
fn complete(agent: &str, properties: &str) -> (Peer, Vec<String>) {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, request(agent, properties));
    peer.acknowledge(0);
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    let lines = peer.lines();
    (peer, lines)
}

#[test]
fn the_conversation_up_to_ready() {
    let (mut peer, lines) = complete(NEW, FORWARDING);
    assert_eq!(lines, ["open", "ping", "ack 0", "0 HandshakeResponse", "ack 1", "1 Output [NOP]"]);
    assert_eq!(peer.session.open_stream(), Err(OpenError::NotReady), "user data waits for the shield");
    assert!(peer.events().is_empty());
    peer.acknowledge(1);
    assert_eq!(peer.events(), [Event::Ready { mode: Mode::Mux, agent_version: NEW.to_owned() }]);
    let stream = peer.open();
    peer.drain();
    assert_eq!(peer.lines(), [format!("2 Output [SYN {stream}]")]);
}

#[test]
fn the_shield_suits_the_mode() {
    let cases = [
        (NEW, FORWARDING, Mode::Mux, "1 Output [NOP]"),
        (KEEPALIVE, FORWARDING, Mode::Mux, "1 Output [NOP]"),
        (BASIC, FORWARDING, Mode::Basic, "1 Size"),
        (NEW, r#"{"portNumber":"22"}"#, Mode::Raw, "1 Size"),
    ];
    for (agent, properties, mode, shield) in cases {
        let (mut peer, lines) = complete(agent, properties);
        assert_eq!(lines.last().map(String::as_str), Some(shield), "{mode:?}");
        let size = &peer.payloads()[1];
        assert_eq!(mode != Mode::Mux, size == &br#"{"cols":80,"rows":24}"#[..]);
        assert_eq!(peer.session.mode(), Some(mode));
        peer.acknowledge(1);
        assert!(peer.session.open_stream().is_ok());
    }
}

#[test]
fn the_shield_is_sent_again_after_30_ms_and_twice_as_long_each_time() {
    let (mut peer, _) = complete(NEW, FORWARDING);
    let start = peer.now;
    for at in [30, 90, 210, 450, 930] {
        peer.pass(start + ms(at - 1) - peer.now);
        assert!(peer.data_lines().is_empty(), "before {at} ms");
        peer.pass(ms(1));
        assert_eq!(peer.data_lines(), ["again 1 Output [NOP]"], "at {at} ms");
    }
    assert!(peer.events().is_empty());
    peer.acknowledge(1);
    assert!(matches!(peer.events()[..], [Event::Ready { .. }]));
    peer.pass(ms(15_000));
    assert!(peer.data_lines().is_empty());
}

#[test]
fn an_acknowledgement_of_something_else_does_not_make_ready() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, request(NEW, FORWARDING));
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    for number in [0, 2, -1] {
        peer.acknowledge(number);
    }
    assert!(peer.events().is_empty());
    peer.acknowledge(1);
    assert!(matches!(peer.events()[..], [Event::Ready { .. }]));
}

#[test]
fn a_response_that_gets_lost_is_sent_again() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, request(NEW, FORWARDING));
    peer.lines();
    peer.pass(ms(199));
    assert!(peer.data_lines().is_empty());
    peer.pass(ms(1));
    assert_eq!(peer.data_lines(), ["again 0 HandshakeResponse"]);
}

/// The agent works its messages off in order: a shield behind a lost response cannot be acknowledged, and both are
/// sent again, each by its own timer.
#[test]
fn a_lost_response_and_a_shield_behind_it_both_come_again() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, request(NEW, FORWARDING));
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    peer.lines();
    peer.pass(ms(209));
    assert_eq!(
        peer.data_lines(),
        ["again 1 Output [NOP]", "again 1 Output [NOP]", "again 0 HandshakeResponse"],
        "30 and 90 ms, then the first timeout"
    );
}

#[test]
fn messages_may_come_in_any_order() {
    let mut peer = Peer::connected();
    peer.say_at(1, PayloadKind::HandshakeComplete, b"{}");
    peer.say_at(0, PayloadKind::HandshakeRequest, request(NEW, FORWARDING));
    assert_eq!(peer.lines(), ["open", "ping", "ack 1", "ack 0", "0 HandshakeResponse", "1 Output [NOP]"]);
}

#[test]
fn a_cut_in_the_handshake_is_no_end_of_it() {
    let (mut peer, _) = complete(NEW, FORWARDING);
    peer.input(Input::Disconnected);
    assert!(peer.deadline.is_some(), "the handshake's deadline stays");
    peer.pass(ms(1000));
    assert!(peer.lines().is_empty(), "there is nothing to send on");
    peer.connect();
    let resumed = peer.lines();
    assert_eq!(resumed, ["open", "ack 0", "ack 1", "again 1 Output [NOP]", "ping"]);
    peer.acknowledge(1);
    assert!(matches!(peer.events()[..], [Event::Reconnect, Event::Resumed, Event::Ready { .. }]));
}

#[test]
fn text_for_the_user_comes_before_ready() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, request(NEW, FORWARDING));
    peer.say(PayloadKind::HandshakeComplete, r#"{"CustomerMessage":"This host is monitored."}"#);
    peer.acknowledge(0);
    peer.acknowledge(1);
    let ready = Event::Ready { mode: Mode::Mux, agent_version: NEW.to_owned() };
    assert_eq!(peer.events(), [Event::CustomerMessage("This host is monitored.".to_owned()), ready]);
}

#[test]
fn the_shield_is_not_held_by_a_pause() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, request(NEW, FORWARDING));
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    peer.publication(MessageKind::PausePublication);
    peer.lines();
    peer.pass(ms(30));
    assert_eq!(peer.data_lines(), ["again 1 Output [NOP]"]);
}

#[test]
fn the_opening_message_carries_token_identity_and_version() {
    use ssmfwd::proto::{Config, Output, Session, Token, Transmit};
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    let now = std::time::Instant::now();
    let client = uuid::Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    let mut session = Session::new(Config::new(client, 9, 1), now);
    let mut seen = Vec::new();
    for token in ["first", "second"] {
        session.handle(now, Input::Connected(Token::new(token)));
        let Output::Transmit(Transmit::Text(text)) = session.poll_output(now) else { panic!("the text comes first") };
        let body: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(body["MessageSchemaVersion"], "1.0");
        assert_eq!(body["TokenValue"], token);
        assert_eq!(body["ClientId"], client.to_string());
        assert_eq!(body["ClientVersion"], Config::CLIENT_VERSION);
        seen.push(body["RequestId"].as_str().expect("text").to_owned());
        session.handle(now, Input::Disconnected);
    }
    assert_ne!(seen[0], seen[1], "every opening has an identity of its own");
}

#[test]
fn unread_data_and_the_end_can_be_read_after_the_session_is_over() {
    let mut peer = Peer::ready(NEW);
    let (first, second) = (peer.open(), peer.open());
    peer.output(crate::peer::psh(first, b"kept"));
    peer.output([crate::peer::psh(second, b"whole"), crate::peer::fin(second)].concat());
    peer.channel_closed("{}");
    let (data, end) = peer.read(first);
    assert_eq!(data, b"kept");
    assert!(end.is_err());
    assert_eq!(peer.read(second), (b"whole".to_vec(), Ok(Read::End)), "it had ended before");
}
