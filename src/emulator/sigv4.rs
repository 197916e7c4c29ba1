//! Verification of AWS Signature Version 4, header form.
//!
//! Written from the specification and not with the signer that ssmfwd uses, so that two implementations check each
//! other. What it is not: a signer, or anything for presigned URLs.

use std::fmt;

use aws_lc_rs::{constant_time, digest, hmac};
use http::HeaderMap;

use super::clock::Moment;

/// How far a signature's date may be from the service's clock, seconds.
const MAX_SKEW: i64 = 5 * 60;
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Headers that must be signed when they are present.
const MUST_BE_SIGNED: [&str; 4] = ["host", "x-amz-date", "x-amz-security-token", "x-amz-target"];

/// What an identity of the emulated account signs with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key id.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: String,
    /// The session token of temporary credentials.
    pub session_token: Option<String>,
}

/// The example key that AWS's own documents use, with a session token.
impl Default for Credentials {
    fn default() -> Self {
        Self {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            session_token: Some("EMULATEDSESSIONTOKEN".into()),
        }
    }
}

/// Shows the access key id only.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// How a raw `+` in the query enters the canonical request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plus {
    /// As a space, `%20`: form rules, as Go's signers read a query.
    Space,
    /// As itself, `%2B`.
    Literal,
}

/// A request as it came.
#[derive(Debug)]
pub(super) struct SignedRequest<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

/// What a signature must agree with.
#[derive(Debug)]
pub(super) struct Verifier<'a> {
    pub(super) credentials: &'a Credentials,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) plus: Plus,
    pub(super) now: Moment,
}

/// Why a signature was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    #[error("Missing Authentication Token")]
    Missing,
    #[error("{0}")]
    Incomplete(String),
    #[error("The security token included in the request is invalid.")]
    UnknownIdentity,
    #[error("The security token included in the request is expired")]
    Expired,
    #[error("{0}")]
    Scope(String),
    #[error("{0}")]
    Skew(String),
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access \
         Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
}

impl Rejection {
    /// The error code that AWS gives it.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Missing => "MissingAuthenticationTokenException",
            Self::Incomplete(_) => "IncompleteSignatureException",
            Self::UnknownIdentity => "UnrecognizedClientException",
            Self::Expired => "ExpiredTokenException",
            Self::Scope(_) | Self::Skew(_) | Self::Mismatch => "InvalidSignatureException",
        }
    }
}

impl Verifier<'_> {
    /// Accepts or rejects a request.
    pub(super) fn verify(&self, request: &SignedRequest<'_>) -> Result<(), Rejection> {
        let authorization = header(request.headers, "authorization").ok_or(Rejection::Missing)?;
        let authorization = Authorization::parse(authorization)?;
        let date = header(request.headers, "x-amz-date").ok_or_else(|| {
            Rejection::Incomplete("Authorization header requires existence of a 'X-Amz-Date' header.".into())
        })?;
        let moment = Moment::from_amz(date).ok_or_else(|| {
            Rejection::Incomplete("Date must be in ISO-8601 'basic format'. See ISO-8601 for the format.".into())
        })?;
        self.check_identity(&authorization, request.headers)?;
        self.check_scope(&authorization, date)?;
        self.check_date(moment)?;
        check_signed_headers(&authorization, request.headers)?;

        let canonical = self.canonical_request(request, &authorization.signed_headers)?;
        let scope = [authorization.date, authorization.region, authorization.service, "aws4_request"].join("/");
        let to_sign = format!("{ALGORITHM}\n{date}\n{scope}\n{}", hex(sha256(canonical.as_bytes()).as_ref()));
        let mut key = hmac_sha256(format!("AWS4{}", self.credentials.secret_access_key).as_bytes(), authorization.date);
        for part in [authorization.region, authorization.service, "aws4_request"] {
            key = hmac_sha256(key.as_ref(), part);
        }
        let expected = hex(hmac_sha256(key.as_ref(), &to_sign).as_ref());
        constant_time::verify_slices_are_equal(expected.as_bytes(), authorization.signature.as_bytes())
            .map_err(|_| Rejection::Mismatch)
    }

    fn check_identity(&self, authorization: &Authorization<'_>, headers: &HeaderMap) -> Result<(), Rejection> {
        let token = header(headers, "x-amz-security-token");
        if authorization.access_key_id == self.credentials.access_key_id
            && token == self.credentials.session_token.as_deref()
        {
            return Ok(());
        }
        Err(Rejection::UnknownIdentity)
    }

    fn check_scope(&self, authorization: &Authorization<'_>, date: &str) -> Result<(), Rejection> {
        if !date.starts_with(authorization.date) || authorization.date.len() != 8 {
            return Err(Rejection::Scope(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP".into(),
            ));
        }
        if authorization.region != self.region {
            return Err(Rejection::Scope("Credential should be scoped to a valid region.".into()));
        }
        if authorization.service != self.service {
            return Err(Rejection::Scope(format!(
                "Credential should be scoped to correct service: '{}'.",
                self.service
            )));
        }
        Ok(())
    }

    fn check_date(&self, signed: Moment) -> Result<(), Rejection> {
        let (oldest, newest) = (self.now.plus(-MAX_SKEW), self.now.plus(MAX_SKEW));
        let (signed_text, now) = (signed.to_amz(), self.now.to_amz());
        if signed < oldest {
            let oldest = oldest.to_amz();
            return Err(Rejection::Skew(format!(
                "Signature expired: {signed_text} is now earlier than {oldest} ({now} - 5 min.)"
            )));
        }
        if signed > newest {
            let newest = newest.to_amz();
            return Err(Rejection::Skew(format!(
                "Signature not yet current: {signed_text} is still later than {newest} ({now} + 5 min.)"
            )));
        }
        Ok(())
    }

    fn canonical_request(&self, request: &SignedRequest<'_>, signed_headers: &[&str]) -> Result<String, Rejection> {
        let mut out = String::with_capacity(512);
        out.push_str(request.method);
        out.push('\n');
        // The path as it stands on the wire, encoded once more.
        encode_into(&mut out, request.path.as_bytes(), b"/");
        out.push('\n');
        out.push_str(&canonical_query(request.query, self.plus));
        out.push('\n');
        for name in signed_headers {
            let values: Vec<String> = request
                .headers
                .get_all(*name)
                .iter()
                .map(|value| {
                    String::from_utf8_lossy(value.as_bytes()).split_ascii_whitespace().collect::<Vec<_>>().join(" ")
                })
                .collect();
            out.push_str(&format!("{name}:{}\n", values.join(",")));
        }
        out.push('\n');
        out.push_str(&signed_headers.join(";"));
        out.push('\n');
        let body_hash = hex(sha256(request.body).as_ref());
        if header(request.headers, "x-amz-content-sha256").is_some_and(|declared| declared != body_hash) {
            return Err(Rejection::Mismatch);
        }
        out.push_str(&body_hash);
        Ok(out)
    }
}

/// The access key and the region that a signature names; nothing has been checked.
pub(super) fn claimed(headers: &HeaderMap) -> Option<(&str, &str)> {
    let authorization = Authorization::parse(header(headers, "authorization")?).ok()?;
    Some((authorization.access_key_id, authorization.region))
}

/// The SHA-256 of some bytes, in lower-case hexadecimal.
pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    hex(sha256(bytes).as_ref())
}

struct Authorization<'a> {
    access_key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn parse(text: &'a str) -> Result<Self, Rejection> {
        let incomplete = |what: &str| Rejection::Incomplete(format!("Authorization header requires '{what}'."));
        let fields = text
            .strip_prefix(ALGORITHM)
            .filter(|rest| rest.starts_with(' '))
            .ok_or_else(|| Rejection::Incomplete(format!("Unsupported AWS 'algorithm': only {ALGORITHM} is known.")))?;
        let field = |name: &str| {
            fields
                .split(',')
                .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
                .filter(|value| !value.is_empty())
                .ok_or_else(|| incomplete(name))
        };
        let credential: Vec<&str> = field("Credential")?.split('/').collect();
        let [access_key_id, date, region, service, "aws4_request"] = credential[..] else {
            return Err(Rejection::Incomplete("Credential must have exactly 5 slash-delimited elements.".into()));
        };
        Ok(Self {
            access_key_id,
            date,
            region,
            service,
            signed_headers: field("SignedHeaders")?.split(';').collect(),
            signature: field("Signature")?,
        })
    }
}

fn check_signed_headers(authorization: &Authorization<'_>, headers: &HeaderMap) -> Result<(), Rejection> {
    let signed = &authorization.signed_headers;
    if !signed.is_sorted() || signed.iter().any(|name| name.bytes().any(|byte| byte.is_ascii_uppercase())) {
        return Err(Rejection::Mismatch);
    }
    for name in MUST_BE_SIGNED {
        if headers.contains_key(name) && !signed.contains(&name) {
            return Err(Rejection::Scope(format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.")));
        }
    }
    Ok(())
}

/// Every name and value decoded, encoded strictly, and sorted.
fn canonical_query(query: &str, plus: Plus) -> String {
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (recode(name, plus), recode(value, plus))
        })
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

fn recode(text: &str, plus: Plus) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match after {
            [high, low, ..] if byte == b'%' => from_hex(*high).zip(from_hex(*low)),
            _ => None,
        };
        rest = after;
        match escaped {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                rest = &after[2..];
            }
            None if byte == b'+' && plus == Plus::Space => decoded.push(b' '),
            None => decoded.push(byte),
        }
    }
    let mut out = String::with_capacity(decoded.len());
    encode_into(&mut out, &decoded, b"");
    out
}

fn encode_into(out: &mut String, bytes: &[u8], also_plain: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || also_plain.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn from_hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn sha256(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}

fn hmac_sha256(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let written = write!(out, "{byte:02x}");
        debug_assert!(written.is_ok());
        out
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const HOST: &str = "ssmmessages.us-east-1.amazonaws.com";
    const NOW: i64 = 1_700_000_000;

    fn credentials(token: Option<&str>) -> Credentials {
        Credentials { session_token: token.map(Into::into), ..Credentials::default() }
    }

    fn verifier<'a>(credentials: &'a Credentials, service: &'a str, plus: Plus) -> Verifier<'a> {
        Verifier { credentials, region: "us-east-1", service, plus, now: Moment(NOW) }
    }

    fn vector_headers(signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("host", HOST.parse().unwrap());
        headers.insert("x-amz-date", "20231114T221320Z".parse().unwrap());
        headers.insert("x-amz-security-token", "TOKEN".parse().unwrap());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20231114/us-east-1/ssmmessages/aws4_request, \
             SignedHeaders=host;x-amz-date;x-amz-security-token, Signature={signature}"
        );
        headers.insert("authorization", authorization.parse().unwrap());
        headers
    }

    const E1: &str = "d184eaffffa453b830dd97fd236cfee75882558e11f36a80eae7ee232b48a1ba";
    const E2: &str = "20bd559b67898358d6b03f1b654f215a9048b3e1862a885f2951e2f391fa420c";
    const E2_PATH: &str = "/v1/data-channel/me@example.com-0123456789abcdef0";
    const E2_QUERY: &str = "role=publish_subscribe&cell-number=AAEAAXxZ+k/N0oRk";

    #[test]
    fn golden_vectors_e1_and_e2_verify_and_e2_only_with_a_plus_read_as_a_space() {
        let credentials = credentials(Some("TOKEN"));
        let headers = vector_headers(E1);
        let path = "/v1/data-channel/user-0123456789abcdef0";
        let e1 = SignedRequest { method: "GET", path, query: "role=publish_subscribe", headers: &headers, body: b"" };
        assert_eq!(verifier(&credentials, "ssmmessages", Plus::Space).verify(&e1), Ok(()));
        assert_eq!(verifier(&credentials, "ssmmessages", Plus::Literal).verify(&e1), Ok(()));

        let headers = vector_headers(E2);
        let e2 = SignedRequest { method: "GET", path: E2_PATH, query: E2_QUERY, headers: &headers, body: b"" };
        assert_eq!(verifier(&credentials, "ssmmessages", Plus::Space).verify(&e2), Ok(()));
        assert_eq!(verifier(&credentials, "ssmmessages", Plus::Literal).verify(&e2), Err(Rejection::Mismatch));
    }

    #[test]
    fn every_part_of_a_request_is_covered() {
        let credentials = credentials(Some("TOKEN"));
        let verify = |path: &str, query: &str, body: &[u8], change: &dyn Fn(&mut HeaderMap)| {
            let mut headers = vector_headers(E2);
            change(&mut headers);
            let request = SignedRequest { method: "GET", path, query, headers: &headers, body };
            verifier(&credentials, "ssmmessages", Plus::Space).verify(&request)
        };
        assert_eq!(verify(E2_PATH, E2_QUERY, b"", &|_| ()), Ok(()));
        assert_eq!(verify("/v1/data-channel/other", E2_QUERY, b"", &|_| ()), Err(Rejection::Mismatch));
        assert_eq!(verify(E2_PATH, "role=publish_subscribe", b"", &|_| ()), Err(Rejection::Mismatch));
        assert_eq!(verify(E2_PATH, E2_QUERY, b"x", &|_| ()), Err(Rejection::Mismatch));
        let other_host = |headers: &mut HeaderMap| drop(headers.insert("host", "evil".parse().unwrap()));
        assert_eq!(verify(E2_PATH, E2_QUERY, b"", &other_host), Err(Rejection::Mismatch));
        let other_token = |headers: &mut HeaderMap| drop(headers.insert("x-amz-security-token", "X".parse().unwrap()));
        assert_eq!(verify(E2_PATH, E2_QUERY, b"", &other_token), Err(Rejection::UnknownIdentity));
        let unsigned = |headers: &mut HeaderMap| drop(headers.remove("authorization"));
        assert_eq!(verify(E2_PATH, E2_QUERY, b"", &unsigned), Err(Rejection::Missing));
        let not_covered = |headers: &mut HeaderMap| drop(headers.insert("x-amz-target", "T".parse().unwrap()));
        assert!(matches!(verify(E2_PATH, E2_QUERY, b"", &not_covered), Err(Rejection::Scope(_))));
        let garbage =
            |headers: &mut HeaderMap| drop(headers.insert("authorization", "AWS4-HMAC-SHA256 x".parse().unwrap()));
        assert!(matches!(verify(E2_PATH, E2_QUERY, b"", &garbage), Err(Rejection::Incomplete(_))));
    }

    #[test]
    fn scope_and_clock_must_agree() {
        let credentials = credentials(Some("TOKEN"));
        let headers = vector_headers(E2);
        let request = SignedRequest { method: "GET", path: E2_PATH, query: E2_QUERY, headers: &headers, body: b"" };
        let base = || verifier(&credentials, "ssmmessages", Plus::Space);
        assert!(matches!(Verifier { region: "eu-west-1", ..base() }.verify(&request), Err(Rejection::Scope(_))));
        assert!(matches!(Verifier { service: "ssm", ..base() }.verify(&request), Err(Rejection::Scope(_))));
        for (offset, ok) in [(-301, false), (-300, true), (300, true), (301, false)] {
            let result = Verifier { now: Moment(NOW + offset), ..base() }.verify(&request);
            assert_eq!(result.is_ok(), ok, "{offset}");
            assert!(ok || matches!(result, Err(Rejection::Skew(_))));
        }
    }

    /// The other implementation: what ssmfwd signs with.
    fn sign(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8], service: &str) -> HeaderMap {
        use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
        let credentials = Credentials::default();
        let identity = aws_credential_types::Credentials::new(
            credentials.access_key_id,
            credentials.secret_access_key,
            credentials.session_token,
            None,
            "test",
        )
        .into();
        let params = aws_sigv4::sign::v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name(service)
            .time(UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs()))
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let request = SignableRequest::new(method, url, headers.iter().copied(), SignableBody::Bytes(body)).unwrap();
        let (instructions, _) = sign(request, &params).unwrap().into_parts();
        let mut out = HeaderMap::new();
        for (name, value) in headers {
            out.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        for (name, value) in instructions.headers() {
            out.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        out
    }

    #[test]
    fn agrees_with_an_independent_signer() {
        let credentials = Credentials::default();
        let body = br#"{"Target":"i-0123456789abcdef0"}"#;
        let plain = [
            ("host", "127.0.0.1:4000"),
            ("x-amz-target", "AmazonSSM.StartSession"),
            ("content-type", "application/x-amz-json-1.1"),
        ];
        let headers = sign("POST", "http://127.0.0.1:4000/", &plain, body, "ssm");
        let request = SignedRequest { method: "POST", path: "/", query: "", headers: &headers, body };
        assert_eq!(verifier(&credentials, "ssm", Plus::Space).verify(&request), Ok(()));
        let changed = SignedRequest { body: b"{}", ..request };
        assert_eq!(verifier(&credentials, "ssm", Plus::Space).verify(&changed), Err(Rejection::Mismatch));
        let stranger = Credentials { access_key_id: "AKIDSTRANGER".into(), ..credentials.clone() };
        assert_eq!(verifier(&stranger, "ssm", Plus::Space).verify(&changed), Err(Rejection::UnknownIdentity));

        // Encoded either way by the caller, the signer covers the form that the verifier is told to expect.
        for (plus, url_plus) in [(Plus::Space, "%20"), (Plus::Literal, "%2B")] {
            let url =
                format!("http://{HOST}/v1/data-channel/me%40x-0?role=publish_subscribe&cell-number=A{url_plus}b%2Fc");
            let headers = sign("GET", &url, &[("host", HOST)], b"", "ssmmessages");
            let query = "role=publish_subscribe&cell-number=A+b/c";
            let request =
                SignedRequest { method: "GET", path: "/v1/data-channel/me%40x-0", query, headers: &headers, body: b"" };
            assert_eq!(verifier(&credentials, "ssmmessages", plus).verify(&request), Ok(()), "{plus:?}");
        }
    }

    #[test]
    fn secrets_stay_out_of_debug() {
        let text = format!("{:?}", Credentials::default());
        assert!(text.contains("AKIDEXAMPLE") && !text.contains("wJalr") && !text.contains("EMULATED"), "{text}");
    }
}
