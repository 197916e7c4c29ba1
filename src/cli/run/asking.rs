//! What somebody at the terminal is asked for where a session cannot be started without it: a target, and a login.

use std::time::Duration;

use super::{
    clouds::{Loaded, load},
    over::Over,
};
use crate::cli::{
    args::Args,
    config::Targetless,
    login::{self, Offered},
    picker,
    plan::{Access, PlannedForward},
    prompt::somebody_is_there,
    report::Report,
    reporter::Reporter,
    signals::{Signal, Signals},
};

/// A target that somebody has chosen.
pub(in crate::cli) struct Asked {
    pub(in crate::cli) target: String,
    /// What it was looked up with.
    pub(in crate::cli) loaded: Loaded,
}

/// Makes a plan of the arguments. Who has named no target is asked for one, if there is somebody to ask and nothing else
/// is wrong; the answer is the target in `args` from then on.
pub(in crate::cli) async fn planned<P>(
    args: &mut Args,
    plan: impl Fn(&Args) -> Result<P, Report>,
    forwards: impl Fn(&P) -> &[PlannedForward],
    signals: &mut Signals,
    reporter: &Reporter,
) -> Result<(P, Option<Asked>), Over> {
    let failed = match plan(args) {
        Ok(plan) => return Ok((plan, None)),
        Err(failed) => failed,
    };
    let targetless = somebody_is_there().then(|| Targetless::of(args, &plan, forwards)).flatten();
    let Some(targetless) = targetless else { return Err(Over::Failed(failed)) };
    let asked = ask(targetless, args.session.connect_timeout, signals, reporter).await?;
    args.choose_target(asked.target.clone());
    Ok((plan(args).map_err(Over::Failed)?, Some(asked)))
}

/// The nodes to choose from take credentials, and so perhaps a login.
async fn ask(
    targetless: Targetless,
    limit: Duration,
    signals: &mut Signals,
    reporter: &Reporter,
) -> Result<Asked, Over> {
    let mut login = LoginOffer::default();
    let Targetless { tunnels, access: asked } = targetless;
    loop {
        let mut access = asked.clone();
        let asking = async {
            let aws = load(&mut access, limit).await?;
            let target = picker::ask(&aws, &access, &tunnels, reporter).await?;
            Ok::<_, Report>((aws, target))
        };
        let answer = tokio::select! {
            answer = asking => answer,
            signal = signals.next() => return Err(Over::Signal(signal)),
        };
        match answer {
            Ok((aws, Some(target))) => return Ok(Asked { target, loaded: Loaded { asked, access, aws } }),
            Ok((_, None)) => return Err(Over::Signal(Signal::Interrupt)),
            Err(report) => login.after(report, &access, signals, reporter).await?,
        }
    }
}

/// The login that may be offered where credentials are missing or have expired: once, for one that has not helped will
/// not.
#[derive(Debug, Default)]
pub(in crate::cli) struct LoginOffer {
    made: bool,
}

impl LoginOffer {
    /// Offers the login that a failure calls for. `Ok`: what failed can be tried again, from the start.
    pub(in crate::cli) async fn after(
        &mut self,
        report: Report,
        access: &Access,
        signals: &mut Signals,
        reporter: &Reporter,
    ) -> Result<(), Over> {
        if std::mem::replace(&mut self.made, true) {
            return Err(Over::Failed(report));
        }
        match login::offer(&report, access, signals, reporter).await {
            Offered::LoggedIn => Ok(()),
            Offered::No => Err(Over::Failed(report)),
            Offered::Failed(report) => Err(Over::Failed(report)),
            Offered::Signal(signal) => Err(Over::Signal(signal)),
        }
    }
}
