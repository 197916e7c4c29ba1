//! The access portal: ListAccounts, ListAccountRoles, GetRoleCredentials, Logout.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{
    Context, Request, SsoAccount,
    answer::{Refusal, json_answer},
};

/// Where the access token is.
const BEARER: &str = "x-amz-sso_bearer_token";

type Answer = Result<Response<Full<Bytes>>, Refusal>;

pub(super) fn accounts(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    check_token(context, request)?;
    let account = |account: &SsoAccount| json!({ "accountId": account.id, "accountName": account.name, "emailAddress": account.email });
    listed(context, request, "accountList", context.config.sso.accounts.iter().map(account).collect())
}

pub(super) fn roles(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    check_token(context, request)?;
    let account = account(context, request)?;
    let role = |role: &String| json!({ "roleName": role, "accountId": account.id });
    listed(context, request, "roleList", account.roles.iter().map(role).collect())
}

pub(super) fn credentials(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    check_token(context, request)?;
    let role = request.query("role_name").ok_or_else(|| Refusal::bad_portal_request("role_name is required"))?;
    if !account(context, request)?.roles.contains(&role) {
        return Err(Refusal::forbidden());
    }
    let credentials = &context.config.credentials;
    let expires = context.in_future(context.config.sso.role_lifetime);
    Ok(json_answer(&json!({ "roleCredentials": {
        "accessKeyId": credentials.access_key_id,
        "secretAccessKey": credentials.secret_access_key,
        "sessionToken": credentials.session_token.as_deref().unwrap_or_default(),
        "expiration": expires.0.saturating_mul(1000),
    }})))
}

pub(super) fn logout(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    let token = check_token(context, request)?;
    context.ledger.tokens.take(&token);
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

fn check_token(context: &Context<'_>, request: &Request<'_>) -> Result<String, Refusal> {
    let token = request.parts.headers.get(BEARER).and_then(|token| token.to_str().ok());
    let token = token.ok_or_else(|| Refusal::bad_portal_request("The access token is required"))?;
    let generation = context.config.sso.generation;
    match context.ledger.tokens.get(token) {
        Some(known) if context.now < known.expires && known.generation == generation => Ok(token.to_owned()),
        _ => Err(Refusal::no_such_token()),
    }
}

fn account<'a>(context: &Context<'a>, request: &Request<'_>) -> Result<&'a SsoAccount, Refusal> {
    let id = request.query("account_id").ok_or_else(|| Refusal::bad_portal_request("account_id is required"))?;
    if id.len() != 12 || !id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::bad_portal_request("account_id has twelve digits"));
    }
    let config = context.config;
    config.sso.accounts.iter().find(|account| account.id == id).ok_or_else(Refusal::forbidden)
}

/// One page of a list. The token for the next one says where it begins.
fn listed(context: &Context<'_>, request: &Request<'_>, member: &str, items: Vec<Value>) -> Answer {
    let wanted = request.query("max_result").and_then(|most| most.parse().ok()).unwrap_or(usize::MAX);
    let most = context.config.sso.page_size.min(wanted).max(1);
    let start = match request.query("next_token") {
        Some(token) => {
            let start = token.strip_prefix("page-").and_then(|start| start.parse::<usize>().ok());
            start.ok_or_else(|| Refusal::bad_portal_request("next_token is not one of ours"))?
        }
        None => 0,
    };
    let next = start.saturating_add(most);
    let next = (next < items.len()).then(|| format!("page-{next}"));
    let page: Vec<_> = items.into_iter().skip(start).take(most).collect();
    Ok(json_answer(&json!({ "nextToken": next, member: page })))
}
