//! The keys of the file: the long names of the options, as the definition of the command line has them.

use clap::{Arg, ArgAction, builder::Resettable};

use crate::cli::args::Args;

/// Options that say something of the whole program: they stand in `[defaults]` only.
const OF_PROGRAM: [&str; 7] = ["admin", "log-format", "output", "quiet", "ready-fd", "verbose", "wait"];

/// Options that say something of one run, or of the file itself.
const OF_NOTHING: [&str; 2] = ["config", "no-wait"];

/// A code is a secret, and good for half a minute.
pub(super) const MFA_CODE: &str = "mfa-code";

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Defaults,
    Tunnel,
}

/// What kind of value a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    /// A number, or a text such as `auto`.
    NumberOrText,
    Flag,
    /// A number, or a flag: how often it is said.
    Count,
    /// Texts, or a table of keys and values.
    Pairs,
}

impl Kind {
    /// What is expected.
    pub(super) const fn expected(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Number => "a number",
            Self::NumberOrText => "a number or a string",
            Self::Flag => "true or false",
            Self::Count => "a number, true or false",
            Self::Pairs => "an array of strings such as [\"K=V\"], or a table such as { K = \"V\" }",
        }
    }

    /// The kind of an option, by the name that its value has in the manual.
    fn of(option: &Arg) -> Self {
        match option.get_action() {
            ArgAction::SetTrue => return Self::Flag,
            ArgAction::Count => return Self::Count,
            ArgAction::Append => return Self::Pairs,
            _ => {}
        }
        match option.get_value_names().and_then(<[_]>::first).map(|name| name.as_str()) {
            Some("SECONDS" | "N" | "BYTES") => Self::Number,
            Some("N|auto" | "ADDR") => Self::NumberOrText,
            _ => Self::Text,
        }
    }
}

/// A key and its option.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Without its variable, and without other options.
    pub(super) option: Arg,
    /// Not for a tunnel.
    pub(super) is_of_program: bool,
}

/// All keys of options.
pub(super) fn keys() -> Vec<Key> {
    let definition = Args::definition();
    let options = definition.get_arguments().filter_map(|option| Some((option.get_long()?, option)));
    let allowed = options.filter(|(name, _)| !OF_NOTHING.contains(name) && *name != MFA_CODE);
    allowed
        .map(|(name, option)| Key {
            name: name.to_owned(),
            kind: Kind::of(option),
            option: option.clone().env(Resettable::Reset).overrides_with(Resettable::Reset),
            is_of_program: OF_PROGRAM.contains(&name),
        })
        .collect()
}

/// The nearest of some words to one that is not among them, if one is near.
pub(super) fn nearest<'a>(word: &str, among: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Of a similarity from 0 to 1: two letters swapped, or one of five wrong.
    const NEAR: f64 = 0.8;
    let word = word.to_ascii_lowercase().replace('_', "-");
    let similarity = |other: &str| strsim::jaro_winkler(&word, &other.to_ascii_lowercase().replace('_', "-"));
    let best = among.map(|other| (similarity(other), other)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(similarity, _)| *similarity >= NEAR).map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Option<Kind> {
        keys().into_iter().find(|key| key.name == name).map(|key| key.kind)
    }

    #[test]
    fn kinds_follow_from_the_options() {
        for (name, expected) in [
            ("target", Kind::Text),
            ("output", Kind::Text),
            ("linger", Kind::Number),
            ("max-payload", Kind::Number),
            ("ready-fd", Kind::Number),
            ("sessions", Kind::NumberOrText),
            ("admin", Kind::NumberOrText),
            ("lazy", Kind::Flag),
            ("verbose", Kind::Count),
            ("parameter", Kind::Pairs),
        ] {
            assert_eq!(kind(name), Some(expected), "{name}");
        }
        for name in ["config", "all", "help", "version", MFA_CODE, "no-wait", "list"] {
            assert_eq!(kind(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_said_of_keys_is_about_options_that_there_are() {
        let definition = Args::definition();
        for name in OF_PROGRAM.iter().chain(&OF_NOTHING).chain([&MFA_CODE]) {
            assert!(definition.get_arguments().any(|option| option.get_long() == Some(name)), "{name}");
        }
    }

    #[test]
    fn only_what_is_near_is_offered() {
        let keys = keys();
        let near = |word| nearest(word, keys.iter().map(|key| &key.name[..]));
        assert_eq!(near("traget"), Some("target"));
        assert_eq!(near("reconnect_window"), Some("reconnect-window"));
        assert_eq!(near("Profile"), Some("profile"));
        assert_eq!(near("endpoint"), Some("endpoint-url"));
        assert_eq!((near("colour"), near("password"), near("")), (None, None, None));
    }
}
