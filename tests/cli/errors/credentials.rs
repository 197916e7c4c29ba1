//! The rows of credentials.

use ssmfwd::emulator::{EmulatorConfig, FailureKind, Role};

use super::{Destination, FORWARD, Program, World, command, each, expected, start_fails};
use crate::credentials::{Account, ROLE, SERIAL};

#[tokio::test]
async fn credentials() {
    let world = World::ideal();
    let mut without = command(&world, &[FORWARD]);
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    for name in keys {
        without.env_remove(name);
    }
    let row = expected("no_credentials", 4, "no credentials could be loaded", "`ssmfwd login`");
    row.check(Program::start(without).exit().await);

    // The same keys in a file.
    let folder = tempfile::tempdir().expect("a folder");
    let env: std::collections::BTreeMap<_, _> = world.emulator.env().into_iter().collect();
    let lines: String = keys.iter().map(|name| format!("{} = {}\n", name.to_lowercase(), env[*name])).collect();
    std::fs::write(folder.path().join("credentials"), format!("[dev]\n{lines}")).expect("a file");
    world.emulator.configure(|config| config.expired_credentials = true);
    let mut of_file = command(&world, &[FORWARD, "--profile", "dev"]);
    of_file.env("AWS_SHARED_CREDENTIALS_FILE", folder.path().join("credentials"));
    let row =
        expected("expired_login", 4, "security token included in the request is expired", "ssmfwd login --profile dev");
    row.check(Program::start(of_file).exit().await);
    world.settled().await;

    each([
        (
            (|config| config.expired_credentials = true) as fn(&mut EmulatorConfig),
            expected("expired_environment", 4, "is expired (ExpiredTokenException)", "keys come from the environment"),
        ),
        (
            |config| start_fails(config, FailureKind::WrongKeys),
            expected("wrong_keys", 4, "UnrecognizedClientException", "check the access key and secret"),
        ),
        (
            |config| {
                config.clock_skew = 7400;
                start_fails(config, FailureKind::ClockSkew);
            },
            expected("clock_skew", 1, "the clock of this machine is 2 h 3 min behind that of AWS", "set the clock"),
        ),
    ])
    .await;
}

/// A service for roles that says no.
#[tokio::test]
async fn a_role_that_must_not_be_used() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let sts = Destination::serve(|mut socket| async move {
        let mut request = vec![0; 16 << 10];
        let mut read = 0;
        while !request[..read].windows(4).any(|end| end == b"\r\n\r\n") {
            read += socket.read(&mut request[read..]).await.expect("a request");
        }
        let body = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: x is not \
                    authorized to perform: sts:AssumeRole</Message></Error></ErrorResponse>";
        let head = format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        socket.write_all(format!("{head}{body}").as_bytes()).await.expect("a reader");
    })
    .await;
    let world = World::ideal();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    let text = "[profile dev]\nrole_arn = arn:aws:iam::123456789012:role/Dev\ncredential_source = Environment\n";
    std::fs::write(&config, text).expect("a file");
    let mut command = command(&world, &[FORWARD, "--profile", "dev"]);
    command.env("AWS_CONFIG_FILE", &config).env("AWS_ENDPOINT_URL_STS", format!("http://127.0.0.1:{}", sts.port));
    let row = expected("role_denied", 5, "not allowed to be used", "the trust policy of the role of profile dev");
    row.check(Program::start(command).exit().await);
    assert!(world.settled().await.calls.is_empty());
}

/// What a profile of an account with a role and a device comes to.
#[tokio::test]
async fn profiles_that_give_none() {
    let role = format!("[profile dev]\nrole_arn = {ROLE}\n");
    for (config, row) in [
        (
            format!("{role}source_profile = base\nmfa_serial = {SERIAL}\n"),
            expected("mfa_code", 4, SERIAL, "SSMFWD_MFA_CODE"),
        ),
        (
            "[profile dev]\ncredential_process = false\n".to_owned(),
            expected("credential_process", 4, "credentials could", "of the profile dev by hand"),
        ),
        (
            format!("{role}web_identity_token_file = /nowhere/token\n"),
            expected("web_identity", 4, "/nowhere/token", "check the file of the web identity"),
        ),
        (
            format!("{role}credential_source = Environment\n"),
            expected("no_keys_in_environment", 4, "credentials could", "set AWS_ACCESS_KEY_ID"),
        ),
    ] {
        let account = Account::new(Role::default(), &[]);
        account.configure(&config);
        row.check(Program::start(account.command(&["--profile", "dev", "--output", "json"])).exit().await);
        account.world.settled().await;
    }
}
