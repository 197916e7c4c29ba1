//! What `ssmfwd` and the AWS CLI share: whose credentials they are, and the roles that a code was given for.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    program::{AwsCli, text, write},
    terminal::Terminal,
    tunnel::{Aws, TARGET, programs},
};

const ROLE: &str = "arn:aws:iam::123456789012:role/Dev";
const SERIAL: &str = "arn:aws:iam::123456789012:mfa/alice";

const GET_CALLER_IDENTITY: [&str; 6] = ["sts", "get-caller-identity", "--profile", "dev", "--output", "json"];

/// Somebody with a profile `dev` that takes a code.
struct Home(TempDir);

impl Home {
    fn new(aws: &Aws) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(home.path().join(".aws")).expect("a folder");
        let key = |name: &str| format!("{} = {}\n", name.to_lowercase(), aws.env()[name]);
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].map(key).concat();
        let config = format!(
            "[profile dev]\nrole_arn = {ROLE}\nsource_profile = base\nmfa_serial = {SERIAL}\nexternal_id = ein Schlüssel\n\
             duration_seconds = 1800\n[profile base]\n{keys}"
        );
        write(&home.path().join(".aws/config"), config);
        Self(home)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn of(&self, command: &mut Command, aws: &Aws) {
        command.envs(aws.env()).env("HOME", self.path()).env("AWS_CONFIG_FILE", self.path().join(".aws/config"));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"] {
            command.env_remove(name);
        }
    }

    fn kept(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.path().join(".aws/cli/cache")).expect("a folder");
        files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect()
    }

    /// Whom `ssmfwd` is when it is ready, with a code or without one.
    fn ssmfwd(&self, aws: &Aws, code: &str) -> String {
        let mut command = Command::new(programs().join("ssmfwd"));
        self.of(&mut command, aws);
        command.env("SSMFWD_MFA_CODE", code).args(["0:127.0.0.1:9", "-t", TARGET, "--profile", "dev"]);
        command.args(["--output", "json"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("piped")));
        let events = lines.map(|line| serde_json::from_str::<Value>(&line.expect("text")).expect("JSON"));
        let (mut ready, mut arn) = (false, None);
        for event in events {
            ready |= event["event"] == "ready";
            if event["event"] == "identity" {
                arn = event["arn"].as_str().map(str::to_owned);
            }
            if ready && arn.is_some() {
                let pid = rustix::process::Pid::from_child(&child);
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
                ready = false;
            }
        }
        assert_eq!(child.wait().expect("its status").code(), Some(143));
        arn.expect("an identity")
    }

    fn get_caller_identity(&self, aws: &Aws) -> Command {
        let mut command = AwsCli::V1.client();
        self.of(&mut command, aws);
        command.args(GET_CALLER_IDENTITY);
        command
    }

    /// Whom the AWS CLI is, which has nobody to ask.
    fn aws(&self, aws: &Aws) -> String {
        let answer: Value = serde_json::from_str(&text(&mut self.get_caller_identity(aws))).expect("JSON");
        answer["Arn"].as_str().expect("a text").to_owned()
    }
}

fn emulator(codes: &[&str]) -> Aws {
    let role = format!(r#"{ROLE}={{"mfa": true, "external_id": "ein Schlüssel"}}"#);
    let codes: Vec<_> = codes.iter().map(|code| format!("{SERIAL}={code}")).collect();
    let codes = codes.iter().flat_map(|code| ["--mfa-code", code]);
    Aws::serve(&["--role", &role].into_iter().chain(codes).collect::<Vec<_>>())
}

#[test]
fn the_emulated_sts_is_one_to_the_aws_cli() {
    let aws = emulator(&[]);
    let mut command = AwsCli::V1.client();
    command.envs(aws.env()).args(["sts", "get-caller-identity", "--output", "json"]);
    let answer: Value = serde_json::from_str(&text(&mut command)).expect("JSON");
    assert_eq!(
        (&answer["Account"], &answer["Arn"]),
        (&"123456789012".into(), &"arn:aws:iam::123456789012:user/user".into())
    );
    let refused = command.env("AWS_SECRET_ACCESS_KEY", "wrong").output().expect("it can be started");
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(complaint.contains("(SignatureDoesNotMatch)"), "{complaint}");
    aws.end();
}

#[test]
fn the_aws_cli_needs_no_code_after_ssmfwd() {
    let aws = emulator(&["123456"]);
    let home = Home::new(&aws);
    let who = home.ssmfwd(&aws, "123456");
    assert!(who.starts_with("arn:aws:sts::123456789012:assumed-role/Dev/ssmfwd-"), "{who}");
    assert_eq!(home.aws(&aws), who);
    assert_eq!(aws.state()["calls"]["AssumeRole"], 1);
    aws.end();
}

#[tokio::test]
async fn ssmfwd_needs_no_code_after_the_aws_cli() {
    let aws = emulator(&["123456"]);
    let home = Home::new(&aws);
    // It reads the code from its terminal.
    let mut asking = Command::new(AwsCli::V1.path());
    asking.envs(std::env::vars_os());
    home.of(&mut asking, &aws);
    asking.args(GET_CALLER_IDENTITY);
    let mut terminal = Terminal::start(&asking);
    terminal.until("Enter MFA code").await;
    terminal.types("123456\n").await;
    let (status, shown) = terminal.end().await;
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.contains("assumed-role/Dev/botocore-session-"), "{shown}");

    let kept = home.kept();
    assert!(home.ssmfwd(&aws, "").contains("assumed-role/Dev/botocore-session-"));
    assert_eq!((home.kept(), &aws.state()["calls"]["AssumeRole"]), (kept, &1.into()));
    aws.end();
}
