//! Redis: thousands of pipelined commands, many clients, large values.

use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    data::{self, Digest},
    figures::Stopwatch,
    program::{client, digest, feed, find, free_port, text, write},
    service::Service,
    tunnel::Tunnel,
};

const TOOLS: &str = "redis-tools";
/// Values that are set one after another without waiting for answers.
const VALUES: usize = 10_000;
/// A value that is set at once, bytes.
const LARGE: usize = 20_000_000;

struct Server {
    folder: TempDir,
    port: u16,
    service: Service,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let port = free_port();
        let mut server = Command::new(find("redis-server", "redis-server"));
        server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        server.arg(folder.path()).args(["--enable-debug-command", "local"]);
        let mut service = Service::start("redis-server", &mut server);
        service.wait_for_line(None, |line| line.contains("Ready to accept connections"));
        Self { folder, port, service }
    }
}

fn cli(port: u16) -> Command {
    let mut command = client("redis-cli", TOOLS);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    command
}

/// Commands in Redis's own protocol, as its documentation has them for mass insertion.
fn commands() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(data::SEED);
    let mut commands = Vec::new();
    for number in 0..VALUES {
        let mut value = vec![0; random.usize(0..1000)];
        random.fill(&mut value);
        let key = format!("key:{number}");
        let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len());
        commands.extend(head.bytes().chain(value).chain(*b"\r\n"));
    }
    commands
}

#[test]
fn pipelines_and_large_values_arrive_whole() {
    let server = Server::start();
    let tunnel = Tunnel::serve(&["--agent", "ideal"], &[format!("0:127.0.0.1:{}", server.port)]);
    let (through, direct) = (tunnel.port(0), server.port);

    let file = server.folder.path().join("commands");
    let commands = commands();
    write(&file, &commands);
    let load = |how: &str, port: u16| {
        let loading = Stopwatch::start();
        let report = String::from_utf8(feed(cli(port).arg("--pipe"), &file)).expect("UTF-8");
        assert!(report.contains(&format!("errors: 0, replies: {VALUES}")), "{report}");
        let rate = loading.report(&format!("Redis, {VALUES} pipelined SETs {how}"), commands.len() as u64);
        (rate, text(cli(direct).args(["DEBUG", "DIGEST"])))
    };
    let (rate, content) = load("through the tunnel", through);
    assert_eq!(text(cli(direct).arg("DBSIZE")), VALUES.to_string());
    text(cli(direct).arg("FLUSHALL"));
    let (direct_rate, expected) = load("directly", direct);
    rate.compare("Redis, pipelined SETs", direct_rate);
    assert_eq!(content, expected);

    let file = server.folder.path().join("large");
    write(&file, data::random(LARGE));
    let setting = Stopwatch::start();
    feed(cli(through).args(["-x", "SET", "large"]), &file);
    setting.report("Redis, one large SET through the tunnel", LARGE as u64);
    let getting = Stopwatch::start();
    let got = digest(cli(through).args(["--raw", "GET", "large"]));
    getting.report("Redis, one large GET through the tunnel", LARGE as u64);
    // Its client ends the value with a newline.
    let expected = [data::random(LARGE), b"\n".to_vec()].concat();
    assert_eq!(got, Digest::of(&expected[..]).expect("memory can be read"));

    for (how, port) in [("through the tunnel", through), ("directly", direct)] {
        let mut benchmark = client("redis-benchmark", TOOLS);
        benchmark.args(["-h", "127.0.0.1", "-p", &port.to_string(), "--csv", "-d", "100", "-t", "set,get,lrange_100"]);
        let report = text(benchmark.args(["-c", "50", "-n", "10000", "-P", "16"]));
        let figures: Vec<_> =
            report.lines().skip(1).map(|line| line.split(',').take(2).collect::<Vec<_>>().join(" ")).collect();
        assert!(figures.len() >= 3, "{report}");
        eprintln!("redis-benchmark {how}, per second: {}", figures.join(", "));
    }

    tunnel.end();
    let (status, lines) = server.service.end(Signal::TERM);
    assert!(status.success(), "{lines:?}");
}
