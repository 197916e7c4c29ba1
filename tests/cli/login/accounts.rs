//! `--list` and `--write-profile`.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::json;

use super::office::{Office, check_token, forwards};
use crate::harness::Program;

#[tokio::test]
async fn accounts_and_roles_are_listed() {
    let office = Office::with(|config| {
        config.sso.page_size = 1;
        config.sso.auto_device = true;
    });
    // Not logged in yet: that comes first.
    let ended = office.run(&["login", "--list", "--profile", "dev"]).await.expect_status(0);
    let expected = "ACCOUNT       NAME      ROLE\n210987654321  another   ReadOnly\n123456789012  emulated  Admin\n\
                    123456789012  emulated  Ops";
    assert_eq!(ended.stdout, expected);
    ended.expect_stderr("logged in to corp");
    // From now on the token will do.
    let ended = office.run(&["login", "--list", "--sso-session", "corp", "--output", "json"]).await.expect_status(0);
    assert_eq!(ended.stderr, "");
    assert_eq!(
        ended.events[1],
        json!({"account_id": "123456789012", "account_name": "emulated", "email": "emulated@example.com", "role": "Admin"})
    );
    assert_eq!((ended.events.len(), office.calls_of("CreateToken")), (3, 1));
    // Renewed where it can be, and if it is not accepted there is a login after all.
    office.expire_token();
    office.run(&["login", "--list"]).await.expect_status(0);
    assert_eq!((office.calls_of("CreateToken"), office.calls_of("StartDeviceAuthorization")), (2, 1));
    check_token(&office.token_file().0, &office.token_file().1, true);
    office.world.emulator.configure(|config| config.sso.generation = 1);
    let ended = office.run(&["login", "--list"]).await.expect_status(0);
    assert_eq!(ended.stdout, expected);
    assert_eq!(office.calls_of("StartDeviceAuthorization"), 2);
}

#[tokio::test]
async fn a_profile_is_written_and_works() {
    let office = Office::new();
    let before = fs::read_to_string(office.config_file()).expect("a file");
    fs::set_permissions(office.config_file(), fs::Permissions::from_mode(0o640)).expect("changed");
    office.log_in(&["--profile", "dev"]).await;
    let write = |name: &'static str, account: &'static str, role: &'static str| {
        ["login", "--write-profile", name, "--account", account, "--role", role, "--region", "us-east-1"]
    };
    let ended = office.run(&write("new", "123456789012", "Admin")).await.expect_status(0);
    ended.expect_stderr("ssmfwd: profile new added to ");
    let section = "\n[profile new]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Admin\n\
                   region = us-east-1\n";
    assert_eq!(fs::read_to_string(office.config_file()).expect("a file"), before + section);
    let mode = fs::metadata(office.config_file()).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
    forwards(&office, "new").await;

    for (arguments, said) in [
        (write("new", "123456789012", "Admin"), "there is a profile `new` already"),
        (write("a", "123456789012", "Nobody"), "the roles in this account are: Admin, Ops"),
        (write("a", "111111111111", "Admin"), "opens no role Admin in account 111111111111"),
        (write("a b", "123456789012", "Admin"), "cannot be the name of a profile"),
        (write("a", "1234", "Admin"), "twelve digits"),
    ] {
        office.run(&arguments).await.expect_status(2).expect_stderr(said);
    }
    office.run(&["login", "--write-profile", "a"]).await.expect_status(2).expect_stderr("--account");
    assert_eq!(office.calls_of("CreateToken"), 1);
}

#[tokio::test]
async fn a_profile_goes_to_the_usual_file_unless_another_is_named() {
    let office = Office::new();
    office.log_in(&["--profile", "dev"]).await;
    let file = office.home.path().join(".aws/config");
    fs::copy(office.config_file(), &file).expect("copied");
    let mut command = office.command(&["login", "--write-profile", "new", "--account", "210987654321"]);
    command.args(["--role", "ReadOnly"]).env_remove("AWS_CONFIG_FILE");
    Program::start(command).exit().await.expect_status(0);
    let (written, other) = (fs::read_to_string(file).expect("a file"), fs::read_to_string(office.config_file()));
    let section = "\n[profile new]\nsso_session = corp\nsso_account_id = 210987654321\nsso_role_name = ReadOnly\n";
    assert_eq!(written, other.expect("a file") + section);
}
