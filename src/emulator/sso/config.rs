//! The switches of the emulated IAM Identity Center.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the center knows, how long it grants, and what its login does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SsoConfig {
    /// The address that logins must name, `sso_start_url` in profiles.
    pub start_url: String,
    /// Accounts with their roles, as the portal lists them.
    pub accounts: Vec<SsoAccount>,
    /// Accounts or roles on one page of a list, unless a client wants fewer.
    pub page_size: usize,
    /// How long an access token is good.
    #[serde(rename = "token_lifetime_seconds", with = "seconds")]
    pub token_lifetime: Duration,
    /// How long the registration of a client is good, and with it what renews its tokens.
    #[serde(rename = "registration_lifetime_seconds", with = "seconds")]
    pub registration_lifetime: Duration,
    /// How long the credentials of a role are said to be good.
    #[serde(rename = "role_lifetime_seconds", with = "seconds")]
    pub role_lifetime: Duration,
    /// How long a code for a device can be typed in.
    #[serde(rename = "device_lifetime_seconds", with = "seconds")]
    pub device_lifetime: Duration,
    /// How long a device is told to wait between two questions.
    #[serde(rename = "device_interval_seconds", with = "seconds")]
    pub device_interval: Duration,
    /// So many of the next questions of devices are answered with `authorization_pending`, whoever has logged in;
    /// counts down.
    pub pending_polls: u32,
    /// So many of the next questions of devices are answered with `slow_down`; counts down.
    pub slow_polls: u32,
    /// Whether the login pages press Allow by themselves, by a script in the browser.
    pub auto_approve: bool,
    /// Whether every device is allowed without anybody opening a page.
    pub auto_device: bool,
    /// Tokens that were made under another number are no longer accepted, and not renewed: counting it up logs
    /// everybody out.
    pub generation: u64,
}

/// An account of the portal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SsoAccount {
    /// Twelve digits.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Whom it belongs to.
    pub email: String,
    /// The roles that may be taken there.
    pub roles: Vec<String>,
}

impl Default for SsoConfig {
    fn default() -> Self {
        let account = |id: &str, name: &str, roles: &[&str]| SsoAccount {
            id: id.into(),
            name: name.into(),
            email: format!("{name}@example.com"),
            roles: roles.iter().map(|&role| role.into()).collect(),
        };
        Self {
            start_url: Self::START_URL.into(),
            accounts: vec![
                account("123456789012", "emulated", &["Admin", "Ops"]),
                account("210987654321", "another", &["ReadOnly"]),
            ],
            page_size: 100,
            token_lifetime: Duration::from_secs(8 * 3600),
            registration_lifetime: Duration::from_secs(90 * 24 * 3600),
            role_lifetime: Duration::from_secs(3600),
            device_lifetime: Duration::from_secs(600),
            device_interval: Duration::from_secs(1),
            pending_polls: 0,
            slow_polls: 0,
            auto_approve: false,
            auto_device: false,
            generation: 0,
        }
    }
}

impl SsoConfig {
    /// The address of the portal unless another is configured. Nothing is there: clients only name it.
    pub const START_URL: &str = "https://d-0123456789.awsapps.com/start";
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(duration.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}
