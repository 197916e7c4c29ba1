//! What a session says that it has carried.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    gateway::{Command, Service},
    setup::Setup,
};

const SOON: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn bytes_are_those_that_applications_see() {
    const TOTAL: usize = 3_000_000;
    let world = Setup::new(Service::Source(TOTAL)).connect().await;
    assert_eq!(world.session.statistics().bytes_down, 0, "what was exchanged before is nobody's data");
    let mut stream = world.session.open().await.expect("open");
    let mut received = Vec::new();
    timeout(SOON * 10, stream.read_to_end(&mut received)).await.expect("all of it").expect("no error");
    let statistics = world.session.statistics();
    assert_eq!((statistics.bytes_down, statistics.bytes_up), (TOTAL as u64, 0));
    // The agent had more to send behind nearly each message.
    assert!(statistics.full_messages_down * 100 >= statistics.messages_down * 95, "{statistics:?}");
    assert!(statistics.messages_down * 1024 >= statistics.bytes_down, "{statistics:?}");
    assert_eq!((statistics.held_streams, statistics.retransmissions), (0, 0));
    // And it is still told when the session is over.
    drop(stream);
    world.session.close().await;
    assert_eq!(world.session.statistics().bytes_down, TOTAL as u64);
}

#[tokio::test(start_paused = true)]
async fn streams_whose_data_waits_for_the_window_are_held() {
    let world = Setup::new(Service::Stalled).connect().await;
    let mut streams = [world.session.open().await.expect("open"), world.session.open().await.expect("open")];
    let mut accepted = 0;
    for stream in &mut streams {
        while let Ok(written) = timeout(SOON, stream.write(&[7; 16_384])).await {
            accepted += written.expect("open");
        }
    }
    let held = world.session.statistics();
    assert_eq!(held.held_streams, 2, "{held:?}");
    assert!(held.bytes_up < accepted as u64, "the rest waits");
    assert!(held.messages_up > 0 && held.bytes_up_per_s == 0, "{held:?}");

    world.remote.tell(Command::Unstall);
    let mut buffer = vec![0; 65_536];
    while world.remote.seen().received < accepted {
        for stream in &mut streams {
            // What is echoed has to be read.
            timeout(Duration::from_millis(20), stream.read(&mut buffer)).await.ok();
        }
    }
    let statistics = world.session.statistics();
    assert_eq!((statistics.held_streams, statistics.bytes_up), (0, accepted as u64), "{statistics:?}");
}
