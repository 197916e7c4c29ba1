//! Thousands of runs of the pure world. A failure prints its seed; `SSMFWD_SEED=N` replays that one alone.

use ssmfwd::proto::Mode;

use crate::world::{Profile, World};

fn run(mode: Mode, profile: Profile, seeds: std::ops::Range<u64>) {
    if let Some(seed) = std::env::var("SSMFWD_SEED").ok().and_then(|seed| seed.parse().ok()) {
        World::new(seed, mode, profile).run();
        return;
    }
    for seed in seeds {
        let digest = World::new(seed, mode, profile).run();
        if seed % 50 == 0 {
            assert_eq!(digest, World::new(seed, mode, profile).run(), "seed {seed}: the same seed did something else");
        }
    }
}

#[test]
fn mux_over_a_carrier_that_is_cut() {
    run(Mode::Mux, Profile::Carrier, 0..2000);
}

#[test]
fn mux_over_a_network_that_drops_repeats_and_reorders() {
    run(Mode::Mux, Profile::Harsh, 0..2000);
}

#[test]
fn basic_over_a_carrier_that_is_cut() {
    run(Mode::Basic, Profile::Carrier, 0..2000);
}

#[test]
fn basic_over_a_network_that_drops_repeats_and_reorders() {
    run(Mode::Basic, Profile::Harsh, 0..2000);
}
