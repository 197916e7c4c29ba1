//! The calls of SSM's inventory: which managed nodes there are. No permission of EC2 is needed.
//!
//! `DescribeInstanceProperties` knows the `Name` tags of instances and no filter for tags,
//! `DescribeInstanceInformation` the reverse. The former is missing from many policies, so whoever wants names does
//! without them then. Nor is it taken at its word when it knows nothing: which nodes it shows in every region is not
//! known to us, and nothing is cheap to ask again.

use std::time::Duration;

use aws_sdk_ssm::types::{InstanceInformationStringFilter, InstancePropertyFilter, InstancePropertyFilterKey};

use super::{super::errors::Call, NodeInfo, lookup};
use crate::{
    aws::{Aws, credentials},
    session::{ControlError, ControlErrorKind},
};

/// The most that DescribeInstanceInformation gives at once.
const INFORMATION_PAGE: i32 = 50;

/// The same of DescribeInstanceProperties, which takes 1000: what is read between two throttled calls.
const PROPERTIES_PAGE: i32 = 200;

/// Pages of one listing: 50,000 nodes. A service that never ends is not believed.
const PAGES_MAX: usize = 1000;

/// Values that one filter takes.
const FILTER_VALUES_MAX: usize = 40;

/// How long a listing may take with all its pages.
const LISTING: Duration = Duration::from_secs(60);

pub(super) const INFORMATION: &str = "DescribeInstanceInformation";
const PROPERTIES: &str = "DescribeInstanceProperties";

/// What DescribeInstanceInformation is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Filter<'a> {
    /// Every node.
    All,
    /// One node.
    Id(&'a str),
    /// Nodes with a tag. Such a filter cannot be combined with another one.
    Tag { key: &'a str, value: &'a str },
}

impl Filter<'_> {
    fn for_api(self) -> Result<Option<InstanceInformationStringFilter>, aws_sdk_ssm::error::BuildError> {
        let (key, value) = match self {
            Self::All => return Ok(None),
            Self::Id(id) => ("InstanceIds".to_owned(), id),
            Self::Tag { key, value } => (format!("tag:{key}"), value),
        };
        InstanceInformationStringFilter::builder().key(key).values(value).build().map(Some)
    }
}

/// Who goes by a name.
pub(super) struct Named {
    /// Those that do, all by the same kind of name.
    pub(super) nodes: Vec<NodeInfo>,
    /// Names that may have been meant, if nobody does.
    pub(super) similar: Vec<String>,
}

impl Named {
    /// Of all nodes, those registered with a name, and without any those whose machine has it. There is no filter for
    /// either.
    fn among(nodes: Vec<NodeInfo>, name: &str) -> Self {
        let similar = lookup::similar(name, &nodes);
        // Registered names are given by whoever runs the account. That of its machine a node says itself, and may lie.
        let (registered, others): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|node| node.name.as_deref() == Some(name));
        if !registered.is_empty() {
            return Self { nodes: registered, similar };
        }
        // Host names have no case.
        let is_named =
            |node: &NodeInfo| node.computer_name.as_deref().is_some_and(|computer| computer.eq_ignore_ascii_case(name));
        Self { nodes: others.into_iter().filter(is_named).collect(), similar }
    }
}

impl Aws {
    /// One managed node, with its name if that can be had. `None` if SSM knows no such node, or `id` is none of a node.
    ///
    /// # Errors
    /// As any call; [`AccessDenied`](ControlErrorKind::AccessDenied) if neither source may be asked.
    pub(crate) async fn describe(&self, id: &str) -> Result<Option<NodeInfo>, ControlError> {
        if !(id.starts_with("i-") || id.starts_with("mi-")) {
            return Ok(None);
        }
        let found = match self.properties(id, &[id.to_owned()]).await {
            Err(error) if may_be_asked_elsewhere(&error) => self.information(id, Filter::Id(id)).await,
            Ok(none) if none.is_empty() => self.information(id, Filter::Id(id)).await,
            found => found,
        };
        match found {
            Ok(nodes) => Ok(nodes.into_iter().find(|node| node.id == id)),
            Err(error) if error.kind == ControlErrorKind::TargetNotConnected => Ok(None), // InvalidInstanceId
            Err(error) => Err(error),
        }
    }

    /// Every managed node, with names as far as they can be had; unordered.
    ///
    /// # Errors
    /// As any call; [`AccessDenied`](ControlErrorKind::AccessDenied) if neither source may be asked.
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeInfo>, ControlError> {
        const RESOURCE: &str = "all managed nodes";
        match self.properties(RESOURCE, &[]).await {
            Err(error) if may_be_asked_elsewhere(&error) => self.information(RESOURCE, Filter::All).await,
            Ok(none) if none.is_empty() => self.information(RESOURCE, Filter::All).await,
            nodes => nodes,
        }
    }

    /// The managed nodes with a tag, with names as far as they can be had; unordered.
    ///
    /// # Errors
    /// As any call.
    pub(crate) async fn nodes_with_tag(&self, key: &str, value: &str) -> Result<Vec<NodeInfo>, ControlError> {
        let resource = format!("tag:{key}={value}");
        let nodes = self.information(&resource, Filter::Tag { key, value }).await?;
        let ids: Vec<String> = nodes.iter().map(|node| node.id.clone()).collect();
        if ids.is_empty() {
            return Ok(nodes);
        }
        // Only the names are better.
        match self.properties(&resource, &ids).await {
            Ok(named) if named.len() == nodes.len() => Ok(named),
            _ => Ok(nodes),
        }
    }

    /// The managed nodes that `name:` means: those with this tag `Name`, else those registered with the name, else
    /// those whose machine has it; unordered.
    ///
    /// # Errors
    /// As any call.
    pub(crate) async fn nodes_named(&self, name: &str) -> Result<Vec<NodeInfo>, ControlError> {
        Ok(self.named(&format!("name:{name}"), name).await?.nodes)
    }

    /// The same, with what else may have been meant.
    pub(super) async fn named(&self, resource: &str, name: &str) -> Result<Named, ControlError> {
        let mut nodes = self.information(resource, Filter::Tag { key: "Name", value: name }).await?;
        // Also if none is online: a node that calls itself so must not take the place of one that is tagged so.
        if nodes.is_empty() {
            return Ok(Named::among(self.nodes().await?, name));
        }
        for node in &mut nodes {
            node.name.get_or_insert_with(|| name.to_owned());
        }
        Ok(Named { nodes, similar: Vec::new() })
    }

    /// DescribeInstanceInformation with all its pages.
    pub(super) async fn information(&self, resource: &str, filter: Filter<'_>) -> Result<Vec<NodeInfo>, ControlError> {
        let call = Call { operation: INFORMATION, resource };
        self.ready(call, credentials::START_WAIT).await?;
        let filter = filter
            .for_api()
            .map_err(|error| call.caused(ControlErrorKind::InvalidRequest, "the filter cannot be made", &error))?;
        let pages = async {
            let mut pages = Pages::new(call);
            loop {
                let ask = self.client.describe_instance_information().max_results(INFORMATION_PAGE);
                let ask = ask.set_filters(filter.clone().map(|filter| vec![filter]));
                let answer = ask.set_next_token(pages.token.clone()).send().await;
                let answer = answer.map_err(|error| self.failed(call, error))?;
                let nodes = answer.instance_information_list.unwrap_or_default();
                pages.nodes.extend(nodes.into_iter().filter_map(NodeInfo::of_information));
                if !pages.go_on(answer.next_token)? {
                    return Ok(pages.nodes);
                }
            }
        };
        in_time(call, pages).await
    }

    /// DescribeInstanceProperties with all its pages; of all nodes without ids.
    async fn properties(&self, resource: &str, ids: &[String]) -> Result<Vec<NodeInfo>, ControlError> {
        let call = Call { operation: PROPERTIES, resource };
        self.ready(call, credentials::START_WAIT).await?;
        let mut filters = Vec::new();
        for ids in ids.chunks(FILTER_VALUES_MAX) {
            let filter = InstancePropertyFilter::builder()
                .key(InstancePropertyFilterKey::InstanceIds)
                .set_value_set(Some(ids.to_vec()))
                .build();
            filters.push(Some(filter.map_err(|error| {
                call.caused(ControlErrorKind::InvalidRequest, "the filter cannot be made", &error)
            })?));
        }
        if filters.is_empty() {
            filters.push(None);
        }
        let listing = async {
            let mut nodes = Vec::new();
            for filter in filters {
                let mut pages = Pages::new(call);
                loop {
                    let ask = self.client.describe_instance_properties().max_results(PROPERTIES_PAGE);
                    let ask = ask.set_instance_property_filter_list(filter.clone().map(|filter| vec![filter]));
                    let answer = ask.set_next_token(pages.token.clone()).send().await;
                    let answer = answer.map_err(|error| self.failed(call, error))?;
                    let found = answer.instance_properties.unwrap_or_default();
                    pages.nodes.extend(found.into_iter().filter_map(NodeInfo::of_property));
                    if !pages.go_on(answer.next_token)? {
                        break;
                    }
                }
                nodes.append(&mut pages.nodes);
            }
            Ok(nodes)
        };
        in_time(call, listing).await
    }
}

/// Whether the other source may answer what this one refuses: the policy lacks it, or the region does.
fn may_be_asked_elsewhere(error: &ControlError) -> bool {
    matches!(error.kind, ControlErrorKind::AccessDenied | ControlErrorKind::InvalidRequest)
}

async fn in_time<T>(call: Call<'_>, work: impl Future<Output = Result<T, ControlError>>) -> Result<T, ControlError> {
    let done = tokio::time::timeout(LISTING, work).await;
    done.unwrap_or_else(|_| Err(call.error(ControlErrorKind::Network, "the list was not complete in time")))
}

/// A listing that goes on. A page may be empty and have a next one.
struct Pages<'a> {
    call: Call<'a>,
    nodes: Vec<NodeInfo>,
    token: Option<String>,
    count: usize,
}

impl<'a> Pages<'a> {
    fn new(call: Call<'a>) -> Self {
        Self { call, nodes: Vec::new(), token: None, count: 0 }
    }

    fn go_on(&mut self, next: Option<String>) -> Result<bool, ControlError> {
        let next = next.filter(|token| !token.is_empty());
        self.count += 1;
        if next.is_some() && (next == self.token || self.count == PAGES_MAX) {
            return Err(self.call.error(ControlErrorKind::BadAnswer, "the list has no end"));
        }
        self.token = next;
        Ok(self.token.is_some())
    }
}
