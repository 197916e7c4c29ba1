//! Where a StreamUrl may point: the token goes there, so not just anywhere.
//!
//! Nothing here changes a URL or resolves a name (`proto-notes/websocket.md#stream-url`).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{exchange::Endpoint, partition};
use crate::session::{Gateway, StreamUrl, StreamUrlError};

/// Checks a StreamUrl against the rule: a host of Session Manager over TLS at port 443. If the SSM endpoint is not one
/// of AWS's, its own host will do too, at any port, and without TLS if it is this machine.
///
/// `endpoint` is the host that the SSM call really went to, without port.
///
/// *Differs from the plugin:* older plugins follow any URL, 1.2.889 and later have a similar rule.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(url: &StreamUrl, endpoint: Option<&str>) -> Result<(), &'static str> {
    let host = url.host().to_ascii_lowercase();
    // An endpoint of AWS's, a VPC endpoint for example, relaxes nothing.
    if endpoint.is_some_and(|endpoint| !partition::owns(endpoint) && endpoint.eq_ignore_ascii_case(&host)) {
        if url.is_tls() || is_loopback(&host) {
            return Ok(());
        }
        return Err("it is without TLS and not on this machine");
    }
    if !is_session_manager(&host) {
        return Err("its host is not one of Session Manager's");
    }
    if !url.is_tls() {
        return Err("it is without TLS");
    }
    if !matches!(url.explicit_port(), None | Some(443)) {
        return Err("its port is not 443");
    }
    Ok(())
}

/// Where the user says that data channels are, whatever the service says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MessagesEndpoint {
    tls: bool,
    host: String,
    port: Option<u16>,
}

impl MessagesEndpoint {
    /// Reads `https://HOST[:PORT]`, or the same with `wss`; without TLS only for this machine.
    ///
    /// # Errors
    /// What it should be. The text is not repeated: it may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        const FORM: &str = "the endpoint for ssmmessages is not of the form https://HOST[:PORT]";
        let (tls, rest) = match url.split_once("://") {
            Some((scheme, rest)) if ["https", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {
                (true, rest)
            }
            Some((scheme, rest)) if ["http", "ws"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {
                (false, rest)
            }
            _ => return Err(FORM),
        };
        // The rest as in a StreamUrl, which has no secrets in it either.
        let url = StreamUrl::parse(format!("wss://{rest}")).map_err(|_| FORM)?;
        if !matches!(url.request_target(), "" | "/") || url.host().parse::<http::uri::Authority>().is_err() {
            return Err(FORM);
        }
        let host = url.host().to_ascii_lowercase();
        if !tls && !is_loopback(&host) {
            return Err("the endpoint for ssmmessages is without TLS and not on this machine");
        }
        Ok(Self { tls, host, port: url.explicit_port() })
    }

    /// A StreamUrl that leads here. Path and query stay as they are, byte for byte.
    pub(super) fn instead_of(&self, url: &StreamUrl) -> Result<StreamUrl, StreamUrlError> {
        let scheme = if self.tls { "wss" } else { "ws" };
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        StreamUrl::parse(format!("{scheme}://{}{port}{}", self.host, url.request_target()))
    }

    /// The same place for a connection that is made ahead.
    pub(super) fn gateway(&self) -> Gateway {
        let default = if self.tls { 443 } else { 80 };
        Gateway { host: self.host.clone(), port: self.port.unwrap_or(default), tls: self.tls }
    }
}

/// Where the data channels of an endpoint most likely are: `ssmmessages` in place of `ssm`; or for an endpoint that is
/// not AWS's, the same place. Of a VPC endpoint nothing can be guessed.
pub(super) fn likely(endpoint: &Endpoint) -> Option<Gateway> {
    let Endpoint { tls, authority } = endpoint;
    let host = authority.host().to_ascii_lowercase();
    let default = if *tls { 443 } else { 80 };
    if !partition::owns(&host) {
        let port = authority.port_u16().unwrap_or(default);
        return (*tls || is_loopback(&host)).then_some(Gateway { host, port, tls: *tls });
    }
    let service = host.strip_prefix("ssm").filter(|rest| rest.starts_with('.') || rest.starts_with("-fips."))?;
    let host = format!("ssmmessages{service}");
    is_session_manager(&host).then_some(Gateway { host, port: 443, tls: true })
}

/// `ssmmessages[-fips].REGION.SUFFIX` or `VPCE.ssmmessages.REGION.vpce.SUFFIX`, by whole labels.
fn is_session_manager(host: &str) -> bool {
    let Some(labels) = partition::service_labels(host) else { return false };
    let labels: Vec<&str> = labels.split('.').collect();
    match labels.as_slice() {
        ["ssmmessages" | "ssmmessages-fips", region] => partition::is_region(region),
        [vpce, "ssmmessages", region, "vpce"] => {
            vpce.starts_with("vpce-") && partition::is_label(vpce) && partition::is_region(region)
        }
        _ => false,
    }
}

/// Only what cannot be anything else: literal addresses and the name reserved by RFC 6761. Other spellings of
/// addresses (decimal, octal) are left to no resolver's taste.
fn is_loopback(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWS: Option<&str> = Some("ssm.eu-west-1.amazonaws.com");

    fn allowed(url: &str, endpoint: Option<&str>) -> bool {
        StreamUrl::parse(url).is_ok_and(|url| check(&url, endpoint).is_ok())
    }

    #[test]
    fn where_data_channels_are_is_guessed_where_it_can_be() {
        for (endpoint, guess) in [
            ("https://ssm.eu-west-1.amazonaws.com/", "wss://ssmmessages.eu-west-1.amazonaws.com:443"),
            ("https://ssm-fips.us-east-1.amazonaws.com/", "wss://ssmmessages-fips.us-east-1.amazonaws.com:443"),
            ("https://ssm.cn-north-1.amazonaws.com.cn/", "wss://ssmmessages.cn-north-1.amazonaws.com.cn:443"),
            ("https://vpce-0a1b.ssm.eu-west-1.vpce.amazonaws.com/", ""),
            ("http://127.0.0.1:8080/", "ws://127.0.0.1:8080"),
            ("https://proxy.example:8443/", "wss://proxy.example:8443"),
            ("http://proxy.example:8443/", ""),
        ] {
            let uri: http::Uri = endpoint.parse().expect("a URI");
            let tls = uri.scheme_str() == Some("https");
            let authority = uri.into_parts().authority.expect("a host");
            let guessed = likely(&Endpoint { tls, authority }).map_or_else(String::new, |gateway| {
                format!("{}://{}:{}", if gateway.tls { "wss" } else { "ws" }, gateway.host, gateway.port)
            });
            assert_eq!(guessed, guess, "{endpoint}");
        }
    }

    #[test]
    fn the_users_endpoint_takes_the_place_of_host_and_port() {
        const GIVEN: &str =
            "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/me@x-0a?role=x&cell-number=AA+k/%2f==";
        for (endpoint, leads_to, host, port) in [
            (
                "https://vpce-1.ssmmessages.eu-west-1.vpce.amazonaws.com",
                "wss://vpce-1.ssmmessages.eu-west-1.vpce.amazonaws.com",
                "vpce-1.ssmmessages.eu-west-1.vpce.amazonaws.com",
                443,
            ),
            ("wss://Gateway.Example:8443/", "wss://gateway.example:8443", "gateway.example", 8443),
            ("https://10.0.0.7:443", "wss://10.0.0.7:443", "10.0.0.7", 443),
            ("https://[fd00::7]", "wss://[fd00::7]", "[fd00::7]", 443),
            ("http://127.0.0.1:9000", "ws://127.0.0.1:9000", "127.0.0.1", 9000),
            ("ws://localhost", "ws://localhost", "localhost", 80),
        ] {
            let endpoint = MessagesEndpoint::parse(endpoint).expect(endpoint);
            let given = StreamUrl::parse(GIVEN).expect("a URL");
            let url = endpoint.instead_of(&given).expect("a URL");
            assert_eq!(url.as_str(), format!("{leads_to}{}", given.request_target()));
            assert_eq!((url.host(), url.port()), (host, port));
            assert!(endpoint.gateway().serves(&url), "{url:?}");
        }
        for endpoint in [
            "",
            "gateway.example",
            "ftp://x",
            "https://",
            "https://me:hunter2@x",
            "https://x/path",
            "https://x?y",
            "https://x#y",
            "http://gateway.example",
            "ws://10.0.0.7",
            "https://x:0",
            "https://x:y",
            "https://a b",
            "https://a\"b",
        ] {
            let error = MessagesEndpoint::parse(endpoint).expect_err(endpoint);
            assert!(!error.contains("hunter2"));
        }
    }

    #[test]
    fn session_manager_of_every_partition_is_allowed() {
        for host in [
            "ssmmessages.eu-west-1.amazonaws.com",
            "ssmmessages.eu-west-1.amazonaws.com:443",
            "SSMMessages.EU-West-1.AmazonAWS.com",
            "ssmmessages-fips.us-gov-west-1.amazonaws.com",
            "ssmmessages.eu-west-1.api.aws",
            "ssmmessages-fips.us-east-1.api.aws",
            "ssmmessages.cn-north-1.amazonaws.com.cn",
            "ssmmessages.cn-northwest-1.api.amazonwebservices.com.cn",
            "ssmmessages.eusc-de-east-1.amazonaws.eu",
            "ssmmessages.us-iso-east-1.c2s.ic.gov",
            "ssmmessages.us-isob-east-1.sc2s.sgov.gov",
            "ssmmessages.eu-isoe-west-1.cloud.adc-e.uk",
            "ssmmessages.us-isof-south-1.csp.hci.ic.gov",
            "vpce-0a1b2c3d-x9y8z7.ssmmessages.eu-west-1.vpce.amazonaws.com",
            "vpce-0a1b2c3d-x9y8z7-eu-west-1a.ssmmessages.eu-west-1.vpce.amazonaws.com",
        ] {
            for endpoint in [AWS, None, Some("127.0.0.1")] {
                assert!(allowed(&format!("wss://{host}/v1/data-channel/me-0a?role=x"), endpoint), "{host}");
            }
        }
    }

    #[test]
    fn hostile_hosts_are_refused() {
        for url in [
            "wss://ssmmessages.eu-west-1.amazonaws.com.evil/",
            "wss://ssmmessages.eu-west-1.amazonaws.com@evil/",
            "wss://x@ssmmessages.eu-west-1.amazonaws.com/",
            "wss://ssmmessages.eu-west-1.evil.com/",
            "wss://ssmmessages.eu-west-1.evil.com/ssmmessages.eu-west-1.amazonaws.com",
            "wss://evilssmmessages.eu-west-1.amazonaws.com/",
            "wss://evil.ssmmessages.eu-west-1.amazonaws.com/",
            "wss://ssmmessages.eu-west-1.evilamazonaws.com/",
            "wss://ssmmessages.eu-west-1.evil.amazonaws.com/",
            "wss://bucket.s3.eu-west-1.amazonaws.com/",
            "wss://ssmmessages.amazonaws.com/",
            "wss://ssmmessages..amazonaws.com/",
            "wss://ssmmessages.eu-west-1..amazonaws.com/",
            "wss://.ssmmessages.eu-west-1.amazonaws.com/",
            "wss://ssmmessages.eu-west-1.amazonaws.com./",
            "wss://ssmmessages.eu-west-1%2eamazonaws.com/",
            "wss://ssmmessages%00.eu-west-1.amazonaws.com/",
            "wss://ssmmessages.evil.com%23.eu-west-1.amazonaws.com/",
            "wss://ssmmessages.eu-west-1.amazonaws.com:8443/",
            "wss://ssmmessages.eu-west-1.amazonaws.com:80/",
            "ws://ssmmessages.eu-west-1.amazonaws.com/",
            "ws://ssmmessages.eu-west-1.amazonaws.com:443/",
            "wss://ssmmessages_eu-west-1.amazonaws.com/",
            "wss://ssmmessages-.eu-west-1.amazonaws.com/",
            "wss://x.ssmmessages.eu-west-1.vpce.amazonaws.com/",
            "wss://vpce-.ssmmessages.eu-west-1.vpce.amazonaws.com/",
            "wss://a.vpce-1.ssmmessages.eu-west-1.vpce.amazonaws.com/",
            "wss://vpce-1.evil.eu-west-1.vpce.amazonaws.com/",
            "wss://vpce-1.ssmmessages.vpce.amazonaws.com/",
            "wss://[::1]/",
            "wss://[2001:db8::1]:443/",
            "wss://127.0.0.1/",
            "wss://93.184.216.34/",
            "wss://2130706433/",
            "ws://127.0.0.1:1/",
            "ws://localhost:1/",
        ] {
            assert!(!allowed(url, AWS), "{url}");
            assert!(!allowed(url, None), "{url}");
        }
    }

    /// Whatever is slipped into a good URL: what is still allowed leads to Session Manager, in the eyes of another
    /// parser too.
    #[test]
    fn no_single_edit_leads_elsewhere() {
        let good = "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/me-0a?role=x";
        let slipped = (0x21..0x7f)
            .map(char::from)
            .map(String::from)
            .chain([".evil", "evil.", "x@", ":1", ".."].map(String::from));
        for slip in slipped {
            for at in 0..=good.len() {
                let (before, after) = good.split_at(at);
                for url in
                    [format!("{before}{slip}{after}"), format!("{before}{slip}{}", after.get(1..).unwrap_or_default())]
                {
                    if !allowed(&url, AWS) {
                        continue;
                    }
                    let Ok(uri) = url.parse::<http::Uri>() else { continue };
                    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
                    let inside = host.strip_suffix(".amazonaws.com");
                    assert!(inside.is_some_and(|labels| labels.starts_with("ssmmessages.")), "{url}");
                    assert!(uri.scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("wss")), "{url}");
                    assert!(matches!(uri.port_u16(), None | Some(443)), "{url}");
                }
            }
        }
    }

    #[test]
    fn an_endpoint_elsewhere_allows_itself() {
        for (url, endpoint) in [
            ("wss://gateway.example:9000/x", "gateway.example"),
            ("wss://Gateway.Example/x", "gateway.example"),
            ("wss://10.0.0.7:9000/x", "10.0.0.7"),
            ("ws://localhost:4566/x", "localhost"),
            ("ws://127.0.0.1:9/x", "127.0.0.1"),
            ("ws://127.8.9.10:9/x", "127.8.9.10"),
            ("ws://[::1]:9/x", "[::1]"),
        ] {
            assert!(allowed(url, Some(endpoint)), "{url}");
        }
    }

    #[test]
    fn an_endpoint_elsewhere_allows_nothing_else() {
        for (url, endpoint) in [
            ("ws://gateway.example:9000/x", "gateway.example"),
            ("wss://other.example/x", "gateway.example"),
            ("wss://evil.gateway.example/x", "gateway.example"),
            ("wss://gateway.example.evil/x", "gateway.example"),
            ("wss://gateway.example./x", "gateway.example"),
            ("ws://10.0.0.7/x", "10.0.0.7"),
            ("ws://127.0.0.1/x", "localhost"),
            ("ws://localhost.evil/x", "localhost.evil"),
            ("ws://localhost./x", "localhost."),
            ("ws://2130706433/x", "2130706433"),
            ("ws://0x7f.1/x", "0x7f.1"),
            ("ws://127.1/x", "127.1"),
            ("ws://0.0.0.0/x", "0.0.0.0"),
            ("ws://[::]/x", "[::]"),
            ("ws://[::ffff:10.0.0.1]/x", "[::ffff:10.0.0.1]"),
            ("ws://x@127.0.0.1/x", "127.0.0.1"),
        ] {
            assert!(!allowed(url, Some(endpoint)), "{url}");
        }
    }

    #[test]
    fn an_endpoint_of_aws_relaxes_nothing() {
        for endpoint in [
            "evil.execute-api.eu-west-1.amazonaws.com",
            "vpce-1.ssm.eu-west-1.vpce.amazonaws.com",
            "EVIL.S3.amazonaws.com",
            "evil.s3.amazonaws.com.",
        ] {
            assert!(!allowed(&format!("wss://{endpoint}/x"), Some(endpoint)), "{endpoint}");
            assert!(!allowed(&format!("ws://{endpoint}/x"), Some(endpoint)), "{endpoint}");
        }
    }
}
