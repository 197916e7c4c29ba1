//! Websockets that are lost: the session goes on with another one, and its connections never notice.

use std::time::Duration;

use ssmfwd::emulator::{Action, AgentKind, ChannelState, EmulatorState, FailureKind, Operation, SessionState};

use crate::harness::{ApiRelay, Client, Closed, Destination, Program, World, failing, receive, send, within};

/// What interrupts a transfer: the network, the service's hourly close, the agent's own network.
const CUTS: [Action; 3] = [Action::Disconnect, Action::Bye, Action::DisconnectAgent];

/// Cuts a session again and again, each time when a little more of its data has passed.
async fn interrupt(world: &World, program: &Program, cuts: &[Action], total: u64, passed: fn(&SessionState) -> u64) {
    for (round, action) in (1..).zip(cuts) {
        let enough = total * round / (cuts.len() as u64 + 2);
        let ready = |session: &SessionState| session.channel == ChannelState::Open && passed(session) >= enough;
        let ready = |state: &EmulatorState| state.sessions.values().all(ready);
        let before = program.within(&format!("{enough} of {total} bytes"), world.emulator.wait_for(ready)).await;
        assert_eq!(world.emulator.act(action.clone()), 1);
        if *action != Action::DisconnectAgent {
            let back = |state: &EmulatorState| state.upgrades_accepted > before.upgrades_accepted;
            program.within("another websocket", world.emulator.wait_for(back)).await;
        }
    }
}

/// Ten of some actions, in turn.
fn ten(actions: &[Action]) -> Vec<Action> {
    actions.iter().cycle().take(10).cloned().collect()
}

/// The websockets of the only session were lost and replaced, and nothing was lost with them.
fn assert_kept(program: &Program, lost: usize) {
    for name in ["session_ended", "connection_closed", "session_replaced", "dormant"] {
        assert_eq!(program.events_so_far(name), [] as [serde_json::Value; 0], "{}", program.transcript());
    }
    let losses = program.events_so_far("reconnecting").into_iter().filter(|event| event["attempt"] == 0).count();
    assert!(losses >= lost, "{losses} of {lost} losses\n{}", program.transcript());
}

#[tokio::test]
async fn an_upload_that_is_cut_ten_times_arrives_whole() {
    const TOTAL: usize = 8_000_000;
    let world = World::ideal();
    let server = Destination::serve(|mut socket| async move {
        receive(&mut socket, 1, TOTAL).await?;
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"whole").await
    })
    .await;
    let program = world.forward(server.port, &[]).await;
    let mut client = program.connect().await;
    let cuts = ten(&CUTS);
    let interrupt = interrupt(&world, &program, &cuts, TOTAL as u64, |session| session.up.bytes);
    let both = async { tokio::join!(send(&mut client.0, 1, TOTAL), interrupt) };
    program.within("an upload", both).await.0.expect("all is taken");
    assert_eq!(client.read(5).await, b"whole", "{:?}", server.outcome().await);
    assert_kept(&program, 7);
    world.finish(program).await;
}

/// A download at the agent's own pace, under cuts.
async fn downloads(total: usize, cuts: &[Action], lost: usize) {
    let world = World::with(|config| config.agent = AgentKind::Realistic);
    let server = Destination::serve(move |mut socket| async move {
        send(&mut socket, 2, total).await.expect("a reader");
        Closed::of(tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut Vec::new()).await)
    })
    .await;
    let program = world.forward(server.port, &[]).await;
    let mut client = program.connect().await;
    let interrupt = interrupt(&world, &program, cuts, total as u64, |session| session.down.bytes);
    let both = async { tokio::join!(receive(&mut client.0, 2, total), interrupt) };
    program.within("a download", both).await.0.expect("all of it");
    assert_kept(&program, lost);
    drop(client);
    assert_eq!(server.outcome().await, Closed::Cleanly(0));
    world.finish(program).await;
}

#[tokio::test]
async fn a_download_that_is_cut_ten_times_arrives_whole() {
    downloads(6_000_000, &ten(&CUTS[..2]), 10).await;
}

/// Once and early: the agent goes on sending while it has no websocket, and repeats ten messages a second afterwards.
#[tokio::test]
async fn a_download_whose_agent_is_cut_off_arrives_whole() {
    downloads(150_000, &CUTS[2..], 0).await;
}

#[tokio::test]
async fn people_and_programs_are_told_of_loss_and_return() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let mut command = world.command(&["-t", World::TARGET]);
    command.args(["--output", "json", &format!("0:127.0.0.1:{}", echo.port)]);
    let programs = [Program::start(command), world.start_for_people(echo.port)];
    programs[0].event("ready").await;
    programs[1].line("ready in").await;
    assert_eq!(world.emulator.act(Action::Bye), 2);
    let started = programs[0].event("session_started").await;
    for (name, member) in [("reconnecting", "cause"), ("resumed", "outage_ms")] {
        let event = programs[0].event(name).await;
        assert_eq!((&event["session_id"], &event["forward"]), (&started["session_id"], &started["forward"]), "{name}");
        assert!(!event[member].is_null(), "{event}");
    }
    assert!(programs[0].event("reconnecting").await["cause"].as_str().is_some_and(|cause| cause.contains("1000 Bye")));
    let lost = programs[1].line("websocket lost").await;
    assert!(lost.starts_with("ssmfwd: ") && lost.ends_with("reconnecting; connections are kept"), "{lost}");
    assert!(programs[1].line("resumed after ").await.ends_with("nothing was lost"));
    for program in programs {
        program.signal(rustix::process::Signal::TERM);
        program.exit().await.expect_status(143);
    }
    world.settled().await;
}

#[tokio::test]
async fn a_stale_token_costs_another_attempt() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"before").await;
    world.emulator.configure(|config| config.stale_tokens = 2);
    world.emulator.act(Action::Disconnect);
    client.echo(b"after").await;
    program.event("resumed").await;
    assert_kept(&program, 1);
    program.signal(rustix::process::Signal::TERM);
    program.exit().await.expect_status(143);
    let state = world.settled_after_stale_tokens(2).await;
    assert_eq!(state.sessions_started, 1);
}

/// The API fails for a while.
async fn waits_for(kind: FailureKind) {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"before").await;
    world.emulator.configure(|config| config.failures = failing(Operation::ResumeSession, kind));
    world.emulator.act(Action::Disconnect);
    client.write(b"meanwhile").await;
    let failed = program.events("reconnecting", 2).await.swap_remove(1);
    assert_eq!(failed["attempt"], 1);
    assert!(failed["cause"].as_str().is_some_and(|cause| cause.contains("ResumeSession")), "{failed}");
    world.emulator.configure(|config| config.failures.clear());
    assert_eq!(client.read(9).await, b"meanwhile", "{kind:?}");
    assert_kept(&program, 1);
    world.finish(program).await;
}

#[tokio::test]
async fn failures_that_can_heal_are_waited_for() {
    tokio::join!(
        waits_for(FailureKind::Internal),
        waits_for(FailureKind::Unavailable),
        waits_for(FailureKind::UnavailableEmpty),
        waits_for(FailureKind::Throttled),
        waits_for(FailureKind::TargetNotConnected),
    );
}

/// The gateway fails, and the API does not.
#[tokio::test]
async fn a_gateway_that_refuses_is_tried_again() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"before").await;
    world.emulator.configure(|config| config.failures = failing(Operation::OpenDataChannel, FailureKind::Unavailable));
    world.emulator.act(Action::Disconnect);
    let failed = program.events("reconnecting", 2).await.swap_remove(1);
    assert!(failed["cause"].as_str().is_some_and(|cause| cause.contains("503")), "{failed}");
    world.emulator.configure(|config| config.failures.clear());
    client.echo(b"after").await;
    world.finish(program).await;
}

#[tokio::test]
async fn expired_credentials_name_the_remedy_once_and_heal() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    for episode in 1..=2 {
        client.echo(b"before").await;
        world.emulator.configure(|config| config.expired_credentials = true);
        world.emulator.act(Action::Disconnect);
        let expired = program.events("credentials_expired", episode).await.swap_remove(episode - 1);
        // The keys of this run come from the environment: no login would help.
        assert!(expired["hint"].as_str().is_some_and(|hint| hint.contains("set new ones and start")), "{expired}");
        assert!(expired["message"].as_str().is_some_and(|message| message.contains("expired")), "{expired}");
        // Attempts go on, and say nothing new.
        let attempts = program.events_so_far("reconnecting").len();
        program.events("reconnecting", attempts + 1).await;
        assert_eq!(program.events_so_far("credentials_expired").len(), episode);
        world.emulator.configure(|config| config.expired_credentials = false);
        client.echo(b"after").await;
        program.events("resumed", episode).await;
    }
    assert_kept(&program, 2);
    let (ended, _) = world.finish(program).await;
    assert_eq!(ended.stderr.matches("set new ones and start").count(), 2, "{}", ended.stderr);
}

/// Nothing comes any more, and nothing says so.
#[tokio::test]
async fn a_network_that_falls_silent_is_noticed_by_pings() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let relay = ApiRelay::to(&world.emulator).await;
    let program = world.forward(echo.port, &["--endpoint-url", &relay.url, "--ping-interval", "0.3"]).await;
    let mut client = program.connect().await;
    client.echo(b"before").await;
    relay.hold();
    client.write(b"meanwhile").await;
    program.event("reconnecting").await;
    relay.release();
    assert_eq!(client.read(9).await, b"meanwhile");
    program.event("resumed").await;
    assert_kept(&program, 1);
    world.finish(program).await;
}

#[tokio::test]
async fn an_old_agents_connection_is_kept_too() {
    let world = World::with(|config| config.agent_version = "3.0.150.0".into());
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    for (round, cut) in CUTS.into_iter().enumerate() {
        client.echo(b"before").await;
        world.emulator.act(cut);
        client.echo(format!("after {round}").as_bytes()).await;
    }
    assert_kept(&program, 1);
    drop(client);
    program.event("connection_closed").await;
    program.connect().await.echo(b"and the next").await;
    world.finish(program).await;
}

/// The service does it about hourly.
#[tokio::test]
async fn a_bye_every_moment_is_survived() {
    let world = World::with(|config| config.bye_every = Some(Duration::from_millis(700)));
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    let Client(socket) = program.connect().await;
    let (mut reader, mut writer) = socket.into_split();
    let enough = |state: &EmulatorState| state.sessions.values().any(|session| session.websockets > 5);
    let mut seed = 0;
    while !enough(&world.emulator.state()) {
        seed += 1;
        let both = async { tokio::join!(send(&mut writer, seed, 50_000), receive(&mut reader, seed, 50_000)) };
        let (sent, received) = within("an echo", both).await;
        sent.and(received).unwrap_or_else(|error| panic!("{error}\n{}", program.transcript()));
    }
    world.emulator.configure(|config| config.bye_every = None);
    assert_kept(&program, 5);
    world.finish(program).await;
}

#[tokio::test]
async fn an_agent_that_reconnects_is_not_noticed() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    for round in 0..5 {
        client.echo(b"before").await;
        world.emulator.act(Action::DisconnectAgent);
        client.echo(format!("after {round}").as_bytes()).await;
    }
    assert_eq!(program.events_so_far("reconnecting").len(), 0);
    world.finish(program).await;
}

#[tokio::test]
async fn a_pause_holds_data_until_the_service_lifts_it() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"before").await;
    world.emulator.act(Action::Pause);
    client.write(b"paused").await;
    world.emulator.act(Action::Start);
    assert_eq!(client.read(6).await, b"paused");
    world.finish(program).await;
}
