//! What every client is put through, whichever it is. The emulated AWS has the last word on ours.

use super::{
    Outcome,
    client::Client,
    destination::Destination,
    emulator::Emulator,
    load::{Bulk, Direction},
    ping_pong::{Latency, PingPong},
    short::{Errand, Lanes},
    window::{Span, Timing, measure},
};

/// Where a client works.
pub(crate) struct Field<'a> {
    pub(crate) emulator: &'a Emulator,
    pub(crate) destination: &'a Destination,
    pub(crate) client: &'a Client,
    pub(crate) timing: Timing,
    /// A client that acts against the protocol has no figures.
    pub(crate) strict: bool,
}

impl Field<'_> {
    /// Bulk transfers on so many connections.
    pub(crate) async fn bulk(&self, direction: Direction, connections: usize) -> Outcome<Span> {
        let bulk = Bulk::start(self.client.address, self.destination, direction, connections).await?;
        let span = self.measure(|| bulk.received(), || ()).await?;
        self.emulator.calm().await?;
        bulk.finish().await?;
        self.check().await?;
        Ok(span)
    }

    /// Ping-pong on so many connections.
    pub(crate) async fn ping_pong(&self, connections: usize) -> Outcome<(Latency, Span)> {
        let game = PingPong::start(self.client.address, connections).await?;
        let span = self.measure(|| 0, || game.record()).await?;
        self.emulator.calm().await?;
        let latency = game.finish().await?;
        self.check().await?;
        Ok((latency, span))
    }

    /// Ping-pong on one connection beside bulk transfers on others. The span counts their bytes.
    pub(crate) async fn ping_pong_beside(&self, direction: Direction, connections: usize) -> Outcome<(Latency, Span)> {
        let bulk = Bulk::start(self.client.address, self.destination, direction, connections).await?;
        let game = PingPong::start(self.client.address, 1).await?;
        let span = self.measure(|| bulk.received(), || game.record()).await?;
        let latency = game.finish().await?;
        self.emulator.calm().await?;
        bulk.finish().await?;
        self.check().await?;
        Ok((latency, span))
    }

    /// Connect, a byte there and back, close: on so many lanes. The span counts connections.
    pub(crate) async fn setup(&self, lanes: usize) -> Outcome<(Latency, Span)> {
        let lanes = Lanes::start(self.client.address, self.destination, lanes, Errand::Echo);
        let span = self.measure(|| lanes.connections(), || ()).await?;
        let latency = lanes.finish().await?;
        self.check().await?;
        Ok((latency, span))
    }

    async fn check(&self) -> Outcome<()> {
        if self.strict { self.emulator.check().await } else { Ok(()) }
    }

    async fn measure(&self, count: impl Fn() -> u64, begin: impl FnOnce()) -> Outcome<Span> {
        measure(self.timing, || self.client.usage(), || self.emulator.usage(), count, begin).await
    }
}
