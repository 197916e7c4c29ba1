//! The emulated IAM Identity Center: what it refuses, in the words of the real one.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    super::{Emulator, FailureKind, Operation, SsoConfig},
    client::{Answer, authority, http, soon},
    emulator,
};

const VERIFIER: &str = "a-verifier-that-is-long-enough-for-the-rfc-7636";
const BACK: &str = "http://127.0.0.1:5555/oauth/callback";

/// Makes a request wrong.
type Spoil = fn(&mut Value);

async fn post(emulator: &Emulator, path: &str, body: &Value) -> Answer {
    http(emulator, "POST", path, &HeaderMap::new(), body.to_string().as_bytes()).await
}

/// The body of a registration for a browser, changed.
fn registration(change: impl FnOnce(&mut Value)) -> Value {
    let mut body = json!({
        "clientName": "test", "clientType": "public", "scopes": ["sso:account:access"],
        "grantTypes": ["authorization_code", "refresh_token"],
        "redirectUris": ["http://127.0.0.1/oauth/callback"], "issuerUrl": SsoConfig::START_URL,
    });
    change(&mut body);
    body
}

async fn register(emulator: &Emulator, body: &Value) -> Value {
    let answer = post(emulator, "/client/register", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    json!({ "clientId": answer.text("clientId"), "clientSecret": answer.text("clientSecret") })
}

fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()))
}

fn authorize_path(client: &Value, challenge: &str, back: &str) -> String {
    let id = client["clientId"].as_str().expect("a text");
    format!(
        "/authorize?response_type=code&client_id={id}&redirect_uri={back}&state=s&code_challenge_method=S256\
         &scopes=sso%3Aaccount%3Aaccess&code_challenge={challenge}"
    )
}

/// The head and the text of a page.
async fn page(emulator: &Emulator, method: &str, path: &str, form: &str) -> String {
    let mut socket = TcpStream::connect(authority(emulator)).await.unwrap();
    let length = form.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    socket.write_all(format!("{head}{form}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(socket.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// A code, as somebody gets it who presses Allow.
async fn code(emulator: &Emulator, client: &Value) -> String {
    let form = page(emulator, "GET", &authorize_path(client, &challenge(), BACK), "").await;
    let ticket = form.split("name=\"ticket\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
    let ticket = ticket.unwrap_or_else(|| panic!("{form}"));
    let answer = page(emulator, "POST", "/authorize", &format!("ticket={ticket}&decision=allow")).await;
    let code = answer.split("?code=").nth(1).and_then(|rest| rest.split('&').next());
    code.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn with(client: &Value, more: Value) -> Value {
    let mut all = client.clone();
    let all_members = all.as_object_mut().expect("an object");
    all_members.extend(more.as_object().expect("an object").clone());
    all
}

fn by_code(client: &Value, code: &str) -> Value {
    with(
        client,
        json!({ "grantType": "authorization_code", "code": code, "codeVerifier": VERIFIER, "redirectUri": BACK }),
    )
}

async fn refused(emulator: &Emulator, path: &str, body: &Value) -> String {
    let answer = post(emulator, path, body).await;
    assert!(answer.head.contains("x-amzn-errortype: ") && answer.status >= 400, "{answer:?}");
    answer.text("error")
}

#[tokio::test]
async fn registrations_are_checked() {
    let emulator = emulator();
    for (body, error) in [
        (registration(|body| body["clientType"] = "confidential".into()), "invalid_client_metadata"),
        (registration(|body| body["clientName"] = Value::Null), "invalid_request"),
        (registration(|body| body["scopes"] = json!(["everything"])), "invalid_scope"),
        (registration(|body| body["grantTypes"] = json!(["password"])), "invalid_client_metadata"),
        (registration(|body| body["redirectUris"] = json!(["https://evil.example/"])), "invalid_redirect_uri"),
        (registration(|body| body["redirectUris"] = Value::Null), "invalid_redirect_uri"),
        (registration(|body| body["issuerUrl"] = "https://other/start".into()), "invalid_request"),
        (json!([]), "invalid_request"),
    ] {
        assert_eq!(refused(&emulator, "/client/register", &body).await, error, "{body}");
    }
}

#[tokio::test]
async fn a_code_is_good_once_and_for_whoever_asked_for_it() {
    let emulator = emulator();
    let client = register(&emulator, &registration(|_| ())).await;
    let other = register(&emulator, &registration(|_| ())).await;
    let spoiled: [(&str, Spoil); 3] = [
        ("invalid_grant", |body| body["codeVerifier"] = "another".into()),
        ("invalid_grant", |body| body["redirectUri"] = "http://127.0.0.1:1/oauth/callback".into()),
        ("invalid_client", |body| body["clientSecret"] = "guessed".into()),
    ];
    for (error, spoil) in spoiled {
        let mut body = by_code(&client, &code(&emulator, &client).await);
        spoil(&mut body);
        assert_eq!(refused(&emulator, "/token", &body).await, error, "{body}");
    }
    let code = code(&emulator, &client).await;
    assert_eq!(refused(&emulator, "/token", &by_code(&other, &code)).await, "invalid_grant");
    assert_eq!(refused(&emulator, "/token", &by_code(&client, &code)).await, "invalid_grant");
    let unsupported = with(&client, json!({ "grantType": "password" }));
    assert_eq!(refused(&emulator, "/token", &unsupported).await, "unsupported_grant_type");
    let not_registered = with(&client, json!({ "startUrl": SsoConfig::START_URL }));
    assert_eq!(refused(&emulator, "/device_authorization", &not_registered).await, "unauthorized_client");
}

#[tokio::test]
async fn pages_send_nobody_elsewhere() {
    let emulator = emulator();
    let client = register(&emulator, &registration(|_| ())).await;
    for (path, said) in [
        (authorize_path(&client, &challenge(), "https://evil.example/"), "redirect_uri is not one"),
        (authorize_path(&client, &challenge(), "http://127.0.0.1:1/elsewhere"), "redirect_uri is not one"),
        (authorize_path(&client, "short", BACK), "code_challenge must be"),
        (authorize_path(&json!({ "clientId": "nobody" }), &challenge(), BACK), "client_id is not"),
        (authorize_path(&client, &challenge(), BACK).replace("%3Aaccess", "%3Aall"), "scopes are not"),
        ("/authorize".into(), "client_id is required"),
        ("/device?user_code=%3Cscript%3E".into(), "there is no such code"),
    ] {
        let answer = page(&emulator, "GET", &path, "").await;
        assert!(answer.starts_with("HTTP/1.1 400") && !answer.contains("location: "), "{answer}");
        assert!(answer.contains(said) && !answer.contains("<script>"), "{answer}");
    }
    assert!(page(&emulator, "POST", "/authorize", "ticket=x&decision=allow").await.contains("too old"));
}

#[tokio::test]
async fn refresh_tokens_are_good_once_and_end_with_their_generation() {
    let emulator = emulator();
    let client = register(&emulator, &registration(|_| ())).await;
    let token = post(&emulator, "/token", &by_code(&client, &code(&emulator, &client).await)).await;
    let renew = |token: &Answer| {
        with(&client, json!({ "grantType": "refresh_token", "refreshToken": token.text("refreshToken") }))
    };
    let new = post(&emulator, "/token", &renew(&token)).await;
    assert_ne!(new.text("accessToken"), token.text("accessToken"));
    assert_eq!(refused(&emulator, "/token", &renew(&token)).await, "invalid_grant");
    emulator.configure(|config| config.sso.generation += 1);
    assert_eq!(refused(&emulator, "/token", &renew(&new)).await, "invalid_grant");
    let portal = portal(&emulator, "/assignment/accounts", &new.text("accessToken")).await;
    assert_eq!((portal.status, portal.text("message").as_str()), (401, "Session token not found or invalid"));
}

async fn portal(emulator: &Emulator, path: &str, token: &str) -> Answer {
    let headers = [("x-amz-sso_bearer_token".parse().unwrap(), token.parse().unwrap())].into_iter().collect();
    http(emulator, "GET", path, &headers, b"").await
}

#[tokio::test]
async fn the_portal_opens_to_a_token_and_closes_at_logout() {
    let emulator = emulator();
    let client = register(&emulator, &registration(|_| ())).await;
    let token = post(&emulator, "/token", &by_code(&client, &code(&emulator, &client).await)).await.text("accessToken");
    let credentials = "/federation/credentials?role_name=Ops&account_id=123456789012";
    let role = portal(&emulator, credentials, &token).await;
    assert_eq!(role.body["roleCredentials"]["accessKeyId"], "AKIDEXAMPLE");
    for (path, status, code) in [
        ("/federation/credentials?role_name=Nobody&account_id=123456789012", 403, "ForbiddenException"),
        ("/federation/credentials?role_name=Ops&account_id=111111111111", 403, "ForbiddenException"),
        ("/assignment/roles?account_id=1", 400, "InvalidRequestException"),
        ("/assignment/accounts?next_token=x", 400, "InvalidRequestException"),
    ] {
        let answer = portal(&emulator, path, &token).await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, format!("com.amazonaws.switchboard.portal#{code}").as_str())
        );
    }
    emulator.configure(|config| {
        config.failures = vec!["ListAccounts:throttled:1".parse().unwrap()];
        config.denied = vec!["GetRoleCredentials".into()];
    });
    assert_eq!(portal(&emulator, "/assignment/accounts", &token).await.status, 429);
    assert_eq!(portal(&emulator, "/assignment/accounts", &token).await.status, 200);
    assert_eq!(portal(&emulator, credentials, &token).await.status, 403);
    let headers: HeaderMap =
        [("x-amz-sso_bearer_token".parse().unwrap(), token.parse().unwrap())].into_iter().collect();
    assert_eq!(http(&emulator, "POST", "/logout", &headers, b"").await.status, 200);
    assert_eq!(portal(&emulator, "/assignment/accounts", &token).await.status, 401);
    assert_eq!(emulator.state().errors["TooManyRequestsException"], 1);
}

#[test]
fn any_strikes_the_calls_of_sessions_only() {
    let mut failures = vec!["Any:internal".parse().unwrap()];
    let mut take = |operation| super::super::failure::take(&mut failures, operation, |_| true);
    for operation in [Operation::CreateToken, Operation::GetRoleCredentials, Operation::OpenDataChannel] {
        assert_eq!(take(operation), None, "{operation:?}");
    }
    assert_eq!(take(Operation::StartSession), Some(FailureKind::Internal));
}
