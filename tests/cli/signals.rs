//! Signals end the program in order, before ready and after it, with the status a shell expects.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use ssmfwd::emulator::{Action, EndedBy};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    harness::{ApiRelay, Closed, Destination, Program, World},
    picker::{pid, run},
};

/// All that a terminal, a supervisor or a careless script sends, that can be caught, and that ends a program without a
/// terminal.
const SIGNALS: [(Signal, i32); 5] =
    [(Signal::INT, 130), (Signal::QUIT, 131), (Signal::USR2, 140), (Signal::ALARM, 142), (Signal::TERM, 143)];

#[tokio::test]
async fn after_ready_the_session_is_ended_with_the_flag() {
    for (signal, status) in SIGNALS {
        let world = World::ideal();
        let program = world.forward(9, &[]).await;
        program.signal(signal);
        let ended = program.exit().await.expect_status(status);
        let stopped = ended.events_named("stopped")[0];
        assert_eq!((&stopped["exit"], &stopped["by"]), (&status.into(), &"signal".into()));
        let over = ended.events_named("session_ended")[0];
        assert_eq!((&over["reason"], &over["by"]), (&"requested".into(), &"user".into()));
        let state = world.settled().await;
        assert_eq!((state.ended_by(EndedBy::Flag), state.calls_of("TerminateSession")), (1, 0));
    }
}

#[tokio::test]
async fn during_the_handshake_the_session_is_ended_by_the_api() {
    for (signal, status) in SIGNALS {
        let world = World::with(|config| config.agent_start = Some(Duration::from_secs(3600)));
        let program = world.start(&["0:127.0.0.1:9"]);
        world.until("a token", |state| state.sessions.values().any(|session| session.websockets == 1)).await;
        program.signal(signal);
        let ended = program.exit().await.expect_status(status);
        assert_eq!(ended.events_named("ready").len(), 0);
        assert_eq!(ended.stderr, "");
        let state = world.settled().await;
        assert_eq!((state.sessions_started, state.ended_by(EndedBy::Api)), (1, 1));
    }
}

#[tokio::test]
async fn while_the_agent_refuses_what_comes_early_the_session_is_ended() {
    let world = World::with(|config| config.refuse_early = Some(u32::MAX));
    let program = world.start(&["0:127.0.0.1:9"]);
    world.until("refused messages", |state| state.sessions.values().any(|session| session.up.messages > 3)).await;
    program.signal(Signal::TERM);
    program.exit().await.expect_status(143);
    assert_eq!(world.settled().await.sessions_started, 1);
}

/// StartSession is under way: whatever it brings must be ended.
#[tokio::test]
async fn a_session_that_starts_after_the_signal_is_ended_too() {
    for (signal, status) in SIGNALS {
        let world = World::ideal();
        let relay = ApiRelay::to(&world.emulator).await;
        relay.hold();
        let program =
            Program::start(world.command(&["0:127.0.0.1:9", "-t", World::TARGET, "--endpoint-url", &relay.url]));
        world.until("a call", |state| state.sessions_started == 1).await;
        program.signal(signal);
        program.line(": ending").await;
        relay.release();
        let ended = program.exit().await.expect_status(status);
        assert!(!ended.stderr.contains("error"), "{}", ended.stderr);
        let state = world.settled().await;
        assert_eq!((state.upgrades_accepted, state.ended_by(EndedBy::Api)), (0, 1));
    }
}

/// The credentials are still being loaded, from somewhere that does not answer.
#[tokio::test]
async fn before_the_first_call_nothing_is_started_any_more() {
    let (world, silent) = (World::ideal(), Destination::sink().await);
    let mut command = world.command(&["0:127.0.0.1:9", "-t", World::TARGET]);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        command.env_remove(name);
    }
    command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://127.0.0.1:{}/", silent.port));
    let program = Program::start(command);
    silent.until_accepted(1).await;
    program.signal(Signal::TERM);
    let ended = program.exit().await.expect_status(143);
    assert_eq!(ended.stderr, "ssmfwd: SIGTERM: ending");
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn open_connections_do_not_hold_up_ctrl_c() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = program.connect().await;
        client.echo(b"hello").await;
        clients.push(client);
    }
    program.signal(Signal::INT);
    let ended = program.exit().await.expect_status(130);
    assert_eq!(ended.events_named("connection_closed").len(), 10);
    assert_eq!(world.settled().await.ended_by(EndedBy::Flag), 1);
    for _ in 0..10 {
        echo.outcome().await;
    }
}

/// Also after the local program has left: what it wrote is on its way.
#[tokio::test]
async fn what_was_written_before_the_signal_still_arrives() {
    const TOTAL: usize = 300_000;
    let (world, sink) = (World::ideal(), Destination::sink().await);
    let program = world.forward(sink.port, &[]).await;
    let mut client = program.connect().await;
    sink.until_accepted(1).await;
    client.write(&[7; TOTAL]).await;
    drop(client);
    program.signal(Signal::TERM);
    program.exit().await.expect_status(143);
    assert_eq!(sink.outcome().await, Closed::Cleanly(TOTAL));
    world.settled().await;
}

/// The agent's reader is blocked, so that it hears nothing of the end: the API has to.
#[tokio::test]
async fn a_destination_that_reads_nothing_does_not_hold_up_the_end() {
    let world = World::ideal();
    let server = Destination::serve(|socket| async move {
        std::future::pending::<()>().await;
        drop(socket);
    })
    .await;
    let program = world.forward(server.port, &[]).await;
    let (_reader, mut writer) = program.connect().await.0.into_split();
    let flood = tokio::spawn(async move { while writer.write_all(&[7; 65_536]).await.is_ok() {} });
    // More than all buffers on the way hold is under way when acknowledgements cease to come.
    let mut taken = 0;
    loop {
        let more = world.emulator.wait_for(|state| state.sessions.values().any(|session| session.up.bytes > taken));
        let Ok(state) = timeout(Duration::from_secs(1), more).await else { break };
        taken = state.sessions.values().map(|session| session.up.bytes).max().unwrap_or(0);
    }
    assert!(taken > 4 << 20, "only {taken} bytes were taken");
    program.signal(Signal::TERM);
    program.exit().await.expect_status(143);
    assert_eq!(world.settled().await.ended_by(EndedBy::Api), 1);
    flood.abort();
}

/// The websocket is not read any more, so that no answer is heard.
#[tokio::test]
async fn a_local_program_that_reads_nothing_does_not_hold_up_the_end() {
    let world = World::ideal();
    let server =
        Destination::serve(|mut socket| async move { while socket.write_all(&[7; 65_536]).await.is_ok() {} }).await;
    let program = world.forward(server.port, &[]).await;
    let client = program.connect().await;
    assert_eq!(program.event("backpressure").await["active"], true);
    program.signal(Signal::TERM);
    program.exit().await.expect_status(143);
    let state = world.settled().await;
    assert_eq!(state.ended_by(EndedBy::Flag) + state.ended_by(EndedBy::Api), 1);
    drop(client);
}

/// The agent is gone, so that an orderly end takes seconds and then a call: the second Ctrl-C comes before both.
#[tokio::test]
async fn a_second_ctrl_c_leaves_at_once() {
    let world = World::ideal();
    let program = Program::start(world.command(&["0:127.0.0.1:9", "-t", World::TARGET]));
    program.line("ready in").await;
    world.emulator.act(Action::KillAgent);
    program.signal(Signal::INT);
    program.line("SIGINT: ending").await;
    program.signal(Signal::INT);
    let ended = program.exit().await.expect_status(130);
    let state = world.emulator.state();
    let session = state.sessions.keys().next().expect("a session");
    ended.expect_stderr(&format!("warning: not ended, and may live until their idle timeout: {session}"));
    assert_eq!((state.live_sessions(), state.calls_of("TerminateSession")), (1, 0));
}

#[tokio::test]
async fn a_second_sigterm_is_as_patient_as_the_first() {
    let world = World::ideal();
    let program = Program::start(world.command(&["0:127.0.0.1:9", "-t", World::TARGET]));
    program.line("ready in").await;
    world.emulator.act(Action::KillAgent);
    program.signal(Signal::TERM);
    program.line("SIGTERM: ending").await;
    program.signal(Signal::TERM);
    program.exit().await.expect_status(143);
    assert_eq!(world.settled().await.ended_by(EndedBy::Api), 1);
}

#[tokio::test]
async fn a_denied_end_is_a_warning() {
    let world = World::with(|config| config.denied = vec!["TerminateSession".into()]);
    let program = world.forward(9, &[]).await;
    world.emulator.act(Action::KillAgent);
    program.signal(Signal::TERM);
    let ended = program.exit().await.expect_status(143);
    let (told, over) = (ended.events_named("not_terminated")[0].clone(), ended.events_named("session_ended")[0]);
    assert_eq!(told["session_id"], over["session_id"]);
    assert!(told["detail"].as_str().is_some_and(|why| why.contains("TerminateSession")), "{told}");
    let ended = ended.expect_stderr("was not ended and lives until its idle timeout");
    assert!(!ended.stderr.contains("not ended, and may live"), "said once: {}", ended.stderr);
    assert_eq!(world.emulator.state().live_sessions(), 1);
}

/// A window that is closed must not leave forwards behind.
#[tokio::test]
async fn with_a_terminal_a_hang_up_ends() {
    let world = World::ideal();
    let mut terminal = run(&world, "sh -c 'echo \"pid $$ \"; exec ssmfwd 0:127.0.0.1:9 -t i-0123456789abcdef0'");
    terminal.until("ready in").await;
    kill_process(pid(&terminal), Signal::HUP).expect("it runs");
    assert_eq!(terminal.end().await.0, Some(129));
    let state = world.settled().await;
    assert_eq!(state.ended_by(EndedBy::Flag), 1);
}

/// Before ready and after it.
#[tokio::test]
async fn sigusr1_shows_the_state_and_ends_nothing() {
    let echo = Destination::echo().await;
    let world = World::ideal();
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"12345").await;
    program.signal(Signal::USR1);
    program.line("; bytes: 5 up, 5 down").await;
    program.signal(Signal::USR1);
    program.signal(Signal::TERM);
    let ended = program.exit().await.expect_status(143);
    let state = ended.stderr.lines().find(|line| line.contains(" bytes: ")).expect("a line");
    assert!(state.contains("connections: 1 now, 1 in all; sessions: 1; bytes"), "{state}");
}
