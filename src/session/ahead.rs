//! A connection to the gateway before it is known which one it is: while the API is asked, TCP and TLS are set up to
//! where the data channel will most likely be. That is three round trips less to wait for afterwards.

use std::pin::pin;

use super::{StreamUrl, outbound::Path};

/// Where a data channel will most likely be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// A name or an address; IPv6 in brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Whether TLS is spoken there.
    pub tls: bool,
}

impl Gateway {
    /// Whether a StreamUrl leads there.
    #[must_use]
    pub fn serves(&self, url: &StreamUrl) -> bool {
        (self.port, self.tls) == (url.port(), url.is_tls()) && self.host.eq_ignore_ascii_case(url.host())
    }
}

/// A connection that was opened ahead; it may have been closed since. Only our own [`Dialer`](super::Dialer) makes
/// them.
#[derive(Debug)]
pub struct Ahead<S> {
    pub(super) gateway: Gateway,
    pub(super) path: Path,
    pub(super) io: S,
}

/// Does the work, and connects ahead meanwhile. The work is never waited for longer because of that.
pub(super) async fn meanwhile<T, A>(
    work: impl Future<Output = T>,
    ahead: impl Future<Output = Option<A>>,
) -> (T, Option<A>) {
    let mut work = pin!(work);
    let connected = tokio::select! {
        biased;
        done = &mut work => return (done, None),
        connected = ahead => connected,
    };
    (work.await, connected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_place_is_another_gateway() {
        let gateway = Gateway { host: "ssmmessages.eu-west-1.amazonaws.com".into(), port: 443, tls: true };
        let serves = |url: &str| gateway.serves(&StreamUrl::parse(url).expect("a URL"));
        assert!(serves("wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/x?role=publish_subscribe"));
        assert!(serves("wss://SSMMessages.eu-west-1.amazonaws.com:443/v1/data-channel/x"));
        assert!(!serves("wss://ssmmessages.eu-west-2.amazonaws.com/v1/data-channel/x"));
        assert!(!serves("ws://ssmmessages.eu-west-1.amazonaws.com:443/v1/data-channel/x"));
        assert!(!serves("wss://ssmmessages.eu-west-1.amazonaws.com:8443/v1/data-channel/x"));
    }

    #[tokio::test]
    async fn the_work_decides_when_it_is_over() {
        let never = std::future::pending::<Option<u8>>;
        assert_eq!(meanwhile(async { 1 }, never()).await, (1, None));
        let later = async {
            tokio::task::yield_now().await;
            2
        };
        assert_eq!(meanwhile(later, async { Some(3) }).await, (2, Some(3)));
        assert_eq!(meanwhile(async { 4 }, async { None::<u8> }).await, (4, None));
    }
}
