//! When sessions begin and end, and how long connections may: options with short values.

use rustix::process::Signal;

use crate::harness::{Destination, World};

#[tokio::test]
async fn a_lazy_forward_has_a_session_once_somebody_connects_and_ends_it_when_idle() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--lazy", "--idle-close", "0.3"]).await;
    let ready = program.event("ready").await;
    assert_eq!(ready["forwards"][0].get("member"), Some(&serde_json::Value::Null), "{ready}");
    assert_eq!(world.emulator.state().sessions_started, 0);
    let mut client = program.connect().await;
    client.echo(b"wake up").await;
    drop(client);
    let dormant = program.event("dormant").await;
    let ended = program.event("session_ended").await;
    for event in [&dormant, &ended] {
        assert_eq!((&event["by"], &event["reason"]), (&"ssmfwd".into(), &"timeout".into()), "{event}");
        assert_eq!(event["detail"], "timed out: no connection used the forward (by ssmfwd)");
    }
    world.until("no session", |state| state.live_sessions() == 0 && state.sessions_started == 1).await;
    program.connect().await.echo(b"again").await;
    let (ended, state) = world.finish(program).await;
    assert_eq!(state.sessions_started, 2);
    assert!(!ended.stderr.contains("was lost"), "{}", ended.stderr);
}

/// The third waits until one of the two is over, and the fourth behind it: that some wait is told once, and again when it
/// was over in between.
#[tokio::test]
async fn connections_beyond_the_limit_wait_and_that_is_told() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--max-connections", "2"]).await;
    for told in 1..=2 {
        let (mut first, mut second) = (program.connect().await, program.connect().await);
        first.echo(b"1").await;
        second.echo(b"2").await;
        // As many as there may be, and nobody waits.
        assert_eq!(program.events_so_far("connections_limited").len(), told - 1);
        let (mut third, mut fourth) = (program.connect().await, program.connect().await);
        third.write(b"3").await;
        fourth.write(b"4").await;
        let limited = program.events("connections_limited", told).await;
        assert_eq!(limited[told - 1]["limit"], 2);
        assert_eq!(program.events_so_far("connection_opened").len(), 4 * told - 2);
        drop(first);
        assert_eq!(third.read(1).await, b"3");
        drop(second);
        assert_eq!(fourth.read(1).await, b"4");
        drop((third, fourth));
        assert_eq!(program.events("connection_closed", 4 * told).await.len(), 4 * told);
        assert_eq!(program.events_so_far("connections_limited").len(), told);
    }
    let (ended, _) = world.finish(program).await;
    let warning = "2 connections are open, others wait until one ends: --max-connections allows more";
    assert_eq!(ended.stderr.matches(warning).count(), 2, "{}", ended.stderr);
}

/// Who waits when everything ends is reset: that is no answer.
#[tokio::test]
async fn a_connection_that_still_waits_at_the_end_is_reset() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--max-connections", "1"]).await;
    let mut first = program.connect().await;
    first.echo(b"1").await;
    let mut second = program.connect().await;
    program.event("connections_limited").await;
    program.signal(Signal::TERM);
    assert_eq!(second.read_to_failure().await, (Vec::new(), std::io::ErrorKind::ConnectionReset));
    program.exit().await.expect_status(143);
    world.settled().await;
}

/// SIGTERM lets a connection go on for so long; Ctrl-C does not.
#[tokio::test]
async fn sigterm_drains_for_as_long_as_told_and_ctrl_c_does_not() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--drain", "600"]).await;
    let (mut client, address) = (program.connect().await, program.addresses(0).await[0]);
    client.echo(b"before").await;
    program.signal(Signal::TERM);
    // Nobody new is let in, and who is there goes on.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    client.echo(b"draining").await;
    drop(client);
    program.exit().await.expect_status(143);
    world.settled().await;

    let world = World::ideal();
    let program = world.forward(echo.port, &["--drain", "600"]).await;
    let mut client = program.connect().await;
    client.echo(b"before").await;
    program.signal(Signal::INT);
    let ended = program.exit().await.expect_status(130);
    assert_eq!(ended.events_named("connection_closed")[0]["reason"], "stopped");
    world.settled().await;
}

#[tokio::test]
async fn a_session_that_takes_too_long_to_start_is_given_up() {
    let world = World::with(|config| config.agent_start = Some(std::time::Duration::from_secs(3600)));
    let program = world.start(&["0:127.0.0.1:9", "--connect-timeout", "0.5"]);
    program.exit().await.expect_status(1).expect_stderr("--connect-timeout");
    world.settled().await;
}

/// Ctrl-C while SIGTERM is patient: the connection is given up, the session is ended all the same.
#[tokio::test]
async fn ctrl_c_hurries_a_patient_end() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--drain", "600"]).await;
    let mut client = program.connect().await;
    client.echo(b"before").await;
    let address = program.addresses(0).await[0];
    program.signal(Signal::TERM);
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    program.signal(Signal::INT);
    let ended = program.exit().await.expect_status(143);
    assert!(!ended.stderr.contains("not ended"), "{}", ended.stderr);
    assert_eq!(ended.events_named("session_ended").len(), 1);
    world.settled().await;
}
