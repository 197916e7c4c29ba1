//! Where the ECS API is: what the configuration says, or the host that belongs to the region.

use aws_config::SdkConfig;
use aws_types::service_config::ServiceConfigKey;

use crate::aws::partition;

/// The service's name in the `services` section of a profile, and in `AWS_ENDPOINT_URL_ECS`.
const SERVICE_ID: &str = "ECS";

/// The endpoint for a region: `AWS_ENDPOINT_URL_ECS`, `AWS_ENDPOINT_URL`, the profile's `services` section and its
/// `endpoint_url`, in the order of the SDKs, else AWS's own. `--endpoint-url` is for SSM and does not count.
pub(super) fn url(config: &SdkConfig, region: &str) -> String {
    configured(config).unwrap_or_else(|| {
        let fips = config.use_fips().unwrap_or_default();
        let dual_stack = config.use_dual_stack().unwrap_or_default();
        format!("https://{}", host(region, fips, dual_stack))
    })
}

fn configured(config: &SdkConfig) -> Option<String> {
    let own = || {
        let key =
            ServiceConfigKey::builder().service_id(SERVICE_ID).env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
        config.service_config()?.load_config(key.ok()?)
    };
    let all = || config.endpoint_url().map(str::to_owned);
    // What a program has set is meant for every service.
    let url = if config.get_origin("endpoint_url").is_client_config() { all() } else { own().or_else(all) };
    url.filter(|url| !url.is_empty())
}

fn host(region: &str, fips: bool, dual_stack: bool) -> String {
    let service = if fips { "ecs-fips" } else { "ecs" };
    format!("{service}.{region}.{}", partition::suffix(region, dual_stack))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_belongs_to_the_region() {
        for (region, fips, dual_stack, expected) in [
            ("eu-west-1", false, false, "ecs.eu-west-1.amazonaws.com"),
            ("us-east-1", true, false, "ecs-fips.us-east-1.amazonaws.com"),
            ("eu-west-1", false, true, "ecs.eu-west-1.api.aws"),
            ("us-gov-west-1", true, true, "ecs-fips.us-gov-west-1.api.aws"),
            ("cn-north-1", false, false, "ecs.cn-north-1.amazonaws.com.cn"),
            ("cn-north-1", false, true, "ecs.cn-north-1.api.amazonwebservices.com.cn"),
            ("us-isob-east-1", false, false, "ecs.us-isob-east-1.sc2s.sgov.gov"),
            ("eusc-de-east-1", false, false, "ecs.eusc-de-east-1.amazonaws.eu"),
        ] {
            assert_eq!(host(region, fips, dual_stack), expected);
        }
    }

    #[test]
    fn an_override_wins() {
        let config = SdkConfig::builder().endpoint_url("http://127.0.0.1:1").build();
        assert_eq!(url(&config, "eu-west-1"), "http://127.0.0.1:1");
        let config = SdkConfig::builder().endpoint_url("").use_fips(true).build();
        assert_eq!(url(&config, "eu-west-1"), "https://ecs-fips.eu-west-1.amazonaws.com");
    }
}
