//! `ssmfwd login`: AWS IAM Identity Center.

use std::sync::Arc;

use super::{args::Args, exit::Exit, report::Report, reporter::Reporter};

/// What only this command takes.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LoginArgs {}

pub(super) async fn run(_: &LoginArgs, _: &Args, _: &Arc<Reporter>) -> Result<(), Report> {
    Err(Report::new(Exit::Failure, "not in this build"))
}
