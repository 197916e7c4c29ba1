//! What every contender is put through, with the realistic agent.

use crate::{
    Options,
    contender::Contender,
    harness::{
        Outcome,
        destination::Destination,
        emulator::Emulator,
        load::Direction,
        report::{Ratio, Row, table},
        workload::Field,
    },
};

#[derive(Debug, Clone, Copy)]
enum Workload {
    Bulk(Direction),
    PingPong,
    Beside(Direction),
    /// Lanes at a time.
    Setup(usize),
}

const ALL: [(&str, Workload); 7] = [
    ("upload", Workload::Bulk(Direction::Up)),
    ("download", Workload::Bulk(Direction::Down)),
    ("ping-pong", Workload::PingPong),
    ("ping-pong beside an upload", Workload::Beside(Direction::Up)),
    ("ping-pong beside a download", Workload::Beside(Direction::Down)),
    ("connect, one byte, close: 1 at a time", Workload::Setup(1)),
    ("connect, one byte, close: 16 at a time", Workload::Setup(16)),
];

/// Runs what is wanted and prints a table for each workload and round trip.
pub(crate) async fn run(options: &Options, contenders: &[Contender]) -> Outcome<()> {
    let mut ours_failed = Vec::new();
    for (name, workload) in ALL {
        if !options.wants(name) {
            continue;
        }
        for rtt in &options.rtt {
            let mut rows: Vec<Row> = Vec::new();
            for contender in contenders {
                eprintln!("  {name}, {rtt} ms: {}", contender.name);
                let row = match measured(options, contender, workload, *rtt).await {
                    Ok(row) => row,
                    Err(error) => {
                        if contender.is_ours() {
                            ours_failed.push(format!("{name}, {rtt} ms: {error}"));
                        }
                        Row::new(&contender.name).note(format!("FAILED: {error}"))
                    }
                };
                let row = match rows.first() {
                    Some(first) => compared(row, first, workload),
                    None => row,
                };
                rows.push(row);
            }
            println!("### {name}, {rtt} ms\n\n{}", table(&rows));
        }
    }
    // What others do wrong is their business.
    if ours_failed.is_empty() { Ok(()) } else { Err(ours_failed.join("; ").into()) }
}

async fn measured(options: &Options, contender: &Contender, workload: Workload, rtt: u32) -> Outcome<Row> {
    // Others are taken as they are.
    let mut switches = vec!["--rtt".to_owned(), rtt.to_string()];
    switches.extend((!contender.is_ours()).then(|| "--any-ids".to_owned()));
    let switches: Vec<_> = switches.iter().map(String::as_str).collect();
    let emulator = Emulator::start(&switches).await?;
    let destination = Destination::start()?;
    let (client, hung) = contender.start(&emulator, destination.port).await?;
    let timing = options.timing();
    let field =
        Field { emulator: &emulator, destination: &destination, client: &client, timing, strict: contender.is_ours() };
    let row = Row::new(&contender.name);
    let row = match workload {
        Workload::Bulk(direction) => row.moved(&field.bulk(direction, 1).await?),
        Workload::PingPong => {
            let (latency, span) = field.ping_pong(1).await?;
            row.took(&latency).used(&span)
        }
        Workload::Beside(direction) => {
            let (latency, span) = field.ping_pong_beside(direction, 1).await?;
            row.took(&latency).moved(&span)
        }
        Workload::Setup(lanes) => {
            let (latency, span) = field.setup(lanes).await?;
            Row { per_s: Some(span.rate()), ..row }.took(&latency).used(&span)
        }
    };
    client.stop().await?;
    Ok(if hung > 0 { row.note(format!("hung after {hung} other starts")) } else { row })
}

/// With how many times as good the first row is.
fn compared(row: Row, first: &Row, workload: Workload) -> Row {
    const MORE: &str = "(ssmfwd ÷ it)";
    // The shorter the better.
    const LESS: &str = "(it ÷ ssmfwd, p50)";
    let (ours, theirs, of) = match workload {
        Workload::Bulk(_) => (first.mb_per_s, row.mb_per_s, MORE),
        Workload::Setup(_) => (first.per_s, row.per_s, MORE),
        Workload::PingPong | Workload::Beside(_) => (row.p50, first.p50, LESS),
    };
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => row.ratio(Ratio::shown(ours / theirs, of)),
        _ => row,
    }
}
