//! One call of a [`JsonService`]: AWS JSON 1.1, on the SDK's own orchestrator, which brings timeouts, retries and the
//! HTTP client. The services' own SDK crates would cost minutes to build, for a few calls.

use std::{fmt, time::SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_runtime::client::{
    orchestrator::operation::Operation,
    retries::classifiers::{HttpStatusCodeClassifier, TransientErrorClassifier},
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        behavior_version::BehaviorVersion,
        identity::Identity,
        interceptors::{
            Intercept,
            context::{
                BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut, InterceptorContext,
            },
        },
        orchestrator::{HttpRequest, HttpResponse, OrchestratorError, SensitiveOutput},
        retries::classifiers::{ClassifyRetry, RetryAction},
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::{
    body::SdkBody,
    config_bag::ConfigBag,
    error::{ErrorMetadata, metadata::ProvideErrorMetadata},
    retry::{ErrorKind, RetryConfig},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    ATTEMPTS, Aws, credentials, endpoint, errors::Call, exchange::Exchange, json_service::JsonService, timeouts,
};
use crate::session::{ControlError, ControlErrorKind};

/// Why a service refused a call.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    /// The error code.
    pub(super) code: String,
}

impl Aws {
    /// Makes one call. `refused` learns the code of a refusal, which the error itself shows only in words.
    ///
    /// The answer may be a secret: it is read where it lies, and the SDK is told not to log it. So `O` must not show any
    /// in its `Debug`.
    pub(super) async fn call_json<O: DeserializeOwned + fmt::Debug + Send + Sync + 'static>(
        &self,
        service: &'static JsonService,
        call: Call<'_>,
        input: &impl Serialize,
        refused: &mut Refusal,
    ) -> Result<O, ControlError> {
        let credentials = self.credentials.get(credentials::START_WAIT).await;
        let credentials = credentials.map_err(|error| call.no_credentials(&error))?;
        let body = serde_json::to_string(input)
            .map_err(|error| call.caused(ControlErrorKind::InvalidRequest, "the request cannot be made", &error))?;
        let config = self.sdk_config();
        let url = service.url(config, self.region());
        endpoint::check(&url)
            .map_err(|reason| call.error(ControlErrorKind::InvalidRequest, format!("{}: {reason}", service.id)))?;
        let host = url.parse::<http::Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));

        let operation = call.operation;
        let mut orchestrated = Operation::builder()
            .service_name(service.id)
            .operation_name(operation)
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&url)
            // Signed by an interceptor: with the time as the service sees it.
            .no_auth()
            .standard_retry(&RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .retry_classifier(TransientErrorClassifier::<ErrorMetadata>::new())
            .retry_classifier(HttpStatusCodeClassifier::default())
            .retry_classifier(Codes)
            .timeout_config(timeouts())
            .interceptor(Signer {
                service,
                credentials,
                region: self.region().to_owned(),
                exchange: self.exchange.clone(),
            });
        if let Some(client) = config.http_client() {
            orchestrated = orchestrated.http_client(client);
        }
        if let Some(sleep) = config.sleep_impl() {
            orchestrated = orchestrated.sleep_impl(sleep);
        }
        if let Some(time) = config.time_source() {
            orchestrated = orchestrated.time_source(time);
        }
        let orchestrated =
            orchestrated.serializer(move |body: String| request(service, operation, body)).deserializer(answer).build();
        match orchestrated.invoke(body).await {
            Ok(Answer::Good(answer)) => Ok(answer),
            Ok(Answer::Strange(error)) => {
                let message = format!("the answer is not what {} answers", service.id);
                Err(call.caused(ControlErrorKind::BadAnswer, message, &error))
            }
            Err(error) => {
                let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
                refused.code = code.unwrap_or_default().to_owned();
                Err(self.failed_at(host.as_deref(), call, &error))
            }
        }
    }
}

fn request(service: &JsonService, operation: &str, body: String) -> Result<HttpRequest, BoxError> {
    let mut request = HttpRequest::new(SdkBody::from(body));
    request.set_method("POST")?;
    let headers = request.headers_mut();
    headers.insert("content-type", "application/x-amz-json-1.1");
    headers.insert("x-amz-target", format!("{}.{operation}", service.target));
    headers.insert("user-agent", concat!("ssmfwd/", env!("CARGO_PKG_VERSION")));
    // As the calls of SSM do: the next one may come after the machine has slept.
    headers.insert("connection", "close");
    Ok(request)
}

/// JSON that is no refusal.
#[derive(Debug)]
enum Answer<O> {
    Good(O),
    /// Of another form than was expected.
    Strange(serde_json::Error),
}

/// The answer, or the code and the text of a refusal. Nothing is copied of an answer but what it becomes: a key that it
/// holds is wiped with that. What is below is not ours to wipe, the body and the buffers of HTTP and TLS.
fn answer<O: DeserializeOwned>(response: &HttpResponse) -> Result<Answer<O>, OrchestratorError<ErrorMetadata>> {
    let body = response.body().bytes().unwrap_or_default();
    if response.status().is_success() {
        return match serde_json::from_slice(body) {
            Ok(answer) => Ok(Answer::Good(answer)),
            Err(error) if error.is_data() => Ok(Answer::Strange(error)),
            Err(error) => Err(OrchestratorError::other(error)),
        };
    }
    let value: Value = serde_json::from_slice(body).map_err(OrchestratorError::other)?;
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    // As `com.amazonaws.ecs#ClusterNotFoundException`, in the header with a URL behind a colon.
    let code = response.headers().get("x-amzn-errortype").or_else(|| text("__type")).unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default();
    if code.is_empty() {
        return Err(OrchestratorError::other("a refusal without a reason"));
    }
    let message = text("message").or_else(|| text("Message")).unwrap_or_default();
    Err(OrchestratorError::operation(ErrorMetadata::builder().code(code).message(message).build()))
}

/// Signs every try, says that the answer is nobody else's business, and learns the time from every answer.
#[derive(Debug)]
struct Signer {
    service: &'static JsonService,
    credentials: Credentials,
    region: String,
    exchange: Exchange,
}

impl Signer {
    fn sign(&self, request: &mut HttpRequest, time: SystemTime) -> Result<(), BoxError> {
        let identity = Identity::from(self.credentials.clone());
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service.signing_name)
            .time(time)
            .settings(SigningSettings::default())
            .build()?
            .into();
        let body = request.body().bytes().unwrap_or_default();
        // What belongs to the hop is not signed: a proxy may change it.
        let headers = request.headers().iter().filter(|(name, _)| !["connection", "user-agent"].contains(name));
        let signable = SignableRequest::new(request.method(), request.uri(), headers, SignableBody::Bytes(body))?;
        let (instructions, _) = sign(signable, &params)?.into_parts();
        let (headers, _) = instructions.into_parts();
        for header in headers {
            request.headers_mut().insert(header.name(), header.value().to_owned());
        }
        Ok(())
    }
}

impl Intercept for Signer {
    fn name(&self) -> &'static str {
        "Signer"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(SensitiveOutput);
        self.sign(context.request_mut(), self.exchange.now())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date") {
            self.exchange.answered_at(date);
        }
        Ok(())
    }
}

/// Which refusals are worth another try: too many calls, and a signature of another time, which the next one has right.
#[derive(Debug)]
struct Codes;

impl ClassifyRetry for Codes {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(Err(error)) = context.output_or_error() else { return RetryAction::NoActionIndicated };
        let refusal = error.as_operation_error().and_then(|error| error.downcast_ref::<ErrorMetadata>());
        let Some(refusal) = refusal else { return RetryAction::NoActionIndicated };
        let said = refusal.message().unwrap_or_default();
        match refusal.code().unwrap_or_default() {
            "ThrottlingException" | "Throttling" | "TooManyRequestsException" | "RequestLimitExceeded" => {
                RetryAction::retryable_error(ErrorKind::ThrottlingError)
            }
            "InvalidSignatureException" | "SignatureDoesNotMatch" | "RequestExpired" | "RequestTimeTooSkewed"
                if said.contains("Signature expired") || said.contains("not yet current") || said.is_empty() =>
            {
                RetryAction::retryable_error(ErrorKind::TransientError)
            }
            "ServerException" | "InternalServerError" => RetryAction::retryable_error(ErrorKind::ServerError),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "Codes"
    }
}
