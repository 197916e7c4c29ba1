//! What systemd, and others who speak its protocol, are told over `NOTIFY_SOCKET`: ready, reloading, stopping, what is
//! going on, and that the program is alive.
//!
//! The protocol is that of sd_notify(3): datagrams of `NAME=value` lines. Without the variable nothing is sent. Sending
//! neither blocks nor fails; a socket that is full is waited for on a thread of its own, because systemd counts a start
//! without `READY=1` as failed.

use std::{ffi::OsString, pin::pin, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::cli::{console::printable, own_variables::OwnVariables};

/// Who wants to be told.
pub(in crate::cli) struct Notifier {
    #[cfg(unix)]
    supervisor: Option<unix::Supervisor>,
    /// How often the supervisor wants a sign of life.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment said.
    pub(in crate::cli) fn of(variables: &OwnVariables) -> Self {
        Self::new(|name| variables.get(name), std::process::id())
    }

    /// Nobody.
    #[cfg(test)]
    pub(in crate::cli) fn nobody() -> Self {
        Self::new(|_| None, 0)
    }

    fn new(variable: impl Fn(&str) -> Option<OsString>, own_pid: u32) -> Self {
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_meant = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(own_pid.into());
        let watchdog = number("WATCHDOG_USEC").filter(|micros| is_meant && *micros > 0).map(Duration::from_micros);
        #[cfg(unix)]
        return Self { supervisor: variable("NOTIFY_SOCKET").and_then(|name| unix::Supervisor::at(&name)), watchdog };
        #[cfg(not(unix))]
        Self { watchdog: watchdog.filter(|_| false) }
    }

    /// Whether anybody wants to be told.
    pub(in crate::cli) fn is_wanted(&self) -> bool {
        #[cfg(unix)]
        return self.supervisor.is_some();
        #[cfg(not(unix))]
        false
    }

    /// What is being done, and how long it may take from now: a manager that gives less time gives that much.
    pub(in crate::cli) fn starting(&self, status: &str, limit: Duration) {
        self.send(&format!("STATUS={}\n{}", printable(status), extend(limit)));
    }

    /// All forwards are ready.
    pub(in crate::cli) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", printable(status)));
    }

    /// The configuration is being read again: [`Self::ready`] follows, whatever becomes of it.
    pub(in crate::cli) fn reloading(&self) {
        let at = monotonic().map_or_else(String::new, |micros| format!("\nMONOTONIC_USEC={micros}"));
        self.send(&format!("RELOADING=1{at}\nSTATUS=reading the configuration again"));
    }

    /// What is going on.
    pub(in crate::cli) fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", printable(status)));
    }

    /// The program ends, within `limit` from now.
    pub(in crate::cli) fn stopping(&self, status: &str, limit: Duration) {
        self.send(&format!("STOPPING=1\nSTATUS={}\n{}", printable(status), extend(limit)));
    }

    /// Does the work, and tells every half interval of the watchdog that it goes on. The signs of life come from the task
    /// that does the work: if it hangs, or something else holds up the thread, there are none.
    pub(in crate::cli) async fn watched<F: Future>(&self, work: F) -> F::Output {
        let Some(interval) = self.watchdog.filter(|_| self.is_wanted()) else { return work.await };
        let mut work = pin!(work);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                output = &mut work => return output,
                () = sleep_until(next) => {
                    self.send("WATCHDOG=1");
                    next = Instant::now() + interval / 2;
                }
            }
        }
    }

    fn send(&self, message: &str) {
        #[cfg(unix)]
        if let Some(supervisor) = &self.supervisor {
            supervisor.send(message);
        }
        #[cfg(not(unix))]
        let _: &str = message;
    }
}

fn extend(limit: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", limit.as_micros())
}

fn monotonic() -> Option<u64> {
    #[cfg(unix)]
    return crate::cli::sys::monotonic_micros();
    #[cfg(not(unix))]
    None
}

#[cfg(unix)]
mod unix {
    use std::{
        ffi::OsStr,
        io,
        os::unix::net::{SocketAddr, UnixDatagram},
        sync::Arc,
        time::Duration,
    };

    use tokio::runtime::Handle;

    /// How long a socket that is full is waited for.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// The socket of the supervisor, and one of ours.
    pub(super) struct Supervisor {
        socket: UnixDatagram,
        address: Arc<SocketAddr>,
    }

    impl Supervisor {
        /// `None` for what is no unix socket, or if there is no socket to be had.
        pub(super) fn at(name: &OsStr) -> Option<Self> {
            let address = match address(name) {
                Ok(address) => Arc::new(address),
                Err(error) => {
                    tracing::debug!(%error, "NOTIFY_SOCKET is no unix socket: nothing is told");
                    return None;
                }
            };
            let socket = UnixDatagram::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
            socket.ok().map(|socket| Self { socket, address })
        }

        pub(super) fn send(&self, message: &str) {
            match self.socket.send_to_addr(message.as_bytes(), &self.address) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.send_later(message),
                Err(error) => tracing::debug!(%error, "the supervisor cannot be told"),
            }
        }

        /// It is worth waiting for, but not on this thread.
        fn send_later(&self, message: &str) {
            let Ok(runtime) = Handle::try_current() else { return };
            let (message, address) = (message.to_owned(), Arc::clone(&self.address));
            runtime.spawn_blocking(move || {
                let sent = UnixDatagram::unbound().and_then(|socket| {
                    socket.set_write_timeout(Some(PATIENCE))?;
                    socket.send_to_addr(message.as_bytes(), &address)
                });
                if let Err(error) = sent {
                    tracing::debug!(%error, "the supervisor cannot be told");
                }
            });
        }
    }

    /// A path, or with `@` a name of Linux's without a file. systemd knows `vsock:` as well, for virtual machines.
    fn address(name: &OsStr) -> io::Result<SocketAddr> {
        match name.as_encoded_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(name),
            #[cfg(target_os = "linux")]
            [b'@', rest @ ..] => {
                use std::os::linux::net::SocketAddrExt;
                SocketAddr::from_abstract_name(rest)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn notifier(variables: &[(&str, &str)]) -> Notifier {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        Notifier::new(find, 42)
    }

    struct Supervisor {
        socket: UnixDatagram,
        folder: tempfile::TempDir,
    }

    impl Supervisor {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a free path");
            socket.set_nonblocking(true).expect("a socket");
            Self { socket, folder }
        }

        fn path(&self) -> String {
            self.folder.path().join("notify").display().to_string()
        }

        /// What has been told by now.
        fn told(&self) -> Option<String> {
            let mut message = [0; 4096];
            let length = self.socket.recv(&mut message).ok()?;
            Some(String::from_utf8_lossy(&message[..length]).into_owned())
        }
    }

    #[test]
    fn each_state_is_a_datagram() {
        let supervisor = Supervisor::new();
        let notifier = notifier(&[("NOTIFY_SOCKET", &supervisor.path())]);
        assert!(notifier.is_wanted());
        notifier.starting("starting sessions", Duration::from_secs(30));
        notifier.ready("2 forwards\nREADY=0");
        notifier.reloading();
        notifier.status("reconnecting");
        notifier.stopping("SIGTERM", Duration::from_secs(5));
        let told = || supervisor.told().expect("a message");
        assert_eq!(told(), "STATUS=starting sessions\nEXTEND_TIMEOUT_USEC=30000000");
        assert_eq!(told(), "READY=1\nSTATUS=2 forwards / READY=0");
        let reloading = told();
        assert!(reloading.starts_with("RELOADING=1\n"), "{reloading}");
        let at = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
        assert_eq!(at.is_some(), cfg!(all(target_os = "linux", target_pointer_width = "64")), "{reloading}");
        assert_eq!(told(), "STATUS=reconnecting");
        assert_eq!(told(), "STOPPING=1\nSTATUS=SIGTERM\nEXTEND_TIMEOUT_USEC=5000000");
        assert_eq!(supervisor.told(), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_without_a_file_is_found() {
        use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
        let name = format!("ssmfwd-test-{}-{}", std::process::id(), fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a free name");
        notifier(&[("NOTIFY_SOCKET", &format!("@{name}"))]).ready("");
        let mut message = [0; 64];
        let length = socket.recv(&mut message).expect("a message");
        assert_eq!(&message[..length], b"READY=1\nSTATUS=");
    }

    #[test]
    fn whoever_cannot_be_told_is_no_failure() {
        for name in ["", "relative", "vsock:2:1234", "@", &format!("/{}", "x".repeat(200))] {
            notifier(&[("NOTIFY_SOCKET", name)]).ready("");
        }
        let gone = Supervisor::new();
        let notifier = notifier(&[("NOTIFY_SOCKET", &gone.path())]);
        drop(gone);
        notifier.ready("");
    }

    #[tokio::test]
    async fn a_full_socket_is_waited_for_without_blocking() {
        let supervisor = Supervisor::new();
        let notifier = notifier(&[("NOTIFY_SOCKET", &supervisor.path())]);
        let filler = UnixDatagram::unbound().expect("a socket");
        filler.set_nonblocking(true).expect("a socket");
        let mut filled = 0;
        while filler.send_to(b"x", supervisor.path()).is_ok() {
            filled += 1;
        }
        notifier.ready("at last");
        supervisor.socket.set_nonblocking(false).expect("a socket");
        let received = tokio::task::spawn_blocking(move || {
            let messages: Vec<_> = (0..=filled).filter_map(|_| supervisor.told()).collect();
            messages.last().cloned()
        });
        assert_eq!(received.await.expect("no panic").as_deref(), Some("READY=1\nSTATUS=at last"));
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_come_at_half_the_interval_while_the_work_goes_on() {
        let supervisor = Supervisor::new();
        let path = supervisor.path();
        let notifier = notifier(&[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "42")]);
        let begun = Instant::now();
        notifier.watched(sleep_until(begun + Duration::from_millis(3500))).await;
        assert_eq!(begun.elapsed().as_millis(), 3500);
        let told: Vec<_> = std::iter::from_fn(|| supervisor.told()).collect();
        assert_eq!(told, ["WATCHDOG=1"; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watchdog_of_somebody_else_is_left_alone() {
        let supervisor = Supervisor::new();
        let path = supervisor.path();
        for watchdog in [&[("WATCHDOG_USEC", "2000"), ("WATCHDOG_PID", "43")][..], &[("WATCHDOG_USEC", "0")], &[]] {
            let notifier = notifier(&[&[("NOTIFY_SOCKET", &path[..])], watchdog].concat());
            notifier.watched(sleep_until(Instant::now() + Duration::from_secs(60))).await;
            assert_eq!(supervisor.told(), None);
        }
    }
}
