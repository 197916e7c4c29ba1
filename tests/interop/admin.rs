//! Prometheus's own judgement of `/metrics`, and figures that agree with what curl has moved.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::{
    data,
    program::{client, find, free_port, spawn, text, write},
    service::Service,
    tunnel::Tunnel,
};

/// What is downloaded, bytes.
const SIZE: usize = 3_000_000;

fn get(admin: u16, path: &str) -> String {
    let mut curl = client("curl", "curl");
    curl.args(["--silent", "--show-error", "--fail", &format!("http://127.0.0.1:{admin}{path}")]);
    text(&mut curl)
}

/// What Prometheus has against a text: nothing, if it is right.
fn complaints(metrics: &str) -> String {
    use std::io::{Read as _, Write as _};

    let mut command = Command::new(find("promtool", "prometheus"));
    let mut promtool = spawn(command.args(["check", "metrics"]).stdin(Stdio::piped()));
    let mut input = promtool.stdin.take().expect("it is piped");
    input.write_all(metrics.as_bytes()).and_then(|()| input.write_all(b"\n")).expect("it reads");
    drop(input);
    let mut said = String::new();
    promtool.stdout.take().expect("it is piped").read_to_string(&mut said).expect("text");
    promtool.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
    let status = promtool.wait().expect("its status");
    if said.is_empty() {
        status.code().filter(|code| *code != 0).map_or(said, |code| format!("status {code}"))
    } else {
        said
    }
}

#[test]
fn prometheus_takes_the_metrics() {
    // It is not asleep.
    assert!(complaints("x_total 1\nx_total 1").contains("x_total"));
    assert!(complaints("# HELP y counts\n# TYPE y counter\ny{a=\"b\" 1").contains("error"));

    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("file"), data::random(SIZE));
    let (web, admin) = (free_port(), free_port());
    let mut server = Command::new(find("python3", "python3"));
    server
        .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory"])
        .arg(folder.path())
        .arg(web.to_string());
    let mut server = Service::start("http.server", &mut server);
    server.wait_for_line(None, |line| line.contains("Serving HTTP"));

    let tunnel =
        Tunnel::serve_with(&["--agent", "ideal"], &["--admin", &admin.to_string()], &[format!("0:127.0.0.1:{web}")]);
    assert_eq!(complaints(&get(admin, "/metrics")), "");
    let mut curl = client("curl", "curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--output",
        "/dev/null",
        "--write-out",
        "%{size_download} %{size_header}",
    ]);
    let sizes = text(curl.arg(format!("http://127.0.0.1:{}/file", tunnel.port(0))));
    let downloaded: u64 = sizes.split(' ').map(|size| size.parse::<u64>().expect("a number")).sum();
    assert!(downloaded > SIZE as u64);

    let metrics = get(admin, "/metrics");
    assert_eq!(complaints(&metrics), "");
    let down =
        metrics.lines().find(|line| line.starts_with("ssmfwd_bytes_total{") && line.contains("direction=\"down\""));
    assert_eq!(down.and_then(|line| line.rsplit(' ').next()), Some(&*downloaded.to_string()), "{metrics}");
    tunnel.end();
    server.end(Signal::TERM);
}
