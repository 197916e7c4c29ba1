//! Gateways that are particular about the websocket's signature, and clocks that differ.

use ssmfwd::emulator::{EndedBy, UpgradePolicy};

use crate::harness::{Destination, World};

#[tokio::test]
async fn a_gateway_that_reads_a_plus_as_itself_is_understood() {
    let world = World::with(|config| config.upgrade = UpgradePolicy::SignedLiteralPlus);
    let echo = Destination::echo().await;
    let mut refused = 0;
    // Only some StreamUrls have a `+`.
    for _ in 0..4 {
        let program = world.forward(echo.port, &[]).await;
        program.connect().await.echo(b"hello").await;
        program.signal(rustix::process::Signal::TERM);
        let ended = program.exit().await.expect_status(143);
        assert_eq!(ended.stderr, "", "a signature was accepted");
        refused = world.emulator.state().upgrades_refused;
    }
    let state = world.settled().await;
    assert_eq!((state.upgrades_accepted, state.ended_by(EndedBy::Flag)), (4, 4));
    assert!(refused >= 1, "no StreamUrl had a plus");
}

#[tokio::test]
async fn a_denied_signature_falls_back_to_none_with_a_warning() {
    let world = World::with(|config| {
        config.upgrade = UpgradePolicy::Any;
        config.denied = vec!["OpenDataChannel".into()];
    });
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    program.connect().await.echo(b"hello").await;
    let (ended, state) = world.finish(program).await;
    ended.expect_stderr(
        "warning: the data channel was opened unsigned: the policy should allow ssmmessages:OpenDataChannel",
    );
    assert_eq!(state.upgrades_accepted, 1);
    assert!(state.upgrades_refused >= 1);
}

#[tokio::test]
async fn a_gateway_that_takes_no_signature_is_served_without() {
    let world = World::with(|config| config.upgrade = UpgradePolicy::Unsigned);
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    program.connect().await.echo(b"hello").await;
    let (ended, _) = world.finish(program).await;
    ended.expect_stderr("ssmmessages:OpenDataChannel");
}

#[tokio::test]
async fn a_data_channel_that_is_denied_altogether_is_status_5_and_leaves_no_session() {
    let world = World::with(|config| config.denied = vec!["OpenDataChannel".into()]);
    let ended = world.run(&["0:127.0.0.1:1", "-t", World::TARGET]).await.expect_status(5);
    ended.expect_stderr("hint: the policy must allow ssmmessages:OpenDataChannel on arn:aws:ssm:");
    let state = world.settled().await;
    assert_eq!((state.upgrades_accepted, state.ended_by(EndedBy::Api)), (0, 1));
}

#[tokio::test]
async fn a_clock_that_is_minutes_off_is_tolerated() {
    for skew in [400, -400] {
        let world = World::with(|config| config.clock_skew = skew);
        let echo = Destination::echo().await;
        let program = world.forward(echo.port, &[]).await;
        program.connect().await.echo(b"hello").await;
        let (ended, state) = world.finish(program).await;
        assert_eq!(ended.stderr, "");
        assert_eq!((state.upgrades_accepted, state.upgrades_refused), (1, 0), "signed with the service's clock");
    }
}
