//! Resident memory of the program: idle, with many connections, and the most of any row.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{
    bench::{Bench, Setting, Subject},
    harness::{
        Outcome,
        ping_pong::PingPong,
        report::{Ratio, Row},
        workload::Field,
    },
};

const CONNECTIONS: usize = 500;
const CONNECTIONS_IN_TESTS: usize = 50;
/// After its start, before it is called idle.
const SETTLES: Duration = Duration::from_millis(300);
const MB_PER_MIB: f64 = 1.048_576;

pub(super) async fn rows(bench: &mut Bench) {
    let many = if bench.options.quick { CONNECTIONS_IN_TESTS } else { CONNECTIONS };
    for (name, connections, most) in [("memory/idle", 0, 12.0), ("memory/connections", many, 40.0)] {
        if bench.wants(name) {
            let row = row(bench, name, connections, most).await;
            bench.take(name, row);
        }
    }
    let (peak, row) = bench.peak.clone();
    if bench.wants("memory/peak") && peak > 0.0 {
        let row = Row { peak_mib: Some(peak), ..Row::new("memory/peak").note(format!("in {row}")) };
        bench.take("memory/peak", Ok(row.ratio(Ratio::at_most(peak * MB_PER_MIB, 64.0, "MB in any row"))));
    }
    bench.print("Memory");
}

async fn row(bench: &mut Bench, name: &'static str, connections: usize, most: f64) -> Outcome<Row> {
    let work = async |field: Field<'_>| {
        let open = PingPong::start(field.client.address, connections).await?;
        sleep_until(Instant::now() + SETTLES).await;
        let usage = field.client.usage()?;
        open.finish().await?;
        field.emulator.check().await?;
        Ok(usage)
    };
    let usage = bench.work(name, Setting::of(&["--agent", "ideal"]), Subject::Ssmfwd(&[]), work).await?;
    let peak = usage.peak as f64 / 1024.0;
    let row = Row { peak_mib: Some(peak), ..Row::new(name) };
    let row = row.note(format!("{connections} connections, resident {:.1} MiB", usage.resident as f64 / 1024.0));
    Ok(row.ratio(Ratio::at_most(peak * MB_PER_MIB, most, "MB")))
}
