//! The rows of targets: those that are not connected, and those that a lookup does not find.

use ssmfwd::emulator::{EcsContainer, EcsTask, EmulatorConfig, Node, NodePing};

use super::{FORWARD, World, expected, fails};
use crate::targets::fleet;

fn deny(config: &mut EmulatorConfig, operations: &[&str]) {
    config.denied = operations.iter().map(|operation| (*operation).to_owned()).collect();
}

/// What SSM knows of a target is asked only when it is not connected, and does without an answer.
#[tokio::test]
async fn targets_that_are_not_connected() {
    let world = World::with(|config| {
        deny(config, &["DescribeInstanceInformation", "DescribeInstanceProperties"]);
        config.offline = true;
    });
    let row = expected("target_not_connected", 6, "is not connected", "the region us-east-1, and that the SSM agent");
    fails(world, &[FORWARD], row).await;

    let world = World::with(|config| {
        let mut node = Node::new(World::TARGET);
        node.agent_version = "3.2.1.0".into();
        (node.ping, node.last_ping) = (NodePing::ConnectionLost, Some(1_700_000_000));
        config.nodes = vec![node];
    });
    let row = expected(
        "target_offline",
        6,
        "its agent (version 3.2.1.0) was last heard at 2023-11-14T22:13:20Z",
        "start i-0123456789abcdef0 or its agent",
    );
    fails(world, &[FORWARD], row).await;

    let row = expected("target_unknown", 6, "registered in us-east-1 under this id", "AmazonSSMManagedInstanceCore");
    fails(World::ideal(), &["0:127.0.0.1:9@i-0missing"], row).await;
}

#[tokio::test]
async fn lookups_that_find_nothing() {
    for (target, row) in [
        (
            "name:Bast",
            expected(
                "target_not_found",
                6,
                "no managed node in us-east-1 has the name",
                "`ssmfwd ls --region us-east-1` lists the managed nodes of this account in us-east-1",
            ),
        ),
        ("tag:Role=web", expected("target_not_found", 6, "has the tag Role=web", "`ssmfwd ls --region us-east-1`")),
        ("asleep", expected("nodes_offline", 6, "is not online", "start the node or its SSM agent")),
        ("ecs:dev/worker", expected("no_cluster", 6, "no ECS cluster dev", "the account and the region us-east-1")),
        ("ecs:prod/web", expected("no_service", 6, "has no service web", "check the service's name")),
        ("ecs:prod/empty", expected("no_task", 6, "has no running task", "see why its tasks stop")),
        (
            "ecs:prod/closed",
            expected(
                "exec_disabled",
                6,
                "has exec enabled",
                "update-service --cluster prod --service closed --enable-execute-command",
            ),
        ),
        ("ecs:prod/silent", expected("no_exec_agent", 6, "can be reached", "ssmmessages:CreateControlChannel")),
        ("ecs:prod/worker/db", expected("no_container", 6, "no container db", "name one of them, or none")),
    ] {
        let world = World::with(|config| {
            fleet(config);
            let mut container = EcsContainer::new("app", "0e-1");
            container.agent = "STOPPED".into();
            let mut silent = config.ecs[0].services[0].clone();
            (silent.name, silent.tasks) = ("silent".into(), vec![EcsTask::new("0e", [container])]);
            config.ecs[0].services.push(silent);
        });
        fails(world, &[&format!("{FORWARD}@{target}")], row).await;
    }
}

#[tokio::test]
async fn lookups_that_are_denied() {
    for (operation, target, row) in [
        (
            "DescribeInstanceInformation",
            "name:bastion",
            expected(
                "lookup_denied",
                5,
                "not authorized to perform",
                "must allow ssm:DescribeInstanceInformation on *",
            ),
        ),
        (
            "ListTasks",
            "ecs:prod/worker",
            expected("tasks_denied", 5, "ListTasks of ecs:prod/worker failed", "ecs:ListTasks and ecs:DescribeTasks"),
        ),
        (
            "DescribeTasks",
            "ecs:prod/worker",
            expected("tasks_denied", 5, "DescribeTasks of ecs:prod/worker", "ecs:ListTasks and ecs:DescribeTasks"),
        ),
    ] {
        let world = World::with(|config| {
            fleet(config);
            deny(config, &[operation]);
        });
        fails(world, &[&format!("{FORWARD}@{target}")], row).await;
    }
}
