use std::{collections::BTreeMap, error::Error};

use aws_config::SdkConfig;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, future},
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_types::sdk_config::Builder;

use super::*;
use crate::aws::{
    AwsOptions,
    canned::{Answer, Canned},
};

const TOKEN: &str = "AAEAAtokentokentoken";
const URL: &str =
    "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/me-0a?role=publish_subscribe&cell-number=AA+k/N==";

fn answer(session: &str, token: &str, url: &str) -> Answer {
    let body = serde_json::json!({ "SessionId": session, "TokenValue": token, "StreamUrl": url });
    Answer::json(200, body.to_string())
}

fn aws(canned: &Canned) -> Aws {
    Aws::from_sdk_config(&canned.config(), AwsOptions::default()).expect("a configuration")
}

fn with(canned: &Canned, change: impl FnOnce(Builder) -> Builder) -> Aws {
    let config: SdkConfig = change(canned.config().into_builder()).build();
    Aws::from_sdk_config(&config, AwsOptions::default()).expect("a configuration")
}

fn request() -> StartRequest {
    StartRequest { target: "i-0123456789abcdef0".to_owned(), ..StartRequest::default() }
}

fn session() -> SessionId {
    SessionId("me-0a".to_owned())
}

/// All that any way of printing an error shows.
fn shown(error: &ControlError) -> String {
    let mut text = format!("{error:?} {error}");
    let mut below = error.source();
    while let Some(error) = below {
        text.push_str(&format!(" {error:?} {error}"));
        below = error.source();
    }
    text
}

#[tokio::test]
async fn a_session_is_started() {
    let canned = Canned::new([answer("me-0a", TOKEN, URL)]);
    let parameters = BTreeMap::from([("portNumber".to_owned(), vec!["3306".to_owned()])]);
    let request = StartRequest {
        document: Some("AWS-StartPortForwardingSession".to_owned()),
        parameters,
        reason: Some("because".to_owned()),
        ..request()
    };
    let grant = aws(&canned).start(&request).await.expect("a grant");
    assert_eq!((grant.session_id, grant.token.expose(), grant.url.as_str()), (session(), TOKEN, URL));

    let asked = canned.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].operation.as_str(), asked[0].uri.as_str()),
        ("StartSession", "https://ssm.eu-west-1.amazonaws.com/")
    );
    let body: serde_json::Value = serde_json::from_str(&asked[0].body).expect("JSON");
    let expected = serde_json::json!({
        "Target": "i-0123456789abcdef0",
        "DocumentName": "AWS-StartPortForwardingSession",
        "Parameters": { "portNumber": ["3306"] },
        "Reason": "because",
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn what_is_not_asked_for_is_not_sent() {
    let canned = Canned::new([answer("me-0a", TOKEN, URL)]);
    aws(&canned).start(&request()).await.expect("a grant");
    assert_eq!(canned.asked()[0].body, r#"{"Target":"i-0123456789abcdef0"}"#);
}

#[tokio::test]
async fn a_session_that_cannot_be_used_is_ended() {
    for (token, url) in [
        ("", URL),
        (TOKEN, ""),
        (TOKEN, "wss://ssmmessages.eu-west-1.amazonaws.com.evil/?secret"),
        (TOKEN, "ws://ssmmessages.eu-west-1.amazonaws.com/"),
        (TOKEN, "wss://x@evil/"),
        (TOKEN, "nonsense"),
    ] {
        let canned = Canned::new([answer("me-0a", token, url), Answer::json(200, "{}")]);
        let error = aws(&canned).start(&request()).await.expect_err(url);
        assert_eq!(error.kind, ControlErrorKind::BadAnswer, "{url}");
        let shown = shown(&error);
        assert!(!shown.contains(TOKEN) && !shown.contains("secret"), "{shown}");
        let asked: Vec<_> = canned.asked().into_iter().map(|asked| (asked.operation, asked.body)).collect();
        assert_eq!(asked[1], ("TerminateSession".to_owned(), r#"{"SessionId":"me-0a"}"#.to_owned()), "{url}");
    }
}

#[tokio::test]
async fn an_answer_without_a_session_is_an_error() {
    let canned = Canned::new([answer("", TOKEN, URL)]);
    let error = aws(&canned).start(&request()).await.expect_err("no SessionId");
    assert_eq!((error.kind, canned.asked().len()), (ControlErrorKind::BadAnswer, 1));
}

#[tokio::test]
async fn an_endpoint_elsewhere_may_grant_its_own_host() {
    for (endpoint, url, works) in [
        ("http://127.0.0.1:8000", "ws://127.0.0.1:9000/v1/data-channel/me-0a", true),
        ("http://127.0.0.1:8000", URL, true),
        ("http://127.0.0.1:8000", "ws://localhost:9000/", false),
        ("https://gateway.example", "ws://gateway.example/", false),
        ("https://gateway.example", "wss://gateway.example:9000/", true),
        ("https://evil.execute-api.eu-west-1.amazonaws.com", "wss://evil.execute-api.eu-west-1.amazonaws.com/", false),
    ] {
        // By option, and as the environment or the profile give it.
        let canned = Canned::new([answer("me-0a", TOKEN, url), answer("me-0a", TOKEN, url)]);
        let options = AwsOptions { endpoint_url: Some(endpoint.to_owned()), ..AwsOptions::default() };
        let aws = Aws::from_sdk_config(&canned.config(), options).expect("a configuration");
        assert_eq!(aws.resume(&session()).await.is_ok(), works, "{endpoint} {url}");
        let aws = with(&canned, |config| config.endpoint_url(endpoint));
        assert_eq!(aws.resume(&session()).await.is_ok(), works, "{endpoint} {url}");
        assert!(canned.asked().iter().all(|asked| asked.uri.starts_with(endpoint)));
    }
}

#[tokio::test]
async fn a_session_is_resumed() {
    let canned = Canned::new([answer("me-0a", TOKEN, URL)]);
    let grant = aws(&canned).resume(&session()).await.expect("an answer").expect("a grant");
    assert_eq!((grant.session_id, grant.token.expose()), (session(), TOKEN));
    assert_eq!(canned.asked()[0].body, r#"{"SessionId":"me-0a"}"#);
}

#[tokio::test]
async fn a_session_that_is_over_is_not_resumed() {
    for over in [
        Answer::json(200, r#"{"SessionId":"me-0a"}"#),
        Answer::json(200, "{}"),
        answer("me-0a", "", URL),
        answer("me-0a", TOKEN, ""),
        Answer::refused(400, "DoesNotExistException", "Session me-0a does not exist"),
    ] {
        let what = format!("{over:?}");
        let resumed = aws(&Canned::new([over])).resume(&session()).await.expect(&what);
        assert!(resumed.is_none(), "{what}");
    }
}

#[tokio::test]
async fn another_session_is_not_taken_for_ours() {
    let canned = Canned::new([answer("eve-0b", TOKEN, URL)]);
    let error = aws(&canned).resume(&session()).await.expect_err("another session");
    assert_eq!(error.kind, ControlErrorKind::BadAnswer);
}

#[tokio::test]
async fn ending_a_session_that_is_over_is_not_an_error() {
    let gone = Answer::refused(400, "DoesNotExistException", "Session me-0a does not exist");
    aws(&Canned::new([gone])).terminate(&session()).await.expect("over is over");
    aws(&Canned::new([Answer::json(200, r#"{"SessionId":"me-0a"}"#)])).terminate(&session()).await.expect("ended");
    let denied = Answer::refused(400, "AccessDeniedException", "no");
    let error = aws(&Canned::new([denied])).terminate(&session()).await.expect_err("denied");
    assert_eq!((error.kind, error.operation), (ControlErrorKind::AccessDenied, "TerminateSession"));
}

#[tokio::test]
async fn a_refusal_is_told_in_the_words_of_the_service() {
    let refusal = Answer::refused(400, "TargetNotConnected", "i-0123456789abcdef0 is not connected.");
    let error = aws(&Canned::new([refusal])).start(&request()).await.expect_err("refused");
    assert_eq!(error.kind, ControlErrorKind::TargetNotConnected);
    assert_eq!(
        error.to_string(),
        "StartSession of i-0123456789abcdef0 failed: i-0123456789abcdef0 is not connected (TargetNotConnected)"
    );
    assert!(error.source().is_none());
}

#[tokio::test]
async fn failures_have_their_kinds_and_show_no_secret() {
    use ControlErrorKind as Kind;
    for (answer, kind) in [
        (Answer::refused(400, "AccessDeniedException", "User: x is not authorized"), Kind::AccessDenied),
        (Answer::refused(400, "ExpiredTokenException", "expired"), Kind::ExpiredCredentials),
        (Answer::refused(400, "InvalidDocument", "Document x does not exist"), Kind::InvalidDocument),
        (Answer::refused(400, "ThrottlingException", "Rate exceeded"), Kind::Throttled),
        (Answer::refused(500, "InternalServerError", "oops"), Kind::Service),
        (Answer::json(503, "<html>busy</html>"), Kind::Service),
        (Answer::json(429, ""), Kind::Throttled),
        (Answer::json(403, "<html>blocked</html>"), Kind::BadAnswer),
        (Answer::json(302, ""), Kind::BadAnswer),
        (Answer::json(200, format!("<html>{TOKEN}</html>")), Kind::BadAnswer),
        (Answer::json(200, format!(r#"{{"SessionId":"me-0a","TokenValue":"{TOKEN}","#)), Kind::BadAnswer),
        (Answer::json(200, format!(r#"{{"TokenValue":"{TOKEN}","SessionId":7}}"#)), Kind::BadAnswer),
        (Answer::Broken(ConnectorError::io("connection refused".into())), Kind::Network),
        (Answer::Broken(ConnectorError::timeout("slow".into())), Kind::Network),
    ] {
        let what = format!("{answer:?}");
        let error = aws(&Canned::new([answer])).start(&request()).await.expect_err(&what);
        assert_eq!(error.kind, kind, "{what}: {error:?}");
        let shown = shown(&error);
        for secret in [TOKEN, "SECRETKEY", "SESSIONTOKEN"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends() {
    // A StartSession that is tried again might start a second session.
    let canned = Canned::new([Answer::Silence]);
    let error = aws(&canned).start(&request()).await.expect_err("silence");
    assert_eq!(canned.asked().len(), 1);
    assert_eq!(error.kind, ControlErrorKind::Network);
    assert!(error.to_string().contains("ssm.eu-west-1.amazonaws.com did not answer in time"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_resume_is_one_try_that_ends_soon() {
    let busy = Answer::refused(400, "ThrottlingException", "Rate exceeded");
    let canned = Canned::new([busy, Answer::Silence]);
    let aws = with(&canned, |config| config.retry_config(aws_config::retry::RetryConfig::standard()));
    let begun = tokio::time::Instant::now();
    for kind in [ControlErrorKind::Throttled, ControlErrorKind::Network] {
        let error = aws.resume(&session()).await.expect_err("no answer");
        assert_eq!(error.kind, kind, "{error:?}");
    }
    assert_eq!((canned.asked().len(), begun.elapsed().as_secs()), (2, 10));
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_corrected_at_the_next_try() {
    let skewed = Answer::refused(400, "InvalidSignatureException", "Signature expired: 20231114T221320Z is now ...");
    let Answer::Http { status, body, .. } = skewed else { unreachable!() };
    let skewed = Answer::Http { status, body, date: Some("Wed, 15 Nov 2023 01:02:03 GMT") };
    let canned = Canned::new([skewed, answer("me-0a", TOKEN, URL)]);
    let aws = aws(&canned);
    let error = aws.resume(&session()).await.expect_err("another day");
    assert_eq!(error.kind, ControlErrorKind::ClockSkew);
    aws.resume(&session()).await.expect("an answer");
    let dates: Vec<_> = canned.asked().iter().map(|asked| asked.authorization.contains("/20231115/")).collect();
    assert_eq!(dates, [false, true]);
}

#[tokio::test]
async fn no_connection_is_kept() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let server = tokio::spawn(async move {
        // A server that would serve more on each connection, and leaves them open.
        let mut open = Vec::new();
        for _ in 0..2 {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert_ne!(connection.read_buf(&mut request).await.expect("a request"), 0);
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.expect("sent");
            open.push((connection, String::from_utf8_lossy(&request).to_lowercase()));
        }
        open
    });
    let mut config = Canned::default().config().into_builder();
    // Our own HTTP client, not a canned one.
    config.set_http_client(None).set_endpoint_url(Some(endpoint));
    let aws = Aws::from_sdk_config(&config.build(), AwsOptions::default()).expect("a configuration");
    for _ in 0..2 {
        aws.terminate(&session()).await.expect("an answer");
    }
    for (_, request) in server.await.expect("no panic") {
        let signed = request.split("signedheaders=").nth(1).and_then(|rest| rest.split(',').next());
        // Not signed: a proxy may drop it.
        assert!(request.contains("\r\nconnection: close\r\n") && !signed.expect("signed").contains("connection"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_transient_is_tried_again() {
    let busy = || Answer::refused(400, "ThrottlingException", "Rate exceeded");
    let canned = Canned::new([busy(), busy(), answer("me-0a", TOKEN, URL)]);
    let aws = with(&canned, |config| config.retry_config(aws_config::retry::RetryConfig::standard()));
    aws.start(&request()).await.expect("the third try");
    assert_eq!(canned.asked().len(), 3);
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_is_an_error() {
    for endpoint in ["localhost", "localhost:8000", "ftp://x", "/", "http://", "http://me:hunter2@x"] {
        let aws = with(&Canned::new([]), |config| config.endpoint_url(endpoint));
        let error = aws.start(&request()).await.expect_err(endpoint);
        assert_eq!(error.kind, ControlErrorKind::InvalidRequest, "{endpoint}: {error:?}");
        assert!(!shown(&error).contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn an_empty_endpoint_is_none() {
    let canned = Canned::new([answer("me-0a", TOKEN, URL)]);
    with(&canned, |config| config.endpoint_url("")).start(&request()).await.expect("a grant");
    assert_eq!(canned.asked()[0].uri, "https://ssm.eu-west-1.amazonaws.com/");
}

#[tokio::test]
async fn variants_of_the_endpoint_are_those_of_the_sdk() {
    let canned = Canned::new([answer("me-0a", TOKEN, URL), answer("me-0a", TOKEN, URL)]);
    with(&canned, |config| config.use_fips(true)).start(&request()).await.expect("a grant");
    let both = with(&canned, |config| config.use_fips(true).use_dual_stack(true).endpoint_url(""));
    both.start(&request()).await.expect("a grant");
    let asked: Vec<_> = canned.asked().into_iter().map(|asked| asked.uri).collect();
    assert_eq!(asked, ["https://ssm-fips.eu-west-1.amazonaws.com/", "https://ssm-fips.eu-west-1.api.aws/"]);
}

/// Credentials that cannot be had.
#[derive(Debug)]
struct Broke(fn() -> CredentialsError);

impl ProvideCredentials for Broke {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err((self.0)()))
    }
}

fn broke(error: fn() -> CredentialsError) -> (Canned, Aws) {
    let canned = Canned::new([]);
    let aws = with(&canned, |config| config.credentials_provider(SharedCredentialsProvider::new(Broke(error))));
    (canned, aws)
}

#[tokio::test]
async fn without_credentials_nothing_is_sent_and_nothing_signed() {
    let (canned, aws) = broke(|| CredentialsError::not_loaded("nothing found"));
    let error = aws.start(&request()).await.expect_err("no credentials");
    assert_eq!(error.kind, ControlErrorKind::NoCredentials);
    assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("nothing found"));
    let url = StreamUrl::parse(URL).expect("a URL");
    let headers = aws.sign_upgrade(&url, QueryForm::PlusIsSpace).await.expect("unsigned");
    assert!(headers.is_empty() && canned.asked().is_empty());
}

#[tokio::test]
async fn an_expired_login_is_told_from_no_credentials() {
    let (_, aws) = broke(|| CredentialsError::provider_error("the SSO token has expired and cannot be refreshed"));
    let error = aws.start(&request()).await.expect_err("expired");
    assert_eq!((error.kind, error.operation), (ControlErrorKind::ExpiredCredentials, "StartSession"));
    let url = StreamUrl::parse(URL).expect("a URL");
    let error = aws.sign_upgrade(&url, QueryForm::PlusIsSpace).await.expect_err("expired");
    assert_eq!((error.kind, error.operation), (ControlErrorKind::ExpiredCredentials, "OpenDataChannel"));
}

/// A new key at every load.
#[derive(Debug, Default)]
struct Rotating(std::sync::atomic::AtomicU32);

impl ProvideCredentials for Rotating {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let key = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        future::ProvideCredentials::ready(Ok(Credentials::new(format!("AKID{key}"), "secret", None, None, "test")))
    }
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_loaded_anew_and_good_ones_kept() {
    let expired = Answer::refused(400, "ExpiredTokenException", "expired");
    let canned = Canned::new([answer("me-0a", TOKEN, URL), expired, answer("me-0a", TOKEN, URL)]);
    let aws = with(&canned, |config| config.credentials_provider(SharedCredentialsProvider::new(Rotating::default())));
    aws.start(&request()).await.expect("the first key");
    aws.start(&request()).await.expect_err("expired");
    tokio::time::advance(Duration::from_secs(5)).await;
    aws.start(&request()).await.expect("the second key");
    let keys: Vec<_> = canned.asked().iter().map(|asked| asked.authorization.contains("AKID0/")).collect();
    assert_eq!(keys, [true, true, false]);
}

#[tokio::test]
async fn upgrades_are_signed_at_the_time_of_the_service() {
    let url = StreamUrl::parse(URL).expect("a URL");
    let dated = |status, date| Answer::Http { status, body: "{}".to_owned(), date: Some(date) };
    // A success and a refusal teach the time alike.
    let canned =
        Canned::new([dated(200, "Tue, 14 Nov 2023 20:00:00 GMT"), dated(400, "Wed, 15 Nov 2023 01:02:03 GMT")]);
    let aws = aws(&canned);
    let mut times = Vec::new();
    for call in 0..3 {
        if call > 0 {
            drop(aws.terminate(&session()).await);
        }
        let headers = aws.sign_upgrade(&url, QueryForm::PlusIsSpace).await.expect("signed");
        let time = headers.iter().find(|(name, _)| name == "x-amz-date").expect("a date").1.clone();
        times.push(time.to_str().expect("text").to_owned());
    }
    assert_eq!(times, ["20231114T221320Z", "20231114T200000Z", "20231115T010203Z"]);
}
