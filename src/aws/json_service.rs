//! The services beside SSM that are called: what they are called by, and where they are.

use aws_config::SdkConfig;
use aws_types::service_config::ServiceConfigKey;

use super::partition;

/// A service that speaks AWS JSON 1.1.
#[derive(Debug)]
pub(super) struct JsonService {
    /// Its name for people, in the `services` section of a profile, and in `AWS_ENDPOINT_URL_…`.
    pub(super) id: &'static str,
    /// Its name in signatures, and at the front of its host.
    pub(super) signing_name: &'static str,
    /// What stands before the operation in `X-Amz-Target`.
    pub(super) target: &'static str,
}

/// Tells which task a service runs.
pub(super) const ECS: JsonService =
    JsonService { id: "ECS", signing_name: "ecs", target: "AmazonEC2ContainerServiceV20141113" };

/// Makes the data keys of sessions that are encrypted.
pub(super) const KMS: JsonService = JsonService { id: "KMS", signing_name: "kms", target: "TrentService" };

impl JsonService {
    /// The endpoint for a region: `AWS_ENDPOINT_URL_…` of the service, `AWS_ENDPOINT_URL`, the profile's `services`
    /// section and its `endpoint_url`, in the order of the SDKs, else AWS's own. `--endpoint-url` is for SSM and does
    /// not count.
    pub(super) fn url(&self, config: &SdkConfig, region: &str) -> String {
        self.configured(config).unwrap_or_else(|| {
            let fips = config.use_fips().unwrap_or_default();
            let dual_stack = config.use_dual_stack().unwrap_or_default();
            format!("https://{}", self.host(region, fips, dual_stack))
        })
    }

    fn configured(&self, config: &SdkConfig) -> Option<String> {
        let own = || {
            let key = ServiceConfigKey::builder().service_id(self.id).env("AWS_ENDPOINT_URL").profile("endpoint_url");
            config.service_config()?.load_config(key.build().ok()?)
        };
        let all = || config.endpoint_url().map(str::to_owned);
        // What a program has set is meant for every service.
        let url = if config.get_origin("endpoint_url").is_client_config() { all() } else { own().or_else(all) };
        url.filter(|url| !url.is_empty())
    }

    fn host(&self, region: &str, fips: bool, dual_stack: bool) -> String {
        let fips = if fips { "-fips" } else { "" };
        format!("{}{fips}.{region}.{}", self.signing_name, partition::suffix(region, dual_stack))
    }
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
            assert_eq!(ECS.host(region, fips, dual_stack), expected);
        }
        assert_eq!(KMS.host("us-gov-west-1", true, false), "kms-fips.us-gov-west-1.amazonaws.com");
    }

    #[test]
    fn an_override_wins() {
        let config = SdkConfig::builder().endpoint_url("http://127.0.0.1:1").build();
        assert_eq!(ECS.url(&config, "eu-west-1"), "http://127.0.0.1:1");
        let config = SdkConfig::builder().endpoint_url("").use_fips(true).build();
        assert_eq!(ECS.url(&config, "eu-west-1"), "https://ecs-fips.eu-west-1.amazonaws.com");
    }
}
