//! PostgreSQL: a client that speaks first, COPY both ways, pgbench, and a forward from a unix socket.

use std::{path::Path, process::Command, thread};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    data,
    figures::{Rate, Stopwatch},
    program::{client, digest, find, free_port, is_root, output, text},
    queries,
    service::Service,
    tunnel::Tunnel,
};

const PACKAGE: &str = "postgresql";
pub(crate) const USER: &str = "interop";
/// Where its clients look for a socket when the port is 5432.
const SOCKET: &str = ".s.PGSQL.5432";
/// Clients of pgbench at a time.
const CLIENTS: u64 = 20;

/// A private server.
pub(crate) struct Server {
    folder: TempDir,
    pub(crate) port: u16,
    service: Service,
}

impl Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        if is_root() {
            output(client("chown", "coreutils").arg("postgres:").arg(folder.path()));
        }
        let data = folder.path().join("data");
        let mut init = unprivileged("initdb");
        init.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--username", USER]);
        output(init.arg("--pgdata").arg(&data));

        let port = free_port();
        let mut server = unprivileged("postgres");
        server.arg("-D").arg(data).arg("-k").arg(folder.path()).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        for setting in ["fsync=off", "full_page_writes=off", "max_wal_size=1GB", "autovacuum=off"] {
            server.args(["-c", setting]);
        }
        let mut service = Service::start("postgres", &mut server);
        service.wait_for_line(None, |line| line.contains("database system is ready to accept connections"));
        Self { folder, port, service }
    }

    pub(crate) fn end(self) {
        // SIGINT is its fast shutdown.
        let (status, lines) = self.service.end(Signal::INT);
        assert!(status.success(), "{lines:?}");
    }
}

/// The server refuses to run as root: Debian's package brings a user for it.
fn unprivileged(name: &str) -> Command {
    let program = find(name, PACKAGE);
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new(find("setpriv", "util-linux"));
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program).current_dir("/");
    command
}

/// A client of the server at a host, or behind a folder with a socket, and a port.
pub(crate) fn program(name: &str, host: &str, port: u16) -> Command {
    let mut command = client(name, PACKAGE);
    command.args(["--host", host, "--port", &port.to_string(), "--username", USER]);
    command.env("PGDATABASE", "postgres").env("PGOPTIONS", "-c client_min_messages=warning");
    command
}

fn psql(host: &str, port: u16) -> Command {
    let mut command = program("psql", host, port);
    command.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]);
    command
}

fn sql(port: u16, statement: &str) -> String {
    text(psql("127.0.0.1", port).args(["--command", statement]))
}

/// Creates a table and copies a file into it.
fn load(port: u16, table: &str, file: &Path) {
    sql(port, &format!("CREATE TABLE {table} (id integer PRIMARY KEY, word text NOT NULL, value bytea NOT NULL)"));
    sql(port, &format!("\\copy {table} FROM '{}'", file.display()));
}

fn copy_out(host: &str, port: u16, table: &str) -> Command {
    let mut command = psql(host, port);
    command.args(["--command", &format!("\\copy (SELECT * FROM {table} ORDER BY id) TO STDOUT")]);
    command
}

/// A digest of a table's content, made by the server.
fn content(port: u16, table: &str) -> String {
    sql(port, &format!("SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY id)) FROM {table} t"))
}

/// Half of each value as hexadecimal digits: what COPY takes for any bytes, in about the size of the value.
fn hexadecimal(value: &[u8], row: &mut Vec<u8>) {
    row.extend(b"\\\\x");
    for byte in &value[..value.len() / 2] {
        row.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    }
}

/// Copies a table in through the tunnel while others query, and out again: the same data as without the tunnel.
fn copy_in_and_out(server: &Server, through: u16, size: u64, questions: u64) {
    let rows = server.folder.path().join("rows");
    let size = data::write_rows(&rows, size, hexadecimal);

    let (loaded, times) = thread::scope(|scope| {
        let clients = scope.spawn(|| queries::ask(questions, || psql("127.0.0.1", through)));
        let loading = Stopwatch::start();
        load(through, "tunnelled", &rows);
        (
            loading.report("PostgreSQL, COPY in through the tunnel beside 20 clients", size),
            clients.join().expect("answers"),
        )
    });
    queries::report("PostgreSQL, 20 clients meanwhile", &times);
    let loading = Stopwatch::start();
    load(server.port, "direct", &rows);
    loaded.compare("PostgreSQL, COPY in", loading.report("PostgreSQL, COPY in directly", size));
    assert_eq!(content(through, "tunnelled"), content(server.port, "direct"), "seed {:#x}", data::SEED);

    let (copied, down) = timed_copy("through the tunnel", "127.0.0.1", through);
    let (expected, directly) = timed_copy("directly", "127.0.0.1", server.port);
    down.compare("PostgreSQL, COPY out", directly);
    assert_eq!(copied, expected);
    assert_eq!(copied, data::Digest::of_file(&rows));
}

fn timed_copy(how: &str, host: &str, port: u16) -> (data::Digest, Rate) {
    let copying = Stopwatch::start();
    let copied = digest(&mut copy_out(host, port, "tunnelled"));
    let rate = copying.report(&format!("PostgreSQL, COPY out {how}"), copied.bytes);
    (copied, rate)
}

/// pgbench's tables made and used by 20 clients; the sums that its transactions keep equal are equal.
fn pgbench(server: &Server, port: u16, transactions: u64) {
    output(program("pgbench", "127.0.0.1", port).args(["--initialize", "--scale=5"]));
    let run = |how: &str, port: u16| {
        let mut pgbench = program("pgbench", "127.0.0.1", port);
        pgbench.args([
            "--no-vacuum",
            "--jobs=2",
            &format!("--client={CLIENTS}"),
            &format!("--transactions={transactions}"),
        ]);
        let report = text(&mut pgbench);
        let figures = report.lines().filter(|line| line.starts_with("latency") || line.starts_with("tps"));
        eprintln!("pgbench {how}: {}", figures.collect::<Vec<_>>().join(", "));
    };
    run("through the tunnel", port);
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), \
                (SELECT sum(tbalance) FROM pgbench_tellers), sum(delta), count(*) FROM pgbench_history";
    let sums = sql(server.port, sums);
    let sums: Vec<&str> = sums.split('|').collect();
    let [accounts, branches, tellers, history, count] = sums[..] else { panic!("{sums:?}") };
    assert_eq!([branches, tellers, history], [accounts; 3]);
    assert_eq!(count, (CLIENTS * transactions).to_string());
    run("directly", server.port);
}

#[test]
fn copies_and_transactions_give_what_a_direct_connection_gives() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let socket = folder.path().join(SOCKET);
    let forwards = [format!("0:127.0.0.1:{}", server.port), format!("{}:127.0.0.1:{}", socket.display(), server.port)];
    let tunnel = Tunnel::exec(&["--agent", "ideal"], &forwards);
    let through = tunnel.port(0);
    copy_in_and_out(&server, through, data::ideal_size(), 500);
    pgbench(&server, through, 100);
    let host = folder.path().to_str().expect("UTF-8");
    let (by_socket, _) = timed_copy("through a unix socket", host, 5432);
    assert_eq!(by_socket, digest(&mut copy_out("127.0.0.1", server.port, "direct")));
    tunnel.end();
    assert!(!socket.exists());
    server.end();
}

#[test]
fn the_realistic_agent_changes_the_time_and_not_the_data() {
    let server = Server::start();
    let tunnel = Tunnel::serve(&["--agent", "realistic"], &[format!("0:127.0.0.1:{}", server.port)]);
    copy_in_and_out(&server, tunnel.port(0), data::realistic_size(), 20);
    pgbench(&server, tunnel.port(0), 10);
    tunnel.end();
    server.end();
}

/// Agents up to 3.0.196.0 carry one connection at a time, and dial only when the client has sent something.
#[test]
fn an_old_agent_carries_one_connection_after_another() {
    let server = Server::start();
    let old = ["--agent", "ideal", "--agent-version", "3.0.150.0"];
    // One that waits for its turn for long would get a session of its own.
    let tunnel = Tunnel::serve_with(&old, &["--sessions", "1"], &[format!("0:{}", server.port)]);
    let rows = server.folder.path().join("rows");
    let size = data::write_rows(&rows, data::realistic_size(), hexadecimal);
    load(server.port, "direct", &rows);
    let loading = Stopwatch::start();
    load(tunnel.port(0), "tunnelled", &rows);
    loading.report("PostgreSQL, COPY in through an old agent", size);
    assert_eq!(content(tunnel.port(0), "tunnelled"), content(server.port, "direct"));
    let (copied, _) = timed_copy("through an old agent", "127.0.0.1", tunnel.port(0));
    assert_eq!(copied, data::Digest::of_file(&rows));
    tunnel.end();
    server.end();
}
