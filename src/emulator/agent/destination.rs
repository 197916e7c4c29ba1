//! Where a session's connections go, and where they must not (`proto-notes/port-sessions.md#destinations`).

use std::{collections::VecDeque, net::IpAddr};

use super::{AgentOutput, ConnectionId};

/// Link-local addresses of services of the cloud, which the agent refuses as remote hosts.
const DENIED: [&str; 9] = [
    "169.254.169.254",
    "fd00:ec2::254",
    "169.254.169.253",
    "fd00:ec2::253",
    "169.254.169.123",
    "fd00:ec2::123",
    "169.254.169.250",
    "169.254.169.251",
    "fd00:ec2::240",
];

/// The one destination of a session, and the numbers of the connections to it.
#[derive(Debug)]
pub(super) struct Destination {
    host: String,
    port: u16,
    dialled: u64,
}

impl Destination {
    /// Reads the document's properties: `host`, without which it is the node itself, and `portNumber`.
    ///
    /// # Errors
    /// The text that ends the session.
    pub(super) fn from_properties(properties: &serde_json::Value) -> Result<Self, String> {
        let text = |name: &str| properties.get(name).and_then(serde_json::Value::as_str).unwrap_or("");
        let number = text("portNumber");
        let port = number.parse().map_err(|_| format!("Port number \"{number}\" in session properties is invalid."))?;
        let host = Some(text("host")).filter(|host| !host.is_empty()).unwrap_or("localhost");
        Ok(Self { host: host.to_owned(), port, dialled: 0 })
    }

    /// The text that ends a session to a forbidden address. Names are not resolved: the shell dials them.
    pub(super) fn refusal(&self) -> Option<String> {
        let host: IpAddr = self.host.parse().ok()?;
        let denied = DENIED.iter().filter_map(|denied| denied.parse::<IpAddr>().ok()).any(|denied| denied == host);
        denied.then(|| format!("Forwarding to IP address {} is forbidden.", self.host))
    }

    /// Asks for a new connection.
    pub(super) fn dial(&mut self, out: &mut VecDeque<AgentOutput>) -> ConnectionId {
        self.dialled += 1;
        let id = ConnectionId(self.dialled);
        out.push_back(AgentOutput::Dial(id, self.host.clone(), self.port));
        id
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn host_defaults_to_the_node_and_ports_are_checked() {
        let to = |properties| Destination::from_properties(&properties).map(|to| (to.host, to.port));
        assert_eq!(to(json!({"portNumber": "80"})), Ok(("localhost".to_owned(), 80)));
        assert_eq!(to(json!({"portNumber": "80", "host": "db"})), Ok(("db".to_owned(), 80)));
        for bad in [json!({}), json!({"portNumber": ""}), json!({"portNumber": "65536"}), json!(null)] {
            assert!(to(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn link_local_services_are_refused_however_written() {
        let refusal = |host: &str| {
            Destination::from_properties(&json!({"portNumber": "80", "host": host})).expect("a port").refusal()
        };
        let text = "Forwarding to IP address 169.254.169.254 is forbidden.";
        assert_eq!(refusal("169.254.169.254").as_deref(), Some(text));
        assert!(refusal("FD00:EC2:0:0::254").is_some());
        for allowed in ["127.0.0.1", "169.254.169.252", "db.internal", ""] {
            assert_eq!(refusal(allowed), None, "{allowed}");
        }
    }
}
