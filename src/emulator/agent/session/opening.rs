//! From the open websocket to the plugin: the handshake, and the data key of sessions that are sealed.

use std::time::Instant;

use bytes::Bytes;

use super::{AgentCore, Phase, Processed};
use crate::{
    emulator::agent::{
        AgentOutput, Mode, challenge,
        handshake::{Answer, Handshake},
        plugin::Verdict,
        port::open_plugin,
        sealing::Sealer,
    },
    wire::{ClientFeatures, DataKey, PayloadKind},
};

/// What people have quoted of agents that may not decrypt.
const NO_DATA_KEY: &str = "Encountered error while initiating handshake. Fetching data key failed: Unable to retrieve \
                           data key, Error when decrypting data key";

impl AgentCore {
    pub(super) fn connected(&mut self, now: Instant) {
        self.channel.connected = true;
        if matches!(self.phase, Phase::New) {
            self.channel.send_state(now, "Connected", &mut self.actions.outputs);
            if !Handshake::is_needed(&self.options) {
                return self.open_plugin(now, ClientFeatures::default());
            }
            let (handshake, request) = Handshake::start(&self.options, &mut self.random, now);
            self.channel.send(now, PayloadKind::HandshakeRequest, &request, &mut self.actions.outputs);
            self.phase = Phase::Handshaking(handshake);
        }
    }

    /// KMS has answered. The response that waited for it is acknowledged now, or never.
    pub(super) fn decrypted(&mut self, now: Instant, key: Result<DataKey, String>) {
        let Phase::Handshaking(handshake) = &mut self.phase else { return };
        let Some(client) = handshake.awaits_key() else { return };
        let key = match key {
            Ok(key) => key,
            Err(error) => {
                self.actions.end = Some(format!("{NO_DATA_KEY} {error}"));
                return;
            }
        };
        let mut sealer = Sealer::new(&key, self.random.u128(..), self.options.behaviour.seal_fault);
        let challenge = (!sealer.skips_challenge()).then(|| {
            let expected = challenge::proof(&mut self.random);
            let sealed = sealer.challenge(&expected);
            handshake.challenge(now, client, expected, &sealed)
        });
        self.sealer = Some(sealer);
        let unacknowledged = self.blocked.take().flatten();
        self.done(now, unacknowledged);
        match challenge {
            Some(payload) => {
                self.channel.send(now, PayloadKind::EncChallengeRequest, &payload, &mut self.actions.outputs);
            }
            None => self.complete(now, client),
        }
        self.take_early(now);
    }

    /// A message of the client before the handshake is done. What has no part in it is acknowledged and thrown away.
    pub(super) fn shake_hands(&mut self, payload_kind: PayloadKind, payload: &Bytes) -> Processed {
        let Phase::Handshaking(handshake) = &mut self.phase else { return Processed::Verdict(Verdict::Done) };
        let answer = match payload_kind {
            PayloadKind::HandshakeResponse => handshake.answer(&self.options, payload),
            PayloadKind::EncChallengeResponse => {
                let sealer = &mut self.sealer;
                handshake.proof(payload, |sealed| sealer.as_mut()?.open(sealed).ok())
            }
            other => {
                // Whatever the agent makes of it: it was on its way in the clear.
                self.unsealed += u64::from(other == PayloadKind::Output && handshake.seals());
                return Processed::Verdict(Verdict::Done);
            }
        };
        Processed::Verdict(match answer {
            Answer::Accepted(client) => return Processed::Handshaken(client),
            Answer::Key(client, request) => {
                handshake.decrypting(client);
                self.actions.outputs.push_back(AgentOutput::Decrypt(request));
                Verdict::Blocked
            }
            Answer::Failed(text) => {
                self.actions.end = Some(text);
                Verdict::Done
            }
            Answer::Malformed => Verdict::Refused,
        })
    }

    /// The client has answered: the handshake is over.
    pub(super) fn complete(&mut self, now: Instant, client: ClientFeatures) {
        let Phase::Handshaking(handshake) = &self.phase else { return };
        let complete = handshake.complete(now);
        self.channel.send(now, PayloadKind::HandshakeComplete, &complete, &mut self.actions.outputs);
        self.open_plugin(now, client);
    }

    /// Chooses the mode and starts.
    fn open_plugin(&mut self, now: Instant, client: ClientFeatures) {
        let mode = Mode::choose(&self.options, client);
        self.mode = Some(mode);
        match open_plugin(&self.options, mode, client, now, &mut self.actions) {
            Ok(plugin) => self.phase = Phase::Open(plugin),
            Err(text) => self.actions.end = Some(text),
        }
    }
}
