//! The log: ssmfwd's own diagnostics, on stderr.
//!
//! Crates below are capped in code, whatever `RUST_LOG` says: at trace level tungstenite and hyper print payloads,
//! the AWS SDK and h2 print tokens and signed headers.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::Registry,
    util::SubscriberInitExt,
};

use super::args::{Format, SayArgs};

/// What others may say at most, whoever asks. Unasked, they say errors only, with `-v` warnings too.
const OTHERS_MAX: Level = Level::INFO;

/// Installs the log for the whole process. The first call wins.
pub(super) fn init(args: &SayArgs) {
    let directives = std::env::var("RUST_LOG").unwrap_or_default();
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let level = default_level(args.verbose, args.quiet);
    let subscriber = subscriber(level, &directives, args.log_format, colours, io::stderr);
    // Fails only where a log is installed already, as in tests.
    subscriber.try_init().ok();
}

fn default_level(verbose: u8, quiet: bool) -> LevelFilter {
    match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    }
}

fn subscriber<W>(
    level: LevelFilter,
    directives: &str,
    format: Format,
    colours: bool,
    writer: W,
) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = match directives {
        // The SDK warns of what it cannot read, in words for programmers; our one error says the same to the user.
        "" => {
            let others = if level > LevelFilter::WARN { LevelFilter::WARN } else { LevelFilter::ERROR };
            EnvFilter::new(format!("{others},ssmfwd={level}"))
        }
        _ => EnvFilter::builder().parse_lossy(directives),
    };
    // Without the hint everything would be asked about, which is several lines of others for each message.
    let filter = wanted.and(filter_fn(may_be_logged).with_max_level_hint(LevelFilter::TRACE));
    let layer = fmt::layer().with_writer(writer).with_ansi(colours);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        Format::Text => layer.with_filter(filter).boxed(),
        Format::Json => layer.json().with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(layer)
}

fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let is_ours = metadata.target().split("::").next() == Some("ssmfwd");
    is_ours || *metadata.level() <= OTHERS_MAX
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Capture(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Capture {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic under the lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_below_the_level_that_is_wanted_is_even_asked_about() {
        for (level, directives, most) in [
            (LevelFilter::WARN, "", LevelFilter::WARN),
            (LevelFilter::DEBUG, "", LevelFilter::DEBUG),
            (LevelFilter::WARN, "error", LevelFilter::ERROR),
        ] {
            let subscriber = subscriber(level, directives, Format::Text, false, io::sink);
            assert_eq!(subscriber.max_level_hint(), Some(most), "{level} {directives}");
        }
    }

    fn logged(level: LevelFilter, directives: &str, format: Format) -> String {
        let capture = Capture::default();
        let writer = capture.clone();
        let subscriber = subscriber(level, directives, format, false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "ssmfwd::forward", "own trace");
            tracing::debug!(target: "ssmfwd", "own debug");
            tracing::warn!(target: "ssmfwd::session", "own warning");
            tracing::trace!(target: "ssmfwd_impostor", "secret");
            tracing::error!(target: "hyper", "their error");
            tracing::warn!(target: "hyper", "their warning");
            tracing::info!(target: "aws_config", "their info");
            for _ in 0..2 {
                tracing::trace!(target: "tungstenite::protocol", "secret");
                tracing::debug!(target: "tungstenite::protocol", "secret");
                tracing::trace!(target: "hyper::proto", "secret");
                tracing::debug!(target: "rustls::client", "secret");
                tracing::debug!(target: "h2::codec", "secret");
                tracing::trace!(target: "aws_sigv4", "secret");
                tracing::debug!(target: "aws_smithy_runtime", "secret");
                tracing::debug!(target: "log", "secret");
            }
        });
        String::from_utf8(capture.0.lock().expect("no panic under the lock").clone()).expect("text")
    }

    #[test]
    fn nothing_makes_other_crates_talk() {
        for directives in [
            "trace",
            "ssmfwd=trace,tungstenite=trace",
            "hyper=trace,aws_sigv4=trace,rustls=debug,h2=trace,info",
            "tungstenite::protocol=trace,debug",
        ] {
            for format in [Format::Text, Format::Json] {
                let log = logged(LevelFilter::TRACE, directives, format);
                assert!(!log.contains("secret"), "{directives}: {log}");
            }
        }
        assert!(!logged(LevelFilter::TRACE, "", Format::Text).contains("secret"));
    }

    #[test]
    fn our_own_log_follows_rust_log_and_the_flags() {
        let log = logged(LevelFilter::ERROR, "trace", Format::Text);
        assert!(log.contains("own trace") && log.contains("their info"), "{log}");
        let log = logged(LevelFilter::ERROR, "ssmfwd=debug", Format::Text);
        assert!(log.contains("own debug") && !log.contains("own trace"), "{log}");

        let log = logged(default_level(0, false), "", Format::Text);
        assert!(log.contains("own warning") && !log.contains("own debug") && !log.contains("their warning"), "{log}");
        assert!(log.contains("their error"), "{log}");
        let log = logged(default_level(1, false), "", Format::Text);
        assert!(log.contains("own debug") && !log.contains("own trace") && !log.contains("their info"), "{log}");
        assert!(log.contains("their warning"), "{log}");
        assert!(logged(default_level(2, false), "", Format::Text).contains("own trace"));
        let log = logged(default_level(0, true), "", Format::Text);
        assert!(!log.contains("own warning") && !log.contains("their warning"), "{log}");
    }

    #[test]
    fn the_json_log_is_json() {
        let log = logged(LevelFilter::WARN, "", Format::Json);
        for line in log.lines() {
            serde_json::from_str::<serde_json::Value>(line).expect(line);
        }
        assert!(log.contains("own warning"));
    }
}
