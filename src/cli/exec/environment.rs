//! The variables of COMMAND: what tells it of the forwards, and what of ours is not for it.
//!
//! Everything else passes, the user's AWS variables and our own options (`SSMFWD_TARGET`) included: COMMAND may well be
//! another program of AWS, or another ssmfwd.

use std::ffi::OsString;

use super::{Endpoint, Endpoints};
use crate::cli::own_variables::OwnVariables;

/// Options that only one process can have.
const OURS: [&str; 2] = ["SSMFWD_READY_FD", "SSMFWD_ADMIN"];

/// What is meant for this process alone. That which was taken out of the environment could still be in it, if it could
/// not be taken.
pub(super) fn withheld() -> impl Iterator<Item = &'static str> {
    OwnVariables::NAMES.into_iter().chain(OURS)
}

/// The variables that tell of the forwards: `SSMFWD_ADDR`, `_HOST`, `_PORT` of the first one, and the same with
/// [`variable_prefix`] of every named one.
pub(super) fn variables(endpoints: &Endpoints) -> Vec<(String, OsString)> {
    let mut variables = Vec::from(of("SSMFWD", &endpoints.first));
    for (name, endpoint) in &endpoints.named {
        variables.extend(of(&variable_prefix(name), endpoint));
    }
    variables
}

fn of(prefix: &str, endpoint: &Endpoint) -> [(String, OsString); 3] {
    [
        (format!("{prefix}_ADDR"), endpoint.addr.clone()),
        (format!("{prefix}_HOST"), endpoint.host.clone()),
        // Set even if it is empty: a script with `set -u` must not fail, and the port of an outer ssmfwd must not show.
        (format!("{prefix}_PORT"), endpoint.port.clone()),
    ]
}

/// How the variables of a tunnel begin: `SSMFWD_DB` for `db`, `SSMFWD_MY_DB` for `my-db`. Every byte that is no letter or
/// digit of ASCII becomes `_`, so that two names may come to the same: that is an error of the configuration.
pub(in crate::cli) fn variable_prefix(name: &str) -> String {
    let letter = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte.to_ascii_uppercase()) } else { '_' };
    "SSMFWD_".chars().chain(name.bytes().map(letter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::LocalAddress;

    #[test]
    fn names_become_variables() {
        for (name, prefix) in [
            ("db", "SSMFWD_DB"),
            ("my-db", "SSMFWD_MY_DB"),
            ("my.db", "SSMFWD_MY_DB"),
            ("Db2", "SSMFWD_DB2"),
            ("ä", "SSMFWD___"),
        ] {
            assert_eq!(variable_prefix(name), prefix);
        }
    }

    #[test]
    fn the_first_forward_and_every_named_one_are_told() {
        let tcp = |address: &str| Endpoint::of(&[LocalAddress::Tcp(address.parse().expect("an address"))]);
        let unix = Endpoint::of(&[LocalAddress::Unix("/run/db.sock".into())]);
        let (first, unix) = (tcp("127.0.0.1:5").expect("an address"), unix.expect("an address"));
        let endpoints = Endpoints::new(first, vec![("my-db".into(), unix)]);
        let variables = variables(&endpoints);
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| format!("{name}={}", value.to_string_lossy())).collect();
        assert_eq!(variables[..3], ["SSMFWD_ADDR=127.0.0.1:5", "SSMFWD_HOST=127.0.0.1", "SSMFWD_PORT=5"]);
        #[cfg(unix)]
        assert_eq!(
            variables[3..],
            ["SSMFWD_MY_DB_ADDR=/run/db.sock", "SSMFWD_MY_DB_HOST=/run/db.sock", "SSMFWD_MY_DB_PORT="]
        );
    }
}
