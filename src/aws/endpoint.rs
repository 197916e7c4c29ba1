//! The endpoint of the SSM API, before the SDK uses it: whether it is one at all.
//!
//! The SDK takes an override from many places and checks it in none: an empty `AWS_ENDPOINT_URL_SSM` makes it panic.

use aws_sdk_ssm::config::endpoint::{DefaultResolver, EndpointFuture, Params, ResolveEndpoint};
use http::Uri;

/// Whether a text can be an endpoint.
///
/// # Errors
/// What it should be. The text itself is not repeated: it may hold a password.
pub(super) fn check(url: &str) -> Result<(), &'static str> {
    let usable = url.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    if usable { Ok(()) } else { Err("the endpoint URL is not of the form http[s]://HOST[:PORT][/PATH]") }
}

/// The SDK's own choice of an endpoint, of overrides that are URLs. As for the AWS CLI, an empty one is none.
#[derive(Debug, Default)]
pub(super) struct CheckedEndpoint(DefaultResolver);

impl ResolveEndpoint for CheckedEndpoint {
    fn resolve_endpoint<'a>(&'a self, params: &'a Params) -> EndpointFuture<'a> {
        match params.endpoint().map(|url| (url, check(url))) {
            Some(("", _)) => EndpointFuture::new(async move {
                let without = Params::builder()
                    .set_region(params.region().map(str::to_owned))
                    .set_use_dual_stack(params.use_dual_stack())
                    .set_use_fips(params.use_fips())
                    .build()?;
                ResolveEndpoint::resolve_endpoint(&self.0, &without).await
            }),
            Some((_, Err(reason))) => EndpointFuture::ready(Err(reason.into())),
            _ => ResolveEndpoint::resolve_endpoint(&self.0, params),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_other_texts() {
        for url in ["https://vpce-1.ssm.eu-west-1.vpce.amazonaws.com", "http://127.0.0.1:8000", "http://[::1]:1/path"] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in
            ["", "/", "localhost", "localhost:80", "ftp://x", "https://", "http://me:pw@x", "http://a b", "http://:1"]
        {
            assert!(check(url).is_err(), "{url}");
        }
    }
}
