//! What the program has to do with those around it: supervisors, the admin endpoint, COMMAND.

use std::{ffi::OsString, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{serving::Told, start::Harbour};
use crate::{
    cli::{
        admin::{Admin, AdminError},
        args::Args,
        exec::{Child, Endpoint, Endpoints, Invocation, until_accepted},
        exit::Exit,
        own_variables::OwnVariables,
        plan::Plan,
        report::Report,
        reporter::Reporter,
        supervision::{Activation, Notifier, ReadyFd},
        sys::Inherited,
    },
    forward::Tunnel,
};

/// How long ending the sessions may take, beside the drain time of the connections.
const ENDING: Duration = Duration::from_secs(10);

/// Everybody around.
pub(super) struct Process {
    passed: Activation,
    ready_fd: Option<ReadyFd>,
    notifier: Arc<Notifier>,
    /// Serves until it is dropped.
    admin: Option<Admin>,
    command: Option<Vec<OsString>>,
    waits: bool,
    inherited: Inherited,
}

impl Process {
    /// Takes over what the program was started with. Before anything is bound or started.
    pub(super) fn take(args: &Args, inherited: Inherited, variables: &OwnVariables) -> Result<Self, Report> {
        Ok(Self {
            passed: Activation::of(variables)?,
            ready_fd: args.process.ready_fd.map(ReadyFd::take).transpose()?,
            notifier: Arc::new(Notifier::of(variables)),
            admin: None,
            command: Some(args.forward.exec.clone()).filter(|command| !command.is_empty()),
            waits: args.process.wait,
            inherited,
        })
    }

    /// Nobody around.
    #[cfg(test)]
    pub(super) fn alone() -> Self {
        let (passed, inherited) = Default::default();
        let notifier = Arc::new(Notifier::nobody());
        Self { passed, ready_fd: None, notifier, admin: None, command: None, waits: false, inherited }
    }

    /// Whoever supervises the program.
    pub(super) fn notifier(&self) -> Arc<Notifier> {
        self.notifier.clone()
    }

    /// The sockets that were passed, once.
    pub(super) fn passed_sockets(&mut self) -> Activation {
        std::mem::take(&mut self.passed)
    }

    /// Opens the admin endpoint, if there is to be one.
    pub(super) async fn open_admin(&mut self, plan: &Plan, harbour: &Harbour) -> Result<(), Report> {
        let Some(address) = &plan.process.admin else { return Ok(()) };
        let address = address.parse().map_err(|error| Report::usage(format!("--admin: {error}")))?;
        let admin = Admin::bind(address, harbour.board.clone()).await.map_err(|error| match &error {
            AdminError::Bind(error) => Report::bind(error),
            AdminError::Name { .. } => Report::new(Exit::Bind, "the admin endpoint cannot be bound").caused_by(&error),
            AdminError::Thread(_) => Report::new(Exit::Failure, "there is no admin endpoint").caused_by(&error),
        })?;
        harbour.reporter.admin(&admin);
        self.admin = Some(admin);
        Ok(())
    }

    /// Sessions are being started.
    pub(super) fn starting(&self, plan: &Plan) {
        let limit = plan.forwards.iter().map(|forward| forward.session.connect_timeout).max().unwrap_or_default();
        self.notifier.starting("starting sessions", limit);
    }

    /// All forwards are ready.
    pub(super) fn ready(&mut self, summary: &str, forwards: &[Told]) {
        self.notifier.ready(summary);
        if let Some(ready_fd) = self.ready_fd.take() {
            let endpoints = forwards.iter().filter_map(|(_, addresses)| Endpoint::of(addresses));
            let endpoints: Vec<_> = endpoints.collect();
            ready_fd.announce(endpoints.iter().map(Endpoint::addr));
        }
    }

    /// The configuration is read again; [`Self::reloaded`] follows.
    pub(super) fn reloading(&self) {
        self.notifier.reloading();
    }

    /// What is new has been started, or could not be.
    pub(super) fn reloaded(&self, summary: &str) {
        self.notifier.ready(summary);
    }

    /// Whether a supervisor shows what the program is doing.
    pub(super) fn is_shown(&self) -> bool {
        self.notifier.is_wanted()
    }

    /// What the program is doing.
    pub(super) fn status(&self, summary: &str) {
        self.notifier.status(summary);
    }

    /// The program ends.
    pub(super) fn stopping(&self, drain: Duration) {
        self.notifier.stopping("ending sessions", drain.saturating_add(ENDING));
    }

    /// Whether there is a COMMAND.
    pub(super) fn has_command(&self) -> bool {
        self.command.is_some()
    }

    /// With `--wait`, waits until all destinations accept: for COMMAND.
    pub(super) async fn until_accepted<T: Tunnel>(
        &self,
        forwards: &[Told],
        tunnels: &[Option<T>],
        reporter: &Reporter,
    ) -> Result<(), Report> {
        if !self.waits {
            return Ok(());
        }
        let each = forwards.iter().zip(tunnels).map(async |((forward, _), tunnel)| {
            // With --wait none is lazy: the plan sees to that.
            let Some(tunnel) = tunnel else { return Ok(()) };
            let deadline = Instant::now() + forward.session.connect_timeout;
            let mut told = false;
            let accepted = until_accepted(tunnel, deadline, |_| {
                if !std::mem::replace(&mut told, true) {
                    reporter.say(&format!("waiting until {} accepts connections", forward.destination()));
                }
            });
            accepted.await.map_err(|why| why.report(forward, &forward.access))
        });
        futures_util::future::try_join_all(each).await.map(drop)
    }

    /// Starts COMMAND.
    pub(super) fn spawn(&self, invocation: &Invocation) -> Result<Child, Report> {
        Child::spawn(invocation, &self.inherited)
    }

    /// What COMMAND is, with its arguments and variables.
    pub(super) fn invocation(&self, forwards: &[Told]) -> Option<Invocation> {
        let command = self.command.as_ref()?;
        let endpoint = |(_, addresses): &Told| Endpoint::of(addresses);
        let named = forwards.iter().filter_map(|told| Some((told.0.tunnel.clone()?, endpoint(told)?)));
        let endpoints = Endpoints::new(forwards.first().and_then(endpoint)?, named.collect());
        Invocation::new(command, &endpoints)
    }
}
