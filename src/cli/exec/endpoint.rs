//! Where COMMAND finds a forward: the three things that it is told of each.
//!
//! | | TCP | unix socket | unix socket `DIR/.s.PGSQL.PORT` |
//! | --- | --- | --- | --- |
//! | addr | `127.0.0.1:13306`, `[::1]:13306` | PATH | PATH |
//! | host | `127.0.0.1`, `::1` | PATH | DIR |
//! | port | `13306` | empty | PORT |
//!
//! Of two loopback addresses it is told 127.0.0.1: every client can use it, and both lead to the same place. An address
//! that means all of them (`0.0.0.0`, `[::]`) is told as the loopback address, for nothing connects to the former
//! everywhere.
//!
//! The third column is libpq's idea of a unix socket: `psql -h DIR -p PORT` connects to `DIR/.s.PGSQL.PORT`. So a forward
//! with such a path works for psql as it does over TCP. MariaDB and MySQL take the path alone: `--socket {addr}`.

use std::{
    ffi::{OsStr, OsString},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, absolute},
};

use crate::forward::LocalAddress;

/// How libpq names its sockets.
const LIBPQ: &str = ".s.PGSQL.";

/// Where one forward can be reached on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Endpoint {
    pub(super) addr: OsString,
    pub(super) host: OsString,
    /// Empty for a unix socket.
    pub(super) port: OsString,
}

impl Endpoint {
    /// What a client is told of the addresses of one forward. `None` if there are none.
    pub(in crate::cli) fn of(addresses: &[LocalAddress]) -> Option<Self> {
        let is_ipv4 = |address: &&LocalAddress| matches!(address, LocalAddress::Tcp(address) if address.is_ipv4());
        match addresses.iter().find(is_ipv4).or_else(|| addresses.first())? {
            LocalAddress::Tcp(address) => Some(Self::tcp(*address)),
            LocalAddress::Unix(path) => Some(Self::unix(path)),
        }
    }

    /// ADDR as COMMAND sees it.
    pub(in crate::cli) fn addr(&self) -> &OsStr {
        &self.addr
    }

    fn tcp(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        // With the scope of a link-local address: without it nothing connects.
        let scope = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("%{}", v6.scope_id()),
            _ => String::new(),
        };
        let (port, host) = (address.port(), format!("{ip}{scope}"));
        let addr = if ip.is_ipv6() { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self { addr: addr.into(), host: host.into(), port: port.to_string().into() }
    }

    /// libpq takes a host for a path only if it is absolute.
    fn unix(path: &Path) -> Self {
        let path = absolute(path).unwrap_or_else(|_| path.to_owned());
        let port = path.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_prefix(LIBPQ));
        let port = port.filter(|port| port.parse::<u16>().is_ok());
        let (host, port) = match (path.parent(), port) {
            (Some(folder), Some(port)) => (folder.into(), port.into()),
            _ => (path.clone().into(), OsString::new()),
        };
        Self { addr: path.into(), host, port }
    }
}

/// The forwards that COMMAND is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Endpoints {
    /// The first one in command order.
    pub(super) first: Endpoint,
    /// The named tunnels.
    pub(super) named: Vec<(String, Endpoint)>,
}

impl Endpoints {
    pub(in crate::cli) fn new(first: Endpoint, named: Vec<(String, Endpoint)>) -> Self {
        Self { first, named }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(addresses: &[&str]) -> [String; 3] {
        let address = |text: &&str| match text.parse() {
            Ok(address) => LocalAddress::Tcp(address),
            Err(_) => LocalAddress::Unix((*text).into()),
        };
        let addresses: Vec<_> = addresses.iter().map(address).collect();
        let Endpoint { addr, host, port } = Endpoint::of(&addresses).expect("addresses");
        [addr, host, port].map(|text| text.into_string().expect("unicode"))
    }

    #[test]
    fn of_two_addresses_the_older_one_is_told() {
        assert_eq!(of(&["127.0.0.1:5", "[::1]:5"]), ["127.0.0.1:5", "127.0.0.1", "5"]);
        assert_eq!(of(&["[::1]:5", "127.0.0.1:5"]), ["127.0.0.1:5", "127.0.0.1", "5"]);
        assert_eq!(of(&["[::1]:5"]), ["[::1]:5", "::1", "5"]);
        assert_eq!(of(&["[fe80::1%3]:5"]), ["[fe80::1%3]:5", "fe80::1%3", "5"]);
        assert_eq!(Endpoint::of(&[]), None);
    }

    #[test]
    fn an_address_that_means_all_is_told_as_one_that_can_be_connected_to() {
        assert_eq!(of(&["0.0.0.0:5", "[::]:5"]), ["127.0.0.1:5", "127.0.0.1", "5"]);
        assert_eq!(of(&["[::]:5"]), ["[::1]:5", "::1", "5"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_unix_socket_is_told_as_its_clients_want_it() {
        assert_eq!(of(&["/run/db.sock"]), ["/run/db.sock", "/run/db.sock", ""]);
        assert_eq!(of(&["/run/pg/.s.PGSQL.5432"]), ["/run/pg/.s.PGSQL.5432", "/run/pg", "5432"]);
        for no_port in ["/run/.s.PGSQL.", "/run/.s.PGSQL.x", "/run/.s.PGSQL.70000"] {
            assert_eq!(of(&[no_port]), [no_port, no_port, ""]);
        }
        let [addr, host, _] = of(&["./db.sock"]);
        assert!(addr.starts_with('/') && addr.ends_with("/db.sock") && host == addr, "{addr}");
    }
}
