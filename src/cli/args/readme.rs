//! The options as README shows them. Only the test below makes the table.

use clap::{Arg, ArgAction};

use super::Args;

const README: &str = include_str!("../../../README.md");
const BEGIN: &str = "<!-- table of options: made from src/cli/args -->\n";
const END: &str = "<!-- end of the table of options -->";

/// A default that is the absence of a value is said in the text.
const SAID: &str = " [default: ";

fn name(option: &Arg) -> String {
    let short = option.get_short().map_or_else(String::new, |short| format!("`-{short}`, "));
    let value = option.get_value_names().filter(|_| option.get_action().takes_values()).and_then(<[_]>::first);
    let value = value.map_or_else(String::new, |value| format!(" {value}"));
    format!("{short}`--{}{value}`", option.get_long().unwrap_or_default())
}

fn line(option: &Arg) -> String {
    let help = option.get_help().map(ToString::to_string).unwrap_or_default();
    let (text, said) = match help.split_once(SAID) {
        Some((text, said)) => (text, said.trim_end_matches(']').to_owned()),
        None => (&help[..], String::new()),
    };
    let default = match option.get_action() {
        ArgAction::SetTrue | ArgAction::Count => String::new(),
        _ => option.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect(),
    };
    let variable = option.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let cells = [name(option), text.to_owned(), default + &said, format!("`{variable}`")];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

#[test]
fn readme_has_every_option() {
    let definition = Args::definition();
    let up = definition.find_subcommand("up").expect("there is one").get_arguments();
    let all = up.filter(|option| option.get_long() == Some("all"));
    let options = definition.get_arguments().filter(|option| option.get_long().is_some());
    let mut wanted = "\n| option | meaning | default | variable |\n| --- | --- | --- | --- |\n".to_owned();
    wanted.extend(options.chain(all).map(line));
    wanted.push('\n');
    let found = README.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(table, _)| table);
    assert!(found == Some(&wanted), "README should have between `{}` and `{END}`:\n{wanted}", BEGIN.trim_end());
}
