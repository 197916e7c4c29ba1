//! Sessions with agents that carry one connection at a time, and raw sessions.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ssmfwd::{
    session::{Mode, OpenError},
    wire::FlagKind,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::{
    gateway::{Command, Service},
    setup::Setup,
};

fn basic(service: Service) -> Setup {
    Setup { version: "3.0.196.0", ..Setup::new(service) }
}

#[tokio::test(start_paused = true)]
async fn connections_follow_each_other_first_come_first_served() {
    let world = basic(Service::Echo).connect().await;
    assert_eq!(world.session.mode(), Mode::Basic);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..5u8 {
        let (session, order) = (world.session.clone(), Arc::clone(&order));
        tasks.spawn(async move {
            let mut stream = session.open().await.expect("its turn comes");
            order.lock().expect("no panic").push(number);
            stream.write_all(&[number; 3000]).await.expect("written");
            let mut back = [0; 3000];
            stream.read_exact(&mut back).await.expect("echoed");
            assert_eq!(back, [number; 3000], "bytes of its own connection only");
            stream.shutdown().await.expect("shut down");
            assert_eq!(stream.read(&mut back).await.expect("the end"), 0);
        });
        // In this order they ask.
        tokio::task::yield_now().await;
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
    assert_eq!(*order.lock().expect("no panic"), [0, 1, 2, 3, 4]);
    assert_eq!(world.remote.seen().flags, [FlagKind::DisconnectToPort; 5]);
}

#[tokio::test(start_paused = true)]
async fn the_next_connection_waits_for_silence() {
    let world = basic(Service::Echo).connect().await;
    let first = world.session.open().await.expect("open");
    assert!(timeout(Duration::from_secs(60), world.session.open()).await.is_err(), "one at a time");
    let start = Instant::now();
    drop(first);
    world.session.open().await.expect("its turn");
    assert!(start.elapsed() >= Duration::from_millis(50), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_learn_of_the_end() {
    let world = basic(Service::Echo).connect().await;
    let _first = world.session.open().await.expect("open");
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let session = world.session.clone();
            tokio::spawn(async move { session.open().await.map(drop) })
        })
        .collect();
    tokio::time::advance(Duration::from_secs(1)).await;
    world.remote.tell(Command::Drop);
    for waiter in waiting {
        let result = timeout(Duration::from_secs(5), waiter).await.expect("in time").expect("no panic");
        assert!(matches!(result, Err(OpenError::Closed(_))), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_gives_up_waiting_does_not_hold_up_the_others() {
    let world = basic(Service::Echo).connect().await;
    let first = world.session.open().await.expect("open");
    let impatient = tokio::spawn({
        let session = world.session.clone();
        async move { session.open().await.map(drop) }
    });
    tokio::task::yield_now().await;
    let patient = tokio::spawn({
        let session = world.session.clone();
        async move { session.open().await.map(drop) }
    });
    tokio::task::yield_now().await;
    impatient.abort();
    drop(first);
    let result = timeout(Duration::from_secs(5), patient).await.expect("in time").expect("no panic");
    assert!(result.is_ok(), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_raw_session_is_one_pipe() {
    let properties = serde_json::json!({"portNumber": "22"});
    let world = Setup { properties, ..Setup::new(Service::Echo) }.connect().await;
    assert_eq!(world.session.mode(), Mode::Raw);
    let mut stream = world.session.open().await.expect("open");
    stream.write_all(b"SSH-2.0-x\r\n").await.expect("written");
    let mut back = [0; 11];
    stream.read_exact(&mut back).await.expect("echoed");
    assert_eq!(&back, b"SSH-2.0-x\r\n");
    assert!(matches!(world.session.open().await, Err(OpenError::Used)));
    world.remote.tell(Command::Ended(""));
    assert_eq!(stream.read(&mut back).await.expect("a clean end"), 0);
    world.session.close().await;
    assert_eq!(world.control.terminated(), 0);
}

/// The end of the local data says nothing to the agent, and the end of the session would cut off what is under way.
#[tokio::test(start_paused = true)]
async fn everything_written_to_a_raw_session_can_be_waited_for() {
    let setup = Setup { properties: serde_json::json!({"portNumber": "22"}), ..Setup::resumable(Service::Stalled) };
    let world = setup.connect().await;
    assert_eq!(world.session.mode(), Mode::Raw);
    let mut stream = world.session.open().await.expect("open");
    world.session.drained().await.expect("nothing was written");
    // Ended, it would end the session as soon as all is delivered.
    stream.write_all(&[7; 60_000]).await.expect("there is room");
    let drained = tokio::spawn({
        let session = world.session.clone();
        async move { session.drained().await }
    });
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(!drained.is_finished(), "the destination takes nothing");
    world.remote.tell(Command::Drop);
    world.remote.tell(Command::Unstall);
    drained.await.expect("no panic").expect("delivered");
    assert_eq!(world.remote.seen().received, 60_000);
    let reason = world.session.close().await;
    assert_eq!(world.session.drained().await, Err(reason));
}
