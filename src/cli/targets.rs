//! What is said about targets: what a name led to, and the name of an id. What helps when one leads nowhere is in the
//! error table.

use std::{collections::BTreeSet, sync::Arc};

use super::reporter::Reporter;
use crate::aws::{Aws, Resolution};

/// Other matches that one line names.
const OTHERS_MAX: usize = 5;

/// Tells what targets lead to, from now on.
pub(super) fn tell_resolutions(control: &Aws, reporter: &Arc<Reporter>) {
    if !reporter.says() {
        return;
    }
    let to = reporter.clone();
    control.on_resolution(Box::new(move |resolution| to.say(&resolved(resolution))));
}

/// Tells the names of targets that are given by id. Fetched beside the start of their sessions: who may not see them,
/// or has to wait for them, misses nothing.
pub(super) fn tell_names<'a>(control: &Arc<Aws>, targets: impl Iterator<Item = &'a str>, reporter: &Arc<Reporter>) {
    let ids: BTreeSet<_> = targets.filter(|target| is_node_id(target)).map(str::to_owned).collect();
    if ids.is_empty() || !reporter.says() {
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

/// Whether a target is a managed node, given by its id.
pub(super) fn is_node_id(target: &str) -> bool {
    target.starts_with("i-") || target.starts_with("mi-")
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
}
