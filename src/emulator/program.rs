//! Programs of the emulated agent: real ones, on a real pty or on pipes (`proto-notes/agent.md#shells`).
//!
//! What they get and send passes through a task like that of a connection to a destination.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Seek as _},
    os::fd::{AsFd as _, OwnedFd},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use pty_process::{OwnedReadPty, OwnedWritePty};
use rustix::{
    process::{Pid, Signal, kill_process_group},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, ChildStderr, ChildStdout, Command},
    sync::{Notify, mpsc},
};

use super::{
    agent::{Program, ProgramSignal, Streams},
    destination::{DestinationEvent, write_all},
};
use crate::wire::Size;

/// Most bytes of one read.
const READ_SIZE: usize = 4096;
/// The size of a terminal before the client says another.
const FIRST_SIZE: Size = Size { cols: 80, rows: 24 };

/// What the session's thread holds of a program: killed when dropped.
pub(super) struct ProgramHandle {
    group: Arc<Group>,
    terminal: Option<OwnedFd>,
}

/// What the task of a program works with.
pub(super) struct Running {
    child: Child,
    group: Arc<Group>,
    source: Source,
    writer: Option<OwnedWritePty>,
}

enum Source {
    Pty(OwnedReadPty),
    Collected(File),
    Separate(ChildStdout, ChildStderr),
}

/// The process group of a program, as long as its leader has not been waited for.
struct Group(Mutex<Option<Pid>>);

impl Group {
    fn of(child: &Child) -> Arc<Self> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Arc::new(Self(Mutex::new(pid)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = *self.lock()
            && let Err(error) = kill_process_group(pid, signal)
        {
            tracing::debug!(%error, ?signal, "signal to a program");
        }
    }
}

impl ProgramHandle {
    pub(super) fn resize(&self, size: Size) {
        let Some(terminal) = &self.terminal else { return };
        if let Err(error) = tcsetwinsize(terminal, winsize(size)) {
            tracing::debug!(%error, "size of a program's terminal");
        }
    }

    pub(super) fn signal(&self, signal: ProgramSignal) {
        self.group.signal(match signal {
            ProgramSignal::Interrupt => Signal::INT,
            ProgramSignal::Quit => Signal::QUIT,
        });
    }
}

impl Drop for ProgramHandle {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
    }
}

fn winsize(size: Size) -> Winsize {
    let short = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    Winsize { ws_row: short(size.rows), ws_col: short(size.cols), ws_xpixel: 0, ws_ypixel: 0 }
}

/// Starts a program. To be called inside the runtime.
///
/// # Errors
/// The text for the client.
pub(super) fn start(shell: &str, program: &Program) -> Result<(ProgramHandle, Running), String> {
    let words = match &program.command {
        None => vec![shell.to_owned()],
        Some(text) if program.streams == Streams::Pty => vec![shell.to_owned(), "-c".to_owned(), text.clone()],
        Some(text) => shlex::split(text).ok_or("Failed to parse commands input")?,
    };
    let [name, arguments @ ..] = &words[..] else { return Err("Failed to parse commands input".to_owned()) };
    try_start(name, arguments, program.streams).map_err(|error| match error.kind() {
        // In the words of the genuine agent's runtime, which clients show.
        io::ErrorKind::NotFound if name.contains('/') => format!("fork/exec {name}: no such file or directory"),
        io::ErrorKind::NotFound => format!("exec: \"{name}\": executable file not found in $PATH"),
        _ => format!("fork/exec {name}: {error}"),
    })
}

fn try_start(name: &str, arguments: &[String], streams: Streams) -> io::Result<(ProgramHandle, Running)> {
    let mut command = Command::new(name);
    command.args(arguments);
    command.env("TERM", "xterm-256color").env("LANG", "C.UTF-8").kill_on_drop(true);
    let (child, source, writer, terminal) = match streams {
        Streams::Pty => {
            let (pty, terminal) = pty_process::open().map_err(into_io)?;
            let fd = pty.as_fd().try_clone_to_owned()?;
            tcsetwinsize(&fd, winsize(FIRST_SIZE))?;
            // It makes the program the leader of a session, and so of its process group.
            let child = pty_process::Command::from(command).spawn(terminal).map_err(into_io)?;
            let (reader, writer) = pty.into_split();
            (child, Source::Pty(reader), Some(writer), Some(fd))
        }
        Streams::Collected => {
            let file = unnamed_file()?;
            command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file.try_clone()?);
            (command.process_group(0).spawn()?, Source::Collected(file), None, None)
        }
        Streams::Separate => {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.process_group(0).spawn()?;
            let (Some(output), Some(error)) = (child.stdout.take(), child.stderr.take()) else {
                return Err(io::Error::other("no pipes"));
            };
            (child, Source::Separate(output, error), None, None)
        }
    };
    let group = Group::of(&child);
    Ok((ProgramHandle { group: Arc::clone(&group), terminal }, Running { child, group, source, writer }))
}

fn into_io(error: pty_process::Error) -> io::Error {
    match error {
        pty_process::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// A file to append to and read from that goes with its last descriptor.
fn unnamed_file() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("ssmfwd-emulator-{}", uuid::Uuid::new_v4()));
    let file = File::options().create_new(true).read(true).append(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

impl Running {
    /// Carries input and output until the program is over and all of its output was told, or nobody listens any more.
    pub(super) async fn run(
        self,
        arm: &Notify,
        queue: &mut mpsc::Receiver<VecDeque<Bytes>>,
        report: impl Fn(DestinationEvent) + Copy,
    ) {
        let Self { child, group, source, mut writer } = self;
        let input = async {
            match &mut writer {
                // A terminal that takes nothing any more has no program: its end is read, too.
                Some(writer) => write_all(writer, queue, report, || ()).await,
                None => while queue.recv().await.is_some() {},
            }
        };
        tokio::select! {
            () = read_all(child, &group, source, arm, report) => {}
            () = input => {}
        }
        // Dropping the child kills it, if it lives.
    }
}

/// Reads once for every permission and reports what it is.
async fn read_all(
    mut child: Child,
    group: &Group,
    source: Source,
    arm: &Notify,
    report: impl Fn(DestinationEvent) + Copy,
) {
    match source {
        Source::Pty(mut reader) => {
            read_to_end(&mut reader, arm, report).await;
            report(DestinationEvent::Eof);
            wait(&mut child, group).await;
        }
        Source::Collected(mut file) => {
            wait(&mut child, group).await;
            if file.rewind().is_ok() {
                read_to_end(&mut tokio::fs::File::from_std(file), arm, report).await;
            }
            report(DestinationEvent::Eof);
        }
        Source::Separate(mut output, mut error) => {
            read_both(&mut output, &mut error, arm, report).await;
            let status = wait(&mut child, group).await;
            report(DestinationEvent::Exited(status));
        }
    }
}

/// On Linux a pty whose last process has gone fails instead of ending.
async fn read_to_end(reader: &mut (impl AsyncRead + Unpin), arm: &Notify, report: impl Fn(DestinationEvent)) {
    loop {
        arm.notified().await;
        let mut buffer = BytesMut::with_capacity(READ_SIZE);
        match reader.read_buf(&mut buffer).await {
            Ok(1..) => report(DestinationEvent::Received(buffer.freeze())),
            Ok(_) | Err(_) => return,
        }
    }
}

async fn read_both(output: &mut ChildStdout, error: &mut ChildStderr, arm: &Notify, report: impl Fn(DestinationEvent)) {
    let (mut output_open, mut error_open) = (true, true);
    loop {
        arm.notified().await;
        let event = loop {
            let (mut data, mut error_data) = (BytesMut::with_capacity(READ_SIZE), BytesMut::with_capacity(READ_SIZE));
            tokio::select! {
                read = output.read_buf(&mut data), if output_open => match read {
                    Ok(1..) => break DestinationEvent::Received(data.freeze()),
                    Ok(_) | Err(_) => output_open = false,
                },
                read = error.read_buf(&mut error_data), if error_open => match read {
                    Ok(1..) => break DestinationEvent::ReceivedError(error_data.freeze()),
                    Ok(_) | Err(_) => error_open = false,
                },
                else => return,
            }
        };
        report(event);
    }
}

/// The status of a program; -1 if a signal ended it, as the genuine agent has it.
async fn wait(child: &mut Child, group: &Group) -> i32 {
    let status = child.wait().await;
    *group.lock() = None; // the number may be another's from now on
    status.ok().and_then(|status| status.code()).unwrap_or(-1)
}
