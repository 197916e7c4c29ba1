//! The agent's connections to destinations: real TCP, one task each; and the program of a shell session in the place of
//! one.
//!
//! A read or a write of each connection is open at a time, so that what waits in the session's inbox is bounded by
//! the number of connections.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::{TcpStream, tcp},
    runtime::Handle,
    sync::{Notify, mpsc},
    task::JoinSet,
};

use super::{
    EmulatorConfig,
    agent::{AgentCore, AgentInput, ConnectionId, Program, ProgramSignal},
    mailbox::{Event, Inbox},
    program::{self, ProgramHandle, Running},
    tally::Dials,
};
use crate::wire::Size;

/// Most bytes of one read: what Go's copy loop takes at once.
const READ_SIZE: usize = 32 << 10;
/// Most pieces of one write.
const WRITE_PIECES: usize = 64;
/// How long a destination may take to accept what was written before its session ended.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

/// What happened to a connection.
#[derive(Debug)]
pub(super) enum DestinationEvent {
    /// It is open; these are the addresses of its host.
    Dialled(Vec<IpAddr>),
    /// It could not be opened.
    DialFailed(String),
    /// It sent data.
    Received(Bytes),
    /// It ended its direction, or reset.
    Eof,
    /// Its socket took so many bytes.
    Written(usize),
    /// A program runs.
    Started,
    /// A program could not be started.
    StartFailed(String),
    /// A program sent error output.
    ReceivedError(Bytes),
    /// A program is over.
    Exited(i32),
}

/// All connections of one session.
pub(super) struct Destinations {
    runtime: Handle,
    inbox: Arc<Inbox>,
    open: HashMap<ConnectionId, Destination>,
    /// Connections without an open read.
    unarmed: Vec<ConnectionId>,
    /// Connections with data that has not been offered to their task.
    dirty: Vec<ConnectionId>,
    tasks: JoinSet<()>,
    /// The agent resolves the name of its destination once per session.
    resolved: HashMap<String, Vec<IpAddr>>,
    /// Dials that nobody answers, oldest first.
    unanswered: VecDeque<Unanswered>,
}

struct Unanswered {
    task: Task,
    host: String,
    port: u16,
    since: Instant,
}

struct Destination {
    host: String,
    arm: Arc<Notify>,
    /// Not handed to the task yet. The agent's core bounds it.
    pending: VecDeque<Bytes>,
    /// Dropped to close, after what was handed over.
    writes: mpsc::Sender<VecDeque<Bytes>>,
    /// If it is a program. Dropped to kill it.
    program: Option<ProgramHandle>,
}

impl Destinations {
    pub(super) fn new(runtime: Handle, inbox: Arc<Inbox>) -> Self {
        Self {
            runtime,
            inbox,
            open: HashMap::new(),
            unarmed: Vec::new(),
            dirty: Vec::new(),
            tasks: JoinSet::new(),
            resolved: HashMap::new(),
            unanswered: VecDeque::new(),
        }
    }

    pub(super) fn dials(&self) -> Dials {
        Dials { open: self.open.len() as u64, unanswered: self.unanswered.len() as u64 }
    }

    pub(super) fn dial(&mut self, now: Instant, id: ConnectionId, host: String, port: u16, config: &EmulatorConfig) {
        while self.tasks.try_join_next().is_some() {} // forget the finished ones
        let (writes, queue) = mpsc::channel(1);
        let arm = Arc::new(Notify::new());
        let task = Task { id, inbox: Arc::clone(&self.inbox), arm: Arc::clone(&arm), queue };
        let destination = Destination { host: host.clone(), arm, pending: VecDeque::new(), writes, program: None };
        self.open.insert(id, destination);
        if is_unanswered(config, &host, port) {
            self.unanswered.push_back(Unanswered { task, host, port, since: now });
        } else {
            self.spawn(task, host, port);
        }
    }

    /// Starts a program. Whether that went well is told like everything else.
    pub(super) fn start(&mut self, id: ConnectionId, program: &Program, config: &EmulatorConfig) {
        let (writes, queue) = mpsc::channel(1);
        let arm = Arc::new(Notify::new());
        let task = Task { id, inbox: Arc::clone(&self.inbox), arm: Arc::clone(&arm), queue };
        let started = {
            let _inside = self.runtime.enter();
            program::start(&config.shell, program)
        };
        let program = match started {
            Ok((handle, running)) => {
                task.report(DestinationEvent::Started);
                self.tasks.spawn_on(task.run_program(running), &self.runtime);
                Some(handle)
            }
            Err(error) => {
                task.report(DestinationEvent::StartFailed(error));
                None
            }
        };
        self.open.insert(id, Destination { host: String::new(), arm, pending: VecDeque::new(), writes, program });
    }

    pub(super) fn resize(&self, id: ConnectionId, size: Size) {
        if let Some(program) = self.open.get(&id).and_then(|destination| destination.program.as_ref()) {
            program.resize(size);
        }
    }

    pub(super) fn signal(&self, id: ConnectionId, signal: ProgramSignal) {
        if let Some(program) = self.open.get(&id).and_then(|destination| destination.program.as_ref()) {
            program.signal(signal);
        }
    }

    fn spawn(&mut self, task: Task, host: String, port: u16) {
        let known = self.resolved.get(&host).cloned();
        self.tasks.spawn_on(task.run(host, port, known), &self.runtime);
    }

    /// When the next unanswered dial fails.
    pub(super) fn deadline(&self, config: &EmulatorConfig) -> Option<Instant> {
        self.unanswered.front().map(|dial| dial.since + config.dial_timeout)
    }

    /// Looks at the unanswered dials: those that are answered now go on, and those that are due fail.
    pub(super) fn review(&mut self, now: Instant, config: &EmulatorConfig) {
        for dial in std::mem::take(&mut self.unanswered) {
            let Unanswered { task, host, port, since } = dial;
            if !is_unanswered(config, &host, port) {
                self.spawn(task, host, port);
            } else if now >= since + config.dial_timeout {
                let error = format!("dial tcp {host}:{port}: connect: connection timed out");
                task.report(DestinationEvent::DialFailed(error));
            } else {
                self.unanswered.push_back(Unanswered { task, host, port, since });
            }
        }
    }

    pub(super) fn write(&mut self, id: ConnectionId, data: Bytes) {
        if let Some(destination) = self.open.get_mut(&id) {
            destination.pending.push_back(data);
            if self.dirty.last() != Some(&id) {
                self.dirty.push(id);
            }
        }
    }

    /// Hands over what was written; called after a batch of [`write`](Self::write)s.
    pub(super) fn flush(&mut self) {
        for id in self.dirty.drain(..) {
            if let Some(destination) = self.open.get_mut(&id) {
                destination.hand_over();
            }
        }
    }

    /// Closes a connection after what was written. Nothing that happens to it afterwards is heard.
    pub(super) fn close(&mut self, id: ConnectionId) {
        self.unarmed.retain(|unarmed| *unarmed != id);
        self.unanswered.retain(|dial| dial.task.id != id);
        let Some(mut destination) = self.open.remove(&id) else { return };
        destination.hand_over();
        if !destination.pending.is_empty() {
            // The task is busy with an earlier batch: the rest waits for it in a task of its own.
            let Destination { writes, pending, program, .. } = destination;
            drop(program);
            self.tasks.spawn_on(async move { drop(writes.send(pending).await) }, &self.runtime);
        }
    }

    /// What an event means to the agent; nothing if the connection was closed meanwhile.
    pub(super) fn input(&mut self, id: ConnectionId, event: DestinationEvent) -> Option<AgentInput> {
        let destination = self.open.get_mut(&id)?;
        Some(match event {
            DestinationEvent::Dialled(addresses) => {
                self.resolved.entry(destination.host.clone()).or_insert(addresses);
                self.unarmed.push(id);
                AgentInput::Dialled(id)
            }
            DestinationEvent::DialFailed(error) => {
                self.open.remove(&id);
                AgentInput::DialFailed(id, error)
            }
            DestinationEvent::Received(data) => {
                self.unarmed.push(id);
                AgentInput::Received(id, data)
            }
            DestinationEvent::Eof => AgentInput::Eof(id),
            DestinationEvent::Written(bytes) => {
                destination.hand_over();
                AgentInput::Written(id, bytes)
            }
            DestinationEvent::Started => {
                self.unarmed.push(id);
                AgentInput::Started(id)
            }
            DestinationEvent::StartFailed(error) => {
                self.open.remove(&id);
                AgentInput::StartFailed(id, error)
            }
            DestinationEvent::ReceivedError(data) => {
                self.unarmed.push(id);
                AgentInput::ReceivedError(id, data)
            }
            DestinationEvent::Exited(status) => AgentInput::Exited(id, status),
        })
    }

    /// Lets every connection that the agent wants to hear of read once.
    pub(super) fn arm(&mut self, core: &AgentCore) {
        let open = &self.open;
        self.unarmed.retain(|id| {
            let wanted = core.wants_data(*id);
            if wanted && let Some(destination) = open.get(id) {
                destination.arm.notify_one();
            }
            !wanted
        });
    }
}

impl Destination {
    fn hand_over(&mut self) {
        if !self.pending.is_empty()
            && let Ok(permit) = self.writes.try_reserve()
        {
            permit.send(std::mem::take(&mut self.pending));
        }
    }
}

/// The session ends: connections close, but what was written still has a while to leave.
impl Drop for Destinations {
    fn drop(&mut self) {
        self.flush();
        self.open.clear();
        let mut tasks = std::mem::take(&mut self.tasks);
        let flush = async move {
            let all = async { while tasks.join_next().await.is_some() {} };
            drop(tokio::time::timeout(FLUSH_LIMIT, all).await); // dropping the set ends the rest
        };
        drop(self.runtime.spawn(flush));
    }
}

/// One connection.
struct Task {
    id: ConnectionId,
    inbox: Arc<Inbox>,
    arm: Arc<Notify>,
    queue: mpsc::Receiver<VecDeque<Bytes>>,
}

impl Task {
    async fn run(mut self, host: String, port: u16, known: Option<Vec<IpAddr>>) {
        let mut stream = match dial(&host, port, known).await {
            Ok((stream, addresses)) => {
                self.report(DestinationEvent::Dialled(addresses));
                stream
            }
            Err(error) => return self.report(DestinationEvent::DialFailed(error)),
        };
        let (mut reader, mut writer) = stream.split();
        let Self { id, inbox, arm, queue } = &mut self;
        let report = |event| inbox.push(Event::Destination(*id, event));
        tokio::select! {
            () = read_all(&mut reader, arm, report) => {}
            () = write_all(&mut writer, queue, report, || report(DestinationEvent::Eof)) => {}
        }
        // Dropping the stream closes both directions.
    }

    async fn run_program(mut self, running: Running) {
        let Self { id, inbox, arm, queue } = &mut self;
        running.run(arm, queue, |event| inbox.push(Event::Destination(*id, event))).await;
    }

    fn report(&self, event: DestinationEvent) {
        self.inbox.push(Event::Destination(self.id, event));
    }
}

/// Reads once for every permission. Never returns: a connection ends when the agent closes it.
async fn read_all(reader: &mut tcp::ReadHalf<'_>, arm: &Notify, report: impl Fn(DestinationEvent)) {
    loop {
        arm.notified().await;
        match read_once(reader).await {
            Ok(data) if !data.is_empty() => report(DestinationEvent::Received(data)),
            Ok(_) | Err(_) => {
                report(DestinationEvent::Eof);
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Holds no buffer while there is nothing to read; a small read is copied, so that it does not pin a large buffer.
async fn read_once(reader: &mut tcp::ReadHalf<'_>) -> io::Result<Bytes> {
    loop {
        reader.readable().await?;
        let mut buffer = BytesMut::with_capacity(READ_SIZE);
        match reader.try_read_buf(&mut buffer) {
            Ok(count) if count < READ_SIZE / 2 => return Ok(Bytes::copy_from_slice(&buffer)),
            Ok(_) => return Ok(buffer.freeze()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes all batches. Returns when the agent has closed the connection and everything is written. `failed` is told once
/// that nothing more is taken.
pub(super) async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    queue: &mut mpsc::Receiver<VecDeque<Bytes>>,
    report: impl Fn(DestinationEvent),
    failed: impl Fn(),
) {
    let mut broken = false;
    while let Some(mut batch) = queue.recv().await {
        advance(&mut batch, 0); // a batch begins with something to write
        while !batch.is_empty() {
            // After a failure data is counted and thrown away, so that the agent does not wait for it.
            let written = if broken { batch.iter().map(Bytes::len).sum() } else { write_some(writer, &batch).await };
            if written == 0 {
                broken = true;
                failed();
                continue;
            }
            advance(&mut batch, written);
            report(DestinationEvent::Written(written));
        }
    }
}

/// One write of as many pieces as the system takes at once: small messages do not cost a call each. Zero is a failure.
async fn write_some(writer: &mut (impl AsyncWrite + Unpin), batch: &VecDeque<Bytes>) -> usize {
    let mut slices = [IoSlice::new(&[]); WRITE_PIECES];
    let count = batch.len().min(WRITE_PIECES);
    for (slice, piece) in slices.iter_mut().zip(batch) {
        *slice = IoSlice::new(piece);
    }
    writer.write_vectored(&slices[..count]).await.unwrap_or(0)
}

/// Takes what was written off a batch.
fn advance(batch: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(piece) = batch.front_mut() {
        let taken = written.min(piece.len());
        piece.advance(taken);
        written -= taken;
        if piece.has_remaining() {
            return;
        }
        batch.pop_front();
    }
}

/// Whether a destination is on the list of those that never answer.
fn is_unanswered(config: &EmulatorConfig, host: &str, port: u16) -> bool {
    config
        .unanswered
        .iter()
        .filter_map(|pattern| pattern.rsplit_once(':'))
        .any(|(hosts, ports)| (hosts == "*" || hosts == host) && (ports == "*" || ports.parse() == Ok(port)))
}

/// Tries the addresses of a host in order; the first error is the one that is told.
async fn dial(host: &str, port: u16, known: Option<Vec<IpAddr>>) -> Result<(TcpStream, Vec<IpAddr>), String> {
    let addresses = match known {
        Some(addresses) => addresses,
        None => resolve(host, port).await.map_err(|error| format!("dial tcp: lookup {host}: {error}"))?,
    };
    let mut first_error = None;
    for address in &addresses {
        let address = SocketAddr::new(*address, port);
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Not fatal: it only costs latency.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                return Ok((stream, addresses));
            }
            Err(error) if first_error.is_none() => first_error = Some(format!("dial tcp {address}: connect: {error}")),
            Err(_) => {}
        }
    }
    Err(first_error.unwrap_or_else(|| "dial tcp: missing address".into()))
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok(tokio::net::lookup_host((host, port)).await?.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_leaves_the_batch_and_empty_pieces_with_it() {
        let mut batch: VecDeque<_> = ["ab", "", "cde", "f"].map(|text| Bytes::from_static(text.as_bytes())).into();
        advance(&mut batch, 3);
        assert_eq!(batch, ["de", "f"]);
        advance(&mut batch, 2);
        assert_eq!(batch, ["f"]);
        advance(&mut batch, 1);
        assert!(batch.is_empty());
    }

    #[test]
    fn destinations_are_named_whole_or_by_host_or_port() {
        let unanswered = ["db:5432", "10.0.0.1:*", "*:9", "[::1]:80", "no-port", "x:y"].map(String::from).to_vec();
        let config = EmulatorConfig { unanswered, ..EmulatorConfig::default() };
        for (host, port, expected) in [
            ("db", 5432, true),
            ("db", 5433, false),
            ("10.0.0.1", 1, true),
            ("anything", 9, true),
            ("[::1]", 80, true),
            ("no-port", 80, false),
            ("x", 80, false),
        ] {
            assert_eq!(is_unanswered(&config, host, port), expected, "{host}:{port}");
        }
    }
}
