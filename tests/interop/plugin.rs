//! The AWS CLI, both generations of it, which finds our program where it looks for session-manager-plugin. Those of today
//! pass the token in a variable, Debian 12's in the arguments, and `ecs execute-command` always does
//! (`proto-notes/plugin.md#two-generations`).

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use super::{
    openssh::Server,
    program::{AwsCli, client, text, write},
    terminal::Terminal,
    tunnel::{Aws, TARGET, live_sessions, programs},
};

const ECS: &str = r#"{"name": "prod", "services": [{"name": "worker", "tasks": [
    {"id": "0f9de17a6465404e8b1b2356dc13c2f8", "containers": [{"name": "app", "runtime_id": "0f9de17a-12345678"}]}]}]}"#;

/// An emulated AWS, and a folder in front of PATH with a link to the program.
struct World {
    aws: Aws,
    folder: TempDir,
}

impl World {
    fn start(switches: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let link = folder.path().join("session-manager-plugin");
        std::os::unix::fs::symlink(programs().join("ssmfwd"), link).expect("a link");
        Self { aws: Aws::serve(&[&["--agent", "ideal"], switches].concat()), folder }
    }

    /// The AWS CLI. It ends at the end of a test, whatever happens.
    fn aws(&self, cli: AwsCli, words: &[&str]) -> Command {
        let mut command = Command::new(cli.path());
        let path = std::env::var("PATH").unwrap_or_default();
        command.envs(std::env::vars_os()).envs(self.aws.env());
        // Not all know the variable.
        command.args(["--endpoint-url", self.endpoint()]).args(words);
        command.env("PATH", format!("{}:{path}", self.folder.path().display()));
        command
    }

    fn endpoint(&self) -> &str {
        &self.aws.env()["AWS_ENDPOINT_URL"]
    }

    fn start_session(&self, cli: AwsCli, document: Option<&str>, parameters: &str) -> Command {
        let mut command = self.aws(cli, &["ssm", "start-session", "--target", TARGET]);
        if let Some(document) = document {
            command.args(["--document-name", document, "--parameters", parameters]);
        }
        command
    }

    /// What the AWS CLI got from StartSession, and would pass on.
    fn answer(&self, document: &str, parameters: &str) -> String {
        let folder = self.folder.path().join("instead");
        let (script, file) = (folder.join("session-manager-plugin"), folder.join("answer"));
        fs::create_dir_all(&folder).expect("a folder");
        // Too old for the token in a variable.
        let text = "#!/bin/sh\ncase $1 in --version) echo 1.2.3.0;; *) printf %s \"$1\" >\"$ANSWER\";; esac\n";
        write(&script, text);
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("ours");
        let mut command = self.start_session(AwsCli::V1, Some(document), parameters);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", folder.display())).env("ANSWER", &file);
        assert!(command.status().expect("it starts").success());
        fs::read_to_string(file).expect("an answer")
    }

    /// The program as whoever has an answer starts it.
    fn plugin(&self, answer: &str, rest: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("session-manager-plugin"));
        command.envs(self.aws.env()).args([answer, "us-east-1", "StartSession"]).args(rest);
        command.stdin(Stdio::null());
        command
    }

    /// The rest of the arguments, as the AWS CLI passes them.
    fn rest(&self) -> [String; 3] {
        [String::new(), format!(r#"{{"Target":"{TARGET}"}}"#), self.endpoint().to_owned()]
    }

    /// Nothing is left, and nothing was done against the protocol.
    fn end(self) {
        let state = self.aws.state();
        assert_eq!((live_sessions(&state), &state["violations"]), (0, &serde_json::json!([])), "{state}");
        self.aws.end();
    }
}

/// What the kernel shows of a process and of those under it: their arguments and their environments.
fn processes_of(pid: u32) -> Vec<(String, String)> {
    let folder = Path::new("/proc").join(pid.to_string());
    let read = |name: &str| fs::read(folder.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let children = read(&format!("task/{pid}/children")).unwrap_or_default();
    let this = read("cmdline").ok().zip(read("environ").ok());
    let below = children.split_whitespace().filter_map(|pid| pid.parse().ok()).flat_map(processes_of);
    this.into_iter().chain(below).collect()
}

/// Our program is among the processes of the AWS CLI, and the token is in none of them for others to see.
fn nobody_sees_the_token(pid: u32) {
    let seen = processes_of(pid);
    let ours = |(arguments, _): &&(String, String)| arguments.starts_with("session-manager-plugin\0");
    assert_eq!(seen.iter().filter(ours).count(), 1, "{seen:?}");
    for (arguments, environment) in &seen {
        for text in [arguments, environment] {
            assert!(!text.to_lowercase().contains("tokenvalue"), "{arguments}");
        }
    }
}

/// A server that answers with what it was sent.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut reader = socket.try_clone().expect("a descriptor");
                std::io::copy(&mut reader, &mut socket)
            });
        }
    });
    port
}

#[test]
fn ports_are_forwarded_and_the_token_is_nowhere_to_be_seen_by_v1() {
    ports_are_forwarded(AwsCli::V1);
}

#[test]
fn ports_are_forwarded_and_the_token_is_nowhere_to_be_seen_by_v2() {
    ports_are_forwarded(AwsCli::V2);
}

fn ports_are_forwarded(cli: AwsCli) {
    let world = World::start(&[]);
    let port = echo();
    for (document, parameters) in [
        ("AWS-StartPortForwardingSession", format!(r#"{{"portNumber":["{port}"]}}"#)),
        ("AWS-StartPortForwardingSessionToRemoteHost", format!(r#"{{"portNumber":["{port}"],"host":["127.0.0.1"]}}"#)),
    ] {
        use std::os::unix::process::CommandExt as _;

        let mut command = world.start_session(cli, Some(document), &parameters);
        // Ctrl-C is for all of a job.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut said = String::new();
        while !said.ends_with("Waiting for connections...\n") {
            assert_ne!(stdout.read_line(&mut said).expect("text"), 0, "{said}");
        }
        let local = said.split_once("\nPort ").and_then(|(_, rest)| rest.split(' ').next()).expect("a port");
        let local: u16 = local.parse().expect("a number");

        let mut socket = TcpStream::connect(("127.0.0.1", local)).expect("it listens");
        // A newline alone, which the genuine program changes.
        for sent in ["\n", "hello\n"] {
            socket.write_all(sent.as_bytes()).expect("it takes");
            let mut got = vec![0; sent.len()];
            socket.read_exact(&mut got).expect("an echo");
            assert_eq!(got, sent.as_bytes());
        }
        drop(socket);

        nobody_sees_the_token(child.id());

        kill_process_group(Pid::from_child(&child), Signal::INT).expect("it runs");
        stdout.read_to_string(&mut said).expect("text");
        let id = said.lines().nth(1).and_then(|line| line.rsplit(' ').next()).expect("a session");
        // To the byte what the genuine program says.
        let expected = format!(
            "\nStarting session with SessionId: {id}\nPort {local} opened for sessionId {id}.\n\
             Waiting for connections...\n\nConnection accepted for session [{id}]\n\
             Terminate signal received, exiting.\n\n\nExiting session with sessionId: {id}.\n\n"
        );
        assert_eq!(said, expected);
        assert_eq!(child.wait().expect("a child of ours").code(), Some(0));
    }
    world.end();
}

/// One that has said that it waits for connections, and what it has said until then.
fn waiting(mut command: Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
    let mut said = String::new();
    let mut reader = BufReader::new(child.stdout.as_mut().expect("piped"));
    while !said.ends_with("Waiting for connections...\n") {
        assert_ne!(reader.read_line(&mut said).expect("text"), 0, "{said}");
    }
    (child, said)
}

/// Before profiles, programs passed three arguments. SIGTERM ends the session, too.
#[test]
fn three_arguments_are_enough_and_sigterm_ends_the_session() {
    let world = World::start(&[]);
    let answer = world.answer("AWS-StartPortForwardingSession", r#"{"portNumber":["9"]}"#);
    let (mut child, _) = waiting(world.plugin(&answer, &[]));
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("a child of ours").code(), Some(143));
    world.end();
}

#[test]
fn a_unix_socket_serves_across_a_lost_websocket() {
    let world = World::start(&[]);
    let socket = world.folder.path().join("socket");
    let parameters = format!(r#"{{"portNumber":["{}"],"localUnixSocket":["{}"]}}"#, echo(), socket.display());
    let answer = world.answer("AWS-StartPortForwardingSessionToSocket", &parameters);
    let (mut child, said) = waiting(world.plugin(&answer, &world.rest().each_ref().map(|text| &text[..])));
    assert!(said.contains(&format!("\nUnix socket {} opened for sessionId ", socket.display())), "{said}");
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&socket).expect("it listens");
    for sent in [b"before", b"after!"] {
        stream.write_all(sent).expect("it takes");
        let mut got = [0; 6];
        stream.read_exact(&mut got).expect("an echo");
        assert_eq!(&got, sent);
        world.aws.act(r#"{"action": "disconnect"}"#);
    }
    drop(stream);
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("a child of ours").code(), Some(0));
    world.end();
}

/// A session that cannot be gone on with is ended all the same.
#[test]
fn a_stream_url_of_another_host_is_refused() {
    let world = World::start(&[]);
    let answer = world.answer("AWS-StartPortForwardingSession", r#"{"portNumber":["9"]}"#);
    let mut answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    answer["StreamUrl"] = "wss://ssmmessages.example.com/v1/data-channel/x".into();
    let mut command = world.plugin(&answer.to_string(), &world.rest().each_ref().map(|text| &text[..]));
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("not trusted"), "{complaint}");
    world.end();
}

#[test]
fn a_command_has_its_streams_and_its_status() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let file = folder.path().join("apart.json");
    let document = r#"{"sessionType":"NonInteractiveCommands","properties":{"linux":{
        "commands":"sh -c 'echo out; echo err >&2; exit 3'","separateOutputStream":"true"}}}"#;
    write(&file, document);
    let world = World::start(&["--document", &format!("Apart={}", file.display())]);
    let answer = world.answer("Apart", "{}");
    let mut command = world.plugin(&answer, &world.rest().each_ref().map(|text| &text[..]));
    let output = command.output().expect("it starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), &stderr[..]), (Some(3), "err\n"), "{stdout}");
    assert!(stdout.contains("\nout\n\n\nExiting session with sessionId: "), "{stdout}");
    world.end();
}

/// A status that is not 0 is an error to the AWS CLI. It shows how it has called us, and so do those the token that pass it
/// in the arguments: of a session that is over.
#[test]
fn a_busy_port_is_an_error_and_costs_no_session() {
    for cli in [AwsCli::V1, AwsCli::V2] {
        let world = World::start(&[]);
        let busy = TcpListener::bind("127.0.0.1:0").expect("a port");
        let local = busy.local_addr().expect("an address").port();
        let parameters = format!(r#"{{"portNumber":["9"],"localPortNumber":["{local}"]}}"#);
        let mut command = world.start_session(cli, Some("AWS-StartPortForwardingSession"), &parameters);
        let output = command.output().expect("it starts");
        assert_eq!(output.status.code(), Some(255));
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains("Address already in use"), "{complaint}");
        assert!(complaint.contains("returned non-zero exit status 3"), "{complaint}");
        let (ours, _) = complaint.split_once("Command '").expect("it shows it");
        assert!(!ours.contains("TokenValue"), "{ours}");
        world.end();
    }
}

#[test]
fn ssh_goes_through_the_aws_cli() {
    let server = Server::start();
    for cli in [AwsCli::V1, AwsCli::V2] {
        let world = World::start(&[]);
        let proxy = format!(
            "ProxyCommand={} --endpoint-url {} ssm start-session --target %h --document-name AWS-StartSSHSession \
             --parameters portNumber=%p",
            cli.path().display(),
            world.endpoint()
        );
        let mut ssh = client("ssh", "openssh-client");
        ssh.envs(world.aws.env()).env_remove("SSH_AUTH_SOCK");
        let path = std::env::var("PATH").unwrap_or_default();
        ssh.env("PATH", format!("{}:{path}", world.folder.path().display()));
        let (port, known) = (server.port, server.file("known"));
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=accept-new",
            "LogLevel=ERROR",
            "IdentitiesOnly=yes",
            &format!("Port={port}"),
            &proxy,
            &format!("UserKnownHostsFile={}", known.display()),
        ] {
            ssh.args(["-o", option]);
        }
        ssh.args(["-F", "none", "-i"]).arg(server.file("user"));
        let user = text(client("id", "coreutils").arg("-un"));
        assert_eq!(text(ssh.args([&format!("{user}@{TARGET}"), "echo reached"])), "reached", "{cli:?}");
        world.end();
    }
    server.end();
}

#[tokio::test]
async fn shells_are_opened_by_v1() {
    shells_are_opened(AwsCli::V1).await;
}

#[tokio::test]
async fn shells_are_opened_by_v2() {
    shells_are_opened(AwsCli::V2).await;
}

/// In the clear, and encrypted.
async fn shells_are_opened(cli: AwsCli) {
    for switches in [&[][..], &["--kms-key", "alias/sessions"]] {
        let world = World::start(switches);
        let mut terminal = Terminal::start(&world.start_session(cli, None, ""));
        terminal.until("Starting session with SessionId: ").await;
        terminal.types("stty size; echo it is a\"\" shell\r").await;
        terminal.until("it is a shell\r\n").await;
        nobody_sees_the_token(terminal.id());
        terminal.types("exit\r").await;
        let (status, shown) = terminal.end().await;
        assert_eq!(status, Some(0), "{shown}");
        assert!(shown.contains("24 80\r\n") && shown.contains("Exiting session with sessionId: "), "{shown}");
        world.end();
    }
}

#[tokio::test]
async fn commands_run_in_containers() {
    for cli in [AwsCli::V1, AwsCli::V2] {
        let world = World::start(&["--ecs", ECS]);
        let task = "0f9de17a6465404e8b1b2356dc13c2f8";
        let words = ["ecs", "execute-command", "--cluster", "prod", "--task", task, "--container", "app"];
        let mut command = world.aws(cli, &words);
        command.args(["--interactive", "--command", "sh"]);
        let mut terminal = Terminal::start(&command);
        terminal.until("Starting session with SessionId: ecs-execute-command-").await;
        terminal.types("echo in a\"\" container\r").await;
        terminal.until("in a container\r\n").await;
        nobody_sees_the_token(terminal.id());
        terminal.types("exit\r").await;
        let (status, shown) = terminal.end().await;
        assert_eq!(status, Some(0), "{shown}");
        world.end();
    }
}
