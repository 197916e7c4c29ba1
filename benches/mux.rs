//! Many streams in one session, in memory and on virtual time. The same bytes in all, spread evenly.

use divan::{Bencher, counter::BytesCount};
use ssmfwd::proto::{Mode, limits};

use super::pair::Pair;

const BYTES: usize = 8 << 20;
const STREAMS: [usize; 3] = [1, 10, 100];

#[divan::bench(args = STREAMS, sample_count = 30)]
fn up(bencher: Bencher<'_, '_>, streams: usize) {
    bencher
        .counter(BytesCount::new(BYTES))
        .with_inputs(|| Pair::ready(Mode::Mux, streams, limits::PAYLOAD))
        .bench_local_refs(|pair| pair.upload(BYTES));
}

#[divan::bench(args = STREAMS, sample_count = 30)]
fn down(bencher: Bencher<'_, '_>, streams: usize) {
    bencher
        .counter(BytesCount::new(BYTES))
        .with_inputs(|| Pair::ready(Mode::Mux, streams, limits::PAYLOAD))
        .bench_local_refs(|pair| pair.download(BYTES));
}

/// One byte up and one down on each of the streams: the cost of a message that carries next to nothing.
#[divan::bench(args = STREAMS, sample_count = 30)]
fn ping_pong(bencher: Bencher<'_, '_>, streams: usize) {
    let mut pair = Pair::ready(Mode::Mux, streams, limits::PAYLOAD);
    bencher.bench_local(|| {
        pair.upload(streams);
        pair.download(streams);
    });
}
