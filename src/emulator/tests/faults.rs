//! Faults and limits.

use std::time::Duration;

use http::HeaderMap;
use serde_json::json;

use super::{
    super::{Action, ChannelState, Counting, Emulator, EmulatorConfig, Faults, Oversize, PayloadCap, RateCap},
    client::{Client, Last, call, http, soon},
    echo, emulator, ideal,
};
use crate::wire::{
    MessageKind, PayloadKind,
    smux::{FrameHeader, StreamId},
};

const STREAM: StreamId = StreamId::FIRST;

/// NOP frames: harmless at any size.
fn nops(bytes: usize) -> Vec<u8> {
    FrameHeader::nop().encode().repeat(bytes / 8)
}

#[tokio::test]
async fn an_oversized_payload_is_closed_reset_or_swallowed() {
    let emulator = emulator();
    for then in [Oversize::Close, Oversize::Reset, Oversize::Silence] {
        emulator.configure(|config| config.payload_cap = Some(PayloadCap { bytes: 2048, then }));
        let (mut client, id) = Client::ready(&emulator, echo().await).await;
        client.send(PayloadKind::Output, &nops(2048)).await;
        client.until(|client| client.acknowledged.contains(&1)).await;
        client.send(PayloadKind::Output, &nops(2056)).await;
        if then == Oversize::Silence {
            client.sequence = 2;
            client.stream_data(STREAM, true, b"x").await;
            client.until(|client| client.stream(STREAM).0 == b"x").await;
        } else {
            let last = client.last().await;
            let as_asked = match then {
                Oversize::Close => matches!(last, Last::Close(1009, _)),
                _ => matches!(last, Last::Cut(true)),
            };
            assert!(as_asked, "{then:?}: {last:?}");
            soon(emulator.wait_for(|state| state.sessions[&id].channel == ChannelState::Lost)).await;
        }
    }
    assert_eq!(emulator.state().violation_count, 0);
}

#[tokio::test]
async fn too_many_messages_are_paused_and_then_cut() {
    let cap = RateCap { per_second: 20, counting: Counting::Data, kill_after: Duration::ZERO };
    let emulator = Emulator::start(EmulatorConfig { rate_cap: Some(cap), ..ideal() }).expect("an emulator");
    let (mut client, id) = Client::ready(&emulator, echo().await).await;
    let mut sent = 0;
    while !client.kinds.contains(&MessageKind::PausePublication) {
        client.send(PayloadKind::Output, &nops(8)).await;
        sent += 1;
        assert!(sent < 1000, "never paused");
        let waiting = client.sequence - 1;
        client.until(|client| client.acknowledged.contains(&waiting)).await;
    }
    assert!(sent >= 19, "paused after {sent}");
    client.kinds.clear();
    client.until(|client| client.kinds.contains(&MessageKind::StartPublication)).await;
    client.send_until_cut(22).await;
    assert!(matches!(client.last().await, Last::Cut(_)));
    assert!(emulator.state().sessions[&id].pauses >= 1);
}

#[tokio::test]
async fn a_websocket_is_cut_after_so_many_messages_again_and_again() {
    let emulator = emulator();
    let (mut client, id) = Client::ready(&emulator, echo().await).await;
    emulator.configure(|config| config.faults = Faults { disconnect_every: Some(30), ..Faults::default() });
    for _ in 0..2 {
        client.send_until_cut(40).await;
        assert!(matches!(client.last().await, Last::Cut(_)));
        client.sequence = client.acknowledged.iter().max().map_or(0, |last| last + 1);
        client = client.resume(&call(&emulator, "ResumeSession", &json!({"SessionId": id})).await).await;
    }
    soon(emulator.wait_for(|state| state.sessions[&id].websockets == 3)).await;
}

#[tokio::test]
async fn everything_can_vanish() {
    let emulator = emulator();
    let (mut client, id) = Client::ready(&emulator, echo().await).await;
    emulator.configure(|config| config.faults.drop = 100.0);
    client.send(PayloadKind::Output, &nops(8)).await;
    soon(emulator.wait_for(|state| state.sessions[&id].dropped >= 1)).await;
    emulator.configure(|config| config.faults = Faults { duplicate: 100.0, ..Faults::default() });
    client.sequence = 1;
    client.send(PayloadKind::Output, &nops(8)).await;
    // Twice to the agent, which acknowledges twice, each of which comes twice.
    client.until(|client| client.acknowledged.iter().filter(|sequence| **sequence == 1).count() == 4).await;
    assert_eq!(emulator.state().violation_count, 0);
}

#[tokio::test]
async fn early_data_is_refused_or_swallowed_as_told() {
    for (refuse, swallow, echoed) in [(Some(2), None, &b"x"[..]), (None, Some(1), b"")] {
        let config = EmulatorConfig { refuse_early: refuse, swallow_early: swallow, ..ideal() };
        let emulator = Emulator::start(config).expect("an emulator");
        let (mut client, id) = Client::ready(&emulator, echo().await).await;
        for round in 0..3 {
            client.sequence = 1;
            client.stream_data(STREAM, true, b"x").await;
            soon(emulator.wait_for(|state| state.sessions[&id].up.messages == 2 + round)).await;
        }
        client.until(|client| client.acknowledged.contains(&1)).await;
        client.sequence = 2;
        client.send(PayloadKind::Output, &nops(8)).await;
        client.until(|client| client.acknowledged.contains(&2)).await;
        if echoed.is_empty() {
            emulator.act(Action::Pause); // a marker behind everything else
            client.until(|client| client.kinds.contains(&MessageKind::PausePublication)).await;
        } else {
            client.until(|client| !client.stream(STREAM).0.is_empty()).await;
        }
        assert_eq!(client.stream(STREAM).0, echoed);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_agent_and_not_the_emulator() {
    let emulator = emulator();
    let port = echo().await;
    let (mut slow, slow_id) = Client::ready(&emulator, port).await;
    // Without reading: the echo of what is sent has nowhere to go, so that in the end sending stops as well.
    let piece = vec![7; 32_000];
    let mut sent = 0;
    for round in 0..8000 {
        let write = slow.stream_data(STREAM, round == 0, &piece);
        if tokio::time::timeout(Duration::from_millis(500), write).await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 8000, "{sent} pieces of 32 kB were taken and nobody read");
    let (mut other, _) = Client::ready(&emulator, port).await;
    other.stream_data(STREAM, true, b"hello").await;
    other.until(|client| client.stream(STREAM).0 == b"hello").await;
    assert!(emulator.act_on(&slow_id, Action::Disconnect), "its thread still hears");
    soon(emulator.wait_for(|state| state.sessions[&slow_id].channel == ChannelState::Lost)).await;
}

#[tokio::test]
async fn the_round_trip_time_is_what_the_client_sees() {
    let rtt = Duration::from_millis(100);
    let emulator = Emulator::start(EmulatorConfig { rtt, ..ideal() }).expect("an emulator");
    let (mut client, _) = Client::ready(&emulator, echo().await).await;
    let before = super::super::clock::now();
    client.send(PayloadKind::Output, &nops(8)).await;
    client.until(|client| client.acknowledged.contains(&1)).await;
    let seen = super::super::clock::now() - before;
    assert!(seen >= rtt, "{seen:?}");
}

#[tokio::test]
async fn all_sessions_share_the_clients_link() {
    let emulator = Emulator::start(ideal()).expect("an emulator");
    let port = echo().await;
    let (mut one, _) = Client::ready(&emulator, port).await;
    let (mut other, _) = Client::ready(&emulator, port).await;
    let path = format!("{}/config", super::super::control::PATH);
    let body = br#"{"link_bytes_per_second": 1000000}"#;
    let changed = http(&emulator, "POST", &path, &HeaderMap::new(), body).await;
    assert_eq!((changed.status, &changed.body["link_bytes_per_second"]), (200, &json!(1_000_000)));
    let before = super::super::clock::now();
    for client in [&mut one, &mut other] {
        client.send(PayloadKind::Output, &nops(8 * 12_500)).await;
    }
    for client in [&mut one, &mut other] {
        client.until(|client| client.acknowledged.contains(&1)).await;
    }
    let seen = super::super::clock::now() - before;
    assert!(seen >= Duration::from_millis(200), "two messages of 100 kB in {seen:?}");
}
