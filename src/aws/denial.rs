//! What the service says when IAM denies a call, taken apart: the action, the resource, and which policy it was.
//!
//! ```text
//! User: PRINCIPAL is not authorized to perform: ACTION on resource: RESOURCE because no KIND allows the ACTION action
//!                                                                            with an explicit deny in a KIND
//! ```
//!
//! The text is the only place where the service says it. What has another form is no denial of this kind, and is shown
//! as it came.

/// A call that IAM denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    /// `ssm:StartSession`.
    pub(crate) action: String,
    /// An ARN, if the service names one.
    pub(crate) resource: Option<String>,
    pub(crate) by: DeniedBy,
}

/// Which policy denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeniedBy {
    /// No policy of the user or role allows it; also where the service does not say why.
    NothingAllows,
    /// A policy that limits what others allow does not allow it: a session policy, a permissions boundary, a VPC
    /// endpoint policy, a service control policy.
    Limit(String),
    /// A policy forbids it, which no other one overrules.
    ExplicitDeny(Option<String>),
}

impl Denial {
    /// What a text of the service says.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("is not authorized to perform: ")?;
        let (action, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let action = word(action)?;
        let (resource, why) = match rest.strip_prefix("on resource: ") {
            Some(rest) => {
                let (resource, why) = rest.split_once(' ').unwrap_or((rest, ""));
                (word(resource), why)
            }
            None => (None, rest),
        };
        Some(Self { action, resource, by: DeniedBy::parse(why) })
    }
}

impl DeniedBy {
    fn parse(why: &str) -> Self {
        if let Some((_, rest)) = why.split_once("with an explicit deny") {
            return Self::ExplicitDeny(rest.strip_prefix(" in ").and_then(kind));
        }
        let allows = why.strip_prefix("because no ").and_then(|rest| rest.split_once(" allows the "));
        match allows.map(|(policy, _)| policy) {
            None | Some("identity-based policy" | "resource-based policy") => Self::NothingAllows,
            Some(limit) => kind(limit).map_or(Self::NothingAllows, Self::Limit),
        }
    }
}

/// A kind of policy in the service's words, without what follows it.
fn kind(text: &str) -> Option<String> {
    let text = text.trim_start_matches("a ").trim_start_matches("an ");
    let end = text.find(" policy").map(|at| at + " policy".len()).or_else(|| text.find('.')).unwrap_or(text.len());
    let kind = if text.starts_with("permissions boundary") { "permissions boundary" } else { text.get(..end)? };
    (!kind.is_empty() && kind.len() <= 60).then(|| kind.to_owned())
}

fn word(text: &str) -> Option<String> {
    let word = text.trim_end_matches(['.', ',', ';']);
    (!word.is_empty()).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "arn:aws:ssm:eu-west-1::document/AWS-StartPortForwardingSessionToRemoteHost";

    fn parse(end: &str) -> Denial {
        let user = "User: arn:aws:sts::123456789012:assumed-role/Dev/alice";
        Denial::parse(&format!("{user} is not authorized to perform: ssm:StartSession{end}")).expect("a denial")
    }

    #[test]
    fn action_resource_and_policy_are_found() {
        let limit = |policy: &str| DeniedBy::Limit(policy.to_owned());
        let deny = |policy: &str| DeniedBy::ExplicitDeny(Some(policy.to_owned()));
        for (why, by) in [
            ("because no identity-based policy allows the ssm:StartSession action", DeniedBy::NothingAllows),
            ("because no resource-based policy allows the ssm:StartSession action", DeniedBy::NothingAllows),
            ("because no session policy allows the ssm:StartSession action", limit("session policy")),
            ("because no permissions boundary allows the ssm:StartSession action", limit("permissions boundary")),
            ("because no VPC endpoint policy allows the ssm:StartSession action", limit("VPC endpoint policy")),
            ("because no service control policy allows the ssm:StartSession action", limit("service control policy")),
            ("with an explicit deny in an identity-based policy", deny("identity-based policy")),
            ("with an explicit deny in a service control policy", deny("service control policy")),
            ("with an explicit deny in a permissions boundary: arn:aws:iam::1:policy/x", deny("permissions boundary")),
            (
                "with an explicit deny in an identity-based policy: arn:aws:iam::1:policy/x",
                deny("identity-based policy"),
            ),
            ("with an explicit deny", DeniedBy::ExplicitDeny(None)),
            ("", DeniedBy::NothingAllows),
        ] {
            let denial = parse(&format!(" on resource: {DOCUMENT} {why}"));
            assert_eq!((&denial.action[..], denial.resource.as_deref()), ("ssm:StartSession", Some(DOCUMENT)), "{why}");
            assert_eq!(denial.by, by, "{why}");
        }
    }

    #[test]
    fn what_the_service_leaves_out_is_left_out() {
        assert_eq!(parse("").resource, None);
        let why = parse(" because no identity-based policy allows the ssm:StartSession action");
        assert_eq!((why.resource, why.by), (None, DeniedBy::NothingAllows));
        for text in ["", "no", "User: x is not authorized to perform: "] {
            assert_eq!(Denial::parse(text), None, "{text}");
        }
    }
}
