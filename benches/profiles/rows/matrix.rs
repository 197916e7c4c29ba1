//! Everything with everything: links, numbers of connections, bulk and ping-pong, both directions. The agent is the
//! `ideal` one, because it is the link that is looked at; but not where it is cut, because what an agent without pacing
//! has under way then would take it minutes to send again, one message in 100 ms.

use std::time::Duration;

use crate::{
    bench::{Bench, Setting, Subject, UNPACED},
    harness::{Outcome, load::Direction, report::Row, workload::Field},
};

struct Link {
    name: &'static str,
    switches: &'static [&'static str],
    /// What stands for it where a row takes but a moment; nothing if another link shows as much.
    quick: &'static [&'static str],
}

const LINKS: [Link; 4] = [
    Link { name: "lan", switches: &["--agent", "ideal"], quick: &["--agent", "ideal"] },
    Link { name: "20ms", switches: &["--agent", "ideal", "--rtt", "20"], quick: &["--agent", "ideal", "--rtt", "20"] },
    Link { name: "80ms", switches: &["--agent", "ideal", "--rtt", "80"], quick: &[] },
    Link {
        name: "flaky",
        switches: &["--rtt", "40", "--cut-every", "3000..5000"],
        quick: &["--rtt", "10", "--cut-every", "150..300"],
    },
];

const CONNECTIONS: [usize; 3] = [1, 10, 100];
/// Enough to see that it works.
const CONNECTIONS_IN_TESTS: [usize; 1] = [2];

/// What a row over the flaky link takes at least.
const SEVERAL_CUTS: Duration = Duration::from_secs(12);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Bulk(Direction),
    PingPong,
}

const KINDS: [Kind; 4] =
    [Kind::Bulk(Direction::Up), Kind::Bulk(Direction::Down), Kind::Bulk(Direction::Both), Kind::PingPong];

pub(super) async fn rows(bench: &mut Bench) {
    let connections = if bench.options.quick { &CONNECTIONS_IN_TESTS[..] } else { &CONNECTIONS };
    for link in &LINKS {
        if bench.options.quick && link.quick.is_empty() {
            continue;
        }
        for connections in connections {
            for kind in KINDS {
                let what = match kind {
                    Kind::Bulk(direction) => direction.name(),
                    Kind::PingPong => "ping-pong",
                };
                let name = format!("matrix/{}-{connections}-{what}", link.name);
                if bench.wants(&name) {
                    let row = row(bench, &name, link, *connections, kind).await;
                    bench.take(&name, row);
                }
            }
        }
    }
    bench.print("The program over links: link, connections, direction");
}

async fn row(bench: &mut Bench, name: &str, link: &Link, connections: usize, kind: Kind) -> Outcome<Row> {
    let switches = if bench.options.quick { link.quick } else { link.switches };
    let options = bench.only_known(UNPACED);
    let work = async |field: Field<'_>| match kind {
        Kind::Bulk(direction) => Ok((None, field.bulk(direction, connections).await?)),
        Kind::PingPong => field.ping_pong(connections).await.map(|(latency, span)| (Some(latency), span)),
    };
    let mut timing = bench.timing();
    if link.name == "flaky" && !bench.options.quick {
        timing.length = timing.length.max(SEVERAL_CUTS);
    }
    let (latency, span) =
        bench.work(name, Setting::of(switches).timed(timing), Subject::Ssmfwd(&options), work).await?;
    Ok(match latency {
        Some(latency) => {
            let per_s = latency.count() as f64 / span.elapsed.as_secs_f64();
            Row { per_s: Some(per_s), ..Row::new(name) }.took(&latency).used(&span)
        }
        None => Row::new(name).moved(&span),
    })
}
