//! Takes the token out of where others see it: of the arguments, which every user of the machine can read, and of the
//! environment that the kernel keeps of a running program.
//!
//! Neither can be changed from within. So the program starts itself anew at once, as the same process, with a pipe that
//! holds StartSession's answer; the name of the pipe stands where the answer was.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::Command,
};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    io::{FdFlags, fcntl_setfd},
};

use super::invocation::RESPONSE_VARIABLE;
use crate::cli::sys;

/// What the name of a pipe begins with: no variable of the AWS CLI.
const PIPE: &str = "AWS_SSM_START_SESSION_RESPONSE:pipe:";

/// Starts the program anew if its arguments or the variable that they name hold an answer. Returns if there is nothing
/// to be hidden, or it cannot be.
pub(super) fn start_anew(program: &OsStr, arguments: &[OsString]) {
    let [first, rest @ ..] = arguments else { return };
    let Some(name) = first.to_str() else { return };
    if rest.len() < 2 || name.starts_with(PIPE) {
        return;
    }
    let variable = name.starts_with(RESPONSE_VARIABLE).then_some(name);
    let answer = match variable {
        Some(name) => std::env::var_os(name).and_then(|value| value.into_string().ok()),
        None => Some(name.to_owned()),
    };
    // Nor is there anything to be told of: it only is as with the genuine program.
    if let Some(answer) = answer {
        again(program, &answer, variable, rest).ok();
    }
}

/// Does not return if all goes well.
fn again(program: &OsStr, answer: &str, variable: Option<&str>, rest: &[OsString]) -> io::Result<()> {
    let (reader, mut writer) = io::pipe()?;
    // Whoever has many pipes gets small ones, and nobody reads this one yet.
    fcntl_setfl(&writer, OFlags::NONBLOCK)?;
    writer.write_all(answer.as_bytes())?;
    drop(writer);
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(variable) = variable {
        command.env_remove(variable);
    }
    fcntl_setfd(&reader, FdFlags::empty())?;
    let error = command.arg0(program).arg(format!("{PIPE}{}", reader.as_raw_fd())).args(rest).exec();
    fcntl_setfd(&reader, FdFlags::CLOEXEC)?;
    Err(error)
}

/// What the pipe of this name holds.
pub(super) fn read(name: &str) -> Option<OsString> {
    let number = name.strip_prefix(PIPE)?.parse().ok()?;
    let mut answer = String::new();
    File::from(sys::inherited(number).ok()?).read_to_string(&mut answer).ok()?;
    Some(answer.into())
}
