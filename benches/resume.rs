//! How long data stands still when the websocket of a session is lost.
//!
//! A report, not a timing: `cargo bench --features emulator --bench resume [-- LOSSES]`. A session of this process, an
//! emulated AWS and a destination, all on loopback; ten milliseconds apart, a few bytes go up or down, and the client's
//! websocket is reset in the midst of it, again and again. What the columns mean is in `benches/README.md`.

#![expect(clippy::print_stdout, reason = "the report is what it is for")]

use std::{
    env,
    error::Error,
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ssmfwd::{
    aws::{Aws, AwsOptions},
    emulator::{Action, AgentKind, Emulator, EmulatorConfig},
    session::{
        self, Ahead, BoxFuture, ControlPlane, Dial, DialError, Dialer, Session, SessionOptions, StartRequest,
        StreamUrl, Transport,
    },
    wire::smux::HEADER_LEN,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

const LOSSES: usize = 25;
/// Without `--bench`, as in `cargo test --bench resume`, only whether it works is asked.
const LOSSES_IN_TESTS: usize = 1;
const ROUND_TRIPS_MS: [u64; 3] = [0, 50, 150];
/// Between two pieces.
const PERIOD: Duration = Duration::from_millis(10);
/// Bytes of a piece: with its frame header what the agent sends in one message.
const PIECE: usize = 1024 - HEADER_LEN;
/// Pieces between two losses, at least: the round trip has to be known again.
const BETWEEN: u64 = 50;
/// At each tick of its clock the agent sends its oldest message again, if it was lost; the next one only when that one
/// is acknowledged.
const AGENT_TICK: Duration = Duration::from_millis(100);
/// Only ends what hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

fn main() -> Result<(), Box<dyn Error>> {
    let measured = env::args().any(|argument| argument == "--bench");
    let asked = env::args().skip(1).find_map(|argument| argument.parse().ok());
    let losses = asked.unwrap_or(if measured { LOSSES } else { LOSSES_IN_TESTS });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("medians of {losses} losses, ms");
    println!(
        "{:<10} {:>6} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "", "RTT", "API calls", "lost", "formula", "flowing", "caught up"
    );
    for direction in [Direction::Up, Direction::Down] {
        for rtt_ms in ROUND_TRIPS_MS {
            let rtt = Duration::from_millis(rtt_ms);
            let mut figures = runtime.block_on(interrupt(direction, rtt, losses))?;
            let mut median = |of: fn(&Figures) -> Duration| {
                figures.sort_by_key(of);
                figures.get(figures.len() / 2).map(of).unwrap_or_default().as_secs_f64() * 1000.0
            };
            let name = if direction == Direction::Up { "upload" } else { "download" };
            println!(
                "{name:<10} {rtt_ms:>6} {:>10.1} {:>10.0} {:>10.1} {:>10.1} {:>10.1}",
                median(|figures| figures.calls),
                // A number, not a time.
                median(|figures| Duration::from_secs(figures.lost)) / 1000.0,
                median(|figures| figures.formula),
                median(|figures| figures.flowing),
                median(|figures| figures.caught_up),
            );
        }
    }
    Ok(())
}

/// One loss.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// From the loss to another websocket: ResumeSession, the upgrade, the first message.
    calls: Duration,
    /// Messages that the agent sent once more.
    lost: u64,
    formula: Duration,
    /// From the loss to the first new byte.
    flowing: Duration,
    /// From the loss to the last byte that was sent before it.
    caught_up: Duration,
}

async fn interrupt(direction: Direction, rtt: Duration, losses: usize) -> Result<Vec<Figures>, Box<dyn Error>> {
    let config = EmulatorConfig { agent: AgentKind::Ideal, rtt, idle_timeout: None, ..EmulatorConfig::default() };
    let emulator = Emulator::start(config)?;
    let destination = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (flow, mut tasks) = (Arc::<Flow>::default(), JoinSet::new());
    let session = connect(&emulator, destination.local_addr()?.port(), Arc::clone(&flow)).await?;
    let (mut near_reader, mut near_writer) = tokio::io::split(session.open().await?);
    // A first byte both ways, so that it is dialled and known to be.
    near_writer.write_all(&[0]).await?;
    let (far, _) = timeout(PATIENCE, destination.accept()).await??;
    far.set_nodelay(true)?;
    let (mut far_reader, mut far_writer) = far.into_split();
    far_reader.read_u8().await?;
    far_writer.write_all(&[0]).await?;
    near_reader.read_u8().await?;

    match direction {
        Direction::Up => flow.start(&mut tasks, near_writer, far_reader),
        Direction::Down => flow.start(&mut tasks, far_writer, near_reader),
    }
    let mut figures = Vec::new();
    for loss in 1..=losses {
        let before = flow.rest(&emulator).await?;
        flow.arrive(BETWEEN + fastrand::u64(..BETWEEN)).await?;
        let lost_at = Instant::now();
        emulator.act(Action::Disconnect);
        flow.arrive(BETWEEN).await?;
        let Opened { count, at, sent } = flow.opened();
        if count != loss + 1 {
            return Err(format!("{count} websockets after {loss} losses").into());
        }
        let calls = at.saturating_duration_since(lost_at);
        let (flowing, caught_up) = (flow.first_since(at) - lost_at, flow.time_of(sent).max(at) - lost_at);
        let lost = match direction {
            Direction::Up => 0,
            Direction::Down => flow.rest(&emulator).await?.saturating_sub(before),
        };
        // An acknowledgement takes a round trip: on long ones the agent misses ticks.
        let tick = AGENT_TICK * u32::try_from(rtt.as_millis().div_ceil(AGENT_TICK.as_millis()).max(1))?;
        let formula = calls + rtt + tick * u32::try_from(lost)?;
        figures.push(Figures { calls, lost, formula, flowing, caught_up });
    }
    tasks.shutdown().await;
    session.close().await;
    Ok(figures)
}

async fn connect(emulator: &Emulator, port: u16, flow: Arc<Flow>) -> Result<Session, Box<dyn Error>> {
    let control = Arc::new(Aws::from_sdk_config(&emulator.sdk_config(), AwsOptions::default())?);
    let request = StartRequest {
        target: emulator.target(),
        document: Some("AWS-StartPortForwardingSession".to_owned()),
        parameters: [("portNumber".to_owned(), vec![port.to_string()])].into(),
        reason: None,
    };
    let dialer = Arc::new(TimedDialer { dialer: Dialer::new()?, flow });
    Ok(Session::connect(control, dialer, request, SessionOptions::default(), CancellationToken::new()).await?)
}

/// Tells when a websocket is open.
struct TimedDialer {
    dialer: Dialer,
    flow: Arc<Flow>,
}

impl Dial for TimedDialer {
    type Io = Transport;

    fn connect_ahead<'a>(&'a self, control: &'a dyn ControlPlane) -> BoxFuture<'a, Option<Ahead<Transport>>> {
        self.dialer.connect_ahead(control)
    }

    fn dial<'a>(
        &'a self,
        control: &'a dyn ControlPlane,
        url: &'a StreamUrl,
        ahead: Option<Ahead<Transport>>,
    ) -> BoxFuture<'a, Result<session::Dialled<Transport>, DialError>> {
        Box::pin(async move {
            let dialled = self.dialer.dial(control, url, ahead).await?;
            self.flow.open();
            Ok(dialled)
        })
    }
}

/// The last websocket.
#[derive(Debug, Clone, Copy)]
struct Opened {
    /// Websockets until now.
    count: usize,
    at: Instant,
    /// Bytes that had been sent until then.
    sent: u64,
}

/// Pieces on their way, all in one direction.
#[derive(Default)]
struct Flow {
    opened: Mutex<Option<Opened>>,
    resting: watch::Sender<bool>,
    /// Bytes.
    sent: AtomicU64,
    received: watch::Sender<u64>,
    arrivals: Mutex<Vec<(Instant, u64)>>,
}

impl Flow {
    fn start(
        self: &Arc<Self>,
        tasks: &mut JoinSet<io::Result<()>>,
        mut to: impl AsyncWrite + Send + Unpin + 'static,
        mut from: impl AsyncRead + Send + Unpin + 'static,
    ) {
        let flow = Arc::clone(self);
        tasks.spawn(async move {
            let mut ticks = interval(PERIOD);
            // Pieces in a burst would share messages.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut resting = flow.resting.subscribe();
            while resting.wait_for(|resting| !*resting).await.is_ok() {
                ticks.tick().await;
                to.write_all(&[0x5a; PIECE]).await?;
                to.flush().await?;
                flow.sent.fetch_add(PIECE as u64, Relaxed);
            }
            Ok(())
        });
        let flow = Arc::clone(self);
        tasks.spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let count = from.read(&mut buffer).await? as u64;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let total = *flow.received.borrow() + count;
                flow.arrivals().push((Instant::now(), total));
                flow.received.send_replace(total);
            }
        });
    }

    fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// So many pieces more have arrived, and all that were sent until now.
    async fn arrive(&self, pieces: u64) -> Result<(), Box<dyn Error>> {
        let total = self.sent() + pieces * PIECE as u64;
        timeout(PATIENCE, self.received.subscribe().wait_for(|received| *received >= total)).await??;
        Ok(())
    }

    /// Lets everything arrive, and tells how many messages the agent has sent more than once. Then pieces flow again.
    async fn rest(&self, emulator: &Emulator) -> Result<u64, Box<dyn Error>> {
        self.resting.send_replace(true);
        // One piece may be on its way into the socket.
        let mut looks = interval(2 * AGENT_TICK);
        let mut before = (0, 0);
        loop {
            looks.tick().await;
            let messages = emulator.state().sessions.values().map(|session| session.down.messages).sum::<u64>();
            let now = (messages, *self.received.borrow());
            if now == before && now.1 == self.sent() {
                break;
            }
            before = now;
        }
        self.arrivals().clear();
        self.resting.send_replace(false);
        Ok(before.0.saturating_sub(self.sent() / PIECE as u64))
    }

    /// Another websocket is open.
    fn open(&self) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let count = opened.map_or(0, |opened| opened.count) + 1;
        *opened = Some(Opened { count, at: Instant::now(), sent: self.sent() });
    }

    fn opened(&self) -> Opened {
        let opened = *self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.expect("a session has had a websocket")
    }

    /// When the first byte since then came.
    fn first_since(&self, since: Instant) -> Instant {
        self.arrivals().iter().map(|(at, _)| *at).find(|at| *at >= since).expect("it was waited for")
    }

    /// When so many bytes had come.
    fn time_of(&self, bytes: u64) -> Instant {
        let arrivals = self.arrivals();
        arrivals.iter().find(|(_, total)| *total >= bytes).map(|(at, _)| *at).expect("it was waited for")
    }

    fn arrivals(&self) -> MutexGuard<'_, Vec<(Instant, u64)>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
