//! The text of a file, and positions in it.
//!
//! The lines themselves are not shown: what somebody wrote there by mistake may be a secret.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::cli::report::Report;

/// A file that was read.
#[derive(Clone)]
pub(super) struct Source {
    /// As found, or as typed.
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Without the text.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Source {
    /// The line and the column of a byte, both from 1; columns are characters.
    pub(super) fn position(&self, at: usize) -> (usize, usize) {
        position(self.text.as_bytes(), at)
    }

    /// A mistake at a byte.
    pub(super) fn mistake(&self, at: usize, what: impl fmt::Display) -> Report {
        mistake(&self.path, self.position(at), what)
    }

    /// A mistake that is known, at a byte.
    pub(super) fn locate(&self, at: usize, report: Report) -> Report {
        let error = self.mistake(at, &report.error).error;
        Report { error, ..report }
    }

    /// A path in the file: `~/` is the user's home, and what is relative is so to the file's folder.
    pub(super) fn beside(&self, path: &Path, home: Option<&Path>) -> PathBuf {
        if let (Ok(rest), Some(home)) = (path.strip_prefix("~"), home) {
            return home.join(rest);
        }
        // Its own path may be relative too.
        let file = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        // Without the `.` that marks what is no port as a path.
        file.parent().map_or_else(|| path.to_owned(), |folder| folder.join(path.strip_prefix(".").unwrap_or(path)))
    }
}

/// The line and the column of a byte of a text.
pub(super) fn position(text: &[u8], at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}

pub(super) fn mistake(path: &Path, (line, column): (usize, usize), what: impl fmt::Display) -> Report {
    Report::usage(format!("{}:{line}:{column}: {what}", path.display()))
}
