//! A large transfer whose websockets are lost ten times on the way equals its source.
//!
//! `SSMFWD_TEST_MB` sets the size (a download takes 1.4 s for each), `SSMFWD_SEED` the bytes and the moments of the losses.

use std::{future::Future, time::Duration};

use ssmfwd::emulator::{Action, AgentKind, ChannelState, EmulatorState, SessionState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Closed, Destination, PATIENCE, Program, World, receive, send};

/// How often a transfer is interrupted.
const LOSSES: usize = 10;
/// Who loses a websocket, in turn: the client, both ends as hourly, the agent.
const ANY_WAY: &[Action] = &[Action::Disconnect, Action::Bye, Action::DisconnectAgent];

struct Transfer {
    bytes: usize,
    ways: &'static [Action],
    seed: u64,
    patience: Duration,
}

impl Transfer {
    fn of_megabytes(default: usize, ways: &'static [Action]) -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        let megabytes = number("SSMFWD_TEST_MB").map_or(default, |megabytes| megabytes as usize);
        let seed = number("SSMFWD_SEED").unwrap_or_else(|| fastrand::u64(..));
        let patience = PATIENCE + Duration::from_secs(3) * u32::try_from(megabytes).expect("less than that");
        Self { bytes: megabytes * 1_000_000, ways, seed, patience }
    }

    /// Takes websockets away at ten points of the way, each a random one of its tenth.
    async fn interrupt(&self, world: &World, passed: fn(&EmulatorState) -> u64) {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let tenth = (self.bytes / (LOSSES + 1)) as u64;
        for (number, way) in (0..LOSSES as u64).zip(self.ways.iter().cycle()) {
            let point = tenth * number + random.u64(..tenth);
            // Only what is there can be lost.
            let open = |session: &SessionState| session.channel == ChannelState::Open;
            let there = |state: &EmulatorState| passed(state) >= point && state.sessions.values().any(open);
            let before = world.emulator.wait_for(there).await;
            world.emulator.act(way.clone());
            if *way != Action::DisconnectAgent {
                world.emulator.wait_for(|state| state.upgrades_accepted > before.upgrades_accepted).await;
            }
        }
    }

    async fn run(
        &self,
        program: &Program,
        interruption: impl Future<Output = ()>,
        transfer: impl Future<Output = std::io::Result<()>>,
    ) {
        let both = async { tokio::join!(interruption, transfer).1 };
        let context = || format!("SSMFWD_SEED={}\n{}", self.seed, program.transcript());
        match tokio::time::timeout(self.patience, both).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("{error}, {}", context()),
            Err(_) => panic!("not within {} s, {}", self.patience.as_secs(), context()),
        }
        for lost in ["session_ended", "session_replaced", "dormant"] {
            assert_eq!(program.events_so_far(lost), [] as [serde_json::Value; 0], "{}", context());
        }
        let losses = program.events_so_far("reconnecting").into_iter().filter(|event| event["attempt"] == 0);
        assert!(losses.count() >= LOSSES - LOSSES / ANY_WAY.len(), "{}", context());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_interrupted_ten_times_equals_its_source() {
    let transfer = Transfer::of_megabytes(100, ANY_WAY);
    let (bytes, seed, world) = (transfer.bytes, transfer.seed, World::ideal());
    let server = Destination::serve(move |mut socket| async move {
        receive(&mut socket, seed, bytes).await?;
        socket.write_all(b"whole").await
    })
    .await;
    let program = world.forward(server.port, &[]).await;
    let mut client = program.connect().await;
    let interruption =
        transfer.interrupt(&world, |state| state.sessions.values().map(|session| session.up.bytes).sum());
    let upload = async {
        send(&mut client.0, seed, bytes).await?;
        client.0.read_exact(&mut [0; 5]).await.map(drop)
    };
    transfer.run(&program, interruption, upload).await;
    server.outcome().await.expect("all of it");
    drop(client);
    world.finish(program).await;
}

/// At the pace of the genuine agent: an agent without one has thousands of messages on their way, and sends what was lost
/// of them again at ten a second. For the same reason its own websocket stays: what it pumps into nowhere is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_download_interrupted_ten_times_equals_its_source() {
    let transfer = Transfer::of_megabytes(6, &[Action::Disconnect]);
    let (bytes, seed) = (transfer.bytes, transfer.seed);
    let world = World::with(|config| config.agent = AgentKind::Realistic);
    let server = Destination::serve(move |mut socket| async move {
        send(&mut socket, seed, bytes).await.expect("a reader");
        Closed::of(socket.read_to_end(&mut Vec::new()).await)
    })
    .await;
    let program = world.forward(server.port, &[]).await;
    let mut client = program.connect().await;
    let interruption =
        transfer.interrupt(&world, |state| state.sessions.values().map(|session| session.down.bytes).sum());
    transfer.run(&program, interruption, receive(&mut client.0, seed, bytes)).await;
    drop(client);
    assert_eq!(server.outcome().await, Closed::Cleanly(0));
    world.finish(program).await;
}
