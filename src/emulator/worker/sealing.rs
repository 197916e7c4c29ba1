//! How a session is sealed: what is told of it, and what a client must never do in it.

use super::Worker;
use crate::emulator::agent::AgentCore;

/// How a session is sealed, and how the client has kept to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sealing {
    sealed: bool,
    unsealed: u64,
    nonces_reused: u64,
}

impl Sealing {
    fn of(core: &AgentCore) -> Self {
        Self { sealed: core.is_sealed(), unsealed: core.unsealed(), nonces_reused: core.nonces_reused() }
    }
}

impl Worker {
    /// Tells what the agent could not open: the one thing that must never happen in a sealed session.
    pub(super) fn look_at_seal(&mut self) {
        let now = Sealing::of(&self.core);
        if now == self.sealing {
            return;
        }
        let before = std::mem::replace(&mut self.sealing, now);
        self.service.observe_session(&self.id, |session| {
            session.sealed = now.sealed;
            session.unsealed_inputs = now.unsealed;
        });
        if now.unsealed > before.unsealed {
            self.service.violation(&self.id, "data that is not sealed in a session that is");
        }
        if now.nonces_reused > before.nonces_reused {
            self.service.violation(&self.id, "a nonce was used twice");
        }
    }
}
