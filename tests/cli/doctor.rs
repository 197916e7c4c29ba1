//! `ssmfwd doctor`: what it finds, how it tells it, and that nothing is left of it.

use rustix::process::Signal;
use serde_json::Value;
use ssmfwd::emulator::{Action, EmulatorConfig, EndedBy, FailureKind, Operation};

use crate::harness::{Answer, ApiRelay, Destination, Ended, Program, Proxy, RefusingPort, World, failing};

const CHECKS: [&str; 15] = [
    "credentials",
    "identity",
    "region",
    "clock",
    "permission",
    "target",
    "document",
    "dns",
    "tcp",
    "proxy",
    "tls",
    "signature",
    "handshake",
    "destination",
    "timeouts",
];

fn arguments<'a>(forward: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["doctor", forward, "-t", World::TARGET, "--output", "json"], more].concat()
}

async fn doctor(world: &World, port: u16) -> Ended {
    let forward = format!("0:127.0.0.1:{port}");
    world.run(&arguments(&forward, &[])).await
}

/// All checks, each once and in order.
#[track_caller]
fn checks(ended: &Ended) -> Vec<Value> {
    let checks: Vec<_> = ended.events_named("check").into_iter().cloned().collect();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().expect("a name")).collect();
    assert_eq!(names, CHECKS, "{}\n{}", ended.stdout, ended.stderr);
    checks
}

/// The check that failed: all before it went well or could not be found out, all after it were skipped.
#[track_caller]
fn failed(ended: &Ended) -> String {
    let checks = checks(ended);
    let at = checks.iter().position(|check| check["ok"] == false).expect("a failure");
    for check in &checks[..at] {
        assert!(["ok", "unknown"].contains(&check["outcome"].as_str().expect("text")), "{check}");
    }
    for check in &checks[at + 1..] {
        assert_eq!((&check["outcome"], &check["ok"]), (&"skipped".into(), &Value::Null), "{check}");
    }
    let [error] = ended.events_named("error")[..] else { panic!("{}", ended.stdout) };
    assert_eq!(error["status"].as_i64(), ended.status.code().map(i64::from));
    assert!(!error["hint"].is_null(), "{error}");
    checks[at]["name"].as_str().expect("a name").to_owned()
}

#[tokio::test]
async fn when_all_is_well_every_check_says_so_and_no_session_is_left() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let ended = doctor(&world, echo.port).await.expect_status(0);
    assert_eq!(ended.stderr, "");
    let checks = checks(&ended);
    for check in checks.iter().filter(|check| !["identity", "target"].contains(&check["name"].as_str().expect("text")))
    {
        assert_eq!((&check["ok"], &check["outcome"]), (&true.into(), &"ok".into()), "{check}");
    }
    let detail = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name).expect("a check");
        check["detail"].as_str().expect("text").to_owned()
    };
    assert!(detail("region").starts_with("us-east-1, 127.0.0.1 answers"));
    assert!(detail("handshake").starts_with("agent 3.3.987.0, client "), "{}", detail("handshake"));
    assert_eq!(detail("document"), "AWS-StartPortForwardingSessionToRemoteHost");
    assert_eq!(detail("destination"), format!("127.0.0.1:{} accepts connections", echo.port));
    assert_eq!(detail("timeouts"), "idle timeout 20 min, no maximum duration");
    assert!(checks.iter().any(|check| check["elapsed_ms"].is_u64()));
    assert_eq!(echo.outcome().await, crate::harness::Closed::Cleanly(0));
    assert_eq!(echo.accepted(), 1);
    let state = world.settled().await;
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Flag)), (1, 1));
}

#[tokio::test]
async fn people_get_a_line_for_each_check_on_stdout_and_the_report_on_stderr() {
    let (world, refusing) = (World::ideal(), RefusingPort::new());
    let forward = format!("0:127.0.0.1:{}", refusing.port);
    let ended = world.run(&["doctor", &forward, "-t", World::TARGET]).await.expect_status(8);
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), CHECKS.len(), "{}", ended.stdout);
    for (line, check) in lines.iter().zip(CHECKS) {
        assert_eq!(line.split_whitespace().nth(1), Some(check), "{line}");
    }
    assert!(lines[0].starts_with("ok       credentials"), "{}", lines[0]);
    let refuses = format!("127.0.0.1:{} refuses connections", refusing.port);
    assert!(lines[13].starts_with("failed   destination ") && lines[13].ends_with(&refuses), "{}", lines[13]);
    assert_eq!(lines[14], "skipped  timeouts");
    assert!(ended.stderr.starts_with(&format!("error: {refuses}\n  caused by: ")), "{}", ended.stderr);
    assert!(ended.stderr.contains("\n\nhint: check on the target that"), "{}", ended.stderr);
    assert_eq!(world.settled().await.ended_by(EndedBy::Flag), 1);
}

#[tokio::test]
async fn each_step_that_fails_is_named_and_its_session_ended() {
    type Row = (fn(&mut EmulatorConfig), &'static str, i32);
    let rows: [Row; 16] = [
        (|config| config.expired_credentials = true, "permission", 4),
        (|config| config.denied = vec!["StartSession".into()], "permission", 5),
        (
            |config| config.forbidden_documents = vec!["AWS-StartPortForwardingSessionToRemoteHost".into()],
            "permission",
            5,
        ),
        (|config| config.failures = failing(Operation::StartSession, FailureKind::Throttled), "permission", 1),
        (|config| config.offline = true, "target", 6),
        (|config| config.failures = failing(Operation::StartSession, FailureKind::InvalidDocument), "document", 6),
        (|config| config.failures = failing(Operation::StartSession, FailureKind::RemoteHosts), "document", 6),
        (|config| config.stream_base = Some("wss://ssmmessages.us-nowhere-1.amazonaws.com".into()), "dns", 1),
        (|config| config.stream_base = Some("ws://127.0.0.1:1".into()), "tcp", 1),
        (|config| config.denied = vec!["OpenDataChannel".into()], "signature", 5),
        (|config| config.failures = failing(Operation::OpenDataChannel, FailureKind::Unavailable), "signature", 1),
        (|config| (config.kms_key, config.kms_in_ports) = (Some("alias/x".into()), true), "handshake", 6),
        (|config| config.agent_refuses = Some("Plugin with name Port is not supported".into()), "handshake", 6),
        (|config| config.agent_refuses = Some("Unable to connect to specified port: x".into()), "destination", 8),
        (|config| config.agent_start = Some(std::time::Duration::from_secs(3600)), "handshake", 1),
        (|config| config.unanswered = vec!["*:9".into()], "destination", 8),
    ];
    for (change, check, status) in rows {
        let world = World::with(change);
        let ended = world.run(&arguments("0:127.0.0.1:9", &["--connect-timeout", "2"])).await;
        let ended = ended.expect_status(status);
        // Credentials that have expired may already be found out by whoever is asked first.
        let found = failed(&ended);
        assert!(found == check || (check == "permission" && status == 4), "{check}: {}", ended.stdout);
        let state = world.settled().await;
        assert_eq!(state.live_sessions(), 0);
    }
}

#[tokio::test]
async fn what_is_wrong_before_any_call_is_found() {
    let world = World::ideal();
    let mut command = world.command(&arguments("0:127.0.0.1:9", &[]));
    command.env_remove("AWS_REGION").env_remove("AWS_DEFAULT_REGION");
    let ended = Program::start(command).exit().await.expect_status(2);
    let region = ended.events_named("check").into_iter().find(|check| check["name"] == "region").expect("a check");
    assert_eq!(region["ok"], false);

    let mut command = world.command(&arguments("0:127.0.0.1:9", &[]));
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    assert_eq!(failed(&Program::start(command).exit().await.expect_status(4)), "credentials");

    let url = format!("http://127.0.0.1:{}", RefusingPort::new().port);
    let ended = world.run(&arguments("0:127.0.0.1:9", &["--endpoint-url", &url])).await.expect_status(1);
    assert_eq!(failed(&ended), "region");

    for (words, expected) in [(&["doctor"][..], "FORWARD"), (&["doctor", "db:3306", "-t", "i-0a"], "db:3306")] {
        world.run(words).await.expect_status(2).expect_stderr(expected);
    }
    assert!(world.settled().await.calls_of("StartSession") == 0);
}

/// A failure of the way to the API or of the keys is told as a forward tells it, causes and remedy included.
#[tokio::test]
async fn failures_of_calls_keep_their_causes() {
    #[track_caller]
    fn explained(ended: &Ended, check: &str, symptom: &str, says: &str) {
        assert_eq!(failed(ended), check);
        let error = ended.events_named("error")[0];
        assert_eq!(error["symptom"], symptom, "{error}");
        let causes = error["causes"].as_array().expect("causes");
        assert!(causes.iter().any(|cause| cause.as_str().is_some_and(|cause| cause.contains(says))), "{error}");
    }

    let (nobody, strict) = (RefusingPort::new(), Proxy::start(Answer::Only("Basic bWU6bWU=")).await);
    let dead = format!("http://127.0.0.1:{}", nobody.port);
    for (proxy, symptom, says) in [
        (strict.url(), "proxy_refused", "HTTP status 407"),
        (dead, "proxy_unreachable", "cannot connect to the proxy http://127.0.0.1:"),
    ] {
        let world = World::with(|config| config.tls = true);
        let mut command = world.command(&arguments("0:127.0.0.1:9", &[]));
        command.env("HTTPS_PROXY", proxy).env_remove("NO_PROXY").env_remove("no_proxy");
        let ended = Program::start(command).exit().await.expect_status(1);
        explained(&ended, "region", symptom, says);
        assert!(world.settled().await.calls.is_empty());
    }

    let plain = World::ideal();
    let of_plain = plain.emulator.endpoint_url().replace("http://", "https://");
    for (url, symptom, says) in [
        ("http://ssm.nowhere.invalid", "api_unresolved", "ssm.nowhere.invalid"),
        (&of_plain, "api_tls", "speaks no TLS"),
    ] {
        let ended = plain.run(&arguments("0:127.0.0.1:9", &["--endpoint-url", url])).await.expect_status(1);
        explained(&ended, "region", symptom, says);
    }
    assert_eq!(plain.settled().await.calls_of("StartSession"), 0);

    let world = World::ideal();
    let mut command = world.command(&arguments("0:127.0.0.1:9", &[]));
    command.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7UNKNOWN");
    let ended = Program::start(command).exit().await.expect_status(4);
    explained(&ended, "identity", "wrong_keys", "the access key is not known");
    assert_eq!(world.settled().await.calls_of("StartSession"), 0);
}

/// What ends a forward that has not begun with another status is here the destination's: the table says so.
#[tokio::test]
async fn what_an_agent_says_of_a_destination_is_status_8() {
    const README: &str = include_str!("../../README.md");
    type Row = (fn(&mut EmulatorConfig), &'static str);
    let rows: [Row; 3] = [
        (|config| config.agent_refuses = Some("dial tcp: lookup db: no such host".into()), "host_unresolved"),
        (
            |config| config.agent_refuses = Some("Unable to connect to specified port: x".into()),
            "destination_unreachable",
        ),
        (|config| config.agent_version = "3.0.150.0".into(), "destination_unacknowledged"),
    ];
    for (change, symptom) in rows {
        let (world, refusing) = (World::with(change), RefusingPort::new());
        let forward = format!("0:127.0.0.1:{}", refusing.port);
        let ended = world.run(&arguments(&forward, &["--connect-timeout", "2"])).await.expect_status(8);
        assert_eq!(failed(&ended), "destination");
        assert_eq!(ended.events_named("error")[0]["symptom"], symptom);
        let row = README.lines().find(|line| line.starts_with(&format!("| `{symptom}` |"))).expect("a row");
        assert!(row.contains("status 8 with `doctor`"), "{row}");
        world.settled().await;
    }
}

/// Nothing is needed but what a forward needs: every other call is denied.
#[tokio::test]
async fn the_permissions_of_a_forward_are_enough() {
    const NEEDED: [&str; 4] = ["StartSession", "ResumeSession", "TerminateSession", "OpenDataChannel"];
    let world = World::with(|config| config.allowed = Some(NEEDED.map(String::from).into()));
    let echo = Destination::echo().await;
    let ended = doctor(&world, echo.port).await.expect_status(0);
    let checks = checks(&ended);
    assert!(checks.iter().all(|check| check["ok"] != false), "{}", ended.stdout);
    assert_eq!(checks[14]["outcome"], "unknown");
    assert!(checks[14]["detail"].as_str().is_some_and(|detail| detail.contains("ssm:GetDocument")), "{}", checks[14]);
    assert_eq!(checks[1]["outcome"], "unknown");
    assert_eq!(world.settled().await.ended_by(EndedBy::Flag), 1);
}

#[tokio::test]
async fn an_old_agent_is_examined_too() {
    let world = World::with(|config| config.agent_version = "3.0.150.0".into());
    let echo = Destination::echo().await;
    let ended = doctor(&world, echo.port).await.expect_status(0);
    let detail = checks(&ended)[12]["detail"].as_str().expect("text").to_owned();
    assert!(detail.contains("3.0.150.0") && detail.contains("one connection at a time"), "{detail}");
    world.settled().await;

    let world = World::with(|config| config.agent_version = "3.0.150.0".into());
    let forward = format!("0:127.0.0.1:{}", RefusingPort::new().port);
    let ended = world.run(&arguments(&forward, &["--connect-timeout", "1"])).await.expect_status(8);
    assert_eq!(failed(&ended), "destination");
    world.settled().await;
}

#[tokio::test]
async fn a_target_may_be_named() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let forward = format!("0:127.0.0.1:{}@name:bastion", echo.port);
    let ended = world.run(&arguments(&forward, &[])).await.expect_status(0);
    let checks = checks(&ended);
    assert!(checks[4]["detail"].as_str().is_some_and(|detail| detail.contains(World::TARGET)), "{}", checks[4]);
    assert!(checks[5]["detail"].as_str().is_some_and(|detail| detail.contains("agent 3.3.987.0")), "{}", checks[5]);
    world.settled().await;

    let world = World::ideal();
    let ended = world.run(&arguments("0:127.0.0.1:9@name:nowhere", &[])).await.expect_status(6);
    assert_eq!(failed(&ended), "target");
    assert_eq!(world.settled().await.calls_of("StartSession"), 0);
}

#[tokio::test]
async fn a_clock_that_is_off_is_told() {
    let world = World::with(|config| config.clock_skew = 400);
    let echo = Destination::echo().await;
    let ended = doctor(&world, echo.port).await.expect_status(0);
    let clock = checks(&ended)[3]["detail"].as_str().expect("text").to_owned();
    assert!(clock.contains("behind that of AWS; ssmfwd corrects for it"), "{clock}");
    world.settled().await;
}

/// The proxy's address and its tunnel, in place of the gateway's address.
#[tokio::test]
async fn a_proxy_is_a_step_of_its_own() {
    let world = World::with(|config| config.tls = true);
    let (echo, proxy) = (Destination::echo().await, Proxy::start(Answer::Serve).await);
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let mut command = world.command(&arguments(&forward, &[]));
    command.env("HTTPS_PROXY", proxy.url()).env_remove("NO_PROXY").env_remove("no_proxy");
    let ended = Program::start(command).exit().await.expect_status(0);
    let checks = checks(&ended);
    assert!(checks[9]["detail"].as_str().is_some_and(|detail| detail.contains("has opened a tunnel")), "{}", checks[9]);
    let way = format!("answers through the proxy {}", proxy.url());
    assert!(checks[2]["detail"].as_str().is_some_and(|detail| detail.ends_with(&way)), "{}", checks[2]);
    world.settled().await;
}

#[tokio::test]
async fn tls_is_a_step_of_its_own() {
    let world = World::with(|config| config.tls = true);
    let echo = Destination::echo().await;
    let ended = doctor(&world, echo.port).await.expect_status(0);
    assert!(checks(&ended)[10]["elapsed_ms"].is_u64());
    world.settled().await;
}

/// In the middle of the start, and while the destination is waited for.
#[tokio::test]
async fn whoever_loses_patience_leaves_no_session_behind() {
    let world = World::with(|config| config.unanswered = vec!["*:9".into()]);
    let program = Program::start(world.command(&arguments("0:127.0.0.1:9", &[])));
    world.until("a dial", |state| state.sessions.values().any(|session| session.dials_unanswered > 0)).await;
    program.signal(Signal::INT);
    let ended = program.exit().await.expect_status(130);
    assert!(ended.events_named("error").is_empty(), "{}", ended.stdout);
    assert_eq!(world.settled().await.ended_by(EndedBy::Flag), 1);

    let world = World::ideal();
    let relay = ApiRelay::to(&world.emulator).await;
    let mut command = world.command(&arguments("0:127.0.0.1:9", &["--endpoint-url", &relay.url]));
    command.env("AWS_ENDPOINT_URL_STS", world.emulator.endpoint_url());
    let program = Program::start(command);
    program.stdout_line("\"clock\"").await;
    relay.hold();
    world.until("a session", |state| state.sessions_started == 1).await;
    program.signal(Signal::TERM);
    // Asked before the answer is let through.
    relay.release();
    program.exit().await.expect_status(143);
    world.settled().await;
}

/// While SSM does not say what it knows of the target, which a forward would not have asked.
#[tokio::test]
async fn whoever_loses_patience_with_what_is_beside_the_session_need_not_wait_for_it() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let relay = ApiRelay::swallowing(&world.emulator, "DescribeInstance").await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = Program::start(world.command(&arguments(&forward, &["--endpoint-url", &relay.url])));
    program.stdout_line("\"permission\"").await;
    program.signal(Signal::INT);
    let ended = program.exit().await.expect_status(130);
    let told: Vec<_> = ended.events_named("check").iter().filter_map(|check| check["name"].as_str()).collect();
    assert_eq!(told, CHECKS[..5], "{}", ended.stdout);
    let state = world.settled().await;
    assert_eq!((state.sessions_started, state.live_sessions()), (1, 0));
}

#[tokio::test]
async fn a_session_that_ends_under_the_check_is_a_failure_of_it() {
    let world = World::with(|config| config.unanswered = vec!["*:9".into()]);
    let program = Program::start(world.command(&arguments("0:127.0.0.1:9", &[])));
    world.until("a dial", |state| state.sessions.values().any(|session| session.dials_unanswered > 0)).await;
    world.emulator.act(Action::ChannelClosed { output: "maintenance".into() });
    let ended = program.exit().await.expect_status(7).expect_stderr("maintenance");
    assert_eq!(failed(&ended), "destination");
    world.settled().await;
}

#[tokio::test]
async fn help_says_that_nothing_is_bound() {
    let world = World::ideal();
    let ended = world.run(&["doctor", "--help"]).await.expect_status(0);
    assert!(ended.stdout.contains("Nothing is bound") && ended.stdout.contains("Example:"), "{}", ended.stdout);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let echo = Destination::echo().await;
    let forward = format!("{}:127.0.0.1:{}", taken.local_addr().expect("an address").port(), echo.port);
    world.run(&arguments(&forward, &[])).await.expect_status(0);
    world.settled().await;
}
