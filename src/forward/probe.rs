//! Whether the destination accepts: a connection that is ended at once.
//!
//! The agent answers our FIN with its own when it has closed its connection to the destination; one that was refused
//! before is told on the stream (`proto-notes/smux.md#streams`). Nothing means that the destination has not answered the
//! agent. Not for health checks: databases count connections that end like this.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::Tunnel;
use crate::session::Mode;

/// What became of a connection that was only to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    /// The destination accepts connections.
    Accepted,
    /// It refuses them.
    Refused,
    /// Not within the time.
    NoAnswer,
    /// The tunnel could not carry the connection.
    Lost,
}

/// Connects once. A tunnel of an agent that cannot multiplex is ready only when the agent is connected: there nothing is
/// tried, for that would use up its connection.
pub async fn probe<T: Tunnel>(tunnel: &T, limit: Duration) -> ProbeResult {
    if tunnel.mode() != Mode::Mux {
        return ProbeResult::Accepted;
    }
    let connection = async {
        let mut stream = tunnel.open().await.map_err(io::Error::other)?;
        stream.shutdown().await?;
        // A server that speaks first is heard out; how much it says is its own affair.
        let mut heard = [0; 1024];
        while stream.read(&mut heard).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    match timeout(limit, connection).await {
        Ok(Ok(())) => ProbeResult::Accepted,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => ProbeResult::Refused,
        Ok(Err(_)) => ProbeResult::Lost,
        Err(_) => ProbeResult::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        forward::{TestPeer, TestTunnel},
        session::OpenError,
    };

    const LIMIT: Duration = Duration::from_secs(10);

    async fn result(agent: impl AsyncFnOnce(TestPeer)) -> ProbeResult {
        let (tunnel, mut opened) = TestTunnel::new();
        let agent = async {
            let peer = opened.recv().await.expect("a stream");
            agent(peer).await;
        };
        tokio::join!(probe(&tunnel, LIMIT), agent).0
    }

    #[tokio::test(start_paused = true)]
    async fn an_answered_fin_means_accepted_whatever_was_said_before() {
        let greeting = async |mut peer: TestPeer| {
            let mut heard = Vec::new();
            peer.io.read_to_end(&mut heard).await.expect("our FIN");
            assert_eq!(heard, b"");
            peer.io.write_all(&[7; 5000]).await.expect("it is read");
            peer.io.shutdown().await.expect("it is read");
        };
        assert_eq!(result(greeting).await, ProbeResult::Accepted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_silence_and_a_loss_are_told_apart() {
        assert_eq!(result(async |peer| peer.refuse()).await, ProbeResult::Refused);
        assert_eq!(result(async |peer| peer.lose()).await, ProbeResult::Lost);
        let silence = async |peer: TestPeer| {
            timeout(2 * LIMIT, std::future::pending::<()>()).await.expect_err("it is silent");
            drop(peer);
        };
        assert_eq!(result(silence).await, ProbeResult::NoAnswer);
        let (tunnel, _opened) = TestTunnel::new();
        tunnel.refuse_streams(OpenError::Ending);
        assert_eq!(probe(&tunnel, LIMIT).await, ProbeResult::Lost);
    }

    #[tokio::test]
    async fn the_one_connection_of_a_basic_session_is_not_used_up() {
        let (tunnel, _opened) = TestTunnel::with("basic", Mode::Basic);
        assert_eq!(probe(&tunnel, LIMIT).await, ProbeResult::Accepted);
        assert_eq!(tunnel.opens(), 0);
    }
}
