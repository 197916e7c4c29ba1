//! A websocket is lost and another carries the session on: streams notice nothing.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use ssmfwd::session::{Health, SessionEvent, Stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    dialer::Dialling,
    gateway::{Command, Service, pattern},
    line::Fault,
    setup::{Setup, World, watch_health},
};

const MB: usize = 1_000_000;
/// A message that was lost on its way down costs the agent 100 ms, and a window full of them two minutes.
const LONG: Duration = Duration::from_secs(900);

/// Ways to lose a websocket.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Cut,
    Bye,
    Garbage,
    Broken,
    Hole,
    Wedged,
}

const LOSSES: [Loss; 6] = [Loss::Cut, Loss::Bye, Loss::Garbage, Loss::Broken, Loss::Hole, Loss::Wedged];

impl Loss {
    fn happens(self, world: &World) {
        match self {
            Self::Cut => world.remote.tell(Command::Cut),
            Self::Bye => world.remote.tell(Command::Close(CloseCode::Normal, "Bye")),
            Self::Garbage => world.remote.tell(Command::Garbage),
            Self::Broken => world.remote.trip(Fault::Broken),
            Self::Hole => world.remote.trip(Fault::Hole),
            Self::Wedged => world.remote.trip(Fault::Wedged),
        }
    }

    /// What the owner is told, in part.
    fn cause(self, uploads: bool) -> &'static str {
        match self {
            Self::Cut | Self::Garbage => "",
            Self::Bye => "the gateway closed the websocket with 1000 Bye",
            Self::Broken => "a damaged record",
            Self::Hole => "the gateway does not answer pings",
            Self::Wedged if uploads => "the gateway takes nothing and says nothing",
            Self::Wedged => "the gateway ",
        }
    }

    /// How long it may take to be found, and what a replacement takes besides.
    fn found_after(self) -> Duration {
        match self {
            Self::Hole | Self::Wedged => Duration::from_secs(62),
            _ => Duration::from_secs(1),
        }
    }
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(pattern).collect()
}

/// Sends all of it, whole.
fn upload(mut stream: Stream, len: usize) -> JoinHandle<Stream> {
    tokio::spawn(async move {
        stream.write_all(&data(len)).await.expect("no error");
        stream
    })
}

/// Reads and checks that much of the pattern.
async fn check(stream: &mut Stream, from: usize, len: usize) {
    let mut buffer = vec![0; 16_384];
    let mut at = from;
    while at < from + len {
        let room = buffer.len().min(from + len - at);
        let count = stream.read(&mut buffer[..room]).await.expect("no error");
        assert!(count > 0, "ended after {at}");
        assert!(buffer[..count].iter().enumerate().all(|(index, byte)| *byte == pattern(at + index)), "at {at}");
        at += count;
    }
}

/// Sends and gets back the same, both directions at once.
fn echo(stream: Stream, len: usize) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (mut reading, mut writing) = tokio::io::split(stream);
        let sent = data(len);
        let mut back = vec![0; len];
        let (written, read) = tokio::join!(writing.write_all(&sent), reading.read_exact(&mut back));
        written.expect("no error");
        read.expect("no error");
        assert!(back == sent, "changed");
    })
}

async fn open(world: &World) -> Stream {
    world.session.open().await.expect("open")
}

/// Lives long enough for its loss not to be taken for a bad start.
async fn settle() {
    tokio::time::sleep_until(Instant::now() + Duration::from_secs(1)).await;
}

async fn resumed(world: &World, times: usize) {
    let all = async {
        while world.remote.events().iter().filter(|event| matches!(event, SessionEvent::Resumed { .. })).count() < times
        {
            tokio::time::advance(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, all).await.unwrap_or_else(|_| panic!("not resumed: {:?}", world.remote.events()));
}

/// One outage: told in order, shown, and every websocket opened with permissions of its own.
fn assert_one_outage(world: &World, health: &Mutex<Vec<Health>>, cause: &str, name: &str) {
    // A dead websocket looks like a stalled agent at first.
    let mut events = world.remote.events();
    events.retain(|event| !matches!(event, SessionEvent::Stalled(_)));
    let [SessionEvent::Started { .. }, SessionEvent::Ready, between @ .., SessionEvent::Resumed { .. }] = &events[..]
    else {
        panic!("{name}: {events:?}")
    };
    let [SessionEvent::Reconnecting { attempt: 0, cause: told, kind: None, next: None }] = between else {
        panic!("{name}: {events:?}")
    };
    assert!(told.contains(cause) && !told.is_empty(), "{name}: {told}");

    let shown: Vec<_> =
        health.lock().expect("no panic").iter().filter(|health| **health != Health::Stalled).cloned().collect();
    assert!(matches!(shown.first(), Some(Health::Ready)) && matches!(shown.last(), Some(Health::Ready)), "{shown:?}");
    assert_eq!(shown.iter().filter(|health| matches!(health, Health::Reconnecting { .. })).count(), 1, "{shown:?}");

    let dials = world.remote.dials();
    let [(_, first, first_signature), (_, second, second_signature)] = &dials.made[..] else {
        panic!("{name}: {:?}", dials.made)
    };
    assert!(second.ends_with("cell-number=2") && first != second, "{name}: the new StreamUrl");
    assert_ne!(first_signature, second_signature, "{name}");
    assert!(dials.lines[0].is_dropped(), "{name}: the old websocket is let go");
    drop(dials);
    let seen = world.remote.seen();
    assert!(seen.opened.len() == 2 && seen.opened[0] == seen.opened[1], "{name}: one client: {:?}", seen.opened);
    assert_eq!((seen.stale, world.control.resumed().len()), (0, 1), "{name}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_survives_every_kind_of_loss() {
    for loss in LOSSES {
        let name = format!("{loss:?}");
        let world = Setup { pipe: 4096, ..Setup::resumable(Service::Echo) }.connect().await;
        let health = watch_health(&world.session);
        settle().await;
        let (mut reading, mut writing) = tokio::io::split(open(&world).await);
        let read = tokio::spawn(async move {
            let mut back = vec![0; MB];
            reading.read_exact(&mut back).await.expect("no error");
            assert!(back == data(MB), "changed");
        });
        let (first, rest) = (data(MB / 3), data(MB).split_off(MB / 3));
        writing.write_all(&first).await.expect("no error");
        let before = world.remote.seen().sequence;
        assert!(world.remote.seen().received < first.len(), "{name}: something is under way");
        let lost = Instant::now();
        loss.happens(&world);
        timeout(LONG, writing.write_all(&rest)).await.expect("in time").expect("no error");
        resumed(&world, 1).await;
        assert!(lost.elapsed() <= loss.found_after(), "{name}: {:?}", lost.elapsed());
        timeout(LONG, read).await.expect("in time").expect("no panic");
        assert_one_outage(&world, &health, loss.cause(true), &name);
        assert_eq!(world.remote.seen().received, MB, "{name}: nothing twice");
        assert!(world.remote.seen().sequence > before, "{name}: numbers continue");
        assert_eq!(world.session.close().await.to_string(), "ended as asked", "{name}");
        assert_eq!(world.control.terminated(), 0, "{name}: the agent was told");
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_survives_every_kind_of_loss() {
    for loss in LOSSES {
        let name = format!("{loss:?}");
        let world = Setup { pipe: 4096, ..Setup::resumable(Service::Source(MB)) }.connect().await;
        let health = watch_health(&world.session);
        settle().await;
        let mut stream = open(&world).await;
        check(&mut stream, 0, MB / 3).await;
        loss.happens(&world);
        let rest = async {
            check(&mut stream, MB / 3, MB - MB / 3).await;
            assert_eq!(stream.read(&mut [0; 8]).await.expect("a clean end"), 0, "{name}");
        };
        timeout(LONG, rest).await.unwrap_or_else(|_| panic!("{name}: {:?}", world.remote.events()));
        resumed(&world, 1).await;
        assert_one_outage(&world, &health, loss.cause(false), &name);
    }
}

#[tokio::test(start_paused = true)]
async fn ten_losses_in_one_transfer_of_both_directions() {
    let world = Setup { pipe: 4096, ..Setup::resumable(Service::Echo) }.connect().await;
    let (mut reading, mut writing) = tokio::io::split(open(&world).await);
    let read = tokio::spawn(async move {
        let mut back = vec![0; 4 * MB];
        reading.read_exact(&mut back).await.expect("no error");
        assert!(back == data(4 * MB), "changed");
    });
    let mut parts = data(4 * MB);
    for round in 0..10 {
        settle().await;
        let rest = parts.split_off(MB * 4 / 11);
        timeout(LONG, writing.write_all(&parts)).await.expect("in time").expect("no error");
        parts = rest;
        LOSSES[round % LOSSES.len()].happens(&world);
        resumed(&world, round + 1).await;
    }
    timeout(LONG, writing.write_all(&parts)).await.expect("in time").expect("no error");
    timeout(LONG, read).await.expect("in time").expect("no panic");
    assert_eq!(world.remote.seen().received, 4 * MB);
    let seen = world.remote.seen();
    assert_eq!((seen.opened.len(), seen.stale), (11, 0));
    assert!(seen.opened.iter().all(|client| *client == seen.opened[0]));
}

/// Cut off after every few bytes: in the opening message, before it is answered, after a few acknowledgements.
#[tokio::test(start_paused = true)]
async fn losses_during_the_resume_and_right_after_it() {
    let world = Setup::resumable(Service::Echo).connect().await;
    settle().await;
    let (mut reading, mut writing) = tokio::io::split(open(&world).await);
    let read = tokio::spawn(async move {
        let mut back = vec![0; MB];
        reading.read_exact(&mut back).await.expect("no error");
        assert!(back == data(MB), "changed");
    });
    writing.write_all(&data(MB / 3)).await.expect("no error");
    let cuts = [0, 1, 100, 200, 300, 400, 600, 1000, 3000, 10_000, 50_000];
    for fault in [Fault::Broken, Fault::Hole] {
        world.remote.dials().next.extend(cuts.map(|bytes| Dialling::Fails(bytes, fault)));
    }
    world.remote.trip(Fault::Broken);
    let rest = data(MB).split_off(MB / 3);
    timeout(LONG * 4, writing.write_all(&rest)).await.expect("in time").expect("no error");
    timeout(LONG * 4, read).await.expect("in time").expect("no panic");
    assert!(world.remote.dials().next.is_empty(), "all of them");
    assert_eq!(world.remote.seen().received, MB);
    // Between two that are told as resumed, attempts count up from 0.
    let mut expected = 0;
    for event in world.remote.events() {
        match event {
            SessionEvent::Reconnecting { attempt, .. } => {
                assert_eq!(attempt, expected, "{:?}", world.remote.events());
                expected += 1;
            }
            SessionEvent::Resumed { .. } => expected = 0,
            _ => {}
        }
    }
}

/// The gateway reads nothing, so that everything between is full when the websocket is lost.
#[tokio::test(start_paused = true)]
async fn a_loss_while_writes_are_pending_loses_nothing() {
    let world = Setup { pipe: 64, ..Setup::resumable(Service::Echo) }.connect().await;
    let stream = open(&world).await;
    settle().await;
    world.remote.tell(Command::Deaf);
    let transfer = echo(stream, MB);
    tokio::time::sleep_until(Instant::now() + Duration::from_secs(5)).await;
    assert!(world.remote.seen().received < 10_000, "it is full");
    world.remote.trip(Fault::Broken);
    timeout(LONG, transfer).await.expect("in time").expect("no panic");
    assert_eq!(world.remote.seen().received, MB);
}

#[tokio::test(start_paused = true)]
async fn a_loss_while_reading_is_stopped_loses_nothing() {
    let total = 24 << 20;
    let world = Setup::resumable(Service::Source(total)).connect().await;
    let mut stream = open(&world).await;
    settle().await;
    let stopped =
        |events: &[SessionEvent]| events.iter().rfind(|event| matches!(event, SessionEvent::Backpressure(_))).cloned();
    assert_eq!(stopped(&world.remote.events()), Some(SessionEvent::Backpressure(true)));
    // Not read, so that only writing tells of it: an acknowledgement, or the next ping.
    world.remote.trip(Fault::Broken);
    let mut writer = open(&world).await;
    writer.write_all(b"x").await.expect("no error");
    tokio::time::sleep_until(Instant::now() + Duration::from_secs(30)).await;
    assert_eq!(world.remote.seen().opened.len(), 2, "{:?}", world.remote.events());
    drop(writer);
    timeout(LONG * 4, check(&mut stream, 0, total)).await.expect("in time");
    assert_eq!(stream.read(&mut [0; 8]).await.expect("a clean end"), 0);
    assert_eq!(stopped(&world.remote.events()), Some(SessionEvent::Backpressure(false)));
    assert!(matches!(*world.session.health().borrow(), Health::Ready));
}

#[tokio::test(start_paused = true)]
async fn streams_are_opened_and_written_while_there_is_no_websocket() {
    let world = Setup::resumable(Service::Echo).connect().await;
    settle().await;
    world.remote.dials().next.extend([Dialling::Unreachable; 5]);
    world.remote.trip(Fault::Broken);
    tokio::task::yield_now().await;
    assert!(matches!(*world.session.health().borrow(), Health::Reconnecting { .. }));
    let mut stream = open(&world).await;
    let mut accepted = 0;
    while let Ok(written) = timeout(Duration::from_millis(1), stream.write(&data(accepted + 16_384)[accepted..])).await
    {
        accepted += written.expect("no error");
        assert!(accepted < MB, "no bound");
    }
    assert!(accepted >= 16_384, "buffered");
    assert_eq!(world.remote.seen().opened.len(), 1, "not resumed yet");
    timeout(LONG, check(&mut stream, 0, accepted)).await.expect("delivered and echoed");
    assert_eq!(world.remote.seen().opened.len(), 2);
    timeout(LONG, echo(open(&world).await, 1000)).await.expect("in time").expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_stalled_before_and_after_a_resume_until_it_is_heard() {
    let world = Setup::resumable(Service::Echo).connect().await;
    let health = watch_health(&world.session);
    let mut stream = open(&world).await;
    settle().await;
    world.remote.tell(Command::Silence);
    stream.write_all(&data(1000)).await.expect("written");
    let wait = |seconds| tokio::time::sleep_until(Instant::now() + Duration::from_secs(seconds));
    wait(11).await;
    assert_eq!(*world.session.health().borrow(), Health::Stalled);
    world.remote.trip(Fault::Broken);
    wait(2).await;
    // The gateway answers the ping; the agent is as silent as before.
    assert_eq!(*world.session.health().borrow(), Health::Stalled);
    world.remote.tell(Command::Speak);
    wait(12).await;
    assert_eq!(*world.session.health().borrow(), Health::Ready);
    check(&mut stream, 0, 1000).await;
    let shown = health.lock().expect("no panic").clone();
    assert!(
        matches!(
            &shown[..],
            [Health::Ready, Health::Stalled, Health::Reconnecting { .. }, Health::Stalled, Health::Ready]
        ),
        "{shown:?}"
    );
}

/// The last words of a websocket and its end come together: the loss is what counts.
#[tokio::test(start_paused = true)]
async fn a_websocket_that_speaks_and_dies_at_once_leaves_the_session_without_one() {
    let world = Setup::resumable(Service::Echo).connect().await;
    settle().await;
    world.remote.trip(Fault::Broken);
    // The answer to the first ping has 11 bytes, and comes in the same read as the failure.
    world.remote.dials().next.extend((1..40).map(Dialling::FailsReading));
    let watcher = {
        let (remote, session) = (world.remote.clone(), world.session.clone());
        tokio::spawn(async move {
            loop {
                let last = remote
                    .events()
                    .into_iter()
                    .rfind(|event| matches!(event, SessionEvent::Resumed { .. } | SessionEvent::Reconnecting { .. }));
                let ready = *session.health().borrow() == Health::Ready;
                if let Some(last) = last {
                    assert_eq!(ready, matches!(last, SessionEvent::Resumed { .. }));
                    let lines = remote.dials();
                    let open = lines.lines.last().is_some_and(|line| !line.is_dropped());
                    assert!(open || !ready, "ready without a websocket");
                }
                tokio::time::advance(Duration::from_millis(1)).await;
            }
        })
    };
    let all = async {
        while !world.remote.dials().next.is_empty() {
            tokio::time::advance(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG * 4, all).await.expect("in time");
    assert!(!watcher.is_finished(), "{:?}", watcher.await);
    let resumed = world.remote.events().iter().filter(|event| matches!(event, SessionEvent::Resumed { .. })).count();
    // The others answered a ping at the most, which proves nothing yet.
    assert!(resumed >= 20, "{resumed} websockets spoke before they died");
    watcher.abort();
}

#[tokio::test(start_paused = true)]
async fn losses_at_random_moments_are_borne() {
    for seed in 0..25u64 {
        let mut rng = Rng::with_seed(seed);
        let script: Vec<u8> = (0..rng.usize(1..100)).map(|_| rng.u8(..)).chain([255]).collect();
        let pipe = [64, 4096, 64 << 10][rng.usize(..3)];
        let losses: Vec<_> = (0..8)
            .map(|_| Dialling::Fails(rng.usize(..60_000), if rng.bool() { Fault::Broken } else { Fault::Hole }))
            .collect();
        let run = async move {
            let world = Setup { pipe, stutter: script, ..Setup::resumable(Service::Echo) }.connect().await;
            world.remote.dials().next.extend(losses);
            let streams = [open(&world).await, open(&world).await].map(|stream| echo(stream, 60_000));
            tokio::time::sleep_until(Instant::now() + Duration::from_millis(rng.u64(..50))).await;
            world.remote.trip(Fault::Broken);
            for stream in streams {
                timeout(LONG * 4, stream).await.expect("in time").expect("no panic");
            }
            assert_eq!(world.remote.seen().received, 120_000);
        };
        if let Err(error) = tokio::spawn(run).await {
            panic!("seed {seed}: {error}");
        }
    }
}

/// Handed over by tasks that end in the middle of an outage.
#[tokio::test(start_paused = true)]
async fn what_was_written_and_finished_during_an_outage_arrives() {
    let world = Arc::new(Setup::resumable(Service::Echo).connect().await);
    settle().await;
    world.remote.dials().next.extend([Dialling::Unreachable; 3]);
    world.remote.trip(Fault::Broken);
    let mut stream = upload(open(&world).await, 50_000).await.expect("taken");
    stream.shutdown().await.expect("shut down");
    timeout(LONG, world.remote.until(|seen| seen.received == 50_000)).await.expect("in time");
    timeout(LONG, world.remote.until(|seen| seen.steps.last().is_some_and(|step| step == "close 1")))
        .await
        .expect("FIN");
}
