//! Whose signature a request bears: the configured identity, or temporary credentials that were issued here.
//!
//! ```text
//! STS, SSO portal ── issue(arn, lifetime) ──▶ Identities ◀── authenticate(request) ── every signed call, the upgrade
//! ```

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Credentials,
    clock::Moment,
    service::Service,
    sigv4::{self, Plus, Rejection, SignedRequest, Verifier},
};

/// Issued credentials that are remembered; the oldest are forgotten.
const MAX_ISSUED: usize = 1024;

/// The one region that STS takes signatures of beside its own: that of its global endpoint.
const STS_GLOBAL: &str = "us-east-1";

const CAPITALS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Temporary credentials as a service hands them out.
#[derive(Debug, Clone)]
pub(super) struct Issued {
    pub(super) credentials: Credentials,
    /// Whom they make their bearer.
    pub(super) arn: String,
    pub(super) expires: Moment,
}

/// Who made a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) arn: String,
}

impl Caller {
    /// The account's number.
    pub(super) fn account(&self) -> &str {
        self.arn.split(':').nth(4).unwrap_or_default()
    }

    /// What a trust policy calls it: of somebody in a role, the role.
    pub(super) fn principal(&self) -> String {
        let mut parts = self.arn.splitn(6, ':');
        let role = parts.nth(5).and_then(|resource| resource.strip_prefix("assumed-role/"));
        match role.and_then(|role| role.split('/').next()) {
            Some(role) => format!("arn:aws:iam::{}:role/{role}", self.account()),
            None => self.arn.clone(),
        }
    }

    /// The unique id: made up, but always the same for the same user or role.
    pub(super) fn user_id(&self) -> String {
        let digits = sigv4::hex_sha256(self.principal().as_bytes()).to_ascii_uppercase();
        let id = digits.get(..17).unwrap_or_default();
        match self.arn.split_once(":assumed-role/").and_then(|(_, rest)| rest.split_once('/')) {
            Some((_, session)) => format!("AROA{id}:{session}"),
            None => format!("AIDA{id}"),
        }
    }
}

/// The credentials that were issued and not forgotten.
pub(super) struct Identities(Mutex<Issues>);

struct Issues {
    issued: VecDeque<Issued>,
    /// One of its own: when who asks STS must not change what happens to sessions under the same seed.
    rng: fastrand::Rng,
}

/// Shows no credentials.
impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("issued", &self.issues().issued.len()).finish()
    }
}

impl Identities {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(Issues { issued: VecDeque::new(), rng: fastrand::Rng::with_seed(!seed) }))
    }

    fn issues(&self) -> MutexGuard<'_, Issues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A random identity of an answer.
    pub(super) fn request_id(&self) -> String {
        uuid::Builder::from_random_bytes(self.issues().rng.u128(..).to_be_bytes()).into_uuid().to_string()
    }

    fn find(&self, access_key_id: &str) -> Option<Issued> {
        self.issues().issued.iter().find(|issued| issued.credentials.access_key_id == access_key_id).cloned()
    }
}

impl Service {
    /// Temporary credentials for `arn`, which [`authenticate`](Self::authenticate) knows from now on and accepts for so
    /// long. `arn` is that of a session, such as `arn:aws:sts::123456789012:assumed-role/Dev/alice`.
    pub(super) fn issue(&self, arn: &str, lifetime: Duration) -> Issued {
        let mut issues = self.identities().issues();
        let mut random = |alphabet: &[u8], length: usize| -> String {
            (0..length).map(|_| char::from(*issues.rng.choice(alphabet).unwrap_or(&b'A'))).collect()
        };
        let credentials = Credentials {
            access_key_id: format!("ASIA{}", random(CAPITALS, 16)),
            secret_access_key: random(BASE64, 40),
            session_token: Some(format!("IQoJb3JpZ2luX2Vj{}=", random(BASE64, 315))),
        };
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let expires = Moment::now(self.config().clock_skew).plus(seconds);
        let issued = Issued { credentials, arn: arn.to_owned(), expires };
        if issues.issued.len() >= MAX_ISSUED {
            issues.issued.pop_front();
        }
        issues.issued.push_back(issued.clone());
        issued
    }

    /// Checks the signature of a request to `service`, such as `ssm`, and says whose it is. The configured credentials
    /// never expire here; [`expired_credentials`](super::EmulatorConfig::expired_credentials) is the caller's to obey.
    pub(super) fn authenticate(
        &self,
        request: &SignedRequest<'_>,
        service: &str,
        plus: Plus,
    ) -> Result<Caller, Rejection> {
        let config = self.config();
        let now = Moment::now(config.clock_skew);
        let (key, region) = sigv4::claimed(request.headers).unwrap_or_default();
        let issued = self.identities().find(key);
        let credentials = issued.as_ref().map_or(&config.credentials, |issued| &issued.credentials);
        let region = if service == "sts" && region == STS_GLOBAL { STS_GLOBAL } else { &config.region };
        Verifier { credentials, region, service, plus, now }.verify(request)?;
        match issued {
            Some(issued) if issued.expires <= now => Err(Rejection::Expired),
            Some(issued) => Ok(Caller { arn: issued.arn }),
            None => Ok(Caller { arn: config.identity.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(arn: &str) -> Caller {
        Caller { arn: arn.into() }
    }

    #[test]
    fn a_session_of_a_role_is_the_role_to_a_policy() {
        let session = caller("arn:aws:sts::111122223333:assumed-role/Dev/alice");
        assert_eq!(
            (session.account(), &session.principal()[..]),
            ("111122223333", "arn:aws:iam::111122223333:role/Dev")
        );
        assert!(session.user_id().starts_with("AROA") && session.user_id().ends_with(":alice"));
        let user = caller("arn:aws:iam::111122223333:user/alice");
        assert_eq!((&user.principal(), user.user_id().len()), (&user.arn, 21));
        assert_eq!((caller("nonsense").account(), &caller("nonsense").principal()[..]), ("", "nonsense"));
    }

    #[test]
    fn secrets_stay_out_of_debug() {
        let identities = Identities::new(0);
        let credentials = Credentials::default();
        let secret = credentials.secret_access_key.clone();
        let issued = Issued { credentials, arn: "arn".into(), expires: Moment(0) };
        assert!(!format!("{issued:?}").contains(&secret));
        identities.issues().issued.push_back(issued);
        assert!(!format!("{identities:?}").contains(&secret));
    }
}
