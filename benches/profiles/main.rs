//! The built program and the library over link profiles, beside the limits of this machine: what each row means, and how
//! to run it, is in `benches/README.md`.
//!
//! ```text
//!            this process                          a process each
//!  ┌ load ─────────▶ local socket ─▶ ssmfwd ══ ssmfwd-emulator ─┐
//!  └ destination ◀──────────────────────────────────────────────┘
//! ```
//!
//! Every byte that is counted was compared with the one that was sent. The clients that are parts of this bench run as
//! this program once more: what they use is theirs alone.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod allocations;
#[cfg(target_os = "linux")]
mod bare;
#[cfg(target_os = "linux")]
mod bench;
#[cfg(target_os = "linux")]
mod harness;
#[cfg(target_os = "linux")]
mod library;
#[cfg(target_os = "linux")]
mod options;
#[cfg(target_os = "linux")]
mod rows;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: allocations::Counted = allocations::Counted;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let ended = match arguments.split_first() {
        Some((first, rest)) if first == "part" => runtime.block_on(part(rest)).map(|()| true),
        _ => runtime.block_on(run()),
    };
    // Parts read their orders from stdin, on a thread that nobody can stop.
    runtime.shutdown_background();
    #[expect(clippy::print_stderr, reason = "somebody started it")]
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(target_os = "linux")]
async fn run() -> harness::Outcome<bool> {
    let options = options::Options::read();
    let mut bench = bench::Bench::new(options).await?;
    rows::all(&mut bench).await?;
    Ok(bench.end())
}

/// A client that is part of this bench.
#[cfg(target_os = "linux")]
async fn part(arguments: &[String]) -> harness::Outcome<()> {
    let (name, rest) = arguments.split_first().ok_or("which part?")?;
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let work = async {
        match name.as_str() {
            "reference" => harness::reference::run(rest).await,
            "library" => library::run(rest).await,
            "bare-near" => bare::near(rest).await,
            "bare-far" => bare::far(rest).await,
            other => Err(format!("there is no part {other}").into()),
        }
    };
    tokio::select! {
        done = work => done,
        _ = ended.recv() => Ok(()),
    }
}
