//! Sessions without streams: old agents, and documents that are not for port forwarding.

use ssmfwd::emulator::EndedBy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Closed, Destination, RefusingPort, World};

/// The last agent series that carries one connection at a time.
const OLD: &str = "3.0.150.0";

#[tokio::test]
async fn an_old_agent_serves_connections_one_after_another() {
    let world = World::with(|config| config.agent_version = OLD.into());
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    for payload in [&b"first"[..], b"\n", b"third"] {
        let mut client = program.connect().await;
        client.echo(payload).await;
        drop(client);
        assert_eq!(echo.outcome().await, Closed::Cleanly(payload.len()));
    }
    let (_, state) = world.finish(program).await;
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Flag)), (1, 1));
}

#[tokio::test]
async fn with_an_old_agent_the_second_connection_waits_for_the_first() {
    let world = World::with(|config| config.agent_version = OLD.into());
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    let mut first = program.connect().await;
    first.echo(b"first").await;
    let mut second = program.connect().await;
    second.write(b"second").await;
    program.events("connection_opened", 2).await;
    for _ in 0..20 {
        first.echo(b"still the first").await;
    }
    assert_eq!(echo.accepted(), 1);
    drop(first);
    assert_eq!(second.read(6).await, b"second");
    assert_eq!(echo.accepted(), 2);
    drop(second);
    world.finish(program).await;
}

#[tokio::test]
async fn an_old_agent_carries_megabytes() {
    let world = World::with(|config| config.agent_version = OLD.into());
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    let (mut reader, mut writer) = program.connect().await.0.into_split();
    let both = async {
        tokio::join!(
            crate::harness::send(&mut writer, 2, 2_000_000),
            crate::harness::receive(&mut reader, 2, 2_000_000)
        )
    };
    let (sent, received) = crate::harness::within("an echo", both).await;
    sent.expect("all is taken");
    received.expect("all comes back");
    world.finish(program).await;
}

#[tokio::test]
async fn a_document_for_ssh_carries_one_connection_as_it_is() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let parameter = format!("portNumber={}", echo.port);
    let program = world.start(&["0", "--document", "AWS-StartSSHSession", "--parameter", &parameter]);
    let mut client = program.connect().await;
    client.echo(b"SSH-2.0-x\r\n").await;
    client.echo(b"\n").await;
    let (_, state) = world.finish(program).await;
    let documents: Vec<_> = state.sessions.values().map(|session| &session.document[..]).collect();
    assert_eq!(documents, ["AWS-StartSSHSession"]);
    assert_eq!(echo.accepted(), 1);
}

#[tokio::test]
async fn the_end_of_the_server_ends_a_raw_session_after_all_it_said() {
    let world = World::ideal();
    let server = Destination::serve(|mut socket| async move {
        // The agent dials before anybody is there to be served.
        socket.read_u8().await?;
        socket.write_all(&[b'f'; 100_000]).await
    })
    .await;
    let parameter = format!("portNumber={}", server.port);
    let program = world.start(&["0", "--document", "AWS-StartSSHSession", "--parameter", &parameter]);
    let mut client = program.connect().await;
    client.write(b"?").await;
    assert_eq!(client.read_to_end().await.len(), 100_000);
    drop(client);
    assert_eq!(program.event("session_ended").await["by"], "agent");
    // One connection a session: the next has its own.
    let mut client = program.connect().await;
    client.write(b"?").await;
    assert_eq!(client.read_to_end().await.len(), 100_000);
    drop(client);
    let (_, state) = world.finish(program).await;
    assert!(state.ended_by(EndedBy::Agent) >= 1 && state.sessions_started >= 2, "{state:?}");
}

/// The agent's worker dies there without a word.
#[tokio::test]
async fn a_refused_destination_of_an_old_agent_is_told_by_its_silence() {
    let world = World::with(|config| config.agent_version = OLD.into());
    let refusing = RefusingPort::new();
    let program = world.start(&[&format!("0:127.0.0.1:{}", refusing.port), "--connect-timeout", "1"]);
    let ended =
        program.exit().await.expect_status(1).expect_stderr("the destination refused the connection or did not answer");
    assert_eq!(ended.events_named("ready").len(), 0);
    assert_eq!(world.settled().await.ended_by(EndedBy::Api), 1);
}
