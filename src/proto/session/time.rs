//! What falls due.

use std::time::Instant;

use bytes::Bytes;

use super::{Ending, Phase, Session, Shield};
use crate::proto::{Cause, CloseReason, Event, Initiator, Mode, limits, rto, timer::Timer};

impl Session {
    pub(super) fn timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now, self.frozen()) {
            match timer {
                Timer::Handshake => {
                    let what = match &self.phase {
                        Phase::Open(open) if open.mode != Mode::Mux => {
                            "the agent acknowledges no data: the destination refused the connection or did not answer"
                        }
                        _ => "the agent did not complete the handshake",
                    };
                    self.close(CloseReason::new(Initiator::Library, Cause::Timeout(what)), true);
                }
                Timer::Retransmit => {
                    let head = self.outgoing.retransmit_head(now);
                    self.send_again(head);
                }
                Timer::Shield => self.resend_shield(now),
                Timer::Resend => self.outgoing.overdue(now),
                Timer::Pause => {
                    self.unpause();
                    self.agent_heard = now;
                }
                Timer::Ping => {
                    self.ping_wanted |= !self.ping_in_flight;
                    self.timers.set(Timer::Ping, now + self.config.ping_interval);
                }
                Timer::Silence => self.events.push_back(Event::Unresponsive),
                Timer::Keepalive => {
                    if let Phase::Open(open) = &mut self.phase {
                        open.port.want_nop();
                        self.timers.set(Timer::Keepalive, now + limits::KEEPALIVE);
                    }
                }
                Timer::Stall if self.stalled => {
                    let what = "the agent acknowledges nothing: its destination takes no data, or it is gone";
                    self.close(CloseReason::new(Initiator::Library, Cause::Timeout(what)), true);
                }
                Timer::Stall => {
                    self.stalled = true;
                    self.events.push_back(Event::Stalled(true));
                }
                // What follows is decided when outputs are drained.
                Timer::Recheck => {}
                Timer::SlowReader => {
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

    fn resend_shield(&mut self, now: Instant) {
        let Phase::Open(open) = &mut self.phase else { return };
        let Shield::Sent { sequence, wait } = &mut open.shield else { return };
        *wait = (*wait * 2).min(rto::MAX);
        self.timers.set(Timer::Shield, now + *wait);
        let shield = self.outgoing.retransmit(now, *sequence);
        self.send_again(shield);
    }

    /// What falls due again while nothing can be written goes out once.
    fn send_again(&mut self, message: Option<Bytes>) {
        if let Some(message) = message
            && !self.again.contains(&message)
        {
            self.again.push_back(message);
        }
    }

    /// The next deadline, after the timers that follow from the state were set.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        self.set_or_stop(Timer::Retransmit, self.outgoing.deadline().filter(|_| self.online && !self.shield_leads()));
        self.set_or_stop(Timer::Stall, self.stalls_at());
        self.set_or_stop(Timer::Resend, self.outgoing.resend_at().filter(|_| self.online));
        if let Phase::Open(open) = &self.phase {
            let settles_at = open.port.settles_at(|sequence| self.outgoing.is_unacked(sequence), self.rtt());
            self.set_or_stop(Timer::Settle, settles_at);
        }
        self.timers.next(self.frozen())
    }

    /// Unacknowledged data, and nothing from the agent since. During a pause the gateway has said so already.
    fn stalls_at(&self) -> Option<Instant> {
        let waits = self.online && !self.paused && self.outgoing.unacked() > 0 && matches!(self.phase, Phase::Open(_));
        let since = self.agent_heard.max(self.outgoing.head_since()?);
        let patience = if self.stalled { self.config.stall_timeout } else { limits::STALLED };
        waits.then(|| since + patience)
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
