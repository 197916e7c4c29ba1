//! The websocket under the session: opened, listened to, lost, replaced.

use std::time::{Duration, Instant};

use zeroize::{Zeroize, Zeroizing};

use super::{Ending, Kills, Open, Phase, Session, Shield};
use crate::{
    proto::{Cause, CloseReason, Event, Initiator, Token, limits, timer::Timer},
    wire::{MessageId, OpenDataChannel, PAYLOAD_OFFSET, to_json},
};

impl Session {
    pub(super) fn connected(&mut self, now: Instant, token: &Token) {
        if self.online {
            // Its loss was not told, but it is lost.
            self.note_silence();
            // What was to be sent again on it goes out with everything else.
            self.again.clear();
            if self.note_kill(now) {
                return;
            }
        }
        self.kills.opened = Some(now);
        self.kills.heard = false;
        self.online = true;
        self.heard = now;
        // Time without a websocket does not count, but time before it does: else an agent that is gone would never be
        // found out on a network that keeps breaking.
        self.agent_heard = now.checked_sub(std::mem::take(&mut self.silent_for)).unwrap_or(now);
        self.patient_since = now;
        self.malformed = 0;
        self.text = Some(self.open_message(token));
        self.ping_wanted = true;
        self.ping_in_flight = false;
        self.probing = false;
        self.reconnect.opened(now);
        // What was waited for on a websocket whose loss nobody has told is not waited for on this one.
        for timer in [Timer::Reconnect, Timer::Silence, Timer::Resumed] {
            self.timers.stop(timer);
        }
        if std::mem::replace(&mut self.resuming, true) {
            self.resumed_unsaid = true;
            self.incoming.resumed();
            self.outgoing.resumed(now);
            self.unpause();
            if let Phase::Open(Open { shield: Shield::Sent { wait, .. }, .. }) = &mut self.phase {
                *wait = limits::SHIELD_RETRY;
                self.timers.set(Timer::Shield, now + *wait);
            }
        }
        self.timers.set(Timer::Ping, now + self.config.ping_interval);
    }

    pub(super) fn disconnected(&mut self, now: Instant) {
        if !std::mem::take(&mut self.online) {
            return;
        }
        self.note_silence();
        self.text = None;
        self.ping_wanted = false;
        self.ping_in_flight = false;
        self.resumed_unsaid = false;
        self.incoming.disconnected();
        self.again.clear();
        for timer in
            [Timer::Ping, Timer::Silence, Timer::Retransmit, Timer::Shield, Timer::Resend, Timer::Pause, Timer::Resumed]
        {
            self.timers.stop(timer);
        }
        if matches!(&self.phase, Phase::Open(open) if open.ending != Ending::No) {
            return self.close(CloseReason::new(Initiator::Us, Cause::Requested), true);
        }
        if self.note_kill(now) {
            return;
        }
        let wait = self.reconnect.lost(now, &mut self.random);
        self.reconnect_after(now, wait);
    }

    /// A websocket is lost: a probe may be why, or a data message that the path takes no more, which would kill every
    /// other one too. Then the session is given up, and smaller ones are sent on those that follow. True if so.
    fn note_kill(&mut self, now: Instant) -> bool {
        self.payload_size.websocket_lost(now);
        let (suspect, Kills { opened, acknowledged, .. }) = (self.is_suspect(), self.kills);
        let large = opened.and_then(|opened| self.outgoing.large_head(opened, PAYLOAD_OFFSET + limits::PAYLOAD));
        let Some((head, size, sent)) = large.filter(|(.., sent)| acknowledged.is_none_or(|at| at <= *sent)) else {
            return false;
        };
        if self.kills.head.replace(head) != Some(head) || acknowledged > self.kills.lost {
            (self.kills.losses, self.kills.proofs) = (0, 0);
        }
        self.kills.lost = Some(sent);
        let soon = now.saturating_duration_since(sent) <= limits::STEADY + self.rtt() * 2;
        self.kills.losses += 1;
        self.kills.proofs += u32::from(suspect && soon);
        if self.kills.proofs < limits::PROOFS {
            return false;
        }
        let size = size - PAYLOAD_OFFSET;
        self.payload_size.lower(now, size);
        let text =
            format!("a message of {size} bytes was lost with every websocket: smaller ones are sent from now on");
        self.close(CloseReason::new(Initiator::Library, Cause::ConnectionLost(text)), true);
        true
    }

    /// Whether the oldest message may be what kills the websockets.
    fn is_suspect(&self) -> bool {
        self.kills.losses >= limits::KILLS && self.kills.head == Some(self.outgoing.head())
    }

    /// Until when nothing is sent again, because the websocket first has to show that it lasts without: `None` if there
    /// is no reason to wait. When nothing was heard yet, until a word and as long as that.
    pub(super) fn held_until(&self, now: Instant) -> Option<Instant> {
        let opened = self.kills.opened.filter(|_| self.is_suspect())?;
        let lasts = opened + limits::STEADY;
        Some(if self.kills.heard { lasts } else { lasts.max(now + limits::STEADY) }).filter(|until| *until > now)
    }

    /// Remembers how long the agent has been silent on the websocket that is lost. Only as long as the gateway was
    /// heard was it the agent that was silent.
    fn note_silence(&mut self) {
        let silent = self.silent_since().map(|since| self.heard.saturating_duration_since(since));
        self.silent_for = silent.unwrap_or_default();
    }

    pub(super) fn connect_failed(&mut self, now: Instant) {
        if !self.online && self.resuming {
            let wait = self.reconnect.failed(&mut self.random);
            self.reconnect_after(now, wait);
        }
    }

    fn reconnect_after(&mut self, now: Instant, wait: Duration) {
        if wait.is_zero() {
            self.ask_to_reconnect();
        } else {
            self.timers.set(Timer::Reconnect, now + wait);
        }
    }

    pub(super) fn ask_to_reconnect(&mut self) {
        self.events.push_back(Event::Reconnect);
    }

    pub(super) fn wake(&mut self, now: Instant) {
        if self.online {
            self.probing = true;
            if self.ping_in_flight || self.timers.is_set(Timer::Silence) {
                // The answer to the ping that is under way will do.
                let deadline = now + self.probe_timeout();
                self.timers.bring_forward(Timer::Silence, deadline);
            } else {
                self.ping_wanted = true;
            }
        } else {
            self.reconnect.encouraged();
            if self.timers.is_set(Timer::Reconnect) {
                self.timers.stop(Timer::Reconnect);
                self.ask_to_reconnect();
            }
        }
    }

    fn open_message(&mut self, token: &Token) -> Zeroizing<String> {
        let mut body = OpenDataChannel {
            message_schema_version: OpenDataChannel::SCHEMA.to_owned(),
            request_id: MessageId::from_random(self.random.u128(..)).to_string(),
            token_value: token.expose().to_owned(),
            client_id: Some(self.config.client_id.hyphenated().to_string()),
            client_version: Some(self.config.client_version.clone()),
        };
        let json = to_json(&body);
        let text = String::from_utf8_lossy(&json).into_owned();
        // What the websocket library copies cannot be wiped; what lies here can.
        body.token_value.zeroize();
        if let Ok(mut json) = json.try_into_mut() {
            json.as_mut().zeroize();
        }
        Zeroizing::new(text)
    }

    /// Anything came in.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.kills.heard = true;
        self.probing = false;
        self.timers.stop(Timer::Silence);
        self.reconnect.heard();
        // A proxy, or a gateway that has not looked at the token yet, may answer pings: that alone has to last.
        if self.resumed_unsaid {
            self.timers.start(Timer::Resumed, now + limits::STEADY);
        }
    }

    /// The session goes on: a message came in, or at least nobody objects.
    pub(super) fn say_resumed(&mut self) {
        self.timers.stop(Timer::Resumed);
        if std::mem::take(&mut self.resumed_unsaid) {
            self.events.push_back(Event::Resumed);
        }
    }

    pub(super) fn ping_sent(&mut self, now: Instant) {
        if std::mem::take(&mut self.ping_in_flight) {
            let interval = self.config.ping_interval;
            self.timers.start(Timer::Silence, (self.heard + interval * 2).max(now + interval));
            if self.probing {
                self.timers.bring_forward(Timer::Silence, now + self.probe_timeout());
            }
        }
    }

    /// When the websocket is asked for that is to replace the lost one, if that waits for a time.
    #[must_use]
    pub fn reconnects_at(&self) -> Option<Instant> {
        self.timers.get(Timer::Reconnect)
    }

    /// How long the answer to a probe may take.
    #[must_use]
    pub fn probe_timeout(&self) -> Duration {
        limits::PROBE.max(self.rto() * 3)
    }
}
