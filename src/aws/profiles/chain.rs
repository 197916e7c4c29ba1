//! The chain of a profile: where its first credentials come from, and which roles are assumed with them in turn.
//!
//! Pure: profiles in, a chain out. The rules are those of the AWS CLI and the SDKs: `source_profile` leads on, static
//! keys of a source profile win over its role, and a profile may be its own source for the sake of its keys.

use aws_config::profile::{Profile, ProfileSet};
use aws_credential_types::Credentials;

/// What AssumeRole takes as DurationSeconds, at any role.
const DURATION: std::ops::RangeInclusive<i32> = 900..=43_200;

/// Base credentials, and the roles in the order in which they are assumed: that of the profile comes last.
#[derive(Debug)]
pub(in crate::aws) struct Chain {
    pub(super) base: Base,
    pub(super) links: Vec<Link>,
}

/// Where a chain begins.
#[derive(Debug, Clone)]
pub(super) enum Base {
    /// Keys that stand in a profile.
    Keys(Credentials),
    /// Whatever this profile says; it assumes no role.
    Profile(String),
    /// What `credential_source` names.
    Source(Source),
}

/// A value of `credential_source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Environment,
    Ec2InstanceMetadata,
    EcsContainer,
}

impl Source {
    fn of(name: &str) -> Option<Self> {
        [
            ("Environment", Self::Environment),
            ("Ec2InstanceMetadata", Self::Ec2InstanceMetadata),
            ("EcsContainer", Self::EcsContainer),
        ]
        .into_iter()
        .find_map(|(known, source)| known.eq_ignore_ascii_case(name).then_some(source))
    }
}

/// One role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) profile: String,
    pub(super) role_arn: String,
    pub(super) session_name: Option<String>,
    pub(super) external_id: Option<String>,
    pub(super) mfa_serial: Option<String>,
    /// Seconds.
    pub(super) duration: Option<i32>,
}

/// What is wrong with a chain.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::aws) enum ChainError {
    #[error("the profiles lead in a circle: {}", .0.join(" -> "))]
    Loop(Vec<String>),
    #[error("the profile `{profile}` names the source_profile `{source_profile}`, which does not exist")]
    NoSuchSource { profile: String, source_profile: String },
    #[error("the profile `{0}` has both a source_profile and a credential_source: only one can be meant")]
    TwoSources(String),
    #[error("the profile `{0}` has a role_arn, but neither a source_profile nor a credential_source")]
    NoSource(String),
    #[error("the profile `{0}` is its own source_profile, but has no aws_access_key_id and aws_secret_access_key")]
    NoKeys(String),
    #[error(
        "the profile `{profile}` has the credential_source `{name}`: known are Environment, Ec2InstanceMetadata and \
         EcsContainer"
    )]
    UnknownSource { profile: String, name: String },
    #[error(
        "the profile `{0}` is of a console login (`aws login`), which only the AWS CLI can use: name a profile with \
         `credential_process = aws configure export-credentials --profile {0}`"
    )]
    ConsoleLogin(String),
    #[error("the profile `{profile}` has the duration_seconds `{value}`: expected a number from 900 to 43200")]
    Duration { profile: String, value: String },
}

impl Chain {
    /// The chain of the profile `name`, if one of its roles has what the SDK does not know. `None` if everything can be
    /// left to the SDK, mistakes included.
    pub(in crate::aws) fn of(name: &str, profiles: &ProfileSet) -> Result<Option<Self>, ChainError> {
        let mut ours = false;
        match walk(name, profiles, &mut ours) {
            // The SDK could, but 27 crates for it are too many.
            Ok(Self { base: Base::Profile(name), .. }) if is_console_login(&name, profiles) => {
                Err(ChainError::ConsoleLogin(name))
            }
            _ if !ours => Ok(None),
            Ok(chain) => Ok(Some(chain)),
            Err(error) => Err(error),
        }
    }

    /// The file that holds the web identity that the chain of a profile begins with.
    pub(in crate::aws) fn web_identity_of(name: &str, profiles: &ProfileSet) -> Option<String> {
        match walk(name, profiles, &mut false).ok()?.base {
            Base::Profile(name) => given(profiles.get_profile(&name)?, "web_identity_token_file"),
            _ => None,
        }
    }

    /// Whether one of the roles is assumed with a code.
    pub(in crate::aws) fn has_mfa(&self) -> bool {
        self.links.iter().any(|link| link.mfa_serial.is_some())
    }
}

fn walk(name: &str, profiles: &ProfileSet, ours: &mut bool) -> Result<Chain, ChainError> {
    let mut links: Vec<Link> = Vec::new();
    let mut next = name.to_owned();
    let base = loop {
        let Some(profile) = profiles.get_profile(&next) else {
            let profile = links.last().map_or(name, |link| &link.profile).to_owned();
            return Err(ChainError::NoSuchSource { profile, source_profile: next });
        };
        if links.iter().any(|link| link.profile == next) {
            let around = links.iter().map(|link| link.profile.clone()).skip_while(|visited| *visited != next);
            return Err(ChainError::Loop(around.chain([next.clone()]).collect()));
        }
        if let Some(keys) = keys(profile).filter(|_| !links.is_empty()) {
            break Base::Keys(keys);
        }
        let Some(role_arn) = role_arn(profile) else { break Base::Profile(next) };
        let (mfa_serial, duration) = (given(profile, "mfa_serial"), given(profile, "duration_seconds"));
        *ours |= mfa_serial.is_some() || duration.is_some();
        links.push(Link {
            profile: next.clone(),
            role_arn,
            session_name: given(profile, "role_session_name"),
            external_id: given(profile, "external_id"),
            mfa_serial,
            duration: duration.map(|value| seconds(&next, value)).transpose()?,
        });
        next = match (given(profile, "source_profile"), given(profile, "credential_source")) {
            (Some(_), Some(_)) => return Err(ChainError::TwoSources(next)),
            (None, None) => return Err(ChainError::NoSource(next)),
            (None, Some(name)) => match Source::of(&name) {
                Some(source) => break Base::Source(source),
                None => return Err(ChainError::UnknownSource { profile: next, name }),
            },
            (Some(itself), None) if itself == next => match keys(profile) {
                Some(keys) => break Base::Keys(keys),
                None => return Err(ChainError::NoKeys(next)),
            },
            (Some(source), None) => source,
        };
    };
    links.reverse();
    Ok(Chain { base, links })
}

/// What the SDK would look at before it is none of this.
fn is_console_login(name: &str, profiles: &ProfileSet) -> bool {
    let has = |profile: &Profile, setting| given(profile, setting).is_some();
    profiles.get_profile(name).is_some_and(|profile| {
        has(profile, "login_session") && !has(profile, "web_identity_token_file") && !has(profile, "sso_session")
    })
}

/// With a token file the role is where a chain begins, and the SDK's business.
fn role_arn(profile: &Profile) -> Option<String> {
    given(profile, "role_arn").filter(|_| given(profile, "web_identity_token_file").is_none())
}

fn keys(profile: &Profile) -> Option<Credentials> {
    let (id, secret) = (given(profile, "aws_access_key_id")?, given(profile, "aws_secret_access_key")?);
    Some(Credentials::new(id, secret, given(profile, "aws_session_token"), None, "ProfileFile"))
}

fn given(profile: &Profile, name: &str) -> Option<String> {
    profile.get(name).map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
}

fn seconds(profile: &str, value: String) -> Result<i32, ChainError> {
    let seconds = value.parse().ok().filter(|seconds| DURATION.contains(seconds));
    seconds.ok_or_else(|| ChainError::Duration { profile: profile.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use aws_types::os_shim_internal::{Env, Fs};

    use super::*;

    #[expect(deprecated, reason = "the type's new home is a crate that is otherwise not ours to name")]
    async fn chain(config: &str) -> Result<Option<Chain>, ChainError> {
        use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
        let files = ProfileFiles::builder().with_contents(ProfileFileKind::Config, config).build();
        let profiles = aws_config::profile::load(&Fs::from_slice(&[]), &Env::from_slice(&[]), &files, None).await;
        Chain::of("dev", &profiles.expect("a file that can be parsed"))
    }

    /// A role with MFA and what else is given.
    fn role(name: &str, more: &str) -> String {
        format!("[profile {name}]\nrole_arn = arn:aws:iam::1:role/{name}\nmfa_serial = mfa-{name}\n{more}\n")
    }

    const KEYS: &str = "aws_access_key_id = AKID\naws_secret_access_key = SECRET\n";

    #[tokio::test]
    async fn what_the_sdk_can_do_is_left_to_it() {
        for config in [
            format!("[profile dev]\n{KEYS}"),
            format!("[profile dev]\n{KEYS}mfa_serial = for-other-tools\n"),
            format!("[profile dev]\nrole_arn = r\nsource_profile = base\n[profile base]\n{KEYS}"),
            "[profile dev]\nrole_arn = r\ncredential_source = Environment\nmfa_serial = \n".into(),
            "[profile dev]\nrole_arn = r\nweb_identity_token_file = f\nduration_seconds = 900\n".into(),
            // Mistakes, too.
            "[profile dev]\nrole_arn = r\nsource_profile = dev\n".into(),
            "[profile dev]\nrole_arn = r\nsource_profile = none\n".into(),
            "[profile other]\nregion = x\n".into(),
        ] {
            assert!(matches!(chain(&config).await, Ok(None)), "{config}");
        }
    }

    #[tokio::test]
    async fn roles_are_in_the_order_in_which_they_are_assumed() {
        let config = format!(
            "[profile dev]\nrole_arn = arn:aws:iam::1:role/dev\nsource_profile = middle\nrole_session_name = me\n\
             external_id = x\nduration_seconds = 3600\n{}[profile base]\n{KEYS}aws_session_token = T\n",
            role("middle", "source_profile = base"),
        );
        let Chain { base, links } = chain(&config).await.expect("no mistake").expect("ours");
        assert!(
            matches!(base, Base::Keys(keys) if keys.access_key_id() == "AKID" && keys.session_token() == Some("T"))
        );
        let dev = Link {
            profile: "dev".into(),
            role_arn: "arn:aws:iam::1:role/dev".into(),
            session_name: Some("me".into()),
            external_id: Some("x".into()),
            mfa_serial: None,
            duration: Some(3600),
        };
        assert_eq!(links.last(), Some(&dev));
        assert_eq!((links.len(), links[0].mfa_serial.as_deref()), (2, Some("mfa-middle")));
    }

    #[tokio::test]
    async fn a_chain_begins_where_the_aws_cli_begins_it() {
        let base = async |config: &str| chain(config).await.expect("no mistake").expect("ours").base;
        // Keys of a source profile win over its role; those of the first profile do not.
        let config = role("dev", &format!("source_profile = base\n{KEYS}")) + &role("base", KEYS);
        assert!(matches!(base(&config).await, Base::Keys(_)));
        assert!(matches!(base(&role("dev", &format!("source_profile = dev\n{KEYS}"))).await, Base::Keys(_)));
        for (name, source) in [
            ("Environment", Source::Environment),
            ("ec2instancemetadata", Source::Ec2InstanceMetadata),
            ("EcsContainer", Source::EcsContainer),
        ] {
            let found = base(&role("dev", &format!("credential_source = {name}"))).await;
            assert!(matches!(found, Base::Source(found) if found == source), "{name}");
        }
        for rest in ["sso_session = s", "credential_process = p", "role_arn = r\nweb_identity_token_file = f"] {
            let config = role("dev", "source_profile = base") + "[profile base]\n" + rest;
            assert!(matches!(base(&config).await, Base::Profile(name) if name == "base"), "{rest}");
        }
    }

    #[tokio::test]
    async fn mistakes_name_the_profile() {
        for (config, expected) in [
            (
                role("dev", "source_profile = b") + &role("b", "source_profile = c") + &role("c", "source_profile = b"),
                "b -> c -> b",
            ),
            (role("dev", "source_profile = b") + &role("b", "source_profile = dev"), "dev -> b -> dev"),
            (role("dev", "source_profile = gone"), "`dev` names the source_profile `gone`"),
            (role("dev", "source_profile = b\ncredential_source = Environment"), "both"),
            (role("dev", ""), "neither"),
            (role("dev", "source_profile = dev"), "its own source_profile"),
            (role("dev", "credential_source = Env"), "Ec2InstanceMetadata"),
            ("[profile dev]\nlogin_session = arn\n".into(), "export-credentials --profile dev"),
            (
                role("dev", "source_profile = b") + "[profile b]\nlogin_session = arn\n",
                "export-credentials --profile b",
            ),
            (
                role("dev", "credential_source = Environment\nduration_seconds = 899"),
                "`899`: expected a number from 900",
            ),
            (role("dev", "credential_source = Environment\nduration_seconds = 43201"), "43201"),
            (role("dev", "credential_source = Environment\nduration_seconds = 1h"), "1h"),
        ] {
            let error = chain(&config).await.expect_err(&config).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
