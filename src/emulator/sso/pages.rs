//! The pages that somebody sees: Allow or Deny, after a login or for a device.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use url::Url;

use super::{
    Context, Request,
    answer::{Refusal, escape},
    ledger::{Decision, Grant, PageRequest},
    oidc::{AUTHORIZATION_CODE, without_port},
};

/// Where a browser asks for a code.
pub(super) const AUTHORIZE: &str = "/authorize";
/// Where somebody types in the code of a device.
pub(super) const DEVICE: &str = "/device";
/// How long an authorization code is good: RFC 6749 wants ten minutes at most.
const CODE_LIFETIME: std::time::Duration = std::time::Duration::from_secs(600);

type Answer = Result<Response<Full<Bytes>>, Refusal>;

/// The page of an authorization request.
pub(super) fn authorize(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    let required = |name: &str| {
        request
            .query(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Refusal::page(format!("{name} is required")))
    };
    let (client, redirect_uri) = (required("client_id")?, required("redirect_uri")?);
    let registered = context.ledger.clients.get(&client).filter(|client| context.now < client.expires);
    let registered = registered.ok_or_else(|| Refusal::page("client_id is not that of a client"))?;
    // Never redirected to: it may be anybody's.
    let wanted = without_port(&redirect_uri);
    let is_known = registered.redirect_uris.iter().any(|known| wanted.is_some() && without_port(known) == wanted);
    if !is_known || !registered.grant_types.iter().any(|grant| grant == AUTHORIZATION_CODE) {
        return Err(Refusal::page("redirect_uri is not one that the client has registered"));
    }
    let state = required("state")?;
    if required("response_type")? != "code" {
        return Err(Refusal::page("response_type must be code"));
    }
    let challenge = required("code_challenge")?;
    let is_challenge =
        challenge.len() == 43 && challenge.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if required("code_challenge_method")? != "S256" || !is_challenge {
        return Err(Refusal::page("code_challenge must be that of method S256, without padding"));
    }
    let scopes = required("scopes")?;
    if scopes.split(' ').any(|scope| !registered.scopes.iter().any(|known| known == scope)) {
        return Err(Refusal::page("scopes are not those that the client has registered"));
    }
    let ticket = context.ledger.random("", 32);
    context.ledger.requests.add(ticket.clone(), PageRequest { client, redirect_uri, state, challenge });
    Ok(question("Allow ssmfwd or another client to access your accounts?", AUTHORIZE, "ticket", &ticket, context))
}

/// What was pressed on it: back to the client.
pub(super) fn authorized(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    let ticket = request.field("ticket").unwrap_or_default();
    let asked = context.ledger.requests.take(&ticket).ok_or_else(|| Refusal::page("this page is too old"))?;
    let mut back = Url::parse(&asked.redirect_uri).map_err(|error| Refusal::page(error.to_string()))?;
    if decision(request)? == Decision::Allow {
        let code = context.ledger.random("emulated-authorization-code-", 48);
        back.query_pairs_mut().append_pair("code", &code).append_pair("state", &asked.state);
        let PageRequest { client, redirect_uri, challenge, .. } = asked;
        let expires = context.in_future(CODE_LIFETIME);
        context.ledger.grants.add(code, Grant { client, redirect_uri, challenge, expires });
    } else {
        back.query_pairs_mut()
            .append_pair("error", "access_denied")
            .append_pair("error_description", "The user denied the request")
            .append_pair("state", &asked.state);
    }
    let location = HeaderValue::from_str(back.as_str()).map_err(|error| Refusal::page(error.to_string()))?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// The page of a device.
pub(super) fn device(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    let Some(code) = request.query("user_code") else {
        let form = format!(
            "<form method=\"get\" action=\"{DEVICE}\"><input name=\"user_code\" autofocus><button>Next</button></form>"
        );
        return Ok(page("Type in the code that your device shows", &form));
    };
    let now = context.now;
    if context.ledger.devices.find_mut(|device| device.user_code == code && now < device.expires).is_none() {
        return Err(Refusal::page("there is no such code"));
    }
    let asked = format!("Is {} the code that your device shows?", escape(&code));
    Ok(question(&asked, DEVICE, "user_code", &code, context))
}

/// What was pressed on it.
pub(super) fn device_decided(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    let (code, now) = (request.field("user_code").unwrap_or_default(), context.now);
    let decision = decision(request)?;
    let device = context.ledger.devices.find_mut(|device| device.user_code == code && now < device.expires);
    device.ok_or_else(|| Refusal::page("there is no such code"))?.decision = Some(decision);
    Ok(page("Done", "<p>You can close this page.</p>"))
}

fn decision(request: &Request<'_>) -> Result<Decision, Refusal> {
    match request.field("decision").as_deref() {
        Some("allow") => Ok(Decision::Allow),
        Some("deny") => Ok(Decision::Deny),
        _ => Err(Refusal::page("neither Allow nor Deny")),
    }
}

/// Two buttons. A switch presses the first by a script, as somebody would.
fn question(asked: &str, action: &str, name: &str, value: &str, context: &Context<'_>) -> Response<Full<Bytes>> {
    let script = match context.config.sso.auto_approve {
        true => "<script>document.getElementById('allow').click()</script>",
        false => "",
    };
    let value = escape(value);
    let form = format!(
        "<form method=\"post\" action=\"{action}\"><input type=\"hidden\" name=\"{name}\" value=\"{value}\">\
         <button id=\"allow\" name=\"decision\" value=\"allow\">Allow</button>\
         <button id=\"deny\" name=\"decision\" value=\"deny\">Deny</button></form>{script}"
    );
    page(asked, &form)
}

/// A page with a heading.
pub(super) fn page(heading: &str, body: &str) -> Response<Full<Bytes>> {
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Emulated IAM Identity Center</title></head>\
         <body><h1>{heading}</h1>{body}</body></html>\n"
    );
    let mut response = Response::new(Full::new(html.into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
