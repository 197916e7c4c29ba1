//! Connections that move data which can be checked, for as long as the soak goes on.
//!
//! A connection asks request after request and checks every byte of the replies. Most live until their session is ended
//! from outside; now and then one ends by itself, or gives up in the middle, and another takes its place.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::Instant,
};

use crate::{
    destination::Request,
    pattern::{receive, send},
    verdict::Verdict,
};

/// Most bytes of a reply: the agent sends lost messages again at ten a second, one for a kilobyte, so what is on its way
/// to all connections together decides how long a bad loss takes to heal.
const REPLY: u32 = 32 << 10;
/// Most bytes of all but a few requests.
const USUAL: u32 = 64 << 10;
/// Out of a thousand requests so many are large.
const LARGE: u32 = 5;
/// Out of a thousand requests so many end their connection in order.
const LAST: u32 = 10;
/// Out of a thousand requests so many are given up by a reset of their connection.
const GIVEN_UP: u32 = 5;

/// The connections of a soak.
pub(crate) struct Traffic {
    lanes: Arc<[Lane]>,
    /// Changes with every request that is complete.
    completed: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// One connection after the other.
struct Lane {
    state: Mutex<LaneState>,
    completed: watch::Sender<u64>,
}

/// What a lane has done, and does.
#[derive(Debug, Clone)]
struct LaneState {
    doing: &'static str,
    /// Of the last bytes, or of the start of what it does.
    progress: Instant,
    local: Option<SocketAddr>,
    /// Whether the connection has carried a reply and is to carry another.
    established: bool,
    totals: Totals,
}

/// Sums over connections.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) requests: u64,
    pub(crate) connections: u64,
    /// Connections that were reset under a request or before one.
    pub(crate) lost: u64,
    pub(crate) given_up: u64,
    /// From the start of a request to the end of its reply.
    pub(crate) slowest: Duration,
}

impl Traffic {
    pub(crate) fn start(address: SocketAddr, connections: u64, seed: u64, verdict: &Verdict) -> Self {
        let (stop, stopped) = watch::channel(false);
        let completed = watch::Sender::new(0);
        let lanes: Arc<[Lane]> = (0..connections).map(|_| Lane::new(completed.clone())).collect();
        let mut tasks = JoinSet::new();
        for (number, _) in lanes.iter().enumerate() {
            let (lanes, stopped, verdict) = (Arc::clone(&lanes), stopped.clone(), verdict.clone());
            let random = fastrand::Rng::with_seed(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            tasks.spawn(async move {
                if let Some(lane) = lanes.get(number) {
                    lane.run(number, address, random, stopped, verdict).await;
                }
            });
        }
        Self { lanes, completed, stop, tasks }
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for totals in self.lanes.iter().map(|lane| lane.state().totals) {
            sum.up += totals.up;
            sum.down += totals.down;
            sum.requests += totals.requests;
            sum.connections += totals.connections;
            sum.lost += totals.lost;
            sum.given_up += totals.given_up;
            sum.slowest = sum.slowest.max(totals.slowest);
        }
        sum
    }

    /// Connections that are about to be open at the destination, or are no more.
    pub(crate) fn in_passing(&self) -> u64 {
        self.lanes.iter().filter(|lane| !lane.state().established).count() as u64
    }

    /// The connections that have not moved a byte for so long, in words.
    pub(crate) fn stuck(&self, limit: Duration) -> Vec<String> {
        let now = Instant::now();
        let states = self.lanes.iter().map(|lane| lane.state().clone()).enumerate();
        let stuck = states.filter(|(_, state)| now.duration_since(state.progress) >= limit);
        stuck
            .map(|(number, state)| {
                let seconds = now.duration_since(state.progress).as_secs_f64();
                let from = state.local.map(|local| format!(", from {local}")).unwrap_or_default();
                format!("connection {number}{from}: {} for {seconds:.1} s", state.doing)
            })
            .collect()
    }

    /// Resolves once every connection, or the one in its place, has completed another request.
    pub(crate) async fn round(&self) {
        let requests = || self.lanes.iter().map(|lane| lane.state().totals.requests);
        let before: Vec<_> = requests().collect();
        // The sender lives as long as `self`.
        drop(self.completed.subscribe().wait_for(|_| requests().zip(&before).all(|(now, before)| now > *before)).await);
    }

    /// Lets every connection finish what it does, at least one request, and end in order.
    pub(crate) async fn finish(&mut self) {
        self.stop.send_replace(true);
        while let Some(task) = self.tasks.join_next().await {
            task.expect("a connection's task does not panic");
        }
    }
}

/// How a connection of a lane ended.
enum End {
    /// As asked.
    Stopped,
    /// By its own decision; another one follows.
    Next,
}

impl Lane {
    fn new(completed: watch::Sender<u64>) -> Self {
        let totals = Totals::default();
        let state = LaneState { doing: "nothing", progress: Instant::now(), local: None, established: false, totals };
        Self { state: Mutex::new(state), completed }
    }

    async fn run(
        &self,
        number: usize,
        address: SocketAddr,
        mut random: fastrand::Rng,
        stopped: watch::Receiver<bool>,
        verdict: Verdict,
    ) {
        loop {
            self.does("connecting");
            match self.connection(address, &mut random, &stopped).await {
                Ok(End::Stopped) => return,
                Ok(End::Next) => {}
                Err(error) => {
                    self.state().totals.lost += 1;
                    let local = self.state().local;
                    match error.kind() {
                        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {}
                        // Wrong bytes, an end that looks like the end of the data, no listener.
                        _ => {
                            verdict.fail(format!("connection {number} from {local:?}: {error}"));
                            return;
                        }
                    }
                }
            }
            self.state().established = false;
        }
    }

    async fn connection(
        &self,
        address: SocketAddr,
        random: &mut fastrand::Rng,
        stopped: &watch::Receiver<bool>,
    ) -> io::Result<End> {
        let mut socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let local = socket.local_addr()?;
        {
            let mut state = self.state();
            state.local = Some(local);
            state.totals.connections += 1;
        }
        loop {
            let chance = random.u32(0..1000);
            let request = draw(random);
            if chance < GIVEN_UP && !*stopped.borrow() {
                self.give_up(socket, request).await?;
                return Ok(End::Next);
            }
            self.request(&mut socket, request).await?;
            let stop = *stopped.borrow();
            if stop || chance < GIVEN_UP + LAST {
                self.end(socket).await?;
                return Ok(if stop { End::Stopped } else { End::Next });
            }
        }
    }

    /// A request and its reply, both ways at once.
    async fn request(&self, socket: &mut TcpStream, request: Request) -> io::Result<()> {
        self.does("a request");
        let started = Instant::now();
        let (mut reader, mut writer) = socket.split();
        let up = async {
            writer.write_all(&request.encode()).await?;
            send(&mut writer, request.seed, request.up as usize).await
        };
        tokio::try_join!(up, receive(&mut reader, !request.seed, request.down as usize))?;
        if reader.read_u8().await? != request.receipt() {
            return Err(io::Error::other("a wrong receipt"));
        }
        let mut state = self.state();
        state.progress = Instant::now();
        state.established = true;
        state.totals.requests += 1;
        state.totals.up += u64::from(request.up) + request.encode().len() as u64;
        state.totals.down += u64::from(request.down) + 1;
        state.totals.slowest = state.totals.slowest.max(started.elapsed());
        drop(state);
        self.completed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Part of a request, and a reset.
    async fn give_up(&self, mut socket: TcpStream, request: Request) -> io::Result<()> {
        self.does("a request to be given up");
        self.state().established = false;
        socket.write_all(&request.encode()).await?;
        send(&mut socket, request.seed, request.up as usize / 2).await?;
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        self.state().totals.given_up += 1;
        Ok(())
    }

    /// The end of both directions, in order.
    async fn end(&self, mut socket: TcpStream) -> io::Result<()> {
        self.does("the end");
        self.state().established = false;
        socket.shutdown().await?;
        match socket.read(&mut [0]).await? {
            0 => Ok(()),
            _ => Err(io::Error::other("more than was asked for")),
        }
    }

    fn does(&self, what: &'static str) {
        let mut state = self.state();
        state.doing = what;
        state.progress = Instant::now();
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sizes of every order of magnitude, 0 among them.
fn draw(random: &mut fastrand::Rng) -> Request {
    let mut size = |most: u32| {
        let order = random.u32(0..=most.ilog2());
        random.u32(0..=1 << order)
    };
    let (down, up) = (size(REPLY), size(USUAL));
    let up = if random.u32(0..1000) < LARGE { random.u32(USUAL..=Request::MOST) } else { up };
    Request { seed: random.u64(..), up, down }
}
