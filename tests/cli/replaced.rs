//! Sessions that cannot be brought back: another one takes their place, and their connections are reset.

use std::io;

use ssmfwd::emulator::{Action, EmulatorState, EndedBy, FailureKind, Operation};

use crate::harness::{Destination, World, failing};

#[tokio::test]
async fn a_session_that_may_not_be_resumed_is_replaced_with_one_warning() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    world.emulator.configure(|config| config.denied = vec!["ResumeSession".into()]);
    world.emulator.act(Action::Disconnect);
    assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
    let replaced = program.event("session_replaced").await;
    assert_eq!(replaced["reason"], "not_resumable", "{replaced}");
    assert!(replaced["detail"].as_str().is_some_and(|text| text.contains("ResumeSession")), "{replaced}");
    let sessions = program.events("session_started", 2).await;
    assert_eq!(replaced["by"], "service", "{replaced}");
    assert_eq!(replaced["session_id"], sessions[1]["session_id"]);
    assert_eq!(replaced["replaces"], sessions[0]["session_id"]);
    assert_eq!(program.event("session_ended").await["session_id"], sessions[0]["session_id"]);
    assert_eq!(program.event("connection_closed").await["reason"], "session_ended");
    program.connect().await.echo(b"again").await;
    let (ended, state) = world.finish(program).await;
    assert_eq!(ended.stderr.matches("warning: ").count(), 1, "{}", ended.stderr);
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Api), state.ended_by(EndedBy::Flag)), (2, 1, 1));
}

/// Not only when there is a session again: that may take a night.
#[tokio::test]
async fn people_are_told_at_once_that_connections_are_reset() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.start_for_people(echo.port);
    program.line("ready in").await;
    let failures = [
        failing(Operation::ResumeSession, FailureKind::AccessDenied),
        failing(Operation::StartSession, FailureKind::TargetNotConnected),
    ];
    world.emulator.configure(|config| config.failures = failures.concat());
    world.emulator.act(Action::Disconnect);
    let told = program.line(" was lost, its connections are reset: ").await;
    assert!(told.starts_with("warning: ") && told.contains("ResumeSession"), "{told}");
    program.line("no new session yet").await;
    world.emulator.configure(|config| config.failures.clear());
    program.line("takes its place").await;
    let (ended, _) = world.finish(program).await;
    assert_eq!(ended.stderr.matches("warning: ").count(), 1, "{}", ended.stderr);
}

#[tokio::test]
async fn connections_that_come_meanwhile_are_held() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let failures = [
        failing(Operation::ResumeSession, FailureKind::AccessDenied),
        failing(Operation::StartSession, FailureKind::Internal),
    ];
    world.emulator.configure(|config| config.failures = failures.concat());
    world.emulator.act(Action::Disconnect);
    program.event("session_ended").await;
    let mut client = program.connect().await;
    client.write(b"patience").await;
    let failed = program.events("reconnecting", 2).await.swap_remove(1);
    assert_eq!((failed["session_id"].is_null(), &failed["attempt"]), (true, &1.into()), "{failed}");
    world.emulator.configure(|config| config.failures.clear());
    assert_eq!(client.read(8).await, b"patience");
    assert_eq!(program.events_so_far("session_replaced").len(), 1);
    world.finish(program).await;
}

/// Nobody tells that the agent is gone: its silence does, with data under way.
#[tokio::test]
async fn an_agent_that_is_gone_is_told_by_its_silence_and_replaced() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--stall-timeout", "12"]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    assert_eq!(world.emulator.act(Action::KillAgent), 1);
    client.write(b"into the void").await;
    let stalled = program.event("stalled").await;
    let first = program.event("session_started").await;
    assert_eq!((&stalled["active"], &stalled["session_id"]), (&true.into(), &first["session_id"]));
    // Connections that come now need not wait, and the old ones are not given up yet.
    let mut fresh = program.connect().await;
    fresh.echo(b"served").await;
    assert_eq!(world.emulator.state().sessions_started, 2);
    assert_eq!(program.events_so_far("connection_closed").len(), 0);
    assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
    let ended = program.event("session_ended").await;
    assert_eq!((&ended["session_id"], &ended["reason"]), (&first["session_id"], &"timeout".into()));
    fresh.echo(b"still served").await;
    let (_, state) = world.finish(program).await;
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Api), state.ended_by(EndedBy::Flag)), (2, 1, 1));
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

#[tokio::test]
async fn a_document_that_is_gone_ends_everything_with_status_6() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = world.start(&[&forward, &forward]);
    let started = program.events("session_started", 2).await;
    program.event("ready").await;
    let failures = [
        failing(Operation::ResumeSession, FailureKind::AccessDenied),
        failing(Operation::StartSession, FailureKind::InvalidDocument),
    ];
    world.emulator.configure(|config| config.failures = failures.concat());
    let second = started[1]["session_id"].as_str().expect("an id");
    assert!(world.emulator.act_on(second, Action::Disconnect));
    let ended = program.exit().await.expect_status(6).expect_stderr("error: no new session for 0:127.0.0.1:");
    assert_eq!(ended.events_named("session_ended").len(), 2);
    assert_eq!(ended.events_named("error")[0]["status"], 6);
    assert_eq!(world.settled().await.ended_by(EndedBy::Flag), 1);
}

/// The agent's host restarts: its sessions are over, and it takes a while until there can be new ones.
#[tokio::test]
async fn a_restarted_agent_gets_a_new_session() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    assert_eq!(world.emulator.act(Action::RestartAgent), 1);
    assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
    world.until("the agent", |state: &EmulatorState| state.agent_restarts == 1).await;
    program.connect().await.echo(b"again").await;
    world.finish(program).await;
}
