//! Thousands of runs of the pure world. A failure prints its seed.
//!
//! `SSMFWD_TEST_SEEDS=N` runs the first N seeds of each profile, `SSMFWD_TEST_SEEDS=A..B` a range of them, and
//! `SSMFWD_SEED=N` one alone.

use std::ops::Range;

use ssmfwd::proto::Mode;

use crate::world::{Profile, World};

/// Seeds of each profile under the ordinary test command: some twelve seconds of one core in all.
const SEEDS: Range<u64> = 0..1000;

fn seeds() -> Range<u64> {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a number of seeds: {text}"));
    if let Ok(seed) = std::env::var("SSMFWD_SEED") {
        let seed = number(&seed);
        return seed..seed + 1;
    }
    match std::env::var("SSMFWD_TEST_SEEDS") {
        Err(_) => SEEDS,
        Ok(text) => text.split_once("..").map_or_else(|| 0..number(&text), |(from, to)| number(from)..number(to)),
    }
}

#[expect(clippy::print_stderr, reason = "how much was simulated")]
fn run(mode: Mode, profile: Profile) {
    let (mut steps, mut runs, mut resumes, mut stops) = (0, 0, 0, 0);
    let (mut probes, mut too_large) = (0, 0);
    for seed in seeds() {
        let outcome = World::new(seed, mode, profile).run();
        steps += u64::from(outcome.steps);
        resumes += outcome.resumes;
        stops += outcome.stops;
        probes += outcome.probes;
        too_large += outcome.too_large;
        runs += 1;
        if seed.is_multiple_of(50) {
            let again = World::new(seed, mode, profile).run();
            assert_eq!(outcome, again, "seed {seed}: the same seed did something else");
        }
    }
    eprintln!(
        "{mode:?} {profile:?}: {runs} seeds, {steps} steps, {resumes} resumes timed, {stops} stops in reading, {probes} probes \
         passed, {too_large} were too large"
    );
}

#[test]
fn mux_over_a_carrier_that_is_cut() {
    run(Mode::Mux, Profile::Carrier);
}

#[test]
fn mux_over_a_network_that_drops_repeats_and_reorders() {
    run(Mode::Mux, Profile::Harsh);
}

#[test]
fn basic_over_a_carrier_that_is_cut() {
    run(Mode::Basic, Profile::Carrier);
}

#[test]
fn basic_over_a_network_that_drops_repeats_and_reorders() {
    run(Mode::Basic, Profile::Harsh);
}

#[test]
fn mux_through_an_ordeal() {
    run(Mode::Mux, Profile::Ordeal);
}

#[test]
fn basic_through_an_ordeal() {
    run(Mode::Basic, Profile::Ordeal);
}
