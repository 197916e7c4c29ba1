//! The three calls, with their answers checked, and the signature (`proto-notes/control-plane.md`).

use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Response;
use http::{HeaderName, HeaderValue, Uri, uri::Authority};

use super::{Aws, credentials, endpoint, errors::Call, sign, stream_url};
use crate::session::{
    BoxFuture, ControlError, ControlErrorKind, ControlPlane, DataKeyGrant, DataKeyRequest, Gateway, Grant, QueryForm,
    SessionId, StartRequest, StreamUrl, Token,
};

impl ControlPlane for Aws {
    fn start<'a>(&'a self, request: &'a StartRequest) -> BoxFuture<'a, Result<Grant, ControlError>> {
        Box::pin(self.start_session(request))
    }

    fn resume<'a>(&'a self, session: &'a SessionId) -> BoxFuture<'a, Result<Option<Grant>, ControlError>> {
        Box::pin(self.resume_session(session))
    }

    fn terminate<'a>(&'a self, session: &'a SessionId) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(self.terminate_session(session))
    }

    fn gateway(&self) -> BoxFuture<'_, Option<Gateway>> {
        Box::pin(async {
            let endpoint = self.exchange.calls().await?;
            match &self.messages_endpoint {
                Some(messages) => Some(messages.gateway()),
                None => stream_url::likely(&endpoint),
            }
        })
    }

    fn data_key<'a>(&'a self, request: &'a DataKeyRequest) -> BoxFuture<'a, Result<DataKeyGrant, ControlError>> {
        Box::pin(self.generate_data_key(request))
    }

    fn sign_upgrade<'a>(
        &'a self,
        url: &'a StreamUrl,
        form: QueryForm,
    ) -> BoxFuture<'a, Result<Vec<(HeaderName, HeaderValue)>, ControlError>> {
        Box::pin(self.sign(url, form))
    }
}

impl Aws {
    async fn start_session(&self, request: &StartRequest) -> Result<Grant, ControlError> {
        let call = Call { operation: "StartSession", resource: &request.target };
        self.ready(call, credentials::START_WAIT).await?;
        let target = self.resolve(call).await?;
        let call = Call { resource: &target, ..call };
        let parameters = request.parameters.iter().map(|(name, values)| (name.clone(), values.clone())).collect();
        let sent = self
            .client
            .start_session()
            .target(&target)
            .set_document_name(request.document.clone())
            .set_parameters(Some(parameters).filter(|_| !request.parameters.is_empty()))
            .set_reason(request.reason.clone())
            .customize()
            .config_override(super::start_override())
            .send();
        let answer = match sent.await {
            Ok(answer) => answer,
            Err(error) => {
                let error = self.failed(call, error);
                if error.kind == ControlErrorKind::TargetNotConnected {
                    self.lookups.forget(&request.target);
                }
                return Err(error);
            }
        };
        let Some(session) = present(answer.session_id).map(SessionId) else {
            return Err(call.error(ControlErrorKind::BadAnswer, "the answer has no SessionId"));
        };
        let endpoint = self.exchange.endpoint();
        let host = endpoint.as_ref().map(Authority::host);
        let granted = match (present(answer.token_value), present(answer.stream_url)) {
            (Some(token), Some(url)) => self
                .grant(call, &session, Token::new(token), url, host)
                .map(|grant| Grant { target: Some(target.clone()), ..grant }),
            (None, _) => Err(call.error(ControlErrorKind::BadAnswer, "the answer has no TokenValue")),
            (_, None) => Err(call.error(ControlErrorKind::BadAnswer, "the answer has no StreamUrl")),
        };
        if granted.is_err() {
            // The caller never learns of this session, so nobody else can end it.
            if let Err(error) = self.terminate_session(&session).await {
                tracing::warn!(%session, %error, "a session that cannot be used was not ended");
            }
        }
        granted
    }

    /// The permission that somebody else has got from StartSession, checked like one of our own.
    ///
    /// # Errors
    /// [`BadAnswer`](ControlErrorKind::BadAnswer) if the StreamUrl is none, or leads to where no data channel is.
    pub(crate) async fn adopt(&self, session: &SessionId, token: Token, url: String) -> Result<Grant, ControlError> {
        let call = Call { operation: "StartSession", resource: &session.0 };
        // Nothing was called that could tell where the API is.
        let endpoint = endpoint::chosen(&self.config, self.endpoint_url.as_deref()).await.ok();
        self.grant(call, session, token, url, endpoint.as_ref().and_then(Uri::host))
    }

    async fn resume_session(&self, session: &SessionId) -> Result<Option<Grant>, ControlError> {
        let call = Call { operation: "ResumeSession", resource: &session.0 };
        if self.credentials.never_come() {
            // This is no outage: nobody can bring any by logging in.
            return Err(call.error(ControlErrorKind::InvalidRequest, "there are no credentials to resume it with"));
        }
        self.credentials.fresh(credentials::WAIT).await.map_err(|error| call.no_credentials(&error))?;
        let sent = self.client.resume_session().session_id(&session.0).customize();
        let answer = match sent.config_override(super::resume_override()).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let error = self.failed(call, error);
                return if error.kind == ControlErrorKind::NoSuchSession { Ok(None) } else { Err(error) };
            }
        };
        // An answer without a token means that the session is over (`proto-notes/control-plane.md#resume`).
        let (Some(token), Some(url)) = (present(answer.token_value), present(answer.stream_url)) else {
            return Ok(None);
        };
        if answer.session_id.is_some_and(|answered| !answered.is_empty() && answered != session.0) {
            return Err(call.error(ControlErrorKind::BadAnswer, "the answer is about another session"));
        }
        let endpoint = self.exchange.endpoint();
        self.grant(call, session, Token::new(token), url, endpoint.as_ref().map(Authority::host)).map(Some)
    }

    async fn terminate_session(&self, session: &SessionId) -> Result<(), ControlError> {
        let call = Call { operation: "TerminateSession", resource: &session.0 };
        self.ready(call, credentials::WAIT).await?;
        match self.client.terminate_session().session_id(&session.0).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = self.failed(call, error);
                if error.kind == ControlErrorKind::NoSuchSession { Ok(()) } else { Err(error) }
            }
        }
    }

    async fn sign(&self, url: &StreamUrl, form: QueryForm) -> Result<Vec<(HeaderName, HeaderValue)>, ControlError> {
        let call = Call { operation: "OpenDataChannel", resource: url.authority() };
        let credentials = match self.credentials.get(credentials::WAIT).await {
            Ok(credentials) => credentials,
            Err(error) if matches!(*error, CredentialsError::CredentialsNotLoaded(_)) => return Ok(Vec::new()),
            Err(error) => return Err(call.no_credentials(&error)),
        };
        sign::upgrade_headers(url, form, &credentials, &self.region, self.exchange.now())
            .map_err(|error| call.caused(ControlErrorKind::BadAnswer, "the upgrade cannot be signed", &error))
    }

    /// Loads credentials before a call and not inside it: loading may ask a person and has its own time, and its
    /// failure is told from the call's.
    pub(super) async fn ready(&self, call: Call<'_>, wait: Duration) -> Result<(), ControlError> {
        self.credentials.get(wait).await.map(drop).map_err(|error| call.no_credentials(&error))
    }

    /// A call of SSM failed.
    pub(super) fn failed<E>(&self, call: Call<'_>, error: SdkError<E, Response>) -> ControlError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.failed_at(self.exchange.endpoint().as_ref().map(Authority::as_str), call, &error)
    }

    /// A call failed that was made to this host, if that is known: what it says of the credentials and of the clock is
    /// remembered.
    pub(super) fn failed_at<E>(&self, to: Option<&str>, call: Call<'_>, error: &SdkError<E, Response>) -> ControlError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let mut error = call.failed(error, to);
        if let (ControlErrorKind::ClockSkew, Some(skew)) = (error.kind, self.clock()) {
            error.message = format!("{} ({skew})", error.message);
        }
        match error.kind {
            ControlErrorKind::ExpiredCredentials | ControlErrorKind::NoCredentials => self.credentials.refused(),
            ControlErrorKind::ClockSkew => self.credentials.refused_for_the_time(),
            _ => {}
        }
        error
    }

    /// `endpoint`: the host of the API.
    fn grant(
        &self,
        call: Call<'_>,
        session: &SessionId,
        token: Token,
        url: String,
        endpoint: Option<&str>,
    ) -> Result<Grant, ControlError> {
        let unusable =
            |error| call.caused(ControlErrorKind::BadAnswer, "the StreamUrl of the answer cannot be used", &error);
        let url = StreamUrl::parse(url).map_err(unusable)?;
        if let Some(endpoint) = &self.messages_endpoint {
            // Whatever the service says: the token goes where the user wants it.
            let url = endpoint.instead_of(&url).map_err(unusable)?;
            return Ok(Grant { session_id: session.clone(), token, url, target: None });
        }
        stream_url::check(&url, endpoint).map_err(|reason| {
            let message = format!("the StreamUrl of the answer is not trusted: {reason}: {url}");
            call.error(ControlErrorKind::BadAnswer, message)
        })?;
        Ok(Grant { session_id: session.clone(), token, url, target: None })
    }
}

/// A field that says something.
fn present(field: Option<String>) -> Option<String> {
    field.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
