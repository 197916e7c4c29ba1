//! Sessions that are ended because nobody uses the forward.

use super::{pool::mux, *};
use crate::forward::ForwardState;

const IDLE: Duration = seconds(5);
const FORWARD: &str = "no connection used the forward";

fn idle_world(first: TestTunnel, sessions: Sessions) -> World {
    world_from(Some(first), WINDOW, sessions, Some(IDLE), &SessionAccounts::default())
}

pub(super) fn unused(what: &'static str) -> CloseReason {
    CloseReason::new(Initiator::Library, Cause::Timeout(what))
}

impl World {
    /// What was told of ends: whether nobody used what has ended, and why it has.
    pub(super) fn reasons(&self) -> Vec<(bool, CloseReason)> {
        let reason = |event: &Event| match event {
            Event::SessionEnded { reason, idle, .. } => Some((*idle, reason.clone())),
            Event::Dormant { reason, idle, .. } => Some((idle.is_some(), reason.clone())),
            _ => None,
        };
        self.events.lock().expect("no panic under the lock").iter().filter_map(reason).collect()
    }
}

/// Lets time pass up to a moment before it is over.
async fn nearly(time: Duration) {
    pass(time - Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_uses_is_ended_and_the_next_connection_gets_another() {
    let world = idle_world(tunnel("s-1"), Sessions::Auto);
    world.script([Script::Ready(tunnel("s-2")), Script::Ready(tunnel("s-3"))]);
    nearly(IDLE).await;
    assert!(!world.first.has_ended());
    pass(Duration::from_millis(2)).await;
    assert!(world.first.is_finished(), "TerminateSession was waited for");
    assert_eq!(world.told(), ["idle for 5 s", "ended s-1: Library"]);
    assert_eq!(world.reasons(), [(true, unused(FORWARD)), (true, unused(FORWARD))], "both say why, and the same");
    assert_eq!(world.monitor.status().state, ForwardState::Dormant);
    pass(seconds(3600)).await;
    assert_eq!(world.connector.starts(), 0);

    // As often as one comes, and at once: sessions that we have ended are no sign of trouble.
    for (session, ended) in [("s-2", 2), ("s-3", 4)] {
        assert_eq!(world.outcome().await, named(session, 0));
        nearly(IDLE).await;
        assert_eq!(world.told().len(), ended);
        pass(Duration::from_millis(2)).await;
        assert_eq!(world.told().len(), ended + 2);
    }
    world.end().await;
}

/// The network may be quicker.
#[tokio::test(start_paused = true)]
async fn a_session_that_is_lost_while_it_is_being_ended_was_lost_by_nobody() {
    let member = Member::new(MemberId(1), 0, tunnel("s-1"), Instant::now(), &Arc::new(Crowd::new()), None);
    assert_eq!(member.end_of(lost()), (lost(), false));
    member.set_unused(unused(FORWARD));
    assert_eq!(member.end_of(lost()), (lost(), true));
    let asked = CloseReason::new(Initiator::Us, Cause::Requested);
    assert_eq!(member.end_of(asked), (unused(FORWARD), true));
}

#[tokio::test(start_paused = true)]
async fn the_time_begins_when_the_last_connection_is_over_lingering_ones_included() {
    let world = idle_world(tunnel("s-1"), Sessions::Auto);
    let (one, two) = (served(world.open()).await, served(world.open()).await);
    pass(seconds(100)).await;
    drop(one);
    two.lease.linger();
    pass(seconds(100)).await;
    assert!(!world.first.has_ended());
    drop(two);
    nearly(IDLE).await;
    assert!(!world.first.has_ended());
    // One that comes and goes in time counts afresh.
    drop(served(world.open()).await);
    nearly(IDLE).await;
    assert!(!world.first.has_ended());
    pass(Duration::from_millis(2)).await;
    assert!(world.first.has_ended());
}

#[tokio::test(start_paused = true)]
async fn at_once_is_a_time_too() {
    let first = tunnel("s-1");
    let world = world_from(Some(first), WINDOW, Sessions::Auto, Some(Duration::ZERO), &SessionAccounts::default());
    calm().await;
    assert!(world.first.has_ended());
    let second = tunnel("s-2");
    world.script([Script::ReadyAfter(seconds(3), second.clone())]);
    let open = served(world.open()).await;
    pass(seconds(60)).await;
    assert!(!second.has_ended());
    drop(open);
    calm().await;
    assert!(second.has_ended());
}

#[tokio::test(start_paused = true)]
async fn a_time_that_never_passes_ends_nothing() {
    let first = tunnel("s-1");
    let world = world_from(Some(first), WINDOW, Sessions::Auto, Some(Duration::MAX), &SessionAccounts::default());
    pass(seconds(24 * 3600)).await;
    assert!(!world.first.has_ended());
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_ended_as_a_whole_and_comes_back_as_it_is_needed() {
    let tunnels = mux(3);
    let world = idle_world(tunnels[0].clone(), "3".parse().expect("a number of sessions"));
    world.script(tunnels[1..].iter().cloned().map(Script::Ready));
    let third = {
        calm().await;
        let open = [served(world.open()).await, served(world.open()).await, served(world.open()).await];
        pass(seconds(60)).await;
        open.into_iter().next_back().expect("three")
    };
    pass(seconds(60)).await;
    assert!(tunnels.iter().all(|tunnel| !tunnel.has_ended()), "one of them is in use");
    drop(third);
    pass(IDLE + seconds(1)).await;
    assert!(tunnels.iter().all(TestTunnel::is_finished));
    assert_eq!(world.told(), ["idle for 5 s", "ended s-1: Library", "ended s-2: Library", "ended s-3: Library"]);
    let again: Vec<_> = (4..7).map(|at| tunnel(&format!("s-{at}"))).collect();
    world.script(again.into_iter().map(Script::Ready));
    let (one, two) = (world.open(), world.open());
    assert_ne!(session_of(&served(one).await), session_of(&served(two).await), "each has its own");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_outlives_its_connection_is_used_for_a_while() {
    let world = idle_world(tunnel("s-1"), Sessions::Auto);
    let second = tunnel("s-2");
    world.script([Script::ReadyAfter(seconds(20), second.clone())]);
    pass(IDLE * 2).await;
    let gone = world.open();
    pass(seconds(1)).await;
    gone.abort();
    pass(seconds(19)).await;
    nearly(IDLE).await;
    assert!(!second.has_ended());
    pass(Duration::from_millis(2)).await;
    assert!(second.has_ended());
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_nobody_feels_is_not_fought_for_ever() {
    let world = idle_world(tunnel("s-1"), Sessions::Auto);
    world.script([network()]);
    world.first.end(lost());
    pass(IDLE + seconds(1)).await;
    let starts = world.connector.starts();
    pass(seconds(3600)).await;
    assert_eq!(world.connector.starts(), starts);
    assert_eq!(world.told().last().map(String::as_str), Some("idle for 5 s"));
    assert_eq!(world.monitor.status().state, ForwardState::Dormant);
    // Who waits is used for the attempts.
    assert_eq!(world.outcome().await, (None, 60));
    assert!(world.connector.starts() > starts + 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_under_way_is_given_up_with_the_rest() {
    let world = idle_world(tunnel("s-1"), Sessions::Auto);
    let late = tunnel("s-2");
    world.script([Script::ReadyAfter(seconds(60), late.clone())]);
    world.first.end(lost());
    pass(seconds(61)).await;
    assert!(late.is_finished(), "it was not cancelled in time: it is ended");
    assert_eq!(world.monitor.status().state, ForwardState::Dormant);
}

#[tokio::test(start_paused = true)]
async fn sessions_of_one_connection_are_ended_too() {
    for mode in [Mode::Basic, Mode::Raw] {
        let world = idle_world(with_mode("s-1", mode), Sessions::Auto);
        world.script([Script::Ready(with_mode("s-2", mode))]);
        let open = served(world.open()).await;
        pass(seconds(60)).await;
        drop(open);
        pass(IDLE + seconds(1)).await;
        assert!(world.first.is_finished(), "{mode:?}");
        assert_eq!(world.outcome().await, named("s-2", 0), "{mode:?}");
    }
}

/// Connections that come at any moment around the end are served, by the old session or another.
#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_at_that_very_moment_is_served() {
    for moment in 0..400_u64 {
        let world = idle_world(tunnel("s-1"), Sessions::Auto);
        world.script([Script::Ready(tunnel("s-2"))]);
        let connections = (0..3).map(|at| {
            let supply = world.supply.clone();
            tokio::spawn(async move {
                time::sleep_until(Instant::now() + IDLE).await;
                // At so many polls of the others after the moment.
                for _ in 0..(moment + at) % 20 {
                    tokio::task::yield_now().await;
                }
                supply.open().await
            })
        });
        let connections: Vec<_> = connections.collect();
        let mut random = fastrand::Rng::with_seed(moment);
        pass(IDLE - Duration::from_micros(random.u64(0..2))).await;
        for connection in connections {
            let opened = served(connection).await;
            assert!(!opened.lease.tunnel().has_ended(), "moment {moment}: {}", session_of(&opened));
        }
        world.end().await;
    }
}

/// The same with threads: what each connection gets is not being ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_connection_is_given_a_session_that_is_being_ended() {
    let first = tunnel("s-0");
    let world = world_from(Some(first), WINDOW, Sessions::Auto, Some(Duration::ZERO), &SessionAccounts::default());
    world.script((1..3000).map(|at| Script::Ready(tunnel(&format!("s-{at}")))));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let supply = world.supply.clone();
        clients.push(tokio::spawn(async move {
            for _ in 0..200 {
                let opened = supply.open().await.unwrap_or_else(|_| panic!("no session"));
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                    assert!(!opened.lease.tunnel().has_ended());
                }
            }
        }));
    }
    for client in clients {
        client.await.expect("no panic");
    }
    world.end().await;
}
