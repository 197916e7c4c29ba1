//! Forwards, tunnels and shells that lack nothing but a target: somebody may be asked for it.

use crate::cli::{
    args::Args,
    plan::{Access, PlannedForward},
    report::Report,
};

/// Any target that is valid.
const SOME_TARGET: &str = "i-0";

/// What lacks a target.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Targetless {
    /// The names of the tunnels; FORWARDs that were typed have none.
    pub(in crate::cli) tunnels: Vec<String>,
    /// Where a target for all of them is to be found.
    pub(in crate::cli) access: Access,
}

impl Targetless {
    /// What has no target of what the arguments come to. `None` if nothing lacks one, if something else is wrong too, or
    /// if targets would have to be looked for in more than one place: one answer is for all.
    pub(in crate::cli) fn of<P>(
        args: &Args,
        plan: impl Fn(&Args) -> Result<P, Report>,
        forwards: impl FnOnce(&P) -> &[PlannedForward],
    ) -> Option<Self> {
        plan(args).err()?;
        let mut with_target = args.clone();
        with_target.choose_target(SOME_TARGET.to_owned());
        let plan = plan(&with_target).ok()?;
        let lacking = forwards(&plan).iter().filter(|forward| forward.request.target == SOME_TARGET);
        let (tunnels, mut places): (Vec<_>, Vec<_>) =
            lacking.map(|forward| (forward.tunnel.clone(), forward.access.clone())).unzip();
        places.dedup();
        let [access] = <[Access; 1]>::try_from(places).ok()?;
        Some(Self { tunnels: tunnels.into_iter().flatten().collect(), access })
    }
}
