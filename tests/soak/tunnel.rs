//! The built `ssmfwd` and what it says about itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, io,
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use ssmfwd::emulator::{Emulator, EmulatorConfig};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{chaos::Ended, verdict::Verdict};

/// How long the start and the end may each take. Generous: it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program with its forwards.
pub(crate) struct Tunnel {
    child: Child,
    process: u32,
    told: Arc<Told>,
    readers: [JoinHandle<()>; 2],
}

/// What the program has told.
struct Told {
    state: Mutex<State>,
    ready: watch::Sender<Option<Vec<SocketAddr>>>,
    /// Changes with every event.
    events: watch::Sender<u64>,
    /// Sessions that we have ended.
    ended: Ended,
    verdict: Verdict,
    verbose: bool,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// The live sessions of each forward.
    sessions: BTreeMap<String, BTreeSet<String>>,
    /// When those that have not ended were started.
    started: BTreeMap<String, Instant>,
    counts: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
    worst_outage: Duration,
    stopping: bool,
}

/// What a start may take: `--connect-timeout`, and a moment for the call that ends it.
const STARTING: Duration = Duration::from_secs(36);

impl Tunnel {
    pub(crate) async fn start(
        emulator: &Emulator,
        arguments: &[String],
        ended: Ended,
        verdict: Verdict,
        verbose: bool,
    ) -> io::Result<(Self, Vec<SocketAddr>)> {
        let mut command = Command::new(executable());
        for name in Emulator::CONFLICTING_ENV {
            command.env_remove(name);
        }
        command.envs(emulator.env()).args(["--output", "json", "--target", EmulatorConfig::DEFAULT_TARGET]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let process = child.id().ok_or_else(|| io::Error::other("it has ended"))?;
        let (ready, mut readiness) = watch::channel(None);
        let told =
            Arc::new(Told { state: Mutex::default(), ready, events: watch::Sender::new(0), ended, verdict, verbose });
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let readers = [
            tokio::spawn(listen(stdout, Arc::clone(&told), Told::event)),
            tokio::spawn(listen(stderr, Arc::clone(&told), Told::line)),
        ];
        let addresses = match timeout(PATIENCE, readiness.wait_for(Option::is_some)).await {
            Ok(Ok(addresses)) => addresses.clone().unwrap_or_default(),
            _ => return Err(io::Error::other(format!("ssmfwd is not ready: {}", told.verdict.history().join("\n")))),
        };
        Ok((Self { child, process, told, readers }, addresses))
    }

    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// The live sessions of a forward.
    pub(crate) fn sessions(&self, forward: &str) -> Vec<String> {
        self.told.state().sessions.get(forward).into_iter().flatten().cloned().collect()
    }

    /// How often an event was told.
    pub(crate) fn count(&self, event: &str) -> u64 {
        self.told.state().counts.get(event).copied().unwrap_or(0)
    }

    /// Why connections were closed, and how often.
    pub(crate) fn reasons(&self) -> BTreeMap<String, u64> {
        self.told.state().reasons.clone()
    }

    /// The longest time from a loss to a resume, as the program says.
    pub(crate) fn worst_outage(&self) -> Duration {
        self.told.state().worst_outage
    }

    /// Resolves once every connection that was opened is closed.
    pub(crate) async fn all_closed(&self) {
        let mut events = self.told.events.subscribe();
        let count = |event| self.count(event);
        // The sender lives as long as `self`.
        drop(events.wait_for(|_| count("connection_opened") == count("connection_closed")).await);
    }

    /// SIGTERM, and its end.
    pub(crate) async fn end(mut self) -> Result<ExitStatus, String> {
        self.told.state().stopping = true;
        if let Some(pid) = i32::try_from(self.process).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).map_err(|error| format!("ssmfwd is gone: {error}"))?;
        }
        let end = async {
            let status = self.child.wait().await;
            for reader in &mut self.readers {
                reader.await.expect("a reader does not panic");
            }
            status
        };
        match timeout(PATIENCE, end).await {
            Ok(status) => status.map_err(|error| error.to_string()),
            Err(_) => Err("ssmfwd does not end".into()),
        }
    }
}

impl Told {
    fn event(&self, line: &str) {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            return self.verdict.fail(format!("ssmfwd said on stdout what is no event: {line}"));
        };
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let name = text("event");
        if !name.starts_with("connection_") {
            self.verdict.note(format!("ssmfwd: {line}"));
            if self.verbose {
                eprintln!("  {line}");
            }
        }
        let mut state = self.state();
        *state.counts.entry(name.clone()).or_default() += 1;
        match name.as_str() {
            "session_started" => {
                state.sessions.entry(text("forward")).or_default().insert(text("session_id"));
                state.started.insert(text("session_id"), Instant::now());
            }
            "ready" => {
                let forwards = event["forwards"].as_array().into_iter().flatten();
                let addresses = forwards.filter_map(|forward| forward["addresses"][0].as_str()?.parse().ok());
                self.ready.send_replace(Some(addresses.collect()));
            }
            "resumed" => {
                let outage = Duration::from_millis(event["outage_ms"].as_u64().unwrap_or(0));
                state.worst_outage = state.worst_outage.max(outage);
            }
            "connection_closed" => *state.reasons.entry(text("reason")).or_default() += 1,
            "session_ended" => {
                let session = text("session_id");
                let mut others_live = false;
                for sessions in state.sessions.values_mut() {
                    if sessions.remove(&session) {
                        others_live = !sessions.is_empty();
                    }
                }
                // A start that failed: a session that was ready is resumed, and never ends for these reasons so early.
                let young = state.started.remove(&session).is_some_and(|started| started.elapsed() <= STARTING);
                let never_ready = young && matches!(text("reason").as_str(), "connection_lost" | "timeout");
                // The pool has shrunk: a session without connections is ended by ssmfwd itself, but never the last one.
                let spare = text("reason") == "requested" && others_live;
                if !state.stopping && !never_ready && !spare && !self.ended.contains(&session) {
                    self.verdict.fail(format!("a session that could have been kept was lost: {line}"));
                }
            }
            "session_replaced" | "error" => self.verdict.fail(format!("ssmfwd: {line}")),
            _ => {}
        }
        drop(state);
        self.events.send_modify(|count| *count += 1);
        if event["dropped"].as_u64().is_some_and(|dropped| dropped > 0) {
            self.verdict.fail(format!("events were lost: {line}"));
        }
    }

    fn line(&self, line: &str) {
        self.verdict.note(format!("ssmfwd, stderr: {line}"));
        if self.verbose {
            eprintln!("  stderr: {line}");
        }
        if line.contains("panicked") {
            self.verdict.fail(format!("ssmfwd: {line}"));
        }
    }

    /// Its stdout is closed.
    fn gone(&self) {
        if !self.state().stopping {
            self.verdict.fail("ssmfwd has ended by itself");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn listen(from: Option<impl AsyncRead + Unpin>, told: Arc<Told>, take: fn(&Told, &str)) {
    let Some(from) = from else { return };
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        take(&told, &line);
    }
    told.gone();
}

/// The program that cargo built beside this test, or that of the folder `SSMFWD_BIN_DIR`.
fn executable() -> PathBuf {
    match env::var_os("SSMFWD_BIN_DIR") {
        Some(folder) => PathBuf::from(folder).join("ssmfwd"),
        None => env!("CARGO_BIN_EXE_ssmfwd").into(),
    }
}
