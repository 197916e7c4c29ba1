//! Shells and commands: real programs, most of them on a real pty.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    super::{EcsCluster, EcsContainer, EcsService, EcsTask, Emulator, EmulatorConfig, EndedBy, SessionDocument},
    client::{Answer, Client, Last, Signer, call, call_service, soon},
    emulator, ideal,
};
use crate::wire::{PayloadKind, Size, to_json};

async fn start(emulator: &Emulator, document: Option<&str>, parameters: &Value) -> Answer {
    let mut input = json!({"Target": emulator.target()});
    if let Some(document) = document {
        (input["DocumentName"], input["Parameters"]) = (document.into(), parameters.clone());
    }
    let answer = call(emulator, "StartSession", &input).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// The shell of the default document.
async fn shell(emulator: &Emulator) -> (Client, String) {
    let grant = start(emulator, None, &Value::Null).await;
    (Client::open(&grant).await, grant.text("SessionId"))
}

async fn command(emulator: &Emulator, document: &str, text: &str) -> Client {
    Client::open(&start(emulator, Some(document), &json!({"command": [text]})).await).await
}

fn with_document(name: &str, document: &Value) -> Emulator {
    let document: SessionDocument = serde_json::from_value(document.clone()).expect("a document");
    let documents = [(name.to_owned(), document)].into();
    Emulator::start(EmulatorConfig { documents, ..ideal() }).expect("an emulator")
}

fn ended(last: &Last) -> bool {
    matches!(last, Last::ChannelClosed(output) if output.is_empty())
}

#[tokio::test]
async fn a_shell_answers_on_a_pty_and_ends_with_exit() {
    let emulator = emulator();
    let (mut client, id) = shell(&emulator).await;
    client.send_surely(PayloadKind::Size, &to_json(&Size { cols: 101, rows: 37 })).await;
    client.send_surely(PayloadKind::Output, b"stty size; tty; echo $((6 * 7))\n").await;
    client.until(|client| client.has("42\r\n")).await;
    assert!(client.has("37 101\r\n") && client.has("/dev/pts/") && client.request.is_none(), "{:?}", client.payloads);

    client.send(PayloadKind::Size, &to_json(&Size { cols: 80, rows: 24 })).await;
    // Flags mean nothing to a shell.
    client.terminate().await;
    client.send(PayloadKind::Output, b"stty size\n").await;
    client.until(|client| client.has("24 80\r\n")).await;
    client.send(PayloadKind::Output, b"exit 3\n").await;
    let last = client.last().await;
    assert!(ended(&last), "{last:?}");
    drop(client);
    let state = soon(emulator.wait_for(|state| state.agents == 0)).await;
    assert_eq!((state.violation_count, state.sessions[&id].ended), (0, Some(EndedBy::Agent)));
    assert!(!state.sessions[&id].sealed);
}

#[tokio::test]
async fn control_characters_are_signals_and_the_api_kills_the_shell() {
    let emulator = emulator();
    let (mut client, id) = shell(&emulator).await;
    client.send_surely(PayloadKind::Output, b"echo pid=$$; sleep 1000\n").await;
    client.until(|client| pid_in(&client.received).is_some()).await;
    // The shell may not have come to `sleep` yet, and then the first one interrupts nothing.
    while !client.has("alive") {
        client.send(PayloadKind::Output, b"\x03").await;
        client.send(PayloadKind::Output, b"echo a''live\n").await;
        let alive = client.until(|client| client.has("alive"));
        drop(tokio::time::timeout(Duration::from_millis(100), alive).await);
    }
    let proc = std::path::Path::new("/proc").join(pid_in(&client.received).expect("a pid"));
    assert!(proc.exists() || !std::path::Path::new("/proc/self").exists(), "{proc:?}");

    client.send(PayloadKind::Output, b"trap '' HUP TERM INT; sleep 1000\n").await;
    assert_eq!(call(&emulator, "TerminateSession", &json!({"SessionId": id})).await.status, 200);
    assert!(matches!(client.last().await, Last::ChannelClosed(_)));
    soon(emulator.wait_for(|state| state.agents == 0)).await;
    soon(async {
        while proc.exists() && !is_zombie(&proc) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The number behind `pid=`, once its line is complete. The command itself is echoed too, without a number.
fn pid_in(received: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(received).into_owned();
    let mut numbers = text.split("pid=").skip(1).filter_map(|rest| rest.split_once('\r'));
    numbers.by_ref().map(|(pid, _)| pid.to_owned()).find(|pid| pid.parse::<u32>().is_ok())
}

/// It is dead, and whoever waits for it has not come to it yet.
fn is_zombie(proc: &std::path::Path) -> bool {
    std::fs::read_to_string(proc.join("stat")).is_ok_and(|stat| stat.contains(") Z"))
}

#[tokio::test]
async fn much_output_arrives_whole() {
    let emulator = emulator();
    let mut client =
        command(&emulator, "AWS-StartInteractiveCommand", "yes é€😀 | head -c 1000000; echo; echo done").await;
    client.until(|client| client.received.ends_with(b"done\r\n")).await;
    let whole = client.payloads.iter().filter(|(_, payload)| std::str::from_utf8(payload).is_ok()).count();
    // Only the last character of a million bytes is broken.
    assert!(client.payloads.len() - whole <= 1 && client.payloads.iter().all(|(_, payload)| payload.len() <= 1027));
    assert!(client.received.len() > 1_000_000);
    assert!(ended(&client.last().await));
}

#[tokio::test]
async fn a_profile_is_typed_first() {
    let document = json!({
        "sessionType": "Standard_Stream", "properties": {"shellProfile": {"linux": "echo pro''file", "windows": "cls"}},
    });
    let emulator = with_document("SSM-SessionManagerRunShell", &document);
    let (mut client, _) = shell(&emulator).await;
    client.until(|client| client.has("profile\r\n")).await;
}

#[tokio::test]
async fn a_command_without_pty_sends_its_output_at_its_end() {
    let emulator = emulator();
    let mut client =
        command(&emulator, "AWS-StartNonInteractiveCommand", "sh -c 'echo out; echo err >&2; exit 3'").await;
    let last = client.last().await;
    assert!(client.complete && ended(&last), "{last:?}");
    assert_eq!(client.payloads, [(PayloadKind::Output, "out\nerr\n".into())]);
    let action = &client.request.as_ref().expect("a handshake").requested_client_actions[0];
    let expected = json!({
        "ActionType": "SessionType",
        "ActionParameters": {"SessionType": "NonInteractiveCommands", "Properties": null},
    });
    assert_eq!(serde_json::to_value(action).expect("JSON"), expected);
}

fn separate(shell_command: &str) -> Value {
    json!({
        "sessionType": "NonInteractiveCommands",
        "properties": {"linux": {
            "commands": shell_command, "separateOutputStream": "true",
            "stdOutSeparatorPrefix": "O:", "stdErrSeparatorPrefix": "E:",
        }},
    })
}

#[tokio::test]
async fn separate_output_comes_apart_with_its_status() {
    let emulator = with_document("Apart", &separate("sh -c 'echo out; echo err >&2; exit 3'"));
    let mut client = Client::open(&start(&emulator, Some("Apart"), &json!({})).await).await;
    assert!(ended(&client.last().await));
    assert_eq!(client.text_of(PayloadKind::Output), "O:out\n");
    assert_eq!(client.text_of(PayloadKind::StdErr), "E:err\n");
    assert_eq!(client.payloads.last(), Some(&(PayloadKind::ExitCode, "EXIT_CODE: 3".into())));
}

#[tokio::test]
async fn a_command_without_pty_hears_of_interrupts_only() {
    let emulator =
        with_document("Apart", &separate("sh -c \"trap 'echo int; exit 5' INT; echo ready; while :; do :; done\""));
    let mut client = Client::open(&start(&emulator, Some("Apart"), &json!({})).await).await;
    client.until(|client| client.has("ready")).await;
    client.send(PayloadKind::Output, b"ignored\n").await;
    client.send(PayloadKind::Size, &to_json(&Size { cols: 80, rows: 24 })).await;
    client.send(PayloadKind::Output, b"\x03").await;
    assert!(ended(&client.last().await));
    assert!(client.has("int") && client.acknowledged.len() == 4, "{:?}", client.payloads);
    assert_eq!(client.text_of(PayloadKind::ExitCode), "EXIT_CODE: 5");
}

#[tokio::test]
async fn what_cannot_be_started_is_told() {
    let emulator = Emulator::start(EmulatorConfig { shell: "/no/such/shell".into(), ..ideal() }).expect("an emulator");
    let (mut client, _) = shell(&emulator).await;
    let last = client.last().await;
    assert!(matches!(&last, Last::ChannelClosed(text) if text.contains("/no/such/shell")), "{last:?}");
    for (words, text) in [
        ("/no/such/program x", "fork/exec /no/such/program: no such file or directory"),
        // No shell reads it.
        ("true;", "exec: \"true;\": executable file not found in $PATH"),
        ("'true", "Failed to parse commands input"),
    ] {
        let mut client = command(&emulator, "AWS-StartNonInteractiveCommand", words).await;
        assert!(ended(&client.last().await));
        assert_eq!(client.text_of(PayloadKind::StdErr), text);
    }
}

#[tokio::test]
async fn ecs_executes_commands_in_containers() {
    let task = EcsTask::new("0a1b", [EcsContainer::new("app", "0a1b-1")]);
    let services = vec![EcsService { name: "worker".into(), tasks: vec![task] }];
    let ecs = vec![EcsCluster { name: "prod".into(), services }];
    let emulator = Emulator::start(EmulatorConfig { ecs, ..ideal() }).expect("an emulator");
    let execute = async |input: Value| {
        let target = "AmazonEC2ContainerServiceV20141113.ExecuteCommand";
        call_service(&emulator, &Signer::default(), "ecs", target, &input).await
    };
    let input = json!({"cluster": "prod", "task": "0a1b", "container": "app", "command": "sh", "interactive": true});
    let answer = execute(input.clone()).await;
    assert_eq!((answer.status, answer.text("containerName").as_str()), (200, "app"), "{answer:?}");
    let session = Answer {
        body: json!({
            "StreamUrl": answer.body["session"]["streamUrl"], "TokenValue": answer.body["session"]["tokenValue"],
        }),
        ..answer
    };
    let mut client = Client::open(&session).await;
    client.send_surely(PayloadKind::Output, b"echo $((6 * 7))\n").await;
    client.until(|client| client.has("42\r\n")).await;
    client.send(PayloadKind::Output, b"exit\n").await;
    assert!(ended(&client.last().await));
    let state = emulator.state();
    let (id, session) = state.sessions.first_key_value().expect("a session");
    assert!(id.starts_with("ecs-execute-command-"), "{id}");
    assert_eq!(session.target, "ecs:prod_0a1b_0a1b-1");

    for (code, change) in [
        ("InvalidParameterException", json!({"interactive": false})),
        ("InvalidParameterException", json!({"command": ""})),
        ("InvalidParameterException", json!({"container": "db"})),
        ("InvalidParameterException", json!({"task": "0b"})),
        ("ClusterNotFoundException", json!({"cluster": "dev"})),
    ] {
        let mut input = input.clone();
        input.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        assert_eq!(execute(input).await.code(), code, "{change}");
    }
    emulator.configure(|config| config.offline = true);
    assert_eq!(execute(input).await.code(), "TargetNotConnectedException");
}
