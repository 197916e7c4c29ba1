//! The forward stops: while it serves, while connections wait, while a session is being started.

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

#[tokio::test(start_paused = true)]
async fn stopping_ends_everything_in_every_state() {
    // Serving and in use.
    let one = world();
    let (first, _open) = (one.first.clone(), served(one.open()).await);
    let ends = one.end().await;
    assert_eq!(ends, [(SessionId("s-1".into()), requested())]);
    assert!(first.is_finished());

    // Reconnecting, a connection held.
    let one = world();
    one.first.set_health(Health::Reconnecting { since: Instant::now() });
    let (first, held) = (one.first.clone(), one.open());
    calm().await;
    assert_eq!(one.end().await.len(), 1);
    refused(held).await;
    assert!(first.is_finished());

    // Replacing: a start under way, a connection held.
    let one = world();
    one.script([Script::Hangs]);
    one.first.end(lost());
    let (first, held) = (one.first.clone(), one.open());
    calm().await;
    assert_eq!(one.connector.pending(), 1);
    assert_eq!(one.end().await, []);
    refused(held).await;
    assert!(first.is_finished());

    // Replacing: between two starts.
    let one = world();
    one.script([network()]);
    one.first.end(lost());
    pass(seconds(100)).await;
    assert_eq!((one.connector.pending(), one.end().await), (0, vec![]));

    // Dormant.
    let one = world();
    one.first.end(idle_timeout());
    calm().await;
    let first = one.first.clone();
    assert_eq!(one.end().await, []);
    assert!(first.is_finished());

    // Woken: a start under way.
    let one = world();
    one.script([Script::Hangs]);
    one.first.end(idle_timeout());
    let held = one.open();
    calm().await;
    assert_eq!(one.connector.pending(), 1);
    assert_eq!(one.end().await, []);
    refused(held).await;

    // Retired sessions.
    let (one, tunnels, _open) = retired::world_of_stalled().await;
    assert_eq!(one.end().await.len(), 5);
    assert!(tunnels.iter().all(TestTunnel::is_finished));
}
