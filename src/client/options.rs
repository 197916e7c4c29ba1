//! Settings of a client.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    forward::{SessionAccounts, Sessions, direct::DirectOptions},
    session::{SessionOptions, StartRequest},
};

/// Settings of a [`Client`](super::Client), with the defaults of the program.
///
/// ```
/// use std::time::Duration;
///
/// let mut options = ssmfwd::ClientOptions::default();
/// options.reason = Some("nightly report".to_owned());
/// options.session.connect_timeout = Duration::from_secs(10);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// How each SSM session is started and kept. `wake` is filled in by the client; `observer` is not used, see
    /// [`Client::events`](super::Client::events).
    pub session: SessionOptions,
    /// SSM sessions for the streams to one destination, or behind one tunnel. Default: one, and up to four while they
    /// are busy.
    pub sessions: Sessions,
    /// How long new streams and connections are held while a lost session is brought back, counted from its loss.
    /// Default 60 s.
    pub reconnect_window: Duration,
    /// How long a reply is waited for after our side has ended, before the FIN that makes the agent cut it off.
    /// Default 5 s; 0: not at all.
    pub linger: Duration,
    /// How long the sessions for the streams to one destination are kept without a stream. Default 5 min. Tunnels keep
    /// theirs.
    pub idle_timeout: Duration,
    /// The session document, in place of the one that the destination stands for.
    pub document: Option<String>,
    /// Parameters of the document, beside host and port.
    pub parameters: BTreeMap<String, Vec<String>>,
    /// The reason for the sessions, which lands in CloudTrail: 256 characters at most.
    pub reason: Option<String>,
    /// The sessions per target. Clients with clones of one share its limit.
    pub accounts: SessionAccounts,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            session: SessionOptions::default(),
            sessions: Sessions::default(),
            reconnect_window: Duration::from_secs(60),
            linger: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(300),
            document: None,
            parameters: BTreeMap::new(),
            reason: None,
            accounts: SessionAccounts::default(),
        }
    }
}

impl ClientOptions {
    /// How the sessions of streams are kept.
    pub(super) fn direct(&self) -> DirectOptions {
        DirectOptions {
            sessions: self.sessions,
            accounts: self.accounts.clone(),
            reconnect_window: self.reconnect_window,
            idle: self.idle_timeout,
        }
    }

    /// What every StartSession has in common.
    pub(super) fn request(&self) -> StartRequest {
        StartRequest {
            target: String::new(),
            document: self.document.clone(),
            parameters: self.parameters.clone(),
            reason: self.reason.clone(),
        }
    }
}
