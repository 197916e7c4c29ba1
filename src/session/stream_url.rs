//! The address of a data channel, byte for byte as the service gave it.

use std::fmt;

/// A websocket URL taken apart without being changed: the service's `cell-number` is not percent-encoded, and
/// re-encoding it breaks the connection (`proto-notes/websocket.md#stream-url`).
///
/// Parsing says nothing about whether the host may be trusted: the control plane does that.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamUrl {
    raw: String,
    tls: bool,
    authority: std::ops::Range<usize>,
    host: std::ops::Range<usize>,
    port: Option<u16>,
}

/// A text that is not a websocket URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a websocket URL: {0}")]
pub struct StreamUrlError(pub(crate) &'static str);

/// Query parameters that show that a URL carries its own signature.
const PRESIGNED: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
];

impl StreamUrl {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// When the scheme is not `ws` or `wss`, there is user information, no host, a bad port, a fragment, or a
    /// character that cannot stand in a request line.
    pub fn parse(raw: impl Into<String>) -> Result<Self, StreamUrlError> {
        let raw = raw.into();
        if !raw.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(StreamUrlError("it contains a character that is not printable ASCII"));
        }
        let (tls, start) = match raw.get(..5).map(str::to_ascii_lowercase) {
            Some(scheme) if scheme == "wss:/" && raw[5..].starts_with('/') => (true, 6),
            Some(scheme) if scheme == "ws://" => (false, 5),
            _ => return Err(StreamUrlError("it does not start with wss:// or ws://")),
        };
        let end = raw[start..].find(['/', '?', '#', '\\']).map_or(raw.len(), |at| start + at);
        if raw[end..].contains(['#', '\\']) {
            return Err(StreamUrlError("it contains a fragment or a backslash"));
        }
        let authority = &raw[start..end];
        if authority.contains('@') {
            return Err(StreamUrlError("it contains user information"));
        }
        let host_len = match authority.strip_prefix('[') {
            Some(rest) => rest.find(']').map(|at| at + 2).ok_or(StreamUrlError("its IPv6 address has no end"))?,
            None => authority.find(':').unwrap_or(authority.len()),
        };
        let (host, after) = authority.split_at(host_len);
        if host.is_empty() {
            return Err(StreamUrlError("it has no host"));
        }
        let port = match after.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let port = digits.parse().ok().filter(|port| *port != 0);
                Some(port.ok_or(StreamUrlError("its port is not a number from 1 to 65535"))?)
            }
            None if after.is_empty() => None,
            _ => return Err(StreamUrlError("its port is not a number from 1 to 65535")),
        };
        Ok(Self { tls, authority: start..end, host: start..start + host_len, port, raw })
    }

    /// Whether the scheme is `wss`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The host, an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.raw[self.host.clone()]
    }

    /// The port as written, if any.
    #[must_use]
    pub fn explicit_port(&self) -> Option<u16> {
        self.port
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 443 } else { 80 })
    }

    /// Host and port as written: the `Host` header.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.raw[self.authority.clone()]
    }

    /// Path and query as written: the target of the request line.
    #[must_use]
    pub fn request_target(&self) -> &str {
        match &self.raw[self.authority.end..] {
            "" => "/",
            target => target,
        }
    }

    /// The query as written.
    #[must_use]
    pub fn query(&self) -> &str {
        self.request_target().split_once('?').map_or("", |(_, query)| query)
    }

    /// Whether the URL carries its own signature: then it is not signed again, and the session cannot be resumed.
    #[must_use]
    pub fn is_presigned(&self) -> bool {
        self.query().split('&').any(|pair| {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name);
            PRESIGNED.iter().any(|known| known.eq_ignore_ascii_case(name))
        })
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.raw
    }
}

/// Without the query: a presigned URL is a secret.
impl fmt::Debug for StreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Without the query: a presigned URL is a secret.
impl fmt::Display for StreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.raw.split('?').next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_url_is_kept_byte_for_byte() {
        let text = "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/me@x.com-0a?role=publish_subscribe&cell-number=AA+k/N==";
        let url = StreamUrl::parse(text).expect("a normal URL");
        assert!(url.is_tls() && !url.is_presigned());
        assert_eq!((url.host(), url.port()), ("ssmmessages.eu-west-1.amazonaws.com", 443));
        assert_eq!(url.as_str(), text);
        assert_eq!(url.request_target(), "/v1/data-channel/me@x.com-0a?role=publish_subscribe&cell-number=AA+k/N==");
        assert!(!format!("{url:?} {url}").contains("cell-number"));
    }

    #[test]
    fn ports_and_ipv6_hosts_are_found() {
        let url = StreamUrl::parse("ws://[::1]:8080/x").expect("an IPv6 URL");
        assert_eq!((url.host(), url.port(), url.authority()), ("[::1]", 8080, "[::1]:8080"));
        let url = StreamUrl::parse("WS://localhost").expect("schemes ignore case");
        assert_eq!((url.port(), url.request_target()), (80, "/"));
    }

    #[test]
    fn hostile_urls_are_refused() {
        for text in [
            "https://ssmmessages.eu-west-1.amazonaws.com/",
            "wss:ssmmessages.eu-west-1.amazonaws.com",
            "wss://good@evil/",
            "wss://a:b@evil/",
            "wss:///path",
            "wss://:443/",
            "wss://host:0/",
            "wss://host:65536/",
            "wss://host:+80/",
            "wss://host:/",
            "wss://[::1/",
            "wss://[::1]x/",
            "wss://evil\\@good/",
            "wss://host/#fragment",
            "wss://host/a b",
            "wss://host/\r\nHost: evil",
            "wss://höst/",
            "",
        ] {
            assert!(StreamUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn presigned_urls_are_recognised() {
        for name in PRESIGNED {
            assert!(StreamUrl::parse(format!("wss://h/p?role=x&{name}=1")).is_ok_and(|url| url.is_presigned()));
        }
    }
}
