//! One soak from its start to its verdict.

use std::{future::Future, time::Duration};

use ssmfwd::emulator::{Action, AgentKind, Emulator, EmulatorConfig, EmulatorState};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::{
    chaos::{Chaos, Ended},
    database::Database,
    destination::Destination,
    gauge::{Gauge, Sample},
    options::{Agent, Options, Profile},
    report::Report,
    traffic::Traffic,
    tunnel::Tunnel,
    verdict::Verdict,
};

/// How long a request or a transaction may take while the network fails, and anything after it has come back. Far above
/// any single outage of the chaos: it only tells what will never go on.
const STUCK: Duration = Duration::from_secs(120);
/// Status of a program that was asked to end by SIGTERM, as a shell shows it.
const TERMINATED: i32 = 143;
/// Connections to the API that the program may keep for later use.
const KEPT_DESCRIPTORS: usize = 4;

/// Everything that takes part.
pub(crate) struct Run<'a> {
    options: &'a Options,
    verdict: &'a Verdict,
    emulator: Emulator,
    chaos_seed: u64,
    destination: Destination,
    database: Option<Database>,
    tunnel: Tunnel,
    traffic: Traffic,
    outside: Outside,
    gauge: Gauge,
    /// What the program had when it was ready.
    ready: Sample,
    moves: Vec<(&'static str, u64)>,
}

/// Who ends sessions of the checked connections, as an administrator does.
struct Outside {
    /// Their forward, as typed.
    forward: String,
    random: fastrand::Rng,
    ended: Ended,
    /// Connections that may be lost, because their session was ended.
    may_be_lost: u64,
}

impl<'a> Run<'a> {
    /// Everything is started, and every connection has had a reply.
    pub(crate) async fn start(options: &'a Options, seed: u64, verdict: &'a Verdict) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let (chaos_seed, database_seed, traffic_seed) = (random.u64(..), random.u64(..), random.u64(..));
        let config = EmulatorConfig {
            seed: random.u64(..),
            tls: options.tls,
            idle_timeout: None,
            agent: match options.agent {
                Agent::Realistic => AgentKind::Realistic,
                Agent::Ideal => AgentKind::Ideal,
            },
            ..EmulatorConfig::default()
        };
        let emulator = Emulator::start(config).expect("an emulator");
        let destination = Destination::start(verdict.clone()).await.expect("a port");
        let server = (!options.no_database).then(Database::serve);

        let forward = format!("0:127.0.0.1:{}", destination.port);
        let mut arguments = vec![forward.clone()];
        arguments.extend(server.as_ref().map(|server| format!("0:127.0.0.1:{}", server.port)));
        arguments.extend(intervals(options.profile).iter().map(|argument| (*argument).to_owned()));
        let ended = Ended::default();
        let tunnel = Tunnel::start(&emulator, &arguments, ended.clone(), verdict.clone(), options.verbose).await;
        let (tunnel, addresses) = tunnel.unwrap_or_else(|error| panic!("{error}"));
        let ready = Sample::of(tunnel.process()).expect("/proc, so Linux");

        let database = server.map(|server| {
            let address = addresses.get(1).expect("an address for each forward");
            Database::start(server, address.port(), database_seed, verdict.clone())
        });
        let address = *addresses.first().expect("an address for each forward");
        let traffic = Traffic::start(address, options.connections, traffic_seed, verdict);
        let outside = Outside { forward, random, ended, may_be_lost: 0 };
        let (gauge, moves) = (Gauge::default(), Vec::new());
        let run = Self {
            options,
            verdict,
            emulator,
            chaos_seed,
            destination,
            database,
            tunnel,
            traffic,
            outside,
            gauge,
            ready,
            moves,
        };
        run.within("a first reply to each connection", run.traffic.round()).await;
        run
    }

    /// The chaos, until its time is over or something is wrong.
    pub(crate) async fn go_on(&mut self) {
        let over = Instant::now() + self.options.length();
        let mut chaos = Chaos::new(&self.emulator, self.options, self.chaos_seed, self.verdict);
        chaos.begin(self.options.profile);
        let moves = async {
            match self.options.profile {
                Profile::Chaos => chaos.go_on().await,
                Profile::Bye => std::future::pending().await,
            }
        };
        let (gauge, outside) = (&mut self.gauge, &mut self.outside);
        let look = async {
            let mut looks = interval(Gauge::EVERY);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                gauge.add(Sample::of(self.tunnel.process()).unwrap_or(self.ready));
                let database = self.database.as_ref().map_or(Duration::ZERO, Database::waiting);
                if database >= STUCK {
                    self.verdict.fail(format!("MariaDB waits for {:.0} s", database.as_secs_f64()));
                }
                self.traffic.stuck(STUCK).into_iter().for_each(|stuck| self.verdict.fail(stuck));
            }
        };
        let every = if self.options.profile == Profile::Bye { 0 } else { self.options.end_every };
        let ends = async {
            if every == 0 {
                return std::future::pending().await;
            }
            loop {
                let seconds = every as f64 * (1.0 + outside.random.f64());
                sleep_until(Instant::now() + Duration::from_secs_f64(seconds)).await;
                outside.end_one(&self.emulator, &self.tunnel, &self.traffic, self.verdict);
            }
        };
        tokio::select! {
            () = moves => {}
            () = look => {}
            () = ends => {}
            () = sleep_until(over) => {}
            () = self.verdict.failed() => {}
        }
        chaos.calm();
        self.moves = chaos.moves().iter().map(|(name, count)| (*name, *count)).collect();
    }

    /// The network is back: everything finishes, and nothing is left.
    pub(crate) async fn end(mut self) -> Report {
        self.settle().await;
        let state = self.emulator.state();
        self.judge(&state);
        let report = self.report(&state);
        let Self { verdict, emulator, database, tunnel, .. } = self;
        match tunnel.end().await {
            Ok(status) if status.code() == Some(TERMINATED) => {}
            other => verdict.fail(format!("ssmfwd did not end as asked: {other:?}")),
        }
        let over = |state: &EmulatorState| state.live_sessions() == 0 && state.websockets == 0 && state.agents == 0;
        if timeout(STUCK, emulator.wait_for(over)).await.is_err() {
            verdict.fail(format!("{} sessions are left", emulator.state().live_sessions()));
        }
        if let Some(database) = database {
            database.end();
        }
        report
    }

    async fn settle(&mut self) {
        if self.verdict.has_failed() {
            return;
        }
        self.within("the connections after the network came back", self.traffic.round()).await;
        if let Some(mut database) = self.database.take() {
            self.within("the database after the network came back", database.finish()).await;
            self.database = Some(database);
        }
        // The last word is an end from outside: what comes after it is in a new session.
        self.outside.end_one(&self.emulator, &self.tunnel, &self.traffic, self.verdict);
        self.within("the connections after the end of their session", self.traffic.round()).await;
        if timeout(STUCK, self.traffic.finish()).await.is_err() {
            self.verdict.fail(format!("connections do not end: {:#?}", self.traffic.stuck(Duration::ZERO)));
        }
        self.within("the end of all connections", self.tunnel.all_closed()).await;
    }

    /// Waits for something that needs no more than a network.
    async fn within(&self, what: &str, work: impl Future<Output = ()>) {
        if self.verdict.has_failed() {
            return;
        }
        tokio::select! {
            done = timeout(STUCK, work) => if done.is_err() {
                let stuck = self.traffic.stuck(STUCK / 2);
                self.verdict.fail(format!("{what}: not within {} s: {stuck:#?}", STUCK.as_secs()));
            },
            () = self.verdict.failed() => {}
        }
    }

    fn judge(&self, state: &EmulatorState) {
        let (verdict, totals) = (self.verdict, self.traffic.totals());
        if state.violation_count > 0 {
            verdict.fail(format!("against the protocol, {} times: {:#?}", state.violation_count, state.violations));
        }
        let may_be_lost = self.outside.may_be_lost;
        if totals.lost > may_be_lost {
            verdict.fail(format!("{} connections were lost, {may_be_lost} had to be", totals.lost));
        }
        if self.destination.cut() > totals.lost + totals.given_up {
            verdict.fail(format!("the destination saw {} connections end too early", self.destination.cut()));
        }
        if verdict.has_failed() {
            return; // what is open still is no leak
        }
        for grown in self.gauge.growth() {
            verdict.fail(grown);
        }
        let after = Sample::of(self.tunnel.process()).map_or(0, |sample| sample.descriptors);
        if after > self.ready.descriptors + KEPT_DESCRIPTORS {
            verdict.fail(format!("{} descriptors when ready, {after} when all is closed", self.ready.descriptors));
        }
    }

    fn report(&self, state: &EmulatorState) -> Report {
        Report {
            totals: self.traffic.totals(),
            transactions: self.database.as_ref().map(|database| (database.transactions(), database.slowest())),
            moves: self.moves.clone(),
            ended: self.outside.ended.count() as u64,
            may_be_lost: self.outside.may_be_lost,
            losses: self.tunnel.count("reconnecting"),
            resumes: self.tunnel.count("resumed"),
            worst_outage: self.tunnel.worst_outage(),
            reasons: self.tunnel.reasons(),
            left_open: self.destination.open(),
            state: state.clone(),
            ready: self.ready,
            gauge: self.gauge.clone(),
        }
    }
}

impl Outside {
    fn end_one(&mut self, emulator: &Emulator, tunnel: &Tunnel, traffic: &Traffic, verdict: &Verdict) {
        let sessions = tunnel.sessions(&self.forward);
        let Some(session) = self.random.choice(&sessions) else { return };
        let Some(state) = emulator.state().sessions.remove(session).filter(|state| state.ended.is_none()) else {
            return;
        };
        let in_passing = traffic.in_passing();
        verdict.note(format!("{session} is ended from outside with {} connections", state.destinations));
        self.ended.insert(session);
        if emulator.act_on(session, Action::ChannelClosed { output: "ended by the soak".into() }) {
            self.may_be_lost += state.destinations + in_passing;
        }
    }
}

/// Dead peers are to be noticed within the soak's short life.
fn intervals(profile: Profile) -> &'static [&'static str] {
    match profile {
        Profile::Chaos => &["--ping-interval", "4"],
        Profile::Bye => &["--ping-interval", "1", "--keep-alive", "1", "--stall-timeout", "10"],
    }
}
