//! What is said when there was no login.

use crate::{
    aws::login::{Center, LoginError},
    cli::{exit::Exit, report::Report},
    session::ControlErrorKind as Kind,
};

/// A failure with its remedy. `center` is where the login was to be, if that was found out.
pub(super) fn report(error: &LoginError, center: Option<&Center>) -> Report {
    let (exit, hint) = match error {
        LoginError::Configuration { message, remedy } => {
            return Report::new(Exit::Usage, message.clone()).with_hint(remedy.clone());
        }
        LoginError::Call(call) => {
            let exit = match call.kind {
                Kind::AccessDenied => Exit::Denied,
                Kind::ExpiredCredentials | Kind::NoCredentials => Exit::Credentials,
                _ => Exit::Failure,
            };
            let place = center.map_or_else(String::new, |center| {
                format!(" sso_start_url ({}) and sso_region ({})", center.start_url(), center.region())
            });
            let hint = match call.kind {
                Kind::Network => format!("check the network and{place}"),
                Kind::InvalidRequest | Kind::BadAnswer => format!("check{place}; --device logs in another way"),
                Kind::ExpiredCredentials => "log in again, with `ssmfwd login`".to_owned(),
                Kind::Throttled | Kind::Service => "try again in a minute".to_owned(),
                _ => return named(error, exit, center),
            };
            (exit, hint)
        }
        LoginError::Denied(_) => (
            Exit::Credentials,
            "start again and allow the access on the page; an administrator may forbid it".to_owned(),
        ),
        LoginError::Page(_) => (Exit::Credentials, "start again; --device logs in another way".to_owned()),
        LoginError::TimedOut(_) => {
            (Exit::Credentials, "start again; with --device you can log in on another machine".to_owned())
        }
        LoginError::Listen(_) => (Exit::Failure, "--device needs no address of this machine".to_owned()),
        LoginError::NoHome => (Exit::Failure, "set HOME: the token is kept in $HOME/.aws/sso/cache".to_owned()),
        LoginError::File { .. } => (Exit::Failure, "the folder must be yours to write to".to_owned()),
        _ => return named(error, Exit::Failure, center),
    };
    named(error, exit, center).with_hint(hint)
}

fn named(error: &LoginError, exit: Exit, center: Option<&Center>) -> Report {
    let name = center.map_or_else(String::new, |center| format!(" to {}", center.name()));
    Report::new(exit, format!("no login{name}")).caused_by(error)
}
