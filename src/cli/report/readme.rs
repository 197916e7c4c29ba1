//! The error table as README shows it. Only the test below makes it.

use super::{symptom::Row, table::TABLE};

const README: &str = include_str!("../../../README.md");
const BEGIN: &str = "<!-- error table: made from src/cli/report/table.rs -->\n";
const END: &str = "<!-- end of the error table -->";

/// Words in braces in capitals.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    let mut inside = false;
    for character in text.chars() {
        match character {
            '{' => inside = true,
            '}' => inside = false,
            '-' if inside => shown.push(' '),
            _ if inside => shown.extend(character.to_uppercase()),
            '|' => shown.push_str("\\|"),
            _ => shown.push(character),
        }
    }
    shown
}

fn line(row: &Row) -> String {
    let status = row.exit.map_or_else(|| "goes on".to_owned(), |exit| exit.status().to_string());
    let hint = if row.hint.is_empty() { "" } else { row.hint };
    format!("| `{}` | {} | {} | {} | {status} |\n", row.name, shown(row.seen), shown(row.cause), shown(hint))
}

#[test]
fn readme_has_the_error_table() {
    let mut wanted =
        "\n| symptom | what is seen | what it means | what helps | status |\n| --- | --- | --- | --- | --- |\n"
            .to_owned();
    wanted.extend(TABLE.iter().map(line));
    wanted.push('\n');
    let found = README.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(table, _)| table);
    assert!(found == Some(&wanted), "README should have between `{}` and `{END}`:\n{wanted}", BEGIN.trim_end());
}

#[test]
fn names_are_unique_and_every_one_is_provoked_by_a_test() {
    let tests = concat!(
        include_str!("../../../tests/cli/errors.rs"),
        include_str!("../../../tests/cli/errors/credentials.rs"),
        include_str!("../../../tests/cli/errors/encryption.rs"),
        include_str!("../../../tests/cli/errors/targets.rs"),
    );
    for (at, row) in TABLE.iter().enumerate() {
        assert!(TABLE[..at].iter().all(|other| other.name != row.name), "{}", row.name);
        let provoked = ["\"", "`"].iter().any(|mark| tests.contains(&format!("{mark}{}{mark}", row.name)));
        assert!(provoked, "no test provokes {}", row.name);
        assert!(!row.seen.is_empty() && !row.cause.is_empty(), "{}", row.name);
    }
}
