//! An AWS API that does as its script says, and remembers.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderName, HeaderValue};
use ssmfwd::session::{
    BoxFuture, ControlError, ControlErrorKind, ControlPlane, Grant, QueryForm, SessionId, StartRequest, StreamUrl,
    Token,
};
use tokio::time::Instant;

use crate::setup::SESSION;

/// What TerminateSession does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Terminate {
    #[default]
    Succeeds,
    IsDenied,
    /// Is never answered.
    Hangs,
}

/// What ResumeSession does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Resume {
    #[default]
    Grants,
    /// Grants a token that the gateway does not know.
    GrantsStale,
    Fails(ControlErrorKind),
    /// The session is over: no token.
    Over,
    /// Is never answered.
    Hangs,
    Panics,
}

#[derive(Debug, Default)]
pub(crate) struct Control {
    terminate: Terminate,
    terminated: AtomicUsize,
    script: Mutex<Script>,
}

#[derive(Debug, Default)]
struct Script {
    /// What the next calls of ResumeSession do; then it does as it always does.
    next: VecDeque<Resume>,
    always: Resume,
    /// When ResumeSession was called.
    resumed: Vec<Instant>,
    /// Calls of ResumeSession that are not answered yet.
    waiting: usize,
    signed: usize,
    issued: usize,
    granted: HashSet<String>,
}

impl Control {
    pub(crate) fn new(terminate: Terminate) -> Self {
        Self { terminate, ..Self::default() }
    }

    /// Calls of TerminateSession.
    pub(crate) fn terminated(&self) -> usize {
        self.terminated.load(Ordering::SeqCst)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no test panics with it")
    }

    /// What ResumeSession does, until told otherwise.
    pub(crate) fn always(&self, resume: Resume) {
        self.script().always = resume;
    }

    /// What the next calls of ResumeSession do.
    pub(crate) fn next(&self, resumes: impl IntoIterator<Item = Resume>) {
        self.script().next.extend(resumes);
    }

    /// When ResumeSession was called.
    pub(crate) fn resumed(&self) -> Vec<Instant> {
        self.script().resumed.clone()
    }

    /// Calls of ResumeSession that hang, and that somebody still waits for.
    pub(crate) fn waiting(&self) -> usize {
        self.script().waiting
    }

    /// Makes a token good for one websocket.
    pub(crate) fn grant(&self, token: &str) {
        self.script().granted.insert(token.to_owned());
    }

    /// Whether a token was good. It no longer is.
    pub(crate) fn redeem(&self, token: &str) -> bool {
        self.script().granted.remove(token)
    }

    fn new_grant(&self, stale: bool) -> Grant {
        let mut script = self.script();
        script.issued += 1;
        let token = format!("token-{}", script.issued);
        if !stale {
            script.granted.insert(token.clone());
        }
        let host = "ssmmessages.eu-west-1.amazonaws.com";
        let url =
            format!("wss://{host}/v1/data-channel/{SESSION}?role=publish_subscribe&cell-number={}", script.issued);
        Grant {
            session_id: SessionId(SESSION.to_owned()),
            token: Token::new(token),
            url: StreamUrl::parse(url).expect("a URL"),
            target: None,
        }
    }
}

/// A call that somebody waits for.
struct Waiting<'a>(&'a Control);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.script().waiting -= 1;
    }
}

fn error(operation: &'static str, kind: ControlErrorKind) -> ControlError {
    ControlError { kind, operation, resource: SESSION.to_owned(), message: format!("{kind:?}"), source: None }
}

impl ControlPlane for Control {
    fn start<'a>(&'a self, _: &'a StartRequest) -> BoxFuture<'a, Result<Grant, ControlError>> {
        Box::pin(async { Ok(self.new_grant(false)) })
    }

    fn resume<'a>(&'a self, session: &'a SessionId) -> BoxFuture<'a, Result<Option<Grant>, ControlError>> {
        assert_eq!(session.0, SESSION);
        let resume = {
            let mut script = self.script();
            script.resumed.push(Instant::now());
            script.next.pop_front().unwrap_or(script.always)
        };
        Box::pin(async move {
            match resume {
                Resume::Grants => Ok(Some(self.new_grant(false))),
                Resume::GrantsStale => Ok(Some(self.new_grant(true))),
                Resume::Fails(kind) => Err(error("ResumeSession", kind)),
                Resume::Over => Ok(None),
                Resume::Hangs => {
                    self.script().waiting += 1;
                    let _waiting = Waiting(self);
                    std::future::pending().await
                }
                Resume::Panics => panic!("a bug in a control plane"),
            }
        })
    }

    fn terminate<'a>(&'a self, session: &'a SessionId) -> BoxFuture<'a, Result<(), ControlError>> {
        assert_eq!(session.0, SESSION);
        self.terminated.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            match self.terminate {
                Terminate::Succeeds => Ok(()),
                Terminate::IsDenied => Err(error("TerminateSession", ControlErrorKind::AccessDenied)),
                Terminate::Hangs => std::future::pending().await,
            }
        })
    }

    /// A signature that no other dial has.
    fn sign_upgrade<'a>(
        &'a self,
        _: &'a StreamUrl,
        _: QueryForm,
    ) -> BoxFuture<'a, Result<Vec<(HeaderName, HeaderValue)>, ControlError>> {
        Box::pin(async {
            let mut script = self.script();
            script.signed += 1;
            let signature = HeaderValue::from_str(&format!("signature-{}", script.signed)).expect("a header");
            Ok(vec![(http::header::AUTHORIZATION, signature)])
        })
    }
}
