//! A program that runs beside a test, says on its output when it is ready, and ends with it.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// How long any one step of a service may take. Generous: it only turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(120);

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pipe {
    Stdout,
    Stderr,
}

/// One running program.
pub(crate) struct Service {
    name: String,
    child: Child,
    /// Closed when both pipes are, which is when the program has ended.
    lines: Receiver<(Pipe, String)>,
    log: Vec<(Pipe, String)>,
    ended: bool,
}

impl Service {
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let (sender, lines) = channel();
        collect(Pipe::Stdout, child.stdout.take().expect("it is piped"), sender.clone());
        collect(Pipe::Stderr, child.stderr.take().expect("it is piped"), sender);
        Self { name: name.into(), child, lines, log: Vec::new(), ended: false }
    }

    /// Waits for a line, and returns it.
    pub(crate) fn wait_for_line(&mut self, pipe: Option<Pipe>, is_it: impl Fn(&str) -> bool) -> String {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok((from, line)) => {
                    self.log.push((from, line.clone()));
                    if pipe.is_none_or(|pipe| pipe == from) && is_it(&line) {
                        return line;
                    }
                }
                Err(error) => panic!("{} is not ready ({error}); it said:\n{}", self.name, self.said()),
            }
        }
    }

    /// Sends a signal and waits for the end. Returns the status and all lines ever written.
    pub(crate) fn end(self, signal: Signal) -> (ExitStatus, Vec<(Pipe, String)>) {
        self.signal(signal);
        self.join()
    }

    /// Waits for the end. Returns the status and all lines ever written.
    pub(crate) fn join(mut self) -> (ExitStatus, Vec<(Pipe, String)>) {
        assert!(self.drain(), "{} does not end; it said:\n{}", self.name, self.said());
        let status = self.child.wait().expect("its status");
        self.ended = true;
        (status, std::mem::take(&mut self.log))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is a child of ours and was not waited for");
    }

    /// Takes lines until the pipes are closed; `false` if that takes too long.
    fn drain(&mut self) -> bool {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => self.log.push(line),
                Err(Disconnected) => return true,
                Err(Timeout) => return false,
            }
        }
    }

    /// The end of what it wrote, for messages.
    fn said(&self) -> String {
        let lines: Vec<_> = self.log.iter().map(|(_, line)| format!("  {line}")).collect();
        lines[lines.len().saturating_sub(50)..].join("\n")
    }
}

/// A failed test leaves nothing behind, and shows what its services wrote.
impl Drop for Service {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.signal(Signal::TERM);
        if !self.drain() {
            self.signal(Signal::KILL);
        }
        let status = self.child.wait();
        if thread::panicking() {
            eprintln!("{} ended with {status:?}; it said:\n{}", self.name, self.said());
        }
    }
}

fn collect(pipe: Pipe, from: impl Read + Send + 'static, to: Sender<(Pipe, String)>) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if to.send((pipe, text)).is_err() {
                break;
            }
        }
    });
}
