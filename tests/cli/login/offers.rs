//! A forward without a login on a terminal: the login is offered.

use ssmfwd::emulator::{FailureKind, Node, Operation};
use tokio::process::Command;

use super::office::Office;
use crate::harness::{Terminal, World, failing};

/// The program on a terminal of its own.
fn start(office: &Office, arguments: &[&str]) -> Terminal {
    Terminal::start(office.command(arguments).as_std())
}

/// A shell's line there, in which PROGRAM is the command.
fn start_within(inner: &Command, line: &str) -> Terminal {
    let inner = inner.as_std();
    let words = std::iter::once(inner.get_program()).chain(inner.get_args());
    let words: Vec<_> = words.map(|word| format!("'{}'", word.to_str().expect("text"))).collect();
    let variables = inner.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
    Terminal::line(variables, &line.replace("PROGRAM", &words.join(" ")))
}

#[tokio::test]
async fn a_forward_on_a_terminal_offers_the_login_and_goes_on() {
    let office = Office::with(|config| config.sso.auto_device = true);
    let forward = ["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "dev"];
    for answer in ["\n", "y\n"] {
        let mut terminal = start(&office, &forward);
        terminal.until("log in now? [Y/n] ").await;
        assert!(terminal.shown.contains("the login to corp has expired, or there was none"), "{}", terminal.shown);
        terminal.types(answer).await;
        terminal.until("ssmfwd: logged in to corp").await;
        terminal.until("ssmfwd: ready in ").await;
        terminal.types("\u{3}").await;
        let (status, screen) = terminal.end().await;
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
async fn a_shell_on_a_terminal_offers_the_login_and_goes_on() {
    let office = Office::with(|config| {
        config.sso.auto_device = true;
        config.nodes = vec![Node::new(World::TARGET).named("bastion")];
    });
    for arguments in [&["-t", World::TARGET][..], &[]] {
        let mut terminal = start(&office, &[&["shell", "--profile", "dev"], arguments].concat());
        terminal.until("log in now? [Y/n] ").await;
        terminal.types("\n").await;
        terminal.until("ssmfwd: logged in to corp").await;
        if arguments.is_empty() {
            terminal.until("bastion").await;
            terminal.types("\r").await;
        }
        terminal.until("ready in ").await;
        terminal.types("echo $((6*7)); exit\r").await;
        let (status, screen) = terminal.end().await;
        assert_eq!((status, screen.matches("log in now?").count()), (Some(0), 1), "{screen}");
        assert!(screen.contains("42\r\n") && !screen.contains("error: "), "{screen}");
        office.expire_token();
        office.change_token(|token| {
            token.as_object_mut().expect("an object").remove("refreshToken");
        });
    }
    // Whoever declines is told what has failed; nobody is asked without a terminal.
    let mut terminal = start(&office, &["shell", "--profile", "dev", "-t", World::TARGET]);
    terminal.until("log in now? [Y/n] ").await;
    terminal.types("n\n").await;
    let (status, screen) = terminal.end().await;
    assert!(status == Some(4) && screen.contains("`ssmfwd login --profile dev`"), "{screen}");
    let ended = office.run(&["shell", "--profile", "dev", "-t", World::TARGET]).await.expect_status(4);
    assert!(!ended.stderr.contains("log in now?"), "{}", ended.stderr);
    assert_eq!(office.world.settled().await.sessions_started, 2);
}

#[tokio::test]
async fn an_offer_can_be_declined_and_is_made_once() {
    let office = Office::new();
    let forward = ["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "dev"];
    for (answer, status) in [("n\n", 4), ("\u{4}", 4), ("\u{3}", 130)] {
        let mut terminal = start(&office, &forward);
        terminal.until("log in now? [Y/n] ").await;
        terminal.types(answer).await;
        let (code, screen) = terminal.end().await;
        assert_eq!(code, Some(status), "{screen}");
        assert_eq!(screen.contains("`ssmfwd login --profile dev`"), status == 4, "{screen}");
    }
    assert_eq!(office.calls_of("RegisterClient"), 0);

    // A login that does not help is not offered again.
    office.world.emulator.configure(|config| {
        config.sso.auto_device = true;
        config.failures = failing(Operation::GetRoleCredentials, FailureKind::ExpiredToken);
    });
    let mut terminal = start(&office, &forward);
    terminal.until("log in now? [Y/n] ").await;
    terminal.types("y\n").await;
    let (status, screen) = terminal.end().await;
    assert_eq!((status, screen.matches("log in now?").count()), (Some(4), 1), "{screen}");

    // A login that fails says why.
    office
        .world
        .emulator
        .configure(|config| config.failures = failing(Operation::CreateToken, FailureKind::AccessDenied));
    let mut terminal = start(&office, &["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "old"]);
    terminal.until("log in now? [Y/n] ").await;
    terminal.types("y\n").await;
    let (status, screen) = terminal.end().await;
    assert!(status == Some(4) && screen.contains("the login was denied"), "{status:?} {screen}");
}

#[tokio::test]
async fn nothing_is_offered_where_nobody_could_answer() {
    let office = Office::new();
    // Not a login of this kind, and quiet.
    for arguments in [&["--profile", "nobody"][..], &["--profile", "dev", "-q"]] {
        let terminal = start(&office, &[&["0:127.0.0.1:9", "-t", World::TARGET], arguments].concat());
        let (status, screen) = terminal.end().await;
        assert!([Some(2), Some(4)].contains(&status) && !screen.contains("log in now?"), "{status:?} {screen}");
    }
    let ended = office.run(&["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "dev"]).await.expect_status(4);
    assert!(!ended.stderr.contains("log in now?"), "{}", ended.stderr);
    // The only session there is has nothing to do with a profile that does not name it.
    let terminal = start(&office, &["0:127.0.0.1:9", "-t", World::TARGET]);
    let (status, screen) = terminal.end().await;
    assert!(status == Some(4) && !screen.contains("log in now?"), "{status:?} {screen}");
    // In the background it would be stopped for reading the answer, with its ports bound.
    let command = office.command(&["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "dev"]);
    let terminal = start_within(&command, "set -m; PROGRAM & wait $!; echo \"status $?\"");
    let (_, screen) = terminal.end().await;
    assert!(screen.contains("status 4\r\n") && !screen.contains("log in now?"), "{screen}");
    // The login is good, and something else is wrong.
    office.log_in(&["--profile", "dev"]).await;
    office.world.emulator.configure(|config| {
        config.failures = failing(Operation::GetRoleCredentials, FailureKind::ExpiredToken);
    });
    let terminal = start(&office, &["0:127.0.0.1:9", "-t", World::TARGET, "--profile", "dev"]);
    let (status, screen) = terminal.end().await;
    assert!(status == Some(4) && !screen.contains("log in now?"), "{status:?} {screen}");
}

#[tokio::test]
async fn the_question_for_a_target_offers_the_login_first() {
    let office = Office::with(|config| {
        config.sso.auto_device = true;
        config.nodes = vec![Node::new(World::TARGET).named("bastion")];
    });
    let mut terminal = start(&office, &["0:127.0.0.1:9", "--profile", "dev"]);
    terminal.until("log in now? [Y/n] ").await;
    terminal.types("\n").await;
    terminal.until("ssmfwd: logged in to corp").await;
    terminal.until("bastion").await;
    terminal.types("\r").await;
    terminal.until("ssmfwd: ready in ").await;
    terminal.types("\u{3}").await;
    let (status, screen) = terminal.end().await;
    assert_eq!((status, screen.matches("log in now?").count()), (Some(130), 1), "{screen}");

    // Whoever declines is told what has failed.
    office.expire_token();
    office.change_token(|token| {
        token.as_object_mut().expect("an object").remove("refreshToken");
    });
    let mut terminal = start(&office, &["0:127.0.0.1:9", "--profile", "dev"]);
    terminal.until("log in now? [Y/n] ").await;
    terminal.types("n\n").await;
    let (status, screen) = terminal.end().await;
    assert!(status == Some(4) && screen.contains("no target is named, and they cannot be listed"), "{screen}");
}

/// Half of a pair is none: the profile's login is what counts.
#[tokio::test]
async fn a_key_without_its_secret_is_no_key() {
    let office = Office::new();
    for (id, secret) in [("AKIDEXAMPLE", ""), ("AKIDEXAMPLE", " "), ("", "x")] {
        let mut command = office.command(&["0:127.0.0.1:9", "-t", World::TARGET]);
        command.env("AWS_PROFILE", "dev").env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret);
        let mut terminal = start_within(&command, "PROGRAM");
        terminal.until("log in now? [Y/n] ").await;
        terminal.types("n\n").await;
        assert_eq!(terminal.end().await.0, Some(4));
    }
}
