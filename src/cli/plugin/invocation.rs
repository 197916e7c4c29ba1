//! The arguments of `session-manager-plugin`: what the AWS CLI, IDEs and other tools pass
//! (`proto-notes/plugin.md#arguments`).
//!
//! | position | what |
//! | --- | --- |
//! | 1 | StartSession's answer as JSON, or the name of the environment variable that holds it |
//! | 2 | region |
//! | 3 | `StartSession` |
//! | 4 | profile, may be empty |
//! | 5 | StartSession's request as JSON |
//! | 6 | endpoint of the API |
//!
//! Programs of before profiles pass the first three. What follows the sixth does not count.

use std::ffi::{OsStr, OsString};

use serde_json::{Map, Value};

use crate::proto::Token;

/// How the name of a variable begins that holds the answer.
pub(super) const RESPONSE_VARIABLE: &str = "AWS_SSM_START_SESSION_RESPONSE";

/// The only operation there is.
const OPERATION: &str = "StartSession";

/// What whoever started the program wants.
#[derive(Debug)]
pub(super) enum Wanted {
    /// To know whether it is there. `aws ecs execute-command` starts it without arguments for that.
    Presence,
    /// To know how new it is. The AWS CLI decides by it how it passes the token.
    Version,
    /// A session to be carried on.
    Session(Box<Invocation>),
}

/// A session that somebody has started for us.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) session_id: String,
    pub(super) token: Token,
    pub(super) stream_url: String,
    pub(super) region: String,
    /// `None`: what the environment says.
    pub(super) profile: Option<String>,
    /// What the session was started on. Whoever passes no request does not say.
    pub(super) target: Option<String>,
    /// The document it was started with, if one was named.
    pub(super) document: Option<String>,
    /// Where the calls of SSM go.
    pub(super) endpoint_url: Option<String>,
}

/// Why the arguments cannot be used. Never repeats them: they hold a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misuse {
    #[error("{0} arguments are not a call of session-manager-plugin")]
    Count(usize),
    #[error("argument {0} is not Unicode")]
    NotUnicode(usize),
    #[error("the operation is not StartSession")]
    Operation,
    #[error("the environment variable {0}, which should hold StartSession's answer, is not set")]
    NoVariable(String),
    #[error("StartSession's answer is not a JSON object")]
    NotJson,
    #[error("StartSession's answer has no {0}")]
    Missing(&'static str),
}

impl Wanted {
    /// Reads the arguments behind the program's name. `take` gives a variable's value and removes it from the
    /// environment: processes that we start must not see it.
    pub(super) fn read(
        arguments: impl IntoIterator<Item = OsString>,
        take: impl FnOnce(&str) -> Option<OsString>,
    ) -> Result<Self, Misuse> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        match &arguments[..] {
            [] => Ok(Self::Presence),
            [only] if only == "--version" => Ok(Self::Version),
            [answer, region, operation, rest @ ..] => {
                let text = |position: usize, argument: &OsStr| {
                    argument.to_str().map(str::to_owned).ok_or(Misuse::NotUnicode(position))
                };
                if operation != OPERATION {
                    return Err(Misuse::Operation);
                }
                let optional = |index: usize| match rest.get(index) {
                    Some(argument) => text(index + 4, argument).map(|text| Some(text).filter(|text| !text.is_empty())),
                    None => Ok(None),
                };
                let answer = Answer::read(text(1, answer)?, take)?;
                let request = optional(1)?.and_then(|request| serde_json::from_str::<Map<_, _>>(&request).ok());
                let request = request.unwrap_or_default();
                let endpoint_url = optional(2)?.filter(|url| answer.from_ssm || is_ssm(url));
                Ok(Self::Session(Box::new(Invocation {
                    session_id: answer.session_id,
                    token: answer.token,
                    stream_url: answer.stream_url,
                    region: text(2, region)?,
                    profile: optional(0)?,
                    target: field(&request, "Target"),
                    document: field(&request, "DocumentName"),
                    endpoint_url,
                })))
            }
            others => Err(Misuse::Count(others.len())),
        }
    }
}

/// What StartSession answered.
struct Answer {
    session_id: String,
    token: Token,
    stream_url: String,
    /// In the spelling of SSM. ECS has another one, and passes the endpoint of ECS.
    from_ssm: bool,
}

impl Answer {
    fn read(argument: String, take: impl FnOnce(&str) -> Option<OsString>) -> Result<Self, Misuse> {
        let json = if argument.starts_with(RESPONSE_VARIABLE) {
            let value = take(&argument).and_then(|value| value.into_string().ok());
            value.ok_or(Misuse::NoVariable(argument))?
        } else {
            argument
        };
        let answer: Map<String, Value> = serde_json::from_str(&json).map_err(|_| Misuse::NotJson)?;
        let needed = |name| field(&answer, name).ok_or(Misuse::Missing(name));
        Ok(Self {
            session_id: needed("SessionId")?,
            token: Token::new(needed("TokenValue")?),
            stream_url: needed("StreamUrl")?,
            from_ssm: answer.contains_key("SessionId"),
        })
    }
}

/// A text by its name, in whatever case that is written, if it says something.
fn field(object: &Map<String, Value>, name: &str) -> Option<String> {
    let exact = object.get(name);
    let value = exact.or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value));
    value?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Whether a URL is that of SSM, by the first label of its host, which may stand behind that of a VPC endpoint.
fn is_ssm(url: &str) -> bool {
    let uri = url.parse::<http::Uri>().ok();
    let labels = uri.as_ref().and_then(http::Uri::host).unwrap_or_default().split('.');
    labels.take(2).any(|label| label == "ssm" || label == "ssm-fips")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str =
        r#"{"SessionId":"alice-1","TokenValue":"secret","StreamUrl":"wss://ssmmessages.eu-west-1.amazonaws.com/v1"}"#;
    const ECS: &str =
        r#"{"sessionId":"ecs-execute-command-1","tokenValue":"secret","streamUrl":"wss://x","extra":{"a":1}}"#;

    fn read(arguments: &[&str]) -> Result<Wanted, Misuse> {
        Wanted::read(arguments.iter().map(OsString::from), |_| None)
    }

    fn session(arguments: &[&str]) -> Invocation {
        match read(arguments) {
            Ok(Wanted::Session(invocation)) => *invocation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_arguments_of_the_aws_cli() {
        let request = r#"{"Target":"i-0123456789abcdef0","DocumentName":"AWS-StartSSHSession"}"#;
        let endpoint = "https://ssm.eu-west-1.amazonaws.com";
        let all = session(&[ANSWER, "eu-west-1", "StartSession", "dev", request, endpoint, "more"]);
        assert_eq!(
            (&all.session_id[..], &all.region[..], all.profile.as_deref()),
            ("alice-1", "eu-west-1", Some("dev"))
        );
        assert_eq!(all.target.as_deref(), Some("i-0123456789abcdef0"));
        assert_eq!(all.document.as_deref(), Some("AWS-StartSSHSession"));
        assert_eq!(all.endpoint_url.as_deref(), Some(endpoint));
        assert!(!format!("{all:?}").contains("secret"));
        let empty = session(&[ANSWER, "eu-west-1", "StartSession", "", "{}", ""]);
        assert_eq!((empty.profile, empty.target, empty.endpoint_url), (None, None, None));
    }

    #[test]
    fn programs_of_before_profiles_pass_three() {
        let legacy = session(&[ANSWER, "eu-west-1", "StartSession"]);
        assert_eq!((legacy.profile, legacy.target), (None, None));
        // A request that says nothing is no reason to let the session go: only encryption needs it.
        for request in ["", "[]", "{", r#"{"Target":7}"#] {
            assert_eq!(session(&[ANSWER, "eu-west-1", "StartSession", "", request]).target, None, "{request}");
        }
    }

    #[test]
    fn ecs_has_a_spelling_and_an_endpoint_of_its_own() {
        for (endpoint, used) in [
            ("https://ecs.eu-west-1.amazonaws.com", false),
            ("https://ecs-fips.us-east-1.amazonaws.com", false),
            ("http://127.0.0.1:4566", false),
            ("https://ssm.eu-west-1.amazonaws.com", true),
            ("https://vpce-0123.ssm.eu-west-1.vpce.amazonaws.com", true),
            ("https://ssm-fips.us-gov-west-1.amazonaws.com", true),
        ] {
            let ecs = session(&[ECS, "eu-west-1", "StartSession", "", r#"{"Target":"ecs:a_b_c"}"#, endpoint]);
            assert_eq!(ecs.session_id, "ecs-execute-command-1");
            assert_eq!(ecs.endpoint_url.is_some(), used, "{endpoint}");
        }
    }

    #[test]
    fn the_answer_may_be_in_a_variable_which_is_taken_away() {
        let name = "AWS_SSM_START_SESSION_RESPONSE_0042";
        let mut asked = None;
        let arguments = [name, "eu-west-1", "StartSession", "", "{}", ""].map(OsString::from);
        let wanted = Wanted::read(arguments, |name| {
            asked = Some(name.to_owned());
            Some(ANSWER.into())
        });
        assert!(matches!(wanted, Ok(Wanted::Session(invocation)) if invocation.session_id == "alice-1"));
        assert_eq!(asked.as_deref(), Some(name));
        let missing = read(&["AWS_SSM_START_SESSION_RESPONSE", "eu-west-1", "StartSession"]);
        assert_eq!(missing.err(), Some(Misuse::NoVariable("AWS_SSM_START_SESSION_RESPONSE".to_owned())));
    }

    #[test]
    fn other_calls_are_named_without_what_they_pass() {
        assert!(matches!(read(&[]), Ok(Wanted::Presence)));
        assert!(matches!(read(&["--version"]), Ok(Wanted::Version)));
        for (arguments, misuse) in [
            (&["--help"][..], Misuse::Count(1)),
            (&[ANSWER, "eu-west-1"], Misuse::Count(2)),
            (&[ANSWER, "eu-west-1", "ResumeSession"], Misuse::Operation),
            (&["[]", "eu-west-1", "StartSession"], Misuse::NotJson),
            (&["secret", "eu-west-1", "StartSession"], Misuse::NotJson),
            (&[r#"{"SessionId":"a"}"#, "eu-west-1", "StartSession"], Misuse::Missing("TokenValue")),
            (&[r#"{"SessionId":"","TokenValue":"b"}"#, "r", "StartSession"], Misuse::Missing("SessionId")),
        ] {
            let error = read(arguments).err();
            assert!(!format!("{error:?}").contains("secret"));
            assert_eq!(error, Some(misuse));
        }
    }
}
