//! Text in the cells of a terminal: how many columns it takes, and how it is cut to fit.
//!
//! Text from elsewhere has no control characters any more: see [`printable`](crate::cli::console::printable).

use dialoguer::console::measure_text_width;

/// In the place of what is left out. One column.
const ELLIPSIS: char = '…';

/// Columns that a text takes at most. Terminals differ over characters that are made of several: what is measured as
/// one here may be drawn as its parts.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(of_character).sum::<usize>().max(measure_text_width(text))
}

fn of_character(character: char) -> usize {
    measure_text_width(character.encode_utf8(&mut [0; 4]))
}

/// The text within so many columns, which it may not fill: the middle is left out, and as far as possible neither a
/// port, nor the name of a file in a path.
pub(super) fn shorten(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let last = text.rfind([':', '/']).map_or(0, |at| width(&text[at..]));
    let tail = if last <= room * 3 / 4 { last.max(room / 2) } else { room / 2 };
    let tail = tail_of(text, tail);
    let mut shortened = head_of(text, room.saturating_sub(width(tail))).to_owned();
    shortened.push(ELLIPSIS);
    shortened.push_str(tail);
    shortened
}

/// The longest beginning within so many columns, with all marks on its last character.
fn head_of(text: &str, columns: usize) -> &str {
    let mut taken = 0;
    for (at, character) in text.char_indices() {
        taken += of_character(character);
        if taken > columns {
            return &text[..at];
        }
    }
    text
}

/// The longest end within so many columns, which does not begin with a mark on the character before it.
fn tail_of(text: &str, columns: usize) -> &str {
    let (mut taken, mut begin) = (0, text.len());
    for (at, character) in text.char_indices().rev() {
        let its = of_character(character);
        taken += its;
        if taken > columns {
            break;
        }
        if its > 0 {
            begin = at;
        }
    }
    &text[begin..]
}

/// Filled up with spaces behind, and shortened where it is too long.
pub(super) fn left(text: &str, columns: usize) -> String {
    let text = shorten(text, columns);
    let space = columns.saturating_sub(width(&text));
    format!("{text}{:space$}", "")
}

/// The same with the spaces in front.
pub(super) fn right(text: &str, columns: usize) -> String {
    let text = shorten(text, columns);
    let space = columns.saturating_sub(width(&text));
    format!("{:space$}{text}", "")
}

/// The first of some wordings that fits, the longest first; the last one is shortened if it has to be.
pub(super) fn fitting(wordings: &[String], columns: usize) -> String {
    let fits = wordings.iter().find(|wording| width(wording) <= columns).or_else(|| wordings.last());
    fits.map(|wording| shorten(wording, columns)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_left_out() {
        for (text, columns, expected) in [
            ("db:3306", 7, "db:3306"),
            ("mydb.cluster-abc.eu-west-1.rds.amazonaws.com:3306", 20, "mydb.clust….com:3306"),
            ("mydb.cluster-abc.eu-west-1.rds.amazonaws.com:3306", 9, "myd…:3306"),
            ("/run/user/1000/ssmfwd/database.socket", 24, "/run/us…/database.socket"),
            ("/run/user/1000/ssmfwd/database.socket", 12, "/run/u…ocket"),
            ("abc", 2, "a…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(shorten(text, columns), expected, "{text} in {columns}");
        }
    }

    #[test]
    fn wide_and_combining_characters_are_not_torn_apart() {
        for (text, columns, expected) in [
            ("データベース:3306", 20, "データベース:3306"),
            ("データベース:3306", 13, "データ…:3306"),
            ("データベース", 4, "デ…"),
            ("e\u{301}e\u{301}e\u{301}e\u{301}", 3, "e\u{301}…e\u{301}"),
            ("a\u{200b}b", 2, "a\u{200b}b"),
        ] {
            let shortened = shorten(text, columns);
            assert_eq!(shortened, expected, "{text} in {columns}");
        }
        // A family, drawn as one or as three; a heart, as text or as a picture.
        assert!(width("\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}") >= 6);
        assert_eq!(width("\u{2764}\u{fe0f}"), 2);
    }

    #[test]
    fn nothing_is_wider_than_its_cell() {
        for text in ["データベース:3306", "ab\u{301}c:1", "\u{1f468}\u{200d}\u{1f469}x/y", "", ":", "/"] {
            for columns in 0..24 {
                assert!(width(&shorten(text, columns)) <= columns, "{text} in {columns}");
                assert_eq!(width(&left(text, columns)), columns, "{text} in {columns}");
                assert_eq!(width(&right(text, columns)), columns, "{text} in {columns}");
            }
        }
    }

    #[test]
    fn the_longest_wording_that_fits_is_taken() {
        let wordings = ["resuming in 3 s, down for 12 s".to_owned(), "resuming in 3 s".to_owned()];
        for (columns, expected) in
            [(40, "resuming in 3 s, down for 12 s"), (20, "resuming in 3 s"), (9, "resu…in 3 s"), (0, "")]
        {
            let fitted = fitting(&wordings, columns);
            assert!(width(&fitted) <= columns && (columns == 9 || fitted == expected), "{columns}: {fitted}");
        }
        assert_eq!(fitting(&[], 9), "");
    }
}
