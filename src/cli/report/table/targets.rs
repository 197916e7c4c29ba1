//! The rows of targets that cannot be looked up: names and tags in SSM's inventory, containers in ECS.

use super::{
    super::symptom::{Row, Symptom},
    plain,
};
use crate::cli::exit::Exit;

pub(super) const TARGET_NOT_FOUND: Row = plain(
    (Symptom::TargetNotFound, "target_not_found"),
    Exit::Target,
    "no managed node in REGION has the name, or the tag",
    "it is another account or region, or the node has never reached the service; the message names similar ones",
    "`{ls}` lists the managed nodes of this account in {region}; a node is one once its SSM agent has reached the \
     service",
);

pub(super) const NODES_OFFLINE: Row = plain(
    (Symptom::NodesOffline, "nodes_offline"),
    Exit::Target,
    "the managed nodes that have the name, or the tag, are not online",
    "they are stopped, or their agents have lost the way to the service; the message says when they were last heard",
    "start the node or its SSM agent; it needs an instance role and a way to the SSM endpoints",
);

pub(super) const NO_CLUSTER: Row = plain(
    (Symptom::NoCluster, "no_cluster"),
    Exit::Target,
    "there is no ECS cluster CLUSTER in REGION",
    "its name is another one, or it is in another account or region",
    "check the cluster's name, the account and the region {region}",
);

pub(super) const NO_SERVICE: Row = plain(
    (Symptom::NoService, "no_service"),
    Exit::Target,
    "the ECS cluster has no service SERVICE",
    "its name is another one; the message names those there are",
    "check the service's name",
);

pub(super) const NO_TASK: Row = plain(
    (Symptom::NoTask, "no_task"),
    Exit::Target,
    "the service has no running task",
    "it is being deployed, is scaled to nothing, or its tasks stop as soon as they start",
    "wait for its deployment, or see why its tasks stop",
);

pub(super) const EXEC_DISABLED: Row = plain(
    (Symptom::ExecDisabled, "exec_disabled"),
    Exit::Target,
    "no running task of the service has exec enabled",
    "sessions to containers need ECS Exec, which is off unless the service was told otherwise before its tasks began",
    "enable it with `aws ecs update-service --cluster {cluster} --service {service} --enable-execute-command \
     --force-new-deployment`",
);

pub(super) const NO_EXEC_AGENT: Row = plain(
    (Symptom::NoExecAgent, "no_exec_agent"),
    Exit::Target,
    "no container of the service can be reached",
    "exec is enabled, but its agent has not started yet, has stopped, or may not open its channels",
    "wait a moment if it has just started; its task role must allow ssmmessages:CreateControlChannel, \
     CreateDataChannel, OpenControlChannel and OpenDataChannel",
);

pub(super) const NO_CONTAINER: Row = plain(
    (Symptom::NoContainer, "no_container"),
    Exit::Target,
    "the tasks of the service have no container CONTAINER",
    "its name is another one; the message names those there are",
    "name one of them, or none: ecs:CLUSTER/SERVICE",
);

pub(super) const LOOKUP_DENIED: Row = plain(
    (Symptom::LookupDenied, "lookup_denied"),
    Exit::Denied,
    "AccessDenied for DescribeInstanceInformation",
    "names and tags are looked up in SSM's inventory, which takes a permission of its own",
    "the policy must allow ssm:DescribeInstanceInformation on *; a target that is named by its id, as in \
     --target i-0123456789abcdef0, needs no such call",
);

pub(super) const TASKS_DENIED: Row = plain(
    (Symptom::TasksDenied, "tasks_denied"),
    Exit::Denied,
    "AccessDenied for ListTasks or DescribeTasks",
    "the containers of a service are looked up in ECS, which takes permissions of its own",
    "the policy must allow ecs:ListTasks and ecs:DescribeTasks; a container that is named by its id, as in \
     --target ecs:CLUSTER_TASK_RUNTIME, needs no such call",
);
