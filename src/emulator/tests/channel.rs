//! Sessions: handshake, data, ends, resumption, strictness.

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::{
    super::{Action, ChannelState, Emulator, EmulatorConfig, EndedBy},
    client::{Client, Form, Last, call, soon, start, upgrade},
    echo, emulator, ideal,
};
use crate::wire::{MessageKind, PayloadKind, smux::StreamId};

const STREAM: StreamId = StreamId::FIRST;

#[tokio::test]
async fn data_goes_to_a_destination_and_back_and_the_flag_ends_the_session() {
    let emulator = emulator();
    let (mut client, id) = Client::ready(&emulator, echo().await).await;
    assert_eq!(client.kinds.first(), Some(&MessageKind::StartPublication));
    client.stream_data(STREAM, true, b"hello").await;
    client.until(|client| client.stream(STREAM).0 == b"hello").await;
    assert_eq!(client.acknowledged, [0, 1]);

    client.terminate().await;
    let last = client.last().await;
    assert!(matches!(&last, Last::ChannelClosed(output) if output.is_empty()), "{last:?}");
    drop(client);
    let state = soon(emulator.wait_for(|state| state.agents == 0 && state.websockets == 0)).await;
    assert_eq!((state.violation_count, state.ended_by(EndedBy::Flag)), (0, 1));
    let session = &state.sessions[&id];
    assert_eq!((session.ended, session.destinations), (Some(EndedBy::Flag), 0));
    assert_eq!((session.up.messages, session.largest_payload > 100), (3, true));
    assert!(session.acknowledgements_up >= 3 && session.down.messages >= 3, "{session:?}");
}

#[tokio::test]
async fn much_data_arrives_whole_in_both_directions() {
    let emulator = emulator();
    let (mut client, _) = Client::ready(&emulator, echo().await).await;
    let piece: Vec<u8> = (0..16_000u32).map(|index| (index % 251) as u8).collect();
    for round in 0..64 {
        client.stream_data(STREAM, round == 0, &piece).await;
        client.until(|client| client.acknowledged.last() == Some(&(client.sequence - 1))).await;
    }
    client.until(|client| client.received.len() > 64 * piece.len()).await;
    client.until(|client| client.stream(STREAM).0.len() == 64 * piece.len()).await;
    assert!(client.stream(STREAM).0 == piece.repeat(64));
    assert_eq!(emulator.state().violation_count, 0);
}

#[tokio::test]
async fn a_refused_destination_is_told_by_flag_and_fin() {
    // Bound, so that no other test gets the port, and not listening. On both addresses: the agent tries localhost.
    let (closed, _closed_too) = loop {
        let closed = tokio::net::TcpSocket::new_v4().unwrap();
        closed.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let port = closed.local_addr().unwrap().port();
        match tokio::net::TcpSocket::new_v6() {
            Ok(too) if too.bind((std::net::Ipv6Addr::LOCALHOST, port).into()).is_ok() => break (closed, Some(too)),
            // Somebody else has it there.
            Ok(_) if std::net::TcpListener::bind("[::1]:0").is_ok() => {}
            // No IPv6.
            _ => break (closed, None),
        }
    };
    let emulator = emulator();
    let (mut client, _) = Client::ready(&emulator, closed.local_addr().unwrap().port()).await;
    client.stream_data(STREAM, true, b"x").await;
    client.until(|client| client.stream(STREAM).1).await;
    let state = emulator.state();
    assert_eq!(state.sessions.values().map(|session| session.destinations).sum::<u64>(), 0);
}

#[tokio::test]
async fn an_ssh_session_is_a_raw_pipe() {
    let emulator = emulator();
    let input = json!({
        "Target": emulator.target(),
        "DocumentName": "AWS-StartSSHSession",
        "Parameters": {"portNumber": [echo().await.to_string()]},
    });
    let mut client = Client::open(&call(&emulator, "StartSession", &input).await).await;
    client.until(|client| client.complete).await;
    // What comes before the destination is dialled is refused without acknowledgement: sent again until it is not.
    while !client.acknowledged.contains(&1) {
        client.sequence = 1;
        client.send(PayloadKind::Output, b"SSH-2.0-test").await;
        let resent =
            tokio::time::timeout(std::time::Duration::from_millis(50), client.until(|c| c.acknowledged.contains(&1)));
        drop(resent.await);
    }
    client.until(|client| client.received == b"SSH-2.0-test").await;
}

#[tokio::test]
async fn the_terminate_call_closes_the_channel_and_an_ended_session_gives_no_token() {
    let emulator = emulator();
    let (mut client, id) = Client::ready(&emulator, echo().await).await;
    client.stream_data(STREAM, true, b"x").await;
    client.until(|client| client.stream(STREAM).0 == b"x").await;
    assert_eq!(call(&emulator, "TerminateSession", &json!({"SessionId": id})).await.status, 200);
    assert!(matches!(client.last().await, Last::ChannelClosed(_)));
    assert_eq!(call(&emulator, "ResumeSession", &json!({"SessionId": id})).await.body.get("TokenValue"), None);
    let state = soon(emulator.wait_for(|state| state.agents == 0)).await;
    assert_eq!((state.ended_by(EndedBy::Api), state.ended_by(EndedBy::Agent)), (1, 0));
}

#[tokio::test]
async fn a_session_goes_on_after_bye_with_its_streams_and_numbers() {
    let emulator = emulator();
    let (mut client, id) = Client::ready(&emulator, echo().await).await;
    client.stream_data(STREAM, true, b"before").await;
    client.until(|client| client.stream(STREAM).0 == b"before").await;
    assert!(emulator.act_on(&id, Action::Bye));
    let last = client.last().await;
    assert!(matches!(&last, Last::Close(1000, reason) if reason == "Bye"), "{last:?}");
    let state = soon(emulator.wait_for(|state| state.sessions[&id].channel == ChannelState::Lost)).await;
    assert_eq!((state.agents, state.sessions[&id].destinations), (1, 1));

    let mut client = client.resume(&call(&emulator, "ResumeSession", &json!({"SessionId": id})).await).await;
    client.kinds.clear();
    client.until(|client| client.kinds.contains(&MessageKind::StartPublication)).await;
    client.stream_data(STREAM, false, b" and after").await;
    client.until(|client| client.stream(STREAM).0 == b"before and after").await;
    assert_eq!(emulator.state().sessions[&id].websockets, 2);
}

#[tokio::test]
async fn a_second_websocket_takes_the_place_of_the_first() {
    let emulator = emulator();
    let (mut client, id) = Client::ready(&emulator, echo().await).await;
    let grant = call(&emulator, "ResumeSession", &json!({"SessionId": id})).await;
    let mut second = Client::open(&grant).await;
    second.until(|client| client.kinds.contains(&MessageKind::StartPublication)).await;
    assert!(matches!(client.last().await, Last::Cut(_)));
    second.sequence = client.sequence;
    second.stream_data(STREAM, true, b"x").await;
    second.until(|client| client.acknowledged.contains(&1)).await;
    soon(emulator.wait_for(|state| state.websockets == 1)).await;
    assert_eq!(emulator.state().sessions[&id].channel, ChannelState::Open);
}

#[tokio::test]
async fn a_killed_agent_is_not_announced() {
    let emulator = emulator();
    let (mut client, id) = Client::ready(&emulator, echo().await).await;
    assert!(emulator.act_on(&id, Action::KillAgent));
    client.stream_data(STREAM, true, b"x").await;
    soon(emulator.wait_for(|state| state.sessions[&id].up.messages == 2)).await;
    emulator.act(Action::Pause);
    client.kinds.clear();
    client.until(|client| client.kinds.contains(&MessageKind::PausePublication)).await;
    assert!(!client.acknowledged.contains(&1), "there is nobody to acknowledge");
    assert_eq!(emulator.state().sessions[&id].ended, None);
}

#[tokio::test]
async fn an_agent_that_reconnects_is_seen_as_a_pause() {
    let emulator = emulator();
    let (mut client, id) = Client::ready(&emulator, echo().await).await;
    client.kinds.clear();
    assert!(emulator.act_on(&id, Action::DisconnectAgent));
    client.until(|client| client.kinds.ends_with(&[MessageKind::StartPublication])).await;
    assert_eq!(client.kinds.first(), Some(&MessageKind::PausePublication));
    client.stream_data(STREAM, true, b"x").await;
    client.until(|client| client.stream(STREAM).0 == b"x").await;
    assert_eq!(emulator.state().sessions[&id].pauses, 1);
}

#[tokio::test]
async fn an_idle_session_is_ended_by_the_service() {
    let config = EmulatorConfig { idle_timeout: Some(std::time::Duration::from_millis(300)), ..ideal() };
    let emulator = Emulator::start(config).expect("an emulator");
    let (mut client, _) = Client::ready(&emulator, echo().await).await;
    assert!(matches!(client.last().await, Last::ChannelClosed(_)));
    assert_eq!(emulator.state().ended_by(EndedBy::Idle), 1);
}

#[tokio::test]
async fn a_close_frame_is_answered() {
    let emulator = emulator();
    let (mut client, id) = Client::ready(&emulator, echo().await).await;
    client.websocket.close(None).await.unwrap();
    client.websocket.flush().await.unwrap();
    let answer = soon(async {
        loop {
            match client.websocket.next().await {
                Some(Ok(Frame::Close(_))) => break,
                Some(Ok(_)) => {}
                other => panic!("no answer: {other:?}"),
            }
        }
    });
    answer.await;
    let state = soon(emulator.wait_for(|state| state.sessions[&id].channel == ChannelState::Lost)).await;
    assert_eq!((state.violation_count, state.live_sessions()), (0, 1));
}

#[tokio::test]
async fn a_broken_message_closes_the_channel_and_is_counted() {
    let emulator = emulator();
    let (mut client, _) = Client::ready(&emulator, echo().await).await;
    let mut message = client.message(PayloadKind::Output, b"secret").to_vec();
    *message.last_mut().unwrap() ^= 1;
    client.websocket.send(Frame::Binary(message.into())).await.unwrap();
    let last = client.last().await;
    assert!(matches!(last, Last::Close(1002, _)), "{last:?}");
    let (mut client, _) = Client::ready(&emulator, echo().await).await;
    client.websocket.send(Frame::Text("again".into())).await.unwrap();
    assert!(matches!(client.last().await, Last::Close(1002, _)));
    let state = soon(emulator.wait_for(|state| state.violation_count == 2)).await;
    assert!(state.violations[0].contains("digest") && !state.violations[0].contains("secret"), "{state:?}");
}

#[tokio::test]
async fn a_first_message_that_is_not_as_documented_closes_the_channel() {
    let emulator = emulator();
    for first in [
        Frame::Binary(b"{}".to_vec().into()),
        Frame::Text("{}".into()),
        Frame::Text(
            r#"{"MessageSchemaVersion":"2.0","RequestId":"00112233-4455-6677-8899-aabbccddeeff","TokenValue":"x"}"#
                .into(),
        ),
        Frame::Text(r#"{"MessageSchemaVersion":"1.0","RequestId":"1","TokenValue":"x"}"#.into()),
    ] {
        let url = start(&emulator, 9).await.text("StreamUrl");
        let websocket = upgrade(&url, Form::Space).await.unwrap();
        let mut client = Client::first(websocket, "").await;
        drop(client.last().await); // that was a refused token; now the real one
        let mut websocket = upgrade(&url, Form::Space).await.unwrap();
        websocket.send(first.clone()).await.unwrap();
        client.websocket = websocket;
        let last = client.last().await;
        assert!(matches!(last, Last::Close(1002, _)), "{first:?}: {last:?}");
    }
    let state = emulator.state();
    assert_eq!((state.violation_count, state.tokens_refused, state.agents), (4, 4, 0));
}

#[tokio::test]
async fn ids_that_are_no_uuids_are_let_in_where_that_was_asked_for() {
    let emulator = emulator();
    emulator.configure(|config| config.any_ids = true);
    let grant = start(&emulator, 9).await;
    let mut websocket = upgrade(&grant.text("StreamUrl"), Form::Space).await.unwrap();
    let id = grant.text("SessionId");
    let first = serde_json::json!({
        "MessageSchemaVersion": "1.0", "RequestId": "1", "ClientId": id, "TokenValue": grant.text("TokenValue"),
    });
    websocket.send(Frame::Text(first.to_string().into())).await.unwrap();
    let state = soon(emulator.wait_for(|state| state.sessions[&id].websockets == 1)).await;
    assert_eq!((state.violation_count, state.tokens_refused), (0, 0));
}

#[tokio::test]
async fn nothing_is_left_when_the_emulator_is_dropped() {
    let emulator = emulator();
    let port = echo().await;
    let (mut client, id) = Client::ready(&emulator, port).await;
    client.stream_data(STREAM, true, b"x").await;
    soon(emulator.wait_for(|state| state.sessions[&id].destinations == 1)).await;
    let endpoint = super::client::authority(&emulator).to_owned();
    let mut watch = emulator.service_watch();
    drop(emulator);
    assert!(matches!(client.last().await, Last::Cut(_)));
    // The last thread takes the state with it.
    soon(async { while watch.changed().await.is_ok() {} }).await;
    assert!(tokio::net::TcpStream::connect(endpoint).await.is_err());
}
