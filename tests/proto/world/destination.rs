//! The destinations behind the agent: they take data at their own pace, send theirs, close or refuse.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ssmfwd::{
    emulator::agent::{AgentCore, AgentInput, AgentOutput, ConnectionId},
    proto::Mode,
};

use super::{
    app_of, pattern,
    plan::{DOWN, Ending, Plan, UP},
};

#[derive(Debug, Default)]
struct Destination {
    dialled: bool,
    received: usize,
    sent: usize,
    ended: bool,
    closed: bool,
}

pub(super) struct Destinations {
    plans: Vec<Plan>,
    open: BTreeMap<ConnectionId, Destination>,
    events: Vec<(Instant, u64, AgentInput)>,
    order: u64,
    random: fastrand::Rng,
    mode: Mode,
}

impl std::fmt::Debug for Destinations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.open.fmt(f)
    }
}

impl Destinations {
    pub(super) fn new(plans: Vec<Plan>, random: fastrand::Rng, mode: Mode) -> Self {
        Self { plans, open: BTreeMap::new(), events: Vec::new(), order: 0, random, mode }
    }

    fn later(&mut self, now: Instant, most_ms: u64, input: AgentInput) {
        self.order += 1;
        let delay = Duration::from_micros(self.random.u64(..=most_ms * 1000));
        self.events.push((now + delay, self.order, input));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.events.iter().map(|(at, ..)| *at).min()
    }

    pub(super) fn due(&mut self, now: Instant) -> Option<AgentInput> {
        let due = self.events.iter().enumerate().filter(|(_, (at, ..))| *at <= now);
        let index = due.min_by_key(|(_, (at, order, _))| (*at, *order))?.0;
        let (.., input) = self.events.swap_remove(index);
        if let AgentInput::Dialled(id) = input {
            self.open.entry(id).or_default().dialled = true;
        }
        Some(input)
    }

    /// What the agent wants of a destination.
    pub(super) fn output(&mut self, now: Instant, output: AgentOutput) {
        match output {
            AgentOutput::Dial(id, host, port) => {
                assert_eq!((host.as_str(), port), ("localhost", 80));
                let plan = self.plans[app_of(id)];
                self.open.insert(id, Destination::default());
                let input = if plan.ending == Ending::Refused {
                    AgentInput::DialFailed(id, "connection refused".to_owned())
                } else {
                    AgentInput::Dialled(id)
                };
                self.later(now, 20, input);
            }
            AgentOutput::Write(id, data) => {
                let plan = self.plans[app_of(id)];
                let destination = self.open.get_mut(&id).expect("dialled before");
                for (at, byte) in data.iter().enumerate() {
                    let expected = plan.byte(UP, destination.received + at);
                    assert_eq!(*byte, expected, "{id:?} at {}", destination.received + at);
                }
                destination.received += data.len();
                assert!(destination.received <= plan.up, "{id:?} got too much");
                self.later(now, 3, AgentInput::Written(id, data.len()));
            }
            AgentOutput::Close(id) => {
                let plan = self.plans[app_of(id)];
                let destination = self.open.get_mut(&id).expect("dialled before");
                assert!(!destination.closed, "{id:?} is closed twice");
                destination.closed = true;
                if plan.ending == Ending::AppCloses {
                    assert_eq!(destination.received, plan.up, "{id:?} is closed before all was written");
                }
            }
            other => panic!("not for destinations: {other:?}"),
        }
    }

    /// Sends what destinations have to say, as far as the agent reads it.
    pub(super) fn feed(&mut self, now: Instant, agent: &mut AgentCore) {
        let ids: Vec<_> = self.open.keys().copied().collect();
        for id in ids {
            let plan = self.plans[app_of(id)];
            while let Some(destination) = self.open.get_mut(&id) {
                if !destination.dialled || destination.ended || destination.closed || !agent.wants_data(id) {
                    break;
                }
                // Basic mode: the first connection is dialled before anybody asks for it; speak only when spoken to.
                let may_speak = self.mode == Mode::Mux || destination.received == plan.up;
                if destination.sent < plan.down && may_speak {
                    let count = self.random.usize(1..=16_000).min(plan.down - destination.sent);
                    let data = pattern(&plan, DOWN, destination.sent, count);
                    destination.sent += count;
                    agent.handle(now, AgentInput::Received(id, data));
                } else if plan.ending == Ending::DestinationCloses
                    && destination.sent == plan.down
                    && destination.received == plan.up
                {
                    destination.ended = true;
                    agent.handle(now, AgentInput::Eof(id));
                } else {
                    break;
                }
            }
        }
    }

    /// How much a destination that is there has received.
    pub(super) fn received(&self, app: usize) -> Option<usize> {
        let id = ConnectionId(app as u64 + 1);
        self.open.get(&id).filter(|destination| destination.dialled).map(|destination| destination.received)
    }

    pub(super) fn all_done(&self) -> bool {
        self.open.iter().all(|(id, destination)| {
            let plan = &self.plans[app_of(*id)];
            match plan.ending {
                Ending::DestinationCloses => {
                    destination.ended && destination.received == plan.up && destination.sent == plan.down
                }
                Ending::AppCloses => destination.closed,
                Ending::AppAborts | Ending::Refused => true,
            }
        })
    }
}
