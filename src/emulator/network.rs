//! The network between clients and the emulator's port: fair, cut, or silent.
//!
//! Every accepted connection is a [`Socket`]. While the network is cut, its reads and writes fail and it ends with a
//! reset; while it is silent, they wait, and a socket that is given up meanwhile stays open in the kernel, because its
//! peer must not hear of it. Connections of the control path are exempt. What a connection says is not known here,
//! apart from the beginning of its first request.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::EmulatorConfig;

/// Sockets that are kept open for peers that must not hear of their end; beyond it the peer hears it.
const MAX_ABANDONED: usize = 4096;
/// The record type of a TLS handshake: what a TLS connection begins with, and no HTTP request.
const TLS_HANDSHAKE: u8 = 0x16;

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub(super) enum Weather {
    /// They work.
    #[default]
    Fair,
    /// They are reset, new ones too.
    Cut,
    /// Nothing is read, written or closed.
    Silent,
}

impl Weather {
    /// What a configuration asks for: an outage hides a black hole.
    pub(super) fn of(config: &EmulatorConfig) -> Self {
        match (config.outage, config.blackhole) {
            (true, _) => Self::Cut,
            (false, true) => Self::Silent,
            (false, false) => Self::Fair,
        }
    }

    fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Cut,
            2 => Self::Silent,
            _ => Self::Fair,
        }
    }
}

/// All connections of clients.
#[derive(Default)]
pub(super) struct Network {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    weather: Weather,
    next: u64,
    valves: HashMap<u64, Arc<Valve>>,
    abandoned: Vec<TcpStream>,
}

impl Network {
    /// Changes the weather to what `weather` says; it is asked under the lock, so that of two changes the later wins.
    pub(super) fn change(&self, weather: impl FnOnce() -> Weather) {
        let mut inner = self.lock();
        let weather = weather();
        if inner.weather == weather {
            return;
        }
        inner.weather = weather;
        let valves: Vec<_> = inner.valves.values().cloned().collect();
        let abandoned = if weather == Weather::Silent { Vec::new() } else { std::mem::take(&mut inner.abandoned) };
        drop(inner);
        for valve in valves {
            valve.turn(weather);
        }
        for tcp in abandoned {
            reset_on_drop(&tcp); // whoever still waits there learns that nobody remembers
        }
    }

    /// Takes over a connection that was just accepted.
    pub(super) fn plug(self: &Arc<Self>, tcp: TcpStream) -> Socket {
        let mut inner = self.lock();
        let valve = Arc::new(Valve::default());
        valve.turn(inner.weather);
        let number = inner.next;
        inner.next += 1;
        inner.valves.insert(number, Arc::clone(&valve));
        drop(inner);
        Socket { tcp: Some(tcp), first: BytesMut::new(), valve, network: Arc::clone(self), number }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The weather as one connection feels it.
#[derive(Default)]
pub(super) struct Valve {
    weather: AtomicU8,
    exempt: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Valve {
    /// Whether the connection serves the control path, which works in any weather.
    pub(super) fn exempt(&self, exempt: bool) {
        self.exempt.store(exempt, Ordering::SeqCst);
    }

    pub(super) fn weather(&self) -> Weather {
        if self.exempt.load(Ordering::SeqCst) {
            return Weather::Fair;
        }
        Weather::from_raw(self.weather.load(Ordering::SeqCst))
    }

    fn turn(&self, weather: Weather) {
        self.weather.store(weather as u8, Ordering::SeqCst);
        self.reader.wake();
        self.writer.wake();
    }

    /// Ready when the connection may be used. Registers first and looks then, so that no change is missed.
    fn poll(&self, waiting: &AtomicWaker, waker: &Waker) -> Poll<io::Result<()>> {
        waiting.register(waker);
        match self.weather() {
            Weather::Fair => Poll::Ready(Ok(())),
            Weather::Cut => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Weather::Silent => Poll::Pending,
        }
    }
}

/// How a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A TLS handshake.
    Tls,
    /// A plain request for a path that starts as asked.
    Wanted,
    /// Anything else, nothing included.
    Other,
}

/// One connection of a client.
pub(super) struct Socket {
    /// `None` only while dropping.
    tcp: Option<TcpStream>,
    /// Was read to see how the connection begins, and is still to be delivered.
    first: BytesMut,
    valve: Arc<Valve>,
    network: Arc<Network>,
    number: u64,
}

impl Socket {
    pub(super) fn valve(&self) -> Arc<Valve> {
        Arc::clone(&self.valve)
    }

    /// Reads as much as it takes to see how the connection begins, in any weather. Nothing is lost by it.
    pub(super) async fn beginning(&mut self, path: &str) -> io::Result<Beginning> {
        const ENOUGH: usize = 64;
        let Some(tcp) = &mut self.tcp else { return Ok(Beginning::Other) };
        loop {
            let seen = tcp.read_buf(&mut self.first).await?;
            if let Some(beginning) = recognise(&self.first, path) {
                return Ok(beginning);
            }
            if seen == 0 || self.first.len() >= ENOUGH {
                return Ok(Beginning::Other);
            }
        }
    }

    /// Waits for the end of silence; the error is a cut.
    pub(super) async fn until_heard(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.valve.poll(&self.valve.reader, cx.waker())).await
    }

    /// Makes the connection end with a reset when it is dropped: the peer sees a failure, not an end.
    pub(super) fn reset_on_drop(&self) {
        if let Some(tcp) = &self.tcp {
            reset_on_drop(tcp);
        }
    }

    fn parts(&mut self) -> io::Result<(Pin<&mut TcpStream>, &Valve)> {
        let tcp = self.tcp.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok((Pin::new(tcp), &self.valve))
    }
}

/// What the first bytes of a connection are, once that can be said.
fn recognise(first: &[u8], path: &str) -> Option<Beginning> {
    if first.first()? == &TLS_HANDSHAKE {
        return Some(Beginning::Tls);
    }
    let asked = first.iter().position(|byte| *byte == b' ').and_then(|space| first.get(space + 1..))?;
    if asked.starts_with(path.as_bytes()) {
        return Some(Beginning::Wanted);
    }
    // Undecided while all that came of the path is as wanted.
    (!path.as_bytes().starts_with(asked)).then_some(Beginning::Other)
}

fn reset_on_drop(tcp: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "connection cannot be reset");
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let weather = self.valve.weather();
        let mut inner = self.network.lock();
        inner.valves.remove(&self.number);
        let Some(tcp) = self.tcp.take() else { return };
        match weather {
            Weather::Fair => {}
            Weather::Cut => reset_on_drop(&tcp),
            Weather::Silent if inner.weather == Weather::Silent && inner.abandoned.len() < MAX_ABANDONED => {
                inner.abandoned.push(tcp);
            }
            Weather::Silent => {}
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.valve.poll(&this.valve.reader, cx.waker()))?;
        if this.first.has_remaining() {
            let count = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first.split_to(count));
            return Poll::Ready(Ok(()));
        }
        this.parts()?.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let (tcp, valve) = self.get_mut().parts()?;
        ready!(valve.poll(&valve.writer, cx.waker()))?;
        tcp.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().parts()?.0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (tcp, valve) = self.get_mut().parts()?;
        ready!(valve.poll(&valve.writer, cx.waker()))?;
        tcp.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (tcp, valve) = self.get_mut().parts()?;
        ready!(valve.poll(&valve.writer, cx.waker()))?;
        tcp.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_by_its_first_bytes_as_soon_as_possible() {
        let known = |first: &[u8]| recognise(first, "/_emulator");
        assert_eq!(known(b"\x16\x03\x01"), Some(Beginning::Tls));
        assert_eq!(known(b"GET /_emulator/state HTTP/1.1"), Some(Beginning::Wanted));
        assert_eq!(known(b"POST /_emulator"), Some(Beginning::Wanted));
        for undecided in [&b""[..], b"GE", b"GET ", b"GET /", b"GET /_emu"] {
            assert_eq!(known(undecided), None, "{undecided:?}");
        }
        for other in [&b"POST / HTTP/1.1"[..], b"GET /v1", b"GET /_emulatee"] {
            assert_eq!(known(other), Some(Beginning::Other), "{other:?}");
        }
    }
}
