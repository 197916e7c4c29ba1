//! What `-V` and `--version` say. `build.rs` finds it out.

/// The version, and the commit where it is known: `0.1.0 (abc1234)`.
pub(super) const SHORT: &str = env!("SSMFWD_BUILD_VERSION");

/// The same with what it was built with, for reports of bugs.
pub(super) const LONG: &str = concat!(
    env!("SSMFWD_BUILD_VERSION"),
    "\nfeatures: ",
    env!("SSMFWD_BUILD_FEATURES"),
    "\ntarget:   ",
    env!("SSMFWD_BUILD_TARGET"),
    "\nprofile:  ",
    env!("SSMFWD_BUILD_PROFILE"),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_crate_and_says_how_it_was_built() {
        assert!(SHORT.starts_with(env!("CARGO_PKG_VERSION")), "{SHORT}");
        let lines: Vec<_> = LONG.lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
        assert_eq!(lines, [SHORT, "features", "target", "profile"]);
        assert!(LONG.lines().all(|line| !line.trim_end().ends_with(':')), "{LONG}");
    }
}
