//! Credentials from everywhere the AWS CLI takes them: each way opens a tunnel as whom it should, and what is broken is
//! named with its remedy.

mod broken;
pub(crate) mod machine;
mod mfa;
mod ways;

use std::path::Path;

use serde_json::Value;
use ssmfwd::emulator::{EmulatorConfig, Role};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{Ended, Program, World};

pub(crate) const ROLE: &str = "arn:aws:iam::123456789012:role/Dev";
const OTHER_ROLE: &str = "arn:aws:iam::123456789012:role/Other";
pub(crate) const SERIAL: &str = "arn:aws:iam::123456789012:mfa/alice";

/// Somebody with a home directory, whose configuration leads to an emulated account. No keys are in the environment.
pub(crate) struct Account {
    pub(crate) world: World,
    home: TempDir,
}

impl Account {
    /// An account with two roles, and a device that shows these codes.
    pub(crate) fn new(role: Role, codes: &[&str]) -> Self {
        Self::with(role, codes, |_| {})
    }

    pub(crate) fn with(role: Role, codes: &[&str], change: impl FnOnce(&mut EmulatorConfig)) -> Self {
        let world = World::with(|config| {
            config.roles = [(ROLE.to_owned(), role), (OTHER_ROLE.to_owned(), Role::default())].into();
            config.mfa_devices = [(SERIAL.to_owned(), codes.iter().map(|code| (*code).to_owned()).collect())].into();
            change(config);
        });
        Self { world, home: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.home().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    /// The configuration file, with a profile `base` behind it that has the account's keys.
    pub(crate) fn configure(&self, config: &str) {
        self.write(".aws/config", &format!("{config}\n[profile base]\n{}", self.keys()));
    }

    /// The emulated credentials as lines of a profile.
    pub(crate) fn keys(&self) -> String {
        let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
        let env = self.world.emulator.env();
        let line = |name: &str| {
            let value = env.iter().find(|(known, _)| known == name).expect("a key").1.clone();
            format!("{} = {value}\n", name.to_lowercase())
        };
        names.map(line).concat()
    }

    /// The same as the JSON of an endpoint or a `credential_process`.
    pub(crate) fn keys_as_json(&self) -> Value {
        let credentials = self.world.emulator.config().credentials;
        serde_json::json!({
            "Version": 1,
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": credentials.access_key_id,
            "SecretAccessKey": credentials.secret_access_key,
            "Token": credentials.session_token,
            "SessionToken": credentials.session_token,
            "Expiration": "2099-01-01T00:00:00Z",
            "LastUpdated": "2023-01-01T00:00:00Z",
        })
    }

    /// A forward of this person.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&[&["0:127.0.0.1:9", "-t", World::TARGET], arguments].concat())
    }

    /// The program of this person.
    pub(crate) fn command_of(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.command(arguments);
        command.env("HOME", self.home()).env("AWS_CONFIG_FILE", self.home().join(".aws/config"));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs until ready, and says who we are.
    pub(crate) async fn who(&self, mut command: Command) -> String {
        command.args(["--output", "json"]);
        let program = Program::start(command);
        program.event("ready").await;
        let identity = program.event("identity").await;
        program.signal(rustix::process::Signal::TERM);
        let ended = program.exit().await.expect_status(143);
        assert_eq!(ended.stderr, "", "nothing to complain of");
        assert_eq!((&identity["account"], &identity["region"]), (&"123456789012".into(), &"us-east-1".into()));
        identity["arn"].as_str().expect("an ARN").to_owned()
    }

    /// Runs to its failure; no session may have been started.
    pub(crate) async fn fails(&self, command: Command, status: i32) -> Ended {
        let ended = Program::start(command).exit().await.expect_status(status);
        assert_eq!(self.world.emulator.state().sessions_started, 0);
        assert_eq!(ended.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("hint: "), "{}", ended.stderr);
        ended
    }
}
