//! What goes wrong around ssmfwd: one move after the other, drawn from the seed.
//!
//! Beside the moves, both ends of every session lose their websockets at random moments all the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ssmfwd::emulator::{Action, ApiFailure, Emulator, FailureKind, Faults, Interval, Operation};
use tokio::time::{Instant, sleep_until};

use crate::{
    options::{Options, Profile},
    verdict::Verdict,
};

/// Between two moves.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 300..=4000;
/// Between two losses of a websocket, on top of the moves.
const CUTS_MS: (u64, u64) = (2000, 9000);

/// The sessions that were ended from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended(Arc<Mutex<BTreeSet<String>>>);

impl Ended {
    pub(crate) fn insert(&self, session: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(session.to_owned());
    }

    pub(crate) fn contains(&self, session: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(session)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// One thing that goes wrong.
#[derive(Debug, Clone)]
enum Move {
    /// At once, to all sessions.
    Act(Action),
    Rtt(Duration),
    /// After a loss, so many tokens are stale.
    StaleTokens(u32),
    /// After a loss, an operation fails for a while.
    Failing(Operation, FailureKind, Duration),
    /// After a loss, so many calls are throttled.
    Throttled(u32),
    ExpiredCredentials(Duration),
    Blackhole(Duration),
    Outage(Duration),
    /// Messages get lost, doubled and late on websockets that live.
    Faults(Faults, Duration),
    /// The rest of a pause is the client's to find out.
    PauseWithoutStart(Duration),
}

/// Pulls the levers.
pub(crate) struct Chaos<'a> {
    emulator: &'a Emulator,
    random: fastrand::Rng,
    rtt_max_ms: u64,
    verdict: &'a Verdict,
    verbose: bool,
    started: Instant,
    moves: BTreeMap<&'static str, u64>,
}

impl<'a> Chaos<'a> {
    pub(crate) fn new(emulator: &'a Emulator, options: &Options, seed: u64, verdict: &'a Verdict) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let (rtt_max_ms, verbose) = (options.rtt_max_ms, options.verbose);
        Self { emulator, random, rtt_max_ms, verdict, verbose, started: Instant::now(), moves: BTreeMap::new() }
    }

    /// What goes wrong by itself from now on.
    pub(crate) fn begin(&self, profile: Profile) {
        let between = |(min, max)| Interval::between(Duration::from_millis(min), Duration::from_millis(max));
        self.emulator.configure(|config| match profile {
            Profile::Chaos => {
                config.cut_every = Some(between(CUTS_MS));
                config.agent_cut_every = Some(between(CUTS_MS));
            }
            Profile::Bye => config.bye_every = Some(Duration::from_secs(1)),
        });
    }

    /// One move after the other, for ever.
    pub(crate) async fn go_on(&mut self) {
        loop {
            let pause = self.random.u64(PAUSE_MS);
            self.wait(Duration::from_millis(pause)).await;
            let next = self.draw();
            self.tell(&format!("{next:?}"));
            *self.moves.entry(next.name()).or_default() += 1;
            self.perform(next).await;
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm(&self) {
        self.tell("calm");
        self.emulator.configure(|config| {
            config.cut_every = None;
            config.agent_cut_every = None;
            config.bye_every = None;
            config.rtt = Duration::ZERO;
            config.stale_tokens = 0;
            config.throttle = 0;
            config.failures.clear();
            config.expired_credentials = false;
            config.blackhole = false;
            config.outage = false;
            config.lose_start_publication = false;
            config.faults = Faults::default();
        });
    }

    /// How often each move was made.
    pub(crate) fn moves(&self) -> &BTreeMap<&'static str, u64> {
        &self.moves
    }

    pub(crate) fn tell(&self, what: &str) {
        let line = format!("{:9.3} s  {what}", self.started.elapsed().as_secs_f64());
        if self.verbose {
            eprintln!("{line}");
        }
        self.verdict.note(line);
    }

    fn draw(&mut self) -> Move {
        let random = &mut self.random;
        let mut seconds = |least: f64, most: f64| Duration::from_secs_f64(least + (most - least) * random.f64());
        let (short, long) = (seconds(0.2, 4.0), seconds(2.0, 12.0));
        let kinds =
            [FailureKind::Internal, FailureKind::Unavailable, FailureKind::UnavailableEmpty, FailureKind::Throttled];
        let kind = *random.choice(&kinds).unwrap_or(&FailureKind::Internal);
        let upgrade = if random.bool() { FailureKind::Unavailable } else { FailureKind::Internal };
        match random.u32(..100) {
            0..15 => Move::Act(Action::Disconnect),
            15..25 => Move::Act(Action::DisconnectAgent),
            25..40 => Move::Act(Action::Bye),
            40..55 => Move::Rtt(Duration::from_millis(random.u64(..=self.rtt_max_ms))),
            55..60 => Move::StaleTokens(random.u32(1..4)),
            60..66 => Move::Failing(Operation::ResumeSession, kind, short),
            66..69 => Move::Failing(Operation::ResumeSession, FailureKind::TargetNotConnected, short),
            69..72 => Move::Failing(Operation::OpenDataChannel, upgrade, short),
            72..75 => Move::Throttled(random.u32(1..6)),
            75..79 => Move::ExpiredCredentials(short),
            79..84 => Move::Blackhole(if random.u8(..4) == 0 { long } else { short }),
            84..87 => Move::Outage(short),
            87..94 => {
                let mut percent = || 2.0 * random.f64();
                let faults =
                    Faults { drop: percent(), duplicate: percent(), reorder: percent(), disconnect_every: None };
                Move::Faults(faults, long)
            }
            94..97 => Move::PauseWithoutStart(short),
            _ => Move::Act(Action::Pause),
        }
    }

    async fn perform(&mut self, next: Move) {
        let emulator = self.emulator;
        let disconnect = || {
            emulator.act(Action::Disconnect);
        };
        match next {
            Move::Act(Action::Pause) => {
                emulator.act(Action::Pause);
                self.wait(Duration::from_millis(500)).await;
                emulator.act(Action::Start);
            }
            Move::Act(action) => {
                emulator.act(action);
            }
            Move::Rtt(rtt) => emulator.configure(|config| config.rtt = rtt),
            Move::StaleTokens(count) => {
                emulator.configure(|config| config.stale_tokens = count);
                disconnect();
            }
            Move::Failing(operation, kind, time) => {
                emulator.configure(|config| config.failures = vec![ApiFailure { operation, kind, times: None }]);
                disconnect();
                self.wait(time).await;
                emulator.configure(|config| config.failures.clear());
            }
            Move::Throttled(count) => {
                emulator.configure(|config| config.throttle = count);
                disconnect();
            }
            Move::ExpiredCredentials(time) => {
                emulator.configure(|config| config.expired_credentials = true);
                disconnect();
                self.wait(time).await;
                emulator.configure(|config| config.expired_credentials = false);
            }
            Move::Blackhole(time) => {
                emulator.configure(|config| config.blackhole = true);
                self.wait(time).await;
                emulator.configure(|config| config.blackhole = false);
            }
            Move::Outage(time) => {
                emulator.configure(|config| config.outage = true);
                self.wait(time).await;
                emulator.configure(|config| config.outage = false);
            }
            Move::Faults(faults, time) => {
                emulator.configure(|config| config.faults = faults);
                self.wait(time).await;
                emulator.configure(|config| config.faults = Faults::default());
            }
            Move::PauseWithoutStart(time) => {
                emulator.configure(|config| config.lose_start_publication = true);
                emulator.act(Action::Pause);
                self.wait(time).await;
                emulator.configure(|config| config.lose_start_publication = false);
            }
        }
    }

    async fn wait(&self, time: Duration) {
        sleep_until(Instant::now() + time).await;
    }
}

impl Move {
    fn name(&self) -> &'static str {
        match self {
            Self::Act(Action::Disconnect) => "disconnect",
            Self::Act(Action::DisconnectAgent) => "agent disconnect",
            Self::Act(Action::Bye) => "bye",
            Self::Act(_) => "pause",
            Self::Rtt(_) => "round trip",
            Self::StaleTokens(_) => "stale tokens",
            Self::Failing(Operation::OpenDataChannel, ..) => "upgrade fails",
            Self::Failing(..) => "ResumeSession fails",
            Self::Throttled(_) => "throttled",
            Self::ExpiredCredentials(_) => "expired credentials",
            Self::Blackhole(_) => "black hole",
            Self::Outage(_) => "outage",
            Self::Faults(..) => "message faults",
            Self::PauseWithoutStart(_) => "pause without start",
        }
    }
}
