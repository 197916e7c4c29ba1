//! `ssmfwd ls`: the managed nodes of SSM, which are the targets that need no container.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use dialoguer::console::measure_text_width;
use serde::Serialize;

use super::{
    args::{Args, Format},
    console::printable,
    plan::Access,
    report::Report,
    reporter::Reporter,
    run,
};
use crate::aws::{Aws, NodeInfo, Target};

/// How long the AWS configuration may take to be read: as for a forward.
const LOADING: Duration = Duration::from_secs(30);

/// What stands between two columns.
const GAP: &str = "  ";

/// What only this command takes.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LsArgs {
    /// Those with this text in id, name, computer name or address; name:NAME: with this name; tag:KEY=VALUE: with this
    /// tag
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
}

/// Which nodes are listed.
#[derive(Debug, PartialEq, Eq)]
enum Filter {
    All,
    Text(String),
    Name(String),
    Tag { key: String, value: String },
}

impl Filter {
    fn of(text: Option<&str>) -> Result<Self, Report> {
        let text = text.unwrap_or_default();
        if text.is_empty() {
            return Ok(Self::All);
        }
        if !["name:", "tag:", "ecs:"].iter().any(|prefix| text.starts_with(prefix)) {
            return Ok(Self::Text(text.to_lowercase()));
        }
        match text.parse() {
            Ok(Target::Name(name)) => Ok(Self::Name(name)),
            Ok(Target::Tag { key, value }) => Ok(Self::Tag { key, value }),
            Ok(_) => Err(Report::usage(format!("FILTER {text:?} is not valid: only managed nodes are listed"))
                .with_hint("containers are not in SSM's inventory: `aws ecs list-services` lists services")),
            Err(error) => Err(Report::usage(error.to_string())),
        }
    }

    fn takes(&self, node: &NodeInfo) -> bool {
        match self {
            // The others have been asked for.
            Self::All | Self::Name(_) | Self::Tag { .. } => true,
            Self::Text(text) => {
                let fields = [node.name.as_deref(), node.computer_name.as_deref(), Some(&node.id), node.ip.as_deref()];
                fields.into_iter().flatten().any(|field| field.to_lowercase().contains(text))
            }
        }
    }
}

pub(super) async fn run(ls: &LsArgs, args: &Args, reporter: &Arc<Reporter>) -> Result<(), Report> {
    let filter = Filter::of(ls.filter.as_deref())?;
    let mut access = Access::of(&args.access)?;
    let aws = run::load(&mut access, LOADING).await?;
    let mut nodes = listed(&aws, &filter)
        .await
        .map_err(|error| Report::call("the managed nodes cannot be listed", &error, &access))?;
    in_order(&mut nodes);
    match args.say.output {
        Format::Text if nodes.is_empty() => {}
        Format::Text => table(&nodes).into_iter().for_each(|line| reporter.data(line)),
        Format::Json => {
            let rows: Vec<_> = nodes.iter().map(Row::of).collect();
            // Texts and nothing else: it cannot fail.
            reporter.data(serde_json::to_string(&rows).unwrap_or_else(|_| "[]".to_owned()));
        }
    }
    if nodes.is_empty() {
        let which = if filter == Filter::All { "" } else { " that fits" };
        reporter.say(&format!(
            "no managed node{which} in {}: one is there once its SSM agent has reached the service",
            aws.region()
        ));
    }
    // However slow its reader is: a list is no use without its end.
    reporter.written().await;
    Ok(())
}

async fn listed(aws: &Aws, filter: &Filter) -> Result<Vec<NodeInfo>, crate::session::ControlError> {
    let mut nodes = match filter {
        Filter::Name(name) => aws.nodes_named(name).await?,
        Filter::Tag { key, value } => aws.nodes_with_tag(key, value).await?,
        _ => aws.nodes().await?,
    };
    nodes.retain(|node| filter.takes(node));
    Ok(nodes)
}

/// Those online first, then by name (those without one last), then by id.
pub(super) fn in_order(nodes: &mut [NodeInfo]) {
    nodes.sort_by(|one, other| {
        let key = |node: &NodeInfo| (Reverse(node.is_online()), node.label().is_none());
        (key(one).cmp(&key(other)))
            .then_with(|| one.label().map(str::to_lowercase).cmp(&other.label().map(str::to_lowercase)))
            .then_with(|| one.id.cmp(&other.id))
    });
}

/// A node in JSON.
#[derive(Debug, Serialize)]
struct Row<'a> {
    id: &'a str,
    name: Option<&'a str>,
    computer_name: Option<&'a str>,
    platform: Option<&'a str>,
    system: Option<&'a str>,
    system_version: Option<&'a str>,
    agent_version: Option<&'a str>,
    ping: &'a str,
    last_ping: Option<String>,
    ip: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(node: &'a NodeInfo) -> Self {
        Self {
            id: &node.id,
            name: node.name.as_deref(),
            computer_name: node.computer_name.as_deref(),
            platform: node.platform.as_deref(),
            system: node.system.as_deref(),
            system_version: node.system_version.as_deref(),
            agent_version: node.agent_version.as_deref(),
            ping: node.ping.name(),
            last_ping: node.last_heard(),
            ip: node.ip.as_deref(),
        }
    }
}

fn table(nodes: &[NodeInfo]) -> Vec<String> {
    let header = ["ID", "NAME", "PLATFORM", "AGENT", "PING", "IP"].map(str::to_owned);
    let row = |node: &NodeInfo| {
        let system = [node.system.as_deref().or(node.platform.as_deref()), node.system_version.as_deref()];
        let system: Vec<_> = system.into_iter().flatten().collect();
        let cell = |text: Option<&str>| text.filter(|text| !text.is_empty()).map_or_else(|| "-".into(), printable);
        [
            cell(Some(&node.id)),
            cell(node.label()),
            cell(Some(&system.join(" "))),
            cell(node.agent_version.as_deref()),
            cell(Some(node.ping.name())),
            cell(node.ip.as_deref()),
        ]
    };
    columns(std::iter::once(header).chain(nodes.iter().map(row)).collect())
}

/// Cells in columns as wide as they have to be on a terminal.
pub(super) fn columns<const N: usize>(rows: Vec<[String; N]>) -> Vec<String> {
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(cell));
        }
    }
    let line = |row: [String; N]| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            let space = width.saturating_sub(measure_text_width(cell)) + GAP.len();
            line.extend(std::iter::repeat_n(' ', space));
        }
        line.trim_end().to_owned()
    };
    rows.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aws::Ping, cli::exit::Exit};

    fn node(id: &str, name: Option<&str>, ping: Ping) -> NodeInfo {
        NodeInfo {
            id: id.into(),
            name: name.map(Into::into),
            computer_name: Some(format!("ip-{id}.internal")),
            platform: Some("Linux".into()),
            system: Some("Amazon Linux".into()),
            system_version: Some("2023".into()),
            agent_version: Some("3.3.987.0".into()),
            ping,
            last_ping: None,
            ip: Some("10.0.0.1".into()),
        }
    }

    #[test]
    fn a_table_is_aligned_by_what_a_terminal_shows() {
        let mut nodes = vec![
            node("i-0c", Some("Web"), Ping::ConnectionLost),
            node("i-0b", Some("踏み台"), Ping::Online),
            node("i-0a", Some("db\u{1b}[31m"), Ping::Online),
            NodeInfo { ip: None, agent_version: None, system: None, ..node("mi-0d", Some("web"), Ping::Online) },
        ];
        in_order(&mut nodes);
        assert_eq!(
            table(&nodes),
            [
                "ID     NAME          PLATFORM           AGENT      PING            IP",
                "i-0a   db\\u{1b}[31m  Amazon Linux 2023  3.3.987.0  Online          10.0.0.1",
                "mi-0d  web           Linux 2023         -          Online          -",
                "i-0b   踏み台        Amazon Linux 2023  3.3.987.0  Online          10.0.0.1",
                "i-0c   Web           Amazon Linux 2023  3.3.987.0  ConnectionLost  10.0.0.1",
            ]
        );
    }

    #[test]
    fn filters_are_texts_names_and_tags() {
        let node = node("i-0a", Some("bastion"), Ping::Online);
        let takes = |text: &str| Filter::of(Some(text)).expect("a filter").takes(&node);
        for text in ["", "BAST", "i-0", "internal", "10.0."] {
            assert!(takes(text), "{text}");
        }
        for text in ["web", "10.1."] {
            assert!(!takes(text), "{text}");
        }
        assert_eq!(Filter::of(Some("name:bastion")).expect("a filter"), Filter::Name("bastion".into()));
        for text in ["ecs:a/b", "tag:k", "name:"] {
            assert_eq!(Filter::of(Some(text)).expect_err(text).exit, Exit::Usage);
        }
    }
}
