//! `ssmfwd shell`: real shells on real ptys, through the emulated agent, on a terminal and without one.

use std::{fs::File, process::Stdio};

use rustix::process::{Signal, kill_process};
use serde_json::json;
use ssmfwd::emulator::{Action, EmulatorConfig, Role, SealFault};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use crate::{
    credentials::Account,
    harness::{Terminal, World, within},
    picker::{HYBRID, fleet, pid, run, targets},
};

const SHELL: &str = "ssmfwd shell -t i-0123456789abcdef0";

/// A shell on a terminal, in a line that tells how it ended and whether the terminal is as it was.
fn on_terminal(world: &World) -> Terminal {
    let line = format!(
        "before=$(stty -g); sh -c 'echo \"pid $$ \"; exec {SHELL}'; echo \"status $?\"; \
         test \"$before\" = \"$(stty -g)\" && echo unchanged"
    );
    run(world, &line)
}

/// Waits for its end.
async fn ends(terminal: Terminal, status: i32) -> String {
    let (_, shown) = terminal.end().await;
    assert!(shown.contains(&format!("status {status}\r\nunchanged\r\n")), "{shown}");
    shown
}

/// Both in the clear, and encrypted.
fn worlds() -> [World; 2] {
    [World::ideal(), World::with(|config| config.kms_key = Some("alias/sessions".into()))]
}

/// A shell without a terminal: its status, stdout and stderr.
async fn piped(world: &World, arguments: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    piped_into(world.command(&[&["shell", "-t", World::TARGET, "-q"], arguments].concat()), input).await
}

async fn piped_into(mut command: Command, input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the built binary");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let typing = tokio::spawn(async move { stdin.write_all(&input).await });
    let output = within("the end of the shell", child.wait_with_output()).await.expect("a child of ours");
    // A shell may end before it has read all.
    drop(typing.await);
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn keys_and_the_size_are_the_shells() {
    for world in worlds() {
        let mut terminal = on_terminal(&world);
        terminal.until("ready in").await;
        terminal.types("stty size\r").await;
        terminal.until("24 80\r\n").await;
        terminal.resize(33, 101);
        // The new size may be a moment behind.
        terminal.types("until [ \"$(stty size)\" = '33 101' ]; do :; done; echo as\"\" large\r").await;
        terminal.until("as large\r\n").await;
        // Put together only when it runs: what is typed is shown, too.
        terminal.types("sh -c 'echo it is ru\"\"nning; exec sleep 600'\r").await;
        terminal.until("it is running\r\n").await;
        terminal.types("\u{3}").await;
        terminal.types("echo interrupted: $?\r").await;
        terminal.until("interrupted: 130\r\n").await;
        terminal.types("exit\r").await;
        ends(terminal, 0).await;
        assert_eq!(world.settled().await.sessions_started, 1);
    }
}

/// What is stopped is the command in the shell, and not we.
#[tokio::test]
async fn ctrl_z_is_the_shells() {
    let world = World::with(|config| config.shell = "bash".into());
    let mut terminal = on_terminal(&world);
    terminal.until("ready in").await;
    terminal.types("PS1='> '; sh -c 'echo it is ru\"\"nning; exec sleep 600'\r").await;
    terminal.until("it is running\r\n").await;
    terminal.types("\u{1a}").await;
    terminal.until("Stopped").await;
    terminal.types("kill -KILL %1; exit\r").await;
    terminal.types("exit\r").await;
    ends(terminal, 0).await;
    world.settled().await;
}

#[tokio::test]
async fn a_pager_can_be_used() {
    let world = World::ideal();
    let mut terminal = on_terminal(&world);
    terminal.until("ready in").await;
    terminal.types("export LESS= TERM=xterm; seq 1000 | less\r").await;
    terminal.until("\r\n20\r\n").await;
    terminal.types("G").await;
    terminal.until("\r\n1000\r\n").await;
    terminal.types("qexit\r").await;
    ends(terminal, 0).await;
    world.settled().await;
}

/// It draws for the size of the moment, and its terminal modes are on the far side.
#[tokio::test]
async fn an_editor_can_be_used() {
    let (world, folder) = (World::ideal(), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("text");
    std::fs::write(&path, "first\nlast\n").expect("a file");
    let mut terminal = on_terminal(&world);
    terminal.until("ready in").await;
    terminal.types(&format!("export TERM=xterm LC_ALL=C.UTF-8; vi -u NONE -N {}\r", path.display())).await;
    terminal.until("2L, 11B").await;
    terminal.types(":set lines? columns?\r").await;
    terminal.until("lines=24").await;
    terminal.until("columns=80").await;
    // What is asked for is shown on a page of its own, which a key turns.
    terminal.types("\roinserted ä€😀 line\u{1b}").await;
    // The editor does not trust terminals with the width of what comes next.
    terminal.until("inserted ä€").await;
    terminal.until("😀").await;
    let before = terminal.shown.len();
    terminal.resize(40, 132);
    // All is drawn once more: each row below the text has a mark, up to the last, which is for messages.
    terminal.until("\u{1b}[39;1H").await;
    assert!(terminal.shown[before..].contains("first"), "{:?}", &terminal.shown[before..]);
    terminal.types(":set lines? columns?\r").await;
    terminal.until("lines=40").await;
    terminal.until("columns=132").await;
    terminal.types("\r:wq\r").await;
    terminal.shows("written").await;
    // What is typed before the shell has the terminal again may be the editor's.
    terminal.shows("\u{1b}[?1049l").await;
    terminal.shows("# ").await;
    terminal.types("stty size; exit\r").await;
    let shown = ends(terminal, 0).await;
    assert!(shown.contains("40 132\r\n"), "{shown}");
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "first\ninserted ä€😀 line\nlast\n");
    world.settled().await;
}

/// The line of [`on_terminal`], without a target.
fn without_target(world: &World, words: &str) -> Terminal {
    let line = format!(
        "before=$(stty -g); ssmfwd shell {words}; echo \"status $?\"; test \"$before\" = \"$(stty -g)\" && echo unchanged"
    );
    run(world, &line)
}

#[tokio::test]
async fn without_a_target_a_terminal_is_asked_for_one() {
    let world = World::with(fleet);
    let mut terminal = without_target(&world, "");
    terminal.until("on premises").await;
    assert!(!terminal.shown.contains("asleep"), "{}", terminal.shown);
    terminal.types("prem\r").await;
    terminal.until("ssmfwd: mi-0123456789abcdef0 \"on premises\": with --target mi-0123456789abcdef0").await;
    terminal.until("ready in").await;
    terminal.types("stty size; echo $((6*7))\r").await;
    terminal.until("24 80\r\n42\r\n").await;
    // Raw, whatever the question made of the terminal.
    terminal.types("sh -c 'echo it is ru\"\"nning; exec sleep 600'\r").await;
    terminal.until("it is running\r\n").await;
    terminal.types("\u{3}").await;
    terminal.types("exit\r").await;
    ends(terminal, 0).await;
    assert_eq!(targets(&world.settled().await), [HYBRID]);
}

#[tokio::test]
async fn the_status_of_a_command_on_a_chosen_target_is_ours() {
    let world = World::with(|config| {
        fleet(config);
        apart(config, "sh -c 'echo done; exit 3'");
    });
    let mut terminal = without_target(&world, "--document Apart");
    terminal.until("on premises").await;
    terminal.types("bast\r").await;
    let shown = ends(terminal, 3).await;
    assert!(shown.contains("done"), "{shown}");
    assert_eq!(targets(&world.settled().await), [World::TARGET]);
}

#[tokio::test]
async fn who_wants_no_target_leaves_the_terminal_as_it_was() {
    for keys in ["\u{1b}", "\u{3}"] {
        let world = World::with(fleet);
        let mut terminal = without_target(&world, "");
        terminal.until("on premises").await;
        terminal.types(keys).await;
        ends(terminal, 130).await;
        assert_eq!(world.settled().await.sessions_started, 0);
    }
}

#[tokio::test]
async fn nobody_is_asked_for_a_target_without_a_terminal() {
    let world = World::with(fleet);
    let refused = "error: no target for the shell\n\nhint: name one with --target";
    world.run(&["shell"]).await.expect_status(2).expect_stderr(refused);
    for redirection in ["</dev/null", "2>/dev/null", "--parameter x"] {
        let shown = ends(without_target(&world, redirection), 2).await;
        assert!(!shown.contains("on premises"), "{shown}");
    }
    assert_eq!(world.settled().await.calls.len(), 0);
}

/// What is piped into a shell is typed there, whatever is run for credentials.
#[tokio::test]
async fn stdin_is_not_for_programs_that_give_credentials() {
    let account = Account::new(Role::default(), &[]);
    account.write("answer", &account.keys_as_json().to_string());
    account.configure("[profile dev]\ncredential_process = cat > \"$HOME/eaten\"; cat \"$HOME/answer\"\n");
    let command = account.command_of(&["shell", "-t", World::TARGET, "-q", "--profile", "dev"]);
    let (status, stdout, stderr) = piped_into(command, b"echo $((6*7))\n").await;
    assert_eq!((status, &stderr[..]), (Some(0), ""));
    assert!(String::from_utf8_lossy(&stdout).contains("42\r\n"), "{stdout:?}");
    assert_eq!(std::fs::read(account.home().join("eaten")).expect("it was run"), b"");
    account.world.settled().await;
}

#[tokio::test]
async fn escapes_are_ours() {
    let world = World::ideal();
    let mut terminal = on_terminal(&world);
    terminal.until("ready in").await;
    terminal.types("~?").await;
    terminal.until("~.  end the session\r\n").await;
    terminal.types("echo ~~ > /dev/null\r~.").await;
    ends(terminal, 0).await;
    world.settled().await;
}

#[tokio::test]
async fn every_way_out_leaves_the_terminal_as_it_was() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::USR1, 138)] {
        let world = World::ideal();
        let mut terminal = on_terminal(&world);
        terminal.until("ready in").await;
        kill_process(pid(&terminal), signal).expect("it runs");
        ends(terminal, status).await;
        world.settled().await;
    }
    let world = World::ideal();
    let mut terminal = on_terminal(&world);
    terminal.until("ready in").await;
    let output = "Your session timed out due to inactivity and has been terminated.".to_owned();
    world.emulator.act(Action::ChannelClosed { output });
    let shown = ends(terminal, 7).await;
    assert!(shown.contains("inactivity"), "{shown}");
    world.settled().await;
}

/// Somebody has pressed Ctrl-S, or the window does not show anything any more.
#[tokio::test]
async fn a_terminal_that_shows_nothing_does_not_hold_up_the_end() {
    let world = World::ideal();
    let mut terminal = Terminal::start(world.command(&["shell", "-t", World::TARGET]).as_std());
    terminal.until("ready in").await;
    terminal.types("yes\r").await;
    // More than a terminal and whoever writes to it hold.
    world.until("a flood", |state| state.sessions.values().any(|session| session.down.bytes > 2_000_000)).await;
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.end_unseen().await, Some(143));
    world.settled().await;
}

/// Whoever had the terminal meanwhile has left it in modes of their own.
#[tokio::test]
async fn a_shell_that_was_stopped_takes_its_terminal_again() {
    let world = World::ideal();
    let mut terminal = Terminal::start(world.command(&["shell", "-t", World::TARGET]).as_std());
    let before = terminal.modes();
    terminal.until("ready in").await;
    terminal.until("# ").await;
    let raw = terminal.modes().local_modes;
    assert_ne!(raw, before.local_modes);
    terminal.signal(Signal::STOP);
    terminal.set_modes(&before);
    terminal.signal(Signal::CONT);
    within("raw mode", async {
        while terminal.modes().local_modes != raw {
            tokio::task::yield_now().await;
        }
    })
    .await;
    terminal.types("exit\r").await;
    assert_eq!(terminal.end().await.0, Some(0));
    world.settled().await;
}

#[tokio::test]
async fn who_reads_no_more_wants_no_more() {
    let world = World::ideal();
    let mut command = world.command(&["shell", "-t", World::TARGET, "-q"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the built binary");
    child.stdin.as_mut().expect("piped").write_all(b"yes\n").await.expect("it reads");
    within("output", child.stdout.as_mut().expect("piped").read_exact(&mut [0; 5000])).await.expect("it writes");
    child.stdout = None;
    // stdin stays open.
    let stdin = child.stdin.take();
    let output = within("the end", child.wait_with_output()).await.expect("a child of ours");
    drop(stdin);
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
    world.settled().await;
}

#[tokio::test]
async fn a_full_disk_is_a_failure() {
    let world = World::ideal();
    let mut command = world.command(&["shell", "-t", World::TARGET, "-q"]);
    command.stdout(File::options().write(true).open("/dev/full").expect("Linux has it"));
    let output = within(
        "the end",
        command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the built binary").wait_with_output(),
    );
    let output = output.await.expect("a child of ours");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: cannot go on\n  caused by: stdout: No space left"), "{stderr}");
    world.settled().await;
}

/// What is said of a loss is on the same screen, and may begin anywhere.
fn without_messages(shown: &str) -> String {
    let mut rest = shown.to_owned();
    for begin in ["ssmfwd: ", "warning: "] {
        while let Some(at) = rest.find(begin) {
            let end = rest[at..].find("\r\n").map_or(rest.len(), |end| at + end + 2);
            rest.replace_range(at..end, "");
        }
    }
    rest
}

#[tokio::test]
async fn a_lost_websocket_costs_nothing() {
    for world in worlds() {
        let mut terminal = on_terminal(&world);
        terminal.until("ready in").await;
        terminal.types("read x; for i in $(seq 2000); do echo line $i; done; echo \"got $x\"\r").await;
        terminal.until("$x\"\r\n").await;
        assert_eq!(world.emulator.act(Action::Disconnect), 1);
        terminal.types("hello\r").await;
        terminal.until("line 100\r\n").await;
        world.emulator.act(Action::Disconnect);
        terminal.until("got hello\r\n").await;
        let lines: String = (1..=2000).map(|i| format!("line {i}\r\n")).collect();
        let shown = without_messages(&terminal.shown);
        assert!(shown.contains(&lines), "{shown}");
        terminal.types("exit\r").await;
        ends(terminal, 0).await;
        world.settled().await;
    }
}

/// Characters of two, three and four bytes, in messages that end anywhere.
#[tokio::test]
async fn ten_megabytes_arrive_as_they_are() {
    for world in worlds() {
        let command = "stty -opost; i=0; while [ $i -lt 16 ]; do printf 'ä€😀-%.0s' $(seq 65536); i=$((i+1)); done";
        let parameter = format!("command={command}");
        let arguments = ["--document", "AWS-StartInteractiveCommand", "--parameter", &parameter];
        let (status, stdout, stderr) = piped(&world, &arguments, b"").await;
        assert_eq!(status, Some(0), "{stderr}");
        let expected = "ä€😀-".repeat(16 * 65536);
        assert!(stdout.ends_with(expected.as_bytes()), "{} of {} bytes", stdout.len(), expected.len());
        world.settled().await;
    }
}

/// Whoever shares the pipe may have set that, and may be slow to read.
#[tokio::test]
async fn a_pipe_that_does_not_block_takes_all() {
    const BYTES: u64 = 1 << 20;
    let world = World::ideal();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).expect("it can be set");
    let parameter = format!("command=head -c {BYTES} /dev/zero");
    let arguments = ["shell", "-t", World::TARGET, "-q", "--document", "AWS-StartInteractiveCommand", "--parameter"];
    let mut command = world.command(&[&arguments[..], &[&parameter]].concat());
    let mut child = command.stdin(Stdio::null()).stdout(writer).kill_on_drop(true).spawn().expect("the built binary");
    drop(command);
    let is_full = async {
        while rustix::io::ioctl_fionread(&reader).expect("a pipe") < 60 << 10 {
            tokio::task::yield_now().await;
        }
    };
    within("a full pipe", is_full).await;
    let mut reader = tokio::fs::File::from_std(File::from(std::os::fd::OwnedFd::from(reader)));
    let mut shown = Vec::new();
    within("all of it", reader.read_to_end(&mut shown)).await.expect("a pipe can be read");
    assert_eq!((child.wait().await.expect("a child of ours").code(), shown.len() as u64), (Some(0), BYTES));
    world.settled().await;
}

#[tokio::test]
async fn without_a_terminal_stdin_is_typed() {
    for world in worlds() {
        let (status, stdout, stderr) = piped(&world, &[], b"stty size; echo $((6*7))\n").await;
        let stdout = String::from_utf8(stdout).expect("text");
        assert_eq!(status, Some(0), "{stderr}");
        assert!(stdout.contains("100 300\r\n") && stdout.contains("42\r\n"), "{stdout:?}");
        world.settled().await;
    }
}

/// A shell that edits its lines itself makes of the key what the moment wants: one that comes while a command runs is
/// lost.
#[tokio::test]
async fn the_end_of_stdin_is_noticed_by_a_shell_that_was_busy() {
    for input in [&b"sleep 0.5; echo do\"\"ne\n"[..], b"sleep 0.5; echo do\"\"ne"] {
        let world = World::with(|config| config.shell = "bash".into());
        let (status, stdout, stderr) = piped(&world, &[], input).await;
        assert_eq!(status, Some(0), "{stderr}");
        assert!(String::from_utf8_lossy(&stdout).contains("done\r\n"), "{stdout:?}");
        world.settled().await;
    }
}

fn apart(config: &mut EmulatorConfig, command: &str) {
    let document = json!({
        "sessionType": "NonInteractiveCommands",
        "properties": {"linux": {"commands": command, "separateOutputStream": "true"}},
    });
    config.documents.insert("Apart".into(), serde_json::from_value(document).expect("a document"));
}

#[tokio::test]
async fn a_command_has_its_streams_and_its_status() {
    for kms_key in [None, Some("alias/sessions".to_owned())] {
        let world = World::with(|config| {
            apart(config, "sh -c 'echo out; echo err >&2; exit 3'");
            config.kms_key = kms_key;
        });
        let (status, stdout, stderr) = piped(&world, &["--document", "Apart"], b"not read").await;
        assert_eq!((status, &stdout[..], &stderr[..]), (Some(3), &b"out\n"[..], "err\n"));
        world.settled().await;
    }
}

#[tokio::test]
async fn a_command_that_cannot_be_started_has_failed() {
    for document in ["Apart", "AWS-StartNonInteractiveCommand"] {
        let world = World::with(|config| apart(config, "/no/such/program"));
        let mut arguments = vec!["--document", document];
        if document != "Apart" {
            arguments.extend(["--parameter", "command=/no/such/program"]);
        }
        let (status, stdout, stderr) = piped(&world, &arguments, b"").await;
        let expected = (Some(1), &b""[..], "fork/exec /no/such/program: no such file or directory");
        assert_eq!((status, &stdout[..], &stderr[..]), expected, "{document}");
        world.settled().await;
    }
}

/// What follows is neither shown nor answered.
#[tokio::test]
async fn faults_of_the_encryption_end_the_session() {
    for fault in ["tampered:2", "truncated:2", "plain:2", "wrong_key:2", "replayed:2"] {
        let world = World::with(|config| {
            config.kms_key = Some("alias/sessions".into());
            config.seal_fault = Some(fault.parse::<SealFault>().expect("a fault"));
        });
        let (status, _, stderr) = piped(&world, &[], b"echo one; sleep 0.1; echo two; sleep 0.1; echo three\n").await;
        assert_eq!(status, Some(1), "{fault}: {stderr}");
        assert!(stderr.contains("encryption failed"), "{fault}: {stderr}");
        // Anything plain from us would be a violation.
        world.settled().await;
    }
}

#[tokio::test]
async fn another_kind_of_document_is_named() {
    let world = World::ideal();
    let (status, _, stderr) = piped(&world, &["--document", "AWS-StartSSHSession"], b"").await;
    assert_eq!(status, Some(6), "{stderr}");
    assert!(stderr.contains("sessions of type Port are not shells"), "{stderr}");
    world.settled().await;
}
