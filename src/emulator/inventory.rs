//! The inventory of SSM: which managed nodes there are, and how they are (`proto-notes/emulator.md#inventory`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    EmulatorConfig,
    api::{ApiError, decode},
    clock,
    service::Service,
};

/// A managed node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// `i-…` or `mi-…`.
    pub id: String,
    /// The tag `Name` of an instance; the name with which a node outside EC2 was registered.
    #[serde(default)]
    pub name: Option<String>,
    /// Other tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// `Linux`, `Windows` or `MacOS`.
    #[serde(default = "Node::default_platform")]
    pub platform: String,
    /// The system's name.
    #[serde(default = "Node::default_system")]
    pub system: String,
    /// Its version.
    #[serde(default = "Node::default_system_version")]
    pub system_version: String,
    /// Of the SSM agent.
    #[serde(default = "Node::default_agent_version")]
    pub agent_version: String,
    /// Only a node that is online can be a target.
    #[serde(default)]
    pub ping: NodePing,
    /// When its agent was heard last, seconds since 1970. `None`: now.
    #[serde(default)]
    pub last_ping: Option<u64>,
    /// Its address.
    #[serde(default = "Node::default_ip")]
    pub ip: String,
    /// What the machine calls itself. `None`: as EC2 names it after its address.
    #[serde(default)]
    pub computer_name: Option<String>,
}

/// Whether the agent of a node is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NodePing {
    /// It is.
    #[default]
    Online,
    /// It was.
    ConnectionLost,
    /// A value that the service no longer uses.
    Inactive,
}

impl NodePing {
    fn name(self) -> &'static str {
        match self {
            Self::Online => "Online",
            Self::ConnectionLost => "ConnectionLost",
            Self::Inactive => "Inactive",
        }
    }
}

impl Node {
    /// A node that is online.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            name: None,
            tags: BTreeMap::new(),
            platform: Self::default_platform(),
            system: Self::default_system(),
            system_version: Self::default_system_version(),
            agent_version: Self::default_agent_version(),
            ping: NodePing::Online,
            last_ping: None,
            ip: Self::default_ip(),
            computer_name: None,
        }
    }

    /// The same with a name.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// The same with a tag.
    #[must_use]
    pub fn tagged(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    fn default_platform() -> String {
        "Linux".into()
    }

    fn default_system() -> String {
        "Amazon Linux".into()
    }

    fn default_system_version() -> String {
        "2023".into()
    }

    fn default_agent_version() -> String {
        "3.3.987.0".into()
    }

    fn default_ip() -> String {
        "10.0.0.10".into()
    }

    fn is_managed(&self) -> bool {
        self.id.starts_with("mi-")
    }

    fn resource_type(&self) -> &'static str {
        if self.is_managed() { "ManagedInstance" } else { "EC2Instance" }
    }

    /// The value of a tag. The `Name` of an instance is one, that of a node outside EC2 is not.
    fn tag(&self, key: &str) -> Option<&str> {
        let own = self.tags.get(key).map(String::as_str);
        own.or_else(|| self.name.as_deref().filter(|_| key == "Name" && !self.is_managed()))
    }

    fn computer_name(&self) -> String {
        self.computer_name.clone().unwrap_or_else(|| format!("ip-{}.ec2.internal", self.ip.replace('.', "-")))
    }

    /// What both operations tell.
    fn common(&self) -> Value {
        let last_ping = self.last_ping.unwrap_or_else(|| clock::epoch().as_secs());
        json!({
            "InstanceId": self.id,
            "PingStatus": self.ping.name(),
            "LastPingDateTime": last_ping,
            "AgentVersion": self.agent_version,
            "PlatformType": self.platform,
            "PlatformName": self.system,
            "PlatformVersion": self.system_version,
            "ResourceType": self.resource_type(),
            "IPAddress": self.ip,
            "ComputerName": self.computer_name(),
        })
    }

    fn information(&self) -> Value {
        let mut node = self.common();
        node["IsLatestVersion"] = true.into();
        if self.is_managed()
            && let Some(name) = &self.name
        {
            node["Name"] = name.as_str().into();
        }
        node
    }

    fn property(&self) -> Value {
        let mut node = self.common();
        if let Some(name) = self.name.as_deref().or_else(|| self.tag("Name")) {
            node["Name"] = name.into();
        }
        if !self.is_managed() {
            node["InstanceState"] = "running".into();
            node["InstanceType"] = "t3.micro".into();
            node["Architecture"] = "x86_64".into();
        }
        node
    }
}

/// Every node: those of the configuration, and its other targets as nodes without a name.
fn nodes(service: &Service, config: &EmulatorConfig) -> Vec<Node> {
    let named = config.nodes.iter().cloned();
    let is_other = |target: &&String| {
        (target.starts_with("i-") || target.starts_with("mi-")) && config.nodes.iter().all(|node| node.id != **target)
    };
    let others = config.targets.iter().filter(is_other).map(Node::new);
    let mut nodes: Vec<_> = named.chain(others).collect();
    for node in &mut nodes {
        if config.offline || service.is_restarting(&node.id) {
            node.ping = NodePing::ConnectionLost;
        }
    }
    nodes
}

/// Whether a session can be started on a target: a node that is online, a container that can be reached, or one that
/// the configuration merely names.
pub(super) fn is_connected(service: &Service, config: &EmulatorConfig, target: &str) -> bool {
    if config.offline || service.is_restarting(target) {
        return false;
    }
    match config.nodes.iter().find(|node| node.id == target) {
        Some(node) => node.ping == NodePing::Online,
        None => config.targets.iter().any(|known| known == target) || super::ecs::is_connected(config, target),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InformationInput {
    #[serde(default)]
    instance_information_filter_list: Vec<OldFilter>,
    #[serde(default)]
    filters: Vec<Filter>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PropertiesInput {
    #[serde(default)]
    instance_property_filter_list: Vec<OldFilter>,
    #[serde(default)]
    filters_with_operator: Vec<Filter>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

/// These members begin with a small letter.
#[derive(Deserialize)]
struct OldFilter {
    key: String,
    #[serde(rename = "valueSet")]
    values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    key: String,
    values: Vec<String>,
    operator: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TargetInput {
    target: Option<String>,
}

pub(super) fn describe_information(service: &Service, config: &EmulatorConfig, body: &[u8]) -> Result<Bytes, ApiError> {
    let input: InformationInput = decode(body)?;
    if !input.instance_information_filter_list.is_empty() && !input.filters.is_empty() {
        let message = "Filters and InstanceInformationFilterList cannot be used together.";
        return Err(ApiError::new("ValidationException", message));
    }
    let old = input.instance_information_filter_list.into_iter();
    let old = old.map(|filter| Filter { key: filter.key, values: filter.values, operator: None });
    let filters: Vec<Filter> = old.chain(input.filters).collect();
    check(&filters, "InvalidInstanceInformationFilterValue", true)?;
    let nodes = filtered(nodes(service, config), &filters);
    let (page, next) = page(&nodes, "information", input.max_results, 5..=50, input.next_token)?;
    let list: Vec<_> = page.iter().map(Node::information).collect();
    encode(&with_token(json!({ "InstanceInformationList": list }), next))
}

pub(super) fn describe_properties(service: &Service, config: &EmulatorConfig, body: &[u8]) -> Result<Bytes, ApiError> {
    let input: PropertiesInput = decode(body)?;
    let old = input.instance_property_filter_list.into_iter();
    let old = old.map(|filter| Filter { key: filter.key, values: filter.values, operator: None });
    let filters: Vec<Filter> = old.chain(input.filters_with_operator).collect();
    check(&filters, "InvalidInstancePropertyFilterValue", false)?;
    let nodes = filtered(nodes(service, config), &filters);
    let (page, next) = page(&nodes, "properties", input.max_results, 5..=1000, input.next_token)?;
    let list: Vec<_> = page.iter().map(Node::property).collect();
    encode(&with_token(json!({ "InstanceProperties": list }), next))
}

pub(super) fn connection_status(service: &Service, config: &EmulatorConfig, body: &[u8]) -> Result<Bytes, ApiError> {
    let input: TargetInput = decode(body)?;
    let target = input.target.ok_or_else(|| ApiError::constraint("target", None, "not be null"))?;
    if !(1..=400).contains(&target.len()) {
        return Err(ApiError::constraint("target", Some(&target), "have length between 1 and 400"));
    }
    let status = if is_connected(service, config, &target) { "connected" } else { "notconnected" };
    encode(&json!({ "Target": target, "Status": status }))
}

/// Keys that filter both listings.
const KEYS: [&str; 8] = [
    "ActivationIds",
    "AgentVersion",
    "AssociationStatus",
    "IamRole",
    "InstanceIds",
    "PingStatus",
    "PlatformTypes",
    "ResourceType",
];

fn check(filters: &[Filter], bad_value: &'static str, tags: bool) -> Result<(), ApiError> {
    for filter in filters {
        let is_tag = tags && filter.key.strip_prefix("tag:").is_some_and(|key| !key.is_empty());
        if !is_tag && !KEYS.contains(&&*filter.key) {
            return Err(ApiError::modelled("InvalidFilterKey", format!("The filter key {} is not valid.", filter.key)));
        }
        if is_tag && filters.len() > 1 {
            return Err(ApiError::modelled(
                "InvalidFilterKey",
                "Filters by tag cannot be combined with other filters.",
            ));
        }
        if !(1..=100).contains(&filter.values.len()) || filter.values.iter().any(String::is_empty) {
            return Err(ApiError::constraint("values", None, "have length between 1 and 100"));
        }
        if let Some(operator) = filter.operator.as_deref().filter(|operator| *operator != "Equal") {
            return Err(ApiError::constraint("operator", Some(operator), "be Equal: the emulator knows no other"));
        }
        for value in &filter.values {
            let fits = match &*filter.key {
                "PingStatus" => ["Online", "ConnectionLost", "Inactive"].contains(&&**value),
                "PlatformTypes" => ["Linux", "Windows", "MacOS"].contains(&&**value),
                "ResourceType" => ["EC2Instance", "ManagedInstance"].contains(&&**value),
                _ => true,
            };
            if !fits {
                return Err(ApiError::modelled(bad_value, format!("{value} is no value of {}.", filter.key)));
            }
            if filter.key == "InstanceIds" && !is_node_id(value) {
                return Err(ApiError::modelled("InvalidInstanceId", format!("{value} is not the id of a node.")));
            }
        }
    }
    Ok(())
}

/// Shorter ids than the service has are taken for the sake of readable tests.
fn is_node_id(id: &str) -> bool {
    let digits = id.strip_prefix("i-").or_else(|| id.strip_prefix("mi-"));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn filtered(mut nodes: Vec<Node>, filters: &[Filter]) -> Vec<Node> {
    nodes.retain(|node| filters.iter().all(|filter| fits(node, filter)));
    nodes
}

fn fits(node: &Node, filter: &Filter) -> bool {
    let value = match &*filter.key {
        "InstanceIds" => &node.id,
        "PingStatus" => node.ping.name(),
        "PlatformTypes" => &node.platform,
        "AgentVersion" => &node.agent_version,
        "ResourceType" => node.resource_type(),
        key => match key.strip_prefix("tag:").and_then(|key| node.tag(key)) {
            Some(value) => value,
            None => return false,
        },
    };
    filter.values.iter().any(|wanted| wanted == value)
}

/// One page, and the token of the next.
fn page<'a>(
    nodes: &'a [Node],
    listing: &str,
    max_results: Option<i64>,
    allowed: std::ops::RangeInclusive<i64>,
    token: Option<String>,
) -> Result<(&'a [Node], Option<String>), ApiError> {
    let size = max_results.unwrap_or(50);
    if !allowed.contains(&size) {
        let bound = if size < *allowed.start() {
            format!("have value greater than or equal to {}", allowed.start())
        } else {
            format!("have value less than or equal to {}", allowed.end())
        };
        return Err(ApiError::constraint("maxResults", Some(&size.to_string()), &bound));
    }
    let prefix = format!("{listing}-");
    let from = match &token {
        None => Some(0),
        Some(token) => token.strip_prefix(&prefix).and_then(|from| from.parse::<usize>().ok()),
    };
    let rest = from
        .and_then(|from| nodes.get(from..))
        .ok_or_else(|| ApiError::modelled("InvalidNextToken", "The specified token is not valid."))?;
    let size = usize::try_from(size).unwrap_or(50);
    let page = rest.get(..size).unwrap_or(rest);
    let next = (rest.len() > page.len()).then(|| format!("{prefix}{}", nodes.len() - rest.len() + page.len()));
    Ok((page, next))
}

fn with_token(mut answer: Value, next: Option<String>) -> Value {
    if let Some(next) = next {
        answer["NextToken"] = next.into();
    }
    answer
}

/// A value as the body of an answer.
pub(super) fn encode(answer: &Value) -> Result<Bytes, ApiError> {
    Ok(answer.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(key: &str, value: &str) -> Filter {
        Filter { key: key.into(), values: vec![value.into()], operator: None }
    }

    #[test]
    fn nodes_are_filtered_by_tag_and_by_what_they_are() {
        let nodes = vec![
            Node::new("i-1").named("bastion").tagged("Role", "jump"),
            Node::new("mi-2").named("bastion"),
            Node { ping: NodePing::ConnectionLost, ..Node::new("i-3").tagged("Name", "bastion") },
        ];
        let ids = |filter: Filter| -> Vec<String> {
            filtered(nodes.clone(), &[filter]).into_iter().map(|node| node.id).collect()
        };
        assert_eq!(ids(filter("tag:Name", "bastion")), ["i-1", "i-3"]);
        assert_eq!(ids(filter("tag:Role", "jump")), ["i-1"]);
        assert_eq!(ids(filter("InstanceIds", "mi-2")), ["mi-2"]);
        assert_eq!(ids(filter("PingStatus", "ConnectionLost")), ["i-3"]);
        assert_eq!(ids(filter("ResourceType", "ManagedInstance")), ["mi-2"]);
    }

    #[test]
    fn what_the_service_refuses_is_refused() {
        for (filters, tags, code) in [
            (vec![filter("Name", "x")], true, "InvalidFilterKey"),
            (vec![filter("tag:Name", "x")], false, "InvalidFilterKey"),
            (vec![filter("tag:", "x")], true, "InvalidFilterKey"),
            (vec![filter("tag:Name", "x"), filter("PingStatus", "Online")], true, "InvalidFilterKey"),
            (vec![filter("PingStatus", "online")], true, "Bad"),
            (vec![filter("InstanceIds", "bastion")], true, "InvalidInstanceId"),
            (vec![filter("InstanceIds", "")], true, "ValidationException"),
        ] {
            assert_eq!(check(&filters, "Bad", tags).expect_err(code).code(), code);
        }
    }

    #[test]
    fn pages_end_and_tokens_belong_to_their_listing() {
        let nodes: Vec<_> = (0..12).map(|id| Node::new(format!("i-{id}"))).collect();
        let (mut token, mut sizes) = (None, Vec::new());
        loop {
            let (got, next) = page(&nodes, "x", Some(5), 5..=50, token).expect("a page");
            sizes.push(got.len());
            token = next;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(sizes, [5, 5, 2]);
        for (size, token, code) in [
            (4, None, "ValidationException"),
            (51, None, "ValidationException"),
            (5, Some("y-5"), "InvalidNextToken"),
            (5, Some("x-13"), "InvalidNextToken"),
        ] {
            let refused = page(&nodes, "x", Some(size), 5..=50, token.map(Into::into)).expect_err(code);
            assert_eq!(refused.code(), code);
        }
    }
}
