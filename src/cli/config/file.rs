//! The tables of the file: `[defaults]`, and a `[tunnels.NAME]` for each tunnel. Every key and every value is checked,
//! whether it is asked for or not; what tunnels come to together with flags and variables is not.

use std::collections::BTreeMap;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    keys::{Key, MFA_CODE, Place, keys, nearest},
    name,
    source::Source,
    value::{self, Mistake, shown},
    values,
};
use crate::cli::{args::Defaults, exec::variable_prefix, report::Report};

/// The key of a tunnel that is no option.
const FORWARD: &str = "forward";
const DEFAULTS: &str = "defaults";
const TUNNELS: &str = "tunnels";

/// A file that is valid in itself.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) source: Source,
    defaults: Settings,
    /// In the order of the file.
    pub(super) tunnels: Vec<Tunnel>,
}

/// What a table gives for options, by their long names.
pub(super) type Settings = BTreeMap<String, Setting>;

/// Options that say where requests are sent.
const ENDPOINTS: [&str; 2] = ["endpoint-url", "ssmmessages-endpoint"];

/// A value of the file.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// As on the command line. More than one only where the option may be repeated.
    pub(super) values: Vec<String>,
    /// Where the key stands, in bytes.
    pub(super) at: usize,
}

/// A named tunnel.
#[derive(Debug, Clone)]
pub(super) struct Tunnel {
    pub(super) name: String,
    /// Where its name stands.
    pub(super) at: usize,
    pub(super) forward: Forward,
    pub(super) settings: Settings,
}

/// What a tunnel forwards.
#[derive(Debug, Clone)]
pub(super) struct Forward {
    pub(super) text: String,
    /// Where it stands.
    pub(super) at: usize,
}

impl Tunnel {
    /// The name as the file has it.
    pub(super) fn shown(&self) -> String {
        if self.name.contains('.') { format!("{:?}", self.name) } else { self.name.clone() }
    }
}

impl File {
    /// Reads a text.
    ///
    /// # Errors
    /// The first mistake in it, with its position.
    pub(super) fn read(source: Source) -> Result<Self, Report> {
        let (read, mistakes) = {
            let document = DeTable::parse(&source.text).map_err(|error| {
                let message = error.message().lines().collect::<Vec<_>>().join("; ");
                source.mistake(error.span().map_or(0, |span| span.start), message)
            })?;
            let mut reader = Reader { keys: keys(), mistakes: Vec::new() };
            (reader.document(document.get_ref()), reader.mistakes)
        };
        if let Some(Mistake { at, what, hint }) = mistakes.into_iter().min_by_key(|mistake| mistake.at) {
            let report = source.mistake(at, what);
            return Err(match hint {
                Some(hint) => report.with_hint(hint),
                None => report,
            });
        }
        let (defaults, tunnels) = read;
        Ok(Self { source, defaults, tunnels })
    }

    /// Refuses to send signed requests, and with them what the tunnels carry, to wherever a file wants them that nobody
    /// has named.
    pub(super) fn refuse_endpoints(&self) -> Result<(), Report> {
        let all = std::iter::once(&self.defaults).chain(self.tunnels.iter().map(|tunnel| &tunnel.settings));
        let leads = |settings: &Settings| ENDPOINTS.iter().filter_map(|key| Some((settings.get(*key)?.at, *key))).min();
        let Some((at, key)) = all.filter_map(leads).min() else { return Ok(()) };
        let path = self.source.path.display();
        let report = self.source.mistake(at, format!("{key} is not taken from a file that was only found"));
        Err(report.with_hint(format!(
            "it would decide where requests are sent: name the file with --config {path}, or put the endpoint into the \
             profile of the AWS configuration (endpoint_url)"
        )))
    }

    /// What `[defaults]` gives for options.
    pub(super) fn defaults(&self) -> Defaults {
        values(&self.defaults)
    }

    /// The same for a tunnel, whose own values come first.
    pub(super) fn defaults_for(&self, tunnel: &Tunnel) -> Defaults {
        let mut defaults = self.defaults();
        defaults.extend(values(&tunnel.settings));
        defaults
    }

    /// Where the value of an option stands that a tunnel has from the file.
    pub(super) fn line_of(&self, tunnel: &Tunnel, option: &str) -> Option<usize> {
        let setting = tunnel.settings.get(option).or_else(|| self.defaults.get(option))?;
        Some(self.source.position(setting.at).0)
    }
}

/// Collects mistakes: the first of the file is reported, not the first in the order of the alphabet.
struct Reader {
    keys: Vec<Key>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn document(&mut self, document: &DeTable<'_>) -> (Settings, Vec<Tunnel>) {
        let (mut defaults, mut tunnels) = (Settings::new(), Vec::new());
        for (key, value) in document {
            match (&key.get_ref()[..], value.get_ref()) {
                (DEFAULTS, DeValue::Table(table)) => defaults = self.settings(table, Place::Defaults),
                (TUNNELS, DeValue::Table(table)) => tunnels = self.tunnels(table),
                (name @ (DEFAULTS | TUNNELS), other) => {
                    let what = format!("{name} must be a table, not {}", shown(other));
                    self.mistakes.push(Mistake::new(value.span().start, what));
                }
                (name, value) => self.stranger(name, value, key.span().start),
            }
        }
        (defaults, tunnels)
    }

    /// Something at the top of the file that does not belong there.
    fn stranger(&mut self, name: &str, value: &DeValue<'_>, at: usize) {
        let is_option = name == FORWARD || self.keys.iter().any(|key| key.name == name);
        let (what, hint) = match value {
            DeValue::Table(_) | DeValue::Array(_) if !is_option => {
                let near = nearest(name, [DEFAULTS, TUNNELS].into_iter());
                let near = near.map_or_else(String::new, |near| format!("did you mean {near}? "));
                (format!("unknown table {name:?}"), format!("{near}The tables are [defaults] and [tunnels.NAME]"))
            }
            _ if is_option => (
                format!("{name} stands outside of any table"),
                "options stand in [defaults], for all tunnels, or in [tunnels.NAME], for one".to_owned(),
            ),
            _ => (format!("unknown key {name:?}"), "the tables are [defaults] and [tunnels.NAME]".to_owned()),
        };
        self.mistakes.push(Mistake { hint: Some(hint), ..Mistake::new(at, what) });
    }

    fn tunnels(&mut self, tables: &DeTable<'_>) -> Vec<Tunnel> {
        let mut tunnels = Vec::<Tunnel>::new();
        let mut in_order: Vec<_> = tables.iter().collect();
        in_order.sort_by_key(|(name, _)| name.span().start);
        for (key, value) in in_order {
            let (name, at) = (key.get_ref().to_string(), key.span().start);
            if let Some(problem) = name::problem(&name) {
                self.mistakes.push(Mistake::new(at, format!("{name:?} cannot be the name of a tunnel: {problem}")));
                continue;
            }
            let variables = variable_prefix(&name);
            if let Some(other) = tunnels.iter().find(|other| variable_prefix(&other.name) == variables) {
                let what = format!(
                    "the tunnels {} and {name} are too much alike: both would be {variables}_ADDR and so on",
                    other.name
                );
                self.mistakes.push(Mistake::new(at, what));
            }
            let DeValue::Table(table) = value.get_ref() else {
                let what = format!("the tunnel {name} must be a table, not {}", shown(value.get_ref()));
                let hint = format!("write it as [tunnels.{name}], and below it forward = \"13306:rds-endpoint:3306\"");
                self.mistakes.push(Mistake { hint: Some(hint), ..Mistake::new(value.span().start, what) });
                continue;
            };
            let forward = self.forward(&name, at, table);
            let settings = self.settings(table, Place::Tunnel);
            tunnels.extend(forward.map(|forward| Tunnel { name, at, forward, settings }));
        }
        tunnels
    }

    fn forward(&mut self, name: &str, at: usize, table: &DeTable<'_>) -> Option<Forward> {
        let mistake = match table.get(FORWARD) {
            Some(value) => match value.get_ref() {
                DeValue::String(text) => return Some(Forward { text: text.to_string(), at: value.span().start }),
                other => Mistake::new(value.span().start, format!("forward must be a string, not {}", shown(other))),
            },
            None => Mistake {
                hint: Some("a tunnel forwards one thing, such as forward = \"13306:rds-endpoint:3306\"".to_owned()),
                ..Mistake::new(at, format!("the tunnel {name} has no key forward"))
            },
        };
        self.mistakes.push(mistake);
        None
    }

    fn settings(&mut self, table: &DeTable<'_>, place: Place) -> Settings {
        let mut settings = Settings::new();
        for (name, value) in table {
            if name.get_ref() == FORWARD && place == Place::Tunnel {
                continue;
            }
            match self.setting(name, value, place) {
                Ok(setting) => drop(settings.insert(name.get_ref().to_string(), setting)),
                Err(mistake) => self.mistakes.push(mistake),
            }
        }
        settings
    }

    fn setting(
        &self,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        place: Place,
    ) -> Result<Setting, Mistake> {
        let at = name.span().start;
        let name = &name.get_ref()[..];
        match self.keys.iter().find(|key| key.name == name) {
            Some(key) if key.is_of_program && place == Place::Tunnel => Err(Mistake {
                hint: Some("put it into [defaults]".to_owned()),
                ..Mistake::new(at, format!("{name} is for the whole program, not for one tunnel"))
            }),
            Some(key) => Ok(Setting { values: value::read(key, value)?, at }),
            None => Err(self.unknown(name, at, place)),
        }
    }

    fn unknown(&self, name: &str, at: usize, place: Place) -> Mistake {
        let (what, hint) = match name {
            FORWARD => ("forward cannot be a default".to_owned(), "it belongs into a table [tunnels.NAME]".to_owned()),
            MFA_CODE => (
                format!("{MFA_CODE} cannot stand in the file"),
                "a code is good for half a minute: give it with SSMFWD_MFA_CODE, or in a terminal when asked"
                    .to_owned(),
            ),
            "config" => (format!("{name} cannot stand in the file"), "leave it out: this is the file".to_owned()),
            "no-wait" => (format!("unknown key {name:?}"), "write wait = false in [defaults]".to_owned()),
            _ => {
                let known = self.keys.iter().filter(|key| place == Place::Defaults || !key.is_of_program);
                let known = known.map(|key| &key.name[..]);
                let known = known.chain((place == Place::Tunnel).then_some(FORWARD));
                let hint = match nearest(name, known) {
                    Some(near) => format!("did you mean {near}?"),
                    None => "the keys are the long names of the options that `ssmfwd --help` lists".to_owned(),
                };
                (format!("unknown key {name:?}"), hint)
            }
        };
        Mistake { hint: Some(hint), ..Mistake::new(at, what) }
    }
}
