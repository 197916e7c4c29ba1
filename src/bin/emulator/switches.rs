//! The switches: every field of the configuration that a command line can say.

use std::{collections::BTreeMap, error::Error, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use serde::de::DeserializeOwned;
use ssmfwd::emulator::{
    AgentKind, ApiFailure, EcsCluster, EmulatorConfig, Faults, Interval, Node, PayloadCap, RateCap, Role, SealFault,
    SessionDocument, SsoConfig, UpgradePolicy,
};

/// What is emulated, and what goes wrong.
#[derive(Debug, Args)]
pub(super) struct Switches {
    /// Port on 127.0.0.1; 0 picks a free one.
    #[arg(long, default_value_t = 0, value_name = "N")]
    port: u16,
    /// Serve https and wss, under an authority made for this run (SSL_CERT_FILE, AWS_CA_BUNDLE).
    #[arg(long)]
    tls: bool,
    /// Seed of ids, tokens and faults: the same seed, the same run.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Region that clients must sign for.
    #[arg(long, default_value = "us-east-1", value_name = "REGION")]
    region: String,
    /// Who has the credentials in `env`.
    #[arg(long, default_value = EmulatorConfig::DEFAULT_IDENTITY, value_name = "ARN", help_heading = "Identities")]
    identity: String,
    /// A role that can be assumed; JSON may hold `trusts`, `external_id`, `mfa`, `max_duration` and `web_identity`. Can
    /// be repeated.
    #[arg(long = "role", value_name = "ARN[=JSON]", value_parser = parse_role, help_heading = "Identities")]
    roles: Vec<(String, Role)>,
    /// A code that an MFA device shows; each is good once. Can be repeated.
    #[arg(long = "mfa-code", value_name = "SERIAL=CODE", value_parser = parse_mfa_code, help_heading = "Identities")]
    mfa_codes: Vec<(String, String)>,
    /// A target whose agent is connected; can be repeated. All others are TargetNotConnected.
    #[arg(long = "target", default_value = EmulatorConfig::DEFAULT_TARGET, value_name = "ID", help_heading = "Agent")]
    targets: Vec<String>,
    /// A managed node of the inventory, as JSON such as `{"id": "i-0a", "name": "bastion"}`, or a file with one or a
    /// list of them. Can be repeated; replaces the default, one node named bastion.
    #[arg(long = "node", value_name = "JSON|FILE", help_heading = "Agent")]
    nodes: Vec<String>,
    /// An ECS cluster with its services and tasks, as JSON or a file in the same way.
    #[arg(long = "ecs", value_name = "JSON|FILE", help_heading = "Agent")]
    ecs: Vec<String>,
    /// No agent is connected: every target is TargetNotConnected.
    #[arg(long, help_heading = "Agent")]
    offline: bool,
    /// A destination that never answers a dial; `*` for any host or any port. Can be repeated.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_destination, help_heading = "Agent")]
    unanswered: Vec<String>,
    /// After so long such a dial fails.
    #[arg(long, default_value_t = 130, value_name = "SECONDS", help_heading = "Agent")]
    dial_timeout: u64,
    /// `realistic`: pacing (0.7 MB/s down per session) and serial dialling as the genuine agent; `ideal`: without.
    #[arg(long, default_value = "realistic", value_name = "KIND", help_heading = "Agent")]
    agent: AgentArg,
    /// The version it announces. Up to 3.0.196.0 it carries one connection at a time, without multiplexing.
    #[arg(long, default_value_t = EmulatorConfig::default().agent_version, value_name = "V",
        value_parser = parse_agent_version, help_heading = "Agent")]
    agent_version: String,
    /// A session document beside those that AWS publishes, or in the place of one, from a JSON file with `sessionType`
    /// (Port without it), `parameters` and `properties`.
    #[arg(long = "document", value_name = "NAME=FILE", value_parser = parse_document, help_heading = "Agent")]
    documents: Vec<(String, PathBuf)>,
    /// The agent ends every session right after the handshake, with this text.
    #[arg(long, value_name = "TEXT", help_heading = "Agent")]
    agent_refuses: Option<String>,
    /// The session type that the agent names, whatever it serves.
    #[arg(long, value_name = "TYPE", help_heading = "Agent")]
    session_type: Option<String>,
    /// What runs in shell sessions, and gets the commands of those on a pty after `-c`.
    #[arg(long, default_value = "sh", value_name = "PROGRAM", help_heading = "Shells")]
    shell: String,
    /// Input of shells is changed as on Windows: line feeds become carriage returns in a payload without CR LF.
    #[arg(long, help_heading = "Shells")]
    windows: bool,
    /// Shell sessions are sealed with data keys of this KMS key, an id, an alias or an ARN. It exists.
    #[arg(long, value_name = "KEY", help_heading = "Shells")]
    kms_key: Option<String>,
    /// The agent asks for encryption in port sessions too, which the genuine one never does.
    #[arg(long, requires = "kms_key", help_heading = "Shells")]
    kms_in_ports: bool,
    /// The agent refuses clients that do not acknowledge its KMS challenge.
    #[arg(long, help_heading = "Shells")]
    require_kms_challenge: bool,
    /// The agent is not allowed to decrypt data keys.
    #[arg(long, help_heading = "Shells")]
    agent_kms_denied: bool,
    /// One wrong seal in each sealed session: tampered, replayed, truncated, plain or wrong_key behind so many right
    /// ones, wrong_challenge, or no_challenge.
    #[arg(long, value_name = "KIND[:AFTER]", help_heading = "Shells")]
    seal_fault: Option<SealFault>,
    /// Data messages right after the handshake that are refused without acknowledgement.
    #[arg(long, value_name = "N", help_heading = "Agent")]
    refuse_early: Option<u32>,
    /// Data messages right after the handshake that are acknowledged and thrown away.
    #[arg(long, value_name = "N", help_heading = "Agent")]
    swallow_early: Option<u32>,
    /// Round-trip time that the client sees, milliseconds.
    #[arg(long, default_value_t = 0, value_name = "MS", help_heading = "Gateway")]
    rtt: u64,
    /// What the client's link carries in either direction, bytes per second; more waits in a deep queue. Sessions share
    /// it.
    #[arg(long, value_name = "BYTES", help_heading = "Gateway")]
    link_bytes_per_second: Option<u64>,
    /// Largest payload of a client's message, bytes; a larger one is answered by close frame 1009, a reset, or silence.
    #[arg(long, value_name = "BYTES[:close|reset|silence]", help_heading = "Gateway")]
    payload_cap: Option<PayloadCap>,
    /// Messages per second from a client: above it, it is paused and three seconds later cut. Counts stream data, or
    /// all.
    #[arg(long, value_name = "N[:data|all]", help_heading = "Gateway")]
    rate_cap: Option<RateCap>,
    /// Close each websocket with `1000 Bye` after so long.
    #[arg(long, value_name = "SECONDS", help_heading = "Gateway")]
    bye_every: Option<u64>,
    /// End a session without stream data after so long; 0: never.
    #[arg(long, default_value_t = 1200, value_name = "SECONDS", help_heading = "Gateway")]
    idle_timeout: u64,
    /// End a session so long after its start.
    #[arg(long, value_name = "SECONDS", help_heading = "Gateway")]
    max_duration: Option<u64>,
    /// After a client was paused it is never told to start again.
    #[arg(long, help_heading = "Gateway")]
    lose_start_publication: bool,
    /// Where StreamUrls point, if not to where the API was asked.
    #[arg(long, value_name = "wss://HOST[:PORT]", help_heading = "Gateway")]
    stream_base: Option<String>,
    /// Accept only upgrades without signature.
    #[arg(long, group = "upgrade", help_heading = "Gateway")]
    unsigned_only: bool,
    /// Accept only signatures that read a `+` of the StreamUrl as itself, not as a space.
    #[arg(long, group = "upgrade", help_heading = "Gateway")]
    literal_plus_only: bool,
    /// Accept upgrades with a signature of either form, or with none.
    #[arg(long, group = "upgrade", help_heading = "Gateway")]
    allow_unsigned: bool,
    /// Accept a first message whose ids are not UUIDs.
    #[arg(long, help_heading = "Gateway")]
    any_ids: bool,
    /// Relayed messages that vanish.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT", value_parser = parse_percent, help_heading = "Faults")]
    drop: f64,
    /// Relayed messages that arrive twice.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT", value_parser = parse_percent, help_heading = "Faults")]
    duplicate: f64,
    /// Relayed messages that arrive 5 ms late, behind later ones.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT", value_parser = parse_percent, help_heading = "Faults")]
    reorder: f64,
    /// Reset the client's websocket after so many relayed messages, again and again.
    #[arg(long, value_name = "MESSAGES", help_heading = "Faults")]
    disconnect_every: Option<u64>,
    /// Reset the client's websocket at a random moment in this interval after it was opened, again and again.
    #[arg(long, value_name = "MS..MS", help_heading = "Faults")]
    cut_every: Option<Interval>,
    /// The same for the agent's websocket.
    #[arg(long, value_name = "MS..MS", help_heading = "Faults")]
    agent_cut_every: Option<Interval>,
    /// Answer this operation with AccessDeniedException; OpenDataChannel is the signed upgrade. Can be repeated.
    #[arg(long = "deny", value_name = "OPERATION", help_heading = "Faults")]
    denied: Vec<String>,
    /// Answer every other operation so; OpenDataChannel is to be named too. Can be repeated.
    #[arg(long = "allow-only", value_name = "OPERATION", help_heading = "Faults")]
    allowed: Vec<String>,
    /// A policy forbids this document with an explicit deny. Can be repeated.
    #[arg(long = "forbid-document", value_name = "NAME", help_heading = "Faults")]
    forbidden_documents: Vec<String>,
    /// The credentials have expired.
    #[arg(long, help_heading = "Faults")]
    expired_credentials: bool,
    /// Answer the first so many SSM API calls with ThrottlingException.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Faults")]
    throttle: u32,
    /// Let an operation fail, such as StartSession, OpenDataChannel, DescribeInstanceInformation, GetDocument,
    /// DescribeTasks, ExecuteCommand, GenerateDataKey, CreateToken, AssumeRole, or Any of the three calls of a session: throttled, internal,
    /// unavailable, unavailable_empty, expired_token, access_denied, explicit_deny, session_policy,
    /// permissions_boundary, service_control_policy, vpc_endpoint_policy, clock_skew, wrong_keys, target_not_connected,
    /// invalid_document, not_for_sessions, remote_hosts, session_limit, does_not_exist, and for GenerateDataKey
    /// key_not_found or key_disabled; the next so many times, or always. Can be repeated.
    #[arg(long = "fail", value_name = "OPERATION:KIND[:TIMES]", help_heading = "Faults")]
    failures: Vec<ApiFailure>,
    /// Answer the first so many ResumeSession calls with a token that the gateway refuses.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Faults")]
    stale_tokens: u32,
    /// The login pages of IAM Identity Center press Allow by themselves, by a script in the browser.
    #[arg(long, help_heading = "IAM Identity Center")]
    auto_approve: bool,
    /// Every device that asks for a code is allowed, without anybody typing it in.
    #[arg(long, help_heading = "IAM Identity Center")]
    auto_device: bool,
    /// How long access tokens of IAM Identity Center are good.
    #[arg(long, default_value_t = SsoConfig::default().token_lifetime.as_secs(), value_name = "SECONDS",
        help_heading = "IAM Identity Center")]
    token_lifetime: u64,
    /// How far the service's clock is ahead of this machine's.
    #[arg(long, default_value_t = 0, value_name = "SECONDS", allow_negative_numbers = true, help_heading = "Faults")]
    clock_skew: i64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AgentArg {
    Realistic,
    Ideal,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err(format!("`{text}` is not a number from 0 to 100")),
    }
}

fn parse_destination(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && (port == "*" || port.parse::<u16>().is_ok()) => Ok(text.into()),
        _ => Err(format!("`{text}` is not HOST:PORT")),
    }
}

fn parse_document(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("expected NAME=FILE")?;
    Ok((name.into(), file.into()))
}

fn parse_role(text: &str) -> Result<(String, Role), String> {
    let (arn, role) = text.split_once('=').unwrap_or((text, "{}"));
    let role = serde_json::from_str(role).map_err(|error| error.to_string())?;
    Ok((arn.into(), role))
}

fn parse_mfa_code(text: &str) -> Result<(String, String), String> {
    let (serial, code) = text.rsplit_once('=').ok_or("expected SERIAL=CODE")?;
    Ok((serial.into(), code.into()))
}

/// One value or a list of them in each text, which is JSON itself or names a file with it.
fn read_all<T: DeserializeOwned>(switch: &str, texts: &[String]) -> Result<Vec<T>, Box<dyn Error>> {
    let mut all = Vec::new();
    for text in texts {
        let read = || -> Result<Vec<T>, Box<dyn Error>> {
            let json =
                if text.trim_start().starts_with(['{', '[']) { text.clone() } else { std::fs::read_to_string(text)? };
            Ok(match serde_json::from_str(&json)? {
                serde_json::Value::Array(list) => {
                    list.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?
                }
                one => vec![serde_json::from_value(one)?],
            })
        };
        all.extend(read().map_err(|error| format!("--{switch} {text}: {error}"))?);
    }
    Ok(all)
}

impl Switches {
    pub(super) fn into_config(self) -> Result<EmulatorConfig, Box<dyn Error>> {
        let mut mfa_devices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (serial, code) in self.mfa_codes {
            mfa_devices.entry(serial).or_default().push(code);
        }
        let mut documents = BTreeMap::new();
        for (name, file) in self.documents {
            let read = |file: &PathBuf| -> Result<SessionDocument, Box<dyn Error>> {
                Ok(serde_json::from_slice(&std::fs::read(file)?)?)
            };
            let document = read(&file).map_err(|error| format!("document {}: {error}", file.display()))?;
            documents.insert(name, document);
        }
        let mut nodes = read_all::<Node>("node", &self.nodes)?;
        if self.nodes.is_empty() && self.targets == [EmulatorConfig::DEFAULT_TARGET] {
            nodes = EmulatorConfig::default().nodes;
        }
        let upgrade = match (self.unsigned_only, self.literal_plus_only, self.allow_unsigned) {
            (true, ..) => UpgradePolicy::Unsigned,
            (_, true, _) => UpgradePolicy::SignedLiteralPlus,
            (.., true) => UpgradePolicy::Any,
            _ => UpgradePolicy::Signed,
        };
        Ok(EmulatorConfig {
            port: self.port,
            tls: self.tls,
            seed: self.seed,
            region: self.region,
            identity: self.identity,
            roles: self.roles.into_iter().collect(),
            mfa_devices,
            nodes,
            ecs: read_all::<EcsCluster>("ecs", &self.ecs)?,
            targets: self.targets,
            offline: self.offline,
            unanswered: self.unanswered,
            dial_timeout: Duration::from_secs(self.dial_timeout),
            documents,
            agent: match self.agent {
                AgentArg::Realistic => AgentKind::Realistic,
                AgentArg::Ideal => AgentKind::Ideal,
            },
            agent_version: self.agent_version,
            refuse_early: self.refuse_early,
            swallow_early: self.swallow_early,
            rtt: Duration::from_millis(self.rtt),
            link_bytes_per_second: self.link_bytes_per_second,
            faults: Faults {
                drop: self.drop,
                duplicate: self.duplicate,
                reorder: self.reorder,
                disconnect_every: self.disconnect_every,
            },
            payload_cap: self.payload_cap,
            rate_cap: self.rate_cap,
            bye_every: self.bye_every.map(Duration::from_secs),
            idle_timeout: (self.idle_timeout > 0).then(|| Duration::from_secs(self.idle_timeout)),
            max_duration: self.max_duration.map(Duration::from_secs),
            lose_start_publication: self.lose_start_publication,
            cut_every: self.cut_every,
            agent_cut_every: self.agent_cut_every,
            upgrade,
            any_ids: self.any_ids,
            denied: self.denied,
            allowed: (!self.allowed.is_empty()).then_some(self.allowed),
            forbidden_documents: self.forbidden_documents,
            agent_refuses: self.agent_refuses,
            session_type: self.session_type,
            shell: self.shell,
            windows: self.windows,
            kms_key: self.kms_key,
            kms_in_ports: self.kms_in_ports,
            require_kms_challenge: self.require_kms_challenge,
            agent_kms_denied: self.agent_kms_denied,
            seal_fault: self.seal_fault,
            stream_base: self.stream_base,
            expired_credentials: self.expired_credentials,
            throttle: self.throttle,
            failures: self.failures,
            stale_tokens: self.stale_tokens,
            clock_skew: self.clock_skew,
            sso: SsoConfig {
                auto_approve: self.auto_approve,
                auto_device: self.auto_device,
                token_lifetime: Duration::from_secs(self.token_lifetime),
                ..SsoConfig::default()
            },
            ..EmulatorConfig::default()
        })
    }
}

fn parse_agent_version(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split('.').collect();
    if parts.len() == 4 && parts.iter().all(|part| part.parse::<u32>().is_ok()) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a version of four numbers, such as 3.3.987.0"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::{Cli, Job};

    fn config(switches: &[&str]) -> EmulatorConfig {
        let cli = Cli::try_parse_from(["ssmfwd-emulator", "serve"].iter().chain(switches)).expect("valid switches");
        let Job::Serve(switches) = cli.command else { panic!("not serve") };
        switches.into_config().expect("a configuration")
    }

    #[test]
    fn without_switches_it_is_the_default() {
        Cli::command().debug_assert();
        assert_eq!(config(&[]), EmulatorConfig::default());
    }

    #[test]
    fn switches_reach_their_fields() {
        let config = config(&[
            "--agent",
            "ideal",
            "--rtt",
            "50",
            "--target",
            "i-1",
            "--target",
            "mi-2",
            "--payload-cap",
            "2048:reset",
            "--rate-cap",
            "900:all",
            "--bye-every",
            "3",
            "--literal-plus-only",
            "--drop",
            "2.5",
            "--refuse-early",
            "1",
            "--deny",
            "ResumeSession",
            "--allow-only",
            "StartSession",
            "--clock-skew",
            "-400",
            "--idle-timeout",
            "0",
        ]);
        assert_eq!((config.agent, config.rtt), (AgentKind::Ideal, Duration::from_millis(50)));
        assert_eq!(config.targets, ["i-1", "mi-2"]);
        assert_eq!((config.payload_cap, config.rate_cap), ("2048:reset".parse().ok(), "900:all".parse().ok()));
        assert_eq!((config.bye_every, config.idle_timeout), (Some(Duration::from_secs(3)), None));
        assert_eq!((config.upgrade, config.faults.drop), (UpgradePolicy::SignedLiteralPlus, 2.5));
        assert_eq!((config.refuse_early, config.clock_skew), (Some(1), -400));
        assert_eq!((config.denied, config.allowed), (vec!["ResumeSession".into()], Some(vec!["StartSession".into()])));
    }

    #[test]
    fn switches_for_the_life_of_a_tunnel_reach_their_fields() {
        let switches = "--offline --unanswered *:9 --dial-timeout 2 --max-duration 3 --lose-start-publication \
                        --cut-every 500..3000 --agent-cut-every 700 --fail ResumeSession:unavailable:2 \
                        --fail Any:throttled --stale-tokens 4 --auto-approve --auto-device --token-lifetime 60";
        let config = config(&switches.split_whitespace().collect::<Vec<_>>());
        assert!(config.offline && config.lose_start_publication);
        assert_eq!((config.unanswered, config.dial_timeout), (vec!["*:9".to_owned()], Duration::from_secs(2)));
        assert_eq!(config.max_duration, Some(Duration::from_secs(3)));
        assert_eq!((config.cut_every, config.agent_cut_every), ("500..3000".parse().ok(), "700".parse().ok()));
        assert!(config.sso.auto_approve && config.sso.auto_device);
        assert_eq!(config.sso.token_lifetime, Duration::from_secs(60));
        let failures = ["ResumeSession:unavailable:2", "Any:throttled"].map(|text| text.parse().expect("a failure"));
        assert_eq!((config.failures, config.stale_tokens), (failures.to_vec(), 4));
    }

    #[test]
    fn switches_for_shells_reach_their_fields() {
        let switches = "--shell bash --windows --kms-key alias/sessions --kms-in-ports --require-kms-challenge \
                        --agent-kms-denied --seal-fault tampered:2 --fail GenerateDataKey:key_not_found:1";
        let config = config(&switches.split_whitespace().collect::<Vec<_>>());
        assert_eq!((config.shell.as_str(), config.kms_key.as_deref()), ("bash", Some("alias/sessions")));
        assert!(config.windows && config.kms_in_ports && config.require_kms_challenge && config.agent_kms_denied);
        assert_eq!(config.seal_fault, "tampered:2".parse().ok());
        assert_eq!(config.failures, ["GenerateDataKey:key_not_found:1".parse().expect("a failure")]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for switches in [
            &["serve", "--unsigned-only", "--literal-plus-only"][..],
            &["serve", "--drop", "101"],
            &["serve", "--unanswered", "host"],
            &["serve", "--cut-every", "3..2"],
            &["serve", "--fail", "ResumeSession"],
            &["serve", "--document", "no-file"],
            &["serve", "--kms-in-ports"],
            &["serve", "--seal-fault", "sealed"],
            &["exec"],
            &["exec", "command-without-dashes"],
        ] {
            assert!(Cli::try_parse_from(["ssmfwd-emulator"].iter().chain(switches)).is_err(), "{switches:?}");
        }
    }
}
