//! The question for a target, on a terminal of its own: that of `script` from util-linux.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use ssmfwd::emulator::{EmulatorConfig, EmulatorState, Node, NodePing};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::harness::{World, within};

const HYBRID: &str = "mi-0123456789abcdef0";

fn fleet(config: &mut EmulatorConfig) {
    config.nodes = vec![
        Node::new(World::TARGET).named("bastion"),
        Node::new(HYBRID).named("on premises"),
        Node { ping: NodePing::ConnectionLost, ..Node::new("i-0a").named("asleep") },
    ];
}

/// The program on a terminal.
pub(crate) struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    shown: String,
}

impl Terminal {
    /// Runs a shell's line in it, in which `ssmfwd` is the program.
    pub(crate) fn run(world: &World, line: &str) -> Self {
        let line = line.replace("ssmfwd", env!("CARGO_BIN_EXE_ssmfwd"));
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env_clear().envs(world.emulator.env());
        command.env("PATH", "/usr/bin:/bin").env("TERM", "xterm").env("NO_COLOR", "1").env("SHELL", "/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("script of util-linux");
        let (keyboard, screen) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, keyboard, screen, shown: String::new() }
    }

    /// Reads until the screen has shown a text.
    pub(crate) async fn until(&mut self, text: &str) {
        let shown = &mut self.shown;
        let mut buffer = [0; 4096];
        let reading = async {
            while !shown.contains(text) {
                // On Linux a terminal whose program has ended gives an error.
                match self.screen.read(&mut buffer).await {
                    Ok(count) if count > 0 => shown.push_str(&String::from_utf8_lossy(&buffer[..count])),
                    _ => return false,
                }
            }
            true
        };
        let found = tokio::time::timeout(Duration::from_secs(60), reading).await;
        assert!(matches!(found, Ok(true)), "no {text:?} in:\n{}", self.shown);
    }

    pub(crate) async fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).await.expect("it is there");
    }

    /// The process that has said `pid N `.
    pub(crate) fn pid(&self) -> Pid {
        let pid = self.shown.split_once("pid ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        pid.and_then(Pid::from_raw).expect("a process id")
    }

    /// Waits for its end: the exit status, and all that was shown.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let mut rest = Vec::new();
        drop(within("the end of the screen", self.screen.read_to_end(&mut rest)).await);
        let status = within("its end", self.child.wait()).await.expect("a child of ours");
        self.shown.push_str(&String::from_utf8_lossy(&rest));
        (status.code(), self.shown)
    }
}

fn targets(state: &EmulatorState) -> Vec<&str> {
    state.sessions.values().map(|session| &session.target[..]).collect()
}

#[tokio::test]
async fn a_target_is_chosen_by_typing() {
    let world = World::with(fleet);
    let mut terminal = Terminal::run(&world, "ssmfwd 0:22");
    terminal.until("on premises").await;
    assert!(!terminal.shown.contains("asleep"), "{}", terminal.shown);
    terminal.type_in("prem\r").await;
    terminal
        .until("ssmfwd: mi-0123456789abcdef0 \"on premises\": with --target mi-0123456789abcdef0 you are not asked")
        .await;
    terminal.until("ready in").await;
    terminal.type_in("\u{3}").await;
    assert_eq!(terminal.end().await.0, Some(130));
    assert_eq!(targets(&world.settled().await), [HYBRID]);
}

/// Whoever leaves finds the terminal as it was: modes, and a cursor that shows.
#[tokio::test]
async fn escape_and_ctrl_c_leave_the_terminal_as_it_was() {
    for keys in ["\u{1b}", "\u{3}"] {
        let world = World::with(fleet);
        let line =
            "before=$(stty -g); ssmfwd 0:22; echo \"status $?\"; test \"$before\" = \"$(stty -g)\" && echo unchanged";
        let mut terminal = Terminal::run(&world, line);
        terminal.until("on premises").await;
        terminal.type_in(keys).await;
        let (status, shown) = terminal.end().await;
        assert_eq!(status, Some(0), "{shown}");
        assert!(shown.contains("status 130\r\nunchanged\r\n"), "{shown}");
        let (hidden, visible) = (shown.rfind("\u{1b}[?25l"), shown.rfind("\u{1b}[?25h"));
        assert!(hidden.is_some() && visible > hidden, "{shown:?}");
        assert_eq!(world.settled().await.sessions_started, 0);
    }
}

/// Its own shell tells its process id before it becomes the program.
#[tokio::test]
async fn a_signal_does_not_wait_for_the_keyboard() {
    let world = World::with(fleet);
    let line = "before=$(stty -g); sh -c 'echo \"pid $$ \"; exec ssmfwd 0:22'; echo \"status $?\"; \
                test \"$before\" = \"$(stty -g)\" && echo unchanged";
    let mut terminal = Terminal::run(&world, line);
    terminal.until("on premises").await;
    kill_process(terminal.pid(), Signal::TERM).expect("it runs");
    let (_, shown) = terminal.end().await;
    assert!(shown.contains("status 143\r\nunchanged\r\n"), "{shown}");
}

#[tokio::test]
async fn with_nothing_to_choose_from_it_is_an_error() {
    let world = World::with(|config| config.offline = true);
    let (status, shown) = Terminal::run(&world, "ssmfwd 0:22").end().await;
    assert_eq!(status, Some(6), "{shown}");
    assert!(shown.contains("error: no target is named, and no managed node in us-east-1 is online"), "{shown}");
}

#[tokio::test]
async fn nobody_is_asked_without_a_terminal() {
    let world = World::with(fleet);
    world.run(&["0:22"]).await.expect_status(2).expect_stderr("error: no target for 0:22");
    for redirection in ["</dev/null", "2>/dev/null"] {
        let (status, shown) = Terminal::run(&world, &format!("ssmfwd 0:22 {redirection}")).end().await;
        assert_eq!(status, Some(2), "{shown}");
    }
    assert_eq!(world.settled().await.calls.len(), 0);
}

/// It would be stopped for reading from the terminal.
#[tokio::test]
async fn nobody_is_asked_in_the_background() {
    let world = World::with(fleet);
    let line = "set -m; ssmfwd 0:22 & wait $!; echo \"status $?\"";
    let (_, shown) = Terminal::run(&world, line).end().await;
    assert!(shown.contains("status 2\r\n"), "{shown}");
    assert_eq!(world.settled().await.calls.len(), 0);
}
