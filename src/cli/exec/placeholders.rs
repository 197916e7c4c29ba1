//! `{addr}`, `{host}`, `{port}` of the first forward and `{db.addr}`, `{db.host}`, `{db.port}` of a tunnel named `db` in the
//! arguments of COMMAND.
//!
//! Exactly these tokens are replaced. All other braces stay: those of JSON, of `awk` and of shells, and those of tunnels
//! that do not run. What is put in is not looked at again.

use std::ffi::{OsStr, OsString};

use super::{Endpoint, Endpoints};
use crate::cli::sys;

/// The tokens and what stands for them.
pub(super) struct Placeholders<'a> {
    tokens: Vec<(String, &'a OsStr)>,
}

impl<'a> Placeholders<'a> {
    pub(super) fn new(endpoints: &'a Endpoints) -> Self {
        let mut tokens = Vec::from(of("", &endpoints.first));
        for (name, endpoint) in &endpoints.named {
            tokens.extend(of(&format!("{name}."), endpoint));
        }
        Self { tokens }
    }

    /// One argument, filled in. It may be anything that the system lets through.
    pub(super) fn fill(&self, argument: &OsStr) -> OsString {
        let bytes = argument.as_encoded_bytes();
        let mut filled = OsString::with_capacity(bytes.len());
        let (mut copied, mut at) = (0, 0);
        while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'{')) {
            at += found;
            let rest = &bytes[at..];
            let token = self.tokens.iter().find(|(token, _)| rest.starts_with(token.as_bytes()));
            let Some((token, value)) = token else {
                at += 1;
                continue;
            };
            // A brace begins here, and one has ended there.
            filled.push(sys::part(argument, copied..at).unwrap_or_default());
            filled.push(value);
            at += token.len();
            copied = at;
        }
        filled.push(sys::part(argument, copied..bytes.len()).unwrap_or_default());
        filled
    }
}

fn of<'a>(prefix: &str, endpoint: &'a Endpoint) -> [(String, &'a OsStr); 3] {
    let token = |what: &str, value: &'a OsString| (format!("{{{prefix}{what}}}"), value.as_os_str());
    [token("addr", &endpoint.addr), token("host", &endpoint.host), token("port", &endpoint.port)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::LocalAddress;

    fn endpoints() -> Endpoints {
        let tcp = |address: &str| LocalAddress::Tcp(address.parse().expect("an address"));
        let first = Endpoint::of(&[tcp("127.0.0.1:13306"), tcp("[::1]:13306")]).expect("addresses");
        let cache = Endpoint::of(&[tcp("[::1]:6379")]).expect("addresses");
        Endpoints::new(first.clone(), vec![("db".into(), first), ("my-cache".into(), cache)])
    }

    fn fill(argument: impl AsRef<OsStr>) -> OsString {
        Placeholders::new(&endpoints()).fill(argument.as_ref())
    }

    #[test]
    fn tokens_are_replaced_wherever_they_stand() {
        for (argument, filled) in [
            ("{addr}", "127.0.0.1:13306"),
            ("--port={port}", "--port=13306"),
            ("mysql://u@{host}:{port}/x", "mysql://u@127.0.0.1:13306/x"),
            ("{db.addr} {db.host} {db.port}", "127.0.0.1:13306 127.0.0.1 13306"),
            ("redis://{my-cache.addr}", "redis://[::1]:6379"),
            ("{my-cache.host}{my-cache.port}", "::16379"),
            ("ä{port}ö", "ä13306ö"),
        ] {
            assert_eq!(fill(argument), filled, "{argument}");
        }
    }

    #[test]
    fn all_other_braces_stay() {
        for argument in [
            "",
            "{",
            "}",
            "{}",
            "{addr",
            "addr}",
            "{ addr }",
            "{ADDR}",
            "{Addr}",
            "{db}",
            "{db.name}",
            "{other.addr}",
            "{my_cache.addr}",
            r#"{"addr": "{name}"}"#,
            "${HOME}",
            "{print $1}",
            "{a,b}{1..3}",
        ] {
            assert_eq!(fill(argument), argument);
        }
    }

    #[test]
    fn a_brace_more_is_a_brace_that_stays() {
        assert_eq!(fill("{{port}}"), "{13306}");
        assert_eq!(fill("{{{port"), "{{{port");
        assert_eq!(fill("{{{db.port}"), "{{13306");
    }

    #[test]
    fn what_was_put_in_is_not_looked_at_again() {
        let path = Endpoint::of(&[LocalAddress::Unix("/run/{port}.sock".into())]).expect("an address");
        let endpoints = Endpoints::new(path, Vec::new());
        let filled = Placeholders::new(&endpoints).fill(OsStr::new("{addr}"));
        assert!(filled.to_str().is_some_and(|path| path.ends_with("run/{port}.sock")), "{filled:?}");
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text_survive() {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        assert_eq!(fill(OsStr::from_bytes(b"\xff{port}\xfe{\xfd}")).into_vec(), b"\xff13306\xfe{\xfd}");
        assert_eq!(fill(OsStr::from_bytes(b"\xff")).into_vec(), b"\xff");
    }
}
