//! MariaDB: a server that speaks first, bulk data both ways, many clients at once.

pub(crate) mod server;

use std::{path::Path, process::Command, thread};

use super::{
    data::{self, Digest},
    figures::{Rate, Stopwatch},
    program::{digest, feed, free_port, output, write},
    queries,
    tunnel::Tunnel,
};

use server::{DATABASE, Server, program, sql};

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
    let rows = server.folder().join("rows");
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
    let file = server.folder().join("dump");
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
