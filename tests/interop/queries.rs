//! Many database clients that ask small questions while something large goes on beside them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use super::{data, figures::Stopwatch, program::spawn};

/// Clients at a time.
pub(crate) const CLIENTS: u64 = 20;

/// Runs [`CLIENTS`] clients at a time, each with a connection of its own and so many questions, one after another; each
/// answer is checked. `client` is a program that reads SQL from stdin and answers it line by line.
pub(crate) fn ask(questions: u64, client: impl Fn() -> Command + Sync) -> Vec<Duration> {
    let mut times: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let client = &client;
                    move || one(number, questions, client())
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client that got its answers")).collect()
    });
    times.sort();
    times
}

/// Prints what the middle one and the slowest answer took.
pub(crate) fn report(what: &str, times: &[Duration]) {
    let (middle, last) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!("{what}: {} answers, p50 {:.1} ms, slowest {:.1} ms", times.len(), millis(middle), millis(last));
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn one(number: u64, questions: u64, mut client: Command) -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(data::SEED + number);
    let mut child = spawn(client.stdin(Stdio::piped()));
    let mut to = child.stdin.take().expect("it is piped");
    let mut from = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut times = Vec::new();
    for _ in 0..questions {
        let (a, b, length) = (random.u32(..1_000_000), random.u32(..1000), random.usize(1..3000));
        let asked = Stopwatch::start();
        writeln!(to, "SELECT CONCAT({a} + {b}, REPEAT('x', {length}));").expect("the client reads");
        let mut answer = String::new();
        from.read_line(&mut answer).expect("the client answers");
        times.push(asked.elapsed());
        let expected = format!("{}{}", a + b, "x".repeat(length));
        if answer.trim_end() != expected {
            let stderr = child.wait_with_output().map(|output| output.stderr).unwrap_or_default();
            panic!("client {number}: {answer:?} is not {expected:?}; {}", String::from_utf8_lossy(&stderr));
        }
    }
    drop(to);
    let output = child.wait_with_output().expect("its status");
    assert!(output.status.success(), "client {number}: {}", String::from_utf8_lossy(&output.stderr));
    times
}
