//! Login with a browser on any machine: a short code, typed in there (RFC 8628).

use std::time::Duration;

use aws_sdk_ssooidc::{
    error::SdkError,
    operation::create_token::{CreateTokenError, CreateTokenOutput},
};
use tokio::time::{Instant, sleep_until};

use super::{LoginError, Oidc, Token, oidc::Purpose, secret::Secret, token::Registration};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// Between two questions whether somebody has logged in, unless the service says otherwise (RFC 8628, 3.2).
const INTERVAL: Duration = Duration::from_secs(5);

/// How much longer it becomes with each request to slow down (RFC 8628, 3.5).
const SLOWER: Duration = Duration::from_secs(5);

/// No code lives longer, whatever the service says.
const LIFETIME_MAX: Duration = Duration::from_secs(60 * 60);

/// A login that waits for somebody to type in a code.
pub(crate) struct Device<'a> {
    oidc: &'a Oidc,
    client: Registration,
    device_code: Secret,
    user_code: String,
    page: String,
    page_with_code: Option<String>,
    interval: Duration,
    lifetime: Duration,
    begun: Instant,
}

/// What a question whether somebody has logged in was answered with.
enum Polled {
    Pending,
    SlowDown,
    Over(Result<CreateTokenOutput, LoginError>),
}

impl Oidc {
    /// Begins a login: registers a client, and takes a code.
    ///
    /// # Errors
    /// What went wrong with either.
    pub(crate) async fn device(&self) -> Result<Device<'_>, LoginError> {
        let client = self.register(Purpose::DeviceCode).await?;
        let start = self
            .client
            .start_device_authorization()
            .client_id(&client.client_id)
            .client_secret(client.client_secret.expose())
            .start_url(&self.center.start_url);
        let begun = Instant::now();
        let answer = start.send().await.map_err(|error| self.failed("StartDeviceAuthorization", &error))?;
        let lacks = |what| LoginError::Incomplete { operation: "StartDeviceAuthorization", what };
        let seconds = |number| Duration::from_secs(u64::try_from(number).unwrap_or_default());
        Ok(Device {
            oidc: self,
            client,
            device_code: answer.device_code.map(Secret::new).ok_or_else(|| lacks("device code"))?,
            user_code: answer.user_code.ok_or_else(|| lacks("user code"))?,
            page: answer.verification_uri.ok_or_else(|| lacks("address"))?,
            page_with_code: answer.verification_uri_complete,
            interval: if answer.interval > 0 { seconds(answer.interval) } else { INTERVAL },
            lifetime: seconds(answer.expires_in).min(LIFETIME_MAX),
            begun,
        })
    }
}

impl Device<'_> {
    /// The page where the code is typed in.
    pub(crate) fn page(&self) -> &str {
        &self.page
    }

    /// The page where the code is typed in already.
    pub(crate) fn page_with_code(&self) -> Option<&str> {
        self.page_with_code.as_deref()
    }

    /// The code for the page.
    pub(crate) fn user_code(&self) -> &str {
        &self.user_code
    }

    /// Waits until somebody has logged in, and takes the token.
    ///
    /// # Errors
    /// [`Denied`](LoginError::Denied), [`TimedOut`](LoginError::TimedOut), or what went wrong.
    pub(crate) async fn finish(self) -> Result<Token, LoginError> {
        let end = self.begun + self.lifetime;
        let mut interval = self.interval;
        loop {
            let next = Instant::now() + interval;
            if next >= end {
                return Err(LoginError::TimedOut(self.lifetime));
            }
            sleep_until(next).await;
            match self.poll().await {
                Polled::Pending => {}
                Polled::SlowDown => interval += SLOWER,
                Polled::Over(answer) => return self.oidc.token(answer?, self.client),
            }
        }
    }

    async fn poll(&self) -> Polled {
        let create = self
            .oidc
            .client
            .create_token()
            .grant_type(GRANT_TYPE)
            .client_id(&self.client.client_id)
            .client_secret(self.client.client_secret.expose())
            .device_code(self.device_code.expose());
        let error = match create.send().await {
            Ok(answer) => return Polled::Over(Ok(answer)),
            Err(error) => error,
        };
        let refusal = match &error {
            SdkError::ServiceError(refusal) => Some(refusal.err()),
            _ => None,
        };
        match refusal {
            Some(CreateTokenError::AuthorizationPendingException(_)) => Polled::Pending,
            Some(CreateTokenError::SlowDownException(_)) => Polled::SlowDown,
            Some(CreateTokenError::ExpiredTokenException(_)) => Polled::Over(Err(LoginError::TimedOut(self.lifetime))),
            Some(CreateTokenError::AccessDeniedException(denied)) => {
                let said = denied.error_description().unwrap_or_default().to_owned();
                Polled::Over(Err(LoginError::Denied(said)))
            }
            _ => {
                let error = self.oidc.failed("CreateToken", &error);
                // The code is as good as before, and somebody may be about to type it in.
                if error.kind.is_transient() {
                    tracing::debug!(%error, "asked in vain");
                    return Polled::SlowDown;
                }
                Polled::Over(Err(error.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::{
        canned::{Answer, Canned, DATE, seconds},
        login::Center,
    };

    fn begun(expires_in: u64, interval: u64) -> [Answer; 2] {
        let registered = serde_json::json!({ "clientId": "client", "clientSecret": "SECRET", "clientSecretExpiresAt": DATE + 7_776_000 });
        let started = serde_json::json!({
            "deviceCode": "DEVICE", "userCode": "ABCD-EFGH", "verificationUri": "https://device.example/",
            "verificationUriComplete": "https://device.example/?user_code=ABCD-EFGH",
            "expiresIn": expires_in, "interval": interval,
        });
        [Answer::json(200, registered.to_string()), Answer::json(200, started.to_string())]
    }

    fn refused(code: &str) -> Answer {
        Answer::refused(400, code, "not now")
    }

    fn token() -> Answer {
        Answer::json(200, r#"{"accessToken":"ACCESS","tokenType":"Bearer","expiresIn":28800,"refreshToken":"REFRESH"}"#)
    }

    /// What became of it, how many seconds it took, and how often it was asked.
    async fn logged_in(
        answers: impl IntoIterator<Item = Answer>,
        expires_in: u64,
        interval: u64,
    ) -> (Result<Token, LoginError>, u64, usize) {
        let canned = Canned::new(begun(expires_in, interval).into_iter().chain(answers));
        let oidc = Oidc::with(Center::for_test(Some("corp")), &canned.config());
        let device = oidc.device().await.expect("a code");
        assert_eq!((device.user_code(), device.page()), ("ABCD-EFGH", "https://device.example/"));
        let started = Instant::now();
        let done = device.finish().await;
        (done, started.elapsed().as_secs(), canned.asked().len() - 2)
    }

    #[tokio::test(start_paused = true)]
    async fn it_asks_at_the_pace_of_the_service() {
        let answers = [
            refused("AuthorizationPendingException"),
            refused("SlowDownException"),
            Answer::json(503, "<html>"),
            token(),
        ];
        let (token, took, asked) = logged_in(answers, 600, 2).await;
        let token = token.expect("a token");
        assert_eq!((took, asked), (2 + 2 + 7 + 12, 4));
        assert_eq!((token.expires_at(), token.access_token.expose()), (seconds(DATE + 28_800), "ACCESS"));
        assert!(token.is_refreshable(seconds(DATE)));
        let (token, took, _) = logged_in([self::token()], 600, 0).await;
        assert_eq!((token.is_ok(), took), (true, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_code() {
        let pending = || (0..50).map(|_| refused("AuthorizationPendingException"));
        let (error, took, asked) = logged_in(pending(), 60, 5).await;
        assert!(matches!(error, Err(LoginError::TimedOut(_))), "{error:?}");
        assert!(took < 60 && asked == 11, "{took} {asked}");
        let (error, ..) = logged_in([refused("ExpiredTokenException")], 60, 5).await;
        assert_eq!(error.expect_err("expired").to_string(), "nobody logged in within 1 min");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_final() {
        let (error, ..) = logged_in([refused("AccessDeniedException")], 60, 5).await;
        assert!(matches!(error, Err(LoginError::Denied(_))), "{error:?}");
        let (error, _, asked) = logged_in([refused("InvalidGrantException"), token()], 60, 5).await;
        assert!(matches!(&error, Err(LoginError::Call(call)) if call.operation == "CreateToken"), "{error:?}");
        assert_eq!(asked, 1);
        assert!(!format!("{error:?}").contains("DEVICE"), "{error:?}");
        let broken = r#"{"accessToken":"ACCESS","expiresIn":"soon","refreshToken":"REFRESH"#;
        let (error, ..) = logged_in([Answer::json(200, broken)], 60, 5).await;
        let shown = format!("{error:?}");
        assert!(error.is_err() && !shown.contains("ACCESS") && !shown.contains("REFRESH"), "{shown}");
    }
}
