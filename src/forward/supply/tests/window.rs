//! How long connections are held, if the reconnect window is shorter than a start takes, or closes.

use super::*;
use crate::forward::CONNECT_TIMEOUT;

#[tokio::test(start_paused = true)]
async fn a_start_out_of_dormancy_has_the_time_that_a_start_may_take() {
    for window in [Duration::ZERO, seconds(1)] {
        let world = world_with(tunnel("s-1"), window);
        world.script([Script::ReadyAfter(seconds(29), tunnel("s-2"))]);
        world.first.end(idle_timeout());
        assert_eq!(world.outcome().await, named("s-2", 29));
        world.first.end(idle_timeout());
    }
    // But not more; and a longer window counts.
    for window in [Duration::ZERO, CONNECT_TIMEOUT * 3] {
        let world = world_with(tunnel("s-1"), window);
        world.script([network()]);
        world.first.end(idle_timeout());
        calm().await;
        let held = world.open();
        pass(seconds(10)).await;
        let left = window.max(CONNECT_TIMEOUT).as_secs() - 10;
        assert_eq!(world.outcome().await, (None, left), "counted from the first that waits");
        refused(held).await;
        assert!(!world.told().iter().any(|told| told.starts_with("refusing")), "the next one is held again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_in_place_of_an_unfit_one_has_the_time_that_a_start_may_take() {
    let unfit: [fn(&TestTunnel); 2] =
        [|first| first.set_health(Health::Stalled), |first| first.refuse_streams(OpenError::Used)];
    for unfit in unfit {
        let world = world_with(tunnel("s-1"), Duration::ZERO);
        let _old = served(world.open()).await;
        world.script([Script::ReadyAfter(seconds(20), tunnel("s-2"))]);
        unfit(&world.first);
        assert_eq!(world.outcome().await, named("s-2", 20));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_before_the_supervisor_looks_gets_a_session_of_its_own() {
    let world = world_with(with_mode("s-1", Mode::Raw), Duration::ZERO);
    world.script([Script::Ready(with_mode("s-2", Mode::Raw))]);
    // The supervisor's task has not run yet, and finds a session that is ready and yet used.
    let supply = world.supply.clone();
    let (one, two) = tokio::join!(supply.open(), supply.open());
    let sessions = [one, two].map(|opened| opened.map(|opened| session_of(&opened)).unwrap_or_default());
    assert_eq!(sessions, ["s-1", "s-2"]);
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_a_window_of_nothing_refuses_at_once() {
    let world = world_with(tunnel("s-1"), Duration::ZERO);
    world.script([Script::ReadyAfter(seconds(5), tunnel("s-2"))]);
    world.first.end(lost());
    calm().await;
    assert_eq!(world.outcome().await, (None, 0));
    pass(seconds(5)).await;
    assert_eq!(world.outcome().await, named("s-2", 0));
}

#[tokio::test(start_paused = true)]
async fn that_connections_are_refused_is_told_once_in_an_outage() {
    let world = world();
    world.script([network()]);
    let refusing = || world.told().into_iter().filter(|told| told.starts_with("refusing")).collect::<Vec<_>>();
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    pass(seconds(100)).await;
    assert!(refusing().is_empty(), "nobody was refused");
    for _ in 0..3 {
        assert_eq!(world.outcome().await, (None, 0));
    }
    assert_eq!(refusing(), ["refusing after 100 s"]);
    // The same outage.
    world.first.end(lost());
    pass(seconds(100)).await;
    assert_eq!(world.outcome().await, (None, 0));
    assert_eq!(refusing().len(), 1);
    // Another one.
    let second = tunnel("s-2");
    world.script([Script::Ready(second.clone())]);
    pass(seconds(60)).await;
    assert_eq!(world.outcome().await, named("s-2", 0));
    second.set_health(Health::Reconnecting { since: Instant::now() });
    assert_eq!(world.outcome().await, (None, 60));
    assert_eq!(refusing(), ["refusing after 100 s", "refusing after 60 s"]);
}
