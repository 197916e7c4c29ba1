//! What idle connections cost the built program: memory, descriptors, threads, read from `/proc`.
//!
//! A report, not a timing: `cargo bench --features emulator --bench idle [-- CONNECTIONS]`. With an optimised program
//! and up to 500 connections it fails above [`PEAK_LIMIT`]. Emulator and destination are in this process, so only the
//! program is counted.

#![expect(clippy::print_stdout, reason = "the report is what it is for")]

mod destination;
mod program;

use std::{
    env,
    error::Error,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use ssmfwd::emulator::{AgentKind, Emulator, EmulatorConfig, EndedBy};
use tokio::time::Instant;

use self::{destination::Command, program::Program};

const CONNECTIONS: usize = 500;
/// Without `--bench`, as in `cargo test --bench idle`, only whether it works is asked.
const CONNECTIONS_IN_TESTS: usize = 20;
/// Most resident memory that the program may ever have had with [`CONNECTIONS`], KiB.
const PEAK_LIMIT: u64 = 40_000;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let measured = env::args().any(|argument| argument == "--bench");
    let asked = env::args().skip(1).find_map(|argument| argument.parse().ok());
    let connections = asked.unwrap_or(if measured { CONNECTIONS } else { CONNECTIONS_IN_TESTS });
    allow_descriptors(connections)?;

    let emulator = Emulator::start(EmulatorConfig { agent: AgentKind::Ideal, ..EmulatorConfig::default() })?;
    let program = Program::start(&emulator, destination::start()?)?;
    println!("{:<12} {:>11} {:>11} {:>11} {:>8}", "", "RSS, KiB", "peak, KiB", "descriptors", "threads");
    let process = program.child.id();
    Usage::of(process)?.print("ready");

    let started = Instant::now();
    let sockets = open(program.address(), connections)?;
    let opened = started.elapsed();
    let usage = Usage::of(process)?;
    usage.print(&format!("{connections} idle"));

    drop(sockets);
    for _ in 0..connections {
        program.wait_for("connection_closed")?;
    }
    Usage::of(process)?.print("closed");
    println!("all open and two echoes each: {:.2} s", opened.as_secs_f64());

    let status = program.stop()?;
    let state = emulator.state();
    if status.code() != Some(143) || state.ended_by(EndedBy::Flag) != 1 {
        return Err(format!("not ended in order: {status}, sessions ended: {:?}", state.sessions_ended).into());
    }
    if measured && connections <= CONNECTIONS && !cfg!(debug_assertions) && usage.peak > PEAK_LIMIT {
        println!("more than {PEAK_LIMIT} KiB");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Here are three descriptors for each connection: of client, agent and destination.
fn allow_descriptors(connections: usize) -> Result<(), Box<dyn Error>> {
    let needed = 3 * connections as u64 + 100;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })
            .map_err(|error| format!("{needed} descriptors are needed, {maximum:?} are allowed: {error}"))?;
    }
    Ok(())
}

/// Connections that are open up to the destination: each has echoed twice.
fn open(address: SocketAddr, connections: usize) -> std::io::Result<Vec<TcpStream>> {
    let mut sockets = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut socket = TcpStream::connect(address)?;
        socket.write_all(&Command::Echo.of(2))?;
        sockets.push(socket);
    }
    for _ in 0..2 {
        for socket in &mut sockets {
            socket.write_all(b".")?;
        }
        for socket in &mut sockets {
            socket.read_exact(&mut [0])?;
        }
    }
    Ok(sockets)
}

/// What a process has.
struct Usage {
    resident: u64,
    peak: u64,
    threads: u64,
    descriptors: usize,
}

impl Usage {
    fn of(process: u32) -> Result<Self, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok())
                .ok_or_else(|| format!("no {name} in /proc"))
        };
        Ok(Self {
            resident: field("VmRSS:")?,
            peak: field("VmHWM:")?,
            threads: field("Threads:")?,
            descriptors: fs::read_dir(format!("/proc/{process}/fd"))?.count(),
        })
    }

    fn print(&self, when: &str) {
        println!("{when:<12} {:>11} {:>11} {:>11} {:>8}", self.resident, self.peak, self.descriptors, self.threads);
    }
}
