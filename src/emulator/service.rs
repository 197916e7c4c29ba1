//! What the emulated AWS knows: its configuration, its sessions, their tokens.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Instant,
};

use serde_json::Value;
use tokio::sync::watch;

use super::{
    Action, EmulatorConfig, EmulatorState, EndedBy, FailureKind, Operation, SessionState, SessionType, SsoConfig,
    clock, failure,
    identities::Identities,
    kms::Keys,
    link_rate::ClientLink,
    mailbox::{Event, Inbox},
    network::{Network, Weather},
    worker::{self, Assignment},
};

/// Sessions that may live at once: the genuine agent's limit for one node.
const MAX_SESSIONS: usize = 1000;
/// Tokens of one session that may be unused at once; the oldest is forgotten.
const MAX_TOKENS: usize = 8;

/// The heart of an emulator, shared by its server, its session threads and its owner.
pub(super) struct Service {
    config: RwLock<Arc<EmulatorConfig>>,
    state: watch::Sender<EmulatorState>,
    registry: Mutex<Registry>,
    identities: Identities,
    keys: Keys,
    network: Arc<Network>,
    client_link: ClientLink,
    runtime: tokio::runtime::Handle,
}

struct Registry {
    rng: fastrand::Rng,
    sessions: HashMap<String, Session>,
    /// Targets whose agent restarts, once for every restart.
    restarting: Vec<String>,
    stopped: bool,
}

/// A live session.
struct Session {
    target: String,
    session_type: SessionType,
    properties: Value,
    started: Instant,
    permits: Vec<Permit>,
    inbox: Option<Arc<Inbox>>,
}

/// Permission to open one websocket.
#[derive(Clone)]
pub(super) struct Permit {
    pub(super) token: String,
    pub(super) cell: String,
}

/// What StartSession answers.
pub(super) struct Started {
    pub(super) id: String,
    pub(super) permit: Permit,
}

/// What ResumeSession finds.
pub(super) enum Resumed {
    Permit(Permit),
    Ended,
    Unknown,
}

/// A session to start.
pub(super) struct StartOrder {
    pub(super) target: String,
    pub(super) document: String,
    pub(super) session_type: SessionType,
    pub(super) properties: Value,
    pub(super) reason: Option<String>,
    /// What its id begins with: who started it.
    pub(super) starter: &'static str,
}

impl Service {
    pub(super) fn new(config: EmulatorConfig, runtime: tokio::runtime::Handle) -> Arc<Self> {
        let network = Arc::new(Network::default());
        network.change(|| Weather::of(&config));
        Arc::new(Self {
            state: watch::Sender::new(EmulatorState::default()),
            registry: Mutex::new(Registry::new(config.seed)),
            identities: Identities::new(config.seed),
            keys: Keys::new(config.seed),
            config: RwLock::new(Arc::new(config)),
            network,
            client_link: ClientLink::default(),
            runtime,
        })
    }

    pub(super) fn config(&self) -> Arc<EmulatorConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the configuration; live sessions hear of it. What is fixed once started stays.
    pub(super) fn configure(&self, change: impl FnOnce(&mut EmulatorConfig)) {
        let mut guard = self.config.write().unwrap_or_else(PoisonError::into_inner);
        let mut config = EmulatorConfig::clone(&guard);
        change(&mut config);
        let EmulatorConfig { port, tls, seed, ref region, ref credentials, .. } = **guard;
        config = EmulatorConfig { port, tls, seed, region: region.clone(), credentials: credentials.clone(), ..config };
        *guard = Arc::new(config);
        drop(guard);
        self.network.change(|| Weather::of(&self.config()));
        for inbox in self.inboxes(None) {
            inbox.wake();
        }
    }

    pub(super) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    pub(super) fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// Whose credentials are known beside the configured ones.
    pub(super) fn identities(&self) -> &Identities {
        &self.identities
    }

    /// The emulated KMS.
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn client_link(&self) -> &ClientLink {
        &self.client_link
    }

    pub(super) fn snapshot(&self) -> EmulatorState {
        self.state.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<EmulatorState> {
        self.state.subscribe()
    }

    pub(super) fn observe(&self, change: impl FnOnce(&mut EmulatorState)) {
        self.state.send_modify(change);
    }

    pub(super) fn observe_session(&self, id: &str, change: impl FnOnce(&mut SessionState)) {
        self.state.send_modify(|state| {
            if let Some(session) = state.sessions.get_mut(id) {
                change(session);
            }
        });
    }

    /// A client acted against the protocol.
    pub(super) fn violation(&self, session: &str, what: &str) {
        tracing::warn!(session, what, "protocol violation");
        self.observe(|state| state.violate(format!("{session}: {what}")));
    }

    /// Starts a session; `None` when the target has no room for more.
    pub(super) fn start(&self, order: StartOrder) -> Option<Started> {
        let mut registry = self.registry();
        if registry.sessions.len() >= MAX_SESSIONS || registry.stopped {
            return None;
        }
        let id = format!("{}-{}", order.starter, registry.hex(17));
        let permit = registry.permit();
        let session = Session {
            target: order.target.clone(),
            session_type: order.session_type,
            properties: order.properties,
            started: clock::now(),
            permits: vec![permit.clone()],
            inbox: None,
        };
        registry.sessions.insert(id.clone(), session);
        self.observe(|state| {
            state.sessions_started += 1;
            state.sessions.insert(id.clone(), SessionState::new(&order.target, &order.document, order.reason));
        });
        Some(Started { id, permit })
    }

    /// Permission for another websocket, under another cell number; or, if that was ordered, what looks like it.
    pub(super) fn resume(&self, id: &str) -> Resumed {
        // Asked first, because changing the configuration asks for the registry.
        let stale = self.is_live(id) && self.count_down(|config| &mut config.stale_tokens);
        let mut registry = self.registry();
        let permit = registry.permit();
        let Some(session) = registry.sessions.get_mut(id) else {
            return if self.state.borrow().sessions.contains_key(id) { Resumed::Ended } else { Resumed::Unknown };
        };
        if !stale {
            if session.permits.len() >= MAX_TOKENS {
                session.permits.remove(0);
            }
            session.permits.push(permit.clone());
        }
        drop(registry);
        self.observe_session(id, |session| {
            session.resumes += 1;
            session.stale_tokens += u64::from(stale);
        });
        Resumed::Permit(permit)
    }

    /// Whether a session lives, which is all that an upgrade request can be checked for.
    pub(super) fn is_live(&self, id: &str) -> bool {
        self.registry().sessions.contains_key(id)
    }

    /// Takes a token, which is good once, and gives the inbox of the session's thread, started if this is the first.
    pub(super) fn admit(self: &Arc<Self>, id: &str, token: &str, cell: &str) -> Result<Arc<Inbox>, Refusal> {
        let mut registry = self.registry();
        let seed = registry.rng.u64(..);
        let stopped = registry.stopped;
        let session = registry.sessions.get_mut(id).filter(|_| !stopped).ok_or(Refusal::Session)?;
        let position = session.permits.iter().position(|permit| permit.token == token).ok_or(Refusal::Token)?;
        let permit = session.permits.remove(position);
        if permit.cell != cell {
            return Err(Refusal::Cell);
        }
        if let Some(inbox) = &session.inbox {
            return Ok(Arc::clone(inbox));
        }
        let inbox = Arc::new(Inbox::default());
        let assignment = Assignment {
            id: id.to_owned(),
            target: session.target.clone(),
            session_type: session.session_type,
            properties: session.properties.clone(),
            started: session.started,
            seed,
        };
        worker::spawn(Arc::clone(self), Arc::clone(&inbox), assignment).map_err(|_| Refusal::Resources)?;
        session.inbox = Some(Arc::clone(&inbox));
        Ok(inbox)
    }

    /// Ends a session, whoever does it: no more tokens, and its thread is told to say so to the client.
    /// `false` if it was not live.
    pub(super) fn end(&self, id: &str, by: EndedBy, output: &str) -> bool {
        let Some(session) = self.registry().sessions.remove(id) else { return false };
        self.observe(|state| {
            state.end(id, by);
        });
        if let Some(inbox) = session.inbox {
            inbox.push(Event::End(by, output.to_owned()));
        }
        true
    }

    /// Does something to one live session or all. Says how many there were.
    pub(super) fn act(self: &Arc<Self>, session: Option<&str>, action: &Action) -> usize {
        if *action == Action::RestartAgent {
            return self.restart_agents(session);
        }
        if let Action::ChannelClosed { output } = action {
            let ids: Vec<String> = match session {
                Some(id) => vec![id.to_owned()],
                None => self.registry().sessions.keys().cloned().collect(),
            };
            return ids.iter().filter(|id| self.end(id, EndedBy::Service, output)).count();
        }
        let inboxes = self.inboxes(session);
        for inbox in &inboxes {
            inbox.push(Event::Act(action.clone()));
        }
        inboxes.len()
    }

    /// Restarts the agent of a session's target, or all agents. Says how many sessions die of it.
    ///
    /// The workers die at once and nobody is told. What the service makes of it when the new agent is there is a
    /// guess: it ends the sessions (`proto-notes/emulator.md`).
    fn restart_agents(self: &Arc<Self>, session: Option<&str>) -> usize {
        let config = self.config();
        let mut registry = self.registry();
        let targets: Vec<String> = match session {
            Some(id) => registry.sessions.get(id).map(|session| session.target.clone()).into_iter().collect(),
            None => {
                let live = registry.sessions.values().map(|session| &session.target);
                let nodes = config.nodes.iter().map(|node| &node.id);
                let all: BTreeSet<_> = config.targets.iter().chain(nodes).chain(live).cloned().collect();
                all.into_iter().collect()
            }
        };
        if targets.is_empty() {
            return 0;
        }
        registry.restarting.extend(targets.iter().cloned());
        let mut ids = Vec::new();
        for (id, session) in registry.sessions.iter().filter(|(_, session)| targets.contains(&session.target)) {
            ids.push(id.clone());
            if let Some(inbox) = &session.inbox {
                inbox.push(Event::Act(Action::KillAgent));
            }
        }
        drop(registry);
        let (count, service, back) = (ids.len(), Arc::downgrade(self), clock::now() + config.agent_restart);
        self.runtime.spawn(async move {
            tokio::time::sleep_until(back.into()).await;
            let Some(service) = service.upgrade() else { return };
            for id in &ids {
                service.end(id, EndedBy::Agent, "");
            }
            let mut registry = service.registry();
            for target in &targets {
                if let Some(index) = registry.restarting.iter().position(|restarting| restarting == target) {
                    registry.restarting.swap_remove(index);
                }
            }
            drop(registry);
            service.observe(|state| state.agent_restarts += targets.len() as u64);
        });
        count
    }

    /// Whether the agent of a target is away because it restarts.
    pub(super) fn is_restarting(&self, target: &str) -> bool {
        self.registry().restarting.iter().any(|restarting| restarting == target)
    }

    /// Ends everything without a word, as a power cut does.
    pub(super) fn stop(&self) {
        let mut registry = self.registry();
        registry.stopped = true;
        for inbox in registry.sessions.drain().filter_map(|(_, session)| session.inbox) {
            inbox.push(Event::Stop);
        }
    }

    /// One of the next `throttle` API calls.
    pub(super) fn take_throttle(&self) -> bool {
        self.count_down(|config| &mut config.throttle)
    }

    /// The failure that was ordered for this call, if it fits.
    pub(super) fn take_failure(&self, operation: Operation, fits: impl Fn(FailureKind) -> bool) -> Option<FailureKind> {
        if self.config().failures.is_empty() {
            return None;
        }
        let mut taken = None;
        self.configure(|config| taken = failure::take(&mut config.failures, operation, &fits));
        taken
    }

    /// Takes one of a number of things of the emulated IAM Identity Center.
    pub(super) fn take_sso(&self, counter: impl Fn(&mut SsoConfig) -> &mut u32) -> bool {
        self.count_down(|config| counter(&mut config.sso))
    }

    /// Takes one of a number of things; `false` if there are none left.
    fn count_down(&self, counter: impl Fn(&mut EmulatorConfig) -> &mut u32) -> bool {
        if *counter(&mut EmulatorConfig::clone(&self.config())) == 0 {
            return false;
        }
        let mut taken = false;
        self.configure(|config| {
            let left = counter(config);
            taken = *left > 0;
            *left = left.saturating_sub(1);
        });
        taken
    }

    /// A random identity of an API answer.
    pub(super) fn request_id(&self) -> String {
        uuid::Builder::from_random_bytes(self.registry().rng.u128(..).to_be_bytes()).into_uuid().to_string()
    }

    fn inboxes(&self, session: Option<&str>) -> Vec<Arc<Inbox>> {
        let registry = self.registry();
        let chosen = registry.sessions.iter().filter(|(id, _)| session.is_none_or(|wanted| wanted == id.as_str()));
        chosen.filter_map(|(_, session)| session.inbox.clone()).collect()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    fn new(seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { rng, sessions: HashMap::new(), restarting: Vec::new(), stopped: false }
    }

    fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from_digit(self.rng.u32(..16), 16).unwrap_or('0')).collect()
    }

    /// A cell number has the characters that a careless client mangles.
    fn permit(&mut self) -> Permit {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut random = |length| -> String {
            (0..length).map(|_| char::from(*self.rng.choice(ALPHABET).unwrap_or(&b'A'))).collect()
        };
        let cell = format!("AAEAA{}+{}/{}==", random(4), random(3), random(8));
        let token = (0..4).fold(String::new(), |mut token, _| {
            // Writing to a String cannot fail.
            let written = write!(token, "{:016x}", self.rng.u64(..));
            debug_assert!(written.is_ok());
            token
        });
        Permit { token, cell }
    }
}

/// Why a first message does not open a data channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the session is not live")]
    Session,
    #[error("the token is unknown or used")]
    Token,
    #[error("the token was given with another StreamUrl")]
    Cell,
    #[error("the session's thread could not be started")]
    Resources,
}

/// Which document a name stands for.
pub(super) fn find_document(config: &EmulatorConfig, name: &str) -> Option<super::SessionDocument> {
    config.documents.get(name).cloned().or_else(|| super::SessionDocument::published(name))
}

/// Parameters as the API takes them.
pub(super) type Parameters = BTreeMap<String, Vec<String>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_random_and_awkward() {
        let mut registry = Registry::new(1);
        let (one, two) = (registry.permit(), registry.permit());
        assert!(one.token != two.token && one.token.len() == 64 && one.cell != two.cell);
        assert!(one.cell.contains('+') && one.cell.contains('/') && one.cell.len() % 4 == 0, "{}", one.cell);
    }
}
