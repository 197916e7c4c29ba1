//! The data channel alone: one connection in basic mode, so without smux, in memory and on virtual time.

use divan::{Bencher, counter::BytesCount};
use ssmfwd::proto::Mode;

use super::pair::Pair;

const BYTES: usize = 8 << 20;

/// By payload size of the messages, bytes.
#[divan::bench(args = [1 << 10, 8 << 10, 32 << 10], sample_count = 30)]
fn up(bencher: Bencher<'_, '_>, max_payload: usize) {
    bencher
        .counter(BytesCount::new(BYTES))
        .with_inputs(|| Pair::ready(Mode::Basic, 1, max_payload))
        .bench_local_refs(|pair| pair.upload(BYTES));
}

/// In the agent's messages of 1024 bytes.
#[divan::bench(sample_count = 30)]
fn down(bencher: Bencher<'_, '_>) {
    bencher
        .counter(BytesCount::new(BYTES))
        .with_inputs(|| Pair::ready(Mode::Basic, 1, 1 << 10))
        .bench_local_refs(|pair| pair.download(BYTES));
}
