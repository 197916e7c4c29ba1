//! The program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ssmfwd::cli::main()
}
