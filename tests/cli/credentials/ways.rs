//! What works.

use ssmfwd::emulator::{EmulatorConfig, Role};

use super::{Account, OTHER_ROLE, ROLE, machine::Machine};
use crate::harness::{Answer, Proxy};

const USER: &str = EmulatorConfig::DEFAULT_IDENTITY;

/// The session of a role, without its name.
fn in_role(arn: &str) -> &str {
    arn.strip_prefix("arn:aws:sts::123456789012:assumed-role/").and_then(|rest| rest.split('/').next()).unwrap_or(arn)
}

#[tokio::test]
async fn keys_of_the_environment() {
    let account = Account::new(Role::default(), &[]);
    account.configure("");
    let mut command = account.command(&[]);
    command.envs(account.world.emulator.env());
    assert_eq!(account.who(command).await, USER);
    account.world.settled().await;
}

#[tokio::test]
async fn keys_of_a_profile() {
    let account = Account::new(Role::default(), &[]);
    account.configure("");
    assert_eq!(account.who(account.command(&["--profile", "base"])).await, USER);
    let mut command = account.command(&[]);
    command.env("AWS_PROFILE", "base");
    assert_eq!(account.who(command).await, USER);
    // Of the credentials file, which needs no `profile` in front of a name.
    account.write(".aws/config", "");
    account.write(".aws/credentials", &format!("[default]\n{}", account.keys()));
    let mut command = account.command(&[]);
    command.env("AWS_SHARED_CREDENTIALS_FILE", account.home().join(".aws/credentials"));
    assert_eq!(account.who(command).await, USER);
    account.world.settled().await;
}

#[tokio::test]
async fn a_role_by_way_of_a_source_profile() {
    let account = Account::new(Role { external_id: Some("a ticket".into()), ..Role::default() }, &[]);
    account.configure(&format!(
        "[profile dev]\nrole_arn = {ROLE}\nsource_profile = base\nexternal_id = a ticket\nrole_session_name = alice\n"
    ));
    let arn = account.who(account.command(&["--profile", "dev"])).await;
    assert_eq!(arn, "arn:aws:sts::123456789012:assumed-role/Dev/alice");
    account.world.settled().await;
}

#[tokio::test]
async fn a_role_by_way_of_another_role() {
    let account = Account::with(Role::default(), &[], |config| {
        config.roles.insert(OTHER_ROLE.into(), Role { trusts: vec![ROLE.into()], ..Role::default() });
    });
    account.configure(&format!(
        "[profile two]\nrole_arn = {OTHER_ROLE}\nsource_profile = one\n\
         [profile one]\nrole_arn = {ROLE}\nsource_profile = base\n"
    ));
    let arn = account.who(account.command(&["--profile", "two"])).await;
    assert_eq!(in_role(&arn), "Other");
    assert_eq!(account.world.settled().await.calls_of("AssumeRole"), 2);
}

#[tokio::test]
async fn a_role_for_a_while() {
    let account = Account::new(Role { max_duration: 7200, external_id: Some("x1".into()), ..Role::default() }, &[]);
    let profile = |seconds| {
        format!(
            "[profile dev]\nrole_arn = {ROLE}\nsource_profile = base\nexternal_id = x1\nduration_seconds = {seconds}\n"
        )
    };
    account.configure(&profile(7200));
    let arn = account.who(account.command(&["--profile", "dev"])).await;
    assert!(arn.starts_with("arn:aws:sts::123456789012:assumed-role/Dev/ssmfwd-"), "{arn}");
    assert!(!account.home().join(".aws/cli").exists(), "only what takes a code is kept");
    // The longest that the role allows was asked for: a second more is refused.
    account.configure(&profile(7201));
    let command = account.command(&["--profile", "dev"]);
    let ended = crate::harness::Program::start(command).exit().await.expect_status(4);
    ended.expect_stderr("exceeds the MaxSessionDuration set for this role").expect_stderr("profile `dev`");
    account.world.settled().await;
}

#[tokio::test]
async fn a_role_with_the_keys_of_the_environment() {
    let account = Account::new(Role::default(), &[]);
    for more in ["", "duration_seconds = 900\n"] {
        account.configure(&format!("[profile dev]\nrole_arn = {ROLE}\ncredential_source = Environment\n{more}"));
        let mut command = account.command(&["--profile", "dev"]);
        command.envs(account.world.emulator.env()).env("AWS_CONFIG_FILE", account.home().join(".aws/config"));
        assert_eq!(in_role(&account.who(command).await), "Dev", "{more}");
    }
    account.world.settled().await;
}

#[tokio::test]
async fn a_program() {
    let account = Account::new(Role::default(), &[]);
    account.write("answer", &account.keys_as_json().to_string());
    account.configure("[profile dev]\ncredential_process = cat \"$HOME/answer\"\n");
    assert_eq!(account.who(account.command(&["--profile", "dev"])).await, USER);
    account.configure(&format!(
        "[profile dev]\nrole_arn = {ROLE}\nsource_profile = process\nduration_seconds = 900\n\
         [profile process]\ncredential_process = cat \"$HOME/answer\"\n"
    ));
    assert_eq!(in_role(&account.who(account.command(&["--profile", "dev"])).await), "Dev");
    account.world.settled().await;
}

/// Neither a code, which is a secret, nor what a service manager says to ssmfwd alone.
#[tokio::test]
async fn a_program_does_not_see_what_is_meant_for_us() {
    let account = Account::new(Role::default(), &[]);
    account.write("answer", &account.keys_as_json().to_string());
    account.configure("[profile dev]\ncredential_process = env > \"$HOME/seen\"; cat \"$HOME/answer\"\n");
    let mut command = account.command(&["--profile", "dev"]);
    let ours = [
        ("SSMFWD_MFA_CODE", "123456"),
        ("NOTIFY_SOCKET", "/nowhere"),
        ("WATCHDOG_USEC", "60000000"),
        ("WATCHDOG_PID", "1"),
        ("LISTEN_FDS", "1"),
        ("LISTEN_PID", "1"),
        ("LISTEN_PIDFDID", "1"),
        ("LISTEN_FDNAMES", "db"),
    ];
    command.envs(ours).env("LISTEN_PORT", "80").env("SSMFWD_REASON", "why");
    assert_eq!(account.who(command).await, USER);
    let seen = std::fs::read_to_string(account.home().join("seen")).expect("it was run");
    let has = |name: &str| seen.lines().any(|line| line.starts_with(&format!("{name}=")));
    for (name, _) in ours {
        assert!(!has(name), "{name} in\n{seen}");
    }
    for name in ["HOME", "LISTEN_PORT", "SSMFWD_REASON"] {
        assert!(has(name), "no {name} in\n{seen}");
    }
    account.world.settled().await;
}

#[tokio::test]
async fn a_web_identity() {
    let account = Account::new(Role { web_identity: Some("a.web.token".into()), ..Role::default() }, &[]);
    account.write("token", "a.web.token");
    let token = account.home().join("token").display().to_string();
    account.configure("");
    let mut command = account.command(&[]);
    command.env("AWS_ROLE_ARN", ROLE).env("AWS_WEB_IDENTITY_TOKEN_FILE", &token).env("AWS_ROLE_SESSION_NAME", "pod");
    assert_eq!(account.who(command).await, "arn:aws:sts::123456789012:assumed-role/Dev/pod");

    account.configure(&format!("[profile dev]\nrole_arn = {ROLE}\nweb_identity_token_file = {token}\n"));
    assert_eq!(in_role(&account.who(account.command(&["--profile", "dev"])).await), "Dev");
    // As the first link of a chain that is ours.
    account.configure(&format!(
        "[profile dev]\nrole_arn = {OTHER_ROLE}\nsource_profile = pod\nduration_seconds = 900\n\
         [profile pod]\nrole_arn = {ROLE}\nweb_identity_token_file = {token}\n"
    ));
    assert_eq!(in_role(&account.who(account.command(&["--profile", "dev"])).await), "Other");
    account.world.settled().await;
}

#[tokio::test]
async fn the_agent_of_a_container() {
    let account = Account::new(Role::default(), &[]);
    account.configure("");
    let keys = account.keys_as_json().to_string();
    let container = Machine::answering(move |request, headers| {
        match headers.iter().any(|header| header == "authorization: the-container") {
            true if request.starts_with("GET /role ") => (200, keys.clone()),
            _ => (403, String::new()),
        }
    })
    .await;
    let with_agent = |arguments: &[&str]| {
        let mut command = account.command(arguments);
        command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/role", container.url));
        command.env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "the-container");
        command
    };
    assert_eq!(account.who(with_agent(&[])).await, USER);
    account.configure(&format!(
        "[profile dev]\nrole_arn = {ROLE}\ncredential_source = EcsContainer\nduration_seconds = 900\n"
    ));
    assert_eq!(in_role(&account.who(with_agent(&["--profile", "dev"])).await), "Dev");
    assert_eq!(container.asked().len(), 2);
    account.world.settled().await;
}

/// What it is told and what it gives is secret and not encrypted.
#[tokio::test]
async fn what_gives_this_machine_credentials_is_not_asked_through_a_proxy() {
    let account = Account::new(Role::default(), &[]);
    account.configure("");
    let keys = account.keys_as_json().to_string();
    let container = Machine::answering(move |_, headers| {
        match headers.iter().any(|header| header == "authorization: the-container") {
            true => (200, keys.clone()),
            false => (403, String::new()),
        }
    })
    .await;
    let instance = Machine::instance(account.keys_as_json().to_string()).await;
    for host in ["127.0.0.1", "localhost"] {
        for name in ["HTTP_PROXY", "ALL_PROXY"] {
            let proxy = Proxy::start(Answer::Serve).await;
            let through = || {
                let mut command = account.command(&[]);
                command.env_remove("NO_PROXY").env_remove("no_proxy").env(name, proxy.url());
                command
            };
            let at = |url: &str| url.replace("127.0.0.1", host);
            let mut in_it = through();
            in_it.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/role", at(&container.url)));
            in_it.env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "the-container");
            assert_eq!(account.who(in_it).await, USER);
            let mut on_it = through();
            on_it.env_remove("AWS_EC2_METADATA_DISABLED");
            on_it.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", at(&instance.url));
            assert_eq!(account.who(on_it).await, USER);
            // The API is.
            let heads = proxy.heads();
            assert!(heads.iter().any(|head| head.starts_with("CONNECT ") || head.starts_with("POST ")), "{heads:#?}");
            let given =
                |head: &String| head.contains("the-container") || head.contains("/latest/") || head.contains("/role");
            assert!(!heads.iter().any(given), "{heads:#?}");
        }
    }
    assert_eq!(container.asked().len(), 4);
    account.world.settled().await;
}

#[tokio::test]
async fn the_role_of_an_instance() {
    let account = Account::new(Role::default(), &[]);
    account.configure("");
    let instance = Machine::instance(account.keys_as_json().to_string()).await;
    let on_it = |arguments: &[&str]| {
        let mut command = account.command(arguments);
        command.env_remove("AWS_EC2_METADATA_DISABLED").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &instance.url);
        command
    };
    assert_eq!(account.who(on_it(&[])).await, USER);
    for more in ["", "duration_seconds = 900\n"] {
        let config = format!("[profile dev]\nrole_arn = {ROLE}\ncredential_source = Ec2InstanceMetadata\n{more}");
        account.configure(&config);
        assert_eq!(in_role(&account.who(on_it(&["--profile", "dev"])).await), "Dev", "{more}");
    }
    let asked = instance.asked();
    assert!(asked.iter().any(|request| request.starts_with("PUT /latest/api/token")), "{asked:?}");
    account.world.settled().await;
}
