//! The main job in one command: an emulated AWS, a private destination, a forward between them, and a look at it.
//!
//! What is between the local port and the destination is the code that runs in production: StartSession through the
//! SDK, the signed websocket upgrade, the handshake, smux.

use std::{
    error::Error,
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use ssmfwd::{
    aws::{Aws, AwsOptions},
    emulator::{AgentKind, Emulator, EmulatorConfig},
    forward::{
        Bind, Destination, ForwardEnd, ForwardSpec, Forwarder, ForwarderOptions, Listen, LocalAddress, SessionConnector,
    },
    session::{Dialer, Mode, SessionOptions, StartRequest},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Signals, destination};

const DOWNLOAD: usize = 1_000_000;
const UPLOAD: usize = 16_000_000;
const CONNECTIONS: usize = 50;
/// With an old agent they take turns, a quarter of a second each.
const FEW_CONNECTIONS: usize = 5;
/// How long one exchange may take before the demonstration gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demonstration; `once` ends it after the measurements.
pub(super) async fn run(config: EmulatorConfig, once: bool) -> Result<(), Box<dyn Error>> {
    let agent = config.agent;
    let mut signals = Signals::new()?;
    let emulator = Emulator::start(config)?;
    let target = destination::start().await?;
    say(&format!("emulated AWS at {}, target {}", emulator.endpoint_url(), emulator.target()))?;
    say(&format!("private destination at {target}: reached by the agent only"))?;

    let started = Instant::now();
    let forwarder = Forwarder::bind(&spec(target), options(), Arc::new(|_| {}))?;
    let Some(LocalAddress::Tcp(local)) = forwarder.addresses().into_iter().next() else {
        return Err("no local address".into());
    };
    let control = Arc::new(Aws::from_sdk_config(&emulator.sdk_config(), AwsOptions::default())?);
    let dialer = Arc::new(Dialer::new()?);
    let connector = Arc::new(SessionConnector::new(control, dialer, SessionOptions::default()));
    let request = request(&emulator, target);
    let session = forwarder.connect(&*connector, request.clone(), CancellationToken::new()).await?;
    let multiplexed = if session.mode() == Mode::Mux { "many connections at once" } else { "one connection at a time" };
    say(&format!("ssmfwd: {local} -> {target}   session {} ({multiplexed})", session.id()))?;
    say(&format!("ssmfwd: ready in {}", milliseconds(started.elapsed())))?;

    let drain = CancellationToken::new();
    let mut forward = tokio::spawn(forwarder.run(connector, request, session.clone(), drain.clone()));
    let connections = if session.mode() == Mode::Mux { CONNECTIONS } else { FEW_CONNECTIONS };
    let shown = async {
        measure(local, agent, connections).await?;
        if !once {
            say(&format!("\ntry:  curl http://{local}/\nCtrl-C ends it"))?;
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    let (shown, early) = tokio::select! {
        shown = shown => (shown, None),
        _ = signals.next() => (Ok(()), None),
        ended = &mut forward => (Ok(()), Some(ended?)),
    };
    drain.cancel();
    let (end, outcome) = match early {
        Some(end) => (end, Err("the forward ended before it was asked to".into())),
        None => (forward.await?, shown),
    };
    if let ForwardEnd::Failed(error) = end {
        return Err(error.into());
    }
    let reason = session.closed().await;
    let state = emulator.state();
    say(&format!("session: {reason}; StartSession {}, still open {}", state.sessions_started, state.live_sessions()))?;
    outcome
}

async fn measure(local: SocketAddr, agent: AgentKind, connections: usize) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let greeting = fetch(local, "GET / HTTP/1.1", &[]).await?;
    say(&format!("GET /                {:>10}   {}", milliseconds(started.elapsed()), greeting.trim_end()))?;

    let started = Instant::now();
    let body = fetch(local, &format!("GET /bytes/{DOWNLOAD} HTTP/1.1"), &[]).await?;
    check(body.len(), DOWNLOAD)?;
    let note = if agent == AgentKind::Realistic { "   the agent sends 1024 bytes, then sleeps" } else { "" };
    say(&format!("download {:>3} MB      {:>10}{note}", DOWNLOAD / 1_000_000, rate(DOWNLOAD, started.elapsed())))?;

    let started = Instant::now();
    let counted = fetch(local, "POST / HTTP/1.1", &vec![b'.'; UPLOAD]).await?;
    check(counted.trim().parse()?, UPLOAD)?;
    say(&format!("upload   {:>3} MB      {:>10}", UPLOAD / 1_000_000, rate(UPLOAD, started.elapsed())))?;

    let started = Instant::now();
    let fetches = (0..connections).map(|_| {
        tokio::spawn(async move { fetch(local, "GET / HTTP/1.1", &[]).await.map_err(|error| error.to_string()) })
    });
    for fetched in fetches.collect::<Vec<_>>() {
        check(fetched.await??.len(), greeting.len())?;
    }
    say(&format!("{connections:>2} at once           {:>10}", milliseconds(started.elapsed())))
}

/// One HTTP exchange on a connection of its own; the body of a good answer.
async fn fetch(local: SocketAddr, request: &str, body: &[u8]) -> Result<String, Box<dyn Error>> {
    let exchanged = timeout(PATIENCE, exchange(local, request, body)).await;
    exchanged.map_err(|_| format!("no answer to `{request}` within {} s", PATIENCE.as_secs()))?
}

/// The answer is read by its length: an old agent does not tell when the destination has closed.
async fn exchange(local: SocketAddr, request: &str, body: &[u8]) -> Result<String, Box<dyn Error>> {
    let mut socket = TcpStream::connect(local).await?;
    let head = format!("{request}\r\nHost: demo\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body).await?;
    let mut reader = BufReader::new(socket);
    let mut status = String::new();
    reader.read_line(&mut status).await?;
    if !status.starts_with("HTTP/1.1 200 ") {
        return Err(format!("unexpected answer: {status:?}").into());
    }
    let mut length = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = Some(value.trim().parse()?),
            Some(_) => {}
            None => break,
        }
    }
    let mut answer = vec![0; length.ok_or("an answer without Content-Length")?];
    reader.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer)?)
}

fn check(got: usize, expected: usize) -> Result<(), Box<dyn Error>> {
    if got == expected { Ok(()) } else { Err(format!("{got} bytes arrived, expected {expected}").into()) }
}

fn spec(target: SocketAddr) -> ForwardSpec {
    ForwardSpec {
        text: format!("127.0.0.1:0:{target}"),
        listen: Listen::Tcp { bind: Bind::Address([127, 0, 0, 1].into()), port: 0 },
        destination: Destination { host: Some(target.ip().to_string()), port: Some(target.port()) },
        target: None,
    }
}

fn request(emulator: &Emulator, target: SocketAddr) -> StartRequest {
    StartRequest {
        target: emulator.target(),
        document: Some("AWS-StartPortForwardingSessionToRemoteHost".into()),
        parameters: [
            ("host".to_owned(), vec![target.ip().to_string()]),
            ("portNumber".to_owned(), vec![target.port().to_string()]),
        ]
        .into(),
        reason: Some("ssmfwd demo".into()),
    }
}

fn options() -> ForwarderOptions {
    ForwarderOptions::default()
}

fn milliseconds(elapsed: Duration) -> String {
    format!("{:.1} ms", elapsed.as_secs_f64() * 1000.0)
}

fn rate(bytes: usize, elapsed: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "sizes of a demonstration")]
    let megabytes = bytes as f64 / 1e6;
    format!("{:.2} MB/s", megabytes / elapsed.as_secs_f64())
}

fn say(line: &str) -> Result<(), Box<dyn Error>> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
