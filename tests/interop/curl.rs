//! curl and nginx: kept connections, ranges, uploads, many at once; old agents; TLS.

use std::{fs, path::PathBuf, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    data::{self, Digest},
    figures::Stopwatch,
    program::{client, digest, find, free_port, is_root, output, text, write},
    service::Service,
    tunnel::Tunnel,
};

const SIZE: usize = 20_000_000;

struct Server {
    folder: TempDir,
    port: u16,
    service: Service,
}

impl Server {
    /// A server of `large`, `small` and of what is uploaded.
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("www")).expect("room on the disk");
        write(&at("www/large"), data::random(SIZE));
        write(&at("www/small"), "small\n");
        let port = free_port();
        let here = folder.path().display();
        let user = if is_root() { "user root;" } else { "" };
        write(
            &at("nginx.conf"),
            format!(
                "daemon off; worker_processes 1; pid {here}/pid; error_log stderr notice; {user}\n\
                 events {{ worker_connections 512; }}\n\
                 http {{\n\
                   access_log off; client_max_body_size 0; default_type application/octet-stream;\n\
                   client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;\n\
                   uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;\n\
                   server {{ listen 127.0.0.1:{port}; root {here}/www; dav_methods PUT; }}\n\
                 }}\n"
            ),
        );
        let mut server = Command::new(find("nginx", "nginx"));
        server.arg("-p").arg(folder.path()).arg("-c").arg(at("nginx.conf")).args(["-e", "stderr"]);
        let mut service = Service::start("nginx", &mut server);
        service.wait_for_line(None, |line| line.contains("start worker process "));
        Self { folder, port, service }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("www").join(name)
    }

    fn end(self) {
        let (status, lines) = self.service.end(Signal::QUIT);
        assert!(status.success(), "{lines:?}");
    }
}

fn curl() -> Command {
    let mut command = client("curl", "curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]);
    command
}

fn url(port: u16, name: &str) -> String {
    format!("http://127.0.0.1:{port}/{name}")
}

fn download(what: &str, port: u16) -> Digest {
    let running = Stopwatch::start();
    let got = digest(curl().arg(url(port, "large")));
    running.report(&format!("curl, download {what}"), got.bytes);
    got
}

#[test]
fn kept_connections_ranges_and_uploads() {
    let server = Server::start();
    let tunnel = Tunnel::serve(&["--agent", "ideal"], &[format!("0:127.0.0.1:{}", server.port)]);
    let through = tunnel.port(0);
    let expected = Digest::of_file(&server.file("large"));

    assert_eq!(download("through the tunnel", through), expected);
    assert_eq!(download("directly", server.port), expected);

    // Three requests, the second and third on the connection of the first.
    let mut kept = curl();
    kept.args(["--output", "/dev/null", "--write-out", "%{http_code} %{num_connects}\\n"]);
    for _ in 0..2 {
        kept.arg(url(through, "small")).args(["--output", "/dev/null"]);
    }
    assert_eq!(text(kept.arg(url(through, "large"))), "200 1\n200 0\n200 0");

    let part = output(curl().args(["--range", "1000000-1999999"]).arg(url(through, "large")));
    assert!(part == data::random(SIZE)[1_000_000..2_000_000], "the range differs");
    assert_eq!(
        text(curl().args(["--head", "--write-out", "%{http_code}"]).arg(url(through, "small"))).lines().last(),
        Some("200")
    );

    for (how, port) in [("through the tunnel", through), ("directly", server.port)] {
        let uploading = Stopwatch::start();
        output(curl().arg("--upload-file").arg(server.file("large")).arg(url(port, "uploaded")));
        uploading.report(&format!("curl, upload {how}"), SIZE as u64);
        assert_eq!(Digest::of_file(&server.file("uploaded")), expected);
        fs::remove_file(server.file("uploaded")).expect("it is there");
    }

    // Fifty downloads of a megabyte, twenty at a time, each on a connection of its own.
    let parts = server.folder.path().join("part_#1");
    let mut many = curl();
    many.args(["--parallel", "--parallel-immediate", "--parallel-max", "20", "--range", "0-999999", "--output"]);
    many.arg(&parts).arg(url(through, "large?[1-50]")).args(["--header", "Connection: close"]);
    let running = Stopwatch::start();
    output(&mut many);
    running.report("curl, 50 downloads, 20 at a time", 50_000_000);
    for number in 1..=50 {
        let part = fs::read(server.folder.path().join(format!("part_{number}"))).expect("it was downloaded");
        assert!(part == data::random(SIZE)[..1_000_000], "part {number} differs");
    }

    tunnel.end();
    server.end();
}

/// Agents up to 3.0.196.0 carry one connection at a time and never say that the destination has closed.
#[test]
fn an_old_agent_serves_one_client_after_another() {
    let server = Server::start();
    let old = ["--agent", "ideal", "--agent-version", "3.0.150.0"];
    let tunnel = Tunnel::serve(&old, &[format!("0:{}", server.port)]);
    let expected = Digest::of_file(&server.file("large"));
    for _ in 0..2 {
        assert_eq!(download("through an old agent", tunnel.port(0)), expected);
    }
    output(curl().arg("--upload-file").arg(server.file("large")).arg(url(tunnel.port(0), "uploaded")));
    assert_eq!(Digest::of_file(&server.file("uploaded")), expected);
    tunnel.end();
    server.end();
}

#[test]
fn the_whole_path_under_tls() {
    let server = Server::start();
    let tunnel = Tunnel::serve(&["--tls", "--agent", "ideal"], &[format!("0:127.0.0.1:{}", server.port)]);
    assert!(tunnel.aws().env()["AWS_ENDPOINT_URL"].starts_with("https://"));
    let expected = Digest::of_file(&server.file("large"));
    assert_eq!(download("through the tunnel under TLS", tunnel.port(0)), expected);
    output(curl().arg("--upload-file").arg(server.file("large")).arg(url(tunnel.port(0), "uploaded")));
    assert_eq!(Digest::of_file(&server.file("uploaded")), expected);
    tunnel.end();
    server.end();
}
