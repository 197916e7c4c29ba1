//! World D: other people's programs through the built binaries.
//!
//! Real servers (MariaDB, PostgreSQL, Redis, OpenSSH, nginx) and proxies (tinyproxy, squid) run on loopback, private to one test; their own clients reach
//! them through `ssmfwd` and an emulated AWS, and what arrives is compared with what a direct connection gives. Nothing
//! of the library is linked in but where a user does that too (`postgresql_client`): what is under test is what a user
//! starts. It runs only when named:
//!
//! ```sh
//! cargo test --features emulator --test interop -- --nocapture
//! ```
//!
//! A program that is not installed fails its test and names its Debian package.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `SSMFWD_BIN_DIR` | the folder of `ssmfwd` and `ssmfwd-emulator` | those of this build |
//! | `SSMFWD_INTEROP_MB` | size of a database's table against the `ideal` agent, MB | 100 |
//! | `SSMFWD_INTEROP_REALISTIC_MB` | the same against the `realistic` one, which gives 0.7 MB/s | 5 |
#![cfg(unix)]
#![expect(clippy::print_stderr, reason = "figures for whoever runs the tests")]

mod admin;
mod aws_cli;
mod browser;
mod credentials;
mod curl;
mod data;
mod devtools;
mod exec;
mod figures;
mod live_page;
mod live_view;
mod login;
mod mariadb;
mod openssh;
mod openssh_proxy;
mod packaging;
mod plugin;
mod postgresql;
mod postgresql_client;
mod program;
mod proxies;
mod queries;
mod redis;
mod scripts;
mod service;
#[allow(dead_code, reason = "shared with the loopback world, which uses all of it")]
#[path = "../cli/harness/terminal.rs"]
mod terminal;
mod tunnel;
