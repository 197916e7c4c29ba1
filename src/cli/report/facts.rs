//! What the words in braces of the error table stand for, in this run.

use crate::{
    aws::{Denial, DeniedBy, partition},
    cli::plan::{Access, PlannedForward},
};

/// What is known of a failure, to be put into the words of its row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) access: &'a Access,
    pub(super) forward: Option<&'a PlannedForward>,
    pub(super) details: &'a Details,
}

/// What a failure itself says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Details {
    /// What IAM said.
    pub(super) denial: Option<Denial>,
    /// The API call that failed, without its service.
    pub(super) operation: Option<&'static str>,
    /// The id of the target, if a call has named it: the forward may know it by a name.
    pub(super) target: Option<String>,
    /// Host and port of the gateway.
    pub(super) gateway: Option<String>,
    /// What SSM knows of the target's agent: its version, and when it was heard.
    pub(super) agent: [Option<String>; 2],
    /// The KMS key of the session preferences.
    pub(super) key: Option<String>,
    /// The ECS service that the target names.
    pub(super) service: Option<Service>,
}

/// An ECS service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) cluster: String,
    pub(super) name: String,
}

impl Facts<'_> {
    /// Replaces the words in braces. Unknown ones stay, which a test of the table excludes.
    pub(super) fn fill(&self, template: &str) -> String {
        let mut filled = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, tail)) = after.split_once('}') else { break };
            filled.push_str(before);
            match self.value(name) {
                Some(value) => filled.push_str(&value),
                None => filled.push_str(name),
            }
            rest = tail;
        }
        filled.push_str(rest);
        filled
    }

    /// What one of the words stands for.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        let Self { access, forward, details } = *self;
        let region = access.region.as_deref();
        let or = |value: Option<&str>, otherwise: &str| value.unwrap_or(otherwise).to_owned();
        let named = || forward.map(|forward| &forward.request.target[..]);
        let target = details.target.as_deref().or_else(named);
        Some(match name {
            "login" => login_command(access),
            "ls" => list_command(access),
            "profile" => or(access.profile.as_deref(), "default"),
            "region" => or(region, "in use"),
            "api" => region.map_or_else(|| "the SSM API".to_owned(), |region| format!("the SSM API of {region}")),
            "target" => or(target, "the target"),
            "destination" => forward.map_or_else(|| "the destination".to_owned(), PlannedForward::destination),
            "document" => {
                or(forward.and_then(|forward| forward.request.document.as_deref()), "the default session document")
            }
            "target-arn" => {
                target.map_or_else(|| "the target".to_owned(), |target| target_arn(target, region.unwrap_or("*")))
            }
            "document-arn" => {
                document_arn(forward.and_then(|forward| forward.request.document.as_deref()), region.unwrap_or("*"))
            }
            "session-arn" => session_arn(region, "${aws:username}-*"),
            "channel-arn" => session_arn(region, "*"),
            "action" => match &details.denial {
                Some(denial) => denial.action.clone(),
                None => format!("ssm:{}", details.operation.unwrap_or("StartSession")),
            },
            "resource" => or(details.denial.as_ref().and_then(|denial| denial.resource.as_deref()), "this resource"),
            "a-policy" => details.denial.as_ref().map_or_else(|| "a policy".to_owned(), |denial| a_policy(&denial.by)),
            "gateway" => or(details.gateway.as_deref(), "the ssmmessages endpoint"),
            "agent-version" => or(details.agent[0].as_deref(), "unknown"),
            "key" => or(details.key.as_deref(), "the key"),
            "cluster" => or(details.service.as_ref().map(|service| &service.cluster[..]), "CLUSTER"),
            "service" => or(details.service.as_ref().map(|service| &service.name[..]), "SERVICE"),
            "heard" => or(details.agent[1].as_deref(), "an unknown time"),
            _ => return None,
        })
    }
}

/// The login that brings new credentials for this profile.
pub(super) fn login_command(access: &Access) -> String {
    let profile = access.profile.as_ref().map_or_else(String::new, |profile| format!(" --profile {profile}"));
    format!("ssmfwd login{profile}")
}

/// The command that lists the targets there are, with the profile and the region in use.
fn list_command(access: &Access) -> String {
    let option = |name: &str, value: &Option<String>| {
        value.as_ref().map_or_else(String::new, |value| format!(" --{name} {value}"))
    };
    format!("ssmfwd ls{}{}", option("profile", &access.profile), option("region", &access.region))
}

fn a_policy(by: &DeniedBy) -> String {
    let policy = match by {
        DeniedBy::Limit(policy) | DeniedBy::ExplicitDeny(Some(policy)) => policy,
        DeniedBy::ExplicitDeny(None) | DeniedBy::NothingAllows => "policy",
    };
    let article = if policy.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {policy}")
}

fn session_arn(region: Option<&str>, name: &str) -> String {
    let region = region.unwrap_or("*");
    format!("arn:{}:ssm:{region}:*:session/{name}", partition::id(region))
}

/// The target as policies name it.
fn target_arn(target: &str, region: &str) -> String {
    let partition = partition::id(region);
    match target.strip_prefix("ecs:") {
        Some(container) => {
            // From the end: clusters may have an underscore in their name, tasks and runtime ids have none.
            let mut parts = container.rsplitn(3, '_').skip(1);
            let (task, cluster) = (parts.next(), parts.next());
            format!("arn:{partition}:ecs:{region}:*:task/{}/{}", cluster.unwrap_or("*"), task.unwrap_or("*"))
        }
        None if target.starts_with("mi-") => format!("arn:{partition}:ssm:{region}:*:managed-instance/{target}"),
        None => format!("arn:{partition}:ec2:{region}:*:instance/{target}"),
    }
}

/// The document as policies name it: those of AWS have an empty account.
fn document_arn(document: Option<&str>, region: &str) -> String {
    let partition = partition::id(region);
    match document {
        Some(document) if document.starts_with("arn:") => document.to_owned(),
        Some(document) if document.starts_with("AWS-") => format!("arn:{partition}:ssm:*::document/{document}"),
        Some(document) => format!("arn:{partition}:ssm:{region}:*:document/{document}"),
        None => "its session document".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::table::TABLE, *};

    #[test]
    fn every_word_in_braces_is_known() {
        let (access, details) = (Access::default(), Details::default());
        let facts = Facts { access: &access, forward: None, details: &details };
        for row in &TABLE {
            for text in [row.cause, row.hint] {
                for word in text.split('{').skip(1) {
                    let name = word.split_once('}').expect("a closing brace").0;
                    assert!(facts.value(name).is_some(), "{}: {name}", row.name);
                }
                assert!(!facts.fill(text).contains(['{', '}']) || text.contains("session-arn"), "{}", row.name);
            }
        }
    }

    #[test]
    fn arns_are_those_of_policies() {
        assert_eq!(target_arn("mi-0b", "*"), "arn:aws:ssm:*:*:managed-instance/mi-0b");
        assert_eq!(target_arn("ecs:my_cluster_0a1b_0a1b-42", "r"), "arn:aws:ecs:r:*:task/my_cluster/0a1b");
        assert_eq!(document_arn(Some("Mine"), "r"), "arn:aws:ssm:r:*:document/Mine");
        assert_eq!(target_arn("i-0a", "cn-north-1"), "arn:aws-cn:ec2:cn-north-1:*:instance/i-0a");
        assert_eq!(target_arn("mi-0a", "us-isob-east-1"), "arn:aws-iso-b:ssm:us-isob-east-1:*:managed-instance/mi-0a");
        assert_eq!(session_arn(Some("eusc-de-east-1"), "*"), "arn:aws-eusc:ssm:eusc-de-east-1:*:session/*");
        assert_eq!(document_arn(Some("AWS-X"), "us-gov-east-1"), "arn:aws-us-gov:ssm:*::document/AWS-X");
        assert_eq!(document_arn(Some("arn:aws:ssm:r:1:document/Mine"), "r"), "arn:aws:ssm:r:1:document/Mine");
    }

    #[test]
    fn the_list_is_that_of_the_same_account() {
        let access = Access { profile: Some("dev".into()), region: Some("eu-west-1".into()), ..Access::default() };
        assert_eq!(list_command(&access), "ssmfwd ls --profile dev --region eu-west-1");
        assert_eq!(list_command(&Access::default()), "ssmfwd ls");
    }

    #[test]
    fn policies_have_articles() {
        assert_eq!(a_policy(&DeniedBy::ExplicitDeny(Some("identity-based policy".into()))), "an identity-based policy");
        assert_eq!(a_policy(&DeniedBy::Limit("session policy".into())), "a session policy");
        assert_eq!(a_policy(&DeniedBy::ExplicitDeny(None)), "a policy");
    }
}
