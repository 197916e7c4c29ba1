//! Code cites the protocol notes by file and heading: every place cited exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FOLDER: &str = "proto-notes";

/// A citation: where it stands, which file of the notes, which heading.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Citation {
    place: String,
    file: String,
    anchor: Option<String>,
}

/// The citations in a text, given what stands before the name of a file.
fn citations(place: &str, text: &str, marker: &str) -> Vec<Citation> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for (at, _) in line.match_indices(marker) {
            let target = &line[at + marker.len()..];
            let word = |text: &str| -> String {
                text.chars().take_while(|next| next.is_ascii_alphanumeric() || *next == '-').collect()
            };
            let stem = word(target);
            let Some(rest) = target[stem.len()..].strip_prefix(".md") else { continue };
            let anchor = rest.strip_prefix('#').map(word);
            found.push(Citation { place: format!("{place}:{number}"), file: format!("{stem}.md"), anchor });
        }
    }
    found
}

/// The anchors that a Markdown file offers: its headings, lower case, blanks as hyphens, punctuation dropped.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let keep = |letter: char| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || letter == '-' || letter == '_' => Some(letter.to_ascii_lowercase()),
        _ => None,
    };
    headings.map(|heading| heading.chars().filter_map(keep).collect()).collect()
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, ending: &str, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            collect(&path, ending, files);
        } else if path.extension().is_some_and(|found| found == ending) {
            files.push(path);
        }
    }
}

/// Why a citation leads nowhere, if it does.
fn broken(citation: &Citation) -> Option<String> {
    let Citation { place, file, anchor } = citation;
    let Ok(text) = std::fs::read_to_string(package().join(FOLDER).join(file)) else {
        return Some(format!("{place}: there is no {FOLDER}/{file}"));
    };
    let anchor = anchor.as_ref()?;
    (!anchors(&text).contains(anchor)).then(|| format!("{place}: {FOLDER}/{file} has no heading for #{anchor}"))
}

#[track_caller]
fn check(citations: &[Citation]) {
    let broken: Vec<_> = citations.iter().filter_map(broken).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_place_that_code_cites_exists() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        collect(&package().join(folder), "rs", &mut files);
    }
    let mut found = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable source file");
        found.extend(citations(&path.display().to_string(), &text, &format!("{FOLDER}/")));
    }
    assert!(found.iter().any(|citation| citation.anchor.is_some()), "nothing is cited: the search is broken");
    check(&found);
}

#[test]
fn every_link_between_the_notes_leads_somewhere() {
    let mut files = Vec::new();
    collect(&package().join(FOLDER), "md", &mut files);
    assert!(files.len() >= 10, "{files:?}");
    let mut found = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable note");
        let name = path.file_name().expect("a file name").to_string_lossy().into_owned();
        found.extend(citations(&name, &text, "]("));
        // Links within a file.
        let own = text.replace("](#", &format!("]({name}#"));
        found.extend(citations(&name, &own, "]("));
    }
    assert!(found.len() > 20, "{found:?}");
    check(&found);
}

#[test]
fn the_index_names_every_note() {
    let mut files = Vec::new();
    collect(&package().join(FOLDER), "md", &mut files);
    let index = std::fs::read_to_string(package().join(FOLDER).join("README.md")).expect("the index");
    for path in files {
        let name = path.file_name().expect("a file name").to_string_lossy().into_owned();
        assert!(name == "README.md" || index.contains(&format!("]({name})")), "{name} is not in the index");
    }
}

#[test]
fn citations_and_headings_are_read() {
    let text = format!("//! See `{FOLDER}/smux.md`, ({FOLDER}/nowhere.md#half-close), {FOLDER}/<file>.md");
    let expected = [("smux.md", None), ("nowhere.md", Some("half-close"))].map(|(file, anchor)| Citation {
        place: "a.rs:1".into(),
        file: file.into(),
        anchor: anchor.map(Into::into),
    });
    let found = citations("a.rs", &text, &format!("{FOLDER}/"));
    assert_eq!(found, expected);
    assert_eq!(broken(&found[1]), Some(format!("a.rs:1: there is no {FOLDER}/nowhere.md")));
    let headings = anchors("# One file\ntext\n## Head-only resend\n### `StreamUrl`, again");
    assert_eq!(headings.iter().collect::<Vec<_>>(), ["head-only-resend", "one-file", "streamurl-again"]);
}
