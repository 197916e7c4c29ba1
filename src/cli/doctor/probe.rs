//! Whether the destination accepts: a connection that is ended at once.
//!
//! The agent answers our FIN with its own when it has closed its connection to the destination; one that was refused
//! before is told on the stream. Nothing means that the destination has not answered the agent.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::session::{Mode, Session};

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    Refused,
    /// Not within the time.
    NoAnswer,
    /// The session is gone.
    Lost,
}

/// Connects once. A session of an agent that cannot multiplex is ready only when the agent is connected.
pub(super) async fn probe(session: &Session, limit: Duration) -> Verdict {
    if session.mode() != Mode::Mux {
        return Verdict::Accepted;
    }
    let connection = async {
        let mut stream = session.open().await.map_err(io::Error::other)?;
        stream.shutdown().await?;
        // A server that speaks first is heard out; how much it says is its own affair.
        let mut heard = [0; 1024];
        while stream.read(&mut heard).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    match timeout(limit, connection).await {
        Ok(Ok(())) => Verdict::Accepted,
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Verdict::Refused,
            _ => Verdict::Lost,
        },
        Err(_) => Verdict::NoAnswer,
    }
}
