//! How the command line is read, and read again: with the defaults of a configuration file, and for each tunnel in it.
//!
//! A value of the file becomes the default of its option. So a flag wins over its variable and that over the file
//! because clap has it so, and the file can say nothing that the command line could not.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
};

use clap::{
    Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches,
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::{Args, Command, shell, stdio};
use crate::cli::own_variables::OwnVariables;

/// Values for options, by their long names.
pub(in crate::cli) type Defaults = BTreeMap<String, Vec<String>>;

/// What an [`Args`] was read from.
#[derive(Clone, Default)]
pub(super) struct Origin {
    words: Vec<OsString>,
    /// The options that were typed, as words.
    options: Vec<OsString>,
    /// For forwards that have no other target.
    chosen_target: Option<String>,
    /// The variables that are empty. They count as not set, also where a number or a format is expected.
    empty: Vec<OsString>,
    /// The variable of `--mfa-code`, which the definition finds in the environment no more.
    mfa_code: Option<String>,
}

/// Words and variables can be secrets.
impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").finish_non_exhaustive()
    }
}

impl Args {
    /// The arguments in `words` and, where they say nothing, in the variables that `variable` knows: those of the
    /// environment, whose values the definition has read already, and those that were taken out of it.
    ///
    /// # Errors
    /// What clap says; also for the help and the version.
    pub(in crate::cli) fn read(
        words: impl IntoIterator<Item = OsString>,
        variable: impl Fn(&OsStr) -> Option<OsString>,
    ) -> Result<Self, clap::Error> {
        let definition = Self::definition();
        let all = std::iter::once(&definition).chain(definition.get_subcommands());
        let variables = all.flat_map(clap::Command::get_arguments).filter_map(Arg::get_env);
        let is_empty = |name: &&OsStr| variable(name).is_some_and(|value| value.is_empty());
        let empty = variables.filter(is_empty).map(OsStr::to_owned).collect();
        let mfa_code = variable(OsStr::new(OwnVariables::MFA_CODE)).filter(|code| !code.is_empty());
        // What is no text is no code either: that is told later.
        let mfa_code = mfa_code.map(|code| code.to_string_lossy().into_owned());
        let origin = Origin { words: words.into_iter().collect(), empty, mfa_code, ..Origin::default() };
        parse(origin, &Defaults::new())
    }

    /// The same command line with other defaults.
    ///
    /// # Errors
    /// What clap says.
    pub(in crate::cli) fn with_defaults(&self, defaults: &Defaults) -> Result<Self, clap::Error> {
        parse(self.origin.clone(), defaults)
    }

    /// The options of the same command line with other defaults, for one forward that was not typed, and where each of
    /// them comes from.
    ///
    /// # Errors
    /// What clap says.
    pub(in crate::cli) fn of_tunnel(&self, defaults: &Defaults) -> Result<(Self, ArgMatches), clap::Error> {
        as_forward(&self.origin, defaults)
    }

    /// Has somebody's choice be the target where nothing that was typed or set names one, nor the file: now, and whenever
    /// the same is read again.
    pub(in crate::cli) fn choose_target(&mut self, target: String) {
        self.origin.chosen_target = Some(target);
        self.settle_target();
    }

    /// With where they come from, and what clap could not find.
    fn read_from(mut self, origin: Origin) -> Self {
        self.access.mfa_code = self.access.mfa_code.or_else(|| origin.mfa_code.clone());
        self.origin = origin;
        self.settle_target();
        self
    }

    fn settle_target(&mut self) {
        // An empty text is none.
        if self.session.target.as_ref().is_none_or(String::is_empty) && self.origin.chosen_target.is_some() {
            self.session.target.clone_from(&self.origin.chosen_target);
        }
    }

    /// The complete definition: `up` takes the options of FORWARD, and so does what checks for it; `stdio` and `shell`
    /// take those for what they carry.
    pub(in crate::cli) fn definition() -> clap::Command {
        let command = Self::command();
        let is_option = |argument: &&Arg| !argument.is_positional() && !argument.is_global_set();
        let options: Vec<_> = command.get_arguments().filter(is_option).cloned().collect();
        let hidden: Vec<_> = options.iter().map(|option| option.clone().hide(true)).collect();
        let without = |not_taken: &[&str]| -> Vec<Arg> {
            let is_taken = |option: &&Arg| !option.get_long().is_some_and(|long| not_taken.contains(&long));
            options.iter().filter(is_taken).cloned().collect()
        };
        let (of_one, of_shell) = (without(&stdio::NOT_TAKEN), without(&shell::NOT_TAKEN));
        let of_one = of_one.into_iter().map(|option| match option.get_long() {
            Some("target") => option.help(stdio::TARGET),
            Some("document") => option.help(stdio::DOCUMENT),
            Some("reconnect-window") => option.help(stdio::RECONNECT_WINDOW),
            Some("stall-timeout") => option.help(stdio::STALL_TIMEOUT),
            _ => option,
        });
        let of_shell = of_shell.into_iter().map(|option| match option.get_long() {
            Some("document") => option.help(shell::DOCUMENT),
            Some("reconnect-window") => option.help(shell::RECONNECT_WINDOW),
            Some("stall-timeout") => option.help(stdio::STALL_TIMEOUT),
            _ => option,
        });
        let command = command.mut_subcommand("stdio", |stdio| stdio.args(of_one));
        let command = command.mut_subcommand("shell", |shell| shell.args(of_shell));
        let command = command.mut_subcommand("up", |up| up.args(options));
        command.mut_subcommand("check-config", |check| check.args(hidden))
    }
}

fn parse(mut origin: Origin, defaults: &Defaults) -> Result<Args, clap::Error> {
    let mut command = prepared(&origin, defaults);
    let matches = command.try_get_matches_from_mut(&origin.words);
    let matches = matches.map_err(|error| name_variable(error, &command, &origin.words))?;
    if let Some(misplaced) = misplaced(&command, &matches) {
        return Err(command.error(ErrorKind::ArgumentConflict, misplaced));
    }
    let mut args = Args::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    origin.options = typed(&command, &matches);
    match (&mut args.command, matches.subcommand()) {
        (Some(Command::Login(login)), Some((_, matches))) => {
            login.settle(matches).map_err(|message| command.error(ErrorKind::ArgumentConflict, message))?;
        }
        (Some(Command::Up(up)), Some(_)) => {
            if up.names.is_empty() && !up.all {
                let message = "name the tunnels to open, or open all with --all";
                return Err(mistake(&mut command, &matches, ErrorKind::MissingRequiredArgument, message));
            }
            let up = up.clone();
            args = as_forward(&origin, defaults)?.0;
            let typed = matches.subcommand().and_then(|(_, matches)| matches.value_source("all"));
            if !up.names.is_empty() && typed == Some(ValueSource::CommandLine) {
                let message = "NAME and --all contradict each other: name some tunnels, or take all";
                return Err(mistake(&mut command, &matches, ErrorKind::ArgumentConflict, message));
            }
            args.forward.exec.clone_from(&up.exec);
            args.command = Some(Command::Up(up));
        }
        (Some(command @ (Command::CheckConfig | Command::Stdio(_) | Command::Shell(_))), Some(_)) => {
            let command = command.clone();
            args = as_forward(&origin, defaults)?.0;
            args.command = Some(command);
        }
        _ => args.process.settle(&matches),
    }
    let is_dash = |word: &OsString| word == "--";
    match args.forward.exec.first() {
        None if origin.words.last().is_some_and(is_dash) && matches!(args.command, None | Some(Command::Up(_))) => {
            let message = "COMMAND is missing behind `--`";
            Err(mistake(&mut command, &matches, ErrorKind::MissingRequiredArgument, message))
        }
        Some(program) if program.is_empty() => {
            let message = "COMMAND is empty: behind `--` stands what is to be run";
            Err(mistake(&mut command, &matches, ErrorKind::ValueValidation, message))
        }
        _ => Ok(args.read_from(origin)),
    }
}

/// A mistake, with the usage of the command that was typed.
fn mistake(command: &mut clap::Command, matches: &ArgMatches, kind: ErrorKind, message: &str) -> clap::Error {
    match matches.subcommand_name().and_then(|name| command.find_subcommand_mut(name)) {
        Some(command) => command.error(kind, message),
        None => command.error(kind, message),
    }
}

/// The options that were typed, as if for a FORWARD.
fn as_forward(origin: &Origin, defaults: &Defaults) -> Result<(Args, ArgMatches), clap::Error> {
    let is_required = |argument: &Arg| argument.get_id() != "forwards" && argument.is_required_set();
    let mut command = prepared(origin, defaults).mut_args(|argument| {
        let is_required = is_required(&argument);
        argument.required(is_required)
    });
    let matches = command.try_get_matches_from_mut(std::iter::once(&OsString::from("ssmfwd")).chain(&origin.options));
    let matches = matches.map_err(|error| name_variable(error, &command, &origin.options))?;
    let mut args = Args::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    args.process.settle(&matches);
    Ok((args.read_from(origin.clone()), matches))
}

/// The definition with these defaults, and without the variables that are empty.
fn prepared(origin: &Origin, defaults: &Defaults) -> clap::Command {
    with_arguments(Args::definition(), &|argument| {
        let is_empty = argument.get_env().is_some_and(|name| origin.empty.iter().any(|empty| empty == name));
        let argument = if is_empty { argument.env(Resettable::Reset) } else { argument };
        match argument.get_long().and_then(|long| defaults.get(long)) {
            Some(values) => argument.default_values(values.clone()),
            None => argument,
        }
    })
}

/// A command and its subcommands with their arguments changed.
fn with_arguments(command: clap::Command, change: &dyn Fn(Arg) -> Arg) -> clap::Command {
    command.mut_args(change).mut_subcommands(|subcommand| with_arguments(subcommand, change))
}

/// The options of a FORWARD that were typed, in front of a command or behind it, as words that can be read again.
fn typed(command: &clap::Command, matches: &ArgMatches) -> Vec<OsString> {
    let behind = matches.subcommand().map(|(_, matches)| matches);
    let mut words = Vec::new();
    for argument in command.get_arguments() {
        let (id, Some(long)) = (argument.get_id().as_str(), argument.get_long()) else { continue };
        // Not every command knows it.
        let is_typed = |matches: &&ArgMatches| {
            let known = matches.try_contains_id(id).unwrap_or(false);
            known && matches.value_source(id) == Some(ValueSource::CommandLine)
        };
        let Some(matches) = behind.into_iter().chain([matches]).find(is_typed) else { continue };
        let flag = OsString::from(format!("--{long}"));
        match argument.get_action() {
            ArgAction::SetTrue => words.push(flag),
            ArgAction::Count => words.extend(std::iter::repeat_n(flag, matches.get_count(id).into())),
            _ => words.extend(matches.get_raw(id).into_iter().flatten().map(|value| {
                let mut word = flag.clone();
                word.push("=");
                word.push(value);
                word
            })),
        }
    }
    words
}

/// What was typed in front of a command that does not know it: it would be passed over in silence.
fn misplaced(command: &clap::Command, matches: &ArgMatches) -> Option<String> {
    let (name, _) = matches.subcommand()?;
    let known: Vec<_> = command.find_subcommand(name)?.get_arguments().map(Arg::get_id).collect();
    let is_misplaced = |argument: &&Arg| {
        let id = argument.get_id().as_str();
        // Those that take the options of a FORWARD.
        let may_stand_there = argument.is_global_set()
            || (["up", "check-config", "shell", "stdio"].contains(&name) && known.contains(&argument.get_id()));
        !may_stand_there && matches.value_source(id) == Some(ValueSource::CommandLine)
    };
    let argument = command.get_arguments().find(is_misplaced)?;
    Some(match argument.is_positional() {
        true => format!("`{name}` cannot follow a {argument}"),
        false => format!("the option {argument} cannot stand in front of `{name}`; if it takes it, put it behind"),
    })
}

/// Says where a bad value comes from, if not from the command line.
fn name_variable(mut error: clap::Error, command: &clap::Command, words: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg).cloned() else { return error };
    let Some(flag) = shown.split(' ').next().filter(|flag| flag.starts_with("--")) else { return error };
    let is_typed = |word: &OsString| {
        let rest = word.to_str().and_then(|word| word.strip_prefix(flag));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let all = command.get_arguments().chain(command.get_subcommands().flat_map(clap::Command::get_arguments));
    let argument = all.into_iter().find(|argument| argument.get_long() == flag.get(2..));
    let variable = argument.and_then(Arg::get_env).and_then(OsStr::to_str);
    if let Some(variable) =
        variable.filter(|_| error.kind() == ErrorKind::ValueValidation || error.kind() == ErrorKind::InvalidValue)
        && !words.iter().any(is_typed)
    {
        error.insert(ContextKind::InvalidArg, ContextValue::String(format!("{shown} (from {variable})")));
    }
    error
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(line: &str) -> Result<Args, clap::Error> {
        Args::read(line.split_whitespace().map(OsString::from), |_| None)
    }

    fn defaults(values: &[(&str, &[&str])]) -> Defaults {
        let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
        values.iter().map(|(name, values)| ((*name).to_owned(), owned(values))).collect()
    }

    #[test]
    fn an_empty_variable_is_none() {
        let words = || ["ssmfwd", "1:2"].map(OsString::from);
        Args::read(words(), |_| Some(OsString::new())).expect("as without variables");
        Args::read(words(), |_| None).expect("without variables");
    }

    /// The environment, in which clap looks, has it no more.
    #[test]
    fn a_code_that_was_taken_out_of_the_environment_is_used_every_time_and_never_shown() {
        let taken = |name: &OsStr| (name == OwnVariables::MFA_CODE).then(|| "135790".into());
        let read = |line: &str| Args::read(line.split_whitespace().map(OsString::from), taken).expect("valid");
        for line in ["ssmfwd 1:2", "ssmfwd up db", "ssmfwd ls"] {
            let args = read(line);
            assert_eq!(args.access.mfa_code.as_deref(), Some("135790"), "{line}");
            let again = args.with_defaults(&defaults(&[("linger", &["9"])])).expect("valid");
            assert_eq!(again.access.mfa_code.as_deref(), Some("135790"), "{line}");
            assert!(!format!("{:?}", args.origin).contains("135790"));
        }
        let of_tunnel = read("ssmfwd up db").of_tunnel(&Defaults::new()).expect("valid").0;
        assert_eq!(of_tunnel.access.mfa_code.as_deref(), Some("135790"));
        // What was typed wins.
        assert_eq!(read("ssmfwd ls --mfa-code 246802").access.mfa_code.as_deref(), Some("246802"));
    }

    #[test]
    fn a_bad_value_from_a_variable_names_it() {
        let error = |words: &[&str]| {
            let mut command = Args::command();
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            let error = command.try_get_matches_from_mut(["ssmfwd", "1:2", "--linger", "x"]).expect_err("no number");
            name_variable(error, &command, &words).to_string()
        };
        assert!(error(&["ssmfwd", "1:2"]).contains("--linger <SECONDS> (from SSMFWD_LINGER)"));
        assert!(!error(&["ssmfwd", "1:2", "--linger", "x"]).contains("SSMFWD_LINGER"));
        assert!(!error(&["ssmfwd", "1:2", "--linger=x"]).contains("SSMFWD_LINGER"));
    }

    #[test]
    fn up_takes_the_options_of_a_forward_on_either_side() {
        for line in [
            "ssmfwd --linger 3 --reason x --profile p -vv up db cache",
            "ssmfwd up --linger=3 db --reason x --profile p cache -vv",
            "ssmfwd --profile p up db cache --linger 3 -v -v --reason x",
            "ssmfwd --linger 4 up db cache --linger 3 --profile p --reason x --verbose -v",
        ] {
            let args = read(line).expect(line);
            let Some(Command::Up(up)) = &args.command else { panic!("{line}") };
            assert_eq!((&up.names[..], up.all), (&["db".to_owned(), "cache".to_owned()][..], false));
            assert_eq!(args.forward.linger, Duration::from_secs(3), "{line}");
            assert_eq!(args.session.reason.as_deref(), Some("x"), "{line}");
            assert_eq!((args.access.profile.as_deref(), args.say.verbose), (Some("p"), 2), "{line}");
        }
        assert!(read("ssmfwd --linger 3 ls").is_err());
        assert!(read("ssmfwd up").is_err());
        assert!(read("ssmfwd up --all").is_ok());
    }

    #[test]
    fn stdio_takes_the_options_of_one_connection_on_either_side() {
        for line in ["ssmfwd --linger 3 -t i-0a stdio 22 -v", "ssmfwd stdio --target=i-0a --linger 3 22 --verbose"] {
            let args = read(line).expect(line);
            let Some(Command::Stdio(stdio)) = &args.command else { panic!("{line}") };
            assert_eq!((&stdio.destination[..], args.forward.linger.as_secs()), ("22", 3), "{line}");
            assert_eq!((args.session.target.as_deref(), args.say.verbose), (Some("i-0a"), 1), "{line}");
        }
        let file = defaults(&[("target", &["i-0b"]), ("linger", &["7"]), ("sessions", &["2"])]);
        let args = read("ssmfwd stdio 22 --linger 3").and_then(|args| args.with_defaults(&file)).expect("valid");
        assert_eq!((args.session.target.as_deref(), args.forward.linger.as_secs()), (Some("i-0b"), 3));
        let all = Args::definition();
        for name in stdio::NOT_TAKEN {
            assert!(all.get_arguments().any(|option| option.get_long() == Some(name)), "{name} is no option");
            assert!(read(&format!("ssmfwd stdio 22 --{name} 1")).is_err(), "{name}");
        }
        assert!(read("ssmfwd --sessions 2 stdio 22").is_err() && read("ssmfwd --lazy stdio 22").is_err());
        assert!(read("ssmfwd stdio").is_err());
        // Behind a FORWARD it is another one, and not a valid one.
        assert_eq!(read("ssmfwd 1:2 stdio 22").expect("words").forward.forwards, ["1:2", "stdio", "22"]);
    }

    #[test]
    fn a_command_stands_behind_two_dashes() {
        let exec = |line: &str| read(line).map(|args| args.forward.exec);
        assert_eq!(exec("ssmfwd 1:2 3:4 -- up --all -- x").expect("valid"), ["up", "--all", "--", "x"]);
        assert_eq!(exec("ssmfwd up db --linger 3 -- psql -h {host}").expect("valid"), ["psql", "-h", "{host}"]);
        assert_eq!(exec("ssmfwd up --all -- x").expect("valid"), ["x"]);
        assert_eq!(exec("ssmfwd 1:2 -- --").expect("valid"), ["--"]);
        for line in ["ssmfwd 1:2 --", "ssmfwd up db --", "ssmfwd -- x", "ssmfwd up -- x", "ssmfwd login -- x"] {
            assert_eq!(exec(line).expect_err(line).exit_code(), 2, "{line}");
        }
        let empty = ["ssmfwd", "1:2", "--", ""].map(OsString::from);
        assert!(Args::read(empty, |_| None).is_err());
    }

    #[test]
    fn a_flag_wins_over_the_defaults_of_a_file() {
        let file = defaults(&[
            ("linger", &["7"]),
            ("target", &["name:bastion"]),
            ("parameter", &["a=b", "c=d"]),
            ("use-fips-endpoint", &["true"]),
            ("verbose", &["2"]),
            ("sessions", &["3"]),
        ]);
        let args =
            read("ssmfwd 1:2 --linger 3 --parameter x=y").and_then(|args| args.with_defaults(&file)).expect("valid");
        assert_eq!(args.forward.linger, Duration::from_secs(3));
        assert_eq!(
            (args.session.target.as_deref(), &args.session.parameters[..]),
            (Some("name:bastion"), &["x=y".to_owned()][..])
        );
        assert_eq!((args.access.use_fips_endpoint, args.say.verbose, args.forward.sessions.most()), (true, 2, 3));
        let args = read("ssmfwd 1:2 -v --profile=").and_then(|args| args.with_defaults(&file)).expect("valid");
        assert_eq!((args.say.verbose, args.access.profile.as_deref()), (1, Some("")));
        assert_eq!(args.session.parameters, ["a=b", "c=d"]);
        let args = read("ssmfwd doctor 1:2").and_then(|args| args.with_defaults(&file)).expect("valid");
        assert!(matches!(args.command, Some(Command::Doctor(_))) && args.access.use_fips_endpoint);
    }

    #[test]
    fn each_tunnel_has_its_defaults_and_what_was_typed_wins() {
        let args = read("ssmfwd up db --linger 3 --parameter=-a=b").expect("valid");
        let of = |values: &[(&str, &[&str])]| args.of_tunnel(&defaults(values)).expect("valid").0;
        let (one, two) = (of(&[("linger", &["9"]), ("drain", &["2"])]), of(&[("sessions", &["2"])]));
        assert_eq!((one.forward.linger, one.forward.drain), (Duration::from_secs(3), Duration::from_secs(2)));
        assert_eq!((two.forward.linger, two.forward.drain), (Duration::from_secs(3), Duration::from_secs(1)));
        assert_eq!((one.forward.sessions.most(), two.forward.sessions.most()), (4, 2));
        assert_eq!(one.session.parameters, ["-a=b"]);
    }

    #[test]
    fn a_chosen_target_is_for_what_has_no_other() {
        let target = |args: &Args| args.session.target.clone();
        let chosen = |line: &str| {
            let mut args = read(line).expect(line);
            args.choose_target("i-0c".to_owned());
            args
        };
        let (none, file) = (defaults(&[]), defaults(&[("target", &["i-0f"])]));
        for line in ["ssmfwd 1:2", "ssmfwd up db", "ssmfwd 1:2 --target="] {
            let args = chosen(line);
            let again = args.with_defaults(&none).expect("valid");
            assert_eq!([target(&args), target(&again)], [Some("i-0c".to_owned()), Some("i-0c".to_owned())], "{line}");
        }
        let up = chosen("ssmfwd up db");
        let of = |defaults: &Defaults| target(&up.of_tunnel(defaults).expect("valid").0);
        assert_eq!([of(&none), of(&file)], [Some("i-0c".to_owned()), Some("i-0f".to_owned())]);
        assert_eq!(target(&chosen("ssmfwd up db -t i-0a")).as_deref(), Some("i-0a"));
    }

    #[test]
    fn whether_to_wait_is_said_by_the_last_flag_and_by_flags_before_files() {
        let wait = |line: &str, values: &[(&str, &[&str])]| {
            read(line).and_then(|args| args.with_defaults(&defaults(values))).expect(line).process.wait
        };
        assert!(!wait("ssmfwd 1:2", &[]));
        assert!(wait("ssmfwd 1:2 --wait", &[]) && wait("ssmfwd up db --no-wait --wait", &[]));
        assert!(!wait("ssmfwd 1:2 --wait --no-wait", &[]));
        assert!(wait("ssmfwd 1:2", &[("wait", &["true"])]) && wait("ssmfwd up db", &[("wait", &["true"])]));
        assert!(!wait("ssmfwd 1:2 --no-wait", &[("wait", &["true"])]));
        assert!(!wait("ssmfwd up db --no-wait", &[("wait", &["true"])]));
    }
}
