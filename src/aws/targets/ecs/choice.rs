//! Which task of a service, and which of its containers.
//!
//! The newest task that runs with exec enabled. All containers of a task most often share one network, so any of them
//! leads to the same places; where none is named it is the one that is named like the service, else the first by name
//! that is not one of AWS's own, and the others are told.

use serde::Deserialize;

use super::{
    super::lookup::{self, LookupFault, Match, Resolution},
    Wanted,
};
use crate::session::ControlError;

/// The program in a container that stands for the SSM agent.
const EXEC_AGENT: &str = "ExecuteCommandAgent";

/// Containers that AWS puts beside those of a task.
const OF_AWS: [&str; 3] = ["aws-guardduty-agent", "ecs-service-connect", "aws-fargate-request-proxy"];

const RUNNING: &str = "RUNNING";

/// A task as DescribeTasks shows it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Task {
    task_arn: String,
    cluster_arn: String,
    last_status: String,
    enable_execute_command: bool,
    /// Seconds since 1970.
    started_at: f64,
    containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: String,
    runtime_id: Option<String>,
    last_status: String,
    managed_agents: Vec<ManagedAgent>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ManagedAgent {
    name: String,
    last_status: String,
}

impl Container {
    /// Its id, if a session can be started in it.
    fn usable(&self) -> Option<&str> {
        let agent_runs =
            self.managed_agents.iter().any(|agent| agent.name == EXEC_AGENT && agent.last_status == RUNNING);
        let id = self.runtime_id.as_deref().filter(|id| !id.is_empty())?;
        (agent_runs && self.last_status == RUNNING).then_some(id)
    }
}

/// The part of an ARN behind its last slash.
pub(super) fn last_part(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// The container to start a session in.
///
/// # Errors
/// What is missing: a running task, exec, its agent, or the container.
pub(super) fn choose(
    spec: &str,
    wanted: Wanted<'_>,
    region: &str,
    mut tasks: Vec<Task>,
) -> Result<Resolution, ControlError> {
    let Wanted { cluster, service, container } = wanted;
    let place = format!("the service {service} of the ECS cluster {cluster} in {region}");
    tasks.retain(|task| task.last_status == RUNNING);
    if tasks.is_empty() {
        return Err(lookup::failed(spec, LookupFault::NoTask, format!("{place} has no running task"), String::new()));
    }
    tasks.retain(|task| task.enable_execute_command);
    if tasks.is_empty() {
        let fault = LookupFault::ExecOff { cluster: cluster.to_owned(), service: service.to_owned() };
        let found = "enableExecuteCommand is false: a task keeps what its service said when it started".to_owned();
        return Err(lookup::failed(spec, fault, format!("no running task of {place} has exec enabled"), found));
    }
    if let Some(name) = container
        && !tasks.iter().any(|task| task.containers.iter().any(|container| container.name == name))
    {
        let mut names: Vec<_> =
            tasks.iter().flat_map(|task| &task.containers).map(|container| container.name.clone()).collect();
        names.sort();
        names.dedup();
        let found = format!("their containers are {}", lookup::listed(names.into_iter()));
        let message = format!("the tasks of {place} have no container {name}");
        return Err(lookup::failed(spec, LookupFault::NoContainer, message, found));
    }
    tasks.sort_by(|one, other| {
        other.started_at.total_cmp(&one.started_at).then_with(|| one.task_arn.cmp(&other.task_arn))
    });
    let mut matches = tasks.iter().flat_map(|task| in_task(task, wanted));
    match matches.next() {
        Some(Match { id, label, .. }) => Ok(Resolution { spec: spec.to_owned(), id, label, others: matches.collect() }),
        None => {
            let message = format!("no running task of {place} can be reached");
            let found = format!("{EXEC_AGENT} does not run in them, or not yet");
            Err(lookup::failed(spec, LookupFault::NoAgent, message, found))
        }
    }
}

/// The usable containers of a task, the best one first.
fn in_task(task: &Task, wanted: Wanted<'_>) -> Vec<Match> {
    let (cluster, id) = (last_part(&task.cluster_arn), last_part(&task.task_arn));
    let cluster = if cluster.is_empty() { wanted.cluster } else { cluster };
    let rank = |name: &str| {
        let is_of_aws = OF_AWS.iter().any(|prefix| name.starts_with(prefix));
        (is_of_aws, name != wanted.service)
    };
    let is_wanted = |container: &&Container| wanted.container.is_none_or(|name| container.name == name);
    let mut containers: Vec<_> = task.containers.iter().filter(is_wanted).collect();
    containers.sort_by(|one, other| (rank(&one.name), &one.name).cmp(&(rank(&other.name), &other.name)));
    let usable = |container: &Container| {
        let runtime = container.usable()?;
        let label = Some(container.name.clone()).filter(|name| !name.is_empty());
        Some(Match { id: format!("ecs:{cluster}_{id}_{runtime}"), label, online: true })
    };
    containers.into_iter().filter_map(usable).collect()
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::aws::lookup_fault;

    const ANY: Wanted<'_> = Wanted { cluster: "prod", service: "worker", container: None };

    fn container(name: &str, agent: &str) -> Container {
        Container {
            name: name.into(),
            runtime_id: Some(format!("rt-{name}")),
            last_status: RUNNING.into(),
            managed_agents: vec![ManagedAgent { name: EXEC_AGENT.into(), last_status: agent.into() }],
        }
    }

    fn task(id: &str, started_at: f64, containers: &[Container]) -> Task {
        Task {
            task_arn: format!("arn:aws:ecs:eu-west-1:123456789012:task/prod/{id}"),
            cluster_arn: "arn:aws:ecs:eu-west-1:123456789012:cluster/prod".into(),
            last_status: RUNNING.into(),
            enable_execute_command: true,
            started_at,
            containers: containers.to_vec(),
        }
    }

    fn pick(wanted: Wanted<'_>, tasks: &[Task]) -> Result<Resolution, ControlError> {
        choose("ecs:prod/worker", wanted, "eu-west-1", tasks.to_vec())
    }

    fn ids(resolution: &Resolution) -> Vec<&str> {
        std::iter::once(&resolution.id)
            .chain(resolution.others.iter().map(|other| &other.id))
            .map(|id| &id[..])
            .collect()
    }

    #[test]
    fn the_newest_task_is_chosen_and_its_container_by_name() {
        let app = [container("zebra", RUNNING), container("app", RUNNING), container("aws-guardduty-agent-x", RUNNING)];
        let tasks =
            [task("old", 1.0, &app[..2]), task("new", 2.5, &app), task("newer", 3.0, &[container("app", "PENDING")])];
        let chosen = pick(ANY, &tasks).expect("a container");
        assert_eq!(chosen.label.as_deref(), Some("app"));
        assert_eq!(
            ids(&chosen),
            [
                "ecs:prod_new_rt-app",
                "ecs:prod_new_rt-zebra",
                "ecs:prod_new_rt-aws-guardduty-agent-x",
                "ecs:prod_old_rt-app",
                "ecs:prod_old_rt-zebra"
            ]
        );
        let named = pick(Wanted { container: Some("zebra"), ..ANY }, &tasks).expect("a container");
        assert_eq!(ids(&named), ["ecs:prod_new_rt-zebra", "ecs:prod_old_rt-zebra"]);
    }

    #[test]
    fn the_container_that_is_named_like_the_service_is_its_heart() {
        let tasks = [task("t", 1.0, &[container("app", RUNNING), container("worker", RUNNING)])];
        assert_eq!(pick(ANY, &tasks).expect("a container").id, "ecs:prod_t_rt-worker");
    }

    #[test]
    fn of_two_that_started_together_the_lower_id_is_chosen() {
        let one = [container("app", RUNNING)];
        let tasks = [task("b", 1.0, &one), task("a", 1.0, &one)];
        assert_eq!(pick(ANY, &tasks).expect("a container").id, "ecs:prod_a_rt-app");
    }

    #[test]
    fn what_is_missing_is_said() {
        let app = [container("app", RUNNING)];
        let stopped = Task { last_status: "STOPPED".into(), ..task("t", 1.0, &app) };
        let closed = Task { enable_execute_command: false, ..task("t", 1.0, &app) };
        let silent = task("t", 1.0, &[container("app", "STOPPED")]);
        let nameless = task("t", 1.0, &[Container { runtime_id: None, ..container("app", RUNNING) }]);
        let off = LookupFault::ExecOff { cluster: "prod".into(), service: "worker".into() };
        for (wanted, tasks, fault, said) in [
            (ANY, vec![], LookupFault::NoTask, "has no running task"),
            (ANY, vec![stopped], LookupFault::NoTask, "has no running task"),
            (ANY, vec![closed], off, "has exec enabled"),
            (ANY, vec![silent], LookupFault::NoAgent, "can be reached"),
            (ANY, vec![nameless], LookupFault::NoAgent, "can be reached"),
            (
                Wanted { container: Some("db"), ..ANY },
                vec![task("t", 1.0, &app)],
                LookupFault::NoContainer,
                "have no container db",
            ),
        ] {
            let error = pick(wanted, &tasks).expect_err(said);
            assert_eq!(lookup_fault(&error), Some(&fault));
            assert!(error.to_string().ends_with(said), "{error}");
        }
        let error = pick(Wanted { container: Some("db"), ..ANY }, &[task("t", 1.0, &app)]).expect_err("no such");
        assert_eq!(error.source().expect("a cause").to_string(), "their containers are app");
    }

    #[test]
    fn the_answer_of_the_api_is_read() {
        let json = serde_json::json!({
            "taskArn": "arn:aws:ecs:eu-west-1:1:task/prod/0a", "clusterArn": "arn:aws:ecs:eu-west-1:1:cluster/prod",
            "lastStatus": "RUNNING", "enableExecuteCommand": true, "startedAt": 1_700_000_000.25, "group": "service:worker",
            "containers": [{
                "name": "app", "runtimeId": "0a-1", "lastStatus": "RUNNING", "image": "x",
                "managedAgents": [{"name": "ExecuteCommandAgent", "lastStatus": "RUNNING", "lastStartedAt": 1.5}],
            }],
        });
        let task: Task = serde_json::from_value(json).expect("a task");
        assert_eq!(pick(ANY, &[task]).expect("a container").id, "ecs:prod_0a_0a-1");
    }
}
