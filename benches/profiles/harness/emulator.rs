//! The emulated AWS in a process of its own, so that it is not measured with the client.

use std::{net::SocketAddr, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

use super::{Outcome, PATIENCE, built, process::Usage};

/// A running `ssmfwd-emulator serve`.
pub(crate) struct Emulator {
    child: Child,
    control: SocketAddr,
    /// The client's websocket is cut again and again.
    cuts: bool,
    pub(crate) target: String,
    /// What points a client at it.
    pub(crate) env: Vec<(String, String)>,
}

impl Emulator {
    /// Variables that would lead a client elsewhere.
    pub(crate) const CONFLICTING_ENV: &[&str] = ssmfwd::emulator::Emulator::CONFLICTING_ENV;

    pub(crate) async fn start(switches: &[&str]) -> Outcome<Self> {
        let mut command = Command::new(built("ssmfwd-emulator")?);
        // A session that is idle in one row must not end in it.
        command.args(["serve", "--idle-timeout", "0"]).args(switches);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut line = String::new();
        timeout(PATIENCE, stdout.read_line(&mut line)).await??;
        let told: Value = serde_json::from_str(&line).map_err(|error| format!("{error} in {line:?}"))?;
        let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        let env = told["env"].as_object().into_iter().flatten();
        let env = env.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
        let control = text("control_url");
        let control = control.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        Ok(Self {
            control: control.parse()?,
            cuts: switches.contains(&"--cut-every"),

            target: text("target"),
            env,
            child,
        })
    }

    pub(crate) fn usage(&self) -> Outcome<Usage> {
        Usage::of(self.child.id().ok_or("the emulator has ended")?)
    }

    /// Everything it has seen.
    async fn state(&self) -> Outcome<Value> {
        self.ask("GET", "state", "").await
    }

    /// Nothing is cut any more, so that what is under way can arrive.
    pub(crate) async fn calm(&self) -> Outcome<()> {
        if self.cuts {
            self.ask("POST", "config", r#"{"cut_every_ms": null}"#).await?;
        }
        Ok(())
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Outcome<Value> {
        let mut socket = TcpStream::connect(self.control).await?;
        let length = body.len();
        let request = format!(
            "{method} /_emulator/{path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await??;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer of the emulator")?;
        Ok(serde_json::from_str(body)?)
    }

    /// Data messages of all sessions so far, up and down.
    pub(crate) async fn messages(&self) -> Outcome<(u64, u64)> {
        let state = self.state().await?;
        let sum = |direction: &str| -> u64 {
            let sessions = state["sessions"].as_object().into_iter().flatten();
            sessions.filter_map(|(_, session)| session[direction]["messages"].as_u64()).sum()
        };
        Ok((sum("up"), sum("down")))
    }

    /// Whether clients acted against the protocol.
    pub(crate) async fn check(&self) -> Outcome<()> {
        let state = self.state().await?;
        match state["violation_count"].as_u64() {
            Some(0) => Ok(()),
            _ => Err(format!("against the protocol: {}", state["violations"]).into()),
        }
    }
}
