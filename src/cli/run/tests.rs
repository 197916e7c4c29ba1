//! Whole runs over real loopback listeners and scripted sessions.

use std::cell::RefCell;

use clap::Parser;
use tokio::{net::TcpStream, sync::mpsc};

use super::{clouds::Connectors, *};
use crate::{
    cli::{
        args::Format, console::tests::Page, events::By, plan::PlannedForward, signals::Signal, supervision::Activation,
    },
    forward::{LocalAddress, Script, TestConnector, TestTunnel, start_failure},
    proto::{Cause, CloseReason, Initiator, Mode},
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
    /// What reading the configuration again leads to, the last one first.
    replans: Vec<Result<Plan, Report>>,
}

/// The same connector for every forward.
struct Same(Arc<TestConnector>);

impl Connectors for Same {
    type Connector = TestConnector;

    async fn connector(&mut self, _: &mut PlannedForward) -> Result<Arc<TestConnector>, Report> {
        Ok(self.0.clone())
    }
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
    World {
        plan,
        connector,
        reporter,
        stdout,
        stderr,
        send_signal,
        signals: signals.into(),
        tunnels,
        replans: Vec::new(),
    }
}

fn ready() -> Script {
    Script::Ready(TestTunnel::new().0)
}

impl World {
    fn harbour(&self) -> Harbour {
        let (accounts, board, progress, hurry, passed) = Default::default();
        Harbour { accounts, board, progress, reporter: self.reporter.clone(), hurry, passed }
    }

    async fn run(&mut self) -> Over {
        let forwarders = self.harbour().bind_all(&self.plan, Activation::default()).expect("free ports");
        self.run_with(forwarders).await
    }

    async fn run_with(&mut self, bound: Vec<Bound>) -> Over {
        let harbour = self.harbour();
        let started = Instant::now();
        let mut connectors = Same(self.connector.clone());
        let Ok(prepared) = prepare(&self.plan, bound, &mut connectors).await else { panic!("nothing can fail") };
        let signals = &mut self.signals;
        match connect_all(&prepared, signals, &self.reporter).await {
            Ok(tunnels) => {
                let fleet = Fleet::new(harbour);
                let replans = RefCell::new(std::mem::take(&mut self.replans));
                let replan = || replans.borrow_mut().pop().expect("a plan for each reload");
                let (process, settings) = (Process::alone(), self.plan.process.clone());
                let serving = Serving { fleet, connectors, process, settings, replan: &replan };
                serving.run(Ready { prepared, tunnels, started }, signals, &self.reporter).await
            }
            Err(over) => over,
        }
    }

    fn events(&self) -> Vec<String> {
        self.reporter.stopped(Exit::Failure.status(), By::Ssmfwd);
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
        Over::Done | Over::Command(_) | Over::Lost => panic!("no report"),
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
        assert_eq!(world.run().await.status(), (exit.status(), By::Signal));
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
    assert_eq!(world.run().await.status(), (Exit::Terminate.status(), By::Signal));
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
    assert_eq!(world.run().await.status(), (Exit::HangUp.status(), By::Signal));
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
    let report = world.harbour().bind_all(&world.plan, Activation::default()).err().expect("the port is busy");
    assert_eq!(report.exit, Exit::Bind);
    assert!(report.error.contains(&format!("127.0.0.1:{port}")), "{report}");
}

#[tokio::test]
async fn connections_may_come_before_the_session_is_ready() {
    let (tunnel, mut peers) = TestTunnel::new();
    let mut world = world(&["127.0.0.1:0:1@i-0a"], vec![("i-0a", Script::Ready(tunnel))]);
    let forwarders = world.harbour().bind_all(&world.plan, Activation::default()).expect("a free port");
    let LocalAddress::Tcp(address) = forwarders[0].forwarder.addresses()[0].clone() else { panic!("a TCP listener") };
    let client = TcpStream::connect(address).await.expect("bound already");
    let send_signal = world.send_signal.clone();
    let agent = tokio::spawn(async move {
        let peer = peers.recv().await.expect("a stream");
        send_signal.send(Signal::Interrupt).await.expect("the program listens");
        (peer, peers)
    });
    let over = world.run_with(forwarders).await;
    assert_eq!(over.status(), (Exit::Interrupt.status(), By::Signal));
    drop((client, agent.await.expect("no panic")));
    assert_eq!(world.stderr.text(), "");
}

#[tokio::test(start_paused = true)]
async fn a_second_interrupt_leaves_at_once() {
    let (sender, receiver) = mpsc::channel(4);
    let mut signals = Signals::from(receiver);
    sender.try_send(Signal::Terminate).expect("room");
    assert_eq!(signals.next().await, Signal::Terminate);
    for signal in [Signal::HangUp, Signal::Interrupt, Signal::Terminate, Signal::Interrupt] {
        sender.try_send(signal).expect("room");
    }
    let hurried = std::cell::Cell::new(0);
    let leaving = signals.unless_interrupted(std::future::pending::<()>(), || hurried.set(hurried.get() + 1));
    assert_eq!(leaving.await, None);
    assert_eq!(hurried.get(), 1, "the first one hurries");
    assert_eq!(signals.unless_interrupted(std::future::ready(7), || {}).await, Some(7));
}

#[tokio::test(start_paused = true)]
async fn the_first_interrupt_waits_for_the_end() {
    let (sender, receiver) = mpsc::channel(4);
    let mut signals = Signals::from(receiver);
    sender.try_send(Signal::Interrupt).expect("room");
    let work = tokio::time::timeout(Duration::from_secs(2), std::future::pending::<()>());
    assert!(signals.unless_interrupted(work, || {}).await.is_some());
}

/// What a reload leaves as it was goes on untouched; what is new is started, what is gone is stopped, and what cannot
/// be started harms nobody.
#[tokio::test]
async fn a_reload_changes_what_has_changed() {
    let (kept, mut peers) = TestTunnel::new();
    let (gone, changed, added) = (TestTunnel::new().0, TestTunnel::new().0, TestTunnel::with("added", Mode::Mux).0);
    let scripts =
        vec![("i-0a", Script::Ready(kept.clone())), ("i-0b", Script::Ready(gone)), ("i-0c", Script::Ready(changed))];
    let mut world = world(&["127.0.0.1:0:1@i-0a", "127.0.0.1:0:2@i-0b", "0:3@i-0c"], scripts);
    world.connector.script("i-0d", [Script::Ready(added)]);
    world.connector.script("i-0e", [Script::Fails(|| start_failure(ControlErrorKind::TargetNotConnected))]);
    let (send_signal, stdout, tunnels) = (world.send_signal.clone(), world.stdout.clone(), world.tunnels.clone());
    let told = |event: &'static str| {
        let stdout = stdout.clone();
        async move {
            while !stdout.text().contains(event) {
                tokio::task::yield_now().await;
            }
        }
    };
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let busy = format!("{}:6@i-0a", busy.local_addr().expect("bound"));
    let next = ["127.0.0.1:0:1@i-0a", "0:4@i-0d", "0:5@i-0e", &busy];
    let words = ["ssmfwd"].iter().chain(&next);
    let next = Plan::new(&Args::try_parse_from(words).expect("valid arguments")).expect("a valid plan");
    world.replans = vec![Err(Report::usage("line 3 is wrong")), Ok(next)];

    world.signals.reload_on_hang_up();
    let script = async {
        told(r#""event":"ready""#).await;
        let listening: serde_json::Value =
            serde_json::from_str(stdout.text().lines().next().expect("an event")).expect("an object");
        let address = listening["address"].as_str().expect("an address");
        let client = TcpStream::connect(address).await.expect("it listens");
        let peer = peers.recv().await.expect("a stream");
        send_signal.send(Signal::HangUp).await.expect("the program listens");
        told(r#""status":6"#).await;
        told(r#""status":3"#).await;
        told(r#""session_id":"added""#).await;
        send_signal.send(Signal::HangUp).await.expect("the program listens");
        told("reload_failed").await;
        while !(tunnels[1].has_ended() && tunnels[2].has_ended()) {
            tokio::task::yield_now().await;
        }
        assert!(!tunnels[0].has_ended());
        assert!(stdout.text().contains(r#""removed":["127.0.0.1:0:2@i-0b","0:3@i-0c"],"unchanged":1"#));
        send_signal.send(Signal::Terminate).await.expect("the program listens");
        (client, peer)
    };
    let (over, _connection) = tokio::join!(world.run(), script);
    assert_eq!(over.status(), (143, By::Signal));
}

/// A forward that a reload has added and that never had a session may fail for good without ending the others.
#[tokio::test]
async fn a_late_forward_that_never_began_ends_nothing() {
    let mut world = world(&["127.0.0.1:0:1@i-0a"], vec![("i-0a", ready())]);
    world.connector.script("i-0b", [Script::Fails(|| start_failure(ControlErrorKind::InvalidDocument))]);
    let words = ["ssmfwd", "127.0.0.1:0:1@i-0a", "127.0.0.1:0:2@i-0b"];
    let next = Plan::new(&Args::try_parse_from(words).expect("valid arguments")).expect("a valid plan");
    world.replans = vec![Ok(next)];
    world.signals.reload_on_hang_up();
    let (send_signal, stdout, tunnels) = (world.send_signal.clone(), world.stdout.clone(), world.tunnels.clone());
    let errors = |count| {
        let stdout = stdout.clone();
        async move {
            while stdout.text().matches(r#""event":"error""#).count() < count {
                tokio::task::yield_now().await;
            }
        }
    };
    let script = async {
        while !stdout.text().contains(r#""event":"ready""#) {
            tokio::task::yield_now().await;
        }
        send_signal.send(Signal::HangUp).await.expect("the program listens");
        errors(1).await;
        let text = stdout.text();
        let late =
            text.lines().find(|line| line.contains("listening") && line.contains(":2@i-0b")).expect("it listens");
        let late: serde_json::Value = serde_json::from_str(late).expect("an object");
        // Whoever needs a session finds that there is none to be had, for good.
        let client = TcpStream::connect(late["address"].as_str().expect("an address")).await.expect("it listens");
        errors(2).await;
        assert!(!tunnels[0].has_ended());
        send_signal.send(Signal::Terminate).await.expect("the program listens");
        client
    };
    let (over, _client) = tokio::join!(world.run(), script);
    assert_eq!(over.status(), (143, By::Signal));
}
