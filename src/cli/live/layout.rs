//! The view as text: a line of headings, a line for each forward, all in the same columns. Pure.
//!
//! ```text
//! FORWARD                               STATE  CONN         UP       DOWN     RTT
//! localhost:13306 -> rds-endpoint:3306  ready     3  1.20 MB/s  12.4 kB/s   32 ms
//! localhost:16379 -> redis:6379         resuming in 3 s, 2 connections held
//! ```
//!
//! Columns are as wide as what may ever stand in them, so that nothing jumps; what a narrow terminal has no room for
//! is left out, and hosts and paths are shortened in their middle.

use super::{
    Size,
    cell::{fitting, left, right, shorten, width},
    palette::{Palette, Tone},
    progress::Waiting,
    rates::{self, RATE, Rate},
    words::{self, ROUND_TRIP},
};
use crate::{
    cli::{board::ForwardSnapshot, console::printable},
    forward::{ForwardState, LocalAddress},
};

/// Narrower or lower terminals get no view.
const COLUMNS_MIN: usize = 40;
const ROWS_MIN: usize = 2;

/// Lines of the view from which on there are headings.
const WITH_HEADINGS: usize = 3;

/// Lines of the view from which on it stands apart from what is above it. Who presses Enter moves everything up by a
/// line, and it is this one that stays behind.
const APART: usize = 6;

/// Columns of a state that carries connections, and of their number.
const STATE: usize = 5;
const COUNT: usize = 4;

/// Columns for both sides of the arrow from which on addresses have hosts even if not everything fits.
const WITH_HOSTS: usize = 48;

/// Columns of a port on all addresses, as `*:2222`.
const PORT: usize = 6;

const ARROW: &str = " -> ";

/// A forward with all that is shown of it.
pub(super) struct Shown<'a> {
    pub(super) forward: &'a ForwardSnapshot,
    pub(super) rate: Rate,
    pub(super) waiting: Waiting,
}

/// The lines of the view, none longer than the terminal is wide. They take half of its height at most.
pub(super) fn render(shown: &[Shown<'_>], palette: Palette, size: Size) -> Vec<String> {
    if shown.is_empty() || size.columns < COLUMNS_MIN || size.rows < ROWS_MIN {
        return Vec::new();
    }
    let lines = size.rows / 2;
    let (has_headings, is_apart) = (lines >= WITH_HEADINGS, lines >= APART);
    let chosen = choose(shown, lines - usize::from(has_headings) - usize::from(is_apart));
    // The last column stays free: some terminals go on to the next line once it is filled.
    let columns = Columns::of(shown, size.columns - 1);

    let mut view = Vec::with_capacity(lines);
    if is_apart {
        view.push(String::new());
    }
    if has_headings {
        view.push(palette.paint(Tone::Rests, columns.headings().trim_end()));
    }
    view.extend(chosen.iter().map(|row| columns.row(row, palette)));
    if chosen.len() < shown.len() && view.len() < lines {
        view.push(palette.paint(Tone::Rests, &more(shown, &chosen, size.columns - 1)));
    }
    view
}

/// Those for which there is room, in the order that they are in: what waits for something comes before what works, and
/// what moves much before what rests.
fn choose<'a, 'b>(shown: &'a [Shown<'b>], lines: usize) -> Vec<&'a Shown<'b>> {
    if shown.len() <= lines {
        return shown.iter().collect();
    }
    let matters = |shown: &Shown<'_>| {
        let waits = matches!(
            shown.forward.status.state,
            ForwardState::Starting | ForwardState::Waking | ForwardState::Reconnecting { .. } | ForwardState::Stopped
        );
        // By orders of magnitude: those that are about as busy must not take each other's place all the time.
        (waits, (shown.rate.up + shown.rate.down).checked_ilog2(), shown.forward.status.connections.len())
    };
    let mut order: Vec<_> = shown.iter().enumerate().collect();
    order.sort_by_key(|(_, shown)| std::cmp::Reverse(matters(shown)));
    // One line for those that are left out.
    order.truncate(lines.saturating_sub(1).max(1));
    order.sort_by_key(|(at, _)| *at);
    order.into_iter().map(|(_, shown)| shown).collect()
}

/// `+12 more: 10 ready, 2 dormant`.
fn more(shown: &[Shown<'_>], chosen: &[&Shown<'_>], columns: usize) -> String {
    let is_left_out = |shown: &&Shown<'_>| !chosen.iter().any(|chosen| std::ptr::eq(*chosen, *shown));
    let mut states: Vec<(&str, usize)> = Vec::new();
    for state in shown.iter().filter(is_left_out).map(|shown| shown.forward.status.state.name()) {
        match states.iter_mut().find(|(known, _)| *known == state) {
            Some((_, count)) => *count += 1,
            None => states.push((state, 1)),
        }
    }
    let short = format!("+{} more", shown.len() - chosen.len());
    let states: Vec<_> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    fitting(&[format!("{short}: {}", states.join(", ")), short], columns)
}

/// How much of an address is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// All of them.
    Full,
    /// `localhost:13306` for both loopback addresses; of others the first.
    Short,
    /// Only the port on this machine.
    Port,
}

/// What stands behind the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figures {
    All,
    WithoutRoundTrip,
    /// Both directions in one.
    OneRate,
}

/// Which columns there are, and how wide those are that depend on what stands in them. 0: there is none.
#[derive(Debug, PartialEq, Eq)]
struct Columns {
    name: usize,
    form: Form,
    address: usize,
    destination: usize,
    target: usize,
    sessions: bool,
    figures: Figures,
    gap: usize,
    total: usize,
}

impl Columns {
    /// The columns for all forwards, also those that are not shown now.
    fn of(shown: &[Shown<'_>], total: usize) -> Self {
        let widest = |text: &dyn Fn(&ForwardSnapshot) -> String| {
            shown.iter().map(|shown| width(&text(shown.forward))).max().unwrap_or_default()
        };
        let figures = match total {
            0..56 => Figures::OneRate,
            56..72 => Figures::WithoutRoundTrip,
            _ => Figures::All,
        };
        let gap = if figures == Figures::OneRate { 1 } else { 2 };
        let mut columns = Self {
            name: 0,
            form: Form::Full,
            address: 0,
            destination: widest(&destination),
            target: 0,
            sessions: false,
            figures,
            gap,
            total,
        };
        let room = total.saturating_sub(columns.figures_width() + ARROW.len());
        for form in [Form::Full, Form::Short, Form::Port] {
            columns.form = form;
            columns.address = widest(&|forward| address(forward, form));
            if columns.address + columns.destination <= room {
                break;
            }
        }
        if columns.address + columns.destination > room {
            // Both are shortened, the destination less.
            columns.form = if room >= WITH_HOSTS { Form::Short } else { Form::Port };
            columns.address = widest(&|forward| address(forward, columns.form));
            let least = (room * 2 / 5).max(PORT).max(room.saturating_sub(columns.destination));
            columns.address = columns.address.min(least);
            columns.destination = room.saturating_sub(columns.address);
        }
        // What else there is room for, the most useful first.
        let mut room = room.saturating_sub(columns.address + columns.destination);
        let mut take = |wanted: usize| {
            let fits = wanted > 0 && wanted + gap <= room;
            room -= if fits { wanted + gap } else { 0 };
            if fits { wanted } else { 0 }
        };
        // A FORWARD as typed says nothing that is not there already.
        if shown.iter().any(|shown| !shown.forward.name.contains([':', '/'])) {
            columns.name = take(widest(&|forward| printable(&forward.name)).max("NAME".len()));
        }
        columns.sessions = take(COUNT) > 0;
        columns.target = take(widest(&|forward| printable(&forward.target)).max("TARGET".len()));
        columns
    }

    /// Columns behind the destination, the gap in front of each included.
    fn figures_width(&self) -> usize {
        let each: &[usize] = match self.figures {
            Figures::All => &[STATE, COUNT, RATE, RATE, ROUND_TRIP],
            Figures::WithoutRoundTrip => &[STATE, COUNT, RATE, RATE],
            Figures::OneRate => &[STATE, COUNT, RATE],
        };
        each.iter().map(|each| each + self.gap).sum()
    }

    /// What is in front of the figures.
    fn front(&self, name: &str, forward: &str, target: &str) -> String {
        let gap = self.gap;
        let mut front = String::new();
        if self.name > 0 {
            front.push_str(&format!("{}{:gap$}", left(name, self.name), ""));
        }
        front.push_str(&left(forward, self.address + ARROW.len() + self.destination));
        if self.target > 0 {
            front.push_str(&format!("{:gap$}{}", "", left(target, self.target)));
        }
        front
    }

    fn headings(&self) -> String {
        let cells: &[&str] = match self.figures {
            Figures::All => &["UP", "DOWN", "RTT"],
            Figures::WithoutRoundTrip => &["UP", "DOWN"],
            Figures::OneRate => &["RATE"],
        };
        let cells: Vec<_> = cells.iter().map(|cell| (*cell).to_owned()).collect();
        let front = self.front("NAME", "FORWARD", "TARGET");
        self.line(&front, &left("STATE", STATE), "CONN", "SESS", &cells)
    }

    fn row(&self, Shown { forward, rate, waiting }: &Shown<'_>, palette: Palette) -> String {
        let status = &forward.status;
        let address = left(&address(forward, self.form), self.address);
        let destination = left(&destination(forward), self.destination);
        let both = format!("{address}{ARROW}{destination}");
        let front = self.front(&printable(&forward.name), &both, &printable(&forward.target));
        if let Some((tone, wordings)) = words::of(status, waiting) {
            let room = self.total.saturating_sub(width(&front) + self.gap);
            return format!("{front}{:gap$}{}", "", palette.paint(tone, &fitting(&wordings, room)), gap = self.gap);
        }
        let rtt = status.sessions.iter().filter(|session| session.serves).filter_map(|session| session.rtt).min();
        let cells = match self.figures {
            Figures::All => vec![rates::in_words(rate.up), rates::in_words(rate.down), words::round_trip(rtt)],
            Figures::WithoutRoundTrip => vec![rates::in_words(rate.up), rates::in_words(rate.down)],
            Figures::OneRate => vec![rates::in_words(rate.up.saturating_add(rate.down))],
        };
        let state = palette.paint(Tone::Good, &left(status.state.name(), STATE));
        let (connections, sessions) = (count(status.connections.len()), count(status.sessions.len()));
        self.line(&front, &state, &connections, &sessions, &cells)
    }

    fn line(&self, front: &str, state: &str, connections: &str, sessions: &str, figures: &[String]) -> String {
        let gap = self.gap;
        let mut line = format!("{front}{:gap$}{state}{:gap$}{}", "", "", right(connections, COUNT));
        if self.sessions {
            line.push_str(&format!("{:gap$}{}", "", right(sessions, COUNT)));
        }
        for (at, figure) in figures.iter().enumerate() {
            let columns = if self.figures == Figures::All && at == 2 { ROUND_TRIP } else { RATE };
            line.push_str(&format!("{:gap$}{}", "", right(figure, columns)));
        }
        line
    }
}

/// A number in [`COUNT`] columns.
fn count(number: usize) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{}k", number / 1000),
        _ => format!("{}M", number / 1_000_000),
    }
}

fn destination(forward: &ForwardSnapshot) -> String {
    printable(&forward.destination)
}

/// Where a forward listens.
fn address(forward: &ForwardSnapshot, form: Form) -> String {
    let addresses = &forward.status.addresses;
    let full = || addresses.iter().map(|address| printable(&address.to_string())).collect::<Vec<_>>().join(", ");
    let tcp = addresses.iter().map(|address| match address {
        LocalAddress::Tcp(address) => Some(*address),
        LocalAddress::Unix(_) => None,
    });
    let tcp: Option<Vec<_>> = tcp.collect();
    let Some([first, others @ ..]) = tcp.as_deref().filter(|_| form != Form::Full) else { return full() };
    let is_loopback = first.ip().is_loopback() && others.iter().all(|other| other.ip().is_loopback());
    let has_one_port = others.iter().all(|other| other.port() == first.port());
    match form {
        _ if !has_one_port => full(),
        Form::Port if is_loopback => first.port().to_string(),
        _ if is_loopback && !others.is_empty() => format!("localhost:{}", first.port()),
        _ if first.ip().is_unspecified() => format!("*:{}", first.port()),
        _ if others.is_empty() => first.to_string(),
        _ => shorten(&full(), width(&first.to_string()) + 1),
    }
}
