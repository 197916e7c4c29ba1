//! Several forwards in one program.

use ssmfwd::emulator::{Action, EmulatorConfig, EndedBy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Client, Destination, World};

const OTHER: &str = "mi-0fedcba9876543210";

fn two_targets(config: &mut EmulatorConfig) {
    config.targets.push(OTHER.into());
}

#[tokio::test]
async fn each_forward_has_its_own_session_and_may_have_its_own_target() {
    let world = World::with(two_targets);
    let servers =
        [Destination::greeting(b"A").await, Destination::greeting(b"B").await, Destination::greeting(b"C").await];
    let forwards = [
        format!("0:127.0.0.1:{}", servers[0].port),
        format!("0:{}@{OTHER}", servers[1].port),
        format!("127.0.0.1:0:localhost:{}@{OTHER}", servers[2].port),
    ];
    let program = world.start(&[&forwards[0], &forwards[1], &forwards[2]]);
    for (index, expected) in [b"A", b"B", b"C"].into_iter().enumerate() {
        let mut client = Client::to(program.addresses(index).await[0]).await;
        assert_eq!(client.read(1).await, expected);
    }
    let (ended, state) = world.finish(program).await;
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Flag)), (3, 3));
    assert_eq!(state.sessions.values().filter(|session| session.target == OTHER).count(), 2);
    assert_eq!(ended.events_named("ready").len(), 1);
    let mut started: Vec<_> =
        ended.events_named("session_started").iter().map(|event| event["forward"].clone()).collect();
    started.sort_by_key(|name| forwards.iter().position(|forward| name == forward));
    assert_eq!(started, forwards);
}

#[tokio::test]
async fn one_target_that_fails_ends_everything_before_ready() {
    let world = World::with(two_targets);
    let program = world.start(&["0:127.0.0.1:1", "0:2@i-0missing", &format!("0:3@{OTHER}")]);
    let ended = program.exit().await.expect_status(6).expect_stderr("error: no session for 0:2@i-0missing");
    assert_eq!(ended.events_named("ready").len(), 0);
    let state = world.settled().await;
    assert_eq!(state.errors.get("TargetNotConnected"), Some(&1));
}

#[tokio::test]
async fn the_first_failure_in_command_order_decides() {
    let world = World::ideal();
    let forwards = ["0:1@i-0absent", "0:2@i-0gone"];
    let ended = world.run(&forwards).await.expect_status(6);
    let ended = ended.expect_stderr("0:1@i-0absent");
    assert!(!ended.stderr.contains("0:2@i-0gone"), "{}", ended.stderr);
    world.settled().await;
}

#[tokio::test]
async fn a_session_that_ends_does_not_concern_its_neighbours() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = world.start(&[&forward, &forward]);
    let started = program.events("session_started", 2).await;
    program.event("ready").await;
    let mut clients = Vec::new();
    for index in 0..2 {
        let mut client = Client::to(program.addresses(index).await[0]).await;
        client.echo(b"before").await;
        clients.push(client);
    }
    let second = started[1]["session_id"].as_str().expect("an id");
    assert!(world.emulator.act_on(second, Action::ChannelClosed { output: "enough".into() }));
    assert_eq!(program.event("session_ended").await["session_id"], second);
    program.event("dormant").await;
    // Which of the two equal forwards had that session is not told.
    program.event("connection_closed").await;
    let mut served = 0;
    for mut client in clients {
        served += usize::from(client.0.write_all(b"after").await.is_ok() && client.0.read_u8().await.is_ok());
    }
    assert_eq!(served, 1);
    for index in 0..2 {
        Client::to(program.addresses(index).await[0]).await.echo(b"both serve").await;
    }
    let (_, state) = world.finish(program).await;
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Service), state.ended_by(EndedBy::Flag)), (3, 1, 2));
}
