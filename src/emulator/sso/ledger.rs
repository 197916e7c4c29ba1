//! What the center remembers: clients, codes, tokens. Each kind is bounded; the oldest is forgotten.

use std::collections::VecDeque;

use crate::emulator::clock::Moment;

/// Most of each kind that are remembered.
const MAX_ENTRIES: usize = 1000;

/// Everything that was given out.
pub(super) struct Ledger {
    rng: fastrand::Rng,
    pub(super) clients: Entries<Client>,
    /// By the ticket in the page.
    pub(super) requests: Entries<PageRequest>,
    /// By the authorization code.
    pub(super) grants: Entries<Grant>,
    /// By the device code.
    pub(super) devices: Entries<Device>,
    /// By the access token.
    pub(super) tokens: Entries<Token>,
    /// By the refresh token.
    pub(super) refresh: Entries<Refresh>,
}

/// Entries by what opens them.
pub(super) struct Entries<T>(VecDeque<(String, T)>);

/// A registered client.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) secret: String,
    pub(super) expires: Moment,
    pub(super) scopes: Vec<String>,
    pub(super) grant_types: Vec<String>,
    pub(super) redirect_uris: Vec<String>,
}

/// A login page that is open.
#[derive(Debug, Clone)]
pub(super) struct PageRequest {
    pub(super) client: String,
    pub(super) redirect_uri: String,
    pub(super) state: String,
    pub(super) challenge: String,
}

/// An authorization code: for this client, this address, and whoever knows the verifier.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) client: String,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    pub(super) expires: Moment,
}

/// A device that waits for somebody.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) client: String,
    pub(super) user_code: String,
    pub(super) expires: Moment,
    pub(super) decision: Option<Decision>,
}

/// What somebody pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Allow,
    Deny,
}

/// An access token.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) expires: Moment,
    pub(super) generation: u64,
}

/// A refresh token: good once.
#[derive(Debug, Clone)]
pub(super) struct Refresh {
    pub(super) client: String,
    pub(super) generation: u64,
}

impl Ledger {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed ^ 0x0055_0050),
            clients: Entries::default(),
            requests: Entries::default(),
            grants: Entries::default(),
            devices: Entries::default(),
            tokens: Entries::default(),
            refresh: Entries::default(),
        }
    }

    /// A text that nobody has seen yet.
    pub(super) fn random(&mut self, prefix: &str, length: usize) -> String {
        std::iter::repeat_with(|| self.rng.alphanumeric()).take(length).fold(prefix.to_owned(), |mut text, next| {
            text.push(next);
            text
        })
    }

    /// What people type: eight capitals in two halves.
    pub(super) fn user_code(&mut self) -> String {
        const LETTERS: &[u8] = b"BCDFGHJKLMNPQRSTVWXZ";
        let mut half =
            || -> String { (0..4).map(|_| char::from(*self.rng.choice(LETTERS).unwrap_or(&b'B'))).collect() };
        format!("{}-{}", half(), half())
    }
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Entries<T> {
    pub(super) fn add(&mut self, key: String, entry: T) {
        if self.0.len() >= MAX_ENTRIES {
            self.0.pop_front();
        }
        self.0.push_back((key, entry));
    }

    pub(super) fn get(&self, key: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, entry)| entry)
    }

    pub(super) fn take(&mut self, key: &str) -> Option<T> {
        let index = self.0.iter().position(|(known, _)| known == key)?;
        self.0.remove(index).map(|(_, entry)| entry)
    }

    pub(super) fn find_mut(&mut self, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        self.0.iter_mut().map(|(_, entry)| entry).find(|entry| is_it(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_bounded_and_taken_once() {
        let mut entries = Entries::default();
        for number in 0..=MAX_ENTRIES {
            entries.add(number.to_string(), number);
        }
        assert_eq!((entries.get("0"), entries.get("1")), (None, Some(&1)));
        assert_eq!((entries.take("7"), entries.take("7")), (Some(7), None));
    }

    #[test]
    fn texts_follow_the_seed_and_differ() {
        let (mut one, mut same) = (Ledger::new(1), Ledger::new(1));
        let first = one.random("x-", 40);
        assert_eq!((first.len(), first == same.random("x-", 40), first == one.random("x-", 40)), (42, true, false));
        let code = one.user_code();
        assert!(code.len() == 9 && code.as_bytes()[4] == b'-', "{code}");
    }
}
