//! Download from the realistic agent, whose pump sleeps: on one session, on several, and on as many as it takes.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    bench::{Bench, Setting, Subject},
    harness::{
        Outcome,
        load::Direction,
        reference::Shape,
        report::{Ratio, Row},
        short::{Errand, Lanes},
        workload::Field,
    },
};

/// Sessions that `auto` grows to, and how long that may take.
const CAP: f64 = 4.0;
const GROWS_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of a short download: a third of a second of the pump.
const SHORT: u64 = 256 << 10;
const CLIENTS: usize = 8;
/// How often the rate is looked at, and over how many looks it is taken.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: usize = 8;

pub(super) async fn rows(bench: &mut Bench) {
    for (name, options, connections) in
        [("download/one", &["--sessions", "1"][..], 1), ("download/eight", &["--sessions", "8"], 8)]
    {
        if bench.wants(name) {
            let row = sessions(bench, name, options, connections).await;
            bench.take(name, row);
        }
    }
    if bench.wants("download/auto") {
        let row = auto(bench).await;
        bench.take("download/auto", row);
    }
    bench.print("Download, realistic agent");
}

async fn sessions(bench: &mut Bench, name: &'static str, options: &[&str], connections: usize) -> Outcome<Row> {
    let pump = pump(bench).await?;
    // Without the option there is one session anyway.
    let options = if connections == 1 { bench.only_known(options) } else { options.to_vec() };
    if let Some(option) = bench.unknown(&options) {
        return Ok(Row::skipped(name, &format!("ssmfwd has no {option}")));
    }
    let subject = Subject::Ssmfwd(&options);
    let work = async |field: Field<'_>| field.bulk(Direction::Down, connections).await;
    let span = bench.work(name, Setting::default(), subject, work).await?;
    let (row, rate) = (Row::new(name).moved(&span), bench.remember(name, span.mb_per_s()));
    Ok(if connections == 1 {
        row.ratio(Ratio::at_least(rate / pump, 0.97, "of the agent's pump"))
    } else {
        let one = bench.known("download/one").unwrap_or(pump);
        row.ratio(Ratio::at_least(rate / one, 7.5, "times one session"))
    })
}

/// What one pump of the agent gives to a client that only acknowledges, MB/s.
async fn pump(bench: &mut Bench) -> Outcome<f64> {
    const NAME: &str = "download/pump";
    if let Some(rate) = bench.known(NAME) {
        return Ok(rate);
    }
    let work = async |field: Field<'_>| field.bulk(Direction::Down, 1).await;
    let span = bench.work(NAME, Setting::default(), Subject::Reference(Shape::UNPACED), work).await?;
    bench.take(NAME, Ok(Row::new(NAME).moved(&span)));
    Ok(bench.remember(NAME, span.mb_per_s()))
}

/// Short downloads of several clients at once: from their start until the rate of all is nine tenths of what the most
/// sessions give.
async fn auto(bench: &mut Bench) -> Outcome<Row> {
    const NAME: &str = "download/auto";
    let pump = pump(bench).await?;
    let options = ["--sessions", "auto"];
    if let Some(option) = bench.unknown(&options) {
        return Ok(Row::skipped(NAME, &format!("ssmfwd has no {option}")));
    }
    let goal = 0.9 * CAP * pump;
    let patience = if bench.options.quick { bench.timing().length } else { 3 * GROWS_WITHIN };
    let work = async |field: Field<'_>| {
        let lanes = Lanes::start(field.client.address, field.destination, CLIENTS, Errand::Download(SHORT));
        let (reached, best) = grow(&lanes, goal, patience).await;
        let latency = lanes.finish().await?;
        field.emulator.check().await?;
        Ok((reached, best, latency))
    };
    let (reached, best, latency) = bench.work(NAME, Setting::default(), Subject::Ssmfwd(&options), work).await?;
    let row = Row { mb_per_s: Some(best), ..Row::new(NAME) }.took(&latency);
    let seconds = reached.map_or(f64::INFINITY, |reached| reached.as_secs_f64());
    Ok(row.ratio(Ratio::at_most(seconds, GROWS_WITHIN.as_secs_f64(), "s to 90 % of four sessions")))
}

/// When the goal was reached, MB/s, and the best rate that was seen.
async fn grow(lanes: &Lanes, goal: f64, patience: Duration) -> (Option<Duration>, f64) {
    let started = Instant::now();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut best) = (Vec::new(), 0.0);
    while started.elapsed() < patience {
        looks.tick().await;
        seen.push((Instant::now(), lanes.bytes()));
        let Some((then, before)) = seen.len().checked_sub(LOOKS + 1).and_then(|at| seen.get(at)) else { continue };
        let rate = (lanes.bytes() - before) as f64 / 1e6 / then.elapsed().as_secs_f64().max(1e-9);
        best = f64::max(best, rate);
        if rate >= goal {
            return (Some(started.elapsed()), best);
        }
    }
    (None, best)
}
