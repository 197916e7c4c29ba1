//! What rows are made of: an emulated AWS and clients as processes of their own, a destination, load that is checked
//! byte for byte, and figures. Shared with `benches/peers`.

pub(crate) mod client;
pub(crate) mod destination;
pub(crate) mod emulator;
pub(crate) mod load;
pub(crate) mod pattern;
pub(crate) mod ping_pong;
pub(crate) mod process;
pub(crate) mod reference;
pub(crate) mod report;
pub(crate) mod short;
pub(crate) mod transfer;
pub(crate) mod window;
pub(crate) mod workload;

use std::{io::Write as _, path::PathBuf, time::Duration};

/// What a row ends with if it cannot be measured.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Outcome<T> = Result<T, Fault>;

/// Only ends what hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Tells whoever started this part of the bench where it listens.
pub(crate) fn announce(address: std::net::SocketAddr) -> std::io::Result<()> {
    tell(&serde_json::json!({"address": address.to_string()}))
}

/// One line of a part of this bench for whoever started it.
pub(crate) fn tell(what: &serde_json::Value) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{what}")?;
    stdout.flush()
}

/// A program under test: of the folder `SSMFWD_BIN_DIR`, or the one that cargo built beside this bench.
pub(crate) fn built(name: &str) -> Outcome<PathBuf> {
    if let Some(folder) = std::env::var_os("SSMFWD_BIN_DIR") {
        return Ok(PathBuf::from(folder).join(name));
    }
    let beside = match name {
        "ssmfwd" => option_env!("CARGO_BIN_EXE_ssmfwd"),
        "ssmfwd-emulator" => option_env!("CARGO_BIN_EXE_ssmfwd-emulator"),
        _ => None,
    };
    beside.map(PathBuf::from).ok_or_else(|| format!("SSMFWD_BIN_DIR must name the folder of {name}").into())
}
