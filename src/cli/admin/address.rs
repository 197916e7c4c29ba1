//! How the ADDR of `--admin` is written, and where it leads.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
};

use crate::forward::{Bind, Listen};

/// The longest host name of the DNS.
const NAME_MAX: usize = 253;

/// Where the admin endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct AdminAddress(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Listen(Listen),
    /// An address of this machine that a name stands for.
    Named {
        name: String,
        port: u16,
    },
}

/// An ADDR that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not valid: expected PORT, HOST:PORT such as 127.0.0.1:9090 or [::1]:9090, or the path of a unix socket \
     that contains a '/'"
)]
pub(in crate::cli) struct NotAnAddress {
    text: String,
}

/// `PORT` (on 127.0.0.1), `HOST:PORT` or a path. HOST is an address, `localhost`, `*`, or a name of this machine.
impl FromStr for AdminAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        read(text).map(Self).ok_or_else(|| NotAnAddress { text: text.to_owned() })
    }
}

fn read(text: &str) -> Option<Place> {
    let tcp = |bind, port| Place::Listen(Listen::Tcp { bind, port });
    if text.contains('/') {
        let is_socket = !text.ends_with('/') && !text.contains('\0');
        return is_socket.then(|| Place::Listen(Listen::Unix(PathBuf::from(text))));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Some(tcp(Bind::Address(Ipv4Addr::LOCALHOST.into()), number(text)?));
    };
    let port = number(port)?;
    if let Some(inner) = host.strip_prefix('[') {
        let address = inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?;
        return Some(tcp(Bind::Address(address.into()), port));
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Some(tcp(Bind::Address(address.into()), port));
    }
    match host {
        "*" => Some(tcp(Bind::All, port)),
        _ if host.eq_ignore_ascii_case("localhost") => Some(tcp(Bind::Loopback, port)),
        _ if is_name(host) => Some(Place::Named { name: host.to_owned(), port }),
        _ => None,
    }
}

/// A port of digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// What may be a host name. Digits and dots are an address, or a mistake.
fn is_name(text: &str) -> bool {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.len() <= NAME_MAX
        && text.bytes().all(is_name_byte)
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && !text.starts_with(['-', '.'])
}

impl AdminAddress {
    /// Where to listen. A name is looked up, which may take its time and blocks.
    pub(super) fn listen(&self) -> io::Result<Listen> {
        match &self.0 {
            Place::Listen(listen) => Ok(listen.clone()),
            Place::Named { name, port } => {
                let first = (name.as_str(), *port).to_socket_addrs()?.next();
                let address = first.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
                Ok(Listen::Tcp { bind: Bind::Address(address.ip()), port: *port })
            }
        }
    }

    /// The name of this machine that it is asked by.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.0 {
            Place::Listen(_) => None,
            Place::Named { name, .. } => Some(name),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Listen(listen) => listen.fmt(f),
            Place::Named { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// Whether only this machine can reach it; also in IPv6's way of writing IPv4.
pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, shown) in [
            ("9090", "127.0.0.1:9090"),
            ("0", "127.0.0.1:0"),
            ("127.0.0.2:9090", "127.0.0.2:9090"),
            ("[::1]:9090", "[::1]:9090"),
            ("0.0.0.0:9090", "0.0.0.0:9090"),
            ("localhost:9090", "localhost:9090"),
            ("LocalHost:9090", "localhost:9090"),
            ("*:9090", "*:9090"),
            ("build-7.example.com:9090", "build-7.example.com:9090"),
            ("/run/ssmfwd/admin", "/run/ssmfwd/admin"),
            ("./admin:1", "./admin:1"),
        ] {
            assert_eq!(text.parse::<AdminAddress>().expect(text).to_string(), shown);
        }
    }

    #[test]
    fn mistakes_are_told_with_the_forms() {
        for text in [
            "",
            ":",
            "65536",
            "-1",
            "+1",
            "127.0.0.1",
            "127.0.0.1:",
            ":9090",
            "::1:9090",
            "[::1]",
            "[::1:9090",
            "1.2.3:4",
            "a b:1",
            "-x:1",
            "host:http",
            "admin/",
            "/run/\0",
        ] {
            let error = text.parse::<AdminAddress>().expect_err(text);
            assert!(error.to_string().contains("HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_name_is_looked_up() {
        let address: AdminAddress = "localhost.:0".parse().expect("a name");
        assert_eq!(address.name(), Some("localhost."));
        if let Ok(listen) = address.listen() {
            assert!(matches!(listen, Listen::Tcp { bind, .. } if bind.is_loopback()), "{listen}");
        }
    }
}
