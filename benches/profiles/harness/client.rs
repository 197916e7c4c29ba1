//! A client under test: a process with a local address, whatever program it is.

use std::{ffi::OsStr, net::SocketAddr, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{Outcome, PATIENCE, built, emulator::Emulator, process::Usage};

/// Lines that a client may be ahead of us; events beyond it are of no interest.
const LINES: usize = 256;

/// Finds the local address in a line of stdout, if it is the one that has it.
pub(crate) type Ready = fn(&str) -> Option<SocketAddr>;

/// A running client.
pub(crate) struct Client {
    child: Child,
    process: u32,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    pub(crate) address: SocketAddr,
    /// From its start to ready.
    pub(crate) started_in: Duration,
}

impl Client {
    /// Starts a client and waits until it is ready.
    pub(crate) async fn start(mut command: Command, ready: Ready) -> Outcome<Self> {
        let started = Instant::now();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("{:?}: {error}", command.as_std().get_program()))?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let (stdin, process) = (child.stdin.take(), child.id().ok_or("it has ended")?);
        let mut said = String::new();
        let address = async {
            while let Some(line) = stdout.next_line().await? {
                if let Some(address) = ready(&line) {
                    return Ok(address);
                }
                said = line;
            }
            Err(std::io::Error::other(format!("it ended before it was ready: {said:?}")))
        };
        let address = timeout(PATIENCE, address).await.map_err(|_| "not ready")??;
        let started_in = started.elapsed();
        let (sender, lines) = mpsc::channel(LINES);
        // Read all the time, so that it never waits for us. Ends with it.
        tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                drop(sender.try_send(line));
            }
        });
        Ok(Self { child, process, stdin, lines, address, started_in })
    }

    /// The built `ssmfwd` with one forward to a port of this machine.
    pub(crate) async fn ssmfwd<S: AsRef<OsStr>>(emulator: &Emulator, port: u16, arguments: &[S]) -> Outcome<Self> {
        let mut command = pointed_at(emulator, built("ssmfwd")?);
        command.args(["--output", "json", "--quiet", "--target", &emulator.target]).args(arguments);
        command.arg(format!("127.0.0.1:0:127.0.0.1:{port}"));
        Self::start(command, |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            if event["event"] != "ready" {
                return None;
            }
            event.pointer("/forwards/0/addresses/0")?.as_str()?.parse().ok()
        })
        .await
    }

    /// A client that is part of this bench, in a process of its own: this program once more.
    pub(crate) async fn part<S: AsRef<OsStr>>(emulator: Option<&Emulator>, arguments: &[S]) -> Outcome<Self> {
        let program = std::env::current_exe()?;
        let mut command = match emulator {
            Some(emulator) => pointed_at(emulator, program),
            None => Command::new(program),
        };
        command.arg("part").args(arguments);
        Self::start(command, announced).await
    }

    pub(crate) fn usage(&self) -> Outcome<Usage> {
        Usage::of(self.process)
    }

    /// The next thing that a part of this bench tells.
    pub(crate) async fn next(&mut self) -> Outcome<Value> {
        let line = timeout(PATIENCE, self.lines.recv()).await.map_err(|_| "it says nothing")?;
        Ok(serde_json::from_str(&line.ok_or("it ended")?)?)
    }

    /// Tells a part of this bench something.
    pub(crate) async fn tell(&mut self, what: &Value) -> Outcome<()> {
        let stdin = self.stdin.as_mut().ok_or("no stdin")?;
        Ok(stdin.write_all(format!("{what}\n").as_bytes()).await?)
    }

    /// SIGTERM, if it has not ended by itself, and its end.
    pub(crate) async fn stop(mut self) -> Outcome<()> {
        if self.child.try_wait()?.is_none() {
            let process = i32::try_from(self.process).ok().and_then(Pid::from_raw).ok_or("no process")?;
            kill_process(process, Signal::TERM)?;
            timeout(PATIENCE, self.child.wait()).await.map_err(|_| "it does not end")??;
        }
        Ok(())
    }
}

/// `{"address": "127.0.0.1:1234"}`
pub(crate) fn announced(line: &str) -> Option<SocketAddr> {
    serde_json::from_str::<Value>(line).ok()?["address"].as_str()?.parse().ok()
}

/// A command with the environment that an emulated AWS asks for.
pub(crate) fn pointed_at(emulator: &Emulator, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in Emulator::CONFLICTING_ENV {
        command.env_remove(name);
    }
    command.envs(emulator.env.iter().cloned());
    command
}
