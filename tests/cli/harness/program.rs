//! The built binary as a process: its events, its lines, its signals, its exit status.

use std::{
    future::Future,
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
};

use super::PATIENCE;

/// What the program has said so far.
#[derive(Debug, Clone, Default)]
struct Said {
    stdout: Vec<String>,
    stderr: Vec<String>,
    /// Of stdout and stderr.
    closed: u8,
}

impl Said {
    fn events(&self) -> impl Iterator<Item = Value> + '_ {
        self.stdout.iter().map(|line| serde_json::from_str(line).unwrap_or(Value::Null))
    }

    fn events_named(&self, name: &str) -> Vec<Value> {
        let start = format!(r#"{{"event":"{name}","#);
        let lines = self.stdout.iter().filter(|line| line.starts_with(&start));
        lines.map(|line| serde_json::from_str(line).expect("an event is JSON")).collect()
    }
}

/// A running program. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    pid: Pid,
    said: watch::Receiver<Said>,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) events: Vec<Value>,
}

impl Ended {
    /// The events' names, in order.
    pub(crate) fn event_names(&self) -> Vec<&str> {
        self.events.iter().map(|event| event["event"].as_str().unwrap_or("?")).collect()
    }

    /// The events with one name.
    pub(crate) fn events_named(&self, name: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["event"] == name).collect()
    }

    /// Checks how it exited.
    #[track_caller]
    pub(crate) fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status.code(), Some(status), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Checks that something was said to people.
    #[track_caller]
    pub(crate) fn expect_stderr(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in:\n{}", self.stderr);
        self
    }
}

impl Program {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the built binary");
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (sender, said) = watch::channel(Said::default());
        tokio::spawn(listen(stdout, sender.clone(), |said| &mut said.stdout));
        tokio::spawn(listen(stderr, sender, |said| &mut said.stderr));
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).expect("it runs");
        Self { child, pid, said }
    }

    /// Waits until what was said meets a condition.
    async fn until<T>(&self, what: &str, mut condition: impl FnMut(&Said) -> Option<T>) -> T {
        let mut said = self.said.clone();
        let wait = async {
            loop {
                let (met, closed) = {
                    let now = said.borrow_and_update();
                    (condition(&now), now.closed == 2)
                };
                if met.is_some() || closed {
                    return met;
                }
                if said.changed().await.is_err() {
                    return condition(&said.borrow());
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Some(met)) => met,
            Ok(None) => panic!("the program ended without {what}\n{}", self.transcript()),
            Err(_) => panic!("no {what} within {} s\n{}", PATIENCE.as_secs(), self.transcript()),
        }
    }

    /// Waits for something that the program is needed for.
    pub(crate) async fn within<F: Future>(&self, what: &str, work: F) -> F::Output {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(output) => output,
            Err(_) => panic!("{what}: not within {} s\n{}", PATIENCE.as_secs(), self.transcript()),
        }
    }

    /// All that was said.
    pub(crate) fn transcript(&self) -> String {
        let said = self.said.borrow();
        let tail = said.stdout.len().saturating_sub(40);
        format!("stdout:\n{}\nstderr:\n{}", said.stdout[tail..].join("\n"), said.stderr.join("\n"))
    }

    /// The first event with this name.
    pub(crate) async fn event(&self, name: &str) -> Value {
        self.events(name, 1).await.swap_remove(0)
    }

    /// At least so many events with this name.
    pub(crate) async fn events(&self, name: &str, count: usize) -> Vec<Value> {
        let enough = |said: &Said| Some(said.events_named(name)).filter(|events| events.len() >= count);
        self.until(&format!("{count} events {name}"), enough).await
    }

    /// The events with this name until now.
    pub(crate) fn events_so_far(&self, name: &str) -> Vec<Value> {
        self.said.borrow().events_named(name)
    }

    /// The first line on stderr that contains a text.
    pub(crate) async fn line(&self, text: &str) -> String {
        let find = |said: &Said| said.stderr.iter().find(|line| line.contains(text)).cloned();
        self.until(&format!("line with {text:?}"), find).await
    }

    /// The first line on stdout that contains a text.
    pub(crate) async fn stdout_line(&self, text: &str) -> String {
        let find = |said: &Said| said.stdout.iter().find(|line| line.contains(text)).cloned();
        self.until(&format!("line with {text:?}"), find).await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) async fn exit(mut self) -> Ended {
        let wait = async {
            let status = self.child.wait().await.expect("a child of ours");
            let said = self.said.wait_for(|said| said.closed == 2).await.expect("the readers tell").clone();
            (status, said)
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok((status, said)) => {
                let events = said.events().collect();
                Ended { status, stdout: said.stdout.join("\n"), stderr: said.stderr.join("\n"), events }
            }
            Err(_) => panic!("it does not end\n{}", self.transcript()),
        }
    }

    /// Open descriptors, where the system tells.
    pub(crate) fn descriptors(&self) -> Option<usize> {
        let folder = format!("/proc/{}/fd", self.pid.as_raw_nonzero());
        std::fs::read_dir(folder).ok().map(Iterator::count)
    }

    /// Its arguments as everybody on the machine can see them; only where the system tells.
    pub(crate) fn command_line(&self) -> Option<String> {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid.as_raw_nonzero())).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    }

    /// How often its main thread has waited for something; only where the system tells.
    pub(crate) fn waits(&self) -> Option<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    }
}

async fn listen(from: impl AsyncRead + Unpin, said: watch::Sender<Said>, list: fn(&mut Said) -> &mut Vec<String>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        said.send_modify(|said| list(said).push(line));
    }
    said.send_modify(|said| said.closed += 1);
}
