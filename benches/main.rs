//! Benches of every layer: what each row means and how to run it is in `benches/README.md`.
//!
//! ```text
//!   wire        codecs
//!   channel     the state machine and the emulated agent's core in memory, on virtual time: one connection, no smux
//!   mux         the same with many streams
//!   throughput  the built stack on loopback, as a library and as a program
//! ```
//!
//! Memory and descriptors of the program are measured in `benches/idle.rs`: a process of its own.

mod channel;
mod destination;
mod mux;
mod pair;
mod program;
mod throughput;
mod wire;

/// Counts allocations of the benched thread, which divan shows beside the times.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}
