//! Fuzz target `payloads`: see `../bodies/payloads.rs`.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::run("payloads", data));
