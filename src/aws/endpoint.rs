//! The endpoint of the SSM API, before the SDK uses it: whether it is one at all.
//!
//! The SDK takes an override from many places and checks it in none: an empty `AWS_ENDPOINT_URL_SSM` makes it panic.

use std::path::PathBuf;

use aws_config::{Region, SdkConfig};
use aws_sdk_ssm::config::endpoint::{DefaultResolver, EndpointFuture, Params, ResolveEndpoint};
use aws_types::service_config::ServiceConfigKey;
use http::Uri;

use crate::session::Trust;

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

/// Where calls will go, as the SDK chooses it.
///
/// # Errors
/// Why there is no such endpoint, or what an override should be.
pub(super) async fn chosen(config: &SdkConfig, option: Option<&str>) -> Result<Uri, String> {
    let params = Params::builder()
        .set_region(config.region().map(Region::to_string))
        .set_use_dual_stack(config.use_dual_stack())
        .set_use_fips(config.use_fips())
        .set_endpoint(option.map(str::to_owned).or_else(|| configured(config)))
        .build()
        .map_err(|error| error.to_string())?;
    let endpoint = CheckedEndpoint::default().resolve_endpoint(&params).await;
    let endpoint = endpoint.map_err(|error| in_words(&*error))?;
    endpoint.url().parse().map_err(|_| "the endpoint is not a URL".to_owned())
}

/// The URL of environment or profile, in the SDK's order: whoever made the configuration, the variable or the
/// `services` section for SSM, the variable or the profile for all.
fn configured(config: &SdkConfig) -> Option<String> {
    let general = || config.endpoint_url().map(str::to_owned);
    if config.get_origin("endpoint_url").is_client_config() {
        return general();
    }
    setting(config, "SSM", "AWS_ENDPOINT_URL", "endpoint_url").or_else(general)
}

/// Whom the environment or the profile say to trust. It is for all services.
pub(super) fn trust(config: &SdkConfig) -> Trust {
    Trust::from_bundle(setting(config, "", "AWS_CA_BUNDLE", "ca_bundle").map(PathBuf::from))
}

/// A setting of environment or profile, as the SDK reads it.
fn setting(config: &SdkConfig, service: &str, variable: &str, key: &str) -> Option<String> {
    let key = ServiceConfigKey::builder().service_id(service).env(variable).profile(key).build().ok()?;
    config.service_config()?.load_config(key)
}

/// What the SDK's rules say, without the type names around it.
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.last().unwrap_or(error).to_string()
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
