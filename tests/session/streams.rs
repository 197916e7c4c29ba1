//! Streams as `AsyncRead` and `AsyncWrite`.

use std::io::ErrorKind;

use ssmfwd::session::{Mode, SessionEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    gateway::{Command, Service, pattern},
    setup::{SESSION, Setup, World},
};

fn data(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|at| pattern(at ^ salt << 20)).collect()
}

/// Sends and gets back the same.
async fn echo(world: &World, len: usize, salt: usize) {
    let stream = world.session.open().await.expect("open");
    let (mut reading, mut writing) = tokio::io::split(stream);
    let sent = data(len, salt);
    let mut back = vec![0; len];
    let (written, read) = tokio::join!(writing.write_all(&sent), reading.read_exact(&mut back));
    written.expect("written");
    read.expect("read");
    assert!(back == sent, "{len} bytes came back changed");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_ready_and_says_what_it_is() {
    let world = Setup::new(Service::Echo).connect().await;
    assert_eq!((world.session.mode(), world.session.id().0.as_str()), (Mode::Mux, SESSION));
    let text = format!("{:?} {:?}", world.session, world.session.open().await.expect("open"));
    assert!(text.contains(SESSION) && !text.contains("token"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn bytes_come_back_at_every_size() {
    let world = Setup::new(Service::Echo).connect().await;
    for len in [1, 2, 1015, 1016, 1017, 4096, 65_535, 65_536, 65_537, 1 << 20] {
        echo(&world, len, len).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_streams_at_once() {
    let world = Setup::new(Service::Echo).connect().await;
    let world = std::sync::Arc::new(world);
    let mut tasks = tokio::task::JoinSet::new();
    for salt in 0..100 {
        let world = std::sync::Arc::clone(&world);
        tasks.spawn(async move { echo(&world, 1 + salt * 331, salt).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no stream disturbs another");
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_ends_with_the_destination() {
    for len in [0, 1, 100_000] {
        let world = Setup::new(Service::Source(len)).connect().await;
        let mut stream = world.session.open().await.expect("open");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("a clean end");
        assert!(all == data(len, 0), "{} of {len} bytes", all.len());
        assert_eq!(stream.read(&mut [0; 8]).await.expect("still the end"), 0);
        let error = stream.write_all(b"x").await.expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_comes_behind_the_data() {
    let world = Setup::new(Service::Echo).connect().await;
    let mut stream = world.session.open().await.expect("open");
    stream.write_all(b"hello").await.expect("written");
    stream.shutdown().await.expect("shut down");
    assert_eq!(stream.write(b"x").await.expect_err("after the end").kind(), ErrorKind::BrokenPipe);
    world.remote.until(|seen| seen.steps.len() == 3).await;
    assert_eq!(world.remote.seen().steps, ["dial 1", "write 1 hello", "close 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_closes_its_destination() {
    let world = Setup::new(Service::Echo).connect().await;
    let mut stream = world.session.open().await.expect("open");
    stream.write_all(b"hello").await.expect("written");
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.expect("read");
    drop(stream);
    world.remote.until(|seen| seen.steps.last().is_some_and(|step| step == "close 1")).await;
    echo(&world, 1000, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_destination_is_an_error_on_its_stream_alone() {
    let world = Setup::new(Service::Refused).connect().await;
    let mut stream = world.session.open().await.expect("open");
    let error = stream.read(&mut [0; 8]).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(stream.write(b"x").await.expect_err("refused").kind(), ErrorKind::ConnectionRefused);
    assert_eq!(world.remote.events(), [SessionEvent::Ready, SessionEvent::DestinationRefused]);
    assert!(world.session.open().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_reader_is_woken_by_data() {
    let world = Setup::new(Service::Echo).connect().await;
    let mut stream = world.session.open().await.expect("open");
    stream.write_all(b"x").await.expect("written");
    let reader = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        let mut total = 0;
        while total < 5001 {
            total += stream.read(&mut buffer).await.expect("data");
        }
        total
    });
    tokio::task::yield_now().await;
    world.remote.tell(Command::Send(5000));
    assert_eq!(reader.await.expect("no panic"), 5001);
}

#[tokio::test(start_paused = true)]
async fn an_empty_write_and_an_empty_read_do_nothing() {
    let world = Setup::new(Service::Echo).connect().await;
    let mut stream = world.session.open().await.expect("open");
    assert_eq!(stream.write(b"").await.expect("nothing"), 0);
    assert_eq!(stream.read(&mut []).await.expect("nothing"), 0);
    stream.flush().await.expect("nothing");
    echo(&world, 10, 0).await;
}
