//! One attempt to replace a lost websocket: ResumeSession, then a dial of the new StreamUrl with a new signature.
//!
//! When attempts are made, and how many, is the state machine's business.

use std::{error::Error, fmt::Write as _, pin::Pin, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;

use super::{
    ControlError, ControlErrorKind, ControlPlane, Dial, DialError, SessionEvent, SessionId, SessionOptions, Token,
    ahead::meanwhile,
};

/// How long ResumeSession may take, whatever the control plane does: ours waits for credentials and for the answer for
/// 10 s each at most.
const RESUME: Duration = Duration::from_secs(25);
/// How long the websocket may take to open, whatever the dialer does: ours waits for the name, for all addresses and
/// for the answer to the upgrade for 10 s each at most.
const DIAL: Duration = Duration::from_secs(30);

/// An attempt in progress.
pub(super) type Attempting<S> = Pin<Box<dyn Future<Output = Attempt<S>> + Send>>;

/// What became of an attempt.
pub(super) enum Attempt<S> {
    /// There is a websocket, and a token for its first message.
    Open(Token, Box<WebSocketStream<S>>),
    /// It may work later.
    Failed(Failure),
    /// The service has ended the session.
    Over,
    /// The session may live, but not for us.
    Denied(Failure),
}

/// Why an attempt came to nothing.
pub(super) struct Failure {
    pub(super) cause: String,
    pub(super) kind: Option<ControlErrorKind>,
}

/// What is needed to replace the websocket of a session.
pub(super) struct Reconnector<D> {
    pub(super) control: Arc<dyn ControlPlane>,
    pub(super) dialer: Arc<D>,
    pub(super) session: SessionId,
    pub(super) options: SessionOptions,
}

impl<D: Dial> Reconnector<D> {
    /// Starts an attempt. Dropping it gives it up; a token that was granted is lost with it, which harms nobody.
    pub(super) fn attempt(&self) -> Attempting<D::Io> {
        let (control, dialer) = (Arc::clone(&self.control), Arc::clone(&self.dialer));
        let (session, options) = (self.session.clone(), self.options.clone());
        Box::pin(async move {
            tracing::debug!(%session, "ResumeSession");
            let resuming = timeout(RESUME, control.resume(&session));
            let (resumed, ahead) = meanwhile(resuming, dialer.connect_ahead(&*control)).await;
            let grant = match resumed {
                Ok(Ok(Some(grant))) => grant,
                Ok(Ok(None)) => return Attempt::Over,
                // A captive portal answers anything, and passes too.
                Ok(Err(error)) if error.kind.heals() || error.kind == ControlErrorKind::BadAnswer => {
                    return Attempt::Failed(Failure::control(&error));
                }
                Ok(Err(error)) => return Attempt::Denied(Failure::control(&error)),
                Err(_) => return Attempt::Failed(Failure::late("ResumeSession was not answered", RESUME)),
            };
            match timeout(DIAL, dialer.dial(&*control, &grant.url, ahead)).await {
                Ok(Ok(dialled)) => {
                    if dialled.fell_back_to_unsigned {
                        options.tell(SessionEvent::UnsignedUpgrade);
                    }
                    Attempt::Open(grant.token, Box::new(dialled.websocket))
                }
                // ResumeSession says whether the session lives; what a gateway says to a dial may pass.
                Ok(Err(error)) => Attempt::Failed(Failure::dial(&error)),
                Err(_) => Attempt::Failed(Failure::late("the websocket was not opened", DIAL)),
            }
        })
    }
}

impl Failure {
    fn control(error: &ControlError) -> Self {
        Self { cause: chain(error), kind: Some(error.kind) }
    }

    fn dial(error: &DialError) -> Self {
        let kind = match error {
            DialError::Sign(error) => Some(error.kind),
            DialError::Refused { status: 403, .. } => Some(ControlErrorKind::AccessDenied),
            _ => None,
        };
        Self { cause: chain(error), kind }
    }

    fn late(what: &str, limit: Duration) -> Self {
        Self { cause: format!("{what} within {} s", limit.as_secs()), kind: None }
    }
}

/// An error with those below it, in one line; what was said already is not repeated.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let below = error.to_string();
        if !text.contains(&below) {
            // Writing to a String cannot fail.
            write!(text, ": {below}").ok();
        }
        next = error.source();
    }
    text
}
