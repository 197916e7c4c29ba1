//! What the peers say.

use std::time::Instant;

use bytes::Bytes;

use super::{Ending, Open, Phase, Session, Shield};
use crate::{
    proto::{
        Cause, CloseReason, Event, Inbound, Initiator, Mode, SealedKey,
        close::CANNOT_DIAL,
        handshake::{Agreed, Reply, is_output},
        limits,
        port::Port,
        timer::Timer,
    },
    wire::{Acknowledge, ChannelClosed, FlagKind, Message, MessageKind, PayloadKind, from_json},
};

/// How texts begin that come from the agent and not from the service (`proto-notes/control-plane.md#errors`).
const TEXTS_OF_AGENT: [&str; 6] = [
    "----------ERROR-------",
    "Forwarding to IP address",
    "Handshake timed out",
    "Plugin with name",
    "Setting up data channel",
    CANNOT_DIAL,
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
            MessageKind::ChannelClosed => self.channel_closed(now, &message.payload),
            MessageKind::PausePublication => self.pause(now),
            MessageKind::StartPublication => {
                self.unpause();
                if let Phase::Handshaking(handshake) = &mut self.phase
                    && handshake.published()
                {
                    self.timers.stop(Timer::Handshake);
                }
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
            if let Err(cause) = self.process(now, message) {
                self.close(CloseReason::new(Initiator::Library, cause), true);
                return;
            }
            next = self.incoming.next();
        }
    }

    fn process(&mut self, now: Instant, message: Message) -> Result<(), Cause> {
        let kind = message.header.payload_kind;
        if let Phase::Handshaking(handshake) = &mut self.phase
            && is_output(kind)
        {
            // A shell without a handshake; and this is the first it has to say.
            let agreed = handshake.output()?;
            self.open(now, agreed, "");
        }
        match &mut self.phase {
            Phase::Handshaking(_) => self.shake_hands(now, kind, &message.payload),
            Phase::Open(open) => match kind {
                kind if is_output(kind) => {
                    self.counts.received(message.payload.len());
                    open.port.receive(now, kind, message.payload, self.received)
                }
                PayloadKind::Flag if FlagKind::decode(&message.payload) == Ok(FlagKind::ConnectToPortError) => {
                    open.port.refused();
                    Ok(())
                }
                // It may ask for a key, and what was said is said in the clear.
                PayloadKind::HandshakeRequest if open.agent_version.is_empty() && open.port.shell().is_some() => {
                    Err(Cause::Handshake("the agent asks for a handshake after it has sent data".to_owned()))
                }
                _ => Ok(()),
            },
            Phase::Closed(..) => Ok(()),
        }
    }

    fn shake_hands(&mut self, now: Instant, kind: PayloadKind, payload: &[u8]) -> Result<(), Cause> {
        let Phase::Handshaking(handshake) = &mut self.phase else { return Ok(()) };
        match kind {
            PayloadKind::HandshakeRequest => {
                // Of a shell that had no deadline until now.
                self.timers.start(Timer::Handshake, now + self.config.handshake_timeout);
                let reply = handshake.request(payload, &self.config.client_version);
                match reply.map_err(|error| Cause::Protocol(error.to_string()))? {
                    Reply::Nothing => {}
                    Reply::Respond(response) => self.control.push_back((PayloadKind::HandshakeResponse, response)),
                    Reply::WantKey { key_id, challenge } => {
                        self.events.push_back(Event::DataKeyWanted { key_id, challenge });
                    }
                }
            }
            PayloadKind::EncChallengeRequest => {
                let answer = handshake.challenge(payload)?;
                self.control.extend(answer.map(|answer| (PayloadKind::EncChallengeResponse, answer)));
            }
            PayloadKind::HandshakeComplete => {
                if let Some((agreed, text)) = handshake.complete(payload)? {
                    self.open(now, agreed, &text);
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn data_key(&mut self, key: Result<SealedKey, String>) {
        if let Phase::Handshaking(handshake) = &mut self.phase {
            let response = handshake.data_key(key, self.random.u128(..), &self.config.client_version);
            self.control.extend(response.map(|response| (PayloadKind::HandshakeResponse, response)));
        }
    }

    fn open(&mut self, now: Instant, agreed: Agreed, customer_message: &str) {
        let Agreed { service, agent_version, features } = agreed;
        if let Phase::Handshaking(handshake) = &mut self.phase {
            self.declared = handshake.declared.take();
        }
        if !customer_message.is_empty() {
            self.events.push_back(Event::CustomerMessage(cut(customer_message)));
        }
        let port = Port::new(service, self.config.terminal);
        let open = Open { port, agent_version, features, shield: Shield::Wanted, ending: Ending::No };
        if open.is_ready() {
            self.timers.stop(Timer::Handshake);
            let (mode, agent_version) = (open.port.mode(), open.agent_version.clone());
            self.events.push_back(Event::Ready { mode, agent_version });
        }
        self.phase = Phase::Open(open);
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
            let said = open.is_ready();
            open.shield = Shield::Passed;
            if !said {
                self.timers.stop(Timer::Handshake);
                let (mode, agent_version) = (open.port.mode(), open.agent_version.clone());
                self.events.push_back(Event::Ready { mode, agent_version });
            }
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

    fn channel_closed(&mut self, now: Instant, payload: &Bytes) {
        let output =
            from_json::<ChannelClosed>("channel_closed", payload).ok().and_then(|body| body.output).unwrap_or_default();
        // Of blanks only it says nothing.
        let text = if output.trim().is_empty() { String::new() } else { cut(&output) };
        if text.is_empty()
            && let Phase::Handshaking(handshake) = &mut self.phase
            && let Some(agreed) = handshake.ended_without_output()
        {
            self.open(now, agreed, "");
        }
        // In raw mode the agent ends the session at the end of the destination's data, and so does an administrator at
        // any time: the wire does not tell the two apart. With data under way, or missing, it was not the end of a
        // conversation. A shell ends when its user has typed the end, which may be under way.
        let (unacked, missing) = (self.outgoing.unacked() > 0, self.incoming.early().0 > 0);
        let (ending, by_agent) = match &self.phase {
            Phase::Open(open) => {
                let by_agent = match open.port.mode() {
                    // What is under way before ready is no data. A server that says its piece and leaves is gone by then.
                    Mode::Raw if !open.is_ready() => open.port.has_received() && !missing,
                    Mode::Raw => !unacked && !open.port.has_unsent() && !missing,
                    Mode::Shell => true,
                    Mode::Mux | Mode::Basic => false,
                };
                (open.ending != Ending::No, by_agent)
            }
            _ => (false, false),
        };
        let reason = if ending {
            CloseReason::new(Initiator::Us, Cause::Requested)
        } else if (by_agent && text.is_empty()) || is_text_of_agent(&text) {
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

/// A text in the peer's words, in a size for people.
fn cut(text: &str) -> String {
    text.chars().take(limits::TEXT).collect()
}

fn is_text_of_agent(text: &str) -> bool {
    TEXTS_OF_AGENT.iter().any(|start| text.trim_start().starts_with(start))
}
