//! Runs the two controllers, while this operator is the one that acts.

use crate::context::{Context, Pace, ReconcileError};
use crate::crd::{Cluster, Topic};
use crate::lease::{Election, LeaseConfig};
use crate::metrics::Metrics;
use crate::thalweg::{Connect, SdkConnect};
use crate::{cluster, topic};
use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thalweg_runtime::observe::{Registry, Source};
use thalweg_runtime::{Shutdown, Supervisor, SupervisorError};

/// Resources of a kind that are reconciled at once.
const CONCURRENCY: u16 = 16;
/// How long reconciliations have to end after a shutdown.
const DRAIN: Duration = Duration::from_secs(15);
/// How long after a change a resource is looked at. A status that is written is a change too: without this, counts that change with
/// every look would be looked at without a pause.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Where resources are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// In all namespaces.
    All,
    /// In this one.
    Namespace(String),
}

/// Settings of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorConfig {
    /// Its name, unique among operators.
    pub identity: String,
    /// Where it looks.
    pub scope: Scope,
    /// How often.
    pub pace: Pace,
    /// The lease that only one may hold; without, nobody else must run.
    pub lease: Option<LeaseConfig>,
}

/// Why an operator ended.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Kubernetes cannot be found: no file tells how, and this is no pod.
    #[error("kubernetes cannot be reached: {0}")]
    NoKubernetes(String),
    /// Another operator may be acting by now, so this one must not.
    #[error("the lease {0} is lost; another operator may have it")]
    LeaseLost(String),
    /// A part of it died.
    #[error(transparent)]
    Died(#[from] SupervisorError),
}

/// A way to the API server.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// By a file; without, by KUBECONFIG or ~/.kube/config, or else as the pod that this runs in.
    pub async fn find(kubeconfig: Option<&Path>) -> Result<Kubernetes, OperatorError> {
        let failed = |error: &dyn fmt::Display| OperatorError::NoKubernetes(error.to_string());
        let config = match kubeconfig {
            Some(file) => {
                let file = kube::config::Kubeconfig::read_from(file).map_err(|error| failed(&error))?;
                let options = kube::config::KubeConfigOptions::default();
                kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|error| failed(&error))?
            }
            None => kube::Config::infer().await.map_err(|error| failed(&error))?,
        };
        let client = Client::try_from(config).map_err(|error| failed(&error))?;
        Ok(Kubernetes { client })
    }

    /// Through a client.
    pub fn through(client: Client) -> Kubernetes {
        Kubernetes { client }
    }

    /// The namespace of the pod, or of the KUBECONFIG's context.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }
}

/// An operator. It acts once it holds the lease.
pub struct Operator<C> {
    config: OperatorConfig,
    client: Client,
    connect: C,
    metrics: Arc<Metrics>,
}

impl Operator<SdkConnect> {
    /// One that reaches clusters with the SDK.
    pub fn new(config: OperatorConfig, kubernetes: Kubernetes) -> Operator<SdkConnect> {
        Operator::with(config, kubernetes, SdkConnect::default())
    }
}

impl<C: Connect> Operator<C> {
    /// One that reaches clusters in another way.
    pub fn with(config: OperatorConfig, kubernetes: Kubernetes, connect: C) -> Operator<C> {
        Operator { config, client: kubernetes.client, connect, metrics: Arc::default() }
    }

    /// Shows its metrics.
    pub fn observe(&self, registry: &Registry) {
        registry.add("operator", &self.config.identity, Arc::clone(&self.metrics) as Arc<dyn Source>);
    }

    /// Acts until the shutdown.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), OperatorError> {
        let Some(lease) = self.config.lease.clone() else {
            return self.act(shutdown, Shutdown::new()).await;
        };
        let name = format!("{}/{}", lease.namespace, lease.name);
        let mut election = Election::new(self.client.clone(), lease);
        tracing::info!(lease = name, identity = self.config.identity, "waiting for the lease");
        if !election.acquire(&shutdown).await {
            return Ok(());
        }
        // It is given back once nothing acts any more, and nothing acts any more once it is lost.
        let acting = shutdown.child();
        let (stopped, lost) = (Shutdown::new(), Shutdown::new());
        let (metrics, act) = (Arc::clone(&self.metrics), self.act(acting.clone(), lost.clone()));
        let keep = async {
            let kept = election.keep(&stopped).await;
            if !kept {
                lost.trigger();
            }
            acting.trigger();
            kept
        };
        let act = async {
            let outcome = act.await;
            stopped.trigger();
            outcome
        };
        let (outcome, kept) = tokio::join!(act, keep);
        metrics.leads(false);
        if kept { outcome } else { Err(OperatorError::LeaseLost(name)) }
    }

    /// Acts until the shutdown, and ends what was begun; once the lease is lost it ends at once.
    async fn act(self, shutdown: Shutdown, lost: Shutdown) -> Result<(), OperatorError> {
        tracing::info!(identity = self.config.identity, scope = ?self.config.scope, "acting");
        self.metrics.leads(true);
        let topics = controller::<Topic>(&self.client, &self.config);
        let clusters = controller::<Cluster>(&self.client, &self.config);
        let (topic_store, cluster_store) = (topics.store(), clusters.store());
        let sets: Api<StatefulSet> = api(&self.client, &self.config.scope);
        let of_set = {
            let store = cluster_store.clone();
            move |set: StatefulSet| clusters_of(&store, &set)
        };
        let clusters = clusters.watches(sets, watcher::Config::default(), of_set);
        let context = Arc::new(Context::new(
            self.client,
            self.connect,
            self.config.pace,
            Arc::new(move || topic_store.state()),
            Arc::new(move || cluster_store.state()),
            Arc::clone(&self.metrics),
        ));
        let tasks = Supervisor::new(shutdown.clone());
        let (stop, of_topics) = (shutdown.clone(), Arc::clone(&context));
        tasks.spawn_critical("topics", async move {
            let stop = async move { stop.triggered().await };
            topics
                .graceful_shutdown_on(stop)
                .run(topic::reconcile, on_error, Arc::clone(&of_topics))
                .for_each(async |outcome| heard(outcome, &of_topics))
                .await;
        });
        let stop = shutdown.clone();
        tasks.spawn_critical("clusters", async move {
            let stop = async move { stop.triggered().await };
            clusters
                .graceful_shutdown_on(stop)
                .run(cluster::reconcile, on_error, Arc::clone(&context))
                .for_each(async |outcome| heard(outcome, &context))
                .await;
        });
        shutdown.triggered().await;
        tokio::select! {
            ended = tasks.join(DRAIN) => ended?,
            // Another may act by now. What is left is aborted, and that is no error besides the loss.
            () = lost.triggered() => drop(tasks.join(Duration::ZERO).await),
        }
        self.metrics.leads(false);
        Ok(())
    }
}

/// All resources of a kind in a scope.
fn api<K>(client: &Client, scope: &Scope) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match scope {
        Scope::All => Api::all(client.clone()),
        Scope::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
    }
}

fn controller<K>(client: &Client, config: &OperatorConfig) -> Controller<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let debounce = DEBOUNCE.min(config.pace.step);
    Controller::new(api(client, &config.scope), watcher::Config::default())
        .with_config(controller::Config::default().concurrency(CONCURRENCY).debounce(debounce))
}

/// The resources that look after a StatefulSet.
fn clusters_of(store: &Store<Cluster>, set: &StatefulSet) -> Vec<ObjectRef<Cluster>> {
    let (name, namespace) = (set.name_any(), set.namespace());
    let all = store.state();
    let of = all
        .iter()
        .filter(|cluster| cluster.spec.stateful_set.name == name && cluster.namespace() == namespace);
    of.map(|cluster| ObjectRef::from_obj(cluster.as_ref())).collect()
}

fn on_error<K, C>(object: Arc<K>, error: &ReconcileError, context: Arc<Context<C>>) -> controller::Action
where
    K: Resource<DynamicType = ()>,
    C: Connect,
{
    context.after_failure(object.as_ref(), error)
}

/// What a controller says of one reconciliation. Failures of reconcilers were told where they were counted.
fn heard<K, C>(
    outcome: Result<(ObjectRef<K>, controller::Action), controller::Error<ReconcileError, watcher::Error>>,
    context: &Context<C>,
) where
    K: Resource<DynamicType = ()>,
    C: Connect,
{
    match outcome {
        Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
        // It was due, and has been deleted since.
        Err(controller::Error::ObjectNotFound(gone)) => {
            context.gone::<K>(gone.extra.uid.as_deref().unwrap_or_default());
        }
        Err(error) => tracing::warn!(%error, "resources cannot be watched; are their definitions installed?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which cryptography is compiled in is known only when it is asked for: with none, or with two, that is a panic.
    #[tokio::test]
    async fn a_client_over_tls_can_be_made() {
        let mut config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
        config.root_cert = Some(Vec::new());
        assert!(Client::try_from(config).is_ok());
    }
}
