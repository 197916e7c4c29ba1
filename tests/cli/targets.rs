//! Targets that are no ids: what they lead to, what is said of it, and a bastion that is replaced behind its name.

use ssmfwd::emulator::{
    Action, EcsCluster, EcsContainer, EcsService, EcsTask, EmulatorConfig, EmulatorState, EndedBy, FailureKind, Node,
    NodePing, Operation,
};

use crate::harness::{Destination, Ended, Program, World, failing};

const OTHER: &str = "i-0fedcba9876543210";
const HYBRID: &str = "mi-0123456789abcdef0";

fn lost(id: &str) -> Node {
    Node { ping: NodePing::ConnectionLost, last_ping: Some(1_700_000_000), ..Node::new(id) }
}

/// Several of each kind.
pub(crate) fn fleet(config: &mut EmulatorConfig) {
    config.nodes = vec![
        Node { agent_version: "3.9.0.0".into(), ..Node::new(World::TARGET).named("bastion").tagged("Role", "jump") },
        Node { agent_version: "3.10.0.0".into(), ..Node::new(OTHER).named("bastion") },
        lost("i-0aaaaaaaaaaaaaaaa").named("bastion"),
        lost("i-0bbbbbbbbbbbbbbbb").named("asleep"),
        Node { computer_name: Some("box.example".into()), ..Node::new(HYBRID).named("on premises") },
    ];
    let app = |id: &str| [EcsContainer::new("app", format!("{id}-1")), EcsContainer::new("proxy", format!("{id}-2"))];
    let at = |started_at: u64, task: EcsTask| EcsTask { started_at, ..task };
    let service = |name: &str, tasks: Vec<EcsTask>| EcsService { name: name.into(), tasks };
    config.ecs = vec![EcsCluster {
        name: "prod".into(),
        services: vec![
            service("worker", vec![at(1, EcsTask::new("0a", app("0a"))), at(2, EcsTask::new("0b", app("0b")))]),
            service("closed", vec![EcsTask { exec: false, ..EcsTask::new("0c", app("0c")) }]),
            service("empty", vec![EcsTask { last_status: "STOPPED".into(), ..EcsTask::new("0d", app("0d")) }]),
        ],
    }];
}

/// What a run to ready says, the target of its session, and what the emulator saw.
async fn leads_to(world: World, target: &str, port: u16) -> (String, String, EmulatorState) {
    let program = Program::start(world.command(&[&format!("0:127.0.0.1:{port}@{target}")]));
    program.line("ready in").await;
    let (ended, state) = world.finish(program).await;
    let targets: Vec<_> = state.sessions.values().map(|session| session.target.clone()).collect();
    assert_eq!(targets.len(), 1);
    (ended.stderr, targets[0].clone(), state)
}

#[tokio::test]
async fn every_form_leads_to_its_target() {
    let echo = Destination::echo().await;
    for (target, id, said) in [
        (
            "name:bastion",
            OTHER,
            "ssmfwd: name:bastion is i-0fedcba9876543210 \"bastion\" (also: i-0123456789abcdef0, i-0aaaaaaaaaaaaaaaa (not \
             online))",
        ),
        ("bastion", OTHER, "ssmfwd: name:bastion is i-0fedcba9876543210 \"bastion\" (also: "),
        (
            "tag:Role=jump",
            World::TARGET,
            "ssmfwd: tag:Role=jump is i-0123456789abcdef0 \"ip-10-0-0-10.ec2.internal\"\n",
        ),
        ("name:on premises", HYBRID, "ssmfwd: name:on premises is mi-0123456789abcdef0 \"on premises\"\n"),
        ("BOX.example", HYBRID, "ssmfwd: name:BOX.example is mi-0123456789abcdef0 \"on premises\"\n"),
        (
            "ecs:prod/worker",
            "ecs:prod_0b_0b-1",
            "ssmfwd: ecs:prod/worker is ecs:prod_0b_0b-1 \"app\" (also: ecs:prod_0b_0b-2 \"proxy\", ecs:prod_0a_0a-1, \
             ecs:prod_0a_0a-2 \"proxy\")\n",
        ),
        (
            "ecs:arn:aws:ecs:us-east-1:123456789012:cluster/prod/worker/proxy",
            "ecs:prod_0b_0b-2",
            "ssmfwd: ecs:prod/worker/proxy is ecs:prod_0b_0b-2 \"proxy\" (also: ecs:prod_0a_0a-2)\n",
        ),
    ] {
        let (stderr, led_to, _) = leads_to(World::with(fleet), target, echo.port).await;
        assert_eq!(led_to, id, "{target}");
        assert!(stderr.contains(said), "{target}: no {said:?} in:\n{stderr}");
    }
}

/// The lines about an id come from calls that are not needed.
#[tokio::test]
async fn an_id_needs_no_call_but_those_of_the_session() {
    let echo = Destination::echo().await;
    let denied = World::with(|config| {
        fleet(config);
        let needed = ["StartSession", "ResumeSession", "TerminateSession", "OpenDataChannel"];
        config.allowed = Some(needed.map(String::from).into());
    });
    let (stderr, id, _) = leads_to(denied, World::TARGET, echo.port).await;
    assert_eq!(id, World::TARGET);
    assert!(!stderr.contains("Describe") && !stderr.contains("warning"), "{stderr}");

    // Who is not told the name does not ask for it.
    let world = World::with(fleet);
    let program = world.forward(echo.port, &[]).await;
    assert_eq!(program.event("session_started").await["target"], World::TARGET);
    let (_, state) = world.finish(program).await;
    assert_eq!(calls(&state), ["StartSession"]);

    let (_, id, state) = leads_to(World::with(fleet), "ecs:prod_0a_0a-1", echo.port).await;
    assert_eq!(id, "ecs:prod_0a_0a-1");
    assert_eq!(calls(&state), ["StartSession"]);
}

/// What was asked; whom the keys belong to is another question, and of another service.
fn calls(state: &EmulatorState) -> Vec<&str> {
    state.calls.keys().map(AsRef::as_ref).filter(|call| *call != "GetCallerIdentity").collect()
}

#[tokio::test]
async fn the_name_of_an_id_is_told() {
    let (world, echo) = (World::with(fleet), Destination::echo().await);
    let program = Program::start(world.command(&[&format!("0:127.0.0.1:{}@{OTHER}", echo.port)]));
    program.line("ssmfwd: i-0fedcba9876543210 \"bastion\"").await;
    program.line("ready in").await;
    world.finish(program).await;
}

/// One run that fails before any session.
async fn fails(change: impl FnOnce(&mut EmulatorConfig), target: &str, status: i32) -> Ended {
    let world = World::with(|config| {
        fleet(config);
        change(config);
    });
    let ended = world.run(&["0:22", "--target", target]).await.expect_status(status);
    assert_eq!(world.settled().await.sessions_started, 0);
    ended
}

#[tokio::test]
async fn a_target_that_leads_nowhere_is_explained() {
    for (target, said, found, hint) in [
        (
            "name:Bast",
            "lookup of name:Bast failed: no managed node in us-east-1 has the name \"Bast\"",
            "  caused by: similar names are \"bastion\"",
            "hint: `ssmfwd ls --region us-east-1` lists the managed nodes",
        ),
        ("tag:Role=web", "no managed node in us-east-1 has the tag Role=web", "", "hint: `ssmfwd ls"),
        (
            "asleep",
            "the managed node in us-east-1 that has the name \"asleep\" is not online",
            "  caused by: i-0bbbbbbbbbbbbbbbb \"asleep\" was last heard at 2023-11-14T22:13:20Z",
            "hint: start the node or its SSM agent",
        ),
        ("ecs:dev/worker", "there is no ECS cluster dev in us-east-1", "", "hint: check the cluster's name"),
        (
            "ecs:prod/web",
            "the ECS cluster prod in us-east-1 has no service web",
            "  caused by: its services are closed, empty, worker",
            "hint: check the service's name",
        ),
        ("ecs:prod/empty", "has no running task", "", "hint: wait for its deployment"),
        (
            "ecs:prod/closed",
            "has exec enabled",
            "  caused by: enableExecuteCommand is false",
            "hint: enable it with `aws ecs update-service --cluster prod --service closed --enable-execute-command \
             --force-new-deployment`",
        ),
        (
            "ecs:prod/worker/db",
            "have no container db",
            "  caused by: their containers are app, proxy",
            "hint: name one of them",
        ),
    ] {
        let ended = fails(|_| {}, target, 6).await;
        ended
            .expect_stderr("error: no session for 0:22\n")
            .expect_stderr(said)
            .expect_stderr(found)
            .expect_stderr(hint);
    }
}

#[tokio::test]
async fn who_may_not_look_up_is_told_which_permission_is_missing() {
    for (operation, target, hint) in [
        (
            "DescribeInstanceInformation",
            "name:bastion",
            "hint: the policy must allow ssm:DescribeInstanceInformation on *; a target that is named by its id",
        ),
        ("ListTasks", "ecs:prod/worker", "hint: the policy must allow ecs:ListTasks and ecs:DescribeTasks"),
        ("DescribeTasks", "ecs:prod/worker", "hint: the policy must allow ecs:ListTasks and ecs:DescribeTasks"),
    ] {
        let ended = fails(|config| config.denied = vec![operation.into()], target, 5).await;
        ended.expect_stderr(&format!("{operation} of {target} failed: User: arn:aws:iam::")).expect_stderr(hint);
    }
}

#[tokio::test]
async fn a_policy_is_asked_to_allow_the_id_and_not_the_name() {
    let ended = fails(|config| config.denied = vec!["StartSession".into()], "name:bastion", 5).await;
    ended.expect_stderr("ssm:StartSession on arn:aws:ec2:us-east-1:*:instance/i-0fedcba9876543210");
}

#[tokio::test]
async fn a_throttled_lookup_is_tried_again() {
    let echo = Destination::echo().await;
    for (operation, target) in [
        (Operation::DescribeInstanceInformation, "name:bastion"),
        (Operation::ListTasks, "ecs:prod/worker"),
        (Operation::DescribeTasks, "ecs:prod/worker"),
    ] {
        let world = World::with(|config| {
            fleet(config);
            config.failures = failing(operation, FailureKind::Throttled);
            config.failures[0].times = Some(2);
        });
        let (_, _, state) = leads_to(world, target, echo.port).await;
        assert_eq!(state.errors.get("ThrottlingException"), Some(&2));
    }
}

/// Who is ahead of the service learns the time from its refusal.
#[tokio::test]
async fn a_clock_that_is_wrong_does_not_matter_to_ecs() {
    let echo = Destination::echo().await;
    let world = World::with(|config| {
        fleet(config);
        config.clock_skew = -3600;
    });
    let (_, id, _) = leads_to(world, "ecs:prod/worker", echo.port).await;
    assert_eq!(id, "ecs:prod_0b_0b-1");
}

#[tokio::test]
async fn forwards_and_members_through_one_target_look_it_up_once() {
    let (world, echo) = (World::with(fleet), Destination::echo().await);
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let arguments = ["--output", "json", "-t", "name:bastion", "--sessions", "2", &forward, &forward];
    let program = Program::start(world.command(&arguments));
    let started = program.events("session_started", 4).await;
    assert!(started.iter().all(|event| event["target"] == OTHER), "{started:?}");
    let (_, state) = world.finish(program).await;
    assert_eq!((state.calls_of("StartSession"), state.calls_of("DescribeInstanceInformation")), (4, 1));
}

#[tokio::test]
async fn a_node_far_down_the_inventory_is_found() {
    let echo = Destination::echo().await;
    let crowd = |config: &mut EmulatorConfig| {
        config.nodes = (0..120).map(|number| Node::new(format!("i-{number:017}"))).collect();
        config.nodes.push(Node { computer_name: Some("last".into()), ..Node::new(HYBRID) });
        config.denied = vec!["DescribeInstanceProperties".into()];
    };
    let (_, id, state) = leads_to(World::with(crowd), "last", echo.port).await;
    // One by tag, and three pages of all.
    assert_eq!((&id[..], state.calls_of("DescribeInstanceInformation")), (HYBRID, 4));
}

/// The name is looked up for every session: the next one goes to whoever has it then.
#[tokio::test]
async fn a_bastion_that_is_replaced_behind_its_name_heals_the_tunnel() {
    let (world, echo) = (World::with(|_| {}), Destination::echo().await);
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = Program::start(world.command(&["--output", "json", "-t", "name:bastion", &forward]));
    assert_eq!(program.event("session_started").await["target"], World::TARGET);
    program.connect().await.echo(b"old").await;

    // It is gone, its name with it, and there is none for a while.
    world.emulator.configure(|config| {
        config.targets = vec![];
        config.nodes = vec![];
    });
    assert_eq!(world.emulator.act(Action::ChannelClosed { output: String::new() }), 1);
    program.event("dormant").await;
    let mut client = program.connect().await;
    program.events("reconnecting", 1).await;
    world.emulator.configure(|config| config.nodes = vec![Node::new(OTHER).named("bastion")]);
    client.echo(b"new").await;
    assert_eq!(program.events("session_started", 2).await[1]["target"], OTHER);
    let (_, state) = world.finish(program).await;
    assert_eq!((state.ended_by(EndedBy::Service), state.ended_by(EndedBy::Flag)), (1, 1));
}

/// While the bastion restarts, a node that calls itself so is not believed.
#[tokio::test]
async fn a_tunnel_waits_for_its_bastion_and_does_not_go_to_a_node_with_its_name() {
    let (world, echo) = (World::with(|_| {}), Destination::echo().await);
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = Program::start(world.command(&["--output", "json", "-t", "name:bastion", &forward]));
    program.connect().await.echo(b"before").await;
    world.emulator.configure(|config| {
        config.targets = vec![];
        config.nodes = vec![
            lost(World::TARGET).named("bastion"),
            Node { computer_name: Some("bastion".into()), ..Node::new(OTHER) },
        ];
    });
    assert_eq!(world.emulator.act(Action::ChannelClosed { output: String::new() }), 1);
    program.event("dormant").await;
    let mut client = program.connect().await;
    // With the impostor online, it waits.
    program.event("reconnecting").await;
    world.emulator.configure(|config| config.nodes[0].ping = NodePing::Online);
    client.echo(b"still the same").await;
    let started = program.events("session_started", 2).await;
    assert!(started.iter().all(|event| event["target"] == World::TARGET), "{started:?}");
    world.finish(program).await;
}
