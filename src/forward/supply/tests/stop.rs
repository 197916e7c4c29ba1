//! The forward stops while connections wait or a session is being started.

use super::*;

/// A start that succeeds although it was cancelled: its session is ended.
#[tokio::test(start_paused = true)]
async fn a_session_that_gets_ready_too_late_is_ended() {
    let world = world();
    let late = tunnel("s-2");
    world.script([Script::ReadyWhenCancelled(late.clone())]);
    world.first.end(lost());
    calm().await;
    assert_eq!(world.connector.pending(), 1);
    let events = world.events.clone();
    world.end().await;
    assert!(late.is_finished());
    // It was told to be started, so its end is told as well.
    assert!(told(&events).contains(&"ended s-2: Us".to_owned()), "{:?}", told(&events));
}

#[tokio::test(start_paused = true)]
async fn connections_that_outlive_the_supervisor_are_refused() {
    let world = world();
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    let held = world.open();
    calm().await;
    world.supervisor.abort();
    let start = Instant::now();
    refused(held).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}
