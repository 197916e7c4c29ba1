//! The question for a target, on a terminal only: a list of those online, narrowed down by typing.
//!
//! Asked before anything is bound, because what is bound belongs to a target. Escape and Ctrl-C leave the program as an
//! interrupt does, with the terminal as it was.

use std::io;

use dialoguer::{
    FuzzySelect,
    console::{Term, truncate_str},
    theme::ColorfulTheme,
};

use super::{console::printable, exit::Exit, ls, plan::Access, report::Report, reporter::Reporter};
use crate::aws::{Aws, NodeInfo};

/// Columns that the list needs beside its items.
const MARGIN: usize = 4;

/// Asks for a target, of these tunnels if it is for tunnels. `None` if the person wants none.
///
/// # Errors
/// When there is nothing to choose from, or it cannot be asked.
pub(super) async fn ask(
    aws: &Aws,
    access: &Access,
    tunnels: &[String],
    reporter: &Reporter,
) -> Result<Option<String>, Report> {
    let nodes = aws.nodes().await;
    let nodes = nodes.map_err(|error| Report::call("no target is named, and they cannot be listed", &error, access))?;
    let mut nodes: Vec<_> = nodes.into_iter().filter(NodeInfo::is_online).collect();
    if nodes.is_empty() {
        let region = aws.region();
        return Err(Report::new(
            Exit::Target,
            format!("no target is named, and no managed node in {region} is online"),
        )
        .with_hint("`ssmfwd ls` lists those that are not; containers are named as ecs:CLUSTER/SERVICE"));
    }
    ls::in_order(&mut nodes);
    // It is put right when this future ends or is dropped: a signal does not wait for the keyboard.
    let _terminal = Terminal::for_keys();
    let items = items(&nodes);
    let prompt = match tunnels {
        [] => "Target".to_owned(),
        tunnels => format!("Target of {}", tunnels.join(", ")),
    };
    let asked = tokio::task::spawn_blocking(move || select(&prompt, &items)).await;
    let chosen = match asked.map_err(io::Error::other).flatten() {
        Ok(chosen) => chosen.and_then(|at| nodes.get(at)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
        Err(error) => return Err(Report::new(Exit::Failure, "the terminal cannot be asked").caused_by(&error)),
    };
    let Some(node) = chosen else { return Ok(None) };
    let name = node.label().map_or_else(String::new, |name| format!(" {name:?}"));
    reporter.say(&format!("{}{name}: with --target {} you are not asked", node.id, node.id));
    Ok(Some(node.id.clone()))
}

/// One line a node.
fn items(nodes: &[NodeInfo]) -> Vec<String> {
    let cell = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), printable);
    let row = |node: &NodeInfo| {
        [
            cell(node.label()),
            node.id.clone(),
            cell(node.system.as_deref().or(node.platform.as_deref())),
            cell(node.ip.as_deref()),
        ]
    };
    ls::columns(nodes.iter().map(row).collect())
}

/// Blocks until something is chosen, or nothing is.
fn select(prompt: &str, items: &[String]) -> io::Result<Option<usize>> {
    let term = Term::stderr();
    let width = usize::from(term.size().1).saturating_sub(MARGIN).max(20);
    let items: Vec<_> = items.iter().map(|item| truncate_str(item, width, "…").into_owned()).collect();
    let theme = ColorfulTheme::default();
    let question = FuzzySelect::with_theme(&theme).with_prompt(prompt).items(&items).default(0).report(false);
    question.interact_on_opt(&term).map_err(|dialoguer::Error::IO(error)| error)
}

/// The terminal as it was before the question.
struct Terminal {
    #[cfg(unix)]
    modes: Option<rustix::termios::Termios>,
}

impl Terminal {
    /// Keys are for the question from now on. It takes them one at a time only while it waits for one: without this,
    /// Ctrl-C in between would be a signal to everything on the terminal, the shell around us included.
    fn for_keys() -> Self {
        #[cfg(unix)]
        {
            use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

            let modes = tcgetattr(io::stdin()).ok();
            if let Some(mut modes) = modes.clone() {
                modes.local_modes.remove(LocalModes::ISIG | LocalModes::ICANON | LocalModes::ECHO);
                tcsetattr(io::stdin(), OptionalActions::Now, &modes).ok();
            }
            Self { modes }
        }
        #[cfg(not(unix))]
        Self {}
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(modes) = &self.modes {
            // A terminal that is gone needs no repair.
            rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, modes).ok();
        }
        Term::stderr().show_cursor().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::Ping;

    #[test]
    fn items_are_columns_of_printable_text() {
        let node = |id: &str, name: Option<&str>| NodeInfo {
            id: id.into(),
            name: name.map(Into::into),
            computer_name: None,
            platform: Some("Linux".into()),
            system: None,
            system_version: None,
            agent_version: None,
            ping: Ping::Online,
            last_ping: None,
            ip: Some("10.0.0.1".into()),
        };
        let nodes = [node("i-0a", Some("a\nb")), node("i-0123456789abcdef0", None)];
        assert_eq!(
            items(&nodes),
            ["a / b  i-0a                 Linux  10.0.0.1", "-      i-0123456789abcdef0  Linux  10.0.0.1"]
        );
    }
}
