//! Escapes, as ssh has them: what is typed at the beginning of a line for us and not for the shell.
//!
//! ```text
//! LineStart ─ ~ ─▶ Escaped ─ . ? - ~ ─▶ what it means; anything else: ~ and that are for the shell after all
//!     ▲ └─ other ─▶ Within ─ CR or LF ─┐
//!     └────────────────────────────────┘
//! ```

/// What an escape asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// `~.`: the end of the session.
    End,
    /// `~?`: what escapes there are.
    Help,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    Within,
    Escaped,
}

/// Finds escapes in what is typed.
#[derive(Debug)]
pub(super) struct Escapes {
    /// What they begin with; `None`: nothing does.
    escape: Option<u8>,
    state: State,
}

impl Escapes {
    pub(super) const fn new(escape: Option<u8>) -> Self {
        Self { escape, state: State::LineStart }
    }

    /// Passes on what is for the shell. Stops behind an escape: the second value is what is left to be passed.
    pub(super) fn pass<'a>(&mut self, typed: &'a [u8], shell: &mut Vec<u8>) -> Option<(Asked, &'a [u8])> {
        let Some(escape) = self.escape else {
            shell.extend_from_slice(typed);
            return None;
        };
        for (at, &byte) in typed.iter().enumerate() {
            let was = std::mem::replace(&mut self.state, State::Within);
            if was == State::Escaped {
                let asked = match byte {
                    b'.' => Asked::End,
                    b'?' => {
                        self.state = State::LineStart;
                        Asked::Help
                    }
                    // From now on nothing is ours.
                    b'-' => {
                        self.escape = None;
                        shell.extend_from_slice(typed.get(at + 1..).unwrap_or_default());
                        return None;
                    }
                    // Twice is once for the shell.
                    _ if byte == escape => {
                        shell.push(escape);
                        continue;
                    }
                    _ => {
                        shell.push(escape);
                        self.within(byte, shell);
                        continue;
                    }
                };
                return Some((asked, typed.get(at + 1..).unwrap_or_default()));
            }
            if was == State::LineStart && byte == escape {
                self.state = State::Escaped;
            } else {
                self.within(byte, shell);
            }
        }
        None
    }

    /// A text about them, with what they begin with in the place of `~`.
    pub(super) fn shown(&self, text: &str) -> String {
        text.replace('~', char::from(self.escape.unwrap_or(b'~')).encode_utf8(&mut [0; 4]))
    }

    fn within(&mut self, byte: u8, shell: &mut Vec<u8>) {
        shell.push(byte);
        if matches!(byte, b'\r' | b'\n') {
            self.state = State::LineStart;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the shell gets, with what was asked for in brackets; typed at once, and a byte at a time.
    fn typed(text: &str) -> String {
        let run = |chunks: Vec<&[u8]>| {
            let (mut escapes, mut shell) = (Escapes::new(Some(b'~')), Vec::new());
            for mut chunk in chunks {
                while let Some((asked, rest)) = escapes.pass(chunk, &mut shell) {
                    shell.extend_from_slice(format!("[{asked:?}]").as_bytes());
                    chunk = rest;
                }
            }
            String::from_utf8(shell).expect("text")
        };
        let at_once = run(vec![text.as_bytes()]);
        assert_eq!(at_once, run(text.as_bytes().chunks(1).collect()));
        at_once
    }

    #[test]
    fn only_at_the_beginning_of_a_line() {
        for (text, expected) in [
            ("~.", "[End]"),
            ("ls\r~.", "ls\r[End]"),
            ("ls\n~?~.", "ls\n[Help][End]"),
            ("ls ~.", "ls ~."),
            ("cd ~/x\r", "cd ~/x\r"),
            ("~/bin/x\r~~.\r", "~/bin/x\r~.\r"),
            ("~~~.", "~~."),
            ("~\r~.", "~\r[End]"),
            ("x~\r~.", "x~\r[End]"),
            ("~?ls\r", "[Help]ls\r"),
            ("~-ls\r~.\r~~\r", "ls\r~.\r~~\r"),
        ] {
            assert_eq!(typed(text), expected, "{text:?}");
        }
    }

    #[test]
    fn another_character_is_shown_where_they_are_told() {
        assert_eq!(Escapes::new(Some(b'%')).shown("~.  end, ~~ one ~"), "%.  end, %% one %");
    }

    #[test]
    fn who_wants_none_has_none() {
        let (mut escapes, mut shell) = (Escapes::new(None), Vec::new());
        assert_eq!(escapes.pass(b"~.\r~?", &mut shell), None);
        assert_eq!(shell, b"~.\r~?");
    }
}
