//! Every row of the error table, provoked: what is said, what helps, and the status. A unit test beside the table checks
//! that none is missing here.

mod credentials;
mod encryption;
mod targets;

use std::time::Duration;

use rustix::process::Signal;
use ssmfwd::emulator::{Action, EmulatorConfig, FailureKind, Operation, UpgradePolicy};
use tokio::process::Command;

use crate::harness::{Answer, Destination, Ended, Program, Proxy, RefusingPort, World, failing};

/// What a run with one forward comes to.
struct Expected {
    symptom: &'static str,
    status: i32,
    /// In the message or the causes.
    says: &'static str,
    /// In the hint.
    helps: &'static str,
}

const fn expected(symptom: &'static str, status: i32, says: &'static str, helps: &'static str) -> Expected {
    Expected { symptom, status, says, helps }
}

impl Expected {
    /// The one error that was told, to people and to programs.
    fn check(&self, ended: Ended) -> Ended {
        let Self { symptom, status, says, helps } = *self;
        let ended = ended.expect_status(status);
        let errors = ended.events_named("error");
        let [error] = errors[..] else { panic!("{symptom}: {}\n{}", ended.stdout, ended.stderr) };
        assert_eq!((&error["symptom"], &error["status"]), (&symptom.into(), &status.into()), "{}", ended.stderr);
        let causes = error["causes"].as_array().expect("causes").iter();
        let said: Vec<_> = std::iter::once(&error["message"]).chain(causes).filter_map(|text| text.as_str()).collect();
        assert!(said.iter().any(|text| text.contains(says)), "{symptom}: no {says:?} in {said:#?}");
        let hint = error["hint"].as_str().unwrap_or_default();
        assert!(hint.contains(helps), "{symptom}: no {helps:?} in {hint:?}");
        for text in said.iter().chain([&hint]) {
            assert!(ended.stderr.contains(text), "{symptom}: people are not told {text:?}:\n{}", ended.stderr);
        }
        ended
    }
}

/// A forward to a port of this machine that nobody needs.
const FORWARD: &str = "0:127.0.0.1:9";

fn command(world: &World, arguments: &[&str]) -> Command {
    world.command(&[&["--output", "json", "-t", World::TARGET], arguments].concat())
}

async fn fails(world: World, arguments: &[&str], expected: Expected) {
    let ended = Program::start(command(&world, arguments)).exit().await;
    expected.check(ended);
    world.settled().await;
}

/// One emulated AWS after another, each with something wrong.
async fn each(rows: impl IntoIterator<Item = (fn(&mut EmulatorConfig), Expected)>) {
    for (change, expected) in rows {
        fails(World::with(change), &[FORWARD], expected).await;
    }
}

fn start_fails(config: &mut EmulatorConfig, kind: FailureKind) {
    config.failures = failing(Operation::StartSession, kind);
}

#[tokio::test]
async fn addresses_of_this_machine() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = format!("127.0.0.1:{}:db:9", listener.local_addr().expect("an address").port());
    for (forward, row) in [
        (&taken[..], expected("address_in_use", 3, "cannot listen on 127.0.0.1:", "take another LOCAL")),
        ("192.0.2.1:0:db:9", expected("address_not_here", 3, "192.0.2.1", "an address of this machine")),
        ("[fe80::1]:0:db:9", expected("address_link_local", 3, "fe80::1", "needs a scope")),
    ] {
        fails(World::ideal(), &[forward], row).await;
    }
    drop(listener);
}

/// Where tests run as root, without the capability that makes it one here.
#[tokio::test]
async fn ports_that_need_privileges() {
    let row = expected("address_privileged", 3, "cannot listen on 127.0.0.1:1", "1024 or more");
    let world = World::ideal();
    let ours = command(&world, &["127.0.0.1:1:db:9"]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service"]);
    command.arg(ours.as_std().get_program()).args(ours.as_std().get_args());
    command.env_clear().env("PATH", "/usr/bin:/bin").envs(world.emulator.env());
    let is_root = rustix::process::geteuid().is_root();
    let everybody = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if everybody.is_ok_and(|start| start.trim().parse().is_ok_and(|start: u16| start <= 1)) {
        return; // no such privilege here
    }
    row.check(Program::start(if is_root { command } else { ours }).exit().await);
    world.settled().await;
}

/// On a machine of our own, with a single port to give away, which the first forward takes on one of the two addresses.
#[tokio::test]
async fn no_port_on_both_addresses() {
    let world = World::ideal();
    let ours = command(&world, &["[::1]:40000:db:9", "0:db:9"]);
    let mut command = Command::new("unshare");
    let script =
        "ip link set lo up && echo '40000 40000' >/proc/sys/net/ipv4/ip_local_port_range && exec \"$0\" \"$@\"";
    command.args(["--map-root-user", "--net", "sh", "-c", script]);
    command.arg(ours.as_std().get_program()).args(ours.as_std().get_args());
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(world.emulator.env());
    let row = expected(
        "address_no_pair",
        3,
        "found no port that is free on both 127.0.0.1 and ::1",
        "name one address, as in 127.0.0.1:0:HOST:PORT",
    );
    row.check(Program::start(command).exit().await);
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn unix_sockets() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let listener = std::os::unix::net::UnixListener::bind(path("taken")).expect("a socket");
    std::fs::write(path("file"), "").expect("a file");
    let long = path(&"x".repeat(120));
    for (path, row) in [
        (&path("taken")[..], expected("socket_in_use", 3, "taken", "take another PATH")),
        (&path("file"), expected("socket_is_none", 3, "not a socket", "nothing but unused sockets")),
        (&path("none/socket"), expected("socket_no_folder", 3, "none/socket", "the folder of PATH must exist")),
        ("/sys/socket", expected("socket_denied", 3, "/sys/socket", "that you may write to")),
        (&long, expected("socket_too_long", 3, "xxx", "shorter PATH")),
        // A file where a folder should be.
        (&path("file/socket"), expected("address_failed", 3, "Not a directory", "")),
    ] {
        if path.starts_with("/sys/") && !cfg!(target_os = "linux") {
            continue;
        }
        fails(World::ideal(), &[&format!("{path}:db:9")], row).await;
    }
    drop(listener);
}

#[tokio::test]
async fn configurations() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    std::fs::write(&config, "[profile dev]\nregion = us-east-1\n[profile broken]\nrole_arn = x\n").expect("a file");
    let world = World::ideal();
    let with_file = |arguments: &[&str]| {
        let mut command = command(&world, &[&[FORWARD], arguments].concat());
        command.env("AWS_CONFIG_FILE", &config);
        command
    };
    let mut no_region = command(&world, &[FORWARD]);
    no_region.env_remove("AWS_REGION").env_remove("AWS_DEFAULT_REGION");
    let row = expected("no_region", 2, "no region is known", "--region eu-west-1");
    row.check(Program::start(no_region).exit().await);

    let row = expected("no_such_profile", 2, "there is no profile `prod`", "list-profiles");
    row.check(Program::start(with_file(&["--profile", "prod"])).exit().await);

    let row = expected(
        "broken_profile",
        2,
        "must contain `source_profile` or `credential_source`",
        "correct the profile broken",
    );
    row.check(Program::start(with_file(&["--profile", "broken"])).exit().await);

    let row = expected("bad_configuration", 2, "the endpoint URL is not of the form", "--endpoint-url");
    row.check(Program::start(with_file(&["--endpoint-url", "http://me:hunter2@host"])).exit().await);
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn the_way_to_the_api() {
    let nobody = RefusingPort::new();
    let plain = World::ideal();
    let of_plain = plain.emulator.endpoint_url().replace("http://", "https://");
    for (url, row) in [
        (
            "http://ssm.nowhere.invalid",
            expected("api_unresolved", 1, "this network's DNS does not know AWS", "its DNS, the region"),
        ),
        (&of_plain[..], expected("api_tls", 1, "speaks no TLS", "AWS_CA_BUNDLE")),
        (
            &format!("http://127.0.0.1:{}", nobody.port),
            expected("api_unreachable", 1, "cannot be reached", "check the network"),
        ),
    ] {
        fails(World::ideal(), &[FORWARD, "--endpoint-url", url], row).await;
    }
    plain.settled().await;
}

#[tokio::test]
async fn proxies() {
    let (nobody, strict) = (RefusingPort::new(), Proxy::start(Answer::Only("Basic bWU6bWU=")).await);
    for (url, row) in [
        (
            format!("http://127.0.0.1:{}", nobody.port),
            expected("proxy_unreachable", 1, "cannot connect to the proxy http://127.0.0.1:", "check HTTPS_PROXY"),
        ),
        (strict.url(), expected("proxy_refused", 1, "HTTP status 407", "http://USER:PASSWORD@HOST:PORT")),
    ] {
        let world = World::with(|config| config.tls = true);
        let mut command = command(&world, &[FORWARD]);
        command.env("HTTPS_PROXY", url).env_remove("NO_PROXY").env_remove("no_proxy");
        row.check(Program::start(command).exit().await);
        assert!(world.settled().await.calls.is_empty());
    }
}

#[tokio::test]
async fn what_the_api_answers() {
    each([
        (
            (|config| start_fails(config, FailureKind::Throttled)) as fn(&mut EmulatorConfig),
            expected("throttled", 1, "Rate exceeded", "too many calls"),
        ),
        (
            |config| start_fails(config, FailureKind::Internal),
            expected("service_failed", 1, "InternalServerError", "try again in a minute"),
        ),
        (
            |config| config.stream_base = Some("wss://evil.example".into()),
            expected("bad_answer", 1, "is not trusted", "in the place of AWS"),
        ),
        (
            |config| config.denied = vec!["StartSession".into()],
            expected(
                "start_denied",
                5,
                "because no identity-based policy allows the ssm:StartSession action",
                "and on arn:aws:ssm:*::document/AWS-StartPortForwardingSessionToRemoteHost",
            ),
        ),
        (
            |config| start_fails(config, FailureKind::ExplicitDeny),
            expected(
                "explicit_deny",
                5,
                "an identity-based policy forbids ssm:StartSession on arn:aws:ssm:us-east-1:123456789012:* (an explicit \
                 deny), which no other permission overrules",
                "another Allow does not help",
            ),
        ),
        (
            |config| start_fails(config, FailureKind::ServiceControlPolicy),
            expected("explicit_deny", 5, "a service control policy forbids ssm:StartSession", "another Allow"),
        ),
        (
            |config| config.forbidden_documents = vec!["AWS-StartPortForwardingSessionToRemoteHost".into()],
            expected(
                "remote_hosts_forbidden",
                5,
                "forbids forwards to other hosts (an explicit deny of AWS-StartPortForwardingSessionToRemoteHost)",
                "the target itself (LOCAL:PORT)",
            ),
        ),
        (
            |config| start_fails(config, FailureKind::SessionPolicy),
            expected("limited_by_policy", 5, "a session policy limits", "ssm:StartSession must be allowed there too"),
        ),
        (
            |config| start_fails(config, FailureKind::PermissionsBoundary),
            expected("limited_by_policy", 5, "a permissions boundary limits", "(a permissions boundary)"),
        ),
        (
            |config| start_fails(config, FailureKind::VpcEndpointPolicy),
            expected("limited_by_policy", 5, "a VPC endpoint policy limits", "(a VPC endpoint policy)"),
        ),
        (
            |config| start_fails(config, FailureKind::NotForSessions),
            expected("document_not_for_sessions", 6, "but not one for sessions", "a document of type Session"),
        ),
        (
            |config| start_fails(config, FailureKind::RemoteHosts),
            expected("remote_hosts_unsupported", 6, "too old for forwards to other hosts", "3.1.1188.0 or newer"),
        ),
        (
            |config| start_fails(config, FailureKind::SessionLimit),
            expected("session_limit", 1, "The maximum number of sessions", "end sessions that are not needed"),
        ),
        (
            |config| start_fails(config, FailureKind::DoesNotExist),
            expected("session_gone", 7, "does not exist", "try again"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn documents_and_their_parameters() {
    let row = expected("no_document", 6, "No-Such", "the document must exist in this account and region");
    fails(World::ideal(), &[FORWARD, "--document", "No-Such"], row).await;
    let row = expected("invalid_request", 6, "colour", "every --parameter");
    fails(World::ideal(), &[FORWARD, "--parameter", "colour=red"], row).await;
}

#[tokio::test]
async fn the_way_to_the_gateway() {
    let nobody = RefusingPort::new();
    let nonsense = Destination::farewell(b"SSH-2.0-no websocket\r\n").await;
    let plain = World::ideal();
    let of_plain = plain.emulator.endpoint_url().replace("http://", "wss://");
    for (base, row) in [
        (
            "wss://ssmmessages.us-nowhere-1.amazonaws.com".to_owned(),
            expected("gateway_unresolved", 1, "DNS knows ssm and not ssmmessages", "give that name an address"),
        ),
        (
            format!("ws://127.0.0.1:{}", nobody.port),
            expected("gateway_unreachable", 1, "cannot connect to 127.0.0.1:", "port 443: check firewall and proxy"),
        ),
        (of_plain, expected("gateway_tls", 1, "TLS handshake with 127.0.0.1:", "opens TLS must leave 127.0.0.1:")),
        (
            format!("ws://127.0.0.1:{}", nonsense.port),
            expected("upgrade_broken", 1, "websocket handshake with 127.0.0.1:", "may not let websockets through"),
        ),
    ] {
        let world = World::with(|config| config.stream_base = Some(base));
        fails(world, &[FORWARD], row).await;
    }
    plain.settled().await;
    each([
        (
            (|config| config.failures = failing(Operation::OpenDataChannel, FailureKind::Unavailable))
                as fn(&mut EmulatorConfig),
            expected("upgrade_refused", 1, "HTTP status 503", "try again in a minute"),
        ),
        (
            |config| config.denied = vec!["OpenDataChannel".into()],
            expected(
                "data_channel_denied",
                5,
                "accepts neither the signature nor an unsigned request",
                "ssmmessages:OpenDataChannel on arn:aws:ssm:us-east-1:*:session/*",
            ),
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_takes_too_long() {
    let world = World::with(|config| config.agent_start = Some(Duration::from_secs(3600)));
    let row = expected("agent_late", 1, "the agent did not complete the handshake", "--connect-timeout");
    fails(world, &[FORWARD, "--connect-timeout", "1"], row).await;

    // Takes the upgrade and says nothing.
    let silent = Destination::sink().await;
    let world = World::with(|config| config.stream_base = Some(format!("ws://127.0.0.1:{}", silent.port)));
    let row = expected("not_ready", 1, "not ready within 1 s", "allow more time");
    fails(world, &[FORWARD, "--connect-timeout", "1"], row).await;

    let refusing = RefusingPort::new();
    let world = World::with(|config| config.agent_version = "3.0.150.0".into());
    let row = expected(
        "destination_unacknowledged",
        1,
        "refused the connection or did not answer",
        "listens and is reachable",
    );
    fails(world, &[&format!("0:127.0.0.1:{}", refusing.port), "--connect-timeout", "1"], row).await;
}

#[tokio::test]
async fn what_the_agent_says() {
    for (text, row) in [
        (
            "Plugin with name Port is not supported by this version of ssm agent, please update to latest version. Step \
             name: Port",
            expected("agent_too_old", 6, "Plugin with name Port", "update the SSM agent of i-0123456789abcdef0"),
        ),
        (
            "Unable to connect to specified port: dial tcp: lookup db.nowhere on 10.0.0.2:53: no such host",
            expected("host_unresolved", 6, "the target cannot resolve the name", "a name that the target knows"),
        ),
        (
            "Unable to connect to specified port: dial tcp 127.0.0.1:9: connect: connection refused",
            expected("destination_unreachable", 6, "connection refused", "check that 127.0.0.1:9 listens"),
        ),
        (
            "----------ERROR-------\nEncountered error while initiating handshake. Fetching data key failed: Unable to \
             retrieve data key, Error when decrypting data key AccessDeniedException",
            expected("encryption_denied", 6, "may not use the KMS key", "kms:Decrypt"),
        ),
        (
            "----------ERROR-------\nSetting up data channel with id x failed",
            expected("agent_failed", 6, "Setting up data channel", "the agent refused: its version"),
        ),
    ] {
        let world = World::with(|config| config.agent_refuses = Some(text.into()));
        fails(world, &[FORWARD], row).await;
    }
    let row = expected("forbidden_address", 6, "169.254.169.254 is forbidden", "on its deny list");
    fails(World::ideal(), &["0:169.254.169.254:80"], row).await;
}

#[tokio::test]
async fn handshakes() {
    each([
        (
            (|config| (config.kms_key, config.kms_in_ports) = (Some("alias/sessions".into()), true))
                as fn(&mut EmulatorConfig),
            expected("encryption_asked", 6, "KMSEncryption is not supported", "ssmfwd shell"),
        ),
        (
            |config| config.session_type = Some("Standard_Stream".into()),
            expected("not_a_port_session", 6, "starts a shell or a command", "session type Port with --document"),
        ),
    ])
    .await;
}

/// The agent refuses what comes early, so that the session does not get ready.
#[tokio::test]
async fn an_end_before_the_session_is_ready() {
    let world = World::with(|config| config.refuse_early = Some(u32::MAX));
    let program = Program::start(command(&world, &[FORWARD]));
    world.until("refused messages", |state| state.sessions.values().any(|session| session.up.messages > 3)).await;
    world.emulator.act(Action::ChannelClosed { output: "maintenance".into() });
    let row = expected("ended_early", 7, "maintenance", "administers Session Manager");
    row.check(program.exit().await);
    world.settled().await;
}

/// A program with lines for people, ready.
async fn for_people(world: &World, port: u16) -> Program {
    let program = world.start_for_people(port);
    program.line("ready in").await;
    program
}

/// The port of the first address in the line about them.
async fn connect(program: &Program) -> tokio::net::TcpStream {
    let line = program.line(" -> ").await;
    let address = line.trim_start_matches("ssmfwd: ").split(',').next().expect("an address").to_owned();
    tokio::net::TcpStream::connect(address).await.expect("a listener")
}

async fn ends(world: World, program: Program) -> Ended {
    program.signal(Signal::TERM);
    let ended = program.exit().await.expect_status(143);
    world.settled().await;
    ended
}

/// `destination_refused`, and `destination_silent` as [`doctor`](super::doctor) finds it.
#[tokio::test]
async fn destinations_that_refuse() {
    let (world, refusing) = (World::ideal(), RefusingPort::new());
    let program = for_people(&world, refusing.port).await;
    for _ in 0..2 {
        drop(connect(&program).await);
    }
    program.line("refused a connection").await;
    let helps = format!("check on the target that 127.0.0.1:{} listens", refusing.port);
    program.line(&helps).await;
    let ended = ends(world, program).await;
    assert_eq!(ended.stderr.matches(&helps).count(), 1, "said once:\n{}", ended.stderr);

    let doctor = |port: u16| ["doctor".to_owned(), format!("0:127.0.0.1:{port}"), "--connect-timeout=1".to_owned()];
    let port = refusing.port;
    for (world, row) in [
        (World::ideal(), expected("destination_refused", 8, "nothing listens", "its name resolves there")),
        (
            World::with(|config| config.unanswered = vec![format!("127.0.0.1:{port}")]),
            expected("destination_silent", 8, "gets no answer", "security group"),
        ),
    ] {
        let arguments = doctor(port);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(["-t", World::TARGET, "--output", "json"]);
        row.check(world.run(&arguments).await);
        world.settled().await;
    }
}

/// `one_connection`.
#[tokio::test]
async fn agents_that_carry_one_connection_at_a_time() {
    let world = World::with(|config| config.agent_version = "3.0.150.0".into());
    let echo = Destination::echo().await;
    let program = for_people(&world, echo.port).await;
    let line = program.line("one connection at a time").await;
    assert!(line.contains("update the SSM agent of i-0123456789abcdef0"), "{line}");
    ends(world, program).await;
}

/// Ends by the service, as people and programs are told.
#[tokio::test]
async fn ends_of_sessions_that_were_ready() {
    type Row = (fn(&mut EmulatorConfig), &'static str, &'static str, &'static str);
    let rows: [Row; 2] = [
        (
            |config| config.idle_timeout = Some(Duration::from_millis(300)),
            "idle_timeout",
            "due to inactivity",
            "--keep-alive keeps idle ones",
        ),
        (
            |config| config.max_duration = Some(Duration::from_millis(300)),
            "max_duration",
            "its maximum duration",
            "one of Session Manager's preferences",
        ),
    ];
    for (change, symptom, says, helps) in rows {
        let (world, echo) = (World::with(change), Destination::echo().await);
        let program = world.start_for_people(echo.port);
        let line = program.line("the next connection starts a new session").await;
        assert!(line.contains(says) && line.contains(helps), "{symptom}: {line}");
        ends(world, program).await;

        let (world, echo) = (World::with(change), Destination::echo().await);
        let program = world.start(&[&format!("0:127.0.0.1:{}", echo.port)]);
        let dormant = program.event("dormant").await;
        assert_eq!(dormant["symptom"], symptom, "{dormant}");
        assert!(dormant["detail"].as_str().is_some_and(|text| text.contains(says)), "{dormant}");
        ends(world, program).await;
    }
}

/// The end came while there was no websocket: nobody says which it was.
#[tokio::test]
async fn ends_that_nobody_explains() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let program = world.forward(echo.port, &[]).await;
    world.emulator.configure(|config| config.failures = failing(Operation::ResumeSession, FailureKind::Internal));
    world.emulator.act(Action::Disconnect);
    program.events("reconnecting", 2).await;
    world.emulator.act(Action::ChannelClosed { output: String::new() });
    world.emulator.configure(|config| config.failures.clear());
    let dormant = program.event("dormant").await;
    assert_eq!(dormant["symptom"], "session_over");
    let detail = dormant["detail"].as_str().expect("text");
    assert!(detail.contains("idle timeout") && detail.contains("maximum duration"), "{detail}");
    ends(world, program).await;
}

/// `call_denied`: a lost websocket costs the connections, and the one who can change that is told.
#[tokio::test]
async fn calls_that_are_denied_while_forwarding() {
    let world = World::with(|config| config.denied = vec!["ResumeSession".into()]);
    let echo = Destination::echo().await;
    let program = for_people(&world, echo.port).await;
    world.emulator.act(Action::Disconnect);
    program.line("the session cannot be resumed").await;
    program.line("the policy must allow ssm:ResumeSession on arn:aws:ssm:us-east-1:*:session/${aws:username}-*").await;
    program.line("takes its place").await;
    ends(world, program).await;
}

/// `unsigned_upgrade`.
#[tokio::test]
async fn data_channels_that_only_open_unsigned() {
    let world = World::with(|config| {
        config.upgrade = UpgradePolicy::Any;
        config.denied = vec!["OpenDataChannel".into()];
    });
    let echo = Destination::echo().await;
    let program = for_people(&world, echo.port).await;
    program
        .line(
            "warning: the data channel was opened unsigned: the policy should allow ssmmessages:OpenDataChannel on \
             arn:aws:ssm:us-east-1:*:session/*",
        )
        .await;
    ends(world, program).await;
}
