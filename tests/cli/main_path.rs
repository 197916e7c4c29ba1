//! What everybody sees who uses the program as it is meant to be used.

use rustix::process::Signal;
use serde_json::json;
use ssmfwd::emulator::EndedBy;

use crate::harness::{Closed, Destination, Program, World, receive, send};

#[tokio::test]
async fn people_see_addresses_session_and_readiness_on_stderr_and_nothing_on_stdout() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = Program::start(world.command(&[&forward, "--target", World::TARGET]));
    program.line("ssmfwd: ready in ").await;
    // Fetched beside the start: before or after the others.
    let name = program.line(&format!("ssmfwd: {} \"bastion\"", World::TARGET)).await;
    program.signal(Signal::INT);
    let ended = program.exit().await.expect_status(130);
    let state = world.settled().await;

    assert_eq!(ended.stdout, "");
    // Who we are comes when STS has answered: the tests of identity.
    let is_ours = |line: &&str| *line != name && !line.contains(" as user/user (");
    let lines: Vec<_> = ended.stderr.lines().filter(is_ours).collect();
    let [opened, ready, ending] = lines[..] else { panic!("{}", ended.stderr) };
    let session = state.sessions.keys().next().expect("a session");
    let (addresses, rest) = opened.split_once(" -> ").expect("an arrow");
    assert_eq!(rest, format!("127.0.0.1:{}   session {session}", echo.port));
    let addresses = addresses.strip_prefix("ssmfwd: 127.0.0.1:").expect("the first address");
    if let Some((four, six)) = addresses.split_once(", ") {
        assert_eq!(six, format!("[::1]:{four}"));
    }
    let seconds = ready.strip_prefix("ssmfwd: ready in ").and_then(|rest| rest.strip_suffix(" s"));
    let (whole, tenth) = seconds.and_then(|seconds| seconds.split_once('.')).expect("seconds");
    assert!(whole.parse::<u32>().is_ok() && tenth.len() == 1, "{ready}");
    assert_eq!(ending, "ssmfwd: SIGINT: ending; Ctrl-C again leaves at once");
}

#[tokio::test]
async fn programs_see_every_event_on_stdout_and_nothing_on_stderr() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let forward = format!("127.0.0.1:0:127.0.0.1:{}", echo.port);
    let program = world.start(&[&forward, "--reason", "a ticket"]);
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    let peer = client.address().to_string();
    drop(client);
    program.event("connection_closed").await;
    let (ended, state) = world.finish(program).await;

    assert_eq!(ended.stderr, "");
    let names =
        ["listening", "session_started", "ready", "connection_opened", "connection_closed", "session_ended", "stopped"];
    let told: Vec<_> = ended.event_names().into_iter().filter(|name| *name != "identity").collect();
    assert_eq!(told, names);
    let event = |name| {
        let mut event = ended.events_named(name)[0].clone();
        let fields = event.as_object_mut().expect("an object");
        let time = fields.remove("time").expect("a time");
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z') && time.contains('T')), "{time}");
        for varying in ["elapsed_ms", "duration_ms"] {
            assert!(fields.remove(varying).is_none_or(|value| value.is_u64()));
        }
        event
    };
    let address = event("listening")["address"].clone();
    let session = state.sessions.keys().next().expect("a session");
    assert_eq!(event("listening"), json!({"event": "listening", "forward": forward, "address": address}));
    assert_eq!(
        event("session_started"),
        json!({"event": "session_started", "forward": forward, "session_id": session, "target": World::TARGET, "member": 0})
    );
    assert_eq!(
        event("ready"),
        json!({"event": "ready", "forwards": [{"forward": forward, "addresses": [address], "member": 0}]})
    );
    assert_eq!(event("connection_opened"), json!({"event": "connection_opened", "forward": forward, "peer": peer}));
    assert_eq!(
        event("connection_closed"),
        json!({"event": "connection_closed", "forward": forward, "peer": peer, "bytes_up": 5, "bytes_down": 5, "reason": "local_closed"})
    );
    assert_eq!(
        event("session_ended"),
        json!({"event": "session_ended", "forward": forward, "session_id": session, "member": 0, "reason": "requested",
            "by": "user", "detail": "ended as asked", "bytes_up": 5, "bytes_down": 5})
    );
    assert_eq!(event("stopped"), json!({"event": "stopped", "exit": 143, "by": "signal"}));

    assert_eq!((state.calls_of("StartSession"), state.calls_of("TerminateSession")), (1, 0));
    assert_eq!((state.upgrades_accepted, state.upgrades_refused), (1, 0));
    assert_eq!(state.ended_by(EndedBy::Flag), 1);
    let session = &state.sessions[session];
    assert_eq!(session.document, "AWS-StartPortForwardingSessionToRemoteHost");
    assert_eq!(session.reason.as_deref(), Some("a ticket"));
    assert_eq!(echo.outcome().await, Closed::Cleanly(5));
}

#[tokio::test]
async fn a_port_of_the_target_itself_needs_no_host() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.start(&[&format!("0:{}", echo.port)]);
    program.connect().await.echo(b"hello").await;
    let (_, state) = world.finish(program).await;
    let documents: Vec<_> = state.sessions.values().map(|session| &session.document[..]).collect();
    assert_eq!(documents, ["AWS-StartPortForwardingSession"]);
}

#[tokio::test]
async fn the_whole_path_works_over_tls() {
    const TOTAL: usize = 8 << 20;
    let world = World::with(|config| config.tls = true);
    assert!(world.emulator.endpoint_url().starts_with("https://"));
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    let (mut reader, mut writer) = program.connect().await.0.into_split();
    let both = async { tokio::join!(send(&mut writer, 1, TOTAL), receive(&mut reader, 1, TOTAL)) };
    let (sent, received) = program.within("an echo", both).await;
    sent.and(received).expect("all comes back");
    drop((reader, writer));
    let (ended, state) = world.finish(program).await;
    assert_eq!(ended.stderr, "");
    assert_eq!((state.upgrades_accepted, state.ended_by(EndedBy::Flag)), (1, 1));
}

#[tokio::test]
async fn a_round_trip_of_50_ms_changes_nothing_but_time() {
    let world = World::with(|config| config.rtt = std::time::Duration::from_millis(50));
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"\n").await;
    client.echo(&[7; 200_000]).await;
    drop(client);
    world.finish(program).await;
}

#[tokio::test]
async fn an_agent_that_is_not_quite_ready_loses_nothing() {
    for (refuse_early, swallow_early) in [(Some(3), None), (None, Some(1)), (Some(3), Some(1))] {
        let world = World::with(|config| {
            config.refuse_early = refuse_early;
            config.swallow_early = swallow_early;
        });
        let echo = Destination::echo().await;
        let program = world.forward(echo.port, &[]).await;
        program.connect().await.echo(b"the first bytes").await;
        world.finish(program).await;
    }
}

/// Ports are bound first: who comes early waits.
#[tokio::test]
async fn connections_that_come_before_ready_are_served_after_it() {
    let world = World::with(|config| config.agent_start = Some(std::time::Duration::from_millis(300)));
    let echo = Destination::echo().await;
    let program = world.start(&[&format!("127.0.0.1:0:127.0.0.1:{}", echo.port)]);
    let listening = program.event("listening").await;
    let address = listening["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    let mut client = crate::harness::Client::to(address).await;
    client.write(b"early").await;
    assert!(program.events_so_far("ready").is_empty());
    assert_eq!(client.read(5).await, b"early");
    drop(client);
    world.finish(program).await;
}

#[tokio::test]
async fn a_realistic_agent_behaves_like_an_ideal_one() {
    let world = World::with(|config| config.agent = ssmfwd::emulator::AgentKind::Realistic);
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    program.connect().await.echo(&[7; 100_000]).await;
    world.finish(program).await;
}
