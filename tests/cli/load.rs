//! Many connections, much data, and readers that take their time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ssmfwd::emulator::AgentKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
    time::timeout,
};

use crate::harness::{Client, Closed, Destination, PATIENCE, World, receive, send, within};

#[tokio::test]
async fn two_thousand_short_connections_in_a_row_do_not_pile_up() {
    const COUNT: usize = 2000;
    /// Lingering connections that are kept, and what the program has open besides.
    const DESCRIPTORS: usize = 256 + 64;
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let address = program.addresses(0).await[0];
    let mut most = 0;
    for number in 0..COUNT {
        let mut client = Client::to(address).await;
        client.echo(&number.to_be_bytes()).await;
        drop(client);
        if number % 50 == 0 {
            most = most.max(program.descriptors().unwrap_or(0));
        }
    }
    for _ in 0..COUNT {
        assert_eq!(echo.outcome().await, Closed::Cleanly(8));
    }
    assert_eq!(echo.accepted(), COUNT);
    program.events("connection_closed", COUNT).await;
    assert!(most <= DESCRIPTORS, "{most} descriptors");
    let idle = program.descriptors().unwrap_or(0);
    assert!(idle <= 64, "{idle} descriptors when all is over");
    let (ended, state) = world.finish(program).await;
    let closed = ended.events_named("connection_closed");
    assert!(closed.iter().all(|event| event["reason"] == "local_closed" && event["bytes_down"] == 8));
    assert_eq!(state.sessions_started, 1);
}

/// What one connection of [`parallel`] exchanges.
#[derive(Clone, Copy)]
struct Exchange {
    seed: u64,
    up: usize,
    down: usize,
}

impl Exchange {
    fn encode(self) -> [u8; 24] {
        let mut header = [0; 24];
        header[..8].copy_from_slice(&self.seed.to_be_bytes());
        header[8..16].copy_from_slice(&(self.up as u64).to_be_bytes());
        header[16..].copy_from_slice(&(self.down as u64).to_be_bytes());
        header
    }

    async fn read(socket: &mut TcpStream) -> std::io::Result<Self> {
        let (seed, up, down) = (socket.read_u64().await?, socket.read_u64().await?, socket.read_u64().await?);
        Ok(Self { seed, up: up as usize, down: down as usize })
    }
}

/// Both directions at once, every byte checked.
async fn serve(mut socket: TcpStream) -> Result<(), String> {
    let exchange = Exchange::read(&mut socket).await.map_err(|error| format!("server, header: {error}"))?;
    let (mut reader, mut writer) = socket.split();
    let (received, sent) = tokio::join!(
        receive(&mut reader, exchange.seed, exchange.up),
        send(&mut writer, !exchange.seed, exchange.down)
    );
    received.map_err(|error| format!("server, receiving: {error}"))?;
    sent.map_err(|error| format!("server, sending: {error}"))?;
    writer.shutdown().await.map_err(|error| format!("server, ending: {error}"))?;
    match reader.read(&mut [0]).await {
        Ok(0) => Ok(()),
        end => Err(format!("server, after the end: {end:?}")),
    }
}

async fn exchange(address: SocketAddr, exchange: Exchange, all_open: Arc<Barrier>) -> Result<(), String> {
    let mut socket = TcpStream::connect(address).await.map_err(|error| format!("connecting: {error}"))?;
    all_open.wait().await;
    let (mut reader, mut writer) = socket.split();
    writer.write_all(&exchange.encode()).await.map_err(|error| format!("header: {error}"))?;
    let (sent, received) = tokio::join!(
        send(&mut writer, exchange.seed, exchange.up),
        receive(&mut reader, !exchange.seed, exchange.down)
    );
    sent.map_err(|error| format!("sending: {error}"))?;
    received.map_err(|error| format!("receiving: {error}"))?;
    match reader.read(&mut [0]).await {
        Ok(0) => Ok(()),
        end => Err(format!("after the end: {end:?}")),
    }
}

/// Random sizes, small ones and empty ones among them, that are so much together.
fn sizes(random: &mut fastrand::Rng, count: usize, total: usize) -> Vec<usize> {
    let weights: Vec<f64> = (0..count).map(|_| if random.u8(..) < 16 { 0.0 } else { random.f64().powi(3) }).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| (weight / sum * total as f64) as usize).collect()
}

/// `SSMFWD_TEST_MB` sets the total, `SSMFWD_TEST_AGENT=realistic` the agent, `SSMFWD_TEST_RTT_MS` the round trip,
/// `SSMFWD_TEST_TLS` TLS, `SSMFWD_SEED` the seed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connections_exchange_random_data_in_both_directions() {
    const CONNECTIONS: usize = 200;
    let variable = |name: &str| std::env::var(name).ok();
    let number = |name: &str| variable(name).map(|text| text.parse::<u64>().expect("a number"));
    let megabytes = number("SSMFWD_TEST_MB").unwrap_or(200) as usize;
    let seed = number("SSMFWD_SEED").unwrap_or_else(|| fastrand::u64(..));
    let realistic = variable("SSMFWD_TEST_AGENT").is_some_and(|agent| agent == "realistic");
    let patience = PATIENCE + Duration::from_secs(3) * u32::try_from(megabytes).expect("less than that");

    let world = World::with(|config| {
        config.seed = seed;
        config.rtt = Duration::from_millis(number("SSMFWD_TEST_RTT_MS").unwrap_or(0));
        config.tls = variable("SSMFWD_TEST_TLS").is_some();
        config.agent = if realistic { AgentKind::Realistic } else { AgentKind::Ideal };
    });
    let server = Destination::serve(serve).await;
    let program = world.forward(server.port, &[]).await;
    let address = program.addresses(0).await[0];
    let mut random = fastrand::Rng::with_seed(seed);
    let half = megabytes * 1_000_000 / 2;
    let (ups, downs) = (sizes(&mut random, CONNECTIONS, half), sizes(&mut random, CONNECTIONS, half));
    let all_open = Arc::new(Barrier::new(CONNECTIONS));
    let mut running = tokio::task::JoinSet::new();
    for (up, down) in ups.iter().copied().zip(downs.iter().copied()) {
        let data = Exchange { seed: random.u64(..), up, down };
        running.spawn(exchange(address, data, Arc::clone(&all_open)));
    }
    let mut failures = Vec::new();
    let outcomes = async {
        while let Some(outcome) = running.join_next().await {
            failures.extend(outcome.expect("no panic").err());
        }
        for _ in 0..CONNECTIONS {
            failures.extend(server.outcome().await.err());
        }
    };
    let in_time = timeout(patience, outcomes).await.is_ok();
    assert!(
        in_time && failures.is_empty(),
        "SSMFWD_SEED={seed}: in time: {in_time}, {failures:#?}\n{}",
        program.transcript()
    );
    assert_eq!(server.accepted(), CONNECTIONS);

    let closed = program.events("connection_closed", CONNECTIONS).await;
    let sum = |field: &str| closed.iter().map(|event| event[field].as_u64().expect("a number")).sum::<u64>();
    assert_eq!(sum("bytes_up"), (ups.iter().sum::<usize>() + 24 * CONNECTIONS) as u64, "SSMFWD_SEED={seed}");
    assert_eq!(sum("bytes_down"), downs.iter().sum::<usize>() as u64, "SSMFWD_SEED={seed}");
    world.finish(program).await;
}

/// The destination reads only after it has written everything. Meanwhile our direction fills everything there is: the
/// agent's reader is blocked and hears no acknowledgement any more.
async fn reads_only_after_its_own_write(agent: AgentKind, down: usize) {
    const UP: usize = 32 << 20;
    let world = World::with(|config| config.agent = agent);
    let server = Destination::serve(move |mut socket| async move {
        send(&mut socket, 1, down).await?;
        receive(&mut socket, 2, UP).await
    })
    .await;
    let program = world.forward(server.port, &[]).await;
    let (mut reader, mut writer) = program.connect().await.0.into_split();
    let both = async { tokio::join!(send(&mut writer, 2, UP), receive(&mut reader, 1, down)) };
    let (sent, received) = program.within("both directions", both).await;
    sent.and(received).unwrap_or_else(|error| panic!("{error}\n{}", program.transcript()));
    program.within("the destination", server.outcome()).await.expect("all arrived");
    world.finish(program).await;
}

#[tokio::test]
async fn a_destination_that_reads_only_after_its_own_write_is_no_deadlock() {
    reads_only_after_its_own_write(AgentKind::Ideal, 32 << 20).await;
}

#[tokio::test]
async fn nor_is_it_with_the_pace_of_the_genuine_agent() {
    reads_only_after_its_own_write(AgentKind::Realistic, 4 << 20).await;
}

/// The local program reads only after it has written everything. What it does not read has to wait somewhere: within
/// the receive budget of the session.
#[tokio::test]
async fn a_local_program_that_reads_only_after_its_own_write_is_no_deadlock() {
    const UP: usize = 24 << 20;
    const DOWN: usize = 6 << 20;
    let world = World::ideal();
    let server = Destination::serve(|mut socket| async move {
        let (mut reader, mut writer) = socket.split();
        let (received, sent) = tokio::join!(receive(&mut reader, 2, UP), send(&mut writer, 1, DOWN));
        received.and(sent)
    })
    .await;
    let program = world.forward(server.port, &[]).await;
    let Client(mut socket) = program.connect().await;
    within("writing", send(&mut socket, 2, UP)).await.expect("all is taken");
    within("reading", receive(&mut socket, 1, DOWN)).await.expect("all arrives");
    server.outcome().await.expect("all arrived");
    world.finish(program).await;
}

/// A slow local reader must stop neither the session nor the other connections.
#[tokio::test]
async fn a_connection_that_nobody_reads_does_not_stop_the_others() {
    let world = World::ideal();
    let server = Destination::serve(|mut socket| async move {
        match socket.read_u8().await {
            Ok(b'e') => drop(socket.write_all(&[b'e'; 10_000]).await),
            // More than fits anywhere on the way, but not more than the budget of the session.
            Ok(_) => drop(send(&mut socket, 1, 8 << 20).await),
            Err(_) => {}
        }
    })
    .await;
    let program = world.forward(server.port, &[]).await;
    let mut slow = program.connect().await;
    slow.write(b"s").await;
    for _ in 0..20 {
        let mut quick = program.connect().await;
        quick.write(b"e").await;
        assert_eq!(quick.read_to_end().await.len(), 10_000);
    }
    within("the slow one", receive(&mut slow.0, 1, 8 << 20)).await.expect("nothing is missing");
    world.finish(program).await;
}

/// A download of the genuine agent comes in messages of 1024 bytes, more than a millisecond apart.
#[tokio::test]
async fn a_download_in_drips_wakes_the_program_less_often_than_it_has_messages() {
    const DOWN: usize = 2 << 20;
    let world = World::with(|config| config.agent = AgentKind::Realistic);
    let server = Destination::serve(|mut socket| async move {
        match socket.read_u8().await {
            Ok(b'd') => drop(send(&mut socket, 1, DOWN).await),
            Ok(byte) => drop(socket.write_all(&[byte]).await),
            Err(_) => {}
        }
    })
    .await;
    let program = world.forward(server.port, &[]).await;
    let mut download = program.connect().await;
    let before = program.waits();
    download.write(b"d").await;
    program.within("the download", receive(&mut download.0, 1, DOWN)).await.expect("nothing is missing");
    assert_eq!(download.read_to_end().await, b"", "and it ends");
    if let (Some(before), Some(after)) = (before, program.waits()) {
        let (waits, messages) = (after - before, DOWN / 1024);
        assert!(waits < messages / 2, "{waits} times for {messages} messages");
    }

    // Others are served beside it.
    let mut download = program.connect().await;
    download.write(b"d").await;
    let mut rest = DOWN;
    for byte in b'0'..=b'9' {
        // Long enough that it drips again.
        rest -= download.read(100_000).await.len();
        let mut other = program.connect().await;
        other.write(&[byte]).await;
        assert_eq!(other.read_to_end().await, [byte]);
    }
    assert_eq!(download.read_to_end().await.len(), rest);
    world.finish(program).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--max-connections", "1"]).await;
    let mut first = program.connect().await;
    first.echo(b"first").await;
    let mut second = program.connect().await;
    second.write(b"second").await;
    for _ in 0..20 {
        first.echo(b"still the first").await;
    }
    assert_eq!((echo.accepted(), program.events_so_far("connection_opened").len()), (1, 1));
    drop(first);
    assert_eq!(second.read(6).await, b"second");
    assert_eq!(echo.accepted(), 2);
    drop(second);
    world.finish(program).await;
}
