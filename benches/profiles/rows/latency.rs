//! One byte there and back at a round trip of 40 ms: alone, and beside bulk transfers.

use std::time::Duration;

use crate::{
    bench::{Bench, Setting, Subject},
    harness::{
        Outcome,
        load::Direction,
        ping_pong::Latency,
        reference::Shape,
        report::{Ratio, Row},
        window::{Span, Timing},
        workload::Field,
    },
};

const FAR: &[&str] = &["--rtt", "40"];
/// A household's upload, about.
const FAR_AND_NARROW: &[&str] = &["--rtt", "40", "--link-bytes-per-second", "2500000"];
/// What a slow destination takes, bytes per second.
const SLOW: u64 = 2_000_000;
/// Where a row takes but a moment, what is in its buffers must not take seconds.
const QUICKER: u64 = 10;
/// Until queues are as deep as they get.
const WARM_UP: Duration = Duration::from_secs(4);
const WARM_UP_QUICK: Duration = Duration::from_millis(200);

/// A row beside a transfer: where, how, and how much longer than alone a round trip may take (p50, p99).
struct Beside {
    name: &'static str,
    switches: &'static [&'static str],
    options: &'static [&'static str],
    rate: Option<u64>,
    direction: Direction,
    most: (f64, f64),
}

const BESIDE: [Beside; 4] = [
    Beside {
        name: "latency/upload-narrow-link",
        switches: FAR_AND_NARROW,
        options: &["--sessions", "1"],
        rate: None,
        direction: Direction::Up,
        most: (1.5, 3.0),
    },
    Beside {
        name: "latency/upload-two-sessions",
        switches: FAR,
        options: &["--sessions", "2"],
        rate: None,
        direction: Direction::Up,
        most: (1.5, 3.0),
    },
    Beside {
        name: "latency/upload-slow-destination",
        switches: FAR,
        options: &["--sessions", "1"],
        rate: Some(SLOW),
        direction: Direction::Up,
        most: (4.0, 4.0),
    },
    Beside {
        name: "latency/download-two-sessions",
        switches: FAR,
        options: &["--sessions", "2"],
        rate: None,
        direction: Direction::Down,
        most: (1.5, 3.0),
    },
];

pub(super) async fn rows(bench: &mut Bench) {
    for (name, subject, beside) in [
        ("latency/idle", Subject::Ssmfwd(&[]), None),
        ("latency/plugin-idle", Subject::Reference(Shape::PLUGIN), None),
        ("latency/plugin-upload", Subject::Reference(Shape::PLUGIN), Some(Direction::Up)),
    ] {
        if bench.wants(name) {
            let row = alone(bench, name, subject, beside).await;
            bench.take(name, row);
        }
    }
    for row in &BESIDE {
        if bench.wants(row.name) {
            let done = beside(bench, row).await;
            bench.take(row.name, done);
        }
    }
    bench.print("Latency under load, 40 ms");
}

fn timing(bench: &Bench) -> Timing {
    bench.timing().warmed_for(if bench.options.quick { WARM_UP_QUICK } else { WARM_UP })
}

async fn alone(bench: &mut Bench, name: &'static str, subject: Subject<'_>, beside: Option<Direction>) -> Outcome<Row> {
    let (latency, span) = measured(bench, name, FAR, subject, None, beside).await?;
    let row = Row::new(name).took(&latency);
    if beside.is_none() {
        return Ok(row.used(&span));
    }
    let idle = bench.known("latency/plugin-idle p50");
    let times = latency.permille(500).zip(idle).map(|(loaded, idle)| loaded / idle);
    let row = row.moved(&span);
    Ok(match times {
        Some(times) => row.ratio(Ratio::shown(times, "times its own idle p50")),
        None => row,
    })
}

async fn beside(bench: &mut Bench, row: &Beside) -> Outcome<Row> {
    // One session is what there is without the option.
    let options = if row.options == ["--sessions", "1"] { bench.only_known(row.options) } else { row.options.to_vec() };
    if let Some(option) = bench.unknown(&options) {
        return Ok(Row::skipped(row.name, &format!("ssmfwd has no {option}")));
    }
    if bench.known("latency/idle p50").is_none() {
        measured(bench, "latency/idle", FAR, Subject::Ssmfwd(&[]), None, None).await?;
    }
    let subject = Subject::Ssmfwd(&options);
    let (latency, span) = measured(bench, row.name, row.switches, subject, row.rate, Some(row.direction)).await?;
    let times = |permille: usize, idle: &str| -> Outcome<f64> {
        let idle = bench.known(idle).ok_or("no idle figure")?;
        Ok(latency.permille(permille).unwrap_or(f64::INFINITY) / idle)
    };
    let ratios = (times(500, "latency/idle p50")?, times(990, "latency/idle p99")?);
    Ok(Row::new(row.name)
        .took(&latency)
        .moved(&span)
        .ratio(Ratio::at_most(ratios.0, row.most.0, "times idle p50"))
        .ratio(Ratio::at_most(ratios.1, row.most.1, "times idle p99")))
}

async fn measured(
    bench: &mut Bench,
    name: &str,
    switches: &[&str],
    subject: Subject<'_>,
    destination_rate: Option<u64>,
    beside: Option<Direction>,
) -> Outcome<(Latency, Span)> {
    let destination_rate = destination_rate.map(|rate| if bench.options.quick { rate * QUICKER } else { rate });
    let setting = Setting { destination_rate, ..Setting::of(switches).timed(timing(bench)) };
    let work = async |field: Field<'_>| match beside {
        Some(direction) => field.ping_pong_beside(direction, 1).await,
        None => field.ping_pong(1).await,
    };
    let (latency, span) = bench.work(name, setting, subject, work).await?;
    for (permille, percentile) in [(500, "p50"), (990, "p99")] {
        if let Some(time) = latency.permille(permille) {
            bench.remember(&format!("{name} {percentile}"), time);
        }
    }
    Ok((latency, span))
}
