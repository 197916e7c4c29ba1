//! The pure world: no sockets, no clock, no runtime.

mod captures;
mod golden;
mod notes;
mod recording;
mod wire_props;
