//! COMMAND with its arguments and variables, filled in; and what is said if it cannot be started.

use std::{
    env,
    ffi::OsString,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::Command,
};

use super::{Endpoints, environment, placeholders::Placeholders};
use crate::cli::{exit::Exit, report::Report};

/// COMMAND could not be executed, as shells tell it.
const NOT_EXECUTABLE: u8 = 126;

/// There is no such COMMAND, as shells tell it.
const NOT_FOUND: u8 = 127;

/// A program that is to be run. No `Debug`: its arguments may be secret.
pub(in crate::cli) struct Invocation {
    program: OsString,
    arguments: Vec<OsString>,
    variables: Vec<(String, OsString)>,
}

impl Invocation {
    /// COMMAND and its arguments for these forwards. The name of the program is taken as it is. `None` without one.
    pub(in crate::cli) fn new(command: &[OsString], endpoints: &Endpoints) -> Option<Self> {
        let (program, arguments) = command.split_first()?;
        let placeholders = Placeholders::new(endpoints);
        Some(Self {
            program: program.clone(),
            arguments: arguments.iter().map(|argument| placeholders.fill(argument)).collect(),
            variables: environment::variables(endpoints),
        })
    }

    /// To be spawned. stdin, stdout and stderr are ours.
    pub(super) fn command(&self) -> Command {
        self.complete(Command::new(&self.program))
    }

    /// The same for a file without a first line that names an interpreter: every shell runs it as a script, but not every
    /// C library does.
    #[cfg(unix)]
    pub(super) fn script(&self) -> Option<Command> {
        let mut shell = Command::new("/bin/sh");
        shell.arg(self.file()?);
        Some(self.complete(shell))
    }

    fn complete(&self, mut command: Command) -> Command {
        command.args(&self.arguments).envs(self.variables.iter().map(|(name, value)| (name, value)));
        for name in environment::withheld() {
            command.env_remove(name);
        }
        command
    }

    /// The file that would be executed: as named, or from PATH.
    fn file(&self) -> Option<PathBuf> {
        let program = Path::new(&self.program);
        if program.components().count() > 1 || self.program.as_encoded_bytes().contains(&b'/') {
            return Some(program.to_owned()).filter(|file| file.exists());
        }
        env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|file| file.is_file())
    }

    /// Why it could not be started, with the status of a shell.
    pub(super) fn not_started(&self, error: &io::Error) -> Report {
        let program = self.program.to_string_lossy();
        let file = self.file();
        let named = file.as_deref().unwrap_or_else(|| Path::new(&self.program)).display();
        let (exit, hint) = match (error.kind(), &file) {
            (ErrorKind::NotFound, None) if program.contains('/') => {
                (Exit::Command(NOT_FOUND), Some("there is no such file".to_owned()))
            }
            (ErrorKind::NotFound, None) => {
                (Exit::Command(NOT_FOUND), Some("no folder of PATH has it: is it installed?".to_owned()))
            }
            (ErrorKind::NotFound, Some(_)) => {
                let hint = format!("{named} exists, but not the interpreter that its first line names");
                (Exit::Command(NOT_FOUND), Some(hint))
            }
            (ErrorKind::PermissionDenied, Some(file)) if file.is_dir() => {
                (Exit::Command(NOT_EXECUTABLE), Some(format!("{named} is a folder")))
            }
            (ErrorKind::PermissionDenied, _) => {
                (Exit::Command(NOT_EXECUTABLE), Some(format!("make it executable: chmod +x {named}")))
            }
            // Processes, memory or descriptors are at their limit: nothing is wrong with COMMAND.
            (ErrorKind::WouldBlock | ErrorKind::OutOfMemory, _) => (Exit::Failure, None),
            _ => (Exit::Command(NOT_EXECUTABLE), None),
        };
        let report = Report::new(exit, format!("cannot run {program}")).caused_by(error);
        hint.into_iter().fold(report, Report::with_hint)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::{cli::exec::Endpoint, forward::LocalAddress};

    fn invocation(command: &[&str]) -> Invocation {
        let address = LocalAddress::Tcp(([127, 0, 0, 1], 5).into());
        let endpoints = Endpoints::new(Endpoint::of(&[address]).expect("an address"), Vec::new());
        let command: Vec<_> = command.iter().map(OsString::from).collect();
        Invocation::new(&command, &endpoints).expect("a command")
    }

    fn report(program: &str, kind: ErrorKind) -> Report {
        invocation(&[program]).not_started(&kind.into())
    }

    #[test]
    fn arguments_and_variables_are_given_and_ours_are_withheld() {
        let command = invocation(&["{port}", "-p{port}"]).command();
        assert_eq!(command.get_program(), "{port}", "the program is taken as it is");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["-p5"]);
        let variable = |name: &str| command.get_envs().find(|(key, _)| *key == name).map(|(_, value)| value);
        assert_eq!(variable("SSMFWD_ADDR"), Some(Some(OsStr::new("127.0.0.1:5"))));
        for withheld in ["SSMFWD_MFA_CODE", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"] {
            assert_eq!(variable(withheld), Some(None), "{withheld} is not removed");
        }
        for passed in ["AWS_SECRET_ACCESS_KEY", "SSMFWD_TARGET", "LISTEN_PORT"] {
            assert_eq!(variable(passed), None, "{passed} is not as it was");
        }
    }

    #[test]
    fn what_cannot_be_started_has_the_status_of_a_shell() {
        let missing = report("no-such-program-here", ErrorKind::NotFound);
        assert_eq!((missing.exit, &missing.error[..]), (Exit::Command(127), "cannot run no-such-program-here"));
        assert_eq!(missing.hint.as_deref(), Some("no folder of PATH has it: is it installed?"));
        let missing = report("/no/such/program", ErrorKind::NotFound);
        assert_eq!(missing.hint.as_deref(), Some("there is no such file"));
        let interpreter = report("/etc/passwd", ErrorKind::NotFound);
        assert_eq!(interpreter.exit, Exit::Command(127));
        assert!(interpreter.hint.is_some_and(|hint| hint.contains("interpreter")));
        let mode = report("/etc/passwd", ErrorKind::PermissionDenied);
        assert_eq!(
            (mode.exit, mode.hint.as_deref()),
            (Exit::Command(126), Some("make it executable: chmod +x /etc/passwd"))
        );
        let folder = report("/etc", ErrorKind::PermissionDenied);
        assert_eq!((folder.exit, folder.hint.as_deref()), (Exit::Command(126), Some("/etc is a folder")));
        assert_eq!(report("sh", ErrorKind::WouldBlock).exit, Exit::Failure);
    }
}
