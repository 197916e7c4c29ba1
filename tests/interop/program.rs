//! Programs of other people: where they are, and running one to its end.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    thread,
};

use super::data::Digest;

/// How long one client may run, seconds. Generous: it only turns a hang into a failure.
const LIMIT: &str = "900";

/// Folders beside PATH where servers are installed.
const FOLDERS: &[&str] = &["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// The path of a program; a missing one fails the test.
pub(crate) fn find(name: &str, package: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates = env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from)).chain(postgresql_folders());
    let found = candidates.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: this test needs the Debian package {package}"))
}

/// Debian keeps PostgreSQL's programs by version, most of them not on PATH; the newest comes first.
fn postgresql_folders() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders
}

/// The AWS CLI, of which there are two generations with one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AwsCli {
    /// Of PyPI. It knows `AWS_ENDPOINT_URL`.
    V1,
    /// Of Debian, or of AWS. Debian 12's does not know it.
    V2,
}

impl AwsCli {
    /// Where it is: the first on PATH whose version it is, or where the gate installs what PATH has not.
    pub(crate) fn path(self) -> &'static Path {
        static FOUND: OnceLock<Vec<(String, PathBuf)>> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            let path = env::var_os("PATH").unwrap_or_default();
            let gate = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/ci-aws-cli/bin");
            let mut files: Vec<_> = env::split_paths(&path).chain([gate]).map(|folder| folder.join("aws")).collect();
            files.retain(|file| file.is_file());
            // Of two that are one and the same, links included, one will do.
            let mut known = Vec::new();
            files.retain(|file| {
                let real = file.canonicalize().unwrap_or_else(|_| file.clone());
                !known.contains(&real) && {
                    known.push(real);
                    true
                }
            });
            let version = |file: &PathBuf| {
                let said = Command::new(file).arg("--version").output().expect("it can be started");
                // The oldest said it on stderr.
                String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
            };
            files.into_iter().map(|file| (version(&file), file)).collect()
        });
        let (start, remedy) = match self {
            Self::V1 => ("aws-cli/1.", "PyPI's package awscli, on PATH or in target/ci-aws-cli"),
            Self::V2 => ("aws-cli/2.", "the Debian package awscli"),
        };
        let fitting = found.iter().find(|(version, _)| version.starts_with(start));
        let (_, file) = fitting.unwrap_or_else(|| panic!("no {start}x is installed: this test needs {remedy}"));
        file
    }

    /// It, as a program that ends by itself or after [`LIMIT`].
    pub(crate) fn client(self) -> Command {
        limited(self.path())
    }
}

/// A client program, which ends by itself or after [`LIMIT`].
pub(crate) fn client(name: &str, package: &str) -> Command {
    limited(&find(name, package))
}

/// A program, which ends by itself or after [`LIMIT`].
pub(crate) fn limited(program: &Path) -> Command {
    let mut command = Command::new(find("timeout", "coreutils"));
    command.args(["--kill-after=5", LIMIT]).arg(program);
    command
}

/// Runs a client that must succeed; returns what it wrote to stdout.
pub(crate) fn output(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().expect("it can be started");
    check(command, output.status.success(), &output.stderr);
    output.stdout
}

/// The same, as text without the last newline.
pub(crate) fn text(command: &mut Command) -> String {
    String::from_utf8(output(command)).expect("UTF-8").trim_end().to_owned()
}

/// Runs a client that must succeed, with a file as its stdin.
pub(crate) fn feed(command: &mut Command, input: &Path) -> Vec<u8> {
    let input = File::open(input).expect("a file of this test");
    let output = command.stdin(input).output().expect("it can be started");
    check(command, output.status.success(), &output.stderr);
    output.stdout
}

/// Runs a client that must succeed; returns the digest of what it wrote to stdout, which may be large.
pub(crate) fn digest(command: &mut Command) -> Digest {
    let mut child = spawn(command.stdin(Stdio::null()));
    let stderr = child.stderr.take().expect("it is piped");
    let stderr = thread::spawn(move || read_all(stderr));
    let digest = Digest::of(child.stdout.take().expect("it is piped")).expect("a pipe can be read");
    let status = child.wait().expect("its status");
    check(command, status.success(), &stderr.join().expect("no panic"));
    digest
}

/// Starts a client with pipes on all sides where nothing else was said.
pub(crate) fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started")
}

fn read_all(mut from: impl io::Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).expect("a pipe can be read");
    all
}

fn check(command: &Command, success: bool, stderr: &[u8]) {
    let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    assert!(success, "{} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(stderr));
}

/// A port for a server that cannot pick one itself: free, below the range of which the kernel takes the ports of outgoing
/// connections, and given out once.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 100) as u16 * 100;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_000, "no free port");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Whether the tests run as root: some servers refuse to.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Writes a file of a test.
pub(crate) fn write(file: &Path, content: impl AsRef<[u8]>) {
    let written = File::create(file).and_then(|mut file| file.write_all(content.as_ref()));
    written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
