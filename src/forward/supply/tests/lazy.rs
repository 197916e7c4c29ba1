//! Forwards that begin without a session.

use super::{pool::mux, *};
use crate::forward::ForwardState;

fn lazy_world(sessions: Sessions, window: Duration) -> World {
    world_from(None, window, sessions, None, &SessionAccounts::default())
}

#[tokio::test(start_paused = true)]
async fn the_first_connection_starts_the_session() {
    let world = lazy_world(Sessions::Auto, WINDOW);
    world.script([Script::ReadyAfter(seconds(3), tunnel("s-1"))]);
    pass(seconds(24 * 3600)).await;
    assert_eq!((world.connector.starts(), world.monitor.status().state), (0, ForwardState::Dormant));
    let (one, two) = (world.open(), world.open());
    calm().await;
    assert_eq!(world.monitor.status().state, ForwardState::Waking);
    assert_eq!([session_of(&served(one).await), session_of(&served(two).await)], ["s-1", "s-1"]);
    assert_eq!((world.connector.starts(), world.told()), (1, vec![]));
    let status = world.monitor.status();
    assert_eq!((status.state, status.sessions[0].member), (ForwardState::Ready, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_fixed_number_the_others_follow_the_first() {
    let world = lazy_world("3".parse().expect("a number of sessions"), WINDOW);
    let tunnels = mux(3);
    world.script(tunnels.iter().cloned().map(Script::Ready));
    pass(seconds(60)).await;
    assert_eq!(world.connector.starts(), 0);
    let one = served(world.open()).await;
    calm().await;
    assert_eq!((session_of(&one), world.connector.starts()), ("s-1".to_owned(), 3));
    let two = served(world.open()).await;
    assert_eq!(session_of(&two), "s-2");
    let members: Vec<_> = world.monitor.status().sessions.iter().map(|session| session.member).collect();
    assert_eq!(members, [0, 1, 2]);
    // Once: after a rest they come back as they are needed.
    drop((one, two));
    tunnels.iter().for_each(|tunnel| tunnel.end(idle_timeout()));
    calm().await;
    world.script((4..7).map(|at| Script::Ready(tunnel(&format!("s-{at}")))));
    let _one = served(world.open()).await;
    pass(seconds(60)).await;
    assert_eq!(world.connector.starts(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_first_start_that_fails_is_tried_again_while_connections_are_held() {
    for (window, patience) in [(WINDOW, 60), (seconds(2), 30)] {
        let world = lazy_world(Sessions::Auto, window);
        world.script([network()]);
        let (held, start) = (world.open(), Instant::now());
        pass(seconds(20)).await;
        let state = world.monitor.status().state;
        assert_eq!(state, ForwardState::Reconnecting { since: seconds(20) }, "it waits and cannot be served");
        refused(held).await;
        assert_eq!(start.elapsed().as_secs(), patience, "the window, but no less than the connect timeout");
        calm().await;
        assert_eq!(world.monitor.status().state, ForwardState::Dormant);
        let told = world.told();
        assert_eq!(told[0], "failed 1: StartSession of i-0a failed: no");
        assert!(told.len() > 3, "{told:?}");
        let starts = world.connector.starts();
        pass(seconds(3600)).await;
        assert!(world.connector.starts() <= starts + 1, "nobody waits");
        assert_eq!(world.monitor.status().totals.start_failures, world.connector.starts() as u64);
        world.script([Script::Ready(tunnel("s-1"))]);
        assert_eq!(world.outcome().await.0.as_deref(), Some("s-1"));
        world.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_heal_ends_the_forward() {
    let failures: [(fn() -> ConnectError, u64); 2] = [
        (|| start_failure(ControlErrorKind::InvalidDocument), 0),
        (|| start_failure(ControlErrorKind::AccessDenied), 60),
    ];
    for (failure, after) in failures {
        let world = lazy_world(Sessions::Auto, seconds(600));
        world.script([Script::Fails(failure)]);
        pass(seconds(3600)).await;
        let start = Instant::now();
        refused(world.open()).await;
        let (failed, ends) = world.supervisor.await.expect("no panic");
        assert!(matches!(failed, Some(ConnectError::Control(_))) && ends.is_empty(), "{failed:?}");
        let took = start.elapsed().as_secs();
        assert!((after..after + 31).contains(&took), "{took} s");
    }
}
