//! `--wait`: COMMAND is run when the destination accepts connections, not before.
//!
//! It is tried until the first success and never again: databases count connections that end at once. A destination that
//! refuses is asked again, later and later; one that does not answer is waited for, because the agent is still trying.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::{
    cli::{
        plan::{Access, PlannedForward},
        report::{Report, Symptom},
    },
    forward::{ProbeResult, Tunnel, probe},
    proto::CloseReason,
    session::ConnectError,
};

/// The wait after a refusal, doubled up to [`AGAIN_MAX`]. A server that is being started takes seconds.
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);

/// Why COMMAND is not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Unreached {
    /// The destination refused until the end.
    Refused,
    /// The destination did not answer.
    Silent,
    /// The session has ended.
    Lost(CloseReason),
}

impl Unreached {
    /// What is said of it: status 8, or that of a lost session.
    pub(in crate::cli) fn report(self, forward: &PlannedForward, access: &Access) -> Report {
        match self {
            Self::Refused => Report::destination(Symptom::DestinationRefused, forward, access),
            Self::Silent => Report::destination(Symptom::DestinationSilent, forward, access),
            Self::Lost(reason) => Report::connect(&ConnectError::Closed(reason), forward, access),
        }
    }
}

/// Waits until the destination accepts. Tells of each refusal how long it waits until it tries again.
///
/// # Errors
/// When it has not by `deadline`, or the session has ended.
pub(in crate::cli) async fn until_accepted<T: Tunnel>(
    tunnel: &T,
    deadline: Instant,
    mut refused: impl FnMut(Duration),
) -> Result<(), Unreached> {
    let mut again = AGAIN_MIN;
    let mut why = Unreached::Silent;
    loop {
        match probe(tunnel, deadline.saturating_duration_since(Instant::now())).await {
            ProbeResult::Accepted => return Ok(()),
            ProbeResult::Refused => {
                why = Unreached::Refused;
                refused(again);
            }
            ProbeResult::NoAnswer => return Err(Unreached::Silent),
            // If it has not ended, it was only one connection.
            ProbeResult::Lost => {}
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(why);
        }
        if let Ok(reason) = timeout_at(deadline.min(now + again), tunnel.closed()).await {
            return Err(Unreached::Lost(reason));
        }
        again = AGAIN_MAX.min(2 * again);
        // Who has been refused until now and cannot be asked again was refused.
        if Instant::now() >= deadline {
            return Err(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        forward::{TestPeer, TestTunnel},
        proto::{Cause, Initiator},
    };

    const LIMIT: Duration = Duration::from_secs(30);

    async fn accept(mut peer: TestPeer) {
        peer.io.read_to_end(&mut Vec::new()).await.expect("our FIN");
        peer.io.shutdown().await.expect("it is read");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusing_destination_is_asked_again_later_and_later() {
        let (tunnel, mut opened) = TestTunnel::new();
        let agent = async {
            for _ in 0..7 {
                opened.recv().await.expect("a stream").refuse();
            }
            accept(opened.recv().await.expect("a stream")).await;
            opened
        };
        let mut waits = Vec::new();
        let waiting = until_accepted(&tunnel, Instant::now() + LIMIT, |wait| waits.push(wait.as_millis()));
        let (result, mut opened) = tokio::join!(waiting, agent);
        assert_eq!(result, Ok(()));
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert!(opened.try_recv().is_err(), "nothing is asked after the first success");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_to_the_end_is_refused() {
        let (tunnel, mut opened) = TestTunnel::new();
        let begun = Instant::now();
        let agent = async {
            while let Some(peer) = opened.recv().await {
                peer.refuse()
            }
        };
        let result = tokio::select! {
            result = until_accepted(&tunnel, begun + LIMIT, |_| {}) => result,
            () = agent => panic!("the tunnel is there"),
        };
        assert_eq!(result, Err(Unreached::Refused));
        assert_eq!(begun.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_silence() {
        let (tunnel, opened) = TestTunnel::new();
        let begun = Instant::now();
        assert_eq!(until_accepted(&tunnel, begun + LIMIT, |_| {}).await, Err(Unreached::Silent));
        assert_eq!((tunnel.opens(), begun.elapsed().as_secs()), (1, LIMIT.as_secs()));
        drop(opened);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_session_is_told_with_its_reason() {
        let (tunnel, mut opened) = TestTunnel::new();
        let reason = CloseReason::new(Initiator::Agent, Cause::Requested);
        let agent = async {
            let peer = opened.recv().await.expect("a stream");
            tunnel.end(reason.clone());
            peer.lose();
        };
        let (result, ()) = tokio::join!(until_accepted(&tunnel, Instant::now() + LIMIT, |_| {}), agent);
        assert_eq!(result, Err(Unreached::Lost(reason)));
    }
}
