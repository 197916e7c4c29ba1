//! Files that are the user's alone, below the home directory: the tokens and the kept roles that the AWS CLI and the
//! SDKs find there too. What is in them is not this module's.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use aws_smithy_types::{DateTime, date_time::Format};
use sha1::{Digest as _, Sha1};
use zeroize::Zeroizing;

/// Where the SDK looks for `.aws`: the environment alone says it.
pub(super) fn home() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let windows = || -> Option<PathBuf> {
        if !cfg!(windows) {
            return None;
        }
        variable("USERPROFILE").map(PathBuf::from).or_else(|| {
            let mut drive = variable("HOMEDRIVE")?;
            drive.push(variable("HOMEPATH")?);
            Some(drive.into())
        })
    };
    variable("HOME").map(PathBuf::from).or_else(windows)
}

/// The name of the file for a key: its SHA-1 in lower-case hex, and `.json`.
pub(super) fn name(key: &str) -> String {
    let hex: String = Sha1::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    hex + ".json"
}

/// The content of a file of at most `max` bytes.
///
/// # Errors
/// Also if it is larger.
pub(super) fn read(path: &Path, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    if fs::metadata(path)?.len() > max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read(path).map(Zeroizing::new)
}

/// Makes a folder that nobody else can look into, and those above it. One that is there stays as it is.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

/// Writes a file as a whole. Others see the old one or the new one, and nobody but the user sees either.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("{:016x}.tmp", fastrand::u64(..)));
    let written = write_new(&beside, content).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // Nobody wants half a file. If it was not even made, there is nothing to remove.
        fs::remove_file(&beside).ok();
    }
    written
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A time in such a file. The AWS CLI v1 wrote `UTC` where others write `Z` or an offset.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix("UTC").map_or_else(|| text.to_owned(), |time| format!("{time}Z"));
    DateTime::from_str(&text, Format::DateTimeWithOffset).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join(".aws").join("cache");
        let path = folder.join(name("my"));
        assert!(path.ends_with("3ece1471f44f63177cbc35ba0b904e0c096b6783.json"), "{path:?}");
        replace(&path, b"").expect_err("no folder");
        for content in ["long enough", "short"] {
            make_folder(&folder).expect("a folder");
            replace(&path, content.as_bytes()).expect("written");
            assert_eq!(read(&path, 11).expect("a file")[..], *content.as_bytes());
        }
        assert_eq!(read(&path, 4).expect_err("larger").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(&folder)), (0o600, 0o700));
        }
    }

    #[test]
    fn times_are_read_in_every_form_that_is_written() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for text in ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20UTC", "2023-11-14T23:13:20+01:00"] {
            assert_eq!(time(text), Some(expected), "{text}");
        }
        assert_eq!((time("soon"), time("")), (None, None));
    }
}
