//! Where there are no ptys there are no programs: what `program.rs` is elsewhere.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::{
    agent::{Program, ProgramSignal},
    destination::DestinationEvent,
};
use crate::wire::Size;

pub(super) struct ProgramHandle;

pub(super) struct Running;

impl ProgramHandle {
    pub(super) fn resize(&self, _: Size) {}

    pub(super) fn signal(&self, _: ProgramSignal) {}
}

impl Running {
    pub(super) async fn run(
        self,
        _: &Notify,
        _: &mut mpsc::Receiver<VecDeque<Bytes>>,
        _: impl Fn(DestinationEvent) + Copy,
    ) {
    }
}

pub(super) fn start(shell: &str, _: &Program) -> Result<(ProgramHandle, Running), String> {
    Err(format!("{shell}: the emulated agent runs programs on unix only"))
}
