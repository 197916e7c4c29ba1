//! The same for what is done beside forwarding by an id: lists, lookups of both kinds, and the doctor.

use rustix::process::Signal;

use super::{credentials::LEVELS, has_none, keys, members};
use crate::{
    harness::{ApiRelay, Destination, Program, World},
    targets::fleet,
};

/// What `Signature=` is followed by, in every call that was made.
fn signatures(seen: &str) -> Vec<String> {
    seen.split("Signature=").skip(1).map(|rest| rest.chars().take(64).collect()).collect()
}

#[tokio::test]
async fn lists_lookups_and_the_doctor() {
    let echo = Destination::echo().await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    for (arguments, stays) in [
        (&["ls"][..], false),
        (&["ls", "name:bastion"], false),
        (&[&forward, "-t", "name:bastion"], true),
        (&[&forward, "-t", "tag:Role=jump"], true),
        (&[&forward, "-t", "ecs:prod/worker"], true),
        (&["doctor", &forward, "-t", World::TARGET], false),
        (&["doctor", &forward, "-t", "ecs:prod/worker"], false),
    ] {
        for (level, options) in LEVELS {
            let world = World::with(fleet);
            let relay = ApiRelay::to(&world.emulator).await;
            let mut command = world.command(&[arguments, options].concat());
            command.env("AWS_ENDPOINT_URL", &relay.url).env("RUST_LOG", level);
            let program = Program::start(command);
            let mut told = program.command_line().unwrap_or_default();
            if stays {
                world.until("a session", |state| state.websockets == 1).await;
                program.signal(Signal::TERM);
            }
            let ended = program.exit().await.expect_status(if stays { 143 } else { 0 });
            told.push_str(&format!("\n{}\n{}", ended.stdout, ended.stderr));
            assert!(!ended.stderr.is_empty(), "{arguments:?}: nothing was logged");

            let seen = relay.seen().await;
            let mut secrets = keys(&world);
            secrets.extend(signatures(&seen).into_iter().map(|signature| ("a signature", signature)));
            secrets.extend(members(&seen, "TokenValue").into_iter().map(|token| ("the token of a session", token)));
            for url in members(&seen, "StreamUrl") {
                let cell = url.split_once("cell-number=").expect("a cell").1.to_owned();
                secrets.push(("a StreamUrl's query", cell));
            }
            // The keys, a signature, and what belongs to a session if there was one.
            let least = if arguments.contains(&"ls") { 3 } else { 5 };
            assert!(secrets.len() >= least, "{arguments:?}: next to nothing went through the relay: {}", secrets.len());
            has_none(&told, &secrets);
            world.settled().await;
        }
    }
}
