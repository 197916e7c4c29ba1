//! Nothing secret is ever printed, however much is asked for.

use ssmfwd::emulator::Action;

use crate::harness::{ApiRelay, Destination, Program, World};

const PAYLOAD: &str = "PAYLOAD-MARKER-4711";

/// The value of a JSON string member in recorded traffic.
fn member(seen: &str, name: &str) -> String {
    let start = format!("\"{name}\":\"");
    let (_, rest) = seen.split_once(&start).unwrap_or_else(|| panic!("no {name} in what was relayed"));
    rest.split('"').next().expect("a value").to_owned()
}

/// Runs the whole path with these variables and options, ends it in a failure, and looks for secrets in the output.
async fn tells_nothing(variables: &[(&str, &str)], options: &[&str]) {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let relay = ApiRelay::to(&world.emulator).await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let arguments = [forward.as_str(), "-t", World::TARGET, "--endpoint-url", &relay.url, "--output", "json"];
    let mut command = world.command(&[&arguments, options].concat());
    command.envs(variables.iter().copied());
    let program = Program::start(command);
    program.connect().await.echo(PAYLOAD.as_bytes()).await;
    program.event("connection_opened").await;
    world.emulator.act(Action::Disconnect);
    let ended = program.exit().await.expect_status(7);
    assert!(ended.stderr.lines().count() > 5, "nothing was logged:\n{}", ended.stderr);

    let seen = relay.seen().await;
    let signature = seen.split_once("Signature=").expect("a signed call").1.chars().take(64).collect::<String>();
    let (token, url) = (member(&seen, "TokenValue"), member(&seen, "StreamUrl"));
    assert!(token.len() > 20 && url.contains("cell-number"), "{token} {url}");
    let cell = url.split_once("cell-number=").expect("a cell").1.to_owned();
    let mut secrets = vec![
        ("the token", token),
        ("the signature", signature),
        ("the StreamUrl's query", cell),
        ("the StreamUrl's query", "cell-number".to_owned()),
        ("a header", "Credential=".to_owned()),
        ("the payload", PAYLOAD.to_owned()),
        ("the payload", format!("{:?}", PAYLOAD.as_bytes())[1..20].to_owned()),
    ];
    for (name, value) in world.emulator.env() {
        if ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].contains(&name.as_str()) {
            secrets.push(("a key", value));
        }
    }
    let output = format!("{}\n{}", ended.stdout, ended.stderr);
    for (what, secret) in secrets {
        assert!(!secret.is_empty(), "{what} is empty");
        if let Some(line) = output.lines().find(|line| line.contains(&secret)) {
            panic!("{what} is in the output: {line}");
        }
    }
    world.settled().await;
}

#[tokio::test]
async fn a_log_at_trace_level_has_no_secrets() {
    tells_nothing(&[("RUST_LOG", "trace")], &[]).await;
}

#[tokio::test]
async fn a_verbose_log_has_no_secrets() {
    tells_nothing(&[], &["-vv"]).await;
}

#[tokio::test]
async fn a_json_log_of_every_crate_has_no_secrets() {
    let crates = "ssmfwd=trace,tungstenite=trace,tokio_tungstenite=trace,hyper=trace,rustls=trace,aws_config=trace,\
                  aws_smithy_runtime=trace,aws_smithy_runtime_api=trace,aws_sigv4=trace,aws_sdk_ssm=trace";
    tells_nothing(&[("RUST_LOG", crates)], &["--log-format", "json"]).await;
}
