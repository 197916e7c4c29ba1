//! Whether the destination has taken the connection, where nothing on the wire says so.
//!
//! The opening of a stream has no answer (`proto-notes/smux.md#unanswered`): a destination that the agent still tries to
//! reach looks like one that waits to be spoken to. A second connection tells them apart, if it is ended at once. Its FIN
//! is answered when the agent has dialled for it, and that comes after dialling for the first; an agent that dials for
//! several at a time has no answer for it either. It costs a connection that says nothing, so it is made late, once, and
//! not to a destination that has said something.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{
    forward::{ProbeResult, Tunnel, probe, status::Traffic},
    session::{Health, Mode},
};

/// After more bytes upwards an answer may be late because of them, or the agent held up by a destination that takes them
/// slowly.
const LITTLE: u64 = 64 << 10;

/// Completes when the agent has tried in vain to reach the destination for so long. Cancel-safe.
pub(super) async fn not_dialled<T: Tunnel>(tunnel: &T, traffic: &Traffic, limit: Duration) {
    let mut health = tunnel.health();
    // Without streams a session is ready only when the destination has taken the connection.
    while tunnel.mode() == Mode::Mux {
        sleep_until(Instant::now() + limit / 2).await;
        let is_known = || traffic.down() > 0 || traffic.up() > LITTLE;
        if is_known() {
            break;
        }
        if *health.borrow_and_update() != Health::Ready {
            continue;
        }
        let answer = probe(tunnel, limit / 2).await;
        if answer != ProbeResult::NoAnswer || is_known() {
            break;
        }
        // Without a websocket nothing is answered.
        if health.has_changed().is_ok_and(|changed| !changed) {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;
    use crate::forward::TestTunnel;

    const LIMIT: Duration = Duration::from_secs(30);
    const LONG: Duration = Duration::from_secs(100_000);

    #[tokio::test(start_paused = true)]
    async fn silence_that_a_second_connection_meets_too_is_told_in_time() {
        let ((tunnel, mut opened), traffic) = (TestTunnel::new(), Traffic::default());
        let began = Instant::now();
        let _silent = tokio::join!(not_dialled(&tunnel, &traffic, LIMIT), opened.recv()).1;
        assert_eq!((began.elapsed(), tunnel.opens()), (LIMIT, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_that_waits_to_be_spoken_to_is_left_in_peace() {
        let ((tunnel, mut opened), traffic) = (TestTunnel::new(), Traffic::default());
        let agent = async {
            let mut peer = opened.recv().await.expect("a stream");
            assert_eq!(peer.io.read(&mut [0]).await.expect("it is ours"), 0, "ended at once");
            peer.io.shutdown().await.expect("it is ours");
            opened.recv().await
        };
        let mut waiting = pin!(not_dialled(&tunnel, &traffic, LIMIT));
        let both = async { tokio::join!(&mut waiting, agent) };
        assert!(timeout(LONG, both).await.is_err());
        assert_eq!(tunnel.opens(), 1, "once");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_where_the_answer_is_known_or_cannot_be() {
        let nothing = |_: &Traffic| {};
        for (mode, happens) in [
            (Mode::Mux, (|traffic| traffic.delivered(1)) as fn(&Traffic)),
            (Mode::Mux, |traffic| traffic.sent(65_537)),
            (Mode::Basic, nothing),
            (Mode::Raw, nothing),
        ] {
            let ((tunnel, _opened), traffic) = (TestTunnel::with("test-0a", mode), Traffic::default());
            happens(&traffic);
            assert!(timeout(LONG, not_dialled(&tunnel, &traffic, LIMIT)).await.is_err());
            assert_eq!(tunnel.opens(), 0, "{mode:?}");
        }
    }

    /// What comes while the second connection waits decides, too.
    #[tokio::test(start_paused = true)]
    async fn an_answer_may_come_late() {
        let ((tunnel, mut opened), traffic) = (TestTunnel::new(), Traffic::default());
        let agent = async {
            let _silent = opened.recv().await;
            traffic.delivered(1);
            std::future::pending::<()>().await;
        };
        let both = async {
            tokio::select! { () = not_dialled(&tunnel, &traffic, LIMIT) => {}, () = agent => {} }
        };
        assert!(timeout(LONG, both).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_websocket_silence_means_nothing() {
        let ((tunnel, mut opened), traffic) = (TestTunnel::new(), Traffic::default());
        tunnel.set_health(Health::Reconnecting { since: Instant::now() });
        let mut waiting = pin!(not_dialled(&tunnel, &traffic, LIMIT));
        assert!(timeout(10 * LIMIT, &mut waiting).await.is_err());
        assert_eq!(tunnel.opens(), 0);
        tunnel.set_health(Health::Ready);
        // Lost and found while the second connection waits: another one has to tell.
        let agent = async {
            let first = opened.recv().await;
            tunnel.set_health(Health::Reconnecting { since: Instant::now() });
            tunnel.set_health(Health::Ready);
            (first, opened.recv().await)
        };
        let began = Instant::now();
        let _silent = tokio::join!(&mut waiting, agent).1;
        assert_eq!(tunnel.opens(), 2);
        assert!(began.elapsed() <= 2 * LIMIT, "{:?}", began.elapsed());
    }
}
