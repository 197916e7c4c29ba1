//! The configuration file: named tunnels, and defaults for every option.
//!
//! ```text
//! discovery ─▶ text ─▶ file: tables, each key checked ─▶ defaults of the options, for each tunnel ─▶ Args ─▶ Plan
//! ```
//!
//! What a key means is not known here: keys are the long names of options, and a value of the file is the default of
//! its option when the command line is read again. So both take the same values, and a flag wins over its variable and
//! that over the file. What is here: where the file is and whether it may be trusted, which keys may stand where, and
//! the position of every mistake.

mod check;
mod discovery;
mod file;
mod keys;
mod name;
#[cfg(test)]
mod readme;
mod source;
mod targetless;
#[cfg(test)]
mod tests;
mod value;

use std::path::PathBuf;

pub(super) use self::targetless::Targetless;
use self::{
    discovery::{FILE_NAME, Surroundings},
    file::{File, Tunnel},
    keys::nearest,
};
use super::{
    args::{Args, Command, Defaults, UpArgs},
    plan::{self, Plan, PlannedForward},
    report::Report,
    reporter::Reporter,
};
use crate::forward::Listen;

pub(super) const CHECK_ABOUT: &str = "\
Read the configuration file, and say which one it is, which tunnels it has, and what they come to with the variables \
and flags of this moment: it takes the options of `up`. Nothing is bound and nobody is asked. The exit status is 2 if \
the file is not valid, or there is none.";

/// The configuration of a run: a file, or none.
#[derive(Debug, Clone, Default)]
pub(super) struct Config {
    file: Option<File>,
    /// The user's home folder.
    home: Option<PathBuf>,
}

impl Config {
    /// Finds and reads the file, and completes the arguments with its defaults. If that fails, they are as typed.
    pub(super) fn complete(typed: Args) -> (Args, Result<Self, Report>) {
        let config = Self::load(&typed, &Surroundings::of_process());
        match config.and_then(|config| Ok((config.defaults_of(&typed)?, config))) {
            Ok((args, config)) => (args, Ok(config)),
            Err(report) => (typed, Err(report)),
        }
    }

    /// Finds and reads the file.
    ///
    /// # Errors
    /// When it cannot be read or trusted, or something in it is not valid. There may be none, unless one was named.
    fn load(args: &Args, surroundings: &Surroundings) -> Result<Self, Report> {
        let named = args.config.as_deref().filter(|path| !path.as_os_str().is_empty());
        let source = discovery::find(named, surroundings)?;
        let file = source.map(File::read).transpose()?;
        // A folder may have come from anywhere, with a file in it that is ours by now.
        if let Some(file) = file.as_ref().filter(|file| named.is_none() && !surroundings.is_of_user(&file.source.path))
        {
            file.refuse_endpoints()?;
        }
        Ok(Self { file, home: surroundings.home.clone() })
    }

    /// The arguments with the defaults of the file.
    fn defaults_of(&self, args: &Args) -> Result<Args, Report> {
        match &self.file {
            Some(file) => args.with_defaults(&file.defaults()).map_err(|error| unexpected(file, &error)),
            None => Ok(args.clone()),
        }
    }

    /// What is to be done, for arguments that are complete.
    ///
    /// # Errors
    /// What is wrong with the arguments, or with a tunnel that they name.
    pub(super) fn plan(&self, args: &Args) -> Result<Plan, Report> {
        match &args.command {
            Some(Command::Up(up)) => self.plan_tunnels(up, args),
            _ => Plan::new(args).map_err(|report| self.pointing_at_up(report, args)),
        }
    }

    /// What is said of a FORWARD that cannot be read, and how to open it if it is the name of a tunnel.
    fn pointing_at_up(&self, report: Report, args: &Args) -> Report {
        let Some(file) = &self.file else { return report };
        let texts = &args.forward.forwards;
        let is_meant =
            |text: &&String| plan::spec(text, &args.session).err().is_some_and(|mistake| mistake.error == report.error);
        let is_tunnel = |text: &&String| file.tunnels.iter().any(|tunnel| tunnel.name == **text);
        let Some(name) = texts.iter().find(is_meant).filter(is_tunnel) else { return report };
        let names: Vec<_> = texts.iter().filter(is_tunnel).map(String::as_str).collect();
        let (path, names) = (file.source.path.display(), names.join(" "));
        report.with_hint(format!("{name} is a tunnel of {path}: open it with `ssmfwd up {names}`"))
    }

    fn plan_tunnels(&self, up: &UpArgs, args: &Args) -> Result<Plan, Report> {
        let file = self.file.as_ref().ok_or_else(no_file)?;
        let all = self.forwards(file, args)?;
        let chosen = chosen(file, up)?;
        let mut forwards = Vec::with_capacity(chosen.len());
        for tunnel in chosen {
            let Some((_, prepared)) = all.iter().find(|(other, _)| other.name == tunnel.name) else { continue };
            forwards.push(prepared.plan(file, tunnel)?);
        }
        Plan::of(forwards, args)
    }

    /// Reads the forwards of all tunnels: no two may be in each other's way, whether they are asked for now or not.
    fn forwards<'a>(&'a self, file: &'a File, args: &Args) -> Result<Vec<(&'a Tunnel, Prepared)>, Report> {
        let mut all = Vec::<(&Tunnel, Prepared)>::with_capacity(file.tunnels.len());
        for tunnel in &file.tunnels {
            let (args, matches) =
                args.of_tunnel(&file.defaults_for(tunnel)).map_err(|error| unexpected(file, &error))?;
            let mut spec = plan::spec(&tunnel.forward.text, &args.session)
                .map_err(|report| file.source.locate(tunnel.forward.at, report))?;
            if let Listen::Unix(path) = &mut spec.listen {
                *path = file.source.beside(path, self.home.as_deref());
            }
            let clash = all.iter().find(|(_, other)| other.spec.listen.collides_with(&spec.listen));
            if let Some((other, _)) = clash {
                return Err(collision(file, other, tunnel, &spec.listen));
            }
            all.push((tunnel, Prepared { spec, args, matches }));
        }
        Ok(all)
    }

    /// Says which file is in use.
    pub(super) fn tell(&self, args: &Args, reporter: &Reporter) {
        let Some(file) = &self.file else { return };
        match &args.command {
            Some(Command::CheckConfig) => {}
            Some(Command::Up(_)) => reporter.say(&format!("tunnels of {}", file.source.path.display())),
            _ if file.defaults().is_empty() => {}
            _ => reporter.say(&format!("defaults of {}", file.source.path.display())),
        }
    }
}

/// The plan anew, as when the configuration is to be reloaded: the same command line and environment, and the file as
/// it is now.
///
/// # Errors
/// What [`Config::load`] and [`Config::plan`] say.
pub(super) fn load_plan(args: &Args) -> Result<Plan, Report> {
    let config = Config::load(args, &Surroundings::of_process())?;
    config.plan(&config.defaults_of(args)?)
}

/// A tunnel that has been read.
struct Prepared {
    spec: crate::forward::ForwardSpec,
    /// The options for it.
    args: Args,
    /// And where each comes from.
    matches: clap::ArgMatches,
}

impl Prepared {
    fn plan(&self, file: &File, tunnel: &Tunnel) -> Result<PlannedForward, Report> {
        let is_given = |target: &Option<String>| target.as_ref().is_some_and(|target| !target.is_empty());
        if !is_given(&self.spec.target) && !is_given(&self.args.session.target) {
            let name = tunnel.shown();
            return Err(file.source.mistake(tunnel.at, format!("the tunnel {name} has no target")).with_hint(format!(
                "give [tunnels.{name}] or [defaults] a key target, such as target = \"name:bastion\", or use --target"
            )));
        }
        let planned = PlannedForward::of(self.spec.clone(), &self.args);
        // Each value was checked where it stands: what is wrong now comes from several together, or was typed.
        let mut planned = planned.map_err(|report| file.source.locate(tunnel.forward.at, report))?;
        planned.tunnel = Some(tunnel.name.clone());
        Ok(planned)
    }
}

/// The tunnels that are asked for: in command order, or all in that of the file.
fn chosen<'a>(file: &'a File, up: &UpArgs) -> Result<Vec<&'a Tunnel>, Report> {
    if up.names.is_empty() {
        return match file.tunnels.is_empty() {
            false => Ok(file.tunnels.iter().collect()),
            true => Err(Report::usage(format!("{} has no tunnels", file.source.path.display())).with_hint(ADD_TUNNEL)),
        };
    }
    let find = |(at, name): (usize, &String)| {
        if up.names[..at].contains(name) {
            return Err(Report::usage(format!("the tunnel {name} is named twice")));
        }
        file.tunnels.iter().find(|tunnel| tunnel.name == *name).ok_or_else(|| no_tunnel(file, name))
    };
    up.names.iter().enumerate().map(find).collect()
}

const ADD_TUNNEL: &str =
    "a tunnel is a table of the file, such as: [tunnels.db], and below it: forward = \"13306:rds-endpoint:3306\"";

fn no_tunnel(file: &File, name: &str) -> Report {
    let report = Report::usage(format!("{} has no tunnel {name:?}", file.source.path.display()));
    let names: Vec<_> = file.tunnels.iter().map(|tunnel| &tunnel.name[..]).collect();
    report.with_hint(match (nearest(name, names.iter().copied()), &names[..]) {
        (_, []) => ADD_TUNNEL.to_owned(),
        (Some(near), _) => format!("did you mean {near}? The tunnels are: {}", names.join(", ")),
        (None, _) => format!("the tunnels are: {}", names.join(", ")),
    })
}

fn no_file() -> Report {
    Report::usage(format!(
        "there is no configuration file: no {FILE_NAME} in this folder or above it, nor the user's own"
    ))
    .with_hint(format!(
        "make a {FILE_NAME} here with a table such as [tunnels.db] and in it forward = \"13306:rds-endpoint:3306\", or \
             name a file with --config FILE"
    ))
}

fn collision(file: &File, first: &Tunnel, second: &Tunnel, listen: &Listen) -> Report {
    let what = match listen {
        Listen::Tcp { port, .. } => format!("local port {port}"),
        Listen::Unix(path) => format!("unix socket {}", path.display()),
    };
    let (line, _) = file.source.position(first.forward.at);
    let (first, second_name) = (first.shown(), second.shown());
    let what = format!("{what} is used twice: by the tunnel {first} (line {line}) and by the tunnel {second_name}");
    file.source.mistake(second.forward.at, what).with_hint("give each tunnel a LOCAL of its own; 0 takes any free port")
}

/// Every value has been checked, so that this does not happen.
fn unexpected(file: &File, error: &clap::Error) -> Report {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    Report::usage(format!("{}: {}", file.source.path.display(), line.strip_prefix("error: ").unwrap_or(line)))
}

/// What a table gives for options.
fn values(settings: &file::Settings) -> Defaults {
    settings.iter().map(|(key, setting)| (key.clone(), setting.values.clone())).collect()
}
