//! `ssmfwd man`: the manual page, made of the same definition as the help.
//!
//! The options are set by `clap_mangen`; our own manual below them has tables and examples, which it would run together,
//! and there is one page for all commands, so these parts are set here. What comes out is plain ASCII: what is not is
//! written as escapes that every roff knows.

use std::{fmt::Write as _, io, sync::Arc};

use clap::{Arg, Command, CommandFactory as _};
use clap_mangen::Man;

use super::{args::Args, reporter::Reporter};

pub(super) const MANUAL: &str = "\
Examples:
  Read it:
    ssmfwd man | man -l -

  Install it for everybody:
    ssmfwd man > /usr/local/share/man/man1/ssmfwd.1";

/// Writes the page to stdout.
pub(super) async fn run(reporter: &Arc<Reporter>) {
    reporter.data(page(&with_variables(Args::command())).trim_end().to_owned());
    reporter.written().await;
}

/// The whole page.
fn page(command: &Command) -> String {
    let man = Man::new(command.clone());
    let mut page = rendered(|page| man.render_title(page));
    page += &rendered(|page| man.render_name_section(page));
    page += ".SH SYNOPSIS\n";
    page += &usage(command, "ssmfwd");
    for command in commands(command) {
        page += ".br\n";
        page += &usage(command, &format!("ssmfwd {}", command.get_name()));
    }
    page += &rendered(|page| man.render_description_section(page));
    page += &rendered(|page| man.render_options_section(page));
    page +=
        ".SH COMMANDS\nThey take the options of profile, region and endpoints above, and those of output and log.\n";
    for command in commands(command) {
        page += &of_command(command);
    }
    if let Some(manual) = command.get_after_long_help() {
        sections(&mut page, "SH", &manual.to_string());
    }
    ascii(&page)
}

/// The same with the variable of each option behind its help.
fn with_variables(command: Command) -> Command {
    let named = |argument: Arg| {
        let help = argument.get_long_help().or_else(|| argument.get_help()).map(ToString::to_string);
        let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
        match (help, variable) {
            (Some(help), Some(variable)) => argument.long_help(format!("{help} [{variable}]")),
            _ => argument,
        }
    };
    command.mut_args(named).mut_subcommands(with_variables)
}

/// The commands that are to be seen.
fn commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// One command, with the options that only it has.
fn of_command(command: &Command) -> String {
    let mut part = format!(".SS ssmfwd {}\n", escaped(command.get_name()));
    // Before it is built it has neither the help nor the options of all commands.
    let man = Man::new(command.clone().disable_help_flag(true));
    for rendered in
        [rendered(|part| man.render_description_section(part)), rendered(|part| man.render_options_section(part))]
    {
        part.extend(
            rendered
                .split_inclusive('\n')
                .filter(|line| !line.starts_with(".SH") && !line.starts_with(".ie") && !line.starts_with(".el")),
        );
    }
    if let Some(manual) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        sections(&mut part, "PP", &manual.to_string());
    }
    part
}

fn usage(command: &Command, name: &str) -> String {
    let usage = command.clone().bin_name(name).render_usage().to_string();
    let usage = usage.lines().next().unwrap_or_default().trim_start_matches("Usage: ").to_owned();
    let usage = usage.strip_prefix(name).unwrap_or(&usage).trim_start();
    format!("\\fB{}\\fR {}\n", escaped(name), escaped(usage))
}

/// The manual of the help: headings at the margin, what is indented as it is, everything else as paragraphs.
fn sections(page: &mut String, heading: &str, manual: &str) {
    let mut set = false;
    for line in manual.lines() {
        let is_indented = line.starts_with(' ');
        if is_indented != set && !line.is_empty() {
            page.push_str(if is_indented { ".PP\n.nf\n" } else { ".fi\n" });
            set = is_indented;
        }
        match line.strip_suffix(':').filter(|_| !is_indented) {
            Some(title) if heading == "SH" => writeln!(page, ".SH {}", escaped(&title.to_uppercase())),
            Some(title) => writeln!(page, ".PP\n\\fB{}\\fR", escaped(title)),
            None if line.is_empty() && set => writeln!(page),
            None if line.is_empty() => writeln!(page, ".PP"),
            None => writeln!(page, "{}", escaped(line)),
        }
        .ok();
    }
    if set {
        page.push_str(".fi\n");
    }
}

fn rendered(render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut bytes = Vec::new();
    // A vector takes everything.
    render(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A line that says the same to roff as to people.
fn escaped(line: &str) -> String {
    let escaped = line.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

fn ascii(page: &str) -> String {
    let mut ascii = String::with_capacity(page.len());
    for character in page.chars() {
        match character {
            // Terminals that know no more than ASCII are told so by roff, and people get nothing.
            '…' => ascii.push_str("..."),
            _ if character.is_ascii() => ascii.push(character),
            _ => drop(write!(ascii, "\\[u{:04X}]", u32::from(character))),
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_and_command_is_there_and_nothing_but_ascii() {
        let command = with_variables(Args::command());
        let page = page(&command);
        assert!(page.is_ascii());
        let all = std::iter::once(&command).chain(commands(&command));
        for argument in all.flat_map(Command::get_arguments).filter(|argument| !argument.is_hide_set()) {
            let Some(long) = argument.get_long() else { continue };
            assert!(page.contains(&escaped(&format!("--{long}"))), "--{long}");
            if let Some(variable) = argument.get_env().and_then(|name| name.to_str()) {
                assert!(page.contains(variable), "{variable}");
            }
        }
        for command in commands(&command) {
            assert!(page.contains(&format!(".SS ssmfwd {}\n", escaped(command.get_name()))));
        }
    }

    #[test]
    fn tables_and_examples_are_set_as_they_are() {
        let mut page = String::new();
        sections(&mut page, "SH", "A table:\n  -a  one\n\n  .b  two\n\nA text.");
        assert_eq!(page, ".SH A TABLE\n.PP\n.nf\n  \\-a  one\n\n  .b  two\n\n.fi\nA text.\n");
        assert_eq!(escaped(".x \\n 'y'"), "\\&.x \\en 'y'");
        assert_eq!(ascii("i-… ä"), "i-... \\[u00E4]");
    }
}
