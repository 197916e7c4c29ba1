//! MariaDB: a server that speaks first, bulk data both ways, many clients at once.

use std::{path::Path, process::Command, thread};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    data::{self, Digest},
    figures::{Rate, Stopwatch},
    program::{client, digest, feed, find, free_port, is_root, output, text, write},
    queries,
    service::Service,
    tunnel::Tunnel,
};

const CLIENT: &str = "mariadb-client";
const USER: &str = "interop";
const PASSWORD: &str = "made-up";
const DATABASE: &str = "interop";

/// A private server.
struct Server {
    folder: TempDir,
    port: u16,
    service: Service,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let data = folder.path().join("data");
        let mut install = client("mariadb-install-db", "mariadb-server");
        install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]);
        let mut server = Command::new(find("mariadbd", "mariadb-server"));
        if is_root() {
            install.arg("--user=root");
        }
        output(&mut install);

        let init = folder.path().join("init.sql");
        write(
            &init,
            format!(
                "CREATE DATABASE {DATABASE};\n\
                 CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n\
                 GRANT ALL ON {DATABASE}.* TO '{USER}'@'127.0.0.1';\n"
            ),
        );
        let port = free_port();
        server.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        server.arg(format!("--socket={}", folder.path().join("socket").display()));
        server.arg(format!("--init-file={}", init.display())).arg(format!("--port={port}"));
        server.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--local-infile=1"]);
        server.args(["--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=64M"]);
        if is_root() {
            server.arg("--user=root");
        }
        let mut service = Service::start("mariadbd", &mut server);
        // The last line of "ready for connections".
        service.wait_for_line(None, |line| line.contains(&format!("port: {port} ")));
        Self { folder, port, service }
    }

    fn end(self) {
        let (status, lines) = self.service.end(Signal::TERM);
        assert!(status.success(), "{lines:?}");
    }
}

/// A client of the server behind a local port.
fn program(name: &str, port: u16) -> Command {
    let mut command = client(name, CLIENT);
    command.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user", USER]).env("MYSQL_PWD", PASSWORD);
    command.arg(format!("--port={port}")).args(["--max-allowed-packet=64M", "--default-character-set=utf8mb4"]);
    command
}

fn sql(port: u16, statements: &str) -> String {
    let mut command = program("mariadb", port);
    text(command.args(["--batch", "--skip-column-names", "--local-infile=1", "-e", statements, DATABASE]))
}

/// Creates a table and loads a file into it.
fn load(port: u16, table: &str, file: &Path) {
    sql(
        port,
        &format!(
            "CREATE TABLE {table} (id INT PRIMARY KEY, word CHAR(16) NOT NULL, value BLOB NOT NULL); \
             LOAD DATA LOCAL INFILE '{}' INTO TABLE {table} CHARACTER SET binary;",
            file.display()
        ),
    );
}

fn dump(port: u16, table: &str) -> Command {
    let mut command = program("mariadb-dump", port);
    command.args(["--skip-comments", "--single-transaction", DATABASE, table]);
    command
}

/// The server's own checksum of a table's content.
fn checksum(port: u16, table: &str) -> String {
    let line = sql(port, &format!("CHECKSUM TABLE {table}"));
    line.split_whitespace().nth(1).expect("a table and its checksum").to_owned()
}

/// What LOAD DATA takes for any bytes.
fn escape(value: &[u8], row: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'\t' | b'\n' | b'\\' => row.extend([b'\\', byte]),
            0 => row.extend(b"\\0"),
            _ => row.push(byte),
        }
    }
}

/// Loads a table through the tunnel while others query, dumps it back, and restores the dump beside it: always the
/// same data as without the tunnel.
fn load_dump_restore(tunnel: &Tunnel, server: &Server, size: u64, questions: u64) {
    let (through, direct) = (tunnel.port(0), server.port);
    let rows = server.folder.path().join("rows");
    let size = data::write_rows(&rows, size, escape);

    let (loaded, times) = thread::scope(|scope| {
        let clients = scope.spawn(|| {
            queries::ask(questions, || {
                let mut client = program("mariadb", through);
                client.args(["--batch", "--skip-column-names", "--unbuffered", DATABASE]);
                client
            })
        });
        let loading = Stopwatch::start();
        load(through, "tunnelled", &rows);
        (loading.report("MariaDB, load through the tunnel beside 20 clients", size), clients.join().expect("answers"))
    });
    queries::report("MariaDB, 20 clients meanwhile", &times);
    let loading = Stopwatch::start();
    load(direct, "direct", &rows);
    loaded.compare("MariaDB, load", loading.report("MariaDB, load directly", size));
    assert_eq!(checksum(through, "tunnelled"), checksum(direct, "direct"), "seed {:#x}", data::SEED);

    let (dumped, down) = timed_dump("through the tunnel", through);
    let (expected, directly) = timed_dump("directly", direct);
    down.compare("MariaDB, dump", directly);
    assert_eq!(dumped, expected);

    // The dump itself, as statements of a megabyte, into a table of its own.
    let file = server.folder.path().join("dump");
    write(&file, output(&mut dump(through, "tunnelled")));
    assert_eq!(Digest::of_file(&file), expected);
    sql(through, "RENAME TABLE tunnelled TO original");
    let restoring = Stopwatch::start();
    feed(program("mariadb", through).arg(DATABASE), &file);
    restoring.report("MariaDB, restore through the tunnel", expected.bytes);
    assert_eq!(checksum(direct, "tunnelled"), checksum(direct, "direct"));
}

fn timed_dump(how: &str, port: u16) -> (Digest, Rate) {
    let dumping = Stopwatch::start();
    let dumped = digest(&mut dump(port, "tunnelled"));
    let rate = dumping.report(&format!("MariaDB, dump {how}"), dumped.bytes);
    (dumped, rate)
}

#[test]
fn a_large_table_goes_up_and_comes_back() {
    let server = Server::start();
    let tunnel = Tunnel::exec(&["--agent", "ideal"], &[format!("{}:127.0.0.1:{}", free_port(), server.port)]);
    load_dump_restore(&tunnel, &server, data::ideal_size(), 500);
    tunnel.end();
    server.end();
}

#[test]
fn the_realistic_agent_changes_the_time_and_not_the_data() {
    let server = Server::start();
    let tunnel = Tunnel::serve(&["--agent", "realistic"], &[format!("0:127.0.0.1:{}", server.port)]);
    load_dump_restore(&tunnel, &server, data::realistic_size(), 20);
    tunnel.end();
    server.end();
}
