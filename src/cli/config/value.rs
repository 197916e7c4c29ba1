//! A value of the file, as the texts that its option would be given on the command line.

use std::fmt;

use clap::error::{ContextKind, ContextValue};
use toml::{
    Spanned,
    de::{DeInteger, DeValue},
};

use super::keys::{Key, Kind};
use crate::cli::plan::check_value;

/// A value that is not one of its key.
#[derive(Debug)]
pub(super) struct Mistake {
    /// Where, in bytes.
    pub(super) at: usize,
    pub(super) what: String,
    pub(super) hint: Option<String>,
}

impl Mistake {
    pub(super) fn new(at: usize, what: impl fmt::Display) -> Self {
        Self { at, what: what.to_string(), hint: None }
    }
}

/// Reads the value of a key, and checks it as its option would.
pub(super) fn read(key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Mistake> {
    let texts = texts(key, value)?;
    for (at, text) in &texts {
        check(key, text).map_err(|(what, hint)| Mistake { at: *at, what, hint })?;
    }
    Ok(texts.into_iter().map(|(_, text)| text).collect())
}

/// The texts, each with its position.
fn texts(key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Vec<(usize, String)>, Mistake> {
    let at = value.span().start;
    let one = |text: String| Ok(vec![(at, text)]);
    match (key.kind, value.get_ref()) {
        (Kind::Text | Kind::NumberOrText, DeValue::String(text)) => one(text.to_string()),
        (Kind::Number | Kind::NumberOrText | Kind::Count, DeValue::Integer(number)) => one(decimal(number)),
        (Kind::Number, DeValue::Float(number)) => one(number.as_str().to_owned()),
        (Kind::Flag | Kind::Count, DeValue::Boolean(flag)) => one(flag.to_string()),
        (Kind::Pairs, DeValue::Array(values)) => {
            values.iter().map(|value| Ok((value.span().start, string(key, value)?))).collect()
        }
        (Kind::Pairs, DeValue::Table(pairs)) => {
            let mut texts = Vec::new();
            for (name, value) in pairs {
                let values = match value.get_ref() {
                    DeValue::Array(values) => values.iter().collect(),
                    _ => vec![value],
                };
                for value in values {
                    texts.push((value.span().start, format!("{}={}", name.get_ref(), string(key, value)?)));
                }
            }
            Ok(texts)
        }
        (kind, other) => {
            let what = format!("{} must be {}, not {}", key.name, kind.expected(), shown(other));
            Err(Mistake::new(at, what))
        }
    }
}

fn string(key: &Key, value: &Spanned<DeValue<'_>>) -> Result<String, Mistake> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.to_string()),
        other => {
            let what = format!("every value of {} must be a string, not {}", key.name, shown(other));
            Err(Mistake::new(value.span().start, what))
        }
    }
}

/// In the notation of the command line, whatever that of the file. What does not fit is left to the option to refuse.
fn decimal(number: &DeInteger<'_>) -> String {
    i128::from_str_radix(number.as_str(), number.radix())
        .map_or_else(|_| number.to_string(), |number| number.to_string())
}

/// The type of a value, for people.
pub(super) fn shown(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Whether the option takes the value; else its words, and what helps.
fn check(key: &Key, text: &str) -> Result<(), (String, Option<String>)> {
    let command = clap::Command::new("ssmfwd").arg(key.option.clone());
    let command = match key.kind {
        // A flag takes no value but as a default.
        Kind::Flag | Kind::Count => {
            command.mut_arg(key.option.get_id(), |option| option.default_value(text.to_owned()))
        }
        _ => command,
    };
    let word = (!matches!(key.kind, Kind::Flag | Kind::Count)).then(|| format!("--{}={text}", key.name));
    if let Err(error) = command.try_get_matches_from(std::iter::once("ssmfwd".to_owned()).chain(word)) {
        return Err((format!("{} {text:?} is not valid: {}", key.name, words(&error)), None));
    }
    check_value(&key.name, text).map_err(|report| (report.error, report.hint))
}

/// What an option says of a value.
fn words(error: &clap::Error) -> String {
    if let Some(cause) = std::error::Error::source(error) {
        return cause.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => format!("expected {}", values.join(" or ")),
        _ => error.kind().to_string(),
    }
}
