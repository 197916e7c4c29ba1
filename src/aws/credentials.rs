//! Credentials: kept until shortly before they expire, loaded anew before a session is resumed and after a refusal.
//!
//! Where they come from is not here but in `provider`. There may be a browser, a password prompt or a person behind a
//! load, so it is never started twice at the same time, never given up because a caller went away, and not repeated
//! more often than the pauses below allow, however often a call is tried again.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::exchange::Exchange;

/// How long before their expiry credentials are loaded anew: enough for an outage of their source to pass unnoticed.
const REFRESH_BEFORE: Duration = Duration::from_secs(5 * 60);

/// Credentials that expire sooner are no good for a call that has yet to begin: it might outlive them.
const CALL: Duration = super::OPERATION_TIMEOUT;

/// How long credentials without an expiry are kept, as in the SDK's own cache.
const KEEP: Duration = Duration::from_secs(15 * 60);

/// Credentials of this age will do for a resume. An outage means many resumes, and each load may be a call of the SSO
/// portal or a question to a person.
const FRESH: Duration = Duration::from_secs(60);

/// From the end of a load to the next one, where there are no credentials to go on with. Whoever logs in again waits
/// no longer than that; what refuses or asks again is not asked more often.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a load may keep a call waiting that could do with the credentials it has.
const PATIENCE: Duration = Duration::from_secs(3);

/// After this a load that has not ended is given up and another one may begin. Until then it can be a person who has
/// not looked yet; after that it is more likely a process that hangs since the machine slept.
pub(super) const GIVE_UP: Duration = Duration::from_secs(5 * 60);

/// How long StartSession waits for credentials: long, because a `credential_process` may ask a person, and the first
/// one is not tried again.
pub(super) const START_WAIT: Duration = Duration::from_secs(60);

/// How long any other call waits: its caller tries again, and finds the same load still going on.
pub(super) const WAIT: Duration = Duration::from_secs(10);

/// A provider in front of another that asks it rarely, and once for all that wait. Cheap to clone.
///
/// The SDK's own cache cannot be asked from outside a call, and signing an upgrade is not a call.
#[derive(Clone)]
pub(super) struct CachedCredentials(Arc<Cache>);

struct Cache {
    provider: Option<SharedCredentialsProvider>,
    exchange: Exchange,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    /// Why the last load failed, if it did.
    failure: Option<Arc<CredentialsError>>,
    /// When the last load ended, or began if it still goes on.
    tried: Option<Instant>,
    loading: Option<Loading>,
}

/// The credentials of the last load that succeeded.
struct Known {
    credentials: Credentials,
    loaded: Instant,
    /// The service does not take them.
    refused: bool,
}

/// A load that was begun; it is over when nobody holds the other end.
struct Loading {
    begun: Instant,
    over: watch::Receiver<()>,
}

/// A property of credentials that only a person can renew, with a code for instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AsksPerson {
    /// A load before this moment asks nobody.
    pub(super) from: SystemTime,
}

/// How new credentials must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Valid,
    Fresh,
}

impl Known {
    fn lasts(&self, until: SystemTime) -> bool {
        !self.refused && self.credentials.expiry().is_none_or(|expiry| until < expiry)
    }

    /// Whether a load at `now` would ask a person.
    fn asks(&self, now: SystemTime) -> bool {
        self.credentials.get_property::<AsksPerson>().is_some_and(|asks| asks.from <= now)
    }
}

impl State {
    /// Whether a load is to be begun, at wall time `now`.
    fn is_due(&self, want: Want, now: SystemTime) -> bool {
        let since = |then: Instant| then.elapsed();
        let good = self.known.as_ref().filter(|known| known.lasts(now + CALL));
        let pause = if good.is_some() { FRESH } else { PAUSE };
        if self.tried.is_some_and(|tried| since(tried) < pause) {
            return false;
        }
        // Nobody is asked for what is merely older than it could be.
        good.is_none_or(|known| {
            !known.asks(now)
                && (want == Want::Fresh
                    || !known.lasts(now + REFRESH_BEFORE)
                    || (known.credentials.expiry().is_none() && since(known.loaded) >= KEEP))
        })
    }

    /// What there is, after a load or without one.
    fn answer(&self, now: SystemTime) -> Option<Result<Credentials, Arc<CredentialsError>>> {
        let known = self.known.as_ref();
        match &self.failure {
            // Expired or refused as they may be, they are the newest there are, and both may be a matter of clocks.
            None => known.map(|known| Ok(known.credentials.clone())),
            // The old ones bridge a failure for as long as they are good.
            Some(failure) => match known.filter(|known| known.lasts(now)) {
                Some(known) => Some(Ok(known.credentials.clone())),
                None => Some(Err(Arc::clone(failure))),
            },
        }
    }
}

impl CachedCredentials {
    pub(super) fn new(provider: Option<SharedCredentialsProvider>, exchange: Exchange) -> Self {
        Self(Arc::new(Cache { provider, exchange, state: Mutex::default() }))
    }

    /// Whether there is nowhere that credentials could come from.
    pub(super) fn never_come(&self) -> bool {
        self.0.provider.is_none()
    }

    /// Credentials that outlast a call, waited for at most for `wait`.
    pub(super) async fn get(&self, wait: Duration) -> Result<Credentials, Arc<CredentialsError>> {
        self.wanted(Want::Valid, wait).await
    }

    /// The same, no older than [`FRESH`] where that can be had: what has changed since, in a file or at a portal, is
    /// noticed before a session is lost over it.
    pub(super) async fn fresh(&self, wait: Duration) -> Result<Credentials, Arc<CredentialsError>> {
        self.wanted(Want::Fresh, wait).await
    }

    /// The service does not take them: they are loaded anew before the next call, but not more often than every
    /// [`PAUSE`]. Until then they are tried again, as new keys can take a moment to be known everywhere.
    pub(super) fn refused(&self) {
        if let Some(known) = &mut self.0.state().known {
            known.refused = true;
        }
    }

    /// The clock was wrong when they were used: others may help, but are not worth asking a person.
    pub(super) fn refused_for_the_time(&self) {
        let now = self.0.exchange.now();
        if let Some(known) = self.0.state().known.as_mut().filter(|known| !known.asks(now)) {
            known.refused = true;
        }
    }

    async fn wanted(&self, want: Want, wait: Duration) -> Result<Credentials, Arc<CredentialsError>> {
        let Some(provider) = &self.0.provider else { return Err(Arc::new(CredentialsError::not_loaded_no_source())) };
        let (mut over, until) = {
            let now = self.0.exchange.now();
            let mut state = self.0.state();
            let loading = state.loading.as_ref().filter(|loading| loading.over.has_changed().is_ok());
            let (begun, over) = match loading {
                Some(loading) => (loading.begun, loading.over.clone()),
                None if state.is_due(want, now) => {
                    let begun = Instant::now();
                    let over = Cache::begin(&self.0, provider.clone());
                    state.loading = Some(Loading { begun, over: over.clone() });
                    state.tried = Some(begun);
                    (begun, over)
                }
                None => return state.answer(now).unwrap_or_else(|| Err(never_ended(wait))),
            };
            let good = state.known.as_ref().is_some_and(|known| known.lasts(now + CALL));
            // Who could go on waits for a load that has just begun, but not once more for one that takes its time.
            (over, if good { begun + PATIENCE } else { Instant::now() + wait })
        };
        // An error is what is waited for: the load is over.
        let is_over = timeout_at(until, over.changed()).await.is_ok();
        let now = self.0.exchange.now();
        let state = self.0.state();
        match state.known.as_ref().filter(|known| !is_over && known.lasts(now)) {
            Some(known) => Ok(known.credentials.clone()),
            None if is_over => state.answer(now).unwrap_or_else(|| Err(never_ended(wait))),
            None => Err(never_ended(wait)),
        }
    }
}

impl Cache {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads on a task of its own: a caller that stops waiting must not leave a `credential_process` behind, and with
    /// it one more at every try.
    fn begin(this: &Arc<Self>, provider: SharedCredentialsProvider) -> watch::Receiver<()> {
        let (running, over) = watch::channel(());
        let this = Arc::clone(this);
        tokio::spawn(async move {
            // Let go at the end, however this ends.
            let _running = running;
            let loaded = timeout(GIVE_UP, provider.provide_credentials())
                .await
                .unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(GIVE_UP)));
            let ended = Instant::now();
            let mut state = this.state();
            state.tried = Some(ended);
            match loaded {
                Ok(credentials) => {
                    state.known = Some(Known { credentials, loaded: ended, refused: false });
                    state.failure = None;
                }
                Err(error) => state.failure = Some(Arc::new(error)),
            }
        });
        over
    }
}

/// The load goes on; it is this call that has no more time for it.
fn never_ended(waited: Duration) -> Arc<CredentialsError> {
    Arc::new(CredentialsError::provider_timed_out(waited))
}

impl fmt::Debug for CachedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the failure: what the SDK shows of one can hold an answer, and an answer tokens.
        f.debug_struct("CachedCredentials").finish_non_exhaustive()
    }
}

impl ProvideCredentials for CachedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move { self.get(WAIT).await.map_err(|error| again(&error)) })
    }
}

/// A shared error as one of its own, with what tells its kind.
fn again(error: &Arc<CredentialsError>) -> CredentialsError {
    let below = Arc::clone(error);
    match &**error {
        CredentialsError::CredentialsNotLoaded(_) => CredentialsError::not_loaded(below),
        CredentialsError::ProviderTimedOut(_) => CredentialsError::provider_timed_out(WAIT),
        CredentialsError::InvalidConfiguration(_) => CredentialsError::invalid_configuration(below),
        _ => CredentialsError::provider_error(below),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::{sync::Notify, time::advance};

    use super::*;
    use crate::aws::canned::{DATE, Hand, seconds};

    /// Hands out credentials that live for a while, and counts.
    #[derive(Debug, Clone, Default)]
    struct Mint {
        made: Arc<AtomicU64>,
        expiry: Option<u64>,
        /// From when on a load would ask a person.
        asks: Option<u64>,
        /// Loads after this one fail.
        dry_after: Option<u64>,
        /// Loads after the first wait for this.
        gate: Option<Arc<Notify>>,
    }

    impl Mint {
        fn made(&self) -> u64 {
            self.made.load(Ordering::Relaxed)
        }

        async fn make(&self) -> aws_credential_types::provider::Result {
            let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(gate) = self.gate.as_ref().filter(|_| made > 1) {
                gate.notified().await;
            }
            if self.dry_after.is_some_and(|last| made > last) {
                return Err(CredentialsError::not_loaded("dry"));
            }
            let mut made = Credentials::new(format!("AKID{made}"), "secret", None, self.expiry.map(seconds), "mint");
            if let Some(from) = self.asks.map(seconds) {
                made.set_property(AsksPerson { from });
            }
            Ok(made)
        }
    }

    impl ProvideCredentials for Mint {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(self.make())
        }
    }

    /// A cache in front of a mint, and the wall clock of both.
    fn cache(mint: &Mint) -> (CachedCredentials, Hand) {
        let clock = Hand::at(DATE);
        let cache =
            CachedCredentials::new(Some(SharedCredentialsProvider::new(mint.clone())), Exchange::new(clock.source()));
        (cache, clock)
    }

    async fn key(cache: &CachedCredentials) -> String {
        cache.get(WAIT).await.expect("credentials").access_key_id().to_owned()
    }

    async fn fresh_key(cache: &CachedCredentials) -> String {
        cache.fresh(WAIT).await.expect("credentials").access_key_id().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_loaded_once_and_again_when_they_are_about_to_expire() {
        let before = REFRESH_BEFORE.as_secs();
        for (expiry, after, loads) in [
            (None, KEEP.as_secs() - 1, 1),
            (None, KEEP.as_secs(), 2),
            (Some(DATE + 36_000), 36_000 - before - 1, 1),
            (Some(DATE + 36_000), 36_000 - before, 2),
            (Some(DATE + before), 30, 1),
            (Some(DATE + before), 60, 2),
            (Some(DATE - 1), 4, 1),
            (Some(DATE - 1), 5, 2),
        ] {
            let mint = Mint { expiry, ..Mint::default() };
            let (cache, clock) = cache(&mint);
            key(&cache).await;
            key(&cache).await;
            assert_eq!(mint.made(), 1, "{expiry:?}");
            advance(Duration::from_secs(after)).await;
            clock.forward(after);
            key(&cache).await;
            assert_eq!(mint.made(), loads, "{expiry:?} {after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_resume_gets_credentials_of_the_last_minute() {
        for expiry in [None, Some(DATE + 36_000)] {
            let mint = Mint { expiry, ..Mint::default() };
            let (cache, _clock) = cache(&mint);
            assert_eq!(fresh_key(&cache).await, "AKID1");
            advance(FRESH - Duration::from_millis(1)).await;
            assert_eq!(fresh_key(&cache).await, "AKID1");
            advance(Duration::from_millis(1)).await;
            assert_eq!(key(&cache).await, "AKID1");
            assert_eq!(fresh_key(&cache).await, "AKID2");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_before_the_credentials_are_used_up() {
        let mint = Mint { expiry: Some(DATE + 3600), asks: Some(DATE + 1800), ..Mint::default() };
        let (cache, clock) = cache(&mint);
        assert_eq!(fresh_key(&cache).await, "AKID1");
        advance(FRESH).await;
        // A load asks nobody yet.
        assert_eq!(fresh_key(&cache).await, "AKID2");
        for (after, expected) in [(1800, "AKID2"), (1740, "AKID2"), (30, "AKID3")] {
            advance(Duration::from_secs(after)).await;
            clock.forward(after);
            assert_eq!((key(&cache).await, fresh_key(&cache).await), (expected.into(), expected.into()), "{after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_clock_is_no_reason_to_ask_a_person() {
        for (asks, expected) in [(None, "AKID2"), (Some(DATE), "AKID1")] {
            let mint = Mint { expiry: Some(DATE + 36_000), asks, ..Mint::default() };
            let (cache, _clock) = cache(&mint);
            key(&cache).await;
            advance(PAUSE).await;
            cache.refused_for_the_time();
            assert_eq!(key(&cache).await, expected);
            cache.refused();
            advance(PAUSE).await;
            assert_ne!(key(&cache).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_resumes_are_few_loads() {
        let mint = Mint { expiry: Some(DATE + 3600), dry_after: Some(1), ..Mint::default() };
        let (cache, clock) = cache(&mint);
        key(&cache).await;
        // The source cannot be reached either, as is to be expected in an outage.
        for _ in 0..600 {
            advance(Duration::from_millis(500)).await;
            assert_eq!(fresh_key(&cache).await, "AKID1");
        }
        assert_eq!(mint.made(), 6);
        // Nothing is left that could be used meanwhile.
        clock.forward(3600);
        for _ in 0..600 {
            advance(Duration::from_millis(500)).await;
            cache.fresh(WAIT).await.expect_err("expired, and no others");
        }
        assert_eq!(mint.made(), 6 + 60);
    }

    #[tokio::test(start_paused = true)]
    async fn old_credentials_bridge_a_failure_while_they_are_good() {
        let mint = Mint { expiry: Some(DATE + 20), dry_after: Some(1), ..Mint::default() };
        let (cache, clock) = cache(&mint);
        assert_eq!(key(&cache).await, "AKID1");
        advance(PAUSE).await;
        clock.forward(19);
        assert_eq!(key(&cache).await, "AKID1");
        assert_eq!(mint.made(), 2);
        clock.forward(1);
        let error = cache.get(WAIT).await.expect_err("expired, and no others");
        assert!(matches!(&*error, CredentialsError::CredentialsNotLoaded(_)), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_are_loaded_anew_but_not_at_once() {
        let mint = Mint { expiry: Some(DATE + 36_000), ..Mint::default() };
        let (cache, _clock) = cache(&mint);
        assert_eq!(key(&cache).await, "AKID1");
        cache.refused();
        assert_eq!(key(&cache).await, "AKID1");
        advance(PAUSE).await;
        assert_eq!(key(&cache).await, "AKID2");
        assert_eq!(key(&cache).await, "AKID2");
        assert_eq!(mint.made(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_do_not_hide_why_there_are_no_others() {
        let mint = Mint { expiry: Some(DATE + 36_000), dry_after: Some(1), ..Mint::default() };
        let (cache, _clock) = cache(&mint);
        key(&cache).await;
        advance(PAUSE).await;
        cache.refused();
        cache.get(WAIT).await.expect_err("refused, and no others");
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_asks_a_person_is_one_load() {
        let gate = Arc::new(Notify::new());
        let mint = Mint { expiry: Some(DATE + 60), gate: Some(Arc::clone(&gate)), ..Mint::default() };
        let (cache, clock) = cache(&mint);
        key(&cache).await;
        advance(FRESH).await;
        clock.forward(60);
        // Callers give up, or are dropped; the load goes on.
        for _ in 0..3 {
            let error = cache.get(WAIT).await.expect_err("nobody answers");
            assert!(matches!(&*error, CredentialsError::ProviderTimedOut(_)), "{error:?}");
            drop(timeout(Duration::from_secs(1), cache.get(WAIT)).await);
        }
        assert_eq!(mint.made(), 2);
        let (one, two) = (
            tokio::spawn({
                let cache = cache.clone();
                async move { key(&cache).await }
            }),
            key(&cache),
        );
        gate.notify_one();
        assert_eq!((two.await, one.await.expect("no panic")), ("AKID2".to_owned(), "AKID2".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_could_go_on_waits_once_and_not_long() {
        let mint = Mint { gate: Some(Arc::default()), ..Mint::default() };
        let (cache, _clock) = cache(&mint);
        key(&cache).await;
        advance(FRESH).await;
        for waited in [PATIENCE, Duration::ZERO] {
            let begun = Instant::now();
            assert_eq!(fresh_key(&cache).await, "AKID1");
            assert!(begun.elapsed() >= waited && begun.elapsed() < waited + Duration::from_millis(10));
        }
        assert_eq!(mint.made(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_hangs_is_given_up() {
        let mint = Mint { gate: Some(Arc::default()), ..Mint::default() };
        let (cache, _clock) = cache(&mint);
        key(&cache).await;
        cache.refused();
        advance(PAUSE).await;
        cache.get(GIVE_UP + PAUSE).await.expect_err("it hangs");
        assert_eq!(mint.made(), 2);
        advance(PAUSE).await;
        cache.get(WAIT).await.expect_err("it hangs again");
        assert_eq!(mint.made(), 3);
    }

    /// Panics once.
    #[derive(Debug, Default)]
    struct Panics(AtomicU64);

    impl ProvideCredentials for Panics {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "on purpose");
                Ok(Credentials::new("AKID", "secret", None, None, "test"))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_a_provider_is_a_failure_like_others() {
        let provider = SharedCredentialsProvider::new(Panics::default());
        let cache = CachedCredentials::new(Some(provider), Exchange::new(Hand::at(DATE).source()));
        cache.get(WAIT).await.expect_err("no credentials");
        advance(PAUSE).await;
        assert_eq!(key(&cache).await, "AKID");
    }
}
