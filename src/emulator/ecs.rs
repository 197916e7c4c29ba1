//! The ECS API as far as a target needs it: ListTasks, DescribeTasks, ListServices
//! (`proto-notes/emulator.md#inventory`); and ExecuteCommand, which starts a session.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    EmulatorConfig, SessionType,
    api::{ApiError, ApiRequest, decode, stream_url},
    inventory::encode,
    service::{Service, StartOrder},
};

const ACCOUNT: &str = "123456789012";
const RUNNING: &str = "RUNNING";

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EcsCluster {
    /// Its name.
    pub name: String,
    /// What runs in it.
    #[serde(default)]
    pub services: Vec<EcsService>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EcsService {
    /// Its name.
    pub name: String,
    /// Its tasks.
    #[serde(default)]
    pub tasks: Vec<EcsTask>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EcsTask {
    /// Its id: 32 hexadecimal digits in the real service.
    pub id: String,
    /// `RUNNING`, `PENDING`, `STOPPED`, ...
    #[serde(default = "EcsTask::running")]
    pub last_status: String,
    /// `enableExecuteCommand`.
    #[serde(default = "EcsTask::enabled")]
    pub exec: bool,
    /// Seconds since 1970.
    #[serde(default = "EcsTask::started")]
    pub started_at: u64,
    /// Its containers.
    #[serde(default)]
    pub containers: Vec<EcsContainer>,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EcsContainer {
    /// Its name.
    pub name: String,
    /// `runtimeId`; missing until the container runs.
    #[serde(default)]
    pub runtime_id: Option<String>,
    /// The status of its `ExecuteCommandAgent`: `RUNNING`, `PENDING` or `STOPPED`. Without exec there is none.
    #[serde(default = "EcsTask::running")]
    pub agent: String,
}

impl EcsTask {
    /// A task that runs, with exec enabled.
    #[must_use]
    pub fn new(id: impl Into<String>, containers: impl IntoIterator<Item = EcsContainer>) -> Self {
        Self {
            id: id.into(),
            last_status: Self::running(),
            exec: Self::enabled(),
            started_at: Self::started(),
            containers: containers.into_iter().collect(),
        }
    }

    fn running() -> String {
        RUNNING.into()
    }

    fn enabled() -> bool {
        true
    }

    fn started() -> u64 {
        1_700_000_000
    }

    fn describe(&self, region: &str, cluster: &str, service: &str) -> Value {
        let desired = if self.last_status == "STOPPED" { "STOPPED" } else { RUNNING };
        let containers: Vec<_> = self.containers.iter().map(|container| container.describe(self)).collect();
        json!({
            "taskArn": task_arn(region, cluster, &self.id),
            "clusterArn": arn(region, "cluster", cluster),
            "group": format!("service:{service}"),
            "lastStatus": self.last_status,
            "desiredStatus": desired,
            "enableExecuteCommand": self.exec,
            "startedAt": self.started_at as f64 + 0.25,
            "launchType": "FARGATE",
            "containers": containers,
        })
    }
}

impl EcsContainer {
    /// A container that can be reached.
    #[must_use]
    pub fn new(name: impl Into<String>, runtime_id: impl Into<String>) -> Self {
        Self { name: name.into(), runtime_id: Some(runtime_id.into()), agent: EcsTask::running() }
    }

    fn describe(&self, task: &EcsTask) -> Value {
        let mut container = json!({ "name": self.name, "lastStatus": task.last_status });
        if let Some(id) = &self.runtime_id {
            container["runtimeId"] = id.as_str().into();
        }
        if task.exec {
            container["managedAgents"] = json!([{ "name": "ExecuteCommandAgent", "lastStatus": self.agent }]);
        }
        container
    }
}

/// Whether `ecs:CLUSTER_TASK_RUNTIME` is a container that can be reached.
pub(super) fn is_connected(config: &EmulatorConfig, target: &str) -> bool {
    let mut tasks = config.ecs.iter().flat_map(|cluster| {
        cluster.services.iter().flat_map(move |service| service.tasks.iter().map(move |task| (cluster, task)))
    });
    tasks.any(|(cluster, task)| {
        let is_meant = |container: &EcsContainer| {
            let id = container.runtime_id.as_ref();
            id.is_some_and(|id| format!("ecs:{}_{}_{id}", cluster.name, task.id) == target)
                && container.agent == RUNNING
        };
        task.exec && task.last_status == RUNNING && task.containers.iter().any(is_meant)
    })
}

fn arn(region: &str, kind: &str, path: &str) -> String {
    format!("arn:aws:ecs:{region}:{ACCOUNT}:{kind}/{path}")
}

fn task_arn(region: &str, cluster: &str, id: &str) -> String {
    arn(region, "task", &format!("{cluster}/{id}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListTasksInput {
    cluster: Option<String>,
    service_name: Option<String>,
    desired_status: Option<String>,
    max_results: Option<usize>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribeTasksInput {
    cluster: Option<String>,
    #[serde(default)]
    tasks: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListServicesInput {
    cluster: Option<String>,
    max_results: Option<usize>,
    next_token: Option<String>,
}

pub(super) fn list_tasks(config: &EmulatorConfig, body: &[u8]) -> Result<Bytes, ApiError> {
    let input: ListTasksInput = decode(body)?;
    let cluster = find(config, input.cluster.as_deref())?;
    let desired = input.desired_status.as_deref().unwrap_or(RUNNING);
    if !["RUNNING", "PENDING", "STOPPED"].contains(&desired) {
        return Err(ApiError::new("InvalidParameterException", "desiredStatus is not valid."));
    }
    let services: Vec<_> = match &input.service_name {
        None => cluster.services.iter().collect(),
        Some(name) => {
            let name = last_part(name);
            let found = cluster.services.iter().find(|service| service.name == name);
            vec![found.ok_or_else(|| ApiError::new("ServiceNotFoundException", "Service not found."))?]
        }
    };
    let tasks = services.into_iter().flat_map(|service| &service.tasks);
    let wanted = tasks.filter(|task| (desired == "STOPPED") == (task.last_status == "STOPPED"));
    let arns: Vec<_> = wanted.map(|task| task_arn(&config.region, &cluster.name, &task.id)).collect();
    page("taskArns", &arns, input.max_results, input.next_token)
}

pub(super) fn list_services(config: &EmulatorConfig, body: &[u8]) -> Result<Bytes, ApiError> {
    let input: ListServicesInput = decode(body)?;
    let cluster = find(config, input.cluster.as_deref())?;
    let path = |service: &EcsService| format!("{}/{}", cluster.name, service.name);
    let arns: Vec<_> = cluster.services.iter().map(|service| arn(&config.region, "service", &path(service))).collect();
    page("serviceArns", &arns, input.max_results.or(Some(10)), input.next_token)
}

pub(super) fn describe_tasks(config: &EmulatorConfig, body: &[u8]) -> Result<Bytes, ApiError> {
    let input: DescribeTasksInput = decode(body)?;
    let cluster = find(config, input.cluster.as_deref())?;
    if input.tasks.is_empty() {
        return Err(ApiError::new("InvalidParameterException", "Tasks cannot be empty."));
    }
    if input.tasks.len() > 100 {
        return Err(ApiError::new("InvalidParameterException", "Tasks cannot have more than 100 elements."));
    }
    let (mut tasks, mut failures) = (Vec::new(), Vec::new());
    for wanted in &input.tasks {
        let id = last_part(wanted);
        let all = cluster.services.iter().flat_map(|service| service.tasks.iter().map(move |task| (service, task)));
        match all.into_iter().find(|(_, task)| task.id == id) {
            Some((service, task)) => tasks.push(task.describe(&config.region, &cluster.name, &service.name)),
            None => failures.push(json!({
                "arn": task_arn(&config.region, &cluster.name, id), "reason": "MISSING",
            })),
        }
    }
    encode(&json!({ "tasks": tasks, "failures": failures }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecuteCommandInput {
    cluster: Option<String>,
    container: Option<String>,
    command: Option<String>,
    #[serde(default)]
    interactive: bool,
    task: Option<String>,
}

/// Starts a session of a command in a container. Its document is the one that the service uses and nobody can name.
pub(super) fn execute_command(
    service: &Arc<Service>,
    config: &EmulatorConfig,
    request: &ApiRequest<'_>,
) -> Result<Bytes, ApiError> {
    let invalid = |text: &str| ApiError::modelled("InvalidParameterException", text);
    let input: ExecuteCommandInput = decode(request.body)?;
    let cluster = find(config, input.cluster.as_deref())?;
    let command = input.command.filter(|command| !command.is_empty());
    let command = command.ok_or_else(|| invalid("Command cannot be empty."))?;
    if !input.interactive {
        return Err(invalid("Interactive is the only mode supported currently."));
    }
    let wanted = input.task.as_deref().map(last_part).ok_or_else(|| invalid("Task cannot be empty."))?;
    let mut tasks = cluster.services.iter().flat_map(|service| &service.tasks);
    let task = tasks.find(|task| task.id == wanted);
    let task = task.ok_or_else(|| invalid("The referenced task was not found."))?;
    let container = match (&input.container, task.containers.as_slice()) {
        (Some(name), containers) => containers.iter().find(|container| container.name == *name),
        (None, [container]) => Some(container),
        (None, _) => return Err(invalid("Container name is required when a task has more than one container.")),
    };
    let container = container.ok_or_else(|| invalid("The referenced container was not found."))?;
    let runtime_id = container.runtime_id.as_deref().unwrap_or_default();
    let target = format!("ecs:{}_{}_{runtime_id}", cluster.name, task.id);
    if config.offline || !is_connected(config, &target) {
        return Err(ApiError::modelled(
            "TargetNotConnectedException",
            "The execute command failed because execute command was not enabled when the task was run or the execute \
             command agent isn't running. Wait and try again or run a new task with execute command enabled and try again.",
        ));
    }
    let order = StartOrder {
        target,
        document: "AmazonECS-ExecuteInteractiveCommand".into(),
        session_type: SessionType::InteractiveCommands,
        properties: json!({ "linux": { "commands": command } }),
        reason: None,
        starter: "ecs-execute-command",
    };
    let started = service.start(order).ok_or_else(|| ApiError::new("ThrottlingException", "Rate exceeded"))?;
    let path = format!("{}/{}/{}", cluster.name, task.id, container.name);
    encode(&json!({
        "clusterArn": arn(&config.region, "cluster", &cluster.name),
        "containerArn": arn(&config.region, "container", &path),
        "containerName": container.name,
        "interactive": true,
        "taskArn": task_arn(&config.region, &cluster.name, &task.id),
        "session": {
            "sessionId": started.id,
            "streamUrl": stream_url(request, &started.id, &started.permit),
            "tokenValue": started.permit.token,
        },
    }))
}

fn find<'a>(config: &'a EmulatorConfig, cluster: Option<&str>) -> Result<&'a EcsCluster, ApiError> {
    let name = last_part(cluster.unwrap_or("default"));
    let found = config.ecs.iter().find(|cluster| cluster.name == name);
    found.ok_or_else(|| ApiError::new("ClusterNotFoundException", "Cluster not found."))
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn page(member: &str, arns: &[String], max_results: Option<usize>, token: Option<String>) -> Result<Bytes, ApiError> {
    let invalid = |what: &str| ApiError::new("InvalidParameterException", format!("{what} is not valid."));
    let size = max_results.unwrap_or(100);
    if !(1..=100).contains(&size) {
        return Err(invalid("maxResults"));
    }
    let from = match token {
        None => 0,
        Some(token) => {
            token.strip_prefix("next-").and_then(|from| from.parse().ok()).ok_or_else(|| invalid("nextToken"))?
        }
    };
    let rest = arns.get(from..).ok_or_else(|| invalid("nextToken"))?;
    let some = rest.get(..size).unwrap_or(rest);
    let mut answer = json!({ member: some });
    if rest.len() > some.len() {
        answer["nextToken"] = format!("next-{}", from + some.len()).into();
    }
    encode(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> EmulatorConfig {
        let app = || [EcsContainer::new("app", "rt-1")];
        let tasks = vec![
            EcsTask::new("t1", app()),
            EcsTask { exec: false, ..EcsTask::new("t2", app()) },
            EcsTask { last_status: "STOPPED".into(), ..EcsTask::new("t3", app()) },
        ];
        let services = vec![EcsService { name: "worker".into(), tasks }];
        EmulatorConfig { ecs: vec![EcsCluster { name: "prod".into(), services }], ..EmulatorConfig::default() }
    }

    fn body(answer: Result<Bytes, ApiError>) -> Value {
        serde_json::from_slice(&answer.expect("an answer")).expect("JSON")
    }

    fn ask(input: &Value) -> Vec<u8> {
        input.to_string().into_bytes()
    }

    #[test]
    fn tasks_are_listed_and_described() {
        let config = config();
        let list = |size: usize, token: Option<&str>| {
            let input = json!({"cluster": "prod", "serviceName": "worker", "maxResults": size, "nextToken": token});
            body(list_tasks(&config, &ask(&input)))
        };
        let first = list(1, None);
        assert_eq!(first["taskArns"], json!(["arn:aws:ecs:us-east-1:123456789012:task/prod/t1"]));
        let second = list(1, first["nextToken"].as_str());
        assert_eq!((second["taskArns"].as_array().map(Vec::len), second.get("nextToken")), (Some(1), None));

        let input = json!({"cluster": "arn:aws:ecs:us-east-1:123456789012:cluster/prod", "tasks": ["t1", "t2", "t9"]});
        let described = body(describe_tasks(&config, &ask(&input)));
        assert_eq!(described["tasks"][0]["containers"][0]["managedAgents"][0]["lastStatus"], RUNNING);
        assert_eq!(described["tasks"][1]["containers"][0].get("managedAgents"), None);
        assert_eq!(described["failures"][0]["reason"], "MISSING");
        let services = body(list_services(&config, &ask(&json!({"cluster": "prod"}))));
        assert_eq!(services["serviceArns"], json!(["arn:aws:ecs:us-east-1:123456789012:service/prod/worker"]));
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let config = config();
        let refused = |answer: Result<Bytes, ApiError>| answer.expect_err("refused").code();
        assert_eq!(refused(list_tasks(&config, b"{}")), "ClusterNotFoundException");
        let input = json!({"cluster": "prod", "serviceName": "web"});
        assert_eq!(refused(list_tasks(&config, &ask(&input))), "ServiceNotFoundException");
        let input = json!({"cluster": "prod", "tasks": []});
        assert_eq!(refused(describe_tasks(&config, &ask(&input))), "InvalidParameterException");
    }

    #[test]
    fn a_container_is_connected_while_it_can_be_reached() {
        let config = config();
        for (target, connected) in [
            ("ecs:prod_t1_rt-1", true),
            ("ecs:prod_t1_rt-2", false),
            ("ecs:prod_t2_rt-1", false),
            ("ecs:prod_t3_rt-1", false),
            ("ecs:dev_t1_rt-1", false),
        ] {
            assert_eq!(is_connected(&config, target), connected, "{target}");
        }
    }
}
