//! OpenSSH: an encrypted connection notices one wrong byte. Logins, pipes both ways, files by scp and sftp.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    data::{self, Digest},
    figures::Stopwatch,
    program::{client, digest, feed, find, free_port, is_root, output, text, write},
    service::Service,
    tunnel::Tunnel,
};

const CLIENT: &str = "openssh-client";
const SIZE: usize = 20_000_000;

/// A private server with keys of its own, for the user that runs the tests.
pub(super) struct Server {
    folder: TempDir,
    pub(super) port: u16,
    service: Service,
}

impl Server {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        for key in ["host", "user"] {
            let mut keygen = client("ssh-keygen", CLIENT);
            output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.path().join(key)));
        }
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::copy(at("user.pub"), at("authorized")).expect("room on the disk");
        let port = free_port();
        let settings = [
            format!("ListenAddress 127.0.0.1:{port}"),
            format!("HostKey {}", at("host")),
            format!("AuthorizedKeysFile {}", at("authorized")),
            format!("PidFile {}", at("pid")),
            // As many as a test wants, and none is turned away by chance.
            "MaxStartups 100".into(),
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password".into(),
            // The temporary folder belongs to everybody.
            "StrictModes no\nUsePAM no\nSubsystem sftp internal-sftp".into(),
        ];
        write(&folder.path().join("sshd_config"), settings.join("\n"));
        if is_root() {
            // Debian's service makes this folder at its start.
            fs::create_dir_all("/run/sshd").expect("the folder of its unprivileged half");
        }
        let mut server = Command::new(find("sshd", "openssh-server"));
        server.args(["-D", "-e", "-f"]).arg(folder.path().join("sshd_config"));
        let mut service = Service::start("sshd", &mut server);
        service.wait_for_line(None, |line| line.contains(&format!("Server listening on 127.0.0.1 port {port}")));
        Self { folder, port, service }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client that knows nothing but this server.
    fn program(&self, name: &str, port: u16) -> Command {
        let mut command = client(name, CLIENT);
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"]);
        command.args(["-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-o", &format!("Port={port}")]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", self.file("known").display()));
        command.arg("-i").arg(self.file("user")).env_remove("SSH_AUTH_SOCK");
        command
    }

    /// Ends it, and shows that it was this one.
    pub(super) fn end(self) {
        let (_, lines) = self.service.end(Signal::TERM);
        assert!(lines.iter().any(|(_, line)| line.contains("Received signal 15")), "{lines:?}");
    }

    fn ssh(&self, port: u16, remote: &str) -> Command {
        let mut command = self.program("ssh", port);
        command.args([&login(), remote]);
        command
    }
}

fn login() -> String {
    format!("{}@127.0.0.1", text(client("id", "coreutils").arg("-un")))
}

/// The time and rate of one transfer.
fn timed(what: &str, transfer: impl FnOnce()) {
    let running = Stopwatch::start();
    transfer();
    running.report(&format!("OpenSSH, {what}"), SIZE as u64);
}

#[test]
fn files_and_pipes_go_both_ways() {
    let server = Server::start();
    let tunnel = Tunnel::serve(&["--agent", "ideal"], &[format!("0:127.0.0.1:{}", server.port)]);
    let through = tunnel.port(0);
    let local = server.file("local");
    write(&local, data::random(SIZE));
    let expected = Digest::of_file(&local);
    let arrived = |name: &str| assert_eq!(Digest::of_file(&server.file(name)), expected, "{name}");
    let remote = |name: &str| format!("{}:{}", login(), server.file(name).display());
    let to = |file: &Path| format!("cat > {}", file.display());

    assert_eq!(text(&mut server.ssh(through, "echo reached")), "reached");
    // A remote status comes through, and stdin at its end is not the end of the answer.
    let status = server.ssh(through, "exit 42").status().expect("it can be started");
    assert_eq!(status.code(), Some(42));
    let sum = feed(&mut server.ssh(through, "cksum"), &local);
    assert_eq!(sum, feed(&mut client("cksum", "coreutils"), &local));

    for (how, port) in [("through the tunnel", through), ("directly", server.port)] {
        timed(&format!("pipe up {how}"), || drop(feed(&mut server.ssh(port, &to(&server.file("up"))), &local)));
        arrived("up");
        timed(&format!("pipe down {how}"), || {
            assert_eq!(digest(&mut server.ssh(port, &format!("cat {}", local.display()))), expected);
        });
    }
    timed("scp up through the tunnel", || {
        output(server.program("scp", through).arg(&local).arg(remote("scp-up")));
    });
    arrived("scp-up");
    timed("scp down through the tunnel", || {
        output(server.program("scp", through).arg(remote("local")).arg(server.file("scp-down")));
    });
    arrived("scp-down");
    let batch = server.file("batch");
    let name = |name: &str| server.file(name).display().to_string();
    write(&batch, format!("put {0} {1}\nget {1} {2}\n", name("local"), name("sftp-up"), name("sftp-down")));
    timed("sftp up and down through the tunnel", || {
        output(server.program("sftp", through).arg("-b").arg(&batch).arg(login()));
    });
    arrived("sftp-up");
    arrived("sftp-down");

    tunnel.end();
    server.end();
}
