//! The access portal: which accounts and roles a token opens.

use aws_sdk_sso::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};
use aws_types::SdkConfig;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Center, LoginError, Oidc, Token};
use crate::{
    aws::errors::Call,
    session::{ControlError, ControlErrorKind},
};

/// Accounts whose roles are asked for at once: enough to hide round trips, few enough not to be throttled.
const AT_ONCE: usize = 4;

/// Accounts or roles that are taken: far more than an organisation has.
const ITEMS_MAX: usize = 50_000;

/// The portal of one center.
pub(crate) struct Portal {
    client: Client,
    name: String,
}

/// An account, and the roles in it that may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// Twelve digits.
    pub(crate) id: String,
    /// What people call it.
    pub(crate) name: String,
    /// Whom it belongs to.
    pub(crate) email: String,
    /// In the order of the alphabet.
    pub(crate) roles: Vec<String>,
}

impl Portal {
    /// The portal of the center whose other API this is: found in the same way.
    pub(crate) fn new(oidc: &Oidc) -> Self {
        Self::with(oidc.center(), &oidc.config)
    }

    fn with(center: &Center, config: &SdkConfig) -> Self {
        Self { client: Client::new(config), name: center.name().to_owned() }
    }

    /// All accounts with their roles, ordered by name.
    ///
    /// # Errors
    /// [`Call`](LoginError::Call); [`is_logged_out`](LoginError::is_logged_out) tells whether the token is to blame.
    pub(crate) async fn accounts(&self, token: &Token) -> Result<Vec<Account>, LoginError> {
        let pages =
            self.client.list_accounts().access_token(token.access_token.expose()).into_paginator().items().send();
        let mut pages = pages;
        let mut accounts = Vec::new();
        while let Some(account) = pages.next().await {
            let account = account.map_err(|error| self.failed("ListAccounts", &error))?;
            let Some(id) = account.account_id else { continue };
            accounts.push(Account {
                id,
                name: account.account_name.unwrap_or_default(),
                email: account.email_address.unwrap_or_default(),
                roles: Vec::new(),
            });
            if accounts.len() >= ITEMS_MAX {
                break;
            }
        }
        accounts.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        let with_roles = |account: Account| async move {
            let roles = self.roles(token, &account.id).await?;
            Ok::<_, LoginError>(Account { roles, ..account })
        };
        stream::iter(accounts).map(with_roles).buffered(AT_ONCE).try_collect().await
    }

    /// Whether a token is accepted. `true` also where nobody can tell.
    pub(crate) async fn accepts(&self, token: &Token) -> bool {
        let list = self.client.list_accounts().access_token(token.access_token.expose()).max_results(1);
        match list.send().await {
            Ok(_) => true,
            Err(error) => !LoginError::from(self.failed("ListAccounts", &error)).is_logged_out(),
        }
    }

    /// The roles in one account, in the order of the alphabet.
    ///
    /// # Errors
    /// As [`accounts`](Self::accounts).
    pub(crate) async fn roles(&self, token: &Token, account: &str) -> Result<Vec<String>, LoginError> {
        let list = self.client.list_account_roles().access_token(token.access_token.expose()).account_id(account);
        let mut pages = list.into_paginator().items().send();
        let mut roles = Vec::new();
        while let Some(role) = pages.next().await {
            roles.extend(role.map_err(|error| self.failed("ListAccountRoles", &error))?.role_name);
            if roles.len() >= ITEMS_MAX {
                break;
            }
        }
        roles.sort();
        Ok(roles)
    }

    fn failed<E>(&self, operation: &'static str, error: &SdkError<E>) -> ControlError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let unauthorized = |error: &SdkError<E>| match error {
            SdkError::ServiceError(refusal) => refusal.raw().status().as_u16() == 401,
            _ => false,
        };
        let failed = Call { operation, resource: &self.name }.failed(error, None);
        // Here that is never a matter of signatures.
        let kind = if unauthorized(error) { ControlErrorKind::ExpiredCredentials } else { failed.kind };
        ControlError { kind, ..failed }
    }
}

impl LoginError {
    /// Whether the token is no longer accepted, whatever its file says.
    pub(crate) fn is_logged_out(&self) -> bool {
        matches!(self, Self::Call(error) if error.kind == ControlErrorKind::ExpiredCredentials)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::aws::{
        canned::{Answer, Canned},
        login::secret::Secret,
    };

    fn token() -> Token {
        Token {
            access_token: Secret::new("ACCESS"),
            expires_at: SystemTime::UNIX_EPOCH,
            refresh_token: None,
            registration: None,
            region: "eu-west-1".to_owned(),
            start_url: "https://corp.awsapps.com/start".to_owned(),
        }
    }

    #[tokio::test]
    async fn all_pages_are_read() {
        let page = |name: &str, id: &str, next: Option<&str>| {
            let account = serde_json::json!({ "accountId": id, "accountName": name, "emailAddress": "a@b" });
            Answer::json(200, serde_json::json!({ "accountList": [account], "nextToken": next }).to_string())
        };
        let roles = |names: &[&str], next: Option<&str>| {
            let list: Vec<_> =
                names.iter().map(|name| serde_json::json!({ "roleName": name, "accountId": "1" })).collect();
            Answer::json(200, serde_json::json!({ "roleList": list, "nextToken": next }).to_string())
        };
        let canned = Canned::new([
            page("b", "111122223333", Some("more")),
            page("a", "444455556666", None),
            roles(&["z"], Some("more")),
            roles(&["y"], None),
            roles(&["y"], None),
        ]);
        let portal = Portal::with(&Center::for_test(Some("corp")), &canned.config());
        let accounts = portal.accounts(&token()).await.expect("accounts");
        let names: Vec<_> = accounts.iter().map(|account| (account.name.as_str(), account.id.as_str())).collect();
        assert_eq!(names, [("a", "444455556666"), ("b", "111122223333")]);
        assert_eq!(accounts.iter().map(|account| account.roles.len()).sum::<usize>(), 3);
        assert!(canned.asked().iter().all(|asked| asked.bearer == "ACCESS"));
    }

    #[tokio::test]
    async fn a_token_that_is_not_accepted_is_told_apart() {
        for (answer, logged_out) in [
            (Answer::refused(401, "UnauthorizedException", "Session token not found or invalid"), true),
            (Answer::refused(403, "ForbiddenException", "No access"), false),
            (Answer::json(500, ""), false),
        ] {
            let portal = Portal::with(&Center::for_test(Some("corp")), &Canned::new([answer]).config());
            let error = portal.accounts(&token()).await.expect_err("refused");
            assert_eq!(error.is_logged_out(), logged_out, "{error}");
            assert!(!format!("{error:?}").contains("ACCESS"));
        }
    }
}
