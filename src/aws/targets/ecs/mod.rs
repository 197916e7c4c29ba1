//! A running task of an ECS service: `ecs:CLUSTER/SERVICE[/CONTAINER]` to `ecs:CLUSTER_TASK_RUNTIME`.

mod choice;

use serde::{Deserialize, Serialize};

use self::choice::{Task, choose};
use super::{
    super::{Aws, errors::Call, json_call::Refusal, json_service::ECS},
    lookup::{self, LookupFault, Resolution},
};
use crate::session::ControlError;

/// Tasks that DescribeTasks takes at once, and that ListTasks gives.
const PAGE: usize = 100;

/// Tasks of one service that are looked at.
const TASKS_MAX: usize = 1000;

const LIST_TASKS: &str = "ListTasks";
const DESCRIBE_TASKS: &str = "DescribeTasks";
const LIST_SERVICES: &str = "ListServices";

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) cluster: &'a str,
    pub(super) service: &'a str,
    pub(super) container: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListTasks<'a> {
    cluster: &'a str,
    service_name: &'a str,
    desired_status: &'static str,
    max_results: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskArns {
    #[serde(default)]
    task_arns: Vec<String>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
struct DescribeTasks<'a> {
    cluster: &'a str,
    tasks: &'a [String],
}

#[derive(Debug, Deserialize)]
struct Tasks {
    #[serde(default)]
    tasks: Vec<Task>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListServices<'a> {
    cluster: &'a str,
    max_results: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceArns {
    #[serde(default)]
    service_arns: Vec<String>,
}

impl Aws {
    /// The task that a service's name leads to now.
    pub(super) async fn task_of(&self, spec: &str, wanted: Wanted<'_>) -> Result<Resolution, ControlError> {
        let arns = self.running_tasks(spec, wanted).await?;
        let mut tasks = Vec::with_capacity(arns.len());
        for some in arns.chunks(PAGE) {
            let call = Call { operation: DESCRIBE_TASKS, resource: spec };
            let input = DescribeTasks { cluster: wanted.cluster, tasks: some };
            let described: Tasks = self.call_json(&ECS, call, &input, &mut Refusal::default()).await?;
            tasks.extend(described.tasks);
        }
        choose(spec, wanted, self.region(), tasks)
    }

    async fn running_tasks(&self, spec: &str, wanted: Wanted<'_>) -> Result<Vec<String>, ControlError> {
        let call = Call { operation: LIST_TASKS, resource: spec };
        let mut arns = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut refused = Refusal::default();
            let input = ListTasks {
                cluster: wanted.cluster,
                service_name: wanted.service,
                desired_status: "RUNNING",
                max_results: PAGE,
                next_token: token.as_deref(),
            };
            let page: TaskArns = match self.call_json(&ECS, call, &input, &mut refused).await {
                Ok(page) => page,
                Err(error) => return Err(self.explained(error, &refused.code, spec, wanted).await),
            };
            arns.extend(page.task_arns);
            let next = page.next_token.filter(|next| !next.is_empty() && token.as_ref() != Some(next));
            if next.is_none() || arns.len() >= TASKS_MAX {
                arns.truncate(TASKS_MAX);
                return Ok(arns);
            }
            token = next;
        }
    }

    /// A refusal of ListTasks in our words, if it says what does not exist.
    async fn explained(&self, error: ControlError, code: &str, spec: &str, wanted: Wanted<'_>) -> ControlError {
        let Wanted { cluster, service, .. } = wanted;
        let region = self.region();
        match code {
            "ClusterNotFoundException" => {
                let message = format!("there is no ECS cluster {cluster} in {region}");
                lookup::failed(spec, LookupFault::NoCluster, message, String::new())
            }
            "ServiceNotFoundException" => {
                let call = Call { operation: LIST_SERVICES, resource: cluster };
                let input = ListServices { cluster, max_results: PAGE };
                // Only the help is better for it.
                let known: Result<ServiceArns, _> = self.call_json(&ECS, call, &input, &mut Refusal::default()).await;
                let mut names: Vec<String> = known
                    .map(|known| known.service_arns.iter().map(|arn| choice::last_part(arn).to_owned()).collect())
                    .unwrap_or_default();
                names.sort();
                let found = if names.is_empty() {
                    String::new()
                } else {
                    format!("its services are {}", lookup::listed(names.into_iter()))
                };
                let message = format!("the ECS cluster {cluster} in {region} has no service {service}");
                lookup::failed(spec, LookupFault::NoService, message, found)
            }
            _ => error,
        }
    }
}
