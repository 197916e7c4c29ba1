//! One test's world: an emulated AWS and the programs that use it, checked at the end.

use std::{io, net::SocketAddr, time::Duration};

use rustix::process::Signal;
use ssmfwd::emulator::{
    Action, AgentKind, ApiFailure, Emulator, EmulatorConfig, EmulatorState, FailureKind, Operation,
};
use tokio::{net::TcpStream, process::Command};

use super::{Client, Ended, Program, within};

/// An emulator that is not in the program's way: ideal unless a test asks for more.
pub(crate) struct World {
    pub(crate) emulator: Emulator,
}

impl World {
    pub(crate) const TARGET: &str = EmulatorConfig::DEFAULT_TARGET;

    pub(crate) fn ideal() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut EmulatorConfig)) -> Self {
        let mut config = EmulatorConfig { agent: AgentKind::Ideal, ..EmulatorConfig::default() };
        change(&mut config);
        Self { emulator: Emulator::start(config).expect("an emulator") }
    }

    /// The built binary, with nothing in its environment but what leads to the emulator.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ssmfwd"));
        command.env_clear().envs(self.emulator.env()).args(arguments);
        command
    }

    /// A run that is expected to fail by itself.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        Program::start(self.command(arguments)).exit().await
    }

    /// The program with the usual target and events on stdout.
    pub(crate) fn start(&self, arguments: &[&str]) -> Program {
        let mut command = self.command(&["--output", "json", "--target", Self::TARGET]);
        command.args(arguments);
        Program::start(command)
    }

    /// The program with a forward to a port of this machine, the usual target, and lines for people.
    pub(crate) fn start_for_people(&self, port: u16) -> Program {
        Program::start(self.command(&["--target", Self::TARGET, &format!("0:127.0.0.1:{port}")]))
    }

    /// A forward of any free port to a port of this machine, ready.
    pub(crate) async fn forward(&self, port: u16, options: &[&str]) -> Program {
        let forward = format!("0:127.0.0.1:{port}");
        let program = self.start(&[&[forward.as_str()], options].concat());
        program.event("ready").await;
        program
    }

    /// Ends a program with SIGTERM, and the world with it.
    pub(crate) async fn finish(self, program: Program) -> (Ended, EmulatorState) {
        program.signal(Signal::TERM);
        let ended = program.exit().await.expect_status(143);
        (ended, self.settled().await)
    }

    /// No session is left, and nothing was done against the protocol.
    pub(crate) async fn settled(self) -> EmulatorState {
        self.settled_after_stale_tokens(0).await
    }

    /// The same when the service has given out so many tokens that its gateway does not know.
    pub(crate) async fn settled_after_stale_tokens(self, count: u64) -> EmulatorState {
        let quiet = |state: &EmulatorState| state.live_sessions() == 0 && state.websockets == 0 && state.agents == 0;
        let Ok(state) = tokio::time::timeout(Duration::from_secs(20), self.emulator.wait_for(quiet)).await else {
            panic!("something is left: {:#?}", self.emulator.state());
        };
        assert_eq!(state.violations, [""; 0]);
        assert_eq!((state.violation_count, state.tokens_refused), (0, count));
        state
    }

    /// Waits for a state of the emulator.
    pub(crate) async fn until(&self, what: &str, condition: impl FnMut(&EmulatorState) -> bool) -> EmulatorState {
        within(what, self.emulator.wait_for(condition)).await
    }
}

/// Every call of an operation fails, until the list is cleared.
pub(crate) fn failing(operation: Operation, kind: FailureKind) -> Vec<ApiFailure> {
    vec![ApiFailure { operation, kind, times: None }]
}

impl Program {
    /// The addresses of one forward of the `ready` event.
    pub(crate) async fn addresses(&self, forward: usize) -> Vec<SocketAddr> {
        let ready = self.event("ready").await;
        let addresses = ready["forwards"][forward]["addresses"].as_array().expect("addresses").iter();
        addresses.map(|address| address.as_str().and_then(|text| text.parse().ok()).expect("an address")).collect()
    }

    /// A connection to the first forward that is refused, maybe before this end knows that there is one.
    pub(crate) async fn refuses(&self) {
        let kind = match within("connecting", TcpStream::connect(self.addresses(0).await[0])).await {
            Ok(socket) => Client(socket).read_to_failure().await.1,
            Err(error) => error.kind(),
        };
        assert_eq!(kind, io::ErrorKind::ConnectionReset, "{}", self.transcript());
    }

    /// Uses a forward to an echo, loses the websocket, uses it again, and ends the program.
    pub(crate) async fn works_and_survives(self, world: &World) -> Ended {
        let mut client = self.connect().await;
        client.echo(b"before").await;
        assert_eq!(world.emulator.act(Action::Disconnect), 1);
        self.event("resumed").await;
        client.echo(b"after").await;
        drop(client);
        self.signal(Signal::TERM);
        self.exit().await.expect_status(143)
    }

    /// A connection through the first forward.
    pub(crate) async fn connect(&self) -> Client {
        Client::to(self.addresses(0).await[0]).await
    }
}
