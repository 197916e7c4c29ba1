//! What this machine allows: plain TCP, and the bare loop.

use crate::{
    bench::Bench,
    harness::{
        Outcome,
        client::Client,
        destination::Destination,
        load::{Bulk, Direction},
        ping_pong::PingPong,
        process::Usage,
        report::Row,
        window::measure,
    },
};

/// Payloads of the bare loop, bytes: the agent's messages, and the largest that ssmfwd sends.
const PAYLOADS: [usize; 2] = [1024, 32768];

pub(super) async fn rows(bench: &mut Bench) {
    if bench.wants("limits/tcp") {
        let row = tcp(bench).await;
        bench.take("limits/tcp", row);
    }
    for payload in PAYLOADS {
        let name = format!("limits/bare-{payload}");
        if bench.wants(&name) {
            let row = bare(bench, payload).await.map(|(row, _)| row);
            bench.take(&name, row);
        }
    }
    bench.print("Limits");
}

/// From the application to the destination, with nothing between.
async fn tcp(bench: &Bench) -> Outcome<Row> {
    let destination = Destination::start()?;
    let address = ([127, 0, 0, 1], destination.port).into();
    let nobody = || Ok(Usage::default());
    let bulk = Bulk::start(address, &destination, Direction::Up, 1).await?;
    let span = measure(bench.timing(), nobody, nobody, || bulk.received(), || ()).await?;
    bulk.finish().await?;
    let game = PingPong::start(address, 1).await?;
    measure(bench.timing(), nobody, nobody, || 0, || game.record()).await?;
    let row = Row { mb_per_s: Some(span.mb_per_s()), ..Row::new("limits/tcp") };
    Ok(row.took(&game.finish().await?))
}

/// The same messages over the same kind of websocket, and nothing else.
async fn bare(bench: &mut Bench, payload: usize) -> Outcome<(Row, f64)> {
    let destination = Destination::start()?;
    let far = Client::part(None, &["bare-far", &destination.port.to_string()]).await?;
    let near = Client::part(None, &["bare-near", &far.address.to_string(), &payload.to_string()]).await?;
    let bulk = Bulk::start(near.address, &destination, Direction::Up, 1).await?;
    let span = measure(bench.timing(), || near.usage(), || far.usage(), || bulk.received(), || ()).await?;
    bulk.finish().await?;
    near.stop().await?;
    far.stop().await?;
    let name = format!("limits/bare-{payload}");
    let rate = bench.remember(&name, span.mb_per_s());
    Ok((Row::new(name).moved(&span), rate))
}

/// The rate of the bare loop, MB/s: known, or measured now.
pub(super) async fn bare_rate(bench: &mut Bench, payload: usize) -> Outcome<f64> {
    match bench.known(&format!("limits/bare-{payload}")) {
        Some(rate) => Ok(rate),
        None => Ok(bare(bench, payload).await?.1),
    }
}
