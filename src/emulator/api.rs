//! The APIs that speak AWS JSON 1.1 on `POST /`, signatures verified: SSM's sessions (`proto-notes/control-plane.md`)
//! here, its inventory and ECS in files of their own.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    EmulatorConfig, EndedBy, FailureKind, Operation,
    clock::Moment,
    documents::PREFERENCES,
    ecs, inventory, kms,
    service::{Parameters, Permit, Resumed, Service, StartOrder, find_document},
    sigv4::{Plus, SignedRequest},
};

/// Largest body that is read, bytes.
pub(super) const MAX_BODY: usize = 256 << 10;
/// What stands before the operation in `X-Amz-Target`, by the service in signatures.
const TARGET_PREFIXES: [(&str, &str); 3] =
    [("ssm", "AmazonSSM."), ("ecs", "AmazonEC2ContainerServiceV20141113."), ("kms", "TrentService.")];
/// What a load balancer says when there is nothing behind it.
const UNAVAILABLE_PAGE: &str = "<html><body><h1>503 Service Unavailable</h1></body></html>";

/// An error as the service words it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Errors that the API model declares spell their member `Message`; the others `message`.
    modelled: bool,
    /// Not an answer of the API at all, but this page.
    page: Option<&'static str>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl ApiError {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into(), modelled: false, page: None }
    }

    pub(super) fn modelled(code: &'static str, message: impl Into<String>) -> Self {
        Self { modelled: true, ..Self::new(code, message) }
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    fn of(kind: FailureKind, operation: Operation, config: &EmulatorConfig, caller: &str) -> Self {
        let unavailable = |page| Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            page: Some(page),
            ..Self::new("ServiceUnavailable", "on order")
        };
        let key = kms::arn(config);
        let resource = match operation {
            Operation::GenerateDataKey => key.clone(),
            _ => format!("arn:aws:{}:{}:123456789012:*", operation.service(), config.region),
        };
        let action = format!("{}:{}", operation.service(), operation.name());
        let denied = |why: &str| Self::denied(operation, caller, &resource, why);
        let not_allowed = |policy: &str| denied(&format!("because no {policy} allows the {action} action"));
        match kind {
            FailureKind::Throttled => Self::new("ThrottlingException", "Rate exceeded"),
            FailureKind::Internal => Self {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                ..Self::modelled("InternalServerError", "An error occurred on the server side.")
            },
            FailureKind::Unavailable => unavailable(UNAVAILABLE_PAGE),
            FailureKind::UnavailableEmpty => unavailable(""),
            FailureKind::ExpiredToken => {
                Self::new("ExpiredTokenException", "The security token included in the request is expired")
            }
            FailureKind::AccessDenied => not_allowed("identity-based policy"),
            FailureKind::ExplicitDeny => denied("with an explicit deny in an identity-based policy"),
            FailureKind::ServiceControlPolicy => denied("with an explicit deny in a service control policy"),
            FailureKind::SessionPolicy => not_allowed("session policy"),
            FailureKind::PermissionsBoundary => not_allowed("permissions boundary"),
            FailureKind::VpcEndpointPolicy => not_allowed("VPC endpoint policy"),
            FailureKind::ClockSkew => Self::new(
                "InvalidSignatureException",
                "Signature expired: 20250101T000000Z is now earlier than 20250101T015500Z (20250101T020000Z - 5 min.)",
            ),
            FailureKind::WrongKeys => {
                Self::new("UnrecognizedClientException", "The security token included in the request is invalid.")
            }
            FailureKind::TargetNotConnected => Self::modelled("TargetNotConnected", "The target is not connected."),
            FailureKind::InvalidDocument => Self::modelled("InvalidDocument", "The document does not exist."),
            FailureKind::DoesNotExist => Self::modelled("DoesNotExistException", "The session does not exist."),
            FailureKind::RemoteHosts => {
                Self::new("BadRequest", "Currently, port forwarding sessions to remote hosts are not supported.")
            }
            FailureKind::NotForSessions => {
                Self::modelled("InvalidDocument", "Document type: 'Command' is not supported. Only type: 'Session' is.")
            }
            FailureKind::KeyNotFound => kms::not_found(&key),
            FailureKind::KeyDisabled => Self::modelled("DisabledException", format!("{key} is disabled.")),
            FailureKind::SessionLimit => Self::new("BadRequest", "The maximum number of sessions has been reached."),
        }
    }

    /// What IAM says; `why` is the end of its sentence.
    fn denied(operation: Operation, caller: &str, resource: &str, why: &str) -> Self {
        let (service, operation) = (operation.service(), operation.name());
        let message =
            format!("User: {caller} is not authorized to perform: {service}:{operation} on resource: {resource} {why}");
        Self::new("AccessDeniedException", message)
    }

    pub(super) fn constraint(member: &str, value: Option<&str>, constraint: &str) -> Self {
        let value = value.map_or_else(|| "null".to_owned(), |value| format!("'{value}'"));
        let message = format!(
            "1 validation error detected: Value {value} at '{member}' failed to satisfy constraint: Member must {constraint}"
        );
        Self::new("ValidationException", message)
    }
}

/// One API request, read completely.
pub(super) struct ApiRequest<'a> {
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
    /// Where StreamUrls point: scheme, host and port.
    pub(super) stream_base: &'a str,
}

/// Answers one request.
pub(super) fn answer(service: &Arc<Service>, request: &ApiRequest<'_>) -> Response<Full<Bytes>> {
    let config = service.config();
    let operation = request.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).and_then(operation_of);
    service.observe(|state| state.count_call(operation.map_or("(unknown)", Operation::name)));
    let result = match operation {
        Some(operation) => check(service, &config, operation, request).and_then(|()| match operation {
            Operation::StartSession => start_session(service, &config, request),
            Operation::ResumeSession => resume_session(service, request),
            Operation::TerminateSession => terminate_session(service, request),
            Operation::DescribeInstanceInformation => inventory::describe_information(service, &config, request.body),
            Operation::DescribeInstanceProperties => inventory::describe_properties(service, &config, request.body),
            Operation::GetConnectionStatus => inventory::connection_status(service, &config, request.body),
            Operation::GetDocument => get_document(&config, request),
            Operation::ListTasks => ecs::list_tasks(&config, request.body),
            Operation::DescribeTasks => ecs::describe_tasks(&config, request.body),
            Operation::ListServices => ecs::list_services(&config, request.body),
            Operation::ExecuteCommand => ecs::execute_command(service, &config, request),
            Operation::GenerateDataKey => kms::generate_data_key(service, &config, request.body),
            _ => Err(unknown()),
        }),
        None => Err(unknown()),
    };
    let mut response = match result {
        Ok(body) => Response::new(Full::new(body)),
        Err(error) => {
            service.observe(|state| state.count_error(error.code));
            tracing::info!(?operation, code = error.code, message = error.message, "API call refused");
            if operation == Some(Operation::ResumeSession)
                && let Ok(id) = session_id(request.body)
            {
                service.observe_session(&id, |session| session.resumes_refused += 1);
            }
            if let Some(page) = error.page {
                return unavailable(error.status, page);
            }
            let member = if error.modelled { "Message" } else { "message" };
            let mut response =
                Response::new(Full::new(json!({"__type": error.code, member: error.message}).to_string().into()));
            *response.status_mut() = error.status;
            response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(error.code));
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
    // Hyper writes the machine's time otherwise, and clients learn the service's clock from this header.
    if let Ok(date) = HeaderValue::from_str(&Moment::now(config.clock_skew).to_http()) {
        headers.insert(header::DATE, date);
    }
    if let Ok(id) = HeaderValue::from_str(&service.request_id()) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}

fn operation_of(target: &str) -> Option<Operation> {
    let (service, name) =
        TARGET_PREFIXES.iter().find_map(|(service, prefix)| Some((service, target.strip_prefix(prefix)?)))?;
    Operation::of_call(name).filter(|operation| operation.service() == *service)
}

fn unknown() -> ApiError {
    ApiError::new("UnknownOperationException", "the emulator does not serve this operation")
}

/// What stands in front of the API and knows nothing of it.
fn unavailable(status: StatusCode, page: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(page.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

fn check(
    service: &Service,
    config: &EmulatorConfig,
    operation: Operation,
    request: &ApiRequest<'_>,
) -> Result<(), ApiError> {
    let early = if operation.is_of_a_session() && service.take_throttle() {
        Some(FailureKind::Throttled)
    } else {
        service.take_failure(operation, FailureKind::precedes_signature)
    };
    if let Some(kind) = early {
        return Err(ApiError::of(kind, operation, config, &config.identity));
    }
    let signed = SignedRequest {
        method: "POST",
        path: request.path,
        query: request.query,
        headers: request.headers,
        body: request.body,
    };
    let caller = service
        .authenticate(&signed, operation.service(), Plus::Space)
        .map_err(|rejection| ApiError::new(rejection.code(), rejection.to_string()))?;
    if config.expired_credentials {
        return Err(ApiError::of(FailureKind::ExpiredToken, operation, config, &caller.arn));
    }
    if config.denies(operation) {
        return Err(ApiError::of(FailureKind::AccessDenied, operation, config, &caller.arn));
    }
    if let Some(kind) = service.take_failure(operation, |_| true) {
        return Err(ApiError::of(kind, operation, config, &caller.arn));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StartInput {
    target: Option<String>,
    document_name: Option<String>,
    #[serde(default)]
    parameters: Option<Parameters>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SessionInput {
    session_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SessionOutput<'a> {
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_url: Option<String>,
}

impl SessionOutput<'_> {
    fn encode(&self) -> Result<Bytes, ApiError> {
        let internal =
            |_| ApiError { status: StatusCode::INTERNAL_SERVER_ERROR, ..ApiError::modelled("InternalServerError", "") };
        serde_json::to_vec(self).map(Bytes::from).map_err(internal)
    }
}

fn start_session(service: &Arc<Service>, config: &EmulatorConfig, request: &ApiRequest<'_>) -> Result<Bytes, ApiError> {
    let input: StartInput = decode(request.body)?;
    let target = input.target.ok_or_else(|| ApiError::constraint("target", None, "not be null"))?;
    if !(1..=400).contains(&target.len()) {
        return Err(ApiError::constraint("target", Some(&target), "have length between 1 and 400"));
    }
    if let Some(reason) = input.reason.as_deref().filter(|reason| !(1..=256).contains(&reason.chars().count())) {
        return Err(ApiError::constraint("reason", Some(reason), "have length between 1 and 256"));
    }
    let name = input.document_name.unwrap_or_else(|| PREFERENCES.into());
    if !(3..=128).contains(&name.len())
        || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte))
    {
        let pattern = "satisfy regular expression pattern: ^[a-zA-Z0-9_\\-.:/]{3,128}$";
        return Err(ApiError::constraint("documentName", Some(&name), pattern));
    }
    if config.forbidden_documents.contains(&name) {
        let owner = if name.starts_with("AWS-") { "" } else { "123456789012" };
        let resource = format!("arn:aws:ssm:{}:{owner}:document/{name}", config.region);
        let why = "with an explicit deny in an identity-based policy";
        return Err(ApiError::denied(Operation::StartSession, &config.identity, &resource, why));
    }
    let Some(document) = find_document(config, &name) else {
        return Err(ApiError::modelled("InvalidDocument", format!("Document with name {name} does not exist.")));
    };
    let properties = document
        .properties(&name, &input.parameters.unwrap_or_default())
        .map_err(|error| ApiError::new("ValidationException", error.to_string()))?;
    if !inventory::is_connected(service, config, &target) {
        return Err(ApiError::modelled("TargetNotConnected", format!("{target} is not connected.")));
    }
    let session_type = document.session_type;
    let order = StartOrder { target, document: name, session_type, properties, reason: input.reason, starter: "user" };
    let started = service
        .start(order)
        .ok_or_else(|| ApiError::new("ThrottlingException", "The target has no room for more sessions."))?;
    output(request, &started.id, &started.permit)
}

fn resume_session(service: &Service, request: &ApiRequest<'_>) -> Result<Bytes, ApiError> {
    let id = session_id(request.body)?;
    match service.resume(&id) {
        Resumed::Permit(permit) => output(request, &id, &permit),
        Resumed::Ended => {
            service.observe_session(&id, |session| session.resumes_refused += 1);
            SessionOutput { session_id: &id, token_value: None, stream_url: None }.encode()
        }
        Resumed::Unknown => Err(no_such_session(&id)),
    }
}

fn terminate_session(service: &Service, request: &ApiRequest<'_>) -> Result<Bytes, ApiError> {
    let id = session_id(request.body)?;
    if !service.end(&id, EndedBy::Api, "") && !service.snapshot().sessions.contains_key(&id) {
        return Err(no_such_session(&id));
    }
    SessionOutput { session_id: &id, token_value: None, stream_url: None }.encode()
}

/// The preferences of Session Manager, which are a document; others have no content to show here.
fn get_document(config: &EmulatorConfig, request: &ApiRequest<'_>) -> Result<Bytes, ApiError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Input {
        name: Option<String>,
    }
    let input: Input = decode(request.body)?;
    let name = input.name.ok_or_else(|| ApiError::constraint("name", None, "not be null"))?;
    if name != PREFERENCES {
        return Err(ApiError::modelled("InvalidDocument", format!("Document with name {name} does not exist.")));
    }
    let minutes = |limit: Option<std::time::Duration>| {
        limit.map_or_else(String::new, |limit| limit.as_secs().div_ceil(60).to_string())
    };
    let content = json!({
        "schemaVersion": "1.0",
        "description": "Document to hold regional settings for Session Manager",
        "sessionType": "Standard_Stream",
        "inputs": {
            "s3BucketName": "",
            "s3KeyPrefix": "",
            "s3EncryptionEnabled": true,
            "cloudWatchLogGroupName": "",
            "cloudWatchEncryptionEnabled": true,
            "cloudWatchStreamingEnabled": false,
            "idleSessionTimeout": minutes(config.idle_timeout),
            "maxSessionDuration": minutes(config.max_duration),
            "kmsKeyId": config.kms_key.as_deref().unwrap_or_default(),
            "runAsEnabled": false,
            "runAsDefaultUser": "",
            "shellProfile": {"windows": "", "linux": ""},
        },
    });
    let answer = json!({
        "Content": content.to_string(),
        "DocumentFormat": "JSON",
        "DocumentType": "Session",
        "DocumentVersion": "1",
        "Name": name,
        "Status": "Active",
    });
    Ok(answer.to_string().into())
}

fn output(request: &ApiRequest<'_>, id: &str, permit: &Permit) -> Result<Bytes, ApiError> {
    let stream_url = stream_url(request, id, permit);
    SessionOutput { session_id: id, token_value: Some(&permit.token), stream_url: Some(stream_url) }.encode()
}

/// Where the websocket of a session is opened.
pub(super) fn stream_url(request: &ApiRequest<'_>, id: &str, permit: &Permit) -> String {
    format!("{}/v1/data-channel/{id}?role=publish_subscribe&cell-number={}", request.stream_base, permit.cell)
}

fn session_id(body: &[u8]) -> Result<String, ApiError> {
    let input: SessionInput = decode(body)?;
    let id = input.session_id.ok_or_else(|| ApiError::constraint("sessionId", None, "not be null"))?;
    if !(1..=96).contains(&id.len()) {
        return Err(ApiError::constraint("sessionId", Some(&id), "have length between 1 and 96"));
    }
    Ok(id)
}

fn no_such_session(id: &str) -> ApiError {
    ApiError::modelled("DoesNotExistException", format!("Session {id} does not exist."))
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::new("SerializationException", error.to_string()))
}
