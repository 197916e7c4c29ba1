//! The credentials that a chain begins with: its own, or those that the SDK finds.

use aws_config::{
    ecs::EcsCredentialsProvider, environment::EnvironmentVariableCredentialsProvider,
    imds::credentials::ImdsCredentialsProvider, profile::ProfileFileCredentialsProvider,
    provider_config::ProviderConfig,
};
use aws_credential_types::provider::{self, ProvideCredentials, future};

use super::chain::{Base, Chain, Source};
use crate::aws::provider::NamedProfile;

/// Gives the first credentials of a chain.
#[derive(Debug)]
pub(in crate::aws) struct Begin {
    base: Base,
    config: ProviderConfig,
}

impl Begin {
    pub(in crate::aws) fn new(chain: &Chain, config: ProviderConfig) -> Self {
        Self { base: chain.base.clone(), config }
    }

    async fn load(&self) -> provider::Result {
        let config = &self.config;
        match &self.base {
            Base::Keys(keys) => Ok(keys.clone()),
            Base::Profile(name) => {
                let profile = ProfileFileCredentialsProvider::builder().configure(config).profile_name(name).build();
                NamedProfile(profile).provide_credentials().await
            }
            Base::Source(Source::Environment) => {
                EnvironmentVariableCredentialsProvider::new().provide_credentials().await
            }
            Base::Source(Source::Ec2InstanceMetadata) => {
                ImdsCredentialsProvider::builder().configure(config).build().provide_credentials().await
            }
            Base::Source(Source::EcsContainer) => {
                EcsCredentialsProvider::builder().configure(config).build().provide_credentials().await
            }
        }
    }
}

impl ProvideCredentials for Begin {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

/// The file that should hold a web identity cannot be read; the SDK says so without its name.
#[derive(Debug, thiserror::Error)]
#[error("the file of the web identity, `{file}`, cannot be read")]
pub(in crate::aws) struct UnreadableIdentity {
    pub(in crate::aws) file: String,
    #[source]
    pub(in crate::aws) why: std::io::Error,
}
