//! Database clients as COMMAND behind a named tunnel: what they write, how they end, and what they are told.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use super::{
    mariadb,
    postgresql::{self, USER},
    program::{free_port, limited, output, spawn, write},
    service::{Pipe, Service},
    tunnel::{Aws, TARGET, live_sessions, programs},
};

/// A folder with a configuration file that names one tunnel `db`, and the AWS that it leads to.
pub(crate) struct Project {
    aws: Aws,
    folder: TempDir,
}

impl Project {
    pub(crate) fn new(switches: &[&str], forward: &str) -> Self {
        let project = Self { aws: Aws::serve(switches), folder: tempfile::tempdir().expect("a folder") };
        project.forward(forward);
        project
    }

    /// The way to a server on loopback.
    pub(crate) fn to(port: u16) -> Self {
        Self::new(&["--agent", "ideal"], &format!("0:127.0.0.1:{port}"))
    }

    fn forward(&self, forward: &str) {
        let file = format!("[defaults]\ntarget = \"{TARGET}\"\n\n[tunnels.db]\nforward = \"{forward}\"\n");
        write(&self.path().join("ssmfwd.toml"), file);
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a program run here.
    pub(crate) fn lead<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.current_dir(self.path()).envs(self.aws.env())
    }

    /// `ssmfwd up db OPTIONS -- COMMAND`
    fn up(&self, options: &[&str], command: &[&str]) -> Command {
        let mut ssmfwd = limited(&programs().join("ssmfwd"));
        self.lead(&mut ssmfwd).args(["up", "db"]).args(options).arg("--").args(command);
        ssmfwd.env("MYSQL_PWD", mariadb::server::PASSWORD).env("PGDATABASE", "postgres");
        ssmfwd
    }

    fn run(&self, command: &[&str]) -> Output {
        self.up(&[], command).stdin(Stdio::null()).output().expect("it can be started")
    }

    /// Nothing is left of so many sessions.
    pub(crate) fn end(self, sessions: usize) {
        let state = self.aws.state();
        assert_eq!(live_sessions(&state), 0, "{state}");
        assert_eq!((&state["sessions_started"], &state["websockets"]), (&sessions.into(), &0.into()), "{state}");
        assert_eq!(state["violation_count"], 0, "{}", state["violations"]);
        self.aws.end();
    }
}

/// What somebody types, with the places of the tunnel.
fn with_mariadb(statement: &str) -> Vec<&str> {
    let user = mariadb::server::USER;
    let line = ["mariadb", "--no-defaults", "-h", "{db.host}", "-P", "{db.port}", "-u", user];
    [&line[..], &["--batch", "--raw", "--skip-column-names", "-e", statement, mariadb::server::DATABASE]].concat()
}

const PSQL: [&str; 9] = ["psql", "-h", "{host}", "-p", "{port}", "-U", USER, "--no-psqlrc", "-qtA"];

fn with_psql<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&PSQL[..], arguments].concat()
}

#[track_caller]
fn check(output: &Output, status: i32, said: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(stderr.contains(said), "{stderr}");
}

#[test]
fn what_mariadb_writes_and_how_it_ends_comes_back() {
    let server = mariadb::server::Server::start();
    let project = Project::to(server.port);
    // Every byte value, and no structure that a layer between could keep by accident.
    let statement = "SELECT seq, UNHEX(SHA2(seq, 512)) FROM seq_1_to_20000";
    let mut direct = mariadb::server::program("mariadb", server.port);
    direct.args(["--batch", "--raw", "--skip-column-names", "-e", statement, mariadb::server::DATABASE]);
    let expected = output(&mut direct);
    assert!(expected.len() > 1_000_000);
    let through = project.run(&with_mariadb(statement));
    check(&through, 0, "ssmfwd: ready in");
    assert!(through.stdout == expected, "{} bytes instead of {}", through.stdout.len(), expected.len());

    let failed = project.run(&with_mariadb("SELEKT 1"));
    check(&failed, 1, "ERROR 1064");
    assert_eq!(failed.stdout, b"");
    project.end(2);
    server.end();
}

#[test]
fn what_psql_reads_and_writes_and_how_it_ends_comes_back() {
    let server = postgresql::Server::start();
    let project = Project::to(server.port);
    let copy =
        "\\copy (SELECT id, decode(md5(id::text), 'hex') FROM generate_series(1, 50000) id) TO STDOUT (FORMAT binary)";
    let expected = output(postgresql::program("psql", "127.0.0.1", server.port).args(["-q", "-c", copy]));
    assert!(expected.len() > 1_000_000);
    let through = project.run(&with_psql(&["-c", copy]));
    check(&through, 0, "ssmfwd: ready in");
    assert!(through.stdout == expected, "{} bytes instead of {}", through.stdout.len(), expected.len());

    check(&project.run(&with_psql(&["-c", "SELECT 1 / 0"])), 1, "division by zero");
    check(&project.run(&with_psql(&["-d", "nowhere"])), 2, "\"nowhere\" does not exist");
    // Its stdin is ours.
    let script = project.path().join("script.sql");
    write(&script, "SELECT 6 * 7;\nSELECT 1 / 0;\nSELECT 'not reached';\n");
    let mut from_script = project.up(&[], &with_psql(&["-v", "ON_ERROR_STOP=1"]));
    let failed =
        from_script.stdin(File::open(&script).expect("a file of this test")).output().expect("it can be started");
    check(&failed, 3, "division by zero");
    assert_eq!(failed.stdout, b"42\n");
    project.end(4);
    server.end();
}

/// psql takes a folder for a host, and looks for the file with the port's number in it.
#[test]
fn psql_finds_a_unix_socket() {
    let server = postgresql::Server::start();
    let project = Project::new(&["--agent", "ideal"], "");
    let socket = project.path().join(".s.PGSQL.6543");
    project.forward(&format!("{}:127.0.0.1:{}", socket.display(), server.port));
    // The server sees the tunnel's other end, which is no unix socket.
    let arguments = ["-c", "\\conninfo", "-c", "SELECT inet_server_port()"];
    let output = project.run(&with_psql(&arguments));
    check(&output, 0, "ssmfwd: ready in");
    let said = String::from_utf8_lossy(&output.stdout);
    let folder = project.path().display();
    assert!(said.contains(&format!("via socket in \"{folder}\" at port \"6543\"")), "{said}");
    assert_eq!(said.lines().last(), Some(&*server.port.to_string()), "{said}");
    assert!(!socket.exists());
    project.end(1);
    server.end();
}

#[test]
fn a_missing_command_is_127() {
    let project = Project::to(1);
    check(&project.run(&["psql-of-nobody", "-h", "{host}"]), 127, "error: cannot run psql-of-nobody");
    project.end(1);
}

#[test]
fn a_tunnel_that_cannot_be_opened_is_told_and_command_does_not_run() {
    let project = Project::new(&["--offline"], "0:127.0.0.1:1");
    let trace = project.path().join("trace");
    check(&project.run(&["touch", trace.to_str().expect("UTF-8")]), 6, "error: ");
    assert!(!trace.exists());
    project.end(0);
}

/// Runs COMMAND until it says so, and then takes the tunnel away for good. Returns what else it wrote, and the end.
fn lost(project: &Project, command: &[&str], statements: &str) -> (Vec<String>, Output) {
    let mut ssmfwd = project.up(&["--reconnect-window", "1"], command);
    let mut ssmfwd = spawn(ssmfwd.stdin(Stdio::piped()));
    // Open until the end.
    let mut stdin = ssmfwd.stdin.take().expect("it is piped");
    stdin.write_all(statements.as_bytes()).expect("it reads");
    let mut lines = BufReader::new(ssmfwd.stdout.take().expect("it is piped")).lines().map(|line| line.expect("text"));
    assert_eq!(lines.next().as_deref(), Some("running"));
    project.aws.configure(r#"{"targets": [], "nodes": [], "denied": ["ResumeSession"]}"#);
    project.aws.act(r#"{"action": "disconnect"}"#);
    let lines = lines.collect();
    let output = ssmfwd.wait_with_output().expect("its status");
    drop(stdin);
    (lines, output)
}

/// It is idle, and would not learn of the loss.
#[test]
fn a_tunnel_that_is_lost_ends_the_client() {
    let server = postgresql::Server::start();
    let project = Project::to(server.port);
    // A shell's view of the signals.
    let script = r#""$@" <&0 & client=$!
        trap 'echo told; kill "$client"' TERM
        wait "$client"; wait "$client"; echo "psql $?""#;
    let command = [&["bash", "-c", script, "bash"][..], &PSQL].concat();
    let (lines, ended) = lost(&project, &command, "SELECT 'running';\n");
    assert_eq!(lines, ["told", "psql 143"]);
    check(&ended, 7, "error: ");
    project.end(1);
    server.end();
}

/// Its connection is reset before it is known whether another session can be had: its status is its own.
#[test]
fn a_client_that_notices_the_loss_first_ends_by_itself() {
    let server = postgresql::Server::start();
    let project = Project::to(server.port);
    let command = with_psql(&["-c", "SELECT 'running'", "-c", "SELECT pg_sleep(600)"]);
    let (lines, ended) = lost(&project, &command, "");
    assert_eq!(lines, [""; 0]);
    check(&ended, 2, "its connections are reset");
    project.end(1);
    server.end();
}

#[test]
fn with_wait_the_client_runs_when_the_server_is_there() {
    let port = free_port();
    let project = Project::to(port);
    let mut command =
        project.up(&["--wait", "--connect-timeout", "120", "--output", "json"], &with_mariadb("SELECT 6 * 7"));
    let mut ssmfwd = Service::start("ssmfwd", &mut command);
    ssmfwd.wait_for_line(Some(Pipe::Stderr), |line| line.starts_with(r#"{"event":"session_started""#));
    let server = mariadb::server::Server::start_at(port);
    let (status, lines) = ssmfwd.join();
    assert_eq!(status.code(), Some(0), "{lines:?}");
    let stdout: Vec<_> = lines.iter().filter(|(pipe, _)| *pipe == Pipe::Stdout).map(|(_, line)| &**line).collect();
    assert_eq!(stdout, ["42"]);
    project.end(1);
    server.end();
}
