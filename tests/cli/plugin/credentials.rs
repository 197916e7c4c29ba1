//! Credentials that are no use, or none at all: a session is worth more than they are.

use rustix::process::Signal;
use ssmfwd::emulator::{Action, UpgradePolicy};
use tokio::process::Command;

use super::{Caller, connect};
use crate::harness::{Destination, Ended, Program, World};

const KEYS: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// Whose gateway wants no signature.
fn world(upgrade: UpgradePolicy) -> World {
    World::with(|config| config.upgrade = upgrade)
}

fn without_keys(command: &mut Command) -> &mut Command {
    KEYS.iter().fold(command, |command, key| command.env_remove(key))
}

/// Forwards, and is left with Ctrl-C: the agent ends such a session, whatever the API would say.
async fn goes_on_and_ends(world: World, echo: Destination, command: Command) -> Ended {
    let program = Program::start(command);
    connect(&program).await.echo(b"hello").await;
    program.signal(Signal::INT);
    let ended = program.exit().await.expect_status(0);
    assert_eq!(
        (world.emulator.state().calls_of("ResumeSession"), world.emulator.state().calls_of("TerminateSession")),
        (0, 0)
    );
    drop(echo);
    world.settled().await;
    ended
}

/// What is said: that there are none, what that means, and nothing of a session that was not ended.
#[track_caller]
fn is_told_once(ended: &Ended, why: &str) {
    let warnings: Vec<_> = ended.stderr.lines().filter(|line| !line.is_empty()).collect();
    let [warning] = warnings[..] else { panic!("{}", ended.stderr) };
    assert!(warning.contains(why), "{warning}");
    assert!(warning.contains("the session goes on without credentials"), "{warning}");
    assert!(!warning.contains("was not ended"), "{warning}");
}

#[tokio::test]
async fn a_session_of_a_profile_that_is_not_there_goes_on() {
    let (world, echo) = (world(UpgradePolicy::Any), Destination::echo().await);
    let caller = Caller::of_port(&world, echo.port).await;
    let mut arguments = caller.arguments();
    arguments[3] = "missing".to_owned();
    let command = caller.command(&world, &arguments);
    let ended = goes_on_and_ends(world, echo, command).await;
    is_told_once(&ended, "there is no profile `missing`");
}

#[tokio::test]
async fn a_session_with_credentials_that_are_no_use_goes_on() {
    let (world, echo) = (world(UpgradePolicy::Any), Destination::echo().await);
    let caller = Caller::of_port(&world, echo.port).await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    std::fs::write(&config, "[default]\ncredential_process = false\n").expect("room");
    let mut command = caller.usual(&world);
    without_keys(&mut command).env("AWS_CONFIG_FILE", &config);
    let ended = goes_on_and_ends(world, echo, command).await;
    is_told_once(&ended, "OpenDataChannel");
}

/// As it is with a caller that has its URL presigned, on a machine without an AWS configuration.
fn presigned(caller: &mut Caller) {
    let url = caller.answer["StreamUrl"].as_str().expect("a text");
    let url = format!("{url}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0123456789abcdef");
    caller.answer["StreamUrl"] = url.into();
}

#[tokio::test]
async fn a_presigned_url_takes_no_credentials() {
    let (world, echo) = (world(UpgradePolicy::Unsigned), Destination::echo().await);
    let mut caller = Caller::of_port(&world, echo.port).await;
    presigned(&mut caller);
    let mut command = caller.usual(&world);
    without_keys(&mut command).env("SSM_PLUGIN_SKIP_CLIENT_CONFIGURE", "true");
    let ended = goes_on_and_ends(world, echo, command).await;
    assert_eq!(ended.stderr, "");
}

/// Nobody can resume it, so nothing is waited for. What is left of it cannot be ended either, and that is said.
#[tokio::test]
async fn without_credentials_a_lost_connection_is_the_end() {
    for is_presigned in [true, false] {
        let (world, echo) = (world(UpgradePolicy::Unsigned), Destination::echo().await);
        let mut caller = Caller::of_port(&world, echo.port).await;
        if is_presigned {
            presigned(&mut caller);
        }
        let mut command = caller.usual(&world);
        without_keys(&mut command).env("SSM_PLUGIN_SKIP_CLIENT_CONFIGURE", "true");
        let program = Program::start(command);
        connect(&program).await.echo(b"hello").await;
        assert_eq!(world.emulator.act(Action::Disconnect), 1);
        let ended = program.exit().await.expect_status(7);
        ended.expect_stderr("was not ended and lives until its idle timeout");
        assert_eq!(
            (world.emulator.state().calls_of("ResumeSession"), world.emulator.state().calls_of("TerminateSession")),
            (0, 0)
        );
    }
}

/// With a URL of another host no websocket is opened, and without credentials nothing can be ended.
#[tokio::test]
async fn a_session_that_nobody_can_end_is_named() {
    let world = World::ideal();
    let mut caller = Caller::of_shell(&world).await;
    caller.answer["StreamUrl"] = "wss://ssmmessages.example.com/v1/data-channel/x".into();
    let mut command = caller.usual(&world);
    without_keys(&mut command).env("SSM_PLUGIN_SKIP_CLIENT_CONFIGURE", "true");
    let ended = Program::start(command).exit().await.expect_status(1);
    ended.expect_stderr("not trusted").expect_stderr("the session lives until its idle timeout");
    assert_eq!(world.emulator.state().live_sessions(), 1);
}
