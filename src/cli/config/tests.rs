//! What files come to, and what is said of those that are not valid.

use std::ffi::OsString;

use super::{Config, File, Surroundings, Targetless, load_plan, source::Source};
use crate::cli::{args::Args, exit::Exit, plan::Plan, report::Report};

const PATH: &str = "/folder/ssmfwd.toml";

fn file(text: &str) -> Result<File, Report> {
    File::read(Source { path: PATH.into(), text: text.to_owned() })
}

fn args(line: &str) -> Args {
    Args::read(line.split_whitespace().map(OsString::from), |_| None).expect("valid arguments")
}

fn plan(text: &str, line: &str) -> Result<Plan, Report> {
    let config = Config { file: Some(file(text)?), home: Some("/home/me".into()) };
    config.plan(&config.defaults_of(&args(line))?)
}

fn targetless(config: &Config, args: &Args) -> Option<Targetless> {
    Targetless::of(args, |args| config.plan(args), |plan| &plan.forwards)
}

/// What is said of a file, without its path.
#[track_caller]
fn mistake(text: &str, line: &str) -> (String, String) {
    let report = plan(text, line).expect_err(text);
    assert_eq!(report.exit, Exit::Usage);
    let error = report.error.strip_prefix(PATH).unwrap_or(&report.error);
    (error.to_owned(), report.hint.unwrap_or_default())
}

const TWO: &str = r#"
[defaults]
profile = "dev"
target = "name:bastion"
linger = 7
sessions = 2

[tunnels.db]
forward = "13306:db:3306"
linger = 0.5

[tunnels.cache]
forward = "16379:cache:6379"
target = "ecs:prod/worker"
profile = "prod"
sessions = "auto"
use-fips-endpoint = true
parameter = { x = ["1", "2"], y = "3" }
max-message-rate = 1_000
max-payload = 0x400
"#;

#[test]
fn a_tunnel_overrides_the_defaults_and_a_flag_both() {
    let forwards = plan(TWO, "ssmfwd up --all --reason why").expect("valid").forwards;
    let [db, cache] = &forwards[..] else { panic!("two tunnels") };
    assert_eq!((db.name(), cache.name()), ("db", "cache"));
    assert_eq!((&db.request.target[..], &cache.request.target[..]), ("name:bastion", "ecs:prod/worker"));
    assert_eq!((db.access.profile.as_deref(), cache.access.profile.as_deref()), (Some("dev"), Some("prod")));
    assert_eq!((db.options.linger.as_millis(), cache.options.linger.as_millis()), (500, 7000));
    assert_eq!((&db.options.sessions.to_string()[..], &cache.options.sessions.to_string()[..]), ("2", "auto"));
    assert_eq!((db.access.use_fips, cache.access.use_fips), (false, true));
    assert_eq!(cache.request.parameters["x"], ["1", "2"]);
    assert_eq!(cache.request.parameters["y"], ["3"]);
    assert_eq!((cache.session.max_message_rate, cache.session.max_payload), (1000, 1024));
    assert!(forwards.iter().all(|forward| forward.request.reason.as_deref() == Some("why")));

    let forwards = plan(TWO, "ssmfwd up cache db --linger 1 -t i-0a").expect("valid").forwards;
    assert_eq!(forwards.iter().map(|forward| forward.name()).collect::<Vec<_>>(), ["cache", "db"]);
    assert!(forwards.iter().all(|forward| forward.options.linger.as_secs() == 1 && forward.request.target == "i-0a"));
}

#[test]
fn the_defaults_are_for_every_command() {
    let config = Config { file: Some(file(TWO).expect("valid")), home: None };
    let complete = |line: &str| config.defaults_of(&args(line)).expect("valid");
    let forward = config.plan(&complete("ssmfwd 1:2")).expect("its target is that of the file").forwards.remove(0);
    assert_eq!((&forward.request.target[..], forward.options.linger.as_secs()), ("name:bastion", 7));
    for line in ["ssmfwd ls", "ssmfwd login", "ssmfwd doctor 1:2", "ssmfwd check-config"] {
        assert_eq!(complete(line).access.profile.as_deref(), Some("dev"), "{line}");
    }
    assert_eq!(complete("ssmfwd ls --profile p").access.profile.as_deref(), Some("p"));
    // Nothing is asked for that the file says.
    assert_eq!(targetless(&config, &complete("ssmfwd 1:2")), None);
    assert!(targetless(&config, &args("ssmfwd 1:2")).is_some());
}

#[test]
fn what_is_of_the_whole_program_is_in_the_plan() {
    let text = "[defaults]\nadmin = 9090\nready-fd = 5\nwait = true\nverbose = true\noutput = \"json\"\ntarget = \"i-0a\"\n\
                lazy = true\nidle-close = 60\n[tunnels.a]\nforward = \"1:2\"\ndrain = 3\n[tunnels.b]\nforward = \"3:4\"\nlazy = false";
    let plan = plan(text, "ssmfwd up --all -- x {addr}").expect("valid");
    assert_eq!(
        (plan.process.wait, plan.process.ready_fd, plan.process.admin.as_deref()),
        (true, Some(5), Some("9090"))
    );
    // Whether destinations accept is found out through sessions.
    assert!(plan.forwards.iter().all(|forward| !forward.lazy));
    let plan = self::plan(text, "ssmfwd up --all").expect("valid");
    let [a, b] = &plan.forwards[..] else { panic!("two tunnels") };
    assert_eq!((a.lazy, a.options.drain.as_secs(), b.lazy, b.options.drain.as_secs()), (true, 3, false, 1));
    assert_eq!(a.options.idle_close.map(|time| time.as_secs()), Some(60));
    let config = Config { file: Some(file(text).expect("valid")), home: None };
    let args = config.defaults_of(&args("ssmfwd up a")).expect("valid");
    assert_eq!((args.say.verbose, args.say.output), (1, crate::cli::args::Format::Json));
}

#[test]
fn paths_are_relative_to_the_file() {
    let text = "[defaults]\ntarget = \"i-0a\"\n[tunnels.a]\nforward = \"./a.sock:1\"\n[tunnels.b]\nforward = \"~/b.sock:1\"\n\
                [tunnels.c]\nforward = \"/c.sock:1\"\n[tunnels.d]\nforward = \"x/../d.sock:1\"";
    let forwards = plan(text, "ssmfwd up --all").expect("valid").forwards;
    let paths: Vec<_> = forwards.iter().map(|forward| forward.spec.listen.to_string()).collect();
    assert_eq!(paths, ["/folder/a.sock", "/home/me/b.sock", "/c.sock", "/folder/x/../d.sock"]);
}

#[test]
fn every_mistake_has_its_position_and_a_remedy() {
    for (text, error, hint) in [
        ("[defaults]\nprofil = \"x\"", ":2:1: unknown key \"profil\"", "did you mean profile?"),
        ("[tunnels.a]\nforward = \"1:2\"\n  tagret = \"x\"", ":3:3: unknown key \"tagret\"", "did you mean target?"),
        ("[tunnels.a]\nforwards = \"1:2\"", ":1:10: the tunnel a has no key forward", "forward = "),
        ("[defaults]\ncolour = 1", ":2:1: unknown key \"colour\"", "ssmfwd --help"),
        ("[defaults]\nforward = \"1:2\"", ":2:1: forward cannot be a default", "[tunnels.NAME]"),
        ("[defaults]\nmfa-code = \"123456\"", ":2:1: mfa-code cannot stand in the file", "SSMFWD_MFA_CODE"),
        ("[defaults]\nconfig = \"x\"", ":2:1: config cannot stand in the file", "leave it out"),
        ("[defaults]\nno-wait = true", ":2:1: unknown key \"no-wait\"", "wait = false"),
        ("[defaults]\nall = true", ":2:1: unknown key \"all\"", "ssmfwd --help"),
        ("[tunnel.a]\nforward = \"1:2\"", ":1:2: unknown table \"tunnel\"", "did you mean tunnels?"),
        ("[[tunnels]]\nforward = \"1:2\"", ":1:1: tunnels must be a table, not an array", ""),
        ("target = \"x\"", ":1:1: target stands outside of any table", "[defaults]"),
        ("nonsense = \"x\"", ":1:1: unknown key \"nonsense\"", "[tunnels.NAME]"),
        ("defaults = 1", ":1:12: defaults must be a table, not a number", ""),
        ("[tunnels]\na = \"1:2\"", ":2:5: the tunnel a must be a table, not a string", "[tunnels.a]"),
        ("[tunnels.a]\nforward = 1", ":2:11: forward must be a string, not a number", ""),
        ("[tunnels.a.b]\nforward = \"1:2\"", ":1:10: the tunnel a has no key forward", ""),
        ("[defaults]\nlinger = \"5\"", ":2:10: linger must be a number, not a string", ""),
        ("[defaults]\ntarget = 5", ":2:10: target must be a string, not a number", ""),
        ("[defaults]\nlazy = \"yes\"", ":2:8: lazy must be true or false, not a string", ""),
        ("[defaults]\nlazy = 1", ":2:8: lazy must be true or false, not a number", ""),
        ("[defaults]\nsessions = true", ":2:12: sessions must be a number or a string, not true or false", ""),
        ("[defaults]\nparameter = \"a=b\"", ":2:13: parameter must be an array of strings", ""),
        ("[defaults]\nparameter = [\"a=b\",\n 1]", ":3:2: every value of parameter must be a string", ""),
        ("[defaults]\nparameter = [\"a=b\",\n \"c\"]", ":3:2: --parameter \"c\" is not valid: expected K=V", ""),
        (
            "[defaults]\nlinger = -1",
            ":2:10: linger \"-1\" is not valid: expected a number of seconds, at most 86400",
            "",
        ),
        ("[defaults]\nlinger = inf", ":2:10: linger \"inf\" is not valid: expected a number of seconds", ""),
        ("[defaults]\nping-interval = 0", ":2:17: ping-interval \"0\" is not valid: must be more than 0", ""),
        ("[defaults]\nmax-payload = 99999999999999999999", ":2:15: ", ""),
        ("[defaults]\nsessions = \"many\"", ":2:12: sessions \"many\" is not valid: ", ""),
        ("[defaults]\nsessions = 17", ":2:12: sessions \"17\" is not valid: ", ""),
        (
            "[defaults]\nready-fd = 2",
            ":2:12: ready-fd \"2\" is not valid: expected the number of a file descriptor",
            "",
        ),
        ("[defaults]\noutput = \"yaml\"", ":2:10: output \"yaml\" is not valid: expected text or json", ""),
        ("[defaults]\ntarget = \"name:\"", ":2:10: ", "targets are"),
        ("[defaults]\nendpoint-url = \"x\"", ":2:16: --endpoint-url is not valid: expected a URL", ""),
        ("[tunnels.a]\nforward = \"1:2\"\noutput = \"json\"", ":3:1: output is for the whole program", "[defaults]"),
        ("[tunnels.\"a b\"]\nforward = \"1:2\"", ":1:10: \"a b\" cannot be the name of a tunnel: ", ""),
        ("[tunnels.a-b]\nforward = \"1:2\"\n[tunnels.A_b]\nforward = \"3:4\"", ":3:10: the tunnels a-b and A_b", ""),
        ("[defaults]\nprofile = x", ":2:11: ", ""),
        ("[defaults]\n[defaults]", ":2:2: ", ""),
        ("[defaults]\nlinger = 1\nlinger = 2", ":3:1: ", ""),
        ("[tunnels.a]\nforward = \"1\"", ":2:11: FORWARD \"1\": only one part is given", ""),
        ("[tunnels.a]\nforward = \"1:2\"", ":1:10: the tunnel a has no target", "[tunnels.a] or [defaults]"),
        (
            "[defaults]\ntarget = \"i-0a\"\n[tunnels.x]\nforward = \"1:2\"\n[tunnels.a]\nforward = \"127.0.0.1:1:3\"",
            ":6:11: local port 1 is used twice: by the tunnel x (line 4) and by the tunnel a",
            "0 takes any free port",
        ),
        (
            "[defaults]\ntarget = \"i-0a\"\n[tunnels.x]\nforward = \"./s:2\"\n[tunnels.a]\nforward = \"/folder/s:3\"",
            ":6:11: unix socket /folder/s is used twice",
            "",
        ),
        (
            "[tunnels.a]\nforward = \"1:2\"\ntarget = \"i-0a\"\nparameter = [\"portNumber=1\"]",
            ":2:11: --parameter portNumber says again what 1:2 says",
            "",
        ),
    ] {
        let (said, help) = mistake(text, "ssmfwd up --all");
        assert!(said.starts_with(error) && said.len() > 8, "{text}\n{said}");
        assert!(help.contains(hint), "{text}\n{said}\n{help}");
    }
}

#[test]
fn the_first_mistake_of_the_file_is_told() {
    let text = "[tunnels.b]\nzzz = 1\nforward = 1\n[tunnels.a]\nyyy = 1";
    assert_eq!(mistake(text, "ssmfwd up b").0, ":2:1: unknown key \"zzz\"");
}

#[test]
fn values_that_may_be_secrets_are_not_shown() {
    for text in [
        "[defaults]\npassword = \"hunter2\"",
        "[defaults]\nmfa-code = \"hunter2\"",
        "[defaults]\nmfa-code = hunter2",
        "aws_secret_access_key = \"hunter2\"",
        "[hunter]\nx = \"hunter2\nhunter2",
    ] {
        let report = plan(text, "ssmfwd up --all").expect_err(text).to_string();
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[test]
fn a_target_can_be_asked_for_if_nothing_else_is_wrong() {
    let text = "[defaults]\nprofile = \"p\"\n[tunnels.a]\nforward = \"1:2\"\n[tunnels.b]\nforward = \"3:4\"\n\
                [tunnels.c]\nforward = \"5:6\"\ntarget = \"i-0c\"\n\
                [tunnels.d]\nforward = \"7:8\"\nprofile = \"other\"\n";
    let config = Config { file: Some(file(text).expect("valid")), home: None };
    let lacking = |line: &str| {
        let lacking = targetless(&config, &config.defaults_of(&args(line)).expect("valid"))?;
        Some((lacking.tunnels.join(" "), lacking.access.profile?))
    };
    let of = |tunnels: &str, profile: &str| Some((tunnels.to_owned(), profile.to_owned()));
    for (line, expected) in [
        ("ssmfwd 11:2", of("", "p")),
        ("ssmfwd 11:2 13:4@i-0a", of("", "p")),
        ("ssmfwd 11:2@i-0a", None),
        ("ssmfwd 11:2 -t i-0a", None),
        ("ssmfwd 11:2 --target=", of("", "p")),
        ("ssmfwd 11:2 -t name:", None),
        ("ssmfwd 1:2:3:4:5", None),
        ("ssmfwd 11:2 --parameter x", None),
        ("ssmfwd up a", of("a", "p")),
        ("ssmfwd up c b a", of("b a", "p")),
        ("ssmfwd up c", None),
        ("ssmfwd up d", of("d", "other")),
        // One answer cannot be for both.
        ("ssmfwd up a d", None),
        ("ssmfwd up a d --profile x", of("a d", "x")),
        ("ssmfwd up a -t i-0a", None),
        ("ssmfwd up a nobody", None),
    ] {
        assert_eq!(lacking(line), expected, "{line}");
    }
}

#[test]
fn what_is_no_forward_but_a_tunnel_is_told_as_such() {
    for (line, names) in [
        ("ssmfwd db -t i-0a", Some("db")),
        ("ssmfwd db cache", Some("db cache")),
        ("ssmfwd 1:2 cache", Some("cache")),
        ("ssmfwd cash", None),
        ("ssmfwd cash db", None),
        ("ssmfwd 1:2 db -t name:", None),
    ] {
        let (error, hint) = mistake(TWO, line);
        let expected = names.map(|names| format!("is a tunnel of {PATH}: open it with `ssmfwd up {names}`"));
        assert_eq!(hint.contains("ssmfwd up"), names.is_some(), "{line}: {error}\n{hint}");
        assert!(hint.ends_with(&expected.unwrap_or_default()), "{line}: {error}\n{hint}");
    }
    // It may be one.
    let text = "[defaults]\ntarget = \"i-0a\"\n[tunnels.7]\nforward = \"1:2\"\n";
    assert_eq!(plan(text, "ssmfwd 7 --document D").expect("LOCAL alone").forwards[0].name(), "7");
}

#[test]
fn names_that_are_not_there_are_told_with_those_that_are() {
    let (error, hint) = mistake(TWO, "ssmfwd up dv");
    assert_eq!(error, " has no tunnel \"dv\"");
    assert!(hint.ends_with("the tunnels are: db, cache") || hint.ends_with("The tunnels are: db, cache"), "{hint}");
    assert!(mistake(TWO, "ssmfwd up cahce").1.starts_with("did you mean cache?"));
    assert_eq!(mistake(TWO, "ssmfwd up db db").0, "the tunnel db is named twice");
    let (error, hint) = mistake("[defaults]\n", "ssmfwd up --all");
    assert!(error.ends_with(" has no tunnels") && hint.contains("[tunnels.db]"), "{error}\n{hint}");
    let nothing = Config::default().plan(&args("ssmfwd up db")).expect_err("no file");
    assert!(nothing.error.starts_with("there is no configuration file"), "{nothing}");
}

#[test]
fn tunnels_do_not_disturb_what_names_none() {
    let broken = "[defaults]\ntarget = \"i-0a\"\n[tunnels.a]\nforward = \"nonsense\"";
    assert_eq!(plan(broken, "ssmfwd 1:2").expect("its own").forwards[0].name(), "1:2");
    assert!(mistake(broken, "ssmfwd up a").0.starts_with(":4:11: FORWARD \"nonsense\""));
}

#[test]
fn an_empty_file_and_one_with_a_byte_order_mark_are_good() {
    file("").expect("nothing is wrong");
    file("\u{feff}[defaults]\r\nprofile = \"x\"\r\n").expect("from Windows");
}

#[test]
fn a_plan_can_be_made_anew_from_the_file_as_it_is_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.toml");
    let write = |text: &str| std::fs::write(&path, text).expect("a file");
    let typed = args(&format!("ssmfwd up --all --linger 2 --config {}", path.display()));
    write(TWO);
    let (complete, config) = Config::complete(typed);
    let before = config.and_then(|config| config.plan(&complete)).expect("valid");
    assert_eq!(load_plan(&complete).expect("valid").forwards, before.forwards);
    write(&TWO.replace("16379", "16380").replace("dev", "other"));
    let after = load_plan(&complete).expect("valid").forwards;
    assert_eq!(after.len(), 2);
    assert_ne!(after[0], before.forwards[0]);
    assert_eq!(after[0].access.profile.as_deref(), Some("other"));
    assert_eq!(after[0].options.linger.as_secs(), 2);
    write("[tunnels.db]\nforward = 1");
    assert!(load_plan(&complete).is_err());
}

#[test]
fn no_file_changes_nothing() {
    let config = Config::load(&args("ssmfwd 1:2 -t i-0a"), &Surroundings::default()).expect("none");
    let args = config.defaults_of(&args("ssmfwd 1:2 -t i-0a")).expect("valid");
    assert_eq!(config.plan(&args).expect("valid").forwards.len(), 1);
    assert!(args.command.is_none());
}
