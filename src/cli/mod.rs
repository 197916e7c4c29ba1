//! The command line: typed arguments, a validated plan, reports, events, signals. Nothing here that another crate
//! could want to call.
//!
//! ```text
//! argv ─▶ Args ─▶ Plan ─▶ run ─▶ Exit
//!                           ├─▶ Console   people: stderr; programs: stdout, as JSON lines
//!                           └─▶ forward   the work
//! ```

mod args;
mod clock;
mod console;
mod doctor;
mod events;
mod exit;
mod forward_reporter;
mod grammar;
mod logging;
mod login;
mod ls;
mod picker;
mod plan;
mod prompt;
mod report;
mod reporter;
mod run;
mod signals;
mod targets;

pub use run::main;
