//! Destinations that refuse connections.

use std::io;

use ssmfwd::emulator::EndedBy;

use crate::harness::{Destination, RefusingPort, World};

#[tokio::test]
async fn a_refused_connection_is_reset_and_the_forward_lives_on() {
    let (world, refusing) = (World::ideal(), RefusingPort::new());
    let program = world.forward(refusing.port, &[]).await;
    let destination = format!("127.0.0.1:{}", refusing.port);
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut client = program.connect().await;
        assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
        peers.push(client.address().to_string());
    }
    let refused = program.events("destination_refused", 3).await;
    for (event, peer) in refused.iter().zip(&peers) {
        assert_eq!((&event["destination"], &event["peer"]), (&destination.as_str().into(), &peer.as_str().into()));
    }
    refusing.accept();
    assert_eq!(program.connect().await.read_to_end().await, b"");

    let closed = program.events("connection_closed", 4).await;
    let reasons: Vec<_> = closed.iter().map(|event| event["reason"].as_str().expect("a reason")).collect();
    let refused = "destination_refused";
    assert_eq!(reasons, [refused, refused, refused, "destination_closed"]);
    let (ended, state) = world.finish(program).await;
    ended.expect_stderr(&format!("warning: {destination} refused a connection (of {})", peers[0]));
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Flag)), (1, 1));
}

#[tokio::test]
async fn a_refused_connection_is_reset_although_the_client_has_sent() {
    let (world, refusing) = (World::ideal(), RefusingPort::new());
    let program = world.forward(refusing.port, &[]).await;
    let mut client = program.connect().await;
    client.write(b"GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
    world.finish(program).await;
}

/// The destination closes its port while connections are open: only new ones are hit.
#[tokio::test]
async fn refusals_among_working_connections_hit_only_the_refused() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut working = Vec::new();
    for _ in 0..5 {
        let mut client = program.connect().await;
        client.echo(b"before").await;
        working.push(client);
    }
    drop(echo);
    for _ in 0..5 {
        let mut refused = program.connect().await;
        assert_eq!(refused.read_to_failure().await, (vec![], io::ErrorKind::ConnectionReset));
        for client in &mut working {
            client.echo(b"after").await;
        }
    }
    let (ended, _) = world.finish(program).await;
    assert_eq!(ended.events_named("destination_refused").len(), 5);
}
