//! Messages that are lost, doubled and reordered on a living websocket, and gateways with limits.

use ssmfwd::emulator::{Counting, Faults, PayloadCap, RateCap};

use crate::harness::{Client, Destination, World, receive, send, within};

/// `SSMFWD_TEST_SEEDS` asks for more of them.
fn seeds(first: u64) -> std::ops::Range<u64> {
    let count = std::env::var("SSMFWD_TEST_SEEDS").ok().map_or(2, |text| text.parse().expect("a number"));
    first..first + count
}

/// An echo of a megabyte under faults.
async fn survives(seed: u64, faults: Faults, version: Option<&str>) {
    const TOTAL: usize = 1_000_000;
    let world = World::with(|config| {
        config.seed = seed;
        config.agent_version = version.map_or_else(|| config.agent_version.clone(), Into::into);
    });
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &[]).await;
    world.emulator.configure(|config| config.faults = faults);
    let Client(socket) = program.connect().await;
    let (mut reader, mut writer) = socket.into_split();
    let both = async { tokio::join!(send(&mut writer, seed, TOTAL), receive(&mut reader, seed, TOTAL)) };
    let (sent, received) = within(&format!("seed {seed}: an echo under {faults:?}"), both).await;
    sent.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    received.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    world.emulator.configure(|config| config.faults = Faults::default());
    let (_, state) = world.finish(program).await;
    let session = state.sessions.values().next().expect("a session");
    assert!(session.dropped + session.duplicated + session.reordered > 0, "seed {seed}: no fault struck");
}

#[tokio::test]
async fn doubled_messages_are_taken_once() {
    for seed in seeds(0) {
        survives(seed, Faults { duplicate: 2.0, ..Faults::default() }, None).await;
    }
}

#[tokio::test]
async fn reordered_messages_are_put_in_order() {
    for seed in seeds(1000) {
        survives(seed, Faults { reorder: 2.0, ..Faults::default() }, None).await;
    }
}

#[tokio::test]
async fn lost_messages_are_sent_again() {
    for seed in seeds(2000) {
        survives(seed, Faults { drop: 1.0, ..Faults::default() }, None).await;
    }
}

#[tokio::test]
async fn everything_at_once_is_survived() {
    for seed in seeds(3000) {
        survives(seed, Faults { drop: 0.2, duplicate: 2.0, reorder: 2.0, disconnect_every: None }, None).await;
    }
}

#[tokio::test]
async fn an_old_agent_survives_faults_too() {
    for seed in seeds(4000) {
        survives(seed, Faults { drop: 0.2, duplicate: 2.0, reorder: 2.0, disconnect_every: None }, Some("3.0.150.0"))
            .await;
    }
}

#[tokio::test]
async fn a_gateway_with_the_genuine_clients_payload_as_its_limit_is_respected() {
    let world = World::with(|config| config.payload_cap = Some(PayloadCap { bytes: 1024, then: Default::default() }));
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &["--max-payload", "1024"]).await;
    program.connect().await.echo(&[7; 500_000]).await;
    let (_, state) = world.finish(program).await;
    assert!(state.sessions.values().all(|session| session.largest_payload <= 1024));
    assert!(!state.calls.contains_key("ResumeSession"), "{:?}", state.calls);
}

/// Larger messages are tried, and cost a websocket each; the connection does not notice.
#[tokio::test]
async fn a_gateway_with_a_limit_of_its_own_costs_few_websockets_and_no_connection() {
    for bytes in [1024, 10_000] {
        let world = World::with(|config| config.payload_cap = Some(PayloadCap { bytes, then: Default::default() }));
        let echo = Destination::echo().await;
        let program = world.forward(echo.port, &[]).await;
        program.connect().await.echo(&[7; 2_000_000]).await;
        let (_, state) = world.finish(program).await;
        let resumes = state.calls.get("ResumeSession").copied().unwrap_or(0);
        assert!((1..=4).contains(&resumes), "{bytes}: {resumes}");
    }
}

#[tokio::test]
async fn a_gateway_that_pauses_is_waited_for() {
    let world = World::with(|config| {
        config.rate_cap = Some(RateCap {
            per_second: 200,
            counting: Counting::Data,
            kill_after: std::time::Duration::from_secs(3600),
        });
    });
    let echo = Destination::echo().await;
    let program = world.forward(echo.port, &["--max-payload", "1024", "--max-message-rate", "0"]).await;
    program.connect().await.echo(&[7; 500_000]).await;
    let (_, state) = world.finish(program).await;
    assert!(state.sessions.values().any(|session| session.pauses > 0), "never paused");
}
