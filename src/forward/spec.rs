//! One forward, as data: where it listens, and where it leads. How it is written is in `grammar.rs`.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// The document for a port of the target itself (`proto-notes/control-plane.md#documents`).
const TO_TARGET: &str = "AWS-StartPortForwardingSession";
/// The document for a host that the target can reach (`proto-notes/control-plane.md#documents`).
const TO_REMOTE_HOST: &str = "AWS-StartPortForwardingSessionToRemoteHost";

/// One forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardSpec {
    /// As the user typed it: the name of the forward in events and errors.
    pub text: String,
    /// Where local programs connect to.
    pub listen: Listen,
    /// What the target connects to.
    pub destination: Destination,
    /// The target of this forward, if it has its own.
    pub target: Option<String>,
}

/// Where a forward listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP port.
    Tcp {
        /// On which addresses.
        bind: Bind,
        /// 0 for any free one.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// The addresses of a TCP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bind {
    /// `127.0.0.1` and `[::1]`: nothing given, or `localhost`.
    Loopback,
    /// `*`: every address, IPv4 and IPv6.
    All,
    /// Just this one.
    Address(IpAddr),
}

/// What the agent is asked to connect to. Both parts are missing only with a document that knows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Destination {
    /// A name or an address as the target sees it; none is the target itself. IPv6 without brackets.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
}

impl Bind {
    /// The addresses to listen on. The second one may be missing on a machine without IPv6.
    #[must_use]
    pub fn addresses(self) -> (IpAddr, Option<IpAddr>) {
        match self {
            Self::Loopback => (Ipv4Addr::LOCALHOST.into(), Some(Ipv6Addr::LOCALHOST.into())),
            Self::All => (Ipv4Addr::UNSPECIFIED.into(), Some(Ipv6Addr::UNSPECIFIED.into())),
            Self::Address(address) => (address, None),
        }
    }

    /// Whether only this machine can connect.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        match self {
            Self::Loopback => true,
            Self::All => false,
            Self::Address(address) => address.to_canonical().is_loopback(),
        }
    }

    /// Whether a port on `self` and the same port on `other` are in each other's way.
    fn overlaps(self, other: Self) -> bool {
        let each = |bind: Self| {
            let (first, second) = bind.addresses();
            std::iter::once(first).chain(second)
        };
        each(self).any(|a| {
            each(other).any(|b| a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
        })
    }
}

impl Listen {
    /// Whether both cannot be bound at once. Port 0 is in nobody's way.
    #[must_use]
    pub fn collides_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp { bind: a, port: p }, Self::Tcp { bind: b, port: q }) => p == q && *p != 0 && a.overlaps(*b),
            (Self::Unix(a), Self::Unix(b)) => a == b,
            _ => false,
        }
    }
}

/// `127.0.0.1:80`, `localhost:80`, `*:80` or the path.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { bind: Bind::Loopback, port } => write!(f, "localhost:{port}"),
            Self::Tcp { bind: Bind::All, port } => write!(f, "*:{port}"),
            Self::Tcp { bind: Bind::Address(address), port } => SocketAddr::new(*address, *port).fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A port of the target itself.
impl From<u16> for Destination {
    fn from(port: u16) -> Self {
        Self { host: None, port: Some(port) }
    }
}

impl Destination {
    /// The session document that leads there; none when the destination does not say enough.
    #[must_use]
    pub fn document(&self) -> Option<&'static str> {
        self.port.map(|_| if self.host.is_some() { TO_REMOTE_HOST } else { TO_TARGET })
    }

    /// The document's parameters. `localPortNumber` is left out: only the genuine plugin reads it, back from the
    /// handshake, to learn where to listen (`proto-notes/port-sessions.md#properties`).
    #[must_use]
    pub fn parameters(&self) -> BTreeMap<String, Vec<String>> {
        let host = self.host.iter().map(|host| ("host".to_owned(), vec![host.clone()]));
        let port = self.port.iter().map(|port| ("portNumber".to_owned(), vec![port.to_string()]));
        host.chain(port).collect()
    }

    /// `HOST:PORT` for people; a destination on the target itself is named after the target.
    #[must_use]
    pub fn describe(&self, target: &str) -> String {
        let host = self.host.as_deref().unwrap_or(target);
        match self.port {
            Some(port) if self.host.is_some() && host.contains(':') => format!("[{host}]:{port}"),
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(bind: Bind, port: u16) -> Listen {
        Listen::Tcp { bind, port }
    }

    #[test]
    fn the_destination_chooses_document_and_parameters() {
        let remote = Destination { host: Some("db".into()), port: Some(3306) };
        assert_eq!(remote.document(), Some("AWS-StartPortForwardingSessionToRemoteHost"));
        assert_eq!(
            remote.parameters(),
            BTreeMap::from([("host".into(), vec!["db".into()]), ("portNumber".into(), vec!["3306".into()])])
        );
        let own = Destination { host: None, port: Some(22) };
        assert_eq!(own.document(), Some("AWS-StartPortForwardingSession"));
        assert_eq!(own.parameters(), BTreeMap::from([("portNumber".into(), vec!["22".into()])]));
        assert_eq!(Destination::default().document(), None);
        assert!(Destination::default().parameters().is_empty());
    }

    #[test]
    fn destinations_are_described() {
        let destination = |host: Option<&str>, port| Destination { host: host.map(Into::into), port }.describe("i-0a");
        assert_eq!(destination(Some("db"), Some(1)), "db:1");
        assert_eq!(destination(Some("fd00::1"), Some(1)), "[fd00::1]:1");
        assert_eq!(destination(None, Some(22)), "i-0a:22");
        assert_eq!(destination(None, None), "i-0a");
    }

    #[test]
    fn collisions_are_between_overlapping_addresses_only() {
        let v4 = |text: &str| Bind::Address(text.parse().expect("an address"));
        for (a, b, expected) in [
            (tcp(Bind::Loopback, 80), tcp(Bind::Loopback, 80), true),
            (tcp(Bind::Loopback, 80), tcp(Bind::Loopback, 81), false),
            (tcp(Bind::Loopback, 0), tcp(Bind::Loopback, 0), false),
            (tcp(Bind::Loopback, 80), tcp(v4("127.0.0.1"), 80), true),
            (tcp(Bind::Loopback, 80), tcp(v4("::1"), 80), true),
            (tcp(Bind::Loopback, 80), tcp(v4("127.0.0.2"), 80), false),
            (tcp(v4("127.0.0.2"), 80), tcp(v4("127.0.0.3"), 80), false),
            (tcp(v4("10.0.0.1"), 80), tcp(Bind::All, 80), true),
            (tcp(v4("0.0.0.0"), 80), tcp(v4("::1"), 80), false),
            (Listen::Unix("/a".into()), Listen::Unix("/a".into()), true),
            (Listen::Unix("/a".into()), Listen::Unix("/b".into()), false),
            (Listen::Unix("/a".into()), tcp(Bind::All, 80), false),
        ] {
            assert_eq!(a.collides_with(&b), expected, "{a} {b}");
            assert_eq!(b.collides_with(&a), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_loopback_is_private() {
        assert!(Bind::Loopback.is_loopback());
        assert!(Bind::Address("127.4.5.6".parse().expect("an address")).is_loopback());
        assert!(Bind::Address("::ffff:127.0.0.1".parse().expect("an address")).is_loopback());
        assert!(!Bind::All.is_loopback());
        assert!(!Bind::Address("10.0.0.1".parse().expect("an address")).is_loopback());
    }
}
