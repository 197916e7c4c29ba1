//! The configuration file: named tunnels, defaults, where it is found, and what is said of one that is not valid.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use serde_json::Value;
use ssmfwd::emulator::EmulatorConfig;
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{Client, Destination, Ended, Program, World};

const OTHER: &str = "mi-0fedcba9876543210";

/// A folder of the user's, with a configuration file in it.
struct Folder(TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.write("ssmfwd.toml", text);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        // As the program finds it.
        self.0.path().canonicalize().expect("it is there").join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
        set_mode(&path, 0o644);
        path
    }

    /// The program, started in this folder or one below it.
    fn command(&self, world: &World, below: &str, arguments: &[&str]) -> Command {
        let folder = self.path(below);
        fs::create_dir_all(&folder).expect("a folder");
        let mut command = world.command(arguments);
        command.current_dir(folder);
        command
    }

    async fn run(&self, world: &World, arguments: &[&str]) -> Ended {
        Program::start(self.command(world, "", arguments)).exit().await
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

/// Two tunnels through two targets with two profiles.
#[tokio::test]
async fn named_tunnels_have_their_targets_and_profiles_in_one_process() {
    let world = World::with(|config: &mut EmulatorConfig| config.targets.push(OTHER.into()));
    let servers = [Destination::greeting(b"A").await, Destination::greeting(b"B").await];
    let env: std::collections::BTreeMap<_, _> = world.emulator.env().into_iter().collect();
    let folder = Folder::with(&format!(
        "[defaults]\nprofile = \"one\"\ntarget = \"{}\"\noutput = \"json\"\n\n[tunnels.a]\nforward = \"0:127.0.0.1:{}\"\n\n\
         [tunnels.b]\nforward = \"0:{}\"\ntarget = \"{OTHER}\"\nprofile = \"two\"\nreason = \"of b\"\n\n\
         [tunnels.unused]\nforward = \"13306:3306\"\n",
        World::TARGET,
        servers[0].port,
        servers[1].port,
    ));
    let lines = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    let keys = lines.map(|name| format!("{} = {}\n", name.to_lowercase(), env[name])).concat();
    let profile = |name: &str| format!("[profile {name}]\nregion = {}\n{keys}", env["AWS_REGION"]);
    let aws = folder.write("aws", &(profile("one") + &profile("two")));
    let mut command = folder.command(&world, "some/where", &["up", "b", "a"]);
    command.env("AWS_CONFIG_FILE", &aws).env("AWS_SHARED_CREDENTIALS_FILE", folder.path("none"));
    for name in lines.iter().chain(&["AWS_REGION", "AWS_DEFAULT_REGION"]) {
        command.env_remove(name);
    }
    let program = Program::start(command);
    let ready = program.event("ready").await;
    assert_eq!((&ready["forwards"][0]["forward"], &ready["forwards"][1]["forward"]), (&"b".into(), &"a".into()));
    for (index, expected) in [b"B", b"A"].into_iter().enumerate() {
        assert_eq!(Client::to(program.addresses(index).await[0]).await.read(1).await, expected);
    }
    let mut profiles: Vec<_> =
        program.events("identity", 2).await.iter().map(|event| event["profile"].as_str().map(str::to_owned)).collect();
    profiles.sort();
    assert_eq!(profiles, [Some("one".to_owned()), Some("two".to_owned())]);
    let (ended, state) = world.finish(program).await;
    let mut sessions: Vec<_> =
        state.sessions.values().map(|session| (session.target.clone(), session.reason.clone())).collect();
    sessions.sort();
    assert_eq!(sessions, [(World::TARGET.to_owned(), None), (OTHER.to_owned(), Some("of b".to_owned()))]);
    let forwards: Vec<_> = ended.events_named("session_started").iter().map(|event| event["forward"].clone()).collect();
    assert!(forwards.contains(&"a".into()) && forwards.contains(&"b".into()), "{forwards:?}");
}

#[tokio::test]
async fn the_file_in_use_is_named_and_its_defaults_are_for_plain_forwards_too() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let folder = Folder::with(&format!("[defaults]\ntarget = \"{}\"\n[tunnels.x]\nforward = \"0:1\"\n", World::TARGET));
    let path = folder.path("ssmfwd.toml");
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = Program::start(folder.command(&world, "below", &[&forward]));
    program.line("ready in ").await;
    program.line(&format!("ssmfwd: defaults of {}", path.display())).await;
    program.signal(rustix::process::Signal::TERM);
    program.exit().await.expect_status(143);

    let program = Program::start(folder.command(&world, "", &["up", "--all"]));
    program.line(&format!("ssmfwd: tunnels of {}", path.display())).await;
    program.line("ready in ").await;
    world.finish(program).await;
}

/// For an option that is set everywhere: what is left counts when the nearer ones are taken away.
#[tokio::test]
async fn a_flag_wins_over_its_variable_that_over_the_tunnel_and_that_over_the_defaults() {
    let world = World::ideal();
    for (flag, variable, tunnel, default, expected) in [
        (true, true, true, true, "1.0 flag"),
        (false, true, true, true, "2.0 environment"),
        (false, false, true, true, "3 file"),
        (false, false, false, true, "4 file"),
        (false, false, false, false, "5 default"),
        (true, false, false, true, "1.0 flag"),
        (false, true, false, false, "2.0 environment"),
        (false, false, true, false, "3 file"),
    ] {
        let line = |is_there, value: &str| if is_there { format!("linger = {value}\n") } else { String::new() };
        let folder = Folder::with(&format!(
            "[defaults]\ntarget = \"i-0a\"\n{}[tunnels.a]\nforward = \"1:2\"\n{}",
            line(default, "4"),
            line(tunnel, "3")
        ));
        let words: &[&str] = &["check-config", "--output", "json", "--linger", "1.0"];
        let mut command = folder.command(&world, "", &words[..if flag { 5 } else { 3 }]);
        // An empty variable is none.
        command.env("SSMFWD_LINGER", if variable { "2.0" } else { "" });
        let ended = Program::start(command).exit().await.expect_status(0);
        let linger = &ended.events[0]["tunnels"][0]["settings"]["linger"];
        let found = format!("{} {}", linger["value"], linger["from"].as_str().expect("a name"));
        assert_eq!(found, expected, "{}", ended.stdout);
        let lines = [(tunnel, 5 + u64::from(default)), (default, 3)].into_iter().find(|(is_there, _)| *is_there);
        let line = lines.filter(|_| !flag && !variable).map(|(_, line)| line);
        assert_eq!(linger["line"].as_u64(), line, "{}", ended.stdout);
    }
}

#[tokio::test]
async fn a_file_is_checked_without_asking_anybody() {
    let world = World::ideal();
    let folder = Folder::with(
        "[defaults]\ntarget = \"name:bastion\"\nprofile = \"dev\"\n\n[tunnels.db]\nforward = \"13306:db:3306\"\n\n\
         [tunnels.pg]\nforward = \"./pg.sock:5432@i-0a\"\nlazy = true\nparameter = { tag = \"x\" }\n",
    );
    let mut command = folder.command(&world, "", &["check-config"]);
    command.env("SSMFWD_MFA_CODE", "135790").env("SSMFWD_LINGER", "3");
    let ended = Program::start(command).exit().await.expect_status(0);
    let path = folder.path("ssmfwd.toml").display().to_string();
    let socket = folder.path("pg.sock").display().to_string();
    for line in [
        &format!("{path} is valid"),
        "db: localhost:13306 -> db:3306",
        "  target = \"name:bastion\"   (line 2)",
        "  profile = \"dev\"   (line 3)",
        "  linger = 3   (environment)",
        &format!("pg: {socket} -> i-0a:5432"),
        "  target = \"i-0a\"   (line 9)",
        "  lazy = true   (line 10)",
        "  parameter = [\"tag=x\"]   (line 11)",
    ] {
        assert!(ended.stdout.lines().any(|said| said == line), "no {line:?} in\n{}", ended.stdout);
    }
    assert!(!ended.stdout.contains("135790") && ended.stderr.is_empty(), "{}\n{}", ended.stdout, ended.stderr);

    let ended = folder.run(&world, &["check-config", "--output", "json", "--target", "i-0b"]).await.expect_status(0);
    let [checked] = &ended.events[..] else { panic!("one object: {}", ended.stdout) };
    assert_eq!(checked["file"], path);
    let names: Vec<_> = checked["tunnels"].as_array().expect("tunnels").iter().map(|tunnel| &tunnel["name"]).collect();
    assert_eq!(names, ["db", "pg"]);
    assert_eq!((&checked["tunnels"][0]["target"], &checked["tunnels"][1]["target"]), (&"i-0b".into(), &"i-0a".into()));
    assert_eq!(checked["tunnels"][0]["document"], "AWS-StartPortForwardingSessionToRemoteHost");
    assert_eq!(checked["tunnels"][0]["line"], 5);
    assert!(checked["tunnels"][0]["settings"]["mfa-code"].is_null());
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn every_mistake_is_status_2_with_its_position_and_starts_nothing() {
    let world = World::ideal();
    let a = "[tunnels.a]\nforward = \"1:2\"\n";
    for (text, said, hint) in [
        (format!("{a}tagret = \"x\""), ":3:1: unknown key \"tagret\"", "did you mean target?"),
        (format!("{a}[tunnel.b]\n"), ":3:2: unknown table \"tunnel\"", "did you mean tunnels?"),
        (format!("{a}linger = \"5\""), ":3:10: linger must be a number, not a string", ""),
        (format!("{a}linger = -1"), ":3:10: linger \"-1\" is not valid: expected a number of seconds", ""),
        (format!("{a}quiet = true"), ":3:1: quiet is for the whole program, not for one tunnel", "[defaults]"),
        (
            format!("[defaults]\ntarget = \"i-0a\"\n{a}[tunnels.b]\nforward = \"1:3\""),
            ":6:11: local port 1 is used twice: by the tunnel a (line 4) and by the tunnel b",
            "give each tunnel a LOCAL of its own",
        ),
        (a.to_owned(), ":1:10: the tunnel a has no target", "--target"),
        (format!("{a}[tunnels.'a b']\n"), ":3:10: \"a b\" cannot be the name of a tunnel", ""),
        (format!("{a}x = "), ":3:", ""),
    ] {
        let folder = Folder::with(&text);
        let path = folder.path("ssmfwd.toml");
        for words in [&["up", "a"][..], &["check-config"]] {
            let ended = folder.run(&world, words).await.expect_status(2);
            let ended = ended.expect_stderr(&format!("error: {}{said}", path.display())).expect_stderr(hint);
            assert_eq!(ended.stdout, "");
        }
    }
    let folder = Folder::with("[defaults]\ntarget = \"i-0a\"\n[tunnels.cache]\nforward = \"1:2\"\n");
    let ended = folder.run(&world, &["up", "cahce"]).await.expect_status(2).expect_stderr("has no tunnel \"cahce\"");
    ended.expect_stderr("did you mean cache?");
    let ended = folder.run(&world, &["cache"]).await.expect_status(2).expect_stderr("error: FORWARD \"cache\"");
    ended.expect_stderr("ssmfwd.toml: open it with `ssmfwd up cache`");
    // The error is an event too, as the file wants it.
    let folder = Folder::with("[defaults]\noutput = \"json\"\n");
    let ended = folder.run(&world, &["up", "--all"]).await.expect_status(2).expect_stderr("has no tunnels");
    assert_eq!(ended.event_names(), ["error", "stopped"]);
    assert_eq!(ended.events[0]["status"], Value::from(2));
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn what_may_be_a_secret_is_not_shown() {
    let world = World::ideal();
    for text in [
        "[defaults]\nsecret_access_key = \"hunter2\"\n",
        "[defaults]\nmfa-code = \"hunter2\"\n",
        "[defaults]\nmfa-code = hunter2\n",
        "password = 'hunter2\n",
    ] {
        let folder = Folder::with(text);
        let ended = folder.run(&world, &["-vv", "check-config"]).await.expect_status(2);
        assert!(!ended.stderr.contains("hunter2") && !ended.stdout.contains("hunter2"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn the_file_is_the_one_that_is_named_else_the_nearest_upward_else_the_users() {
    let world = World::ideal();
    let folder = Folder(tempfile::tempdir().expect("a folder"));
    let of = |name: &str| format!("[defaults]\ntarget = \"i-0a\"\n[tunnels.{name}]\nforward = \"1:2\"\n");
    let check = |change: &dyn Fn(&mut Command)| {
        let mut command = folder.command(&world, "a/b/c", &["check-config", "--output", "json"]);
        command.env("HOME", folder.path("home"));
        change(&mut command);
        Program::start(command)
    };
    let ended = check(&|_| {}).exit().await.expect_status(2).expect_stderr("there is no configuration file");
    ended.expect_stderr("--config FILE");
    let named = folder.write("named.toml", &of("named"));
    let other = folder.write("other.toml", &of("other"));
    for (path, name) in [
        ("home/.config/ssmfwd/ssmfwd.toml", "home"),
        ("xdg/ssmfwd/ssmfwd.toml", "xdg"),
        ("ssmfwd.toml", "top"),
        ("a/b/ssmfwd.toml", "b"),
        ("a/b/c/ssmfwd.toml", "c"),
    ] {
        let path = folder.write(path, &of(name));
        let configuration = folder.path("xdg");
        let found = check(&|command| {
            if name != "home" {
                command.env("XDG_CONFIG_HOME", &configuration);
            }
        });
        let found = found.exit().await.expect_status(0);
        assert_eq!(found.events[0]["file"], path.display().to_string());
        assert_eq!(found.events[0]["tunnels"][0]["name"], name);
    }
    let by_variable = check(&|command| {
        command.env("SSMFWD_CONFIG", &named);
    });
    let by_variable = by_variable.exit().await;
    assert_eq!(by_variable.events[0]["tunnels"][0]["name"], "named");
    let by_flag = check(&|command| {
        command.env("SSMFWD_CONFIG", &named).arg("--config").arg(&other);
    });
    let by_flag = by_flag.exit().await;
    assert_eq!(by_flag.events[0]["tunnels"][0]["name"], "other");
    let missing = check(&|command| {
        command.env("SSMFWD_CONFIG", "missing.toml");
    });
    let missing = missing.exit().await.expect_status(2);
    missing.expect_stderr("cannot read the configuration file missing.toml");
}

/// As `/tmp/ssmfwd.toml`, found below `/tmp`.
#[tokio::test]
async fn a_file_that_others_may_have_written_is_refused_unless_it_is_named() {
    let (world, echo) = (World::ideal(), Destination::echo().await);
    let folder = Folder::with("[defaults]\nendpoint-url = \"http://127.0.0.1:9\"\ntarget = \"i-0evil\"\n");
    let path = folder.path("ssmfwd.toml");
    let forward = format!("0:127.0.0.1:{}", echo.port);
    set_mode(&path, 0o666);
    for words in [&[&forward[..]][..], &["ls"], &["up", "--all"], &["check-config"]] {
        let ended = folder.run(&world, words).await.expect_status(2);
        let ended = ended.expect_stderr(&format!("error: {} was found, and is not used", path.display()));
        ended.expect_stderr("everybody can write to it").expect_stderr("--config");
    }
    // Ours, but perhaps with a folder that came from elsewhere: it may not say where requests are sent.
    set_mode(&path, 0o644);
    let ended = folder.run(&world, &[&forward]).await.expect_status(2);
    ended.expect_stderr("ssmfwd.toml:2:1: endpoint-url is not taken from a file that was only found");
    set_mode(&path, 0o666);
    // Named, it counts, also from elsewhere.
    let named = path.display().to_string();
    folder.run(&world, &["check-config", "--config", &named]).await.expect_status(0);
    if rustix::process::geteuid().is_root() {
        set_mode(&path, 0o600);
        std::os::unix::fs::chown(&path, Some(54_321), None).expect("root may");
        let ended = folder.run(&world, &["check-config"]).await.expect_status(2);
        ended.expect_stderr("it belongs to another user (number 54321)");
        // A link of somebody else to a file of ours.
        let ours = folder.write("ours.toml", "");
        fs::remove_file(&path).expect("ours");
        symlink(&ours, &path).expect("a link");
        folder.run(&world, &["check-config"]).await.expect_status(0);
        std::os::unix::fs::lchown(&path, Some(54_321), None).expect("root may");
        folder.run(&world, &["check-config"]).await.expect_status(2).expect_stderr("another user");
    }
    assert!(world.settled().await.calls.is_empty());
}
