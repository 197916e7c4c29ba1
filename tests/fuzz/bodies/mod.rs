//! What the fuzz targets run: plain functions over bytes that panic when an invariant is broken.
//!
//! They are compiled twice: into the targets of `tests/fuzz/targets`, and into the test binary `proto`, which runs
//! them over seeded input under the ordinary test command. A new body is a file here, a line in [`BODIES`], a target
//! and its entry in `tests/fuzz/Cargo.toml`.

pub(crate) mod message;
pub(crate) mod operations;
pub(crate) mod payloads;
pub(crate) mod smux;

/// One body.
pub(crate) type Body = fn(&[u8]);

/// Every body by its name.
pub(crate) const BODIES: [(&str, Body); 4] = [
    ("message", message::message),
    ("operations", operations::operations),
    ("payloads", payloads::payloads),
    ("smux", smux::smux),
];

/// Runs one body.
pub(crate) fn run(name: &str, data: &[u8]) {
    let body = BODIES.iter().find(|(known, _)| *known == name);
    let (_, body) = body.unwrap_or_else(|| panic!("there is no fuzz body {name}"));
    body(data);
}
