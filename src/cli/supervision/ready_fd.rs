//! `--ready-fd N`: one line on a descriptor that the program was started with, when all forwards are ready, and its end.
//!
//! The line has the address of each forward in command order, as `{addr}` of exec mode has it, with tabs between them:
//!
//! ```text
//! 127.0.0.1:13306<TAB>/run/cache.sock<LF>
//! ```
//!
//! That is what s6 and others who only wait for a newline need, and a script that has asked for port 0 reads where it is:
//! `read -r db cache <&3`. A program that ends before it is ready closes the descriptor without a line.

use super::super::report::Report;

/// A descriptor that waits for the line.
#[derive(Debug)]
pub(in crate::cli) struct ReadyFd {
    #[cfg(unix)]
    pipe: std::fs::File,
}

#[cfg(unix)]
impl ReadyFd {
    /// Takes the descriptor over: COMMAND does not inherit it. To be called before anything is bound or started.
    ///
    /// # Errors
    /// A usage error if the number is that of no descriptor that can be written to, or of stdin, stdout or stderr: closing
    /// these would give their numbers to whatever is opened next.
    pub(in crate::cli) fn take(number: i32) -> Result<Self, Report> {
        use rustix::fs::{OFlags, fcntl_getfl};

        let unusable = |why: &dyn std::fmt::Display| {
            Report::usage(format!("--ready-fd {number} cannot be used: {why}"))
                .with_hint("give a number above 2 that is open for writing, as in: ssmfwd ... --ready-fd 3 3>FILE")
        };
        let descriptor = crate::cli::sys::inherited(number).map_err(|error| unusable(&error))?;
        let flags = fcntl_getfl(&descriptor).map_err(|error| unusable(&error))?;
        if flags & OFlags::RWMODE == OFlags::RDONLY {
            return Err(unusable(&"it is open for reading only"));
        }
        Ok(Self { pipe: descriptor.into() })
    }

    /// Writes the line and closes the descriptor. Does not wait: whoever is slow to read holds up nobody, and if nobody
    /// reads any more, that is his affair. Must run inside a tokio runtime.
    pub(in crate::cli) fn announce<'a>(self, addresses: impl IntoIterator<Item = &'a std::ffi::OsStr>) {
        use std::io::Write;

        let line = line(addresses);
        let mut pipe = self.pipe;
        tokio::task::spawn_blocking(move || {
            if let Err(error) = pipe.write_all(&line) {
                tracing::debug!(%error, "nobody reads from --ready-fd");
            }
        });
    }
}

#[cfg(not(unix))]
impl ReadyFd {
    pub(in crate::cli) fn take(_number: i32) -> Result<Self, Report> {
        Err(Report::usage("--ready-fd is not available on this system"))
    }

    pub(in crate::cli) fn announce<'a>(self, _addresses: impl IntoIterator<Item = &'a std::ffi::OsStr>) {}
}

/// A path may hold anything: what would look like the next address or the end is shown as `?`.
#[cfg(unix)]
fn line<'a>(addresses: impl IntoIterator<Item = &'a std::ffi::OsStr>) -> Vec<u8> {
    let mut line = Vec::new();
    for address in addresses {
        if !line.is_empty() {
            line.push(b'\t');
        }
        let bytes = address.as_encoded_bytes().iter();
        line.extend(bytes.map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }));
    }
    line.push(b'\n');
    line
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        ffi::OsStr,
        fs::File,
        io::{Read, pipe},
        os::fd::{AsRawFd, IntoRawFd, OwnedFd},
    };

    use rustix::io::{FdFlags, fcntl_setfd};

    use super::*;

    /// As if the program had been started with it.
    fn inherited(descriptor: impl Into<OwnedFd>) -> i32 {
        let descriptor = descriptor.into();
        fcntl_setfd(&descriptor, FdFlags::empty()).expect("it is open");
        descriptor.into_raw_fd()
    }

    #[tokio::test]
    async fn one_line_is_written_and_the_descriptor_closed() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let ready = ReadyFd::take(inherited(writer)).expect("open for writing");
        ready.announce([OsStr::new("127.0.0.1:5"), OsStr::new("/a\tb\n")]);
        let told = tokio::task::spawn_blocking(move || {
            let mut told = String::new();
            reader.read_to_string(&mut told).map(|_| told)
        });
        assert_eq!(told.await.expect("no panic").expect("it ends"), "127.0.0.1:5\t/a?b?\n");
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_no_failure() {
        let (reader, writer) = pipe().expect("a pipe");
        let ready = ReadyFd::take(inherited(writer)).expect("open for writing");
        drop(reader);
        ready.announce([OsStr::new("127.0.0.1:5")]);
    }

    #[test]
    fn without_the_line_the_reader_sees_the_end() {
        let (mut reader, writer) = pipe().expect("a pipe");
        drop(ReadyFd::take(inherited(writer)).expect("open for writing"));
        assert_eq!(reader.read(&mut [0]).expect("it is open"), 0);
    }

    #[test]
    fn what_cannot_be_written_to_is_a_usage_error() {
        let text = |number| ReadyFd::take(number).expect_err("unusable").to_string();
        assert!(text(1).starts_with("error: --ready-fd 1 cannot be used: 0, 1 and 2 are "), "{}", text(1));
        assert!(text(1_000_000).contains("it is not open"));
        let ours = File::create("/dev/null").expect("it exists");
        assert!(text(ours.as_raw_fd()).contains("it is not open"), "what the program has opened is not taken");
        let reading = inherited(File::open("/dev/null").expect("it exists"));
        assert!(text(reading).contains("reading only"));
        assert_eq!(ReadyFd::take(0).expect_err("unusable").exit, crate::cli::exit::Exit::Usage);
    }
}
