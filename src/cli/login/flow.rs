//! One login, with a person: which way, what is shown, the browser.

use std::io;

use crate::{
    aws::login::{Authorization, Center, LoginError, Oidc, Token, TokenFile},
    cli::{clock::Timestamp, reporter::Reporter},
};

/// How somebody logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// On a page in this machine's browser, which is opened.
    Browser,
    /// On the same page, which is not opened.
    Page,
    /// With a code on any machine; where there is a browser, it is opened.
    DeviceWithBrowser,
    /// With a code on any machine.
    Device,
}

impl Way {
    /// What was asked for, and what the machine allows. `is_set` knows the variables of the environment.
    pub(super) fn choose(center: &Center, device: bool, no_browser: bool, is_set: impl Fn(&str) -> bool) -> Self {
        // The page comes back to 127.0.0.1, which over SSH is another machine than the one with the browser. Whoever
        // sets BROWSER there has a way.
        let is_remote = ["SSH_CONNECTION", "SSH_TTY"].into_iter().any(&is_set)
            && !["DISPLAY", "WAYLAND_DISPLAY", "BROWSER"].into_iter().any(&is_set);
        if device || is_remote {
            return Self::Device;
        }
        // As the AWS CLI: the older form of a profile knows no other way.
        let legacy = center.session().is_none();
        match (legacy, no_browser) {
            (true, true) => Self::Device,
            (true, false) => Self::DeviceWithBrowser,
            (false, true) => Self::Page,
            (false, false) => Self::Browser,
        }
    }
}

/// Logs in and keeps the token.
pub(super) async fn log_in(oidc: &Oidc, file: &TokenFile, way: Way, reporter: &Reporter) -> Result<Token, LoginError> {
    let token = match way {
        Way::Browser if can_open() => match with_browser(oidc, reporter).await? {
            Some(token) => token,
            None => with_code(oidc, false, reporter).await?,
        },
        Way::Browser => {
            reporter.say("there is no browser that could be opened: BROWSER can name one");
            with_code(oidc, false, reporter).await?
        }
        Way::Page => {
            let authorization = oidc.authorize().await?;
            show_page(oidc, &authorization, "open this address in a browser on this machine", reporter);
            authorization.finish().await?
        }
        Way::DeviceWithBrowser => with_code(oidc, can_open(), reporter).await?,
        Way::Device => with_code(oidc, false, reporter).await?,
    };
    file.write(&token)?;
    let until = Timestamp::of(token.expires_at()).to_minutes();
    let renewed =
        if token.is_refreshable(oidc.now()) { ", renewed by itself for as long as the session allows" } else { "" };
    reporter.say(&format!("logged in to {} until {until}{renewed}", oidc.center().name()));
    Ok(token)
}

/// `None`: the browser could not be opened after all.
async fn with_browser(oidc: &Oidc, reporter: &Reporter) -> Result<Option<Token>, LoginError> {
    let authorization = oidc.authorize().await?;
    show_page(oidc, &authorization, "the browser opens; if it does not, open this address on this machine", reporter);
    let url = authorization.url().to_owned();
    // A browser in the terminal holds its thread until it is left: the page's answer comes before that.
    let mut opening = tokio::task::spawn_blocking(move || webbrowser::open(&url));
    let mut finishing = std::pin::pin!(authorization.finish());
    let opened = tokio::select! {
        token = &mut finishing => return token.map(Some),
        opened = &mut opening => opened.map_err(io::Error::other).flatten(),
    };
    match opened {
        Ok(()) => finishing.await.map(Some),
        Err(error) => {
            reporter.say(&format!("the browser cannot be opened: {error}"));
            Ok(None)
        }
    }
}

async fn with_code(oidc: &Oidc, open: bool, reporter: &Reporter) -> Result<Token, LoginError> {
    let device = oidc.device().await?;
    let page = device.page_with_code().unwrap_or_else(|| device.page()).to_owned();
    let name = oidc.center().name();
    reporter.show(&format!("to log in to {name}, open this address in a browser on any machine:"));
    reporter.show(&page);
    let what = if device.page_with_code().is_some() { "check that the page shows" } else { "type in" };
    reporter.show(&format!("and {what} the code {}", device.user_code()));
    if open {
        // A convenience: the address is there.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = webbrowser::open(&page) {
                tracing::debug!(%error, "the browser cannot be opened");
            }
        });
    }
    device.finish().await
}

fn show_page(oidc: &Oidc, authorization: &Authorization<'_>, how: &str, reporter: &Reporter) {
    reporter.show(&format!("to log in to {}, {how}:", oidc.center().name()));
    reporter.show(authorization.url());
}

/// Whether there seems to be a browser.
fn can_open() -> bool {
    webbrowser::Browser::is_available()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_follows_the_options_the_profile_and_the_machine() {
        let session = Center::for_test(Some("corp"));
        let legacy = Center::for_test(None);
        let way = |center: &Center, device, no_browser, set: &[&str]| {
            Way::choose(center, device, no_browser, |name| set.contains(&name))
        };
        for (device, no_browser, set, of_session, of_legacy) in [
            (false, false, &[][..], Way::Browser, Way::DeviceWithBrowser),
            (false, true, &[], Way::Page, Way::Device),
            (true, false, &[], Way::Device, Way::Device),
            (false, false, &["SSH_CONNECTION"], Way::Device, Way::Device),
            (false, true, &["SSH_TTY"], Way::Device, Way::Device),
            (false, false, &["SSH_CONNECTION", "DISPLAY"], Way::Browser, Way::DeviceWithBrowser),
            (false, false, &["SSH_CONNECTION", "BROWSER"], Way::Browser, Way::DeviceWithBrowser),
        ] {
            assert_eq!(way(&session, device, no_browser, set), of_session, "{set:?}");
            assert_eq!(way(&legacy, device, no_browser, set), of_legacy, "{set:?}");
        }
    }
}
