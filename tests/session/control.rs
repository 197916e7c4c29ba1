//! An AWS API that counts its calls.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderName, HeaderValue};
use ssmfwd::session::{
    BoxFuture, ControlError, ControlErrorKind, ControlPlane, Grant, QueryForm, SessionId, StartRequest, StreamUrl,
};

/// What TerminateSession does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Terminate {
    #[default]
    Succeeds,
    IsDenied,
    /// Is never answered.
    Hangs,
}

#[derive(Debug, Default)]
pub(crate) struct Control {
    terminate: Terminate,
    terminated: AtomicUsize,
}

impl Control {
    pub(crate) fn new(terminate: Terminate) -> Self {
        Self { terminate, terminated: AtomicUsize::new(0) }
    }

    /// Calls of TerminateSession.
    pub(crate) fn terminated(&self) -> usize {
        self.terminated.load(Ordering::SeqCst)
    }
}

fn denied(operation: &'static str) -> ControlError {
    ControlError {
        kind: ControlErrorKind::AccessDenied,
        operation,
        resource: "user-0".to_owned(),
        message: "denied".to_owned(),
        source: None,
    }
}

impl ControlPlane for Control {
    fn start<'a>(&'a self, _: &'a StartRequest) -> BoxFuture<'a, Result<Grant, ControlError>> {
        Box::pin(async { Err(denied("StartSession")) })
    }

    fn resume<'a>(&'a self, _: &'a SessionId) -> BoxFuture<'a, Result<Option<Grant>, ControlError>> {
        Box::pin(async { Err(denied("ResumeSession")) })
    }

    fn terminate<'a>(&'a self, session: &'a SessionId) -> BoxFuture<'a, Result<(), ControlError>> {
        assert_eq!(session.0, crate::setup::SESSION);
        self.terminated.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            match self.terminate {
                Terminate::Succeeds => Ok(()),
                Terminate::IsDenied => Err(denied("TerminateSession")),
                Terminate::Hangs => std::future::pending().await,
            }
        })
    }

    fn sign_upgrade<'a>(
        &'a self,
        _: &'a StreamUrl,
        _: QueryForm,
    ) -> BoxFuture<'a, Result<Vec<(HeaderName, HeaderValue)>, ControlError>> {
        Box::pin(async { Err(denied("OpenDataChannel")) })
    }
}
