//! How a session ends, and that the SSM session behind it is always ended too, once.

use std::{future::poll_fn, sync::Arc, time::Duration};

use ssmfwd::session::{ConnectError, OpenError, SessionEvent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use ssmfwd::wire::FlagKind;

use crate::{
    control::{Control, Terminate},
    gateway::{Command, Service},
    setup::Setup,
};

#[tokio::test(start_paused = true)]
async fn close_tells_the_agent_and_not_the_api() {
    let world = Setup::new(Service::Echo).connect().await;
    let start = Instant::now();
    assert_eq!(world.session.close().await.to_string(), "ended as asked");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(world.remote.seen().flags, [FlagKind::TerminateSession]);
    assert_eq!(world.control.terminated(), 0);
    assert_eq!(world.session.close().await.to_string(), "ended as asked", "again, at once");
    assert!(matches!(world.session.open().await, Err(OpenError::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn close_sends_what_was_written_first() {
    let world = Setup::new(Service::Echo).connect().await;
    let mut stream = world.session.open().await.expect("open");
    stream.write_all(&[7; 60_000]).await.expect("written");
    world.session.close().await;
    assert_eq!(world.remote.seen().received, 60_000);
}

#[tokio::test(start_paused = true)]
async fn close_calls_the_api_once_when_the_agent_says_nothing() {
    let world = Setup::new(Service::Echo).connect().await;
    world.remote.tell(Command::Silence);
    let start = Instant::now();
    let (first, second) = tokio::join!(world.session.close(), world.session.close());
    assert_eq!((first.to_string(), second.to_string()), ("ended as asked".to_owned(), "ended as asked".to_owned()));
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert_eq!(
        (world.control.terminated(), world.remote.seen().flags.len()),
        (1, 4),
        "the flag, and three times again"
    );
}

/// Nothing can be written, not even the flag.
#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_a_websocket_that_takes_nothing() {
    let world = Setup { pipe: 64, ..Setup::new(Service::Stalled) }.connect().await;
    world.remote.tell(Command::Deaf);
    let mut stream = world.session.open().await.expect("open");
    stream.write_all(&[7; 60_000]).await.expect("taken by the stream's buffer");
    let start = Instant::now();
    let closed = tokio::time::timeout(Duration::from_secs(60), world.session.close()).await;
    assert_eq!(closed.expect("ends").to_string(), "ended as asked");
    assert!(start.elapsed() <= Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(world.control.terminated(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_denied_or_hanging_terminate_session_is_told_and_does_not_hold_the_end() {
    for terminate in [Terminate::IsDenied, Terminate::Hangs] {
        let control = Arc::new(Control::new(terminate));
        let world = Setup { control, ..Setup::new(Service::Echo) }.connect().await;
        world.remote.tell(Command::Silence);
        let start = Instant::now();
        world.session.close().await;
        assert!(start.elapsed() <= Duration::from_secs(7), "{:?}", start.elapsed());
        assert!(matches!(world.remote.events()[..], [SessionEvent::Ready, SessionEvent::NotTerminated(_)]));
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_ends_the_session() {
    let world = Setup::new(Service::Echo).connect().await;
    let closed = world.session.closed();
    let mut stream = world.session.open().await.expect("open");
    let copy = world.session.clone();
    drop(world.session);
    drop(copy);
    stream.write_all(b"still there").await.expect("a stream holds its session");
    let mut back = [0; 11];
    stream.read_exact(&mut back).await.expect("still there");
    drop(stream);
    assert_eq!(closed.await.to_string(), "ended as asked");
    world.remote.until(|seen| seen.gone).await;
    assert_eq!(world.remote.seen().flags, [FlagKind::TerminateSession]);
    assert_eq!(world.control.terminated(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_services_end_reaches_everybody_and_needs_no_call() {
    let world = Setup::new(Service::Echo).connect().await;
    let mut stream = world.session.open().await.expect("open");
    world.remote.tell(Command::Ended("Your session has been terminated by an administrator."));
    let reason = world.session.closed().await;
    let text = "the session was closed: Your session has been terminated by an administrator. (by the Session Manager service)";
    assert_eq!(reason.to_string(), text);
    let error = stream.read(&mut [0; 8]).await.expect_err("reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(error.to_string().contains("administrator"), "{error}");
    world.session.close().await;
    assert_eq!(world.control.terminated(), 0);
}

/// A relay that waits for its local program does not read: it must learn that its stream was cut, and must not be told
/// so of one that is complete.
#[tokio::test(start_paused = true)]
async fn the_end_cuts_streams_that_nobody_reads_but_not_complete_ones() {
    for (service, complete) in [(Service::Source(50_000), true), (Service::Echo, false)] {
        let world = Setup::new(service).connect().await;
        let mut stream = world.session.open().await.expect("open");
        let start = Instant::now();
        let cut = async { tokio::time::timeout(Duration::from_secs(60), poll_fn(|cx| stream.poll_cut(cx))).await };
        let end = async {
            // All that there is has come by then.
            tokio::time::sleep_until(Instant::now() + Duration::from_secs(1)).await;
            world.remote.tell(Command::Ended("Your session has been terminated by an administrator."));
        };
        match tokio::join!(cut, end).0 {
            Ok(error) => {
                assert!(!complete && error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
                // It was woken, and did not find out when it happened to look.
                assert!(start.elapsed() < Duration::from_secs(60));
            }
            Err(_) => {
                assert!(complete, "it was not told");
                world.session.close().await;
                let mut reply = Vec::new();
                stream.read_to_end(&mut reply).await.expect("a clean end");
                assert_eq!(reply.len(), 50_000);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_before_ready_the_session_is_ended() {
    let setup = Setup { first_commands: vec![Command::Silence], ..Setup::new(Service::Echo) };
    let cancel = setup.cancel.clone();
    let connecting = tokio::spawn(setup.try_connect());
    tokio::time::advance(Duration::from_secs(1)).await;
    cancel.cancel();
    let (control, result, _remote) = connecting.await.expect("no panic");
    assert!(matches!(result, Err(ConnectError::Cancelled)), "{result:?}");
    assert_eq!(control.terminated(), 1);
}

#[tokio::test(start_paused = true)]
async fn cancelled_after_ready_nothing_happens() {
    let setup = Setup::new(Service::Echo);
    let cancel = setup.cancel.clone();
    let world = setup.connect().await;
    cancel.cancel();
    tokio::time::advance(Duration::from_secs(5)).await;
    let mut stream = world.session.open().await.expect("open");
    stream.write_all(b"x").await.expect("written");
    stream.read_exact(&mut [0; 1]).await.expect("read");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_answers_is_given_up_after_the_connect_timeout() {
    let mut setup = Setup { first_commands: vec![Command::Silence], ..Setup::new(Service::Echo) };
    setup.options.connect_timeout = Duration::from_secs(12);
    let start = Instant::now();
    let (control, result, _remote) = setup.try_connect().await;
    let Err(ConnectError::Closed(reason)) = result else { panic!("{result:?}") };
    assert_eq!(reason.to_string(), "timed out: the agent did not complete the handshake (by ssmfwd)");
    assert_eq!((start.elapsed(), control.terminated()), (Duration::from_secs(12), 1));
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_is_dropped_leaves_no_session_behind() {
    let setup = Setup { first_commands: vec![Command::Silence], ..Setup::new(Service::Echo) };
    let control = Arc::clone(&setup.control);
    let connecting = tokio::spawn(setup.try_connect());
    tokio::time::advance(Duration::from_millis(10)).await;
    connecting.abort();
    assert!(connecting.await.is_err());
    tokio::time::advance(Duration::from_millis(10)).await;
    assert_eq!(control.terminated(), 1);
}
