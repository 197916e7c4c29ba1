//! The AWS API, once for every choice of credentials, region and endpoint that the forwards make.

use std::{sync::Arc, time::Duration};

use tokio::time;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    aws::{Aws, AwsOptions, SharedMfaPrompt},
    cli::{
        exit::Exit,
        plan::{Access, PlannedForward},
        prompt::TerminalPrompt,
        report::Report,
        reporter::Reporter,
        targets,
    },
    forward::{Connector, SessionConnector},
    session::{ControlError, Dialer, SessionOptions, watch_for_wake},
};

/// What makes sessions for forwards.
pub(in crate::cli) trait Connectors {
    /// What it has for one forward.
    type Connector: Connector;

    /// A connector for a forward, whose choice of credentials is completed by what the AWS configuration says.
    async fn connector(&mut self, forward: &mut PlannedForward) -> Result<Arc<Self::Connector>, Report>;
}

/// Every AWS that was asked for.
pub(in crate::cli) struct Clouds {
    reporter: Arc<Reporter>,
    known: Vec<Cloud>,
}

/// An AWS API that is loaded already.
pub(in crate::cli) struct Loaded {
    /// For which choice of credentials.
    pub(super) asked: Access,
    /// The choice, completed.
    pub(super) access: Access,
    pub(super) aws: Aws,
}

/// AWS with one choice of credentials.
struct Cloud {
    asked: Access,
    /// The choice, completed.
    access: Access,
    aws: Arc<Aws>,
    /// For sessions, with no options in particular.
    connector: SessionConnector,
    /// Says who we are.
    _identity: Option<AbortOnDropHandle<()>>,
}

impl Clouds {
    pub(in crate::cli) fn new(reporter: &Arc<Reporter>) -> Self {
        Self { reporter: reporter.clone(), known: Vec::new() }
    }

    /// Takes over what has been loaded for a choice.
    pub(in crate::cli) async fn adopt(&mut self, loaded: Loaded) -> Result<(), Report> {
        let Loaded { asked, access, aws } = loaded;
        let aws = Arc::new(aws);
        targets::tell_resolutions(&aws, &self.reporter);
        aws.outbound().ready().await.map_err(|error| {
            Report::new(Exit::Failure, "cannot load the trusted roots of this machine").caused_by(&error)
        })?;
        let options = SessionOptions { wake: Some(watch_for_wake()), ..SessionOptions::default() };
        let dialer = Arc::new(Dialer::over(aws.outbound().clone()));
        let connector = SessionConnector::new(aws.clone(), dialer, options);
        let identity = tell_identity(&aws, &access, &self.reporter);
        self.known.push(Cloud { asked, access, aws, connector, _identity: identity });
        Ok(())
    }

    /// The AWS API of a forward, if it has a connector.
    pub(super) fn aws(&self, forward: &PlannedForward) -> Option<&Arc<Aws>> {
        self.known.iter().find(|cloud| cloud.access == forward.access).map(|cloud| &cloud.aws)
    }

    /// Fetches the names of targets that are given by id, and says them.
    pub(in crate::cli) fn tell_names<'a>(&self, forwards: impl Iterator<Item = &'a PlannedForward> + Clone) {
        for cloud in &self.known {
            let of_cloud = forwards.clone().filter(|forward| forward.access == cloud.access);
            let targets = of_cloud.map(|forward| &forward.request.target[..]);
            targets::tell_names(&cloud.aws, targets, &self.reporter);
        }
    }

    async fn cloud(&mut self, asked: &Access, limit: Duration) -> Result<&Cloud, Report> {
        let at = match self.known.iter().position(|cloud| cloud.asked == *asked) {
            Some(at) => at,
            None => {
                let mut access = asked.clone();
                let aws = load(&mut access, limit).await?;
                self.adopt(Loaded { asked: asked.clone(), access, aws }).await?;
                self.known.len() - 1
            }
        };
        Ok(&self.known[at])
    }
}

impl Connectors for Clouds {
    type Connector = SessionConnector;

    async fn connector(&mut self, forward: &mut PlannedForward) -> Result<Arc<SessionConnector>, Report> {
        let cloud = self.cloud(&forward.access, forward.session.connect_timeout).await?;
        let options = SessionOptions { wake: cloud.connector.options.wake.clone(), ..forward.session.options() };
        let connector = Arc::new(cloud.connector.with_options(options));
        forward.access.clone_from(&cloud.access);
        self.reporter.uses(forward);
        Ok(connector)
    }
}

/// Says who we are as soon as it is known, beside everything else and until the end of the run; says nothing if it
/// cannot be known.
fn tell_identity(aws: &Arc<Aws>, access: &Access, reporter: &Arc<Reporter>) -> Option<AbortOnDropHandle<()>> {
    if !reporter.wants_identity() {
        return None;
    }
    let (aws, access, reporter) = (aws.clone(), access.clone(), reporter.clone());
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        match aws.identity().await {
            Ok(identity) => reporter.identity(&identity, &access),
            // No permission is needed for it, but a way to STS is.
            Err(error) => tracing::debug!(%error, "who we are is not known"),
        }
    })))
}

/// The AWS API with the credentials and the region that the user chose.
async fn control_plane(access: &Access) -> Result<Aws, ControlError> {
    let mut options = AwsOptions::default();
    options.profile.clone_from(&access.profile);
    options.region.clone_from(&access.region);
    options.endpoint_url.clone_from(&access.endpoint_url);
    options.mfa = Some(SharedMfaPrompt::new(TerminalPrompt::new(access.mfa_code.clone())));
    options.ssmmessages_endpoint.clone_from(&access.ssmmessages_endpoint);
    options.use_fips = access.use_fips;
    options.use_dual_stack = access.use_dual_stack;
    Aws::load(options).await
}

/// The same, and the choice of credentials completed with what the AWS configuration says: hints need it.
pub(in crate::cli) async fn configured(access: &mut Access) -> Result<Aws, ControlError> {
    access.look_at_environment();
    let control = control_plane(access).await?;
    access.region = Some(control.region().to_owned());
    access.profile = control.profile().map(str::to_owned);
    access.uses_mfa = control.uses_mfa();
    Ok(control)
}

/// The same within a time, and whoever has to give a code has been asked for it.
pub(in crate::cli) async fn load(access: &mut Access, limit: Duration) -> Result<Aws, Report> {
    let control = match time::timeout(limit, configured(access)).await {
        Ok(Ok(control)) => control,
        Ok(Err(error)) => return Err(Report::configuration(&error, access)),
        Err(_) => return Err(late_configuration()),
    };
    // Before the time to connect begins to run.
    control.ask_for_code().await;
    Ok(control)
}

pub(in crate::cli) fn late_configuration() -> Report {
    Report::new(Exit::Failure, "the AWS configuration could not be read in time")
}
