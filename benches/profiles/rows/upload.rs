//! Upload on one stream.

use std::time::Duration;

use ssmfwd::proto::limits::IN_FLIGHT_BYTES;

use super::limits::bare_rate;
use crate::{
    bench::{Bench, Setting, Subject, UNPACED},
    harness::{
        Outcome,
        load::Direction,
        reference::Shape,
        report::{Ratio, Row},
    },
};

/// Bytes of the largest message.
const LARGE: usize = 32768;
/// Finding the payload size takes some round trips.
const LONG_WARM_UP: Duration = Duration::from_secs(3);

pub(super) async fn rows(bench: &mut Bench) {
    for (name, switches, subject) in [
        ("upload/ideal", &["--agent", "ideal"][..], Subject::Ssmfwd(UNPACED)),
        ("upload/ideal-80ms", &["--agent", "ideal", "--rtt", "80"], Subject::Ssmfwd(UNPACED)),
        ("upload/plugin", &[], Subject::Reference(Shape::PLUGIN)),
        ("upload/realistic", &[], Subject::Ssmfwd(&[])),
        ("upload/plugin-80ms", &["--rtt", "80"], Subject::Reference(Shape::PLUGIN)),
        ("upload/realistic-80ms", &["--rtt", "80"], Subject::Ssmfwd(&[])),
        ("upload/realistic-unpaced", &[], Subject::Ssmfwd(UNPACED)),
        ("upload/realistic-emulator", &[], Subject::Reference(Shape { payload: LARGE, ..Shape::UNPACED })),
    ] {
        if bench.wants(name) {
            let row = row(bench, name, switches, subject).await;
            bench.take(name, row);
        }
    }
    bench.print("Upload, one stream");
}

async fn row(bench: &mut Bench, name: &'static str, switches: &[&str], subject: Subject<'_>) -> Outcome<Row> {
    if let Subject::Ssmfwd(options) = subject
        && let Some(option) = bench.unknown(options)
    {
        return Ok(Row::skipped(name, &format!("ssmfwd has no {option}")));
    }
    let row = measured(bench, name, switches, subject).await?;
    let rate = row.mb_per_s.unwrap_or_default();
    let bound = IN_FLIGHT_BYTES as f64 / 1e6 / 0.08;
    let reference = match name {
        "upload/realistic" => Some("upload/plugin"),
        "upload/realistic-80ms" => Some("upload/plugin-80ms"),
        _ => None,
    };
    if let Some(reference) = reference {
        let plugin = plugin_rate(bench, reference, switches).await?;
        return Ok(row.ratio(Ratio::at_least(rate / plugin, 25.0, "times the plugin's shape")));
    }
    Ok(match name {
        "upload/ideal" => {
            let bare = bare_rate(bench, LARGE).await?;
            row.ratio(Ratio::at_least(rate / bare, 0.6, "of the bare loop"))
        }
        "upload/ideal-80ms" => row.ratio(Ratio::at_least(rate / bound, 0.8, "of 4 MiB per round trip")),
        "upload/realistic-unpaced" => row.ratio(Ratio::at_least(rate, 80.0, "MB/s")),
        "upload/realistic-emulator" => row.note("what the emulator takes from the simplest client in large messages"),
        _ => row,
    })
}

async fn plugin_rate(bench: &mut Bench, name: &'static str, switches: &[&str]) -> Outcome<f64> {
    if bench.known(name).is_none() {
        measured(bench, name, switches, Subject::Reference(Shape::PLUGIN)).await?;
    }
    bench.known(name).ok_or_else(|| "no figure of the plugin's shape".into())
}

async fn measured(bench: &mut Bench, name: &str, switches: &[&str], subject: Subject<'_>) -> Outcome<Row> {
    let timing = if bench.options.quick { bench.timing() } else { bench.timing().warmed_for(LONG_WARM_UP) };
    let setting = Setting::of(switches).timed(timing);
    let span = bench.work(name, setting, subject, async |field| field.bulk(Direction::Up, 1).await).await?;
    bench.remember(name, span.mb_per_s());
    Ok(Row::new(name).moved(&span))
}
