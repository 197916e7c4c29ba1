//! The control plane on the AWS SDK: it starts, resumes and ends sessions, and signs websocket upgrades.
//!
//! ```text
//! session ── ControlPlane ──▶ Aws ──▶ SSM client ──▶ service
//!                              │          └ Exchange: where requests went, what time it is there
//!                              ├── CachedCredentials: one cache for calls and signatures
//!                              │     └ Lookup: where the SDK looks, looked at anew for every load
//!                              │         └ profiles: roles with MFA, which the SDK does not know
//!                              └── stream_url, sign: where a data channel may go, and its signature
//! ```
//!
//! No protocol rules live here, and nothing above this module sees a type of the SDK, except callers that bring
//! their own [`SdkConfig`].

mod api;
#[cfg(test)]
mod canned;
mod credentials;
mod data_key;
mod denial;
mod endpoint;
mod errors;
mod examine;
mod exchange;
mod http;
mod identity;
mod json_call;
mod json_service;
pub(crate) mod login;
pub(crate) mod partition;
mod private_file;
mod profiles;
mod provider;
mod sign;
mod stream_url;
mod targets;

use std::{error::Error as _, fmt, sync::Arc, time::Duration};

use aws_config::{
    BehaviorVersion, ConfigLoader, Region, SdkConfig,
    identity::IdentityCache,
    profile::{ProfileFileLoadError, ProfileSet},
    retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig,
    timeout::TimeoutConfig,
};
use aws_credential_types::provider::{SharedCredentialsProvider, error::CredentialsError};
use aws_sdk_ssm::config::Builder;
use aws_types::{
    os_shim_internal::{Env, Fs},
    sdk_ua_metadata::FrameworkMetadata,
};

pub use self::identity::Identity;
pub use self::profiles::{MfaCode, MfaPrompt, MfaRequest, NoCode, SharedMfaPrompt};
#[cfg(test)]
pub(crate) use self::targets::Ping;
pub use self::targets::{Target, TargetError, TargetProblem};
use self::{
    credentials::CachedCredentials,
    endpoint::CheckedEndpoint,
    errors::Call,
    exchange::Exchange,
    provider::{Lookup, Mfa},
    stream_url::MessagesEndpoint,
};
pub(crate) use self::{
    denial::{Denial, DeniedBy},
    errors::{Fault, fault, repeated},
    examine::Preferences,
    provider::keys_in_environment,
    targets::{LookupFault, Match, NodeInfo, Resolution, lookup_fault},
};
use crate::session::{ControlError, ControlErrorKind, Outbound, Proxies, Trust};

/// Connecting, TLS included: time for the third SYN of a lossy network, and for a resolver to ask a second time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One try of a call, sent to answered. The SDK itself waits for ever.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// A call with all its tries: what a caller waits at most.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Tries of one call; the SDK's own default. The environment's `AWS_MAX_ATTEMPTS` and `AWS_RETRY_MODE` are not read:
/// values that the SDK does not like make it panic, and retries over minutes are the session's business.
const ATTEMPTS: u32 = 3;

/// What a user may choose. What is absent comes from where the SDK looks: environment, profile files, the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AwsOptions {
    /// A profile of the AWS configuration files. Naming one means its credentials, as with the AWS CLI: those of the
    /// environment are then ignored.
    pub profile: Option<String>,
    /// The region, such as `eu-west-1`.
    pub region: Option<String>,
    /// Where the SSM API is, such as `https://vpce-0a1b.ssm.eu-west-1.vpce.amazonaws.com`. Other services that
    /// credentials may need (STS, SSO) are not redirected.
    pub endpoint_url: Option<String>,
    /// Who is asked for the codes of MFA devices, where the profile has an `mfa_serial`. Without it, such a role cannot
    /// be used unless the AWS CLI has kept its credentials.
    pub mfa: Option<SharedMfaPrompt>,
    /// Where data channels are, such as `https://vpce-0a1b.ssmmessages.eu-west-1.vpce.amazonaws.com`: a VPC endpoint
    /// without private DNS. Its host and port take the place of those that the service names, in the address, in TLS,
    /// in the `Host` header and in the signature; path and query stay. `http` and `ws` only for this machine.
    pub ssmmessages_endpoint: Option<String>,
    /// Use endpoints with FIPS 140 cryptography. Otherwise `AWS_USE_FIPS_ENDPOINT` or the profile decide.
    pub use_fips: bool,
    /// Use endpoints with IPv4 and IPv6. Otherwise `AWS_USE_DUALSTACK_ENDPOINT` or the profile decide.
    pub use_dual_stack: bool,
}

/// The SSM API of one account and region.
///
/// Credentials are loaded at the first call and kept until shortly before they expire. Before a session is resumed, and
/// after the service has refused them, they are loaded anew, at most every few seconds. [`load`](Self::load) looks for
/// them as a new process would each time: a login in another terminal, or a changed file, counts.
///
/// A call ends within half a minute, ResumeSession within ten seconds. Where there are no good credentials it waits for
/// them first: ten seconds, StartSession a minute.
pub struct Aws {
    client: aws_sdk_ssm::Client,
    /// For clients of other services.
    config: SdkConfig,
    credentials: CachedCredentials,
    exchange: Exchange,
    lookups: targets::Lookups,
    /// An override of the endpoint of SSM.
    endpoint_url: Option<String>,
    messages_endpoint: Option<MessagesEndpoint>,
    outbound: Arc<Outbound>,
    region: String,
    profile: Option<String>,
    mfa: Mfa,
}

impl Aws {
    /// Reads the AWS configuration: environment variables and profile files, and the machine's own region only if
    /// these name none. No credentials are loaded yet.
    ///
    /// Calls go through the proxies of the environment ([`Proxies`]), and trust the CA bundle that `AWS_CA_BUNDLE` or
    /// `ca_bundle` in the profile names, if any, in place of the machine's roots.
    ///
    /// # Errors
    /// [`NoRegion`](ControlErrorKind::NoRegion) if no usable region is known,
    /// [`InvalidRequest`](ControlErrorKind::InvalidRequest) if there is no such profile, an endpoint is not an HTTP URL
    /// or there is none with these settings, a CA bundle holds nothing, or the proxy to be used cannot be,
    /// [`NoCredentials`](ControlErrorKind::NoCredentials) if the files that should have the profile cannot be read.
    pub async fn load(mut options: AwsOptions) -> Result<Self, ControlError> {
        let chosen = options.profile.clone().or_else(|| std::env::var("AWS_PROFILE").ok());
        // A profile that is not there would otherwise be passed over: for the region, and for credentials.
        if let Some(profile) = chosen.filter(|name| !name.is_empty()) {
            check_profile(&profile, profiles().await)?;
        }
        let outbound = Arc::new(Outbound::from_env());
        read_ahead(&outbound);
        // The SDK's own lookup, which looks but once, is replaced below.
        let mut loader = loader().no_credentials().http_client(http::client(Arc::clone(&outbound)));
        if let Some(region) = &options.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &options.profile {
            loader = loader.profile_name(profile);
        }
        let kind = EndpointKind { use_fips: options.use_fips, use_dual_stack: options.use_dual_stack };
        let mut config = kind.told(loader).load().await;
        let trust = endpoint::trust(&config);
        let outbound = if *outbound.trust() == trust {
            outbound
        } else {
            let outbound = Arc::new(Outbound::new(Proxies::from_env(), trust));
            config = config.into_builder().http_client(http::client(Arc::clone(&outbound))).build();
            outbound
        };
        check_way(&config, &options, &outbound).await?;
        let lookup = Lookup::new(options.profile.as_deref(), options.mfa.clone(), &config);
        let mfa = lookup.mfa().await;
        let config = config.into_builder().credentials_provider(SharedCredentialsProvider::new(lookup)).build();
        if options.profile.is_none() {
            options.profile = std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
        }
        Ok(Self { mfa, ..Self::new(config, options, outbound)? })
    }

    /// The same with a configuration of the caller's, for example with credentials from elsewhere. Region and
    /// endpoints of `options` win over those of `config`; the profile is only a name for messages. Calls are made by
    /// the HTTP client of `config`; where it has none, proxies and `AWS_CA_BUNDLE` of the environment count.
    ///
    /// # Errors
    /// As [`load`](Self::load), as far as it can be told without a call.
    pub fn from_sdk_config(config: &SdkConfig, options: AwsOptions) -> Result<Self, ControlError> {
        let outbound = Arc::new(Outbound::from_env());
        let mut builder = config.to_builder();
        if config.http_client().is_none() {
            builder.set_http_client(Some(http::client(Arc::clone(&outbound))));
        }
        if options.use_fips {
            builder.set_use_fips(Some(true));
        }
        if options.use_dual_stack {
            builder.set_use_dual_stack(Some(true));
        }
        Self::new(builder.build(), options, outbound)
    }

    fn new(config: SdkConfig, options: AwsOptions, outbound: Arc<Outbound>) -> Result<Self, ControlError> {
        let config = &config;
        let region = options.region.as_deref().or_else(|| config.region().map(Region::as_ref));
        let region = usable_region(region, options.profile.as_deref())?.to_owned();

        let exchange = Exchange::new(config.time_source().unwrap_or_default());
        let credentials = CachedCredentials::new(config.credentials_provider(), exchange.clone());

        let mut ssm = Builder::from(config)
            .region(Region::new(region.clone()))
            .timeout_config(timeouts())
            // It takes a connection that is being made for a stalled one after 5 s, whatever the timeouts say.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // One cache for calls and signatures: ours.
            .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
            .identity_cache(IdentityCache::no_cache())
            .endpoint_resolver(CheckedEndpoint::default())
            .interceptor(exchange.clone());
        if config.behavior_version().is_none() {
            ssm.set_behavior_version(Some(BehaviorVersion::latest()));
        }
        if let Some(url) = &options.endpoint_url {
            endpoint::check(url).map_err(|reason| LOADING.error(ControlErrorKind::InvalidRequest, reason))?;
            ssm.set_endpoint_url(Some(url.clone()));
        }
        let messages_endpoint = options.ssmmessages_endpoint.as_deref().map(MessagesEndpoint::parse).transpose();
        let messages_endpoint =
            messages_endpoint.map_err(|reason| LOADING.error(ControlErrorKind::InvalidRequest, reason))?;
        let client = aws_sdk_ssm::Client::from_conf(ssm.build());
        let config = config
            .to_builder()
            .region(Region::new(region.clone()))
            .timeout_config(timeouts())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
            .identity_cache(IdentityCache::no_cache())
            .build();
        Ok(Self {
            client,
            config,
            credentials,
            exchange,
            lookups: targets::Lookups::default(),
            endpoint_url: options.endpoint_url,
            messages_endpoint,
            outbound,
            region,
            profile: options.profile,
            mfa: Mfa::default(),
        })
    }

    /// The way that calls go, for a [`Dialer`](crate::session::Dialer) that goes the same.
    #[must_use]
    pub fn outbound(&self) -> &Arc<Outbound> {
        &self.outbound
    }

    /// The region, such as `eu-west-1`.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// What clients of other services are made of: this region and these credentials.
    pub(crate) fn sdk_config(&self) -> &SdkConfig {
        &self.config
    }

    /// Whether the credentials take a code of an MFA device: when they expire, somebody must be there.
    #[must_use]
    pub fn uses_mfa(&self) -> bool {
        self.mfa.used
    }

    /// Asks for the code of an MFA device now, if loading the credentials takes one that nobody has given yet: before
    /// any time that a person does not know of begins to run. Returns after five minutes at most. Whether it worked is
    /// told by the first call.
    pub async fn ask_for_code(&self) {
        if self.mfa.asks {
            drop(self.credentials.get(credentials::GIVE_UP).await);
        }
    }

    /// The profile that was chosen, by option or environment.
    #[must_use]
    pub fn profile(&self) -> Option<&str> {
        self.profile.as_deref()
    }
}

impl fmt::Debug for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aws").field("region", &self.region).field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// The SDK's loader, told what it must not take from the environment and who we are (CloudTrail shows it).
fn loader() -> ConfigLoader {
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS));
    match FrameworkMetadata::new("ssmfwd", Some(env!("CARGO_PKG_VERSION"))) {
        Ok(ssmfwd) => loader.framework_metadata(ssmfwd),
        Err(_) => loader,
    }
}

/// The kind of endpoint that is wanted, whatever the environment and the profile say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct EndpointKind {
    pub(crate) use_fips: bool,
    pub(crate) use_dual_stack: bool,
}

impl EndpointKind {
    /// A loader that knows it. What is not wanted here may be elsewhere.
    fn told(self, mut loader: ConfigLoader) -> ConfigLoader {
        if self.use_fips {
            loader = loader.use_fips(true);
        }
        if self.use_dual_stack {
            loader = loader.use_dual_stack(true);
        }
        loader
    }
}

/// Certificates are read while the configuration is: it takes both.
fn read_ahead(outbound: &Arc<Outbound>) {
    let outbound = Arc::clone(outbound);
    tokio::spawn(async move {
        if let Err(error) = outbound.ready().await {
            tracing::debug!(%error, "no trust");
        }
    });
}

/// Finds out now what no call could succeed with: an endpoint that does not exist, a bundle without certificates, a
/// proxy of an unknown kind.
async fn check_way(config: &SdkConfig, options: &AwsOptions, outbound: &Outbound) -> Result<(), ControlError> {
    let invalid = |message: String| LOADING.error(ControlErrorKind::InvalidRequest, message);
    if matches!(outbound.trust(), Trust::Bundle(_)) {
        outbound.ready().await.map_err(|error| match error.source() {
            Some(below) => LOADING.caused(ControlErrorKind::InvalidRequest, error.to_string(), below),
            None => invalid(error.to_string()),
        })?;
    }
    // Without a region that can be part of a host there is another error.
    if !config.region().is_some_and(|region| partition::is_label(region.as_ref())) {
        return Ok(());
    }
    let endpoint = endpoint::chosen(config, options.endpoint_url.as_deref()).await.map_err(invalid)?;
    tracing::debug!(%endpoint, "SSM API");
    let (tls, host) = (endpoint.scheme_str() == Some("https"), endpoint.host().unwrap_or_default());
    let proxy = outbound.proxies().of(tls, host, endpoint.port_u16().unwrap_or(if tls { 443 } else { 80 }));
    proxy.map(drop).map_err(|error| invalid(error.to_string()))
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build()
}

/// StartSession is not idempotent: a try that is given up may have started a session that nobody knows of, and the next
/// try another one. So it is not given up before the whole call is.
fn start_override() -> Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .disable_operation_attempt_timeout()
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    Builder::new().timeout_config(timeouts)
}

/// ResumeSession is tried by its caller for as long as the session may live, with a back-off that knows of all
/// attempts: one try here, which ends soon.
fn resume_override() -> Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(ATTEMPT_TIMEOUT)
        .build();
    Builder::new().timeout_config(timeouts).retry_config(RetryConfig::disabled())
}

const LOADING: Call<'static> = Call { operation: "loading", resource: "the AWS configuration" };

#[expect(deprecated, reason = "the type's new home is a crate that is otherwise not ours to name")]
async fn profiles() -> Result<ProfileSet, ProfileFileLoadError> {
    let files = aws_config::profile::profile_file::ProfileFiles::default();
    aws_config::profile::load(&Fs::real(), &Env::real(), &files, None).await
}

/// A profile that was named must exist. The one that is meant when none is named need not.
fn check_profile(name: &str, profiles: Result<ProfileSet, ProfileFileLoadError>) -> Result<(), ControlError> {
    match profiles {
        Ok(profiles) if name == "default" || profiles.get_profile(name).is_some() => Ok(()),
        Ok(_) => {
            let message = format!("there is no profile `{name}` in the AWS configuration files");
            Err(LOADING.fault(ControlErrorKind::InvalidRequest, message, Fault::NoSuchProfile))
        }
        Err(error) => Err(LOADING.no_credentials(&CredentialsError::invalid_configuration(error))),
    }
}

/// A region becomes part of a host name and of every signature: anything but a host label is an error now, not a
/// riddle later.
fn usable_region<'a>(region: Option<&'a str>, profile: Option<&str>) -> Result<&'a str, ControlError> {
    let message = match region.map(str::trim).filter(|region| !region.is_empty()) {
        Some(region) if partition::is_label(region) => return Ok(region),
        Some(region) => format!("`{region}` is not the name of a region"),
        None => {
            let profile = profile.unwrap_or("default");
            format!("no region is known: give --region, set AWS_REGION, or set `region` in the profile {profile}")
        }
    };
    Err(LOADING.error(ControlErrorKind::NoRegion, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(region: Option<&str>, options: AwsOptions) -> Result<Aws, ControlError> {
        let config = SdkConfig::builder().region(region.map(|name| Region::new(name.to_owned()))).build();
        Aws::from_sdk_config(&config, options)
    }

    #[test]
    fn a_missing_region_names_the_remedies() {
        let error = load(None, AwsOptions::default()).expect_err("no region");
        assert_eq!(error.kind, ControlErrorKind::NoRegion);
        let text = error.to_string();
        assert!(text.contains("--region") && text.contains("AWS_REGION"), "{text}");

        let options = AwsOptions { profile: Some("dev".to_owned()), ..AwsOptions::default() };
        let text = load(Some(" "), options).expect_err("blank").to_string();
        assert!(text.ends_with("in the profile dev"), "{text}");
    }

    #[test]
    fn a_region_that_cannot_be_part_of_a_host_is_refused() {
        for region in ["eu west 1", "eu-west-1.evil.com", "a/b", "x@y", "-a", "a-", "\u{fc}-1"] {
            let error = load(Some(region), AwsOptions::default()).expect_err(region);
            assert_eq!(error.kind, ControlErrorKind::NoRegion, "{region}");
        }
    }

    #[tokio::test]
    #[expect(deprecated, reason = "the type's new home is a crate that is otherwise not ours to name")]
    async fn a_profile_must_exist() {
        use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
        let check = async |name: &str, contents: &str| {
            let files = ProfileFiles::builder().with_contents(ProfileFileKind::Config, contents).build();
            let none = Env::from_slice(&[]);
            check_profile(name, aws_config::profile::load(&Fs::from_slice(&[]), &none, &files, None).await)
        };
        let contents = "[profile dev]\nregion = eu-west-1\n";
        check("dev", contents).await.expect("it is there");
        check("default", contents).await.expect("need not be there");
        let error = check("prod", contents).await.expect_err("it is not there");
        assert_eq!((error.kind, fault(&error)), (ControlErrorKind::InvalidRequest, Some(Fault::NoSuchProfile)));
        assert!(error.to_string().ends_with("there is no profile `prod` in the AWS configuration files"), "{error}");
        let error = check("dev", "[profile dev\n").await.expect_err("a bracket is missing");
        assert_eq!(fault(&error), Some(Fault::BrokenConfiguration), "{error:?}");
    }

    #[test]
    fn the_option_wins_over_the_configuration() {
        let options = AwsOptions { region: Some("eu-west-1".to_owned()), ..AwsOptions::default() };
        let aws = load(Some("us-east-1"), options).expect("two regions");
        assert_eq!((aws.region(), aws.profile()), ("eu-west-1", None));
    }

    #[test]
    fn an_endpoint_that_is_not_a_url_is_refused_and_not_repeated() {
        for url in ["localhost", "http://me:hunter2@host", ""] {
            let options = AwsOptions { endpoint_url: Some(url.to_owned()), ..AwsOptions::default() };
            let error = load(Some("eu-west-1"), options).expect_err(url);
            assert_eq!(error.kind, ControlErrorKind::InvalidRequest, "{url}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
