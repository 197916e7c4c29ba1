//! What is under test: `ssmfwd` and the emulated AWS, as programs.

use std::{collections::BTreeMap, env, path::PathBuf, process::Command};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    program::{client, free_port, text},
    service::{Pipe, Service},
};

pub(crate) const TARGET: &str = "i-0123456789abcdef0";

/// Status of a program that was asked to end by SIGTERM, as a shell shows it.
const TERMINATED: i32 = 143;

/// The folder of the programs under test.
pub(crate) fn programs() -> PathBuf {
    match env::var_os("SSMFWD_BIN_DIR") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_BIN_EXE_ssmfwd")).parent().expect("a file is in a folder").into(),
    }
}

/// An emulated AWS that is a program of its own, or the parent of the one that uses it.
pub(crate) struct Aws {
    service: Option<Service>,
    control_url: String,
    env: BTreeMap<String, String>,
}

impl Aws {
    /// `ssmfwd-emulator serve`
    pub(crate) fn serve(switches: &[&str]) -> Self {
        let mut command = Command::new(programs().join("ssmfwd-emulator"));
        let mut service = Service::start("ssmfwd-emulator serve", command.arg("serve").args(switches));
        let line = service.wait_for_line(Some(Pipe::Stdout), |line| line.starts_with('{'));
        let description: Value = serde_json::from_str(&line).expect("a line of JSON");
        let env = serde_json::from_value(description["env"].clone()).expect("an object of texts");
        let control_url = description["control_url"].as_str().expect("a text").into();
        Self { service: Some(service), control_url, env }
    }

    /// The variables that point a client here.
    pub(crate) fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// A snapshot of everything that it has seen.
    pub(crate) fn state(&self) -> Value {
        let mut curl = client("curl", "curl");
        curl.args(["--silent", "--show-error", "--fail"]).envs(&self.env);
        if let Some(authority) = self.env.get("SSL_CERT_FILE") {
            curl.args(["--cacert", authority]);
        }
        serde_json::from_str(&text(curl.arg(format!("{}/state", self.control_url)))).expect("JSON")
    }

    /// Does something to all sessions, such as `{"action": "disconnect"}`.
    pub(crate) fn act(&self, action: &str) {
        self.post("actions", action);
    }

    /// Changes its configuration from now on.
    pub(crate) fn configure(&self, fields: &str) {
        self.post("config", fields);
    }

    fn post(&self, path: &str, body: &str) {
        let mut curl = client("curl", "curl");
        curl.args(["--silent", "--show-error", "--fail", "--data", body]).envs(&self.env);
        text(curl.arg(format!("{}/{path}", self.control_url)));
    }

    /// Ends it by SIGTERM.
    pub(crate) fn end(self) {
        if let Some(service) = self.service {
            let (status, lines) = service.end(Signal::TERM);
            assert_eq!(status.code(), Some(0), "{lines:?}");
        }
    }
}

/// `ssmfwd` with its forwards open.
pub(crate) struct Tunnel {
    aws: Aws,
    ssmfwd: Service,
    /// The session of each forward.
    sessions: Vec<String>,
    /// The local addresses of each forward.
    addresses: Vec<Vec<String>>,
}

impl Tunnel {
    /// `ssmfwd-emulator exec SWITCHES -- ssmfwd FORWARDS`, as the README shows it.
    pub(crate) fn exec(switches: &[&str], forwards: &[String]) -> Self {
        let port = free_port();
        let mut command = Command::new(programs().join("ssmfwd-emulator"));
        command.args(["exec", "--port", &port.to_string()]).args(switches).args(["--", "ssmfwd"]);
        let control_url = format!("http://127.0.0.1:{port}/_emulator");
        let env = [("NO_PROXY".to_owned(), "127.0.0.1".to_owned())].into();
        Self::start(Aws { service: None, control_url, env }, command, forwards)
    }

    /// The two as programs of their own, so that the emulator can tell what was left behind.
    pub(crate) fn serve(switches: &[&str], forwards: &[String]) -> Self {
        Self::serve_with(switches, &[], forwards)
    }

    /// The same with options of `ssmfwd`.
    pub(crate) fn serve_with(switches: &[&str], options: &[&str], forwards: &[String]) -> Self {
        let aws = Aws::serve(switches);
        let mut command = Command::new(programs().join("ssmfwd"));
        command.envs(aws.env()).args(options);
        Self::start(aws, command, forwards)
    }

    /// The same with variables of `ssmfwd`, which win over those that lead to the emulator.
    pub(crate) fn serve_in(switches: &[&str], variables: &[(&str, &str)], forwards: &[String]) -> Self {
        let aws = Aws::serve(switches);
        let mut command = Command::new(programs().join("ssmfwd"));
        command.envs(aws.env()).envs(variables.iter().copied());
        Self::start(aws, command, forwards)
    }

    /// A run that fails with status 1 before any call; what it said.
    pub(crate) fn refused(switches: &[&str], variables: &[(&str, &str)], forwards: &[String]) -> String {
        let aws = Aws::serve(switches);
        let mut command = Command::new(programs().join("ssmfwd"));
        command.envs(aws.env()).envs(variables.iter().copied()).args(forwards).args(["--target", TARGET, "-vv"]);
        let output = command.output().expect("it can be started");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(aws.state()["calls"], serde_json::json!({}));
        aws.end();
        said
    }

    fn start(aws: Aws, mut command: Command, forwards: &[String]) -> Self {
        command.args(forwards).args(["--target", TARGET, "--output", "json"]);
        let mut ssmfwd = Service::start("ssmfwd", &mut command);
        let mut sessions = BTreeMap::new();
        for _ in forwards {
            let line = ssmfwd.wait_for_line(Some(Pipe::Stdout), |line| is_event(line, "session_started"));
            let started = event(&line);
            let of = |name: &str| started[name].as_str().expect("a text").to_owned();
            sessions.insert(of("forward"), of("session_id"));
        }
        let ready = ssmfwd.wait_for_line(Some(Pipe::Stdout), |line| is_event(line, "ready"));
        let ready = event(&ready);
        let opened = ready["forwards"].as_array().expect("a list").iter();
        let addresses: Vec<Vec<String>> =
            opened.map(|forward| serde_json::from_value(forward["addresses"].clone()).expect("texts")).collect();
        assert_eq!(addresses.len(), forwards.len());
        let sessions = forwards.iter().map(|forward| sessions[forward].clone()).collect();
        Self { aws, ssmfwd, sessions, addresses }
    }

    /// The local port of a forward; the same for IPv4 and IPv6.
    pub(crate) fn port(&self, forward: usize) -> u16 {
        let address = self.addresses[forward].first().expect("a forward has an address");
        let (_, port) = address.rsplit_once(':').expect("a TCP address");
        port.parse().expect("a port")
    }

    pub(crate) fn aws(&self) -> &Aws {
        &self.aws
    }

    pub(crate) fn session(&self, forward: usize) -> &str {
        &self.sessions[forward]
    }

    /// Waits for an event.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        event(&self.ssmfwd.wait_for_line(Some(Pipe::Stdout), |line| is_event(line, name)))
    }

    /// Ends it by SIGTERM, as a supervisor does. Nothing is left, and nothing was against the protocol.
    pub(crate) fn end(self) {
        self.end_after(&[]);
    }

    /// The same after sessions have ended for these reasons.
    pub(crate) fn end_after(self, reasons: &[&str]) {
        let before = self.aws.state();
        assert_eq!(before["violation_count"], 0, "{}", before["violations"]);
        assert_eq!(live_sessions(&before), self.addresses.len(), "{before}");
        traffic(&before);

        let (status, lines) = self.ssmfwd.end(Signal::TERM);
        assert_eq!(status.code(), Some(TERMINATED), "{lines:?}");
        let stopped = lines.iter().filter(|(pipe, line)| *pipe == Pipe::Stdout && is_event(line, "stopped"));
        let stopped: Vec<_> = stopped.map(|(_, line)| event(line)).collect();
        assert!(matches!(&stopped[..], [one] if one["exit"] == TERMINATED && one["by"] == "signal"), "{stopped:?}");
        let ended = lines.iter().filter(|(pipe, line)| *pipe == Pipe::Stdout && is_event(line, "session_ended"));
        let ended: Vec<_> = ended.map(|(_, line)| event(line)["reason"].clone()).collect();
        let requested = std::iter::repeat_n("requested", self.addresses.len());
        assert_eq!(ended, Vec::from_iter(reasons.iter().copied().chain(requested)), "{lines:?}");
        let complaints: Vec<_> = lines.iter().filter(|(pipe, _)| *pipe == Pipe::Stderr).collect();
        assert!(complaints.is_empty(), "{complaints:?}");

        if self.aws.service.is_some() {
            let after = self.aws.state();
            assert_eq!(live_sessions(&after), 0, "{after}");
            assert_eq!(after["sessions_ended"]["flag"], self.addresses.len(), "{}", after["sessions_ended"]);
            assert_eq!((&after["violation_count"], &after["websockets"]), (&0.into(), &0.into()), "{after}");
        }
        self.aws.end();
    }
}

/// Sessions that have not ended.
pub(crate) fn live_sessions(state: &Value) -> usize {
    let sessions = state["sessions"].as_object().expect("an object");
    sessions.values().filter(|session| session["ended"].is_null()).count()
}

/// Prints what went through the gateway.
fn traffic(state: &Value) {
    let sessions = state["sessions"].as_object().expect("an object");
    for (id, session) in sessions {
        eprintln!(
            "session {id}: up {}, down {}, acknowledgements up {}, largest payload {}",
            session["up"], session["down"], session["acknowledgements_up"], session["largest_payload"]
        );
    }
}

fn is_event(line: &str, name: &str) -> bool {
    line.starts_with('{') && event(line)["event"] == name
}

fn event(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("not an event: {error}: {line}"))
}
