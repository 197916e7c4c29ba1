//! Login with a browser on this machine: authorization code with PKCE (RFC 6749, 7636, 8252).

use std::time::Duration;

use tokio::time::timeout;
use url::Url;

use super::{
    LoginError, Oidc, Token,
    callback::{Answer, Callback, PageError},
    oidc::Purpose,
    pkce::{self, Verifier},
    token::Registration,
};

/// How long somebody may take on the page: the AWS CLI's patience.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// A login that waits for somebody to say yes on a page.
pub(crate) struct Authorization<'a> {
    oidc: &'a Oidc,
    client: Registration,
    callback: Callback,
    verifier: Verifier,
    state: String,
    url: String,
}

impl Oidc {
    /// Begins a login: registers a client, and listens for the page's answer.
    ///
    /// # Errors
    /// What went wrong with either.
    pub(crate) async fn authorize(&self) -> Result<Authorization<'_>, LoginError> {
        let callback = Callback::bind().await.map_err(LoginError::Listen)?;
        let redirect_uri = Callback::REGISTERED.to_owned();
        let client = self.register(Purpose::AuthorizationCode { redirect_uri }).await?;
        let (verifier, state) = (Verifier::random()?, pkce::state()?);
        let lacks = || LoginError::Incomplete { operation: "RegisterClient", what: "address" };
        let mut url = self.authorize_url().and_then(|url| Url::parse(&url).ok()).ok_or_else(lacks)?;
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &client.client_id)
            .append_pair("redirect_uri", &callback.redirect_uri())
            .append_pair("state", &state)
            .append_pair("code_challenge_method", "S256")
            .append_pair("scopes", &self.center.scopes().join(" "))
            .append_pair("code_challenge", &verifier.challenge());
        // Forms write spaces as `+`, which not every reader of a query takes for one. Every other `+` is encoded.
        let query = url.query().unwrap_or_default().replace('+', "%20");
        url.set_query(Some(&query));
        Ok(Authorization { oidc: self, client, callback, verifier, state, url: url.into() })
    }
}

impl Authorization<'_> {
    /// The page to open. Nothing in it is secret.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Waits for the page's answer and takes the token.
    ///
    /// # Errors
    /// [`Denied`](LoginError::Denied), [`TimedOut`](LoginError::TimedOut), or what went wrong.
    pub(crate) async fn finish(self) -> Result<Token, LoginError> {
        let code = match timeout(PATIENCE, self.callback.answer(&self.state)).await {
            Ok(Ok(Answer::Code(code))) => code,
            Ok(Ok(Answer::Error(error))) => return Err(said(error)),
            Ok(Err(error)) => return Err(LoginError::Listen(error)),
            // Whoever sent an error without a state, there is no better cause now.
            Err(_) => return Err(self.callback.stateless().map_or(LoginError::TimedOut(PATIENCE), said)),
        };
        let create = self
            .oidc
            .client
            .create_token()
            .grant_type("authorization_code")
            .client_id(&self.client.client_id)
            .client_secret(self.client.client_secret.expose())
            .code(code.expose())
            .code_verifier(self.verifier.expose())
            .redirect_uri(self.callback.redirect_uri());
        let answer = create.send().await.map_err(|error| self.oidc.failed("CreateToken", &error))?;
        self.oidc.token(answer, self.client)
    }
}

/// The failure that an error of the page is.
fn said(PageError { error, description }: PageError) -> LoginError {
    match (&*error, description.is_empty()) {
        ("access_denied", _) => LoginError::Denied(description),
        (_, true) => LoginError::Page(error),
        (_, false) => LoginError::Page(format!("{error}: {description}")),
    }
}
