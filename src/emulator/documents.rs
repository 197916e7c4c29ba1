//! Session documents: which parameters they take, and the properties that reach the agent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::SessionType;

/// The document of sessions that name none: the preferences of Session Manager in a region.
pub(super) const PREFERENCES: &str = "SSM-SessionManagerRunShell";

/// A session document.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionDocument {
    /// What kind of session it asks for: `Port` without it.
    #[serde(rename = "sessionType", default)]
    pub session_type: SessionType,
    /// Parameters by name.
    #[serde(default)]
    pub parameters: BTreeMap<String, DocumentParameter>,
    /// What the agent gets: every `{{ name }}` in a string is replaced by the parameter's value. For shells `shellProfile`
    /// with `linux` in it; for commands `commands`, `separateOutputStream`, `stdOutSeparatorPrefix` and
    /// `stdErrSeparatorPrefix`, in `linux` or as they are.
    #[serde(default)]
    pub properties: Value,
}

/// One parameter of a document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentParameter {
    /// The value when none is given; without it the parameter is required.
    #[serde(default)]
    pub default: Option<String>,
    /// Which values are allowed.
    #[serde(default)]
    pub allowed: AllowedValue,
}

/// The patterns of the documents that AWS publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllowedValue {
    /// Anything.
    #[default]
    Any,
    /// 1 to 65535 without leading zeros.
    Port,
    /// 0 to 65535 without leading zeros.
    PortOrZero,
    /// Three characters or more, none of which a shell would treat specially.
    Host,
}

impl AllowedValue {
    fn allows(self, value: &str) -> bool {
        let port = |lowest| value.parse::<u16>().is_ok_and(|port| port >= lowest && port.to_string() == value);
        match self {
            Self::Any => true,
            Self::Port => port(1),
            Self::PortOrZero => port(0),
            Self::Host => value.chars().count() >= 3 && !value.contains(|c| ",$^&()!;'\"<>`{}[]|#=\\".contains(c)),
        }
    }
}

/// Parameters that do not fit their document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParameterError {
    #[error("Parameter {0} is not defined in the document {1}.")]
    Unknown(String, String),
    #[error("Parameter {0} of the document {1} is required.")]
    Required(String, String),
    #[error("Parameter {0} is of type String: exactly one value is expected.")]
    NotOneValue(String),
    #[error("Parameter {0} has a value that does not match the allowedPattern of the document {1}.")]
    Pattern(String, String),
}

impl SessionDocument {
    /// The documents that AWS publishes, and the preferences that every region begins with.
    pub(super) fn published(name: &str) -> Option<Self> {
        let parameter = |default: &str, allowed| DocumentParameter { default: Some(default.into()), allowed };
        let port = || ("portNumber", parameter("80", AllowedValue::Port));
        let local = || ("localPortNumber", parameter("0", AllowedValue::PortOrZero));
        let host = || ("host", parameter("localhost", AllowedValue::Host));
        let local_socket = || ("localUnixSocket", parameter("", AllowedValue::Any));
        let command = || ("command", DocumentParameter::default());
        let forwarding = |more: &[(&str, &str)]| {
            let mut properties = json!({ "portNumber": "{{ portNumber }}", "type": "LocalPortForwarding" });
            for (name, value) in more {
                properties[name] = (*value).into();
            }
            properties
        };
        let to_port = ("localPortNumber", "{{ localPortNumber }}");
        let (session_type, parameters, properties) = match name {
            "AWS-StartPortForwardingSession" => (SessionType::Port, vec![port(), local()], forwarding(&[to_port])),
            "AWS-StartPortForwardingSessionToRemoteHost" => {
                (SessionType::Port, vec![port(), local(), host()], forwarding(&[to_port, ("host", "{{ host }}")]))
            }
            "AWS-StartPortForwardingSessionToSocket" => {
                let socket = [("localUnixSocket", "{{ localUnixSocket }}"), ("localConnectionType", "unix")];
                (SessionType::Port, vec![port(), local_socket()], forwarding(&socket))
            }
            "AWS-StartSSHSession" => {
                let ssh = ("portNumber", parameter("22", AllowedValue::Port));
                (SessionType::Port, vec![ssh], json!({"portNumber": "{{ portNumber }}"}))
            }
            PREFERENCES => (SessionType::StandardStream, Vec::new(), Value::Null),
            "AWS-StartInteractiveCommand" => {
                (SessionType::InteractiveCommands, vec![command()], json!({"linux": {"commands": "{{ command }}"}}))
            }
            "AWS-StartNonInteractiveCommand" => {
                (SessionType::NonInteractiveCommands, vec![command()], json!({"linux": {"commands": "{{ command }}"}}))
            }
            _ => return None,
        };
        let parameters = parameters.into_iter().map(|(name, parameter)| (name.to_owned(), parameter)).collect();
        Some(Self { session_type, parameters, properties })
    }

    /// The properties with the parameters filled in.
    pub(super) fn properties(
        &self,
        document: &str,
        given: &BTreeMap<String, Vec<String>>,
    ) -> Result<Value, ParameterError> {
        if let Some(unknown) = given.keys().find(|name| !self.parameters.contains_key(*name)) {
            return Err(ParameterError::Unknown(unknown.clone(), document.into()));
        }
        let mut values = BTreeMap::new();
        for (name, parameter) in &self.parameters {
            let value = match given.get(name).map(Vec::as_slice) {
                Some([value]) => value.clone(),
                Some(_) => return Err(ParameterError::NotOneValue(name.clone())),
                None => {
                    parameter.default.clone().ok_or_else(|| ParameterError::Required(name.clone(), document.into()))?
                }
            };
            if !parameter.allowed.allows(&value) {
                return Err(ParameterError::Pattern(name.clone(), document.into()));
            }
            values.insert(name.as_str(), value);
        }
        Ok(substitute(&self.properties, &values))
    }
}

fn substitute(template: &Value, values: &BTreeMap<&str, String>) -> Value {
    match template {
        Value::String(text) => Value::String(substitute_text(text, values)),
        Value::Array(items) => items.iter().map(|item| substitute(item, values)).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, field)| (name.clone(), substitute(field, values))).collect())
        }
        other => other.clone(),
    }
}

/// One pass from left to right: what a value contains is never substituted again.
fn substitute_text(text: &str, values: &BTreeMap<&str, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let known = after.split_once("}}").and_then(|(name, tail)| Some((values.get(name.trim())?, tail)));
        out.push_str(before);
        match known {
            Some((value, tail)) => {
                out.push_str(value);
                rest = tail;
            }
            None => {
                out.push_str("{{");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect()
    }

    fn properties(document: &str, pairs: &[(&str, &str)]) -> Result<Value, ParameterError> {
        SessionDocument::published(document).expect("published").properties(document, &given(pairs))
    }

    #[test]
    fn properties_are_those_of_the_recorded_handshakes() {
        assert_eq!(
            properties("AWS-StartPortForwardingSession", &[("portNumber", "9000")]),
            Ok(json!({"localPortNumber": "0", "portNumber": "9000", "type": "LocalPortForwarding"}))
        );
        assert_eq!(
            properties("AWS-StartPortForwardingSessionToRemoteHost", &[("portNumber", "9000"), ("host", "127.0.0.1")]),
            Ok(
                json!({"host": "127.0.0.1", "localPortNumber": "0", "portNumber": "9000", "type": "LocalPortForwarding"})
            )
        );
        assert_eq!(properties("AWS-StartSSHSession", &[]), Ok(json!({"portNumber": "22"})));
        assert_eq!(
            properties("AWS-StartPortForwardingSessionToSocket", &[("localUnixSocket", "/run/db")]),
            Ok(json!({
                "localConnectionType": "unix", "localUnixSocket": "/run/db", "portNumber": "80",
                "type": "LocalPortForwarding",
            }))
        );
        assert_eq!(SessionDocument::published("AWS-Nothing"), None);
    }

    #[test]
    fn documents_of_shells_name_their_type() {
        let named = |name| SessionDocument::published(name).map(|document| document.session_type.name());
        assert_eq!(named("AWS-StartSSHSession"), Some("Port"));
        assert_eq!(named(PREFERENCES), Some("Standard_Stream"));
        assert_eq!(named("AWS-StartInteractiveCommand"), Some("InteractiveCommands"));
        assert_eq!(named("AWS-StartNonInteractiveCommand"), Some("NonInteractiveCommands"));
        let command = properties("AWS-StartNonInteractiveCommand", &[("command", "ls -l")]);
        assert_eq!(command, Ok(json!({"linux": {"commands": "ls -l"}})));
        assert!(matches!(properties("AWS-StartInteractiveCommand", &[]), Err(ParameterError::Required(..))));
        let custom = json!({"sessionType": "Standard_Stream", "properties": {"shellProfile": {"linux": "cd /"}}});
        let custom: SessionDocument = serde_json::from_value(custom).expect("a custom document");
        assert_eq!(custom.session_type, SessionType::StandardStream);
    }

    #[test]
    fn values_outside_the_patterns_are_refused() {
        let document = "AWS-StartPortForwardingSessionToRemoteHost";
        for (name, value) in [
            ("portNumber", "0"),
            ("portNumber", "65536"),
            ("portNumber", "080"),
            ("portNumber", "+80"),
            ("portNumber", ""),
            ("localPortNumber", "-1"),
            ("host", "a;b"),
            ("host", "ab"),
            ("host", "{{ portNumber }}"),
        ] {
            let error = properties(document, &[(name, value)]);
            assert_eq!(error, Err(ParameterError::Pattern(name.into(), document.into())), "{value}");
        }
        assert!(matches!(properties(document, &[("hosts", "abc")]), Err(ParameterError::Unknown(..))));
        let two = BTreeMap::from([("host".to_owned(), vec!["abc".to_owned(), "def".to_owned()])]);
        let error = SessionDocument::published(document).expect("published").properties(document, &two);
        assert_eq!(error, Err(ParameterError::NotOneValue("host".into())));
    }

    #[test]
    fn a_value_is_never_substituted_again() {
        let document: SessionDocument = serde_json::from_value(json!({
            "parameters": {"a": {}, "b": {"default": "B"}},
            "properties": {"x": ["{{a}}-{{ b }}-{{ c }}-{{"], "n": 1},
        }))
        .expect("a custom document");
        let filled = document.properties("Mine", &given(&[("a", "{{ b }}")]));
        assert_eq!(filled, Ok(json!({"x": ["{{ b }}-B-{{ c }}-{{"], "n": 1})));
        assert!(matches!(document.properties("Mine", &given(&[])), Err(ParameterError::Required(..))));
    }
}
