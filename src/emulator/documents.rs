//! Session documents: which parameters they take, and the properties that reach the agent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A document of session type `Port`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionDocument {
    /// Parameters by name.
    #[serde(default)]
    pub parameters: BTreeMap<String, DocumentParameter>,
    /// What the agent gets: every `{{ name }}` in a string is replaced by the parameter's value.
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
    /// The documents that AWS publishes and the agent's port plugin serves.
    pub(super) fn published(name: &str) -> Option<Self> {
        let parameter = |default: &str, allowed| DocumentParameter { default: Some(default.into()), allowed };
        let port = ("portNumber", parameter("80", AllowedValue::Port));
        let local = ("localPortNumber", parameter("0", AllowedValue::PortOrZero));
        let host = ("host", parameter("localhost", AllowedValue::Host));
        let forwarding = |host: Option<&str>| {
            let mut properties = json!({
                "localPortNumber": "{{ localPortNumber }}",
                "portNumber": "{{ portNumber }}",
                "type": "LocalPortForwarding",
            });
            if let Some(host) = host {
                properties["host"] = host.into();
            }
            properties
        };
        let (parameters, properties) = match name {
            "AWS-StartPortForwardingSession" => (vec![port, local], forwarding(None)),
            "AWS-StartPortForwardingSessionToRemoteHost" => (vec![port, local, host], forwarding(Some("{{ host }}"))),
            "AWS-StartSSHSession" => {
                (vec![("portNumber", parameter("22", AllowedValue::Port))], json!({"portNumber": "{{ portNumber }}"}))
            }
            _ => return None,
        };
        let parameters = parameters.into_iter().map(|(name, parameter)| (name.to_owned(), parameter)).collect();
        Some(Self { parameters, properties })
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
        assert_eq!(SessionDocument::published("AWS-Nothing"), None);
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
