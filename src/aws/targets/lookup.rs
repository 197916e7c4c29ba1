//! From the matches of a target to the one that is meant, and to an error that tells what was found instead.

use super::{super::errors::Call, NodeInfo};
use crate::session::{ControlError, ControlErrorKind};

/// What an error calls the resolution itself, where no call has failed.
const LOOKUP: &str = "lookup";

/// Nodes or names that one message lists.
const LISTED_MAX: usize = 5;

/// What a target that is no id has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolution {
    /// The target in its canonical spelling.
    pub(crate) spec: String,
    /// What StartSession takes.
    pub(crate) id: String,
    /// The name of that, for people.
    pub(crate) label: Option<String>,
    /// What matches too and was not chosen, best first.
    pub(crate) others: Vec<Match>,
}

/// Something that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Match {
    /// What StartSession would take.
    pub(crate) id: String,
    /// Its name, for people.
    pub(crate) label: Option<String>,
    /// Whether it could be used.
    pub(crate) online: bool,
}

/// Why a target leads nowhere, where that has a remedy of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum LookupFault {
    /// No managed node matches.
    NoMatch,
    /// Nodes match, and none is online.
    Offline,
    /// There is no such cluster.
    NoCluster,
    /// The cluster has no such service.
    NoService,
    /// The service has no task that runs.
    NoTask,
    /// Tasks run, and exec is not enabled.
    ExecOff {
        /// Of the service.
        cluster: String,
        /// Its name.
        service: String,
    },
    /// Exec is enabled, and its agent does not run yet, or not any more.
    NoAgent,
    /// The task has no such container.
    NoContainer,
}

impl LookupFault {
    /// What passes without anybody changing the target: the kind decides whether a tunnel waits for it.
    fn kind(&self) -> ControlErrorKind {
        match self {
            Self::NoMatch | Self::Offline | Self::NoTask | Self::NoAgent => ControlErrorKind::TargetNotConnected,
            Self::NoCluster | Self::NoService | Self::ExecOff { .. } | Self::NoContainer => {
                ControlErrorKind::InvalidRequest
            }
        }
    }
}

/// What is below an error of a lookup: what was found instead.
#[derive(Debug, thiserror::Error)]
#[error("{found}")]
struct Found {
    found: String,
    fault: LookupFault,
}

/// Why a target leads nowhere, if that is what an error says.
pub(crate) fn lookup_fault(error: &ControlError) -> Option<&LookupFault> {
    error.source.as_ref()?.downcast_ref::<Found>().map(|found| &found.fault)
}

/// A target that leads nowhere. Without `found`, the message says it all.
pub(super) fn failed(spec: &str, fault: LookupFault, message: impl Into<String>, found: String) -> ControlError {
    let error = Call { operation: LOOKUP, resource: spec }.error(fault.kind(), message);
    ControlError { source: Some(Box::new(Found { found, fault })), ..error }
}

/// The node that is meant: one that is online, with the newest agent, and of those the one with the lowest id.
///
/// # Errors
/// When none is online. `wanted` says what was looked for, and `known` are names that may have been meant.
pub(super) fn choose(
    spec: &str,
    mut nodes: Vec<NodeInfo>,
    wanted: &str,
    region: &str,
    known: &[String],
) -> Result<Resolution, ControlError> {
    nodes.sort_by(NodeInfo::preferred);
    nodes.dedup_by(|one, other| one.id == other.id);
    if !nodes.first().is_some_and(NodeInfo::is_online) {
        return Err(none_online(spec, &nodes, wanted, region, known));
    }
    let mut nodes = nodes.into_iter().map(|node| Match {
        online: node.is_online(),
        label: node.label().map(str::to_owned),
        id: node.id,
    });
    match nodes.next() {
        Some(Match { id, label, .. }) => Ok(Resolution { spec: spec.to_owned(), id, label, others: nodes.collect() }),
        None => Err(none_online(spec, &[], wanted, region, known)),
    }
}

fn none_online(spec: &str, nodes: &[NodeInfo], wanted: &str, region: &str, known: &[String]) -> ControlError {
    match nodes {
        [] => {
            let found = match known {
                [] => String::new(),
                known => format!("similar names are {}", listed(known.iter().map(|name| format!("{name:?}")))),
            };
            let message = format!("no managed node in {region} has {wanted}");
            failed(spec, LookupFault::NoMatch, message, found)
        }
        nodes => {
            let message = match nodes.len() {
                1 => format!("the managed node in {region} that has {wanted} is not online"),
                count => format!("none of the {count} managed nodes in {region} that have {wanted} is online"),
            };
            failed(spec, LookupFault::Offline, message, listed(nodes.iter().map(absent)))
        }
    }
}

/// `i-0a "bastion" was last heard at 2026-11-22T05:36:54Z`.
fn absent(node: &NodeInfo) -> String {
    let name = node.label().map_or_else(String::new, |name| format!(" {name:?}"));
    match node.last_heard() {
        Some(moment) => format!("{}{name} was last heard at {moment}", node.id),
        None => format!("{}{name} is {}", node.id, node.ping.name()),
    }
}

/// The first few, and how many more there are.
pub(super) fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(LISTED_MAX);
    let mut text = items.take(LISTED_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// Names that may have been meant by one that nobody has: the same in other case, or longer ones.
pub(super) fn similar(name: &str, nodes: &[NodeInfo]) -> Vec<String> {
    let wanted = name.to_lowercase();
    let mut names: Vec<String> = nodes
        .iter()
        .flat_map(|node| [node.name.as_ref(), node.computer_name.as_ref()])
        .flatten()
        .filter(|known| known.to_lowercase().contains(&wanted))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::{
        super::node::{Ping, tests::node},
        *,
    };

    fn pick(nodes: Vec<NodeInfo>, known: &[&str]) -> Result<Resolution, ControlError> {
        let known: Vec<_> = known.iter().map(|name| (*name).to_owned()).collect();
        choose("name:bastion", nodes, "the name \"bastion\"", "eu-west-1", &known)
    }

    #[test]
    fn the_best_match_is_chosen_and_the_others_are_named() {
        let nodes = vec![
            node("i-3", Ping::ConnectionLost, "9.0.0.0"),
            node("i-2", Ping::Online, "3.2.0.0"),
            node("i-1", Ping::Online, "3.10.0.0"),
            node("i-1", Ping::Online, "3.10.0.0"),
        ];
        let chosen = pick(nodes, &[]).expect("two are online");
        let others: Vec<_> = chosen.others.iter().map(|other| (&other.id[..], other.online)).collect();
        assert_eq!((&chosen.id[..], others), ("i-1", vec![("i-2", true), ("i-3", false)]));
    }

    #[test]
    fn who_is_not_there_is_told_so() {
        let error = pick(vec![], &["Bastion", "bastion-2"]).expect_err("no node");
        assert_eq!(
            (error.kind, lookup_fault(&error)),
            (ControlErrorKind::TargetNotConnected, Some(&LookupFault::NoMatch))
        );
        assert_eq!(
            error.to_string(),
            "lookup of name:bastion failed: no managed node in eu-west-1 has the name \"bastion\""
        );
        assert_eq!(error.source().expect("a cause").to_string(), "similar names are \"Bastion\", \"bastion-2\"");
    }

    #[test]
    fn who_is_offline_is_told_since_when() {
        let lost = |id: &str| node(id, Ping::ConnectionLost, "3.2.0.0");
        let error = pick(vec![lost("i-1")], &[]).expect_err("offline");
        assert_eq!(
            (error.kind, lookup_fault(&error)),
            (ControlErrorKind::TargetNotConnected, Some(&LookupFault::Offline))
        );
        assert!(error.to_string().ends_with("that has the name \"bastion\" is not online"), "{error}");
        assert_eq!(error.source().expect("a cause").to_string(), "i-1 was last heard at 2023-11-14T22:13:20Z");

        let error = pick((0..7).map(|id| lost(&format!("i-{id}"))).collect(), &[]).expect_err("offline");
        let cause = error.source().expect("a cause").to_string();
        assert!(cause.starts_with("i-0 was") && cause.ends_with(" and 2 more") && !cause.contains("i-5"), "{cause}");
    }

    #[test]
    fn similar_names_are_found() {
        let named = |name: &str| NodeInfo { name: Some(name.into()), ..node("i-0", Ping::Online, "1") };
        let computer = NodeInfo { computer_name: Some("my-BASTION".into()), ..node("i-0", Ping::Online, "1") };
        let nodes = [named("Bastion"), named("web"), named("Bastion"), computer];
        assert_eq!(similar("bastion", &nodes), ["Bastion", "my-BASTION"]);
    }
}
