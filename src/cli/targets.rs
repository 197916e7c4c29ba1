//! What is said about targets: what a name led to, the name of an id, and what helps when a target leads nowhere.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    plan::{Access, Plan},
    reporter::Reporter,
};
use crate::{
    aws::{Aws, LookupFault, Resolution, lookup_fault},
    session::{ControlError, ControlErrorKind},
};

/// Other matches that one line names.
const OTHERS_MAX: usize = 5;

/// Tells what targets lead to, from now on. The names of those given by id are fetched beside the start of their sessions:
/// who may not see them, or has to wait for them, misses nothing.
pub(super) fn tell(control: &Arc<Aws>, plan: &Plan, reporter: &Arc<Reporter>) {
    if !reporter.says() {
        return;
    }
    let to = reporter.clone();
    control.on_resolution(Box::new(move |resolution| to.say(&resolved(resolution))));

    let targets = plan.forwards.iter().map(|forward| &forward.request.target);
    let ids: BTreeSet<_> =
        targets.filter(|target| target.starts_with("i-") || target.starts_with("mi-")).cloned().collect();
    if ids.is_empty() {
        return;
    }
    let (control, reporter) = (control.clone(), reporter.clone());
    tokio::spawn(async move {
        for id in ids {
            match control.describe(&id).await {
                Ok(node) => {
                    if let Some(name) = node.as_ref().and_then(|node| node.label()) {
                        reporter.say(&format!("{id} {name:?}"));
                    }
                }
                Err(error) => tracing::debug!(%error, "the name of the target is not known"),
            }
        }
    });
}

/// `name:bastion is i-0a "bastion" (also: i-0b, and i-0c, which is not online)`.
fn resolved(resolution: &Resolution) -> String {
    let Resolution { spec, id, label, others } = resolution;
    let mut line = format!("{spec} is {id}");
    if let Some(label) = label {
        line.push_str(&format!(" {label:?}"));
    }
    if !others.is_empty() {
        let named = |other: &crate::aws::Match| match (&other.label, other.online) {
            (Some(name), true) if Some(name) != label.as_ref() => format!("{} {name:?}", other.id),
            (_, true) => other.id.clone(),
            (_, false) => format!("{} (not online)", other.id),
        };
        let some: Vec<_> = others.iter().take(OTHERS_MAX).map(named).collect();
        line.push_str(&format!(" (also: {}", some.join(", ")));
        if others.len() > OTHERS_MAX {
            line.push_str(&format!(" and {} more", others.len() - OTHERS_MAX));
        }
        line.push(')');
    }
    line
}

/// What helps when a target leads nowhere, or may not be looked up. `None` for any other error.
pub(super) fn hint(error: &ControlError, access: &Access) -> Option<String> {
    if error.kind == ControlErrorKind::AccessDenied {
        return match error.operation {
            "DescribeInstanceInformation" | "DescribeInstanceProperties" => Some(
                "the policy must allow ssm:DescribeInstanceInformation on *; a target that is named by its id, as in \
                 --target i-0123456789abcdef0, needs no such call"
                    .into(),
            ),
            "ListTasks" | "DescribeTasks" => Some(
                "the policy must allow ecs:ListTasks and ecs:DescribeTasks; a container that is named by its id, as in \
                 --target ecs:CLUSTER_TASK_RUNTIME, needs no such call"
                    .into(),
            ),
            _ => None,
        };
    }
    let region = access.region.as_deref().unwrap_or("this region");
    Some(match lookup_fault(error)? {
        LookupFault::NoMatch => format!(
            "`{}` lists the managed nodes of this account in {region}; a node is one once its SSM agent has reached the \
             service",
            ls(access)
        ),
        LookupFault::Offline => {
            "start the node or its SSM agent; it needs an instance role and a way to the SSM endpoints".into()
        }
        LookupFault::NoCluster => format!("check the cluster's name, the account and the region {region}"),
        LookupFault::NoService => "check the service's name".into(),
        LookupFault::NoTask => "wait for its deployment, or see why its tasks stop".into(),
        LookupFault::ExecOff { cluster, service } => format!(
            "enable it with `aws ecs update-service --cluster {cluster} --service {service} --enable-execute-command \
             --force-new-deployment`"
        ),
        LookupFault::NoAgent => {
            "wait a moment if it has just started; its task role must allow ssmmessages:CreateControlChannel, \
             CreateDataChannel, OpenControlChannel and OpenDataChannel"
                .into()
        }
        LookupFault::NoContainer => "name one of them, or none: ecs:CLUSTER/SERVICE".into(),
    })
}

/// The command that lists what there is, with the profile and the region in use.
fn ls(access: &Access) -> String {
    let option = |name: &str, value: &Option<String>| {
        value.as_ref().map_or_else(String::new, |value| format!(" --{name} {value}"))
    };
    format!("ssmfwd ls{}{}", option("profile", &access.profile), option("region", &access.region))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::Match;

    fn other(id: &str, label: Option<&str>, online: bool) -> Match {
        Match { id: id.into(), label: label.map(Into::into), online }
    }

    #[test]
    fn a_resolution_names_all_that_matches() {
        let mut resolution = Resolution {
            spec: "name:bastion".into(),
            id: "i-0a".into(),
            label: Some("bastion".into()),
            others: vec![],
        };
        assert_eq!(resolved(&resolution), r#"name:bastion is i-0a "bastion""#);
        resolution.others = vec![
            other("i-0b", Some("bastion"), true),
            other("i-0c", Some("other"), true),
            other("i-0d", Some("bastion"), false),
        ];
        assert_eq!(
            resolved(&resolution),
            r#"name:bastion is i-0a "bastion" (also: i-0b, i-0c "other", i-0d (not online))"#
        );
        resolution.label = None;
        resolution.others = (0..7).map(|id| other(&format!("i-{id}"), None, true)).collect();
        assert_eq!(resolved(&resolution), "name:bastion is i-0a (also: i-0, i-1, i-2, i-3, i-4 and 2 more)");
    }

    #[test]
    fn the_list_is_that_of_the_same_account() {
        let access = Access { profile: Some("dev".into()), region: Some("eu-west-1".into()), ..Access::default() };
        assert_eq!(ls(&access), "ssmfwd ls --profile dev --region eu-west-1");
    }
}
