//! The partitions of AWS as seen in host names. Which services exist where is not known here.

/// A partition: its name in ARNs, how its regions begin, the suffix of its hosts, and that of its dual-stack hosts.
struct Partition {
    id: &'static str,
    regions: &'static str,
    suffix: &'static str,
    dual_stack: &'static str,
}

const fn partition(
    id: &'static str,
    regions: &'static str,
    suffix: &'static str,
    dual_stack: &'static str,
) -> Partition {
    Partition { id, regions, suffix, dual_stack }
}

/// As in the partition table that the SDK carries (aws-sdk-ssm 1.133: all eight partitions, one of them with two kinds
/// of regions). Whether Session Manager has dual-stack hosts in the isolated partitions is not known; that these names
/// belong to AWS is.
const PARTITIONS: [Partition; 9] = [
    partition("aws-cn", "cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    partition("aws-us-gov", "us-gov-", "amazonaws.com", "api.aws"),
    partition("aws-eusc", "eusc-", "amazonaws.eu", "api.amazonwebservices.eu"),
    partition("aws-iso", "us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
    partition("aws-iso-b", "us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
    partition("aws-iso-e", "eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    partition("aws-iso-f", "us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    partition("aws-iso-f", "eu-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    // All other regions.
    partition("aws", "", "amazonaws.com", "api.aws"),
];

fn of(region: &str) -> Option<&'static Partition> {
    PARTITIONS.iter().find(|partition| region.starts_with(partition.regions))
}

/// The partition of a region as ARNs name it: `aws`, `aws-cn`.
pub(crate) fn id(region: &str) -> &'static str {
    of(region).map_or("aws", |partition| partition.id)
}

fn suffixes() -> impl Iterator<Item = &'static str> {
    PARTITIONS.iter().flat_map(|partition| [partition.suffix, partition.dual_stack])
}

/// The suffix of the hosts of a region.
pub(super) fn suffix(region: &str, dual_stack: bool) -> &'static str {
    match of(region) {
        Some(partition) if dual_stack => partition.dual_stack,
        Some(partition) => partition.suffix,
        None => "amazonaws.com",
    }
}

/// The labels of a lower-case host before the suffix of its partition; `None` if it is not a host of AWS.
pub(super) fn service_labels(host: &str) -> Option<&str> {
    suffixes().find_map(|suffix| host.strip_suffix(suffix)?.strip_suffix('.'))
}

/// Whether a host is AWS's, in any spelling that resolves to one.
pub(super) fn owns(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    suffixes().any(|suffix| suffix == host) || service_labels(host).is_some()
}

/// Whether a text is one label of a host name, in either case.
pub(super) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether a lower-case label looks like a region: `eu-west-1`, `us-gov-east-1`, `eusc-de-east-1`, `us-isob-west-1`.
pub(super) fn is_region(label: &str) -> bool {
    let Some((words, number)) = label.rsplit_once('-') else { return false };
    let words_fit = words.split('-').all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()));
    words_fit
        && (2..=4).contains(&words.split('-').count())
        && (1..=2).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_of_every_partition_are_recognised() {
        for region in [
            "eu-west-1",
            "ap-southeast-7",
            "us-gov-west-1",
            "cn-northwest-1",
            "eusc-de-east-1",
            "us-iso-east-1",
            "us-isob-west-1",
            "eu-isoe-west-1",
            "us-isof-south-1",
        ] {
            assert!(is_region(region), "{region}");
        }
        for other in
            ["", "eu", "eu-1", "eu-west", "eu-west-", "eu--1", "eu-west-1a", "eu-west-100", "EU-west-1", "e.w-1"]
        {
            assert!(!is_region(other), "{other}");
        }
    }

    #[test]
    fn a_region_has_the_partition_of_its_arns() {
        for (region, expected, suffix_of_hosts) in [
            ("eu-west-1", "aws", "amazonaws.com"),
            ("*", "aws", "amazonaws.com"),
            ("cn-north-1", "aws-cn", "amazonaws.com.cn"),
            ("us-gov-east-1", "aws-us-gov", "amazonaws.com"),
            ("eusc-de-east-1", "aws-eusc", "amazonaws.eu"),
            ("us-iso-east-1", "aws-iso", "c2s.ic.gov"),
            ("us-isob-west-1", "aws-iso-b", "sc2s.sgov.gov"),
            ("eu-isoe-west-1", "aws-iso-e", "cloud.adc-e.uk"),
            ("us-isof-south-1", "aws-iso-f", "csp.hci.ic.gov"),
            ("eu-isof-west-1", "aws-iso-f", "csp.hci.ic.gov"),
        ] {
            assert_eq!((id(region), suffix(region, false)), (expected, suffix_of_hosts), "{region}");
        }
    }

    #[test]
    fn hosts_of_aws_are_told_from_lookalikes() {
        for host in ["ssm.eu-west-1.amazonaws.com", "SSM.cn-north-1.AmazonAWS.com.cn", "x.api.aws.", "amazonaws.com"] {
            assert!(owns(host), "{host}");
        }
        for host in ["evilamazonaws.com", "amazonaws.com.evil", "aws", "localhost", "", "."] {
            assert!(!owns(host), "{host}");
        }
    }
}
