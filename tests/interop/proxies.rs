//! Real proxies between the program and AWS: tinyproxy and squid, both with authentication. What they have written down
//! shows that the API and the websocket went through them, or past them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    thread,
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    program::{client, find, free_port, output, text, write},
    service::Service,
    tunnel::Tunnel,
};

const USER: &str = "me";
/// One that has to be encoded in a URL, and how it then looks.
const HARD: [&str; 2] = ["p:ss%w@rd", "p%3Ass%25w%40rd"];
/// tinyproxy's configuration takes no other characters.
const PLAIN: &str = "p4ssw0rd";

/// A proxy, and where it writes what it does.
struct Proxy {
    /// As in a URL.
    password: &'static str,
    folder: TempDir,
    port: u16,
    service: Service,
    log: PathBuf,
}

impl Proxy {
    fn tinyproxy() -> Self {
        let (folder, port) = (folder(), free_port());
        let log = folder.path().join("log");
        let config = folder.path().join("tinyproxy.conf");
        write(
            &config,
            format!(
                "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 600\nMaxClients 50\nLogLevel Connect\n\
                 LogFile \"{}\"\nBasicAuth {USER} {PLAIN}\n",
                log.display()
            ),
        );
        let mut command = Command::new(find("tinyproxy", "tinyproxy"));
        let service = Service::start("tinyproxy", command.arg("-d").arg("-c").arg(config));
        Self { password: PLAIN, folder, port, service, log }.listening()
    }

    fn squid() -> Self {
        let (folder, port) = (folder(), free_port());
        let here = folder.path().display().to_string();
        let log = folder.path().join("access.log");
        let hash = text(client("openssl", "openssl").args(["passwd", "-apr1", HARD[0]]));
        write(&folder.path().join("passwords"), format!("{USER}:{hash}\n"));
        let config = folder.path().join("squid.conf");
        write(
            &config,
            format!(
                "http_port 127.0.0.1:{port}\npid_filename {here}/pid\ncoredump_dir {here}\ncache deny all\n\
                 cache_log {here}/cache.log\naccess_log stdio:{}\nlogfile_rotate 0\nshutdown_lifetime 0 seconds\n\
                 auth_param basic program /usr/lib/squid/basic_ncsa_auth {here}/passwords\n\
                 acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n\
                 visible_hostname localhost\nworkers 1\ncache_mem 8 MB\nmax_filedescriptors 1024\n",
                log.display()
            ),
        );
        let mut command = Command::new(find("squid", "squid"));
        let name = format!("ssmfwd{port}");
        let service = Service::start("squid", command.args(["-N", "-n", &name, "-f"]).arg(config));
        Self { password: HARD[1], folder, port, service, log }.listening()
    }

    /// Waits until it takes connections: neither says so where one could wait for it.
    fn listening(self) -> Self {
        let mut curl = client("curl", "curl");
        curl.args(["--silent", "--retry", "60", "--retry-connrefused", "--retry-delay", "1", "--output", "/dev/null"]);
        output(curl.args(["--noproxy", "*"]).arg(format!("http://127.0.0.1:{}/", self.port)));
        self
    }

    fn url(&self) -> String {
        format!("http://{USER}:{}@127.0.0.1:{}", self.password, self.port)
    }

    /// Lines of its log with this text. Lines are there when a connection is over, at the latest.
    fn lines(&self, text: &str) -> Vec<String> {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// Ends it, and gives the lines with this text.
    fn end(self, text: &str) -> Vec<String> {
        let Self { folder, port, service, log, .. } = self;
        // squid has no handler that would make it end with success.
        let (_, said) = service.end(Signal::TERM);
        let log = fs::read(&log).unwrap_or_else(|error| panic!("no log at port {port}: {error}; {said:?}"));
        drop(folder);
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

/// A folder that a server which is no longer root may write to.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    folder
}

/// Forwards a port with these variables, uses it, and says where the emulated AWS was.
fn used(switches: &[&str], variables: &[(&str, &str)]) -> String {
    let destination = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let forward = format!("0:{}", destination.local_addr().expect("it is bound"));
    let tunnel = Tunnel::serve_in(switches, variables, &[forward]);
    let server = thread::spawn(move || {
        let (mut connection, _) = destination.accept().expect("a connection");
        let mut request = [0; 5];
        connection.read_exact(&mut request).expect("it is open");
        connection.write_all(&request.to_ascii_uppercase()).expect("it is open");
    });
    let mut client = TcpStream::connect(("127.0.0.1", tunnel.port(0))).expect("it listens");
    client.write_all(b"hello").expect("it is open");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("no reset");
    assert_eq!(answer, "HELLO");
    server.join().expect("no panic");
    let url = tunnel.aws().env()["AWS_ENDPOINT_URL"].clone();
    tunnel.end();
    url.split_once("://").expect("a URL").1.to_owned()
}

/// Without the exceptions that lead to the emulator.
const NO_EXCEPTIONS: [(&str, &str); 2] = [("NO_PROXY", ""), ("no_proxy", "")];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&NO_EXCEPTIONS[..], more].concat()
}

#[test]
fn the_api_and_the_websocket_go_through_tinyproxy() {
    let proxy = Proxy::tinyproxy();
    let gateway = used(&["--tls"], &with(&[("HTTPS_PROXY", &proxy.url())]));
    let tunnels = proxy.lines(&format!("CONNECT {gateway} "));
    assert!(tunnels.len() >= 2, "{tunnels:?}");

    // Without TLS: the API by way of the proxy, the websocket in a tunnel.
    let gateway = used(&[], &with(&[("http_proxy", &proxy.url())]));
    assert!(!proxy.lines(&format!("POST http://{gateway}/ ")).is_empty());
    assert!(!proxy.lines(&format!("CONNECT {gateway} ")).is_empty());

    // What is an exception is not asked of it.
    let gateway = used(&["--tls"], &[("HTTPS_PROXY", &proxy.url()), ("NO_PROXY", "10.0.0.0/8,127.0.0.0/8")]);
    assert_eq!(proxy.end(&gateway), [""; 0]);
}

#[test]
fn the_api_and_the_websocket_go_through_squid() {
    let proxy = Proxy::squid();
    let gateway = used(&["--tls"], &with(&[("ALL_PROXY", &proxy.url())]));
    let exception = used(&["--tls"], &[("ALL_PROXY", &proxy.url()), ("NO_PROXY", "127.0.0.1")]);
    assert_eq!(proxy.lines(&exception), [""; 0]);
    let tunnels = proxy.end("CONNECT ");
    let ours = tunnels.iter().filter(|line| line.contains("TCP_TUNNEL/200") && line.contains(&gateway));
    assert!(ours.clone().count() >= 2, "{tunnels:?}");
    assert!(ours.clone().all(|line| line.contains(&format!(" {USER} "))), "{tunnels:?}");
    assert!(!tunnels.iter().any(|line| line.contains(&exception)), "{tunnels:?}");
}

#[test]
fn both_refuse_whoever_has_no_password_and_are_named() {
    for proxy in [Proxy::tinyproxy(), Proxy::squid()] {
        for (user, words) in [
            ("".to_owned(), "it wants authentication: a user and a password"),
            (format!("{USER}:wrong@"), "it does not accept the user and the password"),
        ] {
            let url = format!("http://{user}127.0.0.1:{}", proxy.port);
            let said = Tunnel::refused(&["--tls"], &with(&[("HTTPS_PROXY", &url)]), &["0:80".to_owned()]);
            let named = format!("the proxy http://127.0.0.1:{} refused", proxy.port);
            assert!(said.contains(&named) && said.contains(words) && !said.contains("wrong"), "{said}");
        }
        proxy.end("");
    }
}
