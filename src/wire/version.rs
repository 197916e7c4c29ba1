//! Which end supports what, decided by version numbers (`proto-notes/handshake.md#version-thresholds`).
//!
//! Both ends choose the mode of a port session on their own: the client by the agent's version, the agent by the
//! version that the client claims. The rules for comparing differ, and the differences are on the wire.

use std::cmp::Ordering;

/// What an agent can do, as the genuine client decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentFeatures {
    /// Ends the session when it gets the TerminateSession flag.
    pub terminate_flag: bool,
    /// Speaks smux in `LocalPortForwarding` sessions; otherwise one connection at a time.
    pub smux: bool,
    /// The client's smux keepalive is not needed.
    pub keepalive_off: bool,
}

impl AgentFeatures {
    /// Decides by the version in the handshake request.
    #[must_use]
    pub fn of(agent_version: &str) -> Self {
        Self {
            terminate_flag: agent_newer_than(agent_version, "2.3.722.0"),
            smux: agent_newer_than(agent_version, "3.0.196.0"),
            keepalive_off: agent_newer_than(agent_version, "3.1.1511.0"),
        }
    }
}

/// The client's comparison: strictly greater, number by number; false unless both have as many parts.
#[must_use]
pub fn agent_newer_than(version: &str, threshold: &str) -> bool {
    let (Some(version), Some(threshold)) = (parts(version), parts(threshold)) else { return false };
    version.len() == threshold.len() && version > threshold
}

/// What the agent does for a client, as the genuine agent decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientFeatures {
    /// The agent speaks smux in `LocalPortForwarding` sessions.
    pub smux: bool,
    /// The agent does not cut a session for missing keepalives.
    pub keepalive_off: bool,
}

impl ClientFeatures {
    /// Decides by the version in the handshake response.
    #[must_use]
    pub fn of(client_version: &str) -> Self {
        let compare = |threshold| compare_client(client_version, threshold);
        Self {
            smux: compare("1.1.70").is_some_and(Ordering::is_ge),
            keepalive_off: compare("1.2.331.0").is_some_and(Ordering::is_gt),
        }
    }
}

/// The agent's comparison: number by number; when all common parts are equal the one with more parts is greater.
/// (Two versions of three parts are compared as semantic versions, which is the same for plain numbers.)
fn compare_client(version: &str, threshold: &str) -> Option<Ordering> {
    Some(parts(version)?.cmp(&parts(threshold)?))
}

fn parts(version: &str) -> Option<Vec<u64>> {
    version.split('.').map(|part| part.parse().ok().filter(|_| !part.starts_with('+'))).collect()
}
