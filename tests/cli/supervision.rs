//! What a supervisor is told and gives: `--ready-fd`, `NOTIFY_SOCKET`, `LISTEN_FDS`.

use std::{net::TcpListener, os::fd::OwnedFd, process::Stdio};

use rustix::process::Signal;
use ssmfwd::emulator::EndedBy;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixDatagram, UnixStream},
    process::Command,
};

use crate::harness::{Client, Destination, Program, World, within};

/// The program behind a shell that prepares its descriptors and becomes it.
fn behind_shell(world: &World, preparation: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("/bin/bash");
    command.env_clear().envs(world.emulator.env()).env("PATH", "/usr/bin:/bin");
    command.args(["-c", preparation, "bash", env!("CARGO_BIN_EXE_ssmfwd"), "-t", World::TARGET]).args(arguments);
    command
}

mod ready_fd {
    use super::*;

    #[tokio::test]
    async fn one_line_has_the_addresses_of_all_forwards() {
        let (world, echo, folder) = (World::ideal(), Destination::echo().await, tempfile::tempdir().expect("a folder"));
        let path = folder.path().join("db.sock").display().to_string();
        let forwards = [format!("0:127.0.0.1:{}", echo.port), format!("{path}:127.0.0.1:{}", echo.port)];
        let arguments = [&forwards[0][..], &forwards[1], "--ready-fd", "3"];
        // What is written to 3 is the stdout that the harness reads.
        let program = Program::start(behind_shell(&world, "exec \"$@\" 3>&1 >/dev/null", &arguments));
        let line = program.stdout_line("127.0.0.1:").await;
        let (tcp, unix) = line.split_once('\t').expect("two addresses");
        assert_eq!(unix, path);
        Client::to(tcp.parse().expect("an address")).await.echo(b"hello").await;
        program.signal(Signal::TERM);
        let ended = program.exit().await.expect_status(143);
        assert_eq!(ended.stdout, line, "nothing else is said there");
        world.settled().await;
    }

    /// A bash script that waits for its end would wait for that of COMMAND.
    #[tokio::test]
    async fn it_is_closed_and_command_does_not_have_it() {
        let world = World::ideal();
        let arguments = ["0:127.0.0.1:9", "--ready-fd", "3", "--", "sleep", "600"];
        let mut command = behind_shell(&world, "exec \"$@\" 3>&1 >/dev/null", &arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("a shell");
        let mut told = String::new();
        let mut stdout = child.stdout.take().expect("piped");
        within("the end of the line", stdout.read_to_string(&mut told)).await.expect("text");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert_eq!(child.try_wait().expect("a child of ours"), None, "and COMMAND runs");
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("it runs"), Signal::TERM).expect("it runs");
        assert_eq!(within("its end", child.wait()).await.expect("a child of ours").code(), Some(143));
        world.settled().await;
    }

    #[tokio::test]
    async fn a_bad_number_is_a_usage_error_before_anything_else() {
        let world = World::ideal();
        for (preparation, number, why) in
            [("exec \"$@\"", "3", "it is not open"), ("exec \"$@\" 3</dev/null", "3", "it is open for reading only")]
        {
            let command = behind_shell(&world, preparation, &["0:127.0.0.1:9", "--ready-fd", number]);
            let ended = Program::start(command).exit().await.expect_status(2);
            ended.expect_stderr(&format!("error: --ready-fd {number} cannot be used: {why}"));
        }
        // These are stdin, stdout and stderr.
        for number in ["0", "1", "2"] {
            let command = behind_shell(&world, "exec \"$@\"", &["0:127.0.0.1:9", "--ready-fd", number]);
            let ended = Program::start(command).exit().await.expect_status(2);
            ended.expect_stderr("expected the number of a file descriptor, 3 at least");
        }
        assert!(world.settled().await.calls.is_empty());
    }

    #[tokio::test]
    async fn whoever_does_not_read_is_no_failure() {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let forward = format!("0:127.0.0.1:{}", echo.port);
        let arguments = [&forward[..], "--output", "json", "--ready-fd", "3"];
        let program = Program::start(behind_shell(&world, "exec \"$@\" 3> >(:)", &arguments));
        program.connect().await.echo(b"hello").await;
        world.finish(program).await;
    }

    /// As it is written in README.
    #[tokio::test]
    async fn a_bash_script_waits_for_it() {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let script = r#"coproc TUNNEL { exec "$@" --ready-fd 3 3>&1 >/dev/null; }
            read -r addr <&"${TUNNEL[0]}" || exit 1
            exec 4<>"/dev/tcp/${addr%:*}/${addr##*:}"; echo hello >&4; head -n1 <&4
            kill "$TUNNEL_PID"; wait "$TUNNEL_PID"; echo "status $?""#;
        let forward = format!("0:127.0.0.1:{}", echo.port);
        let ended = Program::start(behind_shell(&world, script, &[&forward])).exit().await.expect_status(0);
        assert_eq!(ended.stdout, "hello\nstatus 143");
        world.settled().await;
    }
}

mod notify {
    use super::*;

    struct Supervisor {
        socket: UnixDatagram,
        path: String,
        _folder: tempfile::TempDir,
    }

    impl Supervisor {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("notify");
            let socket = UnixDatagram::bind(&path).expect("a free path");
            Self { socket, path: path.display().to_string(), _folder: folder }
        }

        fn supervise(&self, world: &World, arguments: &[&str]) -> Command {
            let mut command = world.command(&["-t", World::TARGET]);
            command.args(arguments).env("NOTIFY_SOCKET", &self.path);
            command
        }

        /// The next message that has a line.
        async fn told(&self, line: &str) -> String {
            let mut message = vec![0; 4096];
            loop {
                let length = within(line, self.socket.recv(&mut message)).await.expect("a socket");
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                if text.lines().any(|told| told == line) {
                    return text;
                }
                assert!(!text.contains("STOPPING=1"), "{text}");
            }
        }
    }

    #[tokio::test]
    async fn ready_and_stopping_are_told() {
        let (world, supervisor) = (World::ideal(), Supervisor::new());
        let program = Program::start(supervisor.supervise(&world, &["0:127.0.0.1:9"]));
        let ready = supervisor.told("READY=1").await;
        assert!(ready.contains("\nSTATUS="), "{ready}");
        program.signal(Signal::TERM);
        supervisor.told("STOPPING=1").await;
        program.exit().await.expect_status(143);
        world.settled().await;
    }

    #[tokio::test]
    async fn a_start_that_fails_is_never_ready() {
        let (world, supervisor) =
            (World::with(|config| config.denied = vec!["StartSession".into()]), Supervisor::new());
        Program::start(supervisor.supervise(&world, &["0:127.0.0.1:9"])).exit().await.expect_status(5);
        let mut message = vec![0; 4096];
        while let Ok(length) = supervisor.socket.try_recv(&mut message) {
            let text = String::from_utf8_lossy(&message[..length]);
            assert!(!text.contains("READY=1"), "{text}");
        }
        world.settled().await;
    }

    #[tokio::test]
    async fn the_watchdog_hears_of_us() {
        let (world, supervisor) = (World::ideal(), Supervisor::new());
        let mut command = supervisor.supervise(&world, &["0:127.0.0.1:9"]);
        command.env("WATCHDOG_USEC", "200000");
        let program = Program::start(command);
        supervisor.told("READY=1").await;
        for _ in 0..3 {
            supervisor.told("WATCHDOG=1").await;
        }
        world.finish(program).await;
    }

    #[tokio::test]
    async fn a_supervisor_that_is_gone_is_no_failure() {
        let (world, supervisor, echo) = (World::ideal(), Supervisor::new(), Destination::echo().await);
        let forward = format!("0:127.0.0.1:{}", echo.port);
        let command = supervisor.supervise(&world, &["--output", "json", &forward]);
        drop(supervisor);
        let program = Program::start(command);
        program.connect().await.echo(b"hello").await;
        world.finish(program).await;
    }
}

mod activation {
    use super::*;

    /// Descriptor 3 is what was stdin.
    const PASS_ON: &str = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";

    fn pass(world: &World, socket: impl Into<OwnedFd>, arguments: &[&str]) -> Command {
        let mut command = behind_shell(world, PASS_ON, arguments);
        command.stdin(Stdio::from(socket.into()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    #[tokio::test]
    async fn a_passed_listener_serves_what_came_before_we_did() {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut early = Client::to(address).await;
        early.write(b"hello").await;
        let forward = format!("{}:127.0.0.1:{}", address.port(), echo.port);
        let mut command = pass(&world, listener.try_clone().expect("a socket"), &["--output", "json", &forward]);
        let mut child = command.spawn().expect("a shell");
        assert_eq!(early.read(5).await, b"hello");
        let mut events = BufReader::new(child.stdout.take().expect("piped")).lines();
        let listening = within("an event", events.next_line()).await.expect("text").expect("an event");
        assert!(listening.contains(&format!("\"address\":\"{address}\"")), "{listening}");
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("it runs"), Signal::TERM).expect("it runs");
        assert_eq!(within("its end", child.wait()).await.expect("a child of ours").code(), Some(143));
        // It is ours: whoever starts the program again finds the same port.
        drop(Client::to(address).await);
        assert_eq!(world.settled().await.ended_by(EndedBy::Flag), 1);
    }

    #[tokio::test]
    async fn a_socket_of_nobody_is_a_usage_error() {
        let world = World::ideal();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let output = within("its end", pass(&world, listener, &["1:127.0.0.1:9"]).output()).await.expect("a shell");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.contains(&format!("error: the socket passed as descriptor 3, {address}, belongs to no forward"))
        );
        assert!(world.settled().await.calls.is_empty());
    }

    #[tokio::test]
    async fn what_does_not_listen_is_a_usage_error() {
        let world = World::ideal();
        let file = std::fs::File::open("/dev/null").expect("it exists");
        let output = within("its end", pass(&world, file, &["0:127.0.0.1:9"]).output()).await.expect("a shell");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.contains("error: the descriptor 3 of LISTEN_FDS cannot be used: it is not a socket"),
            "{stderr}"
        );
        assert!(world.settled().await.calls.is_empty());
    }

    #[tokio::test]
    async fn sockets_for_another_process_are_left_alone() {
        let world = World::ideal();
        let mut command = world.command(&["-t", World::TARGET, "--output", "json", "0:127.0.0.1:9"]);
        command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
        let program = Program::start(command);
        program.event("ready").await;
        world.finish(program).await;
    }

    /// systemd's own launcher, which starts the program at the first connection.
    #[tokio::test]
    async fn systemd_socket_activate_starts_it() {
        let (world, echo, folder) = (World::ideal(), Destination::echo().await, tempfile::tempdir().expect("a folder"));
        let path = folder.path().join("db.sock").display().to_string();
        let mut command = Command::new("systemd-socket-activate");
        command.env_clear().args(["-l", &path]);
        for (name, value) in world.emulator.env() {
            command.arg("-E").arg(format!("{name}={value}"));
        }
        command.args([env!("CARGO_BIN_EXE_ssmfwd"), "-t", World::TARGET, &format!("{path}:127.0.0.1:{}", echo.port)]);
        let program = Program::start(command);
        program.line("Listening on").await;
        let mut client = within("connecting", UnixStream::connect(&path)).await.expect("it listens");
        client.write_all(b"hello").await.expect("it is open");
        let mut answer = [0; 5];
        program.within("an echo", client.read_exact(&mut answer)).await.expect("it is open");
        assert_eq!(&answer, b"hello");
        program.signal(Signal::TERM);
        program.exit().await.expect_status(143);
        assert!(std::path::Path::new(&path).exists(), "the file is the launcher's");
        world.settled().await;
    }
}
