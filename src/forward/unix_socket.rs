//! A unix socket in the file system: private from its first moment, removed at the end.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::listener::{BACKLOG, BindError};

/// A listening unix socket and its place in the file system.
pub(super) struct UnixSocket {
    pub(super) listener: UnixListener,
    file: SocketFile,
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
        socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
        let file = SocketFile::of(path).map_err(failed)?;
        // The mode is set before `listen`: until then nobody can connect, whatever the umask allows.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(socket.into()).map_err(failed)?;
        Ok(Self { listener, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.path
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

/// Held while a socket is replaced. Best effort: a folder that cannot be read cannot be locked.
fn lock_folder(path: &Path) -> Option<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let folder = File::open(folder).ok()?;
    folder.lock().ok()?;
    Some(folder)
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
    use std::os::unix::{fs::symlink, net::UnixListener as StdListener};

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
