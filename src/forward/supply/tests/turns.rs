//! Connections of basic mode that wait for their turn.

use super::*;

#[tokio::test(start_paused = true)]
async fn those_that_wait_look_once_when_one_leaves() {
    let tunnels = ["s-1", "s-2"].map(|id| with_mode(id, Mode::Basic));
    let world = world_of(tunnels[0].clone(), WINDOW, "2".parse().expect("a number"), &SessionAccounts::default());
    world.script([Script::Ready(tunnels[1].clone())]);
    calm().await;
    let (one, _two) = (served(world.open()).await, served(world.open()).await);
    tunnels.iter().for_each(TestTunnel::take_turns);
    let _waiting = [world.open(), world.open(), world.open()];
    calm().await;
    let opens = || tunnels.iter().map(TestTunnel::opens).sum::<usize>();
    assert_eq!(opens(), 5);
    drop(one);
    // Time would not move on if they woke one another for ever.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(opens(), 8, "each of the three has looked once");
}
