//! Port forwarding through AWS SSM Session Manager: one native implementation, without the AWS CLI and its plugin.
//!
//! [`Client`] is what other programs use: a stream straight to a destination behind a target ([`Client::connect`]), or a
//! forward that listens, as the program has them ([`Client::tunnel`]).
//!
#![cfg_attr(feature = "emulator", doc = "```")]
#![cfg_attr(not(feature = "emulator"), doc = "```ignore")]
//! use ssmfwd::{Client, ClientOptions, aws::{Aws, AwsOptions}};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! # use ssmfwd::emulator::{Emulator, EmulatorConfig};
//! # use tokio::net::{TcpListener, TcpStream};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # // A destination that answers twice in upper case.
//! # let destination = TcpListener::bind("127.0.0.1:0").await?;
//! # let port = destination.local_addr()?.port();
//! # tokio::spawn(async move {
//! #     for _ in 0..2 {
//! #         let (mut socket, _) = destination.accept().await?;
//! #         let mut request = [0; 5];
//! #         socket.read_exact(&mut request).await?;
//! #         socket.write_all(&request.to_ascii_uppercase()).await?;
//! #     }
//! #     std::io::Result::Ok(())
//! # });
//! // On real AWS: `let client = Client::from_env().await?;`
//! let emulator = Emulator::start(EmulatorConfig::default())?;
//! let aws = Aws::from_sdk_config(&emulator.sdk_config(), AwsOptions::default())?;
//! let client = Client::new(aws, ClientOptions::default());
//!
//! // A stream: `port` is one of the target itself, and "HOST:PORT" what the target can reach.
//! let mut stream = client.connect("i-0123456789abcdef0", port).await?;
//! stream.write_all(b"hello").await?;
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer).await?;
//! assert_eq!(answer, "HELLO");
//!
//! // A forward: any program of this machine can connect to it.
//! let forward = format!("0:127.0.0.1:{port}").parse()?;
//! let tunnel = client.tunnel(forward).target("i-0123456789abcdef0").bind()?;
//! tunnel.ready().await?;
//! let address = tunnel.local_addr().expect("no unix socket was asked for");
//! let mut socket = TcpStream::connect(address).await?;
//! socket.write_all(b"world").await?;
//! let mut answer = String::new();
//! socket.read_to_string(&mut answer).await?;
//! assert_eq!(answer, "WORLD");
//!
//! // Ends all sessions, which would otherwise live on until their idle timeout.
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! What happens comes as a stream of events ([`Tunnel::events`], [`Client::events`]), what is going on at a moment as
//! [`Tunnel::status`].
//!
//! # Layers
//!
//! A protocol library with a small tool on top. From the bottom up, each layer knows only those below it:
//!
//! ```text
//! cli, client ─▶ forward ─▶ session ─▶ proto ─▶ wire
//!        └─────▶ aws ─────▶ session::{control, Outbound}
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`wire`] | bytes to types and back: messages, payloads, JSON bodies, smux frames |
//! | [`proto`] | the state machine of a data channel, without IO, clock or randomness of its own |
//! | [`session`] | the tokio shell around it: websocket, streams, the way out of this machine (proxies, TLS), and the trait for the AWS API |
//! | [`aws`] | that trait with the AWS SDK: sessions, signatures, credentials |
//! | [`forward`] | listeners, relays and their half-close policy, the pool of sessions behind a forward |
//! | [`client`] | all of it as one interface for other programs: its types are here at the root too |
//! | [`cli`] | the program `ssmfwd` |
//!
//! Two things are called tunnel: [`Tunnel`] here is a forward that runs; [`forward::Tunnel`] is the trait of what a
//! forward sends its connections through.
//!
//! Behind the feature `emulator` there is an emulated AWS on loopback for tests and demonstrations.
//!
//! # A session alone
//!
//! One layer down there are no pools, no replacement and no half-close policy: one session, and its streams.
//!
#![cfg_attr(feature = "emulator", doc = "```")]
#![cfg_attr(not(feature = "emulator"), doc = "```ignore")]
//! use std::sync::Arc;
//!
//! use ssmfwd::session::{Dialer, Session, SessionOptions, StartRequest};
//! # use ssmfwd::{aws::{Aws, AwsOptions}, emulator::{Emulator, EmulatorConfig}};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! # use tokio::net::TcpListener;
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let destination = TcpListener::bind("127.0.0.1:0").await?;
//! # let port = destination.local_addr()?.port();
//! # tokio::spawn(async move {
//! #     let (mut socket, _) = destination.accept().await?;
//! #     let mut request = [0; 5];
//! #     socket.read_exact(&mut request).await?;
//! #     socket.write_all(&request.to_ascii_uppercase()).await
//! # });
//! # let emulator = Emulator::start(EmulatorConfig::default())?;
//! # let control = Arc::new(Aws::from_sdk_config(&emulator.sdk_config(), AwsOptions::default())?);
//! // On real AWS: `let control = Arc::new(Aws::load(AwsOptions::default()).await?);`
//! let dialer = Arc::new(Dialer::over(control.outbound().clone()));
//! let request = StartRequest {
//!     target: "i-0123456789abcdef0".into(),
//!     document: Some("AWS-StartPortForwardingSession".into()),
//!     parameters: [("portNumber".into(), vec![port.to_string()])].into(),
//!     reason: None,
//! };
//! let cancel = CancellationToken::new();
//! let session = Session::connect(control, dialer, request, SessionOptions::default(), cancel).await?;
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
pub mod client;
pub mod forward;
pub mod proto;
pub mod session;
pub mod wire;

pub use client::{Client, ClientError, ClientOptions, ClientStream, Events, Missed, Tunnel, TunnelBuilder};

/// README's examples are compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
