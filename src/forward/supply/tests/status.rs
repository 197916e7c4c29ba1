//! What the monitor says of the sessions.

use super::{
    pool::{opens, pool_of},
    *,
};
use crate::forward::{ForwardState, ForwardStatus, Totals};

impl World {
    fn status(&self) -> ForwardStatus {
        self.monitor.status()
    }

    fn state(&self) -> ForwardState {
        let state = self.monitor.state();
        assert_eq!(state, self.status().state);
        state
    }

    fn totals(&self) -> Totals {
        self.status().totals
    }
}

fn reconnecting(seconds: u64) -> ForwardState {
    ForwardState::Reconnecting { since: Duration::from_secs(seconds) }
}

#[tokio::test(start_paused = true)]
async fn a_forward_without_a_session_yet_is_starting() {
    assert_eq!(Monitor::default().status().state, ForwardState::Starting);
    assert!(!ForwardState::Starting.is_ready());
}

#[tokio::test(start_paused = true)]
async fn the_state_is_that_of_the_only_session() {
    let world = world();
    assert_eq!(world.state(), ForwardState::Ready);

    world.first.set_health(Health::Reconnecting { since: Instant::now() - seconds(5) });
    assert_eq!(world.state(), reconnecting(5));
    pass(seconds(3)).await;
    assert_eq!(world.state(), reconnecting(8));
    world.first.set_health(Health::Ready);
    assert_eq!(world.state(), ForwardState::Ready);

    calm().await;
    for _ in 0..2 {
        world.first.set_health(Health::Stalled);
        pass(seconds(4)).await;
        assert_eq!(
            world.state(),
            ForwardState::Waking,
            "the agent is silent: the next connection gets another session"
        );
        world.first.set_health(Health::Ready);
        calm().await;
    }
    assert_eq!(world.state(), ForwardState::Ready);
}

/// `count` sessions one after another, each stalled while a connection uses it, so that the next gets another one.
async fn stalled_ones(world: &World, count: usize) -> Vec<Opened<TestStream, TestTunnel>> {
    let tunnels: Vec<_> = (2..=count).map(|at| tunnel(&format!("s-{at}"))).collect();
    world.script(tunnels.into_iter().map(Script::Ready));
    let mut open = Vec::new();
    for _ in 0..count {
        let opened = served(world.open()).await;
        opened.lease.tunnel().set_health(Health::Stalled);
        calm().await;
        open.push(opened);
    }
    open
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_an_outage_only_if_its_session_cannot_be_replaced() {
    let world = world();
    let mut open = stalled_ones(&world, 4).await;
    pass(seconds(1000)).await;
    assert_eq!(world.state(), ForwardState::Waking, "three are retired");
    world.script([Script::Ready(tunnel("s-5"))]);
    let fifth = served(world.open()).await;
    assert_eq!(world.state(), ForwardState::Ready);
    fifth.lease.tunnel().set_health(Health::Stalled);
    pass(seconds(7)).await;
    assert_eq!(world.state(), reconnecting(7), "four are retired");
    open.pop();
    pass(seconds(1)).await;
    assert_eq!(world.state(), ForwardState::Waking);
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_an_outage_if_another_session_cannot_be_started() {
    let world = world();
    let _open = served(world.open()).await;
    world.first.set_health(Health::Stalled);
    world.script([network()]);
    let held = world.open();
    pass(seconds(20)).await;
    assert_eq!(world.state(), reconnecting(20));
    world.first.set_health(Health::Ready);
    held.abort();
}

/// More are silent than can be retired: those that still serve stand in nobody's way.
#[tokio::test(start_paused = true)]
async fn a_pool_of_silent_agents_is_an_outage_if_another_session_cannot_be_started() {
    for (script, expected) in [(Script::Hangs, ForwardState::Waking), (network(), reconnecting(8))] {
        let (world, tunnels) = pool_of(6).await;
        let _open = opens(&world, 6).await;
        tunnels.iter().for_each(|tunnel| tunnel.set_health(Health::Stalled));
        pass(seconds(10)).await;
        assert_eq!(world.state(), ForwardState::Waking);
        world.script([script]);
        let _held = world.open();
        pass(seconds(8)).await;
        assert_eq!(world.state(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn dormant_waking_and_replacing_are_told_apart() {
    let world = world();
    world.script([
        Script::ReadyAfter(seconds(2), tunnel("s-2")),
        network(),
        Script::ReadyAfter(seconds(3), tunnel("s-3")),
    ]);
    world.first.end(idle_timeout());
    calm().await;
    assert_eq!((world.state(), world.status().sessions.len()), (ForwardState::Dormant, 0));

    let held = world.open();
    calm().await;
    assert_eq!(world.state(), ForwardState::Waking);
    let open = served(held).await;
    assert_eq!(world.state(), ForwardState::Ready);
    assert_eq!((world.totals().sessions, world.totals().start_failures), (2, 0));

    // Lost while it reconnects: the outage began before.
    let lost_at = Instant::now();
    open.lease.tunnel().set_health(Health::Reconnecting { since: lost_at });
    pass(seconds(1)).await;
    open.lease.tunnel().end(lost());
    pass(seconds(1)).await;
    assert_eq!(world.state(), reconnecting(2));
    pass(seconds(10)).await;
    assert_eq!(world.state(), ForwardState::Ready);
    let totals = world.totals();
    assert_eq!((totals.sessions, totals.start_failures, totals.replacements), (3, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pool_carries_as_long_as_one_of_its_sessions_can() {
    let (world, tunnels) = pool_of(3).await;
    let start = Instant::now();
    tunnels[0].set_health(Health::Reconnecting { since: start });
    pass(seconds(1)).await;
    tunnels[2].set_health(Health::Stalled);
    assert_eq!(world.state(), ForwardState::Ready);
    pass(seconds(1)).await;
    tunnels[1].set_health(Health::Reconnecting { since: Instant::now() });
    pass(seconds(1)).await;
    assert_eq!(world.state(), reconnecting(1), "since the last one was lost");
    tunnels[0].set_health(Health::Ready);
    assert_eq!(world.state(), ForwardState::Ready);
}

/// A silent agent may be heard again, and its session is given up after the stall timeout, not after the reconnect window.
#[tokio::test(start_paused = true)]
async fn a_pool_is_lost_when_no_session_is_left_that_carries_on() {
    let (world, tunnels) = pool_of(2).await;
    assert_eq!(world.monitor.lost_for(), None);
    tunnels[0].set_health(Health::Reconnecting { since: Instant::now() });
    tunnels[1].set_health(Health::Stalled);
    pass(seconds(100)).await;
    assert_eq!((world.state(), world.monitor.lost_for()), (reconnecting(100), None));
    tunnels[1].set_health(Health::Reconnecting { since: Instant::now() });
    pass(seconds(7)).await;
    assert_eq!(world.monitor.lost_for(), Some(seconds(7)));
    tunnels[0].set_health(Health::Ready);
    assert_eq!(world.monitor.lost_for(), None);
}

/// New connections cannot be served, but the old one is.
#[tokio::test(start_paused = true)]
async fn a_session_that_only_its_connections_use_is_not_lost() {
    let world = world();
    let open = stalled_ones(&world, 1).await;
    world.script([network()]);
    let held = world.open();
    pass(seconds(20)).await;
    assert_eq!((world.state(), world.monitor.lost_for()), (reconnecting(20), None));
    world.first.end(lost());
    pass(seconds(1)).await;
    assert!(world.monitor.lost_for().is_some(), "{:?}", world.state());
    held.abort();
    drop(open);
}

#[tokio::test(start_paused = true)]
async fn the_only_session_is_lost_while_it_reconnects_and_while_it_is_replaced() {
    let world = world();
    world.script([network()]);
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    pass(seconds(3)).await;
    assert_eq!(world.monitor.lost_for(), Some(seconds(3)));
    world.first.end(lost());
    pass(seconds(3)).await;
    assert_eq!(world.monitor.lost_for(), Some(seconds(6)));
}

#[tokio::test(start_paused = true)]
async fn sessions_are_told_in_the_order_of_their_places() {
    let (world, tunnels) = pool_of(3).await;
    let _open = opens(&world, 4).await;
    pass(seconds(7)).await;
    tunnels[1].carry(|statistics| statistics.bytes_up = 11);
    let told = |world: &World| {
        let session = |session: crate::forward::SessionStatus| {
            (session.session.0, session.member, session.serves, session.connections, session.statistics.bytes_up)
        };
        world.status().sessions.into_iter().map(session).collect::<Vec<_>>()
    };
    let one = |id: &str, member, serves, connections, bytes| (id.to_owned(), member, serves, connections, bytes);
    let expected = [one("s-1", 0, true, 2, 0), one("s-2", 1, true, 1, 11), one("s-3", 2, true, 1, 0)];
    assert_eq!(told(&world), expected);
    let first = &world.status().sessions[0];
    assert_eq!((first.age, first.rtt), (Duration::from_millis(7001), Some(Duration::from_millis(20))));
    assert_eq!(first.health, Health::Ready);

    // One in the place of another that lives on for its connections.
    world.script([Script::Ready(tunnel("s-4"))]);
    tunnels.iter().for_each(|tunnel| tunnel.set_health(Health::Stalled));
    assert_eq!(world.outcome().await, named("s-4", 0));
    let places: Vec<_> = told(&world).into_iter().map(|told| (told.0, told.1, told.2)).collect();
    let place = |id: &str, member, serves| (id.to_owned(), member, serves);
    assert_eq!(places[..2], [place("s-1", 0, false), place("s-4", 0, true)]);
    assert_eq!(places.len(), 4);
    assert_eq!(world.state(), ForwardState::Ready);
}

/// Retired ones, and those that nobody wanted any more, included.
#[tokio::test(start_paused = true)]
async fn what_sessions_have_sent_again_adds_up_and_never_goes_backwards() {
    let world = world();
    let mut before = world.totals();
    let mut look = |sessions, retransmissions| {
        let totals = world.totals();
        assert!(totals.retransmissions >= before.retransmissions && totals.sessions >= before.sessions);
        before = totals;
        assert_eq!((totals.sessions, totals.retransmissions), (sessions, retransmissions));
    };
    let again = |tunnel: &TestTunnel, count| tunnel.carry(|statistics| statistics.retransmissions = count);
    let old = served(world.open()).await;
    again(&world.first, 3);
    look(1, 3);
    // Retired, and used on.
    let (second, third) = (tunnel("s-2"), tunnel("s-3"));
    world.script([Script::Ready(second.clone()), Script::ReadyWhenCancelled(third.clone())]);
    world.first.set_health(Health::Stalled);
    assert_eq!(world.outcome().await, named("s-2", 0));
    again(&second, 4);
    look(2, 7);
    again(&world.first, 5);
    look(2, 9);
    drop(old);
    calm().await;
    assert!(world.first.is_finished());
    look(2, 9);
    // Lost, and what is started in its place is not wanted any more.
    again(&third, 100);
    second.end(lost());
    calm().await;
    look(2, 9);
    let monitor = world.monitor.clone();
    world.end().await;
    let status = monitor.status();
    assert_eq!((status.totals.sessions, status.totals.retransmissions, status.sessions.len()), (3, 109, 0));
    assert_eq!(status.totals.start_failures, 0, "a start that was given up has not failed");
}

#[tokio::test(start_paused = true)]
async fn resumptions_are_counted() {
    let monitor = Monitor::default();
    let observer = monitor.observe(Arc::new(|_| {}));
    for event in [
        crate::session::SessionEvent::Resumed { outage: seconds(1) },
        crate::session::SessionEvent::Ready,
        crate::session::SessionEvent::Resumed { outage: seconds(2) },
    ] {
        observer(Event::Session { session: SessionId("s-1".into()), member: 0, event });
    }
    assert_eq!(monitor.status().totals, Totals { resumptions: 2, ..Totals::default() });
}

/// A supervisor that is dropped in the middle leaves nothing behind that keeps its sessions alive.
#[tokio::test(start_paused = true)]
async fn a_monitor_keeps_no_session_alive() {
    let world = world();
    world.first.carry(|statistics| statistics.retransmissions = 2);
    world.supervisor.abort();
    calm().await;
    let status = world.status();
    assert_eq!((status.sessions.len(), status.totals.retransmissions), (0, 2));
}
