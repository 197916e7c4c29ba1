//! How a target is written. Text in, [`Target`] out; nothing is looked up.
//!
//! ```text
//! i-0123456789abcdef0                  an EC2 instance
//! mi-0123456789abcdef0                 a node outside EC2
//! ecs:CLUSTER_TASK_RUNTIME             a container
//! ecs:CLUSTER/SERVICE[/CONTAINER]      a running task of a service; CLUSTER may be an ARN
//! name:NAME, or NAME alone             by name
//! tag:KEY=VALUE                        by tag
//! ```
//!
//! The first three are ids and cost no call.

use std::{fmt, str::FromStr};

/// The longest tag key and the longest value, in characters (AWS).
const TAG_KEY_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;

/// The forms there are, for people.
const FORMS: &str =
    "i-…, mi-…, ecs:CLUSTER_TASK_RUNTIME, ecs:CLUSTER/SERVICE[/CONTAINER], name:NAME, tag:KEY=VALUE, or a name alone";

/// A target as typed. `Display` gives its canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// An EC2 instance: `i-…`.
    Instance(String),
    /// A managed node outside EC2: `mi-…`.
    Managed(String),
    /// A container: what follows `ecs:` in `ecs:CLUSTER_TASK_RUNTIME`.
    EcsTask(String),
    /// A running task of a service.
    EcsService {
        /// The cluster's name, without the rest of its ARN.
        cluster: String,
        /// The service's name.
        service: String,
        /// The container. Without it: the one that is named like the service, else the first by name.
        container: Option<String>,
    },
    /// A node by its `Name` tag, its registered name or its computer name.
    Name(String),
    /// A node by a tag.
    Tag {
        /// The tag's key.
        key: String,
        /// Its value.
        value: String,
    },
}

impl Target {
    /// Whether it is an id that StartSession takes as it is.
    #[must_use]
    pub fn is_id(&self) -> bool {
        matches!(self, Self::Instance(_) | Self::Managed(_) | Self::EcsTask(_))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(id) | Self::Managed(id) => f.write_str(id),
            Self::EcsTask(task) => write!(f, "ecs:{task}"),
            Self::EcsService { cluster, service, container: None } => write!(f, "ecs:{cluster}/{service}"),
            Self::EcsService { cluster, service, container: Some(container) } => {
                write!(f, "ecs:{cluster}/{service}/{container}")
            }
            Self::Name(name) => write!(f, "name:{name}"),
            Self::Tag { key, value } => write!(f, "tag:{key}={value}"),
        }
    }
}

/// A target that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the target {target:?} is not valid: {problem}")]
#[non_exhaustive]
pub struct TargetError {
    /// As typed.
    pub target: String,
    /// What is wrong with it.
    pub problem: TargetProblem,
}

impl TargetError {
    /// The forms there are, for people.
    #[must_use]
    pub const fn forms() -> &'static str {
        FORMS
    }
}

/// What is wrong with a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetProblem {
    /// There is nothing.
    #[error("it is empty")]
    Empty,
    /// It has characters that cannot be printed.
    #[error("it has control characters")]
    Control,
    /// It begins like an id and goes on like none.
    #[error("an id is {0} and letters and digits; for a name that begins like one, write name:NAME")]
    Id(&'static str),
    /// `ecs:` with something else behind it.
    #[error("expected ecs:CLUSTER_TASK_RUNTIME or ecs:CLUSTER/SERVICE[/CONTAINER]")]
    Ecs,
    /// `name:` with nothing behind it.
    #[error("NAME is missing in name:NAME")]
    NoName,
    /// `tag:` without key or value.
    #[error("expected tag:KEY=VALUE")]
    Tag,
    /// More than AWS allows.
    #[error("{what} is too long: at most {most} characters")]
    TooLong {
        /// KEY, VALUE or NAME.
        what: &'static str,
        /// Characters.
        most: usize,
    },
    /// `word:` with a word that means nothing.
    #[error("{kind:?} is no kind of target")]
    Kind {
        /// What stands before the first colon.
        kind: String,
    },
    /// `KEY=VALUE` without `tag:`.
    #[error("write tag:{0} for a tag, or name:{0} for a name")]
    Pair(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text).map_err(|problem| TargetError { target: text.to_owned(), problem })
    }
}

fn read(text: &str) -> Result<Target, TargetProblem> {
    if text.is_empty() {
        return Err(TargetProblem::Empty);
    }
    if text.chars().any(char::is_control) {
        return Err(TargetProblem::Control);
    }
    if let Some(id) = text.strip_prefix("i-") {
        return if is_id(id) { Ok(Target::Instance(text.to_owned())) } else { Err(TargetProblem::Id("i-")) };
    }
    if let Some(id) = text.strip_prefix("mi-") {
        return if is_id(id) { Ok(Target::Managed(text.to_owned())) } else { Err(TargetProblem::Id("mi-")) };
    }
    match text.split_once(':') {
        Some(("ecs", rest)) => read_ecs(rest),
        Some(("name", name)) => read_name(name),
        Some(("tag", pair)) => read_tag(pair),
        Some((kind, _)) => Err(TargetProblem::Kind { kind: kind.to_owned() }),
        None if text.contains('=') => Err(TargetProblem::Pair(text.to_owned())),
        None => read_name(text),
    }
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Names of clusters, services and containers.
fn is_ecs_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn read_ecs(text: &str) -> Result<Target, TargetProblem> {
    // As in `arn:aws:ecs:eu-west-1:123456789012:cluster/prod`.
    let text = match text.strip_prefix("arn:") {
        Some(arn) => arn.split_once(":cluster/").ok_or(TargetProblem::Ecs)?.1,
        None => text,
    };
    if !text.contains('/') {
        // Clusters may have an underscore in their names, tasks and runtime ids have none.
        let parts = text.split('_');
        let fits = parts.clone().count() >= 3 && parts.clone().all(|part| !part.is_empty()) && is_container(text);
        return if fits { Ok(Target::EcsTask(text.to_owned())) } else { Err(TargetProblem::Ecs) };
    }
    let parts: Vec<_> = text.split('/').collect();
    if !parts.iter().all(|part| is_ecs_name(part)) {
        return Err(TargetProblem::Ecs);
    }
    let (cluster, service, container) = match parts.as_slice() {
        [cluster, service] => (cluster, service, None),
        [cluster, service, container] => (cluster, service, Some((*container).to_owned())),
        _ => return Err(TargetProblem::Ecs),
    };
    Ok(Target::EcsService { cluster: (*cluster).to_owned(), service: (*service).to_owned(), container })
}

/// The characters of `CLUSTER_TASK_RUNTIME`.
fn is_container(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn read_name(name: &str) -> Result<Target, TargetProblem> {
    match name.chars().count() {
        0 => Err(TargetProblem::NoName),
        1..=TAG_VALUE_MAX => Ok(Target::Name(name.to_owned())),
        _ => Err(TargetProblem::TooLong { what: "NAME", most: TAG_VALUE_MAX }),
    }
}

/// Tag keys may hold a colon, as `aws:autoscaling:groupName` does, but no `=` here: the first one ends the key.
fn read_tag(pair: &str) -> Result<Target, TargetProblem> {
    let pair = pair.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty());
    let (key, value) = pair.ok_or(TargetProblem::Tag)?;
    for (what, text, most) in [("KEY", key, TAG_KEY_MAX), ("VALUE", value, TAG_VALUE_MAX)] {
        if text.chars().count() > most {
            return Err(TargetProblem::TooLong { what, most });
        }
    }
    Ok(Target::Tag { key: key.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service(cluster: &str, service: &str, container: Option<&str>) -> Target {
        let container = container.map(Into::into);
        Target::EcsService { cluster: cluster.into(), service: service.into(), container }
    }

    fn tag(key: &str, value: &str) -> Target {
        Target::Tag { key: key.into(), value: value.into() }
    }

    #[test]
    fn every_form_is_read() {
        let name = |name: &str| Target::Name(name.into());
        for (text, target, is_id) in [
            ("i-0123456789abcdef0", Target::Instance("i-0123456789abcdef0".into()), true),
            ("i-0a", Target::Instance("i-0a".into()), true),
            ("mi-0b", Target::Managed("mi-0b".into()), true),
            ("ecs:prod_0a_0b-1", Target::EcsTask("prod_0a_0b-1".into()), true),
            ("ecs:my_cluster_0a_0b-1", Target::EcsTask("my_cluster_0a_0b-1".into()), true),
            ("ecs:prod/worker", service("prod", "worker", None), false),
            ("ecs:my_cluster/worker-1/app", service("my_cluster", "worker-1", Some("app")), false),
            ("ecs:arn:aws:ecs:eu-west-1:123456789012:cluster/prod/worker", service("prod", "worker", None), false),
            ("name:bastion", name("bastion"), false),
            ("name:i-am: a/bastion=", name("i-am: a/bastion="), false),
            ("bastion", name("bastion"), false),
            ("ip-10-0-0-1.ec2.internal", name("ip-10-0-0-1.ec2.internal"), false),
            ("prod/bastion host", name("prod/bastion host"), false),
            ("ecs-a_b_c", name("ecs-a_b_c"), false),
            ("tag:Role=bastion", tag("Role", "bastion"), false),
            ("tag:k=a@b=c:d", tag("k", "a@b=c:d"), false),
            ("tag:aws:autoscaling:groupName=g", tag("aws:autoscaling:groupName", "g"), false),
        ] {
            assert_eq!(text.parse(), Ok(target.clone()), "{text}");
            assert_eq!(target.is_id(), is_id, "{text}");
            assert_eq!(target.to_string().parse(), Ok(target), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "x".repeat(257);
        for (text, expected) in [
            ("", "it is empty"),
            ("a\nb", "control characters"),
            ("i-", "an id is i- and letters and digits"),
            ("i-0a/b", "write name:NAME"),
            ("mi-0 a", "an id is mi-"),
            ("i:0a", r#""i" is no kind of target"#),
            ("ecs:", "ecs:CLUSTER/SERVICE[/CONTAINER]"),
            ("ecs:a_b", "ecs:CLUSTER_TASK_RUNTIME"),
            ("ecs:a__b", "ecs:CLUSTER_TASK_RUNTIME"),
            ("ecs:a/", "ecs:CLUSTER/SERVICE"),
            ("ecs:a/b/c/d", "ecs:CLUSTER/SERVICE"),
            ("ecs:a/b c", "ecs:CLUSTER/SERVICE"),
            ("ecs:arn:aws:ecs:eu-west-1:1:service/prod/worker", "ecs:CLUSTER/SERVICE"),
            ("name:", "NAME is missing"),
            ("tag:", "expected tag:KEY=VALUE"),
            ("tag:k", "expected tag:KEY=VALUE"),
            ("tag:=v", "expected tag:KEY=VALUE"),
            ("tag:k=", "expected tag:KEY=VALUE"),
            ("Role=bastion", "write tag:Role=bastion for a tag"),
            (&long, "NAME is too long"),
        ] {
            let error = text.parse::<Target>().expect_err(text).to_string();
            assert!(error.contains(expected) && error.contains(&format!("{text:?}")), "{error}");
        }
        let error = format!("tag:{long}=v").parse::<Target>().expect_err("too long").to_string();
        assert!(error.ends_with("KEY is too long: at most 128 characters"), "{error}");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_read_is_written(text: String) {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse(), Ok(target));
            }
        }
    }
}
