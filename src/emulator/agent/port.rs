//! What a port session of the agent is, whichever way it carries connections, and how the way is chosen
//! (`proto-notes/port-sessions.md#modes`).

use std::time::Instant;

use super::{
    AgentOptions, SessionType,
    basic::Basic,
    destination::Destination,
    mux::Mux,
    plugin::{Actions, Plugin},
    shell::Shell,
};
use crate::wire::{AgentFeatures, ClientFeatures};

/// How a session carries connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Many at a time, as smux streams.
    Mux,
    /// One after the other, as plain bytes.
    Basic,
    /// One, as plain bytes; the session ends with it.
    Raw,
    /// None: a program, which may be a shell.
    Shell,
}

impl Mode {
    /// What agent and client make of each other's versions and of the document's properties.
    pub(super) fn choose(options: &AgentOptions, client: ClientFeatures) -> Self {
        if options.session_type != SessionType::Port {
            return Self::Shell;
        }
        let forwarding = options.properties.get("type").and_then(serde_json::Value::as_str);
        if forwarding != Some("LocalPortForwarding") {
            Self::Raw
        } else if client.smux && AgentFeatures::of(&options.version).smux {
            Self::Mux
        } else {
            Self::Basic
        }
    }
}

/// Starts the plugin of a session whose handshake is done, or that has none.
///
/// # Errors
/// The text that ends the session instead.
pub(super) fn open_plugin(
    options: &AgentOptions,
    mode: Mode,
    client: ClientFeatures,
    now: Instant,
    actions: &mut Actions,
) -> Result<Box<dyn Plugin>, String> {
    if let Some(text) = &options.behaviour.refusal {
        return Err(text.clone());
    }
    if mode == Mode::Shell {
        return Ok(Box::new(Shell::new(options, actions)?));
    }
    let destination = Destination::from_properties(&options.properties)?;
    if let Some(text) = destination.refusal().filter(|_| options.behaviour.deny_list) {
        return Err(text);
    }
    Ok(if mode == Mode::Mux {
        Box::new(Mux::new(options, destination, client, now))
    } else {
        Box::new(Basic::new(options, destination, mode, actions))
    })
}
