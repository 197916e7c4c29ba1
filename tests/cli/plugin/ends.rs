//! Every way out ends the session that the caller has started.

use rustix::process::Signal;

use super::{Caller, connect};
use crate::harness::{Destination, Program, World};

#[tokio::test]
async fn signals_end_the_session() {
    for (signal, status) in [(Signal::HUP, 129), (Signal::TERM, 143), (Signal::INT, 0)] {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let caller = Caller::of_port(&world, echo.port).await;
        let program = Program::start(caller.usual(&world));
        connect(&program).await.echo(b"\n").await;
        program.signal(signal);
        let ended = program.exit().await.expect_status(status);
        assert_eq!(ended.stderr, "");
        assert_eq!(ended.stdout.contains("Terminate signal received, exiting."), signal == Signal::INT);
        world.settled().await;
    }
}

/// Nobody else would end it: not the caller, who thinks that we have it.
#[tokio::test]
async fn arguments_that_cannot_be_used_cost_no_session() {
    for (change, said) in [
        (&(|arguments: &mut Vec<String>| arguments.truncate(1)) as &dyn Fn(&mut Vec<String>), "1 arguments are not"),
        (&|arguments| arguments.truncate(2), "2 arguments are not"),
        (&|arguments| arguments[2] = "ResumeSession".to_owned(), "the operation is not StartSession"),
        (
            &|arguments| arguments[0] = arguments[0].replace("StreamUrl", "Elsewhere"),
            "StartSession's answer has no StreamUrl",
        ),
    ] {
        let world = World::ideal();
        let caller = Caller::of_port(&world, 9).await;
        let mut arguments = caller.arguments().to_vec();
        change(&mut arguments);
        let ended = Program::start(caller.command(&world, &arguments)).exit().await.expect_status(2);
        assert!(!ended.stderr.contains("warning: "), "{}", ended.stderr);
        ended.expect_stderr(said);
        assert_eq!(world.emulator.state().calls_of("TerminateSession"), 1);
        world.settled().await;
    }
}

#[tokio::test]
async fn a_variable_that_cannot_be_used_costs_no_session() {
    for (name, value) in [
        ("SSMFWD_LINGER", "soon"),
        ("SSMFWD_ESCAPE", "~~"),
        ("SSMFWD_OUTPUT", "xml"),
        ("SSMFWD_ENDPOINT_URL", "ftp://host"),
        ("SSMFWD_MFA_CODE", "12"),
    ] {
        let world = World::ideal();
        let caller = Caller::of_shell(&world).await;
        let mut command = caller.usual(&world);
        command.env(name, value);
        let ended = Program::start(command).exit().await.expect_status(2);
        assert!(ended.stderr.contains("hint: ") && !ended.stderr.contains("warning: "), "{}", ended.stderr);
        let option = name.trim_start_matches("SSMFWD_").to_lowercase().replace('_', "-");
        ended.expect_stderr("error: ").expect_stderr(&format!("--{option}"));
        assert_eq!(world.emulator.state().calls_of("TerminateSession"), 1);
        world.settled().await;
    }
}

/// The service has taken it, so it is one.
#[tokio::test]
async fn a_target_of_a_form_that_is_not_known_is_no_mistake() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let caller = Caller::of_port(&world, echo.port).await;
    let mut arguments = caller.arguments();
    arguments[4] = r#"{"Target":"i-of/another kind:@"}"#.to_owned();
    let program = Program::start(caller.command(&world, &arguments));
    connect(&program).await.echo(b"hello").await;
    program.signal(Signal::INT);
    let ended = program.exit().await.expect_status(0);
    assert_eq!(ended.stderr, "");
    world.settled().await;
}

/// They were set for forwards, of which there is none here.
#[tokio::test]
async fn variables_of_what_is_not_done_here_do_not_matter() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let caller = Caller::of_port(&world, echo.port).await;
    let mut command = caller.usual(&world);
    command.envs([
        ("SSMFWD_TARGET", "tag:"),
        ("SSMFWD_DOCUMENT", "Mine"),
        ("SSMFWD_PARAMETER", "nonsense"),
        ("SSMFWD_REASON", &*"x".repeat(300)),
        ("SSMFWD_SESSIONS", "many"),
        ("SSMFWD_LAZY", "perhaps"),
        ("SSMFWD_IDLE_CLOSE", "-1"),
        ("SSMFWD_READY_FD", "1"),
        ("SSMFWD_ADMIN", "nowhere"),
        ("SSMFWD_CONFIG", "/nowhere"),
        // And one that does.
        ("SSMFWD_VERBOSE", "1"),
    ]);
    let program = Program::start(command);
    connect(&program).await.echo(b"hello").await;
    program.signal(Signal::INT);
    program.exit().await.expect_status(0).expect_stderr("session adopted");
    world.settled().await;
}
