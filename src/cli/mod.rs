//! The command line: typed arguments, a validated plan, reports, events, signals. Nothing here that another crate
//! could want to call.
//!
//! ```text
//! argv ─▶ Args ─▶ Plan ─▶ run ─▶ Exit
//!                           ├─▶ Console   people: stderr; programs: stdout, as JSON lines
//!                           └─▶ forward   the work
//! ```

mod admin;
mod args;
mod board;
mod clock;
mod completions;
mod config;
mod console;
mod doctor;
mod events;
mod exec;
mod exit;
mod forward_reporter;
mod live;
mod logging;
mod login;
mod ls;
mod manual;
mod own_variables;
mod picker;
mod plan;
mod plugin;
mod prompt;
mod report;
mod reporter;
mod run;
mod shell;
mod signals;
mod stdio;
mod supervision;
mod sys;
mod targets;
mod version;

pub use run::main;

use crate::forward::grammar;
