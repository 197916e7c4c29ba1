//! STS as clients meet it: who signed, what a role's trust asks for, and credentials that are good elsewhere.

use serde_json::json;

use super::{
    super::{Credentials, Emulator, EmulatorConfig, Role},
    client::{Answer, Signer, call_as, query_as},
};

const ROLE: &str = "arn:aws:iam::123456789012:role/team/Dev";
const SERIAL: &str = "arn:aws:iam::123456789012:mfa/alice";

fn emulator(role: Role) -> Emulator {
    let config = EmulatorConfig {
        roles: [(ROLE.to_owned(), role)].into(),
        mfa_devices: [(SERIAL.to_owned(), vec!["123456".to_owned()])].into(),
        ..EmulatorConfig::default()
    };
    Emulator::start(config).expect("a free port")
}

fn element<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let text = answer.text.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once("</"));
    text.unwrap_or_else(|| panic!("no {name}: {answer:?}")).0
}

async fn assume(emulator: &Emulator, more: &[(&str, &str)]) -> Answer {
    let members = [&[("RoleArn", ROLE), ("RoleSessionName", "alice@example.com")], more].concat();
    query_as(emulator, &Signer::default(), "AssumeRole", &members).await
}

fn issued(answer: &Answer) -> Signer {
    assert_eq!(answer.status, 200, "{answer:?}");
    let credentials = Credentials {
        access_key_id: element(answer, "AccessKeyId").into(),
        secret_access_key: element(answer, "SecretAccessKey").into(),
        session_token: Some(element(answer, "SessionToken").into()),
    };
    Signer { credentials, ..Signer::default() }
}

#[tokio::test]
async fn who_signed_is_told_and_a_role_is_good_for_every_call() {
    let emulator = emulator(Role::default());
    let me = query_as(&emulator, &Signer::default(), "GetCallerIdentity", &[]).await;
    assert_eq!((element(&me, "Account"), element(&me, "Arn")), ("123456789012", EmulatorConfig::DEFAULT_IDENTITY));
    let role = issued(&assume(&emulator, &[]).await);
    let they = query_as(&emulator, &role, "GetCallerIdentity", &[]).await;
    assert_eq!(element(&they, "Arn"), "arn:aws:sts::123456789012:assumed-role/Dev/alice@example.com");
    let input = json!({"Target": emulator.target(), "DocumentName": "AWS-StartPortForwardingSession",
        "Parameters": {"portNumber": ["9000"]}});
    assert_eq!(call_as(&emulator, &role, "StartSession", &input).await.status, 200);
    let mut wrong = role.clone();
    wrong.credentials.secret_access_key = "wrong".into();
    let refused = query_as(&emulator, &wrong, "GetCallerIdentity", &[]).await;
    assert_eq!((refused.status, element(&refused, "Code")), (403, "SignatureDoesNotMatch"));
    let mut without_token = role;
    without_token.credentials.session_token = None;
    let refused = query_as(&emulator, &without_token, "GetCallerIdentity", &[]).await;
    assert_eq!((refused.status, element(&refused, "Code")), (403, "InvalidClientTokenId"));
    let state = emulator.state();
    assert_eq!((state.calls_of("GetCallerIdentity"), state.calls_of("AssumeRole")), (4, 1));
}

#[tokio::test]
async fn what_was_issued_expires() {
    let emulator = emulator(Role::default());
    let role = issued(&assume(&emulator, &[("DurationSeconds", "900")]).await);
    for (ahead, code) in [(898, "ValidationException"), (901, "ExpiredTokenException")] {
        emulator.configure(|config| config.clock_skew = ahead);
        let role = Signer { ahead, ..role.clone() };
        assert_eq!(call_as(&emulator, &role, "StartSession", &json!({})).await.code(), code);
        let status = query_as(&emulator, &role, "GetCallerIdentity", &[]).await.status;
        assert_eq!(status == 200, code == "ValidationException");
    }
}

#[tokio::test]
async fn a_code_is_good_once() {
    let emulator = emulator(Role { mfa: true, ..Role::default() });
    let without = assume(&emulator, &[]).await;
    assert_eq!((without.status, element(&without, "Code")), (403, "AccessDenied"));
    assert!(element(&without, "Message").contains(&format!("sts:AssumeRole on resource: {ROLE}")), "{without:?}");
    for (code, says) in [("000000", "invalid MFA one time pass code"), ("12345", "tokenCode"), ("12345x", "tokenCode")]
    {
        let refused = assume(&emulator, &[("SerialNumber", SERIAL), ("TokenCode", code)]).await;
        assert!(element(&refused, "Message").contains(says), "{refused:?}");
    }
    let members = [("SerialNumber", SERIAL), ("TokenCode", "123456")];
    issued(&assume(&emulator, &members).await);
    assert!(element(&assume(&emulator, &members).await, "Message").contains("invalid MFA one time pass code"));
    let stranger = [("SerialNumber", "arn:aws:iam::1:mfa/x"), ("TokenCode", "123456")];
    assert!(element(&assume(&emulator, &stranger).await, "Message").contains("verify your MFA serial number"));
}

#[tokio::test]
async fn trust_and_limits_are_kept() {
    let external = emulator(Role { external_id: Some("a ticket".into()), max_duration: 7200, ..Role::default() });
    assert_eq!(element(&assume(&external, &[]).await, "Code"), "AccessDenied");
    issued(&assume(&external, &[("ExternalId", "a ticket"), ("DurationSeconds", "7200")]).await);
    for (seconds, says) in [("899", "equal to 900"), ("43201", "equal to 43200"), ("7201", "MaxSessionDuration")] {
        let refused = assume(&external, &[("ExternalId", "a ticket"), ("DurationSeconds", seconds)]).await;
        assert_eq!((refused.status, element(&refused, "Code")), (400, "ValidationError"));
        assert!(element(&refused, "Message").contains(says), "{refused:?}");
    }
    let closed = emulator(Role { trusts: vec!["arn:aws:iam::123456789012:user/bob".into()], ..Role::default() });
    assert_eq!(element(&assume(&closed, &[]).await, "Code"), "AccessDenied");
}

#[tokio::test]
async fn a_web_identity_needs_no_signature() {
    let emulator = emulator(Role { web_identity: Some("a.token".into()), ..Role::default() });
    let members = |token| [("RoleArn", ROLE), ("RoleSessionName", "pod"), ("WebIdentityToken", token)];
    let role = issued(&query_as(&emulator, &Signer::default(), "AssumeRoleWithWebIdentity", &members("a.token")).await);
    let they = query_as(&emulator, &role, "GetCallerIdentity", &[]).await;
    assert!(element(&they, "Arn").ends_with("assumed-role/Dev/pod"));
    let refused = query_as(&emulator, &Signer::default(), "AssumeRoleWithWebIdentity", &members("other")).await;
    assert_eq!((refused.status, element(&refused, "Code")), (400, "InvalidIdentityToken"));
}

#[tokio::test]
async fn failures_on_order() {
    let emulator = emulator(Role::default());
    for (failure, status, code) in [
        ("GetCallerIdentity:access_denied:1", 403, "AccessDenied"),
        ("GetCallerIdentity:expired_token:1", 403, "ExpiredToken"),
        ("GetCallerIdentity:throttled:1", 400, "Throttling"),
        ("GetCallerIdentity:internal:1", 500, "InternalFailure"),
        ("GetCallerIdentity:unavailable:1", 503, "ServiceUnavailable"),
    ] {
        emulator.configure(|config| config.failures = vec![failure.parse().expect("a failure")]);
        let refused = query_as(&emulator, &Signer::default(), "GetCallerIdentity", &[]).await;
        assert_eq!((refused.status, element(&refused, "Code")), (status, code));
    }
    // What is ordered for SSM's calls is left for them.
    emulator.configure(|config| (config.throttle, config.failures) = (1, vec!["Any:internal".parse().expect("one")]));
    assert_eq!(query_as(&emulator, &Signer::default(), "GetCallerIdentity", &[]).await.status, 200);
    let unknown = query_as(&emulator, &Signer::default(), "GetFederationToken", &[]).await;
    assert_eq!((unknown.status, element(&unknown, "Code")), (400, "InvalidAction"));
}
