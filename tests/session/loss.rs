//! The websocket is lost: streams get all that had arrived, then an error; the owner learns why.

use std::{io::ErrorKind, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use ssmfwd::session::Stream;

use crate::{
    gateway::{Command, Service, pattern},
    setup::{Setup, World},
};

/// A session with a stream whose destination is connected.
async fn connected(setup: Setup) -> (World, Stream) {
    let world = setup.connect().await;
    let mut stream = world.session.open().await.expect("open");
    stream.write_all(b"x").await.expect("written");
    stream.read_exact(&mut [0; 1]).await.expect("echoed");
    (world, stream)
}

/// Reads up to the error.
async fn read_out(stream: &mut Stream) -> (Vec<u8>, ErrorKind) {
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).await.expect_err("an incomplete stream must not look complete");
    (all, error.kind())
}

#[tokio::test(start_paused = true)]
async fn whatever_ends_the_websocket_is_named() {
    let cases: [(Command, &str); 4] = [
        (Command::Drop, "connection lost: "),
        (Command::Close(CloseCode::Normal, "Bye"), "connection lost: the gateway closed the websocket with 1000 Bye"),
        (
            Command::Close(CloseCode::Error, "\u{1b}[2J"),
            "connection lost: the gateway closed the websocket with 1011 \\u{1b}[2J",
        ),
        (Command::Garbage, "connection lost: "),
    ];
    for (command, expected) in cases {
        let name = format!("{command:?}");
        let (world, mut stream) = connected(Setup::new(Service::Echo)).await;
        world.remote.tell(command);
        let reason = world.session.closed().await;
        let text = reason.to_string();
        assert!(text.starts_with(expected) && !text.contains("(by "), "{name}: {text}");
        assert!(text.len() > expected.len().min(20), "{name}: {text}");
        assert_eq!(read_out(&mut stream).await, (vec![], ErrorKind::ConnectionReset), "{name}");
        assert_eq!(stream.write(b"x").await.expect_err("lost").kind(), ErrorKind::ConnectionReset, "{name}");
        assert_eq!(world.session.close().await, reason, "{name}");
        assert_eq!(world.control.terminated(), 1, "{name}");
    }
}

/// The acknowledgements for the first messages can no longer be written when most of the data is still to be read.
#[tokio::test(start_paused = true)]
async fn all_that_had_arrived_is_delivered_before_the_error() {
    let (world, mut stream) = connected(Setup { pipe: 2 << 20, ..Setup::new(Service::Echo) }).await;
    let total = 1_000_000;
    world.remote.tell(Command::Send(total));
    world.remote.tell(Command::Drop);
    let (all, kind) = read_out(&mut stream).await;
    assert_eq!((all.len(), kind), (total, ErrorKind::ConnectionReset));
    assert!(all.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
}

#[tokio::test(start_paused = true)]
async fn waiting_readers_and_writers_are_woken_by_the_loss() {
    let (world, mut reader) = connected(Setup::new(Service::Echo)).await;
    let writer = world.session.open().await.expect("open");
    let reading = tokio::spawn(async move { reader.read(&mut [0; 8]).await.map_err(|error| error.kind()) });
    world.remote.tell(Command::Deaf);
    let writing = tokio::spawn(async move {
        let mut writer = writer;
        loop {
            if let Err(error) = writer.write_all(&[7; 65_536]).await {
                return error.kind();
            }
        }
    });
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(!reading.is_finished() && !writing.is_finished());
    world.remote.tell(Command::Drop);
    assert_eq!(reading.await.expect("no panic"), Err(ErrorKind::ConnectionReset));
    assert_eq!(writing.await.expect("no panic"), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_pings_is_dead_after_two_intervals() {
    let mut setup = Setup::new(Service::Echo);
    setup.options.ping_interval = Duration::from_secs(15);
    let (world, _stream) = connected(setup).await;
    world.remote.tell(Command::Deaf);
    world.remote.tell(Command::Silence);
    let start = Instant::now();
    let reason = world.session.closed().await;
    assert_eq!(reason.to_string(), "connection lost: the gateway does not answer pings");
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(30) && waited <= Duration::from_secs(45), "{waited:?}");
    world.session.close().await;
    assert_eq!(world.control.terminated(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_is_alive_for_days() {
    let (world, mut stream) = connected(Setup::new(Service::Echo)).await;
    let closed = tokio::spawn(world.session.closed());
    for _ in 0..200 {
        tokio::time::timeout(Duration::from_secs(900), stream.read(&mut [0; 1])).await.expect_err("nothing to read");
    }
    assert!(!closed.is_finished());
    stream.write_all(b"y").await.expect("written");
    stream.read_exact(&mut [0; 1]).await.expect("echoed");
}

#[tokio::test(start_paused = true)]
async fn messages_that_make_no_sense_end_the_session_at_the_limit() {
    let (world, _stream) = connected(Setup::new(Service::Echo)).await;
    for _ in 0..64 {
        world.remote.tell(Command::Raw(bytes::Bytes::from_static(b"nonsense")));
        tokio::task::yield_now().await;
    }
    let text = world.session.closed().await.to_string();
    assert!(text.starts_with("limit exceeded: 64 malformed messages"), "{text}");
    world.session.close().await;
    assert_eq!(world.control.terminated(), 1);
}

/// Larger than the websocket takes.
#[tokio::test(start_paused = true)]
async fn a_giant_message_ends_the_session() {
    let (world, _stream) = connected(Setup { pipe: 4 << 20, ..Setup::new(Service::Echo) }).await;
    world.remote.tell(Command::Raw(vec![0; (1 << 20) + 1].into()));
    let text = world.session.closed().await.to_string();
    assert!(text.starts_with("connection lost: ") && text.contains("too"), "{text}");
}
