//! How a FORWARD is written. Text in, [`ForwardSpec`] out; nothing is looked up.
//!
//! ```text
//! [BIND:]LOCAL:HOST:PORT    PATH:HOST:PORT
//! [BIND:]LOCAL:PORT         PATH:PORT           each with @TARGET behind it, if it has its own
//! [BIND:]LOCAL              PATH                only where a session document knows the rest
//! ```
//!
//! Part 1 ends at the first `:` outside brackets. With a `/` in it, it is a PATH. Of three parts, an all-digit part 1
//! is LOCAL, anything else BIND. `@TARGET` starts at the first `@` after part 1, so that both paths and targets may
//! contain one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
};

use super::{Bind, Destination, ForwardSpec, Listen};

/// The longest host name of the DNS.
const HOST_MAX: usize = 253;

/// A FORWARD that cannot be read: the text says which part is not valid, and the form expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("FORWARD {forward:?}: {problem}")]
pub struct GrammarError {
    forward: String,
    problem: Problem,
}

/// A `[HOST:]PORT` that cannot be read: the text says which part is not valid, and the form expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("destination {destination:?}: {problem}")]
pub struct DestinationError {
    destination: String,
    problem: Problem,
}

/// What is wrong with a FORWARD.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
    /// There is nothing.
    #[error("it is empty; the form is {FULL}")]
    Empty,
    /// A part is not what stands in its place.
    #[error("{part} {found:?} is not valid: expected {expected}")]
    Part {
        /// Which.
        part: Part,
        /// What is there.
        found: String,
        /// What should be.
        expected: &'static str,
    },
    /// Parts are missing.
    #[error("{missing}; write it in full, as {full}")]
    Incomplete {
        /// Which.
        missing: &'static str,
        /// The form expected, with what was given.
        full: String,
    },
    /// There are more than four parts.
    #[error("it has {0} parts, four at most; IPv6 addresses are written in brackets, as [::1]")]
    TooManyParts(usize),
    /// There are more than three parts, the first of which is a path.
    #[error("it has {0} parts, three at most; a PATH cannot contain ':'")]
    TooManyPathParts(usize),
    /// A destination has more than two parts.
    #[error("expected HOST:PORT or PORT; IPv6 addresses are written in brackets, as [fd00::1]:5432")]
    TooManyDestinationParts,
    /// Brackets do not match.
    #[error("an IPv6 address in brackets must be a whole part, as in [::1]:13306:db:3306")]
    Brackets,
}

/// A part of a FORWARD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The address to listen on.
    Bind,
    /// The local port.
    Local,
    /// The unix socket.
    Path,
    /// The destination's host.
    Host,
    /// The destination's port.
    Port,
    /// The target behind `@`.
    Target,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bind => "BIND",
            Self::Local => "LOCAL",
            Self::Path => "PATH",
            Self::Host => "HOST",
            Self::Port => "PORT",
            Self::Target => "TARGET",
        })
    }
}

const FULL: &str = "[BIND:]LOCAL:HOST:PORT, [BIND:]LOCAL:PORT, PATH:HOST:PORT or PATH:PORT";

/// Reads a FORWARD. With `document`, the destination may be missing.
///
/// # Errors
/// When a part is missing or not valid; the error names it and the form expected.
pub(crate) fn parse(text: &str, document: bool) -> Result<ForwardSpec, GrammarError> {
    read(text, document).map_err(|problem| GrammarError { forward: text.to_owned(), problem })
}

/// As the command line takes it: `13306:db:3306`, and all other forms.
impl FromStr for ForwardSpec {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self, GrammarError> {
        parse(text, false)
    }
}

impl ForwardSpec {
    /// Reads a FORWARD for a session document that may know the destination: `[BIND:]LOCAL` or `PATH` alone will do.
    ///
    /// # Errors
    /// When a part is missing or not valid.
    pub fn for_document(text: &str) -> Result<Self, GrammarError> {
        parse(text, true)
    }
}

/// `HOST:PORT` as seen from the target, or `PORT` on the target itself. IPv6 is written in brackets.
impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let read = || match split(text)?[..] {
            [port] => Ok(Self { host: None, port: Some(read_port(port)?) }),
            [host, port] => read_destination(host, port),
            _ => Err(Problem::TooManyDestinationParts),
        };
        read().map_err(|problem| DestinationError { destination: text.to_owned(), problem })
    }
}

impl TryFrom<&str> for Destination {
    type Error = DestinationError;

    fn try_from(text: &str) -> Result<Self, DestinationError> {
        text.parse()
    }
}

impl TryFrom<&String> for Destination {
    type Error = DestinationError;

    fn try_from(text: &String) -> Result<Self, DestinationError> {
        text.parse()
    }
}

impl TryFrom<String> for Destination {
    type Error = DestinationError;

    fn try_from(text: String) -> Result<Self, DestinationError> {
        text.parse()
    }
}

/// A host or an address, IPv6 without brackets, and a port.
impl TryFrom<(&str, u16)> for Destination {
    type Error = DestinationError;

    fn try_from((host, port): (&str, u16)) -> Result<Self, DestinationError> {
        match host.parse::<Ipv6Addr>() {
            Ok(_) => format!("[{host}]:{port}").parse(),
            Err(_) => format!("{host}:{port}").parse(),
        }
    }
}

fn read(text: &str, document: bool) -> Result<ForwardSpec, Problem> {
    if text.is_empty() {
        return Err(Problem::Empty);
    }
    let first_end = end_of_part(text)?;
    let is_path = text[..first_end].contains('/');
    // Only a PATH may contain an `@`: in any other part 1 it starts the target already.
    let search_from = if is_path { first_end } else { 0 };
    let (forward, target) = match text[search_from..].find('@').map(|at| search_from + at) {
        Some(at) => (&text[..at], Some(read_target(&text[at + 1..])?)),
        None => (text, None),
    };
    let (listen, destination) = if is_path { read_path(forward, document)? } else { read_tcp(forward, document)? };
    Ok(ForwardSpec { text: text.to_owned(), listen, destination, target })
}

fn read_target(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Err(invalid(Part::Target, text, "a target such as i-0123456789abcdef0 behind the @"));
    }
    Ok(text.to_owned())
}

/// `PATH`, `PATH:PORT` or `PATH:HOST:PORT`.
fn read_path(text: &str, document: bool) -> Result<(Listen, Destination), Problem> {
    let parts = split(text)?;
    let listen = |path: &str| Listen::Unix(PathBuf::from(path));
    match parts[..] {
        [path, ..] if path.ends_with('/') => Err(invalid(Part::Path, path, "the path of a unix socket, not a folder")),
        [path] if document => Ok((listen(path), Destination::default())),
        [path] => Err(Problem::Incomplete {
            missing: "HOST and PORT are missing",
            full: format!("{path}:HOST:PORT, or {path}:PORT for a port of the target itself"),
        }),
        [path, port] => {
            let port = read_port(port).map_err(|problem| no_port(problem, path, port))?;
            Ok((listen(path), Destination { host: None, port: Some(port) }))
        }
        [path, host, port] => Ok((listen(path), read_destination(host, port)?)),
        _ => Err(Problem::TooManyPathParts(parts.len())),
    }
}

/// Everything that is not a unix socket.
fn read_tcp(text: &str, document: bool) -> Result<(Listen, Destination), Problem> {
    let parts = split(text)?;
    let (bind, port, destination) = match parts[..] {
        [local] if document => (Bind::Loopback, read_local(local)?, Destination::default()),
        [port] => {
            let full = match is_number(port) {
                true => format!("{port}:HOST:{port}, or {port}:{port} for a port of the target itself"),
                false => FULL.to_owned(),
            };
            return Err(Problem::Incomplete { missing: "only one part is given", full });
        }
        [bind, local] if document && !is_number(bind) => (read_bind(bind)?, read_local(local)?, Destination::default()),
        [local, port] if is_number(local) => {
            let local_port = read_local(local)?;
            let port = read_port(port).map_err(|problem| no_port(problem, local, port))?;
            (Bind::Loopback, local_port, Destination { host: None, port: Some(port) })
        }
        [host, port] => {
            let local = if is_number(port) { port } else { "LOCAL" };
            let port = if port.is_empty() { "PORT" } else { port };
            let full = format!("{local}:{host}:{port}");
            return Err(Problem::Incomplete { missing: "LOCAL is missing", full });
        }
        [local, host, port] if is_number(local) => (Bind::Loopback, read_local(local)?, read_destination(host, port)?),
        [bind, local, port] => {
            let destination = Destination { host: None, port: Some(read_port(port)?) };
            (read_bind(bind)?, read_local(local)?, destination)
        }
        [bind, local, host, port] => (read_bind(bind)?, read_local(local)?, read_destination(host, port)?),
        _ => return Err(Problem::TooManyParts(parts.len())),
    };
    Ok((Listen::Tcp { bind, port }, destination))
}

/// `LOCAL:NAME`: what stands in the place of PORT is rather a HOST.
fn no_port(problem: Problem, first: &str, found: &str) -> Problem {
    match read_host(found) {
        Ok(_) => Problem::Incomplete { missing: "PORT is missing", full: format!("{first}:{found}:PORT") },
        Err(_) => problem,
    }
}

fn read_bind(text: &str) -> Result<Bind, Problem> {
    const EXPECTED: &str = "an address such as 127.0.0.1 or [::1], localhost, or * for every address";
    match text {
        "*" => Ok(Bind::All),
        _ if text.eq_ignore_ascii_case("localhost") => Ok(Bind::Loopback),
        _ => match bracketed(text) {
            Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6),
            None => text.parse::<Ipv4Addr>().map(IpAddr::V4),
        }
        .map(Bind::Address)
        .map_err(|_| invalid(Part::Bind, text, EXPECTED)),
    }
}

fn read_local(text: &str) -> Result<u16, Problem> {
    number(text).ok_or_else(|| invalid(Part::Local, text, "a port from 1 to 65535, or 0 for any free one"))
}

fn read_port(text: &str) -> Result<u16, Problem> {
    const EXPECTED: &str = "a port from 1 to 65535";
    number(text).filter(|port| *port != 0).ok_or_else(|| invalid(Part::Port, text, EXPECTED))
}

fn read_destination(host: &str, port: &str) -> Result<Destination, Problem> {
    Ok(Destination { host: Some(read_host(host)?), port: Some(read_port(port)?) })
}

/// A name or an address, as the document's parameter wants it: IPv6 without brackets.
fn read_host(text: &str) -> Result<String, Problem> {
    const EXPECTED: &str = "a name or an address as the target sees it, IPv6 in brackets";
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let valid = match bracketed(text) {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        // Digits and dots are an address or a mistake.
        None if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => text.parse::<Ipv4Addr>().is_ok(),
        None => text.len() <= HOST_MAX && text.bytes().all(is_name_byte) && !text.starts_with(['-', '.']),
    };
    if !valid {
        return Err(invalid(Part::Host, text, EXPECTED));
    }
    Ok(bracketed(text).unwrap_or(text).to_owned())
}

fn invalid(part: Part, found: &str, expected: &'static str) -> Problem {
    Problem::Part { part, found: found.to_owned(), expected }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A port number of digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u16> {
    is_number(text).then(|| text.parse().ok()).flatten()
}

/// What is between the brackets.
fn bracketed(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

/// Splits at each `:` outside brackets.
fn split(text: &str) -> Result<Vec<&str>, Problem> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_at(end_of_part(rest)?);
        parts.push(part);
        match after.strip_prefix(':') {
            Some(after) => rest = after,
            None => return Ok(parts),
        }
    }
}

/// Where the first part ends: at a `:` or the end. Brackets stand around a whole part only; paths may contain them.
fn end_of_part(text: &str) -> Result<usize, Problem> {
    let from = match text.strip_prefix('[').map(|inner| inner.find(']')) {
        None => 0,
        Some(None) => return Err(Problem::Brackets),
        Some(Some(at)) => at + 2,
    };
    match text[from..].find(':').map_or(text.len(), |at| from + at) {
        end if from == 0 || end == from || text[from..].starts_with('@') => Ok(end),
        _ => Err(Problem::Brackets),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp(bind: Bind, port: u16) -> Listen {
        Listen::Tcp { bind, port }
    }

    fn to(host: &str, port: u16) -> Destination {
        Destination { host: Some(host.into()), port: Some(port) }
    }

    fn own(port: u16) -> Destination {
        Destination { host: None, port: Some(port) }
    }

    fn at(address: &str) -> Bind {
        Bind::Address(address.parse().expect("an address"))
    }

    /// Text, with a document or without, and what it means.
    type Row<'a> = (&'a str, &'a [bool], Listen, Destination, Option<&'a str>);

    #[test]
    fn every_form_is_read() {
        let path = |path: &str| Listen::Unix(path.into());
        let none = Destination::default;
        let any = [false, true];
        let only = [true];
        let table: [Row<'_>; _] = [
            ("13306:rds-endpoint:3306", &any, tcp(Bind::Loopback, 13306), to("rds-endpoint", 3306), None),
            ("0:db:1", &any, tcp(Bind::Loopback, 0), to("db", 1), None),
            ("65535:db:65535", &any, tcp(Bind::Loopback, 65535), to("db", 65535), None),
            ("0080:db:0080", &any, tcp(Bind::Loopback, 80), to("db", 80), None),
            ("13306:10.0.0.1:3306", &any, tcp(Bind::Loopback, 13306), to("10.0.0.1", 3306), None),
            ("13306:[fd00::1]:3306", &any, tcp(Bind::Loopback, 13306), to("fd00::1", 3306), None),
            (
                "1:my_db.eu-west-1.rds.amazonaws.com.:2",
                &any,
                tcp(Bind::Loopback, 1),
                { to("my_db.eu-west-1.rds.amazonaws.com.", 2) },
                None,
            ),
            ("13306:3com:3306", &any, tcp(Bind::Loopback, 13306), to("3com", 3306), None),
            ("2222:22", &any, tcp(Bind::Loopback, 2222), own(22), None),
            ("0:22", &any, tcp(Bind::Loopback, 0), own(22), None),
            ("127.0.0.1:13306:db:3306", &any, tcp(at("127.0.0.1"), 13306), to("db", 3306), None),
            ("0.0.0.0:13306:db:3306", &any, tcp(at("0.0.0.0"), 13306), to("db", 3306), None),
            ("[::1]:13306:db:3306", &any, tcp(at("::1"), 13306), to("db", 3306), None),
            ("[::]:13306:[::1]:3306", &any, tcp(at("::"), 13306), to("::1", 3306), None),
            ("localhost:13306:db:3306", &any, tcp(Bind::Loopback, 13306), to("db", 3306), None),
            ("LocalHost:13306:3306", &any, tcp(Bind::Loopback, 13306), own(3306), None),
            ("*:13306:db:3306", &any, tcp(Bind::All, 13306), to("db", 3306), None),
            ("*:2222:22", &any, tcp(Bind::All, 2222), own(22), None),
            ("127.0.0.1:2222:22", &any, tcp(at("127.0.0.1"), 2222), own(22), None),
            ("[::1]:2222:22", &any, tcp(at("::1"), 2222), own(22), None),
            ("/run/db.sock:db:3306", &any, path("/run/db.sock"), to("db", 3306), None),
            ("./db.sock:3306", &any, path("./db.sock"), own(3306), None),
            ("./[odd]@name:[::1]:3306", &any, path("./[odd]@name"), to("::1", 3306), None),
            // Targets.
            ("1:db:2@i-0a", &any, tcp(Bind::Loopback, 1), to("db", 2), Some("i-0a")),
            ("1:2@tag:k=a@b", &any, tcp(Bind::Loopback, 1), own(2), Some("tag:k=a@b")),
            ("1:db:2@ecs:cluster/service", &any, tcp(Bind::Loopback, 1), to("db", 2), Some("ecs:cluster/service")),
            ("[::1]:1:db:2@ecs:a_b_c", &any, tcp(at("::1"), 1), to("db", 2), Some("ecs:a_b_c")),
            ("/a@b/c:db:2@i-0a", &any, path("/a@b/c"), to("db", 2), Some("i-0a")),
            // With a document that knows the destination.
            ("13306", &only, tcp(Bind::Loopback, 13306), none(), None),
            ("0", &only, tcp(Bind::Loopback, 0), none(), None),
            ("127.0.0.1:13306", &only, tcp(at("127.0.0.1"), 13306), none(), None),
            ("[::1]:13306", &only, tcp(at("::1"), 13306), none(), None),
            ("*:13306", &only, tcp(Bind::All, 13306), none(), None),
            ("13306@i-0a", &only, tcp(Bind::Loopback, 13306), none(), Some("i-0a")),
            ("13306@ecs:a/b", &only, tcp(Bind::Loopback, 13306), none(), Some("ecs:a/b")),
            ("[::1]:13306@i-0a", &only, tcp(at("::1"), 13306), none(), Some("i-0a")),
            ("/run/a@b", &only, path("/run/a@b"), none(), None),
        ];
        for (text, modes, listen, destination, target) in table {
            for document in modes {
                let expected = ForwardSpec {
                    text: text.into(),
                    listen: listen.clone(),
                    destination: destination.clone(),
                    target: target.map(Into::into),
                };
                assert_eq!(parse(text, *document), Ok(expected), "{text} {document}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_the_form_expected() {
        for (text, document, expected) in [
            ("", false, "it is empty; the form is [BIND:]LOCAL:HOST:PORT"),
            ("3306", false, "write it in full, as 3306:HOST:3306, or 3306:3306 for a port of the target itself"),
            ("db", false, "only one part is given; write it in full, as [BIND:]LOCAL:HOST:PORT"),
            ("db:3306", false, "LOCAL is missing; write it in full, as 3306:db:3306"),
            ("127.0.0.1:3306", false, "LOCAL is missing; write it in full, as 3306:127.0.0.1:3306"),
            ("[::1]:3306", false, "LOCAL is missing; write it in full, as 3306:[::1]:3306"),
            ("db:http", false, "LOCAL is missing; write it in full, as LOCAL:db:http"),
            ("13306:db", false, "PORT is missing; write it in full, as 13306:db:PORT"),
            ("/a/b:db", false, "PORT is missing; write it in full, as /a/b:db:PORT"),
            ("/a/:80", false, r#"PATH "/a/" is not valid"#),
            ("/a/b", false, "HOST and PORT are missing; write it in full, as /a/b:HOST:PORT"),
            ("65536:db:3306", false, r#"LOCAL "65536" is not valid: expected a port from 1 to 65535, or 0"#),
            ("13306:db:65536", false, r#"PORT "65536" is not valid: expected a port from 1 to 65535"#),
            ("13306:db:0", false, r#"PORT "0" is not valid"#),
            ("13306:0", false, r#"PORT "0" is not valid"#),
            ("13306:db:", false, r#"PORT "" is not valid"#),
            ("13306:db:http", false, r#"PORT "http" is not valid"#),
            ("13306:db:+1", false, r#"PORT "+1" is not valid"#),
            ("99999999999999999999:db:1", false, r#"LOCAL "99999999999999999999" is not valid"#),
            ("13306::3306", false, r#"HOST "" is not valid: expected a name or an address"#),
            ("13306:3306:3306", false, r#"HOST "3306" is not valid"#),
            ("13306:300.1.1.1:3306", false, r#"HOST "300.1.1.1" is not valid"#),
            ("13306:d b:3306", false, r#"HOST "d b" is not valid"#),
            ("13306:-x:3306", false, r#"HOST "-x" is not valid"#),
            ("13306:dätenbank:3306", false, r#"HOST "dätenbank" is not valid"#),
            ("13306:[db]:3306", false, r#"HOST "[db]" is not valid"#),
            ("13306:[10.0.0.1]:3306", false, r#"HOST "[10.0.0.1]" is not valid"#),
            (":13306:db:3306", false, r#"BIND "" is not valid: expected an address such as 127.0.0.1 or [::1]"#),
            ("eth0:13306:db:3306", false, r#"BIND "eth0" is not valid"#),
            ("1:2:db:3306", false, r#"BIND "1" is not valid"#),
            ("db:13306:3306", false, r#"BIND "db" is not valid"#),
            ("[127.0.0.1]:1:db:2", false, r#"BIND "[127.0.0.1]" is not valid"#),
            ("127.0.0.1:x:db:3306", false, r#"LOCAL "x" is not valid"#),
            ("x:y:z", false, r#"PORT "z" is not valid"#),
            ("::1:13306:db:3306", false, "it has 6 parts, four at most"),
            ("1:::1:2", false, "it has 5 parts"),
            ("1:fd00::1:2", false, "it has 5 parts"),
            ("/a:1:2:3", false, "it has 4 parts, three at most; a PATH cannot contain ':'"),
            ("x:", false, "LOCAL is missing; write it in full, as LOCAL:x:PORT"),
            ("[::1:1:db:2", false, "an IPv6 address in brackets must be a whole part"),
            ("1:[::1:2", false, "an IPv6 address in brackets must be a whole part"),
            ("[::1]x:1:db:2", false, "an IPv6 address in brackets must be a whole part"),
            ("1:db:2@", false, r#"TARGET "" is not valid"#),
            ("@i-0a", false, r#"only one part is given"#),
            ("x", true, r#"LOCAL "x" is not valid"#),
            ("eth0:1", true, r#"BIND "eth0" is not valid"#),
            ("13306:", true, r#"PORT "" is not valid"#),
        ] {
            let error = parse(text, document).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_destination_alone_is_read() {
        for (text, expected) in [
            ("db:5432", to("db", 5432)),
            ("10.0.0.1:22", to("10.0.0.1", 22)),
            ("[fd00::1]:5432", to("fd00::1", 5432)),
            ("22", own(22)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        assert_eq!(("fd00::1", 1).try_into(), Ok(to("fd00::1", 1)));
        assert_eq!(("db", 1).try_into(), Ok(to("db", 1)));
        assert!(Destination::try_from(("db", 0)).is_err() && Destination::try_from(("a:b", 1)).is_err());
        for (text, expected) in [
            ("", r#"destination "": PORT "" is not valid"#),
            ("db", r#"PORT "db" is not valid"#),
            ("db:0", r#"PORT "0" is not valid"#),
            ("22:22", r#"HOST "22" is not valid"#),
            (":22", r#"HOST "" is not valid"#),
            ("fd00::1:22", "IPv6 addresses are written in brackets"),
            ("a:db:22", "expected HOST:PORT or PORT"),
        ] {
            let error = text.parse::<Destination>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_forward_is_read_from_text() {
        let spec: ForwardSpec = "13306:db:3306@i-0a".parse().expect("valid");
        assert_eq!(Ok(spec), parse("13306:db:3306@i-0a", false));
        assert!("13306".parse::<ForwardSpec>().is_err());
        assert_eq!(ForwardSpec::for_document("13306"), parse("13306", true));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[0-9a-z:@/*.\\[\\]ä+ -]{0,40}", document: bool) {
            if let Ok(spec) = parse(&text, document) {
                prop_assert_eq!(spec.text, text);
            }
        }

        #[test]
        fn nothing_at_all_panics(text: String, document: bool) {
            parse(&text, document).ok();
        }

        #[test]
        fn what_is_written_is_read(
            bind in prop::option::of(prop_oneof![Just(Bind::All), any::<IpAddr>().prop_map(Bind::Address)]),
            local: u16,
            host in prop::option::of(prop_oneof!["[a-z][a-z0-9.-]{0,20}", any::<IpAddr>().prop_map(|ip| match ip {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            })]),
            port in 1..=u16::MAX,
            target in prop::option::of("[a-z0-9:=@/_-]{1,20}"),
        ) {
            let mut text = match bind {
                None | Some(Bind::Loopback) => String::new(),
                Some(Bind::All) => "*:".into(),
                Some(Bind::Address(IpAddr::V4(ip))) => format!("{ip}:"),
                Some(Bind::Address(IpAddr::V6(ip))) => format!("[{ip}]:"),
            };
            text += &local.to_string();
            if let Some(host) = &host {
                text += &format!(":{host}");
            }
            text += &format!(":{port}");
            if let Some(target) = &target {
                text += &format!("@{target}");
            }
            let spec = parse(&text, false).expect("a valid form");
            prop_assert_eq!(spec.listen, tcp(bind.unwrap_or(Bind::Loopback), local));
            prop_assert_eq!(spec.destination.port, Some(port));
            prop_assert_eq!(spec.destination.host, host.map(|host| host.trim_matches(['[', ']']).to_owned()));
            prop_assert_eq!(spec.target, target);
        }
    }
}
