//! Where the calls go that a session of somebody else needs.

use rustix::process::Signal;
use ssmfwd::emulator::{Action, UpgradePolicy};
use tokio::process::Command;

use super::{Caller, connect};
use crate::harness::{Destination, Interceptor, Program, Proxy, World};

const FIPS: &str = "ssm-fips.us-east-1.amazonaws.com";
const VPCE: &str = "vpce-0a1b2c3d-x9y8z7.ssmmessages.us-east-1.vpce.amazonaws.com";

/// Leads to the emulator by names of AWS alone.
fn by_way_of(proxy: &Proxy, far_end: &Interceptor, command: &mut Command) {
    for name in ["AWS_ENDPOINT_URL", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command.env("ALL_PROXY", proxy.url()).env("AWS_CA_BUNDLE", far_end.ca_file());
}

/// The AWS CLI passes the endpoint that follows from the setting, which the SDK does not take beside the setting. The
/// emulator verifies that calls and websockets are signed for the hosts that are dialled.
#[tokio::test]
async fn with_fips_calls_go_where_the_callers_went() {
    for setting in ["AWS_USE_FIPS_ENDPOINT", "SSMFWD_USE_FIPS_ENDPOINT"] {
        let world = World::with(|config| config.upgrade = UpgradePolicy::Signed);
        let far_end = Interceptor::of(&[FIPS, VPCE]);
        let proxy = Proxy::intercepting(&far_end, world.emulator.endpoint_url()).await;
        let echo = Destination::echo().await;
        let caller = Caller::of_port(&world, echo.port).await;
        let mut arguments = caller.arguments();
        arguments[5] = format!("https://{FIPS}");
        let mut command = caller.command(&world, &arguments);
        by_way_of(&proxy, &far_end, &mut command);
        command.env(setting, "true").env("SSMFWD_SSMMESSAGES_ENDPOINT", format!("https://{VPCE}"));
        let program = Program::start(command);
        let mut client = connect(&program).await;
        client.echo(b"before").await;
        assert_eq!(world.emulator.act(Action::Disconnect), 1);
        client.echo(b"after").await;
        drop(client);
        program.signal(Signal::TERM);
        let ended = program.exit().await.expect_status(143);
        assert_eq!(ended.stderr, "");
        let mut tunnels = proxy.tunnels();
        tunnels.sort();
        tunnels.dedup();
        assert_eq!(tunnels, [format!("{FIPS}:443"), format!("{VPCE}:443")]);
        assert_eq!(world.emulator.state().calls_of("ResumeSession"), 1);
        world.settled().await;
    }
}

/// The same for a session that is only ended.
#[tokio::test]
async fn with_fips_a_session_is_ended_where_it_was_started() {
    let world = World::ideal();
    let far_end = Interceptor::of(&[FIPS]);
    let proxy = Proxy::intercepting(&far_end, world.emulator.endpoint_url()).await;
    let caller = Caller::of_shell(&world).await;
    let mut arguments = caller.arguments();
    arguments[2] = "ResumeSession".to_owned();
    arguments[5] = format!("https://{FIPS}");
    let mut command = caller.command(&world, &arguments);
    by_way_of(&proxy, &far_end, &mut command);
    command.env("AWS_USE_FIPS_ENDPOINT", "true");
    Program::start(command).exit().await.expect_status(2);
    assert_eq!(proxy.tunnels(), [format!("{FIPS}:443")]);
    assert_eq!(world.emulator.state().calls_of("TerminateSession"), 1);
    world.settled().await;
}
