//! The end of a forward's sessions for want of connections: by us, because somebody wants it so. The forward is dormant
//! after that, as if the service had ended them.
//!
//! A connection is never in the way of this, nor this in its way: whoever has taken a session before it is closed keeps
//! it open, and all others with it; whoever comes later finds none, and is served by another one.

use std::time::Duration;

use tokio::time::Instant;

use super::{State, Supervisor};
use crate::{
    forward::Connector,
    proto::{Cause, CloseReason, Initiator},
};

/// How long a forward may be without connections.
#[derive(Debug)]
pub(super) struct Idle {
    after: Option<Duration>,
    /// Until then there was none because none could have been served, or one waited.
    wanted: Instant,
}

impl Idle {
    pub(super) fn new(after: Option<Duration>, now: Instant) -> Self {
        Self { after, wanted: now }
    }

    /// The time without connections begins at the earliest now.
    pub(super) fn begin(&mut self, now: Instant) {
        self.wanted = now;
    }
}

impl<C: Connector> Supervisor<C> {
    /// Ends what nobody has used for long enough; returns when to look again although nothing happens.
    pub(super) fn settle_idle(&mut self, now: Instant, somebody_waits: bool) -> Option<Instant> {
        let after = self.idle.after?;
        let has_sessions = matches!(self.state, State::Serving(_) | State::Replacing { .. });
        if somebody_waits || !has_sessions {
            self.idle.begin(now);
            return None;
        }
        if !self.crowd.is_empty_or_tells() {
            return None;
        }
        // The end of time does not come.
        let due = self.idle.wanted.max(self.crowd.empty_since()).checked_add(after)?;
        if now < due {
            return Some(due);
        }
        let reason = CloseReason::new(Initiator::Library, Cause::Timeout("no connection used the forward"));
        if self.close_all_unused(&reason) {
            tracing::debug!(?after, "no connection has used the forward");
            self.rest(reason, false, Some(after));
        }
        None
    }

    /// Retires all sessions, or none if a connection has come.
    fn close_all_unused(&mut self, reason: &CloseReason) -> bool {
        let members = if let State::Serving(members) = &self.state { members.clone() } else { Vec::new() };
        {
            let _choice = self.crowd.choose();
            let unused = self.crowd.connections() == 0 && self.demand.borrow().waiting == 0;
            if !unused || !members.iter().all(|member| member.close_if_unused()) {
                return false;
            }
        }
        for member in members {
            member.set_unused(reason.clone());
            self.retire(member);
        }
        true
    }
}
