//! A unix socket in the file system: private from its first moment, removed at the end.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::{
    adopted::{check, path_of},
    listener::{BACKLOG, BindError},
};

/// How often the lock of a folder is tried for, and the first pause between; each is twice as long as the one before,
/// less than a second together.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// A listening unix socket and its place in the file system.
pub(super) struct UnixSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Of one that we have made.
    _file: Option<SocketFile>,
}

impl UnixSocket {
    /// Listens at `path` with mode 0600. A socket that nothing listens on any more is replaced, anything else at the
    /// path is an error.
    pub(super) fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Unix { path: path.to_owned(), source };
        // Between finding a socket stale and replacing it, another ssmfwd may do the same: one at a time.
        let _lock = lock_folder(path);
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        // Linux makes the file with the mode of the socket; elsewhere that is refused, and does no harm.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600)).ok();
        socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
        let file = SocketFile::of(path).map_err(failed)?;
        // Before `listen`: until then nobody can connect, whatever the umask allows.
        file.make_private().map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(socket.into()).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), _file: Some(file) })
    }

    /// One that listens already, and whose file stays when it is dropped.
    pub(super) fn adopt(listener: StdListener) -> io::Result<Self> {
        check(&listener)?;
        listener.set_nonblocking(true)?;
        let path = path_of(&listener.local_addr()?);
        Ok(Self { listener: UnixListener::from_std(listener)?, path, _file: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The file, removed when dropped if it is still the same.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }

    /// Sees to it that its mode is 0600. An error if somebody has put another file in its place: that one is not touched.
    fn make_private(&self) -> io::Result<()> {
        if self.mode()? != 0o600 {
            // This follows a link, and what is put there between the two looks is found by the second.
            fs::set_permissions(&self.path, Permissions::from_mode(0o600))?;
        }
        match self.mode()? {
            0o600 => Ok(()),
            mode => Err(io::Error::other(format!("its mode is {mode:o}, although 600 was set"))),
        }
    }

    /// Its permissions, if it is still the same socket, and ours.
    fn mode(&self) -> io::Result<u32> {
        let file = fs::symlink_metadata(&self.path)?;
        let same = file.file_type().is_socket() && (file.dev(), file.ino()) == self.identity;
        if !same || file.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("another file was put in the place of the socket"));
        }
        Ok(file.permissions().mode() & 0o777)
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the unix socket");
        }
    }
}

/// Held while a socket is replaced. Best effort: a folder that cannot be read cannot be locked, and whoever can read it
/// can hold its lock for ever.
#[expect(clippy::disallowed_methods, reason = "less than a second, before anything is served, and mostly nothing")]
fn lock_folder(path: &Path) -> Option<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let folder = File::open(folder).ok()?;
    for attempt in 0..LOCK_TRIES {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE * (1 << attempt.min(8))),
            Err(TryLockError::Error(_)) => return None,
        }
    }
    tracing::debug!(path = %path.display(), "somebody holds the lock of the folder");
    None
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Unix { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    // Without blocking: a listener whose backlog is full is alive too.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    probe.set_nonblocking(true).map_err(failed)?;
    match probe.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed(error)),
        _ => Err(BindError::UnixInUse { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[tokio::test]
    async fn a_socket_is_private_and_removed_at_the_end() {
        let folder = folder();
        let path = folder.path().join("db.sock");
        let socket = UnixSocket::bind(&path).expect("a free path");
        let metadata = fs::symlink_metadata(&path).expect("the socket's file");
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(socket.path(), path);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let folder = folder();
        let path = folder.path().join("db.sock");
        drop(StdListener::bind(&path).expect("a free path"));
        assert!(path.exists(), "std leaves the file behind");
        let _socket = UnixSocket::bind(&path).expect("nothing listens");
        std::os::unix::net::UnixStream::connect(&path).expect("now something does");
    }

    #[tokio::test]
    async fn a_live_socket_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("db.sock");
        let live = StdListener::bind(&path).expect("a free path");
        let error = UnixSocket::bind(&path).err().expect("something listens");
        assert!(matches!(error, BindError::UnixInUse { .. }), "{error}");
        live.accept().expect("still there");
        std::os::unix::net::UnixStream::connect(&path).expect("still reachable");
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let folder = folder();
        let file = folder.path().join("file");
        fs::write(&file, "precious").expect("a file");
        let link = folder.path().join("link");
        symlink(folder.path().join("nowhere"), &link).expect("a link");
        for path in [&file, &link, &folder.path().to_owned()] {
            let error = UnixSocket::bind(path).err().expect("not a socket");
            assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        }
        assert_eq!(fs::read(&file).expect("still there"), b"precious");
    }

    #[tokio::test]
    async fn a_folder_that_somebody_has_locked_hangs_nobody() {
        let folder = folder();
        let held = File::open(folder.path()).expect("a folder");
        held.try_lock().expect("nobody holds it");
        let _socket = UnixSocket::bind(&folder.path().join("db.sock")).expect("a free path");
        drop(held);
    }

    #[test]
    fn the_mode_of_another_file_is_not_touched() {
        let folder = folder();
        let path = folder.path().join("db.sock");
        let precious = folder.path().join("precious");
        fs::write(&precious, "").expect("a file");
        fs::set_permissions(&precious, Permissions::from_mode(0o644)).expect("our file");
        let _listener = StdListener::bind(&path).expect("a free path");
        let file = SocketFile::of(&path).expect("the socket");
        fs::rename(&path, folder.path().join("moved")).expect("a rename");
        symlink(&precious, &path).expect("a link");
        file.make_private().expect_err("not the socket");
        assert_eq!(fs::metadata(&precious).expect("a file").permissions().mode() & 0o777, 0o644);
    }

    #[tokio::test]
    async fn somebody_elses_file_is_not_removed() {
        let folder = folder();
        let path = folder.path().join("db.sock");
        let ours = UnixSocket::bind(&path).expect("a free path");
        fs::rename(&path, folder.path().join("moved")).expect("a rename");
        fs::write(&path, "new").expect("a file");
        drop(ours);
        assert_eq!(fs::read(&path).expect("still there"), b"new");
    }

    #[tokio::test]
    async fn errors_name_the_path_and_the_cause() {
        let folder = folder();
        let path = folder.path().join("missing").join("db.sock");
        let error = UnixSocket::bind(&path).err().expect("no such folder");
        assert!(error.to_string().contains("missing/db.sock"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
        let long = folder.path().join("x".repeat(200));
        assert!(matches!(UnixSocket::bind(&long), Err(BindError::Unix { .. })));
    }
}
