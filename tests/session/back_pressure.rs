//! Writers wait for the agent, the agent waits for readers, and nobody waits for each other.

use std::time::Duration;

use ssmfwd::session::SessionEvent;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::{
    gateway::{Command, Service, pattern},
    line::Fault,
    setup::Setup,
};

/// Long for the machines, short for the clock.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn a_write_is_pending_while_the_destination_takes_nothing_and_goes_on_when_it_does() {
    let world = Setup::new(Service::Stalled).connect().await;
    let mut stream = world.session.open().await.expect("open");
    let mut accepted = 0;
    while let Ok(written) = timeout(SOON, stream.write(&[7; 16_384])).await {
        accepted += written.expect("open");
        assert!(accepted < 16 << 20, "no bound");
    }
    // The stream's buffer, 1024 messages in flight, and what agent and destination hold.
    assert!(accepted > 1 << 20, "stopped after {accepted}");
    let (mut reading, mut writing) = tokio::io::split(stream);
    assert!(timeout(SOON, writing.write(&[7; 1])).await.is_err(), "still pending");

    world.remote.tell(Command::Unstall);
    let rest = writing.write(&[7; 1000]);
    assert_eq!(timeout(SOON, rest).await.expect("released").expect("open"), 1000);
    let mut buffer = vec![0; 65_536];
    while world.remote.seen().received < accepted + 1000 {
        // What was taken before comes back from nobody; the rest is echoed and has to be read.
        if timeout(Duration::from_millis(20), reading.read(&mut buffer)).await.is_err() {
            continue;
        }
    }
    assert_eq!(world.remote.seen().received, accepted + 1000);
}

#[tokio::test(start_paused = true)]
async fn another_stream_of_a_stalled_session_can_still_be_opened_and_closed() {
    let world = Setup::new(Service::Stalled).connect().await;
    let mut stalled = world.session.open().await.expect("open");
    while timeout(SOON, stalled.write(&[7; 16_384])).await.is_ok() {}
    let other = world.session.open().await.expect("open");
    drop(other);
    drop(stalled);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_reader_stops_the_agent_and_loses_nothing() {
    let total = 24 << 20;
    let world = Setup::new(Service::Source(total)).connect().await;
    let mut stream = world.session.open().await.expect("open");
    timeout(Duration::from_secs(30), world.session.closed()).await.expect_err("it lives");
    assert_eq!(world.remote.events(), [SessionEvent::Ready, SessionEvent::Backpressure(true)]);

    let resumed = Instant::now();
    let mut buffer = vec![0; 65_536];
    let mut received = 0;
    loop {
        let count = stream.read(&mut buffer).await.expect("no error");
        if count == 0 {
            break;
        }
        assert!(buffer[..count].iter().enumerate().all(|(at, byte)| *byte == pattern(received + at)), "at {received}");
        received += count;
    }
    assert_eq!(received, total);
    assert!(world.remote.events().contains(&SessionEvent::Backpressure(false)));
    // The websocket is read again when there is room, not when the next ping is due.
    assert!(resumed.elapsed() < SOON, "took {:?}", resumed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_reset_when_it_holds_up_another() {
    let world = Setup::new(Service::Source(24 << 20)).connect().await;
    let mut slow = world.session.open().await.expect("open");
    timeout(Duration::from_secs(30), world.session.closed()).await.expect_err("alone it may wait");
    let mut other = world.session.open().await.expect("open");
    let mut buffer = vec![0; 65_536];
    let first = timeout(Duration::from_secs(60), other.read(&mut buffer)).await.expect("after 30 s").expect("data");
    assert!(first > 0);
    let mut rest = Vec::new();
    let error = slow.read_to_end(&mut rest).await.expect_err("reset");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(world.remote.events().contains(&SessionEvent::SlowReader));
}

/// The agent acknowledges inside its reader: it reads nothing while it writes. A client that did the same would wait
/// for it for ever once both directions of the transport are full.
#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_only_when_it_has_written_does_not_deadlock() {
    for pipe in [64, 4096] {
        let world = Setup { pipe, reads_after_writing: true, ..Setup::new(Service::Echo) }.connect().await;
        let total = if pipe < 1000 { 100_000 } else { 2_000_000 };
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (mut reading, mut writing) = tokio::io::split(world.session.open().await.expect("open"));
            tasks.spawn(async move {
                let mut left = total;
                while left > 0 {
                    left -= writing.write(&vec![7; left.min(32_768)]).await.expect("open");
                }
            });
            tasks.spawn(async move {
                let mut buffer = vec![0; 32_768];
                let mut left = total;
                while left > 0 {
                    left -= reading.read(&mut buffer).await.expect("open");
                }
            });
        }
        let all = timeout(Duration::from_secs(600), async {
            while let Some(done) = tasks.join_next().await {
                done.expect("no error");
            }
        });
        all.await.unwrap_or_else(|_| panic!("a deadlock with a pipe of {pipe} bytes"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_deaf_gateway_holds_writers_and_nothing_is_lost_when_it_listens_again() {
    let world = Setup { pipe: 4096, ..Setup::new(Service::Echo) }.connect().await;
    let stream = world.session.open().await.expect("open");
    let (mut reading, mut writing) = tokio::io::split(stream);
    world.remote.tell(Command::Deaf);
    let mut accepted = 0;
    while let Ok(written) = timeout(Duration::from_millis(500), writing.write(&[7; 16_384])).await {
        accepted += written.expect("open");
        assert!(accepted < 8 << 20, "no bound");
    }
    world.remote.tell(Command::Listen);
    let mut back = vec![0; accepted];
    timeout(Duration::from_secs(60), reading.read_exact(&mut back)).await.expect("released").expect("all of it");
}

#[tokio::test(start_paused = true)]
async fn a_pipe_of_a_few_bytes_carries_everything() {
    let world = Setup { pipe: 64, ..Setup::new(Service::Source(200_000)) }.connect().await;
    let mut stream = world.session.open().await.expect("open");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("a clean end");
    assert!(all.len() == 200_000 && all.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
}

/// Both directions of several streams saturated through tiny pipes, readers that stop and go on, streams that are
/// dropped in the middle, and websockets that are lost in between.
#[tokio::test(start_paused = true)]
async fn upload_and_download_never_deadlock_each_other() {
    for (pipe, total, losses) in [(256, 150_000, 0), (4096, 2_000_000, 0), (4096, 2_000_000, 6)] {
        let setup = Setup { pipe, reads_after_writing: true, ..Setup::resumable(Service::Echo) };
        let world = setup.connect().await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..3usize {
            let (mut reading, mut writing) = tokio::io::split(world.session.open().await.expect("open"));
            tasks.spawn(async move {
                let data: Vec<u8> = (0..total).map(pattern).collect();
                writing.write_all(&data).await.expect("no error");
            });
            tasks.spawn(async move {
                let mut buffer = vec![0; 32_768];
                let mut at = 0;
                // A third is read, then nothing for a while.
                let stops_at = total / 3;
                let mut stopped = number == 0;
                while at < total {
                    if !stopped && at >= stops_at {
                        stopped = true;
                        tokio::time::sleep_until(Instant::now() + Duration::from_secs(7 * number as u64)).await;
                    }
                    let count = reading.read(&mut buffer).await.expect("no error");
                    assert!(count > 0, "ended after {at}");
                    let same = buffer[..count].iter().enumerate().all(|(index, byte)| *byte == pattern(at + index));
                    assert!(same, "stream {number} at {at}");
                    at += count;
                }
            });
        }
        let session = world.session.clone();
        tasks.spawn(async move {
            for _ in 0..20 {
                let mut stream = session.open().await.expect("open");
                stream.write_all(&[7; 100_000]).await.expect("no error");
                // Let go of with data under way in both directions.
                drop(stream);
            }
        });
        let remote = world.remote.clone();
        tasks.spawn(async move {
            for _ in 0..losses {
                tokio::time::sleep_until(Instant::now() + Duration::from_secs(2)).await;
                remote.trip(Fault::Broken);
            }
        });
        let all = timeout(Duration::from_secs(3600), async {
            while let Some(done) = tasks.join_next().await {
                done.expect("no error");
            }
        });
        all.await.unwrap_or_else(|_| panic!("a deadlock with a pipe of {pipe} bytes and {losses} losses"));
        // Streams that were let go of may still be under way.
        assert!(world.remote.seen().received >= 3 * total);
    }
}
