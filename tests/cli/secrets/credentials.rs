//! The same for credentials: wherever they come from, and whatever goes wrong on the way.

use std::{fs, path::Path};

use rustix::process::Signal;
use ssmfwd::emulator::{FailureKind, Operation, Role};

use super::has_none;
use crate::{
    credentials::{Account, ROLE, SERIAL, machine::Machine},
    harness::{ApiRelay, Program, failing},
};

const CODE: &str = "918273";
const WRONG_CODE: &str = "192837";
const TOKEN: &str = "header.WEB-IDENTITY-MARKER.signature";

/// How much is asked for.
pub(super) const LEVELS: [(&str, &[&str]); 3] = [
    ("trace", &["--output", "json"]),
    ("", &["-vv"]),
    (
        "ssmfwd=trace,aws_config=trace,aws_sdk_sts=trace,aws_smithy_runtime=trace,aws_smithy_runtime_api=trace,\
         aws_sigv4=trace,aws_sdk_ssm=trace,aws_credential_types=trace,aws_runtime=trace,hyper=trace,hyper_util=trace",
        &["--output", "json", "--log-format", "json"],
    ),
];

/// What stands between two texts, wherever that is.
fn between(text: &str, start: &str, end: char) -> Vec<String> {
    let found = text.split(start).skip(1).filter_map(|rest| rest.split(end).next());
    found.map(str::to_owned).filter(|found| !found.is_empty()).collect()
}

/// Everything secret that the account has, and that was handed out to whoever came through the relay.
async fn secrets(account: &Account, relay: &ApiRelay) -> Vec<(&'static str, String)> {
    let seen = relay.seen().await;
    let mut secrets = vec![
        ("a code", CODE.to_owned()),
        ("a wrong code", WRONG_CODE.to_owned()),
        ("the web identity", TOKEN.to_owned()),
        ("the web identity", "WEB-IDENTITY-MARKER".to_owned()),
    ];
    for (name, value) in account.world.emulator.env() {
        if ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].contains(&name.as_str()) {
            secrets.push(("a key of the account", value));
        }
    }
    for (what, start, end) in [
        ("the key of a role", "<SecretAccessKey>", '<'),
        ("the token of a role", "<SessionToken>", '<'),
        ("a signature", "Signature=", '\r'),
        ("the token of a session", "\"TokenValue\":\"", '"'),
    ] {
        secrets.extend(between(&seen, start, end).into_iter().map(|secret| (what, secret)));
    }
    secrets
}

/// Runs until ready or until it has failed, at every level, and looks for secrets in all that can be seen from outside.
async fn tells_nothing(account: &Account, variables: &[(&str, &str)], works: bool) {
    for (level, options) in LEVELS {
        let relay = ApiRelay::to(&account.world.emulator).await;
        let mut command = account.command(options);
        command.env("AWS_ENDPOINT_URL", &relay.url).env("RUST_LOG", level).envs(variables.iter().copied());
        let program = Program::start(command);
        let mut seen = program.command_line().unwrap_or_default();
        if works {
            match options.contains(&"json") {
                true => drop(program.event("identity").await),
                false => drop(program.line("123456789012 as ").await),
            }
            account.world.until("a session", |state| state.websockets == 1).await;
            program.signal(Signal::TERM);
        }
        let ended = program.exit().await;
        assert_eq!(ended.status.code() == Some(143), works, "{}", ended.stderr);
        seen.push_str(&format!("\n{}\n{}", ended.stdout, ended.stderr));
        let secrets = secrets(account, &relay).await;
        assert!(!works || secrets.iter().any(|(what, _)| *what == "a signature"), "nothing went through the relay");
        assert!(!ended.stderr.is_empty(), "nothing was logged");
        has_none(&seen, &secrets);
        only_where_the_aws_cli_keeps_them(account.home(), &secrets);
    }
}

/// No file that was written holds a secret, but for the cache of the AWS CLI.
fn only_where_the_aws_cli_keeps_them(home: &Path, secrets: &[(&str, String)]) {
    let cache = home.join(".aws/cli/cache");
    // Those that the test has put there.
    let given = [".aws/config", "token", "answer"].map(|file| home.join(file));
    let mut folders = vec![home.to_owned()];
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(&folder).expect("a folder").map(|file| file.expect("a file").path()) {
            match file.is_dir() {
                true if file == cache => {}
                true => folders.push(file),
                false if given.contains(&file) => {}
                false => has_none(&fs::read_to_string(&file).expect("a text"), secrets),
            }
        }
    }
}

fn with_mfa(codes: &[&str]) -> Account {
    let account = Account::new(Role { mfa: true, ..Role::default() }, codes);
    account.configure(&format!(
        "[profile dev]\nrole_arn = {ROLE}\nsource_profile = base\nmfa_serial = {SERIAL}\nduration_seconds = 900\n"
    ));
    account
}

#[tokio::test]
async fn keys_that_work_or_do_not() {
    let account = Account::new(Role::default(), &[]);
    account.configure("");
    tells_nothing(&account, &[("AWS_PROFILE", "base")], true).await;
    for kind in [FailureKind::ExpiredToken, FailureKind::AccessDenied] {
        account.world.emulator.configure(|config| config.failures = failing(Operation::StartSession, kind));
        tells_nothing(&account, &[("AWS_PROFILE", "base")], false).await;
    }
    account.world.settled().await;
}

#[tokio::test]
async fn codes_and_what_they_give() {
    let account = with_mfa(&[CODE]);
    // The first run uses the code, the others what was kept.
    tells_nothing(&account, &[("AWS_PROFILE", "dev"), ("SSMFWD_MFA_CODE", CODE)], true).await;
    account.world.settled().await;
}

#[tokio::test]
async fn codes_that_are_not_accepted() {
    let account = with_mfa(&[]);
    tells_nothing(&account, &[("AWS_PROFILE", "dev"), ("SSMFWD_MFA_CODE", WRONG_CODE)], false).await;
    tells_nothing(&account, &[("AWS_PROFILE", "dev"), ("SSMFWD_MFA_CODE", "192837 or so")], false).await;
    for kind in [FailureKind::AccessDenied, FailureKind::Internal] {
        account.world.emulator.configure(|config| config.failures = failing(Operation::AssumeRole, kind));
        tells_nothing(&account, &[("AWS_PROFILE", "dev"), ("SSMFWD_MFA_CODE", CODE)], false).await;
    }
    account.world.settled().await;
}

#[tokio::test]
async fn a_web_identity() {
    let account = Account::new(Role { web_identity: Some(TOKEN.into()), ..Role::default() }, &[]);
    account.write("token", TOKEN);
    let token = account.home().join("token").display().to_string();
    account.configure(&format!("[profile dev]\nrole_arn = {ROLE}\nweb_identity_token_file = {token}\n"));
    tells_nothing(&account, &[("AWS_PROFILE", "dev")], true).await;
    tells_nothing(&account, &[("AWS_ROLE_ARN", ROLE), ("AWS_WEB_IDENTITY_TOKEN_FILE", &token)], true).await;
    account.world.emulator.configure(|config| config.roles.clear());
    tells_nothing(&account, &[("AWS_PROFILE", "dev")], false).await;
    account.world.settled().await;
}

#[tokio::test]
async fn the_answer_of_a_program() {
    let account = Account::new(Role::default(), &[]);
    let answer = account.keys_as_json().to_string();
    account.configure("[profile dev]\ncredential_process = cat \"$HOME/answer\"\n");
    account.write("answer", &answer);
    tells_nothing(&account, &[("AWS_PROFILE", "dev")], true).await;
    // Cut off, of another version, of another form, and with a failure behind it.
    let without_key = answer.replace("AccessKeyId", "KeyOfAccess");
    for broken in [&answer[..answer.len() - 2], &answer.replace(":1", ":7"), &without_key, &format!("{answer}{answer}")]
    {
        account.write("answer", broken);
        tells_nothing(&account, &[("AWS_PROFILE", "dev")], false).await;
    }
    account.configure("[profile dev]\ncredential_process = cat \"$HOME/answer\"; exit 1\n");
    tells_nothing(&account, &[("AWS_PROFILE", "dev")], false).await;
    account.world.settled().await;
}

#[tokio::test]
async fn what_a_container_is_told() {
    let account = Account::new(Role::default(), &[]);
    account.configure("");
    let answer = account.keys_as_json().to_string();
    for (answer, works) in [(answer.clone(), true), (answer[..answer.len() - 2].to_owned(), false)] {
        let container = Machine::answering(move |_, _| (200, answer.clone())).await;
        let url = format!("{}/role", container.url);
        let variables =
            [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url[..]), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", TOKEN)];
        tells_nothing(&account, &variables, works).await;
    }
    account.world.settled().await;
}
