use aws_sdk_ssm::operation::resume_session::ResumeSessionError;

use super::*;

#[test]
fn codes_have_their_kinds() {
    use ControlErrorKind as Kind;
    for (code, said, status, kind) in [
        ("AccessDeniedException", "User: x is not authorized", 400, Kind::AccessDenied),
        ("AccessDenied", "", 403, Kind::AccessDenied),
        (
            "AccessDeniedException",
            "The security token included in the request is expired",
            400,
            Kind::ExpiredCredentials,
        ),
        ("TargetNotConnected", "i-1 is not connected.", 400, Kind::TargetNotConnected),
        ("BadRequest", "i-1 is not connected.", 400, Kind::TargetNotConnected),
        ("ValidationException", "1 validation error detected", 400, Kind::InvalidRequest),
        ("BadRequest", "port forwarding sessions to remote hosts are not supported", 400, Kind::InvalidDocument),
        ("InvalidDocument", "", 400, Kind::InvalidDocument),
        ("InvalidDocumentVersion", "", 400, Kind::InvalidDocument),
        ("ExpiredTokenException", "", 400, Kind::ExpiredCredentials),
        ("ExpiredToken", "", 403, Kind::ExpiredCredentials),
        ("UnrecognizedClientException", "", 400, Kind::ExpiredCredentials),
        ("InvalidSignatureException", "does not match", 400, Kind::ExpiredCredentials),
        ("InvalidSignatureException", "Signature expired: 1 is now earlier than 2", 400, Kind::ClockSkew),
        ("InvalidSignatureException", "Signature not yet current: 1", 400, Kind::ClockSkew),
        ("RequestExpired", "", 400, Kind::ClockSkew),
        ("RequestTimeTooSkewed", "", 403, Kind::ClockSkew),
        ("ThrottlingException", "Rate exceeded", 400, Kind::Throttled),
        ("TooManyRequestsException", "", 429, Kind::Throttled),
        ("DoesNotExistException", "", 400, Kind::NoSuchSession),
        ("InternalServerError", "", 500, Kind::Service),
        ("SomethingNew", "", 503, Kind::Service),
        ("SomethingNew", "", 403, Kind::AccessDenied),
        ("SomethingNew", "", 400, Kind::InvalidRequest),
    ] {
        assert_eq!(service_kind(code, said, status), kind, "{code}: {said}");
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Text(&'static str, #[source] Option<Box<Self>>);

#[test]
fn failures_to_load_credentials_have_their_kinds() {
    use ControlErrorKind as Kind;
    let deep = |text| Text("service error", Some(Box::new(Text(text, None))));
    let io = || ConnectorError::io("connection refused".into());
    for (error, kind) in [
        (CredentialsError::not_loaded_no_source(), Kind::NoCredentials),
        (CredentialsError::not_loaded("no credentials found in chain"), Kind::NoCredentials),
        (CredentialsError::invalid_configuration("profile `x` was not defined"), Kind::NoCredentials),
        (CredentialsError::provider_timed_out(std::time::Duration::from_secs(5)), Kind::Network),
        (CredentialsError::provider_error(io()), Kind::Network),
        (
            CredentialsError::provider_error(deep("UnauthorizedException: Session token not found or invalid")),
            Kind::ExpiredCredentials,
        ),
        (CredentialsError::provider_error(deep("ExpiredTokenException: expired")), Kind::ExpiredCredentials),
        (
            CredentialsError::provider_error(deep("the SSO token has expired and cannot be refreshed")),
            Kind::ExpiredCredentials,
        ),
        (CredentialsError::provider_error(deep("failed to load the cached SSO token")), Kind::ExpiredCredentials),
        (
            CredentialsError::provider_error(deep("failed to read `/home/me/.aws/sso/cache/0a.json`")),
            Kind::ExpiredCredentials,
        ),
        (CredentialsError::provider_error(deep("AccessDenied: sts:AssumeRole")), Kind::AccessDenied),
        (CredentialsError::provider_error(deep("ThrottlingException: slower")), Kind::Throttled),
        (CredentialsError::unhandled("odd"), Kind::NoCredentials),
    ] {
        assert_eq!(credentials_kind(&error), kind, "{error:?}");
    }
}

#[test]
fn credentials_that_cannot_be_had_are_explained_in_one_sentence() {
    let call = Call { operation: "StartSession", resource: "i-0a" };
    let attempts = "no credentials found in chain. Attempted:\n  Environment: x\n  Profile: y";
    let error = call.no_credentials(&CredentialsError::not_loaded(attempts));
    assert_eq!(error.source.as_ref().map(ToString::to_string).as_deref(), Some(NOT_FOUND));
    assert_eq!(fault(&error), None);

    let error = call.no_credentials(&CredentialsError::invalid_configuration("missing credential source in `x`"));
    assert_eq!(fault(&error), Some(Fault::BrokenConfiguration));
    assert_eq!(error.source.map(|cause| cause.to_string()).as_deref(), Some("missing credential source in `x`"));
}

#[test]
fn a_role_that_is_denied_does_not_cost_a_live_session() {
    use ControlErrorKind as Kind;
    for (operation, kind) in [("StartSession", Kind::AccessDenied), ("ResumeSession", Kind::NoCredentials)] {
        let call = Call { operation, resource: "me-0a" };
        let denied = CredentialsError::provider_error(Text("AccessDenied: sts:AssumeRole", None));
        let error = call.no_credentials(&denied);
        assert_eq!((error.kind, error.kind.heals()), (kind, operation == "ResumeSession"));
        assert_eq!(error.message, "the role or account of the profile is not allowed to be used");
        assert_eq!(error.source.as_ref().map(ToString::to_string).as_deref(), Some("AccessDenied: sts:AssumeRole"));
        // The same inside the call.
        let error = call.failed(&SdkError::<ResumeSessionError, Response>::construction_failure(denied), None);
        assert_eq!(error.kind, kind);
    }
}

#[test]
fn troubles_of_the_network_are_told_apart() {
    let below = |text| Text("client error (Connect)", Some(Box::new(Text(text, None))));
    for (text, expected) in [
        ("dns error", Some(Fault::Unresolved)),
        ("failed to lookup address information: Name or service not known", Some(Fault::Unresolved)),
        ("invalid peer certificate: UnknownIssuer", Some(Fault::Tls)),
        ("received corrupt message of type InvalidContentType", Some(Fault::Tls)),
        ("tcp connect error", None),
    ] {
        assert_eq!(network_fault(&below(text)), expected, "{text}");
        let call = Call { operation: "StartSession", resource: "i-0a" };
        assert_eq!(fault(&call.below(ControlErrorKind::Network, "x", &below(text))), expected, "{text}");
        assert_eq!(fault(&call.below(ControlErrorKind::BadAnswer, "x", &below(text))), None, "{text}");
    }
}

#[test]
fn wrong_keys_are_told_from_expired_ones() {
    for code in ["UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch"] {
        assert!(means_wrong_keys(code), "{code}");
    }
    for code in ["ExpiredTokenException", "ExpiredToken", "TokenRefreshRequired"] {
        assert!(!means_wrong_keys(code), "{code}");
    }
}

#[test]
fn foreign_texts_become_one_line_without_canonical_requests() {
    assert_eq!(one_line(" a:\r\n\n  b\t\u{1b}[31mc \nd"), "a: b  [31mc; d");
    let refused = "The request signature does not match.\n\nThe Canonical String for this request should have \
                   been\n'POST\n/\n\nhost:x\nx-amz-security-token:SECRET\n'";
    assert_eq!(one_line(refused), "The request signature does not match.");
    let long = one_line(&"ä".repeat(10_000));
    assert_eq!(long.chars().count(), TEXT_LIMIT + 1);
}

#[test]
fn causes_are_neither_repeated_nor_endless() {
    let repeated = Text("io error: refused", Some(Box::new(Text("refused", Some(Box::new(Text("why", None)))))));
    let cause = Cause::of(&repeated, CHAIN_LIMIT).expect("words");
    assert_eq!(cause.to_string(), "io error: refused");
    assert_eq!(cause.source().map(ToString::to_string).as_deref(), Some("why"));

    let endless = (0..100).fold(Text("end", None), |below, _| Text("more", Some(Box::new(below))));
    assert!(chain(&Cause::of(&endless, CHAIN_LIMIT).expect("words")).count() <= CHAIN_LIMIT);
}
