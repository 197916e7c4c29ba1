//! The question for a target, on a terminal of its own.

use rustix::process::{Pid, Signal, kill_process};
use ssmfwd::emulator::{EmulatorConfig, EmulatorState, Node, NodePing};

use crate::harness::{Terminal, World};

pub(crate) const HYBRID: &str = "mi-0123456789abcdef0";

pub(crate) fn fleet(config: &mut EmulatorConfig) {
    config.nodes = vec![
        Node::new(World::TARGET).named("bastion"),
        Node::new(HYBRID).named("on premises"),
        Node { ping: NodePing::ConnectionLost, ..Node::new("i-0a").named("asleep") },
    ];
}

/// Runs a shell's line on a terminal, in which `ssmfwd` is the program.
pub(crate) fn run(world: &World, line: &str) -> Terminal {
    let line = line.replace("ssmfwd", env!("CARGO_BIN_EXE_ssmfwd"));
    let more = [("PATH", "/usr/bin:/bin"), ("TERM", "xterm"), ("NO_COLOR", "1"), ("SHELL", "/bin/sh")];
    let variables = world.emulator.env();
    Terminal::line(variables.iter().map(|(name, value)| (&name[..], &value[..])).chain(more), &line)
}

/// The process that has said `pid N `.
pub(crate) fn pid(terminal: &Terminal) -> Pid {
    let pid = terminal.shown.split_once("pid ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    pid.and_then(Pid::from_raw).expect("a process id")
}

pub(crate) fn targets(state: &EmulatorState) -> Vec<&str> {
    state.sessions.values().map(|session| &session.target[..]).collect()
}

#[tokio::test]
async fn a_target_is_chosen_by_typing() {
    let world = World::with(fleet);
    let mut terminal = run(&world, "ssmfwd 0:22");
    terminal.until("on premises").await;
    assert!(!terminal.shown.contains("asleep"), "{}", terminal.shown);
    terminal.types("prem\r").await;
    terminal
        .until("ssmfwd: mi-0123456789abcdef0 \"on premises\": with --target mi-0123456789abcdef0 you are not asked")
        .await;
    terminal.until("ready in").await;
    terminal.types("\u{3}").await;
    assert_eq!(terminal.end().await.0, Some(130));
    assert_eq!(targets(&world.settled().await), [HYBRID]);
}

/// Its tunnel lacks nothing else; that of the other is as the file has it.
#[tokio::test]
async fn a_tunnel_without_a_target_is_asked_for_one() {
    let world = World::with(fleet);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tunnels.toml");
    let text = format!(
        "[tunnels.db]\nforward = \"0:22\"\n[tunnels.web]\nforward = \"0:80\"\ntarget = \"{}\"\n",
        World::TARGET
    );
    std::fs::write(&path, text).expect("a file");
    let words = format!("up db web --config {}", path.display());
    let mut terminal = run(&world, &format!("ssmfwd {words}"));
    terminal.until("on premises").await;
    assert!(terminal.shown.contains("Target of db "), "{}", terminal.shown);
    terminal.types("prem\r").await;
    terminal.until("ready in").await;
    terminal.types("\u{3}").await;
    assert_eq!(terminal.end().await.0, Some(130));
    let words: Vec<_> = words.split(' ').collect();
    let ended = world.run(&words).await.expect_status(2);
    ended
        .expect_stderr(&format!("error: {}:1:10: the tunnel db has no target", path.display()))
        .expect_stderr("give [tunnels.db] or [defaults] a key target");
    // Nobody was there to be asked the second time.
    let state = world.settled().await;
    let mut started = targets(&state);
    started.sort_unstable();
    assert_eq!(started, [World::TARGET, HYBRID]);
}

/// Whoever leaves finds the terminal as it was: modes, and a cursor that shows.
#[tokio::test]
async fn escape_and_ctrl_c_leave_the_terminal_as_it_was() {
    for keys in ["\u{1b}", "\u{3}"] {
        let world = World::with(fleet);
        let line =
            "before=$(stty -g); ssmfwd 0:22; echo \"status $?\"; test \"$before\" = \"$(stty -g)\" && echo unchanged";
        let mut terminal = run(&world, line);
        terminal.until("on premises").await;
        terminal.types(keys).await;
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
    let mut terminal = run(&world, line);
    terminal.until("on premises").await;
    kill_process(pid(&terminal), Signal::TERM).expect("it runs");
    let (_, shown) = terminal.end().await;
    assert!(shown.contains("status 143\r\nunchanged\r\n"), "{shown}");
}

#[tokio::test]
async fn with_nothing_to_choose_from_it_is_an_error() {
    let world = World::with(|config| config.offline = true);
    let (status, shown) = run(&world, "ssmfwd 0:22").end().await;
    assert_eq!(status, Some(6), "{shown}");
    assert!(shown.contains("error: no target is named, and no managed node in us-east-1 is online"), "{shown}");
}

#[tokio::test]
async fn nobody_is_asked_without_a_terminal() {
    let world = World::with(fleet);
    world.run(&["0:22"]).await.expect_status(2).expect_stderr("error: no target for 0:22");
    for redirection in ["</dev/null", "2>/dev/null"] {
        let (status, shown) = run(&world, &format!("ssmfwd 0:22 {redirection}")).end().await;
        assert_eq!(status, Some(2), "{shown}");
    }
    assert_eq!(world.settled().await.calls.len(), 0);
}

/// It would be stopped for reading from the terminal.
#[tokio::test]
async fn nobody_is_asked_in_the_background() {
    let world = World::with(fleet);
    let line = "set -m; ssmfwd 0:22 & wait $!; echo \"status $?\"";
    let (_, shown) = run(&world, line).end().await;
    assert!(shown.contains("status 2\r\n"), "{shown}");
    assert_eq!(world.settled().await.calls.len(), 0);
}
