//! Everything that can be wrong before ready: one clear error, a hint, the right status, and no session left.

use ssmfwd::emulator::{Action, EmulatorState, EndedBy};

use crate::harness::{Destination, Ended, Program, RefusingPort, World};

/// A run with one forward that is expected to fail.
async fn fails(world: World, options: &[&str], status: i32) -> (Ended, EmulatorState) {
    let ended = world.run(&[&["0:127.0.0.1:9", "-t", World::TARGET], options].concat()).await.expect_status(status);
    assert_eq!(ended.stdout, "");
    let errors = ended.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{}", ended.stderr);
    (ended, world.settled().await)
}

#[tokio::test]
async fn a_bad_forward_is_a_usage_error_that_says_what_is_expected() {
    let world = World::ideal();
    for (forward, expected) in [
        ("3306", "write it in full, as 3306:HOST:3306"),
        ("db:3306", "db:3306"),
        ("99999:db:3306", "99999"),
        ("13306:db:0", "PORT"),
        ("1:2:3:4:5", "1:2:3:4:5"),
        ("1:3306:3306", "3306"),
        ("", "FORWARD"),
    ] {
        let ended = world.run(&[forward, "-t", World::TARGET]).await.expect_status(2);
        let ended = ended.expect_stderr("error: ").expect_stderr(expected);
        assert_eq!(ended.stdout, "");
    }
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn errors_are_events_for_programs() {
    let world = World::ideal();
    let ended = world.start(&["0:1@i-0missing"]).exit().await.expect_status(6);
    assert_eq!(ended.event_names()[ended.events.len() - 2..], ["error", "stopped"]);
    let error = ended.events_named("error")[0];
    assert_eq!(error["status"], 6);
    assert_eq!(error["message"], "no session for 0:1@i-0missing");
    assert!(error["causes"][0].as_str().is_some_and(|cause| cause.contains("is not connected")), "{error}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("check the id")), "{error}");
    let stopped = ended.events_named("stopped")[0];
    assert_eq!((&stopped["exit"], &stopped["by"]), (&6.into(), &"ssmfwd".into()));
    world.settled().await;
}

#[tokio::test]
async fn a_missing_target_is_a_usage_error() {
    let world = World::ideal();
    let ended = world.run(&["0:db:3306"]).await.expect_status(2);
    ended.expect_stderr("error: no target for 0:db:3306").expect_stderr("hint: name one with --target");
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn a_target_that_is_not_connected_is_status_6() {
    let world = World::ideal();
    let ended = world.run(&["0:database:3306", "-t", "i-0missing"]).await.expect_status(6);
    ended
        .expect_stderr("i-0missing is not connected")
        .expect_stderr("hint: check the id, the account and the region us-east-1,");
    let state = world.settled().await;
    assert_eq!((state.calls_of("StartSession"), state.sessions_started), (1, 0));
}

#[tokio::test]
async fn a_document_that_does_not_exist_is_status_6() {
    let (ended, _) = fails(World::ideal(), &["--document", "No-Such"], 6).await;
    ended.expect_stderr("No-Such").expect_stderr("hint: the document must exist");
}

#[tokio::test]
async fn a_parameter_that_the_document_does_not_know_is_status_6() {
    let (ended, _) = fails(World::ideal(), &["--parameter", "colour=red"], 6).await;
    ended.expect_stderr("colour").expect_stderr("hint: check the target, the destination and every --parameter");
}

#[tokio::test]
async fn a_missing_region_is_a_usage_error() {
    let world = World::ideal();
    let mut command = world.command(&["0:db:3306", "-t", World::TARGET]);
    command.env_remove("AWS_REGION").env_remove("AWS_DEFAULT_REGION");
    let ended = Program::start(command).exit().await.expect_status(2);
    ended
        .expect_stderr("error: the AWS configuration cannot be used")
        .expect_stderr("hint: name a region with --region");
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn missing_credentials_are_status_4() {
    let world = World::ideal();
    let mut command = world.command(&["0:db:3306", "-t", World::TARGET]);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        command.env_remove(name);
    }
    let ended = Program::start(command).exit().await.expect_status(4);
    ended.expect_stderr("no credentials").expect_stderr("hint: log in with `ssmfwd login`");
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn expired_credentials_are_status_4() {
    let (ended, state) = fails(World::with(|config| config.expired_credentials = true), &[], 4).await;
    ended.expect_stderr("expired").expect_stderr("hint: the keys come from the environment");
    assert!(state.calls_of("StartSession") >= 1);
}

#[tokio::test]
async fn wrong_credentials_are_not_retried_for_ever() {
    let world = World::ideal();
    let mut command = world.command(&["0:db:3306", "-t", World::TARGET]);
    command.env("AWS_SECRET_ACCESS_KEY", "not-the-secret");
    let ended = Program::start(command).exit().await;
    assert!([4, 5].contains(&ended.status.code().expect("a status")), "{}", ended.stderr);
    assert!(!ended.stderr.contains("not-the-secret"), "{}", ended.stderr);
    assert_eq!(world.settled().await.sessions_started, 0);
}

#[tokio::test]
async fn a_denied_session_is_status_5_with_action_and_resources() {
    let world = World::with(|config| config.denied = vec!["StartSession".into()]);
    let (ended, state) = fails(world, &[], 5).await;
    ended.expect_stderr(&format!(
        "hint: the policy must allow ssm:StartSession on arn:aws:ec2:us-east-1:*:instance/{} and on \
         arn:aws:ssm:*::document/AWS-StartPortForwardingSessionToRemoteHost",
        World::TARGET
    ));
    assert_eq!((state.calls_of("StartSession"), state.sessions_started), (1, 0));
}

#[tokio::test]
async fn a_throttled_call_is_tried_again() {
    let world = World::with(|config| config.throttle = 1);
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    program.connect().await.echo(b"hello").await;
    let (ended, state) = world.finish(program).await;
    assert_eq!(ended.stderr, "");
    assert_eq!((state.calls_of("StartSession"), state.sessions_started), (2, 1));
}

#[tokio::test]
async fn throttling_that_does_not_end_is_status_1() {
    let (ended, state) = fails(World::with(|config| config.throttle = 100), &[], 1).await;
    ended.expect_stderr("Rate exceeded").expect_stderr("hint: too many calls");
    assert_eq!(state.sessions_started, 0);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_status_1() {
    let nobody = RefusingPort::new();
    let url = format!("http://127.0.0.1:{}", nobody.port);
    let (ended, state) = fails(World::ideal(), &["--endpoint-url", &url], 1).await;
    ended.expect_stderr(&format!("127.0.0.1:{}", nobody.port)).expect_stderr("hint: check the network");
    assert_eq!(state.calls_of("StartSession"), 0);
}

#[tokio::test]
async fn an_agent_that_does_not_come_is_status_1_and_leaves_no_session() {
    let world = World::with(|config| config.agent_start = Some(std::time::Duration::from_secs(3600)));
    let (ended, state) = fails(world, &["--connect-timeout", "2"], 1).await;
    ended
        .expect_stderr("timed out: the agent did not complete the handshake")
        .expect_stderr("hint: allow more time with --connect-timeout");
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Api)), (1, 1));
}

/// The agent refuses what comes early, so that the session does not get ready.
#[tokio::test]
async fn a_session_that_the_service_ends_before_it_is_ready_is_status_7() {
    let world = World::with(|config| config.refuse_early = Some(u32::MAX));
    let program = world.start(&["0:127.0.0.1:9"]);
    world.until("refused messages", |state| state.sessions.values().any(|session| session.up.messages > 3)).await;
    world.emulator.act(Action::ChannelClosed { output: "maintenance".into() });
    let ended = program.exit().await.expect_status(7).expect_stderr("maintenance");
    assert!(!ended.stderr.contains("the agent refused"), "{}", ended.stderr);
    world.settled().await;
}

#[tokio::test]
async fn a_forbidden_destination_is_named_by_the_agent() {
    let world = World::ideal();
    let ended = world.run(&["0:169.254.169.254:80", "-t", World::TARGET]).await.expect_status(6);
    ended
        .expect_stderr("Forwarding to IP address 169.254.169.254 is forbidden.")
        .expect_stderr("hint: the agent refused");
    world.settled().await;
}

#[tokio::test]
async fn help_and_version_are_data() {
    let world = World::ideal();
    for (option, expected) in [("--help", "13306:"), ("-h", "Usage:"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let ended = world.run(&[option]).await.expect_status(0);
        assert!(ended.stdout.contains(expected), "{}", ended.stdout);
        assert_eq!(ended.stderr, "");
    }
}
