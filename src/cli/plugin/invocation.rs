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
    pub(super) started: Started,
    pub(super) token: Token,
    pub(super) stream_url: String,
    /// What the session was started on. Whoever passes no request does not say.
    pub(super) target: Option<String>,
    /// The document it was started with, if one was named.
    pub(super) document: Option<String>,
    /// Where to listen, if the caller chose: the parameters of the document of these names.
    pub(super) local_port: Option<String>,
    pub(super) local_socket: Option<String>,
}

/// Which session it is, and whose: what it takes to end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Started {
    pub(super) session_id: String,
    /// `None`: what the environment says. So it is with the others.
    pub(super) region: Option<String>,
    pub(super) profile: Option<String>,
    /// Where the calls of SSM go.
    pub(super) endpoint_url: Option<String>,
}

/// Arguments that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) misuse: Misuse,
    /// The session that they name all the same: nobody else will end it.
    pub(super) started: Option<Started>,
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
    ) -> Result<Self, Refused> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let [first, rest @ ..] = &arguments[..] else { return Ok(Self::Presence) };
        if rest.is_empty() && first == "--version" {
            return Ok(Self::Version);
        }
        let answer = answer(first, take);
        let session_id = answer.as_ref().ok().and_then(|answer| field(answer, "SessionId"));
        let text = |index: usize| rest.get(index).and_then(|text| text.to_str()).filter(|text| !text.is_empty());
        let started = session_id.map(|session_id| Started {
            session_id,
            region: text(0).map(str::to_owned),
            profile: text(2).map(str::to_owned),
            // ECS has a spelling of its own, and passes the endpoint of ECS.
            endpoint_url: text(4)
                .filter(|url| is_ssm(url) || answer.as_ref().is_ok_and(|answer| answer.contains_key("SessionId")))
                .map(str::to_owned),
        });
        let refused = |misuse| Refused { misuse, started: started.clone() };
        match rest {
            [_, operation, ..] if operation == OPERATION => {}
            [_, _, ..] => return Err(refused(Misuse::Operation)),
            _ => return Err(refused(Misuse::Count(arguments.len()))),
        }
        if let Some(index) = rest.iter().take(5).position(|argument| argument.to_str().is_none()) {
            return Err(refused(Misuse::NotUnicode(index + 2)));
        }
        let answer = answer.map_err(&refused)?;
        let needed = |name| field(&answer, name).ok_or_else(|| refused(Misuse::Missing(name)));
        let started = started.clone().ok_or_else(|| refused(Misuse::Missing("SessionId")))?;
        let request = text(3).and_then(|request| serde_json::from_str::<Map<_, _>>(request).ok()).unwrap_or_default();
        Ok(Self::Session(Box::new(Invocation {
            token: Token::new(needed("TokenValue")?),
            stream_url: needed("StreamUrl")?,
            target: field(&request, "Target"),
            document: field(&request, "DocumentName"),
            local_port: parameter(&request, "localPortNumber"),
            local_socket: parameter(&request, "localUnixSocket"),
            started,
        })))
    }
}

/// What StartSession answered, which the first argument is or names.
fn answer(argument: &OsStr, take: impl FnOnce(&str) -> Option<OsString>) -> Result<Map<String, Value>, Misuse> {
    let argument = argument.to_str().ok_or(Misuse::NotUnicode(1))?;
    if !argument.starts_with(RESPONSE_VARIABLE) {
        return serde_json::from_str(argument).map_err(|_| Misuse::NotJson);
    }
    let value = take(argument).and_then(|value| value.into_string().ok());
    let value = value.ok_or_else(|| Misuse::NoVariable(argument.to_owned()))?;
    serde_json::from_str(&value).map_err(|_| Misuse::NotJson)
}

/// A text by its name, in whatever case that is written, if it says something.
fn field(object: &Map<String, Value>, name: &str) -> Option<String> {
    let exact = object.get(name);
    let value = exact.or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value));
    value?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The first value of a parameter of the document.
fn parameter(request: &Map<String, Value>, name: &str) -> Option<String> {
    request.get("Parameters")?.get(name)?.get(0)?.as_str().map(str::to_owned)
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

    fn read(arguments: &[&str]) -> Result<Wanted, Refused> {
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
        let request = r#"{"Target":"i-0123456789abcdef0","DocumentName":"AWS-StartSSHSession",
            "Parameters":{"portNumber":["22"],"localPortNumber":["13306"]}}"#;
        let endpoint = "https://ssm.eu-west-1.amazonaws.com";
        let all = session(&[ANSWER, "eu-west-1", "StartSession", "dev", request, endpoint, "more"]);
        let started = Started {
            session_id: "alice-1".to_owned(),
            region: Some("eu-west-1".to_owned()),
            profile: Some("dev".to_owned()),
            endpoint_url: Some(endpoint.to_owned()),
        };
        assert_eq!(all.started, started);
        assert_eq!(all.target.as_deref(), Some("i-0123456789abcdef0"));
        assert_eq!(all.document.as_deref(), Some("AWS-StartSSHSession"));
        assert_eq!((all.local_port.as_deref(), all.local_socket.as_deref()), (Some("13306"), None));
        assert!(!format!("{all:?}").contains("secret"));
        let empty = session(&[ANSWER, "eu-west-1", "StartSession", "", "{}", ""]);
        assert_eq!((empty.started.profile, empty.target, empty.started.endpoint_url), (None, None, None));
    }

    #[test]
    fn programs_of_before_profiles_pass_three() {
        let legacy = session(&[ANSWER, "eu-west-1", "StartSession"]);
        assert_eq!((legacy.started.profile, legacy.target), (None, None));
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
            assert_eq!(ecs.started.session_id, "ecs-execute-command-1");
            assert_eq!(ecs.started.endpoint_url.is_some(), used, "{endpoint}");
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
        assert!(matches!(wanted, Ok(Wanted::Session(invocation)) if invocation.started.session_id == "alice-1"));
        assert_eq!(asked.as_deref(), Some(name));
        let missing = read(&["AWS_SSM_START_SESSION_RESPONSE", "eu-west-1", "StartSession"]);
        let misuse = Misuse::NoVariable("AWS_SSM_START_SESSION_RESPONSE".to_owned());
        assert_eq!(missing.err(), Some(Refused { misuse, started: None }));
    }

    #[test]
    fn other_calls_are_named_without_what_they_pass() {
        assert!(matches!(read(&[]), Ok(Wanted::Presence)));
        assert!(matches!(read(&["--version"]), Ok(Wanted::Version)));
        for (arguments, misuse, session) in [
            (&["--help"][..], Misuse::Count(1), None),
            (&["--version", "now"], Misuse::Count(2), None),
            (&[ANSWER], Misuse::Count(1), Some("alice-1")),
            (&[ANSWER, "eu-west-1"], Misuse::Count(2), Some("alice-1")),
            (&[ANSWER, "eu-west-1", "ResumeSession"], Misuse::Operation, Some("alice-1")),
            (&["[]", "eu-west-1", "StartSession"], Misuse::NotJson, None),
            (&["secret", "eu-west-1", "StartSession"], Misuse::NotJson, None),
            (&[r#"{"SessionId":"a"}"#, "eu-west-1", "StartSession"], Misuse::Missing("TokenValue"), Some("a")),
            (&[r#"{"SessionId":"","TokenValue":"b"}"#, "r", "StartSession"], Misuse::Missing("SessionId"), None),
        ] {
            let refused = read(arguments).err();
            assert!(!format!("{refused:?}").contains("secret"));
            let Some(refused) = refused else { panic!("{arguments:?}") };
            assert_eq!(refused.misuse, misuse, "{arguments:?}");
            let started = refused.started.as_ref();
            assert_eq!(started.map(|started| &started.session_id[..]), session, "{arguments:?}");
            let region = started.and_then(|started| started.region.as_deref());
            assert_eq!(region, session.filter(|_| arguments.len() > 1).map(|_| "eu-west-1"), "{arguments:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_text_is_named_by_its_place() {
        use std::os::unix::ffi::OsStringExt as _;
        let read = |place: usize| {
            let mut arguments = [ANSWER, "eu-west-1", "StartSession", "dev", "{}", ""].map(OsString::from);
            arguments[place - 1] = OsString::from_vec(vec![0xff]);
            Wanted::read(arguments, |_| None).err()
        };
        let refused = read(4).expect("no profile has such a name");
        assert_eq!(refused.misuse, Misuse::NotUnicode(4));
        assert!(refused.started.is_some_and(|started| started.region.as_deref() == Some("eu-west-1")));
        assert_eq!(read(1), Some(Refused { misuse: Misuse::NotUnicode(1), started: None }));
    }
}
