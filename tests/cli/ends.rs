//! How connections end: from either side, in order or not.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Closed, Destination, World};

#[tokio::test]
async fn an_empty_connection_reaches_the_destination_and_ends_there() {
    let (world, sink) = (World::ideal(), Destination::sink().await);
    let program = world.forward(sink.port, &[]).await;
    let mut client = program.connect().await;
    sink.until_accepted(1).await;
    client.end().await;
    assert_eq!(sink.outcome().await, Closed::Cleanly(0));
    assert_eq!(client.read_to_end().await, b"");
    let closed = program.event("connection_closed").await;
    assert_eq!((&closed["reason"], &closed["bytes_up"]), (&"local_closed".into(), &0.into()));
    world.finish(program).await;
}

#[tokio::test]
async fn connect_and_close_reaches_the_destination_and_ends_there() {
    let (world, sink) = (World::ideal(), Destination::sink().await);
    let program = world.forward(sink.port, &[]).await;
    for _ in 0..20 {
        drop(program.connect().await);
    }
    for _ in 0..20 {
        assert_eq!(sink.outcome().await, Closed::Cleanly(0));
    }
    program.events("connection_closed", 20).await;
    world.finish(program).await;
}

#[tokio::test]
async fn a_reply_that_does_not_need_the_end_arrives_whole_after_it() {
    const REPLY: usize = 2_000_000;
    let world = World::ideal();
    let server = Destination::serve(|mut socket| async move {
        socket.read_exact(&mut [0; 7]).await.expect("a request");
        // In portions, so that the end of the request is long known when the last one comes.
        for _ in 0..20 {
            socket.write_all(&[b'r'; REPLY / 20]).await.expect("a reader");
        }
        Closed::of(socket.read_to_end(&mut Vec::new()).await)
    })
    .await;
    let program = world.forward(server.port, &["--linger", "2"]).await;
    let mut client = program.connect().await;
    client.write(b"request").await;
    client.end().await;
    let reply = client.read(REPLY).await;
    assert!(reply.iter().all(|byte| *byte == b'r'));
    // The linger time after the last byte the destination sees our end, and then we see its.
    assert_eq!(server.outcome().await, Closed::Cleanly(0));
    assert_eq!(client.read_to_end().await, b"");
    world.finish(program).await;
}

/// The documented limit: the agent has no half-close, so the reply is cut off together with the request.
#[tokio::test]
async fn a_reply_that_needs_the_end_is_lost_after_the_linger_time() {
    let world = World::ideal();
    let server = Destination::serve(|mut socket| async move {
        let mut request = Vec::new();
        let read = socket.read_to_end(&mut request).await;
        // Into a connection that the agent has closed altogether: nobody hears it.
        drop(socket.write_all(b"reply").await);
        Closed::of(read)
    })
    .await;
    let program = world.forward(server.port, &["--linger", "1"]).await;
    let mut client = program.connect().await;
    client.write(b"request").await;
    client.end().await;
    assert_eq!(server.outcome().await, Closed::Cleanly(7));
    assert_eq!(client.read_to_end().await, b"");
    let closed = program.event("connection_closed").await;
    assert_eq!((&closed["reason"], &closed["bytes_up"]), (&"linger_expired".into(), &7.into()));
    assert!(closed["duration_ms"].as_u64().is_some_and(|ms| ms >= 1000), "{closed}");
    world.finish(program).await;
}

#[tokio::test]
async fn the_end_of_the_server_comes_after_all_it_said() {
    let (world, server) = (World::ideal(), Destination::farewell(&[b'f'; 300_000]).await);
    let program = world.forward(server.port, &[]).await;
    let mut client = program.connect().await;
    let all = client.read_to_end().await;
    assert!(all.len() == 300_000 && all.iter().all(|byte| *byte == b'f'), "{} bytes", all.len());
    // What is said to a server that has left is nobody's, but it does no harm.
    client.write(b"too late").await;
    drop(client);
    let closed = program.event("connection_closed").await;
    assert_eq!((&closed["reason"], &closed["bytes_down"]), (&"destination_closed".into(), &300_000.into()));
    world.finish(program).await;
}

#[tokio::test]
async fn a_local_reset_ends_the_connection_at_the_destination() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    client.reset();
    assert_eq!(echo.outcome().await, Closed::Cleanly(5));
    assert_eq!(program.event("connection_closed").await["reason"], "local_reset");
    program.connect().await.echo(b"the forward lives on").await;
    world.finish(program).await;
}

/// The documented limit: the agent tells a reset like an end.
#[tokio::test]
async fn a_reset_of_the_server_arrives_as_an_end() {
    let (world, server) = (World::ideal(), Destination::resetting().await);
    let program = world.forward(server.port, &[]).await;
    let mut client = program.connect().await;
    client.write(b"x").await;
    assert_eq!(client.read_to_end().await, b"");
    drop(client);
    assert_eq!(program.event("connection_closed").await["reason"], "destination_closed");
    world.finish(program).await;
}

#[tokio::test]
async fn a_server_that_ends_under_a_flood_does_not_lose_its_last_words() {
    let world = World::ideal();
    let server = Destination::serve(|mut socket| async move {
        socket.read_exact(&mut [0; 1000]).await.expect("a flood");
        socket.write_all(b"enough").await.expect("a reader");
        socket.shutdown().await.expect("an open connection");
        Closed::of(socket.read_to_end(&mut Vec::new()).await)
    })
    .await;
    let program = world.forward(server.port, &[]).await;
    let (mut reader, mut writer) = program.connect().await.0.into_split();
    let flood = tokio::spawn(async move { while writer.write_all(&[0; 10_000]).await.is_ok() {} });
    let mut words = Vec::new();
    let read = crate::harness::within("last words", reader.read_to_end(&mut words)).await;
    assert_eq!(words, b"enough", "{read:?}");
    assert!(read.is_ok_and(|count| count == 6) || cfg!(not(target_os = "linux")));
    flood.abort();
    world.finish(program).await;
}

#[tokio::test]
async fn open_connections_are_reset_when_the_program_ends() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    client.echo(b"hello").await;
    let (ended, _) = world.finish(program).await;
    assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
    assert_eq!(ended.events_named("connection_closed")[0]["reason"], "stopped");
}
