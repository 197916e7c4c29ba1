//! `ssmfwd up`: what only this command takes. Its options are those of FORWARD, which the definition adds.

use std::ffi::OsString;

use clap::{ArgAction, Args, builder::FalseyValueParser};

pub(super) const MANUAL: &str = "\
The configuration file is that of --config or SSMFWD_CONFIG, else the first ssmfwd.toml in this folder or one above \
it, else ssmfwd/ssmfwd.toml in the user's folder (XDG_CONFIG_HOME or ~/.config; on Windows APPDATA):

    [defaults]
    profile = \"dev\"
    target = \"name:bastion\"

    [tunnels.db]
    forward = \"13306:rds-endpoint:3306\"

Every option can be a key, by its long name. A flag wins over its variable, that over the tunnel, and that over \
[defaults].

Examples:
    ssmfwd up db
    ssmfwd up --all --linger 2
    ssmfwd up db -- mariadb -h {db.host} -P {db.port}";

/// Named tunnels.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct UpArgs {
    /// The tunnels to open, in this order
    #[arg(value_name = "NAME")]
    pub(in crate::cli) names: Vec<String>,

    /// What to run when all are ready, with its arguments; its exit status becomes that of ssmfwd
    #[arg(value_name = "COMMAND", last = true)]
    pub(in crate::cli) exec: Vec<OsString>,

    /// Open all tunnels of the file
    #[arg(long, action = ArgAction::SetTrue, env = "SSMFWD_ALL", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(in crate::cli) all: bool,
}
