//! Sessions that the service ends: the forward stays, and the next connection starts another one.

use std::{io, time::Duration};

use ssmfwd::emulator::{Action, EmulatorConfig, EmulatorState, EndedBy, FailureKind, Operation};

use crate::harness::{Client, Destination, Program, World, failing};

/// How long it is watched that nothing is started.
const WATCH: Duration = Duration::from_millis(700);

/// The forward is dormant; then connections come, and one session serves them all.
async fn wakes(world: World, program: Program, calm: fn(&mut EmulatorConfig)) -> EmulatorState {
    program.event("dormant").await;
    world.emulator.configure(calm);
    let started = world.emulator.state().sessions_started;
    let more = world.emulator.wait_for(|state| state.sessions_started > started);
    assert!(tokio::time::timeout(WATCH, more).await.is_err(), "nobody asked for a session\n{}", program.transcript());

    let mut clients: [Client; 3] = [program.connect().await, program.connect().await, program.connect().await];
    for client in &mut clients {
        client.echo(b"awake").await;
    }
    assert_eq!(world.emulator.state().sessions_started, started + 1, "{}", program.transcript());
    let sessions = program.events("session_started", 2).await;
    assert_ne!(sessions[0]["session_id"], sessions[1]["session_id"]);
    assert_eq!(program.events_so_far("session_replaced").len(), 0);
    let (ended, state) = world.finish(program).await;
    assert_eq!(ended.events_named("dormant").len(), 1);
    assert_eq!(ended.events_named("session_ended")[0]["session_id"], sessions[0]["session_id"]);
    state
}

/// Why a forward is dormant.
async fn reason(program: &Program) -> [String; 2] {
    let dormant = program.event("dormant").await;
    ["reason", "by"].map(|member| dormant[member].as_str().expect("text").to_owned())
}

#[tokio::test]
async fn an_idle_timeout_leaves_the_forward_dormant() {
    let world = World::with(|config| config.idle_timeout = Some(Duration::from_millis(500)));
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    assert_eq!(reason(&program).await, ["channel_closed", "service"]);
    let state = wakes(world, program, |config| config.idle_timeout = None).await;
    assert_eq!((state.ended_by(EndedBy::Idle), state.ended_by(EndedBy::Flag)), (1, 1));
}

#[tokio::test]
async fn a_maximum_duration_leaves_the_forward_dormant() {
    let world = World::with(|config| config.max_duration = Some(Duration::from_millis(700)));
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
    let state = wakes(world, program, |config| config.max_duration = None).await;
    assert_eq!(state.ended_by(EndedBy::MaxDuration), 1);
}

#[tokio::test]
async fn an_administrator_who_ends_the_session_is_obeyed_and_quoted() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    world.emulator.act(Action::ChannelClosed { output: "ended by an administrator".into() });
    assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
    assert_eq!(program.event("connection_closed").await["reason"], "session_ended");
    let dormant = program.event("dormant").await;
    assert!(dormant["detail"].as_str().is_some_and(|text| text.contains("ended by an administrator")), "{dormant}");
    let state = wakes(world, program, |_| {}).await;
    assert_eq!((state.ended_by(EndedBy::Service), state.calls_of("TerminateSession")), (1, 0));
}

/// The end came while there was no websocket that could have told.
#[tokio::test]
async fn a_session_that_is_over_when_it_is_to_be_resumed_leaves_the_forward_dormant() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    world.emulator.configure(|config| config.failures = failing(Operation::ResumeSession, FailureKind::Internal));
    world.emulator.act(Action::Disconnect);
    program.events("reconnecting", 2).await;
    world.emulator.act(Action::ChannelClosed { output: String::new() });
    world.emulator.configure(|config| config.failures.clear());
    assert_eq!(reason(&program).await, ["session_over", "service"]);
    assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
    wakes(world, program, |_| {}).await;
}

#[tokio::test]
async fn a_session_that_the_service_has_forgotten_leaves_the_forward_dormant() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    world.emulator.configure(|config| config.failures = failing(Operation::ResumeSession, FailureKind::DoesNotExist));
    world.emulator.act(Action::Disconnect);
    assert_eq!(reason(&program).await, ["session_over", "service"]);
    // It lives on in the emulator, whatever that said.
    world.emulator.act(Action::ChannelClosed { output: String::new() });
    wakes(world, program, |config| config.failures.clear()).await;
}

#[tokio::test]
async fn people_are_told_what_the_next_connection_does() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.start_for_people(echo.port);
    program.line("ready in").await;
    world.emulator.act(Action::ChannelClosed { output: "maintenance".into() });
    let line = program.line("the next connection starts a new session").await;
    assert!(line.contains("maintenance"), "{line}");
    let (ended, state) = world.finish(program).await;
    assert!(!ended.stderr.contains("warning"), "{}", ended.stderr);
    assert_eq!((state.sessions_started, state.live_sessions()), (1, 0));
}

/// What wakes the forward fails at first: the connection that waits is served when it works.
#[tokio::test]
async fn a_connection_waits_for_a_start_that_fails_at_first() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    world.emulator.act(Action::ChannelClosed { output: String::new() });
    program.event("dormant").await;
    world.emulator.configure(|config| config.failures = failing(Operation::StartSession, FailureKind::ExpiredToken));
    let mut client = program.connect().await;
    client.write(b"patience").await;
    let failed = program.event("reconnecting").await;
    assert!(failed["session_id"].is_null(), "{failed}");
    program.event("credentials_expired").await;
    world.emulator.configure(|config| config.failures.clear());
    assert_eq!(client.read(8).await, b"patience");
    world.finish(program).await;
}

#[tokio::test]
async fn a_session_is_kept_from_being_idle_if_asked_to() {
    let idle = Duration::from_millis(1500);
    let world = World::with(|config| config.idle_timeout = Some(idle));
    let programs = [world.start(&["0:127.0.0.1:9", "--keep-alive", "0.2"]), world.start(&["0:127.0.0.1:9"])];
    let kept = programs[0].event("session_started").await;
    programs[0].event("ready").await;
    // By then the other one has been idle for as long.
    programs[1].event("dormant").await;
    let other_ended = |state: &EmulatorState| state.ended_by(EndedBy::Idle) == 1;
    let state = world.until("an idle session", other_ended).await;
    let session = &state.sessions[kept["session_id"].as_str().expect("an id")];
    assert!(session.up.messages > 3, "{session:?}");
    let alive = session.up.messages + 10;
    let lives = |state: &EmulatorState| state.sessions.values().any(|session| session.up.messages >= alive);
    world.until("signs of life", lives).await;
    assert_eq!(programs[0].events_so_far("dormant").len(), 0);
    for program in programs {
        program.signal(rustix::process::Signal::TERM);
        program.exit().await.expect_status(143);
    }
    assert_eq!(world.settled().await.ended_by(EndedBy::Flag), 1);
}
