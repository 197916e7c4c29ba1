//! What falls due.

use std::time::{Duration, Instant};

use super::{Ending, Phase, Session, Shield, transmit::size};
use crate::{
    proto::{Cause, CloseReason, Event, Initiator, Mode, close::DESTINATION_SILENT, limits, rto, timer::Timer},
    wire::{PayloadKind, SequenceNumber},
};

impl Session {
    pub(super) fn timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now, self.frozen()) {
            match timer {
                Timer::Handshake => {
                    let what = match &self.phase {
                        Phase::Open(open) if open.port.mode() != Mode::Mux => DESTINATION_SILENT,
                        _ => "the agent did not complete the handshake",
                    };
                    self.close(CloseReason::new(Initiator::Library, Cause::Timeout(what)), true);
                }
                Timer::Retransmit => {
                    let head = self.outgoing.head();
                    if self.outgoing.retransmit_head(now).is_some() {
                        self.send_again(head);
                    }
                }
                Timer::Shield => self.resend_shield(now),
                Timer::Resend => self.outgoing.overdue(now),
                Timer::Pause => {
                    self.unpause();
                    self.patient_since = now;
                }
                Timer::Ping => {
                    self.ping_wanted |= !self.ping_in_flight;
                    self.timers.set(Timer::Ping, now + self.config.ping_interval);
                }
                Timer::Silence => self.events.push_back(Event::Unresponsive),
                Timer::Resumed => self.say_resumed(),
                Timer::Reconnect => self.ask_to_reconnect(),
                Timer::Keepalive => self.keep_alive(now),
                Timer::Stall if self.stalled => {
                    let what = "the agent acknowledges nothing: its destination takes no data, or it is gone";
                    self.close(CloseReason::new(Initiator::Library, Cause::Timeout(what)), true);
                }
                Timer::Stall => {
                    self.stalled = true;
                    self.events.push_back(Event::Stalled(true));
                }
                Timer::Unanswered => {
                    // An agent that acknowledges nothing dials nobody either, and that is told already.
                    if let Phase::Open(open) = &mut self.phase
                        && !self.stalled
                    {
                        open.port.check_unanswered(now);
                    }
                }
                // What follows is decided when outputs are drained.
                Timer::Recheck | Timer::Token | Timer::Hold => {}
                Timer::Rest => self.rest(now),
                Timer::SlowReader => {
                    self.held_up_for = Duration::ZERO;
                    self.held_up_since = None;
                    if let Phase::Open(open) = &mut self.phase {
                        open.port.reset_slowest();
                    }
                }
                Timer::Settle => {
                    if let Phase::Open(open) = &mut self.phase {
                        open.port.settle();
                    }
                }
                Timer::Drain => {
                    if let Phase::Open(open) = &mut self.phase {
                        open.ending = Ending::FlagWanted;
                    }
                }
                Timer::Terminate => self.close(CloseReason::new(Initiator::Us, Cause::Requested), true),
            }
        }
    }

    /// Something that counts as data for the service and the agent, and as nothing for the destination.
    fn keep_alive(&mut self, now: Instant) {
        let Phase::Open(open) = &mut self.phase else { return };
        let ready = open.shield == Shield::Passed && open.ending == Ending::No;
        if open.port.mode() == Mode::Mux {
            open.port.want_nop();
        } else if let Some(shell) = open.port.shell_mut() {
            if ready && self.outgoing.unacked() == 0 {
                shell.repeat_size();
            }
        } else if ready && self.control.is_empty() && self.outgoing.unacked() == 0 {
            self.control.push_back((PayloadKind::Size, size()));
        }
        if let Some(interval) = self.keep_alive_interval() {
            self.timers.set(Timer::Keepalive, now + interval);
        }
    }

    /// How often: old agents in mux mode want it, whatever the user wants.
    pub(super) fn keep_alive_interval(&self) -> Option<Duration> {
        let Phase::Open(open) = &self.phase else { return None };
        let wanted = (open.port.mode() == Mode::Mux && !open.features.keepalive_off).then_some(limits::KEEPALIVE);
        wanted.into_iter().chain(self.config.keep_alive).min()
    }

    /// A transfer may be over: what it needed is not kept for the next.
    fn rest(&mut self, now: Instant) {
        let Some(since) = self.idle_since.filter(|_| self.outgoing.unacked() == 0) else { return };
        if since + limits::REST > now {
            // Something was sent and acknowledged in between.
            return self.timers.set(Timer::Rest, since + limits::REST);
        }
        self.messages.rest();
        if let Phase::Open(open) = &mut self.phase {
            open.port.rest();
        }
    }

    fn resend_shield(&mut self, now: Instant) {
        let Phase::Open(open) = &mut self.phase else { return };
        let Shield::Sent { sequence, wait } = &mut open.shield else { return };
        // After a resume it goes out among the rest, or has done so already.
        let goes_out = if self.outgoing.is_head_to_be_sent() { Some(now) } else { self.outgoing.last_sent(*sequence) };
        if let Some(due) = goes_out.map(|sent| sent + *wait)
            && due > now
        {
            self.timers.set(Timer::Shield, due);
            return;
        }
        *wait = (*wait * 2).min(rto::MAX);
        self.timers.set(Timer::Shield, now + *wait);
        let sequence = *sequence;
        if self.outgoing.retransmit(now, sequence).is_some() {
            self.send_again(sequence);
        }
    }

    /// What falls due again while nothing can be written goes out once.
    fn send_again(&mut self, sequence: SequenceNumber) {
        if !self.again.contains(&sequence) {
            self.again.push_back(sequence);
        }
    }

    /// The next deadline, after the timers that follow from the state were set.
    pub(super) fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        let token_at = self.token_at.filter(|at| self.online && *at > now);
        self.set_or_stop(Timer::Token, token_at);
        let held_until = self.held_until(now).filter(|_| self.online);
        self.set_or_stop(Timer::Hold, held_until);
        let sends_again = self.online && held_until.is_none() && !self.shield_leads();
        self.set_or_stop(Timer::Retransmit, self.outgoing.deadline().filter(|_| sends_again));
        self.set_or_stop(Timer::Stall, self.stalls_at());
        self.set_or_stop(Timer::Resend, self.outgoing.resend_at().filter(|_| self.online));
        if let Phase::Open(open) = &self.phase {
            let settles_at = open.port.settles_at(|sequence| self.outgoing.is_unacked(sequence), self.rtt());
            let unanswered_at = open.port.unanswered_at();
            self.set_or_stop(Timer::Settle, settles_at);
            self.set_or_stop(Timer::Unanswered, unanswered_at);
        }
        self.timers.next(self.frozen())
    }

    /// Unacknowledged data, and nothing from the agent since. A pause, or a new websocket, is a reason to be patient
    /// before a word is said, but none to wait for ever: the agent may be gone all the same.
    fn stalls_at(&self) -> Option<Instant> {
        if !self.online || !matches!(self.phase, Phase::Open(_)) {
            return None;
        }
        let since = self.silent_since()?;
        let given_up = since + self.config.stall_timeout;
        Some(if self.stalled || self.paused {
            given_up
        } else {
            given_up.min(since.max(self.patient_since) + limits::STALLED)
        })
    }

    /// Since when the agent has had something to acknowledge and said nothing.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.outgoing.waiting_since().map(|waiting| waiting.max(self.agent_heard))
    }

    /// While the websocket is not read, silence and missing acknowledgements are of our own making.
    pub(super) fn frozen(&self) -> impl Fn(Timer) -> bool + use<> {
        let reading = self.reading;
        move |timer| {
            !reading
                && matches!(timer, Timer::Retransmit | Timer::Shield | Timer::Resend | Timer::Silence | Timer::Stall)
        }
    }

    /// The shield has its own, quicker timer.
    fn shield_leads(&self) -> bool {
        let Phase::Open(open) = &self.phase else { return false };
        matches!(open.shield, Shield::Sent { sequence, .. } if self.outgoing.is_head(sequence))
    }

    fn set_or_stop(&mut self, timer: Timer, deadline: Option<Instant>) {
        match deadline {
            Some(deadline) => self.timers.set(timer, deadline),
            None => self.timers.stop(timer),
        }
    }
}
