//! The program in the place of session-manager-plugin, started as somebody starts it who has got an answer from
//! StartSession. With the AWS CLI in their place: the interop world.

mod credentials;
mod endpoints;
mod ends;
#[cfg(target_os = "linux")]
mod shells;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use ssmfwd::{
    aws::{Aws, AwsOptions},
    session::{ControlPlane as _, StartRequest},
};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{Client, Program, World};

/// A session that somebody has started, and the program under the name that they start.
pub(crate) struct Caller {
    /// What StartSession answered.
    pub(crate) answer: Value,
    folder: TempDir,
    endpoint: String,
}

impl Caller {
    /// Has a session of this document.
    pub(crate) async fn of(world: &World, document: Option<&str>, parameters: &[(&str, &str)]) -> Self {
        let aws = Aws::from_sdk_config(&world.emulator.sdk_config(), AwsOptions::default()).expect("a control plane");
        let parameters: BTreeMap<_, _> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect();
        let request = StartRequest {
            target: World::TARGET.to_owned(),
            document: document.map(str::to_owned),
            parameters,
            reason: None,
        };
        let grant = aws.start(&request).await.expect("a session");
        let answer = json!({
            "SessionId": grant.session_id.0,
            "TokenValue": grant.token.expose(),
            "StreamUrl": grant.url.as_str(),
        });
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("session-manager-plugin");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ssmfwd"), link).expect("a link");
        Self { answer, folder, endpoint: world.emulator.endpoint_url().to_owned() }
    }

    /// Has a forward to a port of this machine.
    pub(crate) async fn of_port(world: &World, port: u16) -> Self {
        Self::of(world, Some("AWS-StartPortForwardingSession"), &[("portNumber", &port.to_string())]).await
    }

    /// Has a shell.
    pub(crate) async fn of_shell(world: &World) -> Self {
        Self::of(world, None, &[]).await
    }

    /// The program under its other name.
    pub(crate) fn program(&self) -> String {
        self.folder.path().join("session-manager-plugin").display().to_string()
    }

    /// All arguments, as the AWS CLI passes them.
    pub(crate) fn arguments(&self) -> [String; 6] {
        let request = json!({ "Target": World::TARGET }).to_string();
        let region = "us-east-1".to_owned();
        [self.answer.to_string(), region, "StartSession".to_owned(), String::new(), request, self.endpoint.clone()]
    }

    /// The program with these arguments, and with what leads to the emulator in its environment.
    pub(crate) fn command(&self, world: &World, arguments: &[String]) -> Command {
        let mut command = Command::new(self.program());
        command.env_clear().envs(world.emulator.env()).args(arguments);
        command
    }

    /// The same with all of them.
    pub(crate) fn usual(&self, world: &World) -> Command {
        self.command(world, &self.arguments())
    }
}

/// A connection through the port that the program says it has opened.
async fn connect(program: &Program) -> Client {
    let line = program.stdout_line("opened for sessionId").await;
    let port: u16 = line.split(' ').nth(1).and_then(|port| port.parse().ok()).expect("a number");
    Client::to(([127, 0, 0, 1], port).into()).await
}
