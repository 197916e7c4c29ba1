//! COMMAND: what it is given, what its end means, and that neither outlives the other.
//!
//! Those tests that take a terminal have one of their own: that of `script` from util-linux. The others run in a session
//! without one (`setsid`), whatever the tests themselves run in.

use std::process::Stdio;

use rustix::process::Signal;
use ssmfwd::emulator::{Action, FailureKind, Operation};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::harness::{Destination, Program, RefusingPort, World, failing, within};

/// A program, what it said byte for byte, and how it ended.
struct Outcome {
    status: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

/// The arguments of a forward to a port that nobody connects to.
fn arguments<'a>(options: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&["0:127.0.0.1:9", "-t", World::TARGET][..], options, &["--"], command].concat()
}

/// The program in a session of its own, so that no terminal sends it anything.
fn without_terminal(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new("setsid");
    command.env_clear().envs(world.emulator.env()).env("PATH", "/usr/bin:/bin");
    command.arg(env!("CARGO_BIN_EXE_ssmfwd")).args(arguments);
    command
}

async fn run(mut command: Command, stdin: &[u8]) -> Outcome {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the built binary");
    // COMMAND need not read it.
    child.stdin.take().expect("piped").write_all(stdin).await.ok();
    let output = within("its end", child.wait_with_output()).await.expect("a child of ours");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Outcome { status: output.status.code(), stdout: output.stdout, stderr }
}

async fn exec(world: &World, command: &[&str]) -> Outcome {
    run(without_terminal(world, &arguments(&[], command)), b"").await
}

/// COMMAND as a script that says that it is ready.
fn script<'a>(world: &World, options: &[&'a str], script: &'a str) -> Program {
    Program::start(without_terminal(world, &arguments(options, &["bash", "-c", script])))
}

#[tokio::test]
async fn its_status_is_the_status() {
    let world = World::ideal();
    for (script, status) in
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
    {
        let outcome = exec(&world, &["sh", "-c", script]).await;
        assert_eq!(outcome.status, Some(status), "{script}\n{}", outcome.stderr);
    }
    assert_eq!(world.settled().await.sessions_started, 5);
}

#[tokio::test]
async fn what_cannot_be_run_is_127_or_126() {
    let world = World::ideal();
    for (command, status, hint) in [
        ("no-such-program-here", 127, "hint: no folder of PATH has it"),
        ("/no/such/program", 127, "hint: there is no such file"),
        ("/etc/passwd", 126, "hint: make it executable: chmod +x /etc/passwd"),
        ("/etc", 126, "hint: /etc is a folder"),
    ] {
        let outcome = exec(&world, &[command]).await;
        assert_eq!(outcome.status, Some(status), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(&format!("error: cannot run {command}\n  caused by: ")), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(hint), "{}", outcome.stderr);
    }
    world.settled().await;
}

#[tokio::test]
async fn it_does_not_run_if_there_is_no_session() {
    let world = World::with(|config| config.denied = vec!["StartSession".into()]);
    let outcome = exec(&world, &["sh", "-c", "echo it runs"]).await;
    assert_eq!((outcome.status, &outcome.stdout[..]), (Some(5), &b""[..]));
    world.settled().await;
}

/// stdin, stdout and stderr are its own, byte for byte; what is said to people goes to stderr.
#[tokio::test]
async fn stdin_and_stdout_are_its_own() {
    let world = World::ideal();
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let outcome = run(without_terminal(&world, &arguments(&[], &["cat"])), &bytes).await;
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout == bytes, "{} bytes", outcome.stdout.len());
    assert!(outcome.stderr.contains("ssmfwd: ready in"), "{}", outcome.stderr);
    world.settled().await;
}

/// So are the events, for stdout is not ours.
#[tokio::test]
async fn events_go_to_stderr() {
    let world = World::ideal();
    let command = arguments(&["--output", "json"], &["printf", "x"]);
    let outcome = run(without_terminal(&world, &command), b"").await;
    assert_eq!((outcome.status, &outcome.stdout[..]), (Some(0), &b"x"[..]));
    let stopped = outcome.stderr.lines().find(|line| line.starts_with(r#"{"event":"stopped","#)).expect("an event");
    let stopped: serde_json::Value = serde_json::from_str(stopped).expect("JSON");
    assert_eq!((&stopped["exit"], &stopped["by"]), (&0.into(), &"command".into()));
    world.settled().await;
}

#[tokio::test]
async fn it_is_told_where_the_forward_is() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let script = r#"printf '%s\n' "$SSMFWD_ADDR" "$SSMFWD_HOST" "$SSMFWD_PORT" "$@"
        exec 3<>"/dev/tcp/$SSMFWD_HOST/$SSMFWD_PORT"; echo hello >&3; head -n1 <&3"#;
    let command =
        ["bash", "-c", script, "bash", "{addr}", "--at={host}:{port}", "{}", "{db.addr}", r#"{"a": {"port"}}"#];
    let arguments = [&[&forward[..], "-t", World::TARGET, "--"][..], &command].concat();
    let outcome = run(without_terminal(&world, &arguments), b"").await;
    let stdout = String::from_utf8(outcome.stdout).expect("text");
    let lines: Vec<_> = stdout.lines().collect();
    let addr = lines[0];
    let (host, port) = addr.rsplit_once(':').expect("an address");
    let (at, json) = (format!("--at={addr}"), r#"{"a": {"port"}}"#);
    assert_eq!(lines, [addr, host, port, addr, &at, "{}", "{db.addr}", json, "hello"]);
    assert_eq!(host, "127.0.0.1");
    world.settled().await;
}

#[tokio::test]
async fn a_unix_socket_is_told_as_psql_wants_it() {
    let (world, folder) = (World::ideal(), tempfile::tempdir().expect("a folder"));
    let folder = folder.path().display().to_string();
    let forward = format!("{folder}/.s.PGSQL.5432:127.0.0.1:9");
    let command = [&forward[..], "-t", World::TARGET, "--", "echo", "{addr}", "{host}", "{port}"];
    let outcome = run(without_terminal(&world, &command), b"").await;
    let stdout = String::from_utf8_lossy(&outcome.stdout).into_owned();
    assert_eq!(stdout, format!("{folder}/.s.PGSQL.5432 {folder} 5432\n"));
    world.settled().await;
}

#[tokio::test]
async fn what_is_meant_for_us_is_not_for_it() {
    let world = World::ideal();
    let mut command = without_terminal(&world, &arguments(&[], &["env"]));
    let ours = [("SSMFWD_MFA_CODE", "123456"), ("NOTIFY_SOCKET", "/nowhere"), ("WATCHDOG_USEC", "1000000")];
    command
        .envs(ours)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", "1")
        .env("LISTEN_PORT", "80")
        .env("SSMFWD_REASON", "why");
    let outcome = run(command, b"").await;
    let stdout = String::from_utf8(outcome.stdout).expect("text");
    let has = |name: &str| stdout.lines().any(|line| line.starts_with(&format!("{name}=")));
    for name in ["SSMFWD_MFA_CODE", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"] {
        assert!(!has(name), "{name} in\n{stdout}");
    }
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PATH", "LISTEN_PORT", "SSMFWD_REASON", "SSMFWD_ADDR"] {
        assert!(has(name), "no {name} in\n{stdout}");
    }
    world.settled().await;
}

/// The descriptors of the program are not for it; those that somebody has opened for it are.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn only_descriptors_that_were_passed_on_are_open() {
    const LIST: [&str; 3] = ["sh", "-c", "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done"];
    let world = World::ideal();
    let open = async |command: &[&str]| {
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().envs(world.emulator.env()).env("PATH", "/usr/bin:/bin");
        shell.args(["-c", "exec \"$@\" 7</dev/null", "sh"]).args(command);
        String::from_utf8(run(shell, b"").await.stdout).expect("text")
    };
    let without_us = open(&LIST).await;
    assert!(without_us.lines().any(|fd| fd == "7"), "{without_us}");
    let command = [&[env!("CARGO_BIN_EXE_ssmfwd")][..], &arguments(&[], &LIST)].concat();
    assert_eq!(open(&command).await, without_us);
    world.settled().await;
}

#[tokio::test]
async fn signals_are_passed_on_and_its_end_decides() {
    let signals = [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ];
    for (signal, name) in signals {
        let world = World::ideal();
        let waits = format!("trap 'kill $!; echo got {name}; exit 9' {name}; sleep 600 & echo running; wait");
        let program = script(&world, &[], &waits);
        program.stdout_line("running").await;
        program.signal(signal);
        let ended = program.exit().await.expect_status(9);
        assert_eq!(ended.stdout, format!("running\ngot {name}"));
        world.settled().await;
    }
}

/// It may take its time, and is not killed for it.
#[tokio::test]
async fn it_may_go_on_after_a_signal() {
    let world = World::ideal();
    let program = script(&world, &[], "trap 'echo still here' TERM USR1; echo running; while :; do sleep 0.1; done");
    program.stdout_line("running").await;
    for _ in 0..2 {
        program.signal(Signal::TERM);
    }
    program.stdout_line("still here").await;
    program.signal(Signal::USR1);
    // Whoever is in a hurry takes it with us.
    program.signal(Signal::KILL);
    program.exit().await;
}

/// The harness sees the end of stdout, of which COMMAND holds the other end, only when it is gone as well.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn killed_with_us() {
    let world = World::ideal();
    // Nothing but SIGKILL ends it.
    let program = script(&world, &[], "trap '' TERM HUP INT; echo running; exec sleep 600");
    program.stdout_line("running").await;
    program.signal(Signal::KILL);
    let ended = program.exit().await;
    assert_eq!(ended.status.code(), None);
    assert_eq!(world.emulator.state().live_sessions(), 1, "nobody was left to end it");
}

/// COMMAND is told, and its status is not ours then.
async fn is_lost(kind: FailureKind) {
    let world = World::ideal();
    let waits = "trap 'kill $!; echo told; exit 3' TERM; sleep 600 & echo running; wait";
    let program = script(&world, &["--reconnect-window", "1"], waits);
    program.stdout_line("running").await;
    let failures =
        [failing(Operation::ResumeSession, FailureKind::AccessDenied), failing(Operation::StartSession, kind)];
    world.emulator.configure(|config| config.failures = failures.concat());
    world.emulator.act(Action::Disconnect);
    let ended = program.exit().await.expect_status(7).expect_stderr("error: ");
    assert_eq!(ended.stdout, "running\ntold");
    world.settled().await;
}

#[tokio::test]
async fn no_session_can_be_had_any_more() {
    is_lost(FailureKind::InvalidDocument).await;
}

#[tokio::test]
async fn no_session_is_there_within_the_reconnect_window() {
    is_lost(FailureKind::TargetNotConnected).await;
}

#[tokio::test]
async fn with_wait_it_runs_when_the_destination_accepts() {
    let (world, server) = (World::ideal(), RefusingPort::new());
    let forward = format!("0:127.0.0.1:{}", server.port);
    let command = [&forward[..], "-t", World::TARGET, "--wait", "--", "echo", "it runs"];
    let program = Program::start(without_terminal(&world, &command));
    world.until("a session", |state| state.upgrades_accepted > 0).await;
    server.accept();
    let ended = program.exit().await.expect_status(0);
    assert_eq!(ended.stdout, "it runs");
    world.settled().await;
}

#[tokio::test]
async fn with_wait_a_destination_that_refuses_is_status_8() {
    let (world, server) = (World::ideal(), RefusingPort::new());
    let forward = format!("0:127.0.0.1:{}", server.port);
    let command = [&forward[..], "-t", World::TARGET, "--wait", "--connect-timeout", "1", "--", "echo", "it runs"];
    let ended = Program::start(without_terminal(&world, &command)).exit().await.expect_status(8);
    assert_eq!(ended.stdout, "");
    ended.expect_stderr(&format!("error: 127.0.0.1:{} refuses connections", server.port));
    world.settled().await;
}

/// Of one connection at a time, which the agent makes first of all.
#[tokio::test]
async fn with_wait_an_old_agent_that_cannot_connect_is_status_8() {
    for (options, status) in [(&["--wait"][..], 8), (&[], 1)] {
        let world = World::with(|config| config.agent_version = "3.0.196.0".into());
        let server = RefusingPort::new();
        let forward = format!("0:127.0.0.1:{}", server.port);
        let command = ["-t", World::TARGET, "--connect-timeout", "1"];
        let command = [&[&forward[..]], &command[..], options, &["--", "echo", "it runs"]].concat();
        let ended = Program::start(without_terminal(&world, &command)).exit().await.expect_status(status);
        assert_eq!(ended.stdout, "");
        ended.expect_stderr("the agent acknowledges no data");
        world.settled().await;
    }
}

mod on_a_terminal {
    //! What is typed.

    use super::*;
    use crate::{harness::Terminal, picker::run};

    /// `ssmfwd` and its forward in a shell's line.
    const SSMFWD: &str = "ssmfwd 0:127.0.0.1:9 -t i-0123456789abcdef0 --";

    /// A shell with job control, as somebody types into.
    fn shell(world: &World, line: &str) -> Terminal {
        let line = line.replace("SSMFWD", SSMFWD).replace('\'', r"'\''");
        run(world, &format!("bash --norc -c 'set -m; {line}'"))
    }

    /// Once, although we have got it as well.
    #[tokio::test]
    async fn ctrl_c_is_its_own() {
        let world = World::ideal();
        let script = r#"trap "n=\$((n+1)); echo int \$n" INT; echo running; read x; echo total $n; exit 5"#;
        let mut terminal = shell(&world, &format!("SSMFWD bash -c '{script}'; echo \"status $?\""));
        terminal.until("running").await;
        terminal.types("\u{3}").await;
        terminal.until("int 1").await;
        terminal.types("\u{3}").await;
        terminal.until("int 2").await;
        terminal.types("\r").await;
        let (_, shown) = terminal.end().await;
        assert!(shown.contains("total 2\r\n") && shown.contains("status 5\r\n"), "{shown}");
        world.settled().await;
    }

    #[tokio::test]
    async fn ctrl_c_ends_what_does_not_catch_it() {
        let world = World::ideal();
        let mut terminal = shell(&world, "SSMFWD sh -c 'echo running; exec sleep 600'; echo \"status $?\"");
        terminal.until("running").await;
        terminal.types("\u{3}").await;
        let (_, shown) = terminal.end().await;
        assert!(shown.contains("status 130\r\n"), "{shown}");
        world.settled().await;
    }

    #[tokio::test]
    async fn ctrl_z_stops_both_and_fg_continues_both() {
        let world = World::ideal();
        let line =
            "SSMFWD bash -c 'echo running; read x; echo read $x; exit 4'; echo \"stopped $?\"; fg; echo \"status $?\"";
        let mut terminal = shell(&world, line);
        terminal.until("running").await;
        terminal.types("\u{1a}").await;
        // 128 + SIGTSTP: for the shell the job is stopped.
        terminal.until("stopped 148").await;
        terminal.types("hello\r").await;
        terminal.until("read hello").await;
        let (_, shown) = terminal.end().await;
        assert!(shown.contains("status 4\r\n"), "{shown}");
        world.settled().await;
    }

    /// As the `suspend` of a shell does it: nobody has typed anything, so we were told nothing.
    #[tokio::test]
    async fn one_that_stops_itself_stops_the_job() {
        let world = World::ideal();
        let line = "SSMFWD bash -c 'echo running; kill -STOP $$; echo goes on; exit 6'; echo \"stopped $?\"; fg; echo \"status $?\"";
        let mut terminal = shell(&world, line);
        terminal.until("stopped 148").await;
        terminal.until("goes on").await;
        let (_, shown) = terminal.end().await;
        assert!(shown.contains("status 6\r\n"), "{shown}");
        world.settled().await;
    }

    /// It makes a process group for itself and takes the terminal; the outer shell has it back afterwards.
    #[tokio::test]
    async fn an_interactive_shell_is_at_home() {
        let world = World::ideal();
        let line = "before=$(stty -g); SSMFWD env PS1='at-home-\\#:' bash --norc -i; echo \"status $?\"; \
                    test \"$before\" = \"$(stty -g)\" && echo unchanged";
        let mut terminal = shell(&world, line);
        terminal.until("at-home-1:").await;
        // Put together only when it runs: what is typed is shown, too.
        terminal.types("sh -c 'echo po\"\"rt $SSMFWD_PORT; exec sleep 600'\r").await;
        terminal.until("port ").await;
        // Its own jobs are its own affair.
        terminal.types("\u{1a}").await;
        terminal.until("Stopped").await;
        terminal.until("at-home-2:").await;
        // It does not leave while it takes a job for stopped.
        terminal.types("kill -KILL %1; while [ -n \"$(jobs -s)\" ]; do jobs >/dev/null; done; exit 3\r").await;
        terminal.until("unchanged").await;
        let (_, shown) = terminal.end().await;
        assert!(shown.contains("status 3\r\n") && shown.contains("unchanged\r\n"), "{shown}");
        world.settled().await;
    }

    /// Killed, it cannot put back what it did to the terminal.
    #[tokio::test]
    async fn the_terminal_is_put_back_after_one_that_was_killed() {
        let world = World::ideal();
        let line = "before=$(stty -g); SSMFWD sh -c 'stty raw -echo; kill -KILL $$'; echo \"status $?\"; \
                    test \"$before\" = \"$(stty -g)\" && echo unchanged";
        let (_, shown) = shell(&world, line).end().await;
        assert!(shown.contains("status 137\r\n") && shown.contains("unchanged\r\n"), "{shown}");
        world.settled().await;
    }

    /// The rest of the job keeps the terminal: a group of its own for COMMAND would stop the pager.
    #[tokio::test]
    async fn a_pager_in_the_same_job_can_be_used() {
        let world = World::ideal();
        let mut terminal = shell(&world, "SSMFWD seq 1000 | less; echo \"status ${PIPESTATUS[0]}\"");
        terminal.until("\r\n20\r\n").await;
        terminal.types("G").await;
        terminal.until("\r\n1000\r\n").await;
        terminal.types("q").await;
        let (_, shown) = terminal.end().await;
        assert!(shown.contains("status 0\r\n"), "{shown}");
        world.settled().await;
    }

    /// The window is closed: the shell's end, and with it that of the job.
    #[tokio::test]
    async fn without_the_terminal_nothing_goes_on() {
        let world = World::ideal();
        let mut terminal = shell(&world, "SSMFWD sh -c 'echo running; exec sleep 600'");
        terminal.until("running").await;
        drop(terminal);
        world.settled().await;
    }
}
