//! Every switch of the emulator in one value.
//!
//! The default is a realistic AWS without faults. The same names serve Rust, `ssmfwd-emulator`'s switches and the JSON
//! of the control path; durations are whole milliseconds there.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    ApiFailure, Credentials, EcsCluster, Interval, Node, Operation, Role, SealFault, SessionDocument, SsoConfig,
};

/// What is emulated, and what goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmulatorConfig {
    /// Port on loopback, 0 for any free one. Fixed once started.
    pub port: u16,
    /// Serve https and wss under a generated CA. Fixed once started.
    pub tls: bool,
    /// Seed of everything random: ids, tokens, faults, the agent. Fixed once started.
    pub seed: u64,
    /// Region that signatures must name. Fixed once started.
    pub region: String,
    /// The identity whose signatures are accepted. Not part of the control path. Fixed once started.
    #[serde(skip)]
    pub credentials: Credentials,
    /// The ARN of who has these credentials, a user or a session of a role.
    pub identity: String,
    /// Roles that AssumeRole gives credentials of, by ARN.
    pub roles: BTreeMap<String, Role>,
    /// The codes of MFA devices, by serial number. A code is good once.
    pub mfa_devices: BTreeMap<String, Vec<String>>,

    /// Targets whose agent is connected, beside the `nodes` that are online and the containers of `ecs` that can be
    /// reached; any other is `TargetNotConnected`. The inventory shows them as nodes without a name.
    pub targets: Vec<String>,
    /// The managed nodes of SSM's inventory. One that is not online is `TargetNotConnected`, whatever `targets` says.
    pub nodes: Vec<Node>,
    /// ECS clusters with their services and tasks.
    pub ecs: Vec<EcsCluster>,
    /// No target's agent is connected: StartSession answers `TargetNotConnected`. Live sessions do not notice.
    pub offline: bool,
    /// Session documents beside the ones that AWS publishes.
    pub documents: BTreeMap<String, SessionDocument>,
    /// How the agent behaves. Sessions keep what they started with.
    pub agent: AgentKind,
    /// The version it announces.
    pub agent_version: String,
    /// From StartSession to the agent's websocket: the genuine agent starts a process. `None`: 25 ms, 0 in `ideal`.
    #[serde(rename = "agent_start_ms", with = "optional_millis")]
    pub agent_start: Option<Duration>,
    /// How long a restart of an agent takes, until it is connected again.
    #[serde(rename = "agent_restart_ms", with = "millis")]
    pub agent_restart: Duration,
    /// Destinations that never answer when they are dialled, as `HOST:PORT`; `*` stands for any host or any port. The
    /// dial goes on when its destination is taken off the list.
    pub unanswered: Vec<String>,
    /// After so long such a dial fails, as the kernel's does.
    #[serde(rename = "dial_timeout_ms", with = "millis")]
    pub dial_timeout: Duration,
    /// The agent ends each session right after the handshake, with this text; it is what the service tells the client.
    pub agent_refuses: Option<String>,
    /// The session type that the agent names, if not that of the document. It serves the latter.
    pub session_type: Option<String>,
    /// What runs in shell sessions; commands on a pty are given to it after `-c`.
    pub shell: String,
    /// Whether input of shells is changed as on Windows: line feeds become carriage returns in a payload without CR LF.
    pub windows: bool,
    /// Shell sessions are sealed with data keys of this KMS key: an id, an alias or an ARN. The emulated KMS has it.
    pub kms_key: Option<String>,
    /// The agent asks for it in port sessions too. The genuine one never does.
    pub kms_in_ports: bool,
    /// The agent refuses clients that do not bind the data key to its challenge (`RequireKMSChallengeResponse`).
    pub require_kms_challenge: bool,
    /// The agent is not allowed to decrypt data keys.
    pub agent_kms_denied: bool,
    /// One wrong seal in each sealed session.
    pub seal_fault: Option<SealFault>,
    /// Data messages after HandshakeComplete that the agent refuses without acknowledgement. `None`: as the agent does.
    pub refuse_early: Option<u32>,
    /// Data messages after HandshakeComplete that the agent acknowledges and throws away. `None`: as the agent does.
    pub swallow_early: Option<u32>,

    /// Round-trip time that the client sees: half of it is added to each relayed message in either direction.
    #[serde(rename = "rtt_ms", with = "millis")]
    pub rtt: Duration,
    /// What the client's link carries in either direction, bytes of messages per second; all sessions share it.
    /// Messages beyond it wait in a deep queue in front of it. `None`, or 0: no limit.
    pub link_bytes_per_second: Option<u64>,
    /// Faults of relayed messages.
    pub faults: Faults,
    /// Largest payload that the gateway takes from a client, and what it does about a larger one.
    pub payload_cap: Option<PayloadCap>,
    /// Most messages that the gateway takes from a client per second, and what it does about more.
    pub rate_cap: Option<RateCap>,
    /// Each websocket, the client's and the agent's, is closed with `1000 Bye` this long after it was opened (the
    /// service does it about hourly).
    #[serde(rename = "bye_every_ms", with = "optional_millis")]
    pub bye_every: Option<Duration>,
    /// A session without stream data for this long is ended by the service. `None`, or 0 as the switch has it: never.
    #[serde(
        rename = "idle_timeout_ms",
        serialize_with = "optional_millis::serialize",
        deserialize_with = "some_millis"
    )]
    pub idle_timeout: Option<Duration>,
    /// A session that has had a websocket is ended by the service so long after its start. `None`: never.
    #[serde(rename = "max_duration_ms", with = "optional_millis")]
    pub max_duration: Option<Duration>,
    /// After `pause_publication` no `start_publication` follows, except to [`Action::Start`](super::Action::Start) and
    /// on a new websocket.
    pub lose_start_publication: bool,
    /// The client's websocket is reset at a random moment in this interval after it was opened, again and again.
    #[serde(rename = "cut_every_ms")]
    pub cut_every: Option<Interval>,
    /// The same for the agent's websocket; the agent opens another one.
    #[serde(rename = "agent_cut_every_ms")]
    pub agent_cut_every: Option<Interval>,
    /// The gateway and the API are down, as after a kill -9: all connections are reset and new ones are too. The agents
    /// lose their websockets and come back after it. The control path works.
    pub outage: bool,
    /// The network between client and emulator swallows everything: connections stay open and new ones are accepted,
    /// but nothing moves. It goes on where it stopped afterwards. The agents do not notice; the control path works.
    pub blackhole: bool,

    /// Where StreamUrls point, as `wss://HOST[:PORT]`, if not to where the API was asked.
    pub stream_base: Option<String>,
    /// Which websocket upgrades are accepted.
    pub upgrade: UpgradePolicy,
    /// A first message whose ids are not UUIDs, as those of the genuine programs are, is accepted: whether the service
    /// minds is not known, and there are clients that send others.
    pub any_ids: bool,
    /// API operations answered with `AccessDeniedException`; `OpenDataChannel` stands for the signed upgrade.
    pub denied: Vec<String>,
    /// The only operations that are not answered so, by the same names. `None`: all that are not in `denied`.
    pub allowed: Option<Vec<String>>,
    /// Documents that a policy forbids with an explicit deny.
    pub forbidden_documents: Vec<String>,
    /// Whether the credentials have expired.
    pub expired_credentials: bool,
    /// So many of the next calls that start, resume or end a session are answered with `ThrottlingException`; counts
    /// down.
    pub throttle: u32,
    /// Operations that fail in other ways.
    pub failures: Vec<ApiFailure>,
    /// So many of the next ResumeSession calls give a token that the gateway does not know; counts down.
    pub stale_tokens: u32,
    /// How far the service's clock is ahead of this machine's, seconds.
    pub clock_skew: i64,
    /// The emulated IAM Identity Center.
    pub sso: SsoConfig,
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        Self {
            port: 0,
            tls: false,
            seed: 0,
            region: "us-east-1".into(),
            credentials: Credentials::default(),
            identity: Self::DEFAULT_IDENTITY.into(),
            roles: BTreeMap::new(),
            mfa_devices: BTreeMap::new(),
            targets: vec![Self::DEFAULT_TARGET.into()],
            nodes: vec![Node::new(Self::DEFAULT_TARGET).named("bastion")],
            ecs: Vec::new(),
            offline: false,
            documents: BTreeMap::new(),
            agent: AgentKind::Realistic,
            agent_version: "3.3.987.0".into(),
            agent_start: None,
            agent_restart: Duration::from_secs(1),
            unanswered: Vec::new(),
            dial_timeout: Duration::from_secs(130),
            agent_refuses: None,
            session_type: None,
            shell: "sh".into(),
            windows: false,
            kms_key: None,
            kms_in_ports: false,
            require_kms_challenge: false,
            agent_kms_denied: false,
            seal_fault: None,
            refuse_early: None,
            swallow_early: None,
            rtt: Duration::ZERO,
            link_bytes_per_second: None,
            faults: Faults::default(),
            payload_cap: None,
            rate_cap: None,
            bye_every: None,
            idle_timeout: Some(Duration::from_secs(20 * 60)),
            max_duration: None,
            lose_start_publication: false,
            cut_every: None,
            agent_cut_every: None,
            outage: false,
            blackhole: false,
            stream_base: None,
            upgrade: UpgradePolicy::Signed,
            any_ids: false,
            denied: Vec::new(),
            allowed: None,
            forbidden_documents: Vec::new(),
            expired_credentials: false,
            throttle: 0,
            failures: Vec::new(),
            stale_tokens: 0,
            clock_skew: 0,
            sso: SsoConfig::default(),
        }
    }
}

impl EmulatorConfig {
    /// The target that is connected unless others are named.
    pub const DEFAULT_TARGET: &str = "i-0123456789abcdef0";

    /// Who has the credentials unless somebody else is named.
    pub const DEFAULT_IDENTITY: &str = "arn:aws:iam::123456789012:user/user";

    /// Whether policies deny an operation, `OpenDataChannel` among them.
    pub(super) fn denies(&self, operation: Operation) -> bool {
        let names = |list: &[String]| list.iter().any(|name| name == operation.name());
        names(&self.denied) || self.allowed.as_deref().is_some_and(|allowed| !names(allowed))
    }

    /// This configuration with some fields replaced, as the control path does it: objects are merged, anything else
    /// is replaced.
    ///
    /// # Errors
    /// When a field does not exist, has another type, or is fixed once started.
    pub fn patched(&self, patch: &serde_json::Value) -> Result<Self, ConfigPatchError> {
        if !patch.is_object() {
            return Err(ConfigPatchError::NotAnObject);
        }
        let mut value = serde_json::to_value(self)?;
        merge(&mut value, patch);
        let mut patched: Self = serde_json::from_value(value)?;
        patched.credentials = self.credentials.clone();
        let fixed = [
            ("port", self.port == patched.port),
            ("tls", self.tls == patched.tls),
            ("seed", self.seed == patched.seed),
            ("region", self.region == patched.region),
        ];
        match fixed.iter().find(|(_, same)| !same) {
            Some((name, _)) => Err(ConfigPatchError::Fixed(name)),
            None => Ok(patched),
        }
    }

    pub(super) fn one_way_delay(&self) -> Duration {
        self.rtt / 2
    }

    pub(super) fn agent_start(&self) -> Duration {
        self.agent_start.unwrap_or(match self.agent {
            AgentKind::Realistic => Duration::from_millis(25),
            AgentKind::Ideal => Duration::ZERO,
        })
    }
}

fn merge(into: &mut serde_json::Value, patch: &serde_json::Value) {
    match (into, patch) {
        (serde_json::Value::Object(into), serde_json::Value::Object(patch)) => {
            for (name, value) in patch {
                merge(into.entry(name.as_str()).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

/// A patch that cannot be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigPatchError {
    /// It is JSON, but not an object.
    #[error("a configuration patch is a JSON object")]
    NotAnObject,
    /// A field is unknown or has another type.
    #[error(transparent)]
    Field(#[from] serde_json::Error),
    /// A field that is fixed once the emulator has started.
    #[error("`{0}` cannot be changed after the start")]
    Fixed(&'static str),
}

/// How the agent behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentKind {
    /// As the genuine agent, pacing and serial dialling included: about 0.7 MB/s down per session.
    Realistic,
    /// Without pacing, dialling in parallel; the same semantics.
    Ideal,
}

/// Which websocket upgrades the gateway accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradePolicy {
    /// Signed, with a `+` of the query read as a space, as Go's signers do.
    Signed,
    /// Signed, with a `+` of the query read as itself.
    SignedLiteralPlus,
    /// Only unsigned; a signature is refused.
    Unsigned,
    /// Unsigned, or signed in either form.
    Any,
}

/// What happens to relayed messages, stream data and acknowledgements alike, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Percentage that vanishes.
    pub drop: f64,
    /// Percentage that arrives twice.
    pub duplicate: f64,
    /// Percentage that arrives 5 ms late, behind what was sent after it.
    pub reorder: f64,
    /// The client's websocket is reset after so many relayed messages, again and again.
    pub disconnect_every: Option<u64>,
}

/// A limit on the payload of one message from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadCap {
    /// Largest payload that passes, bytes.
    pub bytes: usize,
    /// What happens to a larger one.
    #[serde(default)]
    pub then: Oversize,
}

/// What the gateway does about a message above [`PayloadCap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Oversize {
    /// Close frame 1009.
    #[default]
    Close,
    /// The connection is reset.
    Reset,
    /// The message vanishes.
    Silence,
}

/// `BYTES` or `BYTES:close`, `BYTES:reset`, `BYTES:silence`.
impl FromStr for PayloadCap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (bytes, then) = text.split_once(':').unwrap_or((text, "close"));
        let bytes = bytes.parse().map_err(|_| format!("`{bytes}` is not a number of bytes"))?;
        let then = match then {
            "close" => Oversize::Close,
            "reset" => Oversize::Reset,
            "silence" => Oversize::Silence,
            other => return Err(format!("`{other}` is not one of close, reset, silence")),
        };
        Ok(Self { bytes, then })
    }
}

/// A limit on the messages of a client per second: first `pause_publication`, then the websocket is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateCap {
    /// Messages per second that pass without reaction.
    pub per_second: u32,
    /// What is counted.
    #[serde(default)]
    pub counting: Counting,
    /// How long a client may exceed the rate after it was paused.
    #[serde(rename = "kill_after_ms", with = "millis", default = "RateCap::default_kill_after")]
    pub kill_after: Duration,
}

impl RateCap {
    fn default_kill_after() -> Duration {
        Duration::from_secs(3)
    }
}

/// `N`, `N:data` or `N:all`.
impl FromStr for RateCap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rate, counting) = text.split_once(':').unwrap_or((text, "data"));
        let per_second = rate.parse().map_err(|_| format!("`{rate}` is not a number of messages per second"))?;
        let counting = match counting {
            "data" => Counting::Data,
            "all" => Counting::All,
            other => return Err(format!("`{other}` is not one of data, all")),
        };
        Ok(Self { per_second, counting, kill_after: Self::default_kill_after() })
    }
}

/// What a [`RateCap`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counting {
    /// `input_stream_data` only.
    #[default]
    Data,
    /// Acknowledgements too.
    All,
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// As [`optional_millis`], where 0 is none.
fn some_millis<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    Ok(optional_millis::deserialize(from)?.filter(|duration| !duration.is_zero()))
}

mod optional_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::millis::serialize(duration, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_merges_objects_and_replaces_the_rest() {
        let config = EmulatorConfig { faults: Faults { drop: 1.0, ..Faults::default() }, ..EmulatorConfig::default() };
        let patch = json!({
            "rtt_ms": 50, "link_bytes_per_second": 2_500_000, "faults": {"reorder": 2}, "bye_every_ms": 1000, "agent": "ideal",
            "payload_cap": {"bytes": 2048, "then": "reset"}, "rate_cap": {"per_second": 900, "counting": "all"},
        });
        let patched = config.patched(&patch).expect("known fields");
        assert_eq!(patched.rtt, Duration::from_millis(50));
        assert_eq!(patched.link_bytes_per_second, Some(2_500_000));
        assert_eq!((patched.faults.drop, patched.faults.reorder), (1.0, 2.0));
        assert_eq!(patched.bye_every, Some(Duration::from_secs(1)));
        assert_eq!(patched.payload_cap, Some(PayloadCap { bytes: 2048, then: Oversize::Reset }));
        assert_eq!(patched.rate_cap.map(|cap| cap.kill_after), Some(Duration::from_secs(3)));
        let patch = json!({
            "cut_every_ms": [500, 3000], "max_duration_ms": 5000, "outage": true, "unanswered": ["*:9"],
            "failures": [{"operation": "ResumeSession", "kind": "unavailable", "times": 3}],
        });
        let levers = config.patched(&patch).expect("known fields");
        assert_eq!(levers.cut_every, "500..3000".parse().ok());
        assert_eq!((levers.max_duration, levers.outage), (Some(Duration::from_secs(5)), true));
        assert_eq!(levers.failures, ["ResumeSession:unavailable:3".parse().expect("a failure")]);
        let never = patched.patched(&json!({"idle_timeout_ms": 0})).expect("a number").idle_timeout;
        assert_eq!((levers.idle_timeout, never), (Some(Duration::from_secs(1200)), None));
        assert_eq!(patched.patched(&json!({"payload_cap": null})).expect("a null").payload_cap, None);
    }

    #[test]
    fn unknown_and_fixed_fields_are_named() {
        let config = EmulatorConfig::default();
        for (patch, named) in [
            (json!({"rtt": 1}), "rtt"),
            (json!({"faults": {"drops": 1}}), "drops"),
            (json!({"tls": true}), "tls"),
            (json!({"seed": 1}), "seed"),
            (json!([1]), "object"),
            (json!({"failures": [{"operation": "DescribeSessions", "kind": "internal"}]}), "DescribeSessions"),
            (json!({"cut_every_ms": [2, 1]}), "empty"),
            (json!({"credentials": {}}), "credentials"),
        ] {
            let error = config.patched(&patch).expect_err("refused").to_string();
            assert!(error.contains(named), "{patch}: {error}");
        }
    }

    #[test]
    fn caps_are_read_as_the_switches_write_them() {
        assert_eq!("2048".parse(), Ok(PayloadCap { bytes: 2048, then: Oversize::Close }));
        assert_eq!("2048:silence".parse(), Ok(PayloadCap { bytes: 2048, then: Oversize::Silence }));
        assert!("2048:panic".parse::<PayloadCap>().is_err() && "x".parse::<PayloadCap>().is_err());
        assert_eq!("900:all".parse::<RateCap>().map(|cap| cap.counting), Ok(Counting::All));
        assert!("900:none".parse::<RateCap>().is_err());
    }
}
