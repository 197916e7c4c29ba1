//! Sessions that carry one connection each.

use super::*;

#[tokio::test(start_paused = true)]
async fn sessions_for_one_connection_follow_each_other_at_once() {
    let world = world_with(with_mode("s-1", Mode::Raw), WINDOW);
    let tunnels: Vec<_> = (2..8).map(|at| with_mode(&format!("s-{at}"), Mode::Raw)).collect();
    world.script(tunnels.iter().cloned().map(Script::Ready));
    let mut current = &world.first;
    for next in &tunnels {
        assert_eq!(world.outcome().await, (Some(current.id().0.clone()), 0));
        current.end(end_of_data());
        calm().await;
        current = next;
    }
    // One that ends without having carried anything is another matter.
    let unused = &tunnels[5];
    world.script([Script::Ready(tunnel("s-8")), Script::Ready(tunnel("s-9"))]);
    assert_eq!(world.connector.starts(), 5);
    assert_eq!(world.outcome().await, (Some(unused.id().0.clone()), 0));
}

#[tokio::test(start_paused = true)]
async fn connections_at_the_same_time_get_sessions_of_their_own_where_a_session_carries_one() {
    let world = world_with(with_mode("s-1", Mode::Raw), WINDOW);
    world.script([Script::Ready(with_mode("s-2", Mode::Raw)), Script::Ready(with_mode("s-3", Mode::Raw))]);
    let one = served(world.open()).await;
    let (two, three) = (world.open(), world.open());
    let mut sessions = [session_of(&one), session_of(&served(two).await), session_of(&served(three).await)];
    sessions.sort();
    assert_eq!(sessions, ["s-1", "s-2", "s-3"]);
    assert!(!world.first.has_ended(), "it is in use");
    drop(one);
    calm().await;
    assert!(world.first.is_finished());
    assert_eq!(world.told(), ["ended s-2: Us", "ended s-1: Us"], "s-2 was dropped first");
}
