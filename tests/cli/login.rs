//! `ssmfwd login`, and forwards that live on it: the test plays the browser, with plain HTTP.

mod accounts;
mod offers;
mod office;
mod secrets;

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;
use ssmfwd::emulator::{Action, FailureKind, Operation};

use self::office::{CACHE, CORP, Office, check_token, decide, forwards, parameter, shown, visit};
use crate::harness::{ApiRelay, Client, Destination, Program, World, failing};

#[tokio::test]
async fn a_browser_on_this_machine_logs_in() {
    let office = Office::new();
    let program = office.start(&["login", "--profile", "dev", "--no-browser"]);
    let url = shown(&program, "/authorize?").await;
    assert!(
        url.starts_with(&format!("{}/authorize?response_type=code&", office.world.emulator.endpoint_url())),
        "{url}"
    );
    let redirect_uri = parameter(&url, "redirect_uri");
    assert!(
        redirect_uri.starts_with("http://127.0.0.1:") && redirect_uri.ends_with("/oauth/callback"),
        "{redirect_uri}"
    );
    assert_eq!(parameter(&url, "scopes"), "sso:account:access");
    let page = decide(&program, "allow").await;
    assert!(page.status == 200 && page.body.contains("close this page"), "{}", page.body);
    let ended = program.exit().await.expect_status(0).expect_stderr("ssmfwd: logged in to corp until 20");
    assert_eq!(ended.stdout, "");

    let (file, token) = office.token_file();
    assert_eq!(file, office.home.path().join(CACHE).join(CORP));
    check_token(&file, &token, true);
    forwards(&office, "dev").await;
    let state = office.world.settled().await;
    let calls = ["RegisterClient", "CreateToken", "StartDeviceAuthorization", "GetRoleCredentials"];
    assert_eq!(calls.map(|call| state.calls_of(call)), [1, 1, 0, 1]);
    assert_eq!(state.errors, [].into());
}

#[tokio::test]
async fn the_browser_is_opened() {
    let office = Office::new();
    let (script, seen) = (office.home.path().join("browser"), office.home.path().join("seen"));
    fs::write(&script, format!("#!/bin/sh\necho \"$1\" > '{0}.new' && /bin/mv '{0}.new' '{0}'\n", seen.display()))
        .expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("changed");
    let mut command = office.command(&["login", "--sso-session", "corp", "--output", "json"]);
    command.env("BROWSER", &script).env("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22");
    let program = Program::start(command);
    decide(&program, "allow").await;
    let url = shown(&program, "/authorize?").await;
    let ended = program.exit().await.expect_status(0).expect_stderr("the browser opens");
    assert_eq!(fs::read_to_string(seen).expect("it was started").trim(), url);
    let told: Value = serde_json::from_str(&ended.stdout).expect("an object");
    assert_eq!((&told["session"], &told["region"]), (&"corp".into(), &"eu-west-1".into()));
}

#[tokio::test]
async fn the_page_is_where_the_api_is() {
    let office = Office::new();
    let relay = ApiRelay::to(&office.world.emulator).await;
    let mut command = office.command(&["login", "--profile", "dev", "--no-browser"]);
    command.env("AWS_ENDPOINT_URL_SSO_OIDC", &relay.url).env("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    let program = Program::start(command);
    let url = shown(&program, "/authorize?").await;
    assert!(url.starts_with(&format!("{}/authorize?", relay.url)), "{url}");
    decide(&program, "allow").await;
    program.exit().await.expect_status(0);
}

#[tokio::test]
async fn an_answer_with_another_state_is_ignored() {
    let office = Office::new();
    let program = office.start(&["login", "--profile", "dev", "--no-browser", "-q"]);
    let url = shown(&program, "/authorize?").await;
    let back = parameter(&url, "redirect_uri");
    for (path, status) in [
        (format!("{back}?code=stolen&state=guessed"), 400),
        (format!("{back}?code=stolen"), 400),
        (format!("{back}?error=access_denied&state=guessed"), 400),
        // The page is shown, and the login goes on.
        (format!("{back}?error=access_denied&error_description=Call+this+number"), 200),
        (back.replace("/oauth/callback", "/favicon.ico"), 404),
    ] {
        assert_eq!(visit(&path).await.status, status, "{path}");
    }
    assert_eq!(office.calls_of("CreateToken"), 0);
    assert_eq!(decide(&program, "allow").await.status, 200);
    program.exit().await.expect_status(0);
}

#[tokio::test]
async fn a_denied_login_is_status_4() {
    let office = Office::new();
    let program = office.start(&["login", "--profile", "dev", "--no-browser"]);
    let page = decide(&program, "deny").await;
    assert!(page.body.contains("not completed"), "{}", page.body);
    let ended = program.exit().await.expect_status(4).expect_stderr("error: no login to corp");
    ended
        .expect_stderr("caused by: the login was denied: The user denied the request")
        .expect_stderr("hint: start again");
    assert!(!office.home.path().join(".aws").exists());
}

#[tokio::test]
async fn a_page_with_an_error_is_told() {
    let office = Office::new();
    let program = office.start(&["login", "--profile", "dev", "--no-browser"]);
    let url = shown(&program, "/authorize?").await;
    let (back, state) = (parameter(&url, "redirect_uri"), parameter(&url, "state"));
    visit(&format!("{back}?error=server_error&error_description=out+of+%1b%5b2Jorder&state={state}")).await;
    let ended = program.exit().await.expect_status(4);
    ended.expect_stderr("the login page reports an error: server_error: out of \\u{1b}[2Jorder");
}

#[tokio::test]
async fn a_code_that_was_intercepted_is_no_use() {
    let office = Office::new();
    let program = office.start(&["login", "--profile", "dev", "--no-browser"]);
    let url = shown(&program, "/authorize?").await;
    // Somebody else's page gets a code for a challenge of their own.
    let other = office.start(&["login", "--profile", "dev", "--no-browser"]);
    let others = shown(&other, "/authorize?").await;
    let code = parameter(visit(&others).await.press(&others, "allow").await.location(), "code");
    let (back, state) = (parameter(&url, "redirect_uri"), parameter(&url, "state"));
    visit(&format!("{back}?code={code}&state={state}")).await;
    let ended = program.exit().await.expect_status(1);
    assert!(!ended.stderr.contains(&code), "{}", ended.stderr);
    ended.expect_stderr("CreateToken of corp failed: Invalid grant provided (InvalidGrantException)");
}

#[tokio::test]
async fn a_code_typed_in_on_another_machine_logs_in() {
    let office = Office::with(|config| config.sso.pending_polls = 1);
    let program = office.start(&["login", "--profile", "dev", "--device"]);
    let url = shown(&program, "/device?user_code=").await;
    let code = parameter(&url, "user_code");
    program.line(&format!("check that the page shows the code {code}")).await;
    let done = visit(&url).await.press(&url, "allow").await;
    assert!(done.body.contains("Done"), "{}", done.body);
    program.exit().await.expect_status(0).expect_stderr("logged in to corp");
    let (file, token) = office.token_file();
    check_token(&file, &token, true);
    forwards(&office, "dev").await;
    assert!(office.calls_of("CreateToken") >= 2);
}

#[tokio::test]
async fn a_denied_code_and_an_expired_one_are_status_4() {
    let office = Office::new();
    let program = office.start(&["login", "--profile", "dev", "--device"]);
    let url = shown(&program, "/device?user_code=").await;
    visit(&url).await.press(&url, "deny").await;
    program.exit().await.expect_status(4).expect_stderr("the login was denied");

    office
        .world
        .emulator
        .configure(|config| config.failures = failing(Operation::CreateToken, FailureKind::ExpiredToken));
    let ended = office.run(&["login", "--profile", "dev", "--device"]).await.expect_status(4);
    ended.expect_stderr("nobody logged in within 10 min").expect_stderr("hint: start again");
    office.world.emulator.configure(|config| {
        config.failures.clear();
        config.sso.device_lifetime = std::time::Duration::from_secs(2);
    });
    office.run(&["login", "--profile", "dev", "--device"]).await.expect_status(4).expect_stderr("nobody logged in");
}

#[tokio::test]
async fn without_a_browser_or_over_ssh_there_is_a_code() {
    let office = Office::with(|config| config.sso.auto_device = true);
    let ended = office.run(&["login", "--profile", "dev"]).await.expect_status(0);
    ended.expect_stderr("no browser that could be opened").expect_stderr("/device?user_code=");
    let mut command = office.command(&["login", "--profile", "dev"]);
    command.env("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22");
    let ended = Program::start(command).exit().await.expect_status(0).expect_stderr("/device?user_code=");
    assert!(!ended.stderr.contains("no browser"), "{}", ended.stderr);
    // A browser that does not start is none.
    let script = office.home.path().join("broken");
    fs::write(&script, "#!/nowhere\n").expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("changed");
    let mut command = office.command(&["login", "--profile", "dev"]);
    command.env("BROWSER", &script);
    let ended = Program::start(command).exit().await.expect_status(0).expect_stderr("/device?user_code=");
    assert!(ended.stderr.contains("the browser cannot be opened"), "{}", ended.stderr);
}

#[tokio::test]
async fn the_older_form_of_a_profile_logs_in_with_a_code() {
    let office = Office::with(|config| config.sso.auto_device = true);
    office
        .run(&["login", "--profile", "old", "--no-browser"])
        .await
        .expect_status(0)
        .expect_stderr("logged in to https://");
    let (file, token) = office.token_file();
    check_token(&file, &token, false);
    forwards(&office, "old").await;
    assert_eq!(office.calls_of("Authorize"), 0);
}

#[tokio::test]
async fn a_login_is_made_anew_though_the_last_one_is_good() {
    let office = Office::new();
    office.log_in(&["--profile", "dev"]).await;
    let (_, first) = office.token_file();
    office.log_in(&[]).await;
    let (_, second) = office.token_file();
    assert_ne!(first["accessToken"], second["accessToken"]);
    // The profile whose role is assumed with it, and the session by its name.
    office.log_in(&["--profile", "role"]).await;
    office.log_in(&["--sso-session", "corp"]).await;
    assert_eq!(office.calls_of("CreateToken"), 4);
}

#[tokio::test]
async fn a_token_is_renewed_without_a_login() {
    let office = Office::new();
    office.log_in(&["--profile", "dev"]).await;
    office.expire_token();
    let (_, old) = office.token_file();
    forwards(&office, "dev").await;
    let (file, new) = office.token_file();
    assert!(new["accessToken"] != old["accessToken"] && new["refreshToken"] != old["refreshToken"]);
    check_token(&file, &new, true);
    assert_eq!((office.calls_of("CreateToken"), office.calls_of("GetRoleCredentials")), (2, 1));
    assert_eq!(office.world.settled().await.errors, [].into());
}

#[tokio::test]
async fn a_tunnel_renews_the_token_by_itself() {
    let office = Office::new();
    office.log_in(&["--profile", "dev"]).await;
    let echo = Destination::echo().await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = office.start(&[&forward, "-t", World::TARGET, "--profile", "dev", "--output", "json"]);
    let mut client: Client = program.connect().await;
    client.echo(b"before").await;
    office.expire_token();
    // The role's credentials are over too, and new ones are to be had with a new token only.
    let emulator = &office.world.emulator;
    emulator.configure(|config| config.failures = failing(Operation::ResumeSession, FailureKind::ExpiredToken));
    emulator.act(Action::Disconnect);
    office
        .world
        .until("a refresh", |state| state.calls_of("CreateToken") == 2 && state.calls_of("GetRoleCredentials") == 2)
        .await;
    emulator.configure(|config| config.failures.clear());
    program.event("resumed").await;
    client.echo(b"after").await;
    program.signal(rustix::process::Signal::TERM);
    program.exit().await.expect_status(143);
    assert_eq!(office.calls_of("StartDeviceAuthorization"), 1);
}

#[tokio::test]
async fn without_a_login_the_command_is_named() {
    let office = Office::new();
    let forward = |profile: &'static str| ["0:127.0.0.1:9", "-t", World::TARGET, "--profile", profile];
    let ended = office.run(&forward("dev")).await.expect_status(4);
    ended.expect_stderr("`ssmfwd login --profile dev`");

    office.log_in(&["--profile", "dev"]).await;
    office.expire_token();
    office.change_token(|token| {
        token.as_object_mut().expect("an object").remove("refreshToken");
    });
    office.run(&forward("dev")).await.expect_status(4).expect_stderr("`ssmfwd login --profile dev`");

    // Withdrawn, whatever the file says; and it cannot be renewed.
    office.log_in(&["--profile", "dev"]).await;
    office.world.emulator.configure(|config| config.sso.generation = 1);
    office.run(&forward("dev")).await.expect_status(4).expect_stderr("`ssmfwd login --profile dev`");
    office.expire_token();
    office.run(&forward("dev")).await.expect_status(4).expect_stderr("`ssmfwd login --profile dev`");
    assert_eq!(office.world.settled().await.sessions_started, 0);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let office = Office::new();
    for (arguments, said) in [
        (["--profile", "keys"], "the profile keys does not log in through IAM Identity Center"),
        (["--profile", "nobody"], "there is no profile `nobody`"),
        (["--profile", "both"], "remove sso_start_url and sso_region from the profile both"),
        (["--sso-session", "nowhere"], "there is no section [sso-session nowhere]"),
    ] {
        let ended = office.run(&[&["login"], &arguments[..]].concat()).await.expect_status(2);
        ended.expect_stderr(said).expect_stderr("hint: ");
    }
    office.write_config("[sso-session corp]\nsso_region = eu-west-1\n");
    office.run(&["login"]).await.expect_status(2).expect_stderr("[sso-session corp] has no sso_start_url");
    assert!(office.world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn failures_of_the_service_have_their_status() {
    let office = Office::new();
    for (operation, kind, status, said) in [
        (Operation::RegisterClient, FailureKind::Unavailable, 1, "status 503"),
        (Operation::RegisterClient, FailureKind::AccessDenied, 5, "RegisterClient of corp failed"),
        (Operation::StartDeviceAuthorization, FailureKind::DoesNotExist, 1, "hint: check sso_start_url"),
    ] {
        office.world.emulator.configure(|config| config.failures = failing(operation, kind));
        office.run(&["login", "--profile", "dev", "--device"]).await.expect_status(status).expect_stderr(said);
    }
    office.world.emulator.configure(|config| config.failures.clear());
    office
        .write_config("[sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://other.awsapps.com/start\n");
    let ended = office.run(&["login"]).await.expect_status(1);
    ended.expect_stderr("hint: check sso_start_url (https://other.awsapps.com/start) and sso_region (eu-west-1)");
    let mut command = office.command(&["login"]);
    command.env_remove("HOME");
    Program::start(command).exit().await.expect_status(1).expect_stderr("HOME is not set");
}

/// Which login is meant: what was typed, before what the environment says.
#[tokio::test]
async fn a_profile_that_is_typed_wins_over_a_session_of_the_environment() {
    let office = Office::new();
    let with = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = office.command(&[&["login"], arguments].concat());
        command.envs(variables.iter().copied());
        Program::start(command).exit()
    };
    let session = [("SSMFWD_SSO_SESSION", "nowhere")];
    let no_session = "there is no section [sso-session nowhere]";
    for arguments in [["login", "--profile", "keys"], ["--profile", "keys", "login"]] {
        let mut command = office.command(&arguments);
        command.envs(session);
        let ended = Program::start(command).exit().await.expect_status(2);
        ended.expect_stderr("the profile keys does not log in through IAM Identity Center");
    }
    with(&[], &session).await.expect_status(2).expect_stderr(no_session);
    with(&[], &[session[0], ("SSMFWD_PROFILE", "keys")]).await.expect_status(2).expect_stderr(no_session);
    let ended = with(&["--sso-session", "nowhere"], &[("SSMFWD_PROFILE", "keys")]).await.expect_status(2);
    ended.expect_stderr(no_session);
    let ended = with(&["--sso-session", "corp", "--profile", "keys"], &[]).await.expect_status(2);
    ended.expect_stderr("--sso-session and --profile each say which login is meant");
    assert!(office.world.settled().await.calls.is_empty());
}
