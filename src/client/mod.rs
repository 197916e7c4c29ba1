//! The engine as one interface for other programs: forwards that listen, and streams straight to a destination.
//!
//! ```text
//! Client ── connect(target, destination) ──▶ ClientStream    AsyncRead + AsyncWrite, no local port
//!   │           └─ Pools: sessions by target and destination, shared and pooled as those of a forward
//!   └────── tunnel(forward) ── bind() ─────▶ Tunnel          listeners, as the program has them
//! ```
//!
//! Nothing here knows the protocol or a listener: [`crate::forward`] has them, and this module only owns what a program
//! would otherwise have to keep together itself: the AWS API, the way out, what sessions of one target share, and the
//! end of all that was begun.

mod error;
mod events;
mod life;
mod options;
mod orderly;
mod pools;
mod stream;
mod tunnel;

use std::{fmt, sync::Arc};

pub use self::{
    error::ClientError,
    events::{Events, Missed},
    options::ClientOptions,
    stream::ClientStream,
    tunnel::{Tunnel, TunnelBuilder},
};
use self::{events::EventSource, life::Life, pools::Pools};
use crate::{
    aws::{Aws, AwsOptions},
    forward::{Destination, ForwardSpec, SessionConnector},
    session::{ControlError, ControlPlane, Dialer, watch_for_wake},
};

/// Forwards and streams through AWS SSM Session Manager.
///
/// Cheap to clone; all clones share one way out, one account of sessions per target, and the sessions of streams. Must
/// be made and used inside a tokio runtime, whose tasks own the sessions.
///
/// # The end
/// Sessions must be ended, or they live on at the target until the service's idle timeout. [`close`](Self::close) ends
/// all of them and returns when that is done. Dropping the last clone does the same in the background, but for sessions
/// that [`ClientStream`]s and [`Tunnel`]s still use: these end with them. The background is the runtime: what it has no
/// time for when it is shut down is not done, so programs that end call `close` first.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Arc<SessionConnector>,
    options: ClientOptions,
    pools: Arc<Pools<SessionConnector>>,
    events: EventSource,
    life: Life,
}

impl Client {
    /// A client with the credentials, the region and the proxies that the AWS CLI would use here.
    ///
    /// # Errors
    /// As [`Aws::load`].
    pub async fn from_env() -> Result<Self, ControlError> {
        Ok(Self::new(Aws::load(AwsOptions::default()).await?, ClientOptions::default()))
    }

    /// A client of this AWS API, which goes the same way to data channels.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(aws: Aws, options: ClientOptions) -> Self {
        let dialer = Dialer::over(Arc::clone(aws.outbound()));
        Self::with_control_plane(Arc::new(aws), dialer, options)
    }

    /// A client of any control plane.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn with_control_plane(control: Arc<dyn ControlPlane>, dialer: Dialer, options: ClientOptions) -> Self {
        let mut session = options.session.clone();
        session.wake.get_or_insert_with(watch_for_wake);
        let connector = Arc::new(SessionConnector::new(control, Arc::new(dialer), session));
        let (life, events) = (Life::default(), EventSource::new());
        let pools = Pools::new(connector.clone(), options.direct(), options.request(), events.observer(), life.clone());
        Self { shared: Arc::new(Shared { connector, options, pools: Arc::new(pools), events, life }) }
    }

    /// A stream to a destination, through a target, without a local port.
    ///
    /// `target` is what `--target` takes: `i-…`, `mi-…`, `ecs:CLUSTER/SERVICE`, `name:NAME`, `tag:KEY=VALUE`. The
    /// destination is `"HOST:PORT"` as seen from the target, or the number of a port on the target itself.
    ///
    /// The first stream to a destination starts an SSM session, which takes a second or two; those that follow share it,
    /// and more sessions when they are busy ([`ClientOptions::sessions`]). A session that is lost is replaced; while that
    /// takes, new streams wait for [`ClientOptions::reconnect_window`]. One that the service has ended (idle timeout, an
    /// administrator) is replaced when the next stream needs it. Sessions that no stream has used for
    /// [`ClientOptions::idle_timeout`] are ended. So connection pools may connect and disconnect as they please.
    ///
    /// Does not wait for the destination: one that refuses shows as
    /// [`ConnectionRefused`](std::io::ErrorKind::ConnectionRefused) when the stream is read. Waits otherwise for as long
    /// as starting a session may take; to wait less, drop the future, or put a timeout around it. A start that is under
    /// way is finished then, for the next one who asks.
    ///
    /// # Errors
    /// [`Destination`](ClientError::Destination) for a text that is none, [`Start`](ClientError::Start) if the first
    /// session cannot be had, [`NoSession`](ClientError::NoSession) if a lost one could not be brought back in time,
    /// [`Closed`](ClientError::Closed) after [`close`](Self::close).
    pub async fn connect<D>(&self, target: &str, destination: D) -> Result<ClientStream, ClientError>
    where
        D: TryInto<Destination>,
        ClientError: From<D::Error>,
    {
        let destination = destination.try_into()?;
        let stream = self.shared.pools.open(target, destination).await?;
        Ok(ClientStream::new(stream, self.shared.options.linger))
    }

    /// A forward of local addresses: what the program does for each FORWARD of its command line.
    ///
    /// ```
    /// # fn example(client: &ssmfwd::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let tunnel = client.tunnel("13306:db.internal:3306".parse()?).target("name:bastion").bind()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn tunnel(&self, forward: ForwardSpec) -> TunnelBuilder {
        TunnelBuilder::new(self, forward)
    }

    /// What happens in the sessions of streams, from now on, until the client is closed. Tunnels have events of
    /// their own.
    #[must_use]
    pub fn events(&self) -> Events {
        self.shared.events.subscribe()
    }

    /// Ends all sessions, those of tunnels included, and returns when nothing is left. Tunnels drain as in
    /// [`Tunnel::close`]; streams that are still open are reset, once what was written to them is sent. Clones of this
    /// client are closed too.
    pub async fn close(&self) {
        self.shared.life.close().await;
        self.shared.events.end();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.shared.options).finish_non_exhaustive()
    }
}
