//! Roles of the emulated account that can be assumed: what their trust policies ask for.

use serde::{Deserialize, Serialize};

/// A role, under its ARN in [`EmulatorConfig::roles`](super::EmulatorConfig::roles).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Role {
    /// ARNs of users and roles that may assume it. Empty: everybody with credentials.
    pub trusts: Vec<String>,
    /// What AssumeRole must give as ExternalId.
    pub external_id: Option<String>,
    /// Whether AssumeRole takes a code of a device, of
    /// [`EmulatorConfig::mfa_devices`](super::EmulatorConfig::mfa_devices).
    pub mfa: bool,
    /// Longest life of its credentials, seconds: 3600 to 43200.
    pub max_duration: u32,
    /// The token for which AssumeRoleWithWebIdentity gives this role. `None`: no such token.
    pub web_identity: Option<String>,
}

impl Default for Role {
    fn default() -> Self {
        Self { trusts: Vec::new(), external_id: None, mfa: false, max_duration: 3600, web_identity: None }
    }
}
