//! What is done to a live session from outside: actions, and changes of the configuration.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{AgentSide, Worker, window};
use crate::{
    emulator::{Action, agent::AgentInput, destination::Destinations, mailbox::budget},
    wire::MessageKind,
};

impl Worker {
    pub(super) fn refresh_config(&mut self, now: Instant) {
        let old = std::mem::replace(&mut self.config, self.service.config());
        if Arc::ptr_eq(&old, &self.config) {
            return;
        }
        if self.config.rtt != old.rtt {
            self.core.set_window(window(self.kind, &self.config));
            if let Some(client) = &self.client {
                client.link.set_budget(budget(self.config.one_way_delay()));
            }
        }
        if self.config.cut_every != old.cut_every
            && let Some(client) = &mut self.client
        {
            client.life.cut = self.config.cut_every.map(|interval| now + interval.draw(&mut self.rng));
        }
        if self.config.agent_cut_every != old.agent_cut_every
            && let AgentSide::Connected(life) = &mut self.agent
        {
            life.cut = self.config.agent_cut_every.map(|interval| now + interval.draw(&mut self.rng));
        }
        if self.config.outage && !old.outage {
            self.disconnect_agent(now); // the gateway it was connected to is gone
        } else if old.outage && !self.config.outage && matches!(self.agent, AgentSide::Away(_)) {
            self.agent = AgentSide::Away(now + self.agent_pause());
        }
        self.destinations.review(now, &self.config);
    }

    pub(super) fn act(&mut self, now: Instant, action: &Action) {
        match action {
            Action::Disconnect => self.reset_client(now),
            Action::Bye => {
                self.bye_client(now);
                self.bye_agent(now);
            }
            Action::DisconnectAgent => self.disconnect_agent(now),
            Action::KillAgent => self.kill_agent(),
            Action::Pause => self.publication_to_client(now, MessageKind::PausePublication),
            Action::Start => {
                if let Some(client) = &mut self.client {
                    client.paused = false; // this one is not lost
                }
                self.publication_to_client(now, MessageKind::StartPublication);
            }
            // These reach this thread as Event::End and as Action::KillAgent.
            Action::ChannelClosed { .. } | Action::RestartAgent => {}
        }
    }

    /// The service's hourly farewell to the client.
    pub(super) fn bye_client(&mut self, now: Instant) {
        self.tally.byes += u64::from(self.client.is_some());
        self.close_client(now, 1000, "Bye");
    }

    /// And to the agent. What the agent has sent is relayed before it.
    pub(super) fn bye_agent(&mut self, now: Instant) {
        if self.agent_is_connected() {
            self.lose_up();
            self.feed(now, AgentInput::Disconnected);
            self.agent = AgentSide::Away(now + self.agent_pause());
            self.publication_to_client(now, MessageKind::PausePublication);
        }
    }

    /// The agent's websocket breaks.
    pub(super) fn disconnect_agent(&mut self, now: Instant) {
        if self.agent_is_connected() {
            self.down.lose_all();
            self.bye_agent(now);
        }
    }

    /// How long the agent waits before it opens another websocket.
    fn agent_pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(100..200))
    }

    /// Its connections close with its process. The client hears nothing.
    pub(super) fn kill_agent(&mut self) {
        self.agent = AgentSide::Dead;
        self.core_deadline = None;
        self.lose_up();
        self.destinations = Destinations::new(self.service.runtime().clone(), Arc::clone(&self.inbox));
    }
}
