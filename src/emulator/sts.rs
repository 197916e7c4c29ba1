//! The emulated STS: the query protocol on `POST /`, answers in XML.
//!
//! GetCallerIdentity, AssumeRole with MFA codes and external ids, and AssumeRoleWithWebIdentity, with the limits, codes
//! and texts of the real service. Who signed decides: what AssumeRole gives is good for every other call.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use super::{
    EmulatorConfig, FailureKind, Operation, Role,
    api::ApiRequest,
    clock::Moment,
    identities::{Caller, Issued},
    service::Service,
    sigv4::{Plus, Rejection, SignedRequest},
};

const VERSION: &str = "2011-06-15";
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
/// Life of a role's credentials where none is asked for, and the most in a role that another role assumes, seconds.
const HOUR: u32 = 3600;
const MIN_DURATION: u32 = 900;
const MAX_DURATION: u32 = 43_200;

/// An error as STS words it.
struct StsError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl StsError {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into() }
    }

    fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, ..Self::new(code, message) }
    }

    fn constraint(member: &str, value: &str, constraint: &str) -> Self {
        let constraint =
            format!("Value '{value}' at '{member}' failed to satisfy constraint: Member must {constraint}");
        Self::new("ValidationError", format!("1 validation error detected: {constraint}"))
    }

    fn expired() -> Self {
        Self::forbidden("ExpiredToken", "The security token included in the request is expired")
    }

    fn of(kind: FailureKind, operation: Operation, caller: &str, resource: Option<&str>) -> Self {
        match kind {
            FailureKind::Throttled => Self::new("Throttling", "Rate exceeded"),
            FailureKind::Unavailable | FailureKind::UnavailableEmpty => {
                Self { status: StatusCode::SERVICE_UNAVAILABLE, ..Self::new("ServiceUnavailable", "on order") }
            }
            FailureKind::ExpiredToken => Self::expired(),
            FailureKind::AccessDenied => not_authorized(caller, operation, resource),
            _ => Self { status: StatusCode::INTERNAL_SERVER_ERROR, ..Self::new("InternalFailure", "on order") },
        }
    }
}

impl From<Rejection> for StsError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Missing => {
                Self::forbidden("MissingAuthenticationToken", "Request is missing Authentication Token")
            }
            Rejection::Incomplete(what) => Self::new("IncompleteSignature", what),
            Rejection::UnknownIdentity => Self::forbidden("InvalidClientTokenId", rejection.to_string()),
            Rejection::Expired => Self::expired(),
            Rejection::Scope(_) | Rejection::Skew(_) | Rejection::Mismatch => {
                Self::forbidden("SignatureDoesNotMatch", rejection.to_string())
            }
        }
    }
}

fn not_authorized(caller: &str, operation: Operation, resource: Option<&str>) -> StsError {
    let on = resource.map(|resource| format!(" on resource: {resource}")).unwrap_or_default();
    let operation = operation.name();
    StsError::forbidden("AccessDenied", format!("User: {caller} is not authorized to perform: sts:{operation}{on}"))
}

/// Whether a request speaks the query protocol, whose operations are named in a form and not in a header.
pub(super) fn is_query(headers: &HeaderMap) -> bool {
    let form = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    !headers.contains_key("x-amz-target")
        && form.is_some_and(|form| form.starts_with("application/x-www-form-urlencoded"))
}

/// The members of a call.
struct Form(Vec<(String, String)>);

impl Form {
    fn of(body: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(body).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn required(&self, name: &str, member: &str) -> Result<&str, StsError> {
        self.get(name).ok_or_else(|| {
            let constraint = format!("Value null at '{member}' failed to satisfy constraint: Member must not be null");
            StsError::new("ValidationError", format!("1 validation error detected: {constraint}"))
        })
    }
}

/// Answers one request.
pub(super) fn answer(service: &Service, request: &ApiRequest<'_>) -> Response<Full<Bytes>> {
    let config = service.config();
    let form = Form::of(request.body);
    let operation = form.get("Action").and_then(Operation::of_sts);
    service.observe(|state| state.count_call(operation.map_or("(unknown)", Operation::name)));
    let result = match operation {
        Some(_) if form.get("Version") != Some(VERSION) => {
            Err(StsError::new("InvalidAction", format!("Could not find operation for version {VERSION}")))
        }
        Some(operation) => perform(service, &config, operation, &form, request).map(|result| {
            let name = operation.name();
            format!("<{name}Response xmlns=\"{NAMESPACE}\"><{name}Result>{result}</{name}Result>")
                + &format!(
                    "<ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></{name}Response>",
                    service.identities().request_id()
                )
        }),
        None => Err(StsError::new("InvalidAction", "Could not find operation of this name")),
    };
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(StsError { status, code, message }) => {
            service.observe(|state| state.count_error(code));
            tracing::info!(?operation, code, message, "STS call refused");
            let side = if status.is_server_error() { "Receiver" } else { "Sender" };
            let message = escaped(&message);
            let error = format!("<Error><Type>{side}</Type><Code>{code}</Code><Message>{message}</Message></Error>");
            let id = service.identities().request_id();
            (status, format!("<ErrorResponse xmlns=\"{NAMESPACE}\">{error}<RequestId>{id}</RequestId></ErrorResponse>"))
        }
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    if let Ok(date) = HeaderValue::from_str(&Moment::now(config.clock_skew).to_http()) {
        headers.insert(header::DATE, date);
    }
    response
}

fn perform(
    service: &Service,
    config: &EmulatorConfig,
    operation: Operation,
    form: &Form,
    request: &ApiRequest<'_>,
) -> Result<String, StsError> {
    let role = form.get("RoleArn");
    if let Some(kind) = service.take_failure(operation, FailureKind::precedes_signature) {
        return Err(StsError::of(kind, operation, &config.identity, role));
    }
    // A web identity is what the caller proves who it is with; there is no signature.
    let caller = match operation {
        Operation::AssumeRoleWithWebIdentity => None,
        _ => {
            let signed = SignedRequest {
                method: "POST",
                path: request.path,
                query: request.query,
                headers: request.headers,
                body: request.body,
            };
            let caller = service.authenticate(&signed, "sts", Plus::Space)?;
            if config.expired_credentials {
                return Err(StsError::expired());
            }
            Some(caller)
        }
    };
    let arn = caller.as_ref().map_or("anonymous", |caller| &caller.arn);
    if config.denies(operation) {
        return Err(not_authorized(arn, operation, role));
    }
    if let Some(kind) = service.take_failure(operation, |_| true) {
        return Err(StsError::of(kind, operation, arn, role));
    }
    match (operation, caller) {
        (Operation::AssumeRole, Some(caller)) => assume_role(service, config, &caller, form),
        (Operation::AssumeRoleWithWebIdentity, _) => assume_role_with_web_identity(service, config, form),
        (_, Some(caller)) => Ok(format!(
            "<Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>",
            escaped(&caller.arn),
            escaped(&caller.user_id()),
            escaped(caller.account())
        )),
        (_, None) => Err(StsError::from(Rejection::Missing)),
    }
}

fn assume_role(service: &Service, config: &EmulatorConfig, caller: &Caller, form: &Form) -> Result<String, StsError> {
    let (role_arn, session) = role_and_session(form)?;
    let duration = asked_duration(form)?;
    let denied = || not_authorized(&caller.arn, Operation::AssumeRole, Some(role_arn));
    let role = config.roles.get(role_arn).ok_or_else(denied)?;
    let trusts = |role: &Role| role.trusts.is_empty() || role.trusts.contains(&caller.principal());
    if !trusts(role) || form.get("ExternalId") != role.external_id.as_deref() {
        return Err(denied());
    }
    check_code(service, config, form)?;
    if role.mfa && form.get("TokenCode").is_none() {
        return Err(denied());
    }
    if duration > HOUR && caller.arn.contains(":assumed-role/") {
        let message =
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining";
        return Err(StsError::new("ValidationError", message));
    }
    let issued = issue(service, role_arn, session, role, duration)?;
    Ok(issued_xml(&issued))
}

fn assume_role_with_web_identity(service: &Service, config: &EmulatorConfig, form: &Form) -> Result<String, StsError> {
    let (role_arn, session) = role_and_session(form)?;
    let duration = asked_duration(form)?;
    let token = form.required("WebIdentityToken", "webIdentityToken")?;
    let denied = || StsError::forbidden("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity");
    let role = config.roles.get(role_arn).ok_or_else(denied)?;
    let expected = role.web_identity.as_deref().ok_or_else(denied)?;
    if token.trim() != expected {
        return Err(StsError::new("InvalidIdentityToken", "The ID Token provided is not a valid JWT."));
    }
    let issued = issue(service, role_arn, session, role, duration)?;
    Ok(format!("{}<Provider>arn:aws:iam::123456789012:oidc-provider/emulated</Provider>", issued_xml(&issued)))
}

fn role_and_session(form: &Form) -> Result<(&str, &str), StsError> {
    let role_arn = form.required("RoleArn", "roleArn")?;
    let session = form.required("RoleSessionName", "roleSessionName")?;
    if role_arn.len() < 20 || !role_arn.contains(":role/") {
        return Err(StsError::new("ValidationError", format!("{role_arn} is invalid")));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    if !(2..=64).contains(&session.len()) || !session.bytes().all(allowed) {
        return Err(StsError::constraint(
            "roleSessionName",
            session,
            "satisfy regular expression pattern: [\\w+=,.@-]*",
        ));
    }
    Ok((role_arn, session))
}

fn asked_duration(form: &Form) -> Result<u32, StsError> {
    let Some(text) = form.get("DurationSeconds") else { return Ok(HOUR) };
    let seconds: u32 = text.parse().map_err(|_| StsError::new("MalformedInput", "DurationSeconds is not a number"))?;
    match seconds {
        0..MIN_DURATION => {
            Err(StsError::constraint("durationSeconds", text, "have value greater than or equal to 900"))
        }
        MIN_DURATION..=MAX_DURATION => Ok(seconds),
        _ => Err(StsError::constraint("durationSeconds", text, "have value less than or equal to 43200")),
    }
}

/// A code is good once, as the real ones are.
fn check_code(service: &Service, config: &EmulatorConfig, form: &Form) -> Result<(), StsError> {
    let (serial, code) = match (form.get("SerialNumber"), form.get("TokenCode")) {
        (None, None) => return Ok(()),
        (Some(serial), Some(code)) => (serial, code),
        _ => {
            let message =
                "MultiFactorAuthentication failed, must provide both MFA serial number and one time pass code.";
            return Err(StsError::forbidden("AccessDenied", message));
        }
    };
    if code.len() != 6 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(StsError::constraint(
            "tokenCode",
            code,
            "have length 6 and satisfy regular expression pattern: [\\d]*",
        ));
    }
    if !config.mfa_devices.contains_key(serial) {
        let message = "MultiFactorAuthentication failed, unable to validate MFA code.  Please verify your MFA serial \
                       number is valid and associated with this user.";
        return Err(StsError::forbidden("AccessDenied", message));
    }
    let mut taken = false;
    service.configure(|config| {
        if let Some(codes) = config.mfa_devices.get_mut(serial)
            && let Some(index) = codes.iter().position(|good| good == code)
        {
            codes.remove(index);
            taken = true;
        }
    });
    if taken {
        return Ok(());
    }
    let message = "MultiFactorAuthentication failed with invalid MFA one time pass code. ";
    Err(StsError::forbidden("AccessDenied", message))
}

fn issue(service: &Service, role_arn: &str, session: &str, role: &Role, duration: u32) -> Result<Issued, StsError> {
    if duration > role.max_duration {
        let message = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.";
        return Err(StsError::new("ValidationError", message));
    }
    let account = role_arn.split(':').nth(4).unwrap_or_default();
    let name = role_arn.rsplit('/').next().unwrap_or_default();
    let arn = format!("arn:aws:sts::{account}:assumed-role/{name}/{session}");
    Ok(service.issue(&arn, Duration::from_secs(u64::from(duration))))
}

fn issued_xml(issued: &Issued) -> String {
    let Issued { credentials, arn, expires } = issued;
    let id = Caller { arn: arn.clone() }.user_id();
    format!(
        "<AssumedRoleUser><AssumedRoleId>{}</AssumedRoleId><Arn>{}</Arn></AssumedRoleUser><Credentials>\
         <AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken>\
         <Expiration>{}</Expiration></Credentials>",
        escaped(&id),
        escaped(arn),
        credentials.access_key_id,
        credentials.secret_access_key,
        credentials.session_token.as_deref().unwrap_or_default(),
        expires.to_iso(),
    )
}

/// Text for an XML element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
