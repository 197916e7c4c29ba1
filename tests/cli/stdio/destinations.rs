//! Destinations that refuse, never answer, hang up at once, or are gone: what arrives of them, and the status.

use super::*;

#[tokio::test]
async fn a_closed_port_does_not_answer() {
    let (world, refusing) = (World::ideal(), RefusingPort::new());
    let stdio = world.start_stdio(Way::Raw, refusing.port, &["--connect-timeout", "1"]);
    let (bytes, stderr) = stdio.exit(8).await;
    assert_eq!(bytes, b"");
    let expected = format!("error: {}:{} did not answer\n", World::TARGET, refusing.port);
    assert!(stderr.starts_with(&expected) && stderr.contains("hint: check that the destination listens"), "{stderr}");
    assert_eq!(world.settled().await.ended_by(EndedBy::Api), 1);
}

#[tokio::test]
async fn a_refusal_is_told_at_once() {
    let (world, refusing) = (World::ideal(), RefusingPort::new());
    let (bytes, stderr) = world.start_stdio(Way::Mux, refusing.port, &[]).exit(8).await;
    assert_eq!(bytes, b"");
    assert!(stderr.starts_with(&format!("error: 127.0.0.1:{} refuses connections\n", refusing.port)), "{stderr}");
    assert_eq!(stderr.matches("refuse").count(), 1, "once is enough: {stderr}");
    world.settled().await;
}

/// The agent is still dialling, and will for minutes.
#[tokio::test]
async fn a_destination_that_never_answers_is_told_after_the_end_of_stdin() {
    let sink = Destination::sink().await;
    let silent = format!("127.0.0.1:{}", sink.port);
    let world = World::with(|config| config.unanswered = vec![silent.clone()]);
    let mut stdio = world.start_stdio(Way::Mux, sink.port, &["--linger", "0", "--stall-timeout", "10"]);
    stdio.write(b"hello?").await;
    stdio.end();
    let (_, stderr) = stdio.exit(8).await;
    assert!(stderr.starts_with(&format!("error: {silent} does not answer\n")), "{stderr}");
    world.settled().await;
}

/// The agent is still dialling, and stdin stays open: nothing on the wire says so, whether it dials for several
/// connections at a time or not.
#[tokio::test]
async fn a_destination_that_never_answers_is_told_within_the_connect_timeout() {
    for agent in [AgentKind::Realistic, AgentKind::Ideal] {
        let sink = Destination::sink().await;
        let silent = format!("127.0.0.1:{}", sink.port);
        let world = World::with(|config| {
            config.agent = agent;
            config.unanswered = vec![silent.clone()];
        });
        let mut stdio = world.start_stdio(Way::Mux, sink.port, &["--connect-timeout", "8"]);
        stdio.write(b"hello?").await;
        let (bytes, stderr) = {
            // Held open.
            let _stdin = stdio.stdin.take();
            stdio.exit(8).await
        };
        assert_eq!((&bytes[..], sink.accepted()), (&b""[..], 0));
        assert!(stderr.starts_with(&format!("error: {silent} does not answer\n")), "{stderr}");
        world.settled().await;
    }
}

/// Its silence is its right: it is asked once whether it is there, and the connection goes on.
#[tokio::test]
async fn a_destination_that_waits_to_be_spoken_to_is_waited_for() {
    for agent in [AgentKind::Realistic, AgentKind::Ideal] {
        let (world, echo) = (World::with(|config| config.agent = agent), Destination::echo().await);
        let mut stdio = world.start_stdio(Way::Mux, echo.port, &["--connect-timeout", "8"]);
        echo.until_accepted(2).await;
        assert_eq!(echo.outcome().await, Closed::Cleanly(0));
        stdio.echo(b"hello").await;
        stdio.end();
        stdio.exit(0).await;
        assert_eq!((echo.outcome().await, echo.accepted()), (Closed::Cleanly(5), 2));
        world.settled().await;
    }
}

/// As a wrapper around sshd may turn hosts away that it does not like.
#[tokio::test]
async fn a_destination_that_ends_the_connection_without_a_word_is_not_success() {
    for (way, refuse_early) in [(Way::Raw, None), (Way::Raw, Some(3)), (Way::Mux, None)] {
        let world = World::with(|config| config.refuse_early = refuse_early);
        let rude = Destination::serve(|socket| async move { drop(socket) }).await;
        let (bytes, stderr) = world.start_stdio(way, rude.port, &[]).exit(8).await;
        assert_eq!(bytes, b"");
        assert!(stderr.contains("ended before anything was said"), "{way:?}: {stderr}");
        assert!(stderr.contains("may have ended the connection at once"), "{way:?}: {stderr}");
        world.settled().await;
    }
}

/// As sshd does with too many logins at a time. The agent dials before the session is ready, and the server is gone by
/// then: with what it refuses early, for certain.
#[tokio::test]
async fn what_a_server_says_that_hangs_up_at_once_arrives() {
    const WORDS: &[u8] = b"Exceeded MaxStartups\r\n\0\xff\n";
    for (way, refuse_early) in [(Way::Raw, None), (Way::Raw, Some(1)), (Way::Raw, Some(3)), (Way::Mux, None)] {
        for agent in [AgentKind::Realistic, AgentKind::Ideal] {
            let world = World::with(|config| (config.agent, config.refuse_early) = (agent, refuse_early));
            let rude = Destination::serve(|mut socket| async move { socket.write_all(WORDS).await }).await;
            let stdio = world.start_stdio(way, rude.port, &[]);
            assert_eq!(stdio.exit(0).await, (WORDS.to_vec(), String::new()), "{way:?} {refuse_early:?} {agent:?}");
            world.settled().await;
        }
    }
}

/// As `nc host port </dev/null` shows it.
#[tokio::test]
async fn a_greeting_arrives_where_nothing_is_said() {
    for way in [Way::Raw, Way::Mux] {
        let world = World::ideal();
        let polite = Destination::serve(|mut socket| async move { socket.write_all(b"220 ready\r\n").await }).await;
        let mut stdio = world.start_stdio(way, polite.port, &[]);
        stdio.end();
        assert_eq!(stdio.exit(0).await.0, b"220 ready\r\n", "{way:?}");
        world.settled().await;
    }
}

/// In basic mode the agent is not told that there is to be no second connection: more data has it dial again.
#[tokio::test]
async fn a_destination_that_is_gone_when_it_is_dialled_again_is_status_8() {
    let world = World::with(|config| config.agent_version = "3.0.196.0".into());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let mut stdio = world.start_stdio(Way::Mux, port, &[]);
    stdio.write(b"?").await;
    let (mut socket, _) = within("a connection", listener.accept()).await.expect("a connection");
    drop(listener);
    socket.read_u8().await.expect("it is asked");
    socket.write_all(b"bye").await.expect("it is read");
    drop(socket);
    assert_eq!(stdio.read(3).await, b"bye");
    world.until("the end of the connection", |state| state.sessions.values().all(|it| it.destinations == 0)).await;
    stdio.write(b"more").await;
    let (_, stderr) = stdio.exit(8).await;
    assert!(stderr.contains("Unable to connect to specified port") && stderr.contains("hint: the agent"), "{stderr}");
    world.settled().await;
}

#[tokio::test]
async fn words_of_the_agent_are_no_end_of_the_data() {
    for (output, status) in [
        ("Unable to connect to specified port: dial tcp: lookup nohost: no such host", 8),
        ("Setting up data channel failed", 7),
    ] {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let mut stdio = world.start_stdio(Way::Raw, echo.port, &[]);
        stdio.echo(b"hello").await;
        world.emulator.act(Action::ChannelClosed { output: output.into() });
        let (_, stderr) = stdio.exit(status).await;
        assert!(stderr.contains(output), "{stderr}");
        world.settled().await;
    }
}
