//! The emulator as other people's tests and clients use it: a program beside theirs.

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use crate::harness::{Destination, Program, World, within};

fn emulator(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssmfwd-emulator"));
    command.env_clear().env("PATH", "/usr/bin:/bin").args(arguments);
    command
}

#[tokio::test]
async fn the_demo_does_the_main_job_and_ends_by_itself() {
    let ended = Program::start(emulator(&["demo", "--once", "--agent", "ideal"])).exit().await.expect_status(0);
    let said = format!("{}\n{}", ended.stdout, ended.stderr);
    for expected in ["Hello from a private host", "MB/s", "still open 0"] {
        assert!(said.contains(expected), "no {expected:?} in:\n{said}");
    }
}

#[tokio::test]
async fn the_demo_stays_until_ctrl_c() {
    let program = Program::start(emulator(&["demo", "--agent", "ideal"]));
    program.stdout_line("curl ").await;
    program.signal(Signal::INT);
    program.exit().await.expect_status(0);
}

#[tokio::test]
async fn serve_prints_what_a_client_needs() {
    let echo = Destination::echo().await;
    let server = Program::start(emulator(&["serve", "--agent", "ideal", "--target", "mi-0a"]));
    let line: Value = serde_json::from_str(&server.stdout_line("{").await).expect("one JSON line");
    for name in ["endpoint_url", "control_url", "target"] {
        assert!(line[name].is_string(), "{line}");
    }
    let env = line["env"].as_object().expect("variables").iter();
    let env = env.map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssmfwd"));
    let forward = format!("0:127.0.0.1:{}", echo.port);
    command.env_clear().envs(env).args([&forward, "--output", "json", "-t", line["target"].as_str().expect("text")]);
    let client = Program::start(command);
    client.connect().await.echo(b"hello").await;
    client.signal(Signal::TERM);
    client.exit().await.expect_status(143);
    server.signal(Signal::TERM);
    server.exit().await.expect_status(0);
}

/// One request to the control path, as a test in another language makes it.
async fn control(url: &str, method: &str, name: &str, body: &str) -> Value {
    let (authority, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("plain HTTP");
    let mut stream = TcpStream::connect(authority).await.expect("the emulator");
    let head = format!("{method} /{path}/{name} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    within("an answer of the control path", stream.read_to_string(&mut answer)).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).expect("JSON")
}

#[tokio::test]
async fn levers_are_switches_and_fields_and_actions_of_the_control_path() {
    for tls in [&[][..], &["--tls"]] {
        let switches = ["serve", "--fail", "StartSession:target_not_connected:1", "--stale-tokens", "2"];
        let server = Program::start(emulator(&[&switches, tls].concat()));
        let line: Value = serde_json::from_str(&server.stdout_line("{").await).expect("one JSON line");
        let url = line["control_url"].as_str().expect("text");
        let config = control(url, "GET", "config", "").await;
        assert_eq!(config["stale_tokens"], 2, "{config}");

        let env = line["env"].as_object().expect("variables").iter();
        let env = env.map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_ssmfwd"));
        command.env_clear().envs(env).args(["0:127.0.0.1:9", "-t", World::TARGET]);
        Program::start(command).exit().await.expect_status(6).expect_stderr("not connected");
        let config = control(url, "POST", "config", r#"{"outage": true, "agent_restart_ms": 3600000}"#).await;
        assert_eq!((&config["failures"], &config["outage"]), (&json!([]), &json!(true)));
        let acted = control(url, "POST", "actions", r#"{"action": "restart_agent"}"#).await;
        assert_eq!(acted, json!({"sessions": 0}));
        let state = control(url, "GET", "state", "").await;
        assert_eq!((&state["errors"]["TargetNotConnected"], &state["agent_restarts"]), (&json!(1), &json!(0)));
        server.signal(Signal::TERM);
        server.exit().await.expect_status(0);
    }
}

#[tokio::test]
async fn exec_runs_a_program_against_the_emulator() {
    let echo = Destination::echo().await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let switches =
        ["exec", "--agent", "ideal", "--", "ssmfwd", &forward, "--output", "json", "--target", World::TARGET];
    let program = Program::start(emulator(&switches));
    program.connect().await.echo(b"hello").await;
    program.signal(Signal::TERM);
    let ended = program.exit().await.expect_status(143);
    assert_eq!(ended.events_named("stopped")[0]["exit"], 143);
}

#[tokio::test]
async fn exec_exits_with_the_status_of_its_command() {
    for (command, status) in
        [(["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137), (["no-such", "", ""], 127)]
    {
        let arguments = [&["exec", "--"], &command[..]].concat();
        Program::start(emulator(&arguments)).exit().await.expect_status(status);
    }
}
