//! What becomes of attempts to replace a websocket: how often they are made, what is told, what ends them.

use std::{sync::Arc, time::Duration};

use ssmfwd::session::{ConnectError, ControlErrorKind, Health, OpenError, SessionEvent, Stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::{
    control::{Control, Resume, Terminate},
    dialer::Dialling,
    gateway::{Command, Service, pattern},
    line::Fault,
    setup::{Setup, World},
};

/// The highest wait between two attempts.
const CEILING: Duration = ssmfwd::proto::limits::RECONNECT_CEILING;
const HOUR: Duration = Duration::from_secs(3600);

async fn pass(time: Duration) {
    tokio::time::sleep_until(Instant::now() + time).await;
}

/// A session with a stream that has been used, on a websocket that is not new.
async fn connected() -> (World, Stream) {
    let world = Setup::resumable(Service::Echo).connect().await;
    let mut stream = world.session.open().await.expect("open");
    echo(&mut stream).await;
    pass(Duration::from_secs(1)).await;
    (world, stream)
}

async fn echo(stream: &mut Stream) {
    stream.write_all(b"ping").await.expect("written");
    let mut back = [0; 4];
    timeout(HOUR, stream.read_exact(&mut back)).await.expect("in time").expect("read");
    assert_eq!(&back, b"ping");
}

fn reconnecting(world: &World) -> bool {
    matches!(*world.session.health().borrow(), Health::Reconnecting { .. })
}

fn is_ready(world: &World) -> bool {
    *world.session.health().borrow() == Health::Ready
}

/// What was told since the start, without what came before the loss.
fn told(world: &World) -> Vec<SessionEvent> {
    let mut events = world.remote.events();
    events.retain(|event| !matches!(event, SessionEvent::Started { .. } | SessionEvent::Ready));
    events
}

// --- failures that pass -------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn failures_that_pass_are_waited_for_and_the_api_is_not_flooded() {
    let kinds = [
        ControlErrorKind::Throttled,
        ControlErrorKind::Service,
        ControlErrorKind::Network,
        ControlErrorKind::ExpiredCredentials,
        ControlErrorKind::NoCredentials,
        ControlErrorKind::ClockSkew,
        ControlErrorKind::BadAnswer,
        ControlErrorKind::TargetNotConnected,
    ];
    for kind in kinds {
        let (world, mut stream) = connected().await;
        world.control.always(Resume::Fails(kind));
        world.remote.trip(Fault::Broken);
        let lost = Instant::now();
        pass(HOUR).await;
        assert!(reconnecting(&world), "{kind:?}");
        let calls = world.control.resumed().len();
        // Each waits between nothing and the ceiling, five seconds in the mean: 720 an hour, and a few at first.
        assert!((620..=830).contains(&calls), "{kind:?}: {calls} calls");
        world.control.always(Resume::Grants);
        timeout(CEILING, world.remote.until(|seen| seen.opened.len() == 2)).await.expect("within one wait");
        echo(&mut stream).await;
        assert!(is_ready(&world));

        let events = told(&world);
        assert_eq!(events.len(), calls + 2, "the loss, each failure, the end of it");
        for (number, event) in events[..=calls].iter().enumerate() {
            let SessionEvent::Reconnecting { attempt, cause, kind: of, next } = event else { panic!("{event:?}") };
            assert_eq!((*attempt as usize, next.is_some()), (number, number > 0), "the first attempt is made at once");
            if number == 0 {
                assert!(of.is_none() && cause.contains("a damaged record"), "{cause}");
            } else {
                assert!(*of == Some(kind) && cause.contains("ResumeSession"), "{of:?} {cause}");
            }
        }
        let Some(SessionEvent::Resumed { outage }) = events.last() else { panic!("{:?}", events.last()) };
        assert!(*outage >= HOUR && *outage <= lost.elapsed());
        assert_eq!(world.control.terminated(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_cannot_be_reached_is_tried_again_with_a_new_token_each_time() {
    let (world, mut stream) = connected().await;
    world.remote.dials().next.extend([Dialling::Unreachable; 6]);
    world.remote.trip(Fault::Broken);
    echo(&mut stream).await;
    assert_eq!(world.control.resumed().len(), 7);
    let made = world.remote.dials().made.clone();
    assert_eq!(made.len(), 8);
    for (_, url, signature) in &made {
        assert_eq!(made.iter().filter(|(_, other, _)| other == url).count(), 1, "a new StreamUrl: {url}");
        assert_eq!(made.iter().filter(|(_, _, other)| other == signature).count(), 1, "a new signature: {signature}");
    }
    let causes = told(&world);
    assert_eq!(
        causes.iter().filter(|event| format!("{event:?}").contains("cannot connect to")).count(),
        6,
        "{causes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn tokens_that_are_refused_are_not_asked_for_at_line_rate() {
    let (world, mut stream) = connected().await;
    world.control.always(Resume::GrantsStale);
    world.remote.trip(Fault::Broken);
    pass(HOUR).await;
    let (calls, stale) = (world.control.resumed().len(), world.remote.seen().stale);
    assert!((620..=830).contains(&calls), "{calls}");
    assert_eq!(stale, calls, "each was tried once");
    assert!(reconnecting(&world), "a websocket that is closed at once resumes nothing");
    let attempts: Vec<_> = told(&world)
        .into_iter()
        .map(|event| match event {
            SessionEvent::Reconnecting { attempt, .. } => attempt as usize,
            event => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(attempts, (0..=calls).collect::<Vec<_>>());
    world.control.always(Resume::Grants);
    echo(&mut stream).await;
    assert!(is_ready(&world));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_given_up_and_made_again() {
    let (world, mut stream) = connected().await;
    world.remote.dials().next.extend([Dialling::Hangs; 2]);
    world.control.next([Resume::Hangs, Resume::Grants]);
    world.remote.trip(Fault::Broken);
    let lost = Instant::now();
    echo(&mut stream).await;
    let calls: Vec<_> = world.control.resumed().iter().map(|at| at.duration_since(lost).as_secs()).collect();
    // 25 s for ResumeSession, 30 s for a dial, and the waits of the back-off between.
    assert!(matches!(calls[..], [0, 25..=26, 55..=57, 85..=88]), "{calls:?}");
    assert_eq!(world.control.waiting(), 0, "nobody waits for the first any more");
    let causes = format!("{:?}", told(&world));
    assert!(causes.contains("ResumeSession was not answered within 25 s"), "{causes}");
    assert!(causes.contains("the websocket was not opened within 30 s"), "{causes}");
}

// --- failures that do not pass ------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_session_that_is_over_ends_and_is_not_ended_again() {
    let (world, mut stream) = connected().await;
    let mut waiting = world.session.open().await.expect("open");
    world.control.always(Resume::Over);
    // All of it has arrived when the websocket is lost; nobody has read it yet.
    world.remote.tell(Command::Send(100_000));
    pass(Duration::from_secs(1)).await;
    world.remote.trip(Fault::Broken);
    let reason = timeout(Duration::from_secs(1), world.session.closed()).await.expect("at once");
    assert_eq!(
        reason.to_string(),
        "the session is over: an idle timeout, its maximum duration or an administrator ended it (by the Session \
         Manager service)"
    );
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).await.expect_err("no clean end");
    assert_eq!((all.len(), error.kind()), (100_000, std::io::ErrorKind::ConnectionReset));
    assert!(all.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
    assert!(waiting.write_all(b"x").await.is_err() && waiting.read(&mut [0; 1]).await.is_err());
    assert_eq!(world.session.close().await, reason);
    assert_eq!((world.control.terminated(), world.control.resumed().len()), (0, 1));
    assert_eq!(*world.session.health().borrow(), Health::Ended(reason));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_may_not_be_resumed_is_ended() {
    let kinds = [ControlErrorKind::AccessDenied, ControlErrorKind::InvalidRequest, ControlErrorKind::InvalidDocument];
    for kind in kinds {
        let (world, mut stream) = connected().await;
        world.control.next([Resume::Fails(ControlErrorKind::Throttled), Resume::Fails(kind)]);
        world.remote.tell(Command::Send(5000));
        pass(Duration::from_secs(1)).await;
        world.remote.trip(Fault::Broken);
        let reason = timeout(CEILING, world.session.closed()).await.expect("soon").to_string();
        assert!(reason.starts_with("the session cannot be resumed: ResumeSession of "), "{reason}");
        assert!(reason.ends_with("(by ssmfwd)"), "{reason}");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect_err("no clean end");
        assert_eq!(all.len(), 5000);
        assert!(matches!(world.session.open().await, Err(OpenError::Closed(_))));
        world.session.close().await;
        assert_eq!(world.control.terminated(), 1, "{kind:?}");
    }
}

/// A panic of somebody else's code ends the session like everything else, and nobody waits for ever.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_panics_ends_the_session() {
    let (world, mut stream) = connected().await;
    world.control.always(Resume::Panics);
    world.remote.trip(Fault::Broken);
    assert_eq!(stream.read(&mut [0; 1]).await.expect_err("gone").kind(), std::io::ErrorKind::ConnectionReset);
    let reason = timeout(Duration::from_secs(10), world.session.close()).await.expect("ends");
    assert!(reason.to_string().contains("the session's task is gone"), "{reason}");
    assert_eq!((world.control.terminated(), world.control.resumed().len()), (1, 1));
    assert!(matches!(*world.session.health().borrow(), Health::Ended(_)));
}

#[tokio::test(start_paused = true)]
async fn before_it_is_ready_a_session_is_lost_with_its_websocket() {
    for fault in [Fault::Broken, Fault::Hole] {
        let control = Arc::<Control>::default();
        let setup = Setup {
            control: Arc::clone(&control),
            // In the middle of the handshake.
            first_dials: vec![Dialling::Fails(1200, fault)],
            ..Setup::resumable(Service::Echo)
        };
        let start = Instant::now();
        let (_, result, remote) = setup.try_connect().await;
        assert!(matches!(result, Err(ConnectError::Closed(_))), "{result:?}");
        assert!(start.elapsed() <= Duration::from_secs(30), "{:?}", start.elapsed());
        assert_eq!((control.terminated(), control.resumed().len(), remote.dials().made.len()), (1, 0, 1));
    }
}

/// Everybody sleeps while there is nothing to do: each thing that happens wakes a few tasks. One that never slept would
/// keep the clock from moving.
#[tokio::test(start_paused = true)]
async fn waiting_costs_nothing() {
    let (world, _stream) = connected().await;
    for resume in [Resume::Hangs, Resume::Fails(ControlErrorKind::Network), Resume::GrantsStale] {
        world.control.always(resume);
        world.remote.trip(Fault::Broken);
        world.session.wake();
        pass(Duration::from_secs(1)).await;
        let (ticks, calls) = (world.remote.events().len(), world.control.resumed().len());
        let metrics = tokio::runtime::Handle::current().metrics();
        let busy = metrics.worker_park_count(0);
        pass(HOUR).await;
        let wakes = metrics.worker_park_count(0) - busy;
        let happened = world.remote.events().len() - ticks + world.control.resumed().len() - calls;
        assert!(
            wakes > 0 && wakes <= 20 + 6 * happened as u64,
            "{resume:?}: {wakes} wakes for {happened} things that happened"
        );
    }
}

// --- the end while there is no websocket --------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_session_without_websocket_ends_at_once_through_the_api_and_leaves_no_attempt_behind() {
    for resume in [Resume::Hangs, Resume::Fails(ControlErrorKind::Network)] {
        for by_drop in [false, true] {
            let (world, stream) = connected().await;
            world.control.always(resume);
            world.remote.trip(Fault::Broken);
            pass(Duration::from_secs(30)).await;
            let calls = world.control.resumed().len();
            assert_eq!(world.control.waiting(), usize::from(resume == Resume::Hangs));
            let (closed, start) = (world.session.closed(), Instant::now());
            drop(stream);
            if by_drop {
                drop(world.session);
            } else {
                assert_eq!(world.session.close().await.to_string(), "ended as asked");
            }
            assert_eq!(closed.await.to_string(), "ended as asked");
            assert_eq!(start.elapsed(), Duration::ZERO);
            pass(HOUR).await;
            assert_eq!((world.control.terminated(), world.control.resumed().len()), (1, calls), "{resume:?}");
            assert_eq!(world.control.waiting(), 0, "the attempt is dropped");
            assert!(world.remote.dials().lines.iter().all(crate::line::Breaker::is_dropped));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_while_the_session_ends_is_the_end() {
    let control = Arc::new(Control::new(Terminate::Succeeds));
    let world = Setup { control, ..Setup::resumable(Service::Echo) }.connect().await;
    pass(Duration::from_secs(1)).await;
    world.remote.tell(Command::Silence);
    let (session, start) = (world.session.clone(), Instant::now());
    let closing = tokio::spawn(async move { session.close().await });
    pass(Duration::from_millis(500)).await;
    world.remote.trip(Fault::Broken);
    assert_eq!(closing.await.expect("no panic").to_string(), "ended as asked");
    assert_eq!(start.elapsed(), Duration::from_millis(500));
    assert_eq!((world.control.terminated(), world.control.resumed().len()), (1, 0));
}

// --- waking -------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn waking_cuts_a_wait_short() {
    let (world, mut stream) = connected().await;
    world.control.always(Resume::Fails(ControlErrorKind::Network));
    world.remote.trip(Fault::Broken);
    let mut waits = 0;
    while waits < 5 {
        pass(Duration::from_secs(20)).await;
        let calls = world.control.resumed().len();
        world.session.wake();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert_eq!(world.control.resumed().len(), calls + 1, "at once");
        waits += 1;
    }
    world.control.always(Resume::Grants);
    world.session.wake();
    let woken = Instant::now();
    echo(&mut stream).await;
    assert_eq!(woken.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn waking_starts_an_attempt_that_hangs_anew() {
    for dial in [false, true] {
        let (world, mut stream) = connected().await;
        if dial {
            world.remote.dials().next.push_back(Dialling::Hangs);
        } else {
            world.control.next([Resume::Hangs]);
        }
        world.remote.trip(Fault::Broken);
        pass(Duration::from_secs(5)).await;
        assert_eq!((world.control.resumed().len(), world.control.waiting()), (1, usize::from(!dial)));
        let woken = Instant::now();
        world.session.wake();
        echo(&mut stream).await;
        assert_eq!((woken.elapsed(), world.control.resumed().len(), world.control.waiting()), (Duration::ZERO, 2, 0));
    }
}

/// A network that comes and goes every two seconds must not keep an attempt of five from being brought to its end, nor
/// cost a call each time.
#[tokio::test(start_paused = true)]
async fn waking_again_and_again_does_not_start_an_attempt_anew_each_time() {
    let (world, _stream) = connected().await;
    world.control.always(Resume::Hangs);
    world.remote.trip(Fault::Broken);
    pass(Duration::from_secs(1)).await;
    for _ in 0..30 {
        world.session.wake();
        pass(Duration::from_secs(2)).await;
    }
    let calls = world.control.resumed().len();
    assert!((2..=10).contains(&calls), "{calls} in a minute");
}

#[tokio::test(start_paused = true)]
async fn waking_finds_a_dead_websocket_within_the_probe_time() {
    // The second is one that takes nothing, so that no ping ever leaves.
    for (fault, upload) in [(Fault::Hole, false), (Fault::Wedged, false), (Fault::Wedged, true)] {
        let (world, mut stream) = connected().await;
        world.remote.trip(fault);
        if upload {
            stream.write_all(&[7; 60_000]).await.expect("taken");
        }
        pass(Duration::from_secs(5)).await;
        assert!(world.control.resumed().is_empty());
        let woken = Instant::now();
        world.session.wake();
        timeout(HOUR, world.remote.until(|seen| seen.opened.len() == 2)).await.expect("found");
        assert!(woken.elapsed() <= Duration::from_secs(4), "{fault:?} {upload}: {:?}", woken.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn waking_leaves_a_live_websocket_alone() {
    let (world, mut stream) = connected().await;
    for _ in 0..100 {
        world.session.wake();
        pass(Duration::from_secs(1)).await;
    }
    echo(&mut stream).await;
    assert!(world.control.resumed().is_empty() && told(&world).is_empty(), "{:?}", told(&world));
}

#[tokio::test(start_paused = true)]
async fn a_wake_from_outside_is_as_good() {
    let (sender, receiver) = tokio::sync::watch::channel(0);
    let mut setup = Setup::resumable(Service::Echo);
    setup.options.wake = Some(receiver);
    let world = setup.connect().await;
    pass(Duration::from_secs(1)).await;
    world.control.next([Resume::Hangs]);
    world.remote.trip(Fault::Broken);
    pass(Duration::from_secs(5)).await;
    sender.send_modify(|wakes| *wakes += 1);
    timeout(Duration::from_secs(1), world.remote.until(|seen| seen.opened.len() == 2)).await.expect("at once");
    drop(sender);
    pass(HOUR).await;
    assert!(is_ready(&world), "nobody tells any more, which is no event");
}

/// What a transport or somebody's future does when it is dropped is not known: it may ask the session something.
#[tokio::test(start_paused = true)]
async fn what_is_replaced_is_dropped_outside_the_lock() {
    let (world, mut stream) = connected().await;
    let (count, drops) = std::sync::mpsc::channel();
    let hook = {
        let session = world.session.clone();
        move || {
            let (session, (answer, answered)) = (session.clone(), std::sync::mpsc::channel());
            // In a thread of its own, so that a lock that is held is seen instead of waited for.
            std::thread::spawn(move || answer.send(session.rtt()));
            count.send(answered.recv_timeout(Duration::from_secs(5)).is_ok()).expect("the test waits");
        }
    };
    let hooks = Arc::clone(&world.remote.dials().dropped);
    *hooks.lock().expect("no panic") = Some(Box::new(hook));
    world.remote.dials().next.push_back(Dialling::Hangs);
    world.remote.trip(Fault::Broken);
    pass(Duration::from_secs(1)).await;
    world.session.wake();
    echo(&mut stream).await;
    hooks.lock().expect("no panic").take();
    // The lost websocket, the attempt that hung, and the one that did not.
    assert_eq!(drops.try_iter().collect::<Vec<_>>(), [true; 3]);
}
