//! What is written, and what a terminal makes of it.

use std::sync::{Arc, Mutex};

use super::*;

/// A terminal that is asked for its size, and lines to be drawn.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<(Option<Size>, Vec<String>)>>);

impl Fake {
    fn shows(&self, lines: &[&str]) {
        self.0.lock().expect("no panic").1 = lines.iter().map(|line| (*line).to_owned()).collect();
    }

    fn has(&self, columns: usize) {
        self.0.lock().expect("no panic").0 = Some(Size { columns, rows: 10 });
    }

    fn is_not_ours(&self) {
        self.0.lock().expect("no panic").0 = None;
    }
}

impl View for Fake {
    fn size(&self) -> Option<Size> {
        self.0.lock().expect("no panic").0
    }

    fn lines(&mut self, _: Size) -> Vec<String> {
        self.0.lock().expect("no panic").1.clone()
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(250)
    }
}

/// As much of a terminal as the view needs, of any height.
#[derive(Default)]
struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Screen {
    fn write(&mut self, text: &str) {
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            rest = &rest[character.len_utf8()..];
            if self.lines.len() <= self.row {
                self.lines.resize(self.row + 1, Vec::new());
            }
            match character {
                '\n' => (self.row, self.column) = (self.row + 1, 0),
                '\r' => self.column = 0,
                '\u{1b}' => {
                    let end = rest.find(|it: char| it.is_ascii_alphabetic()).expect("the end of a sequence");
                    let (arguments, kind) = (&rest[1..end], &rest[end..=end]);
                    rest = &rest[end + 1..];
                    match kind {
                        "A" => self.row = self.row.saturating_sub(arguments.parse().expect("a number")),
                        "B" => self.row += 1,
                        "K" if arguments == "2" => self.lines[self.row].clear(),
                        "K" => self.lines[self.row].truncate(self.column),
                        "J" => {
                            self.lines[self.row].truncate(self.column);
                            self.lines.truncate(self.row + 1);
                        }
                        "h" | "l" => assert!(["?7", "?2026"].contains(&arguments), "{arguments}"),
                        other => panic!("{other}"),
                    }
                }
                _ => {
                    let line = &mut self.lines[self.row];
                    line.resize(line.len().max(self.column + 1), ' ');
                    line[self.column] = character;
                    self.column += 1;
                }
            }
        }
    }

    fn text(&self) -> String {
        let lines: Vec<String> = self.lines.iter().map(|line| line.iter().collect()).collect();
        lines.join("\n").trim_end().to_owned()
    }
}

fn painter() -> (Fake, Painter, Instant, Screen) {
    let fake = Fake::default();
    fake.has(20);
    let now = Instant::now();
    (fake.clone(), Painter::new(Box::new(fake), now), now, Screen::default())
}

#[test]
fn lines_scroll_by_above_the_view() {
    let (fake, mut painter, now, mut screen) = painter();
    fake.shows(&["HEAD", "one row"]);
    screen.write("$ ssmfwd\n");
    screen.write(&painter.tick(now));
    assert_eq!(screen.text(), "$ ssmfwd\nHEAD\none row");
    screen.write(&painter.say("ssmfwd: said\n", now));
    assert_eq!(screen.text(), "$ ssmfwd\nssmfwd: said\nHEAD\none row");
    // Lines that are written together do not ask the view again.
    fake.shows(&["HEAD", "another", "third"]);
    screen.write(&painter.say("more\nand more\n", now));
    assert_eq!(screen.text(), "$ ssmfwd\nssmfwd: said\nmore\nand more\nHEAD\none row");
    screen.write(&painter.tick(painter.due()));
    assert_eq!(screen.text(), "$ ssmfwd\nssmfwd: said\nmore\nand more\nHEAD\nanother\nthird");
    fake.shows(&["one"]);
    screen.write(&painter.tick(painter.due()));
    assert_eq!(screen.text(), "$ ssmfwd\nssmfwd: said\nmore\nand more\none");
    screen.write(&painter.take_away());
    screen.write("the end\n");
    assert_eq!(screen.text(), "$ ssmfwd\nssmfwd: said\nmore\nand more\nthe end");
}

/// A view that has just been looked at, and is not due for long, does not contradict what is said.
#[test]
fn what_is_said_makes_it_look_again() {
    let (fake, mut painter, now, mut screen) = painter();
    fake.shows(&["waiting for the agent"]);
    screen.write(&painter.tick(now));
    // Changed before it was said.
    let said_at = now + FRESH;
    assert!(said_at < painter.due());
    fake.shows(&["ready"]);
    screen.write(&painter.say("ready in 0.1 s\n", said_at));
    assert_eq!(screen.text(), "ready in 0.1 s\nready");
    // Changed after it was said, or too soon after the last look.
    screen.write(&painter.say("SIGINT: ending\n", said_at + FRESH / 2));
    assert_eq!(screen.text(), "ready in 0.1 s\nSIGINT: ending\nready");
    fake.shows(&["stopping"]);
    assert!(painter.due() <= said_at + FRESH / 2 + FRESH);
    screen.write(&painter.tick(painter.due()));
    assert_eq!(screen.text(), "ready in 0.1 s\nSIGINT: ending\nstopping");
}

#[test]
fn each_change_is_one_piece_and_nothing_is_written_without_one() {
    let (fake, mut painter, now, _) = painter();
    fake.shows(&["row"]);
    assert_eq!(painter.tick(now), "\u{1b}[?2026h\u{1b}[?7lrow\u{1b}[K\r\n\u{1b}[?7h\u{1b}[J\u{1b}[?2026l");
    assert_eq!(painter.tick(painter.due()), "");
    assert_eq!(painter.due(), now + Duration::from_millis(500));
    fake.shows(&["now"]);
    assert_eq!(
        painter.tick(painter.due()),
        "\u{1b}[?2026h\r\u{1b}[1A\u{1b}[?7lnow\u{1b}[K\r\n\u{1b}[?7h\u{1b}[J\u{1b}[?2026l"
    );
    // Another size is a change.
    fake.has(30);
    let anew = painter.tick(painter.due());
    assert!(anew.contains("\u{1b}[J\r\u{1b}[1A\u{1b}[2K\u{1b}[B\r\u{1b}[1A\u{1b}[?7lnow"), "{anew:?}");
    // Nothing to show is nothing to write.
    fake.shows(&[]);
    assert_ne!(painter.tick(painter.due()), "");
    assert_eq!(painter.tick(painter.due()), "");
    assert_eq!(painter.say("said\n", now), "said\n");
    assert_eq!(painter.take_away(), "");
}

#[test]
fn in_the_background_there_are_plain_lines() {
    let (fake, mut painter, now, mut screen) = painter();
    fake.shows(&["row"]);
    screen.write(&painter.tick(now));
    fake.is_not_ours();
    screen.write("$ bg\n");
    assert_eq!(painter.say("said\n", now), "said\n");
    assert_eq!(painter.tick(painter.due()), "");
    screen.write("said\n$ fg\n");
    fake.has(20);
    screen.write(&painter.tick(painter.due()));
    // What was drawn before is not looked for.
    assert_eq!(screen.text(), "row\n$ bg\nsaid\n$ fg\nrow");
    fake.is_not_ours();
    assert_eq!(painter.take_away(), "");
}

#[test]
fn after_a_stop_the_view_is_drawn_below_what_the_shell_has_written() {
    let (fake, mut painter, now, mut screen) = painter();
    fake.shows(&["row"]);
    screen.write(&painter.tick(now));
    screen.write("^Z\n[1]+ Stopped\n$ fg\nssmfwd\n");
    // Told so, or noticed by the time.
    painter.forget(now);
    screen.write(&painter.tick(now));
    assert_eq!(screen.text(), "row\n^Z\n[1]+ Stopped\n$ fg\nssmfwd\nrow");
    screen.write("$ fg\n");
    screen.write(&painter.say("said\n", painter.due() + Duration::from_secs(9)));
    assert_eq!(screen.text(), "row\n^Z\n[1]+ Stopped\n$ fg\nssmfwd\nrow\n$ fg\nsaid\nrow");
    // A write that took long is no stop.
    let late = painter.due() + Duration::from_secs(9);
    painter.written(late);
    fake.shows(&["new"]);
    screen.write(&painter.tick(late));
    assert!(screen.text().ends_with("$ fg\nsaid\nnew"), "{}", screen.text());
}

#[test]
fn a_narrower_terminal_has_wrapped_what_was_drawn() {
    let (fake, mut painter, now, _) = painter();
    fake.shows(&["0123456789", "01234", ""]);
    painter.tick(now);
    fake.has(5);
    assert!(painter.tick(painter.due()).contains("\r\u{1b}[4A"));
    // Not further up than the terminal is high.
    fake.has(1);
    assert!(painter.tick(painter.due()).contains("\r\u{1b}[9A"));
}
