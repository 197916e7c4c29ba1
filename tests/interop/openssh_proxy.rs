//! OpenSSH over `ssmfwd stdio`, as README's `ssh_config` has it: everything that people do with ssh, through an SSM
//! session of its own for each connection.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    data::{self, Digest},
    figures::Stopwatch,
    openssh::Server,
    program::{client, feed, free_port, output, spawn, text, write},
    service::{Pipe, Service},
    tunnel::{Aws, TARGET, live_sessions, programs},
};

const CLIENT: &str = "openssh-client";
const UP: usize = 50_000_000;
const DOWN: usize = 20_000_000;

/// Questions to the emulator until something must have happened: each takes some milliseconds.
const QUESTIONS: usize = 10_000;

/// A server behind a target, and a configuration that leads there.
struct World {
    server: Server,
    aws: Aws,
    config: PathBuf,
}

impl World {
    fn start(switches: &[&str], options: &str) -> Self {
        let (server, aws) = (Server::start(), Aws::serve(switches));
        let program = programs().join("ssmfwd");
        let config = server.file("config");
        let lines = [
            "Host i-* mi-*".to_owned(),
            format!("ProxyCommand {} stdio %p --target %h {options}", program.display()),
            format!("User {}", text(client("id", "coreutils").arg("-un"))),
            format!("Port {}", server.port),
            format!("IdentityFile {}", server.file("user").display()),
            format!("UserKnownHostsFile {}", server.file("known").display()),
            format!("ControlPath {}/control-%C", server.file("").display()),
            "IdentitiesOnly yes\nBatchMode yes\nStrictHostKeyChecking accept-new".into(),
        ];
        write(&config, lines.join("\n"));
        let world = Self { server, aws, config };
        // Alone, so that nobody else writes down the host's key at the same time.
        assert_eq!(text(&mut world.ssh(&["echo", "reached"])), "reached");
        world
    }

    /// A program of other people, in the environment of the emulated AWS.
    fn program(&self, name: &str, package: &str) -> Command {
        let mut command = client(name, package);
        command.envs(self.aws.env()).env_remove("SSH_AUTH_SOCK");
        command
    }

    /// One of OpenSSH, with the configuration.
    fn open_ssh(&self, name: &str) -> Command {
        let mut command = self.program(name, CLIENT);
        command.arg("-F").arg(&self.config);
        command
    }

    fn ssh(&self, words: &[&str]) -> Command {
        let mut command = self.open_ssh("ssh");
        command.arg(TARGET).args(words);
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.server.file(name)
    }

    /// A file of the server, which is a file of this machine.
    fn remote(&self, name: &str) -> String {
        format!("{TARGET}:{}", self.file(name).display())
    }

    /// Random bytes in a file.
    fn fill(&self, name: &str, size: usize) -> (PathBuf, Digest) {
        let file = self.file(name);
        write(&file, data::random(size));
        let digest = Digest::of_file(&file);
        (file, digest)
    }

    fn arrived(&self, name: &str, expected: &Digest) {
        assert_eq!(Digest::of_file(&self.file(name)), *expected, "{name}");
    }

    /// Asks the emulator until it has seen something.
    fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let states = (0..QUESTIONS).map(|_| self.aws.state());
        states.into_iter().find(condition).unwrap_or_else(|| panic!("no {what}: {}", self.aws.state()))
    }

    /// Nothing is left, and nothing was against the protocol.
    fn end(self) {
        let state = self.until("end of all sessions", |state| live_sessions(state) == 0 && state["websockets"] == 0);
        assert_eq!(state["violation_count"], 0, "{}", state["violations"]);
        self.aws.end();
        self.server.end();
    }
}

/// The time and rate of one transfer.
fn timed(what: &str, bytes: usize, transfer: impl FnOnce()) {
    let running = Stopwatch::start();
    transfer();
    running.report(&format!("OpenSSH over stdio, {what}"), bytes as u64);
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

#[test]
fn files_go_both_ways() {
    let world = World::start(&["--agent", "ideal"], "");
    let ((large, large_digest), (small, small_digest)) = (world.fill("large", UP), world.fill("small", DOWN));
    // rsync splits its command at blanks.
    let rsync = || {
        let mut rsync = world.program("rsync", "rsync");
        rsync.arg("-e").arg(format!("ssh -F {}", world.config.display())).arg("--whole-file");
        rsync
    };
    let status = world.ssh(&["exit 42"]).status().expect("it can be started");
    assert_eq!(status.code(), Some(42));
    let sum = feed(&mut world.ssh(&["cksum"]), &small);
    assert_eq!(sum, feed(&mut client("cksum", "coreutils"), &small));

    timed("scp up", UP, || drop(output(world.open_ssh("scp").arg(&large).arg(world.remote("scp-up")))));
    world.arrived("scp-up", &large_digest);
    timed("scp down", DOWN, || {
        output(world.open_ssh("scp").arg(world.remote("small")).arg(world.file("scp-down")));
    });
    world.arrived("scp-down", &small_digest);
    timed("rsync up", UP, || drop(output(rsync().arg(&large).arg(world.remote("rsync-up")))));
    world.arrived("rsync-up", &large_digest);
    timed("rsync down", DOWN, || drop(output(rsync().arg(world.remote("small")).arg(world.file("rsync-down")))));
    world.arrived("rsync-down", &small_digest);

    let (batch, name) = (world.file("batch"), |name: &str| shown(&world.file(name)));
    write(&batch, format!("put {0} {1}\nget {1} {2}\n", name("small"), name("sftp-up"), name("sftp-down")));
    timed("sftp up and down", 2 * DOWN, || drop(output(world.open_ssh("sftp").arg("-b").arg(&batch).arg(TARGET))));
    world.arrived("sftp-up", &small_digest);
    world.arrived("sftp-down", &small_digest);
    world.end();
}

#[test]
fn a_repository_is_cloned_and_pushed_to() {
    let world = World::start(&["--agent", "ideal"], "");
    let git = |words: &[&str]| {
        let mut git = world.program("git", "git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]).args(words);
        text(git.env("GIT_SSH_COMMAND", format!("ssh -F {}", world.config.display())))
    };
    let (bare, clone) = (shown(&world.file("bare.git")), shown(&world.file("clone")));
    git(&["init", "-q", "--bare", &bare]);
    git(&["clone", "-q", &format!("{TARGET}:{bare}"), &clone]);
    write(&world.file("clone").join("file"), data::random(3_000_000));
    git(&["-C", &clone, "add", "file"]);
    git(&["-C", &clone, "commit", "-q", "-m", "a file"]);
    git(&["-C", &clone, "push", "-q", "origin", "HEAD:main"]);
    assert_eq!(git(&["-C", &clone, "rev-parse", "HEAD"]), git(&["-C", &bare, "rev-parse", "main"]));
    world.end();
}

/// Says the same to everybody who asks over HTTP. Ends with the process.
fn web_server(body: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut request = [0; 4096];
                drop(socket.read(&mut request));
                let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                drop(socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body)));
            });
        }
    });
    port
}

#[test]
fn ssh_forwards_ports_of_its_own() {
    let world = World::start(&["--agent", "ideal"], "");
    let body: &'static [u8] = data::random(1_000_000).leak();
    let (web, local, socks) = (web_server(body), free_port(), free_port());
    let (local, socks) = (format!("127.0.0.1:{local}"), format!("127.0.0.1:{socks}"));
    let mut command = world.open_ssh("ssh");
    command.args(["-v", "-N", "-o", "ExitOnForwardFailure=yes", "-L", &format!("{local}:127.0.0.1:{web}")]);
    let mut ssh = Service::start("ssh", command.args(["-D", &socks, TARGET]));
    ssh.wait_for_line(Some(Pipe::Stderr), |line| line.contains("Entering interactive session"));
    let curl = |words: &[&str]| {
        let mut curl = client("curl", "curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", ""]).args(words);
        output(&mut curl)
    };
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| assert!(curl(&[&format!("http://{local}/")]) == body));
            scope.spawn(|| assert!(curl(&["--socks5", &socks, &format!("http://127.0.0.1:{web}/")]) == body));
        }
    });
    ssh.end(Signal::TERM);
    world.end();
}

#[test]
fn twenty_logins_at_once() {
    let world = World::start(&["--agent", "ideal"], "");
    let running = Stopwatch::start();
    let logins: Vec<_> = (0..20).map(|n| spawn(&mut world.ssh(&[&format!("echo login {n}")]))).collect();
    let finished = |login: Child| login.wait_with_output().expect("it runs");
    for (number, output) in logins.into_iter().map(finished).enumerate() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("login {number}\n"), "{stderr}");
        assert_eq!(stderr, "", "nobody is told anything");
    }
    running.report("OpenSSH over stdio, 20 logins at once", 0);
    world.end();
}

#[test]
fn one_connection_serves_many_logins() {
    let world = World::start(&["--agent", "ideal"], "");
    let control = |what: &str| drop(output(world.open_ssh("ssh").args(["-O", what, TARGET])));
    let mut master = world.open_ssh("ssh");
    let mut master = Service::start("ssh", master.args(["-v", "-M", "-N", TARGET]));
    master.wait_for_line(Some(Pipe::Stderr), |line| line.contains("Entering interactive session"));
    let before = world.aws.state()["sessions_started"].clone();
    for number in 0..5 {
        assert_eq!(text(&mut world.ssh(&[&format!("echo {number}")])), number.to_string());
    }
    assert_eq!(world.aws.state()["sessions_started"], before);
    control("exit");
    master.join();
    world.end();
}

/// OpenSSH resets the connection at the first wrong byte.
#[test]
fn nothing_but_its_own_bytes_reaches_ssh() {
    let world = World::start(&["--agent", "ideal"], "-vv --output json");
    let mut ssh = world.open_ssh("ssh");
    ssh.args(["-v", TARGET, "printf 'one\\n'; cat"]).env("RUST_LOG", "trace").stdin(Stdio::null());
    let said = ssh.output().expect("it can be started");
    let stderr = String::from_utf8_lossy(&said.stderr);
    assert_eq!((said.status.code(), &said.stdout[..]), (Some(0), &b"one\n"[..]), "{stderr}");
    assert!(stderr.contains("ssmfwd::") && stderr.contains("\"event\":\"ready\""), "{stderr}");
    assert!(!stderr.contains("kex_exchange_identification: banner line"), "{stderr}");
    world.end();
}

#[test]
fn a_transfer_survives_lost_websockets() {
    let world = World::start(&["--agent", "ideal"], "");
    let (large, digest) = world.fill("large", UP);
    let websockets = |state: &Value| state["upgrades_accepted"].as_u64().expect("a number");
    let up = |state: &Value| {
        let sessions = state["sessions"].as_object().expect("an object").values();
        sessions.filter(|it| it["ended"].is_null()).filter_map(|it| it["up"]["bytes"].as_u64()).max().unwrap_or(0)
    };
    let mut ssh = world.ssh(&[&format!("cat > {}", shown(&world.file("up")))]);
    let mut ssh = spawn(ssh.stdin(Stdio::from(fs::File::open(large).expect("a file"))));
    for (round, action) in (1..).zip(["disconnect", "bye", "disconnect"]) {
        let before = world.until("progress", |state| up(state) >= round * (UP / 6) as u64);
        world.aws.act(&format!(r#"{{"action": "{action}"}}"#));
        world.until("another websocket", |state| websockets(state) > websockets(&before));
    }
    let mut said = String::new();
    ssh.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert!(ssh.wait().expect("it runs").success(), "{said}");
    assert_eq!(said, "", "nobody is told of what did no harm");
    world.arrived("up", &digest);
    world.end();
}
