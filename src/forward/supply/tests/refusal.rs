//! Starts that AWS refuses: some end the forward.

use super::*;

#[tokio::test(start_paused = true)]
async fn access_denied_for_a_minute_ends_the_forward() {
    for held in [false, true] {
        let world = world_with(tunnel("s-1"), seconds(600));
        world.script([Script::Fails(|| start_failure(ControlErrorKind::AccessDenied))]);
        let start = Instant::now();
        // In the second round the forward is dormant, and a connection waits.
        world.first.end(if held { idle_timeout() } else { lost() });
        let connection = held.then(|| world.open());
        let (failure, _) = world.supervisor.await.expect("no panic");
        assert!(matches!(failure, Some(ConnectError::Control(error)) if error.kind == ControlErrorKind::AccessDenied));
        let after = start.elapsed().as_secs();
        assert!((60..91).contains(&after), "{after}");
        if let Some(connection) = connection {
            refused(connection).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn access_denied_between_other_failures_does_not_end_the_forward() {
    let world = world();
    let denied = || Script::Fails(|| start_failure(ControlErrorKind::AccessDenied));
    world.script((0..40).flat_map(|_| [denied(), denied(), network()]));
    world.first.end(lost());
    pass(seconds(600)).await;
    assert!(world.connector.starts() > 20 && !world.supervisor.is_finished());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_document_that_is_gone_ends_the_forward_at_once() {
    let world = world();
    world.script([Script::Fails(|| start_failure(ControlErrorKind::InvalidDocument))]);
    world.first.end(lost());
    let start = Instant::now();
    let (failure, _) = world.supervisor.await.expect("no panic");
    assert!(matches!(failure, Some(ConnectError::Control(error)) if error.kind == ControlErrorKind::InvalidDocument));
    assert_eq!((start.elapsed(), world.connector.starts()), (Duration::ZERO, 1));
}
