//! The loopback world: real sockets, the built binary and its signals, an emulated AWS in this process.
//!
//! Nothing is waited for by sleeping. Readiness is an event or a line of the program, or a state of the emulator or of a
//! destination; every such wait has a limit that fails the test with all that the program said. Each test has its own
//! emulator, program and destinations, on ports that the system chooses.
#![cfg(unix)]

mod admin;
mod client;
mod config;
mod credentials;
mod doctor;
mod dormant;
mod emulator_program;
mod endpoints;
mod ends;
mod errors;
mod exec;
mod failures;
mod faults;
mod harness;
mod identity;
mod interrupted;
mod lifecycle;
mod listeners;
mod load;
mod login;
mod ls;
mod main_path;
mod modes;
mod outage;
mod payloads;
mod picker;
mod plugin;
mod pool;
mod proxies;
mod refusals;
mod reload;
mod replaced;
mod resume;
mod secrets;
mod settings;
mod several;
#[cfg(target_os = "linux")]
mod shell;
mod signals;
mod stdio;
mod supervision;
mod targets;
mod upgrade;
