//! `ssmfwd check-config`: the file, its tunnels, and what they come to.

use std::sync::Arc;

use clap::{ArgAction, ArgMatches, parser::ValueSource};
use serde_json::{Map, Value, json};

use super::{
    Config, File, Prepared, Tunnel,
    keys::{Kind, keys},
    no_file,
};
use crate::cli::{
    args::{Args, Format},
    plan::PlannedForward,
    report::Report,
    reporter::Reporter,
};

impl Config {
    /// Checks everything that can be checked without asking anybody, and says what the tunnels come to.
    ///
    /// # Errors
    /// What `up --all` would say before it binds anything, or that there is no file.
    pub(in crate::cli) fn check(&self, args: &Args, reporter: &Arc<Reporter>) -> Result<(), Report> {
        let file = self.file.as_ref().ok_or_else(no_file)?;
        let mut tunnels = Vec::new();
        for (tunnel, prepared) in self.forwards(file, args)? {
            let forward = prepared.plan(file, tunnel)?;
            tunnels.push((tunnel, prepared, forward));
        }
        match args.say.output {
            Format::Text => {
                reporter.data(format!("{} is valid", file.source.path.display()));
                tunnels
                    .iter()
                    .for_each(|resolved| lines(file, resolved).into_iter().for_each(|line| reporter.data(line)));
            }
            Format::Json => {
                let tunnels: Vec<_> = tunnels.iter().map(|resolved| object(file, resolved)).collect();
                let path = file.source.path.display().to_string();
                reporter.data(json!({ "file": path, "tunnels": tunnels }).to_string());
            }
        }
        Ok(())
    }
}

type Resolved<'a> = (&'a Tunnel, Prepared, PlannedForward);

/// A tunnel for people: where it leads, and every option that is not as always.
fn lines(file: &File, (tunnel, prepared, forward): &Resolved<'_>) -> Vec<String> {
    let mut lines =
        vec![String::new(), format!("{}: {} -> {}", tunnel.name, forward.spec.listen, forward.destination())];
    if let Some(target) = &forward.spec.target {
        lines.push(format!("  target = {target:?}   (line {})", file.source.position(tunnel.forward.at).0));
    }
    for setting in settings(file, tunnel, &prepared.matches) {
        // A target in the forward comes first.
        let is_overridden = setting.key == "target" && forward.spec.target.is_some();
        if setting.from != From::Default && !is_overridden {
            lines.push(format!("  {} = {}   ({})", setting.key, setting.value, setting.shown_origin()));
        }
    }
    lines
}

/// A tunnel for programs.
fn object(file: &File, (tunnel, prepared, forward): &Resolved<'_>) -> Value {
    let settings = settings(file, tunnel, &prepared.matches);
    let settings = settings.into_iter().map(|setting| {
        let mut object = json!({ "value": setting.value, "from": setting.from.name() });
        if let (Some(line), Value::Object(object)) = (setting.line, &mut object) {
            object.insert("line".to_owned(), line.into());
        }
        (setting.key, object)
    });
    json!({
        "name": tunnel.name,
        "line": file.source.position(tunnel.at).0,
        "forward": tunnel.forward.text,
        "listen": forward.spec.listen.to_string(),
        "destination": forward.destination(),
        "target": forward.request.target,
        "document": forward.request.document,
        "settings": settings.collect::<Map<_, _>>(),
    })
}

/// The value of an option for a tunnel, and where it comes from.
struct Resolution {
    key: String,
    value: Value,
    from: From,
    /// Of the file.
    line: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Flag,
    Variable,
    File,
    Default,
}

impl From {
    const fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Variable => "environment",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

impl Resolution {
    fn shown_origin(&self) -> String {
        match self.line {
            Some(line) => format!("line {line}"),
            None => self.from.name().to_owned(),
        }
    }
}

/// Every option of a tunnel that has a value.
fn settings(file: &File, tunnel: &Tunnel, matches: &ArgMatches) -> Vec<Resolution> {
    let of_key = |key: super::keys::Key| {
        let id = key.option.get_id().as_str();
        let line = file.line_of(tunnel, &key.name);
        let (from, line) = match matches.value_source(id)? {
            ValueSource::CommandLine => (From::Flag, None),
            ValueSource::EnvVariable => (From::Variable, None),
            _ if line.is_some() => (From::File, line),
            _ => (From::Default, None),
        };
        let texts = || matches.get_raw(id).into_iter().flatten().map(|text| text.to_string_lossy().into_owned());
        let value = match (key.option.get_action(), key.kind) {
            (ArgAction::SetTrue, _) => matches.get_flag(id).into(),
            (ArgAction::Count, _) => matches.get_count(id).into(),
            (ArgAction::Append, _) => texts().collect::<Vec<_>>().into(),
            (_, kind) => {
                let text = texts().next_back()?;
                let number =
                    (kind != Kind::Text).then(|| serde_json::from_str::<serde_json::Number>(&text).ok()).flatten();
                number.map_or_else(|| text.into(), Value::Number)
            }
        };
        Some(Resolution { key: key.name, value, from, line })
    };
    keys().into_iter().filter(|key| !key.is_of_program).filter_map(of_key).collect()
}
