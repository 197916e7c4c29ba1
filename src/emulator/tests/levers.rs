//! The levers that end, hold up or confuse a tunnel: failures of the API, outages, ends of sessions, restarts.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::{self, Message as Frame};

use super::{
    super::{Action, ApiFailure, ChannelState, Emulator, EmulatorConfig, EndedBy, Interval},
    client::{Client, Form, Last, Signer, authority, call, call_as, http, soon, start, upgrade},
    echo, emulator, ideal,
};
use crate::wire::{
    Message, MessageKind, PayloadKind,
    smux::{FrameHeader, StreamId},
};

const STREAM: StreamId = StreamId::FIRST;

fn failures(texts: &[&str]) -> Vec<ApiFailure> {
    texts.iter().map(|text| text.parse().expect("a failure")).collect()
}

async fn resume(emulator: &Emulator, id: &str) -> super::client::Answer {
    call(emulator, "ResumeSession", &json!({"SessionId": id})).await
}

/// A session with an open stream.
async fn connected(emulator: &Emulator) -> (Client, String) {
    let (mut client, id) = Client::ready(emulator, echo().await).await;
    client.stream_data(STREAM, true, b"before").await;
    client.until(|client| client.stream(STREAM).0 == b"before").await;
    (client, id)
}

async fn echoes(client: &mut Client, data: &[u8]) {
    let expected = [&client.stream(STREAM).0, data].concat();
    client.stream_data(STREAM, false, data).await;
    client.until(|client| client.stream(STREAM).0 == expected).await;
}

#[tokio::test]
async fn one_operation_fails_in_its_way_and_the_others_do_not() {
    let emulator = emulator();
    let id = start(&emulator, 9).await.text("SessionId");
    for (kind, status, code) in [
        ("throttled", 400, "ThrottlingException"),
        ("internal", 500, "InternalServerError"),
        ("unavailable", 503, ""),
        ("unavailable_empty", 503, ""),
        ("expired_token", 400, "ExpiredTokenException"),
        ("access_denied", 400, "AccessDeniedException"),
        ("target_not_connected", 400, "TargetNotConnected"),
        ("invalid_document", 400, "InvalidDocument"),
        ("does_not_exist", 400, "DoesNotExistException"),
    ] {
        emulator.configure(|config| config.failures = failures(&[&format!("ResumeSession:{kind}")]));
        for _ in 0..2 {
            let answer = resume(&emulator, &id).await;
            assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
            assert_eq!(answer.head.contains("content-type: text/html"), status == 503, "{answer:?}");
            assert_eq!(answer.head.contains("content-length: 0"), kind == "unavailable_empty", "{answer:?}");
        }
    }
    start(&emulator, 9).await;
    emulator
        .configure(|config| config.failures = failures(&["TerminateSession:internal:1", "StartSession:throttled:1"]));
    assert_eq!(resume(&emulator, &id).await.status, 200);
    for status in [500, 200] {
        assert_eq!(call(&emulator, "TerminateSession", &json!({"SessionId": id})).await.status, status);
    }
    let state = emulator.state();
    assert_eq!((state.sessions[&id].resumes, state.sessions[&id].resumes_refused), (1, 18));
    assert_eq!((state.errors["ServiceUnavailable"], state.ended_by(EndedBy::Api)), (4, 1));
    assert_eq!(emulator.config().failures, failures(&["StartSession:throttled:1"]));
}

#[tokio::test]
async fn a_bad_signature_is_not_excused_by_a_failure_of_permission() {
    let emulator = emulator();
    emulator.configure(|config| config.failures = failures(&["Any:access_denied"]));
    let signer = Signer { region: "eu-west-1", ..Signer::default() };
    let answer = call_as(&emulator, &signer, "ResumeSession", &json!({"SessionId": "user-0"})).await;
    assert_eq!(answer.code(), "InvalidSignatureException");
}

#[tokio::test]
async fn an_upgrade_can_fail_by_status() {
    let emulator = emulator();
    let url = start(&emulator, 9).await.text("StreamUrl");
    let kinds = ["throttled:1", "internal:1", "unavailable:1", "access_denied:1"];
    let ordered: Vec<_> = kinds.iter().map(|kind| format!("OpenDataChannel:{kind}")).collect();
    let ordered: Vec<_> = ordered.iter().map(String::as_str).collect();
    emulator.configure(|config| config.failures = failures(&ordered));
    for expected in [429, 500, 503, 403] {
        match upgrade(&url, Form::Space).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(upgrade(&url, Form::Space).await.is_ok());
}

#[tokio::test]
async fn an_outage_resets_everything_but_the_control_path_and_sessions_survive_it() {
    let emulator = emulator();
    let (mut client, id) = connected(&emulator).await;
    let mut idle = TcpStream::connect(authority(&emulator)).await.unwrap();
    // The connection that asks for the outage is answered.
    let path = emulator.control_url().split_once(authority(&emulator)).unwrap().1.to_owned();
    let set = async |config: &'static [u8]| {
        http(&emulator, "POST", &format!("{path}/config"), &HeaderMap::new(), config).await
    };
    assert_eq!(set(br#"{"outage": true}"#).await.status, 200);
    assert!(matches!(client.last().await, Last::Cut(true)));
    soon(emulator.wait_for(|state| state.websockets == 0)).await;

    let mut answer = Vec::new();
    idle.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
    let refused = soon(idle.read_to_end(&mut answer)).await.expect_err("a reset");
    assert_eq!((refused.kind(), answer.len()), (std::io::ErrorKind::ConnectionReset, 0));
    let state = http(&emulator, "GET", &format!("{path}/state"), &HeaderMap::new(), b"").await;
    assert_eq!(
        (&state.body["connections_refused"], &state.body["sessions"][&id]["channel"]),
        (&json!(1), &json!("lost"))
    );

    assert_eq!(set(br#"{"outage": false}"#).await.status, 200);
    let mut client = client.resume(&resume(&emulator, &id).await).await;
    client.kinds.clear();
    client.until(|client| client.kinds.contains(&MessageKind::StartPublication)).await;
    echoes(&mut client, b" and after").await;
    let session = &emulator.state().sessions[&id];
    assert_eq!((session.websockets, session.agent_websockets, session.resumes), (2, 2, 1));
}

#[tokio::test]
async fn a_pooled_connection_does_not_outlive_an_outage() {
    let emulator = emulator();
    let mut pooled = TcpStream::connect(authority(&emulator)).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: emulator\r\n\r\n";
    pooled.write_all(request).await.unwrap();
    let mut answer = [0; 4096];
    assert!(soon(pooled.read(&mut answer)).await.unwrap() > 0);
    emulator.configure(|config| config.outage = true);
    let error = soon(pooled.read(&mut answer)).await.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn in_a_black_hole_nothing_is_answered_and_nothing_closed_until_it_ends() {
    let emulator = emulator();
    let (mut client, id) = connected(&emulator).await;
    emulator.configure(|config| config.blackhole = true);
    client.websocket.send(Frame::Ping("anybody?".into())).await.unwrap();
    client.stream_data(STREAM, false, b" during").await;
    let call = resume(&emulator, &id);
    tokio::pin!(call);
    // Until the emulator has seen the call, whatever it does about it.
    tokio::select! {
        _ = &mut call => panic!("answered"),
        _ = soon(emulator.wait_for(|state| state.connections_unanswered == 1)) => {}
    }
    // Not even the end of a session reaches the client, and the control path works.
    emulator.act_on(&id, Action::Disconnect);
    let path = emulator.control_url().split_once(authority(&emulator)).unwrap().1.to_owned();
    let state = http(&emulator, "GET", &format!("{path}/state"), &HeaderMap::new(), b"").await;
    assert_eq!(state.body["sessions"][&id]["up"]["messages"], 2);
    soon(emulator.wait_for(|state| state.websockets == 0)).await;
    let nothing = tokio::time::timeout(Duration::from_millis(50), client.last()).await;
    assert!(nothing.is_err(), "{nothing:?}");

    emulator.configure(|config| config.blackhole = false);
    assert!(matches!(client.last().await, Last::Cut(true)));
    let grant = soon(call).await;
    let mut client = client.resume(&grant).await;
    client.sequence -= 1; // the message was lost with its websocket
    echoes(&mut client, b" after").await;
    assert_eq!(client.stream(STREAM).0, b"before after");
}

#[tokio::test]
async fn a_websocket_goes_on_after_a_short_black_hole() {
    let emulator = emulator();
    let (mut client, _) = connected(&emulator).await;
    emulator.configure(|config| config.blackhole = true);
    client.stream_data(STREAM, false, b" and after").await;
    emulator.configure(|config| config.blackhole = false);
    client.until(|client| client.stream(STREAM).0 == b"before and after").await;
    assert_eq!(emulator.state().violation_count, 0);
}

#[tokio::test]
async fn under_tls_the_control_path_is_plain_and_works_in_an_outage() {
    let emulator = Emulator::start(EmulatorConfig { tls: true, ..ideal() }).expect("an emulator");
    let path = emulator.control_url().split_once(authority(&emulator)).unwrap().1.to_owned();
    let none = HeaderMap::new();
    for outage in [false, true] {
        emulator.configure(|config| config.outage = outage);
        assert_eq!(http(&emulator, "GET", &format!("{path}/state"), &none, b"").await.status, 200);
    }
    let mut hello = TcpStream::connect(authority(&emulator)).await.unwrap();
    hello.write_all(b"\x16\x03\x01").await.unwrap();
    assert!(soon(hello.read(&mut [0; 1])).await.is_err(), "a reset");
    emulator.configure(|config| config.outage = false);
    assert_eq!(http(&emulator, "POST", "/", &none, b"").await.status, 400);
}

#[tokio::test]
async fn a_stale_token_is_refused_after_the_upgrade() {
    let emulator = emulator();
    let (client, id) = connected(&emulator).await;
    emulator.configure(|config| config.stale_tokens = 2);
    for _ in 0..2 {
        let last = Client::open(&resume(&emulator, &id).await).await.last().await;
        assert!(matches!(last, Last::Close(1008, _)), "{last:?}");
    }
    let mut client = client.resume(&resume(&emulator, &id).await).await;
    echoes(&mut client, b" and after").await;
    let state = emulator.state();
    let session = &state.sessions[&id];
    assert_eq!((session.resumes, session.stale_tokens, session.websockets), (3, 2, 2));
    assert_eq!((state.tokens_refused, emulator.config().stale_tokens), (2, 0));
}

#[tokio::test]
async fn a_session_ends_at_its_maximum_duration_although_it_is_busy() {
    let emulator = emulator();
    let (mut client, id) = connected(&emulator).await;
    emulator.configure(|config| config.max_duration = Some(Duration::ZERO));
    assert!(matches!(client.last().await, Last::ChannelClosed(_)));
    assert_eq!(emulator.state().sessions[&id].ended, Some(EndedBy::MaxDuration));
    assert_eq!(resume(&emulator, &id).await.body.get("TokenValue"), None);
}

#[tokio::test]
async fn an_end_without_a_websocket_is_told_by_the_missing_token_only() {
    let emulator = emulator();
    let (client, id) = connected(&emulator).await;
    drop(client);
    soon(emulator.wait_for(|state| state.sessions[&id].channel == ChannelState::Lost)).await;
    assert!(emulator.act_on(&id, Action::ChannelClosed { output: "maintenance".into() }));
    let answer = resume(&emulator, &id).await;
    assert_eq!((answer.status, answer.body.get("TokenValue")), (200, None));
    let state = soon(emulator.wait_for(|state| state.agents == 0)).await;
    let session = &state.sessions[&id];
    assert_eq!((session.ended, session.resumes_refused), (Some(EndedBy::Service), 1));
    assert!(!emulator.act_on(&id, Action::ChannelClosed { output: String::new() }), "it is over");
}

#[tokio::test]
async fn while_an_agent_restarts_its_target_is_gone_and_then_its_sessions_are_over() {
    let emulator = emulator();
    emulator.configure(|config| config.agent_restart = Duration::from_secs(3600));
    let (mut client, id) = connected(&emulator).await;
    assert!(emulator.act_on(&id, Action::RestartAgent));
    let input = json!({"Target": emulator.target(), "DocumentName": "AWS-StartPortForwardingSession"});
    assert_eq!(call(&emulator, "StartSession", &input).await.code(), "TargetNotConnected");
    soon(emulator.wait_for(|state| state.sessions[&id].destinations == 0)).await;
    client.stream_data(STREAM, false, b"anybody?").await;
    emulator.act(Action::Pause); // a marker behind everything else
    client.until(|client| client.kinds.contains(&MessageKind::PausePublication)).await;
    assert!(!client.acknowledged.contains(&(client.sequence - 1)), "there is nobody to acknowledge");

    let emulator = super::emulator();
    emulator.configure(|config| config.agent_restart = Duration::ZERO);
    let (mut client, id) = connected(&emulator).await;
    assert_eq!(emulator.act(Action::RestartAgent), 1);
    assert!(matches!(client.last().await, Last::ChannelClosed(_)));
    let state = soon(emulator.wait_for(|state| state.agent_restarts == 1 && state.agents == 0)).await;
    assert_eq!(state.sessions[&id].ended, Some(EndedBy::Agent));
    assert_eq!(call(&emulator, "StartSession", &input).await.status, 200);
}

#[tokio::test]
async fn an_offline_target_starts_no_session_and_keeps_the_live_ones() {
    let emulator = emulator();
    let (mut client, _) = connected(&emulator).await;
    emulator.configure(|config| config.offline = true);
    let input = json!({"Target": emulator.target(), "DocumentName": "AWS-StartPortForwardingSession"});
    assert_eq!(call(&emulator, "StartSession", &input).await.code(), "TargetNotConnected");
    echoes(&mut client, b" and after").await;
}

#[tokio::test]
async fn a_lost_start_is_never_made_up_for_but_by_hand_or_a_new_websocket() {
    let emulator = emulator();
    let (mut client, id) = connected(&emulator).await;
    emulator.configure(|config| config.lose_start_publication = true);
    client.kinds.clear();
    emulator.act(Action::DisconnectAgent);
    soon(emulator.wait_for(|state| state.sessions[&id].starts_lost == 1)).await;
    echoes(&mut client, b" and after").await;
    let published = |client: &Client| {
        let kinds = client
            .kinds
            .iter()
            .filter(|kind| matches!(kind, MessageKind::PausePublication | MessageKind::StartPublication));
        kinds.cloned().collect::<Vec<_>>()
    };
    assert_eq!(published(&client), [MessageKind::PausePublication]);
    emulator.act(Action::Start);
    client.until(|client| client.kinds.contains(&MessageKind::StartPublication)).await;
    emulator.act(Action::Pause);
    emulator.act(Action::Disconnect);
    client.last().await;
    let mut client = client.resume(&resume(&emulator, &id).await).await;
    client.kinds.clear();
    client.until(|client| client.kinds.contains(&MessageKind::StartPublication)).await;
    assert_eq!(emulator.state().sessions[&id].starts_lost, 1);
}

#[tokio::test]
async fn an_unanswered_dial_blocks_the_realistic_agent_and_not_the_ideal_one() {
    let port = echo().await;
    let second = StreamId(STREAM.0 + 2);
    for agent in [super::AgentKind::Realistic, super::AgentKind::Ideal] {
        let unanswered = vec![format!("*:{port}")];
        let emulator = Emulator::start(EmulatorConfig { agent, unanswered, ..ideal() }).expect("an emulator");
        let (mut client, id) = Client::ready(&emulator, port).await;
        client.stream_data(STREAM, true, b"one").await;
        client.stream_data(second, true, b"two").await;
        client.until(|client| client.acknowledged.contains(&2)).await;
        let dialled = if agent == super::AgentKind::Ideal { 2 } else { 1 };
        soon(emulator.wait_for(|state| state.sessions[&id].dials_unanswered == dialled)).await;
        assert_eq!(client.received, b"");
        emulator.configure(|config| config.unanswered.clear());
        client.until(|client| client.stream(STREAM).0 == b"one" && client.stream(second).0 == b"two").await;
        let state = emulator.state();
        assert_eq!((state.sessions[&id].dials_unanswered, state.sessions[&id].destinations), (0, 2));
    }
}

#[tokio::test]
async fn an_unanswered_dial_fails_after_the_timeout() {
    let emulator = emulator();
    let port = echo().await;
    emulator.configure(|config| config.unanswered = vec![format!("127.0.0.1:{port}")]);
    let (mut client, id) = Client::ready(&emulator, port).await;
    client.stream_data(STREAM, true, b"x").await;
    soon(emulator.wait_for(|state| state.sessions[&id].dials_unanswered == 1)).await;
    emulator.configure(|config| config.dial_timeout = Duration::ZERO);
    client.until(|client| client.stream(STREAM) == (Vec::new(), true)).await;
    soon(emulator.wait_for(|state| state.sessions[&id].destinations == 0)).await;
}

#[tokio::test]
async fn bye_comes_to_each_websocket_at_its_own_age() {
    let emulator = emulator();
    let (mut client, id) = connected(&emulator).await;
    emulator.configure(|config| config.bye_every = Some(Duration::from_secs(1)));
    for round in 1..=2 {
        let last = client.last().await;
        assert!(matches!(&last, Last::Close(1000, reason) if reason == "Bye"), "{last:?}");
        client = client.resume(&resume(&emulator, &id).await).await;
        soon(emulator.wait_for(|state| state.sessions[&id].agent_websockets > round)).await;
    }
    emulator.configure(|config| config.bye_every = None);
    echoes(&mut client, b" and after").await;
    let session = &emulator.state().sessions[&id];
    assert_eq!((session.byes, session.cuts, session.websockets), (2, 0, 3));
}

#[tokio::test]
async fn websockets_of_both_ends_are_cut_at_random_moments_again_and_again() {
    let emulator = emulator();
    let (mut client, id) = connected(&emulator).await;
    let often = Interval::between(Duration::from_millis(1), Duration::from_millis(20));
    emulator.configure(|config| config.cut_every = Some(often));
    for _ in 0..3 {
        assert!(matches!(client.last().await, Last::Cut(_)));
        client = client.resume(&resume(&emulator, &id).await).await;
    }
    emulator.configure(|config| {
        config.cut_every = None;
        config.agent_cut_every = Some(often);
    });
    // The last of them may have struck just before it was switched off.
    if emulator.state().sessions[&id].cuts == 4 {
        client.last().await;
        client = client.resume(&resume(&emulator, &id).await).await;
    }
    let state = soon(emulator.wait_for(|state| state.sessions[&id].agent_websockets >= 4)).await;
    assert!((3..=4).contains(&state.sessions[&id].cuts), "{state:?}");
    emulator.configure(|config| config.agent_cut_every = None);
    // What is sent while the agent is away is lost: sent again until it is there.
    let sequence = client.sequence;
    while !client.acknowledged.contains(&sequence) {
        client.sequence = sequence;
        client.send(PayloadKind::Output, &FrameHeader::nop().encode()).await;
        let acknowledged = client.until(|client| client.acknowledged.contains(&sequence));
        drop(tokio::time::timeout(Duration::from_millis(50), acknowledged).await);
    }
    echoes(&mut client, b" and after").await;
    assert_eq!(emulator.state().violation_count, 0);
}

#[tokio::test]
async fn the_round_trip_time_may_change_while_data_flows() {
    let emulator = emulator();
    let (mut client, _) = connected(&emulator).await;
    for rtt in [40, 0, 300, 5, 0] {
        emulator.configure(|config| config.rtt = Duration::from_millis(rtt));
        let before = client.stream(STREAM).0.len();
        for _ in 0..20 {
            client.stream_data(STREAM, false, rtt.to_string().as_bytes()).await;
        }
        let expected = rtt.to_string().repeat(20);
        client.until(|client| client.stream(STREAM).0.len() >= before + expected.len()).await;
        assert_eq!(client.stream(STREAM).0[before..], *expected.as_bytes());
    }
    assert_eq!(emulator.state().violation_count, 0);
}

/// A session whose destination has been asked and has not answered yet: the destination's end, and the client's.
async fn asked(emulator: &Emulator) -> (TcpStream, Client, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut client, id) = Client::ready(emulator, listener.local_addr().unwrap().port()).await;
    client.stream_data(STREAM, true, b"?").await;
    let (mut destination, _) = soon(listener.accept()).await.unwrap();
    soon(destination.read_exact(&mut [0; 1])).await.unwrap();
    client.until(|client| client.acknowledged.contains(&1)).await;
    (destination, client, id)
}

#[tokio::test]
async fn a_lost_agent_websocket_takes_along_what_was_under_way() {
    let emulator = emulator();
    let (mut destination, mut client, id) = asked(&emulator).await;
    let before = emulator.state().sessions[&id].down.messages;
    emulator.configure(|config| config.rtt = Duration::from_secs(3600));
    destination.write_all(b"answer").await.unwrap();
    soon(emulator.wait_for(|state| state.sessions[&id].down.messages > before)).await;
    emulator.configure(|config| config.rtt = Duration::ZERO);
    // It was to arrive in half an hour, and everything behind it: only losing it lets anything through.
    emulator.act(Action::DisconnectAgent);
    client.until(|client| client.stream(STREAM).0 == b"answer").await;
}

#[tokio::test]
async fn after_a_resume_the_agent_repeats_the_oldest_message_only() {
    const LOST: usize = 5;
    let emulator = emulator();
    let (mut destination, mut client, id) = asked(&emulator).await;
    emulator.configure(|config| config.rtt = Duration::from_secs(3600));
    let before = emulator.state().sessions[&id].down.messages;
    for number in 1..=LOST as u64 {
        destination.write_all(b"piece").await.unwrap();
        soon(emulator.wait_for(|state| state.sessions[&id].down.messages >= before + number)).await;
    }
    emulator.act(Action::Disconnect);
    client.last().await;
    emulator.configure(|config| config.rtt = Duration::ZERO);
    let mut client = client.resume(&resume(&emulator, &id).await).await;
    // As long as nothing is acknowledged it is the oldest, again and again.
    let mut repeated = Vec::new();
    while repeated.len() < 3 {
        let Some(Ok(Frame::Binary(frame))) = soon(client.websocket.next()).await else { continue };
        let header = Message::decode(frame).unwrap().header;
        if header.kind == MessageKind::OutputStreamData {
            repeated.push(header.sequence.0);
        }
    }
    assert_eq!(repeated, [client.expected; 3]);
    let start = super::super::clock::now();
    let expected = client.expected;
    client.until(|client| client.stream(STREAM).0 == b"piece".repeat(LOST)).await;
    assert_eq!(client.expected, expected + LOST as i64);
    let taken = super::super::clock::now() - start;
    assert!(taken >= Duration::from_millis(100) * (LOST as u32 - 1), "one message per tick of 100 ms: {taken:?}");
}
