//! A session as its owner sees it: made, used, ended.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    sync::{oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    ConnectError, ControlPlane, Dial, Grant, Health, Mode, OpenError, SessionEvent, SessionId, SessionOptions, Shell,
    StartRequest, Stream, Token,
    ahead::{Ahead, meanwhile},
    clock,
    data_key::DataKeys,
    driver::{Driver, Ended, Reconnect},
    reconnector::Reconnector,
    shared::{Shared, Status},
    wake,
};
use crate::{
    proto::{self, Cause, CloseReason, Config, Initiator, Input, Statistics},
    wire::{SessionTypeParameters, Size},
};

/// How long a cancelled StartSession is waited for: if it succeeds after all, its session has to be ended.
const START_AFTER_CANCEL: Duration = Duration::from_secs(5);
/// How long TerminateSession may take.
const TERMINATE: Duration = Duration::from_secs(5);

/// An SSM session that is ready. Cheap to clone; all clones are the same session, which is ended when the last clone
/// and the last stream are dropped.
#[derive(Clone)]
pub struct Session {
    holder: Arc<Holder>,
    mode: Mode,
}

/// Ends the session when nobody holds it any more.
pub(super) struct Holder {
    pub(super) shared: Arc<Shared>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.holder.shared.id).field("mode", &self.mode).finish()
    }
}

impl Session {
    /// StartSession, websocket, handshake; returns when the session is ready to carry data.
    ///
    /// # Errors
    /// See [`ConnectError`]. When `cancel` fires, and on any error, the SSM session is ended before this returns.
    pub async fn connect<D: Dial>(
        control: Arc<dyn ControlPlane>,
        dialer: Arc<D>,
        request: StartRequest,
        options: SessionOptions,
        cancel: CancellationToken,
    ) -> Result<Self, ConnectError> {
        let deadline = Instant::now() + options.connect_timeout;
        let target = request.target.clone();
        let starting = start(&control, request, &options, deadline, &cancel);
        let (grant, ahead) = meanwhile(starting, dialer.connect_ahead(&*control)).await;
        let grant = grant?;
        tracing::debug!(session = %grant.session_id, url = %grant.url, "session started");
        let target = grant.target.clone().or(Some(target));
        Self::attach(control, dialer, grant, target, options, deadline, cancel, ahead).await
    }

    /// The same for a session that somebody else has started: with the permission that StartSession gave them, and the
    /// target exactly as they named it there, without which it cannot be sealed. Like any other it is resumed when its websocket is lost, unless its
    /// StreamUrl is presigned, and ended with this one's end.
    ///
    /// # Errors
    /// See [`ConnectError`]. When `cancel` fires, and on any error, the SSM session is ended before this returns.
    pub async fn adopt<D: Dial>(
        control: Arc<dyn ControlPlane>,
        dialer: Arc<D>,
        grant: Grant,
        target: Option<String>,
        options: SessionOptions,
        cancel: CancellationToken,
    ) -> Result<Self, ConnectError> {
        let deadline = Instant::now() + options.connect_timeout;
        tracing::debug!(session = %grant.session_id, url = %grant.url, "session adopted");
        let target = grant.target.clone().or(target);
        Self::attach(control, dialer, grant, target, options, deadline, cancel, None).await
    }

    /// The websocket and the handshake of a session that was started.
    #[expect(clippy::too_many_arguments, reason = "what a session consists of")]
    async fn attach<D: Dial>(
        control: Arc<dyn ControlPlane>,
        dialer: Arc<D>,
        grant: Grant,
        target: Option<String>,
        options: SessionOptions,
        deadline: Instant,
        cancel: CancellationToken,
        ahead: Option<Ahead<D::Io>>,
    ) -> Result<Self, ConnectError> {
        let named = target.clone().unwrap_or_default();
        options.tell(SessionEvent::Started { session: grant.session_id.clone(), target: named });
        let unowned = Unowned::new(&control, &grant.session_id, &options);
        let dialled = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ConnectError::Cancelled),
            dialled = timeout_at(deadline, dialer.dial(&*control, &grant.url, ahead)) => match dialled {
                Ok(dialled) => dialled.map_err(ConnectError::Dial),
                Err(_) => Err(ConnectError::TimedOut(options.connect_timeout)),
            },
        };
        let dialled = match dialled {
            Ok(dialled) => dialled,
            Err(error) => {
                terminate(&*control, &grant.session_id, &options).await;
                unowned.disarm();
                return Err(error);
            }
        };
        unowned.disarm();
        if dialled.fell_back_to_unsigned {
            options.tell(SessionEvent::UnsignedUpgrade);
        }
        // A presigned URL is somebody else's permission, and ResumeSession is not part of it.
        let reconnect = (!grant.url.is_presigned()).then(|| {
            let (control, session, options) = (Arc::clone(&control), grant.session_id.clone(), options.clone());
            let reconnector = Reconnector { control, dialer, session, options };
            Box::new(move || reconnector.attempt()) as Reconnect<D::Io>
        });
        let link = FirstLink { token: grant.token, websocket: dialled.websocket, reconnect, target };
        Self::run(control, grant.session_id, link, options, deadline, cancel).await
    }

    /// The same over a websocket that the caller has opened. Such a session ends with its websocket: nobody knows how
    /// to open another; nor can it be sealed, because nobody knows its target.
    ///
    /// # Errors
    /// See [`ConnectError`]. When `cancel` fires, and on any error, the SSM session is ended before this returns.
    pub async fn over<S>(
        control: Arc<dyn ControlPlane>,
        session_id: SessionId,
        token: Token,
        websocket: WebSocketStream<S>,
        options: SessionOptions,
        cancel: CancellationToken,
    ) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let deadline = Instant::now() + options.connect_timeout;
        let link = FirstLink { token, websocket, reconnect: None, target: None };
        Self::run(control, session_id, link, options, deadline, cancel).await
    }

    async fn run<S>(
        control: Arc<dyn ControlPlane>,
        session_id: SessionId,
        link: FirstLink<S>,
        options: SessionOptions,
        deadline: Instant,
        cancel: CancellationToken,
    ) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let now = clock::now();
        let (client_id, [seed, _]) = (Uuid::new_v4(), Uuid::new_v4().as_u64_pair().into());
        let mut config = Config::new(client_id, seed, clock::epoch_ms());
        config.ping_interval = options.ping_interval;
        config.stall_timeout = options.stall_timeout;
        config.keep_alive = options.keep_alive;
        config.kinds = options.kinds;
        config.terminal = options.terminal;
        config.handshake_timeout = deadline.into_std().saturating_duration_since(now);
        config.budget = options.budget.clone();
        config.max_payload = options.max_payload;
        config.max_message_rate = options.max_message_rate;
        config.path = options.path.clone();
        config.slowdown = options.slowdown.clone();
        let mut proto = proto::Session::new(config, now);
        proto.handle(now, Input::Connected(link.token));
        let data_keys = DataKeys { control: Arc::clone(&control), session: session_id.clone(), target: link.target };
        let shared = Arc::new(Shared::new(session_id, proto));
        let driver = Driver::new(Arc::clone(&shared), options.clone(), link.websocket, link.reconnect, data_keys);
        tokio::spawn(supervise(driver, Arc::clone(&shared), control, options));

        let holder = Arc::new(Holder { shared });
        let mut status = holder.shared.status.subscribe();
        let reached = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            reached = status.wait_for(|status| *status != Status::Connecting) => reached.ok().map(|status| status.clone()),
        };
        match reached {
            Some(Status::Ready) => {
                let mode = holder.shared.lock().proto.mode();
                match mode {
                    Some(mode) => Ok(Self { holder, mode }),
                    // It has ended already.
                    None => Err(ConnectError::Closed(finished(&holder.shared).await)),
                }
            }
            Some(Status::Closed(reason) | Status::Finished(reason)) => {
                let (left, no_data_key) = {
                    let mut state = holder.shared.lock();
                    let left = state.proto.mode().filter(|_| state.proto.left_something());
                    (left, state.no_data_key.take())
                };
                // Over already, as short commands are: what it has written is there.
                if let Some(mode) = left {
                    return Ok(Self { holder, mode });
                }
                finished(&holder.shared).await;
                Err(no_data_key.map_or(ConnectError::Closed(reason), ConnectError::Control))
            }
            Some(Status::Connecting) | None => {
                holder.shared.end();
                finished(&holder.shared).await;
                Err(ConnectError::Cancelled)
            }
        }
    }

    /// The session's identity.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.holder.shared.id
    }

    /// What is carried, and how.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the session can carry data at the moment, and every change of that.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.holder.shared.health.subscribe()
    }

    /// What the agent says it is, four numbers such as `3.3.987.0`; `None` once the session has ended, and of a shell
    /// that began without a handshake.
    #[must_use]
    pub fn agent_version(&self) -> Option<String> {
        self.holder.shared.lock().proto.agent_version().map(str::to_owned)
    }

    /// The smoothed round trip time to the agent; a guess before there is a measurement.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.holder.shared.lock().proto.rtt()
    }

    /// The smoothed round trip time to the agent, once one was measured.
    #[must_use]
    pub fn srtt(&self) -> Option<Duration> {
        self.holder.shared.lock().proto.srtt()
    }

    /// What was carried, and how fast. Takes the session's lock for a moment.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.holder.shared.lock().proto.statistics(clock::now())
    }

    /// A new stream. In basic mode this waits until the stream before it is over; first come, first served.
    ///
    /// Does not wait for the destination: whether it accepts shows on the stream.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self) -> Result<Stream, OpenError> {
        if self.mode == Mode::Shell {
            return Err(OpenError::WrongKind);
        }
        let shared = &self.holder.shared;
        let _turn = if self.mode == Mode::Basic { Some(shared.turn.lock().await) } else { None };
        loop {
            let mut freed = std::pin::pin!(shared.can_open.notified());
            freed.as_mut().enable();
            match shared.change(|state| (state.proto.open_stream(), true)) {
                Ok(id) => {
                    tracing::debug!(session = %shared.id, stream = %id, "stream opened");
                    return Ok(Stream::new(Arc::clone(&self.holder), id));
                }
                Err(proto::OpenError::Busy) => freed.await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The shell or command of a session that carries one. There is one, so this succeeds once; also when it has ended,
    /// so that what it wrote can be read.
    ///
    /// # Errors
    /// See [`OpenError`]: [`WrongKind`](OpenError::WrongKind) in sessions that carry connections.
    pub fn shell(&self) -> Result<Shell, OpenError> {
        if self.mode != Mode::Shell {
            return Err(OpenError::WrongKind);
        }
        let id = self.holder.shared.change(|state| (state.proto.open_stream(), true))?;
        Ok(Shell::new(Arc::clone(&self.holder), id))
    }

    /// A shell's terminal has this size now, in characters. Of several that wait to be sent only the newest is.
    pub fn resize(&self, cols: u32, rows: u32) {
        self.holder.shared.change(|state| (state.proto.set_size(Size { cols, rows }), true));
    }

    /// See [`Shell::exit_code`]. Stays when the session has ended.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.holder.shared.lock().proto.exit_code()
    }

    /// The session type and the document's properties, as the agent named them in the handshake; `None` of a shell that
    /// began without one. Stays when the session has ended.
    #[must_use]
    pub fn declared(&self) -> Option<SessionTypeParameters> {
        self.holder.shared.lock().proto.declared().cloned()
    }

    /// Whether payloads are sealed with a data key of AWS KMS.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.holder.shared.lock().proto.is_sealed()
    }

    /// Completes when everything that was written to the session's streams is acknowledged, which agents do when the
    /// destination, or the shell, has taken it; takes as long as that takes. A session that carries a single connection
    /// ends by itself then, if that connection was ended.
    /// Cancel-safe.
    ///
    /// # Errors
    /// Why the session ended, if it did before.
    pub async fn drained(&self) -> Result<(), CloseReason> {
        let shared = &self.holder.shared;
        let mut closed = std::pin::pin!(self.closed());
        loop {
            let mut drained = std::pin::pin!(shared.drained.notified());
            drained.as_mut().enable();
            if shared.change(|state| (state.proto.is_drained(), true)) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = drained => {}
                reason = &mut closed => return Err(reason),
            }
        }
    }

    /// The machine or the network may have woken: a lost websocket is tried again at once, and whether the present one
    /// still lives is found out within seconds.
    pub fn wake(&self) {
        self.holder.shared.wake();
    }

    /// Completes when the session has ended, for whatever reason; at once if it has. Cancel-safe.
    pub fn closed(&self) -> impl Future<Output = CloseReason> + Send + use<> {
        let mut status = self.holder.shared.status.subscribe();
        async move {
            let over = |status: &Status| matches!(status, Status::Closed(_) | Status::Finished(_));
            match status.wait_for(over).await.as_deref() {
                Ok(Status::Closed(reason) | Status::Finished(reason)) => reason.clone(),
                _ => crashed(),
            }
        }
    }

    /// Ends the session: what is queued is sent (bounded), the agent is told, then the API if needed. Returns when
    /// nothing is left to be done.
    pub async fn close(&self) -> CloseReason {
        self.holder.shared.end();
        finished(&self.holder.shared).await
    }
}

/// The websocket of a new session, what opens its data channel, and what replaces it.
struct FirstLink<S> {
    token: Token,
    websocket: WebSocketStream<S>,
    reconnect: Option<Reconnect<S>>,
    /// What the session was started on, if that is known.
    target: Option<String>,
}

/// StartSession. In a task of its own, because a call that nobody waits for any more may still succeed, and then there
/// is a session that has to be ended.
async fn start(
    control: &Arc<dyn ControlPlane>,
    request: StartRequest,
    options: &SessionOptions,
    deadline: Instant,
    cancel: &CancellationToken,
) -> Result<Grant, ConnectError> {
    tracing::debug!(target = request.target, document = request.document, "StartSession");
    let (sender, mut started) = oneshot::channel();
    let (caller, caller_options) = (Arc::clone(control), options.clone());
    tokio::spawn(async move {
        let result = caller.start(&request).await;
        if let Err(Ok(grant)) = sender.send(result) {
            terminate(&*caller, &grant.session_id, &caller_options).await;
        }
    });
    let error = tokio::select! {
        biased;
        () = cancel.cancelled() => ConnectError::Cancelled,
        result = timeout_at(deadline, &mut started) => match result {
            Ok(Ok(result)) => return Ok(result?),
            Ok(Err(_)) => return Err(ConnectError::Closed(crashed())),
            Err(_) => ConnectError::TimedOut(options.connect_timeout),
        },
    };
    // The caller may end the process after this.
    match timeout(START_AFTER_CANCEL, started).await {
        Ok(Ok(Ok(grant))) => terminate(&**control, &grant.session_id, options).await,
        // Says more than that nobody waited for it: of several forwards, the first that failed is to be reported.
        Ok(Ok(Err(failure))) => return Err(failure.into()),
        _ => {}
    }
    Err(error)
}

/// A session that has no task yet. Dropped, it is ended as well as the drop of a future allows.
struct Unowned(Option<(Arc<dyn ControlPlane>, SessionId, SessionOptions)>);

impl Unowned {
    fn new(control: &Arc<dyn ControlPlane>, session: &SessionId, options: &SessionOptions) -> Self {
        Self(Some((Arc::clone(control), session.clone(), options.clone())))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Unowned {
    fn drop(&mut self) {
        if let (Some((control, session, options)), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move { terminate(&*control, &session, &options).await });
        }
    }
}

/// Runs the driver to its end and sees to it that the SSM session is ended.
async fn supervise<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    driver: Driver<S>,
    shared: Arc<Shared>,
    control: Arc<dyn ControlPlane>,
    options: SessionOptions,
) {
    // A task of its own: a bug in it must not leave the session, and those who wait for it, behind.
    let mut driving = tokio::spawn(driver);
    let mut wakes = options.wake.clone();
    let ended = loop {
        tokio::select! {
            ended = &mut driving => break ended,
            () = wake::woken(&mut wakes) => shared.wake(),
        }
    };
    let ended = ended.unwrap_or_else(|_| Ended { reason: crashed(), terminate: true });
    // If the driver had no time for it. And there are those who do not wait for data, but only for this.
    shared.abandon(ended.reason.clone());
    tracing::debug!(session = %shared.id, reason = %ended.reason, terminate = ended.terminate, "session ended");
    shared.health.send_replace(Health::Ended(ended.reason.clone()));
    shared.status.send_replace(Status::Closed(ended.reason.clone()));
    shared.can_open.notify_waiters();
    if ended.terminate {
        terminate(&*control, &shared.id, &options).await;
    }
    shared.status.send_replace(Status::Finished(ended.reason));
}

async fn terminate(control: &dyn ControlPlane, session: &SessionId, options: &SessionOptions) {
    tracing::debug!(%session, "TerminateSession");
    let failure = match timeout(TERMINATE, control.terminate(session)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("TerminateSession of {session} was not answered within {} s", TERMINATE.as_secs()),
    };
    options.tell(SessionEvent::NotTerminated(failure));
}

async fn finished(shared: &Shared) -> CloseReason {
    let mut status = shared.status.subscribe();
    match status.wait_for(|status| matches!(status, Status::Finished(_))).await.as_deref() {
        Ok(Status::Finished(reason)) => reason.clone(),
        _ => crashed(),
    }
}

fn crashed() -> CloseReason {
    CloseReason::new(Initiator::Library, Cause::Protocol("the session's task is gone".to_owned()))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::session::{ControlError, ControlErrorKind, QueryForm, StreamUrl, control::BoxFuture};

    /// An API that refuses to start sessions, once it has been cancelled.
    struct RefusesLate(CancellationToken);

    impl ControlPlane for RefusesLate {
        fn start<'a>(&'a self, request: &'a StartRequest) -> BoxFuture<'a, Result<Grant, ControlError>> {
            Box::pin(async {
                self.0.cancelled().await;
                Err(ControlError {
                    kind: ControlErrorKind::AccessDenied,
                    operation: "StartSession",
                    resource: request.target.clone(),
                    message: "no".to_owned(),
                    source: None,
                })
            })
        }

        fn resume<'a>(&'a self, _: &'a SessionId) -> BoxFuture<'a, Result<Option<Grant>, ControlError>> {
            Box::pin(async { Ok(None) })
        }

        fn terminate<'a>(&'a self, _: &'a SessionId) -> BoxFuture<'a, Result<(), ControlError>> {
            Box::pin(async { Ok(()) })
        }

        fn sign_upgrade<'a>(
            &'a self,
            _: &'a StreamUrl,
            _: QueryForm,
        ) -> BoxFuture<'a, Result<Vec<(HeaderName, HeaderValue)>, ControlError>> {
            Box::pin(async { Ok(Vec::new()) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_after_it_was_cancelled_has_failed() {
        let cancel = CancellationToken::new();
        let control: Arc<dyn ControlPlane> = Arc::new(RefusesLate(cancel.clone()));
        cancel.cancel();
        let deadline = Instant::now() + Duration::from_secs(1);
        let started = start(&control, StartRequest::default(), &SessionOptions::default(), deadline, &cancel).await;
        assert!(matches!(started, Err(ConnectError::Control(_))), "{started:?}");
    }
}
