//! A pool in which new connections can use no session although some serve: what is done about it. Not for a pool that has
//! lost its last session, nor for one whose sessions all reconnect: they come back.

use tokio::time::Instant;

use super::{Lost, State, Supervisor};
use crate::{
    forward::{Connector, retry::is_outage, supply::Hold},
    session::ConnectError,
};

/// New connections can use none of the sessions that serve, since one of them has gone: it is replaced as if it had been
/// the only one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vacancy {
    /// It was lost then: its replacement is started at once. Otherwise it is when a connection waits.
    lost_since: Option<Instant>,
    /// When the first connection that waits came.
    woken: Option<Instant>,
}

impl Vacancy {
    pub(super) fn new(lost_since: Option<Instant>) -> Self {
        Self { lost_since, woken: None }
    }
}

impl<C: Connector> Supervisor<C> {
    /// Whether a session is to be started because none of those that serve can be used.
    pub(super) fn is_vacant(&mut self, now: Instant, somebody_waits: bool) -> bool {
        if self.has_usable() || !self.has_room() {
            self.vacancy = None;
        }
        let Some(vacancy) = &mut self.vacancy else { return false };
        vacancy.woken = somebody_waits.then(|| vacancy.woken.unwrap_or(now));
        // One that is being started already may serve them.
        (somebody_waits || vacancy.lost_since.is_some()) && self.extra.starting().is_empty()
    }

    pub(super) fn has_usable(&self) -> bool {
        matches!(&self.state, State::Serving(members) if members.iter().any(|member| member.is_usable()))
    }

    /// How long connections wait for the session that a vacancy asks for.
    pub(super) fn vacancy_hold(&self) -> Option<Hold> {
        Some(match self.vacancy? {
            Vacancy { lost_since: Some(since), .. } => Hold::Outage(since),
            Vacancy { woken: Some(woken), .. } => Hold::Until(woken.checked_add(self.patience)),
            Vacancy { .. } => Hold::Briefly,
        })
    }

    /// Since when a connection waits for the session that a vacancy asks for.
    pub(super) fn vacancy_woken(&self) -> Option<Instant> {
        self.vacancy?.woken
    }

    /// The session that a vacancy asks for could not be started. Told as if there were no others, unless one of them can
    /// be used by now.
    pub(super) fn vacancy_start_failed(&mut self, now: Instant, error: ConnectError, replaces: Option<Lost>) {
        if replaces.is_some() {
            self.extra.open(replaces);
        }
        if self.has_usable() {
            tracing::debug!(%error, "cannot start a session that is not needed any more");
            return;
        }
        let attempt = self.pace.failed_beside(now, &error);
        tracing::debug!(%error, attempt, retry = ?(self.pace.not_before() - now), "cannot start a session");
        if let (Some(vacancy), ConnectError::Closed(reason)) = (&mut self.vacancy, &error)
            && !is_outage(reason)
        {
            // Who has ended it does not want one: a connection may ask for it, we do not.
            vacancy.lost_since = None;
            self.extra.rest();
        }
        self.tell_start_failed(error, attempt);
    }
}
