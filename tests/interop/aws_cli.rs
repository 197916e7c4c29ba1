//! The AWS CLI against the emulated AWS: its signatures are verified, its sessions are sessions, and what an
//! administrator does with it reaches `ssmfwd`.

use std::{
    env,
    ffi::OsString,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::Value;

use super::{
    program::{client, text},
    tunnel::{Aws, TARGET, Tunnel, live_sessions},
};

fn aws(aws: &Aws, arguments: &[&str]) -> Command {
    let mut command = client("aws", "awscli");
    command.envs(aws.env()).env("PATH", path_without_plugin()).env_remove("AWS_PROFILE").stdin(Stdio::null());
    command.args(arguments).args(["--output", "json"]);
    command
}

/// Without session-manager-plugin, which would open the port and stay.
fn path_without_plugin() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).filter(|folder| !folder.join("session-manager-plugin").exists());
    env::join_paths(folders).expect("they came from a list")
}

fn run(command: &mut Command) -> Output {
    command.output().expect("it can be started")
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&text(command)).expect("JSON")
}

#[test]
fn the_emulator_is_an_aws_to_it() {
    let emulator = Aws::serve(&[]);
    // It starts a session, finds no plugin, and ends the session.
    let start = [
        "ssm",
        "start-session",
        "--target",
        TARGET,
        "--document-name",
        "AWS-StartPortForwardingSession",
        "--parameters",
        "portNumber=80,localPortNumber=0",
    ];
    let output = run(&mut aws(&emulator, &start));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("SessionManagerPlugin is not found"), "{complaint}");
    let state = emulator.state();
    assert_eq!(state["calls"]["StartSession"], 1, "{state}");
    assert_eq!(state["calls"]["TerminateSession"], 1, "{state}");
    assert_eq!((live_sessions(&state), &state["sessions_ended"]["api"]), (0, &1.into()), "{state}");
    assert_eq!(state["errors"], serde_json::json!({}));

    // A wrong key makes a wrong signature, and no session.
    let output = run(aws(&emulator, &start).env("AWS_SECRET_ACCESS_KEY", "wrong"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("signature"), "{complaint}");
    let state = emulator.state();
    assert_eq!((&state["sessions_started"], live_sessions(&state)), (&1.into(), 0), "{state}");

    // Errors come as it expects them.
    let elsewhere = start.map(|argument| if argument == TARGET { "i-0fedcba9876543210" } else { argument });
    let output = run(&mut aws(&emulator, &elsewhere));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("(TargetNotConnected)"), "{complaint}");
    emulator.end();
}

#[test]
fn an_administrator_ends_a_session_of_ssmfwd() {
    let destination = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let forward = format!("0:{}", destination.local_addr().expect("it is bound"));
    let mut tunnel = Tunnel::serve(&[], &[forward]);
    let session = tunnel.session(0).to_owned();
    let resumed = json(&mut aws(tunnel.aws(), &["ssm", "resume-session", "--session-id", &session]));
    assert_eq!(resumed["SessionId"], session);
    assert!(resumed["TokenValue"].as_str().is_some_and(|token| !token.is_empty()));
    let ended = json(&mut aws(tunnel.aws(), &["ssm", "terminate-session", "--session-id", &session]));
    assert_eq!(ended["SessionId"], session);
    let dormant = tunnel.event("dormant");
    assert_eq!((&dormant["reason"], &dormant["by"]), (&"channel_closed".into(), &"service".into()), "{dormant}");
    assert_eq!(live_sessions(&tunnel.aws().state()), 0);

    // The next connection starts a session of its own, and is served by it.
    let server = thread::spawn(move || {
        let (mut connection, _) = destination.accept().expect("a connection");
        connection.write_all(b"served").expect("it is open");
    });
    let mut client = TcpStream::connect(("127.0.0.1", tunnel.port(0))).expect("the listener stayed bound");
    let started = tunnel.event("session_started");
    assert_ne!(started["session_id"], session);
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("no reset");
    assert_eq!(answer, "served");
    server.join().expect("no panic");
    tunnel.end_after(&["channel_closed"]);
}
