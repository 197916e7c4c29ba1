//! Who asks AWS, and where. For every command.

use clap::{ArgAction, Args, builder::FalseyValueParser};

/// Credentials, region and endpoints.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct AccessArgs {
    /// The profile of the AWS configuration files
    #[arg(long, global = true, value_name = "NAME", env = "SSMFWD_PROFILE", hide_env_values = true)]
    pub(in crate::cli) profile: Option<String>,

    /// The AWS region
    #[arg(long, global = true, value_name = "REGION", env = "SSMFWD_REGION", hide_env_values = true)]
    pub(in crate::cli) region: Option<String>,

    /// Where the SSM API is, if not at its usual place
    #[arg(long, global = true, value_name = "URL", env = "SSMFWD_ENDPOINT_URL", hide_env_values = true)]
    pub(in crate::cli) endpoint_url: Option<String>,

    /// The code that the profile's MFA device shows now; without it, the terminal is asked
    // As a text: a value that clap refuses, it prints.
    #[arg(long, global = true, value_name = "CODE", env = "SSMFWD_MFA_CODE", hide_env_values = true)]
    pub(in crate::cli) mfa_code: Option<String>,

    /// Where data channels are, if not where the service says: a VPC endpoint for ssmmessages without private DNS
    #[arg(long, global = true, value_name = "URL", env = "SSMFWD_SSMMESSAGES_ENDPOINT", hide_env_values = true)]
    pub(in crate::cli) ssmmessages_endpoint: Option<String>,

    /// Use endpoints with FIPS 140 cryptography
    #[arg(long, global = true, action = ArgAction::SetTrue, env = "SSMFWD_USE_FIPS_ENDPOINT", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(in crate::cli) use_fips_endpoint: bool,

    /// Use endpoints with IPv4 and IPv6
    #[arg(long, global = true, action = ArgAction::SetTrue, env = "SSMFWD_USE_DUALSTACK_ENDPOINT")]
    #[arg(hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(in crate::cli) use_dualstack_endpoint: bool,
}
