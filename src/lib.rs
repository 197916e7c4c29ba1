//! Port forwarding through AWS SSM Session Manager: one native implementation, without the AWS CLI and its plugin.
//!
//! A protocol library with a small tool on top. From the bottom up, each layer knows only those below it:
//!
//! ```text
//! cli ─▶ forward ─▶ session ─▶ proto ─▶ wire
//!  └───▶ aws ─────▶ session::{control, Outbound}
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`wire`] | bytes to types and back: messages, payloads, JSON bodies, smux frames |
//! | [`proto`] | the state machine of a data channel, without IO, clock or randomness of its own |
//! | [`session`] | the tokio shell around it: websocket, streams, the way out of this machine (proxies, TLS), and the trait for the AWS API |
//! | [`aws`] | that trait with the AWS SDK: sessions, signatures, credentials |
//! | [`forward`] | listeners, relays and their half-close policy |
//! | [`cli`] | the program `ssmfwd` |
//!
//! Behind the feature `emulator` there is an emulated AWS on loopback for tests and demonstrations.
//!
//! # Example
//!
//! Start a session, open a stream, read and write. Against the emulator, so that it can be run anywhere; on real AWS the
//! control plane is `Aws::load(AwsOptions::default()).await?`, and there is nothing else to change.
//!
#![cfg_attr(feature = "emulator", doc = "```")]
#![cfg_attr(not(feature = "emulator"), doc = "```ignore")]
//! use std::sync::Arc;
//!
//! use ssmfwd::{
//!     aws::{Aws, AwsOptions},
//!     emulator::{Emulator, EmulatorConfig},
//!     session::{Dialer, Session, SessionOptions, StartRequest},
//! };
//! use tokio::{
//!     io::{AsyncReadExt, AsyncWriteExt},
//!     net::TcpListener,
//! };
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A destination that answers in upper case.
//! let destination = TcpListener::bind("127.0.0.1:0").await?;
//! let port = destination.local_addr()?.port();
//! tokio::spawn(async move {
//!     let (mut socket, _) = destination.accept().await?;
//!     let mut request = [0; 5];
//!     socket.read_exact(&mut request).await?;
//!     socket.write_all(&request.to_ascii_uppercase()).await
//! });
//!
//! let emulator = Emulator::start(EmulatorConfig::default())?;
//! let control = Aws::from_sdk_config(&emulator.sdk_config(), AwsOptions::default())?;
//!
//! let request = StartRequest {
//!     target: "i-0123456789abcdef0".into(),
//!     document: Some("AWS-StartPortForwardingSession".into()),
//!     parameters: [("portNumber".into(), vec![port.to_string()])].into(),
//!     reason: None,
//! };
//! let dialer = Arc::new(Dialer::new()?);
//! let cancel = CancellationToken::new();
//! let session =
//!     Session::connect(Arc::new(control), dialer, request, SessionOptions::default(), cancel).await?;
//!
//! let mut stream = session.open().await?;
//! stream.write_all(b"hello").await?;
//! let mut answer = Vec::new();
//! stream.read_to_end(&mut answer).await?;
//! assert_eq!(answer, b"HELLO");
//!
//! drop(stream);
//! session.close().await;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "emulator")]
pub mod emulator;

pub mod aws;
pub mod cli;
pub mod forward;
pub mod proto;
pub mod session;
pub mod wire;

/// README's examples are compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
