//! What each connection of a run does, chosen by the seed.

use std::time::Duration;

use ssmfwd::proto::{Mode, limits};

use super::Profile;

pub(super) const UP: u8 = 0;
pub(super) const DOWN: u8 = 1;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The destination has got all, sent all, and closes.
    DestinationCloses,
    /// The app has got all, sent all, and sends its FIN.
    AppCloses,
    /// The app lets go in the middle.
    AppAborts,
    /// The destination cannot be dialled.
    Refused,
}

/// One connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    salt: u64,
    pub(super) up: usize,
    pub(super) down: usize,
    pub(super) ending: Ending,
    /// The reader stops once.
    pub(super) nap: Option<Nap>,
}

/// A reader that stops for a while when it has got so many bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nap {
    pub(super) after: usize,
    pub(super) lasts: Duration,
}

impl Plan {
    /// The byte at a place: wrong order, loss and duplication all show.
    pub(super) fn byte(&self, direction: u8, at: usize) -> u8 {
        let mixed = (at as u64 ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(direction) << 40;
        (mixed >> 32) as u8
    }
}

/// Sizes around the edges of a message and a few that fill many.
fn size(random: &mut fastrand::Rng, largest: usize) -> usize {
    match random.u8(..6) {
        0 => 0,
        1 => 1,
        2 => random.usize(1010..1030),
        3 => random.usize(..3000),
        _ => random.usize(..largest),
    }
}

pub(super) fn plans(random: &mut fastrand::Rng, mode: Mode, profile: Profile) -> Vec<Plan> {
    let largest = match profile {
        Profile::Harsh => 12_000,
        // Enough for the window to grow, and for messages of every size.
        _ if random.u8(..8) == 0 => 200_000,
        Profile::Carrier | Profile::Ordeal => 40_000,
    };
    let count = random.usize(1..=if mode == Mode::Mux { 8 } else { 4 });
    let mut plans: Vec<Plan> = (0..count)
        .map(|_| {
            let (up, down) = (size(random, largest), size(random, largest));
            let salt = random.u64(..);
            if mode == Mode::Basic {
                // The agent dials again on data, and never says that the destination has closed.
                return Plan { salt, up: up.max(1), down, ending: Ending::AppCloses, nap: None };
            }
            let ending = match random.u8(..10) {
                0..5 => Ending::DestinationCloses,
                5..8 => Ending::AppCloses,
                8 => Ending::AppAborts,
                _ => Ending::Refused,
            };
            Plan { salt, up, down: if ending == Ending::Refused { 0 } else { down }, ending, nap: None }
        })
        .collect();
    // A refusal does not name its stream: with another stream that ends without having received anything, nobody can
    // tell the two apart.
    if plans.iter().any(|plan| plan.ending == Ending::Refused) {
        for plan in plans.iter_mut().filter(|plan| plan.ending != Ending::Refused) {
            plan.down = plan.down.max(1);
            if plan.ending == Ending::AppAborts {
                plan.ending = Ending::AppCloses;
            }
        }
    }
    if profile == Profile::Ordeal && mode == Mode::Mux && random.u8(..8) == 0 {
        stop_reading(random, &mut plans);
    }
    plans
}

/// One reader stops for so long, and gets so much, that the session has to stop reading for its sake; but neither as
/// long as it takes until it is reset, nor as long as an agent waits for a sign of life.
fn stop_reading(random: &mut fastrand::Rng, plans: &mut [Plan]) {
    let index = random.usize(..plans.len());
    let plan = &mut plans[index];
    if matches!(plan.ending, Ending::DestinationCloses | Ending::AppCloses) {
        let after = random.usize(..100_000);
        plan.down = after + limits::STREAM_UNREAD + limits::PROCESS_BUDGET_FLOOR + random.usize(..200_000);
        let longest = limits::SLOW_READER.as_millis() as u64 - 1000;
        plan.nap = Some(Nap { after, lasts: Duration::from_millis(random.u64(..longest)) });
    }
}
