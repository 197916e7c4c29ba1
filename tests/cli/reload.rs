//! SIGHUP without a terminal: the configuration is read again, under connections that go on.

use std::{fmt::Write as _, path::Path};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use ssmfwd::emulator::{FailureKind, Operation};

use crate::harness::{Client, Destination, Program, World, failing, within};

/// A configuration file that is written more than once.
struct Config(TempDir);

impl Config {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("ssmfwd.toml")
    }

    /// Tunnels: a name, where it listens, and the port of its destination.
    fn write(&self, tunnels: &[(&str, &str, u16)]) {
        let mut text = format!("[defaults]\ntarget = \"{}\"\n", World::TARGET);
        for (name, listen, port) in tunnels {
            write!(text, "[tunnels.{name}]\nforward = \"{listen}:127.0.0.1:{port}\"\n").expect("a text");
        }
        std::fs::write(self.path(), text).expect("a file");
    }

    /// `up --all` in a session without a terminal, whatever the tests are run in.
    fn program(&self, world: &World) -> Program {
        let mut command = Command::new("setsid");
        command.env_clear().envs(world.emulator.env()).env("PATH", "/usr/bin:/bin");
        command.arg(env!("CARGO_BIN_EXE_ssmfwd")).args(["up", "--all", "--output", "json", "--config"]);
        Program::start({
            command.arg(self.path());
            command
        })
    }
}

/// A free path for a unix socket, which a test can know beforehand.
fn socket(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

async fn reload(program: &Program, count: usize) -> serde_json::Value {
    program.signal(Signal::HUP);
    program.events("reloaded", count).await.swap_remove(count - 1)
}

#[tokio::test]
async fn connections_of_an_unchanged_tunnel_go_on_while_others_come_and_go() {
    const CONNECTIONS: usize = 100;
    let (world, echo, other) = (World::ideal(), Destination::echo().await, Destination::greeting(b"B").await);
    let (config, sockets) = (Config::new(), tempfile::tempdir().expect("a folder"));
    let (old, new) = (socket(sockets.path(), "old"), socket(sockets.path(), "new"));
    config.write(&[("kept", "127.0.0.1:0", echo.port), ("old", &old, other.port)]);
    let program = config.program(&world);
    let address = program.addresses(0).await[0];
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::to(address).await);
    }
    // They talk all the time.
    let talking = tokio::spawn(async move {
        for round in 0..20_u32 {
            for client in &mut clients {
                client.echo(&round.to_be_bytes()).await;
            }
        }
        clients
    });

    config.write(&[("kept", "127.0.0.1:0", echo.port), ("new", &new, other.port)]);
    let reloaded = reload(&program, 1).await;
    assert_eq!(
        (&reloaded["added"], &reloaded["removed"], &reloaded["unchanged"]),
        (&serde_json::json!(["new"]), &serde_json::json!(["old"]), &1.into())
    );
    program.events("session_started", 3).await;
    // Another destination for the same address: one goes, then the other comes.
    config.write(&[("kept", "127.0.0.1:0", echo.port), ("new", &new, echo.port)]);
    let reloaded = reload(&program, 2).await;
    assert_eq!((&reloaded["added"], &reloaded["removed"]), (&serde_json::json!(["new"]), &serde_json::json!(["new"])));
    program.events("session_started", 4).await;
    // What is not valid changes nothing.
    std::fs::write(config.path(), "[tunnels.kept]\nforwards = 3\n").expect("a file");
    program.signal(Signal::HUP);
    let failed = program.event("reload_failed").await;
    assert!(failed["message"].as_str().is_some_and(|message| message.contains("ssmfwd.toml:1:10: ")), "{failed}");

    let mut clients = within("the connections", talking).await.expect("no panic");
    for client in &mut clients {
        client.echo(b"still here").await;
    }
    assert!(!Path::new(&old).exists(), "the socket of a tunnel that is gone");
    let mut stream = tokio::net::UnixStream::connect(&new).await.expect("it listens");
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await.expect("it is served");
    let mut answer = [0];
    within("an answer", tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer)).await.expect("an echo");
    assert_eq!(answer, *b"x");
    drop((clients, stream));
    let (ended, _) = world.finish(program).await;
    let closed = ended.events_named("connection_closed");
    let of_kept = closed.iter().filter(|event| event["forward"] == "kept");
    assert!(
        of_kept.clone().all(|event| event["reason"] == "local_closed" || event["reason"] == "stopped"),
        "{closed:?}"
    );
    assert_eq!(of_kept.count(), CONNECTIONS);
}

/// With connections on it, a tunnel that has changed listens again at once: its old ones may take their time.
#[tokio::test]
async fn a_changed_tunnel_is_there_before_its_old_connections_are_gone() {
    let (world, echo, other) = (World::ideal(), Destination::echo().await, Destination::greeting(b"B").await);
    let config = Config::new();
    // A port that is free, and most likely stays so.
    let listen = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let write = |port| {
        config.write(&[("db", &listen.to_string(), port)]);
        let mut text = std::fs::read_to_string(config.path()).expect("a file");
        text.push_str("drain = 600\n");
        std::fs::write(config.path(), text).expect("a file");
    };
    write(echo.port);
    let program = config.program(&world);
    let mut old = program.connect().await;
    old.echo(b"before").await;
    write(other.port);
    reload(&program, 1).await;
    program.events("session_started", 2).await;
    assert_eq!(Client::to(listen).await.read(1).await, b"B");
    old.echo(b"after").await;
    drop(old);
    world.finish(program).await;
}

/// A target that is not connected: the tunnel listens, is not ready, and its next connection tries again.
#[tokio::test]
async fn a_tunnel_whose_session_cannot_be_started_is_seen_and_tried_again() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let config = Config::new();
    config.write(&[("kept", "127.0.0.1:0", echo.port)]);
    let program = config.program(&world);
    program.event("ready").await;
    let failures = failing(Operation::StartSession, FailureKind::TargetNotConnected);
    world.emulator.configure(|config| config.failures = failures);
    config.write(&[("kept", "127.0.0.1:0", echo.port), ("late", "127.0.0.1:0", echo.port)]);
    reload(&program, 1).await;
    assert_eq!(program.event("error").await["status"], 6);
    world.emulator.configure(|config| config.failures.clear());
    let listening = program.events("listening", 2).await;
    let late = listening.iter().find(|event| event["forward"] == "late").expect("it listens");
    let address = late["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    Client::to(address).await.echo(b"late").await;
    world.finish(program).await;
}

/// A tunnel that cannot be had says so, and is tried again at the next reload; the others know nothing of it.
#[tokio::test]
async fn a_tunnel_that_cannot_be_added_harms_nobody() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (config, busy) = (Config::new(), std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let listen = busy.local_addr().expect("bound").to_string();
    config.write(&[("kept", "127.0.0.1:0", echo.port)]);
    let program = config.program(&world);
    let mut client = program.connect().await;
    client.echo(b"before").await;
    config.write(&[("kept", "127.0.0.1:0", echo.port), ("late", &listen, echo.port)]);
    reload(&program, 1).await;
    let error = program.event("error").await;
    assert_eq!(error["status"], 3, "{error}");
    drop(busy);
    let reloaded = reload(&program, 2).await;
    assert_eq!(reloaded["added"], serde_json::json!(["late"]));
    program.events("session_started", 2).await;
    Client::to(listen.parse().expect("an address")).await.echo(b"late").await;
    client.echo(b"after").await;
    drop(client);
    world.finish(program).await;
}
