//! Any session-manager-plugin, started as the AWS CLI starts it.

use std::{net::SocketAddr, path::Path};

use ssmfwd::{
    aws::{Aws, AwsOptions},
    session::{ControlPlane, StartRequest},
};
use tokio::process::Command;

use crate::harness::{
    Outcome,
    client::{Client, pointed_at},
    emulator::Emulator,
    tell,
};

const REGION: &str = "us-east-1";

/// Starts a session as the AWS CLI would, and the plugin with what came back.
pub(crate) async fn start(path: &Path, emulator: &Emulator, port: u16) -> Outcome<Client> {
    let mut session = pointed_at(emulator, std::env::current_exe()?);
    session.args(["part", "start-session", &emulator.target, &port.to_string()]);
    let answer = session.output().await?;
    if !answer.status.success() {
        return Err(format!("no session for the plugin: {}", String::from_utf8_lossy(&answer.stderr)).into());
    }
    let endpoint = emulator.env.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL").map(|(_, url)| url.as_str());
    let endpoint = endpoint.ok_or("the emulator names no endpoint")?;
    let mut command: Command = pointed_at(emulator, path);
    command.arg(String::from_utf8(answer.stdout)?.trim()).args([REGION, "StartSession", ""]);
    command.arg(serde_json::json!({"Target": emulator.target}).to_string()).arg(endpoint);
    Client::start(command, opened).await
}

/// `Port 12345 opened for sessionId ...`
fn opened(line: &str) -> Option<SocketAddr> {
    let port = line.strip_prefix("Port ")?.split_whitespace().next()?.parse().ok()?;
    Some(([127, 0, 0, 1], port).into())
}

/// The part that calls StartSession, with the environment that points at the emulated AWS, and prints its answer.
pub(crate) async fn start_session(arguments: &[String]) -> Outcome<()> {
    let [target, port] = arguments else { return Err("expected TARGET PORT".into()) };
    let request = StartRequest {
        target: target.clone(),
        document: Some("AWS-StartPortForwardingSession".into()),
        parameters: [("portNumber".to_owned(), vec![port.clone()])].into(),
        reason: None,
    };
    let grant = Aws::load(AwsOptions::default()).await?.start(&request).await?;
    Ok(tell(&serde_json::json!({
        "SessionId": grant.session_id.0, "TokenValue": grant.token.expose(), "StreamUrl": grant.url.as_str(),
    }))?)
}
