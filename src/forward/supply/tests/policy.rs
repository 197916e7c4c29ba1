//! Sessions that somebody ends before they are ready.

use super::*;

fn ended_by_a_policy() -> ConnectError {
    ConnectError::Closed(CloseReason::new(Initiator::Service, Cause::ChannelClosed("not today".into())))
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_is_ended_before_it_is_ready_is_not_tried_again_without_a_connection() {
    for by in [Initiator::Service, Initiator::Agent] {
        let world = world();
        world.script([Script::Fails(match by {
            Initiator::Service => ended_by_a_policy,
            _ => || ConnectError::Closed(end_of_data()),
        })]);
        world.first.end(lost());
        pass(seconds(24 * 3600)).await;
        assert_eq!(world.connector.starts(), 1);
        let expected =
            ["ended s-1: Transport".to_owned(), format!("ended start-1: {by:?}"), format!("dormant: {by:?}")];
        assert_eq!(world.told(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn for_a_connection_it_is_tried_again_ever_more_slowly() {
    let world = world_with(tunnel("s-1"), seconds(600));
    world.script([Script::Fails(ended_by_a_policy)]);
    world.first.end(lost());
    let _held = world.open();
    let mut starts = Vec::new();
    for _ in 0..100 {
        starts.push(world.connector.starts());
        pass(seconds(1)).await;
    }
    // The lost session is the first step of the ladder: 1, 2, 4, 8, 16 and 32 s between the starts after it.
    assert_eq!([0, 1, 3, 7, 15, 31, 63].map(|second| starts[second + 1]), [1, 2, 3, 4, 5, 6, 7]);
    let told = world.told();
    assert_eq!(told.iter().filter(|told| told.starts_with("dormant")).count(), 1, "{told:?}");
    assert!(told.iter().any(|told| told.starts_with("failed 2: ")), "{told:?}");
    world.script([Script::Ready(tunnel("s-2"))]);
    assert_eq!(world.outcome().await.0.as_deref(), Some("s-2"));
    assert!(!world.told().iter().any(|told| told.contains("replaced")), "it was not replaced, but asked for");
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_is_lost_before_it_is_ready_is_tried_again() {
    let world = world();
    world.script([Script::Fails(|| ConnectError::Closed(lost())), Script::Ready(tunnel("s-2"))]);
    world.first.end(lost());
    pass(seconds(1)).await;
    assert_eq!(world.told().last().map(String::as_str), Some("s-1 replaced by s-2: Transport"));
}

/// What was told to be started is told to be over, once each.
#[tokio::test(start_paused = true)]
async fn every_session_that_was_started_is_told_to_be_over() {
    let world = world();
    let scripts: [fn() -> ConnectError; 3] = [
        || ConnectError::TimedOut(seconds(30)),
        || ConnectError::Closed(lost()),
        || start_failure(ControlErrorKind::Network),
    ];
    world.script(scripts.map(Script::Fails));
    world.script([Script::Hangs]);
    world.first.end(lost());
    pass(seconds(60)).await;
    let events = world.events.clone();
    world.end().await;
    let mut started: Vec<_> = events
        .lock()
        .expect("no panic under the lock")
        .iter()
        .filter_map(|event| match event {
            Event::Session { session, .. } => Some(session.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(started, ["start-1", "start-2", "start-4"], "StartSession failed the third time");
    started.insert(0, "s-1".into());
    let told = told(&events);
    let ended: Vec<_> = told.iter().filter_map(|told| told.strip_prefix("ended ")?.split(':').next()).collect();
    assert_eq!(ended, started);
    assert_eq!(told.last().map(String::as_str), Some("ended start-4: Us"));
}
