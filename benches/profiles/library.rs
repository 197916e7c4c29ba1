//! The library as an application uses it: a session of this process, without local sockets between. A part, so that its
//! memory, its CPU time and its allocations are counted apart from the bench's.
//!
//! It tells where it stands in JSON lines: `{"address"}` when it is ready, `{"allocations"}` at the beginning and at the
//! end of what is measured, and what it has done at its end. It is told how many bytes come down.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use ssmfwd::{
    aws::{Aws, AwsOptions},
    session::{Dialer, Session, SessionOptions, StartRequest, Stream},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    allocations,
    harness::{Outcome, announce, destination::Command, pattern, ping_pong::Latency, tell},
};

/// What it is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Up,
    Down,
    PingPong,
}

impl Work {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::PingPong => "ping-pong",
        }
    }
}

/// Where the part is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    WarmUp,
    Measured,
    Over,
}

struct Orders {
    port: u16,
    work: Work,
    transfers: Vec<u64>,
    warm_up: Duration,
    length: Duration,
}

impl Orders {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let [port, work, warm_up, length, transfers @ ..] = arguments else {
            return Err("expected PORT WORK MS MS TRANSFER...".into());
        };
        let work = [Work::Up, Work::Down, Work::PingPong].into_iter().find(|one| one.name() == work);
        Ok(Self {
            port: port.parse()?,
            work: work.ok_or("unknown work")?,
            transfers: transfers.iter().map(|id| id.parse()).collect::<Result<_, _>>()?,
            warm_up: Duration::from_millis(warm_up.parse()?),
            length: Duration::from_millis(length.parse()?),
        })
    }
}

/// The part's process.
pub(crate) async fn run(arguments: &[String]) -> Outcome<()> {
    let orders = Orders::parse(arguments)?;
    let request = StartRequest {
        target: std::env::var("SSMFWD_TARGET").unwrap_or_else(|_| "i-0123456789abcdef0".into()),
        document: Some("AWS-StartPortForwardingSession".into()),
        parameters: [("portNumber".to_owned(), vec![orders.port.to_string()])].into(),
        reason: None,
    };
    let control = Arc::new(Aws::load(AwsOptions::default()).await?);
    let (dialer, cancel) = (Arc::new(Dialer::new()?), CancellationToken::new());
    let session = Session::connect(control, dialer, request, SessionOptions::default(), cancel).await?;
    let (stage, watched) = watch::channel(Stage::WarmUp);
    let (totals, known) = watch::channel(None::<Vec<u64>>);
    let mut workers = JoinSet::new();
    for (number, transfer) in orders.transfers.iter().copied().enumerate() {
        let (stream, stage, known) = (session.open().await?, watched.clone(), known.clone());
        workers.spawn(async move {
            let done = match orders.work {
                Work::Up => up(stream, transfer, stage).await,
                Work::Down => down(stream, transfer, number, known).await,
                Work::PingPong => ping_pong(stream, stage).await,
            };
            done.map(|done| (number, done))
        });
    }
    announce(([127, 0, 0, 1], 0).into())?;

    let began = Instant::now() + orders.warm_up;
    sleep_until(began).await;
    stage.send_replace(Stage::Measured);
    tell(&json!({"allocations": allocations::count()}))?;
    sleep_until(began + orders.length).await;
    tell(&json!({"allocations": allocations::count()}))?;
    stage.send_replace(Stage::Over);

    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let told = orders.next_line().await?.unwrap_or_default();
    totals.send_replace(Some(serde_json::from_str(&told)?));
    let mut done = Vec::new();
    while let Some(worker) = workers.join_next().await {
        done.push(worker??);
    }
    done.sort_by_key(|(number, _)| *number);
    let samples: Vec<Duration> = done.iter().flat_map(|(_, done)| done.samples.clone()).collect();
    let latency = Latency::of(samples);
    let counts: Vec<u64> = done.iter().map(|(_, done)| done.bytes).collect();
    tell(&json!({
        "bytes": counts, "samples": latency.count(), "p50": latency.permille(500), "p99": latency.permille(990),
    }))?;
    // The streams are kept until the bench has seen everything arrive.
    while orders.next_line().await?.is_some() {}
    drop(done);
    session.close().await;
    Ok(())
}

/// What a worker did. It keeps its stream open.
struct Done {
    bytes: u64,
    samples: Vec<Duration>,
    _stream: Stream,
}

async fn up(mut stream: Stream, transfer: u64, stage: watch::Receiver<Stage>) -> Outcome<Done> {
    stream.write_all(&Command::Take.request(transfer, 0)).await?;
    let mut bytes = 0;
    while *stage.borrow() != Stage::Over {
        bytes += stream.write(pattern::bytes(transfer, bytes, pattern::PIECE)).await? as u64;
    }
    Ok(Done { bytes, samples: Vec::new(), _stream: stream })
}

async fn down(
    mut stream: Stream,
    transfer: u64,
    number: usize,
    mut known: watch::Receiver<Option<Vec<u64>>>,
) -> Outcome<Done> {
    stream.write_all(&Command::Send.request(0, transfer)).await?;
    let (mut bytes, mut buffer) = (0, vec![0; pattern::PIECE]);
    let mut total = None;
    while total.is_none_or(|total| bytes < total) {
        tokio::select! {
            read = stream.read(&mut buffer) => {
                let count = read?;
                if count == 0 || buffer[..count] != *pattern::bytes(transfer, bytes, count) {
                    return Err(format!("transfer {transfer}: the end or wrong bytes at {bytes}").into());
                }
                bytes += count as u64;
            }
            told = known.wait_for(Option::is_some), if total.is_none() => {
                let totals = told?;
                total = Some(totals.as_ref().and_then(|totals| totals.get(number).copied()).ok_or("no total")?);
            }
        }
    }
    Ok(Done { bytes, samples: Vec::new(), _stream: stream })
}

async fn ping_pong(mut stream: Stream, stage: watch::Receiver<Stage>) -> Outcome<Done> {
    stream.write_all(&Command::Echo.request(0, 0)).await?;
    let (mut number, mut samples) = (0_u8, Vec::new());
    while *stage.borrow() != Stage::Over {
        number = number.wrapping_add(1);
        let (started, recorded) = (Instant::now(), *stage.borrow() == Stage::Measured);
        stream.write_u8(number).await?;
        if stream.read_u8().await? != number {
            return Err("another byte came back".into());
        }
        if recorded {
            samples.push(started.elapsed());
        }
    }
    Ok(Done { bytes: 0, samples, _stream: stream })
}

/// A number of what the part told.
pub(crate) fn number(told: &Value, name: &str) -> Outcome<u64> {
    told[name].as_u64().ok_or_else(|| format!("no {name} in {told}").into())
}
