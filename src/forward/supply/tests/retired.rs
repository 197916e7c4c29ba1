//! Sessions that new connections cannot use and old ones still do.

use super::*;
use crate::proto;

#[tokio::test(start_paused = true)]
async fn a_stalled_session_is_retired_at_the_next_connection_and_ended_after_its_last() {
    let world = world();
    let (one, two) = (served(world.open()).await, served(world.open()).await);
    world.script([Script::Ready(tunnel("s-2"))]);
    world.first.set_health(Health::Stalled);
    pass(seconds(100)).await;
    assert_eq!(world.connector.starts(), 0, "nobody needs another one yet");
    assert_eq!(world.outcome().await, named("s-2", 0));
    // Recovered or not, it only serves whom it served.
    world.first.set_health(Health::Ready);
    assert_eq!(world.outcome().await, named("s-2", 0));
    drop(one);
    calm().await;
    assert!(!world.first.has_ended(), "the other connection still uses it");
    drop(two);
    calm().await;
    assert!(world.first.is_finished());
    assert_eq!(world.told(), ["ended s-1: Us"], "neither an outage nor dormancy");
    assert_eq!((world.connector.starts(), world.outcome().await), (1, named("s-2", 0)));
}

#[tokio::test(start_paused = true)]
async fn a_retired_session_that_dies_takes_only_its_connections_along() {
    let world = world();
    let mut old = served(world.open()).await;
    world.script([Script::Ready(tunnel("s-2"))]);
    world.first.set_health(Health::Stalled);
    let mut new = served(world.open()).await;
    world.first.end(stall_timeout());
    assert!(is_reset(&mut old).await);
    pass(seconds(3600)).await;
    assert!(time::timeout(seconds(1), is_reset(&mut new)).await.is_err(), "the other goes on");
    assert_eq!((world.told(), world.connector.starts()), (vec!["ended s-1: Library".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_takes_no_more_streams_is_retired() {
    for error in
        [OpenError::Full(proto::OpenError::TooMany), OpenError::Full(proto::OpenError::Exhausted), OpenError::Used]
    {
        let world = world();
        let old = served(world.open()).await;
        world.script([Script::Ready(tunnel("s-2"))]);
        world.first.refuse_streams(error);
        assert_eq!(world.outcome().await, named("s-2", 0));
        assert!(!world.first.has_ended());
        drop(old);
        calm().await;
        assert!(world.first.is_finished());
    }
}

/// Sessions `s-1` to `s-5`, all stalled and in use, the last one not retired.
pub(super) async fn world_of_stalled() -> (World, Vec<TestTunnel>, Vec<Opened<TestStream, TestTunnel>>) {
    let world = world();
    let mut tunnels = vec![world.first.clone()];
    tunnels.extend((2..=5).map(|at| tunnel(&format!("s-{at}"))));
    world.script(tunnels[1..].iter().cloned().map(Script::Ready));
    let mut open = Vec::new();
    for tunnel in &tunnels {
        let opened = served(world.open()).await;
        assert_eq!(session_of(&opened), tunnel.id().0);
        tunnel.set_health(Health::Stalled);
        open.push(opened);
    }
    (world, tunnels, open)
}

#[tokio::test(start_paused = true)]
async fn only_so_many_sessions_are_retired_and_then_connections_wait() {
    let (world, tunnels, mut open) = world_of_stalled().await;
    world.script([Script::Ready(tunnel("s-6"))]);
    assert_eq!(world.outcome().await, (None, 60));
    assert_eq!(world.outcome().await, (None, 0));
    assert_eq!(world.connector.starts(), 4);
    drop(open.remove(2));
    calm().await;
    assert!(tunnels[2].is_finished());
    assert_eq!(world.outcome().await, named("s-6", 0));
    assert!(!tunnels[4].has_ended(), "retired");
    drop(open);
    calm().await;
    let ended = world.told().iter().filter(|told| told.starts_with("ended")).count();
    assert_eq!((ended, world.end().await), (5, vec![(SessionId("s-6".into()), requested())]));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_could_not_be_retired_serves_again_when_it_recovers() {
    let (world, tunnels, _open) = world_of_stalled().await;
    let held = world.open();
    pass(seconds(50)).await;
    tunnels[4].set_health(Health::Ready);
    assert_eq!(session_of(&served(held).await), "s-5");
    pass(seconds(3600)).await;
    // And the next time is counted afresh.
    tunnels[4].set_health(Health::Stalled);
    assert_eq!(world.outcome().await, (None, 60));
    assert_eq!(world.connector.starts(), 4);
}
