//! Who may ask: not the pages of other sites.
//!
//! The endpoint has no passwords: whoever can reach it may read. A browser on the same machine can reach it too, and runs
//! what any page tells it. Two things keep such pages out:
//!
//! - *DNS rebinding*: a page of `evil.example`, whose name begins to lead to this machine, would be of our own origin. But
//!   the browser still says `Host: evil.example`. So the Host must be one that nobody else can own: an address, or a name
//!   that the public DNS does not have.
//! - *Requests across sites*: no answer allows other origins to read it (there are no CORS headers), nothing changes by
//!   being asked, and what a browser calls cross-site is refused before anything is looked up. Following a link is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, Uri, header, request::Parts};

use super::address::is_loopback;

/// The hosts that are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hosts {
    /// A unix socket: no browser connects to one. Any name.
    Any,
    /// Over TCP: `localhost`, loopback addresses, and the name that the address was given by.
    Tcp {
        /// Others can reach the socket. Then every address counts, because it leads nobody anywhere but here, and so do
        /// names without dots, which only a private DNS has (those of containers).
        public: bool,
        /// Of the address.
        name: Option<String>,
    },
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Its Host may be another's.
    #[error(
        "refused: the Host header does not name this endpoint (this guards against DNS rebinding).\n\
         Ask by IP address or localhost; an endpoint that is not on loopback also answers to names without dots, and to \
         the HOST of --admin HOST:PORT."
    )]
    Host,
    /// A page of another site has made a browser ask.
    #[error("refused: a page of another site asks.\nOpen the address itself.")]
    CrossSite,
}

impl Hosts {
    /// Whether the request comes from somebody who may read the answer.
    pub(super) fn admit(&self, request: &Parts) -> Result<(), Refusal> {
        let host = single(&request.headers, &header::HOST);
        // The target of a request to a proxy has a host of its own; both count.
        let in_target = Uri::authority(&request.uri).map(http::uri::Authority::as_str);
        if *self != Self::Any {
            let allowed = host.is_some_and(|host| self.allow(host)) && in_target.is_none_or(|host| self.allow(host));
            if !allowed {
                return Err(Refusal::Host);
            }
        }
        if is_cross_site(&request.headers, host) { Err(Refusal::CrossSite) } else { Ok(()) }
    }

    /// `HOST` or `HOST:PORT`, with any port: it may have been forwarded.
    fn allow(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        let ip = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        let Self::Tcp { public, name } = self else { return true };
        match ip {
            Some(ip) => *public || is_loopback(ip),
            None => {
                host.eq_ignore_ascii_case("localhost")
                    || name.as_ref().is_some_and(|name| host.eq_ignore_ascii_case(name))
                    || *public && is_dotless(host)
            }
        }
    }
}

/// The host of `HOST[:PORT]`.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.rfind(']') {
        Some(end) => authority.split_at(end + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port_is_valid = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && port.len() <= 5);
    (port_is_valid && !host.is_empty()).then_some(host)
}

fn is_dotless(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The value of a header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

/// What browsers tell of the page that asks (W3C Fetch Metadata; the Origin header of RFC 6454). Programs tell nothing.
fn is_cross_site(headers: &HeaderMap, host: Option<&str>) -> bool {
    let is = |name: &str, expected: &str| headers.get(name).is_some_and(|value| value == expected);
    if headers.contains_key(header::ORIGIN) {
        let ours = |origin: &str| {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            authority.is_some() && authority == host
        };
        if !single(headers, &header::ORIGIN).is_some_and(ours) {
            return true;
        }
    }
    let of_site =
        !headers.contains_key("sec-fetch-site") || is("sec-fetch-site", "same-origin") || is("sec-fetch-site", "none");
    // A link was followed, in a window of its own: the page that had it cannot see where it leads.
    let followed = is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document");
    !of_site && !followed
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn admit(hosts: &Hosts, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let request = headers.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
        hosts.admit(&request.body(()).expect("a request").into_parts().0)
    }

    #[test]
    fn hosts_that_somebody_else_may_own_are_refused() {
        let [loopback, network] = [false, true].map(|public| Hosts::Tcp { public, name: None });
        let named = Hosts::Tcp { public: false, name: Some("build-7.example.com".into()) };
        // On loopback, on the network, and on loopback by a name.
        for (host, expected) in [
            ("127.0.0.1", [true, true, true]),
            ("127.0.0.1:9090", [true, true, true]),
            ("127.8.7.6:1", [true, true, true]),
            ("localhost", [true, true, true]),
            ("LOCALHOST:65535", [true, true, true]),
            ("[::1]:9090", [true, true, true]),
            ("[::ffff:127.0.0.1]", [true, true, true]),
            ("10.0.0.7:9090", [false, true, false]),
            ("[fd00::7]", [false, true, false]),
            ("0.0.0.0:9090", [false, true, false]),
            ("ssmfwd:9090", [false, true, false]),
            ("build-7.example.com:9090", [false, false, true]),
            ("Build-7.Example.com", [false, false, true]),
            ("evil.example", [false, false, false]),
            ("evil.example:9090", [false, false, false]),
            ("127.0.0.1.evil.example", [false, false, false]),
            ("localhost.evil.example", [false, false, false]),
            ("foo.localhost", [false, false, false]),
            ("localhost.", [false, false, false]),
            ("127.0.0.1@evil.example", [false, false, false]),
            ("evil.example@127.0.0.1", [false, false, false]),
            ("127.0.0.1:80:80", [false, false, false]),
            ("127.0.0.1:http", [false, false, false]),
            ("::1", [false, false, false]),
            ("[::1", [false, false, false]),
            ("[evil.example]", [false, false, false]),
            ("localhost, evil.example", [false, false, false]),
            ("", [false, false, false]),
            (":9090", [false, false, false]),
        ] {
            let hosts = [&loopback, &network, &named];
            assert_eq!(hosts.map(|hosts| admit(hosts, &[("host", host)]).is_ok()), expected, "{host}");
            assert_eq!(admit(&Hosts::Any, &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_host_is_given_once() {
        for hosts in [false, true].map(|public| Hosts::Tcp { public, name: None }) {
            assert_eq!(admit(&hosts, &[]), Err(Refusal::Host));
            assert_eq!(admit(&hosts, &[("host", "localhost"), ("host", "evil.example")]), Err(Refusal::Host));
            assert_eq!(admit(&hosts, &[("host", "localhost"), ("host", "localhost")]), Err(Refusal::Host));
        }
        assert_eq!(admit(&Hosts::Any, &[]), Ok(()));
    }

    #[test]
    fn the_host_of_the_target_counts_too() {
        let of = |target: &str| {
            let request = Request::get(target).header("host", "localhost").body(()).expect("a request");
            Hosts::Tcp { public: false, name: None }.admit(&request.into_parts().0)
        };
        assert_eq!(of("http://evil.example/status"), Err(Refusal::Host));
        assert_eq!(of("http://localhost/status"), Ok(()));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let host = ("host", "localhost:9090");
        let navigation = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        for (headers, admitted) in [
            (vec![("sec-fetch-site", "same-origin")], true),
            (vec![("sec-fetch-site", "none")], true),
            (vec![("sec-fetch-site", "same-site")], false),
            (vec![("sec-fetch-site", "cross-site")], false),
            (vec![("sec-fetch-site", "whatever")], false),
            (vec![("sec-fetch-site", "cross-site"), navigation[0], navigation[1]], true),
            (vec![("sec-fetch-site", "cross-site"), navigation[0], ("sec-fetch-dest", "iframe")], false),
            (vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), navigation[1]], false),
            (vec![("origin", "http://localhost:9090")], true),
            (vec![("origin", "https://localhost:9090")], true),
            (vec![("origin", "http://localhost:8080")], false),
            (vec![("origin", "http://localhost")], false),
            (vec![("origin", "http://evil.example")], false),
            (vec![("origin", "null")], false),
            (vec![("origin", "")], false),
            (vec![("origin", "http://evil.example"), navigation[0], navigation[1]], false),
        ] {
            for hosts in [Hosts::Any, Hosts::Tcp { public: false, name: None }, Hosts::Tcp { public: true, name: None }]
            {
                let answer = admit(&hosts, &[&[host], &headers[..]].concat());
                assert_eq!(answer.is_ok(), admitted, "{headers:?}");
            }
        }
    }
}
