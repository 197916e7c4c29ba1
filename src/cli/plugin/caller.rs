//! The API, as whoever has started the session may use it: with the profile, the region and the endpoint that they
//! pass, and the credentials that we inherit.

use std::time::Duration;

use aws_config::SdkConfig;
use tokio::time::timeout;

use super::invocation::Started;
use crate::{
    aws::{Aws, AwsOptions, SharedMfaPrompt},
    cli::{plan::Access, prompt::TerminalPrompt},
    session::{ControlError, ControlErrorKind, ControlPlane as _, SessionId},
};

/// Whoever sets it to `true` has no credentials for us to look for.
const NO_CREDENTIALS: &str = "SSM_PLUGIN_SKIP_CLIENT_CONFIGURE";

/// How long a session that is not gone on with may take to be ended.
const ENDING: Duration = Duration::from_secs(15);

impl Started {
    /// What the caller has said. What they leave open is for the environment.
    fn access(&self) -> Access {
        let Self { session_id: _, region, profile, endpoint_url } = self.clone();
        Access { region, profile, endpoint_url, ..Access::default() }
    }

    /// Ends it, for nobody else will.
    ///
    /// # Errors
    /// Why it lives until its idle timeout, for people.
    pub(super) async fn end(&self) -> Result<(), String> {
        let id = SessionId(self.session_id.clone());
        let access = self.access();
        let ended = timeout(ENDING, async {
            let aws = if has_none() { without_credentials(&access) } else { load(&access).await };
            aws?.terminate(&id).await
        });
        let lives = |why: &dyn std::fmt::Display| format!("{why}: the session lives until its idle timeout");
        match ended.await {
            Ok(ended) => ended.map_err(|error| lives(&error)),
            Err(_) => Err(lives(&format_args!("TerminateSession was not answered within {} s", ENDING.as_secs()))),
        }
    }
}

/// Whether there are no credentials to be looked for.
pub(super) fn has_none() -> bool {
    std::env::var_os(NO_CREDENTIALS).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// The API with the credentials of the caller.
///
/// The endpoint that the AWS CLI passes is also the one that follows from FIPS or dual stack. These go with no endpoint
/// that is given, so it is left out where they are wanted: they lead there again.
pub(super) async fn load(access: &Access) -> Result<Aws, ControlError> {
    match Aws::load(options(access)).await {
        Err(error) if access.endpoint_url.is_some() && error.kind == ControlErrorKind::InvalidRequest => {
            let without = AwsOptions { endpoint_url: None, ..options(access) };
            Aws::load(without).await.map_err(|_| error)
        }
        loaded => loaded,
    }
}

/// The same without credentials, and without looking for any.
pub(super) fn without_credentials(access: &Access) -> Result<Aws, ControlError> {
    Aws::from_sdk_config(&SdkConfig::builder().build(), options(access))
}

fn options(access: &Access) -> AwsOptions {
    let mut options = AwsOptions::default();
    options.profile.clone_from(&access.profile);
    options.region.clone_from(&access.region);
    options.endpoint_url.clone_from(&access.endpoint_url);
    options.ssmmessages_endpoint.clone_from(&access.ssmmessages_endpoint);
    options.use_fips = access.use_fips;
    options.use_dual_stack = access.use_dual_stack;
    options.mfa = Some(SharedMfaPrompt::new(TerminalPrompt::new(access.mfa_code.clone())));
    options
}
