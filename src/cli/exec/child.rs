//! COMMAND while it runs: started, waited for, stopped.
//!
//! What is particular to Unix, the terminal and which signals are passed on, is in `job`.

use std::{pin::pin, process::ExitStatus, time::Duration};

use tokio::{
    process,
    time::{Instant, sleep_until},
};

use super::Invocation;
#[cfg(unix)]
use super::job::Job;
use crate::cli::{
    exit::Exit,
    report::Report,
    signals::{Signal, Signals},
    sys::{Inherited, prepare},
};

/// How long COMMAND may take to end when its tunnel is lost for good: enough for a rollback, and what `docker stop` and
/// many others give.
const GRACE: Duration = Duration::from_secs(10);

/// COMMAND as a process of ours. Dropping it kills it.
pub(in crate::cli) struct Child {
    process: process::Child,
    #[cfg(unix)]
    job: Job,
}

/// How COMMAND has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Ended {
    /// `None`: somebody else has waited for it.
    status: Option<ExitStatus>,
}

impl Ended {
    /// Its status, 128 + n if signal n has ended it.
    pub(in crate::cli) fn exit(self) -> Exit {
        let code = self.status.and_then(|status| status.code());
        let code = code.or_else(|| Some(128 + self.signal()?));
        code.map_or(Exit::Failure, |code| {
            // Windows has more of them than we can return.
            Exit::Command(u8::try_from(code).unwrap_or(1))
        })
    }

    /// The signal that has ended it.
    #[cfg(unix)]
    pub(in crate::cli) fn signal(self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        self.status?.signal()
    }

    #[cfg(not(unix))]
    pub(in crate::cli) fn signal(self) -> Option<i32> {
        None
    }
}

impl Child {
    /// Starts COMMAND. To be called on the main thread: on Linux the child dies with the thread that has started it.
    ///
    /// # Errors
    /// When it cannot be started: status 127 if there is no such program, 126 if it cannot be executed.
    pub(in crate::cli) fn spawn(invocation: &Invocation, inherited: &Inherited) -> Result<Self, Report> {
        let spawn = |mut command: std::process::Command| {
            prepare(&mut command, inherited);
            process::Command::from(command).kill_on_drop(true).spawn()
        };
        // Before there is a child: none of its changes may be missed.
        #[cfg(unix)]
        let job = Job::new().map_err(|error| Report::new(Exit::Failure, "cannot handle signals").caused_by(&error))?;
        let spawned = spawn(invocation.command());
        #[cfg(unix)]
        let spawned = spawned.or_else(|error| match invocation.script() {
            Some(script) if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => spawn(script),
            _ => Err(error),
        });
        let process = spawned.map_err(|error| invocation.not_started(&error))?;
        Ok(Self {
            process,
            #[cfg(unix)]
            job,
        })
    }

    /// Waits for its end, and passes signals on meanwhile. Cancel-safe.
    pub(in crate::cli) async fn run(&mut self, signals: &mut Signals) -> Ended {
        loop {
            if let Some(signal) = self.next(signals).await.err() {
                self.pass_on(signal);
            } else {
                return self.ended().await;
            }
        }
    }

    /// Ends it, because it cannot do its work any more: SIGTERM, after ten seconds or a Ctrl-C SIGKILL.
    pub(in crate::cli) async fn stop(&mut self, signals: &mut Signals) -> Ended {
        self.stop_within(GRACE, signals).await
    }

    async fn stop_within(&mut self, grace: Duration, signals: &mut Signals) -> Ended {
        self.pass_on(Signal::Terminate);
        let mut late = pin!(sleep_until(Instant::now() + grace));
        loop {
            let event = tokio::select! {
                biased;
                event = self.next(signals) => event,
                () = &mut late => break,
            };
            match event {
                Ok(()) => return self.ended().await,
                Err(Signal::Interrupt) => break,
                Err(signal) => self.pass_on(signal),
            }
        }
        tracing::debug!("COMMAND did not end by itself");
        if let Err(error) = self.process.start_kill() {
            tracing::debug!(%error, "cannot kill COMMAND");
        }
        self.ended().await
    }

    /// Its end, or a signal. Cancel-safe: the end is told again, and a signal is taken only if it is returned.
    async fn next(&mut self, signals: &mut Signals) -> Result<(), Signal> {
        #[cfg(unix)]
        let job = match self.process.id() {
            Some(pid) => self.job.keep_in_step(pid),
            None => return Ok(()),
        };
        #[cfg(not(unix))]
        let job = std::future::pending::<()>();
        tokio::select! {
            biased;
            _ = self.process.wait() => Ok(()),
            () = job => Ok(()),
            signal = signals.next() => Err(signal),
        }
    }

    async fn ended(&mut self) -> Ended {
        let ended = Ended { status: self.process.wait().await.ok() };
        #[cfg(unix)]
        if ended.signal().is_some() {
            self.job.restore_terminal();
        }
        ended
    }

    #[cfg(unix)]
    fn pass_on(&self, signal: Signal) {
        // Without an id it has ended: the number may be somebody else's now.
        if let Some(pid) = self.process.id() {
            self.job.pass_on(signal, pid);
        }
    }

    /// Whoever shares our console has got a Ctrl-C already. Nothing else can be sent, but the end.
    #[cfg(not(unix))]
    fn pass_on(&mut self, signal: Signal) {
        if signal == Signal::Terminate {
            drop(self.process.start_kill());
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{ffi::OsString, path::PathBuf};

    use rustix::process::{Pid, Signal as Number, kill_process, test_kill_process};
    use tokio::{
        io::{AsyncBufReadExt, BufReader, Lines},
        net::unix::pipe,
        sync::mpsc,
    };

    use super::*;
    use crate::{
        cli::exec::{Endpoint, Endpoints},
        forward::LocalAddress,
    };

    /// A child, and a way to hear from it: `$OUT` in its script is a named pipe. stdout is that of the tests.
    struct Stage {
        child: Child,
        signals: Signals,
        sender: mpsc::Sender<Signal>,
        lines: Lines<BufReader<pipe::Receiver>>,
        _folder: tempfile::TempDir,
    }

    fn invocation(command: &[&str]) -> Invocation {
        let address = LocalAddress::Tcp(([127, 0, 0, 1], 5).into());
        let endpoints = Endpoints::new(Endpoint::of(&[address]).expect("an address"), Vec::new());
        let command: Vec<_> = command.iter().map(OsString::from).collect();
        Invocation::new(&command, &endpoints).expect("a command")
    }

    fn spawn(command: &[&str]) -> Result<Child, Report> {
        Child::spawn(&invocation(command), &Inherited::note())
    }

    impl Stage {
        fn new(script: &str) -> Self {
            Self::with(script, &Inherited::note())
        }

        fn with(script: &str, inherited: &Inherited) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let path: PathBuf = folder.path().join("out");
            let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("a pipe");
            // For writing as well: else it would be at its end before the child opens it.
            let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(&path).expect("a pipe");
            let script = format!("OUT='{}'; {script}", path.display());
            let child = Child::spawn(&invocation(&["sh", "-c", &script]), inherited).expect("a shell");
            let (sender, receiver) = mpsc::channel(4);
            let lines = BufReader::new(pipe).lines();
            Self { child, signals: receiver.into(), sender, lines, _folder: folder }
        }

        async fn line(&mut self) -> String {
            self.lines.next_line().await.expect("a pipe").expect("a line")
        }

        async fn run(&mut self) -> Exit {
            self.child.run(&mut self.signals).await.exit()
        }

        fn pid(&self) -> Pid {
            let pid = self.child.process.id().and_then(|pid| i32::try_from(pid).ok());
            pid.and_then(Pid::from_raw).expect("it runs")
        }
    }

    /// Ignores SIGTERM, says so, and stays until it is killed or its descriptors are closed.
    const STUBBORN: &str = "trap '' TERM; echo ready >\"$OUT\"; exec sleep 600";

    #[tokio::test]
    async fn its_status_is_ours() {
        for (script, status) in [
            ("exit 0", 0),
            ("exit 7", 7),
            ("exit 255", 255),
            ("kill -TERM $$", 143),
            ("kill -KILL $$", 137),
            ("kill -INT $$", 130),
        ] {
            let mut stage = Stage::new(script);
            assert_eq!(stage.run().await, Exit::Command(status), "{script}");
            assert_eq!(stage.run().await, Exit::Command(status), "told again");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_started_has_a_status_and_a_hint() {
        let report = |command: &str| spawn(&[command]).err().expect("it cannot be started");
        assert_eq!(report("/no/such/program").exit, Exit::Command(127));
        assert_eq!(report("no-such-program-here").exit, Exit::Command(127));
        assert_eq!(report("/etc").exit, Exit::Command(126));
        let text = report("/etc/passwd").to_string();
        assert!(text.starts_with("error: cannot run /etc/passwd\n  caused by: Permission denied"), "{text}");
        assert!(text.ends_with("\n\nhint: make it executable: chmod +x /etc/passwd"), "{text}");
    }

    #[tokio::test]
    async fn a_script_without_an_interpreter_is_run_by_the_shell() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let script = folder.path().join("script");
        std::fs::write(&script, "exit $1\n").expect("a file");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).expect("a file");
        let mut child = spawn(&[script.to_str().expect("unicode"), "{port}"]).expect("a script");
        let (_sender, receiver) = mpsc::channel(1);
        assert_eq!(child.run(&mut receiver.into()).await.exit(), Exit::Command(5));
    }

    #[tokio::test]
    async fn signals_are_passed_on() {
        for (signal, name) in
            [(Signal::Terminate, "TERM"), (Signal::HangUp, "HUP"), (Signal::User1, "USR1"), (Signal::User2, "USR2")]
        {
            let script = format!("trap 'kill $!; exit 9' {name}; sleep 600 & echo ready >\"$OUT\"; wait");
            let mut stage = Stage::new(&script);
            assert_eq!(stage.line().await, "ready");
            stage.sender.send(signal).await.expect("it is listened to");
            assert_eq!(stage.run().await, Exit::Command(9), "{name}");
        }
    }

    #[tokio::test]
    async fn a_stopped_child_hears_of_its_end() {
        let mut stage = Stage::new("echo ready >\"$OUT\"; exec sleep 600");
        assert_eq!(stage.line().await, "ready");
        kill_process(stage.pid(), Number::STOP).expect("it runs");
        // Returns when it is stopped, and leaves the news to others.
        rustix::process::waitid(
            rustix::process::WaitId::Pid(stage.pid()),
            rustix::process::WaitIdOptions::STOPPED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .expect("a child");
        stage.child.pass_on(Signal::Terminate);
        assert_eq!(stage.child.ended().await.exit(), Exit::Command(143));
    }

    #[tokio::test]
    async fn whoever_ends_when_told_is_not_killed() {
        let mut stage = Stage::new("trap 'kill $!; exit 3' TERM; sleep 600 & echo ready >\"$OUT\"; wait");
        assert_eq!(stage.line().await, "ready");
        assert_eq!(stage.child.stop(&mut stage.signals).await.exit(), Exit::Command(3));
    }

    #[tokio::test]
    async fn whoever_does_not_is_killed_after_the_grace_or_a_ctrl_c() {
        let mut stage = Stage::new(STUBBORN);
        assert_eq!(stage.line().await, "ready");
        let ended = stage.child.stop_within(Duration::from_millis(1), &mut stage.signals).await;
        assert_eq!(ended.exit(), Exit::Command(137));

        let mut stage = Stage::new(STUBBORN);
        assert_eq!(stage.line().await, "ready");
        stage.sender.send(Signal::Interrupt).await.expect("it is listened to");
        let ended = stage.child.stop_within(Duration::from_secs(600), &mut stage.signals).await;
        assert_eq!(ended.exit(), Exit::Command(137));
    }

    /// A select that gives up on `run` and then stops the child loses nothing.
    #[tokio::test]
    async fn running_can_be_given_up_and_taken_up_again() {
        let mut stage = Stage::new("echo ready >\"$OUT\"; exec sleep 600");
        assert_eq!(stage.line().await, "ready");
        tokio::select! {
            biased;
            _ = stage.child.run(&mut stage.signals) => panic!("it sleeps"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(stage.child.stop(&mut stage.signals).await.exit(), Exit::Command(143));
    }

    #[tokio::test]
    async fn dropping_it_kills_it() {
        let mut stage = Stage::new(STUBBORN);
        assert_eq!(stage.line().await, "ready");
        let (pid, Stage { child, .. }) = (stage.pid(), stage);
        drop(child);
        // The runtime waits for it; until then it is there, dead.
        let gone = async {
            while test_kill_process(pid).is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.expect("it is dead");
    }

    /// The thread that has spawned it ends, as the main thread does when the process is killed.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn it_dies_with_the_thread_that_has_started_it() {
        let (started, starter) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::spawn(move || {
            let _runtime = runtime.enter();
            assert!(started.send(Stage::new(STUBBORN)).is_ok(), "the test waits");
        });
        let mut stage = starter.await.expect("it is started");
        thread.join().expect("no panic");
        assert_eq!(stage.run().await, Exit::Command(137));
    }

    /// SIGPIPE is the default, whatever Rust does to it; what was ignored stays so, and what we catch is caught by nobody.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn its_signals_are_as_we_got_ours() {
        let mut catching = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::alarm()).expect("a handler");
        let inherited = Inherited::note();
        let script =
            "grep -E '^Sig(Ign|Cgt|Blk):' /proc/self/status | tr -d '\\t' | tr '\\n' ' ' >\"$OUT\"; echo >\"$OUT\"";
        let mut stage = Stage::with(script, &inherited);
        let line = stage.line().await;
        let mask = |name: &str| {
            let mask = line.split(' ').find_map(|field| field.strip_prefix(name));
            u64::from_str_radix(mask.expect("a mask"), 16).expect("hexadecimal")
        };
        let bit = |signal: Number| 1u64 << (signal.as_raw() - 1);
        assert_eq!(mask("SigIgn:") & bit(Number::PIPE), 0, "{line}");
        assert_eq!(mask("SigCgt:") & bit(Number::ALARM), 0, "{line}");
        assert_eq!(mask("SigBlk:"), 0, "{line}");
        assert_eq!(mask("SigIgn:") & bit(Number::HUP) != 0, inherited.ignores(Number::HUP), "{line}");
        assert_eq!(stage.run().await, Exit::Command(0));
        drop(catching.recv());
    }
}
