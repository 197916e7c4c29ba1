//! The rows of sessions that are encrypted.

use serde_json::Value;
use ssmfwd::emulator::{EmulatorConfig, SealFault};

use super::{Expected, World, expected};
use crate::harness::{Ended, Program};

fn sealed(change: impl FnOnce(&mut EmulatorConfig)) -> World {
    World::with(|config| {
        config.kms_key = Some("alias/sessions".into());
        change(config);
    })
}

async fn shell(world: &World) -> Ended {
    let arguments = ["shell", "-t", World::TARGET, "--output", "json"];
    Program::start(world.command(&arguments)).exit().await
}

/// The error event of a shell is on stderr.
fn error(ended: &Ended) -> Value {
    let events = ended.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors: Vec<_> = events.filter(|event| event["event"] == "error").collect();
    assert_eq!(errors.len(), 1, "{}", ended.stderr);
    errors.remove(0)
}

async fn fails(world: World, Expected { symptom, status, says, helps }: Expected) {
    let ended = shell(&world).await.expect_status(status);
    let error = error(&ended);
    assert_eq!((&error["symptom"], &error["status"]), (&symptom.into(), &status.into()), "{error}");
    assert!(error.to_string().contains(says), "no {says:?} in {error}");
    assert!(error["hint"].as_str().unwrap_or_default().contains(helps), "no {helps:?} in {error}");
    world.settled().await;
}

#[tokio::test]
async fn keys_that_cannot_be_had() {
    let world = sealed(|config| config.denied = vec!["GenerateDataKey".into()]);
    let row = expected("data_key_denied", 5, "not authorized", "kms:GenerateDataKey on alias/sessions");
    fails(world, row).await;
    let world = sealed(|config| {
        config.failures = vec!["GenerateDataKey:key_not_found".parse().expect("a failure")];
    });
    let row = expected("data_key_unusable", 6, "does not exist", "Session Manager's preferences");
    fails(world, row).await;
}

/// Faults of the challenge, before anything was typed.
#[tokio::test]
async fn agents_without_the_key() {
    let world = sealed(|config| {
        config.seal_fault = Some("wrong_challenge".parse::<SealFault>().expect("a fault"));
    });
    fails(world, expected("encryption_broken", 1, "challenge", "try again")).await;
}
