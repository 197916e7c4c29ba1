//! The accounts and roles that a login opens: listed, or one of them written as a profile.

use std::sync::Arc;

use super::flow::{self, Way};
use crate::{
    aws::login::{Account, Center, LoginError, Oidc, Portal, ProfileSection, Token, TokenFile},
    cli::{args::Format, console::printable, report::Report, reporter::Reporter},
};

/// The portal of one login, and what it takes to log in.
pub(super) struct Accounts<'a> {
    pub(super) oidc: &'a Oidc,
    pub(super) file: &'a TokenFile,
    pub(super) way: Way,
    pub(super) reporter: &'a Arc<Reporter>,
}

/// Why a profile was not written.
pub(super) enum NotWritten {
    Login(LoginError),
    /// The login does not open this role; these it does, in that account.
    NoSuchRole(Vec<String>),
}

impl From<LoginError> for NotWritten {
    fn from(error: LoginError) -> Self {
        Self::Login(error)
    }
}

/// The failure for people.
pub(super) fn report(error: &NotWritten, center: &Center, section: &ProfileSection) -> Report {
    match error {
        NotWritten::Login(error) => super::failure::report(error, Some(center)),
        NotWritten::NoSuchRole(roles) => {
            let ProfileSection { account, role, .. } = section;
            let hint = match &roles[..] {
                [] => "`ssmfwd login --list` lists the accounts and roles there are".to_owned(),
                roles => format!("the roles in this account are: {}", printable(&roles.join(", "))),
            };
            Report::usage(format!("the login to {} opens no role {role} in account {account}", center.name()))
                .with_hint(hint)
        }
    }
}

impl Accounts<'_> {
    /// Writes all accounts and roles to stdout: a table, or an object a line.
    pub(super) async fn list(&self, format: Format) -> Result<(), LoginError> {
        let portal = Portal::new(self.oidc);
        let token = self.token().await?;
        let accounts = match portal.accounts(&token).await {
            // Withdrawn, whatever the file says.
            Err(error) if error.is_logged_out() => portal.accounts(&self.log_in().await?).await?,
            accounts => accounts?,
        };
        let lines = match format {
            Format::Text => table(&accounts),
            Format::Json => objects(&accounts),
        };
        for line in lines {
            self.reporter.data(line);
        }
        // However slow its reader is: a list is no use without its end.
        self.reporter.written().await;
        Ok(())
    }

    /// Adds a profile to the configuration file, if there is such a role.
    pub(super) async fn write_profile(&self, section: &ProfileSection) -> Result<(), NotWritten> {
        let portal = Portal::new(self.oidc);
        let token = self.token().await?;
        let roles = match portal.roles(&token, &section.account).await {
            Err(error) if error.is_logged_out() => portal.roles(&self.log_in().await?, &section.account).await,
            roles => roles,
        };
        let roles = match roles {
            Ok(roles) => roles,
            // The portal does not say which accounts there are, only that this one is not for us.
            Err(LoginError::Call(error)) if is_not_ours(&error.message) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        if !roles.contains(&section.role) {
            return Err(NotWritten::NoSuchRole(roles));
        }
        let path = section.write(self.oidc.center()).await?;
        self.reporter.say(&format!("profile {} added to {}", section.name, path.display()));
        Ok(())
    }

    /// The token there is, renewed if need be; or else that of a login.
    async fn token(&self) -> Result<Token, LoginError> {
        let now = self.oidc.now();
        match self.file.read() {
            Some(token) if token.is_valid(now) => Ok(token),
            Some(token) if token.is_refreshable(now) => match self.oidc.refresh(&token).await {
                Ok(token) => {
                    self.file.write(&token)?;
                    Ok(token)
                }
                Err(error) => {
                    tracing::debug!(%error, "the token cannot be renewed");
                    self.log_in().await
                }
            },
            _ => self.log_in().await,
        }
    }

    async fn log_in(&self) -> Result<Token, LoginError> {
        flow::log_in(self.oidc, self.file, self.way, self.reporter).await
    }
}

fn is_not_ours(message: &str) -> bool {
    ["ForbiddenException", "ResourceNotFoundException"].iter().any(|code| message.contains(code))
}

/// A line for each role.
fn table(accounts: &[Account]) -> Vec<String> {
    let mut rows = vec![["ACCOUNT".to_owned(), "NAME".to_owned(), "ROLE".to_owned()]];
    for account in accounts {
        let name = printable(&account.name);
        rows.extend(account.roles.iter().map(|role| [printable(&account.id), name.clone(), printable(role)]));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (ids, names) = (width(0), width(1));
    rows.iter().map(|[id, name, role]| format!("{id:ids$}  {name:names$}  {role}")).collect()
}

fn objects(accounts: &[Account]) -> Vec<String> {
    let of = |account: &Account| {
        let object = |role: &String| {
            serde_json::json!({
                "account_id": account.id, "account_name": account.name, "email": account.email, "role": role,
            })
            .to_string()
        };
        account.roles.iter().map(object).collect::<Vec<_>>()
    };
    accounts.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Vec<Account> {
        let account = |id: &str, name: &str, roles: &[&str]| Account {
            id: id.to_owned(),
            name: name.to_owned(),
            email: "a@example.com".to_owned(),
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
        };
        vec![account("111122223333", "Größe", &["Admin", "Ops"]), account("444455556666", "x\u{1b}", &["Ops"])]
    }

    #[test]
    fn the_table_has_a_line_for_each_role() {
        assert_eq!(
            table(&accounts()),
            [
                "ACCOUNT       NAME     ROLE",
                "111122223333  Größe    Admin",
                "111122223333  Größe    Ops",
                "444455556666  x\\u{1b}  Ops",
            ]
        );
    }

    #[test]
    fn programs_get_an_object_for_each_role() {
        let lines = objects(&accounts());
        assert_eq!(lines.len(), 3);
        let first: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!((&first["account_id"], &first["role"]), (&"111122223333".into(), &"Admin".into()));
    }
}
