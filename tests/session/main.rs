//! The paused world: the driver, its streams and the websocket are real; IO is in memory and the clock is virtual.
//!
//! ```text
//!   test ─▶ Session, Stream ─▶ driver ─▶ websocket ═duplex═ websocket ◀─ Gateway ─▶ AgentCore ─▶ services in memory
//!            Control, MemoryDialer ─▶ other websockets, when one is lost
//! ```

mod back_pressure;
mod basic;
mod control;
mod dialer;
mod ending;
mod gateway;
mod line;
mod loss;
mod reconnecting;
mod resume;
mod setup;
mod shell;
mod statistics;
mod streams;
mod stutter;
