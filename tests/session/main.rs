//! The paused world: the driver, its streams and the websocket are real; IO is in memory and the clock is virtual.
//!
//! ```text
//!   test ─▶ Session, Stream ─▶ driver ─▶ websocket ═duplex═ websocket ◀─ Gateway ─▶ AgentCore ─▶ services in memory
//! ```

mod back_pressure;
mod basic;
mod control;
mod ending;
mod gateway;
mod loss;
mod setup;
mod streams;
mod stutter;
