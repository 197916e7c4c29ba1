//! What the peers say.

use std::time::Instant;

use bytes::Bytes;

use super::{Ending, Open, Phase, Session, Shield};
use crate::{
    proto::{Cause, CloseReason, Event, Inbound, Initiator, Mode, handshake::Agreed, limits, port::Port, timer::Timer},
    wire::{Acknowledge, ChannelClosed, DecodeError, FlagKind, Message, MessageKind, PayloadKind, from_json},
};

/// How texts begin that come from the agent and not from the service (`proto-notes/control-plane.md#errors`).
const TEXTS_OF_AGENT: [&str; 6] = [
    "----------ERROR-------",
    "Forwarding to IP address",
    "Handshake timed out",
    "Plugin with name",
    "Setting up data channel",
    "Unable to connect to specified port",
];

impl Session {
    pub(super) fn message(&mut self, now: Instant, inbound: Inbound) {
        self.received = self.received.saturating_add(inbound.len as u64);
        let message = match inbound.message {
            Ok(message) => message,
            Err(error) => {
                // Dropped without acknowledgement, like the reference: what was only damaged comes again.
                self.malformed += 1;
                if self.malformed >= limits::MALFORMED_MESSAGES {
                    let text = format!("{} malformed messages, the last: {error}", self.malformed);
                    self.close(CloseReason::new(Initiator::Library, Cause::Limit(text)), true);
                }
                return;
            }
        };
        self.malformed = 0;
        if matches!(message.header.kind, MessageKind::OutputStreamData | MessageKind::Acknowledge) {
            self.hear_agent(now);
        }
        match message.header.kind {
            MessageKind::OutputStreamData => self.stream_data(now, message),
            MessageKind::Acknowledge => self.acknowledge(now, &message.payload),
            MessageKind::ChannelClosed => self.channel_closed(&message.payload),
            MessageKind::PausePublication => self.pause(now),
            MessageKind::StartPublication => {
                self.unpause();
                // The gateway says that the agent is there, which after a resume is as good as a word of its own.
                self.outgoing.sign_of_life();
                self.outgoing.forget_back_off();
            }
            // For the gateway, for the agent, or not known: not for us.
            _ => {}
        }
    }

    fn stream_data(&mut self, now: Instant, message: Message) {
        self.outgoing.sign_of_life();
        self.unpause();
        let mut next = self.incoming.receive(message);
        while let Some(message) = next {
            if let Err(reason) = self.process(now, message) {
                self.close(reason, true);
                return;
            }
            next = self.incoming.next();
        }
    }

    fn process(&mut self, now: Instant, message: Message) -> Result<(), CloseReason> {
        let violation = |error: DecodeError| CloseReason::new(Initiator::Library, Cause::Protocol(error.to_string()));
        match &mut self.phase {
            Phase::Handshaking(handshake) => match message.header.payload_kind {
                PayloadKind::HandshakeRequest => {
                    let response = handshake.request(&message.payload, &self.config.client_version);
                    let response = response.map_err(violation)?;
                    self.control.extend(response.map(|response| (PayloadKind::HandshakeResponse, response)));
                }
                PayloadKind::HandshakeComplete => {
                    if let Some((agreed, text)) = handshake.complete(&message.payload).map_err(violation)? {
                        self.open(now, agreed, text);
                    }
                }
                PayloadKind::Output => {
                    let text = "the agent sends data without a handshake: the document is not for port forwarding";
                    return Err(handshake_failed(text.to_owned()));
                }
                _ => {}
            },
            Phase::Open(open) => match message.header.payload_kind {
                PayloadKind::Output => {
                    self.counts.received(message.payload.len());
                    open.port.receive(now, message.payload, self.received).map_err(violation)?;
                }
                PayloadKind::Flag if FlagKind::decode(&message.payload) == Ok(FlagKind::ConnectToPortError) => {
                    open.port.refused();
                }
                _ => {}
            },
            Phase::Closed(..) => {}
        }
        Ok(())
    }

    fn open(&mut self, now: Instant, agreed: Agreed, customer_message: String) {
        let Agreed { mode, agent_version, features } = agreed;
        if !customer_message.is_empty() {
            self.events.push_back(Event::CustomerMessage(cut(&customer_message)));
        }
        self.phase = Phase::Open(Open {
            port: Port::new(mode),
            mode,
            agent_version,
            features,
            shield: Shield::Wanted,
            ending: Ending::No,
        });
        if let Some(interval) = self.keep_alive_interval() {
            self.timers.set(Timer::Keepalive, now + interval);
        }
    }

    fn acknowledge(&mut self, now: Instant, payload: &Bytes) {
        // An acknowledgement that cannot be read is as good as lost.
        let Ok(sequence) = Acknowledge::decode_sequence(payload) else { return };
        self.outgoing.sign_of_life();
        self.unpause();
        let once = self.outgoing.was_sent_once(sequence);
        if !self.outgoing.acknowledged(now, sequence) {
            return;
        }
        if self.outgoing.unacked() == 0 {
            self.idle_since = Some(now);
            self.timers.start(Timer::Rest, now + limits::REST);
        }
        // Something was sent: what comes may be the answer.
        self.counts.end_run();
        self.kills.acknowledged = Some(now);
        self.payload_size.acknowledged(now, sequence, once);
        let Phase::Open(open) = &mut self.phase else { return };
        open.port.acknowledged(now, sequence);
        if matches!(open.shield, Shield::Sent { sequence: shield, .. } if shield == sequence) {
            open.shield = Shield::Passed;
            self.timers.stop(Timer::Handshake);
            let ready = Event::Ready { mode: open.mode, agent_version: open.agent_version.clone() };
            self.events.push_back(ready);
        }
        // An early message is acknowledged although it is only stored: the agent has obeyed the flag when it has
        // acknowledged everything before it too.
        if let Ending::FlagSent(flag) = open.ending
            && !self.outgoing.is_unacked(flag)
            && self.outgoing.unacked() == 0
        {
            self.close(CloseReason::new(Initiator::Us, Cause::Requested), false);
        }
    }

    fn hear_agent(&mut self, now: Instant) {
        self.agent_heard = now;
        if std::mem::take(&mut self.stalled) {
            self.events.push_back(Event::Stalled(false));
        }
    }

    fn channel_closed(&mut self, payload: &Bytes) {
        let output =
            from_json::<ChannelClosed>("channel_closed", payload).ok().and_then(|body| body.output).unwrap_or_default();
        // In raw mode the agent ends the session at the end of the destination's data, and so does an administrator at
        // any time: the wire does not tell the two apart. With data under way it was not the end of a conversation.
        let quiet = self.outgoing.unacked() == 0;
        let (ending, raw) = match &self.phase {
            Phase::Open(open) => {
                (open.ending != Ending::No, open.mode == Mode::Raw && quiet && !open.port.has_unsent())
            }
            _ => (false, false),
        };
        let text = cut(output.trim());
        let reason = if ending {
            CloseReason::new(Initiator::Us, Cause::Requested)
        } else if (raw && text.is_empty()) || is_text_of_agent(&text) {
            CloseReason::new(Initiator::Agent, Cause::ChannelClosed(text))
        } else {
            CloseReason::new(Initiator::Service, Cause::ChannelClosed(text))
        };
        self.close(reason, false);
    }

    fn pause(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.paused, true) {
            self.events.push_back(Event::Paused(true));
            self.pacer.pause(now);
        }
        self.timers.set(Timer::Pause, now + limits::PAUSE);
    }

    pub(super) fn unpause(&mut self) {
        if std::mem::take(&mut self.paused) {
            self.timers.stop(Timer::Pause);
            self.events.push_back(Event::Paused(false));
        }
    }
}

fn handshake_failed(why: String) -> CloseReason {
    CloseReason::new(Initiator::Library, Cause::Handshake(why))
}

/// A text in the peer's words, in a size for people.
fn cut(text: &str) -> String {
    text.chars().take(limits::TEXT).collect()
}

fn is_text_of_agent(text: &str) -> bool {
    TEXTS_OF_AGENT.iter().any(|start| text.starts_with(start))
}
