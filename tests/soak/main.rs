//! The soak: a real ssmfwd under an emulated AWS that falls apart again and again, for as long as asked.
//!
//! ```sh
//! cargo test --features emulator --test soak -- --minutes 30
//! cargo test --features emulator --test soak -- --minutes 10 --profile bye
//! cargo test --features emulator --test soak -- --help
//! ```
//!
//! ```text
//!  50 connections ──▶ ssmfwd ══ emulated AWS ══▶ destination      every byte checked, both ways
//!  mariadb client ──▶  (built)    (here)    ══▶ MariaDB           one connection, its sums checked
//!                                   ▲
//!                                 chaos, from a seed
//! ```
//!
//! It is a program and not a `#[test]`: how long it runs is its only timer, and it ends with a table. It fails, with the
//! seed and what happened last, if a byte is wrong or missing, if a connection is lost that its session could have kept,
//! if one is lost without a reset, if the client acts against the protocol, or if memory or descriptors grow.
#![cfg(unix)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is what it is for")]

mod chaos;
mod database;
mod destination;
mod gauge;
mod options;
mod report;
mod run;
mod traffic;
mod tunnel;
mod verdict;

// Of the other worlds.
#[path = "../interop/data.rs"]
#[allow(dead_code, reason = "shared with the interop world")]
mod data;
#[path = "../interop/mariadb/server.rs"]
#[allow(dead_code, reason = "shared with the interop world")]
mod mariadb;
#[path = "../cli/harness/pattern.rs"]
mod pattern;
#[path = "../interop/program.rs"]
#[allow(dead_code, reason = "shared with the interop world")]
mod program;
#[path = "../interop/service.rs"]
#[allow(dead_code, reason = "shared with the interop world")]
mod service;

use std::process::ExitCode;

use clap::Parser as _;

use options::Options;
use run::Run;
use verdict::Verdict;

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed();
    println!("soak: {:?} for {} s, seed {seed}", options.profile, options.length().as_secs());
    let verdict = Verdict::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let mut run = Run::start(&options, seed, &verdict).await;
        run.go_on().await;
        run.end().await.print();
    });
    let (count, failures) = verdict.failures();
    if count == 0 {
        println!("soak: passed, seed {seed}");
        return ExitCode::SUCCESS;
    }
    eprintln!("\nwhat happened before the first failure:");
    verdict.history().iter().for_each(|line| eprintln!("  {line}"));
    eprintln!("\n{count} failures:");
    failures.iter().for_each(|failure| eprintln!("  {failure}"));
    eprintln!("\nsoak: FAILED, replay the chaos with --seed {seed} --profile {}", options.profile.name());
    ExitCode::FAILURE
}
