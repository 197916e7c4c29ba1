//! Chromium without a screen, for whoever opens a page through `BROWSER`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::program::{client, find, write};

/// One browser that starts when the script is run. Ends with the test.
pub(crate) struct Browser {
    folder: TempDir,
}

impl Browser {
    pub(crate) fn new() -> Self {
        let browser = Self { folder: tempfile::tempdir().expect("a folder") };
        let (chromium, folder) = (find("chromium", "chromium"), browser.folder.path().display());
        // The sandbox needs rights that containers do not give; what is shown is the emulator's.
        write(
            &browser.script(),
            format!(
                "#!/bin/sh\necho $$ >'{folder}/pid'\nexport HOME='{folder}'\nexec '{}' --headless=new --no-sandbox \
                 --disable-gpu --no-first-run --disable-background-networking --user-data-dir='{folder}/profile' \"$1\" \
                 >'{folder}/log' 2>&1\n",
                chromium.display()
            ),
        );
        fs::set_permissions(browser.script(), fs::Permissions::from_mode(0o700)).expect("a file of ours");
        browser
    }

    /// For `BROWSER`.
    pub(crate) fn script(&self) -> PathBuf {
        self.file("browser")
    }

    /// The program behind it, once it was started.
    pub(crate) fn pid(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.file("pid")).ok()?;
        Pid::from_raw(pid.trim().parse().ok()?)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(Path::new(name))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let Some(pid) = self.pid() else { return };
        if std::thread::panicking() {
            eprintln!("the browser said:\n{}", fs::read_to_string(self.file("log")).unwrap_or_default());
        }
        if kill_process(pid, Signal::KILL).is_ok() {
            // Not our child: its files go when it has gone.
            let mut gone: Command = client("tail", "coreutils");
            drop(gone.arg(format!("--pid={}", pid.as_raw_nonzero())).args(["-f", "/dev/null"]).status());
        }
    }
}
