//! Where the file is, and whether it may be trusted.
//!
//! ```text
//! --config or SSMFWD_CONFIG, else the first ssmfwd.toml from the working directory up to the root,
//! else ssmfwd/ssmfwd.toml in $XDG_CONFIG_HOME, or in ~/.config (Windows: in %APPDATA%)
//! ```
//!
//! The file decides which credentials are used, and to which endpoint they sign requests. So one that was found and not
//! named must be the user's: a `/tmp/ssmfwd.toml` of somebody else is refused. It is not passed over, because what the
//! user's own file further up says may then be missed. Nothing stops at the border of a file system: what belongs to
//! the user is good on any.

use std::{
    env,
    fs::{self, Metadata},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::source::{self, Source};
use crate::cli::report::Report;

pub(super) const FILE_NAME: &str = "ssmfwd.toml";

/// The largest file, in bytes: room for thousands of tunnels.
const SIZE_MAX: u64 = 1 << 20;

/// What discovery depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    /// The working directory, if it is there.
    pub(super) folder: Option<PathBuf>,
    /// The user's home.
    pub(super) home: Option<PathBuf>,
    /// Where the user's configuration is.
    pub(super) configuration: Option<PathBuf>,
    #[cfg(unix)]
    user: User,
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn of_process() -> Self {
        let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = if cfg!(windows) { folder("USERPROFILE") } else { folder("HOME") };
        let configuration = match cfg!(windows) {
            true => folder("APPDATA"),
            false => folder("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config"))),
        };
        Self {
            folder: env::current_dir().ok(),
            home,
            configuration,
            #[cfg(unix)]
            user: User::of_process(),
        }
    }

    /// Whether a file is that of the user's own folder.
    pub(super) fn is_of_user(&self, path: &Path) -> bool {
        self.configuration.as_ref().is_some_and(|folder| path.starts_with(folder))
    }

    /// Where a file may be, the nearest first.
    fn candidates(&self) -> impl Iterator<Item = PathBuf> {
        let upward = self.folder.iter().flat_map(|folder| folder.ancestors()).map(|folder| folder.join(FILE_NAME));
        upward.chain(self.configuration.iter().map(|folder| folder.join("ssmfwd").join(FILE_NAME)))
    }
}

/// Reads the file that is named, else the first that is found.
///
/// # Errors
/// When it cannot be read, or not be trusted.
pub(super) fn find(named: Option<&Path>, surroundings: &Surroundings) -> Result<Option<Source>, Report> {
    if let Some(path) = named {
        return read(path, fs::File::open(path)).map(Some);
    }
    for path in surroundings.candidates() {
        // Where nobody may look there is nothing to be found.
        let Ok(entry) = fs::symlink_metadata(&path) else { continue };
        return discovered(&path, &entry, surroundings).map(Some);
    }
    Ok(None)
}

#[cfg(unix)]
fn discovered(path: &Path, entry: &Metadata, Surroundings { user, .. }: &Surroundings) -> Result<Source, Report> {
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

    let refused = |why: String| {
        let shown = path.display();
        Report::usage(format!("{shown} was found, and is not used: {why}")).with_hint(format!(
            "it would decide which credentials are used and where requests are sent: if that is wanted, name it with \
             --config {shown}, or make it yours with `chown` and `chmod go-w`"
        ))
    };
    let check = |metadata: &Metadata| match user.distrusts(metadata.uid(), metadata.gid(), metadata.mode()) {
        Some(why) => Err(refused(why)),
        None => Ok(()),
    };
    // The link may be somebody else's, and lead to a file of the user that is not meant.
    if entry.is_symlink() {
        check_owner(user, entry.uid()).map_or(Ok(()), |why| Err(refused(why)))?;
    }
    // Whoever puts a pipe there must not make us wait.
    let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(no_wait).open(path);
    if let Ok(file) = &file {
        // Of what was opened, whatever the path has become.
        let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
        check(&metadata)?;
        if !metadata.is_file() {
            return Err(refused("it is no file".to_owned()));
        }
    }
    read(path, file)
}

#[cfg(not(unix))]
fn discovered(path: &Path, _: &Metadata, _: &Surroundings) -> Result<Source, Report> {
    read(path, fs::File::open(path))
}

/// Who we are.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, Default)]
struct User {
    uid: u32,
    gid: u32,
}

#[cfg(unix)]
impl User {
    fn of_process() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// Why a file is not this user's alone, if so.
    fn distrusts(&self, uid: u32, gid: u32, mode: u32) -> Option<String> {
        /// Write permission of the group and of others.
        const GROUP: u32 = 0o020;
        const OTHERS: u32 = 0o002;
        // Where every user has a group of the same number, files are often writable by it: that is the user alone.
        let is_private = gid == self.gid && gid == self.uid;
        check_owner(self, uid).or_else(|| match mode {
            mode if mode & OTHERS != 0 => Some("everybody can write to it".to_owned()),
            mode if mode & GROUP != 0 && !is_private => Some("its group can write to it".to_owned()),
            _ => None,
        })
    }
}

#[cfg(unix)]
fn check_owner(user: &User, uid: u32) -> Option<String> {
    (uid != user.uid && uid != 0).then(|| format!("it belongs to another user (number {uid})"))
}

fn read(path: &Path, file: io::Result<fs::File>) -> Result<Source, Report> {
    let mut bytes = Vec::new();
    let read = file.and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| unreadable(path, &error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > SIZE_MAX) {
        return Err(Report::usage(format!("{} is larger than 1 MiB", path.display())));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { path: path.to_owned(), text }),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Err(source::mistake(path, source::position(error.as_bytes(), at), "this is not UTF-8"))
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Report {
    Report::usage(format!("cannot read the configuration file {}", path.display())).caused_by(error)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn write(path: &Path, text: impl AsRef<[u8]>, mode: u32) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its owner");
    }

    fn surroundings(root: &Path) -> Surroundings {
        let folder = root.join("a/b/c");
        fs::create_dir_all(&folder).expect("a folder");
        let user = User::of_process();
        Surroundings { folder: Some(folder), home: None, configuration: Some(root.join("config")), user }
    }

    fn found(surroundings: &Surroundings) -> Option<String> {
        find(None, surroundings).expect("nothing hostile").map(|source| source.text)
    }

    #[test]
    fn the_nearest_upward_comes_first_and_the_folder_of_the_user_last() {
        let root = tempfile::tempdir().expect("a folder");
        let surroundings = surroundings(root.path());
        assert_eq!(found(&surroundings), None);
        for (place, name) in [("config/ssmfwd", "user"), ("", "root"), ("a/b", "b"), ("a/b/c", "c")] {
            write(&root.path().join(place).join(FILE_NAME), name, 0o644);
            assert_eq!(found(&surroundings).as_deref(), Some(name));
        }
        let named = root.path().join(FILE_NAME);
        assert_eq!(find(Some(&named), &surroundings).expect("readable").expect("there").text, "root");
        let missing = find(Some(Path::new("/nowhere/x")), &surroundings).expect_err("not there").to_string();
        assert!(missing.contains("cannot read the configuration file /nowhere/x"), "{missing}");
    }

    #[test]
    fn what_others_may_have_written_is_refused_unless_it_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        let surroundings = surroundings(root.path());
        let path = root.path().join("a").join(FILE_NAME);
        write(&path, "", 0o646);
        let report = find(None, &surroundings).expect_err("hostile").to_string();
        assert!(report.contains("everybody can write to it") && report.contains("--config /"), "{report}");
        assert_eq!(find(Some(&path), &surroundings).expect("named").expect("there").text, "");
        let _folder_is_no_file = fs::remove_file(&path).and_then(|()| fs::create_dir(&path));
        assert!(find(None, &surroundings).expect_err("a folder").to_string().contains("it is no file"));
    }

    #[test]
    fn a_pipe_is_refused_at_once_and_a_link_of_the_user_is_good() {
        let root = tempfile::tempdir().expect("a folder");
        let surroundings = surroundings(root.path());
        let path = root.path().join("a/b/c").join(FILE_NAME);
        let pipe = std::process::Command::new("mkfifo").arg(&path).status().expect("coreutils");
        assert!(pipe.success());
        assert!(find(None, &surroundings).expect_err("a pipe").to_string().contains("it is no file"));
        fs::remove_file(&path).expect("ours");
        write(&root.path().join("real"), "linked", 0o600);
        symlink(root.path().join("real"), &path).expect("a link");
        assert_eq!(found(&surroundings).as_deref(), Some("linked"));
        fs::remove_file(root.path().join("real")).expect("ours");
        // A link that leads nowhere was meant to be a file.
        assert!(find(None, &surroundings).is_err());
    }

    #[test]
    fn owners_and_modes() {
        let user = User { uid: 1000, gid: 1000 };
        for (uid, gid, mode, expected) in [
            (1000, 1000, 0o100_644, None),
            (1000, 1000, 0o100_664, None),
            (1000, 50, 0o100_644, None),
            (0, 0, 0o100_644, None),
            (0, 0, 0o100_664, Some("its group")),
            (1000, 50, 0o100_664, Some("its group")),
            (1000, 1000, 0o100_666, Some("everybody")),
            (1001, 1000, 0o100_600, Some("another user (number 1001)")),
        ] {
            let why = user.distrusts(uid, gid, mode);
            assert_eq!(why.is_some(), expected.is_some(), "{uid} {gid} {mode:o}");
            assert!(why.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
        // A group with many members.
        assert!(User { uid: 1000, gid: 100 }.distrusts(1000, 100, 0o100_664).is_some());
    }

    #[test]
    fn size_and_encoding_are_checked() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("x");
        let error = |content: &[u8]| {
            write(&path, content, 0o600);
            find(Some(&path), &Surroundings::default()).expect_err("not valid").error
        };
        assert!(error(&vec![b'\n'; (1 << 20) + 1]).ends_with("is larger than 1 MiB"));
        assert!(error(b"[defaults]\nreason = \"\xff\"\n").ends_with("x:2:11: this is not UTF-8"));
    }
}
