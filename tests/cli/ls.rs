//! `ssmfwd ls`.

use serde_json::Value;
use ssmfwd::emulator::{EmulatorConfig, FailureKind, Node, NodePing, Operation};

use crate::harness::{World, failing};

fn fleet(config: &mut EmulatorConfig) {
    config.nodes = vec![
        Node { ping: NodePing::ConnectionLost, last_ping: Some(1_700_000_000), ..Node::new("i-0a").named("asleep") },
        Node { ip: "10.0.0.20".into(), ..Node::new("i-0b").named("web\u{1b}[31m").tagged("Role", "web") },
        Node::new("mi-0c").named("db"),
    ];
    config.targets = vec![];
}

#[tokio::test]
async fn a_table_lists_those_online_first() {
    let ended = World::with(fleet).run(&["ls"]).await.expect_status(0);
    assert_eq!(
        ended.stdout.lines().collect::<Vec<_>>(),
        [
            "ID     NAME           PLATFORM           AGENT      PING            IP",
            "mi-0c  db             Amazon Linux 2023  3.3.987.0  Online          10.0.0.10",
            "i-0b   web\\u{1b}[31m  Amazon Linux 2023  3.3.987.0  Online          10.0.0.20",
            "i-0a   asleep         Amazon Linux 2023  3.3.987.0  ConnectionLost  10.0.0.10",
        ]
    );
    assert_eq!(ended.stderr, "");
}

fn ids(stdout: &str) -> Vec<String> {
    let nodes: Vec<Value> = serde_json::from_str(stdout).expect("one array");
    nodes.iter().map(|node| node["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn json_is_one_array_of_objects() {
    let ended = World::with(fleet).run(&["ls", "asleep", "--output", "json"]).await.expect_status(0);
    let nodes: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let expected = serde_json::json!([{
        "id": "i-0a", "name": "asleep", "computer_name": "ip-10-0-0-10.ec2.internal", "platform": "Linux",
        "system": "Amazon Linux", "system_version": "2023", "agent_version": "3.3.987.0", "ping": "ConnectionLost",
        "last_ping": "2023-11-14T22:13:20Z", "ip": "10.0.0.10",
    }]);
    assert_eq!(nodes, expected);
    let ended = World::with(fleet).run(&["ls", "nothing", "--output", "json"]).await.expect_status(0);
    assert_eq!((&ended.stdout[..], &ended.stderr[..]), ("[]", ""));
}

#[tokio::test]
async fn a_filter_is_a_text_a_name_or_a_tag() {
    let world = World::with(fleet);
    for (filter, expected) in [
        ("WEB", &["i-0b"][..]),
        ("mi-", &["mi-0c"]),
        ("0.20", &["i-0b"]),
        ("name:db", &["mi-0c"]),
        ("tag:Role=web", &["i-0b"]),
        ("tag:Name=asleep", &["i-0a"]),
    ] {
        let ended = world.run(&["ls", filter, "--output", "json"]).await.expect_status(0);
        assert_eq!(ids(&ended.stdout), expected, "{filter}");
    }
    world.run(&["ls", "tag:Role"]).await.expect_status(2).expect_stderr("expected tag:KEY=VALUE");
    world.run(&["ls", "ecs:a/b"]).await.expect_status(2).expect_stderr("hint: containers are not in SSM's inventory");
}

/// What `-t name:` would lead to is what is listed, whatever the policy lacks.
#[tokio::test]
async fn a_name_is_whose_it_is_as_a_target() {
    for denied in [&[][..], &["DescribeInstanceProperties"]] {
        let world = World::with(|config| {
            fleet(config);
            config.nodes.push(Node { computer_name: Some("Asleep".into()), ..Node::new("i-0d") });
            config.nodes.push(Node { computer_name: Some("box.example".into()), ..Node::new("i-0e") });
            config.denied = denied.iter().map(|&name| name.into()).collect();
        });
        for (filter, id) in [("name:asleep", "i-0a"), ("name:db", "mi-0c"), ("name:BOX.example", "i-0e")] {
            let ended = world.run(&["ls", filter, "--output", "json"]).await.expect_status(0);
            assert_eq!(ids(&ended.stdout), [id], "{filter} without {denied:?}");
        }
        let ended = world.run(&["ls", "name:asleep"]).await.expect_status(0);
        assert!(ended.stdout.contains("i-0a  asleep"), "{}", ended.stdout);
    }
}

#[tokio::test]
async fn nothing_to_list_is_no_failure() {
    let world = World::with(|config| {
        config.nodes = vec![];
        config.targets = vec![];
    });
    let ended = world.run(&["ls"]).await.expect_status(0);
    assert_eq!(ended.stdout, "");
    ended.expect_stderr("ssmfwd: no managed node in us-east-1");
}

#[tokio::test]
async fn all_pages_are_read_whatever_the_policy_allows() {
    let crowd = |config: &mut EmulatorConfig| {
        config.nodes = (0..420).map(|number| Node::new(format!("i-{number:04}"))).collect();
        config.targets = vec![];
    };
    for (denied, calls) in [(None, 3), (Some("DescribeInstanceProperties"), 9)] {
        let world = World::with(|config| {
            crowd(config);
            config.denied = denied.iter().map(|&name| name.into()).collect();
        });
        let ended = world.run(&["ls", "--output", "json"]).await.expect_status(0);
        let found = ids(&ended.stdout);
        assert_eq!((found.len(), &found[0][..], &found[419][..]), (420, "i-0000", "i-0419"));
        let state = world.settled().await;
        let operation = denied.map_or("DescribeInstanceProperties", |_| "DescribeInstanceInformation");
        assert_eq!(state.calls_of(operation), calls);
    }
}

#[tokio::test]
async fn failures_have_the_statuses_of_forwards() {
    let denied = |config: &mut EmulatorConfig| {
        config.denied = vec!["DescribeInstanceProperties".into(), "DescribeInstanceInformation".into()];
    };
    let ended = World::with(denied).run(&["ls"]).await.expect_status(5);
    ended
        .expect_stderr("error: the managed nodes cannot be listed\n  caused by: DescribeInstanceInformation of")
        .expect_stderr("hint: the policy must allow ssm:DescribeInstanceInformation on *");
    let down = |config: &mut EmulatorConfig| {
        config.failures = failing(Operation::DescribeInstanceProperties, FailureKind::Internal);
    };
    World::with(down).run(&["ls"]).await.expect_status(1).expect_stderr("(InternalServerError)");
    let expired = |config: &mut EmulatorConfig| config.expired_credentials = true;
    World::with(expired).run(&["ls"]).await.expect_status(4);
}
