//! `ssmfwd login`: AWS IAM Identity Center.

mod accounts;
mod failure;
mod flow;
mod offer;

use std::{env, sync::Arc};

use clap::{ArgAction, ArgMatches, builder::FalseyValueParser, parser::ValueSource};

pub(super) use self::offer::{Offered, offer};
use self::{failure::report, flow::Way};
use super::{
    args::{Args, Format},
    clock::Timestamp,
    plan::Access,
    report::Report,
    reporter::Reporter,
};
use crate::aws::login::{Center, Oidc, ProfileSection, TokenFile, Which};

/// The head of the manual.
pub(super) const LONG_ABOUT: &str = "\
Log in to AWS IAM Identity Center, as `aws sso login` does: opens the login page in the browser and keeps the token where \
the AWS CLI v2 and the SDKs look for it (~/.aws/sso/cache), so that they are logged in too. Logs in anew also where the \
last login is still good.";

const MANUAL: &str = "\
Examples:
  The login of a profile, or of the only sso-session there is:
    ssmfwd login --profile dev
    ssmfwd login

  On a machine without a browser (over SSH that is chosen by itself):
    ssmfwd login --device

  The accounts and roles that the login opens, and a profile for one of them:
    ssmfwd login --sso-session corp --list
    ssmfwd login --sso-session corp --write-profile dev --account 111122223333 --role Ops

The configuration file needs a section [sso-session NAME] with the keys sso_start_url and sso_region, and for a profile \
the keys sso_session, sso_account_id and sso_role_name. Profiles without a session, which have sso_start_url and \
sso_region themselves, log in with a code, as with the AWS CLI.";

/// What only this command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = MANUAL)]
pub(super) struct LoginArgs {
    /// The [sso-session NAME] to log in to, instead of that of the profile
    #[arg(long, value_name = "NAME", env = "SSMFWD_SSO_SESSION", hide_env_values = true)]
    sso_session: Option<String>,

    /// Log in with a code that is typed in on any machine, instead of a browser on this one
    #[arg(long, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new(), env = "SSMFWD_DEVICE")]
    #[arg(hide_env_values = true)]
    device: bool,

    /// Show the address and leave opening it to you
    #[arg(long, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new(), env = "SSMFWD_NO_BROWSER")]
    #[arg(hide_env_values = true)]
    no_browser: bool,

    /// List the accounts and roles that the login opens; logs in only if that is needed
    #[arg(long)]
    list: bool,

    /// Add a profile for one role to the AWS configuration file; logs in only if that is needed
    #[arg(long, value_name = "NAME", requires_all = ["account", "role"])]
    write_profile: Option<String>,

    /// The account of the new profile
    #[arg(long, value_name = "ID", requires = "write_profile")]
    account: Option<String>,

    /// The role of the new profile, as --list names it; the global --region becomes its region
    #[arg(long, value_name = "NAME", requires = "write_profile")]
    role: Option<String>,
}

pub(super) async fn run(login: &LoginArgs, args: &Args, reporter: &Arc<Reporter>) -> Result<(), Report> {
    let section = login.section(args)?;
    let center = Center::find(&login.which(args)).await.map_err(|error| report(&error, None))?;
    let oidc = Oidc::new(center, Access::of(&args.access)?.endpoint_kind()).await;
    let named = |error| report(&error, Some(oidc.center()));
    let file = TokenFile::of(oidc.center()).map_err(named)?;
    if login.list || section.is_some() {
        let accounts = accounts::Accounts { oidc: &oidc, file: &file, way: login.way(&oidc), reporter };
        if let Some(section) = &section {
            accounts.write_profile(section).await.map_err(|error| accounts::report(&error, oidc.center(), section))?;
        }
        if login.list {
            accounts.list(args.say.output).await.map_err(named)?;
        }
        return Ok(());
    }
    let token = flow::log_in(&oidc, &file, login.way(&oidc), reporter).await.map_err(named)?;
    if args.say.output == Format::Json {
        let center = oidc.center();
        let line = serde_json::json!({
            "session": center.session(), "start_url": center.start_url(), "region": center.region(),
            "expires_at": Timestamp::of(token.expires_at()).to_string(), "file": file.path().display().to_string(),
        });
        reporter.data(line.to_string());
    }
    Ok(())
}

impl LoginArgs {
    /// A profile that was typed stands for its own session: then one from the environment is not meant.
    ///
    /// # Errors
    /// Both were typed.
    pub(super) fn settle(&mut self, matches: &ArgMatches) -> Result<(), &'static str> {
        let is_typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        match (is_typed("profile"), is_typed("sso_session")) {
            (true, true) => Err("--sso-session and --profile each say which login is meant: leave one of them out"),
            (true, false) => {
                self.sso_session = None;
                Ok(())
            }
            (false, _) => Ok(()),
        }
    }

    fn which(&self, args: &Args) -> Which {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        match (given(&self.sso_session), given(&args.access.profile)) {
            (Some(session), _) => Which::Session(session),
            (None, profile) => {
                let profile = profile.or_else(|| given(&env::var("AWS_PROFILE").ok()));
                profile.map_or(Which::Any, Which::Profile)
            }
        }
    }

    fn way(&self, oidc: &Oidc) -> Way {
        Way::choose(oidc.center(), self.device, self.no_browser, |name| {
            env::var_os(name).is_some_and(|value| !value.is_empty())
        })
    }

    fn section(&self, args: &Args) -> Result<Option<ProfileSection>, Report> {
        let (Some(name), Some(account), Some(role)) = (&self.write_profile, &self.account, &self.role) else {
            return Ok(None);
        };
        let region = args.access.region.clone().filter(|region| !region.is_empty());
        let section = ProfileSection { name: name.clone(), account: account.clone(), role: role.clone(), region };
        section.check().map_err(Report::usage)?;
        Ok(Some(section))
    }
}
