//! `ssmfwd stdio`: one connection on stdin and stdout.

mod destinations;

use std::{
    fs::File,
    io::Read as _,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt as _},
    },
    process::Stdio,
};

use rustix::{
    fs::{OFlags, fcntl_getfl},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;
use ssmfwd::emulator::{
    Action, AgentKind, ChannelState, EmulatorState, EndedBy, FailureKind, Operation, Role, SessionState,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
};

use crate::{
    credentials::Account,
    harness::{Closed, Destination, RefusingPort, Terminal, World, failing, receive, send, within},
};

/// The program with pipes on all three sides.
struct Piped {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: JoinHandle<String>,
}

impl Piped {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self::with(command)
    }

    /// One whose stdin and stdout are something else already.
    fn with(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("the built binary");
        let mut from = child.stderr.take().expect("piped");
        let stderr = tokio::spawn(async move {
            let mut said = String::new();
            from.read_to_string(&mut said).await.expect("text");
            said
        });
        Self { stdin: child.stdin.take(), stdout: child.stdout.take(), child, stderr }
    }

    fn stdin(&mut self) -> &mut ChildStdin {
        self.stdin.as_mut().expect("not ended")
    }

    fn stdout(&mut self) -> &mut ChildStdout {
        self.stdout.as_mut().expect("not closed")
    }

    async fn write(&mut self, bytes: &[u8]) {
        within("writing", self.stdin().write_all(bytes)).await.expect("it reads");
    }

    async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        within("reading", self.stdout().read_exact(&mut bytes)).await.expect("it writes");
        bytes
    }

    async fn echo(&mut self, bytes: &[u8]) {
        self.write(bytes).await;
        assert_eq!(self.read(bytes.len()).await, bytes);
    }

    /// Ends stdin.
    fn end(&mut self) {
        self.stdin = None;
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).expect("it runs");
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end: what was left on stdout, and all of stderr. stdin stays as it is.
    async fn exit(mut self, status: i32) -> (Vec<u8>, String) {
        let mut rest = Vec::new();
        let wait = async {
            if let Some(stdout) = &mut self.stdout {
                stdout.read_to_end(&mut rest).await.expect("it is ours");
            }
            self.child.wait().await.expect("a child of ours")
        };
        let ended = within("its end", wait).await;
        let stderr = within("stderr", self.stderr).await.expect("no panic");
        assert_eq!((ended.code(), ended.signal()), (Some(status), None), "{stderr}");
        (rest, stderr)
    }
}

impl World {
    /// One connection to a port of this machine: as a server of the target itself, or as another host.
    fn stdio(&self, way: Way, port: u16, options: &[&str]) -> Command {
        let destination = match way {
            Way::Raw => port.to_string(),
            Way::Mux => format!("127.0.0.1:{port}"),
        };
        self.command(&[&["stdio", &destination, "-t", Self::TARGET], options].concat())
    }

    fn start_stdio(&self, way: Way, port: u16, options: &[&str]) -> Piped {
        Piped::start(self.stdio(way, port, options))
    }
}

/// How the connection is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A session of its own, which ends with it.
    Raw,
    /// A stream of a session that could carry others.
    Mux,
}

const WAYS: [Way; 2] = [Way::Raw, Way::Mux];

const TERMINATED: [(Signal, i32); 3] = [(Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143)];

/// Says something once it is asked with a byte, and ends. Not before: the agent dials before the session is ready, which
/// then may never be.
async fn answering(text: &'static [u8]) -> Destination<std::io::Result<()>> {
    Destination::serve(move |mut socket| async move {
        socket.read_u8().await?;
        socket.write_all(text).await
    })
    .await
}

// --- bytes ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn bytes_pass_as_they_are_and_nothing_is_said() {
    for way in WAYS {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let mut stdio = world.start_stdio(way, echo.port, &[]);
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&b"\n"[..], b"\r", b"\r\n", b"\n\n", b"\0", b"\x04\x1a\x03", &all, b"SSH-2.0-x\r\n", b"\n"] {
            stdio.echo(bytes).await;
        }
        stdio.end();
        assert_eq!(stdio.exit(0).await, (vec![], String::new()), "{way:?}");
        assert!(matches!(echo.outcome().await, Closed::Cleanly(_)));
        let state = world.settled().await;
        let documents: Vec<_> = state.sessions.values().map(|session| &session.document[..]).collect();
        let expected = match way {
            Way::Raw => "AWS-StartSSHSession",
            Way::Mux => "AWS-StartPortForwardingSessionToRemoteHost",
        };
        assert_eq!((documents, state.ended_by(EndedBy::Flag)), (vec![expected], 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_pass_both_ways_at_once() {
    const TOTAL: usize = 20_000_000;
    for way in WAYS {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let mut stdio = world.start_stdio(way, echo.port, &[]);
        let (mut stdin, mut stdout) = (stdio.stdin.take().expect("piped"), stdio.stdout.take().expect("piped"));
        let both = async { tokio::join!(send(&mut stdin, 3, TOTAL), receive(&mut stdout, 3, TOTAL)) };
        let (sent, received) = within("an echo", both).await;
        sent.expect("all is taken");
        received.expect("all comes back");
        drop(stdin);
        stdio.exit(0).await;
        world.settled().await;
    }
}

#[tokio::test]
async fn stdout_has_nothing_else_at_any_level() {
    for way in WAYS {
        let (world, server) = (World::ideal(), answering(b"\n").await);
        let mut command = world.stdio(way, server.port, &["-vv", "--output", "json"]);
        command.env("RUST_LOG", "trace");
        let mut stdio = Piped::start(command);
        stdio.write(b"?").await;
        let (bytes, stderr) = stdio.exit(0).await;
        assert_eq!(bytes, b"\n");
        assert!(stderr.contains(" TRACE ") || stderr.contains(" DEBUG "), "{stderr}");
        world.settled().await;
    }
}

#[tokio::test]
async fn events_are_on_stderr() {
    let (world, server) = (World::ideal(), answering(b"bye").await);
    let mut stdio = world.start_stdio(Way::Raw, server.port, &["--output", "json"]);
    stdio.write(b"?").await;
    let (bytes, stderr) = stdio.exit(0).await;
    assert_eq!(bytes, b"bye");
    let events: Vec<Value> =
        stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    for name in ["session_started", "ready", "connection_opened", "connection_closed", "session_ended", "stopped"] {
        assert_eq!(named(name).len(), 1, "{name}: {stderr}");
    }
    let closed = named("connection_closed")[0];
    assert_eq!((&closed["reason"], &closed["bytes_down"]), (&"destination_closed".into(), &3.into()));
    assert_eq!((&closed["peer"], &closed["bytes_up"]), (&"stdio".into(), &1.into()));
    assert_eq!(closed["forward"], format!("{}:{}", World::TARGET, server.port));
    assert_eq!((&named("stopped")[0]["exit"], &named("session_ended")[0]["by"]), (&0.into(), &"agent".into()));
    world.settled().await;
}

#[tokio::test]
async fn with_v_people_are_told_what_happens() {
    let (world, server) = (World::ideal(), answering(b"bye").await);
    let mut stdio = world.start_stdio(Way::Raw, server.port, &["-v"]);
    stdio.write(b"?").await;
    let (_, stderr) = stdio.exit(0).await;
    assert!(stderr.contains("ssmfwd: stdin and stdout -> ") && stderr.contains("ssmfwd: ready in "), "{stderr}");
    world.settled().await;
}

// --- ends -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_end_of_the_destination_comes_after_all_it_said_and_is_the_end() {
    for way in WAYS {
        let (world, server) = (World::ideal(), answering(&[b'f'; 3_000_000]).await);
        let mut stdio = world.start_stdio(way, server.port, &[]);
        stdio.write(b"?").await;
        // stdin stays open.
        let (bytes, stderr) = stdio.exit(0).await;
        assert!(bytes.len() == 3_000_000 && bytes.iter().all(|byte| *byte == b'f'), "{}", bytes.len());
        assert_eq!(stderr, "");
        world.settled().await;
    }
}

#[tokio::test]
async fn all_of_stdin_arrives_before_the_end() {
    for way in WAYS {
        // As fast as a slow agent takes it: most of it is on its way when stdin ends.
        let world = World::with(|config| config.agent = AgentKind::Realistic);
        let sink = Destination::sink().await;
        let mut stdio = world.start_stdio(way, sink.port, &["--linger", "0"]);
        stdio.write(&vec![b'x'; 2_000_000]).await;
        stdio.end();
        assert_eq!(stdio.exit(0).await, (vec![], String::new()));
        assert_eq!(sink.outcome().await, Closed::Cleanly(2_000_000), "{way:?}");
        world.settled().await;
    }
}

#[tokio::test]
async fn a_reply_that_comes_after_the_end_of_stdin_is_delivered() {
    for way in WAYS {
        // One that takes long to say it all.
        let world = World::with(|config| config.agent = AgentKind::Realistic);
        let server = Destination::serve(|mut socket| async move {
            socket.read_exact(&mut [0; 8]).await?;
            socket.write_all(&[b'r'; 1_000_000]).await?;
            Ok::<_, std::io::Error>(Closed::of(socket.read_to_end(&mut Vec::new()).await))
        })
        .await;
        let mut stdio = world.start_stdio(way, server.port, &[]);
        stdio.write(b"request\n").await;
        stdio.end();
        let (reply, _) = stdio.exit(0).await;
        assert!(reply == vec![b'r'; 1_000_000], "{way:?}: {} bytes", reply.len());
        assert_eq!(server.outcome().await.expect("no reset"), Closed::Cleanly(0));
        world.settled().await;
    }
}

#[tokio::test]
async fn an_empty_stdin_is_an_end_like_any() {
    for way in WAYS {
        let (world, sink) = (World::ideal(), Destination::sink().await);
        let mut stdio = world.start_stdio(way, sink.port, &[]);
        stdio.end();
        assert_eq!(stdio.exit(0).await, (vec![], String::new()));
        world.settled().await;
    }
}

/// As when OpenSSH is killed: no signal, and nothing to write that could fail.
#[tokio::test]
async fn a_closed_stdout_is_the_end_at_once() {
    for way in WAYS {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let mut stdio = world.start_stdio(way, echo.port, &["--linger", "3600"]);
        stdio.echo(b"hello").await;
        stdio.stdout = None;
        assert_eq!(stdio.exit(0).await.1, "", "{way:?}");
        assert!(matches!(echo.outcome().await, Closed::Cleanly(5)));
        world.settled().await;
    }
}

#[tokio::test]
async fn a_stdout_that_is_closed_under_a_flood_is_the_end_at_once() {
    let world = World::ideal();
    let server =
        Destination::serve(|mut socket| async move { while socket.write_all(&[b'f'; 10_000]).await.is_ok() {} }).await;
    let mut stdio = world.start_stdio(Way::Mux, server.port, &["--linger", "3600"]);
    stdio.read(100_000).await;
    stdio.stdout = None;
    assert_eq!(stdio.exit(0).await.1, "");
    world.settled().await;
}

// --- what stdin and stdout are ------------------------------------------------------------------------------------

/// Others share these pipes: their reads and writes must go on blocking.
#[tokio::test]
async fn pipes_that_are_shared_stay_as_they_are() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (theirs_in, ours_in) = std::io::pipe().expect("a pipe");
    let (mut ours_out, theirs_out) = std::io::pipe().expect("a pipe");
    let is_blocking = |fd: &dyn AsFd| !fcntl_getfl(fd.as_fd()).expect("open").contains(OFlags::NONBLOCK);
    let mut command = world.stdio(Way::Raw, echo.port, &[]);
    command.stdin(theirs_in.try_clone().expect("a pipe")).stdout(theirs_out.try_clone().expect("a pipe"));
    let stdio = Piped::with(command);
    let mut ours = &ours_in;
    std::io::Write::write_all(&mut ours, b"hello").expect("room");
    let back = tokio::task::spawn_blocking(move || {
        let mut back = [0; 5];
        ours_out.read_exact(&mut back).expect("an echo");
        (back, ours_out)
    });
    let (back, ours_out) = within("an echo", back).await.expect("no panic");
    assert_eq!(&back, b"hello");
    assert!(is_blocking(&theirs_in) && is_blocking(&theirs_out), "while it runs");
    stdio.signal(Signal::TERM);
    stdio.exit(143).await;
    assert!(is_blocking(&theirs_in) && is_blocking(&theirs_out), "and afterwards");
    drop(ours_out);
    world.settled().await;
}

#[tokio::test]
async fn sockets_will_do() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let shared = theirs.try_clone().expect("a socket");
    let mut command = world.stdio(Way::Raw, echo.port, &["--linger", "0.2"]);
    command.stdin(OwnedFd::from(theirs.try_clone().expect("a socket"))).stdout(OwnedFd::from(theirs));
    let stdio = Piped::with(command);
    ours.set_nonblocking(true).expect("a socket");
    let ours = tokio::net::UnixStream::from_std(ours).expect("a socket");
    let (mut reader, mut writer) = ours.into_split();
    let both = async { tokio::join!(send(&mut writer, 4, 3_000_000), receive(&mut reader, 4, 3_000_000)) };
    let (sent, received) = within("an echo", both).await;
    sent.and(received).expect("all of it");
    assert!(!fcntl_getfl(&shared).expect("open").contains(OFlags::NONBLOCK));
    drop(shared);
    writer.shutdown().await.expect("open");
    stdio.exit(0).await;
    world.settled().await;
}

#[tokio::test]
async fn files_will_do() {
    let (world, folder) = (World::ideal(), tempfile::tempdir().expect("a folder"));
    let path = |name: &str| folder.path().join(name);
    let content: Vec<u8> =
        (0..3_000_000_u32).map(|number| number.to_le_bytes()[usize::from(number % 2 == 0)]).collect();
    std::fs::write(path("in"), &content).expect("room");
    let echo = Destination::echo().await;
    let mut command = world.stdio(Way::Mux, echo.port, &[]);
    command.stdin(File::open(path("in")).expect("a file")).stdout(File::create(path("out")).expect("a file"));
    let (_, stderr) = Piped::with(command).exit(0).await;
    assert_eq!(stderr, "");
    assert!(std::fs::read(path("out")).expect("a file") == content);
    world.settled().await;
}

#[tokio::test]
async fn a_full_disk_is_a_failure() {
    // Also one that only the end of all tells: of a few bytes, a thread has them before they are written.
    for reply in [&[b'f'; 300_000][..], b"f"] {
        let (world, server) = (World::ideal(), answering(reply).await);
        let mut command = world.stdio(Way::Raw, server.port, &[]);
        command.stdin(Stdio::piped()).stdout(File::options().write(true).open("/dev/full").expect("Linux has it"));
        let mut stdio = Piped::with(command);
        stdio.write(b"?").await;
        let (_, stderr) = stdio.exit(1).await;
        assert!(stderr.starts_with("error: cannot go on\n  caused by: stdout: No space left"), "{stderr}");
        world.settled().await;
    }
}

/// Opened anew, such a pipe would never tell of its end: whoever wrote into it has gone.
#[tokio::test]
async fn a_pipe_with_a_name_comes_to_its_end() {
    let (world, folder) = (World::ideal(), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("coreutils");
    assert!(made.success());
    // Both ends at once: neither waits for the other.
    let both = File::options().read(true).write(true).open(&path).expect("a pipe");
    let stdin = File::open(&path).expect("a pipe");
    std::io::Write::write_all(&mut &both, b"hello").expect("room");
    drop(both);
    let echo = Destination::echo().await;
    let mut command = world.stdio(Way::Raw, echo.port, &["--linger", "1"]);
    command.stdin(stdin).stdout(Stdio::piped());
    assert_eq!(Piped::with(command).exit(0).await, (b"hello".to_vec(), String::new()));
    assert_eq!(echo.outcome().await, Closed::Cleanly(5));
    world.settled().await;
}

/// A thread waits for what is typed, and nothing waits for the thread.
#[tokio::test]
async fn a_terminal_will_do_and_does_not_hold_up_the_end() {
    let world = World::ideal();
    let server = Destination::serve(|mut socket| async move {
        let mut line = [0; 6];
        socket.read_exact(&mut line).await?;
        socket.write_all(b"you said ").await?;
        socket.write_all(&line).await
    })
    .await;
    let mut terminal = Terminal::start(world.stdio(Way::Raw, server.port, &[]).as_std());
    terminal.types("hello\n").await;
    let (status, shown) = terminal.end().await;
    assert_eq!((status, &shown[..]), (Some(0), "hello\r\nyou said hello\r\n"));
    world.settled().await;
}

/// As long as it takes a `credential_process` to read its stdin to the end, which would be ours.
#[tokio::test]
async fn stdin_is_not_for_programs_that_give_credentials() {
    let account = Account::new(Role::default(), &[]);
    account.write("answer", &account.keys_as_json().to_string());
    account
        .configure("[profile dev]\ncredential_process = cat > \"$HOME/eaten\"; echo noise >&2; cat \"$HOME/answer\"\n");
    let echo = Destination::echo().await;
    let port = echo.port.to_string();
    let mut command = account.command_of(&["stdio", &port, "-t", World::TARGET, "--profile", "dev"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut stdio = Piped::with(command);
    // Before anything is asked for, as ssh does.
    stdio.echo(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let eaten = || std::fs::read(account.home().join("eaten")).expect("it was run");
    assert_eq!(eaten(), b"");
    // And when a session is brought back, for which they are asked again.
    std::fs::remove_file(account.home().join("eaten")).expect("it was run");
    account.world.emulator.act(Action::Disconnect);
    stdio.echo(b"more").await;
    account.world.until("a resumed session", |state| state.calls_of("ResumeSession") == 1).await;
    stdio.echo(b"and more").await;
    stdio.end();
    let (_, stderr) = stdio.exit(0).await;
    assert_eq!(stderr, "");
    account.world.settled().await;
}

// --- statuses -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_goes_wrong_before_ready_is_as_for_a_forward() {
    for (arguments, change, status, text) in [
        (&["stdio", "22"][..], None, 2, "error: no target for 22"),
        (&["stdio", "a:b:c", "-t", World::TARGET], None, 2, "destination \"a:b:c\""),
        (&["stdio", "22", "-t", World::TARGET, "--parameter", "portNumber=1"], None, 2, "says again"),
        (&["stdio", "22", "-t", World::TARGET, "--sessions", "2"], None, 2, "--sessions"),
        (&["stdio", "22", "-t", World::TARGET], Some("StartSession"), 5, "ssm:StartSession"),
        (&["stdio", "22", "-t", "i-0missing"], None, 6, "is not connected"),
        (&["stdio", "22", "-t", "name:nobody"], None, 6, "nobody"),
    ] {
        let world = World::with(|config| config.denied.extend(change.map(str::to_owned)));
        let (bytes, stderr) = Piped::start(world.command(arguments)).exit(status).await;
        assert_eq!(bytes, b"");
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
        world.settled().await;
    }
}

#[tokio::test]
async fn expired_credentials_are_status_4() {
    let world = World::with(|config| config.expired_credentials = true);
    let (_, stderr) = world.start_stdio(Way::Raw, 22, &[]).exit(4).await;
    assert!(stderr.starts_with("error: no session for "), "{stderr}");
    world.settled().await;
}

#[tokio::test]
async fn a_session_that_somebody_ends_is_lost() {
    for way in WAYS {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let mut stdio = world.start_stdio(way, echo.port, &[]);
        stdio.echo(b"hello").await;
        world.emulator.act(Action::ChannelClosed { output: "ended by an administrator".into() });
        let (_, stderr) = stdio.exit(7).await;
        assert!(stderr.contains("is over\n  caused by: the session was closed: ended by an administrator"), "{stderr}");
        world.settled().await;
    }
}

#[tokio::test]
async fn a_session_that_does_not_come_back_in_time_is_lost() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let mut stdio = world.start_stdio(Way::Raw, echo.port, &["--reconnect-window", "1"]);
    stdio.echo(b"hello").await;
    world.emulator.configure(|config| config.failures = failing(Operation::ResumeSession, FailureKind::Unavailable));
    world.emulator.act(Action::Disconnect);
    let (_, stderr) = stdio.exit(7).await;
    assert!(stderr.contains("could not be brought back within 1 s"), "{stderr}");
    world.settled().await;
}

#[tokio::test]
async fn signals_end_it_and_its_session() {
    for (signal, status) in TERMINATED {
        let (world, echo) = (World::ideal(), Destination::echo().await);
        let mut stdio = world.start_stdio(Way::Raw, echo.port, &[]);
        stdio.echo(b"hello").await;
        stdio.signal(signal);
        assert_eq!(stdio.exit(status).await.1, "", "{signal:?}");
        assert!(matches!(echo.outcome().await, Closed::Cleanly(5)));
        assert_eq!(world.settled().await.ended_by(EndedBy::Flag), 1);
    }
}

#[tokio::test]
async fn a_signal_before_ready_leaves_nothing_behind() {
    let world = World::with(|config| config.agent_version = "3.3.987.0".into());
    let refusing = RefusingPort::new();
    let stdio = world.start_stdio(Way::Raw, refusing.port, &[]);
    world.until("a session", |state| state.sessions_started == 1).await;
    stdio.signal(Signal::TERM);
    assert_eq!(stdio.exit(143).await.1, "");
    world.settled().await;
}

// --- interruptions ------------------------------------------------------------------------------------------------

/// Takes the websocket away at some points of the way.
async fn interrupt(world: &World, total: u64, passed: fn(&SessionState) -> u64) {
    for (round, action) in [Action::Disconnect, Action::Bye, Action::Disconnect].into_iter().enumerate() {
        let enough = total / 5 * (round as u64 + 1);
        let ready = |session: &SessionState| session.channel == ChannelState::Open && passed(session) >= enough;
        let there = |state: &EmulatorState| state.sessions.values().any(ready);
        let before = world.until(&format!("{enough} bytes"), there).await;
        assert_eq!(world.emulator.act(action), 1);
        world.until("another websocket", |state| state.upgrades_accepted > before.upgrades_accepted).await;
    }
}

#[tokio::test]
async fn an_upload_survives_lost_websockets() {
    const TOTAL: usize = 8_000_000;
    for way in WAYS {
        let world = World::ideal();
        let server = Destination::serve(|mut socket| async move {
            receive(&mut socket, 5, TOTAL).await?;
            socket.write_all(b"whole").await
        })
        .await;
        let mut stdio = world.start_stdio(way, server.port, &[]);
        let mut stdin = stdio.stdin.take().expect("piped");
        let upload =
            async { tokio::join!(send(&mut stdin, 5, TOTAL), interrupt(&world, TOTAL as u64, |it| it.up.bytes)) };
        within("an upload", upload).await.0.expect("all is taken");
        // The end of the destination.
        assert_eq!(stdio.exit(0).await, (b"whole".to_vec(), String::new()), "{way:?}");
        world.settled().await;
    }
}

#[tokio::test]
async fn a_download_survives_lost_websockets() {
    const TOTAL: usize = 3_000_000;
    for way in WAYS {
        let world = World::with(|config| config.agent = AgentKind::Realistic);
        let server = Destination::serve(|mut socket| async move { send(&mut socket, 6, TOTAL).await }).await;
        let mut stdio = world.start_stdio(way, server.port, &[]);
        let mut stdout = stdio.stdout.take().expect("piped");
        let download =
            async { tokio::join!(receive(&mut stdout, 6, TOTAL), interrupt(&world, TOTAL as u64, |it| it.down.bytes)) };
        within("a download", download).await.0.expect("all of it");
        stdio.stdout = Some(stdout);
        assert_eq!(stdio.exit(0).await, (vec![], String::new()), "{way:?}");
        world.settled().await;
    }
}
