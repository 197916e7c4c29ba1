//! Other people's clients and ssmfwd under the same load, one after another in one run: `benches/README.md`, "Peers".

#[path = "../../profiles/harness/mod.rs"]
#[allow(dead_code, reason = "shared with the bench `profiles`")]
mod harness;

mod contender;
mod plugin;
mod workloads;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;

use crate::{
    contender::Contender,
    harness::{Outcome, reference, window::Timing},
};

/// ssmfwd beside other clients of SSM Session Manager.
#[derive(Debug, Parser)]
#[command(name = "peers")]
pub(crate) struct Options {
    /// Only the workloads whose name contains one of these.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// A session-manager-plugin to run beside the others; can be repeated.
    #[arg(long = "plugin", value_name = "PATH")]
    plugins: Vec<PathBuf>,
    /// How long each row takes.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    seconds: f64,
    /// Round-trip times, milliseconds.
    #[arg(long, default_values_t = [0, 50], value_delimiter = ',', value_name = "MS")]
    rtt: Vec<u32>,
}

impl Options {
    fn timing(&self) -> Timing {
        Timing::of(Duration::from_secs_f64(self.seconds))
    }

    fn wants(&self, workload: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| workload.contains(filter.as_str()))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let ended = runtime.block_on(async {
        match arguments.split_first() {
            Some((first, rest)) if first == "part" => part(rest).await,
            _ => {
                let options = Options::parse();
                let contenders = Contender::all(&options).await?;
                workloads::run(&options, &contenders).await
            }
        }
    });
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A client that is part of this program, in a process of its own.
async fn part(arguments: &[String]) -> Outcome<()> {
    let (name, rest) = arguments.split_first().ok_or("which part?")?;
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let work = async {
        match name.as_str() {
            "reference" => reference::run(rest).await,
            "start-session" => plugin::start_session(rest).await,
            other => Err(format!("there is no part {other}").into()),
        }
    };
    tokio::select! {
        done = work => done,
        _ = ended.recv() => Ok(()),
    }
}
