//! Several sessions behind one forward.

use super::*;
use crate::forward::SESSIONS_PER_TARGET;

/// A forward with so many sessions, `s-1` and so on; all start at once.
pub(super) async fn pool_of(count: u8) -> (World, Vec<TestTunnel>) {
    let tunnels = mux(count);
    let world = fixed(count, &tunnels[0]);
    world.script(tunnels[1..].iter().cloned().map(Script::Ready));
    calm().await;
    (world, tunnels)
}

pub(super) fn mux(count: u8) -> Vec<TestTunnel> {
    (1..=count).map(|at| tunnel(&format!("s-{at}"))).collect()
}

pub(super) fn fixed(count: u8, first: &TestTunnel) -> World {
    fixed_of(count, first, &SessionAccounts::default())
}

pub(super) fn fixed_of(count: u8, first: &TestTunnel, accounts: &SessionAccounts) -> World {
    world_of(first.clone(), WINDOW, count.to_string().parse().expect("a number of sessions"), accounts)
}

/// Sessions whose agents' pumps run from now on, for eight streams each.
pub(super) fn pump(tunnels: &[TestTunnel]) -> JoinHandle<()> {
    pump_for(8, tunnels)
}

fn pump_for(streams: usize, tunnels: &[TestTunnel]) -> JoinHandle<()> {
    let tunnels = tunnels.to_vec();
    tokio::spawn(async move {
        loop {
            for tunnel in &tunnels {
                tunnel.carry(|statistics| {
                    statistics.messages_down += 7;
                    statistics.full_messages_down += 7;
                    statistics.bytes_down += 7 * 1024;
                    statistics.bytes_down_per_s = 700 * 1024;
                    statistics.busy_streams = streams;
                });
            }
            pass(Duration::from_millis(10)).await;
        }
    })
}

pub(super) async fn opens(world: &World, count: usize) -> Vec<Opened<TestStream, TestTunnel>> {
    let mut opened = Vec::new();
    for _ in 0..count {
        opened.push(served(world.open()).await);
    }
    opened
}

pub(super) fn sessions_of(opened: &[Opened<TestStream, TestTunnel>]) -> Vec<String> {
    opened.iter().map(session_of).collect()
}

#[tokio::test(start_paused = true)]
async fn a_fixed_number_is_started_at_once_and_spread_over() {
    let (world, tunnels) = pool_of(3).await;
    assert_eq!(world.connector.starts(), 2);
    let open = opens(&world, 6).await;
    assert_eq!(sessions_of(&open), ["s-1", "s-2", "s-3", "s-1", "s-2", "s-3"]);
    pass(seconds(24 * 3600)).await;
    assert_eq!((world.connector.starts(), world.told()), (2, vec![]), "neither more nor less");
    assert_eq!(world.end().await.len(), 3);
    assert!(tunnels.iter().all(TestTunnel::is_finished));
}

#[tokio::test(start_paused = true)]
async fn connections_that_come_while_it_fills_get_sessions_of_their_own() {
    let tunnels = mux(3);
    let world = fixed(3, &tunnels[0]);
    world.script(tunnels[1..].iter().cloned().map(|tunnel| Script::ReadyAfter(seconds(1), tunnel)));
    let start = Instant::now();
    let connections = [world.open(), world.open(), world.open()];
    let mut sessions = Vec::new();
    for connection in connections {
        sessions.push(served(connection).await);
    }
    let mut sessions = sessions_of(&sessions);
    sessions.sort();
    assert_eq!((sessions, start.elapsed()), (vec!["s-1".into(), "s-2".into(), "s-3".into()], seconds(1)));

    // But not for ever, nor if they will not come.
    for (script, waits) in [(Script::Hangs, 2), (network(), 0)] {
        let world = fixed(2, &tunnels[0]);
        world.script([script]);
        let start = Instant::now();
        let open = [served(world.open()).await, served(world.open()).await];
        assert_eq!((sessions_of(&open), start.elapsed().as_secs()), (vec!["s-1".into(), "s-1".into()], waits));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_gets_the_session_with_the_least_to_share() {
    let (world, tunnels) = pool_of(2).await;
    let mut open = opens(&world, 4).await;
    assert_eq!(sessions_of(&open), ["s-1", "s-2", "s-1", "s-2"]);
    // Somebody who types, beside a transfer.
    tunnels[0].carry(|statistics| statistics.bytes_up_per_s = 20_000_000);
    tunnels[1].carry(|statistics| statistics.bytes_down_per_s = 2_000);
    open.extend(opens(&world, 2).await);
    assert_eq!(sessions_of(&open[4..]), ["s-2", "s-2"], "quiet connections share a session with quiet ones");
    // Two transfers of much the same rate: fewer connections decide.
    tunnels[1].carry(|statistics| statistics.bytes_down_per_s = 30_000_000);
    assert_eq!(world.outcome().await, named("s-1", 0));
    // One without connections wins, however busy it was a moment ago; lingering ones do not count.
    open[0].lease.linger();
    open[2].lease.linger();
    assert_eq!(world.outcome().await, named("s-1", 0));
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_not_ready_are_passed_over() {
    let (world, tunnels) = pool_of(3).await;
    tunnels[0].set_health(Health::Reconnecting { since: Instant::now() });
    tunnels[1].set_health(Health::Stalled);
    let open = opens(&world, 2).await;
    assert_eq!(sessions_of(&open), ["s-3", "s-3"]);
    tunnels[2].refuse_streams(OpenError::Full(crate::proto::OpenError::TooMany));
    tunnels[1].set_health(Health::Ready);
    assert_eq!(world.outcome().await, named("s-2", 0));
    tunnels[1].refuse_streams(OpenError::Ending);
    tunnels[0].set_health(Health::Ready);
    assert_eq!(world.outcome().await, named("s-1", 0), "the one that is ending is not waited for");
    assert_eq!(world.connector.starts(), 2, "nothing is replaced while one can be used");
}

#[tokio::test(start_paused = true)]
async fn while_all_reconnect_connections_are_held_from_the_last_loss() {
    let (world, tunnels) = pool_of(2).await;
    let start = Instant::now();
    tunnels[0].set_health(Health::Reconnecting { since: start });
    tunnels[1].set_health(Health::Reconnecting { since: start + seconds(10) });
    assert_eq!(world.outcome().await, (None, 70));
    assert_eq!(world.outcome().await, (None, 0));
    let refused = world.told().iter().filter(|told| told.starts_with("refusing")).count();
    assert_eq!(refused, 1);
    tunnels[1].set_health(Health::Ready);
    assert_eq!(world.outcome().await, named("s-2", 0));
    // The first one to be back serves whoever is held.
    tunnels[1].set_health(Health::Reconnecting { since: Instant::now() });
    let held = world.open();
    pass(seconds(30)).await;
    tunnels[0].set_health(Health::Ready);
    assert_eq!(session_of(&served(held).await), "s-1");
}

#[tokio::test(start_paused = true)]
async fn when_none_can_be_used_a_stalled_one_is_replaced() {
    let (world, tunnels) = pool_of(2).await;
    let _open = opens(&world, 2).await;
    world.script([Script::Ready(tunnel("s-3"))]);
    tunnels[0].set_health(Health::Stalled);
    tunnels[1].set_health(Health::Reconnecting { since: Instant::now() });
    assert_eq!(world.outcome().await, named("s-3", 0));
    assert!(!tunnels[0].has_ended(), "it is still used");
    assert_eq!(world.end().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_replaced_while_the_others_go_on() {
    for reason in [lost(), stall_timeout()] {
        let (world, tunnels) = pool_of(3).await;
        let mut open = opens(&world, 3).await;
        world.script([network(), Script::Ready(tunnel("s-4"))]);
        tunnels[1].end(reason.clone());
        assert!(is_reset(&mut open[1]).await);
        assert_eq!(world.outcome().await, named("s-1", 0), "nobody waits");
        pass(seconds(10)).await;
        let by = reason.initiator;
        assert_eq!(
            world.told(),
            [format!("ended s-2: {by:?}"), "1 not started, 2 of 3".into(), format!("s-2 replaced by s-4: {by:?}")]
        );
        assert_eq!(world.outcome().await, named("s-4", 0));
        for at in [0, 2] {
            assert!(time::timeout(seconds(1), is_reset(&mut open[at])).await.is_err(), "they go on");
        }
        assert!(tunnels[1].is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn what_ended_while_it_was_idle_is_not_replaced_until_needed() {
    for reason in [lost(), idle_timeout()] {
        let (world, tunnels) = pool_of(3).await;
        let mut open = opens(&world, 1).await;
        pass(seconds(60)).await;
        tunnels[1].end(reason.clone());
        tunnels[2].end(reason.clone());
        pass(seconds(24 * 3600)).await;
        assert_eq!(world.connector.starts(), 2);
        let by = reason.initiator;
        assert_eq!(
            world.told(),
            [format!("ended s-2: {by:?}"), format!("ended s-3: {by:?}")],
            "no outage, not dormant"
        );
        // The first one that has to share.
        world.script([Script::Ready(tunnel("s-4")), Script::Ready(tunnel("s-5"))]);
        open.extend(opens(&world, 1).await);
        calm().await;
        assert_eq!(world.connector.starts(), 3);
        open.extend(opens(&world, 2).await);
        calm().await;
        open.extend(opens(&world, 1).await);
        assert_eq!(sessions_of(&open), ["s-1", "s-1", "s-4", "s-4", "s-5"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_forward_is_dormant_when_the_service_has_ended_the_last() {
    let (world, tunnels) = pool_of(2).await;
    let _open = opens(&world, 2).await;
    tunnels[0].end(idle_timeout());
    pass(seconds(600)).await;
    assert_eq!(world.told(), ["ended s-1: Service"]);
    tunnels[1].end(idle_timeout());
    pass(seconds(24 * 3600)).await;
    assert_eq!(world.told(), ["ended s-1: Service", "ended s-2: Service", "dormant: Service"]);
    assert_eq!(world.connector.starts(), 1);
    world.script([Script::Ready(tunnel("s-3"))]);
    assert_eq!(world.outcome().await, named("s-3", 0));
}

#[tokio::test(start_paused = true)]
async fn the_last_one_that_is_lost_is_replaced_as_ever() {
    let (world, tunnels) = pool_of(2).await;
    let _open = opens(&world, 2).await;
    world.script([Script::Ready(tunnel("s-3")), Script::Ready(tunnel("s-4"))]);
    tunnels[0].end(lost());
    tunnels[1].end(lost());
    calm().await;
    let told = world.told();
    assert_eq!(told.iter().filter(|told| told.contains("replaced")).count(), 2, "{told:?}");
    let _open = opens(&world, 2).await;
    assert_eq!(world.end().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn auto_grows_after_two_seconds_of_saturation_and_no_further_than_four() {
    let tunnels = mux(5);
    let world = world_with(tunnels[0].clone(), WINDOW);
    world.script(tunnels[1..].iter().cloned().map(Script::Ready));
    let _open = opens(&world, 8).await;
    assert_eq!(world.connector.starts(), 0);
    pass(seconds(60)).await;
    assert_eq!(world.connector.starts(), 0, "nothing is saturated");
    let start = Instant::now();
    let _pump = pump(&tunnels);
    let mut steps = Vec::new();
    while start.elapsed() < seconds(30) {
        let starts = world.connector.starts();
        pass(Duration::from_millis(100)).await;
        if world.connector.starts() > starts {
            steps.push((start.elapsed().as_millis() / 100, world.connector.starts()));
        }
    }
    // It looked seldom before.
    assert!(matches!(steps[..], [(18..=28, 3)]), "one for two connections: {steps:?}");
    assert_eq!(world.end().await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn auto_grows_step_by_step_for_a_few_connections() {
    let tunnels = mux(4);
    let world = world_with(tunnels[0].clone(), WINDOW);
    world.script(tunnels[1..].iter().cloned().map(Script::Ready));
    let mut open = opens(&world, 3).await;
    let _pump = pump_for(3, &tunnels[..1]);
    pass(Duration::from_millis(2500)).await;
    assert_eq!(world.connector.starts(), 1);
    // The new session is of use only to connections that come now.
    pass(seconds(10)).await;
    assert_eq!(world.connector.starts(), 1);
    open.extend(opens(&world, 2).await);
    assert_eq!(sessions_of(&open), ["s-1", "s-1", "s-1", "s-2", "s-2"]);
    let _pump = pump_for(2, &tunnels[1..2]);
    pass(Duration::from_millis(1500)).await;
    assert_eq!(world.connector.starts(), 3);
}

/// Connections that are under way stay where they are: a new session waits for the next.
#[tokio::test(start_paused = true)]
async fn auto_keeps_a_spare_session_while_connections_share_another() {
    let world = world();
    let second = tunnel("s-2");
    world.script([Script::Ready(second.clone())]);
    let _open = opens(&world, 3).await;
    let pump = pump(std::slice::from_ref(&world.first));
    pass(seconds(3600)).await;
    assert_eq!(world.connector.starts(), 1);
    pump.abort();
    world.first.carry(|statistics| statistics.busy_streams = 0);
    pass(seconds(130)).await;
    assert!(second.is_finished());
}

#[tokio::test(start_paused = true)]
async fn auto_stays_at_one_for_one_connection() {
    let tunnels = mux(2);
    let world = world_with(tunnels[0].clone(), WINDOW);
    world.script(tunnels[1..].iter().cloned().map(Script::Ready));
    let _open = opens(&world, 1).await;
    let _pump = pump(&tunnels);
    pass(seconds(600)).await;
    assert_eq!(world.connector.starts(), 0);
    // Nor for two of which one is idle.
    _pump.abort();
    let _pump = pump_for(1, &tunnels);
    let _more = opens(&world, 1).await;
    pass(seconds(600)).await;
    assert_eq!(world.connector.starts(), 0);
}

#[tokio::test(start_paused = true)]
async fn auto_grows_for_uploads_that_are_held_up() {
    let world = world();
    world.script([Script::Ready(tunnel("s-2"))]);
    let _open = opens(&world, 2).await;
    let uploading = world.first.clone();
    tokio::spawn(async move {
        loop {
            uploading.carry(|statistics| {
                statistics.messages_up += 9;
                statistics.bytes_up += 9 * 32_768;
                (statistics.busy_streams, statistics.held_streams) = (2, 2);
            });
            pass(Duration::from_millis(10)).await;
        }
    });
    pass(seconds(3)).await;
    assert_eq!(world.connector.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn auto_backs_off_when_the_api_throttles() {
    let world = world();
    let tunnels = [world.first.clone()];
    world.script([Script::Fails(|| start_failure(ControlErrorKind::Throttled))]);
    let mut open = opens(&world, 8).await;
    let _pump = pump(&tunnels);
    pass(seconds(600)).await;
    let starts = world.connector.starts();
    assert!((5..15).contains(&starts), "{starts} in ten minutes");
    assert_eq!(world.told(), ["1 not started"], "told once");
    assert!(time::timeout(seconds(1), is_reset(&mut open[0])).await.is_err());
    assert_eq!(world.outcome().await, named("s-1", 0));
    world.script([Script::Ready(tunnel("s-2")), Script::Ready(tunnel("s-3"))]);
    pass(seconds(900)).await;
    assert_eq!(world.outcome().await, named("s-2", 0));
}

#[tokio::test(start_paused = true)]
async fn a_denied_session_more_ends_nothing() {
    for kind in [ControlErrorKind::AccessDenied, ControlErrorKind::InvalidDocument] {
        let world = world();
        let tunnels = [world.first.clone()];
        world.script([Script::Fails(match kind {
            ControlErrorKind::AccessDenied => || start_failure(ControlErrorKind::AccessDenied),
            _ => || start_failure(ControlErrorKind::InvalidDocument),
        })]);
        let _open = opens(&world, 8).await;
        let _pump = pump(&tunnels);
        pass(seconds(3600)).await;
        let starts = world.connector.starts();
        assert!((4..14).contains(&starts), "{starts} in an hour");
        assert_eq!(world.told(), ["1 not started"]);
        assert!(!world.supervisor.is_finished());
        assert_eq!(world.outcome().await, named("s-1", 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_has_sixteen_sessions_to_a_target() {
    let accounts = SessionAccounts::default();
    let firsts = mux(3);
    let one = fixed_of(8, &firsts[0], &accounts);
    let other = fixed_of(16, &firsts[1], &accounts);
    for (world, name) in [(&one, "a"), (&other, "b")] {
        world.script((0..SESSIONS_PER_TARGET).map(|at| Script::Ready(tunnel(&format!("{name}-{at}")))));
    }
    pass(seconds(10)).await;
    assert_eq!((one.connector.starts(), other.connector.starts()), (7, 7));
    assert_eq!((one.told(), other.told()), (vec![], vec!["8 of 16 allowed".to_owned()]));
    // A third forward has its session all the same, and an automatic one does not grow.
    let third = world_of(firsts[2].clone(), WINDOW, Sessions::Auto, &accounts);
    let _open = opens(&third, 3).await;
    let _pump = pump_for(3, &firsts[2..]);
    pass(seconds(60)).await;
    assert_eq!((third.connector.starts(), third.told()), (0, vec![]));
    // What one gives back, another one may have.
    one.end().await;
    third.script([Script::Ready(tunnel("c-0"))]);
    pass(seconds(10)).await;
    assert_eq!(third.connector.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn auto_ends_what_was_idle_for_a_minute_but_the_last() {
    let tunnels = mux(4);
    let world = world_with(tunnels[0].clone(), WINDOW);
    world.script(tunnels[1..].iter().cloned().map(Script::Ready));
    let open = opens(&world, 8).await;
    let pump = pump(&tunnels);
    pass(seconds(5)).await;
    pump.abort();
    tunnels.iter().for_each(|tunnel| tunnel.carry(|statistics| statistics.busy_streams = 0));
    let mut other = opens(&world, 3).await;
    assert_eq!(sessions_of(&other), ["s-2", "s-3", "s-4"]);
    drop(other.remove(1));
    drop(open);
    pass(seconds(59)).await;
    assert_eq!(world.told(), Vec::<String>::new());
    pass(seconds(2)).await;
    let mut told = world.told();
    told.sort();
    assert_eq!(told, ["ended s-1: Library", "ended s-3: Library"], "the others are in use");
    assert!(tunnels[0].is_finished() && tunnels[2].is_finished());
    drop(other);
    pass(seconds(24 * 3600)).await;
    let mut told = world.told();
    told.sort();
    assert_eq!(told, ["ended s-1: Library", "ended s-3: Library", "ended s-4: Library"]);
    assert_eq!(world.outcome().await, named("s-2", 0), "the last resort");
}

#[tokio::test(start_paused = true)]
async fn several_sessions_of_basic_mode_carry_as_many_connections_at_a_time() {
    let first = with_mode("s-1", Mode::Basic);
    let world = world_with(first.clone(), WINDOW);
    world.script([Script::Ready(with_mode("s-2", Mode::Basic))]);
    let _one = served(world.open()).await;
    first.take_turns();
    let (two, three) = (world.open(), world.open());
    pass(seconds(1)).await;
    assert!(!two.is_finished() && !three.is_finished() && world.connector.starts() == 0);
    pass(seconds(2)).await;
    assert_eq!(world.connector.starts(), 1, "connections wait for their turn");
    let (done, _waits) = if two.is_finished() { (two, three) } else { (three, two) };
    assert_eq!(session_of(&served(done).await), "s-2");
}

#[tokio::test(start_paused = true)]
async fn in_basic_mode_whoever_waits_gets_the_session_that_is_free_first() {
    let (one, two) = (with_mode("s-1", Mode::Basic), with_mode("s-2", Mode::Basic));
    let world = fixed(2, &one);
    world.script([Script::Ready(two.clone())]);
    calm().await;
    let mut open = opens(&world, 2).await;
    one.take_turns();
    let waits = world.open();
    pass(seconds(5)).await;
    assert!(!waits.is_finished(), "behind the connection of s-1");
    drop(open.pop());
    assert_eq!(session_of(&served(waits).await), "s-2");
}

#[tokio::test(start_paused = true)]
async fn several_raw_sessions_serve_a_connection_each() {
    let tunnels: Vec<_> = (1..=3).map(|at| with_mode(&format!("s-{at}"), Mode::Raw)).collect();
    let world = fixed(2, &tunnels[0]);
    world.script(tunnels[1..].iter().cloned().map(Script::Ready));
    calm().await;
    let mut open = opens(&world, 3).await;
    assert_eq!(sessions_of(&open), ["s-1", "s-2", "s-3"]);
    open.drain(..2);
    calm().await;
    assert!(tunnels[0].is_finished() && tunnels[1].is_finished() && !tunnels[2].has_ended());
}

#[tokio::test(start_paused = true)]
async fn rates_are_told_while_something_moves() {
    let (world, tunnels) = pool_of(2).await;
    let rates = |world: &World| -> Vec<_> {
        let events = world.events.lock().expect("no panic under the lock");
        let rate = |event: &Event| match event {
            Event::SessionRates { session, member, bytes_up_per_s, bytes_down_per_s, connections } => {
                Some((session.0.clone(), *member, *bytes_up_per_s, *bytes_down_per_s, *connections))
            }
            _ => None,
        };
        events.iter().filter_map(rate).collect()
    };
    let open = opens(&world, 3).await;
    pass(seconds(100)).await;
    assert_eq!(rates(&world), [], "nothing has moved");
    tunnels[1].carry(|statistics| (statistics.bytes_up, statistics.bytes_down) = (5_000, 70_000));
    pass(seconds(100)).await;
    assert_eq!(rates(&world), [("s-2".into(), 1, 500, 7_000, 1)]);
    tunnels[0].carry(|statistics| statistics.bytes_down = 10);
    drop(open);
    pass(seconds(3600)).await;
    assert_eq!(rates(&world)[1..], [("s-1".into(), 0, 0, 1, 0)]);
    // An hour without connections is not averaged.
    let _open = opens(&world, 1).await;
    tunnels[0].carry(|statistics| statistics.bytes_down += 70_000);
    pass(seconds(11)).await;
    assert_eq!(rates(&world)[2..], [("s-1".into(), 0, 0, 7_000, 1)]);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_a_pool_and_what_is_being_started() {
    let tunnels = mux(3);
    let world = fixed(5, &tunnels[0]);
    world.script([Script::Ready(tunnels[1].clone()), Script::ReadyWhenCancelled(tunnels[2].clone()), Script::Hangs]);
    calm().await;
    assert_eq!(world.connector.pending(), 3);
    let events = world.events.clone();
    assert_eq!(world.end().await.len(), 2);
    assert!(tunnels.iter().all(TestTunnel::is_finished));
    assert!(told(&events).contains(&"ended s-3: Us".to_owned()), "{:?}", told(&events));
}

#[tokio::test(start_paused = true)]
async fn each_session_has_its_slot_and_the_next_one_in_it_the_same() {
    let (world, tunnels) = pool_of(3).await;
    let _open = opens(&world, 3).await;
    world.script([Script::Ready(tunnel("s-4"))]);
    tunnels[1].end(lost());
    calm().await;
    let events = world.events.lock().expect("no panic under the lock");
    let slot = |event: &Event| match event {
        Event::Session { session, member, .. } => Some(format!("started {session} {member}")),
        Event::SessionEnded { session, member, .. } => Some(format!("ended {session} {member}")),
        Event::SessionReplaced { session, member, .. } => Some(format!("replaced {session} {member}")),
        _ => None,
    };
    let slots: Vec<_> = events.iter().filter_map(slot).collect();
    assert_eq!(slots, ["started s-2 1", "started s-3 2", "ended s-2 1", "started s-4 1", "replaced s-4 1"]);
}
