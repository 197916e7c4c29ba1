//! An emulated IAM Identity Center: the OIDC API, its login pages, and the access portal (`proto-notes/login.md`).
//!
//! ```text
//! client ──▶ oidc    register, authorize a device, make tokens ─┐
//! browser ─▶ pages   Allow or Deny ─────────────────────────────┼──▶ ledger: clients, codes, tokens
//! client ──▶ portal  accounts, roles, credentials of a role ────┘
//! ```
//!
//! Both APIs are REST with JSON and take no signature: a client secret or an access token is what opens them. The
//! credentials that the portal hands out are the emulator's one identity.

mod answer;
mod config;
mod ledger;
mod oidc;
mod pages;
mod portal;

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Method, Response, request::Parts};
use http_body_util::Full;
use url::form_urlencoded;

pub use self::config::{SsoAccount, SsoConfig};
use self::{answer::Refusal, ledger::Ledger};
use super::{EmulatorConfig, FailureKind, Operation, clock::Moment, service::Service};

/// The center's memory.
pub(super) struct IdentityCenter {
    ledger: Mutex<Ledger>,
}

/// One request, read completely.
struct Request<'a> {
    parts: &'a Parts,
    body: &'a [u8],
    /// Scheme, host and port by which the client knows us.
    base: &'a str,
}

/// What an operation works with.
struct Context<'a> {
    service: &'a Service,
    config: &'a EmulatorConfig,
    ledger: MutexGuard<'a, Ledger>,
    now: Moment,
}

impl IdentityCenter {
    pub(super) fn new(seed: u64) -> Self {
        Self { ledger: Mutex::new(Ledger::new(seed)) }
    }

    /// Answers a request that is for the center; `None` if it is for somebody else.
    pub(super) fn answer(
        &self,
        service: &Service,
        parts: &Parts,
        body: &[u8],
        base: &str,
    ) -> Option<Response<Full<Bytes>>> {
        type Handler = fn(&mut Context<'_>, &Request<'_>) -> Result<Response<Full<Bytes>>, Refusal>;
        let (operation, handler): (Operation, Handler) = match (&parts.method, parts.uri.path()) {
            (&Method::POST, "/client/register") => (Operation::RegisterClient, oidc::register),
            (&Method::POST, "/device_authorization") => (Operation::StartDeviceAuthorization, oidc::device),
            (&Method::POST, "/token") => (Operation::CreateToken, oidc::token),
            (&Method::GET, pages::AUTHORIZE) => (Operation::Authorize, pages::authorize),
            (&Method::POST, pages::AUTHORIZE) => (Operation::Authorize, pages::authorized),
            (&Method::GET, pages::DEVICE) => (Operation::Authorize, pages::device),
            (&Method::POST, pages::DEVICE) => (Operation::Authorize, pages::device_decided),
            (&Method::GET, "/federation/credentials") => (Operation::GetRoleCredentials, portal::credentials),
            (&Method::GET, "/assignment/accounts") => (Operation::ListAccounts, portal::accounts),
            (&Method::GET, "/assignment/roles") => (Operation::ListAccountRoles, portal::roles),
            (&Method::POST, "/logout") => (Operation::Logout, portal::logout),
            _ => return None,
        };
        service.observe(|state| state.count_call(operation.name()));
        let config = service.config();
        let failure = match config.denies(operation) {
            true => Some(FailureKind::AccessDenied),
            false => service.take_failure(operation, |_| true),
        };
        let request = Request { parts, body, base };
        let answered = match failure {
            Some(kind) => Err(Refusal::on_order(kind, operation)),
            None => {
                let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Moment::now(config.clock_skew);
                handler(&mut Context { service, config: &config, ledger, now }, &request)
            }
        };
        Some(answered.unwrap_or_else(|refusal| {
            service.observe(|state| state.count_error(refusal.code));
            tracing::info!(?operation, code = refusal.code, said = refusal.said, "refused");
            refusal.answer(&service.request_id())
        }))
    }
}

impl Request<'_> {
    /// A parameter of the query.
    fn query(&self, name: &str) -> Option<String> {
        value(self.parts.uri.query().unwrap_or_default().as_bytes(), name)
    }

    /// A field of a form.
    fn field(&self, name: &str) -> Option<String> {
        value(self.body, name)
    }
}

fn value(form: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(form).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
