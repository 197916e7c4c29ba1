//! Connections to the endpoint: how many, for how long, and what each may cost.
//!
//! Anybody on the machine can connect. There are [`CONNECTIONS_MAX`]; more wait in the system's backlog until one ends.
//! Those with nothing in hand are asked to leave then, but nobody whose request has come is turned away. Each has its
//! limits, so that nobody waits for long.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    task::{Id, JoinError, JoinSet, yield_now},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{impatient::Impatient, site::Site};
use crate::forward::{Accepted, Listeners};

/// Connections at once. A browser opens six to one host, a scraper one.
const CONNECTIONS_MAX: usize = 64;

/// How long a connection may be silent from the beginning while others wait for its place.
const SILENCE_LIMIT: Duration = Duration::from_secs(1);

/// Largest head of a request, bytes.
const HEAD_MAX: usize = 16 << 10;

/// How long a request's head may take, from the moment that it could begin: also how long a connection may idle.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// How long a whole answer may take to be read. The largest is some 100 KiB.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Serves until it is told to stop; then all ends at once.
pub(super) async fn serve(listeners: Listeners, site: Arc<Site>, stop: CancellationToken) {
    stop.run_until_cancelled(serve_all(listeners, site)).await;
}

async fn serve_all(mut listeners: Listeners, site: Arc<Site>) {
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            accepted = listeners.accept() => accepted,
            Some(ended) = connections.tasks.join_next_with_id() => {
                connections.forget(&ended);
                continue;
            }
        };
        // The one that was accepted waits here, and all others in the backlog.
        connections.make_room().await;
        match accepted {
            Ok(Accepted::Tcp(socket, _)) => {
                // Answers are written at once as it is; a socket that is gone already fails later.
                socket.set_nodelay(true).ok();
                connections.add(socket, Arc::clone(&site));
            }
            #[cfg(unix)]
            Ok(Accepted::Unix(socket)) => connections.add(socket, Arc::clone(&site)),
            // It waits before it tries again.
            Err(error) => tracing::debug!(%error, "the admin endpoint cannot accept a connection"),
        }
    }
}

/// Those that are served.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
    /// One of them has asked for the first time.
    asked: Arc<Notify>,
}

struct Open {
    came: Instant,
    has_asked: Arc<AtomicBool>,
    /// To end as soon as there is nothing in hand.
    leave: CancellationToken,
}

impl Connections {
    fn add(&mut self, socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, site: Arc<Site>) {
        let open = Open { came: Instant::now(), has_asked: Arc::default(), leave: CancellationToken::new() };
        let (has_asked, asked) = (Arc::clone(&open.has_asked), Arc::clone(&self.asked));
        let on_request = move || {
            if !has_asked.swap(true, Relaxed) {
                asked.notify_one();
            }
        };
        let task = self.tasks.spawn(serve_connection(socket, site, on_request, open.leave.clone()));
        self.open.insert(task.id(), open);
    }

    fn forget(&mut self, ended: &Result<(Id, ()), JoinError>) {
        self.open.remove(&match ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        });
    }

    /// Waits until there is room for one more: at most for the limits of a head and of an answer.
    async fn make_room(&mut self) {
        while self.open.len() >= CONNECTIONS_MAX {
            let next = self.ask_to_leave(Instant::now());
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.forget(&ended),
                () = self.asked.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Asks all that were answered, or are answered now, and all that have been silent for too long. Returns when the
    /// next one will have been.
    fn ask_to_leave(&self, now: Instant) -> Option<Instant> {
        let mut next = None::<Instant>;
        for open in self.open.values().filter(|open| !open.leave.is_cancelled()) {
            let until = open.came + SILENCE_LIMIT;
            if open.has_asked.load(Relaxed) || until <= now {
                open.leave.cancel();
            } else {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
        }
        next
    }
}

/// Serves one connection to its end. `on_request` is told each request. Once it is to `leave`, it ends when it has read
/// nothing of a first request, or has answered the one it has.
async fn serve_connection(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send,
    site: Arc<Site>,
    on_request: impl Fn() + Send,
    leave: CancellationToken,
) {
    let service = service_fn(|request| {
        on_request();
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(Impatient::new(socket, ANSWER_LIMIT)), service);
    let mut connection = pin!(connection);
    let told = async {
        leave.cancelled().await;
        // Once more around the runtime: what has come but was not yet noticed is read first.
        yield_now().await;
    };
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = told => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the admin endpoint did not end well");
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::Instant,
    };

    use super::*;
    use crate::cli::admin::{samples, snapshots::Snapshots, visitor::Hosts};

    fn site() -> Arc<Site> {
        Arc::new(Site::new(Hosts::Tcp { public: false, name: None }, Snapshots::new(samples::snapshot)))
    }

    /// The client's end of a connection whose pipe holds so many bytes.
    fn connect(connections: &mut Connections, capacity: usize) -> DuplexStream {
        let (client, server) = duplex(capacity);
        connections.add(server, site());
        client
    }

    async fn answers(client: &mut DuplexStream) {
        client.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("it reads");
        let mut text = Vec::new();
        while !text.ends_with(b"ok\n") {
            assert_ne!(client.read_buf(&mut text).await.expect("it writes"), 0, "{}", String::from_utf8_lossy(&text));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_must_come_in_time_and_idling_is_bounded() {
        let mut connections = Connections::default();
        for beginning in
            ["", "GET / HTTP/1.1\r\nhost: localhost\r\n", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"]
        {
            let mut client = connect(&mut connections, 4096);
            let start = Instant::now();
            client.write_all(beginning.as_bytes()).await.expect("room");
            let mut said = String::new();
            client.read_to_string(&mut said).await.expect("it ends");
            assert_eq!(start.elapsed().as_secs(), HEAD_LIMIT.as_secs(), "{beginning:?}: {said}");
            assert_eq!(said.contains("200 OK"), beginning.contains("healthz"), "{said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_gains_no_time() {
        let mut connections = Connections::default();
        let mut client = connect(&mut connections, 64);
        let start = Instant::now();
        let second = async || {
            tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await.expect_err("a second");
        };
        client.write_all(b"GET / HTTP/1.1\r\n").await.expect("room");
        while client.write_all(b"x: y\r\n").await.is_ok() && start.elapsed().as_secs() < 60 {
            second().await;
        }
        assert!(start.elapsed() <= HEAD_LIMIT + Duration::from_secs(1), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_left() {
        let mut connections = Connections::default();
        let mut client = connect(&mut connections, 256);
        let start = Instant::now();
        client.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("room");
        connections.tasks.join_next().await.expect("a task").expect("no panic");
        assert_eq!(start.elapsed().as_secs(), ANSWER_LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn large_heads_are_refused() {
        let mut connections = Connections::default();
        for head in [
            format!("GET /?{} HTTP/1.1\r\n", "x".repeat(HEAD_MAX)),
            format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n", "x".repeat(HEAD_MAX)),
            format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200)),
        ] {
            let mut client = connect(&mut connections, 64 << 10);
            client.write_all(head.as_bytes()).await.expect("room");
            let mut said = String::new();
            client.read_to_string(&mut said).await.expect("it ends");
            assert!(said.starts_with("HTTP/1.1 431 ") || said.starts_with("HTTP/1.1 414 "), "{said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_not_read() {
        for (method, status) in [("GET", "400"), ("POST", "405")] {
            let mut connections = Connections::default();
            let mut client = connect(&mut connections, 4096);
            let head = format!("{method} / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n\r\n");
            client.write_all(head.as_bytes()).await.expect("room");
            let mut said = String::new();
            client.read_to_string(&mut said).await.expect("it ends without the body");
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        }
    }

    const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

    /// As many as there may be.
    fn fill(connections: &mut Connections) -> Vec<DuplexStream> {
        (0..CONNECTIONS_MAX).map(|_| connect(connections, 4096)).collect()
    }

    /// How long it takes until there is room.
    async fn wait_for_room(connections: &mut Connections) -> Duration {
        let start = Instant::now();
        connections.make_room().await;
        start.elapsed()
    }

    /// All that comes until the end.
    async fn rest(mut client: DuplexStream) -> String {
        let mut said = String::new();
        client.read_to_string(&mut said).await.expect("it ends");
        said
    }

    #[tokio::test(start_paused = true)]
    async fn silent_ones_keep_others_out_for_a_moment_only() {
        let mut connections = Connections::default();
        let silent = fill(&mut connections);
        assert_eq!(wait_for_room(&mut connections).await, SILENCE_LIMIT);
        answers(&mut connect(&mut connections, 4096)).await;
        for client in silent {
            assert_eq!(rest(client).await, "");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_ones_make_room_at_once_and_only_when_it_is_needed() {
        let mut connections = Connections::default();
        let mut clients = fill(&mut connections);
        for _ in 0..2 {
            answers(&mut clients[7]).await;
        }
        assert_eq!(wait_for_room(&mut connections).await, Duration::ZERO);
        assert_eq!(rest(clients.remove(7)).await, "", "it had been answered");
        for client in &mut clients {
            answers(client).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_have_begun_are_finished() {
        let mut connections = Connections::default();
        let mut clients = fill(&mut connections);
        let (begin, end) = REQUEST.split_at(20);
        for client in &mut clients {
            client.write_all(begin).await.expect("room");
        }
        let start = Instant::now();
        let late = async {
            sleep_until(start + HEAD_LIMIT / 2).await;
            clients[3].write_all(end).await.expect("it reads");
        };
        let (waited, ()) = tokio::join!(wait_for_room(&mut connections), late);
        assert_eq!(waited, HEAD_LIMIT / 2);
        let said = rest(clients.remove(3)).await;
        assert!(said.contains("connection: close\r\n") && said.ends_with("ok\n"), "{said}");
        // Those that never end have their limit.
        connections.add(duplex(64).1, site());
        connections.make_room().await;
        assert!(start.elapsed() <= HEAD_LIMIT, "{:?}", start.elapsed());
    }

    /// As after a machine or the program was stopped: nobody's time is up before it was looked at what has come.
    #[tokio::test(start_paused = true)]
    async fn requests_that_nobody_has_read_yet_are_answered() {
        let mut connections = Connections::default();
        let mut clients = Vec::new();
        for at in 1..=3 * CONNECTIONS_MAX {
            connections.make_room().await;
            let (mut client, server) = duplex(4096);
            client.write_all(REQUEST).await.expect("room");
            connections.add(server, site());
            if at % CONNECTIONS_MAX == 0 {
                connections.ask_to_leave(Instant::now() + 2 * SILENCE_LIMIT);
            }
            clients.push(client);
        }
        for client in clients {
            let said = rest(client).await;
            assert!(said.ends_with("ok\n"), "{said:?}");
        }
    }
}
