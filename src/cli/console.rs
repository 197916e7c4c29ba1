//! The way out to people and programs: lines for stdout and stderr, in order, written by a thread of their own.
//!
//! Nobody who tells something waits for the terminal or for the reader of a pipe: events come from tasks that carry
//! data. What a slow reader leaves no room for is dropped and counted, if it can be spared.
//!
//! On a terminal a [view](View) may stand below the lines. The same thread draws it, so that lines and view never get in
//! each other's way.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::live::{Painter, View};

/// Lines that wait for a slow reader. Beyond it, lines that can be spared are dropped.
const QUEUE_MAX: usize = 4096;

/// Lines that are written at once above a view.
const BATCH_MAX: usize = 64;

/// How long a slow reader is waited for at the end.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Whether the terminal does not return the carriage by itself.
static RAW: AtomicBool = AtomicBool::new(false);

/// From now on lines begin at the left although the terminal is in raw mode, or it no longer is.
#[cfg(unix)]
pub(super) fn set_raw(raw: bool) {
    RAW.store(raw, Ordering::Relaxed);
}

/// A text whose lines begin at the left.
pub(super) fn at_the_left(text: &str) -> Cow<'_, str> {
    if RAW.load(Ordering::Relaxed) { text.replace('\n', "\r\n").into() } else { text.into() }
}

/// Where a line goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// Data.
    Stdout,
    /// Everything said to people.
    Stderr,
}

/// Lines on their way out. Dropping it ends the thread when all is written.
pub(super) struct Console {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something to write, or the end.
    filled: Condvar,
    /// Nothing left to write.
    drained: Condvar,
}

/// What the thread is to do.
enum Order {
    Line(To, String),
    /// Instead of the view that is shown, if any.
    Show(Option<Box<dyn View>>),
    /// Others have written on the terminal.
    Redraw,
}

#[derive(Default)]
struct Queue {
    orders: VecDeque<Order>,
    /// The thread holds an order.
    writing: bool,
    dropped_events: u64,
    dropped_lines: u64,
    closed: bool,
}

impl Console {
    /// A console on the program's own stdout and stderr.
    pub(super) fn new() -> io::Result<Self> {
        Self::on(io::stdout(), io::stderr())
    }

    /// A console on any writers.
    pub(super) fn on(stdout: impl Write + Send + 'static, stderr: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Mutex::new(Queue::default());
        let shared = Arc::new(Shared { queue, filled: Condvar::new(), drained: Condvar::new() });
        let for_thread = shared.clone();
        thread::Builder::new().name("console".into()).spawn(move || for_thread.write_all(stdout, stderr))?;
        Ok(Self { shared })
    }

    /// Writes a line, however slow its reader: for lines that are few.
    pub(super) fn line(&self, to: To, line: String) {
        self.order(Order::Line(to, line));
    }

    /// Shows a view below everything that is said on stderr, from now on.
    pub(super) fn show(&self, view: impl View + 'static) {
        self.order(Order::Show(Some(Box::new(view))));
    }

    /// Takes the view away again. What is said stays.
    pub(super) fn hide(&self) {
        self.order(Order::Show(None));
    }

    /// Draws the view anew, where the cursor is: after the program was stopped, for others have written below it.
    pub(super) fn redraw(&self) {
        self.order(Order::Redraw);
    }

    fn order(&self, order: Order) {
        self.shared.lock().orders.push_back(order);
        self.shared.filled.notify_one();
    }

    /// Writes a line unless too many wait. The line is made with the number of lines for its side that were dropped
    /// since the last one.
    pub(super) fn spare_line(&self, to: To, line: impl FnOnce(u64) -> String) {
        let mut queue = self.shared.lock();
        let is_full = queue.orders.len() >= QUEUE_MAX;
        let dropped = match to {
            To::Stdout => &mut queue.dropped_events,
            To::Stderr => &mut queue.dropped_lines,
        };
        if is_full {
            *dropped += 1;
            return;
        }
        let dropped = std::mem::take(dropped);
        queue.orders.push_back(Order::Line(to, line(dropped)));
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// Waits until all is written, however slow its reader. Blocks: for a thread that may wait.
    pub(super) fn drain(&self) {
        let queue = self.shared.lock();
        let busy = |queue: &mut Queue| queue.writing || !queue.orders.is_empty();
        drop(self.shared.drained.wait_while(queue, busy));
    }

    /// Waits until all is written, for a while at most. Blocks: for the very end.
    pub(super) fn flush(&self) {
        let queue = self.shared.lock();
        let busy = |queue: &mut Queue| queue.writing || !queue.orders.is_empty();
        // Whether time was up makes no difference: the program ends.
        drop(self.shared.drained.wait_timeout_while(queue, FLUSH_MAX, busy));
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do next; with a view, at that time at the latest. Waits for it.
    fn next(&self, due: Option<Instant>) -> Next {
        let mut queue = self.lock();
        queue.writing = false;
        loop {
            if let Some(order) = queue.orders.pop_front() {
                queue.writing = true;
                let Order::Line(to, mut line) = order else { return Next::Do(order) };
                line.push('\n');
                // With a view, what is said together is written together. Without, each line is a write of its own:
                // who shares the pipe with us must not get between its two halves.
                let mut count = 1;
                while to == To::Stderr && due.is_some() && count < BATCH_MAX {
                    let Some(Order::Line(To::Stderr, more)) =
                        queue.orders.pop_front_if(|order| matches!(order, Order::Line(To::Stderr, _)))
                    else {
                        break;
                    };
                    line.push_str(&more);
                    line.push('\n');
                    count += 1;
                }
                return Next::Do(Order::Line(to, line));
            }
            self.drained.notify_all();
            if queue.closed {
                return Next::End;
            }
            let Some(due) = due else {
                queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                queue.writing = true;
                return Next::Look;
            }
            queue = self.filled.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_all(&self, mut stdout: impl Write, mut stderr: impl Write) {
        let mut painter: Option<Painter> = None;
        loop {
            let next = self.next(painter.as_ref().map(Painter::due));
            let now = Instant::now();
            match (next, &mut painter) {
                (Next::Do(Order::Line(To::Stderr, lines)), None) => write(To::Stderr, &mut stderr, &lines),
                (Next::Do(Order::Line(To::Stderr, lines)), Some(painter)) => {
                    write(To::Stderr, &mut stderr, &painter.say(&lines, now));
                }
                (Next::Do(Order::Line(To::Stdout, line)), None) => write(To::Stdout, &mut stdout, &line),
                (Next::Do(Order::Line(To::Stdout, line)), Some(painter)) => {
                    // It may be the same terminal.
                    write(To::Stderr, &mut stderr, &painter.take_away());
                    write(To::Stdout, &mut stdout, &line);
                    write(To::Stderr, &mut stderr, &painter.tick(now));
                }
                (Next::Do(Order::Show(view)), shown) => {
                    let before = shown.as_mut().map(Painter::take_away).unwrap_or_default();
                    write(To::Stderr, &mut stderr, &before);
                    *shown = view.map(|view| Painter::new(view, now));
                }
                (Next::Do(Order::Redraw), Some(painter)) => painter.forget(now),
                (Next::Look, Some(painter)) => write(To::Stderr, &mut stderr, &painter.tick(now)),
                (Next::Do(Order::Redraw) | Next::Look, None) => {}
                (Next::End, shown) => {
                    let before = shown.as_mut().map(Painter::take_away).unwrap_or_default();
                    write(To::Stderr, &mut stderr, &before);
                    return;
                }
            }
            if let Some(painter) = &mut painter {
                painter.written(Instant::now());
            }
        }
    }
}

/// What the thread does next.
enum Next {
    Do(Order),
    /// Look whether the view has changed.
    Look,
    End,
}

fn write(to: To, writer: &mut impl Write, text: &str) {
    if text.is_empty() {
        return;
    }
    if let Err(error) = writer.write_all(at_the_left(text).as_bytes()).and_then(|()| writer.flush()) {
        // A reader that went away is no reason to stop forwarding.
        tracing::debug!(%error, ?to, "nobody reads what is written");
    }
}

/// Text from elsewhere, made fit for one line of a terminal: no control characters, line ends as ` / `.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        if !printable.is_empty() {
            printable.push_str(" / ");
        }
        for character in line.chars() {
            match character {
                '\t' => printable.push(' '),
                // Also the marks that reverse the direction of the text after them.
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    printable.extend(character.escape_unicode());
                }
                _ if character.is_control() => printable.extend(character.escape_default()),
                _ => printable.push(character),
            }
        }
    }
    printable
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::cli::live::Size;

    /// A writer whose contents can be read, and a lock that can hold it up.
    #[derive(Clone, Default)]
    pub(in super::super) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(in super::super) fn text(&self) -> String {
            let bytes = self.0.lock().expect("no panic under the lock").clone();
            String::from_utf8(bytes).expect("text")
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic under the lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes nothing before the other end is dropped.
    struct Stuck(mpsc::Receiver<()>, Page);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().ok();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn lines_come_out_in_order_on_their_side() {
        let (stdout, stderr) = (Page::default(), Page::default());
        let console = Console::on(stdout.clone(), stderr.clone()).expect("a thread");
        console.line(To::Stdout, "one".into());
        console.line(To::Stderr, "two".into());
        console.spare_line(To::Stdout, |dropped| format!("three {dropped}"));
        console.flush();
        assert_eq!((stdout.text(), stderr.text()), ("one\nthree 0\n".into(), "two\n".into()));
    }

    #[test]
    fn a_slow_reader_costs_lines_that_can_be_spared_and_no_memory() {
        let (release, gate) = mpsc::channel();
        let page = Page::default();
        let console = Console::on(Stuck(gate, page.clone()), io::sink()).expect("a thread");
        console.spare_line(To::Stdout, |_| "0".into());
        // The thread holds that one, and makes room for no other.
        while !console.shared.lock().orders.is_empty() {
            thread::yield_now();
        }
        for at in 1..3 * QUEUE_MAX {
            console.spare_line(To::Stdout, |_| at.to_string());
        }
        console.line(To::Stdout, "kept".into());
        assert!(console.shared.lock().orders.len() <= QUEUE_MAX + 1);
        drop(release);
        console.flush();
        // What is said to people does not use up what programs are to know.
        console.spare_line(To::Stderr, |dropped| format!("dropped {dropped}"));
        console.spare_line(To::Stdout, |dropped| format!("dropped {dropped}"));
        console.flush();
        let text = page.text();
        let lines: Vec<_> = text.lines().collect();
        let [numbers @ .., kept, dropped] = &lines[..] else { panic!("{text}") };
        assert_eq!(*kept, "kept");
        assert_eq!(*dropped, format!("dropped {}", 3 * QUEUE_MAX - numbers.len()));
        assert!(numbers.len() >= QUEUE_MAX && numbers.iter().enumerate().all(|(at, line)| *line == at.to_string()));
    }

    #[test]
    fn a_broken_pipe_is_not_the_end() {
        let stderr = Page::default();
        let console = Console::on(Broken, stderr.clone()).expect("a thread");
        console.line(To::Stdout, "nobody".into());
        console.line(To::Stderr, "somebody".into());
        console.flush();
        assert_eq!(stderr.text(), "somebody\n");
    }

    /// Shows how often it was asked for its lines; on a terminal of 80 columns.
    struct Counting(u32);

    impl View for Counting {
        fn size(&self) -> Option<Size> {
            Some(Size { columns: 80, rows: 24 })
        }

        fn lines(&mut self, _: Size) -> Vec<String> {
            self.0 += 1;
            vec![format!("look {}", self.0)]
        }

        fn patience(&self) -> Duration {
            // Only what a test does makes it look again.
            Duration::from_secs(3600)
        }
    }

    #[test]
    fn a_view_stands_below_the_lines_until_it_is_hidden() {
        let (stdout, stderr) = (Page::default(), Page::default());
        let console = Console::on(stdout.clone(), stderr.clone()).expect("a thread");
        console.show(Counting(0));
        console.line(To::Stderr, "one".into());
        console.flush();
        console.redraw();
        console.line(To::Stdout, "data".into());
        console.flush();
        console.hide();
        console.line(To::Stderr, "two".into());
        console.flush();
        let text = stderr.text();
        let (shown, after) =
            text.rsplit_once("\u{1b}[J\r\u{1b}[1A\u{1b}[2K\u{1b}[B\r\u{1b}[1A").expect("it is taken away");
        assert_eq!(after, "two\n");
        let (one, look) = (shown.find("one\n").expect("the line"), shown.rfind("look ").expect("the view"));
        assert!(one < look && !shown.contains("two"), "{shown:?}");
        assert_eq!(stdout.text(), "data\n");
        // Nothing is said to a view that is gone.
        console.redraw();
        console.hide();
        console.flush();
        assert_eq!(stderr.text(), text);
    }

    #[test]
    fn a_console_that_ends_takes_its_view_along() {
        let stderr = Page::default();
        let console = Console::on(io::sink(), stderr.clone()).expect("a thread");
        console.show(Counting(0));
        console.line(To::Stderr, "one".into());
        console.flush();
        let shared = Arc::downgrade(&console.shared);
        drop(console);
        while shared.strong_count() > 0 {
            thread::yield_now();
        }
        assert!(stderr.text().ends_with("\u{1b}[2K\u{1b}[B\r\u{1b}[1A"), "{:?}", stderr.text());
    }

    #[test]
    fn foreign_text_cannot_play_tricks_on_the_terminal() {
        for (text, expected) in [
            ("plain text", "plain text"),
            ("two\r\n\nlines\n", "two / lines"),
            ("\u{1b}[2Jcleared\u{7}", "\\u{1b}[2Jcleared\\u{7}"),
            ("a\tb\rc", "a b\\rc"),
            ("\u{202e}txet", "\\u{202e}txet"),
            ("Größe…", "Größe…"),
            ("", ""),
        ] {
            assert_eq!(printable(text), expected);
        }
    }
}
