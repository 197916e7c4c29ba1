//! Targets: how one is written, which managed nodes and containers there are, and which of them is meant.
//!
//! ```text
//! Target (text) ──▶ an id: nothing is asked
//!              └──▶ Lookups (one at a time for each spec, good for seconds)
//!                      ├──▶ inventory: SSM's own, no EC2 permission ──▶ lookup::choose
//!                      └──▶ ecs: ListTasks, DescribeTasks ─────────────▶ ecs::choose
//! ```
//!
//! It happens inside StartSession's turn, for every session anew: when a session is replaced, the name may mean another
//! bastion. EC2 itself is never asked: only what SSM knows can be a target.

mod ecs;
mod inventory;
mod lookup;
mod node;
mod spec;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use self::inventory::{Filter, Named};
#[cfg(test)]
pub(crate) use self::node::Ping;
pub use self::spec::{Target, TargetError, TargetProblem};
pub(crate) use self::{
    lookup::{LookupFault, Match, Resolution, lookup_fault},
    node::NodeInfo,
};
use super::{Aws, errors::Call};
use crate::session::{ControlError, ControlErrorKind};

/// How long a resolution is good. The members of a pool, and forwards through the same target, start within it.
const FRESH: Duration = Duration::from_secs(5);

/// Specs that are remembered.
const SPECS_MAX: usize = 64;

/// Told whenever a target leads elsewhere than before, and at first.
pub(crate) type ResolutionObserver = Box<dyn Fn(&Resolution) + Send + Sync>;

/// What is known of targets that are no ids.
#[derive(Default)]
pub(super) struct Lookups {
    /// Each is locked while its spec is looked up: who wants the same waits for the answer.
    places: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Place>>>>,
    observer: OnceLock<ResolutionObserver>,
}

/// What is known of one spec.
#[derive(Default)]
struct Place {
    fresh: Option<(Instant, String)>,
    /// The id that was told last.
    told: Option<String>,
}

impl Lookups {
    fn place(&self, spec: &str) -> Arc<tokio::sync::Mutex<Place>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= SPECS_MAX && !places.contains_key(spec) {
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        places.entry(spec.to_owned()).or_default().clone()
    }

    /// The target that a spec led to has turned out not to be there.
    pub(super) fn forget(&self, spec: &str) {
        let place = self.places.lock().unwrap_or_else(PoisonError::into_inner).get(spec).cloned();
        // Locked: it is being looked up anew.
        if let Some(Ok(mut place)) = place.as_ref().map(|place| place.try_lock()) {
            place.fresh = None;
        }
    }
}

impl Aws {
    /// Sets who is told what targets lead to. The first call counts.
    pub(crate) fn on_resolution(&self, observer: ResolutionObserver) {
        // A second observer is not wanted by anybody.
        drop(self.lookups.observer.set(observer));
    }

    /// What StartSession takes for a target as typed. An id costs nothing.
    pub(super) async fn resolve(&self, call: Call<'_>) -> Result<String, ControlError> {
        let spec = call.resource;
        let target: Target = spec
            .parse()
            .map_err(|error: TargetError| call.error(ControlErrorKind::InvalidRequest, error.problem.to_string()))?;
        if target.is_id() {
            return Ok(target.to_string());
        }
        let place = self.lookups.place(spec);
        let mut place = place.lock().await;
        if let Some((at, id)) = &place.fresh
            && at.elapsed() < FRESH
        {
            return Ok(id.clone());
        }
        place.fresh = None;
        let resolution = self.look_up(&target.to_string(), &target).await?;
        tracing::debug!(?resolution, "target resolved");
        place.fresh = Some((Instant::now(), resolution.id.clone()));
        if place.told.as_ref() != Some(&resolution.id) {
            place.told = Some(resolution.id.clone());
            if let Some(observer) = self.lookups.observer.get() {
                observer(&resolution);
            }
        }
        Ok(resolution.id)
    }

    async fn look_up(&self, spec: &str, target: &Target) -> Result<Resolution, ControlError> {
        let region = self.region();
        match target {
            Target::Instance(_) | Target::Managed(_) | Target::EcsTask(_) => {
                Ok(Resolution { spec: spec.to_owned(), id: target.to_string(), label: None, others: Vec::new() })
            }
            Target::Tag { key, value } => {
                let nodes = self.information(spec, Filter::Tag { key, value }).await?;
                lookup::choose(spec, nodes, &format!("the tag {key}={value}"), region, &[])
            }
            Target::Name(name) => {
                let Named { nodes, similar } = self.named(spec, name).await?;
                lookup::choose(spec, nodes, &format!("the name {name:?}"), region, &similar)
            }
            Target::EcsService { cluster, service, container } => {
                self.task_of(spec, ecs::Wanted { cluster, service, container: container.as_deref() }).await
            }
        }
    }
}

#[cfg(test)]
mod tests;
