//! Where credentials come from: the places where the SDK looks, looked at anew for every load.
//!
//! The SDK's own providers parse the profile files once and keep what they found: keys, tokens, even a failure to
//! read. That suits programs that are started again when something has changed. A tunnel lives on while somebody logs
//! in, in another terminal, or edits a file; so every load does what a new process would do. How often is not decided
//! here.

use std::{fmt, sync::Arc};

use aws_config::{
    SdkConfig, default_provider::credentials::DefaultCredentialsChain, ecs::EcsCredentialsProvider,
    imds::credentials::ImdsCredentialsProvider, meta::credentials::CredentialsProviderChain,
    profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig,
};
use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError, future};

use super::profiles::{Begin, Chain, Roles, SharedMfaPrompt, UnreadableIdentity};

/// The credentials of a profile, or where none is named what the SDK finds by itself.
#[derive(Clone)]
pub(super) struct Lookup {
    profile: Option<String>,
    config: SdkConfig,
    roles: Arc<Roles>,
}

impl Lookup {
    /// What `--profile` means, if it is given: the profile, and if it names no credentials the machine's role, but
    /// never the environment's keys. With those, the SDK's chain alone would act in another account than the one named.
    pub(super) fn new(profile: Option<&str>, mfa: Option<SharedMfaPrompt>, config: &SdkConfig) -> Self {
        Self { profile: profile.map(str::to_owned), config: config.clone(), roles: Roles::new(mfa) }
    }

    /// Whether a role of the profile is assumed with a code, and whether a load would ask a person for one now.
    pub(super) async fn mfa(&self) -> Mfa {
        match self.chain().await {
            Ok(Some(chain)) => {
                let now = self.config.time_source().unwrap_or_default().now();
                Mfa { used: chain.has_mfa(), asks: self.roles.asks(&chain, now).await }
            }
            _ => Mfa::default(),
        }
    }

    async fn load(&self) -> provider::Result {
        let config = self.provider_config();
        let found = match (self.chain().await?, &self.profile) {
            (Some(chain), _) => {
                let begin = Begin::new(&chain, config);
                self.roles.assume(&chain, &self.config, &begin).await
            }
            (None, Some(profile)) => {
                let profile =
                    ProfileFileCredentialsProvider::builder().configure(&config).profile_name(profile).build();
                with_machine(NamedProfile(profile), &config).provide_credentials().await
            }
            (None, None) => {
                let region = self.config.region().cloned();
                let chain = DefaultCredentialsChain::builder().configure(config).region(region).build().await;
                chain.provide_credentials().await
            }
        };
        match found {
            Ok(credentials) => Ok(credentials),
            Err(error) => Err(self.unreadable_identity().await.unwrap_or(error)),
        }
    }

    /// Why there are no credentials, if a web identity should give them and its file cannot be read: the SDK does not
    /// say which file that is.
    async fn unreadable_identity(&self) -> Option<CredentialsError> {
        let of_profile = async || Chain::web_identity_of(&self.profile_name()?, &super::profiles().await.ok()?);
        let file = match of_profile().await {
            Some(file) => file,
            None if self.profile.is_none() => variable("AWS_WEB_IDENTITY_TOKEN_FILE")?,
            None => return None,
        };
        let why = tokio::fs::read(&file).await.err()?;
        Some(CredentialsError::provider_error(UnreadableIdentity { file, why }))
    }

    /// The profile that is looked at, unless keys in the environment come first.
    fn profile_name(&self) -> Option<String> {
        match &self.profile {
            Some(name) => Some(name.clone()),
            None if keys_in_environment() => None,
            None => Some(variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned())),
        }
    }

    /// The roles that are ours to assume: those of the profile, if it is where the SDK would look first and cannot do
    /// everything that it says.
    async fn chain(&self) -> Result<Option<Chain>, CredentialsError> {
        let Some(name) = self.profile_name() else { return Ok(None) };
        // Files that cannot be read are the SDK's to complain of.
        let Ok(profiles) = super::profiles().await else { return Ok(None) };
        Chain::of(&name, &profiles).map_err(CredentialsError::invalid_configuration)
    }

    /// Made for each load: it keeps the parsed files, and so do its clones.
    fn provider_config(&self) -> ProviderConfig {
        let config = &self.config;
        let mut made = ProviderConfig::without_region()
            .with_region(config.region().cloned())
            .with_use_fips(config.use_fips())
            .with_use_dual_stack(config.use_dual_stack())
            .with_behavior_version(config.behavior_version())
            // The SDK's own default for STS and the SSO portal is to wait for ever.
            .with_timeout_config(super::timeouts());
        if let Some(retry_config) = config.retry_config() {
            made = made.with_retry_config(retry_config.clone());
        }
        if let Some(http_client) = config.http_client() {
            made = made.with_http_client(http_client);
        }
        if let Some(time_source) = config.time_source() {
            made = made.with_time_source(time_source);
        }
        made
    }
}

/// Whether the environment has a pair of keys: without a profile that is named, they come first.
pub(crate) fn keys_in_environment() -> bool {
    variable("AWS_ACCESS_KEY_ID").is_some() && variable("AWS_SECRET_ACCESS_KEY").is_some()
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// What a profile has to do with MFA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mfa {
    /// Its credentials take a code.
    pub(super) used: bool,
    /// One that nobody has given yet.
    pub(super) asks: bool,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl ProvideCredentials for Lookup {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

fn with_machine(profile: NamedProfile, config: &ProviderConfig) -> CredentialsProviderChain {
    CredentialsProviderChain::first_try("Profile", profile)
        .or_else("EcsContainer", EcsCredentialsProvider::builder().configure(config).build())
        .or_else("Ec2InstanceMetadata", ImdsCredentialsProvider::builder().configure(config).build())
}

/// The credentials of a profile. That there is no such profile ends the search; that it names none does not.
#[derive(Debug)]
pub(super) struct NamedProfile(pub(super) ProfileFileCredentialsProvider);

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
    use std::{
        path::{Path, PathBuf},
        process::Command,
        time::Duration,
    };

    use aws_credential_types::provider::SharedCredentialsProvider;
    use aws_lc_rs::digest;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use tokio::time::advance;

    use super::*;
    use crate::{
        aws::{
            Aws, AwsOptions,
            canned::{Answer, Asked, Canned, DATE, Hand},
        },
        session::{ControlError, ControlErrorKind as Kind, ControlPlane, SessionId, StartRequest},
    };

    const START_URL: &str = "https://d-0123456789.awsapps.com/start";
    /// After and before [`DATE`].
    const LATER: &str = "2023-11-15T06:13:20Z";
    const EARLIER: &str = "2023-11-14T22:00:00Z";

    /// Both ways to write an SSO profile, and what the file of the token is named after.
    const FORMS: [(&str, &str); 2] = [
        (
            "[profile dev]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = ops\n\
             [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://d-0123456789.awsapps.com/start\n\
             sso_registration_scopes = sso:account:access\n",
            "corp",
        ),
        (
            "[profile dev]\nsso_region = eu-west-1\nsso_start_url = https://d-0123456789.awsapps.com/start\n\
             sso_account_id = 111122223333\nsso_role_name = ops\n",
            START_URL,
        ),
    ];

    /// A home directory with nothing but what a test puts there.
    struct Home(PathBuf);

    impl Home {
        /// The SDK takes the home directory from the environment alone, and a process with threads must not change its
        /// own. So the test runs once more, in a process of its own: there this is its home, here there is none.
        fn of(test: &str) -> Option<Self> {
            if let Some(home) = std::env::var_os("SSMFWD_TEST_HOME") {
                return Some(Self(home.into()));
            }
            let home = tempfile::tempdir().expect("a folder");
            let mut again = Command::new(std::env::current_exe().expect("this program"));
            for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
                again.env_remove(name);
            }
            again.args(["--exact", &format!("aws::provider::tests::{test}"), "--test-threads=1", "--nocapture"]);
            again.env("HOME", home.path()).env("SSMFWD_TEST_HOME", home.path());
            let ran = again.env("AWS_EC2_METADATA_DISABLED", "true").output().expect("it runs");
            let said = String::from_utf8_lossy(&ran.stdout);
            let passed = ran.status.success() && said.contains("1 passed");
            assert!(passed, "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
            None
        }

        fn write(&self, path: impl AsRef<Path>, contents: &str) {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, contents).expect("a file");
        }

        fn token_file(name: &str) -> String {
            let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, name.as_bytes());
            let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            format!(".aws/sso/cache/{hex}.json")
        }

        /// What `aws sso login` leaves behind.
        fn log_in(&self, name: &str, token: &str, expires: &str) {
            let token = serde_json::json!({
                "startUrl": START_URL, "region": "eu-west-1", "accessToken": token, "expiresAt": expires,
            });
            self.write(Self::token_file(name), &token.to_string());
        }

        /// The same with what it takes to refresh it.
        fn log_in_refreshable(&self, name: &str, token: &str, expires: &str) {
            let token = serde_json::json!({
                "startUrl": START_URL, "region": "eu-west-1", "accessToken": token, "expiresAt": expires,
                "clientId": "client", "clientSecret": "clientsecret", "refreshToken": "refreshtoken",
                "registrationExpiresAt": LATER,
            });
            self.write(Self::token_file(name), &token.to_string());
        }
    }

    fn aws(canned: &Canned, profile: Option<&str>, clock: &Hand) -> Aws {
        let config = canned.config().into_builder().time_source(clock.source()).build();
        let lookup = SharedCredentialsProvider::new(Lookup::new(profile, None, &config));
        let config = config.into_builder().credentials_provider(lookup).build();
        Aws::from_sdk_config(&config, AwsOptions::default()).expect("a configuration")
    }

    async fn resume(aws: &Aws) -> Result<(), ControlError> {
        aws.resume(&SessionId("me-0a".to_owned())).await.map(|grant| assert!(grant.is_some()))
    }

    fn granted() -> Answer {
        let url = "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/me-0a";
        Answer::json(
            200,
            serde_json::json!({ "SessionId": "me-0a", "TokenValue": "AAEA", "StreamUrl": url }).to_string(),
        )
    }

    fn role_credentials(key: &str, lifetime: u64) -> Answer {
        let credentials = serde_json::json!({
            "accessKeyId": key, "secretAccessKey": "SECRET", "sessionToken": "TOKEN",
            "expiration": (DATE + lifetime) * 1000,
        });
        Answer::json(200, serde_json::json!({ "roleCredentials": credentials }).to_string())
    }

    fn unauthorized() -> Answer {
        Answer::refused(401, "UnauthorizedException", "Session token not found or invalid")
    }

    /// Who was asked with which key or token.
    fn asked(canned: &Canned) -> Vec<(String, String)> {
        let who = |asked: Asked| {
            let host = asked.uri.split('/').nth(2).unwrap_or_default().split('.').next().unwrap_or_default().to_owned();
            let key = asked.authorization.split(['=', '/']).nth(1).unwrap_or_default().to_owned();
            (host, if asked.bearer.is_empty() { key } else { asked.bearer })
        };
        canned.asked().into_iter().map(who).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(host, key)| ((*host).to_owned(), (*key).to_owned())).collect()
    }

    /// As long as a resume goes on with the credentials of the one before.
    const A_MINUTE: Duration = Duration::from_secs(60);
    /// As long as a failed load is not repeated.
    const A_PAUSE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_login_elsewhere_heals_an_expired_one() {
        let Some(home) = Home::of("a_login_elsewhere_heals_an_expired_one") else { return };
        for (config, name) in FORMS {
            home.write(".aws/config", config);
            home.log_in(name, "OLD", LATER);
            let (canned, clock) = (Canned::new([role_credentials("ASIA1", 3600), granted()]), Hand::at(DATE));
            let aws = aws(&canned, Some("dev"), &clock);
            resume(&aws).await.expect(name);

            // Both have expired since. In the legacy form only the portal knows.
            home.log_in(name, "OLD", EARLIER);
            clock.forward(7200);
            advance(A_MINUTE).await;
            if name != "corp" {
                canned.more([unauthorized()]);
            }
            for _ in 0..10 {
                let error = resume(&aws).await.expect_err(name);
                assert_eq!((error.kind, error.operation), (Kind::ExpiredCredentials, "ResumeSession"), "{error:?}");
                assert!(error.kind.heals());
            }

            home.log_in(name, "NEW", LATER);
            canned.more([role_credentials("ASIA2", 36_000), granted()]);
            advance(A_PAUSE).await;
            resume(&aws).await.expect("logged in again");
            let mut expected = pairs(&[("portal", "OLD"), ("ssm", "ASIA1"), ("portal", "NEW"), ("ssm", "ASIA2")]);
            if name != "corp" {
                expected.insert(2, ("portal".to_owned(), "OLD".to_owned()));
            }
            assert_eq!(asked(&canned), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_was_withdrawn_is_not_kept() {
        let Some(home) = Home::of("a_token_that_was_withdrawn_is_not_kept") else { return };
        for (config, name) in FORMS {
            home.write(".aws/config", config);
            home.log_in(name, "OLD", LATER);
            // Good for hours by its date, which is why the SDK would keep it.
            let (canned, clock) = (Canned::new([role_credentials("ASIA1", 60), granted()]), Hand::at(DATE));
            let aws = aws(&canned, Some("dev"), &clock);
            resume(&aws).await.expect(name);
            clock.forward(60);
            advance(A_MINUTE).await;
            canned.more([unauthorized()]);
            assert_eq!(resume(&aws).await.expect_err(name).kind, Kind::ExpiredCredentials);
            home.log_in(name, "NEW", LATER);
            canned.more([role_credentials("ASIA2", 3600), granted()]);
            advance(A_PAUSE).await;
            resume(&aws).await.expect("logged in again");
            assert_eq!(asked(&canned)[3..], pairs(&[("portal", "NEW"), ("ssm", "ASIA2")]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_a_login_have_their_kinds() {
        let Some(home) = Home::of("failures_of_a_login_have_their_kinds") else { return };
        let kind = async |answers: Vec<Answer>| {
            let canned = Canned::new(answers);
            let error = resume(&aws(&canned, Some("dev"), &Hand::at(DATE))).await.expect_err("no credentials");
            assert!(!format!("{error:?}").contains("SECRET"), "{error:?}");
            error.kind
        };
        for (config, name) in FORMS {
            home.write(".aws/config", config);
            assert_eq!(kind(vec![]).await, Kind::ExpiredCredentials, "{name}: never logged in");
            for broken in ["", "{", "{}", "nonsense", r#"{"accessToken":"T","expiresAt":"soon"}"#, "{}{}", "[]", "{7}"]
            {
                home.write(Home::token_file(name), broken);
                assert_eq!(kind(vec![]).await, Kind::ExpiredCredentials, "{name}: {broken}");
            }
            home.log_in(name, "TOKEN", LATER);
            for (answer, expected) in [
                (unauthorized(), Kind::ExpiredCredentials),
                (Answer::json(401, ""), Kind::ExpiredCredentials),
                // Denied to StartSession, but no reason to give a session up.
                (Answer::refused(403, "ForbiddenException", "No access"), Kind::NoCredentials),
                (Answer::refused(429, "TooManyRequestsException", "slow down"), Kind::Throttled),
                (Answer::json(500, ""), Kind::Service),
                (Answer::json(503, "<html>busy</html>"), Kind::Service),
                (Answer::Broken(ConnectorError::io("unreachable".into())), Kind::Network),
                (Answer::Broken(ConnectorError::timeout("slow".into())), Kind::Network),
                (Answer::Silence, Kind::Network),
            ] {
                let what = format!("{name}: {answer:?}");
                assert_eq!(kind(vec![answer]).await, expected, "{what}");
            }
            let canned = Canned::new([Answer::refused(403, "ForbiddenException", "No access")]);
            let start = StartRequest { target: "i-0a".to_owned(), ..StartRequest::default() };
            let error = aws(&canned, Some("dev"), &Hand::at(DATE)).start(&start).await.expect_err(name);
            assert_eq!(error.kind, Kind::AccessDenied, "{name}");
        }
        // The one form that can refresh: the portal is asked with the old token after a refresh that failed.
        let (config, name) = FORMS[0];
        home.write(".aws/config", config);
        home.log_in_refreshable(name, "OLD", EARLIER);
        for refusal in [
            Answer::refused(400, "InvalidGrantException", "Invalid refresh token provided"),
            Answer::refused(401, "InvalidClientException", "Invalid client"),
        ] {
            assert_eq!(kind(vec![refusal, unauthorized()]).await, Kind::ExpiredCredentials);
        }
        let unreachable = || Answer::Broken(ConnectorError::io("unreachable".into()));
        assert_eq!(kind(vec![unreachable(), unreachable()]).await, Kind::Network);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_can_be_refreshed_is() {
        let Some(home) = Home::of("a_token_that_can_be_refreshed_is") else { return };
        let (config, name) = FORMS[0];
        home.write(".aws/config", config);
        home.log_in_refreshable(name, "OLD", EARLIER);
        let body = r#"{"accessToken":"NEW","tokenType":"Bearer","expiresIn":28800,"refreshToken":"next"}"#;
        let canned = Canned::new([Answer::json(200, body), role_credentials("ASIA1", 3600), granted()]);
        resume(&aws(&canned, Some("dev"), &Hand::at(DATE))).await.expect("refreshed");
        assert_eq!(asked(&canned)[1..], pairs(&[("portal", "NEW"), ("ssm", "ASIA1")]));
        assert!(canned.asked()[0].body.contains("refreshtoken"));
        // For the AWS CLI and for the next load alike.
        let kept = std::fs::read_to_string(home.0.join(Home::token_file(name))).expect("the file");
        assert!(kept.contains("NEW") && kept.contains("next"), "{kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn changed_files_are_read_anew() {
        let Some(home) = Home::of("changed_files_are_read_anew") else { return };
        let keys = |profile: &str, key: &str| {
            format!("[{profile}]\naws_access_key_id = {key}\naws_secret_access_key = SECRET\n")
        };
        for (profile, section) in [(Some("dev"), "dev"), (None, "default")] {
            let (canned, clock) = (Canned::new((0..4).map(|_| granted())), Hand::at(DATE));
            let aws = aws(&canned, profile, &clock);
            // A file that cannot be parsed, as while it is being written.
            home.write(".aws/credentials", "[dev");
            resume(&aws).await.expect_err("a bracket is missing");
            advance(A_PAUSE).await;
            home.write(".aws/credentials", &keys(section, "AKID1"));
            resume(&aws).await.expect("the first key");
            home.write(".aws/credentials", &keys(section, "AKID2"));
            resume(&aws).await.expect("still the first key");
            advance(A_MINUTE).await;
            resume(&aws).await.expect("the second key");
            // Without its file a tunnel goes on with what it has.
            home.write(".aws/credentials", "");
            advance(A_MINUTE).await;
            resume(&aws).await.expect("still the second key");
            assert_eq!(
                asked(&canned),
                pairs(&[("ssm", "AKID1"), ("ssm", "AKID1"), ("ssm", "AKID2"), ("ssm", "AKID2")])
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_is_assumed_anew_with_the_keys_of_now() {
        let Some(home) = Home::of("a_role_is_assumed_anew_with_the_keys_of_now") else { return };
        let assumed = |key: &str, expires: &str| {
            Answer::json(
                200,
                format!(
                    "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
                     <AssumedRoleUser><AssumedRoleId>A:x</AssumedRoleId>\
                     <Arn>arn:aws:sts::111122223333:assumed-role/ops/x</Arn></AssumedRoleUser>\
                     <Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>SECRET</SecretAccessKey>\
                     <SessionToken>TOKEN</SessionToken><Expiration>{expires}</Expiration></Credentials>\
                     </AssumeRoleResult></AssumeRoleResponse>"
                ),
            )
        };
        let expired = Answer::json(
            403,
            "<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredToken</Code><Message>expired</Message></Error>\
             </ErrorResponse>",
        );
        let base = |key: &str| {
            let config = "[profile dev]\nrole_arn = arn:aws:iam::111122223333:role/ops\nsource_profile = base\n";
            home.write(
                ".aws/config",
                &format!("{config}[profile base]\naws_access_key_id = {key}\naws_secret_access_key = SECRET\n"),
            );
        };
        base("AKID1");
        let (canned, clock) = (Canned::new([assumed("ASIA1", "2023-11-14T22:30:00Z"), granted()]), Hand::at(DATE));
        let aws = aws(&canned, Some("dev"), &clock);
        resume(&aws).await.expect("a role");
        clock.forward(3600);
        advance(A_MINUTE).await;
        canned.more([expired]);
        assert_eq!(resume(&aws).await.expect_err("the base has expired").kind, Kind::ExpiredCredentials);
        base("AKID2");
        advance(A_PAUSE).await;
        canned.more([assumed("ASIA2", LATER), granted()]);
        resume(&aws).await.expect("a role again");
        let expected = [("sts", "AKID1"), ("ssm", "ASIA1"), ("sts", "AKID1"), ("sts", "AKID2"), ("ssm", "ASIA2")];
        assert_eq!(asked(&canned), pairs(&expected));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_credential_process_is_asked_anew() {
        let Some(home) = Home::of("a_credential_process_is_asked_anew") else { return };
        let config = Canned::default().config();
        let lookup = Lookup::new(Some("dev"), None, &config);
        home.write(".aws/config", "[profile dev]\ncredential_process = cat \"$HOME/answer\"\n");
        lookup.load().await.expect_err("no file");
        for key in ["AKID1", "AKID2"] {
            let answer = serde_json::json!({ "Version": 1, "AccessKeyId": key, "SecretAccessKey": "SECRET" });
            home.write("answer", &answer.to_string());
            assert_eq!(lookup.load().await.expect(key).access_key_id(), key);
        }
    }

    #[expect(deprecated, reason = "the type's new home is a crate that is otherwise not ours to name")]
    fn profile(name: &str, config_file: &str) -> NamedProfile {
        use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
        let files = ProfileFiles::builder().with_contents(ProfileFileKind::Config, config_file).build();
        let provider = ProfileFileCredentialsProvider::builder().profile_files(files).profile_name(name).build();
        NamedProfile(provider)
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
