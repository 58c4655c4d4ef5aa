//! The shell around the plan.

use super::plan::{Decision, Known, Plan, decide};
use super::validate::{Refusal, Wanted, fellow, rival, topic_name, validate};
use crate::context::{Context, Done, FIELD_MANAGER, ReconcileError, now};
use crate::crd::{
    Cluster, ConditionStatus, DeletionPolicy, FINALIZER, NewCondition, Topic, TopicStatus, set_condition,
    steady,
};
use crate::metrics::Outcome;
use crate::thalweg::{CallError, ClusterView, Connect, Thalweg, TopicView};
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;
use thalweg_client::NewTopic;
use thalweg_core::ErrorCode;

/// Differences that a status tells at most.
const MAX_PENDING: usize = 50;

/// Brings a topic to what its resource says, or says in the resource why not.
pub async fn reconcile<C: Connect>(
    topic: Arc<Topic>,
    context: Arc<Context<C>>,
) -> Result<Action, ReconcileError> {
    context.settle(topic.as_ref(), reconcile_one(&topic, &context)).await
}

/// What is said of a topic.
struct Said {
    status: ConditionStatus,
    refusal: Refusal,
    pending: Vec<String>,
    outcome: Outcome,
}

impl Said {
    fn refused(refusal: Refusal) -> Said {
        Said { status: ConditionStatus::False, refusal, pending: Vec::new(), outcome: Outcome::Refused }
    }

    fn unreachable(error: &CallError) -> Said {
        let refusal = Refusal::new("ClusterUnreachable", format!("{error}; it is tried again"));
        Said { status: ConditionStatus::Unknown, refusal, pending: Vec::new(), outcome: Outcome::Failed }
    }
}

async fn reconcile_one<C: Connect>(topic: &Topic, context: &Context<C>) -> Result<Done, ReconcileError> {
    let namespace = topic.namespace().ok_or(ReconcileError::Missing("namespace"))?;
    let api: Api<Topic> = Api::namespaced(context.client.clone(), &namespace);
    if topic.meta().deletion_timestamp.is_some() {
        return delete(topic, &api, context).await;
    }
    let mut status = topic.status.clone().unwrap_or_default();
    status.topic_name = Some(topic_name(topic));
    let wanted = match validate(topic) {
        Ok(wanted) => wanted,
        Err(refusal) => return say(topic, &api, context, status, Said::refused(refusal)).await,
    };
    let bootstrap = match dereference(topic, context, &namespace).await? {
        Ok(bootstrap) => bootstrap,
        Err(refusal) => return say(topic, &api, context, status, Said::refused(refusal)).await,
    };
    hold(topic, &api, wanted.deletion_policy == DeletionPolicy::Delete).await?;
    match bring(topic, context, &wanted, &bootstrap, &mut status).await {
        Ok(said) => say(topic, &api, context, status, said).await,
        Err(error) => {
            context.connect.forget(&bootstrap);
            say(topic, &api, context, status, Said::unreachable(&error)).await?;
            Err(error.into())
        }
    }
}

/// The brokers that the reference leads to.
async fn dereference<C: Connect>(
    topic: &Topic,
    context: &Context<C>,
    namespace: &str,
) -> Result<Result<Vec<String>, Refusal>, ReconcileError> {
    if let Some(bootstrap) = &topic.spec.bootstrap {
        return Ok(Ok(bootstrap.clone()));
    }
    let name = topic.spec.cluster_ref.as_ref().map(|reference| reference.name.as_str()).unwrap_or_default();
    let clusters: Api<Cluster> = Api::namespaced(context.client.clone(), namespace);
    Ok(match clusters.get_opt(name).await? {
        Some(cluster) => Ok(cluster.spec.bootstrap),
        None => {
            let why = format!("there is no Cluster {name} in namespace {namespace}: see spec.clusterRef");
            Err(Refusal::new("ClusterNotFound", why))
        }
    })
}

/// Looks, decides, does. An error is one after which the same may succeed.
async fn bring<C: Connect>(
    topic: &Topic,
    context: &Context<C>,
    wanted: &Wanted,
    bootstrap: &[String],
    status: &mut TopicStatus,
) -> Result<Said, CallError> {
    let link = context.link(bootstrap).await?;
    let cluster = link.cluster().await?;
    if let Some(other) = rival(topic, &cluster.id, &(context.topics)()) {
        let why = format!(
            "the Topic {}/{} has the topic {} already: delete one of the two",
            other.namespace().unwrap_or_default(),
            other.name_any(),
            wanted.name
        );
        return Ok(Said::refused(Refusal::new("NameTaken", why)));
    }
    let known = Known { topic_id: status.topic_id.clone(), cluster_id: status.cluster_id.clone() };
    let found = link.topic(&wanted.name).await?;
    let Decision { plan, changes } = decide(wanted, &known, &cluster.id, alive(&cluster), found.as_ref());
    let pending = changes.iter().take(MAX_PENDING).map(ToString::to_string).collect();
    let ready = |reason: &str, message: String| Said {
        status: ConditionStatus::True,
        refusal: Refusal::new(reason, message),
        pending: Vec::new(),
        outcome: Outcome::Ready,
    };
    match plan {
        Plan::Refuse(refusal) => {
            // Nothing of a topic that is not this resource's is told as if it were.
            if let Some(found) = found.filter(|found| status.topic_id.as_deref() == Some(found.id.as_str())) {
                note(status, &cluster, &found);
            }
            Ok(Said { pending, ..Said::refused(refusal) })
        }
        Plan::DryRun => {
            let message = format!("{} changes would be made: see status.pendingChanges", changes.len());
            let refusal = Refusal::new("DryRun", message);
            Ok(Said { pending, ..Said::refused(refusal) })
        }
        Plan::Nothing => {
            if let Some(found) = &found {
                note(status, &cluster, found);
            }
            Ok(ready("InSync", format!("topic {} is as asked for", wanted.name)))
        }
        plan => {
            match apply(&link, wanted, &plan).await {
                Ok(()) => {}
                // Somebody made it in between, or a lost answer's own topic: the next look decides anew.
                Err(error) if error.code == Some(ErrorCode::TopicAlreadyExists) => {
                    return Err(CallError { retriable: true, ..error });
                }
                Err(error) => match error.code {
                    Some(code) if !error.retriable => {
                        return Ok(Said { pending, ..Said::refused(Refusal::of_code(code, &error.message)) });
                    }
                    _ => return Err(error),
                },
            }
            for change in &changes {
                tracing::info!(topic = wanted.name, cluster = cluster.id, %change, "changed");
            }
            if let Some(found) = link.topic(&wanted.name).await? {
                note(status, &cluster, &found);
            }
            // The same words as when nothing had to be done: a second look has no news.
            Ok(ready("InSync", format!("topic {} is as asked for", wanted.name)))
        }
    }
}

fn alive(cluster: &ClusterView) -> usize {
    cluster.brokers.iter().filter(|broker| !broker.fenced).count()
}

async fn apply<T: Thalweg>(link: &T, wanted: &Wanted, plan: &Plan) -> Result<(), CallError> {
    match plan {
        Plan::Create => {
            let mut topic = NewTopic::new(wanted.name.clone());
            topic.partitions = wanted.partitions;
            topic.replication_factor = wanted.replication_factor;
            topic.configs = wanted.configs.clone();
            link.create_topic(topic).await
        }
        Plan::Alter { set, unset, grow } => {
            if !set.is_empty() || !unset.is_empty() {
                link.configure_topic(&wanted.name, set.clone(), unset.clone()).await?;
            }
            match grow {
                Some(total) => link.grow_topic(&wanted.name, *total).await,
                None => Ok(()),
            }
        }
        Plan::Nothing | Plan::DryRun | Plan::Refuse(_) => Ok(()),
    }
}

/// Notes what the topic is.
fn note(status: &mut TopicStatus, cluster: &ClusterView, found: &TopicView) {
    status.cluster_id = Some(cluster.id.clone());
    status.topic_id = Some(found.id.clone());
    status.partitions = Some(found.partitions);
    status.replication_factor = Some(found.replication_factor);
}

/// Writes the status, if it says anything new.
async fn say<C: Connect>(
    topic: &Topic,
    api: &Api<Topic>,
    context: &Context<C>,
    mut status: TopicStatus,
    said: Said,
) -> Result<Done, ReconcileError> {
    let Said { status: holds, refusal, pending, outcome } = said;
    status.observed_generation = topic.metadata.generation;
    status.pending_changes = pending;
    let mut condition =
        NewCondition { type_: "Ready", status: holds, reason: refusal.reason, message: refusal.message };
    if outcome == Outcome::Failed {
        condition = steady(&status.conditions, condition, topic.metadata.generation);
    }
    set_condition(&mut status.conditions, condition, topic.metadata.generation, now());
    // What was just done is no news once it is done.
    let before = topic.status.as_ref();
    if before != Some(&status) {
        let changed = before.and_then(|before| before.conditions.first()) != status.conditions.first();
        if changed && outcome == Outcome::Refused {
            let condition = &status.conditions[0];
            tracing::warn!(
                topic = status.topic_name,
                namespace = topic.namespace(),
                resource = topic.name_any(),
                reason = condition.reason,
                message = condition.message,
                "refused"
            );
        }
        let patch = json!({
            "apiVersion": Topic::api_version(&()),
            "kind": Topic::kind(&()),
            "metadata": {"name": topic.name_any()},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch_status(&topic.name_any(), &params, &Patch::Apply(patch)).await?;
    }
    Ok(Done { outcome, again: Some(context.pace.resync) })
}

/// Adds or takes off the finalizer: the resource stays until the topic is deleted, if it is to be.
async fn hold(topic: &Topic, api: &Api<Topic>, keep: bool) -> Result<(), ReconcileError> {
    let mut finalizers = topic.finalizers().to_vec();
    let held = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    if held == keep {
        return Ok(());
    }
    if keep {
        finalizers.push(FINALIZER.to_owned());
    } else {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    // With the version that was read: whoever else changes the list meanwhile is not overwritten.
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": topic.resource_version()}});
    api.patch(&topic.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// The resource is being deleted: the topic goes first, if it is to go and is this resource's.
async fn delete<C: Connect>(
    topic: &Topic,
    api: &Api<Topic>,
    context: &Context<C>,
) -> Result<Done, ReconcileError> {
    if topic.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        if topic.spec.deletion_policy == DeletionPolicy::Delete
            && let Some(id) = topic.status.as_ref().and_then(|status| status.topic_id.clone())
        {
            let namespace = topic.namespace().unwrap_or_default();
            let all = (context.topics)();
            let fellow = fellow(topic, &id, &all);
            let outcome = match dereference(topic, context, &namespace).await? {
                _ if fellow.is_some() => {
                    let other = fellow.map(ResourceExt::name_any);
                    tracing::warn!(
                        topic = topic_name(topic),
                        id,
                        other,
                        "another resource has the topic, so it stays"
                    );
                    Ok(())
                }
                Ok(bootstrap) => delete_topic(topic, context, &bootstrap, &id).await,
                Err(refusal) => Err(CallError { code: None, retriable: true, message: refusal.message }),
            };
            if let Err(error) = outcome {
                let status = topic.status.clone().unwrap_or_default();
                let message = format!(
                    "the topic is not deleted yet: {error}; to let it stay, set spec.deletionPolicy to Retain"
                );
                let refusal = Refusal::new("DeletionBlocked", message);
                let said = Said { outcome: Outcome::Failed, ..Said::refused(refusal) };
                say(topic, api, context, status, said).await?;
                return Err(error.into());
            }
        }
        match hold(topic, api, false).await {
            Err(ReconcileError::Kube(error)) if crate::context::api_code(&error) == Some(404) => {}
            outcome => outcome?,
        }
    }
    Ok(Done { outcome: Outcome::Ready, again: None })
}

async fn delete_topic<C: Connect>(
    topic: &Topic,
    context: &Context<C>,
    bootstrap: &[String],
    id: &str,
) -> Result<(), CallError> {
    let name = topic_name(topic);
    let delete = async {
        let link = context.link(bootstrap).await?;
        // Another topic of that name, or one in another cluster, is not this resource's.
        match link.topic(&name).await? {
            Some(found) if found.id == id => {
                link.delete_topic(&name).await?;
                tracing::info!(topic = name, id, "deleted with its resource");
            }
            _ => tracing::warn!(topic = name, id, "the topic of a deleted resource is gone already"),
        }
        Ok(())
    };
    let outcome: Result<(), CallError> = delete.await;
    if outcome.is_err() {
        context.connect.forget(bootstrap);
    }
    outcome
}
