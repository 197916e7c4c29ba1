//! Paused time and in-memory IO: the local program at one end, the agent at the other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
};

use super::*;
use crate::forward::{TestStream, test_socket::TestSocket, test_tunnel::TestPeer};

const LINGER: Duration = Duration::from_secs(5);

/// How a relay ended: the reason, whether the local socket is reset, bytes up and down.
type Ended = (ConnectionEnd, bool, u64, u64);

struct World {
    /// The local program.
    app: DuplexStream,
    agent: TestPeer,
    relay: JoinHandle<Ended>,
    hurry: CancellationToken,
}

fn world(linger: Duration, capacity: usize) -> World {
    let (app, io) = duplex(capacity);
    let (stream, agent) = TestStream::pair(capacity);
    let resets = Arc::new(AtomicBool::new(false));
    let mut relay = Relay::new(TestSocket { io, resets: resets.clone() }, stream, linger);
    assert!(resets.load(Ordering::SeqCst), "armed from the start");
    let hurry = CancellationToken::new();
    let relay = tokio::spawn(without_spinning({
        let hurry = hurry.clone();
        async move {
            let end = match relay.carry().await {
                Carried::Ended(end) => end,
                Carried::Lingering => relay.finish(&hurry).await,
            };
            (end, resets.load(Ordering::SeqCst), relay.bytes_up(), relay.bytes_down())
        }
    }));
    World { app, agent, relay, hurry }
}

/// Fails when the relay is polled more often than its bytes can explain.
async fn without_spinning<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut polls = 0;
    poll_fn(|cx| {
        polls += 1;
        assert!(polls < 500_000, "the relay spins");
        work.as_mut().poll(cx)
    })
    .await
}

async fn read_all(reader: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.expect("in-memory reads do not fail");
    all
}

async fn expect(reader: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    reader.read_exact(&mut got).await.expect("enough bytes");
    assert_eq!(got, expected);
}

async fn ended(relay: JoinHandle<Ended>) -> Ended {
    time::timeout(Duration::from_secs(3600), relay).await.expect("the relay ends").expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn connect_and_close_sends_the_fin_at_once() {
    let World { mut app, mut agent, relay, .. } = world(LINGER, 1024);
    let start = time::Instant::now();
    app.shutdown().await.expect("a local end");
    assert_eq!(read_all(&mut agent.io).await, b"");
    assert_eq!(start.elapsed(), Duration::ZERO);
    agent.io.shutdown().await.expect("the agent's FIN");
    assert_eq!(ended(relay).await, (ConnectionEnd::LocalClosed, false, 0, 0));
    assert_eq!(read_all(&mut app).await, b"");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_does_not_need_the_eof_arrives_whole_after_a_half_close() {
    let World { mut app, mut agent, relay, .. } = world(LINGER, 64);
    app.write_all(b"question").await.expect("a write");
    app.shutdown().await.expect("a half-close");
    expect(&mut agent.io, b"question").await;
    let reply: Vec<u8> = (0..40_000_u32).map(|at| at as u8).collect();
    let agent_side = async {
        // The destination thinks for less than the linger time, again and again.
        for portion in reply.chunks(10_000) {
            time::advance(Duration::from_secs(4)).await;
            agent.io.write_all(portion).await.expect("the stream is open");
        }
        agent.io.shutdown().await.expect("the agent's FIN");
        read_all(&mut agent.io).await
    };
    let (to_agent, to_app) = tokio::join!(agent_side, read_all(&mut app));
    assert_eq!(to_agent, b"");
    assert_eq!(to_app, reply);
    assert_eq!(ended(relay).await, (ConnectionEnd::LocalClosed, false, 8, 40_000));
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_needs_the_eof_does_not_come_and_the_connection_ends_after_the_linger_time() {
    let World { mut app, mut agent, relay, .. } = world(LINGER, 1024);
    let start = time::Instant::now();
    app.write_all(b"sort me").await.expect("a write");
    app.shutdown().await.expect("a half-close");
    // The agent forwards the bytes, and closes everything when it sees the FIN.
    assert_eq!(read_all(&mut agent.io).await, b"sort me");
    assert_eq!(start.elapsed().as_secs(), LINGER.as_secs());
    agent.io.shutdown().await.expect("the agent's FIN");
    assert_eq!(read_all(&mut app).await, b"");
    assert_eq!(ended(relay).await, (ConnectionEnd::LingerExpired, false, 7, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answered_connection_ends_a_moment_after_its_local_end() {
    let World { mut app, mut agent, relay, .. } = world(LINGER, 1024);
    app.write_all(b"ping").await.expect("a write");
    expect(&mut agent.io, b"ping").await;
    agent.io.write_all(b"pong").await.expect("a write");
    expect(&mut app, b"pong").await;
    let start = time::Instant::now();
    drop(app);
    assert_eq!(read_all(&mut agent.io).await, b"");
    assert_eq!(start.elapsed().as_millis(), 200);
    drop(agent);
    assert_eq!(ended(relay).await.0, ConnectionEnd::LocalClosed);
}

#[tokio::test(start_paused = true)]
async fn zero_linger_sends_the_fin_at_once() {
    let World { mut app, mut agent, .. } = world(Duration::ZERO, 1024);
    let start = time::Instant::now();
    app.write_all(b"question").await.expect("a write");
    app.shutdown().await.expect("a half-close");
    assert_eq!(read_all(&mut agent.io).await, b"question");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_agents_fin_ends_the_local_side_after_all_is_delivered() {
    let World { mut app, mut agent, relay, .. } = world(LINGER, 16);
    let agent_side = async {
        agent.io.write_all(&[7; 1000]).await.expect("a write");
        agent.io.shutdown().await.expect("the agent's FIN");
    };
    let app_side = async {
        time::advance(Duration::from_secs(60)).await; // a slow reader
        read_all(&mut app).await
    };
    assert_eq!(tokio::join!(agent_side, app_side).1, [7; 1000]);
    // The local program has not noticed and goes on: its bytes are taken and thrown away.
    app.write_all(&[1; 1000]).await.expect("bytes without destination are read");
    drop(app);
    let (end, reset, _, down) = ended(relay).await;
    assert_eq!((end, reset, down), (ConnectionEnd::DestinationClosed, false, 1000));
}

#[tokio::test(start_paused = true)]
async fn a_local_program_that_ignores_the_end_is_left_after_the_linger_time() {
    let World { app, mut agent, relay, .. } = world(LINGER, 16);
    let start = time::Instant::now();
    agent.io.shutdown().await.expect("the agent's FIN");
    assert_eq!(ended(relay).await, (ConnectionEnd::DestinationClosed, false, 0, 0));
    assert_eq!(start.elapsed().as_secs(), LINGER.as_secs());
    drop(app);
}

#[tokio::test(start_paused = true)]
async fn a_refused_destination_resets_the_local_connection() {
    let World { app, agent, relay, .. } = world(LINGER, 16);
    agent.refuse();
    assert_eq!(ended(relay).await, (ConnectionEnd::DestinationRefused, true, 0, 0));
    drop(app);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_resets_the_local_connection() {
    let World { mut app, agent, relay, .. } = world(LINGER, 16);
    app.write_all(b"x").await.expect("a write");
    agent.lose();
    let (end, reset, ..) = ended(relay).await;
    assert_eq!((end, reset), (ConnectionEnd::SessionEnded, true));
}

/// The relay waits for the local program, which is the trouble, and not for the stream: a run against a flooding
/// destination kept such a connection open after its stream had been reset.
#[tokio::test(start_paused = true)]
async fn a_local_program_that_does_not_read_is_reset_with_its_stream() {
    let mut world = world(LINGER, 1024);
    world.agent.io.write_all(&[7; 3000]).await.expect("buffers take as much");
    world.agent.reset_slow_reader();
    let (end, reset, ..) = ended(world.relay).await;
    assert_eq!((end, reset), (ConnectionEnd::SlowReader, true));
}

#[tokio::test(start_paused = true)]
async fn a_local_program_that_does_not_read_is_reset_with_its_session() {
    for reads_first in [0, 100] {
        let mut world = world(LINGER, 1024);
        world.agent.io.write_all(&[7; 3000]).await.expect("buffers take as much");
        expect(&mut world.app, &vec![7; reads_first]).await;
        world.agent.lose();
        let (end, reset, ..) = ended(world.relay).await;
        assert_eq!((end, reset), (ConnectionEnd::SessionEnded, true));
    }
}

#[tokio::test(start_paused = true)]
async fn a_complete_reply_survives_its_session_however_slow_the_local_program_is() {
    let mut world = world(LINGER, 1024);
    world.agent.io.write_all(&[7; 3000]).await.expect("buffers take as much");
    world.agent.complete().await;
    world.agent.lose();
    let mut got = 0;
    while got < 3000 {
        time::sleep_until(time::Instant::now() + Duration::from_secs(600)).await;
        got += world.app.read(&mut [0; 100]).await.expect("all of it");
    }
    assert_eq!(read_all(&mut world.app).await, b"");
    drop(world.app);
    assert_eq!(ended(world.relay).await, (ConnectionEnd::DestinationClosed, false, 0, 3000));
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_resets_a_lingering_connection_too() {
    let World { mut app, mut agent, relay, .. } = world(LINGER, 16);
    app.write_all(b"x").await.expect("a write");
    app.shutdown().await.expect("a half-close");
    expect(&mut agent.io, b"x").await;
    agent.lose();
    let (end, reset, ..) = ended(relay).await;
    assert_eq!((end, reset), (ConnectionEnd::SessionEnded, true));
}

#[tokio::test(start_paused = true)]
async fn a_local_program_that_is_gone_gets_its_last_bytes_delivered() {
    let World { mut app, mut agent, relay, .. } = world(LINGER, 1024);
    app.write_all(b"last words").await.expect("a write");
    drop(app); // writes to it fail from now on
    agent.io.write_all(b"nobody reads this").await.expect("a write");
    assert_eq!(read_all(&mut agent.io).await, b"last words");
    assert_eq!(ended(relay).await, (ConnectionEnd::LocalReset, true, 10, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_relay_resets() {
    let (_app, io) = duplex(16);
    let (stream, mut agent) = TestStream::pair(16);
    let resets = Arc::new(AtomicBool::new(false));
    let mut relay = Relay::new(TestSocket { io, resets: resets.clone() }, stream, LINGER);
    assert!(time::timeout(Duration::from_secs(1), relay.carry()).await.is_err());
    drop(relay);
    assert!(resets.load(Ordering::SeqCst));
    assert_eq!(read_all(&mut agent.io).await, b"");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_answers_our_fin_is_left_after_a_while() {
    let World { mut app, mut agent, relay, .. } = world(Duration::ZERO, 1024);
    let start = time::Instant::now();
    app.write_all(b"x").await.expect("a write");
    app.shutdown().await.expect("a local end");
    assert_eq!(read_all(&mut agent.io).await, b"x");
    assert_eq!(ended(relay).await, (ConnectionEnd::Unanswered, true, 1, 0));
    assert_eq!(start.elapsed().as_secs(), FIN_WAIT.as_secs());
    drop(app);
}

#[tokio::test(start_paused = true)]
async fn a_hurried_connection_sends_its_fin_early() {
    let World { mut app, mut agent, relay, hurry } = world(Duration::from_secs(600), 1024);
    let start = time::Instant::now();
    app.write_all(b"question").await.expect("a write");
    app.shutdown().await.expect("a half-close");
    expect(&mut agent.io, b"question").await;
    hurry.cancel();
    assert_eq!(read_all(&mut agent.io).await, b"");
    assert_eq!(start.elapsed().as_millis(), 200);
    agent.io.shutdown().await.expect("the agent's FIN");
    assert_eq!(ended(relay).await.0, ConnectionEnd::LingerExpired);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_a_silent_destination() {
    let World { mut app, mut agent, relay, .. } = world(LINGER, 16);
    app.write_all(b"q").await.expect("a write");
    app.shutdown().await.expect("a half-close");
    let agent_side = async {
        expect(&mut agent.io, b"q").await;
        agent.io.write_all(&[7; 500]).await.expect("the stream stays open");
        agent.io.shutdown().await.expect("the agent's FIN");
    };
    let app_side = async {
        let mut got = Vec::new();
        while got.len() < 500 {
            // Time moves on by itself once nothing else does.
            time::sleep_until(time::Instant::now() + Duration::from_secs(30)).await;
            let mut some = [0; 10];
            let count = app.read(&mut some).await.expect("a read");
            assert_ne!(count, 0, "cut off after {} bytes", got.len());
            got.extend_from_slice(&some[..count]);
        }
        got
    };
    assert_eq!(tokio::join!(agent_side, app_side).1, [7; 500]);
    assert_eq!(ended(relay).await, (ConnectionEnd::LocalClosed, false, 1, 500));
}

/// Both directions full, and a peer that reads only after its own write has finished: each side's write can finish
/// only if the other direction keeps moving.
#[tokio::test(start_paused = true)]
async fn full_buffers_in_both_directions_do_not_deadlock() {
    const TOTAL: usize = 1 << 20;
    let World { app, agent, relay, .. } = world(LINGER, 4096);
    let up: Vec<u8> = (0..TOTAL).map(|at| (at * 7) as u8).collect();
    let down: Vec<u8> = (0..TOTAL).map(|at| (at * 13) as u8).collect();

    let (mut app_reads, mut app_writes) = tokio::io::split(app);
    let app_side = async {
        let (written, read) = tokio::join!(app_writes.write_all(&up), async {
            let mut got = vec![0; TOTAL];
            app_reads.read_exact(&mut got).await.map(|_| got)
        });
        written.expect("a write");
        read.expect("a read")
    };
    let mut agent_io = agent.io;
    let agent_side = async {
        agent_io.write_all(&down).await.expect("a write");
        let mut got = vec![0; TOTAL];
        agent_io.read_exact(&mut got).await.expect("a read");
        got
    };
    let both = async { tokio::join!(app_side, agent_side) };
    let (at_app, at_agent) = time::timeout(Duration::from_secs(3600), both).await.expect("no deadlock");
    assert!(at_app == down && at_agent == up, "bytes lost, doubled or reordered");
    drop((app_reads, app_writes));
    drop(agent_io);
    let (_, _, bytes_up, bytes_down) = ended(relay).await;
    assert_eq!((bytes_up, bytes_down), (TOTAL as u64, TOTAL as u64));
}

/// Random bytes in portions of random size.
fn portions(random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let portion = |random: &mut fastrand::Rng| {
        let size = random.usize(1..20_000);
        (0..size).map(|_| random.u8(..)).collect()
    };
    (0..random.usize(1..12)).map(|_| portion(random)).collect()
}

/// Random sizes and pauses on both sides, half of the time with buffers of a few bytes.
#[tokio::test(start_paused = true)]
async fn random_traffic_arrives_whole() {
    for seed in 0..64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let capacity = if random.bool() { random.usize(1..64) } else { random.usize(64..100_000) };
        let World { app, agent, relay, .. } = world(LINGER, capacity);
        let (up, down) = (portions(&mut random), portions(&mut random));
        let (all_up, all_down) = (up.concat(), down.concat());
        let pause = Duration::from_millis(random.u64(0..3));
        let (mut app_reads, mut app_writes) = tokio::io::split(app);
        let (mut agent_reads, mut agent_writes) = tokio::io::split(agent.io);
        let app_side = async {
            for portion in up {
                app_writes.write_all(&portion).await.expect("a write");
                time::advance(pause).await;
            }
            app_writes.shutdown().await.expect("a half-close");
        };
        let agent_writer = async move {
            for portion in down {
                agent_writes.write_all(&portion).await.expect("a write");
            }
            agent_writes
        };
        let agent_reader = async {
            let mut got = vec![0; all_up.len()];
            agent_reads.read_exact(&mut got).await.expect("all that was sent");
            got
        };
        let agent_side = async {
            let (mut agent_writes, got) = tokio::join!(agent_writer, agent_reader);
            agent_writes.shutdown().await.expect("the agent's FIN");
            got
        };
        let ((), at_agent, at_app) = tokio::join!(app_side, agent_side, read_all(&mut app_reads));
        assert!(at_agent == all_up, "seed {seed}: upwards");
        assert!(at_app == all_down, "seed {seed}: downwards");
        let (_, reset, bytes_up, bytes_down) = ended(relay).await;
        assert_eq!((reset, bytes_up, bytes_down), (false, all_up.len() as u64, all_down.len() as u64), "seed {seed}");
    }
}
