//! The emulator as other people's tests and clients use it: a program beside theirs.

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Destination, Program, World};

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
