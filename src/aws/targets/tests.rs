//! Lookups against a service in memory: what is asked, where, and how often.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::{
    aws::{
        AwsOptions,
        canned::{Answer, Canned},
    },
    session::{ControlPlane as _, StartRequest},
};

const URL: &str = "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/me-0a?role=publish_subscribe";

fn aws(canned: &Canned) -> Aws {
    Aws::from_sdk_config(&canned.config(), AwsOptions::default()).expect("a configuration")
}

fn nodes(ids: &[&str]) -> Answer {
    let node = |id: &&str| json!({ "InstanceId": id, "PingStatus": "Online", "AgentVersion": "3.3.987.0" });
    let list: Vec<_> = ids.iter().map(node).collect();
    Answer::json(200, json!({ "InstanceInformationList": list }).to_string())
}

fn granted() -> Answer {
    let body = json!({ "SessionId": "me-0a", "TokenValue": "token", "StreamUrl": URL });
    Answer::json(200, body.to_string())
}

fn request(target: &str) -> StartRequest {
    StartRequest { target: target.into(), ..StartRequest::default() }
}

fn operations(canned: &Canned) -> Vec<String> {
    canned.asked().into_iter().map(|asked| asked.operation).collect()
}

fn body(canned: &Canned, call: usize) -> Value {
    serde_json::from_str(&canned.asked()[call].body).expect("JSON")
}

#[tokio::test]
async fn a_name_is_asked_for_as_a_tag_and_the_session_is_that_of_the_id() {
    let canned = Canned::new([nodes(&["i-0b", "i-0a"]), granted()]);
    let grant = aws(&canned).start(&request("bastion")).await.expect("a grant");
    assert_eq!(grant.target.as_deref(), Some("i-0a"));
    let asked = json!({ "Filters": [{ "Key": "tag:Name", "Values": ["bastion"] }], "MaxResults": 50 });
    assert_eq!(body(&canned, 0), asked);
    assert_eq!(body(&canned, 1), json!({ "Target": "i-0a" }));
}

fn inventory(nodes: Value) -> Answer {
    Answer::json(200, json!({ "InstanceInformationList": nodes }).to_string())
}

/// A computer's name is what its agent says: whoever runs one node could draw the tunnels of another to it.
#[tokio::test]
async fn a_node_that_calls_itself_so_does_not_take_the_place_of_one_that_is_named_so() {
    let lost = json!({ "InstanceId": "i-0a", "PingStatus": "ConnectionLost" });
    let impostor = json!({ "InstanceId": "i-0b", "ComputerName": "bastion", "PingStatus": "Online" });

    // By its tag: nothing else is asked.
    let canned = Canned::new([inventory(json!([lost]))]);
    let error = aws(&canned).start(&request("bastion")).await.expect_err("offline");
    assert_eq!(lookup_fault(&error), Some(&LookupFault::Offline));
    assert_eq!(operations(&canned), ["DescribeInstanceInformation"]);

    // By the name that it was registered with.
    let registered = json!({ "InstanceId": "mi-0a", "Name": "bastion", "PingStatus": "ConnectionLost" });
    let all = json!({ "InstanceProperties": [impostor, registered] }).to_string();
    let canned = Canned::new([inventory(json!([])), Answer::json(200, all)]);
    let error = aws(&canned).start(&request("bastion")).await.expect_err("offline");
    assert_eq!(lookup_fault(&error), Some(&LookupFault::Offline));
    assert!(!error.to_string().contains("none of the 2"), "{error}");

    // Without any of these, the computer's name counts.
    let all = json!({ "InstanceProperties": [impostor] }).to_string();
    let canned = Canned::new([inventory(json!([])), Answer::json(200, all), granted()]);
    assert_eq!(aws(&canned).start(&request("BASTION")).await.expect("a grant").target.as_deref(), Some("i-0b"));
}

#[tokio::test(start_paused = true)]
async fn a_lookup_is_shared_for_a_while_and_told_when_it_changes() {
    let canned = Canned::new([nodes(&["i-0a"]), granted(), granted()]);
    let (aws, told) = (Arc::new(aws(&canned)), Arc::<Mutex<Vec<String>>>::default());
    let ids = told.clone();
    aws.on_resolution(Box::new(move |resolution| ids.lock().expect("no panic").push(resolution.id.clone())));
    let request = request("tag:Role=jump");
    let (one, other) = tokio::join!(aws.start(&request), aws.start(&request));
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(operations(&canned), ["DescribeInstanceInformation", "StartSession", "StartSession"]);

    advance(FRESH).await;
    canned.more([nodes(&["i-0a"]), granted()]);
    aws.start(&request).await.expect("a grant");
    advance(FRESH).await;
    canned.more([nodes(&["i-0b"]), granted()]);
    assert_eq!(aws.start(&request).await.expect("a grant").target.as_deref(), Some("i-0b"));
    assert_eq!(*told.lock().expect("no panic"), ["i-0a", "i-0b"]);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_gone_is_looked_up_anew_at_once() {
    let gone = Answer::refused(400, "TargetNotConnected", "i-0a is not connected.");
    let canned = Canned::new([nodes(&["i-0a"]), gone, nodes(&["i-0b"]), granted()]);
    let (aws, request) = (aws(&canned), request("bastion"));
    let error = aws.start(&request).await.expect_err("gone");
    assert_eq!((error.kind, &error.resource[..]), (ControlErrorKind::TargetNotConnected, "i-0a"));
    assert_eq!(aws.start(&request).await.expect("a grant").target.as_deref(), Some("i-0b"));
}

#[tokio::test]
async fn a_target_that_cannot_be_read_is_no_call() {
    let canned = Canned::new([]);
    let error = aws(&canned).start(&request("tag:x")).await.expect_err("no value");
    assert_eq!(error.kind, ControlErrorKind::InvalidRequest);
    assert_eq!(error.to_string(), "StartSession of tag:x failed: expected tag:KEY=VALUE");
    assert_eq!(canned.asked().len(), 0);
}

#[tokio::test]
async fn a_node_is_described_by_whoever_may_be_asked() {
    let property =
        json!({ "InstanceProperties": [{ "InstanceId": "i-0a", "Name": "bastion", "PingStatus": "Online" }] });
    let canned = Canned::new([Answer::json(200, property.to_string())]);
    let node = aws(&canned).describe("i-0a").await.expect("an answer").expect("a node");
    assert_eq!((node.label(), node.is_online()), (Some("bastion"), true));
    let filter = json!([{ "key": "InstanceIds", "valueSet": ["i-0a"] }]);
    assert_eq!(body(&canned, 0)["InstancePropertyFilterList"], filter);

    let denied = || Answer::refused(400, "AccessDeniedException", "no");
    let canned = Canned::new([denied(), nodes(&["i-0a"])]);
    assert!(aws(&canned).describe("i-0a").await.expect("an answer").is_some());
    assert_eq!(operations(&canned), ["DescribeInstanceProperties", "DescribeInstanceInformation"]);

    let canned = Canned::new([Answer::refused(400, "InvalidInstanceId", "i-0a")]);
    assert_eq!(aws(&canned).describe("i-0a").await.expect("an answer"), None);
    assert_eq!(aws(&Canned::new([])).describe("ecs:a_b_c").await.expect("no call"), None);
    let canned = Canned::new([denied(), denied()]);
    let error = aws(&canned).describe("i-0a").await.expect_err("denied");
    assert_eq!((error.kind, error.operation), (ControlErrorKind::AccessDenied, "DescribeInstanceInformation"));
}

#[tokio::test]
async fn a_list_without_an_end_is_an_error() {
    let endless = || Answer::json(200, json!({ "InstanceInformationList": [], "NextToken": "x" }).to_string());
    let canned = Canned::new([endless(), endless()]);
    let error = aws(&canned).start(&request("tag:Role=jump")).await.expect_err("no end");
    assert_eq!((error.kind, canned.asked().len()), (ControlErrorKind::BadAnswer, 2));
}

fn task(id: &str) -> Answer {
    let container = json!({
        "name": "app", "runtimeId": "rt-1", "lastStatus": "RUNNING",
        "managedAgents": [{ "name": "ExecuteCommandAgent", "lastStatus": "RUNNING" }],
    });
    let task = json!({
        "taskArn": format!("arn:aws:ecs:eu-west-1:1:task/prod/{id}"), "clusterArn": "arn:aws:ecs:eu-west-1:1:cluster/prod",
        "lastStatus": "RUNNING", "enableExecuteCommand": true, "startedAt": 1.5, "containers": [container],
    });
    Answer::json(200, json!({ "tasks": [task] }).to_string())
}

fn listed() -> Answer {
    Answer::json(200, json!({ "taskArns": ["arn:aws:ecs:eu-west-1:1:task/prod/0a"] }).to_string())
}

#[tokio::test]
async fn ecs_is_asked_where_it_is_and_with_a_signature_of_its_own() {
    let canned = Canned::new([listed(), task("0a"), granted()]);
    let grant = aws(&canned).start(&request("ecs:prod/worker")).await.expect("a grant");
    assert_eq!(grant.target.as_deref(), Some("ecs:prod_0a_rt-1"));
    let asked = canned.asked();
    let name = |operation: &str| format!("AmazonEC2ContainerServiceV20141113.{operation}");
    assert_eq!(operations(&canned), [name("ListTasks"), name("DescribeTasks"), "StartSession".to_owned()]);
    for call in &asked[..2] {
        assert_eq!(call.uri, "https://ecs.eu-west-1.amazonaws.com/");
        let scope = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20231114/eu-west-1/ecs/aws4_request, SignedHeaders=";
        assert!(call.authorization.starts_with(scope), "{}", call.authorization);
    }
    let list = json!({ "cluster": "prod", "serviceName": "worker", "desiredStatus": "RUNNING", "maxResults": 100 });
    assert_eq!(body(&canned, 0), list);
    let tasks = json!({ "cluster": "prod", "tasks": ["arn:aws:ecs:eu-west-1:1:task/prod/0a"] });
    assert_eq!(body(&canned, 1), tasks);
}

/// The endpoint of SSM and that of ECS are chosen apart; only the former says where a StreamUrl may lead.
#[tokio::test]
async fn the_endpoint_of_ssm_is_not_that_of_ecs() {
    let canned = Canned::new([listed(), task("0a"), granted()]);
    let options = AwsOptions {
        endpoint_url: Some("https://vpce-0a.ssm.eu-west-1.vpce.amazonaws.com".into()),
        ..AwsOptions::default()
    };
    let aws = Aws::from_sdk_config(&canned.config(), options).expect("a configuration");
    aws.start(&request("ecs:prod/worker")).await.expect("a grant");
    let hosts: Vec<_> = canned.asked().into_iter().map(|asked| asked.uri).collect();
    assert!(
        hosts[0].starts_with("https://ecs.eu-west-1.") && hosts[2].starts_with("https://vpce-0a.ssm."),
        "{hosts:?}"
    );

    let canned = Canned::new([listed(), task("0a"), granted()]);
    let config = canned.config().into_builder().use_fips(true).use_dual_stack(true).build();
    let aws = Aws::from_sdk_config(&config, AwsOptions::default()).expect("a configuration");
    aws.start(&request("ecs:prod/worker")).await.expect("a grant");
    assert_eq!(canned.asked()[0].uri, "https://ecs-fips.eu-west-1.api.aws/");
}

#[tokio::test(start_paused = true)]
async fn ecs_is_asked_again_where_that_may_help() {
    for (answer, tries) in [
        (|| Answer::refused(400, "ThrottlingException", "Rate exceeded"), 3),
        (|| Answer::json(503, "<html>"), 3),
        (|| Answer::refused(400, "InvalidSignatureException", "Signature expired: 1 is now earlier than 2"), 3),
        (|| Answer::refused(400, "AccessDeniedException", "no"), 1),
        (|| Answer::refused(400, "InvalidSignatureException", "does not match"), 1),
    ] as [(fn() -> Answer, usize); _]
    {
        let canned = Canned::new([answer(), answer(), answer(), answer()]);
        let error = aws(&canned).start(&request("ecs:prod/worker")).await.expect_err("refused");
        assert_eq!(canned.asked().len(), tries, "{error}");
    }
    // A time that is learnt from a refusal is that of the next signature.
    let late = Answer::Http {
        status: 400,
        body: r#"{"__type":"InvalidSignatureException","message":"Signature expired: 1"}"#.into(),
        date: Some("Wed, 15 Nov 2023 22:13:20 GMT"),
    };
    let canned = Canned::new([late, listed(), task("0a"), granted()]);
    aws(&canned).start(&request("ecs:prod/worker")).await.expect("a grant");
    let asked = canned.asked();
    let days: Vec<_> = asked.iter().map(|asked| asked.authorization.split('/').nth(1).expect("a scope")).collect();
    assert_eq!(days[..2], ["20231114", "20231115"], "{days:?}");
}

/// As for SSM: the clock is named, and the credentials are not at fault.
#[tokio::test(start_paused = true)]
async fn ecs_at_another_time_is_told_with_the_clocks() {
    let late = || Answer::Http {
        status: 400,
        body: r#"{"__type":"InvalidSignatureException","message":"Signature expired: 1"}"#.into(),
        date: Some("Wed, 15 Nov 2023 22:13:20 GMT"),
    };
    let canned = Canned::new([late(), late(), late()]);
    let error = aws(&canned).start(&request("ecs:prod/worker")).await.expect_err("another time");
    assert_eq!((error.kind, error.operation), (ControlErrorKind::ClockSkew, "ListTasks"));
    assert!(error.to_string().contains("(the clock of this machine is 1 d 0 h behind that of AWS)"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn ecs_that_does_not_answer_is_not_waited_for_without_end() {
    let canned = Canned::new([Answer::Silence, Answer::Silence, Answer::Silence]);
    let (control, wanted) = (aws(&canned), request("ecs:prod/worker"));
    let asking = tokio::time::timeout(Duration::from_secs(60), control.start(&wanted));
    let error = asking.await.expect("in time").expect_err("no answer");
    assert_eq!(error.kind, ControlErrorKind::Network);
    assert!(error.to_string().contains("ecs.eu-west-1.amazonaws.com did not answer in time"), "{error}");
}
