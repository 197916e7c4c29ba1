//! From ready to the end: forwards that serve, COMMAND if there is one, reloads, and the way out.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    clouds::Connectors,
    finish_or_hurry,
    fleet::{Fleet, tell_opened},
    over::Over,
    process::Process,
    start::Prepared,
};
use crate::{
    cli::{
        exec::Invocation,
        exit::Exit,
        plan::{Plan, PlannedForward, ProcessSettings},
        report::Report,
        reporter::Reporter,
        signals::{Signal, Signals, Wish},
    },
    forward::{Connector, LocalAddress, Tunnel},
};

/// How often it is looked what the forwards are doing, where that is not told.
const LOOK: Duration = Duration::from_secs(1);

/// Makes the plan again.
pub(super) type Replan<'a> = &'a dyn Fn() -> Result<Plan, Report>;

/// Forwards that can carry data.
pub(super) struct Ready<C: Connector> {
    pub(super) prepared: Vec<Prepared<C>>,
    /// Of each; a lazy one has none.
    pub(super) tunnels: Vec<Option<C::Tunnel>>,
    /// When the start began.
    pub(super) started: Instant,
}

/// What serves, and what it takes to become something else.
pub(super) struct Serving<'a, S> {
    pub(super) fleet: Fleet,
    pub(super) connectors: S,
    pub(super) process: Process,
    /// What of the plan counts from the start to the end.
    pub(super) settings: ProcessSettings,
    pub(super) replan: Replan<'a>,
}

impl<S: Connectors> Serving<'_, S> {
    /// Says that all are ready, and serves until a signal comes, a forward fails for good or COMMAND ends; then ends
    /// everything.
    pub(super) async fn run(
        mut self,
        ready: Ready<S::Connector>,
        signals: &mut Signals,
        reporter: &Arc<Reporter>,
    ) -> Over {
        let Ready { prepared, tunnels, started } = ready;
        let forwards: Vec<_> = prepared.iter().map(told).collect();
        let invocation = self.process.invocation(&forwards);
        for (prepared, tunnel) in prepared.into_iter().zip(tunnels.iter().cloned()) {
            self.fleet.add(prepared, tunnel);
        }
        self.fleet.serving().await;
        tell_ready(&forwards, &tunnels, started, reporter);
        self.process.ready(&self.fleet.summary(), &forwards);
        let over = match invocation {
            Some(invocation) => match self.until_accepted(&forwards, &tunnels, signals, reporter).await {
                Ok(()) => self.run_command(&invocation, signals).await,
                Err(over) => over,
            },
            None => self.serve(signals, reporter).await,
        };
        drop(tunnels);
        self.end(over, signals, reporter).await
    }

    /// With `--wait`, waits until all destinations accept, as long as there are tunnels to them.
    async fn until_accepted<T: Tunnel>(
        &mut self,
        forwards: &[Told],
        tunnels: &[Option<T>],
        signals: &mut Signals,
        reporter: &Reporter,
    ) -> Result<(), Over> {
        tokio::select! {
            accepted = self.process.until_accepted(forwards, tunnels, reporter) => accepted.map_err(Over::Failed),
            report = lost(&mut self.fleet) => Err(report.map_or(Over::Lost, Over::Failed)),
            signal = signals.next() => Err(Over::Signal(signal)),
        }
    }

    /// Serves until it is over.
    async fn serve(&mut self, signals: &mut Signals, reporter: &Reporter) -> Over {
        // What reloads have begun to start.
        let mut arriving = Vec::<CancellationToken>::new();
        let mut look = every(LOOK);
        let mut shown = self.fleet.summary();
        loop {
            let arrived = join_all(arriving.iter().map(CancellationToken::cancelled));
            let wish = tokio::select! {
                () = self.fleet.failure() => return Over::Lost,
                _ = arrived, if !arriving.is_empty() => {
                    arriving.clear();
                    shown = self.fleet.summary();
                    self.process.reloaded(&shown);
                    continue;
                }
                _ = look.tick(), if self.process.is_shown() => {
                    let summary = self.fleet.summary();
                    if summary != shown {
                        self.process.status(&summary);
                        shown = summary;
                    }
                    continue;
                }
                wish = signals.wish() => wish,
            };
            if let Wish::End(signal) = wish {
                return Over::Signal(signal);
            }
            self.process.reloading();
            let plan = match (self.replan)() {
                Ok(plan) => plan,
                Err(report) => {
                    reporter.not_reloaded(&report);
                    self.process.reloaded(&self.fleet.summary());
                    continue;
                }
            };
            if plan.process != self.settings {
                reporter.warn("admin, ready-fd and wait are as they were at the start: they are not read again");
            }
            tokio::select! {
                started = self.fleet.reload(plan, &mut self.connectors) => arriving.extend(started),
                // What it has begun is ended with everything else.
                signal = signals.next() => return Over::Signal(signal),
            }
            if arriving.is_empty() {
                self.process.reloaded(&self.fleet.summary());
            }
        }
    }

    /// Runs COMMAND to its end, or to that of its tunnels.
    async fn run_command(&mut self, invocation: &Invocation, signals: &mut Signals) -> Over {
        let mut child = match self.process.spawn(invocation) {
            Ok(child) => child,
            Err(report) => return Over::Failed(report),
        };
        signals.pass_all();
        let ended = tokio::select! {
            ended = child.run(signals) => Ok(Over::Command(ended.exit())),
            report = lost(&mut self.fleet) => Err(report),
        };
        let over = match ended {
            Ok(over) => over,
            Err(report) => {
                child.stop(signals).await;
                report.map_or(Over::Lost, Over::Failed)
            }
        };
        // What was COMMAND's to hear was not said to us.
        signals.forget();
        over
    }

    /// Ends everything.
    async fn end(mut self, over: Over, signals: &mut Signals, reporter: &Reporter) -> Over {
        self.process.stopping(self.fleet.drain_time());
        if let Over::Signal(signal) = &over {
            reporter.stopping(*signal);
        }
        // A supervisor is as patient as it was told to be; nobody else waits for connections.
        if !matches!(over, Over::Signal(Signal::Terminate | Signal::HangUp)) {
            self.fleet.hurry();
        }
        let hurry = self.fleet.hurrying();
        finish_or_hurry(self.fleet.end(), signals, || hurry.cancel(), reporter).await;
        let has_command = self.process.has_command();
        match (over, self.fleet.report()) {
            (Over::Lost, Some(report)) if has_command => Over::Failed(Report { exit: Exit::Lost, ..report }),
            (Over::Lost, Some(report)) => Over::Failed(report),
            (Over::Lost, None) => Over::Failed(Report::new(Exit::Failure, "a forward failed: this is a bug in ssmfwd")),
            (over, _) => over,
        }
    }
}

/// Completes when a tunnel is lost for good, or has been lost for longer than its connections would be held. The report
/// is missing if the fleet has it.
async fn lost(fleet: &mut Fleet) -> Option<Report> {
    let mut look = every(LOOK);
    loop {
        tokio::select! {
            () = fleet.failure() => return None,
            _ = look.tick() => {}
        }
        if let Some(forward) = fleet.gone() {
            let window = forward.options.reconnect_window.as_secs_f64();
            let error = format!("{} could not be brought back within {window} s", forward.name());
            let hint = "--reconnect-window SECONDS gives it more time";
            return Some(Report::new(Exit::Lost, error).with_hint(hint));
        }
    }
}

/// Ticks, the first time at once; those that were missed are.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A forward, and where it listens.
pub(super) type Told = (PlannedForward, Vec<LocalAddress>);

fn told<C>(prepared: &Prepared<C>) -> Told {
    (prepared.forward.clone(), prepared.bound.forwarder.addresses())
}

fn tell_ready<T: Tunnel>(forwards: &[Told], tunnels: &[Option<T>], started: Instant, reporter: &Reporter) {
    for ((forward, addresses), tunnel) in forwards.iter().zip(tunnels) {
        match tunnel {
            Some(tunnel) => tell_opened(forward, addresses, tunnel, reporter),
            None => reporter.sleeps(forward, addresses),
        }
    }
    reporter.ready(forwards, started.elapsed());
}
