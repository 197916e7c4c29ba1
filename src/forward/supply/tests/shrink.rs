//! Which sessions of an automatic pool are ended when there are too many.

use super::{
    idle::unused,
    pool::{mux, opens, pump},
    *,
};

/// Sessions `s-1` and `s-2`, all connections on `s-1`.
async fn grown() -> (World, TestTunnel, Vec<Opened<TestStream, TestTunnel>>) {
    let tunnels = mux(2);
    let world = world_with(tunnels[0].clone(), WINDOW);
    world.script([Script::Ready(tunnels[1].clone())]);
    let open = opens(&world, 2).await;
    let pump = pump(&tunnels[..1]);
    pass(seconds(3)).await;
    pump.abort();
    assert_eq!(world.connector.starts(), 1);
    world.first.carry(|statistics| statistics.busy_streams = 0);
    (world, tunnels[1].clone(), open)
}

#[tokio::test(start_paused = true)]
async fn the_only_one_that_can_be_used_is_not_ended() {
    for in_use in [true, false] {
        let (world, second, mut open) = grown().await;
        if !in_use {
            open.clear();
        }
        world.first.set_health(Health::Reconnecting { since: Instant::now() });
        pass(seconds(200)).await;
        assert!(!second.has_ended(), "connections of the first: {in_use}");
        assert_eq!((world.first.has_ended(), world.outcome().await), (!in_use, named("s-2", 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_used_goes_first() {
    let (world, second, open) = grown().await;
    drop(open);
    // By their places alone, the second would go.
    world.first.set_health(Health::Stalled);
    pass(seconds(200)).await;
    assert!(world.first.is_finished() && !second.has_ended());
    assert_eq!(world.reasons(), [(true, unused("no connection used the session"))], "nobody has asked for it");
    assert_eq!((world.outcome().await, world.connector.starts()), (named("s-2", 0), 1));
}
