//! Reads the recorded sessions of `tests/data/captures` (its README says what they are).

use std::{path::Path, time::Duration};

use bytes::Bytes;
use serde::Deserialize;

/// Who sent a recorded line to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub(crate) enum Direction {
    /// The client, on its data channel.
    #[serde(rename = "client->gw")]
    ClientToGateway,
    /// The agent, on its data channel.
    #[serde(rename = "agent->gw")]
    AgentToGateway,
    /// The relay in the gateway's place, of its own accord.
    #[serde(rename = "gw->client")]
    GatewayToClient,
    /// The same, towards the agent.
    #[serde(rename = "gw->agent")]
    GatewayToAgent,
    /// The agent, on its control channel.
    #[serde(rename = "agent->gw-control")]
    AgentToControl,
    /// The relay, on the agent's control channel.
    #[serde(rename = "gw->agent-control")]
    ControlToAgent,
    /// An API call of the client.
    #[serde(rename = "client->api")]
    ClientToApi,
    /// An API call of the agent.
    #[serde(rename = "agent->api")]
    AgentToApi,
    /// Something that happened at the relay.
    #[serde(rename = "gw")]
    Gateway,
    /// A ping that came before the relay knew from whom.
    #[serde(rename = "?->gw")]
    Unnamed,
}

impl Direction {
    /// Whether the sender was one of the two genuine ends of a data channel.
    pub(crate) fn is_genuine_data(self) -> bool {
        matches!(self, Self::ClientToGateway | Self::AgentToGateway)
    }
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    /// A websocket text frame.
    Text,
    /// A websocket binary frame.
    Binary,
    /// A websocket ping.
    Ping,
    /// Something that happened at the relay.
    Event,
    /// An API call.
    Http,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Line {
    /// Capture and line number, for failure messages.
    pub(crate) place: String,
    /// When it reached the relay, from the first line on.
    pub(crate) at: Duration,
    /// Sender and receiver.
    pub(crate) direction: Direction,
    /// What it is.
    pub(crate) operation: Operation,
    /// The text of what is not binary.
    pub(crate) text: String,
    /// The bytes of a binary frame; empty otherwise.
    pub(crate) bytes: Bytes,
    /// The operation of an API call; empty otherwise.
    pub(crate) call: String,
    /// How often the relay passed it on to the other end.
    pub(crate) passed_on: usize,
}

/// One recorded session.
#[derive(Debug)]
pub(crate) struct Recording {
    /// The file name without its ending.
    pub(crate) name: String,
    /// Everything, in the order in which it reached the relay.
    pub(crate) lines: Vec<Line>,
}

impl Recording {
    /// Reads all of them, in the order of their names.
    pub(crate) fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
        let entries = std::fs::read_dir(folder).expect("the folder of captures");
        let mut files: Vec<_> = entries.map(|entry| entry.expect("a folder entry").path()).collect();
        files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
        files.sort();
        files.iter().map(|path| Self::read(path)).collect()
    }

    /// Reads one of them.
    pub(crate) fn of(name: &str) -> Self {
        Self::read(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures").join(name).with_extension("jsonl"),
        )
    }

    fn read(path: &Path) -> Self {
        let name = path.file_stem().expect("a file name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).expect("a readable capture");
        let lines =
            (1..).zip(text.lines()).map(|(number, line)| Line::read(format!("{name}:{number}"), line)).collect();
        Self { name, lines }
    }
}

impl Line {
    fn read(place: String, line: &str) -> Self {
        #[derive(Deserialize)]
        struct Raw {
            ms: f64,
            dir: Direction,
            op: Operation,
            #[serde(default)]
            text: String,
            #[serde(default)]
            base64: String,
            #[serde(default)]
            call: String,
            relayed: Option<bool>,
            #[serde(default)]
            chaos: String,
        }
        let raw: Raw = serde_json::from_str(line).unwrap_or_else(|error| panic!("{place}: {error}"));
        let bytes = unbase64(&raw.base64);
        assert_eq!(raw.op == Operation::Binary, !bytes.is_empty(), "{place}");
        let passed_on = match (raw.relayed, raw.chaos.as_str()) {
            (Some(false), _) => 0,
            (_, "dup") => 2,
            _ => 1,
        };
        let at = Duration::from_secs_f64(raw.ms / 1000.0);
        Self { place, at, direction: raw.dir, operation: raw.op, text: raw.text, bytes, call: raw.call, passed_on }
    }
}

/// Independent of the decoder under test.
fn unbase64(text: &str) -> Bytes {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes().take_while(|byte| *byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("{other:#x} in base64"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    out.into()
}
