//! What `--version` says beside the version: the commit, the features, the target and the profile.
//!
//! Nothing is asked of the clock or of other programs, so that the same sources give the same program anywhere: the
//! commit is read from the files of git (also in a worktree, and also where git would not trust the owner of the
//! folder), from what `cargo package` leaves in a published crate, or from `SSMFWD_COMMIT`, which wins. Where there is
//! none, there is none.
//!
//! Debug builds have no commit: it would compile the library anew after each.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Digits of a commit that are shown.
const SHORT: usize = 7;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SSMFWD_COMMIT");
    let profile = profile();
    let version = variable("CARGO_PKG_VERSION");
    let commit = if variable("PROFILE") == "release" { commit() } else { None };
    let short = commit.map_or_else(|| version.clone(), |commit| format!("{version} ({commit})"));
    let features = if env::var_os("CARGO_FEATURE_EMULATOR").is_some() { "emulator" } else { "none" };
    println!("cargo::rustc-env=SSMFWD_BUILD_VERSION={short}");
    println!("cargo::rustc-env=SSMFWD_BUILD_FEATURES={features}");
    println!("cargo::rustc-env=SSMFWD_BUILD_TARGET={}", variable("TARGET"));
    println!("cargo::rustc-env=SSMFWD_BUILD_PROFILE={profile}");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// The name of the profile: `PROFILE` knows only debug and release. The folder is `…/PROFILE/build/ssmfwd-…/out`.
fn profile() -> String {
    let out = PathBuf::from(variable("OUT_DIR"));
    let folder = out.ancestors().nth(3).and_then(Path::file_name).and_then(|name| name.to_str());
    folder.map_or_else(|| variable("PROFILE"), str::to_owned)
}

fn commit() -> Option<String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let told = env::var("SSMFWD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = told.or_else(|| packaged(&root)).or_else(|| checked_out(&root))?;
    let is_plain = commit.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._+".contains(&byte));
    is_plain.then(|| commit.chars().take(if is_hash(&commit) { SHORT } else { 40 }).collect())
}

fn is_hash(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// From `.cargo_vcs_info.json`: `{"git":{"sha1":"…"}}`.
fn packaged(root: &Path) -> Option<String> {
    let text = read(&root.join(".cargo_vcs_info.json"))?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    let hash = rest.split('"').nth(1)?;
    is_hash(hash).then(|| hash.to_owned())
}

/// From the files of git, if the sources are the top of a repository: a vendored copy has another one around it.
fn checked_out(root: &Path) -> Option<String> {
    let dot_git = root.join(".git");
    // In a worktree it is a file: `gitdir: …`.
    let git =
        if dot_git.is_file() { root.join(read(&dot_git)?.trim().strip_prefix("gitdir:")?.trim()) } else { dot_git };
    let common = match fs::read_to_string(git.join("commondir")) {
        Ok(path) => git.join(path.trim()),
        Err(_) => git.clone(),
    };
    let head = read(&git.join("HEAD"))?;
    let Some(name) = head.trim().strip_prefix("ref:").map(str::trim) else {
        return is_hash(head.trim()).then(|| head.trim().to_owned());
    };
    let loose = common.join(name);
    if let Some(hash) = read(&loose) {
        return Some(hash.trim().to_owned()).filter(|hash| is_hash(hash));
    }
    // Not watched itself: a file that is not there counts as changed. The folder changes when it comes.
    if let Some(folder) = loose.ancestors().skip(1).find(|folder| folder.is_dir()) {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    let packed = read(&common.join("packed-refs"))?;
    let line = packed.lines().find(|line| line.split_once(' ').is_some_and(|(_, packed)| packed == name))?;
    line.split_once(' ').map(|(hash, _)| hash.to_owned()).filter(|hash| is_hash(hash))
}

/// A file, which is watched from now on; `None` if there is none.
fn read(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    println!("cargo::rerun-if-changed={}", file.display());
    Some(text)
}
