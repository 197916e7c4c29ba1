//! Assuming the roles of a chain: AssumeRole, codes asked for, and what the AWS CLI keeps.

use std::{
    error::Error,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use aws_config::{SdkConfig, identity::IdentityCache};
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError},
};
use aws_sdk_sts::{
    config::Builder,
    error::{ProvideErrorMetadata, SdkError},
    operation::assume_role::{AssumeRoleError, AssumeRoleOutput},
};

use super::{
    cache,
    chain::{Chain, Link},
    mfa::{MfaCode, MfaRequest, NoCode, SharedMfaPrompt},
};
use crate::aws::credentials::AsksPerson;

/// Codes that a person may enter for one role. STS locks a device after too many wrong ones.
const TRIES: u32 = 3;

/// What STS says of a code that is wrong, or that was used before.
const WRONG_CODE: &str = "invalid MFA one time pass code";

/// Why a role was not assumed.
#[derive(Debug, thiserror::Error)]
pub(in crate::aws) enum RoleError {
    #[error("the profile `{profile}` needs a code of the MFA device {serial}")]
    NeedsCode {
        profile: String,
        serial: String,
        #[source]
        why: NoCode,
    },
    #[error("the MFA device {serial} of the profile `{profile}` was not accepted: {said}")]
    WrongCode { profile: String, serial: String, said: String },
    #[error("the role {role_arn} of the profile `{profile}` was not assumed: {said}")]
    Refused { profile: String, role_arn: String, said: String },
    #[error("the role {role_arn} of the profile `{profile}` could not be assumed")]
    Unanswered {
        profile: String,
        role_arn: String,
        #[source]
        why: Box<dyn Error + Send + Sync>,
    },
    #[error("the answer for the role {role_arn} has no credentials")]
    NoAnswer { role_arn: String },
}

/// Assumes roles; remembers what it gave out last.
#[derive(Debug)]
pub(in crate::aws) struct Roles {
    prompt: Option<SharedMfaPrompt>,
    folder: Option<PathBuf>,
    /// The key of the last credentials that a code was needed for. Who asks again does so because they were refused or
    /// have expired: a file with the same ones is no use.
    given: Mutex<Option<String>>,
}

impl Roles {
    pub(in crate::aws) fn new(prompt: Option<SharedMfaPrompt>) -> Arc<Self> {
        Arc::new(Self { prompt, folder: cache::folder(), given: Mutex::default() })
    }

    /// The credentials of the last role of a chain. `base` gives those that it begins with, if they are needed.
    pub(in crate::aws) async fn assume(
        &self,
        chain: &Chain,
        config: &SdkConfig,
        base: &dyn ProvideCredentials,
    ) -> provider::Result {
        match self.walk(chain, config, base, true).await {
            // What a file held is no longer accepted.
            Err(Failure::Stale) => self.walk(chain, config, base, false).await,
            other => other,
        }
        .map_err(|failure| match failure {
            Failure::Base(error) => error,
            Failure::Role(error) => CredentialsError::provider_error(error),
            Failure::Stale => CredentialsError::not_loaded_no_source(), // only with files
        })
    }

    /// Whether the roles can only be had with a code from a person.
    pub(in crate::aws) async fn asks(&self, chain: &Chain, now: SystemTime) -> bool {
        chain.has_mfa() && self.cached(chain, now).await.is_none()
    }

    /// The role nearest to the end of a chain whose credentials are in a file, with its place.
    async fn cached(&self, chain: &Chain, now: SystemTime) -> Option<(usize, Credentials)> {
        let folder = self.folder.clone()?;
        let links: Vec<_> =
            chain.links.iter().cloned().enumerate().filter(|(_, link)| link.mfa_serial.is_some()).collect();
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let find = move || {
            links.into_iter().rev().find_map(|(at, link)| {
                let found = cache::read(&folder, &link, now)?;
                (given.as_deref() != Some(found.access_key_id())).then_some((at, found))
            })
        };
        tokio::task::spawn_blocking(find).await.ok()?
    }

    async fn walk(
        &self,
        chain: &Chain,
        config: &SdkConfig,
        base: &dyn ProvideCredentials,
        files: bool,
    ) -> Result<Credentials, Failure> {
        let now = config.time_source().unwrap_or_default().now();
        let cached = if files { self.cached(chain, now).await } else { None };
        let from_file = cached.as_ref().map(|(at, _)| *at);
        let first = from_file.map_or(0, |at| at + 1);
        let mut asks = None;
        let mut credentials = match cached {
            Some((at, credentials)) => {
                asks = chain.links.get(at).and_then(|link| asks_from(link, &credentials));
                credentials
            }
            None => base.provide_credentials().await.map_err(Failure::Base)?,
        };
        for (at, link) in chain.links.iter().enumerate().skip(first) {
            credentials = match self.role(link, config, credentials).await {
                Err(RoleError::Refused { said, .. }) if from_file.is_some() && at == first && is_stale(&said) => {
                    return Err(Failure::Stale);
                }
                other => other.map_err(Failure::Role)?,
            };
            asks = [asks, asks_from(link, &credentials)].into_iter().flatten().min();
        }
        if let Some(link) = chain.links.last().filter(|link| link.mfa_serial.is_some()) {
            tracing::debug!(profile = link.profile, from_file = from_file.is_some(), "a role with MFA");
            asks = Some(SystemTime::UNIX_EPOCH);
            let key = credentials.access_key_id().to_owned();
            *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        }
        if let Some(from) = asks {
            credentials.set_property(AsksPerson { from });
        }
        Ok(credentials)
    }

    /// One role, assumed with the credentials of the one before.
    async fn role(&self, link: &Link, config: &SdkConfig, with: Credentials) -> Result<Credentials, RoleError> {
        let config = Builder::from(config)
            .credentials_provider(SharedCredentialsProvider::new(with))
            .identity_cache(IdentityCache::no_cache())
            .timeout_config(crate::aws::timeouts());
        let sts = aws_sdk_sts::Client::from_conf(config.build());
        let started = sts.config().time_source().map_or(SystemTime::UNIX_EPOCH, |time| time.now());
        let session_name = link.session_name.clone().unwrap_or_else(|| {
            let seconds = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            format!("ssmfwd-{seconds}")
        });
        let call = sts
            .assume_role()
            .role_arn(&link.role_arn)
            .role_session_name(session_name)
            .set_external_id(link.external_id.clone())
            .set_duration_seconds(link.duration)
            .set_serial_number(link.mfa_serial.clone());
        let mut refused = None;
        for _ in 0..TRIES {
            let code = match &link.mfa_serial {
                Some(serial) => Some(self.code(link, serial, refused.take()).await?),
                None => None,
            };
            match call.clone().set_token_code(code.as_ref().map(|code| code.reveal().to_owned())).send().await {
                Ok(answer) => return self.keep(link, answer).await,
                Err(error) => match failure(link, error) {
                    RoleError::WrongCode { said, .. } if said.contains(WRONG_CODE) => refused = Some(said),
                    error => return Err(error),
                },
            }
        }
        let serial = link.mfa_serial.clone().unwrap_or_default();
        Err(RoleError::WrongCode { profile: link.profile.clone(), serial, said: refused.unwrap_or_default() })
    }

    async fn code(&self, link: &Link, serial: &str, refused: Option<String>) -> Result<MfaCode, RoleError> {
        let request = MfaRequest { refused, ..MfaRequest::new(&link.profile, serial, &link.role_arn) };
        let asked = match &self.prompt {
            Some(prompt) => prompt.code(&request).await,
            None => Err(NoCode::NoTerminal),
        };
        asked.map_err(|why| {
            let MfaRequest { profile, serial, refused, .. } = request;
            match refused {
                Some(said) => RoleError::WrongCode { profile, serial, said },
                None => RoleError::NeedsCode { profile, serial, why },
            }
        })
    }

    /// The credentials of an answer; those of a role with MFA are kept for the next program too.
    async fn keep(&self, link: &Link, answer: AssumeRoleOutput) -> Result<Credentials, RoleError> {
        let no_answer = || RoleError::NoAnswer { role_arn: link.role_arn.clone() };
        let given = answer.credentials.ok_or_else(no_answer)?;
        let expiry = SystemTime::try_from(given.expiration).map_err(|_| no_answer())?;
        let token = Some(given.session_token);
        let credentials =
            Credentials::new(given.access_key_id, given.secret_access_key, token, Some(expiry), "AssumeRole");
        if let Some(folder) = self.folder.clone().filter(|_| link.mfa_serial.is_some()) {
            let (link, kept) = (link.clone(), credentials.clone());
            let (id, arn) = answer.assumed_role_user.map(|user| (user.assumed_role_id, user.arn)).unwrap_or_default();
            let write = move || cache::write(&folder, &link, &kept, (&id, &arn));
            if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
                tracing::warn!(%error, "the credentials of the role could not be kept for the next start");
            }
        }
        Ok(credentials)
    }
}

/// Why a walk along a chain stopped.
enum Failure {
    Base(CredentialsError),
    Role(RoleError),
    /// Credentials from a file are not accepted.
    Stale,
}

/// From when on a person is asked for these credentials once more.
fn asks_from(link: &Link, credentials: &Credentials) -> Option<SystemTime> {
    link.mfa_serial.as_ref()?;
    credentials.expiry().and_then(|expiry| expiry.checked_sub(cache::MIN_LEFT))
}

fn is_stale(said: &str) -> bool {
    ["ExpiredToken", "InvalidClientTokenId", "UnrecognizedClient"].iter().any(|code| said.contains(code))
}

/// A failure of AssumeRole. The SDK's own error is taken apart: what it shows can hold answers.
fn failure(link: &Link, error: SdkError<AssumeRoleError>) -> RoleError {
    let (profile, role_arn) = (link.profile.clone(), link.role_arn.clone());
    if let SdkError::ServiceError(refusal) = &error {
        let code = refusal.err().code().unwrap_or_default();
        let said = refusal.err().message().unwrap_or_default().trim().trim_end_matches('.').to_owned();
        return match &link.mfa_serial {
            Some(serial) if said.contains("MultiFactorAuthentication failed") => {
                RoleError::WrongCode { profile, serial: serial.clone(), said }
            }
            _ => RoleError::Refused { profile, role_arn, said: format!("{said} ({code})") },
        };
    }
    match error.into_source() {
        Ok(why) => RoleError::Unanswered { profile, role_arn, why },
        Err(_) => RoleError::NoAnswer { role_arn },
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, path::Path, time::Duration};

    use super::*;
    use crate::{
        aws::{
            MfaPrompt,
            canned::{Answer, Canned, DATE, seconds},
            profiles::chain::Base,
        },
        session::BoxFuture,
    };

    /// 2023-11-14T23:13:20Z, an hour after [`DATE`].
    const HOUR: u64 = DATE + 3600;

    /// Gives these codes, and remembers what it was asked.
    #[derive(Debug, Clone, Default)]
    struct Person(Arc<Mutex<(VecDeque<&'static str>, Vec<MfaRequest>)>>);

    impl Person {
        fn with(codes: &[&'static str]) -> Self {
            Self(Arc::new(Mutex::new((codes.iter().copied().collect(), Vec::new()))))
        }

        fn asked(&self) -> Vec<MfaRequest> {
            self.0.lock().expect("no panic").1.clone()
        }
    }

    impl MfaPrompt for Person {
        fn code<'a>(&'a self, request: &'a MfaRequest) -> BoxFuture<'a, Result<MfaCode, NoCode>> {
            let mut person = self.0.lock().expect("no panic");
            person.1.push(request.clone());
            let code = person.0.pop_front().and_then(MfaCode::parse).ok_or(NoCode::Cancelled);
            Box::pin(async { code })
        }
    }

    fn roles(person: &Person, folder: &Path) -> Roles {
        let prompt = Some(SharedMfaPrompt::new(person.clone()));
        Roles { prompt, folder: Some(folder.to_owned()), given: Mutex::default() }
    }

    fn link(profile: &str, mfa: bool) -> Link {
        Link {
            profile: profile.into(),
            role_arn: format!("arn:aws:iam::1:role/{profile}"),
            session_name: None,
            external_id: None,
            mfa_serial: mfa.then(|| "arn:aws:iam::1:mfa/alice".into()),
            duration: None,
        }
    }

    fn chain(links: Vec<Link>) -> Chain {
        Chain { base: Base::Profile("base".into()), links }
    }

    fn base() -> Credentials {
        Credentials::new("BASE", "SECRET", None, None, "test")
    }

    fn assumed(key: &str) -> Answer {
        Answer::json(
            200,
            format!(
                "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
                 <AssumedRoleUser><AssumedRoleId>A:x</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/r/x</Arn>\
                 </AssumedRoleUser><Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>SECRET</SecretAccessKey>\
                 <SessionToken>TOKEN</SessionToken><Expiration>2023-11-14T23:13:20Z</Expiration></Credentials>\
                 </AssumeRoleResult></AssumeRoleResponse>"
            ),
        )
    }

    fn refused(code: &str, message: &str) -> Answer {
        let error = format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>");
        Answer::json(403, format!("<ErrorResponse>{error}</ErrorResponse>"))
    }

    fn wrong_code() -> Answer {
        refused("AccessDenied", "MultiFactorAuthentication failed with invalid MFA one time pass code. ")
    }

    /// Whose keys signed, and what was asked for.
    fn asked(canned: &Canned) -> Vec<(String, String)> {
        let who = |authorization: &str| authorization.split(['=', '/']).nth(1).unwrap_or_default().to_owned();
        canned.asked().into_iter().map(|asked| (who(&asked.authorization), asked.body)).collect()
    }

    #[tokio::test]
    async fn a_role_is_asked_for_as_the_profile_says() {
        let (folder, person) = (tempfile::tempdir().expect("a folder"), Person::with(&["123456"]));
        let canned = Canned::new([assumed("ROLE")]);
        let link = Link { external_id: Some("x".into()), duration: Some(7200), ..link("dev", true) };
        let credentials = roles(&person, folder.path()).assume(&chain(vec![link]), &canned.config(), &base()).await;
        let credentials = credentials.expect("a role");
        assert_eq!((credentials.access_key_id(), credentials.expiry()), ("ROLE", Some(seconds(HOUR))));
        let (who, form) = asked(&canned).remove(0);
        assert_eq!(who, "BASE");
        for member in [
            "Action=AssumeRole",
            "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fdev",
            "RoleSessionName=ssmfwd-1700000000",
            "ExternalId=x",
            "DurationSeconds=7200",
            "SerialNumber=arn%3Aaws%3Aiam%3A%3A1%3Amfa%2Falice",
            "TokenCode=123456",
        ] {
            assert!(form.contains(member), "{member}: {form}");
        }
        let request = MfaRequest::new("dev", "arn:aws:iam::1:mfa/alice", "arn:aws:iam::1:role/dev");
        assert_eq!(person.asked(), [request]);
    }

    #[tokio::test]
    async fn wrong_codes_are_told_and_asked_for_again_but_not_for_ever() {
        let (folder, person) = (tempfile::tempdir().expect("a folder"), Person::with(&["000000", "123456"]));
        let canned = Canned::new([wrong_code(), assumed("ROLE")]);
        let chain = chain(vec![link("dev", true)]);
        roles(&person, folder.path()).assume(&chain, &canned.config(), &base()).await.expect("at the second try");
        let asked = person.asked();
        assert!(
            asked[0].refused.is_none() && asked[1].refused.as_deref().is_some_and(|said| said.contains(WRONG_CODE))
        );

        let folder = tempfile::tempdir().expect("a folder");
        let person = Person::with(&["000000"; 9]);
        let canned = Canned::new((0..9).map(|_| wrong_code()));
        let error = roles(&person, folder.path()).assume(&chain, &canned.config(), &base()).await.expect_err("wrong");
        assert_eq!(person.asked().len(), TRIES as usize);
        assert!(!format!("{error:?}").contains("000000"), "{error:?}");

        // A device that is not this user's is not worth a second code.
        let person = Person::with(&["123456"; 9]);
        let canned = Canned::new([refused("AccessDenied", "MultiFactorAuthentication failed, unable to validate")]);
        roles(&person, folder.path()).assume(&chain, &canned.config(), &base()).await.expect_err("no such device");
        assert_eq!(person.asked().len(), 1);
    }

    #[tokio::test]
    async fn what_was_kept_is_used_until_it_is_not_accepted() {
        let folder = tempfile::tempdir().expect("a folder");
        let both = chain(vec![link("middle", true), link("dev", false)]);
        let person = Person::with(&["123456", "234567"]);
        let canned = Canned::new([assumed("MIDDLE1"), assumed("DEV1"), assumed("DEV2")]);
        let roles = roles(&person, folder.path());
        assert!(roles.asks(&both, seconds(DATE)).await);
        for key in ["DEV1", "DEV2"] {
            let credentials = roles.assume(&both, &canned.config(), &base()).await.expect(key);
            assert_eq!(credentials.access_key_id(), key);
            // The last role alone costs no code.
            let from = seconds(HOUR) - cache::MIN_LEFT;
            assert_eq!(credentials.get_property::<AsksPerson>(), Some(&AsksPerson { from }));
        }
        assert!(!roles.asks(&both, seconds(DATE)).await);
        assert_eq!(person.asked().len(), 1);

        canned.more([refused("ExpiredToken", "revoked"), assumed("MIDDLE2"), assumed("DEV3")]);
        roles.assume(&both, &canned.config(), &base()).await.expect("with another code");
        let signed: Vec<_> = asked(&canned).into_iter().map(|(who, _)| who).collect();
        assert_eq!(signed, ["BASE", "MIDDLE1", "MIDDLE1", "MIDDLE1", "BASE", "MIDDLE2"]);
        assert_eq!(person.asked().len(), 2);
    }

    #[tokio::test]
    async fn who_asks_again_does_not_get_the_same_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let dev = chain(vec![link("dev", true)]);
        let person = Person::with(&["123456", "234567"]);
        let canned = Canned::new([assumed("DEV1"), assumed("DEV2")]);
        let tunnel = roles(&person, folder.path());
        for key in ["DEV1", "DEV2"] {
            let credentials = tunnel.assume(&dev, &canned.config(), &base()).await.expect(key);
            assert_eq!(credentials.access_key_id(), key);
            let always = AsksPerson { from: SystemTime::UNIX_EPOCH };
            assert_eq!(credentials.get_property::<AsksPerson>(), Some(&always));
        }
        // Another program takes what is there, for as long as it lasts.
        let other = roles(&Person::default(), folder.path());
        let found = other.assume(&dev, &canned.config(), &base()).await.expect("kept");
        assert_eq!(found.access_key_id(), "DEV2");
        let soon = seconds(HOUR) - cache::MIN_LEFT + Duration::from_secs(1);
        assert!(other.asks(&dev, soon).await);
    }

    #[tokio::test]
    async fn a_role_without_a_device_is_not_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let canned = Canned::new([assumed("DEV")]);
        let dev = chain(vec![Link { duration: Some(900), ..link("dev", false) }]);
        let credentials = roles(&Person::default(), folder.path()).assume(&dev, &canned.config(), &base()).await;
        assert_eq!(credentials.expect("a role").get_property::<AsksPerson>(), None);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_costs_nothing_but_the_next_question() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a file");
        std::fs::write(&file, "").expect("a file");
        let canned = Canned::new([assumed("DEV")]);
        let person = Person::with(&["123456"]);
        let dev = chain(vec![link("dev", true)]);
        roles(&person, &file.join("cache")).assume(&dev, &canned.config(), &base()).await.expect("a role");
    }
}
