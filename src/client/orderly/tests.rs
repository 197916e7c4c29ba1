//! Paused time, in-memory IO: the test plays the agent.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    forward::{
        Script, SessionAccounts, Sessions, TestConnector, TestPeer, TestTunnel,
        direct::{self, DirectOptions, Keeper},
    },
    session::StartRequest,
};

const LINGER: Duration = Duration::from_secs(5);

/// A stream, the agent's end of it, and what must live meanwhile.
async fn stream() -> (Orderly<TestTunnel>, TestPeer, Keeper<TestConnector>) {
    let (session, mut peers) = TestTunnel::new();
    let connector = Arc::<TestConnector>::default();
    connector.script("i-0a", [Script::Ready(session)]);
    let options = DirectOptions {
        sessions: Sessions::Auto,
        accounts: SessionAccounts::default(),
        reconnect_window: Duration::ZERO,
        idle: Duration::MAX,
    };
    let request = StartRequest { target: "i-0a".into(), ..StartRequest::default() };
    let started = direct::start(connector, request, options, Arc::new(|_| {}), CancellationToken::new()).await;
    let (source, keeper) = started.expect("a session");
    let stream = Arc::new(source).open().await.unwrap_or_else(|error| panic!("{error:?}"));
    (Orderly::new(stream, LINGER), peers.recv().await.expect("the other end"), keeper)
}

/// Whether our FIN has come.
async fn has_ended(peer: &mut TestPeer) -> bool {
    matches!(timeout(Duration::from_millis(1), peer.io.read(&mut [0; 16])).await, Ok(Ok(0)))
}

async fn take(peer: &mut TestPeer, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    peer.io.read_exact(&mut bytes).await.expect("bytes");
    assert_eq!(bytes, expected);
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_not_cut_off_by_the_shutdown_before_it() {
    let (mut stream, mut peer, _keeper) = stream().await;
    stream.write_all(b"request").await.expect("written");
    stream.shutdown().await.expect("shut down");
    take(&mut peer, b"request").await;
    assert!(!has_ended(&mut peer).await);
    assert_eq!(stream.write(b"x").await.expect_err("shut down").kind(), io::ErrorKind::BrokenPipe);
    let reading = tokio::spawn(async move {
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.expect("the reply");
        reply
    });
    peer.io.write_all(b"reply").await.expect("written");
    peer.complete().await;
    assert_eq!(reading.await.expect("no panic"), b"reply");
    assert!(has_ended(&mut peer).await);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_waits_for_the_end_gets_it_after_the_linger_time() {
    let (mut stream, mut peer, _keeper) = stream().await;
    stream.write_all(b"all").await.expect("written");
    stream.shutdown().await.expect("shut down");
    take(&mut peer, b"all").await;
    let started = time::Instant::now();
    let reading = tokio::spawn(async move { stream.read(&mut [0; 16]).await });
    assert_eq!(peer.io.read(&mut [0; 16]).await.expect("the end"), 0);
    assert_eq!(started.elapsed(), LINGER);
    peer.complete().await;
    assert_eq!(reading.await.expect("no panic").expect("the end"), 0);
}

/// A copy in both directions, as two tasks: the one that reads was there first.
#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_already_sees_to_the_end_of_what_another_task_writes() {
    let (stream, mut peer, _keeper) = stream().await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = tokio::spawn(async move { reader.read(&mut [0; 16]).await });
    tokio::task::yield_now().await;
    let writing = tokio::spawn(async move {
        writer.write_all(b"all").await.expect("written");
        writer.shutdown().await.expect("shut down");
        // Once more, by who does not know: it takes the timer from nobody.
        tokio::task::yield_now().await;
        writer.shutdown().await.expect("shut down");
        writer
    });
    let _writer = writing.await.expect("no panic");
    take(&mut peer, b"all").await;
    let ended = timeout(LINGER * 2, peer.io.read(&mut [0; 16])).await;
    assert_eq!(ended.expect("the end is not forgotten").expect("the end"), 0);
    peer.complete().await;
    assert_eq!(reading.await.expect("no panic").expect("the end"), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_request_the_end_goes_out_at_once() {
    let (mut stream, mut peer, _keeper) = stream().await;
    stream.shutdown().await.expect("shut down");
    assert!(has_ended(&mut peer).await);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_owes_nothing_is_not_waited_for() {
    let (mut stream, mut peer, _keeper) = stream().await;
    stream.write_all(b"request").await.expect("written");
    take(&mut peer, b"request").await;
    peer.io.write_all(b"reply").await.expect("written");
    stream.read_exact(&mut [0; 5]).await.expect("the reply");
    time::sleep_until(time::Instant::now() + Duration::from_secs(1)).await;
    stream.shutdown().await.expect("shut down");
    assert!(has_ended(&mut peer).await);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_sent_when_the_stream_is_dropped() {
    for shut_down in [false, true] {
        let (mut stream, mut peer, _keeper) = stream().await;
        stream.write_all(b"last words").await.expect("written");
        if shut_down {
            stream.shutdown().await.expect("shut down");
        }
        drop(stream);
        take(&mut peer, b"last words").await;
        assert!(has_ended(&mut peer).await);
    }
}
