//! The layers that must be deterministic name no runtime, no socket, no clock, no system randomness and no layer
//! above them: a scan of their sources.
//!
//! It reads text, not syntax trees. That is enough because the sources are formatted by rustfmt, and it needs no
//! compiler. Comment lines are free to say anything.

use std::path::{Path, PathBuf};

/// A folder of sources and the parts of the crate it may name.
struct Layer {
    folder: &'static str,
    may_name: &'static [&'static [&'static str]],
}

const PURE: [Layer; 3] = [
    Layer { folder: "src/wire", may_name: &[&["wire"]] },
    Layer { folder: "src/proto", may_name: &[&["wire"], &["proto"]] },
    Layer { folder: "src/emulator/agent", may_name: &[&["wire"], &["emulator", "agent"]] },
];

/// Text that has no place in a pure layer, wherever it stands.
const FORBIDDEN_TEXT: [&str; 13] = [
    "tokio",
    "Instant::now",
    "SystemTime",
    "async fn",
    "async move",
    "async {",
    ".await",
    "getrandom",
    "new_v4",
    "Rng::new()",
    "Rng::default()",
    "thread_rng",
    "rand::random",
];

/// The same for paths, which can hide in a `use` with braces.
const FORBIDDEN_PATHS: [&[&str]; 6] = [
    &["std", "net"],
    &["std", "thread"],
    &["std", "fs"],
    &["std", "process"],
    &["std", "env"],
    &["std", "time", "SystemTime"],
];

/// Addresses are values, not sockets.
const HARMLESS_PATHS: [&[&str]; 3] =
    [&["std", "net", "IpAddr"], &["std", "net", "Ipv4Addr"], &["std", "net", "Ipv6Addr"]];

/// One source file, its comment lines blanked.
struct Source {
    place: String,
    module: Vec<String>,
    code: String,
}

/// A path as the code names it, made absolute.
struct NamedPath {
    at: usize,
    segments: Vec<String>,
}

impl Source {
    fn new(place: &str, text: &str) -> Self {
        let blank_comments = |line: &str| {
            let code = if line.trim_start().starts_with("//") { "" } else { line };
            code.split_once(" // ").map_or(code, |(code, _)| code).to_owned() + "\n"
        };
        let mut module: Vec<String> = Path::new(place)
            .with_extension("")
            .iter()
            .skip(1)
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        module.pop_if(|last| last == "mod");
        Self { place: place.to_owned(), module, code: text.lines().map(blank_comments).collect() }
    }

    fn locate(&self, at: usize) -> String {
        format!("{}:{}", self.place, self.code[..at].matches('\n').count() + 1)
    }

    /// The module that a position belongs to. rustfmt puts the end of an inline module under its start.
    fn module_at(&self, at: usize) -> Vec<String> {
        let mut module = self.module.clone();
        let mut start = 0;
        for line in self.code.split_inclusive('\n') {
            let indent = line.len() - line.trim_start().len();
            let name = line.trim_end().strip_suffix(" {").and_then(|line| line.rsplit_once("mod "));
            if let Some((before, name)) = name
                && (before.trim().is_empty() || before.trim().starts_with("pub"))
            {
                let closing = format!("\n{}}}\n", &line[..indent]);
                let end = self.code[start..].find(&closing).map_or(self.code.len(), |len| start + len);
                if (start..end).contains(&at) {
                    module.push(name.to_owned());
                }
            }
            start += line.len();
        }
        module
    }

    /// Unit tests may take the time from the clock once, as the origin of their virtual time.
    fn is_test(&self, at: usize) -> bool {
        self.module_at(at).iter().any(|module| module == "tests")
    }

    fn forbidden_texts(&self) -> impl Iterator<Item = String> {
        FORBIDDEN_TEXT.iter().flat_map(move |text| {
            let found = self.code.match_indices(text).map(|(at, _)| at);
            // `tokio_util` is as bad as `tokio`, but `.awaits_life()` is not `.await`.
            let whole = |at: &usize| {
                let starts = !text.starts_with(char::is_alphabetic) || !continues_word(&self.code[..*at]);
                let ends = *text != ".await" || !self.code[at + text.len()..].starts_with(is_word);
                starts && ends
            };
            let found = found.filter(whole).filter(|at| *text != "Instant::now" || !self.is_test(*at));
            found.map(move |at| format!("{}: {text}", self.locate(at)))
        })
    }

    fn paths(&self) -> Vec<NamedPath> {
        let mut paths = Vec::new();
        for root in ["crate", "super", "std", "fastrand"] {
            for (at, _) in self.code.match_indices(root) {
                let before = &self.code[..at];
                let is_path = self.code[at + root.len()..].starts_with("::");
                if is_path && !continues_word(before) && !before.ends_with("::") {
                    let mut tree = Tree { rest: &self.code[at..], leaves: Vec::new() };
                    tree.read(&[]);
                    let leaves = tree.leaves.into_iter();
                    paths.extend(leaves.map(|segments| NamedPath { at, segments: self.resolve(at, segments) }));
                }
            }
        }
        paths
    }

    /// `super` paths start at their module; the others stay as they are.
    fn resolve(&self, at: usize, segments: Vec<String>) -> Vec<String> {
        let climbs = segments.iter().take_while(|segment| *segment == "super").count();
        if climbs == 0 {
            return segments;
        }
        let mut module = self.module_at(at);
        module.truncate(module.len().saturating_sub(climbs));
        [&["crate".to_owned()], &module[..], &segments[climbs..]].concat()
    }

    fn forbidden_paths(&self) -> Vec<String> {
        let paths = self.paths();
        let forbidden = paths.iter().filter(|path| {
            let named = |known: &&[&str]| starts_with(&path.segments, known);
            // The free functions of fastrand use a generator that the system seeds.
            let free_random = path.segments[0] == "fastrand" && path.segments.get(1).is_none_or(|next| next != "Rng");
            free_random || FORBIDDEN_PATHS.iter().any(named) && !HARMLESS_PATHS.iter().any(named)
        });
        forbidden.map(|path| self.describe(path)).collect()
    }

    fn crate_paths(&self, allowed: impl Fn(&[String]) -> bool) -> Vec<String> {
        let paths = self.paths();
        let outside = paths.iter().filter(|path| path.segments[0] == "crate" && !allowed(&path.segments[1..]));
        outside.map(|path| self.describe(path)).collect()
    }

    fn describe(&self, path: &NamedPath) -> String {
        format!("{}: {}", self.locate(path.at), path.segments.join("::"))
    }
}

/// Reads one path with all branches of its braces.
struct Tree<'a> {
    rest: &'a str,
    leaves: Vec<Vec<String>>,
}

impl Tree<'_> {
    fn read(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        loop {
            self.rest = self.rest.trim_start();
            if let Some(inside) = self.rest.strip_prefix('{') {
                self.rest = inside;
                return self.read_group(&path);
            }
            let len = self.rest.find(|next| !is_word(next)).unwrap_or(self.rest.len());
            let (segment, rest) = self.rest.split_at(len);
            if !segment.is_empty() && segment != "self" {
                path.push(segment.to_owned());
            }
            self.rest = rest;
            match rest.strip_prefix("::") {
                Some(rest) if len > 0 => self.rest = rest,
                _ => return self.leaves.push(path),
            }
        }
    }

    fn read_group(&mut self, prefix: &[String]) {
        while !self.rest.is_empty() {
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix('}') {
                self.rest = rest;
                return;
            }
            self.read(prefix);
            // What may stand behind a branch: `as name`, and the comma.
            let end = self.rest.find([',', '}']).unwrap_or(self.rest.len());
            self.rest = self.rest[end..].trim_start_matches(',');
        }
    }
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn continues_word(before: &str) -> bool {
    before.ends_with(is_word)
}

fn starts_with(path: &[String], prefix: &[&str]) -> bool {
    path.len() >= prefix.len() && path.iter().zip(prefix).all(|(segment, expected)| segment == expected)
}

/// Everything in one file that its layer forbids, as `file:line: what`.
fn offences(layer: &Layer, place: &str, text: &str) -> Vec<String> {
    let source = Source::new(place, text);
    let mut found: Vec<String> = source.forbidden_texts().collect();
    found.extend(source.forbidden_paths());
    found.extend(source.crate_paths(|path| layer.may_name.iter().any(|prefix| starts_with(path, prefix))));
    found
}

/// Every Rust file below a folder of this package, with its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&package.join(folder), &mut files);
    files.sort();
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("a readable source file");
    let place = |path: &PathBuf| {
        let inside = path.strip_prefix(package).expect("a file of this package");
        inside.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
    };
    files.iter().map(|path| (place(path), read(path))).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn pure_layers_name_nothing_impure() {
    for layer in PURE {
        let files = sources(layer.folder);
        assert!(!files.is_empty(), "no sources in {}", layer.folder);
        let found: Vec<_> = files.iter().flat_map(|(place, text)| offences(&layer, place, text)).collect();
        assert!(found.is_empty(), "forbidden in {}:\n{}", layer.folder, found.join("\n"));
    }
}

#[test]
fn the_emulator_never_names_the_state_machine_it_tests() {
    let files = sources("src/emulator");
    let named = |(place, text): &(String, String)| {
        Source::new(place, text).crate_paths(|path| path.first().is_some_and(|layer| layer != "proto" && layer != "*"))
    };
    let found: Vec<_> = files.iter().flat_map(named).collect();
    assert!(found.is_empty(), "an emulator that shares the state machine agrees with it:\n{}", found.join("\n"));
}

#[test]
fn the_scan_finds_what_it_is_for() {
    let [wire, proto, agent] = PURE;
    let table: [(&Layer, &str, &str, &str); 28] = [
        (&wire, "src/wire/a.rs", "use tokio::net::TcpStream;", ":1: tokio"),
        (&wire, "src/wire/a.rs", "use tokio_util::sync::CancellationToken;", ":1: tokio"),
        (&wire, "src/wire/a.rs", "let s = std::net::TcpStream::connect(a);", ":1: std::net::TcpStream"),
        (&wire, "src/wire/a.rs", "use std::{fmt, net::{IpAddr, ToSocketAddrs}};", ":1: std::net::ToSocketAddrs"),
        (&wire, "src/wire/a.rs", "use std::{\n    fmt,\n    thread::{self as t},\n};", ":1: std::thread"),
        (&wire, "src/wire/a.rs", "\nlet x = std::fs::read(y);", ":2: std::fs::read"),
        (&proto, "src/proto/a.rs", "\n\nlet now = Instant::now();", ":3: Instant::now"),
        (&proto, "src/proto/a.rs", "use std::time::{Duration, SystemTime};", "SystemTime"),
        (&proto, "src/proto/a.rs", "pub async fn run() {}", "async fn"),
        (&proto, "src/proto/a.rs", "    stream.flush().await?;", ".await"),
        (&proto, "src/proto/a.rs", "getrandom::fill(&mut x);", "getrandom"),
        (&proto, "src/proto/a.rs", "let id = Uuid::new_v4();", "new_v4"),
        (&proto, "src/proto/a.rs", "let rng = fastrand::Rng::new();", "Rng::new()"),
        (&proto, "src/proto/a.rs", "let id = fastrand::u128(..);", "fastrand::u128"),
        (&proto, "src/proto/a.rs", "let x = rand::thread_rng();", "thread_rng"),
        (&proto, "src/proto/a.rs", "let x: u8 = rand::random();", "rand::random"),
        (&wire, "src/wire/a.rs", "use crate::proto::Session;", "crate::proto::Session"),
        (&wire, "src/wire/a.rs", "use crate::{wire::Size, session::Stream as S};", "crate::session::Stream"),
        (&wire, "src/wire/a.rs", "use crate::*;", ":1: crate"),
        (&wire, "src/wire/mod.rs", "use super::proto;", "crate::proto"),
        (&wire, "src/wire/a.rs", "use super::super::aws;", "crate::aws"),
        (&proto, "src/proto/mux/a.rs", "use super::super::{\n    close,\n    super::emulator,\n};", "crate"),
        (&proto, "src/proto/a.rs", "mod tests {\n    use super::super::super::cli::X;\n}", ":2: crate::cli::X"),
        (&proto, "src/proto/a.rs", "fn f(s: &crate::session::Session) {}", "crate::session::Session"),
        (&agent, "src/emulator/agent/mod.rs", "use crate::proto;", "crate::proto"),
        (&agent, "src/emulator/agent/a.rs", "use crate::emulator::gateway;", "crate::emulator::gateway"),
        (&agent, "src/emulator/agent/mod.rs", "use super::gateway;", "crate::emulator::gateway"),
        (&agent, "src/emulator/agent/a.rs", "macro! { $crate::forward::x() }", "crate::forward::x"),
    ];
    for (layer, place, text, expected) in table {
        let found = offences(layer, place, text);
        let reported = found.iter().any(|line| line.starts_with(place) && line.contains(expected));
        assert!(reported, "{text:?} in {place} gave {found:?}, not {expected:?}");
    }
}

#[test]
fn the_scan_leaves_innocent_code_alone() {
    let [wire, proto, agent] = PURE;
    let table: [(&Layer, &str, &str); 14] = [
        (&wire, "src/wire/a.rs", "// tokio drives this from outside\n/// Never `.await`s.\n//! SystemTime"),
        (&wire, "src/wire/a.rs", "let x = 1; // a tokio task does the rest"),
        (
            &wire,
            "src/wire/a.rs",
            "use super::{DecodeError, Size};\npub(super) fn f() {}\npub(in crate::wire) fn g() {}",
        ),
        (&wire, "src/wire/mod.rs", "pub(crate) fn f() {}"),
        (&wire, "src/wire/a.rs", "pub(super) mod inner {\n    use super::super::Size;\n}"),
        (&wire, "src/wire/a.rs", "#[cfg(test)]\nmod tests {\n    use super::super::to_json;\n}"),
        (&proto, "src/proto/a.rs", "use crate::wire::{self, Size};\nuse crate::proto::Token;"),
        (&proto, "src/proto/a.rs", "use std::time::{Duration, Instant};\nfn f(now: Instant) {}"),
        (&proto, "src/proto/a.rs", "let rng = fastrand::Rng::with_seed(seed);"),
        (&proto, "src/proto/a.rs", "use std::net::{IpAddr, Ipv4Addr};"),
        (&proto, "src/proto/a.rs", "if self.outgoing.awaits_life() {}"),
        (&proto, "src/proto/a.rs", "mod tests {\n    fn origin() -> Instant { Instant::now() }\n}"),
        (&agent, "src/emulator/agent/a.rs", "use super::{AgentInput, pump::Pump};\nuse crate::wire::Message;"),
        (&agent, "src/emulator/agent/a.rs", "use crate::emulator::agent::Behaviour;"),
    ];
    for (layer, place, text) in table {
        assert_eq!(offences(layer, place, text), Vec::<String>::new(), "{text:?} in {place}");
    }
}
