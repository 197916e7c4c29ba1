//! The OIDC API: RegisterClient, StartDeviceAuthorization, CreateToken.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use url::Url;

use super::{
    Context, Request,
    answer::{Refusal, json_answer},
    ledger::{Client, Decision, Device, Refresh, Token},
    pages,
};

/// The scope that opens the portal.
const ACCOUNT_ACCESS: &str = "sso:account:access";
pub(super) const AUTHORIZATION_CODE: &str = "authorization_code";
const REFRESH_TOKEN: &str = "refresh_token";
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

type Answer = Result<Response<Full<Bytes>>, Refusal>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RegisterInput {
    client_name: Option<String>,
    client_type: Option<String>,
    #[serde(default)]
    scopes: Option<Vec<String>>,
    #[serde(default)]
    redirect_uris: Option<Vec<String>>,
    #[serde(default)]
    grant_types: Option<Vec<String>>,
    issuer_url: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceInput {
    client_id: Option<String>,
    client_secret: Option<String>,
    start_url: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenInput {
    client_id: Option<String>,
    client_secret: Option<String>,
    grant_type: Option<String>,
    code: Option<String>,
    code_verifier: Option<String>,
    redirect_uri: Option<String>,
    device_code: Option<String>,
    refresh_token: Option<String>,
}

pub(super) fn register(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    let input: RegisterInput = decode(request)?;
    if input.client_name.is_none_or(|name| name.is_empty()) {
        return Err(Refusal::invalid_request("clientName is required"));
    }
    if input.client_type.as_deref() != Some("public") {
        return Err(Refusal::invalid_metadata("clientType must be public"));
    }
    let (scopes, redirect_uris) = (input.scopes.unwrap_or_default(), input.redirect_uris.unwrap_or_default());
    if scopes.iter().any(|scope| scope.split(':').count() < 2 || scope.contains(char::is_whitespace)) {
        return Err(Refusal::invalid_scope());
    }
    let grant_types = input.grant_types.unwrap_or_else(|| vec![DEVICE_CODE.into(), REFRESH_TOKEN.into()]);
    if let Some(unknown) =
        grant_types.iter().find(|grant| ![AUTHORIZATION_CODE, REFRESH_TOKEN, DEVICE_CODE].contains(&grant.as_str()))
    {
        return Err(Refusal::invalid_metadata(format!("grantType {unknown} is not supported")));
    }
    if grant_types.iter().any(|grant| grant == AUTHORIZATION_CODE) {
        if redirect_uris.is_empty() {
            return Err(Refusal::invalid_redirect("redirectUris are required"));
        }
        if let Some(uri) = redirect_uris.iter().find(|uri| without_port(uri).is_none()) {
            return Err(Refusal::invalid_redirect(format!("{uri} is not an address on loopback")));
        }
        if input.issuer_url.as_deref() != Some(&*context.config.sso.start_url) {
            return Err(Refusal::invalid_request("issuerUrl is not an instance of IAM Identity Center"));
        }
    }
    let id = context.ledger.random("", 22);
    let secret = context.ledger.random("emulated-client-secret-", 40);
    let expires = context.in_future(context.config.sso.registration_lifetime);
    let client = Client { secret: secret.clone(), expires, scopes, grant_types, redirect_uris };
    context.ledger.clients.add(id.clone(), client);
    Ok(json_answer(&json!({
        "clientId": id, "clientSecret": secret,
        "clientIdIssuedAt": context.now.0, "clientSecretExpiresAt": expires.0,
        "authorizationEndpoint": null, "tokenEndpoint": null,
    })))
}

pub(super) fn device(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    let input: DeviceInput = decode(request)?;
    let (id, client) = context.client(input.client_id, input.client_secret)?;
    if input.start_url.as_deref() != Some(&*context.config.sso.start_url) {
        return Err(Refusal::invalid_request("startUrl is not an instance of IAM Identity Center"));
    }
    if !client.grant_types.iter().any(|grant| grant == DEVICE_CODE) {
        return Err(Refusal::unauthorized_client("The client is not registered for devices"));
    }
    let sso = &context.config.sso;
    let (code, user_code) = (context.ledger.random("emulated-device-code-", 40), context.ledger.user_code());
    let expires = context.in_future(sso.device_lifetime);
    let decision = sso.auto_device.then_some(Decision::Allow);
    let device = Device { client: id, user_code: user_code.clone(), expires, decision };
    context.ledger.devices.add(code.clone(), device);
    let page = format!("{}{}", request.base, pages::DEVICE);
    Ok(json_answer(&json!({
        "deviceCode": code, "userCode": user_code, "verificationUri": page,
        "verificationUriComplete": format!("{page}?user_code={user_code}"),
        "expiresIn": sso.device_lifetime.as_secs(), "interval": sso.device_interval.as_secs(),
    })))
}

pub(super) fn token(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    let input: TokenInput = decode(request)?;
    let (id, client) = context.client(input.client_id, input.client_secret)?;
    let grant_type = input.grant_type.ok_or_else(|| Refusal::invalid_request("grantType is required"))?;
    if ![AUTHORIZATION_CODE, REFRESH_TOKEN, DEVICE_CODE].contains(&grant_type.as_str()) {
        return Err(Refusal::unsupported_grant());
    }
    if !client.grant_types.contains(&grant_type) {
        return Err(Refusal::unauthorized_client("The client is not registered for this grant type"));
    }
    let invalid = || Refusal::invalid_grant("Invalid grant provided");
    match grant_type.as_str() {
        AUTHORIZATION_CODE => {
            // Good once, also for whoever has the wrong verifier.
            let grant = input.code.and_then(|code| context.ledger.grants.take(&code)).ok_or_else(invalid)?;
            let challenge =
                input.code_verifier.map(|verifier| URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes())));
            let is_good = grant.client == id
                && context.now <= grant.expires
                && input.redirect_uri.as_deref() == Some(&*grant.redirect_uri)
                && challenge.as_deref() == Some(&*grant.challenge);
            if !is_good {
                return Err(invalid());
            }
        }
        REFRESH_TOKEN => {
            let refresh = input.refresh_token.and_then(|token| context.ledger.refresh.take(&token));
            let generation = context.config.sso.generation;
            if !refresh.is_some_and(|refresh| refresh.client == id && refresh.generation == generation) {
                return Err(Refusal::invalid_grant("Invalid refresh token provided"));
            }
        }
        _ => poll(context, &id, &input.device_code.unwrap_or_default())?,
    }
    Ok(context.new_token(id, &client))
}

/// Whether a device may have its token.
fn poll(context: &mut Context<'_>, client: &str, code: &str) -> Result<(), Refusal> {
    let device = context.ledger.devices.get(code).filter(|device| device.client == client);
    let device = device.ok_or_else(|| Refusal::invalid_grant("Invalid device code provided"))?.clone();
    if context.service.take_sso(|sso| &mut sso.slow_polls) {
        return Err(Refusal::slow_down());
    }
    if context.now >= device.expires {
        return Err(Refusal::expired());
    }
    if context.service.take_sso(|sso| &mut sso.pending_polls) {
        return Err(Refusal::pending());
    }
    match device.decision {
        None => Err(Refusal::pending()),
        Some(Decision::Deny) => Err(Refusal::denied()),
        Some(Decision::Allow) => {
            context.ledger.devices.take(code);
            Ok(())
        }
    }
}

impl Context<'_> {
    pub(super) fn in_future(&self, after: std::time::Duration) -> crate::emulator::clock::Moment {
        self.now.plus(i64::try_from(after.as_secs()).unwrap_or(i64::MAX))
    }

    /// The client of a request, if it is one.
    fn client(&self, id: Option<String>, secret: Option<String>) -> Result<(String, Client), Refusal> {
        let id = id.ok_or_else(|| Refusal::invalid_request("clientId is required"))?;
        match self.ledger.clients.get(&id) {
            Some(client) if secret.as_deref() != Some(&*client.secret) => {
                Err(Refusal::invalid_client("Invalid client secret provided"))
            }
            Some(client) if self.now >= client.expires => Err(Refusal::invalid_client("The client has expired")),
            Some(client) => Ok((id, client.clone())),
            None => Err(Refusal::invalid_client("Invalid client provided")),
        }
    }

    /// An access token; and where the client asked for a scope, what renews it.
    fn new_token(&mut self, client: String, registered: &Client) -> Response<Full<Bytes>> {
        let (generation, lifetime) = (self.config.sso.generation, self.config.sso.token_lifetime);
        let access = self.ledger.random("emulated-access-token-", 60);
        let expires = self.in_future(lifetime);
        self.ledger.tokens.add(access.clone(), Token { expires, generation });
        let mut answer = json!({ "accessToken": access, "tokenType": "Bearer", "expiresIn": lifetime.as_secs() });
        let renews = registered.grant_types.iter().any(|grant| grant == REFRESH_TOKEN)
            && registered.scopes.iter().any(|scope| scope == ACCOUNT_ACCESS);
        if renews {
            let refresh = self.ledger.random("emulated-refresh-token-", 60);
            self.ledger.refresh.add(refresh.clone(), Refresh { client, generation });
            answer["refreshToken"] = refresh.into();
        }
        json_answer(&answer)
    }
}

/// An address on loopback without its port, which may be any (RFC 8252, 7.3).
pub(super) fn without_port(uri: &str) -> Option<String> {
    let mut url = Url::parse(uri).ok()?;
    let is_loopback = matches!(url.host_str(), Some("127.0.0.1" | "[::1]")) && url.scheme() == "http";
    if !is_loopback || url.fragment().is_some() || url.set_port(None).is_err() {
        return None;
    }
    Some(url.into())
}

fn decode<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, Refusal> {
    serde_json::from_slice(request.body).map_err(|error| Refusal::invalid_request(error.to_string()))
}
