//! A forward without a login on a terminal: the login is offered.

use std::process::Stdio;

use ssmfwd::emulator::{FailureKind, Node, Operation};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

use super::office::Office;
use crate::harness::{World, failing, within};

/// The program in a terminal of its own, which `script` makes.
struct Terminal {
    child: Child,
    screen: String,
}

impl Terminal {
    fn start(office: &Office, arguments: &[&str]) -> Self {
        Self::within(office.command(arguments), "PROGRAM")
    }

    /// Runs a shell's line, in which PROGRAM is the command.
    fn within(inner: Command, line: &str) -> Self {
        let inner = inner.as_std();
        let words = std::iter::once(inner.get_program()).chain(inner.get_args());
        let words: Vec<_> = words.map(|word| format!("'{}'", word.to_str().expect("text"))).collect();
        let line = line.replace("PROGRAM", &words.join(" "));
        let mut command = Command::new("/usr/bin/script");
        command.args(["--quiet", "--return", "--echo", "never", "--command", &line, "/dev/null"]);
        command.env_clear().env("SHELL", "/bin/sh");
        for (name, value) in inner.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        Self { child: command.spawn().expect("script, of bsdutils"), screen: String::new() }
    }

    async fn type_in(&mut self, text: &str) {
        self.child.stdin.as_mut().expect("piped").write_all(text.as_bytes()).await.expect("it runs");
    }

    /// Waits until something is on the screen.
    async fn until(&mut self, text: &str) {
        while !self.screen.contains(text) {
            assert!(self.read().await, "it ended without {text:?}: {}", self.screen);
        }
    }

    async fn read(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let stdout = self.child.stdout.as_mut().expect("piped");
        let count = within("the screen", stdout.read(&mut chunk)).await.expect("a pipe");
        self.screen.push_str(&String::from_utf8_lossy(&chunk[..count]));
        count > 0
    }

    async fn exit(mut self) -> (Option<i32>, String) {
        while self.read().await {}
        let status = within("the end", self.child.wait()).await.expect("a child of ours");
        (status.code(), self.screen)
    }
}

#[tokio::test]
async fn a_forward_on_a_terminal_offers_the_login_and_goes_on() {
    let office = Office::with(|config| config.sso.auto_device = true);
    let forward = ["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "dev"];
    for answer in ["\n", "y\n"] {
        let mut terminal = Terminal::start(&office, &forward);
        terminal.until("log in now? [Y/n] ").await;
        assert!(terminal.screen.contains("the login to corp has expired, or there was none"), "{}", terminal.screen);
        terminal.type_in(answer).await;
        terminal.until("ssmfwd: logged in to corp").await;
        terminal.until("ssmfwd: ready in ").await;
        terminal.type_in("\u{3}").await;
        let (status, screen) = terminal.exit().await;
        assert_eq!(status, Some(130), "{screen}");
        assert!(!screen.contains("error: "), "{screen}");
        // The second time it has expired.
        office.expire_token();
        office.change_token(|token| {
            token.as_object_mut().expect("an object").remove("refreshToken");
        });
    }
    let state = office.world.settled().await;
    assert_eq!((state.sessions_started, state.calls_of("StartDeviceAuthorization")), (2, 2));
}

#[tokio::test]
async fn an_offer_can_be_declined_and_is_made_once() {
    let office = Office::new();
    let forward = ["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "dev"];
    for (answer, status) in [("n\n", 4), ("\u{4}", 4), ("\u{3}", 130)] {
        let mut terminal = Terminal::start(&office, &forward);
        terminal.until("log in now? [Y/n] ").await;
        terminal.type_in(answer).await;
        let (code, screen) = terminal.exit().await;
        assert_eq!(code, Some(status), "{screen}");
        assert_eq!(screen.contains("`ssmfwd login --profile dev`"), status == 4, "{screen}");
    }
    assert_eq!(office.calls_of("RegisterClient"), 0);

    // A login that does not help is not offered again.
    office.world.emulator.configure(|config| {
        config.sso.auto_device = true;
        config.failures = failing(Operation::GetRoleCredentials, FailureKind::ExpiredToken);
    });
    let mut terminal = Terminal::start(&office, &forward);
    terminal.until("log in now? [Y/n] ").await;
    terminal.type_in("y\n").await;
    let (status, screen) = terminal.exit().await;
    assert_eq!((status, screen.matches("log in now?").count()), (Some(4), 1), "{screen}");

    // A login that fails says why.
    office
        .world
        .emulator
        .configure(|config| config.failures = failing(Operation::CreateToken, FailureKind::AccessDenied));
    let mut terminal = Terminal::start(&office, &["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "old"]);
    terminal.until("log in now? [Y/n] ").await;
    terminal.type_in("y\n").await;
    let (status, screen) = terminal.exit().await;
    assert!(status == Some(4) && screen.contains("the login was denied"), "{status:?} {screen}");
}

#[tokio::test]
async fn nothing_is_offered_where_nobody_could_answer() {
    let office = Office::new();
    // Not a login of this kind, and quiet.
    for arguments in [&["--profile", "nobody"][..], &["--profile", "dev", "-q"]] {
        let terminal = Terminal::start(&office, &[&["0:127.0.0.1:9", "-t", World::TARGET], arguments].concat());
        let (status, screen) = terminal.exit().await;
        assert!([Some(2), Some(4)].contains(&status) && !screen.contains("log in now?"), "{status:?} {screen}");
    }
    let ended = office.run(&["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "dev"]).await.expect_status(4);
    assert!(!ended.stderr.contains("log in now?"), "{}", ended.stderr);
    // The only session there is has nothing to do with a profile that does not name it.
    let terminal = Terminal::start(&office, &["0:127.0.0.1:9", "-t", World::TARGET]);
    let (status, screen) = terminal.exit().await;
    assert!(status == Some(4) && !screen.contains("log in now?"), "{status:?} {screen}");
    // In the background it would be stopped for reading the answer, with its ports bound.
    let command = office.command(&["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "dev"]);
    let terminal = Terminal::within(command, "set -m; PROGRAM & wait $!; echo \"status $?\"");
    let (_, screen) = terminal.exit().await;
    assert!(screen.contains("status 4\r\n") && !screen.contains("log in now?"), "{screen}");
    // The login is good, and something else is wrong.
    office.log_in(&["--profile", "dev"]).await;
    office.world.emulator.configure(|config| {
        config.failures = failing(Operation::GetRoleCredentials, FailureKind::ExpiredToken);
    });
    let terminal = Terminal::start(&office, &["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "dev"]);
    let (status, screen) = terminal.exit().await;
    assert!(status == Some(4) && !screen.contains("log in now?"), "{status:?} {screen}");
}

#[tokio::test]
async fn the_question_for_a_target_offers_the_login_first() {
    let office = Office::with(|config| {
        config.sso.auto_device = true;
        config.nodes = vec![Node::new(World::TARGET).named("bastion")];
    });
    let mut terminal = Terminal::start(&office, &["0:127.0.0.1:9", "--profile", "dev"]);
    terminal.until("log in now? [Y/n] ").await;
    terminal.type_in("\n").await;
    terminal.until("ssmfwd: logged in to corp").await;
    terminal.until("bastion").await;
    terminal.type_in("\r").await;
    terminal.until("ssmfwd: ready in ").await;
    terminal.type_in("\u{3}").await;
    let (status, screen) = terminal.exit().await;
    assert_eq!((status, screen.matches("log in now?").count()), (Some(130), 1), "{screen}");

    // Whoever declines is told what has failed.
    office.expire_token();
    office.change_token(|token| {
        token.as_object_mut().expect("an object").remove("refreshToken");
    });
    let mut terminal = Terminal::start(&office, &["0:127.0.0.1:9", "--profile", "dev"]);
    terminal.until("log in now? [Y/n] ").await;
    terminal.type_in("n\n").await;
    let (status, screen) = terminal.exit().await;
    assert!(status == Some(4) && screen.contains("no target is named, and they cannot be listed"), "{screen}");
}

/// Half of a pair is none: the profile's login is what counts.
#[tokio::test]
async fn a_key_without_its_secret_is_no_key() {
    let office = Office::new();
    for (id, secret) in [("AKIDEXAMPLE", ""), ("AKIDEXAMPLE", " "), ("", "x")] {
        let mut command = office.command(&["0:127.0.0.1:9", "-t", World::TARGET]);
        command.env("AWS_PROFILE", "dev").env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret);
        let mut terminal = Terminal::within(command, "PROGRAM");
        terminal.until("log in now? [Y/n] ").await;
        terminal.type_in("n\n").await;
        assert_eq!(terminal.exit().await.0, Some(4));
    }
}
