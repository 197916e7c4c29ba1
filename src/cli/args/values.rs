//! The values of options: numbers, times, sizes, and what is said of those that are none.

use std::{num::NonZeroU32, time::Duration};

use crate::proto::limits;

/// The longest time that an option takes: a day. What is meant to last longer is meant to be something else.
const SECONDS_MAX: f64 = 86_400.0;

/// More messages a second than any machine sends: what is more is a mistake.
const MESSAGES_MAX: u32 = 1_000_000;

/// How often `-v`, as a variable says it: a number, or yes or no.
pub(super) fn verbosity(text: &str) -> Result<u8, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "t" => Ok(1),
        "false" | "no" | "off" | "n" | "f" => Ok(0),
        number => number.parse().map_err(|_| "expected a number, true or false"),
    }
}

pub(super) fn connections(text: &str) -> Result<NonZeroU32, &'static str> {
    text.parse().map_err(|_| "expected a number, 1 at least")
}

/// Standard input, output and error are in use.
pub(super) fn descriptor(text: &str) -> Result<i32, &'static str> {
    text.parse().ok().filter(|number| *number > 2).ok_or("expected the number of a file descriptor, 3 at least")
}

pub(super) fn payload(text: &str) -> Result<usize, String> {
    let range = limits::PAYLOAD..=limits::PAYLOAD_LIMIT;
    let payload = text.parse().ok().filter(|payload| range.contains(payload));
    payload.ok_or_else(|| format!("expected a number of bytes, {} to {}", range.start(), range.end()))
}

pub(super) fn messages(text: &str) -> Result<u32, &'static str> {
    text.parse()
        .ok()
        .filter(|messages| *messages <= MESSAGES_MAX)
        .ok_or("expected a number of messages, at most 1000000")
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| format!("expected a number of seconds, at most {SECONDS_MAX}"))
}

pub(super) fn some_seconds(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|time| if time.is_zero() { Err("must be more than 0".into()) } else { Ok(time) })
}

/// Before ten seconds a silent agent is not even said to be silent (`proto::limits::STALLED`).
pub(super) fn stall_seconds(text: &str) -> Result<Duration, String> {
    let least = limits::STALLED;
    seconds(text).and_then(|time| match time < least {
        true => Err(format!("must be {} or more", least.as_secs())),
        false => Ok(time),
    })
}
