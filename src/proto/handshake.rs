//! What happens before data may flow (`proto-notes/handshake.md`).

use bytes::Bytes;
use zeroize::Zeroizing;

use super::{
    SealedKey, SessionKinds,
    close::Cause,
    limits,
    port::Service,
    sealing::{Cover, Sealing},
};
use crate::wire::{
    ActionStatus, AgentFeatures, ClientAction, DecodeError, EncChallenge, HandshakeComplete, HandshakeRequest,
    HandshakeResponse, KmsParameters, KmsResult, PayloadKind, ProcessedAction, SessionTypeParameters, from_json,
    to_json,
};

/// The session type that carries connections.
const PORT: &str = "Port";
/// Session types that carry a shell or a command.
const SHELLS: [&str; 3] = ["Standard_Stream", "InteractiveCommands", "NonInteractiveCommands"];
/// The property `type` of port-forwarding documents; others are a raw pipe.
const LOCAL_PORT_FORWARDING: &str = "LocalPortForwarding";

/// The agent's request, what it asks for, and its word that the handshake is complete.
#[derive(Debug)]
pub(super) struct Handshake {
    kinds: SessionKinds,
    step: Step,
    /// The gateway has said that the agent is there.
    published: bool,
    /// The session type as the agent named it, if it can be served.
    pub(super) declared: Option<SessionTypeParameters>,
    /// Why the request could not be met. The response that says so goes out first.
    pub(super) refusal: Option<Cause>,
}

/// ```text
///                         ┌─────────────────(no key)─────────────────┐
///   Untouched ──request──▶┤                                          ├▶ Agreed ──complete──▶ Over
///                         └▶ WantsKey ──key──▶ WantsChallenge ──challenge──▶ ┘
/// ```
///
/// From `WantsKey` on there is no way to the end but through the challenge, and behind it the key is part of what was
/// agreed.
#[derive(Debug)]
enum Step {
    Untouched,
    WantsKey(Box<Unsealed>),
    WantsChallenge(Box<Unsealed>, Box<Sealing>),
    Agreed(Agreed),
    /// Refused, or complete.
    Over,
}

/// What both ends know after the request was answered.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) service: Service,
    /// Empty: the agent has not said.
    pub(super) agent_version: String,
    pub(super) features: AgentFeatures,
}

/// A session that will be sealed.
#[derive(Debug)]
struct Unsealed {
    agent_version: String,
    features: AgentFeatures,
    /// Of the other actions, in the order of the request.
    processed: Vec<ProcessedAction>,
    /// Where the answer to `KMSEncryption` belongs.
    at: usize,
    challenged: bool,
}

/// What a request leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// It was answered before.
    Nothing,
    /// This response.
    Respond(Bytes),
    /// A data key is needed for the response.
    WantKey { key_id: String, challenge: Option<String> },
}

impl Handshake {
    pub(super) fn new(kinds: SessionKinds) -> Self {
        Self { kinds, step: Step::Untouched, published: false, declared: None, refusal: None }
    }

    /// The gateway says that the agent is there. True if the agent may from now on be silent for as long as it likes:
    /// a shell without a handshake says nothing until its command does.
    pub(super) fn published(&mut self) -> bool {
        self.published = true;
        self.awaits_output()
    }

    fn awaits_output(&self) -> bool {
        self.published && self.kinds.include_shells() && matches!(self.step, Step::Untouched)
    }

    /// A command without output has ended: the shell that there was, if only shells are served.
    pub(super) fn ended_without_output(&mut self) -> Option<Agreed> {
        (self.awaits_output() && self.kinds == SessionKinds::Shell).then(|| self.without_handshake())
    }

    fn without_handshake(&mut self) -> Agreed {
        self.step = Step::Over;
        let service = Service::Shell(Cover::Clear);
        Agreed { service, agent_version: String::new(), features: AgentFeatures::default() }
    }

    /// What the agent says that is not part of the handshake. A shell begins with it if there was no request, and
    /// nothing else does.
    pub(super) fn output(&mut self) -> Result<Agreed, Cause> {
        match self.step {
            Step::Untouched if self.kinds.include_shells() => Ok(self.without_handshake()),
            Step::Untouched => Err(Cause::Handshake(
                "the agent sends data without a handshake: the document is not for port forwarding".to_owned(),
            )),
            Step::WantsKey(_) | Step::WantsChallenge(..) => {
                Err(Cause::Encryption("the agent sends data before it has shown that it has the key".to_owned()))
            }
            Step::Agreed(_) | Step::Over => {
                Err(Cause::Handshake("the agent sends data before the handshake is complete".to_owned()))
            }
        }
    }

    /// The response to a request, or what is needed for it.
    pub(super) fn request(&mut self, payload: &[u8], client_version: &str) -> Result<Reply, DecodeError> {
        if !matches!(self.step, Step::Untouched) {
            return Ok(Reply::Nothing);
        }
        self.step = Step::Over;
        let request: HandshakeRequest = from_json("handshake request", payload)?;
        let features = AgentFeatures::of(&request.agent_version);
        let agent_version = shown(&request.agent_version);
        let actions = &request.requested_client_actions;
        let mut refusal = None;
        if actions.len() > limits::CLIENT_ACTIONS {
            refusal = Some(format!("{} client actions are not supported", actions.len()));
        }
        let actions = &actions[..actions.len().min(limits::CLIENT_ACTIONS)];
        let types = actions.iter().filter_map(|action| match action {
            ClientAction::SessionType(parameters) => Some(parameters),
            _ => None,
        });
        let is_shell = types.clone().any(|parameters| SHELLS.contains(&&*parameters.session_type));
        let mut service = None;
        let mut wanted: Option<(usize, &KmsParameters)> = None;
        let mut processed = Vec::new();
        for (at, action) in actions.iter().enumerate() {
            let error = match action {
                ClientAction::SessionType(parameters) => match self.service(parameters, features) {
                    Ok(agreed) => {
                        service = Some(agreed);
                        self.declared = Some(parameters.clone());
                        None
                    }
                    Err(error) => Some(error),
                },
                ClientAction::KmsEncryption(parameters) if is_shell && self.kinds.include_shells() => {
                    if wanted.is_none() {
                        wanted = Some((at, parameters));
                        key_refused(parameters)
                    } else {
                        Some("KMSEncryption was asked for twice".to_owned())
                    }
                }
                other => Some(format!("the client action {} is not supported", shown(other.name()))),
            };
            processed.push(answer(action.name(), error.as_deref(), ActionStatus::Unsupported));
            refusal = refusal.or(error);
        }
        if types.count() > 1 {
            refusal.get_or_insert_with(|| "the agent named more than one session type".to_owned());
        }
        if service.is_none() {
            refusal.get_or_insert_with(|| "the agent did not name a session type".to_owned());
        }
        let agreed = service.filter(|_| refusal.is_none());
        let (Some(service), None) = (agreed, &refusal) else {
            if let Some((at, _)) = wanted
                && let Some(key) = processed.get_mut(at)
            {
                // Nobody was asked for a key.
                *key = answer(&key.action_type, refusal.as_deref(), ActionStatus::Unsupported);
            }
            self.refusal = refusal.clone().map(Cause::Handshake);
            return Ok(Reply::Respond(response(client_version, processed, refusal)));
        };
        let Some((at, parameters)) = wanted else {
            self.step = Step::Agreed(Agreed { service, agent_version, features });
            return Ok(Reply::Respond(response(client_version, processed, None)));
        };
        // The genuine agent takes an empty one for none.
        let challenge = parameters.challenge.clone().filter(|challenge| !challenge.is_empty());
        let challenged = challenge.is_some();
        self.step = Step::WantsKey(Box::new(Unsealed { agent_version, features, processed, at, challenged }));
        Ok(Reply::WantKey { key_id: parameters.key_id.clone(), challenge })
    }

    /// What a session of this type carries, or why it is not served.
    fn service(&self, parameters: &SessionTypeParameters, features: AgentFeatures) -> Result<Service, String> {
        let is_port = parameters.session_type == PORT;
        if is_port && self.kinds.include_connections() {
            let forwarding = parameters.property("type") == LOCAL_PORT_FORWARDING;
            return Ok(match (forwarding, features.smux) {
                (true, true) => Service::Mux,
                (true, false) => Service::Basic,
                (false, _) => Service::Raw,
            });
        }
        let is_shell = SHELLS.contains(&&*parameters.session_type);
        if is_shell && self.kinds.include_shells() {
            // Until the key is there, if one is asked for.
            return Ok(Service::Shell(Cover::Clear));
        }
        let named = shown(&parameters.session_type);
        Err(match self.kinds {
            SessionKinds::Connections => format!("sessions of type {named} are not for port forwarding"),
            SessionKinds::Shell => format!("sessions of type {named} are not shells"),
            SessionKinds::Any => format!("sessions of type {named} are not supported"),
        })
    }

    /// The response, now that there is a data key or none can be had. None if nobody waits for it. `start`: of our
    /// nonces.
    pub(super) fn data_key(
        &mut self,
        key: Result<SealedKey, String>,
        start: u128,
        client_version: &str,
    ) -> Option<Bytes> {
        let mut unsealed = match std::mem::replace(&mut self.step, Step::Over) {
            Step::WantsKey(unsealed) => unsealed,
            other => {
                self.step = other;
                return None;
            }
        };
        let mut processed = std::mem::take(&mut unsealed.processed);
        let action = processed.get_mut(unsealed.at)?;
        match key {
            Ok(SealedKey { plaintext, ciphertext }) => {
                let result = KmsResult {
                    cipher_text_key: Some(ciphertext),
                    cipher_text_hash: None,
                    challenge_acknowledgement: unsealed.challenged,
                };
                action.action_result = serde_json::to_value(result).unwrap_or_default();
                self.step = Step::WantsChallenge(unsealed, Box::new(Sealing::new(&plaintext, start)));
                Some(response(client_version, processed, None))
            }
            Err(why) => {
                let why = why.chars().take(limits::TEXT).collect::<String>();
                *action = answer(&action.action_type, Some(&why), ActionStatus::Failed);
                self.refusal = Some(Cause::Encryption(why.clone()));
                Some(response(client_version, processed, Some(why)))
            }
        }
    }

    /// The agent's challenge, sealed with its half of the key, is returned sealed with ours. None if none is due.
    pub(super) fn challenge(&mut self, payload: &[u8]) -> Result<Option<Bytes>, Cause> {
        let (unsealed, mut sealing) = match std::mem::replace(&mut self.step, Step::Over) {
            Step::WantsChallenge(unsealed, sealing) => (unsealed, sealing),
            other => {
                self.step = other;
                return Ok(None);
            }
        };
        let request: EncChallenge =
            from_json("challenge", payload).map_err(|error| Cause::Protocol(error.to_string()))?;
        let failed = |why: &dyn std::fmt::Display| Cause::Encryption(format!("the agent's challenge: {why}"));
        let sealed = request.challenge.unwrap_or_default();
        let secret = Zeroizing::new(Vec::from(sealing.open(&sealed).map_err(|error| failed(&error))?));
        if secret.is_empty() || secret.len() > limits::CHALLENGE {
            return Err(failed(&format_args!("it has {} bytes", secret.len())));
        }
        let mut answer = bytes::BytesMut::new();
        sealing.seal(&secret, &mut answer);
        let Unsealed { agent_version, features, .. } = *unsealed;
        let service = Service::Shell(Cover::Sealed(sealing));
        self.step = Step::Agreed(Agreed { service, agent_version, features });
        Ok(Some(to_json(&EncChallenge { challenge: Some(answer.into()) })))
    }

    /// The agent's word that data may flow, with the text it has for the user. `None` if it comes too early.
    pub(super) fn complete(&mut self, payload: &[u8]) -> Result<Option<(Agreed, String)>, Cause> {
        let agreed = match std::mem::replace(&mut self.step, Step::Over) {
            Step::Agreed(agreed) => agreed,
            Step::WantsKey(_) | Step::WantsChallenge(..) => {
                let text = "the agent completed the handshake without a challenge";
                return Err(Cause::Encryption(text.to_owned()));
            }
            other => {
                self.step = other;
                return Ok(None);
            }
        };
        let complete: HandshakeComplete =
            from_json("handshake complete", payload).map_err(|error| Cause::Protocol(error.to_string()))?;
        Ok(Some((agreed, complete.customer_message)))
    }
}

/// Whether the payloads of a kind are what a shell writes.
pub(super) fn is_output(kind: PayloadKind) -> bool {
    matches!(kind, PayloadKind::Output | PayloadKind::StdErr | PayloadKind::ExitCode)
}

fn key_refused(parameters: &KmsParameters) -> Option<String> {
    let challenge = parameters.challenge.as_deref().unwrap_or_default();
    let long = |text: &str, limit: usize| text.chars().nth(limit).is_some();
    if parameters.key_id.is_empty() {
        Some("KMSEncryption names no key".to_owned())
    } else if long(&parameters.key_id, limits::KEY_ID) || long(challenge, limits::CHALLENGE) {
        Some("KMSEncryption has a key or a challenge that is too long".to_owned())
    } else {
        None
    }
}

/// The answer to one action: done, or (`error`) why not.
fn answer(name: &str, error: Option<&str>, failure: ActionStatus) -> ProcessedAction {
    ProcessedAction {
        action_type: cut(name).collect(),
        action_status: if error.is_none() { ActionStatus::Success } else { failure },
        action_result: serde_json::Value::Null,
        error: error.unwrap_or_default().to_owned(),
    }
}

fn response(client_version: &str, processed: Vec<ProcessedAction>, error: Option<String>) -> Bytes {
    to_json(&HandshakeResponse {
        client_version: client_version.to_owned(),
        processed_client_actions: processed,
        errors: error.map(|error| vec![error]),
    })
}

/// A name in the peer's words, in the size of a name.
fn cut(name: &str) -> impl Iterator<Item = char> {
    name.chars().take(limits::NAME)
}

/// The same for people: the peer does not get at their terminal.
fn shown(name: &str) -> String {
    cut(name).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests;
