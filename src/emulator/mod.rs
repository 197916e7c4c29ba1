//! An emulated AWS on loopback. Feature `emulator`, never in the shipped program.

pub mod agent;
