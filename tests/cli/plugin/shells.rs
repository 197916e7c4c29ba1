//! Shells on a terminal.

use super::Caller;
use crate::harness::{Terminal, World};

/// A shell that can be typed into, and who has it.
async fn shell(world: &World, escape: &str) -> (Terminal, Caller) {
    let caller = Caller::of_shell(world).await;
    let quoted: String = caller.arguments().iter().map(|argument| format!(" '{argument}'")).collect();
    let variables = world.emulator.env();
    let variables = variables.iter().map(|(name, value)| (&name[..], &value[..]));
    let more = [("SSMFWD_ESCAPE", escape), ("PATH", "/usr/bin:/bin"), ("TERM", "xterm")];
    let mut terminal = Terminal::line(variables.chain(more), &format!("exec {}{quoted}", caller.program()));
    terminal.until("Starting session with SessionId: ").await;
    terminal.types("echo it is re\"\"ady\r").await;
    terminal.until("it is ready\r\n").await;
    (terminal, caller)
}

#[tokio::test]
async fn escapes_begin_with_what_is_chosen() {
    let world = World::ideal();
    let (mut terminal, _caller) = shell(&world, "%").await;
    // To the shell it is what stands in front of a command.
    terminal.types("~.\u{15}echo go\"\"es on\r").await;
    terminal.until("goes on\r\n").await;
    terminal.types("%?").await;
    terminal.until("%.  end the session\r\n").await;
    terminal.types("%.").await;
    let (status, shown) = terminal.end().await;
    assert_eq!(status, Some(0), "{shown}");
    world.settled().await;
}

#[tokio::test]
async fn there_may_be_none() {
    let world = World::ideal();
    let (mut terminal, _caller) = shell(&world, "none").await;
    terminal.types("~.\u{15}exit 0\r").await;
    let (status, shown) = terminal.end().await;
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.contains("exit 0") && shown.contains("Exiting session with sessionId: "), "{shown}");
    world.settled().await;
}

/// It was among the arguments, where every user of the machine sees it for as long as a program runs.
#[tokio::test]
async fn the_token_is_not_to_be_seen_while_a_shell_runs() {
    let world = World::ideal();
    let (mut terminal, caller) = shell(&world, "~").await;
    let read = |name: &str| std::fs::read(format!("/proc/{}/{name}", terminal.id())).expect("it runs");
    let (arguments, environment) = (read("cmdline"), read("environ"));
    let (arguments, environment) = (String::from_utf8_lossy(&arguments), String::from_utf8_lossy(&environment));
    assert!(arguments.contains("session-manager-plugin\0") && environment.contains("AWS_REGION="), "{arguments}");
    let token = caller.answer["TokenValue"].as_str().expect("a text");
    assert!(!arguments.contains(token) && !environment.contains(token), "{arguments}");
    terminal.types("exit\r").await;
    terminal.end().await;
    world.settled().await;
}
