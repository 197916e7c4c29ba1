//! When sessions begin and end, and how long connections may: options with short values.

use rustix::process::Signal;

use crate::harness::{Destination, World};

#[tokio::test]
async fn a_lazy_forward_has_a_session_once_somebody_connects_and_ends_it_when_idle() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--lazy", "--idle-close", "0.3"]).await;
    program.event("ready").await;
    assert_eq!(world.emulator.state().sessions_started, 0);
    let mut client = program.connect().await;
    client.echo(b"wake up").await;
    drop(client);
    let dormant = program.event("dormant").await;
    assert_eq!((&dormant["by"], &dormant["reason"]), (&"ssmfwd".into(), &"timeout".into()));
    world.until("no session", |state| state.live_sessions() == 0 && state.sessions_started == 1).await;
    program.connect().await.echo(b"again").await;
    let (_, state) = world.finish(program).await;
    assert_eq!(state.sessions_started, 2);
}

/// The third waits in the kernel until one of the two is over.
#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--max-connections", "2"]).await;
    let (mut first, mut second, mut third) =
        (program.connect().await, program.connect().await, program.connect().await);
    first.echo(b"1").await;
    second.echo(b"2").await;
    third.write(b"3").await;
    assert_eq!(program.events("connection_opened", 2).await.len(), 2);
    drop(first);
    assert_eq!(third.read(1).await, b"3");
    drop((second, third));
    world.finish(program).await;
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
