//! Outages: what new connections see of them, and that the end is prompt in each.

use rustix::process::Signal;
use ssmfwd::emulator::{Action, FailureKind, Operation};
use tokio::net::UnixStream;

use crate::harness::{Destination, Program, World, failing, within};

#[tokio::test]
async fn connections_that_come_in_an_outage_are_served_after_it() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut before = program.connect().await;
    before.echo(b"before").await;
    world.emulator.configure(|config| config.outage = true);
    program.event("reconnecting").await;
    let mut meanwhile = program.connect().await;
    for client in [&mut before, &mut meanwhile] {
        client.write(b"meanwhile").await;
    }
    program.events("reconnecting", 3).await;
    world.emulator.configure(|config| config.outage = false);
    for client in [&mut before, &mut meanwhile] {
        assert_eq!(client.read(9).await, b"meanwhile");
    }
    assert_eq!(program.events_so_far("connection_closed").len(), 0);
    world.finish(program).await;
}

#[tokio::test]
async fn after_the_reconnect_window_new_connections_are_refused_and_old_ones_kept() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--reconnect-window", "1"]).await;
    let mut kept = program.connect().await;
    kept.echo(b"before").await;
    world.emulator.configure(|config| config.outage = true);
    kept.write(b"meanwhile").await;
    program.event("reconnecting").await;
    // The first one is held until the window is over, the second comes after it.
    for refused in 1..=2 {
        program.refuses().await;
        let closed = program.events("connection_closed", refused).await.swap_remove(refused - 1);
        assert_eq!(closed["reason"], "no_session");
        if refused == 2 {
            assert!(closed["duration_ms"].as_u64().is_some_and(|duration| duration < 1000), "{closed}");
        }
    }
    world.emulator.configure(|config| config.outage = false);
    assert_eq!(kept.read(9).await, b"meanwhile");
    program.event("resumed").await;
    program.connect().await.echo(b"after").await;
    world.finish(program).await;
}

#[tokio::test]
async fn without_a_reconnect_window_connections_are_refused_at_once() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &["--reconnect-window", "0"]).await;
    world.emulator.configure(|config| config.outage = true);
    program.event("reconnecting").await;
    program.refuses().await;
    assert_eq!(program.event("connection_closed").await["reason"], "no_session");
    world.emulator.configure(|config| config.outage = false);
    program.event("resumed").await;
    program.connect().await.echo(b"after").await;
    world.finish(program).await;
}

/// How a forward can be without a session that carries data.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    Reconnecting,
    Replacing,
    Dormant,
    Waking,
}

async fn bring(trouble: Trouble, world: &World, program: &Program) {
    let failures = match trouble {
        Trouble::Reconnecting => vec![(Operation::ResumeSession, FailureKind::Internal)],
        Trouble::Replacing => vec![
            (Operation::ResumeSession, FailureKind::AccessDenied),
            (Operation::StartSession, FailureKind::TargetNotConnected),
        ],
        Trouble::Dormant => vec![],
        Trouble::Waking => vec![(Operation::StartSession, FailureKind::Throttled)],
    };
    let failures: Vec<_> = failures.into_iter().flat_map(|(operation, kind)| failing(operation, kind)).collect();
    world.emulator.configure(|config| config.failures = failures);
    match trouble {
        Trouble::Reconnecting | Trouble::Replacing => {
            world.emulator.act(Action::Disconnect);
            program.events("reconnecting", 2).await;
        }
        Trouble::Dormant | Trouble::Waking => {
            world.emulator.act(Action::ChannelClosed { output: String::new() });
            program.event("dormant").await;
        }
    }
}

/// No session is left, no socket file, and nobody has to wait.
#[tokio::test]
async fn signals_end_a_forward_in_any_trouble() {
    for trouble in [Trouble::Reconnecting, Trouble::Replacing, Trouble::Dormant, Trouble::Waking] {
        for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let (world, folder) = (World::ideal(), tempfile::tempdir().expect("a folder"));
            let path = folder.path().join("socket");
            let program = world.start(&[&format!("{}:9", path.display())]);
            program.event("ready").await;
            bring(trouble, &world, &program).await;
            let waiting = within("connecting", UnixStream::connect(&path)).await.expect("a listener");
            program.event("connection_opened").await;
            if trouble == Trouble::Waking {
                program.event("reconnecting").await;
            }
            program.signal(signal);
            let ended = program.exit().await.expect_status(status);
            let stopped = ended.events_named("stopped")[0];
            assert_eq!((&stopped["exit"], &stopped["by"]), (&status.into(), &"signal".into()));
            assert!(!path.exists(), "{trouble:?}: the socket file is left");
            drop(waiting);
            world.settled().await;
        }
    }
}

/// Nothing can be ended then, and nobody should have to wait for that.
#[tokio::test]
async fn a_signal_in_an_outage_ends_the_program_with_a_warning() {
    let world = World::ideal();
    let program = world.forward(9, &[]).await;
    drop(world);
    program.event("reconnecting").await;
    program.signal(Signal::TERM);
    let ended = program.exit().await.expect_status(143);
    ended.expect_stderr("was not ended and lives until its idle timeout");
}
