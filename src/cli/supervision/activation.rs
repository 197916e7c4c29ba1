//! Listening sockets that the program was started with: `LISTEN_FDS`, as systemd's socket units and
//! `systemd-socket-activate` pass them.
//!
//! Each goes to the forward whose name it has (`FileDescriptorName=` of the socket unit), else to the one that would listen
//! at its address. Several may go to one forward: one for each loopback address. A forward that gets some binds nothing
//! itself; one that gets none binds as ever. A socket that nobody wants is an error: it would accept connections that
//! nobody serves.

use std::{ffi::OsString, fmt};

use crate::{
    cli::{own_variables::OwnVariables, plan::PlannedForward, report::Report},
    forward::{AdoptedListener, Listen},
};

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// More than anybody passes; a descriptor table has not many times as many.
const MOST: i32 = 1024;

/// The sockets that were passed.
#[derive(Debug, Default)]
pub(in crate::cli) struct Activation {
    sockets: Vec<Passed>,
}

#[derive(Debug)]
struct Passed {
    /// Its number, and its name if it has one.
    what: What,
    socket: AdoptedListener,
    address: Address,
}

#[derive(Debug, Clone)]
struct What {
    number: i32,
    name: Option<String>,
}

/// `descriptor 3 "db"`
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "descriptor {}", self.number)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " \"{name}\""))
    }
}

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Tcp(std::net::SocketAddr),
    Unix(std::path::PathBuf),
    /// A unix socket without a file.
    Other,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
            Self::Other => f.write_str("a unix socket without a path"),
        }
    }
}

impl Address {
    /// Whether a forward that listens here would have bound this.
    fn is_of(&self, listen: &Listen) -> bool {
        match (self, listen) {
            (Self::Tcp(address), Listen::Tcp { bind, port }) => {
                let (first, second) = bind.addresses();
                let ip = address.ip();
                address.port() == *port && (ip == first || Some(ip) == second)
            }
            (Self::Unix(path), Listen::Unix(wanted)) => {
                path == wanted
                    || matches!((std::path::absolute(path), std::path::absolute(wanted)), (Ok(a), Ok(b)) if a == b)
            }
            _ => false,
        }
    }
}

impl Activation {
    /// Takes the sockets over, if the variables say that there are any and that they are for us: COMMAND does not inherit
    /// them. To be called once, before anything is bound or started.
    ///
    /// # Errors
    /// A usage error that names the descriptor, if one is not open or no listening stream socket.
    pub(in crate::cli) fn of(variables: &OwnVariables) -> Result<Self, Report> {
        Self::read(|name| variables.get(name), std::process::id(), FIRST)
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>, own_pid: u32, first: i32) -> Result<Self, Report> {
        let Some(count) = variable("LISTEN_FDS") else { return Ok(Self::default()) };
        // The variables outlive who they were meant for: what inherits them by accident has no such sockets.
        let meant = variable("LISTEN_PID").and_then(|pid| pid.to_str()?.parse().ok());
        if meant != Some(own_pid) {
            tracing::debug!("LISTEN_FDS is meant for another process");
            return Ok(Self::default());
        }
        let number = count.to_str().and_then(|count| count.parse::<i32>().ok());
        let Some(count) = number.filter(|count| (0..=MOST).contains(count)) else {
            let count = count.to_string_lossy();
            return Err(Report::usage(format!("LISTEN_FDS={count} is not a number of descriptors")));
        };
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.to_string_lossy();
        let mut names = names.split(':').map(|name| Some(name.to_owned()).filter(|name| !name.is_empty()));
        let sockets = (first..first + count).map(|number| Passed::take(What { number, name: names.next().flatten() }));
        Ok(Self { sockets: sockets.collect::<Result<_, _>>()? })
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// The sockets of each forward, in the order of the forwards.
    ///
    /// # Errors
    /// A usage error if a socket is not one forward's.
    pub(in crate::cli) fn assign(self, forwards: &[PlannedForward]) -> Result<Vec<Vec<AdoptedListener>>, Report> {
        let mut assigned: Vec<Vec<_>> = forwards.iter().map(|_| Vec::new()).collect();
        for Passed { what, socket, address } in self.sockets {
            let named = forwards.iter().position(|forward| what.name.as_deref() == Some(forward.name()));
            let owner = named.or_else(|| forwards.iter().position(|forward| address.is_of(&forward.spec.listen)));
            let Some(sockets) = owner.and_then(|owner| assigned.get_mut(owner)) else {
                return Err(unwanted(&what, &address, forwards));
            };
            sockets.push(socket);
        }
        Ok(assigned)
    }
}

fn unwanted(what: &What, address: &Address, forwards: &[PlannedForward]) -> Report {
    let expected = |forward: &PlannedForward| match (forward.name(), &forward.spec.listen) {
        (name, listen) if name.starts_with(&listen.to_string()) => name.to_owned(),
        (name, listen) => format!("{name} ({listen})"),
    };
    let expected: Vec<_> = forwards.iter().map(expected).collect();
    Report::usage(format!("the socket passed as {what}, {address}, belongs to no forward"))
        .with_hint(format!(
            "a socket is matched by the name of a tunnel (FileDescriptorName=), else by where a forward listens; there are: {}",
            expected.join(", ")
        ))
}

impl Passed {
    fn take(what: What) -> Result<Self, Report> {
        use rustix::net::{SocketType, sockopt};

        let wrong = |why: &dyn fmt::Display| {
            Report::usage(format!("the {what} of LISTEN_FDS cannot be used: {why}"))
                .with_hint("pass sockets that listen for stream connections: ListenStream= with Accept=no")
        };
        let socket = crate::cli::sys::inherited(what.number).map_err(|error| wrong(&error))?;
        match sockopt::socket_type(&socket) {
            Ok(SocketType::STREAM) => {}
            Ok(_) => return Err(wrong(&"it is not a stream socket")),
            Err(_) => return Err(wrong(&"it is not a socket")),
        }
        #[cfg(not(target_vendor = "apple"))]
        if !sockopt::socket_acceptconn(&socket).is_ok_and(|listens| listens) {
            return Err(wrong(&"it does not listen"));
        }
        let (socket, address) = listener(socket).ok_or_else(|| wrong(&"it is neither of TCP nor a unix socket"))?;
        Ok(Self { what, socket, address })
    }
}

/// The listener, and where it listens, if it is of a kind that we know. As ours are, it does not block.
fn listener(socket: std::os::fd::OwnedFd) -> Option<(AdoptedListener, Address)> {
    let socket = socket2::Socket::from(socket);
    socket.set_nonblocking(true).ok()?;
    let address = socket.local_addr().ok()?;
    if let Some(address) = address.as_socket() {
        return Some((AdoptedListener::Tcp(socket.into()), Address::Tcp(address)));
    }
    if !address.is_unix() {
        return None;
    }
    let address = address.as_pathname().map_or(Address::Other, |path| Address::Unix(path.to_owned()));
    Some((AdoptedListener::Unix(socket.into()), address))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::{
            fd::{AsFd, AsRawFd, IntoRawFd},
            unix::net::UnixListener,
        },
    };

    use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

    use super::*;
    use crate::{cli::plan::tests::planned, forward::Bind};

    /// Each test has its own range of descriptors, far above those that are opened meanwhile.
    fn pass(first: i32, sockets: &[&dyn AsFd]) {
        for (at, socket) in (first..).zip(sockets) {
            let copy = fcntl_dupfd_cloexec(socket.as_fd(), at).expect("a free number");
            assert_eq!(copy.as_raw_fd(), at, "somebody else has this number");
            fcntl_setfd(&copy, FdFlags::empty()).expect("it is open");
            // From now on it belongs to whoever takes it.
            assert_eq!(copy.into_raw_fd(), at);
        }
    }

    fn read(first: i32, variables: &[(&str, &str)]) -> Result<Activation, Report> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        Activation::read(find, 42, first)
    }

    fn forward(name: &str, listen: &Listen) -> PlannedForward {
        let mut forward = planned(&["1:2", "-t", "i-0a"]);
        forward.tunnel = Some(name.to_owned());
        forward.spec.listen = listen.clone();
        forward
    }

    fn tcp() -> (TcpListener, Listen) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        (listener, Listen::Tcp { bind: Bind::Loopback, port })
    }

    #[test]
    fn sockets_go_to_the_forward_with_their_name_or_address() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("db.sock");
        let unix = UnixListener::bind(&path).expect("a free path");
        let ((by_name, elsewhere), (by_address, listen)) = (tcp(), tcp());
        pass(700, &[&by_name, &by_address, &unix]);
        let variables = [("LISTEN_PID", "42"), ("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "db:unknown:ssmfwd.socket")];
        let activation = read(700, &variables).expect("listeners");
        assert!(!activation.is_empty());
        let nowhere = Listen::Tcp { bind: Bind::Loopback, port: 1 };
        let by_path = Listen::Unix(path);
        let wanted = [("cache", &listen), ("db", &nowhere), ("1:other:2", &elsewhere), ("unix", &by_path)];
        let assigned =
            activation.assign(&wanted.map(|(name, listen)| forward(name, listen))).expect("each has an owner");
        let counts: Vec<_> = assigned.iter().map(Vec::len).collect();
        assert_eq!(counts, [1, 1, 0, 1], "a name comes before an address");
        let [AdoptedListener::Tcp(db)] = &assigned[1][..] else { panic!("{assigned:?}") };
        let _client = TcpStream::connect(by_name.local_addr().expect("an address")).expect("it listens");
        db.set_nonblocking(false).expect("a socket");
        db.accept().expect("the same socket");
        assert!(matches!(assigned[3][..], [AdoptedListener::Unix(_)]));
    }

    #[test]
    fn both_loopback_addresses_go_to_one_forward() {
        let (v4, listen) = tcp();
        let port = v4.local_addr().expect("an address").port();
        let Ok(v6) = TcpListener::bind(("::1", port)) else { return }; // no IPv6 here, or somebody is faster
        pass(720, &[&v4, &v6]);
        let activation = read(720, &[("LISTEN_PID", "42"), ("LISTEN_FDS", "2")]).expect("listeners");
        let assigned = activation.assign(&[forward("db", &listen)]).expect("an owner");
        assert_eq!(assigned[0].len(), 2);
    }

    #[test]
    fn a_socket_of_nobody_is_an_error_that_says_what_there_is() {
        let (socket, _) = tcp();
        pass(740, &[&socket]);
        let variables = [("LISTEN_PID", "42"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "web")];
        let activation = read(740, &variables).expect("a listener");
        let listen = Listen::Tcp { bind: Bind::Loopback, port: 1 };
        let report = activation.assign(&[forward("db", &listen)]).expect_err("nobody's");
        assert_eq!(report.exit, crate::cli::exit::Exit::Usage);
        let address = socket.local_addr().expect("an address");
        assert_eq!(
            report.error,
            format!("the socket passed as descriptor 740 \"web\", {address}, belongs to no forward")
        );
        assert!(report.hint.is_some_and(|hint| hint.ends_with("there are: db (localhost:1)")));
    }

    #[test]
    fn what_does_not_listen_is_an_error_that_names_it() {
        let (listener, _) = tcp();
        let connected = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let file = std::fs::File::open("/dev/null").expect("it exists");
        pass(760, &[&connected, &datagrams, &file]);
        for (first, why) in [
            (760, "it does not listen"),
            (761, "it is not a stream socket"),
            (762, "it is not a socket"),
            (763, "it is not open"),
        ] {
            let report = read(first, &[("LISTEN_PID", "42"), ("LISTEN_FDS", "1")]).expect_err(why);
            assert_eq!(report.error, format!("the descriptor {first} of LISTEN_FDS cannot be used: {why}"));
        }
    }

    #[test]
    fn what_is_meant_for_others_is_left_alone() {
        for variables in [
            &[("LISTEN_FDS", "1")][..],
            &[("LISTEN_FDS", "1"), ("LISTEN_PID", "43")],
            &[("LISTEN_FDS", "1"), ("LISTEN_PID", "x")],
            &[("LISTEN_FDS", "0"), ("LISTEN_PID", "42")],
            &[("LISTEN_PID", "42")],
            &[],
        ] {
            assert!(read(780, variables).expect("nothing is wrong").is_empty());
        }
        for count in ["", "x", "-1", "1025", "4294967299"] {
            let report = read(780, &[("LISTEN_FDS", count), ("LISTEN_PID", "42")]).expect_err("no number");
            assert_eq!(report.error, format!("LISTEN_FDS={count} is not a number of descriptors"));
        }
    }
}
