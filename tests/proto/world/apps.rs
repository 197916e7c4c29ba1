//! The local connections: they write, read, stop reading, end.

use std::time::{Duration, Instant};

use ssmfwd::proto::{Mode, OpenError, Read, StreamError, StreamId};

use super::{
    World,
    plan::{self, Ending, Plan},
};

/// One local connection: its plan and how far it has come.
#[derive(Debug)]
pub(super) struct App {
    pub(super) plan: Plan,
    pub(super) stream: Option<StreamId>,
    pub(super) sent: usize,
    received: usize,
    finished: bool,
    pub(super) done: bool,
    /// When its reader goes on, once it has stopped.
    wakes: Option<Instant>,
}

impl App {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, stream: None, sent: 0, received: 0, finished: false, done: false, wakes: None }
    }

    /// When its reader goes on.
    pub(super) fn wakes(&self, now: Instant) -> Option<Instant> {
        self.wakes.filter(|at| *at > now)
    }

    /// For how long its reader may still hold things up.
    pub(super) fn naps(&self, now: Instant) -> Duration {
        let planned = self.plan.nap.map_or(Duration::ZERO, |nap| nap.lasts);
        self.wakes.map_or(planned, |at| at.saturating_duration_since(now))
    }
}

impl World {
    /// Every app does what it can. True if any did something.
    pub(super) fn act(&mut self) -> bool {
        if !self.ready || self.closed {
            return false;
        }
        let mut acted = false;
        for index in 0..self.apps.len() {
            if self.apps[index].done {
                continue;
            }
            if self.apps[index].stream.is_none() {
                match self.session.open_stream() {
                    Ok(stream) => {
                        self.apps[index].stream = Some(stream);
                        self.by_stream.insert(stream, index);
                        acted = true;
                    }
                    Err(OpenError::Busy) => return acted,
                    Err(error) => panic!("seed {}: open: {error}", self.seed),
                }
            }
            acted |= self.write(index) | self.read(index);
            if self.mode == Mode::Basic && !self.apps[index].done {
                return acted;
            }
        }
        acted
    }

    fn write(&mut self, index: usize) -> bool {
        let app = &mut self.apps[index];
        let Some(stream) = app.stream.filter(|_| !app.done && !app.finished) else { return false };
        let plan = app.plan;
        let before = app.sent;
        while app.sent < plan.up {
            let size = self.random.usize(1..=9000).min(plan.up - app.sent);
            let data: Vec<u8> = (app.sent..app.sent + size).map(|at| plan.byte(plan::UP, at)).collect();
            match self.session.write(stream, &data) {
                Ok(0) => break,
                Ok(count) => app.sent += count,
                Err(StreamError::Refused) if plan.ending == Ending::Refused => break,
                Err(error) => panic!("seed {}: app {index} writes: {error}", self.seed),
            }
        }
        if plan.ending == Ending::AppAborts && app.sent >= plan.up / 2 {
            self.session.release(stream);
            app.done = true;
            return true;
        }
        before != app.sent
    }

    fn read(&mut self, index: usize) -> bool {
        let app = &mut self.apps[index];
        let Some(stream) = app.stream.filter(|_| !app.done) else { return false };
        let plan = app.plan;
        if app.wakes(self.now).is_some() {
            return false;
        }
        let mut buffer = [0; 4096];
        let mut acted = false;
        loop {
            if let Some(nap) = plan.nap.filter(|nap| app.wakes.is_none() && app.received >= nap.after) {
                app.wakes = Some(self.now + nap.lasts);
                return acted;
            }
            match self.session.read(stream, &mut &mut buffer[..]) {
                Ok(Read::Data(count)) => {
                    for (at, byte) in buffer[..count].iter().enumerate() {
                        let expected = plan.byte(plan::DOWN, app.received + at);
                        assert_eq!(*byte, expected, "seed {}: app {index} at {}", self.seed, app.received + at);
                    }
                    app.received += count;
                    acted = true;
                    assert!(app.received <= plan.down, "seed {}: app {index} got too much", self.seed);
                }
                Ok(Read::Pending) => break,
                Ok(Read::End) => {
                    let expected = plan.ending == Ending::DestinationCloses || app.finished;
                    assert!(expected, "seed {}: app {index} ended too early: {app:?}", self.seed);
                    assert_eq!(app.received, plan.down, "seed {}: app {index}", self.seed);
                    return self.done(index);
                }
                Err(StreamError::Refused) => {
                    assert_eq!(plan.ending, Ending::Refused, "seed {}: app {index}", self.seed);
                    return self.done(index);
                }
                Err(error) => panic!("seed {}: app {index} reads: {error}", self.seed),
            }
        }
        let everything = app.received == plan.down && app.sent == plan.up;
        if plan.ending == Ending::AppCloses && everything && !app.finished {
            app.finished = true;
            self.session.finish(stream);
            acted = true;
        }
        acted
    }

    /// The one terminal event of a stream.
    fn done(&mut self, index: usize) -> bool {
        let app = &mut self.apps[index];
        assert!(!app.done, "seed {}: app {index} ended twice", self.seed);
        app.done = true;
        if let Some(stream) = app.stream {
            self.session.release(stream);
        }
        true
    }
}
