//! Short lives: of connections, and of the program.

use crate::{
    bench::{Bench, Setting, Subject},
    harness::{
        Outcome,
        client::Client,
        destination::Destination,
        emulator::Emulator,
        ping_pong::Latency,
        reference::Shape,
        report::{Ratio, Row},
        workload::Field,
    },
};

const IDEAL: &[&str] = &["--agent", "ideal"];
/// At a time.
const LANES: [usize; 2] = [1, 16];
const STARTS: usize = 30;
const STARTS_IN_TESTS: usize = 1;
/// From the start of the process until it is ready, milliseconds.
const READY_WITHIN: f64 = 40.0;

pub(super) async fn rows(bench: &mut Bench) {
    for lanes in LANES {
        for (kind, agent, reference, least, of) in [
            ("ideal", IDEAL, Shape::PLUGIN, 5.0, "times the plugin's shape"),
            ("realistic", &[][..], Shape::UNPACED, 0.9, "of what the agent gives the simplest client"),
        ] {
            let name = format!("setup/{kind}-{lanes}");
            if bench.wants(&name) {
                let row = compared(bench, &name, agent, reference, lanes, (least, of)).await;
                bench.take(&name, row);
            }
        }
    }
    for (name, agent) in [("setup/start-ideal", IDEAL), ("setup/start-realistic", &[][..])] {
        if bench.wants(name) {
            let row = start(bench, name, agent).await;
            bench.take(name, row);
        }
    }
    bench.print("Connect, one byte, close; process start to ready");
}

async fn compared(
    bench: &mut Bench,
    name: &str,
    agent: &[&str],
    reference: Shape,
    lanes: usize,
    (least, of): (f64, &'static str),
) -> Outcome<Row> {
    let reference_name = format!("{name}-reference");
    let there = row(bench, &reference_name, agent, Subject::Reference(reference), lanes).await?;
    let here = row(
        bench,
        name,
        agent,
        // Without quirks the agent has no pace, and our own pacing would be what is measured.
        Subject::Ssmfwd(if agent.is_empty() { &[] } else { &["--max-message-rate", "0"] }),
        lanes,
    )
    .await?;
    let ratio = here.per_s.unwrap_or_default() / there.per_s.unwrap_or_default().max(1e-9);
    bench.take(&reference_name, Ok(there));
    Ok(here.ratio(Ratio::at_least(ratio, least, of)))
}

async fn row(bench: &mut Bench, name: &str, agent: &[&str], subject: Subject<'_>, lanes: usize) -> Outcome<Row> {
    let work = async |field: Field<'_>| field.setup(lanes).await;
    let (latency, span) = bench.work(name, Setting::of(agent), subject, work).await?;
    Ok(Row { per_s: Some(span.rate()), ..Row::new(name) }.took(&latency).used(&span))
}

async fn start(bench: &mut Bench, name: &str, agent: &[&str]) -> Outcome<Row> {
    let emulator = Emulator::start(agent).await?;
    let destination = Destination::start()?;
    let mut starts = Vec::new();
    for _ in 0..if bench.options.quick { STARTS_IN_TESTS } else { STARTS } {
        let client = Client::ssmfwd(&emulator, destination.port, &[] as &[&str]).await?;
        starts.push(client.started_in);
        client.stop().await?;
    }
    let starts = Latency::of(starts);
    let median = starts.permille(500).ok_or("no start")?;
    Ok(Row::new(name).took(&starts).ratio(Ratio::at_most(median, READY_WITHIN, "ms")))
}
