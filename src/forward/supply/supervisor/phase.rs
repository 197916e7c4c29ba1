//! What the supervisor is about, for those who ask what the forward is doing.

use super::{State, Supervisor};
use crate::forward::{Connector, status::Phase, supply::Hold};

impl<C: Connector> Supervisor<C> {
    /// For whoever asks what the forward is doing; how it stops is told by its owner.
    pub(super) fn phase(&self) -> Option<Phase> {
        Some(match &self.state {
            State::Serving(_) => {
                let (lost_since, waking) = match (self.vacancy_hold(), self.vacancy_woken()) {
                    (Some(Hold::Outage(since)), _) => (Some(since), false),
                    (_, Some(woken)) if self.pace.is_failing() => (Some(woken), false),
                    (_, woken) => (None, woken.is_some()),
                };
                Phase::Serving { lost_since, waking, replaceable: self.can_retire() }
            }
            State::Replacing { since, .. } => Phase::Replacing { since: *since },
            State::OnDemand { woken: None } => Phase::Dormant,
            State::OnDemand { woken: Some(since) } if self.pace.is_failing() => Phase::Replacing { since: *since },
            State::OnDemand { woken: Some(_) } => Phase::Waking,
            State::Stopped => return None,
        })
    }
}
