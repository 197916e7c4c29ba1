//! The token of a login.

use std::time::{Duration, SystemTime};

use super::secret::Secret;

/// A token this close to its end is no good for anything that has yet to begin.
const MARGIN: Duration = Duration::from_secs(60);

/// What a login brings: the access token, and what it is renewed with. As the AWS CLI and the SDKs keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(super) access_token: Secret,
    pub(super) expires_at: SystemTime,
    pub(super) refresh_token: Option<Secret>,
    pub(super) registration: Option<Registration>,
    pub(super) region: String,
    pub(super) start_url: String,
}

/// The client that a token was given to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) client_id: String,
    pub(super) client_secret: Secret,
    pub(super) expires_at: SystemTime,
}

impl Token {
    /// When the access token expires.
    pub(crate) fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// Whether it can be renewed without anybody logging in, as far as can be told at `now`.
    pub(crate) fn is_refreshable(&self, now: SystemTime) -> bool {
        self.refresh_token.is_some() && self.registration.as_ref().is_some_and(|client| now < client.expires_at)
    }

    /// Whether it is good for some calls from `now` on.
    pub(crate) fn is_valid(&self, now: SystemTime) -> bool {
        now.checked_add(MARGIN).is_some_and(|then| then < self.expires_at)
    }
}
