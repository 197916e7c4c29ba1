//! The built program, run against an emulated AWS in this process.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Error, Result},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use ssmfwd::emulator::Emulator;

/// A running `ssmfwd` with one forward.
pub(crate) struct Program {
    /// Its process, to be looked into.
    pub(crate) child: Child,
    events: Receiver<Value>,
    address: SocketAddr,
}

impl Program {
    /// Starts the program and waits until it is ready.
    pub(crate) fn start(emulator: &Emulator, destination_port: u16) -> Result<Self> {
        let mut command = Command::new(executable());
        for name in Emulator::CONFLICTING_ENV {
            command.env_remove(name);
        }
        let mut child = command
            .envs(emulator.env())
            .args(["--output", "json", "--quiet", "--target", &emulator.target()])
            .arg(format!("127.0.0.1:0:127.0.0.1:{destination_port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or_else(|| Error::other("no stdout"))?).lines();
        let (events, receiver) = mpsc::channel();
        // Read all the time, so that the program never waits for us. Ends with the program.
        thread::spawn(move || {
            let mut parsed = lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            parsed.all(|event: Value| events.send(event).is_ok())
        });
        let mut program = Self { child, events: receiver, address: SocketAddr::from(([0; 4], 0)) };
        let ready = program.wait_for("ready")?;
        let address = ready.pointer("/forwards/0/addresses/0").and_then(Value::as_str).unwrap_or_default();
        program.address = address.parse().map_err(|_| Error::other(format!("no address in {ready}")))?;
        Ok(program)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next event of this name.
    pub(crate) fn wait_for(&self, name: &str) -> Result<Value> {
        for event in &self.events {
            if event["event"] == name {
                return Ok(event);
            }
        }
        Err(Error::other(format!("the program ended before it told `{name}`")))
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.child.wait()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail if it has ended, which is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The program that cargo built for this bench, or that of the folder `SSMFWD_BIN_DIR`.
fn executable() -> OsString {
    match std::env::var_os("SSMFWD_BIN_DIR") {
        Some(folder) => PathBuf::from(folder).join("ssmfwd").into(),
        None => env!("CARGO_BIN_EXE_ssmfwd").into(),
    }
}
