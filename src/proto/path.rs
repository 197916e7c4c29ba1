//! What the sessions of a process learn together of the way to one endpoint: how large a message may be.
//!
//! What it is: the sizes that were tried and what became of them, and which one is tried next. What it is not: the
//! probe itself, which is one session's (`payload_size.rs`).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::limits;

/// Steps of the way up. The reference sends the first; two independent clients have sent the others to the service.
const STEPS: [usize; 3] = [limits::PAYLOAD, 4096, 16 << 10];
/// Between the largest size that passes and the smallest that does not, a gap of this share of the former is not worth
/// another probe, nor one of less than [`limits::PAYLOAD`]: a failed probe may cost a websocket, and half as much again
/// in a message gains little.
const GAP: usize = 2;
/// Probes that may fail before the process stops trying. Three steps up, then by halves: four failures are enough to
/// come that near to any limit.
const FAILURES: u32 = 4;
/// Probes in a row of which nobody knows what became of them, before one more counts as failed.
const UNCERTAIN: u32 = 6;
/// How long after a probe of unknown fate the next one; doubles.
const UNCERTAIN_WAIT: Duration = Duration::from_secs(1);
/// How long after a failure the next probe. What the failure broke is mended first.
const FAILED_WAIT: Duration = Duration::from_secs(1);
/// A size that failed may have had bad luck: a websocket is closed about hourly, whatever is on it. So long after the
/// last failure it may be tried again, while [`FAILURES`] allows.
const FORGIVEN: Duration = Duration::from_secs(600);
/// How long one session may keep the others from probing: longer than a probe takes, and it may have ended with it.
const CLAIM: Duration = Duration::from_secs(30);

/// The payload sizes that pass to an endpoint. Clones share what is learned: give all sessions of a process to the same
/// endpoint a clone of one.
#[derive(Debug, Clone)]
pub struct PathState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The largest payload that was acknowledged.
    good: AtomicUsize,
    trials: Mutex<Trials>,
}

#[derive(Debug)]
struct Trials {
    /// The smallest payload that failed.
    bad: usize,
    failures: u32,
    failed_at: Option<Instant>,
    uncertain: u32,
    /// No probe before this.
    not_before: Option<Instant>,
}

impl Default for PathState {
    fn default() -> Self {
        Self::known(limits::PAYLOAD)
    }
}

impl PathState {
    /// A path of which it is known that payloads of so many bytes pass.
    #[must_use]
    pub fn known(payload: usize) -> Self {
        let trials = Trials { bad: usize::MAX, failures: 0, failed_at: None, uncertain: 0, not_before: None };
        Self(Arc::new(Inner { good: AtomicUsize::new(payload), trials: Mutex::new(trials) }))
    }

    /// The largest payload known to pass, bytes.
    #[must_use]
    pub fn payload(&self) -> usize {
        self.0.good.load(Ordering::Relaxed)
    }

    fn trials(&self) -> MutexGuard<'_, Trials> {
        self.0.trials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_payload(&self, payload: usize) {
        self.0.good.store(payload, Ordering::Relaxed);
    }

    /// Claims the next probe, if one is worth it: its size, above the known one and at most `cap`. Other sessions
    /// get none until its fate is told, or a while has passed.
    pub(super) fn claim(&self, now: Instant, cap: usize) -> Option<usize> {
        // In steps of a frame header, which is what a probe is made of.
        let cap = cap & !7;
        let mut trials = self.trials();
        let good = self.payload();
        let size = trials.next(now, good, cap)?;
        trials.not_before = Some(now + CLAIM);
        Some(size)
    }

    /// A probe was acknowledged.
    pub(super) fn passed(&self, size: usize) {
        let mut trials = self.trials();
        self.set_payload(self.payload().max(size));
        trials.uncertain = 0;
        trials.not_before = None;
        if size >= trials.bad {
            trials.bad = usize::MAX;
        }
    }

    /// A probe was lost, alone or with its websocket.
    pub(super) fn failed(&self, now: Instant, size: usize) {
        self.trials().fail(now, size);
    }

    /// A probe was sent again before its acknowledgement came: nobody knows which of the two it is for.
    pub(super) fn uncertain(&self, now: Instant, size: usize) {
        let mut trials = self.trials();
        trials.uncertain += 1;
        if trials.uncertain > UNCERTAIN {
            trials.fail(now, size);
        } else {
            trials.not_before = Some(now + UNCERTAIN_WAIT * (1 << trials.uncertain));
        }
    }

    /// Messages of this size are lost although a probe of it was acknowledged: back to what always passes.
    pub(super) fn lower(&self, now: Instant, size: usize) {
        let mut trials = self.trials();
        self.set_payload(self.payload().min(limits::PAYLOAD));
        trials.fail(now, size);
    }
}

impl Trials {
    fn fail(&mut self, now: Instant, size: usize) {
        self.bad = self.bad.min(size);
        self.failures += 1;
        self.failed_at = Some(now);
        self.uncertain = 0;
        self.not_before = Some(now + FAILED_WAIT);
    }

    fn next(&mut self, now: Instant, good: usize, cap: usize) -> Option<usize> {
        if good >= cap || self.failures >= FAILURES || self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        if self.failed_at.is_some_and(|at| now.saturating_duration_since(at) >= FORGIVEN) {
            self.bad = usize::MAX;
        }
        let step = STEPS.into_iter().find(|step| *step > good).unwrap_or(usize::MAX).min(cap);
        if step < self.bad {
            return Some(step);
        }
        let gap = self.bad.saturating_sub(good);
        // A multiple of eight, the length of a frame header. What lies above the cap is of no interest.
        let middle = (good + gap / 2) & !7;
        (gap > limits::PAYLOAD.max(good / GAP)).then_some(middle.min(cap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    /// The sizes tried on a path that passes payloads of up to `limit`.
    fn search(path: &PathState, mut now: Instant, limit: usize, cap: usize) -> Vec<usize> {
        let mut tried = Vec::new();
        while let Some(size) = path.claim(now, cap) {
            assert_eq!(path.claim(now, cap), None, "one at a time");
            tried.push(size);
            if size <= limit {
                path.passed(size)
            } else {
                path.failed(now, size)
            }
            now += FAILED_WAIT;
        }
        tried
    }

    #[test]
    fn the_way_up_has_three_steps() {
        let path = PathState::default();
        assert_eq!(search(&path, start(), usize::MAX, 32 << 10), [4096, 16 << 10, 32 << 10]);
        assert_eq!(path.payload(), 32 << 10);
        assert_eq!(search(&path.clone(), start(), usize::MAX, 64 << 10), [64 << 10]);
        assert_eq!(search(&PathState::default(), start(), usize::MAX, limits::PAYLOAD), Vec::<usize>::new());
        assert_eq!(search(&PathState::default(), start(), usize::MAX, 2000), [2000]);
    }

    #[test]
    fn a_smaller_limit_is_found_nearly_enough_with_few_failures() {
        for limit in (limits::PAYLOAD..32 << 10).step_by(100) {
            let path = PathState::default();
            let tried = search(&path, start(), limit, 32 << 10);
            let failed = tried.iter().filter(|size| **size > limit).count();
            assert!(failed <= FAILURES as usize && path.payload() <= limit, "{limit}: {tried:?}");
            assert!(tried.len() <= 8, "{limit}: {tried:?}");
            let gap = limit - path.payload();
            assert!(gap <= limits::PAYLOAD.max(path.payload() / GAP), "{limit}: {tried:?}");
        }
    }

    #[test]
    fn a_failure_is_forgiven_later_but_not_for_ever() {
        let (path, mut now) = (PathState::default(), start());
        let mut failures = 0;
        for _ in 0..20 {
            now += FORGIVEN;
            while let Some(size) = path.claim(now, 4096) {
                failures += 1;
                path.failed(now, size);
                now += FAILED_WAIT;
            }
        }
        assert_eq!(failures, FAILURES);
    }

    #[test]
    fn probes_of_unknown_fate_are_repeated_later_and_later() {
        let (path, mut now) = (PathState::default(), start());
        let mut waits = Vec::new();
        for _ in 0..UNCERTAIN {
            assert_eq!(path.claim(now, 4096), Some(4096));
            path.uncertain(now, 4096);
            let wait = (1..).find(|wait| path.claim(now + UNCERTAIN_WAIT * *wait, 4096).is_some()).expect("again");
            path.passed(0);
            path.trials().uncertain = u32::try_from(waits.len()).expect("few") + 1;
            now += UNCERTAIN_WAIT * wait;
            waits.push(wait);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64]);
        path.uncertain(now, 4096);
        assert_eq!(path.trials().bad, 4096);
    }

    #[test]
    fn a_size_that_turns_out_to_be_too_large_is_lowered_for_all() {
        let path = PathState::known(32 << 10);
        let other = path.clone();
        path.lower(start(), 20_000);
        assert_eq!(other.payload(), limits::PAYLOAD);
        let now = start() + FAILED_WAIT * 2;
        let tried = search(&other, now, usize::MAX, 32 << 10);
        assert!(tried.iter().all(|size| *size < 20_000), "{tried:?}");
    }

    #[test]
    fn a_session_that_ended_with_its_probe_does_not_keep_the_others_from_probing() {
        let (path, now) = (PathState::default(), start());
        assert_eq!(path.claim(now, 4096), Some(4096));
        assert_eq!(path.claim(now + CLAIM - Duration::from_secs(1), 4096), None);
        assert_eq!(path.claim(now + CLAIM, 4096), Some(4096));
    }
}
