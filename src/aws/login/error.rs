//! Why there was no login.

use std::{io, path::PathBuf, time::Duration};

use crate::session::ControlError;

/// A login, or something that needs one, that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LoginError {
    /// The configuration files do not say where to log in.
    #[error("{message}")]
    Configuration {
        /// What is missing or wrong, and where.
        message: String,
        /// What to write there.
        remedy: String,
    },
    /// A call of the service failed.
    #[error(transparent)]
    Call(#[from] ControlError),
    /// Somebody said no: on the page, or an administrator.
    #[error("the login was denied{}", said(.0))]
    Denied(String),
    /// The page said that something else went wrong.
    #[error("the login page reports an error{}", said(.0))]
    Page(String),
    /// Nobody logged in.
    #[error("nobody logged in within {} min", .0.as_secs().div_ceil(60))]
    TimedOut(Duration),
    /// The answer of the service cannot be used.
    #[error("the answer of {operation} has no {what}")]
    Incomplete {
        /// The call.
        operation: &'static str,
        /// What it should have brought.
        what: &'static str,
    },
    /// The listener that the page's answer comes to.
    #[error("cannot listen on 127.0.0.1 for the answer of the login page")]
    Listen(#[source] io::Error),
    /// A file that is read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file or its folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nobody knows where the home directory is.
    #[error("the home directory is not known: HOME is not set")]
    NoHome,
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// Foreign words, if there are any.
fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}
