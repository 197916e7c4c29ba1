//! The live view of a terminal, as a terminal multiplexer has it on its screen: at several widths, while data flows, and
//! when it is over.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use super::{
    program::{client, text},
    tunnel::{Aws, TARGET, live_sessions, programs},
};

/// A screen can only be looked at again and again: so often, every time after so long.
const LOOKS: usize = 1200;
const BETWEEN: Duration = Duration::from_millis(50);

/// A server of tmux with one window, in which a shell runs `ssmfwd`.
struct Screen {
    server: String,
}

impl Screen {
    fn start(aws: &Aws, columns: u16, environment: &[&str], arguments: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = format!("ssmfwd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let screen = Self { server };
        let mut tmux = screen.tmux();
        tmux.args(["-f", "/dev/null", "new-session", "-d", "-y", "24", "-x", &columns.to_string()]);
        for (name, value) in aws.env() {
            tmux.args(["-e", &format!("{name}={value}")]);
        }
        // As a shell that is still there afterwards, with what is on the screen at the end.
        tmux.args(["sh", "-c", "trap : INT; \"$@\"; echo \"status $?\"; exec cat", "sh"]);
        tmux.args(["env", "-u", "NO_COLOR"]).args(environment).arg(programs().join("ssmfwd"));
        text(tmux.args(arguments).args(["--target", TARGET]));
        screen
    }

    fn tmux(&self) -> Command {
        let mut tmux = client("tmux", "tmux");
        // In whatever language the tests run.
        tmux.args(["-u", "-L", &self.server]);
        tmux
    }

    fn resize(&self, columns: u16) {
        text(self.tmux().args(["resize-window", "-x", &columns.to_string()]));
    }

    fn press(&self, key: &str) {
        text(self.tmux().args(["send-keys", key]));
    }

    /// What is on the screen.
    fn capture(&self) -> String {
        text(self.tmux().args(["capture-pane", "-p"]))
    }

    /// The same and what has left it at the top, as parts of a view do that a narrower screen has no room for.
    fn everything(&self) -> String {
        text(self.tmux().args(["capture-pane", "-p", "-S", "-"]))
    }

    #[track_caller]
    fn until(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let mut seen = String::new();
        for _ in 0..LOOKS {
            seen = self.capture();
            if is_it(&seen) {
                return seen;
            }
            thread::park_timeout(BETWEEN);
        }
        panic!("no {what} on the screen:\n{seen}");
    }

    /// The status that the program has ended with.
    #[track_caller]
    fn status(&self) -> String {
        let status = |seen: &str| seen.lines().find_map(|line| line.strip_prefix("status ")).map(str::to_owned);
        let seen = self.until("end", |seen| status(seen).is_some());
        status(&seen).expect("it was there")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(self.tmux().arg("kill-server").output());
    }
}

/// A destination that sends for as long as somebody reads.
fn source() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            thread::spawn(move || while socket.write_all(&[7; 4096]).is_ok() {});
        }
    });
    port
}

/// Headings and rows: what stands below everything that was said.
fn view(seen: &str) -> Vec<&str> {
    let lines: Vec<_> = seen.lines().map(str::trim_end).collect();
    let begin = lines.iter().rposition(|line| line.starts_with("FORWARD ")).unwrap_or(lines.len());
    lines[begin..].iter().filter(|line| !line.is_empty()).copied().collect()
}

fn headings(seen: &str) -> usize {
    seen.lines().filter(|line| line.starts_with("FORWARD ")).count()
}

#[test]
fn a_terminal_shows_every_forward_at_any_width() {
    let aws = Aws::serve(&["--agent", "ideal"]);
    let (folder, port) = (tempfile::tempdir().expect("a folder"), source());
    let path = folder.path().join("orders.socket");
    let first = format!("0:127.0.0.1:{port}");
    let second = format!("{}:a-database.cluster-c1a2b3.eu-west-1.rds.example:5432", path.display());
    let screen = Screen::start(&aws, 80, &[], &[&first, &second]);

    let seen = screen.until("ready forwards", |seen| seen.matches(" ready ").count() >= 2 && seen.contains("ready in"));
    let shown = view(&seen);
    assert_eq!(shown.len(), 3, "{seen}");
    assert!(shown[0].ends_with("STATE  CONN         UP       DOWN     RTT"), "{seen}");
    assert!(shown[1].contains(&format!(" -> 127.0.0.1:{port} ")) && shown[1].contains("  ready     0  "), "{seen}");
    assert!(shown[2].contains("…ocket -> a-") && shown[2].contains(":5432  ready "), "{seen}");

    // A connection that reads for as long as it is looked at.
    let bound = seen.lines().find(|line| line.contains(&format!(" -> 127.0.0.1:{port}   session "))).expect("the line");
    let local = bound.trim_start_matches("ssmfwd: ").split([',', ' ']).next().expect("an address").to_owned();
    let mut socket = TcpStream::connect(local).expect("a listener");
    let closer = socket.try_clone().expect("a descriptor");
    let reader = thread::spawn(move || {
        let mut buffer = [0; 65536];
        while socket.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
    screen.until("data", |seen| {
        view(seen).get(1).is_some_and(|row| row.contains("ready     1  ") && row.contains("B/s"))
    });

    for (columns, heading) in
        [(40, "STATE CONN      RATE"), (200, "  SESS         UP       DOWN     RTT"), (80, "     RTT")]
    {
        screen.resize(columns);
        let seen = screen.until("new width", |seen| {
            view(seen).first().is_some_and(|line| line.ends_with(heading) && line.chars().count() < columns.into())
        });
        assert!(view(&seen).len() == 3 && headings(&seen) == 1, "at {columns}, something is left behind:\n{seen}");
        assert!(view(&seen).iter().all(|line| line.chars().count() < columns.into()), "{seen}");
    }
    closer.shutdown(std::net::Shutdown::Both).expect("it is open");
    reader.join().expect("no panic");
    screen.until("end of the connection", |seen| {
        view(seen).get(1).is_some_and(|row| row.contains("ready     0          -          -  "))
    });

    // What was said stays, the view goes.
    screen.press("C-c");
    assert_eq!(screen.status(), "130");
    let seen = screen.capture();
    let last: Vec<_> = seen.lines().rev().take(2).collect();
    assert_eq!(last, ["status 130", "ssmfwd: SIGINT: ending; Ctrl-C again leaves at once"], "{seen}");
    assert_eq!(headings(&seen), 0, "{seen}");
    assert!(screen.everything().contains("ready in"));
    assert_eq!(live_sessions(&aws.state()), 0);
    drop(screen);
    aws.end();
}

/// Lines alone, as in a file.
#[test]
fn who_wants_no_colours_has_no_view() {
    let aws = Aws::serve(&["--agent", "ideal"]);
    let forward = format!("0:127.0.0.1:{}", source());
    for variable in ["NO_COLOR=1", "TERM=dumb"] {
        let screen = Screen::start(&aws, 80, &[variable], &[&forward]);
        screen.until("ready forward", |seen| seen.contains("ready in"));
        screen.press("C-c");
        assert_eq!(screen.status(), "130");
        let seen = screen.capture();
        assert!(seen.contains("SIGINT: ending") && headings(&seen) == 0, "{seen}");
    }
    assert_eq!(live_sessions(&aws.state()), 0);
    aws.end();
}
