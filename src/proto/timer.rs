//! All protocol time: one enum, one table, and the next deadline is its minimum.

use std::time::Instant;

/// What can fall due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The handshake takes too long.
    Handshake,
    /// The oldest unacknowledged message has to be sent again.
    Retransmit,
    /// The shield has to be sent again.
    Shield,
    /// What was in flight beside the oldest message is taken for lost.
    Resend,
    /// A pause that nobody lifted is over.
    Pause,
    /// Data may go out again: there is a token.
    Token,
    /// A websocket has lasted for long enough without what may kill it.
    Hold,
    /// Send a ping.
    Ping,
    /// Nothing was heard for two intervals after a ping.
    Silence,
    /// A new websocket has answered nothing but pings, for long enough.
    Resumed,
    /// Try another websocket.
    Reconnect,
    /// Send something harmless: the agent or the user wants it.
    Keepalive,
    /// The agent says nothing although it has data to acknowledge.
    Stall,
    /// A stream may have waited too long for its first byte.
    Unanswered,
    /// Look whether the process has room for what is parked.
    Recheck,
    /// A stopped reader holds up the session.
    SlowReader,
    /// Give back the memory of a transfer that is over.
    Rest,
    /// A basic-mode session has been silent for long enough to be used again.
    Settle,
    /// Stop draining, send the TerminateSession flag.
    Drain,
    /// Stop waiting for the flag's acknowledgement.
    Terminate,
}

impl Timer {
    const ALL: [Self; 20] = [
        Self::Handshake,
        Self::Retransmit,
        Self::Shield,
        Self::Resend,
        Self::Pause,
        Self::Token,
        Self::Hold,
        Self::Ping,
        Self::Silence,
        Self::Resumed,
        Self::Reconnect,
        Self::Keepalive,
        Self::Stall,
        Self::Unanswered,
        Self::Recheck,
        Self::SlowReader,
        Self::Rest,
        Self::Settle,
        Self::Drain,
        Self::Terminate,
    ];
}

/// The deadlines.
#[derive(Debug, Default)]
pub(super) struct TimerTable {
    deadlines: [Option<Instant>; Timer::ALL.len()],
}

impl TimerTable {
    pub(super) fn set(&mut self, timer: Timer, deadline: Instant) {
        self.deadlines[timer as usize] = Some(deadline);
    }

    /// Sets a timer unless it runs already.
    pub(super) fn start(&mut self, timer: Timer, deadline: Instant) {
        self.deadlines[timer as usize].get_or_insert(deadline);
    }

    /// Lets a timer that runs fall due sooner; one that does not run stays stopped.
    pub(super) fn bring_forward(&mut self, timer: Timer, deadline: Instant) {
        let running = &mut self.deadlines[timer as usize];
        *running = running.map(|running| running.min(deadline));
    }

    pub(super) fn get(&self, timer: Timer) -> Option<Instant> {
        self.deadlines[timer as usize]
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.get(timer).is_some()
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.deadlines[timer as usize] = None;
    }

    pub(super) fn stop_all(&mut self) {
        *self = Self::default();
    }

    /// The next deadline. `frozen` timers stay set but do not count.
    pub(super) fn next(&self, frozen: impl Fn(Timer) -> bool) -> Option<Instant> {
        let live = Timer::ALL.iter().filter(|timer| !frozen(**timer));
        live.filter_map(|timer| self.deadlines[*timer as usize]).min()
    }

    /// Takes one timer that has fallen due, in the order of the enum.
    pub(super) fn expire(&mut self, now: Instant, frozen: impl Fn(Timer) -> bool) -> Option<Timer> {
        let due = |timer: &Timer| !frozen(*timer) && self.deadlines[*timer as usize].is_some_and(|at| at <= now);
        let timer = Timer::ALL.into_iter().find(due)?;
        self.stop(timer);
        Some(timer)
    }
}
