//! The pure world: no sockets, no clock, no runtime.

mod back_pressure;
mod captures;
mod dialling;
mod ending;
mod floods;
mod fuzz;
mod gaps;
mod golden;
mod handshake;
mod link;
mod liveness;
mod malformed;
mod mux;
mod notes;
mod peer;
mod probes;
mod purity;
mod reconnect;
mod recording;
mod seeds;
mod sending;
mod single;
mod tokens;
mod wire_props;
mod world;
