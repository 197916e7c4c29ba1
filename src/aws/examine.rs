//! What can be found out beside a session: whether there are credentials, where the API is, what the clocks say, and
//! after how long the account ends sessions.
//!
//! None of it is needed to forward, none of it is asked before something has failed or somebody wants to know, and what
//! may not be asked is an answer too.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::{Aws, credentials, errors::Call, exchange::Endpoint};
use crate::session::{ControlError, ControlErrorKind, Proxies, Proxy};

/// The document in which Session Manager keeps an account's preferences of a region.
const PREFERENCES: &str = "SSM-SessionManagerRunShell";

/// When sessions of an account and region end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Preferences {
    /// Without data for so long.
    pub(crate) idle_timeout: Option<Duration>,
    /// So long after their start.
    pub(crate) max_duration: Option<Duration>,
}

/// How far the clock of this machine is from the service's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skew(pub(crate) i64);

impl Aws {
    /// Loads credentials as StartSession does. Returns how long they last, if they expire.
    ///
    /// # Errors
    /// As [`start`](crate::session::ControlPlane::start) without any.
    pub(crate) async fn credentials(&self) -> Result<Option<Duration>, ControlError> {
        let call = Call { operation: "loading", resource: "credentials" };
        let credentials = self.credentials.get(credentials::START_WAIT).await;
        let credentials = credentials.map_err(|error| call.no_credentials(&error))?;
        let left = |expiry: SystemTime| expiry.duration_since(self.exchange.now()).unwrap_or_default();
        Ok(credentials.expiry().map(left))
    }

    /// The host of the SSM API, and the proxy on the way to it, as soon as a call goes there.
    pub(crate) async fn api(&self) -> Option<(String, Option<Proxy>)> {
        Some(way(&self.exchange.calls().await?, self.outbound().proxies()))
    }

    /// What the clocks say, once the service has said what time it is.
    pub(crate) fn clock(&self) -> Option<Skew> {
        self.exchange.skew().map(Skew)
    }

    /// The preferences of Session Manager in this account and region.
    ///
    /// # Errors
    /// As any call; [`InvalidDocument`](ControlErrorKind::InvalidDocument) if nobody has set any.
    pub(crate) async fn preferences(&self) -> Result<Preferences, ControlError> {
        let call = Call { operation: "GetDocument", resource: PREFERENCES };
        self.ready(call, credentials::WAIT).await?;
        let asked = self.client.get_document().name(PREFERENCES).send().await;
        let content = asked.map_err(|error| self.failed(call, error))?.content.unwrap_or_default();
        Preferences::parse(&content)
            .ok_or_else(|| call.error(ControlErrorKind::BadAnswer, "the document has no preferences"))
    }
}

/// The host, without the brackets of IPv6, and the proxy for it.
fn way(endpoint: &Endpoint, proxies: &Proxies) -> (String, Option<Proxy>) {
    let host = endpoint.authority.host();
    let port = endpoint.authority.port_u16().unwrap_or(if endpoint.tls { 443 } else { 80 });
    // What is wrong with the setting of a proxy is said by the call that needs it.
    let proxy = proxies.of(endpoint.tls, host, port).ok().flatten();
    (host.trim_start_matches('[').trim_end_matches(']').to_owned(), proxy)
}

impl Preferences {
    /// The document's `inputs`, where both are numbers of minutes in text; an empty one is none.
    fn parse(content: &str) -> Option<Self> {
        let content: serde_json::Value = serde_json::from_str(content).ok()?;
        let inputs = content.get("inputs")?;
        let minutes = |name: &str| {
            let minutes: u64 = inputs.get(name)?.as_str()?.parse().ok()?;
            Some(Duration::from_secs(minutes.checked_mul(60)?))
        };
        Some(Self { idle_timeout: minutes("idleSessionTimeout"), max_duration: minutes("maxSessionDuration") })
    }
}

/// `the clock of this machine is 2 h 3 min behind that of AWS`.
impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.unsigned_abs();
        let by = match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0, 0) => return f.write_str("the clock of this machine is that of AWS"),
            (0, 0, 0, seconds) => format!("{seconds} s"),
            (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
            (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
            (days, hours, ..) => format!("{days} d {hours} h"),
        };
        let direction = if self.0 > 0 { "behind" } else { "ahead of" };
        write!(f, "the clock of this machine is {by} {direction} that of AWS")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_in_words() {
        for (ahead, text) in [
            (0, "is that of AWS"),
            (3, "is 3 s behind that of AWS"),
            (-400, "is 6 min 40 s ahead of that of AWS"),
            (7380, "is 2 h 3 min behind that of AWS"),
            (-200_000, "is 2 d 7 h ahead of that of AWS"),
        ] {
            assert_eq!(Skew(ahead).to_string(), format!("the clock of this machine {text}"));
        }
    }

    #[test]
    fn a_host_has_its_proxy_whatever_kind_of_address_it_is() {
        let variables = [("HTTPS_PROXY", "http://p:3128"), ("NO_PROXY", "fd00::/8")];
        let proxies = Proxies::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        for (authority, host, proxy) in [
            ("ssm.eu-west-1.amazonaws.com", "ssm.eu-west-1.amazonaws.com", Some("http://p:3128")),
            ("192.0.2.1:8443", "192.0.2.1", Some("http://p:3128")),
            ("[2001:db8::1]", "2001:db8::1", Some("http://p:3128")),
            ("[2001:db8::1]:8443", "2001:db8::1", Some("http://p:3128")),
            ("[fd00::1]:8443", "fd00::1", None),
        ] {
            let endpoint = Endpoint { tls: true, authority: authority.parse().expect("host and port") };
            let (shown, used) = way(&endpoint, &proxies);
            assert_eq!((&shown[..], used.map(|used| used.to_string()).as_deref()), (host, proxy), "{authority}");
        }
    }

    #[test]
    fn preferences_are_minutes_in_text() {
        let minutes = |count: u64| Some(Duration::from_secs(count * 60));
        for (content, expected) in [
            (r#"{"inputs":{"idleSessionTimeout":"20","maxSessionDuration":"60"}}"#, Some((minutes(20), minutes(60)))),
            (r#"{"inputs":{"idleSessionTimeout":"","maxSessionDuration":"x"}}"#, Some((None, None))),
            (r#"{"inputs":{}}"#, Some((None, None))),
            ("{}", None),
            ("", None),
        ] {
            let parsed = Preferences::parse(content).map(|found| (found.idle_timeout, found.max_duration));
            assert_eq!(parsed, expected, "{content}");
        }
    }
}
