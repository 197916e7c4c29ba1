//! Who the credentials belong to: STS GetCallerIdentity, which no policy can deny.
//!
//! Nothing but what is shown depends on it: a machine may reach the SSM API and not STS.

use std::fmt;

use aws_sdk_sts::config::Builder;

use super::{Aws, credentials, errors::Call};
use crate::session::{ControlError, ControlErrorKind};

const CALL: Call<'static> = Call { operation: "GetCallerIdentity", resource: "these credentials" };

/// An account, and a user or role in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The account, such as `123456789012`.
    pub account: String,
    /// The ARN, such as `arn:aws:sts::123456789012:assumed-role/Dev/alice`.
    pub arn: String,
}

impl Identity {
    /// An identity as STS tells it.
    #[must_use]
    pub fn new(account: impl Into<String>, arn: impl Into<String>) -> Self {
        Self { account: account.into(), arn: arn.into() }
    }

    /// What people call it: `user/NAME`, `role/NAME`, `federated-user/NAME` or `root`. Of an ARN of no known form, all
    /// behind the account; of what is no ARN, everything.
    #[must_use]
    pub fn name(&self) -> String {
        let Some(resource) = self.arn.splitn(6, ':').nth(5) else { return self.arn.clone() };
        let parts: Vec<_> = resource.split('/').collect();
        match parts[..] {
            // The session's name behind it is the caller's own invention.
            ["assumed-role", role, ..] => format!("role/{role}"),
            // Between the two may be a path, which names of users do not need to be told apart.
            ["user", .., name] => format!("user/{name}"),
            _ => resource.to_owned(),
        }
    }
}

/// `123456789012 as role/Dev`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.account, self.name())
    }
}

impl Aws {
    /// Asks STS whose credentials these are. Waits for the credentials as StartSession does, a minute at most, and then
    /// for the answer, half a minute at most.
    ///
    /// # Errors
    /// When there are no credentials, or STS cannot be reached or does not accept them. None of that says whether
    /// sessions can be started.
    pub async fn identity(&self) -> Result<Identity, ControlError> {
        // Not inside the call: it may be a person who is waited for.
        self.credentials.get(credentials::START_WAIT).await.map_err(|error| CALL.no_credentials(&error))?;
        // A client of its own: what the SSM client learns of its endpoint and of the time there is not about STS.
        let client = aws_sdk_sts::Client::from_conf(Builder::from(self.sdk_config()).build());
        let answer = client.get_caller_identity().send().await.map_err(|error| CALL.failed(&error, Some("STS")))?;
        match (answer.account, answer.arn) {
            (Some(account), Some(arn)) => Ok(Identity { account, arn }),
            _ => Err(CALL.error(ControlErrorKind::BadAnswer, "the answer names no account or no ARN")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::{
        AwsOptions,
        canned::{Answer, Canned},
    };

    #[test]
    fn people_see_a_name_and_not_an_arn() {
        for (arn, name) in [
            ("arn:aws:iam::123456789012:user/alice", "user/alice"),
            ("arn:aws:iam::123456789012:user/division/team/alice", "user/alice"),
            ("arn:aws:sts::123456789012:assumed-role/Dev/alice@example.com", "role/Dev"),
            ("arn:aws-cn:sts::123456789012:assumed-role/Dev", "role/Dev"),
            (
                "arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Admin_0a1b/al:ice",
                "role/AWSReservedSSO_Admin_0a1b",
            ),
            ("arn:aws:sts::123456789012:federated-user/alice", "federated-user/alice"),
            ("arn:aws:iam::123456789012:root", "root"),
            ("arn:aws:new::123456789012:kind/a/b", "kind/a/b"),
            ("nonsense", "nonsense"),
            ("", ""),
        ] {
            assert_eq!(Identity::new("123456789012", arn).name(), name, "{arn}");
        }
    }

    fn answer(account: &str) -> Answer {
        Answer::json(
            200,
            format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/alice</Arn><UserId>AIDA</UserId>{account}\
                 </GetCallerIdentityResult></GetCallerIdentityResponse>"
            ),
        )
    }

    #[tokio::test]
    async fn sts_is_asked_with_the_same_credentials_and_teaches_nothing_about_ssm() {
        let canned = Canned::new([answer("<Account>123456789012</Account>"), answer("")]);
        let aws = Aws::from_sdk_config(&canned.config(), AwsOptions::default()).expect("a configuration");
        let identity = aws.identity().await.expect("an identity");
        assert_eq!(identity.to_string(), "123456789012 as user/alice");
        let asked = canned.asked();
        assert!(asked[0].uri.starts_with("https://sts.eu-west-1.amazonaws.com"), "{}", asked[0].uri);
        assert!(asked[0].authorization.contains("Credential=AKIDEXAMPLE/"), "{}", asked[0].authorization);
        assert_eq!(aws.exchange.endpoint(), None);

        let error = aws.identity().await.expect_err("no account");
        assert_eq!(error.kind, ControlErrorKind::BadAnswer);
    }

    #[tokio::test]
    async fn a_refusal_has_its_kind() {
        let refused = "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code>\
                       <Message>The security token included in the request is invalid.</Message></Error></ErrorResponse>";
        let canned = Canned::new([Answer::json(403, refused)]);
        let aws = Aws::from_sdk_config(&canned.config(), AwsOptions::default()).expect("a configuration");
        let error = aws.identity().await.expect_err("refused");
        assert_eq!(error.kind, ControlErrorKind::ExpiredCredentials);
        assert_eq!((error.operation, &error.resource[..]), ("GetCallerIdentity", "these credentials"));
    }
}
