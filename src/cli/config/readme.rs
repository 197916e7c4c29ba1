//! The example of README is a file that works.

use std::ffi::OsString;

use super::{Config, File, source::Source};
use crate::cli::args::Args;

const README: &str = include_str!("../../../README.md");
const FENCE: &str = "```toml\n# ssmfwd.toml\n";

/// The text of the example.
fn example() -> &'static str {
    let (_, rest) = README.split_once(FENCE).expect("README has the example");
    rest.split_once("```").expect("the fence ends").0
}

#[test]
fn the_example_of_readme_can_be_planned() {
    let source = Source { path: "/somewhere/ssmfwd.toml".into(), text: example().to_owned() };
    let config = Config { file: Some(File::read(source).expect("valid")), home: Some("/home/me".into()) };
    let plan = |words: &[&str]| {
        let args = Args::read(words.iter().map(OsString::from), |_| None).expect("valid");
        let args = config.defaults_of(&args).expect("valid");
        config.plan(&args).expect("a plan")
    };
    let all = plan(&["ssmfwd", "up", "--all"]).forwards;
    let of = |name: &str| all.iter().find(|forward| forward.name() == name).expect(name);
    assert_eq!(of("db").request.target, "name:bastion");
    assert_eq!(of("db").access.profile.as_deref(), Some("dev"));
    assert_eq!(of("cache").request.target, "ecs:prod/worker");
    assert_eq!(of("cache").access.profile.as_deref(), Some("prod"));
    assert_eq!(of("pg").spec.listen.to_string(), "/somewhere/pg.sock");
    let two = plan(&["ssmfwd", "up", "cache", "db", "--target", "i-0a"]).forwards;
    let targets: Vec<_> = two.iter().map(|forward| (forward.name(), &forward.request.target[..])).collect();
    assert_eq!(targets, [("cache", "i-0a"), ("db", "i-0a")]);
}
