//! A session is lost, or its websocket: connections wait for it or for its replacement.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_ready_session_serves_at_once_and_is_the_only_one() {
    let world = world();
    assert_eq!(world.outcome().await, named("s-1", 0));
    pass(seconds(3600)).await;
    assert_eq!(world.outcome().await, named("s-1", 0));
    assert_eq!(world.connector.starts(), 0);
    let first = world.first.clone();
    assert_eq!(world.end().await.len(), 1);
    assert!(first.is_finished());
}

#[tokio::test(start_paused = true)]
async fn connections_are_held_while_the_websocket_is_replaced() {
    let world = world();
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    let (one, other) = (world.open(), world.open());
    pass(seconds(59)).await;
    assert!(!one.is_finished() && !other.is_finished());
    world.first.set_health(Health::Ready);
    assert_eq!([session_of(&served(one).await), session_of(&served(other).await)], ["s-1", "s-1"]);
    assert_eq!(world.connector.starts(), 0, "the session was resumed, not replaced");
}

#[tokio::test(start_paused = true)]
async fn the_reconnect_window_counts_from_the_loss_and_then_refusals_are_quick() {
    let world = world();
    let since = Instant::now();
    world.first.set_health(Health::Reconnecting { since });
    assert_eq!(world.outcome().await, (None, 60));
    assert_eq!(world.outcome().await, (None, 0));
    world.first.set_health(Health::Reconnecting { since: Instant::now() - seconds(20) });
    assert_eq!(world.outcome().await, (None, 40));
    world.first.set_health(Health::Ready);
    assert_eq!(world.outcome().await, named("s-1", 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_replaced_without_being_asked_for() {
    for reason in [lost(), stall_timeout()] {
        let world = world();
        let mut old = served(world.open()).await;
        world.script([Script::Ready(tunnel("s-2"))]);
        world.first.end(reason.clone());
        calm().await;
        assert_eq!(world.connector.starts(), 1);
        let by = reason.initiator;
        assert_eq!(world.told(), [format!("ended s-1: {by:?}"), format!("s-1 replaced by s-2: {by:?}")]);
        assert!(is_reset(&mut old).await);
        assert_eq!(world.outcome().await, named("s-2", 0));
        drop(old);
        calm().await;
        assert!(world.first.is_finished(), "the API was told, if it had to be");
        assert_eq!(world.end().await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replacement_is_tried_for_ever_while_connections_are_held_and_then_refused() {
    let world = world();
    world.script([network()]);
    world.first.end(lost());
    assert_eq!(world.outcome().await, (None, 60));
    pass(seconds(3600)).await;
    let starts = world.connector.starts();
    assert!((120..600).contains(&starts), "{starts} in an hour: a pause of 15 s on average");
    assert_eq!(world.outcome().await, (None, 0));
    world.script([Script::Ready(tunnel("s-2"))]);
    pass(seconds(61)).await;
    assert_eq!(world.outcome().await, named("s-2", 0));
    let told = world.told();
    assert_eq!(told[..2], ["ended s-1: Transport", "failed 1: StartSession of i-0a failed: no"]);
    assert_eq!(told.last().map(String::as_str), Some("s-1 replaced by s-2: Transport"));
    let dormant = told.iter().any(|told| told.starts_with("dormant"));
    assert!(!dormant, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn the_outage_of_a_session_that_could_not_be_resumed_began_with_its_websocket() {
    let world = world();
    world.script([network()]);
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    let held = world.open();
    pass(seconds(50)).await;
    world.first.end(lost());
    let start = Instant::now();
    refused(held).await;
    assert_eq!(start.elapsed(), seconds(10));
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_lost_again_and_again_are_replaced_ever_more_slowly() {
    let world = world_with(tunnel("s-1"), seconds(600));
    let tunnels: Vec<_> = (2..10).map(|at| tunnel(&format!("s-{at}"))).collect();
    world.script(tunnels.iter().cloned().map(Script::Ready));
    let mut current = &world.first;
    let mut pauses = Vec::new();
    for next in &tunnels {
        let start = Instant::now();
        current.end(lost());
        assert_eq!(world.outcome().await.0.as_ref(), Some(&next.id().0));
        pauses.push(start.elapsed().as_secs());
        current = next;
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_between_the_offer_and_the_open_is_not_used() {
    let world = world();
    world.script([Script::Ready(tunnel("s-2")), Script::Ready(tunnel("s-3"))]);
    // Its health does not tell yet.
    world.first.refuse_streams(OpenError::Ending);
    let connection = world.open();
    pass(seconds(1)).await;
    assert!(!connection.is_finished());
    world.first.end(idle_timeout());
    let opened = served(connection).await;
    assert_eq!(session_of(&opened), "s-2");

    // Nor did the supervisor notice: this runs before it.
    let supply = world.supply.clone();
    let second = opened.lease.tunnel().clone();
    second.end(lost());
    let opened = supply.open().await.unwrap_or_else(|_| panic!("no session"));
    assert_eq!(session_of(&opened), "s-3");
}

#[tokio::test(start_paused = true)]
async fn a_basic_session_that_reconnects_does_not_keep_its_queue_beyond_the_window() {
    let (first, peers) = TestTunnel::with("s-1", Mode::Basic);
    let world = world_with(first, WINDOW);
    // As while another connection has its turn: the tunnel's `open` waits.
    world.first.take_turns();
    let queued = world.open();
    pass(seconds(3600)).await;
    assert!(!queued.is_finished());
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    let start = Instant::now();
    refused(queued).await;
    assert_eq!(start.elapsed(), WINDOW);
    drop(peers);
}
