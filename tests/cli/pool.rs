//! Several sessions behind one forward.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use ssmfwd::emulator::{Action, AgentKind, ChannelState, EmulatorState, EndedBy, FailureKind, Operation};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::harness::{Client, Destination, Program, World, failing, receive, send};

/// Sessions with one connection to the destination each.
fn spread(state: &EmulatorState, sessions: usize) -> bool {
    let live = || state.sessions.values().filter(|session| session.ended.is_none());
    live().count() == sessions && live().all(|session| session.destinations == 1)
}

/// Sessions that the program has ended, whether they were ready or not.
fn ended_by_us(state: &EmulatorState) -> u64 {
    state.ended_by(EndedBy::Flag) + state.ended_by(EndedBy::Api)
}

/// A program with three sessions, and a connection on each.
async fn three(world: &World, port: u16) -> (Program, Vec<Client>) {
    let program = world.forward(port, &["--sessions", "3"]).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = program.connect().await;
        client.echo(b"hello").await;
        clients.push(client);
    }
    world.until("a connection on each session", |state| spread(state, 3)).await;
    (program, clients)
}

/// The session in a slot.
async fn session_of_slot(program: &Program, slot: u64) -> String {
    let started = program.events("session_started", 3).await;
    let found = started.iter().find(|event| event["member"] == slot).expect("a session in each slot");
    found["session_id"].as_str().expect("an id").to_owned()
}

/// The clients that can still talk to the destination.
async fn served(clients: Vec<Client>) -> Vec<Client> {
    let mut left = Vec::new();
    for mut client in clients {
        if client.0.write_all(b"x").await.is_ok() && matches!(read_one(&mut client.0).await, Ok(b'x')) {
            left.push(client);
        }
    }
    left
}

async fn read_one(socket: &mut TcpStream) -> io::Result<u8> {
    tokio::io::AsyncReadExt::read_u8(socket).await
}

#[tokio::test]
async fn three_connections_get_three_sessions_and_all_are_ended() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (program, clients) = three(&world, echo.port).await;
    let started = program.events("session_started", 3).await;
    let slots: BTreeSet<_> = started.iter().filter_map(|event| event["member"].as_u64()).collect();
    assert_eq!(slots, BTreeSet::from([0, 1, 2]));
    drop(clients);
    program.events("connection_closed", 3).await;
    let (ended, state) = world.finish(program).await;
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Flag)), (3, 3));
    assert_eq!(ended.events_named("ready").len(), 1);
    assert_eq!(ended.events_named("ready")[0]["forwards"][0]["member"], 0);
    let ends = ended.events_named("session_ended");
    let slots: BTreeSet<_> = ends.iter().filter_map(|event| event["member"].as_u64()).collect();
    assert_eq!((ends.len(), slots), (3, BTreeSet::from([0, 1, 2])));
    for end in ends {
        assert_eq!((&end["bytes_up"], &end["bytes_down"]), (&5.into(), &5.into()), "{end}");
    }
}

#[tokio::test]
async fn a_session_that_the_service_ends_takes_only_its_own_connection_along() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (program, clients) = three(&world, echo.port).await;
    let second = session_of_slot(&program, 1).await;
    assert!(world.emulator.act_on(&second, Action::ChannelClosed { output: "enough".into() }));
    let ended = program.event("session_ended").await;
    assert_eq!((&ended["session_id"], &ended["member"]), (&second.into(), &1.into()));
    program.event("connection_closed").await;
    let left = served(clients).await;
    assert_eq!(left.len(), 2);
    program.line("was ended, its connections are reset").await;
    assert_eq!(program.events_so_far("dormant").len(), 0);
    // Two connections have a session each; one that would have to share asks for the third.
    let mut third = program.connect().await;
    third.echo(b"shares").await;
    let started = program.events("session_started", 4).await;
    assert_eq!(started[3]["member"], 1);
    let (_, state) = world.finish(program).await;
    // The third may not be ready yet.
    assert_eq!((state.ended_by(EndedBy::Service), ended_by_us(&state)), (1, 3));
}

#[tokio::test]
async fn a_websocket_that_is_lost_is_not_felt_by_the_others() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (program, clients) = three(&world, echo.port).await;
    // It cannot come back for now.
    world.emulator.configure(|config| config.throttle = 1_000_000);
    let first = session_of_slot(&program, 0).await;
    assert!(world.emulator.act_on(&first, Action::Disconnect));
    program.event("reconnecting").await;
    // New connections are not held: they go to the others.
    let mut more = Vec::new();
    for _ in 0..2 {
        let mut client = program.connect().await;
        client.echo(b"at once").await;
        more.push(client);
    }
    let state = world.emulator.state();
    assert_eq!(state.sessions[&first].channel, ChannelState::Lost);
    world.emulator.configure(|config| config.throttle = 0);
    program.event("resumed").await;
    assert_eq!(served(clients).await.len(), 3, "nothing was lost");
    assert_eq!(served(more).await.len(), 2);
    let (ended, state) = world.finish(program).await;
    assert_eq!((state.sessions_started, ended.events_named("session_ended").len()), (3, 3));
}

/// One session has no websocket, the others were ended, and the credentials do not do for another.
#[tokio::test]
async fn a_login_is_asked_for_when_no_session_can_be_used() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (program, mut clients) = three(&world, echo.port).await;
    let resume = failing(Operation::ResumeSession, FailureKind::Throttled);
    let start = failing(Operation::StartSession, FailureKind::ExpiredToken);
    world.emulator.configure(|config| config.failures = [resume, start].concat());
    assert!(world.emulator.act_on(&session_of_slot(&program, 0).await, Action::Disconnect));
    program.event("reconnecting").await;
    for slot in 1..3 {
        let session = session_of_slot(&program, slot).await;
        assert!(world.emulator.act_on(&session, Action::ChannelClosed { output: "enough".into() }));
    }
    program.events("session_ended", 2).await;
    let mut held = program.connect().await;
    held.write(b"patience").await;
    program.event("credentials_expired").await;
    program.line("the credentials cannot be used any more: StartSession").await;
    let attempts = program.events_so_far("reconnecting");
    assert!(attempts.iter().any(|attempt| attempt["session_id"].is_null()), "{attempts:?}");
    world.emulator.configure(|config| config.failures.clear());
    assert_eq!(held.read(8).await, b"patience");
    program.event("resumed").await;
    clients.extend([held]);
    assert_eq!(served(clients).await.len(), 2, "the first one was kept, the last one served");
    world.finish(program).await;
}

#[tokio::test]
async fn a_session_that_cannot_be_resumed_is_replaced_while_the_others_move_data() {
    const BYTES: usize = 4 << 20;
    let world = World::ideal();
    let server = Destination::serve(|mut socket| async move { send(&mut socket, 7, BYTES).await }).await;
    let program = world.forward(server.port, &["--sessions", "3"]).await;
    program.events("session_started", 3).await;
    let address = program.addresses(0).await[0];
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::to(address).await);
    }
    world.until("a connection on each session", |state| spread(state, 3)).await;
    world.emulator.configure(|config| config.denied = vec!["ResumeSession".into()]);
    let third = session_of_slot(&program, 2).await;
    assert!(world.emulator.act_on(&third, Action::Disconnect));
    let replaced = program.event("session_replaced").await;
    assert_eq!((&replaced["replaces"], &replaced["member"]), (&third.into(), &2.into()));
    let mut whole = 0;
    for mut client in clients {
        whole += usize::from(receive(&mut client.0, 7, BYTES).await.is_ok());
    }
    assert_eq!(whole, 2, "{}", program.transcript());
    let mut client = Client::to(address).await;
    receive(&mut client.0, 7, BYTES).await.expect("all bytes");
    drop(client);
    let (_, state) = world.finish(program).await;
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Flag)), (4, 3));
}

#[tokio::test]
async fn two_old_agents_carry_two_connections_at_a_time() {
    let world = World::with(|config| config.agent_version = "3.0.150.0".into());
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &["--sessions", "2"]).await;
    let (mut one, mut two) = (program.connect().await, program.connect().await);
    one.echo(b"one").await;
    two.echo(b"two").await;
    one.echo(b"both at once").await;
    drop((one, two));
    world.finish(program).await;
}

#[tokio::test]
async fn all_forwards_together_have_sixteen_sessions_to_a_target() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = world.start(&[&forward, &forward, "--sessions", "16"]);
    program.events("session_started", 16).await;
    program.line(" of 16 sessions: one program has 16 to a target at most").await;
    for index in 0..2 {
        Client::to(program.addresses(index).await[0]).await.echo(b"served").await;
    }
    let (_, state) = world.finish(program).await;
    assert_eq!((state.sessions_started, ended_by_us(&state)), (16, 16));
}

#[tokio::test]
async fn an_extra_session_that_cannot_be_had_is_told_once_and_harms_nothing() {
    // Long enough to change the world between the start of the first session and its being ready.
    let world = World::with(|config| config.agent_start = Some(Duration::from_millis(500)));
    let echo = Destination::echo().await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = Program::start(world.command(&["--target", World::TARGET, "--sessions", "3", &forward]));
    world.until("the first", |state| state.sessions_started == 1).await;
    world.emulator.configure(|config| config.failures = failing(Operation::StartSession, FailureKind::Throttled));
    program.line("1 of 3 sessions, more later: StartSession").await;
    let listening = program.line(" -> 127.0.0.1:").await;
    let address = listening.split([' ', ',']).find_map(|word| word.parse().ok()).expect("an address");
    let (mut one, mut two) = (Client::to(address).await, Client::to(address).await);
    one.echo(b"served").await;
    two.echo(b"served too").await;
    world.emulator.configure(|config| config.failures.clear());
    world.until("all of them", |state| state.sessions_started == 3).await;
    one.echo(b"as ever").await;
    two.echo(b"as ever").await;
    let (ended, _) = world.finish(program).await;
    assert_eq!(ended.stderr.matches("more later").count(), 1, "{}", ended.stderr);
}

#[tokio::test]
async fn a_number_of_sessions_that_is_none_is_a_usage_error() {
    let world = World::ideal();
    for count in ["0", "17", "many", "-1", "1.5"] {
        let ended = world.run(&["0:1", "-t", World::TARGET, "--sessions", count]).await.expect_status(2);
        ended.expect_stderr("--sessions <N|auto>").expect_stderr("expected auto or a number from 1 to 16");
    }
    let mut command = world.command(&["0:1", "-t", World::TARGET]);
    command.env("SSMFWD_SESSIONS", "17");
    Program::start(command).exit().await.expect_status(2).expect_stderr("SSMFWD_SESSIONS");
    assert!(world.settled().await.calls.is_empty());
}

/// Downloads the same again and again.
async fn download(address: SocketAddr, bytes: usize) -> io::Result<()> {
    loop {
        let mut socket = TcpStream::connect(address).await?;
        receive(&mut socket, 7, bytes).await?;
    }
}

#[tokio::test]
async fn an_automatic_pool_grows_under_parallel_downloads_and_not_without() {
    const BYTES: usize = 60_000;
    let world = World::with(|config| config.agent = AgentKind::Realistic);
    let server = Destination::serve(|mut socket| async move { send(&mut socket, 7, BYTES).await }).await;
    let program = world.forward(server.port, &[]).await;
    let address = program.addresses(0).await[0];
    // One after another: more sessions would be of no use.
    for _ in 0..30 {
        receive(&mut Client::to(address).await.0, 7, BYTES).await.expect("all bytes");
    }
    assert_eq!(world.emulator.state().sessions_started, 1);
    let mut downloads = JoinSet::new();
    (0..8).for_each(|_| drop(downloads.spawn(download(address, BYTES))));
    let started = program.events("session_started", 4).await;
    let slots: BTreeSet<_> = started.iter().filter_map(|event| event["member"].as_u64()).collect();
    assert_eq!(slots, BTreeSet::from([0, 1, 2, 3]));
    // Each of them is used, and its rate is told.
    world.until("data on each", |state| state.sessions.values().all(|session| session.down.bytes > 1_000_000)).await;
    let rates = program.events("session_rates", 5).await;
    let slots: BTreeSet<_> = rates.iter().filter_map(|event| event["member"].as_u64()).collect();
    assert_eq!(slots, BTreeSet::from([0, 1, 2, 3]), "{rates:?}");
    assert!(downloads.try_join_next().is_none(), "none has failed");
    downloads.shutdown().await;
    let (ended, state) = world.finish(program).await;
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Flag)), (4, 4));
    let bytes: u64 = ended.events_named("session_ended").iter().filter_map(|end| end["bytes_down"].as_u64()).sum();
    assert!(bytes > 4_000_000, "{bytes}");
}
