//! The machine or the network wakes while a lost session is being replaced.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_wake_cuts_the_pause_before_the_next_start_short() {
    let world = world();
    world.script([network()]);
    world.first.end(lost());
    pass(seconds(600)).await;
    for _ in 0..5 {
        let starts = world.connector.starts();
        world.connector.wakes.send_modify(|wakes| *wakes += 1);
        calm().await;
        assert_eq!(world.connector.starts(), starts + 1, "at once");
    }
    world.script([Script::Ready(tunnel("s-2"))]);
    world.connector.wakes.send_modify(|wakes| *wakes += 1);
    let start = Instant::now();
    let ready = world.supply.offers.clone().wait_for(|offer| matches!(offer, Offer::Pool(_))).await.is_ok();
    assert!(ready && start.elapsed() <= seconds(1), "{:?}", start.elapsed());
}

/// What a policy has ended is not started by a laptop that is opened.
#[tokio::test(start_paused = true)]
async fn a_wake_starts_nothing_that_nobody_needs() {
    let world = world();
    world.first.end(idle_timeout());
    world.connector.wakes.send_modify(|wakes| *wakes += 1);
    pass(seconds(600)).await;
    assert_eq!(world.connector.starts(), 0);
}
