//! All rows, by what they are about.

mod cpu;
mod download;
mod latency;
mod library;
mod limits;
mod matrix;
mod memory;
mod setup;
mod upload;

use crate::{bench::Bench, harness::Outcome};

/// Measures what is wanted and prints it, table by table.
pub(crate) async fn all(bench: &mut Bench) -> Outcome<()> {
    limits::rows(bench).await;
    upload::rows(bench).await;
    download::rows(bench).await;
    latency::rows(bench).await;
    cpu::rows(bench).await;
    setup::rows(bench).await;
    library::rows(bench).await;
    matrix::rows(bench).await;
    memory::rows(bench).await;
    Ok(())
}
