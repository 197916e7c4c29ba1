//! What proxies have said to our user and password. A few wrong ones lock an account, in a directory after three to
//! five: what was refused is not repeated at once, and until it has been accepted only one request at a time carries
//! it.
//!
//! How a proxy is asked is not here but in `proxy_tunnel`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as Turn, OwnedMutexGuard},
    time::{Instant, timeout},
};

use super::Proxy;

/// How long a password that was refused is not repeated; twice as long after each further refusal.
const FIRST: Duration = Duration::from_secs(60);

/// The longest of these times.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// How long others wait for what is said to the first. It is longer than the 2 s by which failures are often delayed,
/// and ends because a proxy may be looking for one host for long, which is no reason to keep away from another.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of proxies that want a password. One that is given none is always asked: there is nothing to lock.
#[derive(Default)]
pub(super) struct Admissions {
    known: Mutex<HashMap<Proxy, Arc<Door>>>,
}

/// What is known of one proxy with one user and password.
#[derive(Default)]
struct Door {
    first: Arc<Turn<()>>,
    said: Mutex<Said>,
}

#[derive(Default)]
enum Said {
    #[default]
    Nothing,
    Accepted,
    Refused {
        refusal: Refusal,
        at: Instant,
        pause: Duration,
    },
}

/// How a proxy refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The status of its answer.
    pub(super) status: u16,
    /// What that means, in words.
    pub(super) meaning: String,
}

/// The leave to ask a proxy. Dropped without a word it leaves what is known as it was.
pub(crate) struct Admission {
    door: Option<Arc<Door>>,
    asked: Instant,
    /// Keeps the others waiting.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Admissions {
    /// Whether a proxy has refused so recently that it is not asked.
    pub(super) fn check(&self, proxy: &Proxy) -> Result<(), Refusal> {
        self.door(proxy).map_or(Ok(()), |door| door.is_open().map(drop))
    }

    /// Waits until a proxy may be asked.
    pub(super) async fn enter(&self, proxy: &Proxy) -> Result<Admission, Refusal> {
        let door = self.door(proxy);
        let mut turn = None;
        if let Some(door) = &door
            && !door.is_open()?
        {
            turn = timeout(PATIENCE, Arc::clone(&door.first).lock_owned()).await.ok();
            // The one before may have heard something.
            if door.is_open()? {
                turn = None;
            }
        }
        Ok(Admission { door, asked: Instant::now(), _turn: turn })
    }

    fn door(&self, proxy: &Proxy) -> Option<Arc<Door>> {
        proxy.authorization()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(known.entry(proxy.clone()).or_default()))
    }
}

impl Door {
    /// Whether the password is known to be good, or how it was refused just now.
    fn is_open(&self) -> Result<bool, Refusal> {
        match &*self.said() {
            Said::Nothing => Ok(false),
            Said::Accepted => Ok(true),
            Said::Refused { refusal, at, pause } if Instant::now() < *at + *pause => Err(refusal.clone()),
            Said::Refused { .. } => Ok(false),
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    /// The proxy did what it was asked for.
    pub(crate) fn accepted(self) {
        if let Some(door) = &self.door {
            *door.said() = Said::Accepted;
        }
    }

    /// The proxy did not accept user and password.
    pub(crate) fn refused(self, status: u16, meaning: &str) {
        let Some(door) = &self.door else { return };
        let mut said = door.said();
        let pause = match &*said {
            // It was said to another who asked beside us.
            Said::Refused { at, .. } if *at >= self.asked => return,
            Said::Refused { pause, .. } => LONGEST.min(*pause * 2),
            Said::Nothing | Said::Accepted => FIRST,
        };
        let refusal = Refusal { status, meaning: meaning.to_owned() };
        *said = Said::Refused { refusal, at: Instant::now(), pause };
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::{super::Proxies, *};

    fn proxy(url: &'static str) -> Proxy {
        let proxies = Proxies::from_variables(|name| (name == "HTTPS_PROXY").then(|| url.to_owned()));
        proxies.of(true, "gateway", 443).expect("usable").expect("a proxy")
    }

    fn refusal() -> Refusal {
        Refusal { status: 407, meaning: "no".into() }
    }

    /// Whether somebody who enters would have to wait.
    async fn waits(admissions: &Admissions, proxy: &Proxy) -> bool {
        timeout(Duration::from_millis(1), admissions.enter(proxy)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_not_repeated_for_a_minute_and_then_ever_longer() {
        let (admissions, wrong) = (Admissions::default(), proxy("http://me:pw@p:1"));
        for minutes in [1, 2, 4, 8, 15, 15] {
            admissions.enter(&wrong).await.expect("its turn").refused(407, "no");
            let pause = Duration::from_secs(60 * minutes);
            assert_eq!(admissions.enter(&wrong).await.err(), Some(refusal()));
            advance(pause - Duration::from_millis(1)).await;
            assert_eq!(admissions.check(&wrong), Err(refusal()), "{minutes}");
            advance(Duration::from_millis(1)).await;
            assert_eq!(admissions.check(&wrong), Ok(()), "{minutes}");
        }
        // Another password, and none, are other matters.
        admissions.enter(&wrong).await.expect("its turn").refused(407, "no");
        for other in ["http://me:px@p:1", "http://p:1", "http://me:pw@p:2"] {
            assert_eq!(admissions.check(&proxy(other)), Ok(()), "{other}");
        }
        // One that was accepted begins anew.
        advance(LONGEST).await;
        admissions.enter(&wrong).await.expect("its turn").accepted();
        admissions.enter(&wrong).await.expect("no turn").refused(407, "no");
        advance(FIRST).await;
        assert_eq!(admissions.check(&wrong), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_wait_for_what_is_said_to_the_first() {
        let (admissions, proxy) = (Admissions::default(), proxy("http://me:pw@p:1"));
        let first = admissions.enter(&proxy).await.expect("the first");
        assert!(waits(&admissions, &proxy).await);
        let (others, ()) =
            tokio::join!(async { tokio::join!(admissions.enter(&proxy), admissions.enter(&proxy)) }, async {
                first.refused(407, "no")
            });
        assert_eq!((others.0.err(), others.1.err()), (Some(refusal()), Some(refusal())));

        // So it is when the time is over; one that hears nothing makes room for the next, and who was accepted for all.
        advance(FIRST).await;
        let first = admissions.enter(&proxy).await.expect("the first");
        assert!(waits(&admissions, &proxy).await);
        drop(first);
        let second = admissions.enter(&proxy).await.expect("the next");
        assert!(waits(&admissions, &proxy).await);
        second.accepted();
        let _third = admissions.enter(&proxy).await.expect("no turn");
        assert!(!waits(&admissions, &proxy).await);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_refusals_side_by_side_count_as_one() {
        let (admissions, proxy) = (Admissions::default(), proxy("http://me:pw@p:1"));
        let first = admissions.enter(&proxy).await.expect("the first");
        let begun = Instant::now();
        let second = admissions.enter(&proxy).await.expect("no patience");
        assert_eq!(begun.elapsed(), PATIENCE);
        first.refused(407, "no");
        second.refused(407, "no");
        advance(FIRST).await;
        assert_eq!(admissions.check(&proxy), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_password_nobody_waits_and_nothing_is_remembered() {
        let (admissions, proxy) = (Admissions::default(), proxy("http://p:1"));
        let _first = admissions.enter(&proxy).await.expect("free");
        assert!(!waits(&admissions, &proxy).await);
        admissions.enter(&proxy).await.expect("free").refused(407, "no");
        assert_eq!(admissions.check(&proxy), Ok(()));
    }
}
