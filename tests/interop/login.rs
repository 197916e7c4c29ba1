//! Logins: on a real page in a real browser, and of files that ssmfwd and the AWS CLI both read and write.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    browser::Browser,
    program::{AwsCli, client, text, write},
    service::{Pipe, Service},
    tunnel::{Aws, TARGET, live_sessions, programs},
};

/// The emulator's, unless it is told otherwise.
const START_URL: &str = "https://d-0123456789.awsapps.com/start";

/// Somebody with a home directory and an Identity Center.
struct Office {
    aws: Aws,
    home: TempDir,
}

impl Office {
    fn new(switches: &[&str]) -> Self {
        let office = Self { aws: Aws::serve(switches), home: tempfile::tempdir().expect("a folder") };
        let role = "sso_account_id = 123456789012\nsso_role_name = Ops\n";
        let center = format!("sso_region = us-east-1\nsso_start_url = {START_URL}\n");
        write(
            &office.home.path().join("config"),
            format!(
                "[profile dev]\nsso_session = corp\n{role}[profile old]\n{center}{role}[sso-session corp]\n{center}"
            ),
        );
        office
    }

    /// A program with this home and no keys.
    fn at_home(&self, mut command: Command) -> Command {
        command
            .envs(self.aws.env())
            .env("HOME", self.home.path())
            .env("AWS_CONFIG_FILE", self.home.path().join("config"));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "BROWSER"] {
            command.env_remove(name);
        }
        for name in ["SSH_CONNECTION", "SSH_TTY", "DISPLAY", "WAYLAND_DISPLAY"] {
            command.env_remove(name);
        }
        command
    }

    fn ssmfwd(&self, arguments: &[&str]) -> Command {
        let mut command = client("env", "coreutils");
        command.arg(programs().join("ssmfwd")).args(arguments);
        self.at_home(command)
    }

    /// `aws ... --profile PROFILE`, which must succeed.
    fn aws(&self, profile: &str, arguments: &[&str]) -> Value {
        let mut command = self.at_home(AwsCli::V1.client());
        command.args(arguments).args(["--profile", profile, "--output", "json"]);
        serde_json::from_str(&text(&mut command)).expect("JSON")
    }

    /// A forward that lives on a login; while it does, the AWS CLI gets along with the same one.
    fn forward(&self, profile: &str, also_aws: bool) {
        let mut command = Command::new(programs().join("ssmfwd"));
        command.args(["0:127.0.0.1:9", "--target", TARGET, "--profile", profile, "--output", "json"]);
        let mut ssmfwd = Service::start("ssmfwd", &mut self.at_home(command));
        let line = ssmfwd.wait_for_line(Some(Pipe::Stdout), |line| line.starts_with(r#"{"event":"session_started""#));
        ssmfwd.wait_for_line(Some(Pipe::Stdout), |line| line.starts_with(r#"{"event":"ready""#));
        if also_aws {
            let started: Value = serde_json::from_str(&line).expect("JSON");
            let session = started["session_id"].as_str().expect("a text");
            let resumed = self.aws(profile, &["ssm", "resume-session", "--session-id", session]);
            assert_eq!(resumed["SessionId"], session);
        }
        let (status, lines) = ssmfwd.end(Signal::TERM);
        assert_eq!(status.code(), Some(143), "{lines:?}");
    }

    fn token_files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.home.path().join(".aws/sso/cache")).expect("a folder");
        let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        files.sort();
        files
    }

    fn calls(&self, operation: &str) -> u64 {
        self.aws.state()["calls"][operation].as_u64().unwrap_or(0)
    }
}

fn read(file: &PathBuf) -> Value {
    serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON")
}

#[test]
fn a_real_browser_completes_the_login() {
    let office = Office::new(&["--auto-approve"]);
    let browser = Browser::new();
    let mut login = office.ssmfwd(&["login", "--profile", "dev", "--output", "json"]);
    let told: Value = serde_json::from_str(&text(login.env("BROWSER", browser.script()))).expect("an object");
    assert_eq!(told["session"], "corp");
    assert!(browser.pid().is_some(), "no browser was started");
    // Its page, and the button on it.
    assert_eq!(["Authorize", "CreateToken", "StartDeviceAuthorization"].map(|call| office.calls(call)), [2, 1, 0]);
    office.forward("dev", true);
    assert_eq!(office.calls("CreateToken"), 1);
    assert_eq!(office.aws.state()["errors"], serde_json::json!({}));
    office.aws.end();
}

#[test]
fn the_aws_cli_and_ssmfwd_share_a_login() {
    let office = Office::new(&["--auto-device"]);
    text(&mut office.ssmfwd(&["login", "--sso-session", "corp", "--device"]));
    let [file] = &office.token_files()[..] else { panic!("{:?}", office.token_files()) };
    office.forward("dev", true);

    // It is the AWS CLI that finds it expired, renews it and writes the file: ssmfwd goes on with that.
    let mut token = read(file);
    token["expiresAt"] = "2023-11-14T22:13:20Z".into();
    write(file, token.to_string());
    let accounts = {
        let mut aws = office.at_home(AwsCli::V1.client());
        aws.args(["ssm", "terminate-session", "--session-id", "user-0", "--profile", "dev"]);
        aws.output().expect("it can be started")
    };
    let complaint = String::from_utf8_lossy(&accounts.stderr);
    assert!(complaint.contains("DoesNotExistException"), "it did not get as far as the API: {complaint}");
    assert_eq!(office.calls("CreateToken"), 2);
    let who = {
        let mut aws = office.at_home(AwsCli::V1.client());
        aws.args(["sts", "get-caller-identity", "--profile", "dev", "--output", "json"]);
        aws.output().expect("it can be started")
    };
    let who: Value = serde_json::from_slice(&who.stdout).expect("STS answers");
    assert_eq!(who["Account"], "123456789012", "{who}");
    let renewed = read(file);
    assert_ne!(renewed["accessToken"], token["accessToken"]);
    office.forward("dev", false);
    let listed = text(&mut office.ssmfwd(&["login", "--list"]));
    assert!(listed.contains("123456789012  emulated  Ops"), "{listed}");
    assert_eq!((office.calls("CreateToken"), office.calls("StartDeviceAuthorization")), (2, 1));

    // The other way round, with a file as `aws sso login` of the AWS CLI v2 leaves it: one line, keys in its order.
    let of = |key: &str| renewed[key].as_str().unwrap_or_else(|| panic!("no {key}")).to_owned();
    let keys = [
        "startUrl",
        "region",
        "accessToken",
        "expiresAt",
        "clientId",
        "clientSecret",
        "registrationExpiresAt",
        "refreshToken",
    ];
    let members: Vec<_> = keys
        .iter()
        .map(|key| {
            format!("\"{key}\": \"{}\"", if *key == "expiresAt" { "2023-11-14T22:13:20Z".into() } else { of(key) })
        })
        .collect();
    fs::remove_file(file).expect("a file");
    write(file, format!("{{{}}}", members.join(", ")));
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("a file of ours");
    office.forward("dev", true);
    assert_eq!((office.calls("CreateToken"), office.calls("StartDeviceAuthorization")), (3, 1));
    assert_eq!(fs::metadata(file).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(live_sessions(&office.aws.state()), 0);
    office.aws.end();
}

#[test]
fn the_older_form_of_a_profile_is_shared_too() {
    let office = Office::new(&["--auto-device"]);
    text(&mut office.ssmfwd(&["login", "--profile", "old", "--no-browser"]));
    office.forward("old", true);
    assert_eq!(["RegisterClient", "CreateToken"].map(|call| office.calls(call)), [1, 1]);
    office.aws.end();
}
