//! Nothing secret is ever printed, however much is asked for.

mod commands;
mod credentials;
#[cfg(target_os = "linux")]
mod shells;

use ssmfwd::emulator::Action;

use crate::harness::{ApiRelay, Destination, Program, World};

const PAYLOAD: &str = "PAYLOAD-MARKER-4711";

/// The values of a JSON string member in recorded traffic: of the start, and of the resume.
fn members(seen: &str, name: &str) -> Vec<String> {
    let start = format!("\"{name}\":\"");
    let values = seen.split(&start).skip(1).filter_map(|rest| rest.split('"').next());
    values.map(str::to_owned).collect()
}

/// Runs the whole path with these variables and options, a lost websocket and an end by the service included, and looks
/// for secrets in the output.
async fn tells_nothing(variables: &[(&str, &str)], options: &[&str]) {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let relay = ApiRelay::to(&world.emulator).await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let arguments = [forward.as_str(), "-t", World::TARGET, "--endpoint-url", &relay.url, "--output", "json"];
    let mut command = world.command(&[&arguments, options].concat());
    command.envs(variables.iter().copied());
    let program = Program::start(command);
    let mut client = program.connect().await;
    client.echo(PAYLOAD.as_bytes()).await;
    program.event("connection_opened").await;
    world.emulator.act(Action::Disconnect);
    program.event("resumed").await;
    client.echo(PAYLOAD.as_bytes()).await;
    world.emulator.act(Action::ChannelClosed { output: "enough".into() });
    program.event("dormant").await;
    let arguments = program.command_line().unwrap_or_default();
    program.signal(rustix::process::Signal::TERM);
    let ended = program.exit().await.expect_status(143);
    assert!(ended.stderr.lines().count() > 5, "nothing was logged:\n{}", ended.stderr);

    let seen = relay.seen().await;
    let signature = seen.split_once("Signature=").expect("a signed call").1.chars().take(64).collect::<String>();
    let mut secrets: Vec<(&str, String)> = vec![
        ("the signature", signature),
        ("the StreamUrl's query", "cell-number".to_owned()),
        ("a header", "Credential=".to_owned()),
        ("the payload", PAYLOAD.to_owned()),
        ("the payload", format!("{:?}", PAYLOAD.as_bytes())[1..20].to_owned()),
    ];
    let (tokens, urls) = (members(&seen, "TokenValue"), members(&seen, "StreamUrl"));
    assert!(tokens.len() >= 2 && urls.len() >= 2, "{tokens:?} {urls:?}");
    for (token, url) in tokens.into_iter().zip(urls) {
        assert!(token.len() > 20, "{token}");
        let cell = url.split_once("cell-number=").expect("a cell").1.to_owned();
        secrets.extend([("a token", token), ("a StreamUrl's query", cell)]);
    }
    secrets.extend(keys(&world));
    has_none(&format!("{arguments}\n{}\n{}", ended.stdout, ended.stderr), &secrets);
    world.settled().await;
}

/// The values of the account's keys.
fn keys(world: &World) -> Vec<(&'static str, String)> {
    let secret = |(name, _): &(String, String)| ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].contains(&name.as_str());
    world.emulator.env().into_iter().filter(secret).map(|(_, value)| ("a key", value)).collect()
}

/// Looks for secrets in a text.
#[track_caller]
fn has_none(text: &str, secrets: &[(&str, String)]) {
    for (what, secret) in secrets {
        assert!(!secret.is_empty(), "{what} is empty");
        if let Some(line) = text.lines().find(|line| line.contains(secret)) {
            panic!("{what} is told: {line}");
        }
    }
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
