//! Nothing of a login is printed that opens anything.

use std::{cell::RefCell, fs, os::unix::fs::PermissionsExt as _};

use super::office::{Office, decide, shown, visit};
use crate::harness::{ApiRelay, Program, World};

#[tokio::test]
async fn no_secret_of_a_login_is_shown() {
    let crates = "ssmfwd=trace,hyper=trace,aws_config=trace,aws_smithy_runtime=trace,aws_smithy_runtime_api=trace,\
                  aws_sdk_sso=trace,aws_sdk_ssooidc=trace,webbrowser=trace";
    let office = Office::new();
    let relay = ApiRelay::to(&office.world.emulator).await;
    // Everything that whoever is logged in here can see in the list of processes.
    let (script, opened) = (office.home.path().join("browser"), office.home.path().join("opened"));
    fs::write(&script, format!("#!/bin/sh\necho \"$0 $@\" > '{0}.new' && /bin/mv '{0}.new' '{0}'\n", opened.display()))
        .expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("changed");
    for (log, way) in
        [("", &["--no-browser"][..]), ("trace", &["--device"]), (crates, &["--no-browser"]), ("trace", &[])]
    {
        let arguments_seen = RefCell::new(String::new());
        let start = |arguments: &[&str]| {
            let mut command = office.command(&[arguments, &["--profile", "dev", "-vv"]].concat());
            command.env("AWS_ENDPOINT_URL", &relay.url).env("RUST_LOG", log).env("BROWSER", &script);
            let program = Program::start(command);
            arguments_seen.borrow_mut().push_str(&program.command_line().unwrap_or_default());
            program
        };
        let program = start(&[&["login"], way].concat());
        if way == ["--device"] {
            let url = shown(&program, "/device?user_code=").await;
            visit(&url).await.press(&url, "allow").await;
        } else {
            decide(&program, "allow").await;
        }
        let mut said = vec![program.exit().await.expect_status(0)];
        if way.is_empty() {
            let opened = fs::read_to_string(&opened).expect("the browser was started");
            assert!(opened.contains("/authorize?"), "{opened}");
            arguments_seen.borrow_mut().push_str(&opened);
        }
        said.push(start(&["login", "--list"]).exit().await.expect_status(0));
        office.expire_token();
        let forward = start(&["0:127.0.0.1:9", "-t", World::TARGET, "--output", "json"]);
        forward.event("ready").await;
        forward.signal(rustix::process::Signal::TERM);
        said.push(forward.exit().await.expect_status(143));
        office.world.emulator.configure(|config| config.sso.generation += 1);
        said.push(start(&["0:127.0.0.1:9", "-t", World::TARGET]).exit().await.expect_status(4));

        let seen = relay.seen().await;
        let verifiers = seen.split("\"codeVerifier\":\"").skip(1).filter_map(|rest| rest.split('"').next());
        let mut secrets: Vec<_> = verifiers.map(str::to_owned).collect();
        assert!(secrets.iter().all(|secret| secret.len() == 64) && !secrets.is_empty());
        for kind in ["access-token", "refresh-token", "client-secret", "device-code", "authorization-code"] {
            secrets.push(format!("emulated-{kind}-"));
        }
        for name in ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            let value = office.world.emulator.env().into_iter().find(|(key, _)| key == name);
            secrets.push(value.expect("a variable").1);
        }
        let logged: usize = said.iter().map(|ended| ended.stderr.lines().count()).sum();
        assert!(logged > 20, "{log}: next to nothing was logged: {said:?}");
        for secret in &secrets {
            assert!(!arguments_seen.borrow().contains(secret), "{secret} in {arguments_seen:?}");
        }
        for ended in &said {
            let output = format!("{}\n{}", ended.stdout, ended.stderr);
            for secret in &secrets {
                let line = output.lines().find(|line| line.contains(secret));
                assert_eq!(line, None, "{log}: {secret}");
            }
        }
    }
}
