//! The view at several widths, what of many forwards is shown, and what is written to a terminal.

use std::{net::SocketAddr, time::Duration};

use dialoguer::console::strip_ansi_codes;

use super::{
    cell::width,
    layout::{Shown, render},
    palette::Palette,
    progress::Waiting,
    rates::Rate,
    *,
};
use crate::{
    cli::{
        board::{ForwardSnapshot, Snapshot},
        clock::Timestamp,
    },
    forward::{ConnectionStatus, ForwardState, ForwardStatus, LocalAddress, Peer, SessionStatus},
    session::{Health, SessionId, Statistics},
};

const PLAIN: Palette = Palette { colours: false };

/// A snapshot of forwards with these names, at the start.
pub(super) fn snapshot(names: &[&str]) -> Snapshot {
    let forward = |name: &&str| forward(name, &["127.0.0.1:13306", "[::1]:13306"], "rds-endpoint:3306");
    let forwards = names.iter().map(forward).collect();
    Snapshot { uptime: Duration::ZERO, started_at: Timestamp::now(), forwards }
}

fn forward(name: &str, addresses: &[&str], destination: &str) -> ForwardSnapshot {
    let address = |text: &&str| match text.parse() {
        Ok(address) => LocalAddress::Tcp(address),
        Err(_) => LocalAddress::Unix(text.into()),
    };
    let session = SessionStatus {
        session: SessionId("alice-0abc".into()),
        member: 0,
        health: Health::Ready,
        serves: true,
        connections: 0,
        age: Duration::ZERO,
        rtt: Some(Duration::from_millis(32)),
        statistics: Statistics::default(),
    };
    let status = ForwardStatus {
        state: ForwardState::Ready,
        addresses: addresses.iter().map(address).collect(),
        sessions: vec![session],
        ..ForwardStatus::default()
    };
    ForwardSnapshot { name: name.into(), destination: destination.into(), target: "i-0123456789abcdef0".into(), status }
}

fn with_connections(mut forward: ForwardSnapshot, count: usize) -> ForwardSnapshot {
    let connection = ConnectionStatus {
        id: 1,
        peer: Peer::Tcp(SocketAddr::from(([127, 0, 0, 1], 50_000))),
        age: Duration::ZERO,
        session: None,
        bytes_up: 0,
        bytes_down: 0,
    };
    forward.status.connections = vec![connection; count];
    forward
}

fn in_state(mut forward: ForwardSnapshot, state: ForwardState) -> ForwardSnapshot {
    forward.status.state = state;
    forward
}

fn shown(forwards: &[(ForwardSnapshot, Rate, Waiting)]) -> Vec<Shown<'_>> {
    forwards.iter().map(|(forward, rate, waiting)| Shown { forward, rate: *rate, waiting: *waiting }).collect()
}

fn view(forwards: &[(ForwardSnapshot, Rate, Waiting)], columns: usize, rows: usize) -> String {
    let lines = render(&shown(forwards), PLAIN, Size { columns, rows });
    for line in &lines {
        assert!(width(line) < columns, "{columns}: {line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(lines.len() <= rows / 2, "{lines:?}");
    lines.join("\n").trim_start().to_owned()
}

fn some() -> Vec<(ForwardSnapshot, Rate, Waiting)> {
    let (none, moves) = (Rate::default(), Rate { up: 1_200_000, down: 12_400 });
    let idle = Waiting::default();
    let down = ForwardState::Reconnecting { since: Duration::from_secs(12) };
    let resuming = Waiting { resuming: true, resumes_in: Some(Duration::from_millis(2500)), ..idle };
    vec![
        (
            with_connections(forward("13306:rds", &["127.0.0.1:13306", "[::1]:13306"], "rds-endpoint:3306"), 3),
            moves,
            idle,
        ),
        (
            in_state(
                with_connections(forward("16379:redis", &["127.0.0.1:16379", "[::1]:16379"], "redis.internal:6379"), 2),
                down,
            ),
            none,
            resuming,
        ),
        (
            in_state(
                forward(
                    "x:y",
                    &["/run/user/1000/ssmfwd/orders.sock"],
                    "orders.cluster-c1a2b3.eu-west-1.rds.amazonaws.com:5432",
                ),
                ForwardState::Dormant,
            ),
            none,
            idle,
        ),
        (
            in_state(forward("0:22", &["0.0.0.0:2222"], "localhost:22"), ForwardState::Starting),
            none,
            Waiting { agent: Some(Duration::from_secs(4)), ..idle },
        ),
    ]
}

fn odd() -> Vec<(ForwardSnapshot, Rate, Waiting)> {
    let moves = Rate { up: 999, down: 123_456_789 };
    vec![
        (
            with_connections(forward("データ", &["127.0.0.1:1"], "データベース.例え.jp:3306"), 12_345),
            moves,
            Waiting::default(),
        ),
        (
            forward("cafe\u{301}", &["/tmp/\u{200b}zero\u{1b}[2J/ソケット/長い名前の.sock"], "[fd00::1]:5432"),
            moves,
            Waiting::default(),
        ),
        (
            forward("family", &["192.0.2.1:8080", "192.0.2.1:8081"], "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}:80"),
            moves,
            Waiting::default(),
        ),
    ]
}

#[test]
fn at_80_columns_every_figure_is_there() {
    let expected = "\
FORWARD                               STATE  CONN         UP       DOWN     RTT
13306        -> rds-endpoint:3306     ready     3  1.20 MB/s  12.4 kB/s   32 ms
16379        -> redis.internal:6379   resuming in 3 s, 2 connections held
/run/u….sock -> orders.clu….com:5432  dormant until it is used
*:2222       -> localhost:22          waiting for the agent, 4 s";
    assert_eq!(view(&some(), 80, 24), expected);
    let one = "\
FORWARD                               STATE  CONN         UP       DOWN     RTT
localhost:13306 -> rds-endpoint:3306  ready     3  1.20 MB/s  12.4 kB/s   32 ms";
    assert_eq!(view(&some()[..1], 80, 24), one);
}

#[test]
fn at_40_columns_the_most_important_is_there() {
    let expected = "\
FORWARD            STATE CONN      RATE
13306  -> rd…:3306 ready    3 1.21 MB/s
16379  -> re…:6379 resuming in 3 s
/ru…ck -> or…:5432 dormant
*:2222 -> loca…:22 waiting for agent";
    assert_eq!(view(&some(), 40, 24), expected);
}

#[test]
fn at_200_columns_nothing_is_shortened() {
    let expected = "\
FORWARD                                                                                      TARGET               STATE  CONN  SESS         UP       DOWN     RTT
127.0.0.1:13306, [::1]:13306      -> rds-endpoint:3306                                       i-0123456789abcdef0  ready     3     1  1.20 MB/s  12.4 kB/s   32 ms
127.0.0.1:16379, [::1]:16379      -> redis.internal:6379                                     i-0123456789abcdef0  resuming in 3 s, down for 12 s, 2 connections held
/run/user/1000/ssmfwd/orders.sock -> orders.cluster-c1a2b3.eu-west-1.rds.amazonaws.com:5432  i-0123456789abcdef0  dormant: the next connection starts a session
0.0.0.0:2222                      -> localhost:22                                            i-0123456789abcdef0  waiting for the agent, 4 s";
    assert_eq!(view(&some(), 200, 24), expected);
}

#[test]
fn wide_and_strange_characters_keep_the_columns() {
    let at_80 = "\
FORWARD                               STATE  CONN         UP       DOWN     RTT
1            -> データベー….jp:3306   ready   12k    999 B/s   123 MB/s   32 ms
/tmp/\u{200b}z….sock -> [fd00::1]:5432        ready     0    999 B/s   123 MB/s   32 ms
192.0.…:8081 -> 👨\u{200d}👩\u{200d}👧:80             ready     0    999 B/s   123 MB/s   32 ms";
    assert_eq!(view(&odd(), 80, 24), at_80);
    let at_200 = "\
NAME    FORWARD                                                                   TARGET               STATE  CONN  SESS         UP       DOWN     RTT
データ  127.0.0.1:1                                 -> データベース.例え.jp:3306  i-0123456789abcdef0  ready   12k     1    999 B/s   123 MB/s   32 ms
cafe\u{301}    /tmp/\u{200b}zero\\u{1b}[2J/ソケット/長い名前の.sock -> [fd00::1]:5432             i-0123456789abcdef0  ready     0     1    999 B/s   123 MB/s   32 ms
family  192.0.2.1:8080, 192.0.2.1:8081              -> 👨\u{200d}👩\u{200d}👧:80                  i-0123456789abcdef0  ready     0     1    999 B/s   123 MB/s   32 ms";
    assert_eq!(view(&odd(), 200, 24), at_200);
    for columns in 40..260 {
        view(&odd(), columns, 24);
        view(&some(), columns, 24);
    }
}

#[test]
fn small_terminals_have_no_view() {
    for (columns, rows) in [(39, 24), (80, 1), (0, 0)] {
        assert_eq!(view(&some(), columns, rows), "");
    }
    assert_eq!(view(&[], 80, 24), "");
}

#[test]
fn of_many_forwards_those_that_matter_are_shown() {
    let many = || {
        let rest = |at: usize| {
            (forward(&format!("{at}:x"), &[&format!("127.0.0.1:{at}")], "db:1"), Rate::default(), Waiting::default())
        };
        let mut many: Vec<_> = (1..=20).map(rest).collect();
        many[4].1 = Rate { up: 1000, down: 0 };
        many[16].0.status.state = ForwardState::Reconnecting { since: Duration::from_secs(1) };
        many[18].0.status.state = ForwardState::Dormant;
        many[11].0 = with_connections(forward("12:x", &["127.0.0.1:12"], "db:1"), 1);
        many
    };
    let ports = |view: &str| -> Vec<u16> {
        view.lines().filter_map(|line| line.split(" -> ").next()?.trim().rsplit(':').next()?.parse().ok()).collect()
    };
    let all = view(&many(), 80, 50);
    assert_eq!(ports(&all), (1..=20).collect::<Vec<u16>>());
    let few = view(&many(), 80, 10);
    assert_eq!(few.lines().count(), 5);
    assert_eq!((ports(&few), few.lines().last()), (vec![5, 12, 17], Some("+17 more: 16 ready, 1 dormant")));
    let fewer = view(&many(), 80, 5);
    assert_eq!((ports(&fewer), fewer.lines().last()), (vec![17], Some("+19 more: 18 ready, 1 dormant")));
    let one = view(&many(), 80, 3);
    assert_eq!((ports(&one), one.lines().count()), (vec![17], 1));
}

#[test]
fn colours_take_no_columns() {
    let some = some();
    let (shown, size) = (shown(&some), Size { columns: 80, rows: 24 });
    let coloured = render(&shown, Palette { colours: true }, size);
    let plain = render(&shown, PLAIN, size);
    let without = coloured.iter().map(|line| strip_ansi_codes(line).into_owned());
    assert!(without.eq(plain) && coloured[1..].iter().all(|line| line.contains('\u{1b}')), "{coloured:?}");
}

#[test]
fn who_wants_no_view_has_none() {
    let say = |output: Format, quiet: bool, verbose: u8| SayArgs { output, log_format: Format::Text, quiet, verbose };
    for (say, variables, wanted) in [
        (say(Format::Text, false, 0), &[("TERM", "xterm")][..], true),
        (say(Format::Text, false, 0), &[("TERM", "xterm"), ("NO_COLOR", "")], true),
        (say(Format::Text, false, 0), &[("TERM", "xterm"), ("NO_COLOR", "1")], false),
        (say(Format::Text, false, 0), &[("TERM", "xterm"), ("RUST_LOG", "debug")], false),
        (say(Format::Text, false, 0), &[("TERM", "dumb")], false),
        (say(Format::Text, false, 0), &[], false),
        (say(Format::Json, false, 0), &[("TERM", "xterm")], false),
        (say(Format::Text, true, 0), &[("TERM", "xterm")], false),
        (say(Format::Text, false, 1), &[("TERM", "xterm")], false),
    ] {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        assert_eq!(is_asked_for(&say, variable), wanted, "{variables:?}");
    }
}

/// On whatever the tests run on.
#[test]
fn without_forwards_there_is_nothing_to_see() {
    let say = SayArgs { output: Format::Text, log_format: Format::Text, quiet: true, verbose: 0 };
    assert!(!is_wanted(&say));
    let mut view = LiveView::new(Arc::default(), Arc::default());
    assert_eq!(view.lines(Size { columns: 80, rows: 24 }), [""; 0]);
    assert_eq!(view.patience(), LIVELY);
    assert_eq!(view.size().is_some(), Term::stderr().size_checked().is_some() && in_foreground());
}

/// A signal to ourselves, of which nobody is stopped.
#[cfg(unix)]
#[tokio::test]
async fn who_goes_on_is_told_so() {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let _watch = on_continue(move || {
        sender.try_send(()).ok();
    })
    .expect("a handler");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::CONT).expect("our own process");
    receiver.recv().await.expect("told");
}
