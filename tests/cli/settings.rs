//! Where settings come from, and surroundings that are not as usual.

use std::net::TcpListener as StdListener;

use tokio::process::Command;

use crate::harness::{Client, Destination, Program, World};

/// The program with one forward, its target and events, and some variables changed.
fn command(world: &World, port: u16, variables: &[(&str, &str)], without: &[&str]) -> Command {
    let mut command = world.command(&[&format!("0:127.0.0.1:{port}"), "--output", "json"]);
    command.env("SSMFWD_TARGET", World::TARGET).envs(variables.iter().copied());
    for name in without {
        command.env_remove(name);
    }
    command
}

async fn works(world: World, command: Command) {
    let program = Program::start(command);
    program.connect().await.echo(b"hello").await;
    world.finish(program).await;
}

#[tokio::test]
async fn every_option_may_be_a_variable_and_a_flag_wins() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let mut overridden = command(&world, echo.port, &[("SSMFWD_TARGET", "i-0missing"), ("SSMFWD_REASON", "why")], &[]);
    overridden.args(["--target", World::TARGET]);
    let program = Program::start(overridden);
    program.connect().await.echo(b"hello").await;
    let (_, state) = world.finish(program).await;
    assert!(state.sessions.values().all(|session| session.reason.as_deref() == Some("why")));
}

#[tokio::test]
async fn messages_are_no_larger_than_told() {
    for (largest, expected) in [("1024", 1024..=1024), ("4096", 4096..=4096), ("", 4096..=32 << 10)] {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let variables = [("SSMFWD_MAX_PAYLOAD", largest), ("SSMFWD_MAX_MESSAGE_RATE", "0")];
        let program = Program::start(command(&world, echo.port, &variables, &[]));
        program.connect().await.echo(&vec![7; 1 << 20]).await;
        let (_, state) = world.finish(program).await;
        let seen = state.sessions.values().map(|session| session.largest_payload).max().expect("a session");
        assert!(expected.contains(&seen), "{largest}: {seen}");
    }
}

#[tokio::test]
async fn the_endpoint_may_be_named_for_ssm_alone_or_by_an_option() {
    for name in ["AWS_ENDPOINT_URL_SSM", "SSMFWD_ENDPOINT_URL"] {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let url = world.emulator.endpoint_url().to_owned();
        let command = command(&world, echo.port, &[(name, &url)], &["AWS_ENDPOINT_URL"]);
        works(world, command).await;
    }
}

#[tokio::test]
async fn a_named_profile_wins_over_keys_in_the_environment() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let folder = tempfile::tempdir().expect("a folder");
    let (config, credentials) = (folder.path().join("config"), folder.path().join("credentials"));
    let env: std::collections::BTreeMap<_, _> = world.emulator.env().into_iter().collect();
    let text = format!("[profile dev]\nregion = {}\nendpoint_url = {}\n", env["AWS_REGION"], env["AWS_ENDPOINT_URL"]);
    std::fs::write(&config, text).expect("a file");
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    let lines = keys.map(|name| format!("{} = {}\n", name.to_lowercase(), env[name]));
    std::fs::write(&credentials, format!("[dev]\n{}", lines.concat())).expect("a file");
    let variables = [
        ("AWS_CONFIG_FILE", config.to_str().expect("text")),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().expect("text")),
        ("AWS_ACCESS_KEY_ID", "AKIDOFSOMEBODYELSE"),
        ("AWS_SECRET_ACCESS_KEY", "wrong"),
        ("SSMFWD_PROFILE", "dev"),
    ];
    let without = ["AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"];
    let command = command(&world, echo.port, &variables, &without);
    works(world, command).await;
}

#[tokio::test]
async fn an_authority_that_is_not_trusted_is_status_1_and_starts_no_session() {
    let world = World::with(|config| config.tls = true);
    let folder = tempfile::tempdir().expect("a folder");
    let other = World::with(|config| config.tls = true);
    let roots = folder.path().join("roots.pem");
    std::fs::copy(other.emulator.ca_file().expect("it serves TLS"), &roots).expect("a copy");
    let roots = roots.to_str().expect("text");
    let ended = Program::start(command(&world, 9, &[("SSL_CERT_FILE", roots)], &["AWS_CA_BUNDLE"])).exit().await;
    let ended = ended.expect_status(1).expect_stderr("ertificate");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn quiet_says_nothing_when_all_is_well() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let mut command = command(&world, echo.port, &[], &[]);
    command.arg("--quiet");
    let program = Program::start(command);
    program.connect().await.echo(b"hello").await;
    let (ended, _) = world.finish(program).await;
    assert_eq!(ended.stderr, "");
}

#[tokio::test]
async fn a_destination_may_be_an_ipv6_address() {
    let Ok(probe) = StdListener::bind("[::1]:0") else { return }; // no IPv6 here
    drop(probe);
    let listener = tokio::net::TcpListener::bind("[::1]:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let world = World::ideal();
    let program = world.start(&[&format!("0:[::1]:{port}")]);
    let mut client = program.connect().await;
    client.write(b"hello").await;
    let (mut socket, _) = crate::harness::within("a connection", listener.accept()).await.expect("the agent's");
    let mut hello = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut socket, &mut hello).await.expect("five bytes");
    assert_eq!(&hello, b"hello");
    drop((socket, client));
    world.finish(program).await;
}

/// Connections come and go although nobody reads the events, and in the end the program ends.
#[tokio::test]
async fn nobody_has_to_read_the_events() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let port = StdListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", echo.port);
    for reading in [false, true] {
        let mut command = world.command(&[&forward, "-t", World::TARGET, "--output", "json"]);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the built binary");
        // Closed at once, or open and never read.
        let stdout = child.stdout.take().filter(|_| reading);
        let before = world.emulator.state().upgrades_accepted;
        world.until("a session", |state| state.upgrades_accepted > before).await;
        let address = ([127, 0, 0, 1], port).into();
        for _ in 0..600 {
            Client::to(address).await.echo(b"hello").await;
        }
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("it runs"), rustix::process::Signal::TERM).expect("it runs");
        let status = crate::harness::within("its end", child.wait()).await.expect("a child of ours");
        assert_eq!(status.code(), Some(143));
        drop(stdout);
    }
    world.settled().await;
}

/// More connections than descriptors: the rest waits and is served when others have gone.
#[tokio::test]
async fn a_shortage_of_descriptors_is_survived() {
    const CONNECTIONS: usize = 100;
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let binary = env!("CARGO_BIN_EXE_ssmfwd");
    let mut command = Command::new("/bin/sh");
    command.env_clear().envs(world.emulator.env()).args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", binary]);
    let forward = format!("127.0.0.1:0:127.0.0.1:{}", echo.port);
    command.args([&forward, "-t", World::TARGET, "--output", "json"]);
    let program = Program::start(command);
    let address = program.addresses(0).await[0];
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = Client::to(address).await;
        client.write(b"hello").await;
        clients.push(client);
    }
    program.line("cannot accept connections for now").await;
    for mut client in clients {
        assert_eq!(client.read(5).await, b"hello");
    }
    world.finish(program).await;
}
