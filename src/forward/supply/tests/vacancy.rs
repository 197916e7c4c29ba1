//! Sessions of which none can be used, and what comes after them.

use super::{
    pool::{fixed, fixed_of, mux, opens, pool_of, sessions_of},
    *,
};

fn reconnecting() -> Health {
    Health::Reconnecting { since: Instant::now() }
}

/// `s-1` has reconnected for longer than the window, `s-2` was ready all the time; both are in use.
async fn half_lost() -> (World, Vec<TestTunnel>, Vec<Opened<TestStream, TestTunnel>>) {
    let (world, tunnels) = pool_of(2).await;
    let open = opens(&world, 2).await;
    tunnels[0].set_health(reconnecting());
    pass(seconds(100)).await;
    (world, tunnels, open)
}

#[tokio::test(start_paused = true)]
async fn an_old_outage_of_another_session_refuses_nobody() {
    let gone: [fn(&TestTunnel); 3] = [
        |last| last.set_health(Health::Stalled),
        |last| last.refuse_streams(OpenError::Full(crate::proto::OpenError::TooMany)),
        |last| last.end(idle_timeout()),
    ];
    for gone in gone {
        let (world, tunnels, _open) = half_lost().await;
        world.script([network(), Script::ReadyAfter(seconds(20), tunnel("s-3"))]);
        gone(&tunnels[1]);
        pass(seconds(200)).await;
        assert_eq!(world.connector.starts(), 1, "nobody needs another one yet");
        let (session, after) = world.outcome().await;
        assert!(session.as_deref() == Some("s-3") && (20..=21).contains(&after), "{session:?} after {after} s");
        assert!(!world.told().iter().any(|told| told.starts_with("refusing")));
    }
}

#[tokio::test(start_paused = true)]
async fn the_outage_of_a_pool_begins_with_the_loss_of_its_last_and_is_ended_without_being_asked() {
    for idle in [false, true] {
        let (world, tunnels, mut open) = half_lost().await;
        world.script([network()]);
        if idle {
            open.clear();
            pass(seconds(10)).await;
        }
        tunnels[1].end(lost());
        pass(seconds(10)).await;
        assert!(world.connector.starts() > 2);
        assert_eq!((world.outcome().await, world.outcome().await), ((None, 50), (None, 0)), "idle: {idle}");
        world.script([Script::Ready(tunnel("s-3"))]);
        pass(seconds(60)).await;
        assert_eq!(world.outcome().await, named("s-3", 0));
    }
}

/// As for a forward that has lost its last session, but that nothing is for good: one of the pool may come back.
#[tokio::test(start_paused = true)]
async fn starts_that_fail_while_none_can_be_used_are_told() {
    let gone: [fn(&TestTunnel); 3] =
        [|last| last.set_health(Health::Stalled), |last| last.end(idle_timeout()), |last| last.end(lost())];
    let errors: [fn() -> ConnectError; 3] = [
        || start_failure(ControlErrorKind::ExpiredCredentials),
        || start_failure(ControlErrorKind::AccessDenied),
        || start_failure(ControlErrorKind::InvalidDocument),
    ];
    for (gone, error) in gone.into_iter().flat_map(|gone| errors.map(|error| (gone, error))) {
        let (world, tunnels, _open) = half_lost().await;
        world.script([Script::Fails(error)]);
        let failed = || world.told().into_iter().filter(|told| told.starts_with("failed ")).collect::<Vec<_>>();
        gone(&tunnels[1]);
        refused(world.open()).await;
        pass(seconds(100)).await;
        let told = failed();
        for (told, attempt) in told.iter().zip(1..) {
            assert_eq!(*told, format!("failed {attempt} beside 1: StartSession of i-0a failed: no"));
        }
        assert!(told.len() > 2 && !world.supervisor.is_finished(), "{told:?}");
        // What is still not to be had is beside what serves.
        tunnels[0].set_health(Health::Ready);
        assert_eq!(world.outcome().await, named("s-1", 0));
        let told = failed().len();
        pass(seconds(600)).await;
        assert_eq!(failed().len(), told);
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_somebody_ends_while_none_can_be_used_is_told_and_not_repeated() {
    let (world, tunnels, _open) = half_lost().await;
    world.script([Script::Fails(|| ConnectError::Closed(idle_timeout())), Script::Ready(tunnel("s-3"))]);
    tunnels[1].end(lost());
    pass(seconds(3600)).await;
    let told = world.told();
    assert_eq!(told[..2], ["ended s-2: Transport", "ended start-2: Service"]);
    assert!(told.len() == 3 && told[2].starts_with("failed 1 beside 1: "), "{told:?}");
    assert_eq!(world.outcome().await, named("s-3", 0));
}

#[tokio::test(start_paused = true)]
async fn the_session_that_a_forward_needs_is_started_beyond_the_sixteen() {
    let accounts = SessionAccounts::default();
    let others: Vec<_> = (0..14).map(|_| accounts.take("")).collect();
    let tunnels = mux(2);
    let world = fixed_of(2, &tunnels[0], &accounts);
    world.script([Script::Ready(tunnels[1].clone()), Script::Ready(tunnel("s-3"))]);
    calm().await;
    let _open = opens(&world, 2).await;
    tunnels[0].set_health(reconnecting());
    tunnels[1].set_health(Health::Stalled);
    assert_eq!(world.outcome().await, named("s-3", 0));
    drop(others);
}

/// Denied, then served by an extra session: what is denied days later is denied for the first time.
#[tokio::test(start_paused = true)]
async fn denials_days_apart_do_not_end_a_forward() {
    let (world, tunnels) = pool_of(3).await;
    let _open = opens(&world, 3).await;
    let again = tunnel("s-4");
    let denied = Script::Fails(|| start_failure(ControlErrorKind::AccessDenied));
    world.script([Script::ReadyAfter(seconds(5), again.clone()), denied]);
    tunnels[0].end(lost());
    calm().await;
    tunnels[1].end(lost());
    tunnels[2].end(lost());
    let denials = || world.told().iter().filter(|told| told.starts_with("failed ")).count();
    pass(seconds(4)).await;
    let before = denials();
    assert!(before > 0, "the forward needs a session, and is denied one");
    pass(seconds(2)).await;
    let _served = opens(&world, 1).await;
    pass(seconds(3 * 24 * 3600)).await;
    let until_now = denials();
    again.end(lost());
    pass(seconds(10)).await;
    assert!(!world.supervisor.is_finished(), "ten seconds of denials are not for good");
    assert!(denials() > until_now, "it is denied one again");
    world.script([Script::Ready(tunnel("s-9"))]);
    assert_eq!(world.outcome().await.0.as_deref(), Some("s-9"));
}

#[tokio::test(start_paused = true)]
async fn what_is_being_started_does_not_undo_a_dormancy() {
    let scripts: [fn(TestTunnel) -> Script; 2] =
        [|late| Script::ReadyAfter(seconds(5), late), |late| Script::ReadyWhenCancelled(late)];
    for script in scripts {
        let (world, tunnels) = pool_of(2).await;
        let _open = opens(&world, 2).await;
        let late = tunnel("s-3");
        world.script([script(late.clone())]);
        tunnels[0].end(lost());
        calm().await;
        assert_eq!(world.connector.pending(), 1);
        tunnels[1].end(idle_timeout());
        pass(seconds(24 * 3600)).await;
        assert!(late.is_finished());
        assert_eq!(
            world.told(),
            ["ended s-1: Transport", "ended s-2: Service", "dormant: Service", "ended s-3: Us"],
            "neither replaced nor said to have failed"
        );
        assert_eq!(world.connector.starts(), 2);
        world.script([Script::Ready(tunnel("s-4"))]);
        assert_eq!(world.outcome().await, named("s-4", 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_brings_a_fixed_number_back() {
    let first = tunnel("s-0");
    let world = fixed(3, &first);
    calm().await;
    first.end(idle_timeout());
    pass(seconds(60)).await;
    world.script(mux(4).into_iter().map(|tunnel| Script::ReadyAfter(seconds(1), tunnel)));
    let starts = world.connector.starts();
    let burst = [world.open(), world.open()];
    let mut open = Vec::new();
    for connection in burst {
        open.push(served(connection).await);
    }
    let mut sessions = sessions_of(&open);
    sessions.sort();
    assert_eq!((sessions, world.connector.starts()), (vec!["s-1".to_owned(), "s-2".to_owned()], starts + 2));
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_raw_mode_starts_one_session_for_itself() {
    let tunnels: Vec<_> = (1..=4).map(|at| with_mode(&format!("s-{at}"), Mode::Raw)).collect();
    let world = fixed(2, &tunnels[0]);
    world.script(tunnels[1..].iter().cloned().map(Script::Ready));
    calm().await;
    let _open = opens(&world, 1).await;
    tunnels[1].end(idle_timeout());
    calm().await;
    assert_eq!(sessions_of(&opens(&world, 1).await), ["s-3"]);
    calm().await;
    assert_eq!(world.connector.starts(), 2);
}

#[tokio::test(start_paused = true)]
async fn nor_does_the_session_that_was_needed_meanwhile() {
    let (world, tunnels, _open) = half_lost().await;
    let late = tunnel("s-3");
    world.script([Script::ReadyAfter(seconds(5), late.clone())]);
    tunnels[1].end(lost());
    calm().await;
    assert_eq!(world.connector.pending(), 1);
    tunnels[0].end(idle_timeout());
    pass(seconds(3600)).await;
    assert!(late.is_finished());
    let told = world.told();
    assert!(told.contains(&"dormant: Service".to_owned()), "{told:?}");
    assert_eq!((told.last().map(String::as_str), world.connector.starts()), (Some("ended s-3: Us"), 2));
}
