//! Sessions that are lost or ended while they are in use: status 7, the cause, and no connection that looks complete.

use std::{io, time::Duration};

use ssmfwd::emulator::{Action, EmulatorState, EndedBy};

use crate::harness::{ApiRelay, Destination, Ended, World};

/// A connection in use when something happens to its session.
async fn lost(world: World, what: Action) -> (Ended, EmulatorState) {
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    assert_eq!(world.emulator.act(what), 1);
    assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
    let ended = program.exit().await.expect_status(7).expect_stderr("error: the session of 0:127.0.0.1:");
    assert_eq!(ended.events_named("connection_closed")[0]["reason"], "session_ended");
    let names = ended.event_names();
    assert_eq!(names[names.len() - 3..], ["session_ended", "error", "stopped"]);
    let stopped = ended.events_named("stopped")[0];
    assert_eq!((&stopped["exit"], &stopped["by"]), (&7.into(), &"ssmfwd".into()));
    (ended, world.settled().await)
}

#[tokio::test]
async fn a_websocket_that_is_reset_ends_the_session_through_the_api() {
    let (ended, state) = lost(World::ideal(), Action::Disconnect).await;
    let ended = ended.expect_stderr("caused by: connection lost: ").expect_stderr("hint: ");
    let over = ended.events_named("session_ended")[0];
    assert_eq!((&over["reason"], &over["by"]), (&"connection_lost".into(), &"network".into()));
    assert_eq!((state.ended_by(EndedBy::Api), state.calls_of("TerminateSession")), (1, 1));
}

#[tokio::test]
async fn a_websocket_that_is_closed_tells_code_and_reason() {
    let (ended, state) = lost(World::ideal(), Action::Bye).await;
    ended.expect_stderr("the gateway closed the websocket with 1000 Bye");
    assert_eq!(state.ended_by(EndedBy::Api), 1);
}

/// The session must not outlive the program because the API takes its time.
#[tokio::test]
async fn the_call_that_ends_a_lost_session_is_waited_for() {
    let world = World::ideal();
    let relay = ApiRelay::to(&world.emulator).await;
    let program = world.start(&["0:127.0.0.1:9", "--endpoint-url", &relay.url]);
    program.event("ready").await;
    relay.hold();
    world.emulator.act(Action::Disconnect);
    world.until("a call", |state| state.calls_of("TerminateSession") == 1).await;
    relay.release();
    let ended = program.exit().await.expect_status(7);
    assert!(!ended.stderr.contains("was not ended"), "{}", ended.stderr);
    assert_eq!(world.settled().await.ended_by(EndedBy::Api), 1);
}

#[tokio::test]
async fn a_session_that_the_service_ends_tells_why() {
    let output = "Session terminated: maximum duration".to_owned();
    let (ended, state) = lost(World::ideal(), Action::ChannelClosed { output }).await;
    let ended = ended.expect_stderr("Session terminated: maximum duration");
    assert_eq!(ended.events_named("session_ended")[0]["reason"], "channel_closed");
    assert_eq!((state.ended_by(EndedBy::Service), state.calls_of("TerminateSession")), (1, 0));
}

#[tokio::test]
async fn an_idle_session_is_ended_by_the_service() {
    let world = World::with(|config| config.idle_timeout = Some(Duration::from_millis(500)));
    let program = world.start(&["0:127.0.0.1:9"]);
    let ended = program.exit().await.expect_status(7);
    assert_eq!(ended.events_named("session_ended")[0]["by"], "service");
    ended.expect_stderr("hint: an idle timeout");
    assert_eq!(world.settled().await.ended_by(EndedBy::Idle), 1);
}

#[tokio::test]
async fn data_under_way_when_the_websocket_is_lost_ends_in_a_reset() {
    let world = World::ideal();
    let server = Destination::greeting(&[7; 20_000_000]).await;
    let program = world.forward(server.port, &[]).await;
    let mut client = program.connect().await;
    client.read(1_000_000).await;
    world.emulator.act(Action::Disconnect);
    let (rest, error) = client.read_to_failure().await;
    assert_eq!(error, io::ErrorKind::ConnectionReset);
    assert!(rest.len() < 19_000_000);
    program.exit().await.expect_status(7);
    world.settled().await;
}

#[tokio::test]
async fn an_agent_that_is_gone_leaves_the_end_to_the_api() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    world.emulator.act(Action::KillAgent);
    let (_, state) = world.finish(program).await;
    assert_eq!((state.ended_by(EndedBy::Api), state.calls_of("TerminateSession")), (1, 1));
    assert_eq!(client.read_to_failure().await.1, io::ErrorKind::ConnectionReset);
}

/// Nothing comes any more, and nothing says so.
#[tokio::test]
async fn a_network_that_falls_silent_is_noticed_by_pings() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let relay = ApiRelay::to(&world.emulator).await;
    let program = world.forward(echo.port, &["--endpoint-url", &relay.url, "--ping-interval", "0.5"]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    relay.hold();
    assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
    relay.release();
    program.exit().await.expect_status(7).expect_stderr("connection lost: ");
    assert_eq!(world.settled().await.ended_by(EndedBy::Api), 1);
}

#[tokio::test]
async fn an_aws_that_is_gone_altogether_ends_the_program_with_a_warning() {
    let world = World::ideal();
    let program = world.forward(9, &[]).await;
    drop(world);
    let ended = program.exit().await.expect_status(7);
    ended.expect_stderr("was not ended and lives until its idle timeout").expect_stderr("caused by: connection lost");
}

#[tokio::test]
async fn an_agent_that_reconnects_is_not_noticed() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    for round in 0..5 {
        client.echo(b"before").await;
        world.emulator.act(Action::DisconnectAgent);
        client.echo(format!("after {round}").as_bytes()).await;
    }
    world.finish(program).await;
}

#[tokio::test]
async fn a_pause_holds_data_until_the_service_lifts_it() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"before").await;
    world.emulator.act(Action::Pause);
    client.write(b"paused").await;
    world.emulator.act(Action::Start);
    assert_eq!(client.read(6).await, b"paused");
    world.finish(program).await;
}
