//! Which connections go through a proxy, and through which: what the environment says, read as the AWS SDK and curl
//! read it (`proto-notes/websocket.md#proxies`).
//!
//! What is said to a proxy is not here but in `proxy_tunnel`.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use http::{HeaderValue, Uri, uri::Authority};
use hyper_util::client::proxy::matcher::Matcher;

/// The proxies of an environment.
///
/// `HTTPS_PROXY` is for `https` and `wss`, `HTTP_PROXY` for `http` and `ws`, `ALL_PROXY` for both where these say
/// nothing, and `NO_PROXY` lists what is reached without: names with all that is below them, addresses, networks as
/// `10.0.0.0/8`, or `*`. Upper case wins over lower case. Where this machine is given its credentials, none is used.
/// Where `REQUEST_METHOD` is set there are none: in a CGI program `HTTP_PROXY` is what a client has sent.
pub struct Proxies {
    matcher: Matcher,
    /// Intercepts whatever `NO_PROXY` lets through to a proxy, if there is one.
    needs: Matcher,
    http: Option<Setting>,
    https: Option<Setting>,
    /// Hosts and ports at which this machine is given its credentials.
    of_this_machine: Vec<(String, u16)>,
}

/// Where the environment may say that this machine is given its credentials: by the agent of a container, and by the
/// metadata of an instance. What is said there is secret and not encrypted, and may be on loopback.
const CREDENTIALS: [&str; 2] = ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT"];

/// The variable that decides, and what is wrong with its value.
#[derive(Debug, Clone, Copy)]
struct Setting {
    variable: &'static str,
    wrong: Option<&'static str>,
}

/// A proxy that cannot be used. Its address is not shown: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {reason}")]
pub struct UnusableProxy {
    /// The variable that names the proxy.
    pub variable: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// One proxy. Shown without its user and password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    tls: bool,
    host: String,
    port: u16,
    authorization: Option<HeaderValue>,
}

impl Proxies {
    /// Those of this process's environment.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// None, whatever the environment says.
    #[must_use]
    pub fn none() -> Self {
        Self::from_variables(|_| None)
    }

    /// Those of an environment.
    #[must_use]
    pub fn from_variables(variable: impl Fn(&'static str) -> Option<String>) -> Self {
        let is_cgi = variable("REQUEST_METHOD").is_some();
        // The first that is set decides, even if it is empty.
        let first = |names: [&'static str; 2]| {
            let found = names.into_iter().find_map(|name| Some((name, variable(name)?)));
            found.filter(|_| !is_cgi).unwrap_or((names[0], String::new()))
        };
        let all = first(["ALL_PROXY", "all_proxy"]);
        let no = first(["NO_PROXY", "no_proxy"]).1;
        let chosen = |names| Some(first(names)).filter(|(_, url)| !url.is_empty()).unwrap_or_else(|| all.clone());
        let (http, https) = (chosen(["HTTP_PROXY", "http_proxy"]), chosen(["HTTPS_PROXY", "https_proxy"]));
        let setting = |(variable, url): &(&'static str, String)| {
            (!url.is_empty()).then(|| Setting { variable, wrong: what_is_wrong(url) })
        };
        Self {
            http: setting(&http),
            https: setting(&https),
            matcher: Matcher::builder().http(http.1).https(https.1).no(&no).build(),
            needs: Matcher::builder().all("http://proxy").no(no).build(),
            of_this_machine: CREDENTIALS.into_iter().filter_map(|name| place(&variable(name)?)).collect(),
        }
    }

    /// The proxy for connections to a host; IPv6 addresses are in brackets.
    ///
    /// # Errors
    /// When the environment names one that cannot be used. To go without would be what somebody forbade.
    pub fn of(&self, tls: bool, host: &str, port: u16) -> Result<Option<Proxy>, UnusableProxy> {
        let Some(setting) = (if tls { self.https } else { self.http }) else { return Ok(None) };
        let same = |(known, its_port): &(String, u16)| *its_port == port && known.eq_ignore_ascii_case(host);
        if is_of_this_machine(host) || self.of_this_machine.iter().any(same) {
            return Ok(None);
        }
        let scheme = if tls { "https" } else { "http" };
        let Ok(uri) = format!("{scheme}://{host}:{port}/").parse::<Uri>() else { return Ok(None) };
        if self.needs.intercept(&uri).is_none() {
            return Ok(None);
        }
        let unusable = |reason| UnusableProxy { variable: setting.variable, reason };
        if let Some(wrong) = setting.wrong {
            return Err(unusable(wrong));
        }
        let found = self.matcher.intercept(&uri).ok_or_else(|| unusable(NOT_A_URL))?;
        let tls = found.uri().scheme_str() == Some("https");
        let host = found.uri().host().unwrap_or_default().to_owned();
        let port = found.uri().port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Some(Proxy { tls, host, port, authorization: found.basic_auth().cloned() }))
    }
}

const NOT_A_URL: &str = "is not of the form http[s]://[USER:PASSWORD@]HOST:PORT, special characters percent-encoded";

/// Whether an address is one at which clouds serve each machine its own metadata and credentials. A proxy would give
/// its own, if any. (The AWS SDK for Rust would ask it.)
fn is_of_this_machine(host: &str) -> bool {
    const OVER_IPV6: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)];
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse().is_ok_and(|address| OVER_IPV6.contains(&address)),
        None => host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_link_local()),
    }
}

/// The host and the port of a URL.
fn place(url: &str) -> Option<(String, u16)> {
    let uri = url.parse::<Uri>().ok()?;
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Some((uri.host()?.to_owned(), uri.port_u16().unwrap_or(usual)))
}

/// Why a value does not name a proxy that can be used.
fn what_is_wrong(url: &str) -> Option<&'static str> {
    let Ok(uri) = url.parse::<Uri>() else { return Some(NOT_A_URL) };
    match uri.scheme_str() {
        None | Some("http" | "https") => {}
        Some(scheme) if scheme.starts_with("socks") => {
            return Some("names a SOCKS proxy: only http:// and https:// proxies are supported");
        }
        Some(_) => return Some("names a proxy of another kind: only http:// and https:// proxies are supported"),
    }
    let authority = uri.authority().map_or("", Authority::as_str);
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let host = uri.host().unwrap_or_default();
    // A port that is no number of 16 bits is taken for none.
    let usable = !host.is_empty() && (place == host || uri.port_u16().is_some_and(|port| port != 0));
    (!usable).then_some(NOT_A_URL)
}

impl Proxy {
    /// Whether TLS is spoken with the proxy itself.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// A name or an address, IPv6 in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port: as with the AWS SDK 80 or 443 where the URL names none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it means that it wants authentication, in words.
    pub(crate) fn wants_authentication(&self) -> &'static str {
        match self.authorization {
            None => "it wants authentication: a user and a password in the proxy's URL",
            Some(_) => "it does not accept the user and the password in the proxy's URL",
        }
    }

    /// The value of `Proxy-Authorization`; marked as sensitive.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL that could not be read might be shown with its password.
        f.debug_struct("Proxies").field("http", &self.http).field("https", &self.https).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    /// The proxy, or an empty text, or what is wrong.
    fn of(variables: &[(&str, &str)], tls: bool, host: &str) -> String {
        match proxies(variables).of(tls, host, if tls { 443 } else { 80 }) {
            Ok(proxy) => proxy.map(|proxy| proxy.to_string()).unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }

    const HOST: &str = "ssm.eu-west-1.amazonaws.com";

    #[test]
    fn each_scheme_has_its_variable() {
        for (variables, https, http) in [
            (&[][..], "", ""),
            (&[("HTTPS_PROXY", "http://p:3128")], "http://p:3128", ""),
            (&[("https_proxy", "http://p:3128")], "http://p:3128", ""),
            (&[("HTTPS_PROXY", "http://p:1"), ("https_proxy", "http://p:2")], "http://p:1", ""),
            (&[("HTTPS_PROXY", ""), ("https_proxy", "http://p:2")], "", ""),
            (&[("HTTP_PROXY", "http://p:3128")], "", "http://p:3128"),
            (&[("http_proxy", "http://p:3128")], "", "http://p:3128"),
            (&[("ALL_PROXY", "http://p:3128")], "http://p:3128", "http://p:3128"),
            (&[("all_proxy", "https://p"), ("HTTP_PROXY", "http://q")], "https://p:443", "http://q:80"),
            (&[("HTTPS_PROXY", "p:3128")], "http://p:3128", ""),
            (&[("HTTPS_PROXY", "http://[::1]:3128/path")], "http://[::1]:3128", ""),
            // A program that a web server runs for a request.
            (&[("HTTP_PROXY", "http://evil:1"), ("REQUEST_METHOD", "GET")], "", ""),
        ] {
            assert_eq!(
                (of(variables, true, HOST), of(variables, false, HOST)),
                (https.into(), http.into()),
                "{variables:?}"
            );
        }
    }

    #[test]
    fn exceptions_are_names_what_is_below_them_addresses_networks_and_all() {
        for (no, host, bypassed) in [
            ("", HOST, false),
            ("*", HOST, true),
            ("amazonaws.com", HOST, true),
            (".amazonaws.com", HOST, true),
            ("AmazonAWS.com", HOST, true),
            ("x, ssm.eu-west-1.amazonaws.com ,y", HOST, true),
            ("ws.com", HOST, false),
            ("eu-west-1.amazonaws.com.evil", HOST, false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.0/8", "127.1.2.3", true),
            ("10.0.0.0/8", "127.0.0.1", false),
            ("::1", "[::1]", true),
            ("fd00::/8", "[fd00::7]", true),
        ] {
            for name in ["NO_PROXY", "no_proxy"] {
                let variables = [("ALL_PROXY", "http://p:1"), (name, no)];
                for tls in [false, true] {
                    assert_eq!(of(&variables, tls, host).is_empty(), bypassed, "{variables:?} {host}");
                }
            }
        }
    }

    #[test]
    fn the_machines_own_metadata_is_asked_for_at_the_machine() {
        let variables = [("ALL_PROXY", "http://p:1")];
        for (host, proxied) in [
            ("169.254.169.254", false),
            ("169.254.170.2", false),
            ("[fd00:ec2::254]", false),
            ("[fd00:ec2::23]", false),
            ("[fd00:ec2::1]", true),
            ("169.253.1.1", true),
            ("127.0.0.1", true),
            ("169.254.169.254.example", true),
        ] {
            assert_eq!(!of(&variables, false, host).is_empty(), proxied, "{host}");
        }
    }

    #[test]
    fn where_credentials_are_given_no_proxy_is_used() {
        for (url, host, port, proxied) in [
            ("http://127.0.0.1:1338/role", "127.0.0.1", 1338, false),
            ("http://127.0.0.1:1338/role", "127.0.0.1", 1339, true),
            ("http://127.0.0.1:1338/role", "127.0.0.2", 1338, true),
            ("http://localhost", "LocalHost", 80, false),
            ("https://localhost?x", "localhost", 443, false),
            ("http://[::1]:80/", "[::1]", 80, false),
            ("", "127.0.0.1", 80, true),
            ("/role", "127.0.0.1", 80, true),
        ] {
            for name in CREDENTIALS {
                let proxies = proxies(&[("ALL_PROXY", "http://p:1"), (name, url)]);
                for tls in [false, true] {
                    let proxy = proxies.of(tls, host, port).expect("usable");
                    assert_eq!(proxy.is_some(), proxied, "{name}={url}: {host}:{port}");
                }
            }
        }
        // Nor is one complained about.
        let variables = [("ALL_PROXY", "socks5://p:1"), (CREDENTIALS[0], "http://localhost:80/")];
        assert_eq!(of(&variables, false, "localhost"), "");
    }

    #[test]
    fn what_cannot_be_used_is_an_error_where_it_would_be_used() {
        for (url, reason) in [
            ("socks5://p:1080", "SOCKS"),
            ("socks5h://me:hunter2@p:1080", "SOCKS"),
            ("ftp://p:21", "another kind"),
            ("http://", "not of the form"),
            ("http://me:hunter#2@p:1", "not of the form"),
            ("http://p:99999", "not of the form"),
            ("me and my proxy", "not of the form"),
        ] {
            for (name, tls) in [("HTTPS_PROXY", true), ("http_proxy", false), ("ALL_PROXY", true), ("all_proxy", false)]
            {
                let error = of(&[(name, url)], tls, HOST);
                assert!(error.starts_with(name) && error.contains(reason), "{url}: {error}");
                assert!(!error.contains("hunter"), "{error}");
                assert_eq!(of(&[(name, url), ("NO_PROXY", "amazonaws.com")], tls, HOST), "");
            }
            assert_eq!(of(&[("HTTPS_PROXY", "http://p"), ("ALL_PROXY", url)], true, HOST), "http://p:80");
        }
    }

    #[test]
    fn users_are_taken_apart_and_not_shown() {
        // me@corp : p:ss/w%rd
        let variables = [("HTTPS_PROXY", "http://me%40corp:p%3Ass%2Fw%25rd@p:3128")];
        let proxies = proxies(&variables);
        let proxy = proxies.of(true, HOST, 443).expect("usable").expect("a proxy");
        assert_eq!(proxy.authorization().map(HeaderValue::as_bytes), Some(&b"Basic bWVAY29ycDpwOnNzL3clcmQ="[..]));
        let shown = format!("{proxy} {proxy:?} {proxies:?} {:?}", proxy.authorization());
        assert!(!shown.contains("me%40") && !shown.contains("bWV") && !shown.contains("p%3A"), "{shown}");
        assert_eq!(proxy.to_string(), "http://p:3128");
    }
}
