//! What both reconcilers share: clients, settings, and how long to wait after a failure.

use crate::crd::{Cluster, Topic};
use crate::metrics::{Metrics, Outcome};
use crate::thalweg::{CallError, Connect};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Client, Resource, ResourceExt};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The name under which fields are owned.
pub(crate) const FIELD_MANAGER: &str = "thalweg-operator";
/// The pause after a first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long one reconciliation may take: far longer than its calls to Thalweg may, so that only Kubernetes can hang it.
const LIMIT: Duration = Duration::from_secs(120);

/// How often things are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often a resource is looked at of which nothing was heard: so long may a change from outside go unseen.
    pub resync: Duration,
    /// How often while something is under way.
    pub step: Duration,
    /// How long nothing may move before brokers that came count as having their share. The controllers look every second.
    pub quiet: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { resync: Duration::from_secs(60), step: Duration::from_secs(3), quiet: Duration::from_secs(10) }
    }
}

/// All resources of a kind that are known at the moment.
pub type Listing<K> = Arc<dyn Fn() -> Vec<Arc<K>> + Send + Sync>;

/// What reconcilers are given.
pub struct Context<C> {
    /// Kubernetes.
    pub client: Client,
    /// Thalweg.
    pub connect: C,
    /// How often.
    pub pace: Pace,
    /// All topics, to find two that mean the same one.
    pub topics: Listing<Topic>,
    /// All clusters, to find two that mean the same StatefulSet.
    pub clusters: Listing<Cluster>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    failures: Mutex<BTreeMap<String, u32>>,
}

/// Why a reconciliation could not be finished. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Kubernetes did not do what it was asked for.
    #[error("kubernetes: {0}")]
    Kube(#[source] Box<kube::Error>),
    /// The cluster did not.
    #[error("thalweg: {0}")]
    Thalweg(#[from] CallError),
    /// Somebody did not answer at all.
    #[error("not done within {LIMIT:?}")]
    TooLong,
    /// The resource is not whole.
    #[error("the resource has no {0}")]
    Missing(&'static str),
}

impl From<kube::Error> for ReconcileError {
    fn from(error: kube::Error) -> ReconcileError {
        ReconcileError::Kube(Box::new(error))
    }
}

impl ReconcileError {
    /// Whether somebody else changed the object meanwhile: no fault, and tried again at once.
    pub fn is_conflict(&self) -> bool {
        matches!(self, ReconcileError::Kube(error) if api_code(error) == Some(409))
    }
}

/// The status with which Kubernetes answered.
pub(crate) fn api_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// How a reconciliation ended that did not fail.
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    /// When to look again.
    pub(crate) again: Option<Duration>,
}

impl<C: Connect> Context<C> {
    /// A context that has seen no failure yet.
    pub fn new(
        client: Client,
        connect: C,
        pace: Pace,
        topics: Listing<Topic>,
        clusters: Listing<Cluster>,
        metrics: Arc<Metrics>,
    ) -> Context<C> {
        Context { client, connect, pace, topics, clusters, metrics, failures: Mutex::default() }
    }

    /// A cluster. One that does not answer is looked for anew the next time.
    pub(crate) async fn link(&self, bootstrap: &[String]) -> Result<C::Link, CallError> {
        self.connect.connect(bootstrap).await
    }

    /// Reconciles, counts what became of it, and says when the next one is due. Failures are told apart from refusals: those come
    /// again after 1 s to 60 s, these with the next resync.
    pub(crate) async fn settle<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        work: impl Future<Output = Result<Done, ReconcileError>>,
    ) -> Result<Action, ReconcileError> {
        let begun = Instant::now();
        let result = timeout(LIMIT, work).await.unwrap_or(Err(ReconcileError::TooLong));
        let (kind, resource) = (K::kind(&()), object.uid().unwrap_or_default());
        let outcome = result.as_ref().map_or(Outcome::Failed, |done| done.outcome);
        self.metrics.reconciled(&kind, &resource, outcome, begun.elapsed());
        let done = result?;
        self.failures().remove(&resource);
        if done.again.is_none() {
            // It is being deleted, and nobody looks at it again.
            self.metrics.forget(&kind, &resource);
        }
        Ok(done.again.map_or_else(Action::await_change, Action::requeue))
    }

    /// The resource with this unique id is gone: nothing is kept of it.
    pub(crate) fn gone<K: Resource<DynamicType = ()>>(&self, uid: &str) {
        self.failures().remove(uid);
        self.metrics.forget(&K::kind(&()), uid);
    }

    /// When to try again after a failure.
    pub(crate) fn after_failure<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        error: &ReconcileError,
    ) -> Action {
        let (kind, name) = (K::kind(&()), object.name_any());
        let namespace = object.namespace().unwrap_or_default();
        if error.is_conflict() {
            tracing::debug!(%kind, namespace, name, "changed by somebody else meanwhile");
            return Action::requeue(FIRST_PAUSE);
        }
        let failures = {
            let mut failures = self.failures();
            let failures = failures.entry(object.uid().unwrap_or_default()).or_insert(0);
            *failures = failures.saturating_add(1);
            *failures
        };
        let pause = pause(failures);
        tracing::warn!(%kind, namespace, name, %error, failures, ?pause, "reconciliation failed");
        Action::requeue(pause)
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u32>> {
        // A map of numbers is whole at every step.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

/// Wall time: what conditions carry.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let seconds: Vec<u64> = [1, 2, 3, 6, 7, 33, u32::MAX].map(|n| pause(n).as_secs()).to_vec();
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60]);
    }
}
