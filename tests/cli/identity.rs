//! Who we are: said once, beside the start of the session, and never in its way.

use ssmfwd::emulator::{EmulatorConfig, FailureKind, Operation};
use tokio::net::TcpListener;

use crate::harness::{Destination, Program, World, failing};

const LINE: &str = "ssmfwd: 123456789012 as user/user (us-east-1)";

#[tokio::test]
async fn account_user_and_region_are_said_once() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.start_for_people(echo.port);
    program.line("ready in ").await;
    assert_eq!(program.line(" as ").await, LINE);
    let (ended, state) = world.finish(program).await;
    assert_eq!(ended.stderr.matches(" as user/user").count(), 1, "{}", ended.stderr);
    assert_eq!(state.calls_of("GetCallerIdentity"), 1);
}

#[tokio::test]
async fn programs_get_an_event() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut identity = program.event("identity").await;
    identity.as_object_mut().expect("an object").remove("time");
    let expected = serde_json::json!({
        "event": "identity", "account": "123456789012", "arn": EmulatorConfig::DEFAULT_IDENTITY, "profile": null,
        "region": "us-east-1",
    });
    assert_eq!(identity, expected);
    world.finish(program).await;
}

/// A policy with Start-, Resume- and TerminateSession and nothing else, and a network without a way to STS.
#[tokio::test]
async fn what_cannot_be_known_is_not_mentioned() {
    for kind in [FailureKind::AccessDenied, FailureKind::Internal, FailureKind::ExpiredToken, FailureKind::Throttled] {
        let world = World::with(|config| config.failures = failing(Operation::GetCallerIdentity, kind));
        let echo = Destination::echo().await;
        let program = world.start_for_people(echo.port);
        program.line("ready in ").await;
        world.until("the question", |state| state.calls_of("GetCallerIdentity") > 0).await;
        let (ended, _) = world.finish(program).await;
        let lines: Vec<_> = ended.stderr.lines().filter(|line| !line.ends_with("\"bastion\"")).collect();
        assert_eq!(lines.len(), 3, "{kind:?}: {lines:?}");
        assert!(lines[2].starts_with("ssmfwd: SIGTERM"), "{kind:?}: {lines:?}");
    }
}

#[tokio::test]
async fn an_sts_that_does_not_answer_holds_nothing_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let mut command = world.command(&["--output", "json", "-t", World::TARGET, &format!("0:127.0.0.1:{}", echo.port)]);
    command.env("AWS_ENDPOINT_URL_STS", format!("http://{}", silent.local_addr().expect("an address")));
    let program = Program::start(command);
    program.event("ready").await;
    let (_held, _) = program.within("the question", silent.accept()).await.expect("a connection");
    program.connect().await.echo(b"hello").await;
    let (ended, state) = world.finish(program).await;
    assert!(ended.events_named("identity").is_empty());
    assert_eq!(state.calls_of("GetCallerIdentity"), 0);
}

#[tokio::test]
async fn quiet_asks_nobody() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = Program::start(world.command(&["-q", "-t", World::TARGET, &forward]));
    world.until("a session", |state| state.websockets == 1).await;
    let (ended, state) = world.finish(program).await;
    assert_eq!((ended.stderr.as_str(), state.calls_of("GetCallerIdentity")), ("", 0));
}
