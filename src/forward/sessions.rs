//! How many SSM sessions a forward may have, and how many one process may have to a target.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU8,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Sessions of one process to one target. An agent's host has room for about 60 (inotify instances), and others want
/// to use it too (`proto-notes/session-life.md#the-pool`).
pub const SESSIONS_PER_TARGET: usize = 16;

/// How far [`Sessions::Auto`] grows: four times one session's download, at four processes on the agent's host.
const AUTO_MOST: usize = 4;

/// The SSM sessions behind one forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sessions {
    /// One, and up to four while they are as busy as they can be.
    #[default]
    Auto,
    /// So many, from 1 to [`SESSIONS_PER_TARGET`].
    Fixed(NonZeroU8),
}

/// A number of sessions that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected auto or a number from 1 to {SESSIONS_PER_TARGET}")]
pub struct NotSessions;

impl Sessions {
    /// As many as there may be.
    #[must_use]
    pub fn most(self) -> usize {
        match self {
            Self::Auto => AUTO_MOST,
            Self::Fixed(count) => usize::from(count.get()).min(SESSIONS_PER_TARGET),
        }
    }
}

impl FromStr for Sessions {
    type Err = NotSessions;

    fn from_str(text: &str) -> Result<Self, NotSessions> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let count = text.parse::<NonZeroU8>().map_err(|_| NotSessions)?;
        if usize::from(count.get()) > SESSIONS_PER_TARGET { Err(NotSessions) } else { Ok(Self::Fixed(count)) }
    }
}

impl fmt::Display for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(count) => count.fmt(f),
        }
    }
}

/// The sessions of a process, by target. Clones share one account.
#[derive(Debug, Clone, Default)]
pub struct SessionAccounts {
    by_target: Arc<Mutex<HashMap<String, usize>>>,
}

/// A session's place in the account; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    accounts: SessionAccounts,
    target: String,
}

impl SessionAccounts {
    /// A place for a session without which a forward could not serve: there is always one.
    pub(super) fn take(&self, target: &str) -> Place {
        *self.lock().entry(target.to_owned()).or_default() += 1;
        Place { accounts: self.clone(), target: target.to_owned() }
    }

    /// A place for a session beside others of its forward, if one is left.
    pub(super) fn try_take(&self, target: &str) -> Option<Place> {
        let mut by_target = self.lock();
        let taken = by_target.get(target).copied().unwrap_or(0);
        if taken >= SESSIONS_PER_TARGET {
            return None;
        }
        by_target.insert(target.to_owned(), taken + 1);
        Some(Place { accounts: self.clone(), target: target.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.by_target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut accounts = self.accounts.lock();
        if let Some(taken) = accounts.get_mut(&self.target) {
            *taken -= 1;
            if *taken == 0 {
                accounts.remove(&self.target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_auto_or_a_small_number() {
        assert_eq!("auto".parse(), Ok(Sessions::Auto));
        for count in [1, 8, 16] {
            let sessions: Sessions = count.to_string().parse().expect("valid");
            assert_eq!((sessions.most(), sessions.to_string()), (count, count.to_string()));
        }
        for text in ["0", "17", "256", "-1", "", "many", "Auto", "1.5"] {
            assert_eq!(text.parse::<Sessions>(), Err(NotSessions), "{text}");
        }
    }

    #[test]
    fn a_target_has_so_many_places_and_what_is_needed_is_there_beyond_them() {
        let accounts = SessionAccounts::default();
        let other = accounts.clone();
        let mut places: Vec<_> = (0..10).map(|_| accounts.try_take("i-0a").expect("a place")).collect();
        places.extend((0..6).map(|_| other.try_take("i-0a").expect("a place")));
        assert!(accounts.try_take("i-0a").is_none() && accounts.try_take("i-0b").is_some());
        let needed = accounts.take("i-0a");
        places.pop();
        assert!(other.try_take("i-0a").is_none(), "the needed one counts");
        drop(needed);
        assert!(other.try_take("i-0a").is_some());
        drop(places);
        assert!(accounts.lock().is_empty());
    }
}
