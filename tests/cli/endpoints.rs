//! Endpoints: which host is dialled and signed for, in every partition, and whom it has to convince.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use ssmfwd::emulator::UpgradePolicy;
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{Answer, Destination, Ended, Interceptor, Program, Proxy, World};

/// A file of a test.
fn file(content: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::write(&path, content).expect("room");
    (folder, path)
}

/// A forward in an environment that leads to AWS itself, by way of a proxy alone.
fn command(world: &World, proxy: &Proxy, arguments: &[&str]) -> Command {
    any_command(world, proxy, &[&["--target", World::TARGET, "--output", "json"], arguments].concat())
}

/// The same with any arguments.
fn any_command(world: &World, proxy: &Proxy, arguments: &[&str]) -> Command {
    let mut command = world.command(arguments);
    for name in ["AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command.env("ALL_PROXY", proxy.url());
    command
}

/// The hosts and ports that the program asks for, which it does not get.
async fn dialled(variables: &[(&str, &str)], config: &str, arguments: &[&str]) -> Vec<String> {
    let (_folder, path) = file(config);
    let world = World::ideal();
    let proxy = Proxy::start(Answer::Say(b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec())).await;
    let mut command = command(&world, &proxy, &[&["0:127.0.0.1:9"], arguments].concat());
    command.env("AWS_CONFIG_FILE", path).envs(variables.iter().copied());
    let ended = Program::start(command).exit().await.expect_status(1);
    ended.expect_stderr("its rules forbid this host or port");
    proxy.tunnels().into_iter().filter(|host| !is_of_sts(host)).collect()
}

/// The same for a login to a session in `eu-west-1`.
async fn dialled_by_login(variables: &[(&str, &str)], options: &[&str]) -> Vec<String> {
    let (folder, path) =
        file("[sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://d-0123456789.awsapps.com/start\n");
    let world = World::ideal();
    let proxy = Proxy::start(Answer::Say(b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec())).await;
    let mut command = any_command(&world, &proxy, &[&["login", "--device"], options].concat());
    command.env("AWS_CONFIG_FILE", path).env("HOME", folder.path()).envs(variables.iter().copied());
    let ended = Program::start(command).exit().await.expect_status(1);
    ended.expect_stderr("its rules forbid this host or port");
    let mut hosts = proxy.tunnels();
    hosts.dedup();
    hosts
}

/// STS is asked who we are, if there is time.
fn is_of_sts(host: &str) -> bool {
    host.starts_with("sts.") || host.starts_with("sts-fips.")
}

#[tokio::test]
async fn every_partition_and_kind_of_endpoint_has_its_host() {
    let fips = ["--use-fips-endpoint"];
    let dual = ["--use-dualstack-endpoint"];
    let both = ["--use-fips-endpoint", "--use-dualstack-endpoint"];
    for (region, options, host) in [
        ("eu-west-1", &[][..], ".eu-west-1.amazonaws.com"),
        ("us-east-1", &fips, "-fips.us-east-1.amazonaws.com"),
        ("eu-west-1", &dual, ".eu-west-1.api.aws"),
        ("eu-west-1", &both, "-fips.eu-west-1.api.aws"),
        // GovCloud's usual endpoints are FIPS's.
        ("us-gov-west-1", &[], ".us-gov-west-1.amazonaws.com"),
        ("us-gov-west-1", &fips, ".us-gov-west-1.amazonaws.com"),
        ("us-gov-west-1", &dual, ".us-gov-west-1.api.aws"),
        ("cn-north-1", &[], ".cn-north-1.amazonaws.com.cn"),
        ("cn-northwest-1", &dual, ".cn-northwest-1.api.amazonwebservices.com.cn"),
        ("eusc-de-east-1", &[], ".eusc-de-east-1.amazonaws.eu"),
    ] {
        let hosts = dialled(&[], "", &[&["--region", region], options].concat()).await;
        let ssm = format!("ssm{host}:443");
        let messages = format!("ssmmessages{host}:443");
        // Who comes first is open: the connection that is made ahead may be there before the call's.
        assert!(hosts.contains(&ssm), "{ssm}: {hosts:?}");
        assert!(hosts.iter().all(|dialled| *dialled == ssm || *dialled == messages), "{ssm}: {hosts:?}");
    }
}

#[tokio::test]
async fn a_login_has_the_kind_of_endpoint_that_is_asked_for() {
    let (fips, dual) = ("--use-fips-endpoint", "--use-dualstack-endpoint");
    for (variables, options, host) in [
        (&[][..], &[][..], "oidc.eu-west-1.amazonaws.com:443"),
        (&[], &[fips], "oidc-fips.eu-west-1.amazonaws.com:443"),
        (&[], &[dual], "oidc.eu-west-1.api.aws:443"),
        (&[], &[fips, dual], "oidc-fips.eu-west-1.api.aws:443"),
        (&[("SSMFWD_USE_FIPS_ENDPOINT", "1")], &[], "oidc-fips.eu-west-1.amazonaws.com:443"),
    ] {
        assert_eq!(dialled_by_login(variables, options).await, [host], "{variables:?} {options:?}");
    }
}

#[tokio::test]
async fn variables_and_profiles_choose_the_endpoint_as_for_the_aws_cli() {
    const SECTION: &str = "[default]\nregion = eu-west-1\nservices = mine\nendpoint_url = https://general.example\n\
                           [services mine]\nssm =\n  endpoint_url = https://section.example:8443\n";
    const PROFILE: &str = "[default]\nregion = eu-west-1\nendpoint_url = https://general.example\n";
    const KINDS: &str = "[default]\nregion = eu-west-1\nuse_fips_endpoint = true\nuse_dualstack_endpoint = true\n";
    const REGION: &str = "[default]\nregion = eu-west-1\n";
    for (variables, config, options, host) in [
        (&[("AWS_USE_FIPS_ENDPOINT", "true")][..], REGION, &[][..], "ssm-fips.eu-west-1.amazonaws.com:443"),
        (&[("AWS_USE_DUALSTACK_ENDPOINT", "true")], REGION, &[], "ssm.eu-west-1.api.aws:443"),
        (&[("SSMFWD_USE_FIPS_ENDPOINT", "1")], REGION, &[], "ssm-fips.eu-west-1.amazonaws.com:443"),
        (&[("SSMFWD_USE_FIPS_ENDPOINT", "0")], REGION, &[], "ssm.eu-west-1.amazonaws.com:443"),
        (&[("SSMFWD_USE_DUALSTACK_ENDPOINT", "true")], REGION, &[], "ssm.eu-west-1.api.aws:443"),
        (&[], KINDS, &[], "ssm-fips.eu-west-1.api.aws:443"),
        (&[], PROFILE, &[], "general.example:443"),
        (&[], SECTION, &[], "section.example:8443"),
        (&[("AWS_ENDPOINT_URL_SSM", "https://variable.example")], SECTION, &[], "variable.example:443"),
        (&[("AWS_ENDPOINT_URL", "https://all.example")], SECTION, &[], "all.example:443"),
        (
            &[("AWS_ENDPOINT_URL", "https://all.example"), ("AWS_ENDPOINT_URL_SSM", "https://ssm.example")],
            REGION,
            &[],
            "ssm.example:443",
        ),
        (&[("AWS_ENDPOINT_URL_STS", "https://sts.example")], REGION, &[], "ssm.eu-west-1.amazonaws.com:443"),
        (&[("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")], SECTION, &[], "ssm.eu-west-1.amazonaws.com:443"),
        (
            &[("AWS_ENDPOINT_URL_SSM", "https://variable.example")],
            SECTION,
            &["--endpoint-url", "https://option.example"],
            "option.example:443",
        ),
        // An empty one is none.
        (&[("AWS_ENDPOINT_URL_SSM", "")], REGION, &[], "ssm.eu-west-1.amazonaws.com:443"),
    ] {
        let hosts = dialled(variables, config, options).await;
        assert!(hosts.iter().any(|dialled| dialled == host), "{variables:?} {options:?}: {hosts:?} without {host}");
        // What is for all services is for STS too.
        let is_known = |dialled: &str| {
            dialled.starts_with("ssmmessages") || ["general.example:443", "all.example:443"].contains(&dialled)
        };
        let others = hosts.iter().filter(|dialled| !is_known(dialled) && *dialled != host);
        assert_eq!(others.count(), 0, "{variables:?} {options:?}: {hosts:?}");
    }
}

/// The whole path under names of AWS: the emulator verifies what was signed, region and host included.
#[tokio::test]
async fn calls_and_websockets_are_signed_for_the_host_that_is_dialled() {
    const FIPS: &str = "ssm-fips.us-east-1.amazonaws.com";
    const VPCE: &str = "vpce-0a1b2c3d-x9y8z7.ssmmessages.us-east-1.vpce.amazonaws.com";
    let world = World::with(|config| config.upgrade = UpgradePolicy::Signed);
    let far_end = Interceptor::of(&[FIPS, VPCE]);
    let proxy = Proxy::intercepting(&far_end, world.emulator.endpoint_url()).await;
    let echo = Destination::echo().await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let messages = format!("https://{VPCE}");
    let options = ["--region", "us-east-1", "--use-fips-endpoint", "--ssmmessages-endpoint", &messages];
    let mut command = command(&world, &proxy, &[&[forward.as_str()], &options[..]].concat());
    command.env("AWS_CA_BUNDLE", far_end.ca_file());
    Program::start(command).works_and_survives(&world).await;
    let mut tunnels = proxy.tunnels();
    tunnels.sort();
    tunnels.dedup();
    tunnels.retain(|tunnel| !is_of_sts(tunnel));
    assert_eq!(tunnels, [format!("{FIPS}:443"), format!("{VPCE}:443")]);
    let state = world.settled().await;
    assert_eq!((state.calls_of("StartSession"), state.calls_of("ResumeSession")), (1, 1));
    assert_eq!((state.upgrades_accepted, state.upgrades_refused), (2, 0));
}

/// Variables that are set, or taken away.
type Changes<'a> = &'a [(&'a str, Option<&'a str>)];

fn change(command: &mut Command, changes: Changes<'_>) {
    for (name, value) in changes {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

/// Opens a forward, uses it and ends it.
async fn works(world: World, changes: Changes<'_>, options: &[&str]) {
    let echo = Destination::echo().await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let mut command = world.command(&["--target", World::TARGET, "--output", "json", &forward]);
    change(command.args(options), changes);
    let program = Program::start(command);
    program.connect().await.echo(b"hello").await;
    program.signal(Signal::TERM);
    program.exit().await.expect_status(143);
    world.settled().await;
}

/// A run that fails before any call.
async fn fails(world: World, changes: Changes<'_>, options: &[&str]) -> Ended {
    let mut command = world.command(&["--target", World::TARGET, "0:127.0.0.1:9"]);
    change(command.args(options), changes);
    let ended = Program::start(command).exit().await;
    assert!(world.settled().await.calls.is_empty());
    ended
}

#[tokio::test]
async fn the_endpoint_for_data_channels_takes_the_place_of_the_services() {
    for tls in [false, true] {
        let world = World::with(|config| {
            config.tls = tls;
            // What is signed is what is sent: another Host would be refused.
            config.upgrade = UpgradePolicy::Signed;
        });
        let url = world.emulator.endpoint_url().replace("127.0.0.1", "localhost");
        works(world, &[], &["--ssmmessages-endpoint", &url]).await;
    }
    let world = World::ideal();
    let url = world.emulator.endpoint_url().replace("http://127.0.0.1", "ws://localhost");
    works(world, &[("SSMFWD_SSMMESSAGES_ENDPOINT", Some(&url))], &[]).await;
}

#[tokio::test]
async fn endpoints_that_cannot_be_are_usage_errors() {
    for (options, words) in [
        (&["--ssmmessages-endpoint", "gateway.example"][..], "not of the form https://HOST[:PORT]"),
        (&["--ssmmessages-endpoint", "https://me:hunter2@gateway.example"], "not of the form https://HOST[:PORT]"),
        (&["--ssmmessages-endpoint", "http://gateway.example"], "without TLS and not on this machine"),
        (&["--endpoint-url", "https://h.example", "--use-fips-endpoint"], "FIPS and custom endpoint"),
        (&["--endpoint-url", "https://h.example", "--use-dualstack-endpoint"], "Dualstack and custom endpoint"),
    ] {
        let ended = fails(World::ideal(), &[], options).await.expect_status(2);
        let ended = ended.expect_stderr("error: the AWS configuration cannot be used").expect_stderr(words);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
    let changes = [("AWS_ENDPOINT_URL_SSM", Some("nonsense"))];
    fails(World::ideal(), &changes, &[]).await.expect_status(2).expect_stderr("the endpoint URL is not of the form");
}

#[tokio::test]
async fn what_the_sdk_cannot_read_does_not_stop_it() {
    for (name, value) in [("AWS_MAX_ATTEMPTS", "0"), ("AWS_MAX_ATTEMPTS", "many"), ("AWS_RETRY_MODE", "wild")] {
        works(World::ideal(), &[(name, Some(value))], &[]).await;
    }
}

fn with_tls() -> World {
    World::with(|config| config.tls = true)
}

fn authority(world: &World) -> PathBuf {
    world.emulator.ca_file().map(Path::to_owned).expect("it has one")
}

#[tokio::test]
async fn a_bundle_of_the_environment_or_the_profile_is_trusted() {
    // Each alone.
    works(with_tls(), &[("SSL_CERT_FILE", None)], &[]).await;
    works(with_tls(), &[("AWS_CA_BUNDLE", None)], &[]).await;
    let world = with_tls();
    let (_folder, config) = file(&format!("[default]\nca_bundle = {}\n", authority(&world).display()));
    let config = config.display().to_string();
    let alone = [("SSL_CERT_FILE", None), ("AWS_CA_BUNDLE", None), ("AWS_CONFIG_FILE", Some(&*config))];
    works(world, &alone, &[]).await;
    // The variable wins.
    let world = with_tls();
    let (_folder, config) = file("[default]\nca_bundle = /nowhere\n");
    let config = config.display().to_string();
    works(world, &[("SSL_CERT_FILE", None), ("AWS_CONFIG_FILE", Some(&*config))], &[]).await;
}

#[tokio::test]
async fn a_bundle_takes_the_place_of_the_machines_roots() {
    let other = Interceptor::of(&["localhost"]);
    // SSL_CERT_FILE would do.
    let authority = other.ca_file();
    let changes = [("AWS_CA_BUNDLE", Some(&*authority))];
    let ended = fails(with_tls(), &changes, &[]).await.expect_status(1);
    ended.expect_stderr("TLS handshake with 127.0.0.1:").expect_stderr("UnknownIssuer");
}

#[tokio::test]
async fn a_bundle_that_is_none_is_a_usage_error_with_its_path() {
    let (_folder, empty) = file("nothing");
    let empty = empty.display().to_string();
    for (path, words) in
        [("/nowhere/ca.pem", "the CA bundle /nowhere/ca.pem cannot be read"), (&empty, "holds no usable certificate")]
    {
        let ended = fails(with_tls(), &[("AWS_CA_BUNDLE", Some(path))], &[]).await.expect_status(2);
        ended.expect_stderr("error: the AWS configuration cannot be used").expect_stderr(words).expect_stderr(path);
    }
    let (_folder, config) = file("[default]\nca_bundle = /nowhere/ca.pem\n");
    let config = config.display().to_string();
    let changes = [("AWS_CA_BUNDLE", None), ("AWS_CONFIG_FILE", Some(&*config))];
    let ended = fails(with_tls(), &changes, &[]).await.expect_status(2);
    ended.expect_stderr("the CA bundle /nowhere/ca.pem cannot be read");
}
