//! The OIDC API of an IAM Identity Center: clients are registered and tokens are made there.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_config::Region;
use aws_sdk_ssooidc::{
    Client,
    config::{Builder, ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextRef},
    error::{ProvideErrorMetadata, SdkError},
    operation::create_token::CreateTokenOutput,
};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_types::{SdkConfig, sdk_config::SharedTimeSource};
use serde::Deserialize;

use super::{Center, LoginError, Token, secret::Secret, token::Registration};
use crate::{
    aws::{EndpointKind, endpoint, errors::Call, http},
    session::{ControlError, ControlErrorKind, Outbound, Proxies},
};

/// How we introduce ourselves: administrators see it.
const CLIENT_NAME: &str = "ssmfwd";

/// The only type there is.
const CLIENT_TYPE: &str = "public";

/// Where clients are registered, below the endpoint.
const REGISTER_PATH: &str = "/client/register";

/// The API of one center. Its calls need no credentials.
pub(crate) struct Oidc {
    pub(super) client: Client,
    pub(super) center: Center,
    pub(super) clock: SharedTimeSource,
    /// For the client of the portal.
    pub(super) config: SdkConfig,
    sent: Sent,
}

/// Where the last request went: the page to log in on is beside the API, and has no operation that would tell.
#[derive(Debug, Clone, Default)]
struct Sent(Arc<Mutex<Option<String>>>);

/// Characters of the service's words that are kept.
const SAID_MAX: usize = 600;

/// What a client is registered for.
pub(super) enum Purpose {
    /// A code that is brought to this address, any port.
    AuthorizationCode {
        redirect_uri: String,
    },
    DeviceCode,
}

impl Oidc {
    /// The API of a center, at the endpoint that the configuration says, of the kind that is wanted.
    pub(crate) async fn new(center: Center, kind: EndpointKind) -> Self {
        let config = sdk_config(&center, kind).await;
        Self::with(center, &config)
    }

    pub(super) fn with(center: Center, config: &SdkConfig) -> Self {
        let sent = Sent::default();
        let client = Client::from_conf(Builder::from(config).interceptor(sent.clone()).build());
        Self { client, center, clock: config.time_source().unwrap_or_default(), config: config.clone(), sent }
    }

    /// The center.
    pub(crate) fn center(&self) -> &Center {
        &self.center
    }

    /// The time that expiries are compared with.
    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    pub(super) async fn register(&self, purpose: Purpose) -> Result<Registration, LoginError> {
        let register = self.client.register_client().client_name(CLIENT_NAME).client_type(CLIENT_TYPE);
        let register = match purpose {
            Purpose::AuthorizationCode { redirect_uri } => register
                .grant_types("authorization_code")
                .grant_types("refresh_token")
                .redirect_uris(redirect_uri)
                .issuer_url(&self.center.start_url)
                .set_scopes(Some(self.center.scopes())),
            // The older form of a profile knows no scopes, and its tokens are not renewed.
            Purpose::DeviceCode => register.set_scopes(self.center.session.is_some().then(|| self.center.scopes())),
        };
        let answer = register.send().await.map_err(|error| self.failed("RegisterClient", &error))?;
        let lacks = |what| LoginError::Incomplete { operation: "RegisterClient", what };
        Ok(Registration {
            client_id: answer.client_id.ok_or_else(|| lacks("client id"))?,
            client_secret: answer.client_secret.map(Secret::new).ok_or_else(|| lacks("client secret"))?,
            expires_at: since_epoch(answer.client_secret_expires_at),
        })
    }

    /// A new token for an old one, without anybody logging in.
    ///
    /// # Errors
    /// [`Call`](LoginError::Call): somebody has to log in, or try again later.
    pub(crate) async fn refresh(&self, token: &Token) -> Result<Token, LoginError> {
        let (Some(refresh), Some(client)) = (&token.refresh_token, &token.registration) else {
            return Err(LoginError::Incomplete { operation: "the last login", what: "refresh token" });
        };
        let create = self
            .client
            .create_token()
            .grant_type("refresh_token")
            .client_id(&client.client_id)
            .client_secret(client.client_secret.expose())
            .refresh_token(refresh.expose());
        let answer = create.send().await.map_err(|error| self.failed("CreateToken", &error))?;
        let new = self.token(answer, client.clone())?;
        Ok(Token { refresh_token: new.refresh_token.clone().or_else(|| token.refresh_token.clone()), ..new })
    }

    pub(super) fn token(&self, answer: CreateTokenOutput, client: Registration) -> Result<Token, LoginError> {
        let lacks = |what| LoginError::Incomplete { operation: "CreateToken", what };
        let lifetime = Duration::from_secs(u64::try_from(answer.expires_in).unwrap_or_default());
        Ok(Token {
            access_token: answer.access_token.map(Secret::new).ok_or_else(|| lacks("access token"))?,
            expires_at: self.now().checked_add(lifetime).ok_or_else(|| lacks("usable expiry"))?,
            refresh_token: answer.refresh_token.map(Secret::new),
            registration: Some(client),
            region: self.center.region.clone(),
            start_url: self.center.start_url.clone(),
        })
    }

    /// A call that failed, in the words of the service: RFC 6749 has another member for them than other APIs.
    pub(super) fn failed<E>(&self, operation: &'static str, error: &SdkError<E>) -> ControlError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        #[derive(Deserialize)]
        struct Body {
            error_description: String,
        }
        let call = Call { operation, resource: self.center.name() };
        let failed = call.failed(error, self.host().as_deref());
        let SdkError::ServiceError(refusal) = error else { return failed };
        let kind = match refusal.err().code() {
            Some("SlowDownException") => ControlErrorKind::Throttled,
            _ => failed.kind,
        };
        let body = refusal.raw().body().bytes().and_then(|body| serde_json::from_slice::<Body>(body).ok());
        let said = body.map(|body| body.error_description.chars().take(SAID_MAX).collect::<String>());
        let message = match said.filter(|said| !said.is_empty()) {
            Some(said) => format!("{said} ({})", failed.message),
            None => failed.message,
        };
        ControlError { kind, message, ..failed }
    }

    /// The page to log in on. Known once something was asked.
    pub(super) fn authorize_url(&self) -> Option<String> {
        let sent = self.sent.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.as_ref().and_then(|uri| uri.strip_suffix(REGISTER_PATH)).map(|base| format!("{base}/authorize"))
    }

    pub(super) fn host(&self) -> Option<String> {
        let sent = self.sent.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uri = sent.as_ref()?.parse::<::http::Uri>().ok()?;
        uri.authority().map(|authority| authority.as_str().to_owned())
    }
}

/// What the clients of a center's services are made of: its region, the endpoints of the profile, no credentials.
async fn sdk_config(center: &Center, kind: EndpointKind) -> SdkConfig {
    let mut loader = crate::aws::loader()
        .no_credentials()
        .region(Region::new(center.region.clone()))
        .timeout_config(crate::aws::timeouts());
    if let Some(profile) = &center.profile {
        loader = loader.profile_name(profile);
    }
    let config = kind.told(loader).load().await;
    // The way that all calls go: proxies, and the CA bundle of this profile.
    let outbound = Arc::new(Outbound::new(Proxies::from_env(), endpoint::trust(&config)));
    config.into_builder().http_client(http::client(outbound)).build()
}

fn since_epoch(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Intercept for Sent {
    fn name(&self) -> &'static str {
        "Sent"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.request().uri().to_owned());
        Ok(())
    }
}
