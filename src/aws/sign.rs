//! The signature of the websocket upgrade: SigV4 in headers, over `host`, `x-amz-date` and `x-amz-security-token`, and
//! an empty body (`proto-notes/websocket.md#signature`).

use std::{borrow::Cow, time::SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningError, SigningSettings, UriPathNormalizationMode, sign},
    sign::v4,
};
use aws_smithy_runtime_api::client::identity::Identity;
use http::{HeaderName, HeaderValue, header::InvalidHeaderValue};

use crate::session::{QueryForm, StreamUrl};

/// The service that signatures of data channels are for, whatever the host.
const SERVICE: &str = "ssmmessages";

/// Why an upgrade cannot be signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    #[error("the upgrade request cannot be signed")]
    Request(#[source] SigningError),
    #[error("the settings for the signature are incomplete")]
    Settings(#[source] v4::signing_params::BuildError),
    #[error("the credentials cannot stand in a header")]
    Credentials(#[source] InvalidHeaderValue),
}

/// The headers to add to the upgrade request.
pub(super) fn upgrade_headers(
    url: &StreamUrl,
    form: QueryForm,
    credentials: &Credentials,
    region: &str,
    time: SystemTime,
) -> Result<Vec<(HeaderName, HeaderValue)>, SignError> {
    let mut settings = SigningSettings::default();
    // As Go's signers: the path is encoded once more but its dots stay.
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let identity = Identity::from(credentials.clone());
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(time)
        .settings(settings)
        .build()
        .map_err(SignError::Settings)?
        .into();
    // `Host` is given as it is sent: left to itself the signer would drop an explicit port 443.
    let host = std::iter::once(("host", url.authority()));
    let request = SignableRequest::new("GET", signed_uri(url, form), host, SignableBody::Bytes(&[]))
        .map_err(SignError::Request)?;
    let (instructions, _) = sign(request, &params).map_err(SignError::Request)?.into_parts();
    let (headers, _) = instructions.into_parts();
    headers
        .into_iter()
        .map(|header| {
            let mut value = HeaderValue::from_str(header.value()).map_err(SignError::Credentials)?;
            value.set_sensitive(true);
            Ok((HeaderName::from_static(header.name()), value))
        })
        .collect()
}

/// What is signed. The signer reads the query as a form, where `+` is a space; only the signature sees this URI, the
/// request line carries the raw one.
fn signed_uri(url: &StreamUrl, form: QueryForm) -> String {
    let target = url.request_target();
    let target = match (form, target.split_once('?')) {
        (QueryForm::PlusIsLiteral, Some((path, query))) => Cow::Owned(format!("{path}?{}", query.replace('+', "%2B"))),
        _ => Cow::Borrowed(target),
    };
    format!("https://{}{target}", url.authority())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aws_lc_rs::{digest, hmac};

    use super::*;
    use crate::aws::canned::{DATE, seconds};

    const REGION: &str = "us-east-1";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const E1: &str =
        "wss://ssmmessages.us-east-1.amazonaws.com/v1/data-channel/user-0123456789abcdef0?role=publish_subscribe";
    const E2: &str = "wss://ssmmessages.us-east-1.amazonaws.com/v1/data-channel/me@example.com-0123456789abcdef0?role=publish_subscribe&cell-number=AAEAAXxZ+k/N0oRk";

    fn headers(url: &str, form: QueryForm, token: Option<&str>) -> BTreeMap<String, String> {
        let url = StreamUrl::parse(url).expect("a URL");
        let credentials = Credentials::new("AKIDEXAMPLE", SECRET, token.map(str::to_owned), None, "test");
        let headers = upgrade_headers(&url, form, &credentials, REGION, seconds(DATE)).expect("signed");
        let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
    }

    fn authorization(signed: &str, signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20231114/us-east-1/ssmmessages/aws4_request, \
             SignedHeaders={signed}, Signature={signature}"
        )
    }

    const WITH_TOKEN: &str = "host;x-amz-date;x-amz-security-token";

    #[test]
    fn vector_e1() {
        let expected = authorization(WITH_TOKEN, "d184eaffffa453b830dd97fd236cfee75882558e11f36a80eae7ee232b48a1ba");
        for form in [QueryForm::PlusIsSpace, QueryForm::PlusIsLiteral] {
            let headers = headers(E1, form, Some("TOKEN"));
            assert_eq!(headers.get("authorization"), Some(&expected));
            assert_eq!(headers.get("x-amz-date").map(String::as_str), Some("20231114T221320Z"));
            assert_eq!(headers.get("x-amz-security-token").map(String::as_str), Some("TOKEN"));
            assert_eq!(headers.len(), 3);
        }
    }

    #[test]
    fn vector_e2() {
        let expected = authorization(WITH_TOKEN, "20bd559b67898358d6b03f1b654f215a9048b3e1862a885f2951e2f391fa420c");
        assert_eq!(headers(E2, QueryForm::PlusIsSpace, Some("TOKEN")).get("authorization"), Some(&expected));
    }

    /// SigV4 with nothing but HMAC, from a canonical request written out by hand.
    fn signature_of(canonical: &str) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let mut key = format!("AWS4{SECRET}").into_bytes();
        for part in ["20231114", REGION, "ssmmessages", "aws4_request"] {
            key = mac(&key, part).as_ref().to_vec();
        }
        let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let to_sign =
            format!("AWS4-HMAC-SHA256\n20231114T221320Z\n20231114/us-east-1/ssmmessages/aws4_request\n{hash}");
        hex(mac(&key, &to_sign).as_ref())
    }

    #[test]
    fn a_plus_can_be_signed_as_itself() {
        let canonical = "GET\n\
            /v1/data-channel/me%40example.com-0123456789abcdef0\n\
            cell-number=AAEAAXxZ%2Bk%2FN0oRk&role=publish_subscribe\n\
            host:ssmmessages.us-east-1.amazonaws.com\n\
            x-amz-date:20231114T221320Z\n\
            x-amz-security-token:TOKEN\n\
            \n\
            host;x-amz-date;x-amz-security-token\n\
            e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let expected = authorization(WITH_TOKEN, &signature_of(canonical));
        assert_eq!(headers(E2, QueryForm::PlusIsLiteral, Some("TOKEN")).get("authorization"), Some(&expected));
    }

    #[test]
    fn without_a_token_and_with_a_port_exactly_what_is_sent_is_signed() {
        // Dots and what is encoded already stay as they are but for the one encoding; `443` is in the Host header.
        let canonical = "GET\n\
            /v1//data-channel/./a%2520b..c\n\
            a=%3D%3D&role=\n\
            host:gateway.example:443\n\
            x-amz-date:20231114T221320Z\n\
            \n\
            host;x-amz-date\n\
            e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let headers =
            headers("wss://gateway.example:443/v1//data-channel/./a%20b..c?role=&a===", QueryForm::PlusIsSpace, None);
        assert_eq!(headers.get("authorization"), Some(&authorization("host;x-amz-date", &signature_of(canonical))));
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn what_cannot_be_signed_is_an_error() {
        let url = StreamUrl::parse("wss://ssmmessages.us-east-1.amazonaws.com/v1/\"?x=<>").expect("printable");
        let sign = |url: &StreamUrl, key: &str, token: &str| {
            let credentials = Credentials::new(key, SECRET, Some(token.to_owned()), None, "test");
            upgrade_headers(url, QueryForm::PlusIsSpace, &credentials, REGION, seconds(DATE))
        };
        sign(&url, "AKIDEXAMPLE", "TOKEN").expect_err("not a URI");
        let url = StreamUrl::parse(E1).expect("a URL");
        let error = sign(&url, "AKIDEXAMPLE", "hunter\n2").expect_err("not a header");
        assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
        sign(&url, "AKID\nEXAMPLE", "TOKEN").expect_err("not a header");
    }

    #[test]
    fn signatures_are_not_shown() {
        let url = StreamUrl::parse(E1).expect("a URL");
        let credentials = Credentials::new("AKIDEXAMPLE", SECRET, Some("TOKEN".to_owned()), None, "test");
        let headers = upgrade_headers(&url, QueryForm::PlusIsSpace, &credentials, REGION, seconds(DATE));
        let shown = format!("{headers:?}");
        assert!(!shown.contains("Signature=") && !shown.contains("TOKEN"), "{shown}");
    }
}
