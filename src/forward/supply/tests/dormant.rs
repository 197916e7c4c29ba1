//! The service has ended the session: the next connection starts another one.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_the_service_ended_stays_ended_until_a_connection_comes() {
    for reason in [idle_timeout(), end_of_data(), requested()] {
        let world = world();
        world.script([Script::Ready(tunnel("s-2"))]);
        world.first.end(reason.clone());
        pass(seconds(24 * 3600)).await;
        assert_eq!(world.connector.starts(), 0, "{reason}");
        let by = reason.initiator;
        assert_eq!(world.told(), [format!("ended s-1: {by:?}"), format!("dormant: {by:?}")]);

        let connections: Vec<_> = (0..10).map(|_| world.open()).collect();
        for connection in connections {
            assert_eq!(session_of(&served(connection).await), "s-2");
        }
        assert_eq!(world.connector.starts(), 1);
        assert_eq!(world.told().len(), 2, "the session's own event tells that it started");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_held_when_the_service_ends_the_session_start_another() {
    let world = world();
    world.script([Script::Ready(tunnel("s-2"))]);
    world.first.set_health(Health::Reconnecting { since: Instant::now() });
    let held = world.open();
    pass(seconds(30)).await;
    world.first.end(idle_timeout());
    assert_eq!(session_of(&served(held).await), "s-2");
    assert_eq!(world.told(), ["ended s-1: Service", "dormant: Service"]);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_keep_ending_are_started_ever_more_slowly() {
    let world = world();
    let tunnels: Vec<_> = (2..13).map(|at| tunnel(&format!("s-{at}"))).collect();
    world.script(tunnels.iter().cloned().map(Script::Ready));
    let mut current = &world.first;
    let mut pauses = Vec::new();
    for (at, next) in tunnels.iter().enumerate() {
        if at == 9 {
            pass(seconds(60)).await;
        }
        current.end(idle_timeout());
        let (session, pause) = world.outcome().await;
        assert_eq!(session.as_ref(), Some(&next.id().0));
        pauses.push(pause);
        current = next;
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60, /* one that lasted */ 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn for_a_dormant_forward_starts_are_tried_only_while_a_connection_waits() {
    let world = world();
    world.script([network()]);
    world.first.end(idle_timeout());
    calm().await;
    let waiting = world.open();
    pass(seconds(20)).await;
    let starts = world.connector.starts();
    assert!(starts > 1, "{starts}");
    waiting.abort();
    pass(seconds(3600)).await;
    assert_eq!(world.connector.starts(), starts);
    // The window counts from the first that waits, again and again.
    for _ in 0..2 {
        let one = world.open();
        pass(seconds(50)).await;
        assert_eq!(world.outcome().await, (None, 10));
        refused(one).await;
        let starts = world.connector.starts();
        pass(seconds(3600)).await;
        assert_eq!(world.connector.starts(), starts);
    }
    let waiting = world.open();
    calm().await;
    world.script([Script::Ready(tunnel("s-2"))]);
    assert_eq!(session_of(&served(waiting).await), "s-2");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nobody_waits_for_any_more_serves_the_next_connection() {
    let world = world();
    world.script([Script::ReadyAfter(seconds(20), tunnel("s-2")), network()]);
    world.first.end(idle_timeout());
    for _ in 0..5 {
        let gave_up = world.open();
        pass(seconds(3)).await;
        gave_up.abort();
        calm().await;
    }
    assert_eq!((world.connector.starts(), world.connector.pending()), (1, 1), "neither cancelled nor repeated");
    pass(seconds(600)).await;
    assert_eq!((world.outcome().await, world.connector.starts()), (named("s-2", 0), 1));
}
