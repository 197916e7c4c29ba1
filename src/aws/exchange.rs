//! What is learned by watching the SDK's requests and answers: where they really go, and what time it is there.
//!
//! An interceptor sees each request as it is sent. That is the one place that knows the endpoint for certain: it comes
//! from an option, `AWS_ENDPOINT_URL_SSM`, `AWS_ENDPOINT_URL`, the `services` section or the profile, and from the
//! rules for regions, FIPS and dual stack, and the SDK shows its choice nowhere else. And it is the place to say that
//! the connection is not kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_sdk_ssm::config::{
    ConfigBag, Intercept, RuntimeComponents,
    interceptors::{
        BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
        BeforeTransmitInterceptorContextRef,
    },
};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_types::{DateTime, date_time::Format};
use aws_types::sdk_config::SharedTimeSource;
use http::{Uri, uri::Authority};
use tokio::sync::watch;

/// A clock that is further off has other troubles (no certificate is valid), and a `Date` that is further off is more
/// likely a proxy's invention.
const MAX_SKEW: Duration = Duration::from_secs(30 * 24 * 3600);

/// Shared by the SSM client, which fills it, and everything that signs or judges answers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    clock: SharedTimeSource,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Seconds that the service's clock is ahead of ours.
    skew: AtomicI64,
    /// It has said what time it is.
    dated: AtomicBool,
    /// Where the last request went.
    endpoint: watch::Sender<Option<Endpoint>>,
}

/// Where a request went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    /// Host and port.
    pub(super) authority: Authority,
}

impl Exchange {
    pub(super) fn new(clock: SharedTimeSource) -> Self {
        Self { clock, seen: Arc::default() }
    }

    /// The time as the service sees it, as far as it has said so.
    pub(super) fn now(&self) -> SystemTime {
        let skew = self.seen.skew.load(Ordering::Relaxed);
        let now = self.clock.now();
        let by = Duration::from_secs(skew.unsigned_abs());
        if skew < 0 { now.checked_sub(by) } else { now.checked_add(by) }.unwrap_or(now)
    }

    /// Seconds that the service's clock is ahead of ours; `None` if it has not said so.
    pub(super) fn skew(&self) -> Option<i64> {
        self.seen.dated.load(Ordering::Relaxed).then(|| self.seen.skew.load(Ordering::Relaxed))
    }

    /// Host and port that the last call went to.
    pub(super) fn endpoint(&self) -> Option<Authority> {
        self.seen.endpoint.borrow().as_ref().map(|endpoint| endpoint.authority.clone())
    }

    /// The same with the first call that is made, as soon as its endpoint is known.
    pub(super) async fn calls(&self) -> Option<Endpoint> {
        let mut endpoint = self.seen.endpoint.subscribe();
        endpoint.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn sent_to(&self, uri: &str) {
        let endpoint = uri.parse::<Uri>().ok().and_then(|uri| {
            let tls = uri.scheme_str() == Some("https");
            Some(Endpoint { tls, authority: uri.into_parts().authority? })
        });
        self.seen.endpoint.send_replace(endpoint);
    }

    pub(super) fn answered_at(&self, date: &str) {
        let Some(theirs) =
            DateTime::from_str(date, Format::HttpDate).ok().and_then(|date| SystemTime::try_from(date).ok())
        else {
            return;
        };
        let ours = self.clock.now();
        let (ahead, by) = match theirs.duration_since(ours) {
            Ok(by) => (true, by),
            Err(behind) => (false, behind.duration()),
        };
        if by > MAX_SKEW {
            return;
        }
        let by = i64::try_from(by.as_secs()).unwrap_or_default();
        self.seen.skew.store(if ahead { by } else { -by }, Ordering::Relaxed);
        self.seen.dated.store(true, Ordering::Relaxed);
    }
}

impl Intercept for Exchange {
    fn name(&self) -> &'static str {
        "Exchange"
    }

    // After signing: a header of this hop only. A call an hour gains nothing from a connection that is kept, and after
    // the machine slept, one that leads nowhere would cost the whole time of a try. A new one is known to work, or not,
    // within the connect timeout.
    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request_mut().headers_mut().insert("connection", "close");
        Ok(())
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.sent_to(context.request().uri());
        Ok(())
    }

    // Before deserialization, so that refusals teach the time too: a wrong clock is a reason for refusals.
    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date") {
            self.answered_at(date);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::canned::{DATE, at};

    #[test]
    fn the_service_says_what_time_it_is() {
        let exchange = Exchange::new(at(DATE - 3600));
        assert_eq!(exchange.skew(), None);
        assert_eq!(exchange.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(DATE - 3600));
        exchange.answered_at("Tue, 14 Nov 2023 22:13:20 GMT");
        assert_eq!(exchange.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(DATE));
        assert_eq!(exchange.skew(), Some(3600));
        exchange.answered_at("Tue, 14 Nov 2023 20:13:20 GMT");
        assert_eq!(exchange.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(DATE - 7200));
    }

    #[test]
    fn nonsense_does_not_move_the_clock() {
        let exchange = Exchange::new(at(DATE));
        for date in ["", "yesterday", "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "2023-11-14"] {
            exchange.answered_at(date);
            assert_eq!(exchange.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(DATE), "{date}");
        }
    }

    #[test]
    fn the_endpoint_is_where_the_request_goes() {
        let exchange = Exchange::new(at(DATE));
        for (uri, host, shown) in [
            ("https://ssm.eu-west-1.amazonaws.com/", "ssm.eu-west-1.amazonaws.com", "ssm.eu-west-1.amazonaws.com"),
            ("http://127.0.0.1:8080/x?y@z", "127.0.0.1", "127.0.0.1:8080"),
            ("http://[::1]:8080/", "[::1]", "[::1]:8080"),
        ] {
            exchange.sent_to(uri);
            let endpoint = exchange.endpoint().expect("an endpoint");
            assert_eq!((endpoint.host(), endpoint.as_str()), (host, shown), "{uri}");
        }
    }
}
