//! Credentials: kept until shortly before they expire, for the calls of the API and for signed upgrades alike.
//!
//! Where they come from is the SDK's affair, except that a profile named by the user wins over the environment.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_config::{
    SdkConfig, ecs::EcsCredentialsProvider, imds::credentials::ImdsCredentialsProvider,
    meta::credentials::CredentialsProviderChain, profile::ProfileFileCredentialsProvider,
    provider_config::ProviderConfig,
};
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};
use tokio::sync::Mutex;

use super::exchange::Exchange;

/// How long before their expiry credentials are loaded anew.
const REFRESH_BEFORE: Duration = Duration::from_secs(60);

/// How long credentials without an expiry are kept, as in the SDK's own cache.
const KEEP: Duration = Duration::from_secs(15 * 60);

/// What loading may take; long, because a `credential_process` may ask a person.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// A provider in front of another that asks it rarely, and once for all that wait.
///
/// The SDK's own cache cannot be asked from outside a call, and signing an upgrade is not a call.
#[derive(Debug)]
pub(super) struct CachedCredentials {
    provider: Option<SharedCredentialsProvider>,
    exchange: Exchange,
    cached: Mutex<Option<Cached>>,
}

#[derive(Debug)]
struct Cached {
    credentials: Credentials,
    fresh_until: SystemTime,
}

impl CachedCredentials {
    pub(super) fn new(provider: Option<SharedCredentialsProvider>, exchange: Exchange) -> Self {
        Self { provider, exchange, cached: Mutex::new(None) }
    }

    /// The credentials for now.
    pub(super) async fn get(&self) -> provider::Result {
        let Some(provider) = &self.provider else { return Err(CredentialsError::not_loaded_no_source()) };
        // Held while loading: whoever comes meanwhile wants the same answer.
        let mut cached = self.cached.lock().await;
        if let Some(known) = cached.as_ref().filter(|known| self.exchange.now() < known.fresh_until) {
            return Ok(known.credentials.clone());
        }
        let loaded = tokio::time::timeout(LOAD_TIMEOUT, provider.provide_credentials())
            .await
            .unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(LOAD_TIMEOUT)));
        let now = self.exchange.now();
        match loaded {
            Ok(credentials) => {
                let fresh_until = match credentials.expiry() {
                    Some(expiry) => expiry.checked_sub(REFRESH_BEFORE).unwrap_or(expiry),
                    None => now + KEEP,
                };
                *cached = Some(Cached { credentials: credentials.clone(), fresh_until });
                Ok(credentials)
            }
            // Those of the last minute will do while new ones cannot be had.
            Err(error) => match cached.take().filter(|old| old.credentials.expiry().is_some_and(|end| now < end)) {
                Some(old) => Ok(cached.insert(old).credentials.clone()),
                None => Err(error),
            },
        }
    }

    /// The service does not take them any more: the next call loads new ones.
    pub(super) async fn forget(&self) {
        *self.cached.lock().await = None;
    }
}

impl ProvideCredentials for CachedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.get())
    }
}

/// What `--profile` means: the profile, and if it names no credentials the machine's role, but never the environment's
/// keys. With those, the SDK's chain alone would act in another account than the one named.
pub(super) fn of_profile(profile: &str, config: &SdkConfig) -> CredentialsProviderChain {
    let mut provider_config = ProviderConfig::without_region()
        .with_region(config.region().cloned())
        .with_use_fips(config.use_fips())
        .with_use_dual_stack(config.use_dual_stack());
    if let Some(retry_config) = config.retry_config() {
        provider_config = provider_config.with_retry_config(retry_config.clone());
    }
    let from_files =
        ProfileFileCredentialsProvider::builder().configure(&provider_config).profile_name(profile).build();
    with_machine(NamedProfile(Arc::new(from_files)), &provider_config)
}

fn with_machine(profile: NamedProfile, config: &ProviderConfig) -> CredentialsProviderChain {
    CredentialsProviderChain::first_try("Profile", profile)
        .or_else("EcsContainer", EcsCredentialsProvider::builder().configure(config).build())
        .or_else("Ec2InstanceMetadata", ImdsCredentialsProvider::builder().configure(config).build())
}

/// The credentials of a profile. That there is no such profile ends the search; that it names none does not.
#[derive(Debug)]
struct NamedProfile(Arc<ProfileFileCredentialsProvider>);

impl NamedProfile {
    async fn load(&self) -> provider::Result {
        self.0.provide_credentials().await.map_err(|error| match error {
            // The SDK's text for a missing profile or a key missing in one; the error's type is private.
            CredentialsError::CredentialsNotLoaded(_) if source_of(&error).contains("was not defined") => {
                CredentialsError::invalid_configuration(source_of(&error))
            }
            error => error,
        })
    }
}

impl ProvideCredentials for NamedProfile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

fn source_of(error: &CredentialsError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::aws::canned::{DATE, at, seconds};

    /// Hands out credentials that live for a while, and counts.
    #[derive(Debug, Clone, Default)]
    struct Mint {
        made: Arc<AtomicU64>,
        expiry: Option<u64>,
        dry_after: Option<u64>,
    }

    impl ProvideCredentials for Mint {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
            if self.dry_after.is_some_and(|last| made > last) {
                return future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("dry")));
            }
            let credentials = Credentials::new(format!("AKID{made}"), "secret", None, self.expiry.map(seconds), "mint");
            future::ProvideCredentials::ready(Ok(credentials))
        }
    }

    fn cache(mint: &Mint, now: u64) -> CachedCredentials {
        CachedCredentials::new(Some(SharedCredentialsProvider::new(mint.clone())), Exchange::new(at(now)))
    }

    #[tokio::test]
    async fn credentials_are_loaded_once_and_again_when_they_are_about_to_expire() {
        for (expiry, loads) in [(None, 1), (Some(DATE + 3600), 1), (Some(DATE + 60), 2), (Some(DATE - 1), 2)] {
            let mint = Mint { expiry, ..Mint::default() };
            let cache = cache(&mint, DATE);
            cache.get().await.expect("fresh");
            cache.get().await.expect("again");
            assert_eq!(mint.made.load(Ordering::Relaxed), loads, "{expiry:?}");
        }
    }

    #[tokio::test]
    async fn the_last_minute_bridges_a_failure() {
        let mint = Mint { expiry: Some(DATE + 30), dry_after: Some(1), ..Mint::default() };
        let cache = cache(&mint, DATE);
        for _ in 0..3 {
            assert_eq!(cache.get().await.expect("still valid").access_key_id(), "AKID1");
        }
        let mint = Mint { expiry: Some(DATE), dry_after: Some(1), ..Mint::default() };
        let cache = self::cache(&mint, DATE);
        cache.get().await.expect("as loaded");
        cache.get().await.expect_err("expired, and no others");
    }

    #[tokio::test]
    async fn forgotten_credentials_are_loaded_anew() {
        let mint = Mint::default();
        let cache = cache(&mint, DATE);
        assert_eq!(cache.get().await.expect("fresh").access_key_id(), "AKID1");
        cache.forget().await;
        assert_eq!(cache.get().await.expect("anew").access_key_id(), "AKID2");
    }

    #[expect(deprecated, reason = "the type's new home is a crate that is otherwise not ours to name")]
    fn profile(name: &str, config_file: &str) -> NamedProfile {
        use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
        let files = ProfileFiles::builder().with_contents(ProfileFileKind::Config, config_file).build();
        let provider = ProfileFileCredentialsProvider::builder().profile_files(files).profile_name(name).build();
        NamedProfile(Arc::new(provider))
    }

    #[tokio::test]
    async fn a_profile_that_does_not_exist_ends_the_search() {
        let profile = profile("missing", "[profile other]\nregion = eu-west-1\n");
        let error = profile.load().await.expect_err("no such profile");
        assert!(matches!(error, CredentialsError::InvalidConfiguration(_)), "{error:?}");
        assert!(source_of(&error).contains("missing"), "{error:?}");
    }

    #[tokio::test]
    async fn a_profile_without_credentials_does_not() {
        let profile = profile("plain", "[profile plain]\nregion = eu-west-1\n");
        let error = profile.load().await.expect_err("no credentials");
        assert!(matches!(error, CredentialsError::CredentialsNotLoaded(_)), "{error:?}");
    }
}
