//! What can be asked of the soak.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Breaks the network under a running ssmfwd for as long as asked, and checks every byte.
///
/// Fifty connections move checked data in both directions and one MariaDB client runs transactions, while a seeded
/// chaos takes away websockets, tokens, credentials and the network itself. SSMFWD_BIN_DIR names the folder of
/// another `ssmfwd` than the one of this build. Status 0 if all held, 1 if not.
#[derive(Debug, Clone, Parser)]
#[command(name = "soak")]
pub(crate) struct Options {
    /// How long to go on [default: 180]
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    seconds: Option<u64>,

    /// How long to go on
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,

    /// What to do to the network
    #[arg(long, value_name = "NAME", default_value = "chaos")]
    pub(crate) profile: Profile,

    /// Of all that is random here. The same seed orders the same chaos; when it strikes is up to the machine [default: any]
    #[arg(long, value_name = "N", env = "SSMFWD_SEED")]
    seed: Option<u64>,

    /// Connections that move checked data
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) connections: u64,

    /// The longest round trip, milliseconds
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub(crate) rtt_max_ms: u64,

    /// One session is ended from outside after that many seconds or up to twice as many, again and again; 0: only once,
    /// when all else is over. Sessions that are ended when they are younger than a minute are started again later and
    /// later, and connections do not wait for that
    #[arg(long, value_name = "N", default_value_t = 90)]
    pub(crate) end_every: u64,

    /// How the emulated agent behaves: `realistic` gives 0.7 MB/s down in a session, `ideal` what the machine can
    #[arg(long, value_name = "KIND", default_value = "realistic")]
    pub(crate) agent: Agent,

    /// https and wss
    #[arg(long)]
    pub(crate) tls: bool,

    /// Without MariaDB
    #[arg(long)]
    pub(crate) no_database: bool,

    /// Print each move of the chaos, and each event of ssmfwd that is not about a connection
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

/// What is done to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// A disconnect every few seconds, and everything else that there is a lever for.
    Chaos,
    /// Only `1000 Bye`, to both ends of every session, every second, and short intervals everywhere: nothing may grow.
    Bye,
}

/// The emulated agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Agent {
    Realistic,
    Ideal,
}

impl Options {
    pub(crate) fn length(&self) -> Duration {
        match (self.minutes, self.seconds) {
            (Some(minutes), _) => Duration::from_secs(60 * minutes),
            (None, seconds) => Duration::from_secs(seconds.unwrap_or(180)),
        }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| fastrand::u64(..))
    }
}

impl Profile {
    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chaos => "chaos",
            Self::Bye => "bye",
        }
    }
}
