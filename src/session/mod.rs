//! The tokio shell of the state machine: one task per SSM session, the websocket, streams, and the trait through which
//! a session calls the AWS API.
//!
//! What is not here: protocol rules (`crate::proto`), the AWS SDK (`crate::aws`), listeners (`crate::forward`).

mod admission;
mod ahead;
mod clock;
mod coalescing;
mod connection;
pub mod control;
mod data_key;
mod dialer;
mod driver;
mod error;
mod health;
mod options;
mod outbound;
mod proxy;
mod proxy_tunnel;
mod race;
mod reconnector;
mod shared;
mod shell;
mod socket;
mod stream;
mod stream_url;
mod transport;
mod trust;
mod wake;

pub use ahead::{Ahead, Gateway};
pub use connection::Session;
pub use control::{
    BoxFuture, ControlError, ControlErrorKind, ControlPlane, DataKeyGrant, DataKeyRequest, Grant, QueryForm, SessionId,
    StartRequest, Token,
};
pub(crate) use dialer::Watch;
pub use dialer::{Dial, DialError, DialObserver, DialStep, Dialer, Dialled, websocket_config};
pub use error::{ConnectError, OpenError};
pub use health::Health;
pub use options::{Observer, SessionEvent, SessionOptions};
pub use outbound::Outbound;
pub use proxy::{Proxies, Proxy, UnusableProxy};
pub use shell::{Shell, ShellOutput, ShellReader, ShellWriter};
pub use stream::Stream;
pub use stream_url::{StreamUrl, StreamUrlError};
pub use transport::Transport;
pub use trust::{Trust, TrustError};
pub use wake::watch_for_wake;
pub(crate) use wake::woken;

pub use crate::{
    proto::{Mode, SessionKinds, Statistics},
    wire::Size,
};
