//! A forward without sockets: paused time, in-memory IO on both sides.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::forward::{Monitor, test_socket::TestSocket};

/// A forward whose local programs and agents are the test's.
pub(super) struct World {
    locals: mpsc::Sender<(TestSocket, Peer)>,
    accepted: u16,
    pub(super) connector: Arc<TestConnector>,
    pub(super) events: Arc<Mutex<Vec<Event>>>,
    pub(super) monitor: Monitor,
    pub(super) drain: CancellationToken,
    pub(super) forwarder: JoinHandle<ForwardEnd>,
}

/// Begins with a session, or with none.
pub(super) fn world(options: ForwarderOptions, first: Option<TestTunnel>) -> World {
    let events = Arc::<Mutex<Vec<Event>>>::default();
    let (monitor, connector) = (Monitor::default(), Arc::<TestConnector>::default());
    let observer = monitor.observe(Arc::new({
        let events = events.clone();
        move |event| events.lock().expect("no panic under the lock").push(event)
    }));
    let request = StartRequest::default();
    let running = Running {
        connector: connector.clone(),
        first: first.map(|tunnel| (tunnel, options.accounts.take(&request.target))),
        request,
        options,
        observer,
        life: Life(monitor.clone()),
    };
    let (locals, mut arrivals) = mpsc::channel::<(TestSocket, Peer)>(64);
    let drain = CancellationToken::new();
    let forwarder = tokio::spawn(running.until_over(drain.clone(), |shared| async move {
        while let Ok(permit) = shared.connections.clone().acquire_owned().await {
            let Some((socket, peer)) = arrivals.recv().await else { return };
            let carrying = shared.clone();
            shared.tasks.spawn(async move { carrying.carry(socket, peer, permit).await });
        }
    }));
    World { locals, accepted: 0, connector, events, monitor, drain, forwarder }
}

impl World {
    pub(super) fn script(&self, scripts: impl IntoIterator<Item = Script>) {
        self.connector.script("", scripts);
    }

    /// A local program connects. `None`: nothing listens any more.
    pub(super) async fn connect(&mut self) -> Option<DuplexStream> {
        let (app, io) = duplex(64 * 1024);
        self.accepted += 1;
        let peer = Peer::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, self.accepted)));
        self.locals.send((TestSocket { io, resets: Arc::default() }, peer)).await.ok()?;
        Some(app)
    }

    /// What was told, in short.
    pub(super) fn told(&self) -> Vec<String> {
        let text = |event: &Event| match event {
            Event::ConnectionOpened { .. } => Some("opened".to_owned()),
            Event::ConnectionClosed { end, .. } => Some(format!("closed: {end}")),
            Event::SessionEnded { session, reason, .. } => Some(format!("ended {session}: {reason}")),
            Event::Dormant { .. } => Some("dormant".to_owned()),
            Event::StartFailed { attempt, .. } => Some(format!("failed {attempt}")),
            _ => None,
        };
        self.events.lock().expect("no panic under the lock").iter().filter_map(text).collect()
    }

    /// Stops it, and waits until it is over.
    pub(super) async fn stop(self) -> ForwardEnd {
        self.drain.cancel();
        self.forwarder.await.expect("no panic")
    }
}

/// Lets time pass, and before it everything that can happen without.
pub(super) async fn pass(time: Duration) {
    tokio::time::sleep_until(Instant::now() + time).await;
}

/// Lets everything happen that can happen by now.
pub(super) async fn calm() {
    pass(Duration::from_millis(1)).await;
}
