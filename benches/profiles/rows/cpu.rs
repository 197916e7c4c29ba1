//! CPU time for a gigabyte.

use crate::{
    bench::{Bench, Setting, Subject},
    harness::{
        Outcome,
        load::Direction,
        reference::Shape,
        report::{Ratio, Row},
        workload::Field,
    },
};

const IDEAL: &[&str] = &["--agent", "ideal"];
const SMALL: &[&str] = &["--max-payload", "1024", "--max-message-rate", "0"];
const LARGE: &[&str] = &["--max-payload", "32768", "--max-message-rate", "0"];

/// A row: where, how, which way, and how many seconds it may take.
struct Demand {
    name: &'static str,
    switches: &'static [&'static str],
    subject: Subject<'static>,
    direction: Direction,
    most: Option<f64>,
}

const fn demand(
    name: &'static str,
    switches: &'static [&'static str],
    subject: Subject<'static>,
    direction: Direction,
    most: Option<f64>,
) -> Demand {
    Demand { name, switches, subject, direction, most }
}

const ROWS: [Demand; 7] = [
    demand("cpu/up-1024", IDEAL, Subject::Ssmfwd(SMALL), Direction::Up, Some(12.0)),
    demand("cpu/up-32768", IDEAL, Subject::Ssmfwd(LARGE), Direction::Up, Some(3.0)),
    demand("cpu/up-realistic", &[], Subject::Ssmfwd(&[]), Direction::Up, None),
    demand("cpu/down-1024", IDEAL, Subject::Ssmfwd(&[]), Direction::Down, Some(25.0)),
    demand("cpu/down-realistic", &[], Subject::Ssmfwd(&[]), Direction::Down, Some(25.0)),
    demand("cpu/plugin-up", &[], Subject::Reference(Shape::PLUGIN), Direction::Up, None),
    demand("cpu/plugin-down", &[], Subject::Reference(Shape::PLUGIN), Direction::Down, None),
];

pub(super) async fn rows(bench: &mut Bench) {
    for demand in &ROWS {
        if bench.wants(demand.name) {
            let row = row(bench, demand).await;
            bench.take(demand.name, row);
        }
    }
    bench.print("CPU time");
}

async fn row(bench: &mut Bench, demand: &Demand) -> Outcome<Row> {
    let &Demand { name, switches, subject, direction, most } = demand;
    let mut subject = subject;
    let known;
    if let Subject::Ssmfwd(options) = subject {
        // 1024 bytes is what is sent where nothing else can be asked for.
        if options == LARGE
            && let Some(option) = bench.unknown(options)
        {
            return Ok(Row::skipped(name, &format!("ssmfwd has no {option}")));
        }
        known = bench.only_known(options);
        subject = Subject::Ssmfwd(&known);
    }
    let work = async |field: Field<'_>| field.bulk(direction, 1).await;
    let span = bench.work(name, Setting::of(switches), subject, work).await?;
    let row = Row::new(name).moved(&span);
    Ok(match most {
        Some(most) => row.ratio(Ratio::at_most(span.cpu_per_gb(), most, "s/GB")),
        None => row,
    })
}
