//! What happens before data may flow (`proto-notes/handshake.md`).

use bytes::Bytes;

use super::{Mode, limits};
use crate::wire::{
    ActionStatus, AgentFeatures, ClientAction, DecodeError, HandshakeComplete, HandshakeRequest, HandshakeResponse,
    ProcessedAction, from_json, to_json,
};

/// The session type that carries connections.
const PORT: &str = "Port";
/// The property `type` of port-forwarding documents; others are a raw pipe.
const LOCAL_PORT_FORWARDING: &str = "LocalPortForwarding";

/// Waits for the agent's request, then for its word that the handshake is complete.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    answered: bool,
    agreed: Option<Agreed>,
    /// Why the request could not be met. The response that says so goes out first.
    pub(super) refusal: Option<String>,
}

/// What both ends know after the request was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) mode: Mode,
    pub(super) agent_version: String,
    pub(super) features: AgentFeatures,
}

impl Handshake {
    /// The response to a request; `None` if there was one already.
    pub(super) fn request(&mut self, payload: &[u8], client_version: &str) -> Result<Option<Bytes>, DecodeError> {
        if std::mem::replace(&mut self.answered, true) {
            return Ok(None);
        }
        let request: HandshakeRequest = from_json("handshake request", payload)?;
        let features = AgentFeatures::of(&request.agent_version);
        let mut mode = None;
        let mut refusal = None;
        let mut processed = Vec::new();
        let asked = request.requested_client_actions.len();
        if asked > limits::CLIENT_ACTIONS {
            refusal = Some(format!("{asked} client actions are not supported"));
        }
        for action in request.requested_client_actions.iter().take(limits::CLIENT_ACTIONS) {
            let error = match action {
                ClientAction::SessionType(parameters) if parameters.session_type == PORT => {
                    let forwarding = parameters.property("type") == LOCAL_PORT_FORWARDING;
                    mode = Some(match (forwarding, features.smux) {
                        (true, true) => Mode::Mux,
                        (true, false) => Mode::Basic,
                        (false, _) => Mode::Raw,
                    });
                    String::new()
                }
                ClientAction::SessionType(parameters) => {
                    format!("sessions of type {} are not for port forwarding", shown(&parameters.session_type))
                }
                other => format!("the client action {} is not supported", shown(other.name())),
            };
            processed.push(ProcessedAction {
                action_type: cut(action.name()).collect(),
                action_status: if error.is_empty() { ActionStatus::Success } else { ActionStatus::Unsupported },
                action_result: serde_json::Value::Null,
                error: error.clone(),
            });
            if !error.is_empty() {
                refusal.get_or_insert(error);
            }
        }
        if mode.is_none() {
            refusal.get_or_insert_with(|| "the agent did not name a session type".to_owned());
        }
        let response = to_json(&HandshakeResponse {
            client_version: client_version.to_owned(),
            processed_client_actions: processed,
            errors: refusal.clone().map(|error| vec![error]),
        });
        self.agreed = mode.filter(|_| refusal.is_none()).map(|mode| Agreed {
            mode,
            agent_version: shown(&request.agent_version),
            features,
        });
        self.refusal = refusal;
        Ok(Some(response))
    }

    /// The agent's word that data may flow, with the text it has for the user. `None` if it comes too early.
    pub(super) fn complete(&mut self, payload: &[u8]) -> Result<Option<(Agreed, String)>, DecodeError> {
        let Some(agreed) = self.agreed.take() else { return Ok(None) };
        let complete: HandshakeComplete = from_json("handshake complete", payload)?;
        Ok(Some((agreed, complete.customer_message)))
    }
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
mod tests {
    use super::*;

    fn request(version: &str, properties: &str) -> String {
        format!(
            r#"{{"AgentVersion":"{version}","RequestedClientActions":[{{"ActionType":"SessionType",
            "ActionParameters":{{"SessionType":"Port","Properties":{properties}}}}}]}}"#
        )
    }

    #[test]
    fn the_agents_version_and_the_document_decide_the_mode() {
        for (version, properties, mode) in [
            ("3.3.987.0", r#"{"type":"LocalPortForwarding"}"#, Mode::Mux),
            ("3.0.196.0", r#"{"type":"LocalPortForwarding"}"#, Mode::Basic),
            ("2.3.672.0", r#"{"type":"LocalPortForwarding"}"#, Mode::Basic),
            ("3.3.987.0", r#"{"portNumber":"22"}"#, Mode::Raw),
            ("3.3.987.0", "null", Mode::Raw),
        ] {
            let mut handshake = Handshake::default();
            let answer = handshake.request(request(version, properties).as_bytes(), "1.2.764.0").expect("valid");
            let expected = r#"{"ClientVersion":"1.2.764.0","ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":1,"ActionResult":null,"Error":""}],"Errors":null}"#;
            assert_eq!(answer, Some(expected.into()));
            let done = handshake.complete(br#"{"HandshakeTimeToComplete":1,"CustomerMessage":"hi"}"#);
            let (agreed, message) = done.expect("valid").expect("the request was answered");
            assert_eq!((agreed.mode, message.as_str()), (mode, "hi"), "{version} {properties}");
        }
    }

    #[test]
    fn what_we_cannot_do_is_answered_as_unsupported() {
        let body = br#"{"AgentVersion":"3.3.987.0","RequestedClientActions":[
            {"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k"}},
            {"ActionType":"Dance","ActionParameters":{}},
            {"ActionType":"SessionType","ActionParameters":{"SessionType":"Standard_Stream","Properties":null}}]}"#;
        let mut handshake = Handshake::default();
        let response = handshake.request(body, "1.2.764.0").expect("valid").expect("the first request");
        let response: HandshakeResponse = from_json("response", &response).expect("our own");
        assert_eq!(handshake.refusal.as_deref(), Some("the client action KMSEncryption is not supported"));
        assert_eq!(handshake.complete(b"{}"), Ok(None));
        assert!(response.processed_client_actions.iter().all(|a| a.action_status == ActionStatus::Unsupported));
        assert_eq!(response.processed_client_actions[1].action_type, "Dance");
    }

    #[test]
    fn completion_before_the_request_is_ignored_and_garbage_is_an_error() {
        assert_eq!(Handshake::default().complete(b"{}"), Ok(None));
        assert!(Handshake::default().request(b"{", "1.2.764.0").is_err());
        assert!(Handshake::default().request(b"{}", "1.2.764.0").is_err());
        let empty = br#"{"AgentVersion":"3.3.987.0","RequestedClientActions":null}"#;
        let mut handshake = Handshake::default();
        assert!(matches!(handshake.request(empty, "1"), Ok(Some(_))) && handshake.refusal.is_some());
        assert_eq!(handshake.request(empty, "1"), Ok(None), "a request is answered once");
    }
}
