//! A login in the middle of something else: offered on a terminal where a forward cannot start without it.

use std::io::{self, BufRead as _, Read as _, Write as _};

use super::{
    failure,
    flow::{self, Way},
};
use crate::{
    aws::login::{Center, LoginError, Oidc, Portal, TokenFile, Which},
    cli::{
        exit::Exit,
        plan::Access,
        prompt::somebody_is_there,
        report::Report,
        reporter::Reporter,
        signals::{Signal, Signals},
    },
};

/// Longest answer that is read, bytes.
const ANSWER_MAX: u64 = 1024;

/// What became of an offer.
pub(in crate::cli) enum Offered {
    /// There is nobody to ask or nothing to log in to, or the answer was no: the failure stands.
    No,
    /// What failed can be tried again.
    LoggedIn,
    /// The login failed too.
    Failed(Report),
    /// A signal came meanwhile.
    Signal(Signal),
}

/// Offers the login that a failure for want of credentials calls for.
pub(in crate::cli) async fn offer(
    failed: &Report,
    access: &Access,
    signals: &mut Signals,
    reporter: &Reporter,
) -> Offered {
    if failed.exit != Exit::Credentials || access.keys_in_environment || !somebody_is_there() || reporter.is_quiet() {
        return Offered::No;
    }
    // Only the login of the profile that was used helps, not that of the only session there is.
    let profile = access.profile.clone().unwrap_or_else(|| "default".to_owned());
    // Whatever else may be wrong with the configuration, it is not this that failed.
    let Ok(center) = Center::find(&Which::Profile(profile)).await else { return Offered::No };
    let oidc = Oidc::new(center, access.endpoint_kind()).await;
    let work = async {
        let file = TokenFile::of(oidc.center())?;
        // Something else is wrong where the login is good: a role that needs more than it, for instance.
        if let Some(token) = file.read().filter(|token| token.is_valid(oidc.now()))
            && Portal::new(&oidc).accepts(&token).await
        {
            return Ok(false);
        }
        reporter.show(&format!("the login to {} has expired, or there was none", oidc.center().name()));
        // What is said comes first.
        reporter.flush();
        if !confirmed("ssmfwd: log in now? [Y/n] ").await {
            return Ok(false);
        }
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let way = Way::choose(oidc.center(), false, false, is_set);
        flow::log_in(&oidc, &file, way, reporter).await?;
        Ok::<_, LoginError>(true)
    };
    tokio::select! {
        done = work => match done {
            Ok(true) => Offered::LoggedIn,
            Ok(false) => Offered::No,
            Err(error) => Offered::Failed(failure::report(&error, Some(oidc.center()))),
        },
        signal = signals.next() => Offered::Signal(signal),
    }
}

/// Asks on the terminal. No answer means no, an empty one yes.
async fn confirmed(question: &'static str) -> bool {
    let asking = tokio::task::spawn_blocking(move || {
        let mut stderr = io::stderr();
        stderr.write_all(question.as_bytes())?;
        stderr.flush()?;
        let mut answer = String::new();
        io::stdin().lock().take(ANSWER_MAX).read_line(&mut answer)?;
        Ok::<_, io::Error>(answer)
    });
    asking.await.map_err(io::Error::other).flatten().is_ok_and(|answer| is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    // The end of the input has no line end.
    answer.ends_with('\n') && ["", "y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_is_an_answer() {
        for (answer, yes) in [
            ("\n", true),
            ("y\n", true),
            ("YES\r\n", true),
            (" y \n", true),
            ("", false),
            ("y", false),
            ("n\n", false),
            ("later\n", false),
        ] {
            assert_eq!(is_yes(answer), yes, "{answer:?}");
        }
    }
}
