//! What does not work: status 4, why, and what to do.

use ssmfwd::emulator::Role;

use super::{Account, ROLE, machine::Machine};

/// A run with this profile.
async fn fails(account: &Account, config: &str, status: i32, expected: &[&str]) {
    account.configure(config);
    let ended = account.fails(account.command(&["--profile", "dev"]), status).await;
    for text in expected {
        assert!(ended.stderr.contains(text), "no {text:?} in:\n{}", ended.stderr);
    }
}

#[tokio::test]
async fn chains_that_lead_nowhere() {
    let account = Account::new(Role::default(), &[]);
    let role = |profile: &str, more: &str| format!("[profile {profile}]\nrole_arn = {ROLE}\n{more}\n");
    let correct = "hint: correct the profile dev";
    for (config, why) in [
        (
            role("dev", "source_profile = two\nduration_seconds = 900") + &role("two", "source_profile = dev"),
            "dev -> two -> dev",
        ),
        (role("dev", "source_profile = two") + &role("two", "source_profile = dev"), "infinite loop"),
        (role("dev", "source_profile = gone\nmfa_serial = x"), "`gone`, which does not exist"),
        (role("dev", "source_profile = gone"), "gone"),
        (role("dev", "mfa_serial = x"), "neither a source_profile nor a credential_source"),
        (
            role("dev", "source_profile = base\nduration_seconds = 60"),
            "duration_seconds `60`: expected a number from 900",
        ),
    ] {
        fails(&account, &config, 2, &[why, correct]).await;
    }
    assert!(account.world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn keys_that_are_not_there() {
    let account = Account::new(Role::default(), &[]);
    let environment = "hint: the profile dev wants the keys of the environment";
    let process = "hint: run the credential_process of the profile dev by hand";
    for (config, expected) in [
        (
            format!("[profile dev]\nrole_arn = {ROLE}\ncredential_source = Environment\nduration_seconds = 900\n"),
            environment,
        ),
        (format!("[profile dev]\nrole_arn = {ROLE}\ncredential_source = Environment\n"), environment),
        ("[profile dev]\ncredential_process = false\n".to_owned(), process),
        ("[profile dev]\ncredential_process = echo nonsense-of-a-process\n".to_owned(), process),
        ("[profile dev]\ncredential_process = no-such-program\n".to_owned(), process),
        ("[profile dev]\nregion = eu-west-1\n".to_owned(), "hint: log in with"),
    ] {
        fails(&account, &config, 4, &[expected]).await;
    }
    account.world.settled().await;
}

#[tokio::test]
async fn a_role_that_may_not_be_assumed() {
    let account =
        Account::new(Role { trusts: vec!["arn:aws:iam::123456789012:user/bob".into()], ..Role::default() }, &[]);
    for more in ["", "duration_seconds = 900\n"] {
        let config = format!("[profile dev]\nrole_arn = {ROLE}\nsource_profile = base\n{more}");
        let why = "is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::123456789012:role/Dev";
        fails(&account, &config, 5, &[why, "the role or account of the profile is not allowed to be used"]).await;
    }
    account.world.settled().await;
}

#[tokio::test]
async fn a_role_whose_first_keys_are_wrong() {
    let account = Account::new(Role::default(), &[]);
    for more in ["", "duration_seconds = 900\n"] {
        let config = format!(
            "[profile dev]\nrole_arn = {ROLE}\nsource_profile = wrong\n{more}\
             [profile wrong]\naws_access_key_id = AKIDWRONG\naws_secret_access_key = not-the-secret\n"
        );
        fails(&account, &config, 4, &["InvalidClientTokenId"]).await;
    }
    account.world.settled().await;
}

#[tokio::test]
async fn a_web_identity_that_is_not_accepted() {
    let account = Account::new(Role { web_identity: Some("a.web.token".into()), ..Role::default() }, &[]);
    account.write("token", "another.web.token");
    let token = account.home().join("token").display().to_string();
    let config = |file: &str| format!("[profile dev]\nrole_arn = {ROLE}\nweb_identity_token_file = {file}\n");
    let hint = "hint: check the file of the web identity";
    fails(&account, &config(&token), 4, &["InvalidIdentityToken", hint]).await;
    fails(&account, &config("/nowhere/token"), 4, &["/nowhere/token", hint]).await;
    account.world.settled().await;
}

#[tokio::test]
async fn a_machine_without_a_role() {
    let account = Account::new(Role::default(), &[]);
    account.configure("");
    let machine = Machine::answering(|request, _| match request.starts_with("PUT ") {
        true => (200, "imds-token".into()),
        false => (404, String::new()),
    })
    .await;
    let mut on_it = account.command(&[]);
    on_it.env_remove("AWS_EC2_METADATA_DISABLED").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &machine.url);
    account.fails(on_it, 4).await.expect_stderr("none are in the environment");
    let mut in_it = account.command(&[]);
    in_it.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/role", machine.url));
    account.fails(in_it, 4).await.expect_stderr("credentials could");
    account.world.settled().await;
}

#[tokio::test]
async fn a_console_login_is_named() {
    let account = Account::new(Role::default(), &[]);
    let config = "[profile dev]\nlogin_session = arn:aws:iam::123456789012:user/alice\n";
    fails(&account, config, 2, &["aws configure export-credentials"]).await;
    account.world.settled().await;
}
