//! Roles that take a code: from a variable, from a person at a terminal, or from what the AWS CLI has kept.

use std::process::Command;

use ssmfwd::emulator::{Action, FailureKind, Operation, Role};

use super::{Account, OTHER_ROLE, ROLE, SERIAL};
use crate::harness::{Program, Terminal, failing};

fn with_mfa(codes: &[&str]) -> Account {
    let account = Account::new(Role { mfa: true, ..Role::default() }, codes);
    account.configure(&format!("[profile dev]\nrole_arn = {ROLE}\nsource_profile = base\nmfa_serial = {SERIAL}\n"));
    account
}

fn kept(account: &Account) -> Vec<std::path::PathBuf> {
    let Ok(files) = std::fs::read_dir(account.home().join(".aws/cli/cache")) else { return Vec::new() };
    files.map(|file| file.expect("a file").path()).collect()
}

#[tokio::test]
async fn a_code_is_asked_for_once() {
    let account = with_mfa(&["123456"]);
    let mut command = account.command(&["--profile", "dev"]);
    command.env("SSMFWD_MFA_CODE", "123 456");
    let first = account.who(command).await;
    assert!(first.contains(":assumed-role/Dev/ssmfwd-"), "{first}");
    // The next one needs none: the same credentials.
    assert_eq!(account.who(account.command(&["--profile", "dev"])).await, first);
    assert_eq!(kept(&account).len(), 1);
    assert_eq!(account.world.settled().await.calls_of("AssumeRole"), 1);
}

#[tokio::test]
async fn without_a_terminal_the_code_is_an_option() {
    let account = with_mfa(&[]);
    let ended = account.fails(account.command(&["--profile", "dev"]), 4).await;
    for text in ["the profile `dev`", SERIAL, "--mfa-code", "hint: start ssmfwd in a terminal"] {
        assert!(ended.stderr.contains(text), "no {text:?} in:\n{}", ended.stderr);
    }
    let ended = account.fails(account.command(&["--profile", "dev", "--mfa-code", "654321"]), 4).await;
    assert!(
        ended.stderr.contains("invalid MFA one time pass code") && !ended.stderr.contains("654321"),
        "{}",
        ended.stderr
    );
    let ended = account.fails_early(account.command(&["--profile", "dev", "--mfa-code", "65432x"])).await;
    assert!(!ended.contains("65432x"), "{ended}");
    account.world.settled().await;
}

#[tokio::test]
async fn a_role_behind_the_one_with_the_code_needs_no_other() {
    let account = Account::with(Role { mfa: true, ..Role::default() }, &["123456"], |config| {
        config.roles.insert(OTHER_ROLE.into(), Role { trusts: vec![ROLE.into()], ..Role::default() });
    });
    account.configure(&format!(
        "[profile dev]\nrole_arn = {OTHER_ROLE}\nsource_profile = middle\nrole_session_name = alice\n\
         [profile middle]\nrole_arn = {ROLE}\nsource_profile = base\nmfa_serial = {SERIAL}\n"
    ));
    for code in ["123456", ""] {
        let mut command = account.command(&["--profile", "dev"]);
        command.env("SSMFWD_MFA_CODE", code);
        assert_eq!(account.who(command).await, "arn:aws:sts::123456789012:assumed-role/Other/alice");
    }
    // The first role once, the second one each time.
    assert_eq!(account.world.settled().await.calls_of("AssumeRole"), 3);
}

#[tokio::test]
async fn a_kept_role_that_was_revoked_is_asked_for_again() {
    let account = with_mfa(&["123456", "234567"]);
    let run = |code: &str| {
        let mut command = account.command(&["--profile", "dev"]);
        command.env("SSMFWD_MFA_CODE", code);
        command
    };
    account.who(run("123456")).await;
    // As an administrator does it, for a moment.
    let denied = "StartSession:expired_token:1".parse().expect("a failure");
    account.world.emulator.configure(|config| config.failures = vec![denied]);
    Program::start(run("")).exit().await.expect_status(4);
    account.who(run("")).await;
    account.world.settled().await;
}

/// While its credentials are good a tunnel asks for nothing; when they are not, it waits until somebody has given a code
/// somewhere, to the AWS CLI for instance.
#[tokio::test]
async fn a_tunnel_outlives_its_code() {
    let account = with_mfa(&["123456", "234567"]);
    let start = |code: &str| {
        let mut command = account.command(&["--profile", "dev", "--output", "json"]);
        command.env("SSMFWD_MFA_CODE", code);
        Program::start(command)
    };
    let program = start("123456");
    program.event("ready").await;
    account.world.emulator.act(Action::Disconnect);
    program.event("resumed").await;
    assert_eq!(account.world.emulator.state().calls_of("AssumeRole"), 1);

    account.world.emulator.configure(|config| {
        config.failures = failing(Operation::ResumeSession, FailureKind::ExpiredToken);
    });
    account.world.emulator.act(Action::Disconnect);
    let expired = program.event("credentials_expired").await;
    assert!(
        expired["hint"].as_str().is_some_and(|hint| hint.contains("aws sts get-caller-identity --profile dev")),
        "{expired}"
    );
    account.world.emulator.configure(|config| config.failures.clear());

    for file in kept(&account) {
        std::fs::remove_file(file).expect("a file");
    }
    let other = start("234567");
    other.event("ready").await;
    program.events("resumed", 2).await;
    for program in [other, program] {
        program.signal(rustix::process::Signal::TERM);
        program.exit().await.expect_status(143);
    }
    account.world.settled().await;
}

/// The program on a terminal of its own, with arguments in one line.
fn on_terminal(account: &Account, line: &str) -> Terminal {
    let other = account.command(&[]);
    let variables = other.as_std().get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssmfwd"));
    command.envs(variables).args(line.split(' '));
    Terminal::start(&command)
}

/// A forward on a terminal of its own.
fn forward(account: &Account, arguments: &str) -> Terminal {
    on_terminal(account, &format!("0:127.0.0.1:9 -t i-0123456789abcdef0 {arguments}"))
}

/// Waits for its end.
async fn ends(terminal: Terminal, status: i32) {
    let (code, shown) = terminal.end().await;
    assert_eq!(code, Some(status), "{shown}");
}

const QUESTION: &str = "code of the MFA device arn:aws:iam::123456789012:mfa/alice (profile dev): ";

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_person_is_asked_and_may_be_wrong() {
    let account = with_mfa(&["123456"]);
    // Whoever is slow is not too late: the time to connect begins afterwards.
    let mut terminal = forward(&account, "--profile dev --connect-timeout 5");
    terminal.shows(QUESTION).await;
    terminal.types("no code\n").await;
    terminal.shows("a code is six digits").await;
    terminal.shows(QUESTION).await;
    terminal.types("000000\n").await;
    terminal.shows("not accepted: MultiFactorAuthentication failed").await;
    terminal.shows(QUESTION).await;
    terminal.types("123456\n").await;
    terminal.shows("ready in ").await;
    terminal.types("\u{3}").await;
    ends(terminal, 130).await;
    assert_eq!(account.world.settled().await.calls_of("AssumeRole"), 2);
}

/// Port 9 of this machine, which refuses: status 8, after all checks of AWS.
const DOCTOR: &str = "doctor 0:127.0.0.1:9 -t i-0123456789abcdef0 --profile dev --output json";

#[tokio::test]
async fn the_doctor_takes_a_code_as_a_forward_does() {
    let account = with_mfa(&["123456", "234567"]);
    for (variable, option) in [("123456", None), ("", Some("234567"))] {
        let mut command = account.command_of(&DOCTOR.split(' ').collect::<Vec<_>>());
        command.args(option.map(|code| format!("--mfa-code={code}")));
        command.env("SSMFWD_MFA_CODE", variable);
        let ended = Program::start(command).exit().await.expect_status(8);
        let checks = ended.events_named("check");
        let check =
            |name: &str| checks.iter().find(|check| check["name"] == name).expect("a check")["detail"].to_string();
        assert!(check("credentials").contains("of profile dev, valid for"), "{}", check("credentials"));
        assert!(check("identity").contains("role/Dev"), "{}", check("identity"));
        for file in kept(&account) {
            std::fs::remove_file(file).expect("a file");
        }
    }
    assert_eq!(account.world.settled().await.calls_of("AssumeRole"), 2);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_time_that_somebody_types_is_not_that_of_the_doctors_first_check() {
    let account = with_mfa(&["123456"]);
    let mut terminal = on_terminal(&account, DOCTOR);
    terminal.shows(QUESTION).await;
    // Somebody who takes as long as a whole run does.
    let begun = tokio::time::Instant::now();
    account.who(account.command(&["--profile", "base"])).await;
    let typing = begun.elapsed();
    terminal.types("123456\n").await;
    terminal.shows("\"name\":\"credentials\"").await;
    let check = terminal.shows("}").await;
    let elapsed = check.split_once("\"elapsed_ms\":").expect("a time").1;
    let elapsed: u128 = elapsed.split(|end: char| !end.is_ascii_digit()).next().expect("digits").parse().expect("ms");
    assert!(elapsed < typing.as_millis(), "{elapsed} ms of {typing:?}");
    terminal.shows("\"name\":\"timeouts\"").await;
    ends(terminal, 8).await;
    account.world.settled().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn whoever_the_doctor_asks_can_leave() {
    let account = with_mfa(&[]);
    let mut terminal = on_terminal(&account, DOCTOR);
    terminal.shows(QUESTION).await;
    terminal.types("\u{3}").await;
    ends(terminal, 130).await;
    assert!(account.world.settled().await.calls.is_empty());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn three_wrong_codes_are_enough() {
    let account = with_mfa(&[]);
    let mut terminal = forward(&account, "--profile dev");
    for _ in 0..3 {
        terminal.shows(QUESTION).await;
        terminal.types("000000\n").await;
    }
    let shown = terminal.shows("hint: ").await;
    assert!(shown.contains("invalid MFA one time pass code"), "{shown}");
    ends(terminal, 4).await;
    assert_eq!(account.world.settled().await.calls_of("AssumeRole"), 3);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn whoever_is_asked_can_leave() {
    let account = with_mfa(&[]);
    let mut terminal = forward(&account, "--profile dev");
    terminal.shows(QUESTION).await;
    terminal.types("\u{3}").await;
    ends(terminal, 130).await;

    let mut terminal = forward(&account, "--profile dev");
    terminal.shows(QUESTION).await;
    terminal.types("\u{4}").await;
    terminal.shows("none was entered").await;
    ends(terminal, 4).await;
    assert!(account.world.settled().await.calls.is_empty());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_wrong_code_on_the_command_line_is_asked_for_at_the_terminal() {
    let account = with_mfa(&["123456"]);
    let mut terminal = forward(&account, "--profile dev --mfa-code 000000");
    terminal.shows("not accepted").await;
    terminal.shows(QUESTION).await;
    terminal.types("123456\n").await;
    terminal.shows("as role/Dev (profile dev, us-east-1)").await;
    terminal.shows("ready in ").await;
    terminal.types("\u{3}").await;
    ends(terminal, 130).await;
    account.world.settled().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_person_is_asked_again_when_the_credentials_are_used_up() {
    let account = with_mfa(&["123456", "234567"]);
    let mut terminal = forward(&account, "--profile dev --mfa-code 123456");
    terminal.shows("ready in ").await;
    let expired = failing(Operation::ResumeSession, FailureKind::ExpiredToken);
    account.world.emulator.configure(|config| config.failures = expired);
    account.world.emulator.act(Action::Disconnect);
    terminal.shows(QUESTION).await;
    account.world.emulator.configure(|config| config.failures.clear());
    terminal.types("234567\n").await;
    terminal.shows("the credentials can be used again").await;
    account.world.until("a websocket", |state| state.websockets == 1).await;
    terminal.types("\u{3}").await;
    ends(terminal, 130).await;
    assert_eq!(account.world.settled().await.calls_of("AssumeRole"), 2);
}

impl Account {
    /// A usage error.
    async fn fails_early(&self, command: tokio::process::Command) -> String {
        Program::start(command).exit().await.expect_status(2).stderr
    }
}
