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
    program::{AwsCli, text},
    tunnel::{Aws, TARGET, Tunnel, live_sessions},
};

fn aws(aws: &Aws, arguments: &[&str]) -> Command {
    let mut command = AwsCli::V1.client();
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

/// What it is told of the inventory and of ECS is what ssmfwd finds its targets by.
#[test]
fn the_inventory_is_one_to_it() {
    let many: Vec<_> =
        (0..120).map(|number| format!(r#"{{"id": "i-{number:017}", "name": "node {number}"}}"#)).collect();
    let many = format!("[{}]", many.join(","));
    let ecs = r#"{"name": "prod", "services": [{"name": "worker", "tasks": [
        {"id": "0a", "containers": [{"name": "app", "runtime_id": "0a-1"}]}]}]}"#;
    let emulator = Aws::serve(&["--target", TARGET, "--node", &many, "--ecs", ecs]);

    // It follows the tokens of the pages by itself. The last node is the target, which is none of those named.
    let all = json(&mut aws(&emulator, &["ssm", "describe-instance-information"]));
    assert_eq!(all["InstanceInformationList"].as_array().map(Vec::len), Some(121), "{all}");
    let filter = ["ssm", "describe-instance-information", "--filters", "Key=tag:Name,Values=node 7"];
    let found = json(&mut aws(&emulator, &filter));
    let node = &found["InstanceInformationList"][0];
    assert_eq!(
        (&node["InstanceId"], &node["PingStatus"]),
        (&"i-00000000000000007".into(), &"Online".into()),
        "{found}"
    );
    // A number to the first version, a text to the second; what cannot be read as a date would fail.
    let date = &node["LastPingDateTime"];
    assert!(date.is_number() || date.as_str().is_some_and(|date| date.starts_with("20")), "{node}");
    let named = json(&mut aws(&emulator, &["ssm", "describe-instance-properties", "--max-items", "1"]));
    assert_eq!(named["InstanceProperties"][0]["Name"], "node 0", "{named}");
    let status = json(&mut aws(&emulator, &["ssm", "get-connection-status", "--target", "i-0gone"]));
    assert_eq!(status["Status"], "notconnected");
    let wrong = ["ssm", "describe-instance-information", "--filters", "Key=Name,Values=x"];
    let complaint = String::from_utf8_lossy(&run(&mut aws(&emulator, &wrong)).stderr).into_owned();
    assert!(complaint.contains("(InvalidFilterKey)"), "{complaint}");

    let listed = json(&mut aws(&emulator, &["ecs", "list-tasks", "--cluster", "prod", "--service-name", "worker"]));
    let arn = listed["taskArns"][0].as_str().expect("an ARN");
    let described = json(&mut aws(&emulator, &["ecs", "describe-tasks", "--cluster", "prod", "--tasks", arn]));
    let container = &described["tasks"][0]["containers"][0];
    assert_eq!(
        (&container["runtimeId"], &container["managedAgents"][0]["lastStatus"]),
        (&"0a-1".into(), &"RUNNING".into())
    );
    let services = json(&mut aws(&emulator, &["ecs", "list-services", "--cluster", "prod"]));
    assert_eq!(services["serviceArns"].as_array().map(Vec::len), Some(1), "{services}");
    let output = run(&mut aws(&emulator, &["ecs", "list-tasks", "--cluster", "dev"]));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("(ClusterNotFoundException)"), "{complaint}");
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
