//! A managed node as SSM's inventory shows it. What is said of it comes from the node: untrusted text.

use std::{cmp::Ordering, time::SystemTime};

use aws_sdk_ssm::types::{InstanceInformation, InstanceProperty, PingStatus};
use aws_smithy_types::{DateTime, date_time::Format};

/// A managed node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeInfo {
    /// `i-…` or `mi-…`.
    pub(crate) id: String,
    /// The `Name` tag of an instance (if the source tells it), or the name that a node outside EC2 was registered with.
    pub(crate) name: Option<String>,
    /// What the machine calls itself.
    pub(crate) computer_name: Option<String>,
    /// `Linux`, `Windows` or `MacOS`.
    pub(crate) platform: Option<String>,
    /// The system, such as `Amazon Linux`.
    pub(crate) system: Option<String>,
    /// Its version, such as `2023`.
    pub(crate) system_version: Option<String>,
    /// Of the SSM agent: numbers with dots between them.
    pub(crate) agent_version: Option<String>,
    /// Whether the agent is heard.
    pub(crate) ping: Ping,
    /// When it was heard last.
    pub(crate) last_ping: Option<SystemTime>,
    /// An address of the node, most often private.
    pub(crate) ip: Option<String>,
}

/// Whether SSM hears a node's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ping {
    /// It does.
    Online,
    /// It did.
    ConnectionLost,
    /// It has not for long. SSM no longer says that.
    Inactive,
    /// SSM says something else, or nothing.
    Unknown,
}

impl Ping {
    /// As the API writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Online => "Online",
            Self::ConnectionLost => "ConnectionLost",
            Self::Inactive => "Inactive",
            Self::Unknown => "Unknown",
        }
    }

    fn of(status: Option<&PingStatus>) -> Self {
        match status {
            Some(PingStatus::Online) => Self::Online,
            Some(PingStatus::ConnectionLost) => Self::ConnectionLost,
            Some(PingStatus::Inactive) => Self::Inactive,
            _ => Self::Unknown,
        }
    }
}

impl NodeInfo {
    /// The name for people.
    pub(crate) fn label(&self) -> Option<&str> {
        self.name.as_deref().or(self.computer_name.as_deref())
    }

    pub(crate) fn is_online(&self) -> bool {
        self.ping == Ping::Online
    }

    /// When the agent was heard last, in UTC and to the second; empty if that is not known.
    pub(crate) fn last_heard(&self) -> Option<String> {
        let seconds = DateTime::from(self.last_ping?).secs();
        DateTime::from_secs(seconds).fmt(Format::DateTime).ok()
    }

    /// The order in which nodes are preferred: those online, the newest agent, then the lowest id.
    pub(super) fn preferred(&self, other: &Self) -> Ordering {
        let version = |node: &Self| numbers(node.agent_version.as_deref().unwrap_or_default());
        (other.is_online().cmp(&self.is_online()))
            .then_with(|| version(other).cmp(&version(self)))
            .then_with(|| self.id.cmp(&other.id))
    }

    /// `None` without an id.
    pub(super) fn of_information(node: InstanceInformation) -> Option<Self> {
        Some(Self {
            id: said(node.instance_id)?,
            name: said(node.name),
            computer_name: said(node.computer_name),
            platform: node.platform_type.map(|platform| platform.as_str().to_owned()),
            system: said(node.platform_name),
            system_version: said(node.platform_version),
            agent_version: said(node.agent_version),
            ping: Ping::of(node.ping_status.as_ref()),
            last_ping: moment(node.last_ping_date_time),
            ip: said(node.ip_address),
        })
    }

    /// `None` without an id.
    pub(super) fn of_property(node: InstanceProperty) -> Option<Self> {
        Some(Self {
            id: said(node.instance_id)?,
            name: said(node.name),
            computer_name: said(node.computer_name),
            platform: node.platform_type.map(|platform| platform.as_str().to_owned()),
            system: said(node.platform_name),
            system_version: said(node.platform_version),
            agent_version: said(node.agent_version),
            ping: Ping::of(node.ping_status.as_ref()),
            last_ping: moment(node.last_ping_date_time),
            ip: said(node.ip_address),
        })
    }
}

/// A field that says something.
fn said(field: Option<String>) -> Option<String> {
    field.filter(|text| !text.trim().is_empty())
}

fn moment(date: Option<DateTime>) -> Option<SystemTime> {
    date.and_then(|date| SystemTime::try_from(date).ok())
}

/// A version as numbers, so that 3.10 is newer than 3.9. What is no number counts as 0.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map(|number| number.trim().parse().unwrap_or(0)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(in super::super) fn node(id: &str, ping: Ping, agent: &str) -> NodeInfo {
        NodeInfo {
            id: id.into(),
            name: None,
            computer_name: None,
            platform: Some("Linux".into()),
            system: None,
            system_version: None,
            agent_version: Some(agent.into()),
            ping,
            last_ping: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)),
            ip: None,
        }
    }

    #[test]
    fn online_and_newest_come_first_and_ties_are_broken_by_id() {
        let mut nodes = [
            node("i-5", Ping::ConnectionLost, "9.9.9.9"),
            node("i-4", Ping::Online, "3.9.0.0"),
            node("i-3", Ping::Online, "3.10.0.0"),
            node("i-2", Ping::Online, "3.10"),
            node("i-1", Ping::Online, "nonsense"),
            node("i-0", Ping::Online, "3.10.0.0"),
            node("i-6", Ping::Unknown, ""),
        ];
        nodes.sort_by(NodeInfo::preferred);
        assert_eq!(nodes.map(|node| node.id), ["i-0", "i-3", "i-2", "i-4", "i-1", "i-5", "i-6"]);
    }

    #[test]
    fn the_last_sign_of_life_is_told_to_the_second() {
        let node = node("i-0", Ping::ConnectionLost, "1");
        assert_eq!(node.last_heard().as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(NodeInfo { last_ping: None, ..node }.last_heard(), None);
    }

    #[test]
    fn a_node_is_read_from_either_source() {
        let information = InstanceInformation::builder()
            .instance_id("mi-0a")
            .name(" ")
            .computer_name("box")
            .ping_status(PingStatus::Online)
            .build();
        let node = NodeInfo::of_information(information).expect("an id");
        assert_eq!((node.label(), node.is_online(), node.ping.name()), (Some("box"), true, "Online"));
        let property = InstanceProperty::builder().instance_id("i-0a").name("bastion").computer_name("box").build();
        let node = NodeInfo::of_property(property).expect("an id");
        assert_eq!((node.label(), node.ping), (Some("bastion"), Ping::Unknown));
        assert_eq!(NodeInfo::of_property(InstanceProperty::builder().build()), None);
    }
}
