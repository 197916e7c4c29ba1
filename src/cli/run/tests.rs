//! Whole runs over real loopback listeners and scripted sessions.

use clap::Parser;
use tokio::{net::TcpStream, sync::mpsc};

use super::*;
use crate::{
    cli::{args::Format, console::tests::Page},
    forward::{LocalAddress, Script, TestConnector, TestTunnel, start_failure},
    proto::{Cause, CloseReason, Initiator},
    session::ControlErrorKind,
};

struct World {
    plan: Plan,
    connector: Arc<TestConnector>,
    reporter: Arc<Reporter>,
    stdout: Page,
    stderr: Page,
    send_signal: mpsc::Sender<Signal>,
    signals: Signals,
    tunnels: Vec<TestTunnel>,
}

/// A world for forwards like `0:1@i-0a`, with one script for each target.
fn world(forwards: &[&str], scripts: Vec<(&str, Script)>) -> World {
    let words = ["ssmfwd", "--output", "json"].iter().chain(forwards);
    let plan = Plan::new(&Args::try_parse_from(words).expect("valid arguments")).expect("a valid plan");
    let (stdout, stderr) = (Page::default(), Page::default());
    let console = Console::on(stdout.clone(), stderr.clone()).expect("a thread");
    let (send_signal, signals) = mpsc::channel(4);
    let tunnel = |script: &(&str, Script)| match &script.1 {
        Script::Ready(tunnel) => Some(tunnel.clone()),
        _ => None,
    };
    let tunnels = scripts.iter().filter_map(tunnel).collect();
    let connector = Arc::<TestConnector>::default();
    for (target, script) in scripts {
        connector.script(target, [script]);
    }
    let reporter = Arc::new(Reporter::new(console, Format::Json, false));
    World { plan, connector, reporter, stdout, stderr, send_signal, signals: signals.into(), tunnels }
}

fn ready() -> Script {
    Script::Ready(TestTunnel::new().0)
}

impl World {
    async fn run(&mut self) -> Over {
        let forwarders = bind_all(&self.plan, &self.reporter).expect("free ports");
        self.run_with(forwarders).await
    }

    async fn run_with(&mut self, forwarders: Vec<Forwarder>) -> Over {
        let started = Instant::now();
        let (connector, signals) = (self.connector.clone(), &mut self.signals);
        match connect_all(&self.plan, &forwarders, &*connector, signals, &self.reporter).await {
            Ok(tunnels) => stay(&self.plan, forwarders, tunnels, connector, signals, &self.reporter, started).await,
            Err(over) => over,
        }
    }

    fn events(&self) -> Vec<String> {
        self.reporter.stopped(Exit::Failure, By::Ssmfwd);
        let event = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).expect("an object a line");
            event["event"].as_str().expect("a name").to_owned()
        };
        self.stdout.text().lines().map(event).collect()
    }
}

fn report(over: Over) -> Report {
    match over {
        Over::Failed(report) => report,
        Over::Signal(signal) => panic!("{signal:?}"),
        Over::Done => panic!("done"),
    }
}

#[tokio::test]
async fn a_signal_ends_sessions_and_decides_the_status() {
    for (signal, exit) in
        [(Signal::Interrupt, Exit::Interrupt), (Signal::Terminate, Exit::Terminate), (Signal::HangUp, Exit::HangUp)]
    {
        let mut world = world(&["0:1@i-0a", "0:1@i-0b"], vec![("i-0a", ready()), ("i-0b", ready())]);
        world.send_signal.try_send(signal).expect("room for a signal");
        // The signal may be seen before ready or after: both must end the same way.
        assert_eq!(world.run().await.exit(), (exit, By::Signal));
        let started = world.connector.started.lock().expect("no panic under the lock").len();
        let ended = world.tunnels.iter().filter(|tunnel| tunnel.has_ended()).count();
        assert!(ended == started || started == 0, "{ended} of {started}");
    }
}

#[tokio::test]
async fn a_signal_after_ready_ends_what_was_served() {
    let mut world = world(&["0:1@i-0a"], vec![("i-0a", ready())]);
    let (send_signal, stdout) = (world.send_signal.clone(), world.stdout.clone());
    let signaller = tokio::spawn(async move {
        // Readiness is an event: poll for it without timers.
        while !stdout.text().contains(r#""event":"ready""#) {
            tokio::task::yield_now().await;
        }
        send_signal.send(Signal::Terminate).await.expect("the program listens");
    });
    assert_eq!(world.run().await.exit(), (Exit::Terminate, By::Signal));
    signaller.await.expect("no panic");
    assert!(world.tunnels[0].has_ended());
    let events = world.events();
    let expected = ["listening", "listening", "session_started", "ready", "session_ended", "stopped"];
    // One `listening` less where there is no IPv6.
    assert!(expected.ends_with(&events.iter().map(String::as_str).collect::<Vec<_>>()[..]), "{events:?}");
}

#[tokio::test]
async fn a_signal_before_ready_cancels() {
    let mut world = world(&["0:1@i-0a", "0:1@i-0b"], vec![("i-0a", Script::Hangs), ("i-0b", ready())]);
    world.send_signal.try_send(Signal::HangUp).expect("room for a signal");
    assert_eq!(world.run().await.exit(), (Exit::HangUp, By::Signal));
    assert!(!world.events().contains(&"ready".to_owned()));
}

#[tokio::test]
async fn the_first_failure_in_command_order_decides_and_ends_the_others() {
    let scripts = vec![
        ("i-0a", ready()),
        ("i-0b", Script::Fails(|| start_failure(ControlErrorKind::AccessDenied))),
        ("i-0c", Script::Fails(|| start_failure(ControlErrorKind::TargetNotConnected))),
        ("i-0d", Script::Hangs),
    ];
    let mut world = world(&["0:1@i-0d", "0:1@i-0a", "0:1@i-0b", "0:1@i-0c"], scripts);
    let report = report(world.run().await);
    assert_eq!(report.exit, Exit::Denied);
    assert!(report.error.contains("0:1@i-0b"), "{report}");
    assert!(world.tunnels[0].has_ended(), "the session that was ready is ended");
    assert_eq!(world.connector.started.lock().expect("no panic under the lock").len(), 4, "started at once");
}

#[tokio::test]
async fn a_forward_that_cannot_go_on_ends_everything_with_its_status() {
    let mut world = world(&["0:1@i-0a", "0:1@i-0b"], vec![("i-0a", ready()), ("i-0b", ready())]);
    world.connector.script("i-0b", [Script::Fails(|| start_failure(ControlErrorKind::InvalidDocument))]);
    world.tunnels[1].end(CloseReason::new(Initiator::Transport, Cause::ConnectionLost("gone".into())));
    let report = report(world.run().await);
    assert_eq!(report.exit, Exit::Target);
    assert_eq!(report.error, "no new session for 0:1@i-0b");
    assert!(world.tunnels[0].has_ended());
}

#[tokio::test]
async fn of_several_that_cannot_go_on_the_first_in_command_order_is_reported() {
    let mut world = world(&["0:1@i-0a", "0:1@i-0b"], vec![("i-0a", ready()), ("i-0b", ready())]);
    for (tunnel, target) in world.tunnels.iter().zip(["i-0a", "i-0b"]).rev() {
        world.connector.script(target, [Script::Fails(|| start_failure(ControlErrorKind::InvalidDocument))]);
        tunnel.end(CloseReason::new(Initiator::Transport, Cause::ConnectionLost("gone".into())));
    }
    // Both fail in the same moment, or the second is stopped before it can.
    assert_eq!(report(world.run().await).error, "no new session for 0:1@i-0a");
}

#[tokio::test]
async fn a_busy_port_starts_no_session() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = busy.local_addr().expect("an address").port();
    let world = world(&[&format!("{port}:1@i-0a")], vec![("i-0a", ready())]);
    let report = bind_all(&world.plan, &world.reporter).err().expect("the port is busy");
    assert_eq!(report.exit, Exit::Bind);
    assert!(report.error.contains(&format!("127.0.0.1:{port}")), "{report}");
}

#[tokio::test]
async fn connections_may_come_before_the_session_is_ready() {
    let (tunnel, mut peers) = TestTunnel::new();
    let mut world = world(&["127.0.0.1:0:1@i-0a"], vec![("i-0a", Script::Ready(tunnel))]);
    let forwarders = bind_all(&world.plan, &world.reporter).expect("a free port");
    let LocalAddress::Tcp(address) = forwarders[0].addresses()[0].clone() else { panic!("a TCP listener") };
    let client = TcpStream::connect(address).await.expect("bound already");
    let send_signal = world.send_signal.clone();
    let agent = tokio::spawn(async move {
        let peer = peers.recv().await.expect("a stream");
        send_signal.send(Signal::Interrupt).await.expect("the program listens");
        (peer, peers)
    });
    let over = world.run_with(forwarders).await;
    assert_eq!(over.exit(), (Exit::Interrupt, By::Signal));
    drop((client, agent.await.expect("no panic")));
    assert_eq!(world.stderr.text(), "");
}

#[tokio::test(start_paused = true)]
async fn a_second_interrupt_leaves_at_once() {
    let (sender, receiver) = mpsc::channel(4);
    let mut signals = Signals::from(receiver);
    sender.try_send(Signal::Terminate).expect("room");
    assert_eq!(signals.next().await, Signal::Terminate);
    sender.try_send(Signal::HangUp).expect("room");
    sender.try_send(Signal::Interrupt).expect("room");
    assert_eq!(signals.unless_interrupted(std::future::pending::<()>()).await, None);
    assert_eq!(signals.unless_interrupted(std::future::ready(7)).await, Some(7));
}

#[tokio::test(start_paused = true)]
async fn the_first_interrupt_waits_for_the_end() {
    let (sender, receiver) = mpsc::channel(4);
    let mut signals = Signals::from(receiver);
    sender.try_send(Signal::Interrupt).expect("room");
    let work = time::timeout(Duration::from_secs(2), std::future::pending::<()>());
    assert!(signals.unless_interrupted(work).await.is_some());
}
