//! The library without local sockets, and its allocations.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    bench::Bench,
    harness::{
        Outcome,
        client::Client,
        destination::Destination,
        emulator::Emulator,
        process::Usage,
        report::{Ratio, Row},
        transfer::Transfer,
        window::Span,
    },
    library::{Work, number},
};

const STREAMS: [usize; 2] = [1, 100];
/// One of ours for sixteen messages, in steady state. What is counted is everything in the process, dependencies included.
const ALLOCATIONS: f64 = 1.0 / 16.0;

pub(super) async fn rows(bench: &mut Bench) {
    for work in [Work::Up, Work::Down, Work::PingPong] {
        for streams in STREAMS {
            let name = format!("library/{}-{streams}", work.name());
            if bench.wants(&name) {
                let row = row(bench, &name, work, streams).await;
                bench.take(&name, row);
            }
        }
    }
    bench.print("The library");
}

async fn row(bench: &Bench, name: &str, work: Work, streams: usize) -> Outcome<Row> {
    let emulator = Emulator::start(&["--agent", "ideal"]).await?;
    let destination = Destination::start()?;
    let transfers: Vec<_> = (0..streams).map(|_| destination.transfers.add(None)).collect();
    let timing = bench.timing();
    let mut arguments = vec!["library".to_owned(), destination.port.to_string(), work.name().to_owned()];
    arguments.extend([timing.warm_up, timing.length].map(|time| time.as_millis().to_string()));
    arguments.extend(transfers.iter().map(|transfer| transfer.id.to_string()));
    let mut part = Client::part(Some(&emulator), &arguments).await?;

    let before = look(&mut part, &emulator, &transfers, work).await?;
    let after = look(&mut part, &emulator, &transfers, work).await?;
    let span = Span {
        elapsed: after.at - before.at,
        count: after.bytes - before.bytes,
        client: after.client.cpu - before.client.cpu,
        other: after.other.cpu - before.other.cpu,
        peak: after.client.peak,
    };
    let done = finish(&mut part, &transfers, work).await?;
    part.stop().await?;
    emulator.check().await?;

    let messages = (after.messages - before.messages).max(1);
    let allocations = (after.allocations - before.allocations) as f64 / messages as f64;
    let row = Row { allocations: Some(allocations), ..Row::new(name) };
    let row = row.ratio(Ratio::at_most(allocations, ALLOCATIONS, "allocations a message"));
    Ok(match work {
        Work::Up | Work::Down => row.moved(&span),
        Work::PingPong => {
            let per_s = number(&done, "samples")? as f64 / timing.length.as_secs_f64();
            Row { per_s: Some(per_s), p50: done["p50"].as_f64(), p99: done["p99"].as_f64(), ..row }.used(&span)
        }
    })
}

/// How far things are.
struct Look {
    at: Instant,
    allocations: u64,
    messages: u64,
    bytes: u64,
    client: Usage,
    other: Usage,
}

/// Waits for the part to tell that what is measured begins, or ends.
async fn look(part: &mut Client, emulator: &Emulator, transfers: &[Arc<Transfer>], work: Work) -> Outcome<Look> {
    let allocations = number(&part.next().await?, "allocations")?;
    let moved = |transfer: &Arc<Transfer>| if work == Work::Down { transfer.sent_so_far() } else { transfer.count() };
    let (at, bytes) = (Instant::now(), transfers.iter().map(moved).sum());
    let (client, other) = (part.usage()?, emulator.usage()?);
    let (up, down) = emulator.messages().await?;
    Ok(Look { at, allocations, messages: up + down, bytes, client, other })
}

/// Waits until everything has arrived, at whichever end, and compares.
async fn finish(part: &mut Client, transfers: &[Arc<Transfer>], work: Work) -> Outcome<Value> {
    let mut totals = Vec::new();
    if work == Work::Down {
        transfers.iter().for_each(|transfer| transfer.stop());
        for transfer in transfers {
            totals.push(transfer.ended().await?);
        }
    }
    part.tell(&json!(totals)).await?;
    let done = part.next().await?;
    for (at, transfer) in transfers.iter().enumerate() {
        let told = done["bytes"][at].as_u64().ok_or("no count of bytes")?;
        match work {
            Work::Up => {
                transfer.end_at(told);
                transfer.complete().await?;
            }
            Work::Down if transfer.goal() != Some(told) => {
                return Err(format!("{told} bytes came down of {:?}", transfer.goal()).into());
            }
            Work::Down | Work::PingPong => {}
        }
    }
    Ok(done)
}
