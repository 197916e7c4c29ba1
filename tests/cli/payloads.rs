//! Bytes arrive as they were sent.

use crate::harness::{Client, Closed, Destination, World, receive, send, within};

/// Payloads through an echoing destination, each in a connection of its own.
async fn echoed(payloads: &[Vec<u8>]) {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    for payload in payloads {
        let mut client = program.connect().await;
        client.echo(payload).await;
        drop(client);
        assert_eq!(echo.outcome().await, Closed::Cleanly(payload.len()));
    }
    world.finish(program).await;
}

/// So many bytes, the last of which is a line end: the size at which the genuine client sends it alone.
fn ending_in_a_newline(bytes: usize) -> Vec<u8> {
    let mut payload = vec![b'x'; bytes];
    payload[bytes - 1] = b'\n';
    payload
}

#[tokio::test]
async fn a_lone_newline_stays_a_newline() {
    echoed(&[b"\n".to_vec()]).await;
}

#[tokio::test]
async fn newlines_at_the_edge_of_a_message_stay_newlines() {
    let sizes = [1016, 1017, 1018, 1023, 1024, 1025, 2032, 2033];
    echoed(&sizes.map(ending_in_a_newline)).await;
}

#[tokio::test]
async fn every_byte_value_arrives() {
    let all: Vec<u8> = (0..=255).collect();
    let each = all.iter().map(|byte| vec![*byte]);
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let mut client = program.connect().await;
    for payload in each.chain([all.clone()]) {
        client.echo(&payload).await;
    }
    world.finish(program).await;
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let greeting = b"220 ready\n";
    let (world, server) = (World::ideal(), Destination::greeting(greeting).await);
    let program = world.forward(server.port, &["--linger", "0.5"]).await;
    let mut client = program.connect().await;
    assert_eq!(client.read(greeting.len()).await, greeting);
    client.write(b"QUIT\n").await;
    drop(client);
    assert_eq!(server.outcome().await, Closed::Cleanly(5));
    world.finish(program).await;
}

#[tokio::test]
async fn a_megabyte_comes_back_in_any_pieces() {
    const TOTAL: usize = 3 << 20;
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    let Client(socket) = program.connect().await;
    let (mut reader, mut writer) = socket.into_split();
    let both = async { tokio::join!(send(&mut writer, 1, TOTAL), receive(&mut reader, 1, TOTAL)) };
    let (sent, received) = within("an echo", both).await;
    sent.expect("all is taken");
    received.expect("all comes back");
    world.finish(program).await;
}
