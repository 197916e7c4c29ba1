//! The emulator's clocks, and the three spellings of a date that AWS uses.
//!
//! Everything else in the emulator takes the time as an argument or asks here.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "the emulator's shell reads the clock here and nowhere else")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Wall time since the Unix epoch; zero if the machine's clock is before it.
#[expect(clippy::disallowed_methods, reason = "the emulator's shell reads the wall clock here and nowhere else")]
pub(super) fn epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since the Unix epoch, as messages carry them.
pub(super) fn epoch_ms() -> u64 {
    u64::try_from(epoch().as_millis()).unwrap_or(u64::MAX)
}

/// A moment in whole seconds since the Unix epoch, as the emulated service sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) i64);

impl Moment {
    /// The machine's time, shifted by `skew` seconds.
    pub(super) fn now(skew: i64) -> Self {
        Self(i64::try_from(epoch().as_secs()).unwrap_or(i64::MAX).saturating_add(skew))
    }

    /// `20231114T221320Z`: the form of `X-Amz-Date`.
    pub(super) fn to_amz(self) -> String {
        let Civil { year, month, day, hour, minute, second, .. } = Civil::of(self);
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }

    /// `2023-11-14T22:13:20Z`: how STS writes an expiry.
    pub(super) fn to_iso(self) -> String {
        let Civil { year, month, day, hour, minute, second, .. } = Civil::of(self);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// `Tue, 14 Nov 2023 22:13:20 GMT`: the form of the `Date` header.
    pub(super) fn to_http(self) -> String {
        const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let Civil { year, month, day, hour, minute, second, weekday } = Civil::of(self);
        let (weekday, month) = (DAYS[weekday % 7], MONTHS[(month as usize + 11) % 12]);
        format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }

    /// Reads the form of `X-Amz-Date`; `None` for anything else, dates that do not exist included.
    pub(super) fn from_amz(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
            return None;
        }
        let number = |from: usize, to: usize| -> Option<i64> {
            let digits = text.get(from..to)?;
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
        let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
        let moment = Self(days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second);
        (moment.to_amz() == text).then_some(moment)
    }

    /// Year, month and day, both from 1.
    pub(super) fn date(self) -> (i32, u8, u8) {
        let Civil { year, month, day, .. } = Civil::of(self);
        let small = |number: i64| u8::try_from(number).unwrap_or(1);
        (i32::try_from(year).unwrap_or(1970), small(month), small(day))
    }

    /// This moment and so many seconds.
    pub(super) fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    weekday: usize,
}

impl Civil {
    /// The Gregorian calendar in years that start in March, so that the leap day comes last.
    fn of(moment: Moment) -> Self {
        let (days, seconds) = (moment.0.div_euclid(86_400), moment.0.rem_euclid(86_400));
        let shifted = days + 719_468; // days from 0000-03-01
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            weekday: usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0), // day 0 was a Thursday
        }
    }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_have_their_dates() {
        for (seconds, amz, http) in [
            (0, "19700101T000000Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (1_700_000_000, "20231114T221320Z", "Tue, 14 Nov 2023 22:13:20 GMT"),
            (951_782_400, "20000229T000000Z", "Tue, 29 Feb 2000 00:00:00 GMT"),
            (4_107_542_399, "21000228T235959Z", "Sun, 28 Feb 2100 23:59:59 GMT"),
        ] {
            assert_eq!(Moment(seconds).to_amz(), amz);
            assert_eq!(Moment(seconds).to_http(), http);
            assert_eq!(Moment::from_amz(amz), Some(Moment(seconds)));
        }
    }

    #[test]
    fn dates_that_do_not_exist_are_refused() {
        for text in
            ["20231132T000000Z", "20230229T000000Z", "20231114T240000Z", "2023-11-14T22:13Z", "20231114T221320", ""]
        {
            assert_eq!(Moment::from_amz(text), None, "{text}");
        }
        assert_eq!(Moment::from_amz("2023+114T221320Z"), None);
    }
}
