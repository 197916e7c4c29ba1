//! A private MariaDB server, and the command lines of its clients. The soak uses it too.

use std::{path::Path, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    program::{client, find, free_port, is_root, output, text, write},
    service::Service,
};

/// The clients' Debian package.
pub(crate) const CLIENT: &str = "mariadb-client";
pub(crate) const USER: &str = "interop";
pub(crate) const PASSWORD: &str = "made-up";
pub(crate) const DATABASE: &str = "interop";

/// A private server.
pub(crate) struct Server {
    folder: TempDir,
    pub(crate) port: u16,
    service: Service,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_at(free_port())
    }

    /// One that listens on a port that is known before.
    pub(crate) fn start_at(port: u16) -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let data = folder.path().join("data");
        let mut install = client("mariadb-install-db", "mariadb-server");
        install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]);
        let mut server = Command::new(find("mariadbd", "mariadb-server"));
        if is_root() {
            install.arg("--user=root");
        }
        // A starting server removes what lies in its folder for temporary files as left over: also the tables that
        // another test's server has there.
        install.env("TMPDIR", folder.path());
        server.env("TMPDIR", folder.path());
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

    /// For files of its users.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn end(self) {
        let (status, lines) = self.service.end(Signal::TERM);
        assert!(status.success(), "{lines:?}");
    }
}

/// A client of the server behind a local port, which ends by itself or after a time limit.
pub(crate) fn program(name: &str, port: u16) -> Command {
    let mut command = client(name, CLIENT);
    lead_to(&mut command, port);
    command
}

/// Makes a client's command line lead to the server behind a local port.
pub(crate) fn lead_to(command: &mut Command, port: u16) {
    command.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user", USER]).env("MYSQL_PWD", PASSWORD);
    command.arg(format!("--port={port}")).args(["--max-allowed-packet=64M", "--default-character-set=utf8mb4"]);
}

/// What a client says to statements.
pub(crate) fn sql(port: u16, statements: &str) -> String {
    let mut command = program("mariadb", port);
    text(command.args(["--batch", "--skip-column-names", "--local-infile=1", "-e", statements, DATABASE]))
}
