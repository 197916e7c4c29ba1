//! The tokio shell of the state machine: one task per SSM session, the websocket, streams, and the trait through which
//! a session calls the AWS API.
//!
//! What is not here: protocol rules (`crate::proto`), the AWS SDK (`crate::aws`), listeners (`crate::forward`).

mod clock;
mod connection;
pub mod control;
mod dialer;
mod driver;
mod error;
mod options;
mod shared;
mod stream;
mod stream_url;
mod transport;

pub use connection::Session;
pub use control::{
    BoxFuture, ControlError, ControlErrorKind, ControlPlane, Grant, QueryForm, SessionId, StartRequest, Token,
};
pub use dialer::{DialError, Dialer, websocket_config};
pub use error::{ConnectError, OpenError};
pub use options::{Observer, SessionEvent, SessionOptions};
pub use stream::Stream;
pub use stream_url::{StreamUrl, StreamUrlError};

pub use crate::proto::Mode;
