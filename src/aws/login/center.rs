//! Which IAM Identity Center a profile or a session means: what the configuration files say.

use aws_config::profile::{Profile, ProfileFileLoadError, ProfileSet};
use url::Url;

use super::LoginError;
use crate::aws::partition;

/// What a registration asks for unless the session says something else; it brings a refresh token.
const DEFAULT_SCOPE: &str = "sso:account:access";

/// Profiles behind profiles that are followed: a longer chain is a circle.
const CHAIN_MAX: usize = 16;

/// Which login is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// That of a section `[sso-session NAME]`.
    Session(String),
    /// That of a profile, or of one that its role is assumed from.
    Profile(String),
    /// That of the default profile, or the only session there is.
    Any,
}

/// An IAM Identity Center, and who asks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Center {
    /// The name of the `sso-session`. `None`: the profile has the older form, without one.
    pub(super) session: Option<String>,
    pub(super) start_url: String,
    pub(super) region: String,
    /// As configured; empty if nothing is.
    pub(super) scopes: Vec<String>,
    /// Whose settings count besides: endpoints.
    pub(super) profile: Option<String>,
}

impl Center {
    /// Reads the configuration files.
    ///
    /// # Errors
    /// [`Configuration`](LoginError::Configuration), with what to write where.
    pub(crate) async fn find(which: &Which) -> Result<Self, LoginError> {
        Self::within(which, crate::aws::profiles().await)
    }

    fn within(which: &Which, profiles: Result<ProfileSet, ProfileFileLoadError>) -> Result<Self, LoginError> {
        let profiles = profiles.map_err(|error| LoginError::Configuration {
            message: format!("the AWS configuration files cannot be read: {}", with_causes(&error)),
            remedy: "correct the file, ~/.aws/config unless AWS_CONFIG_FILE names another".to_owned(),
        })?;
        let files = Files(&profiles);
        match which {
            Which::Session(name) => files.session(name, None),
            Which::Profile(name) => files.profile(name),
            Which::Any => match (files.has_login("default"), &files.sessions()[..]) {
                (false, [only]) => files.session(only, None),
                _ => files.profile("default"),
            },
        }
    }

    /// The name of the session, or where it has none its address: for people.
    pub(crate) fn name(&self) -> &str {
        self.session.as_ref().unwrap_or(&self.start_url)
    }

    /// The name of the `sso-session`, if there is one.
    pub(crate) fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// The address of the portal.
    pub(crate) fn start_url(&self) -> &str {
        &self.start_url
    }

    /// Where it is, such as `eu-west-1`.
    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// One as tests need it.
    #[cfg(test)]
    pub(crate) fn for_test(session: Option<&str>) -> Self {
        Self {
            session: session.map(str::to_owned),
            start_url: "https://d-0123456789.awsapps.com/start".to_owned(),
            region: "eu-west-1".to_owned(),
            scopes: Vec::new(),
            profile: None,
        }
    }

    /// The scopes of a registration that can be renewed.
    pub(super) fn scopes(&self) -> Vec<String> {
        if self.scopes.is_empty() { vec![DEFAULT_SCOPE.to_owned()] } else { self.scopes.clone() }
    }
}

/// The configuration files together.
struct Files<'a>(&'a ProfileSet);

impl Files<'_> {
    fn sessions(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.0.sso_sessions().collect();
        names.sort_unstable();
        names
    }

    fn get<'a>(profile: &'a Profile, key: &str) -> Option<&'a str> {
        profile.get(key).map(str::trim).filter(|value| !value.is_empty())
    }

    fn has_login(&self, profile: &str) -> bool {
        let profile = self.0.get_profile(profile);
        profile
            .is_some_and(|profile| ["sso_session", "sso_start_url"].iter().any(|key| Self::get(profile, key).is_some()))
    }

    /// The login of a profile. A role is assumed with the credentials of another profile, whose login it then is.
    fn profile(&self, name: &str) -> Result<Center, LoginError> {
        let mut at = name;
        for _ in 0..CHAIN_MAX {
            let Some(profile) = self.0.get_profile(at) else {
                return Err(LoginError::Configuration {
                    message: format!("there is no profile `{at}` in the AWS configuration files"),
                    remedy: self.advice(at),
                });
            };
            if let Some(session) = Self::get(profile, "sso_session") {
                if let Some(key) =
                    ["sso_start_url", "sso_region"].into_iter().find(|key| Self::get(profile, key).is_some())
                {
                    return Err(LoginError::Configuration {
                        message: format!(
                            "the profile {at} has both sso_session and {key}, which belongs to the session"
                        ),
                        remedy: format!(
                            "remove sso_start_url and sso_region from the profile {at}: they are read from \
                             [sso-session {session}]"
                        ),
                    });
                }
                return self.session(session, Some(at));
            }
            if let Some(start_url) = Self::get(profile, "sso_start_url") {
                let Some(region) = Self::get(profile, "sso_region") else {
                    return Err(lacks(&format!("the profile {at}"), "sso_region"));
                };
                return center(None, start_url, region, Vec::new(), Some(at));
            }
            match Self::get(profile, "source_profile").filter(|source| *source != at) {
                Some(source) => at = source,
                None => break,
            }
        }
        let through =
            if at == name { String::new() } else { format!(", nor does {at}, which its role is assumed from") };
        Err(LoginError::Configuration {
            message: format!("the profile {name} does not log in through IAM Identity Center{through}"),
            remedy: self.advice(at),
        })
    }

    fn session(&self, name: &str, profile: Option<&str>) -> Result<Center, LoginError> {
        let Some(session) = self.0.sso_session(name) else {
            let named_by = profile.map_or_else(String::new, |profile| format!("; the profile {profile} names it"));
            return Err(LoginError::Configuration {
                message: format!("there is no section [sso-session {name}] in the AWS configuration file{named_by}"),
                remedy: match &self.sessions()[..] {
                    [] => format!("add a section [sso-session {name}] with the keys sso_start_url and sso_region"),
                    names => format!(
                        "add a section [sso-session {name}] with the keys sso_start_url and sso_region; there is: {}",
                        names.join(", ")
                    ),
                },
            });
        };
        let get = |key| session.get(key).map(str::trim).filter(|value| !value.is_empty());
        let required = |key| get(key).ok_or_else(|| lacks(&format!("the section [sso-session {name}]"), key));
        let (start_url, region) = (required("sso_start_url")?, required("sso_region")?);
        let scopes = get("sso_registration_scopes").unwrap_or_default().split(',').map(str::trim);
        let scopes = scopes.filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
        center(Some(name), start_url, region, scopes, profile)
    }

    /// What to write so that a profile logs in.
    fn advice(&self, profile: &str) -> String {
        match &self.sessions()[..] {
            [] => format!(
                "add to the AWS configuration file a section [sso-session NAME] with the keys sso_start_url and \
                 sso_region, and to the profile {profile} the keys sso_session = NAME, sso_account_id and sso_role_name"
            ),
            names => format!(
                "log in to a session by its name, --sso-session {}, or add to the profile {profile} the keys \
                 sso_session, sso_account_id and sso_role_name",
                names.join(" or ")
            ),
        }
    }
}

fn lacks(section: &str, key: &str) -> LoginError {
    let example = match key {
        "sso_region" => "sso_region = eu-west-1",
        _ => "sso_start_url = https://d-0123456789.awsapps.com/start",
    };
    LoginError::Configuration {
        message: format!("{section} has no {key}"),
        remedy: format!("add the line `{example}` to it, with the value of your IAM Identity Center"),
    }
}

fn center(
    session: Option<&str>,
    start_url: &str,
    region: &str,
    scopes: Vec<String>,
    profile: Option<&str>,
) -> Result<Center, LoginError> {
    let wrong = |message: String, remedy: &str| LoginError::Configuration { message, remedy: remedy.to_owned() };
    if !partition::is_label(region) {
        let message = format!("sso_region is `{region}`, which is not the name of a region");
        return Err(wrong(message, "write the region of your IAM Identity Center, as in sso_region = eu-west-1"));
    }
    if !Url::parse(start_url).is_ok_and(|url| ["https", "http"].contains(&url.scheme()) && url.has_host()) {
        let message = format!("sso_start_url is `{start_url}`, which is not an https address");
        return Err(wrong(
            message,
            "write the address of your access portal, as in https://d-0123456789.awsapps.com/start",
        ));
    }
    Ok(Center {
        session: session.map(str::to_owned),
        start_url: start_url.to_owned(),
        region: region.to_owned(),
        scopes,
        profile: profile.map(str::to_owned),
    })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use aws_types::os_shim_internal::{Env, Fs};

    use super::*;

    #[expect(deprecated, reason = "the type's new home is a crate that is otherwise not ours to name")]
    async fn find(which: Which, contents: &str) -> Result<Center, String> {
        use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
        let files = ProfileFiles::builder().with_contents(ProfileFileKind::Config, contents).build();
        let profiles = aws_config::profile::load(&Fs::from_slice(&[]), &Env::from_slice(&[]), &files, None).await;
        Center::within(&which, profiles).map_err(|error| match error {
            LoginError::Configuration { message, remedy } => format!("{message} / {remedy}"),
            other => panic!("{other:?}"),
        })
    }

    fn profile(name: &str) -> Which {
        Which::Profile(name.to_owned())
    }

    const CONFIG: &str = "\
        [profile dev]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = ops\n\
        [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp.awsapps.com/start\n\
        sso_registration_scopes = sso:account:access, other:scope\n\
        [profile old]\nsso_region = us-east-1\nsso_start_url = https://old.awsapps.com/start\n\
        [profile role]\nrole_arn = arn:aws:iam::111122223333:role/x\nsource_profile = dev\n\
        [profile keys]\naws_access_key_id = A\naws_secret_access_key = B\n\
        [profile circle]\nsource_profile = round\n[profile round]\nsource_profile = circle\n\
        [profile both]\nsso_session = corp\nsso_start_url = https://corp.awsapps.com/start\n\
        [profile lost]\nsso_session = nowhere\n";

    #[tokio::test]
    async fn profiles_and_sessions_lead_to_their_center() {
        for (which, session, start_url, region) in [
            (profile("dev"), Some("corp"), "https://corp.awsapps.com/start", "eu-west-1"),
            (profile("role"), Some("corp"), "https://corp.awsapps.com/start", "eu-west-1"),
            (Which::Session("corp".to_owned()), Some("corp"), "https://corp.awsapps.com/start", "eu-west-1"),
            (Which::Any, Some("corp"), "https://corp.awsapps.com/start", "eu-west-1"),
            (profile("old"), None, "https://old.awsapps.com/start", "us-east-1"),
        ] {
            let center = find(which, CONFIG).await.expect("a center");
            assert_eq!((center.session(), center.start_url(), center.region()), (session, start_url, region));
        }
        let scopes = find(profile("dev"), CONFIG).await.expect("a center").scopes();
        assert_eq!(scopes, ["sso:account:access", "other:scope"]);
        assert_eq!(find(profile("old"), CONFIG).await.expect("a center").scopes(), ["sso:account:access"]);
    }

    #[tokio::test]
    async fn what_is_missing_is_named_with_the_keys_to_add() {
        for (which, contents, expected) in [
            (
                profile("keys"),
                CONFIG,
                "the profile keys does not log in through IAM Identity Center / log in to a session",
            ),
            (
                profile("keys"),
                "[profile keys]\nregion = x\n",
                "add to the AWS configuration file a section [sso-session NAME]",
            ),
            (profile("none"), CONFIG, "there is no profile `none`"),
            (profile("circle"), CONFIG, "the profile circle does not log in"),
            (profile("both"), CONFIG, "the profile both has both sso_session and sso_start_url"),
            (profile("both"), CONFIG, "remove sso_start_url and sso_region from the profile both"),
            (profile("lost"), CONFIG, "the AWS configuration file; the profile lost names it"),
            (Which::Session("x".to_owned()), CONFIG, "; there is: corp"),
            (
                Which::Session("x".to_owned()),
                "[sso-session x]\nsso_region = r\n",
                "[sso-session x] has no sso_start_url",
            ),
            (profile("p"), "[profile p]\nsso_start_url = https://h/s\n", "the profile p has no sso_region"),
            (profile("p"), "[profile p]\nsso_start_url = h\nsso_region = eu-west-1\n", "not an https address"),
            (profile("p"), "[profile p]\nsso_start_url = https://h\nsso_region = a/b\n", "not the name of a region"),
            (Which::Any, "", "there is no profile `default`"),
            (Which::Any, "[default\n", "the AWS configuration files cannot be read"),
        ] {
            let said = find(which.clone(), contents).await.expect_err(contents);
            assert!(said.contains(expected), "{which:?}: {said}");
        }
    }
}
