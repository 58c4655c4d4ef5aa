//! The shell around the plan.

use super::observe::{claims, is_ready, mounts, ordinals, set_view};
use super::plan::{Act, Observed, Phase, Plan, decide};
use crate::context::{Context, Done, FIELD_MANAGER, ReconcileError, now};
use crate::crd::{
    Cluster, ClusterStatus, ConditionStatus, NewCondition, VolumePolicy, seconds, set_condition, steady,
};
use crate::metrics::Outcome;
use crate::thalweg::{CallError, ClusterView, Connect, Thalweg};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;
use thalweg_core::ErrorCode;

const READY: &str = "Ready";
const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";

/// Takes the next step towards the brokers that a resource asks for, and says in the resource how far it is.
pub async fn reconcile<C: Connect>(
    cluster: Arc<Cluster>,
    context: Arc<Context<C>>,
) -> Result<Action, ReconcileError> {
    context.settle(cluster.as_ref(), reconcile_one(&cluster, &context)).await
}

async fn reconcile_one<C: Connect>(cluster: &Cluster, context: &Context<C>) -> Result<Done, ReconcileError> {
    if cluster.meta().deletion_timestamp.is_some() {
        // Brokers, records and volumes stay as they are: the resource is a wish about their number, not their owner.
        return Ok(Done { outcome: Outcome::Ready, again: None });
    }
    let namespace = cluster.namespace().ok_or(ReconcileError::Missing("namespace"))?;
    let shell = Shell {
        cluster,
        context,
        api: Api::namespaced(context.client.clone(), &namespace),
        sets: Api::namespaced(context.client.clone(), &namespace),
        pods: Api::namespaced(context.client.clone(), &namespace),
        claims: Api::namespaced(context.client.clone(), &namespace),
    };
    shell.step().await
}

struct Shell<'a, C: Connect> {
    cluster: &'a Cluster,
    context: &'a Context<C>,
    api: Api<Cluster>,
    sets: Api<StatefulSet>,
    pods: Api<Pod>,
    claims: Api<PersistentVolumeClaim>,
}

/// What the cluster itself says.
struct Answer<T> {
    link: T,
    view: ClusterView,
    moving: usize,
    largest_factor: i32,
}

impl<C: Connect> Shell<'_, C> {
    async fn step(&self) -> Result<Done, ReconcileError> {
        let mut status = self.cluster.status.clone().unwrap_or_default();
        let set_name = &self.cluster.spec.stateful_set.name;
        // Dereference.
        if let Some(other) = self.rival() {
            let message = format!(
                "the Cluster {other} looks after StatefulSet {set_name} already: delete one of the two"
            );
            return self.refuse(status, "StatefulSetTaken", message).await;
        }
        let Some(set) = self.sets.get_opt(set_name).await? else {
            let message =
                format!("there is no StatefulSet {set_name} in this namespace: see spec.statefulSet");
            return self.refuse(status, "StatefulSetNotFound", message).await;
        };
        let answer = self.ask(&set).await;
        if let (Ok(answer), Some(before)) = (&answer, &status.cluster_id)
            && answer.view.id != *before
        {
            // What is asked there tells nothing about the brokers that run here.
            let message = format!(
                "the brokers are of cluster {before}, and spec.bootstrap leads to cluster {}: correct it; if the cluster was founded \
                 anew, make the Cluster resource anew",
                answer.view.id
            );
            return self.refuse(status, "OtherCluster", message).await;
        }
        let seen = self.observe(&set, &status, answer.as_ref()).await?;
        // Build.
        let plan = decide(&seen);
        self.tell(&mut status, &seen, &plan);
        if let Act::Undrain { .. } = plan.act {
            // Not forgotten before it is done.
            status.draining_broker = seen.removing;
        }
        // What is being removed is noted before anything is done to it.
        self.write(&status).await?;
        // Apply.
        if plan.act != Act::Wait {
            tracing::info!(cluster = self.cluster.name_any(), act = ?plan.act, reason = plan.reason, "step");
        }
        let link = answer.as_ref().ok().map(|answer| &answer.link);
        if self.act(&set, link, plan.act).await? {
            status.draining_broker = None;
            status.draining_replicas_left = None;
            self.write(&status).await?;
        }
        match (answer, plan.act) {
            (Err(error), Act::Wait) => Err(error.into()),
            _ => Ok(self.done(plan.phase)),
        }
    }

    /// Asks the cluster. One that does not answer is looked for anew the next time.
    async fn ask(&self, set: &StatefulSet) -> Result<Answer<C::Link>, CallError> {
        let spec = &self.cluster.spec;
        let asked = async {
            let link = self.context.link(&spec.bootstrap).await?;
            let view = link.cluster().await?;
            let moving = link.moving().await?;
            let fewer = set_view(set).replicas > spec.brokers;
            let largest_factor = if fewer { link.largest_factor().await? } else { 0 };
            Ok(Answer { link, view, moving, largest_factor })
        };
        let answer: Result<_, CallError> = asked.await;
        if answer.is_err() {
            self.context.connect.forget(&spec.bootstrap);
        }
        answer
    }

    async fn observe(
        &self,
        set: &StatefulSet,
        status: &ClusterStatus,
        answer: Result<&Answer<C::Link>, &CallError>,
    ) -> Result<Observed, ReconcileError> {
        let view = set_view(set);
        let pods = self.pods.list(&ListParams::default().labels(&view.selector)).await?.items;
        let before = status.conditions.iter().find(|condition| condition.type_ == PROGRESSING);
        Ok(Observed {
            desired: self.cluster.spec.brokers,
            id_offset: self.cluster.spec.broker_id_offset,
            pods: ordinals(&set.name_any(), &pods),
            ready: ordinals(&set.name_any(), pods.iter().filter(|pod| is_ready(pod))),
            set: view,
            moving: answer.map_or(0, |answer| answer.moving),
            largest_factor: answer.map_or(0, |answer| answer.largest_factor),
            cluster: answer.map(|answer| answer.view.clone()).map_err(ToString::to_string),
            removing: status.draining_broker,
            pods_before: status.brokers.unwrap_or(0),
            progressing: before.is_none_or(|condition| condition.status != ConditionStatus::False),
            quiet_since: status.quiet_since.as_deref().and_then(|since| since.parse().ok()),
            quiet: self.context.pace.quiet,
            now: now(),
        })
    }

    /// Another resource for the same StatefulSet that was there before.
    fn rival(&self) -> Option<String> {
        let age = |one: &Cluster| (one.creation_timestamp().map(|time| time.0), one.name_any());
        let all = (self.context.clusters)();
        let same = all.iter().filter(|other| {
            other.uid() != self.cluster.uid()
                && other.namespace() == self.cluster.namespace()
                && other.spec.stateful_set == self.cluster.spec.stateful_set
                && age(other) < age(self.cluster)
        });
        same.min_by_key(|other| age(other)).map(|other| other.name_any())
    }

    async fn refuse(
        &self,
        mut status: ClusterStatus,
        reason: &'static str,
        message: String,
    ) -> Result<Done, ReconcileError> {
        self.conditions(&mut status, Phase::Refused, reason, &message, None);
        self.write(&status).await?;
        Ok(self.done(Phase::Refused))
    }

    fn done(&self, phase: Phase) -> Done {
        let pace = self.context.pace;
        let (outcome, again) = match phase {
            Phase::Done => (Outcome::Ready, pace.resync),
            Phase::Moving => (Outcome::Waiting, pace.step),
            Phase::Refused => (Outcome::Refused, pace.resync),
            Phase::Unknown => (Outcome::Failed, pace.resync),
        };
        Done { outcome, again: Some(again) }
    }

    /// Puts what is seen and planned into a status.
    fn tell(&self, status: &mut ClusterStatus, seen: &Observed, plan: &Plan) {
        let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        status.brokers = Some(seen.pods_to_remember());
        status.selector = Some(seen.set.selector.clone());
        status.draining_broker = plan.removing;
        status.quiet_since = plan.quiet_since.map(seconds);
        let cluster = seen.cluster.as_ref().ok();
        if let Some(cluster) = cluster {
            let ours = seen.set.first..seen.set.first.saturating_add(seen.set.replicas);
            let alive =
                cluster.brokers.iter().filter(|one| !one.fenced && ours.contains(&seen.ordinal_of(one.id)));
            status.ready_brokers = i32::try_from(alive.count()).ok();
            status.cluster_id = Some(cluster.id.clone());
            status.controller_leader = i64::try_from(cluster.controller_leader).ok();
            status.under_replicated_partitions = Some(count(cluster.under_replicated));
            status.offline_partitions = Some(count(cluster.offline));
            status.moving_partitions = i32::try_from(seen.moving).ok();
        }
        let removed = plan.removing.and_then(|id| cluster?.broker(id));
        status.draining_replicas_left = removed.map(|broker| count(broker.replicas));
        self.conditions(status, plan.phase, plan.reason, &plan.message, cluster);
    }

    fn conditions(
        &self,
        status: &mut ClusterStatus,
        phase: Phase,
        reason: &str,
        message: &str,
        cluster: Option<&ClusterView>,
    ) {
        let generation = self.cluster.metadata.generation;
        status.observed_generation = generation;
        let (ready, progressing) = match phase {
            Phase::Done => (ConditionStatus::True, ConditionStatus::False),
            Phase::Moving => (ConditionStatus::False, ConditionStatus::True),
            Phase::Refused => (ConditionStatus::False, ConditionStatus::False),
            Phase::Unknown => (ConditionStatus::Unknown, ConditionStatus::Unknown),
        };
        let (available, why, sentence) = match cluster {
            None => {
                (ConditionStatus::Unknown, "ClusterUnreachable", "the cluster does not answer".to_owned())
            }
            Some(cluster) if cluster.offline > 0 => {
                let message = format!("{} partitions have no leader", cluster.offline);
                (ConditionStatus::False, "OfflinePartitions", message)
            }
            Some(cluster) if cluster.controller_leader == 0 => {
                let message = "no controller leads: nothing about topics and brokers can change".to_owned();
                (ConditionStatus::False, "NoController", message)
            }
            Some(_) => (ConditionStatus::True, "AllLed", "every partition has a leader".to_owned()),
        };
        for (type_, status_, reason, message) in [
            (READY, ready, reason, message.to_owned()),
            (PROGRESSING, progressing, reason, message.to_owned()),
            (AVAILABLE, available, why, sentence),
        ] {
            let mut new = NewCondition { type_, status: status_, reason: reason.to_owned(), message };
            if phase == Phase::Unknown {
                new = steady(&status.conditions, new, generation);
            }
            set_condition(&mut status.conditions, new, generation, now());
        }
    }

    /// Writes the status, if it says anything new.
    async fn write(&self, status: &ClusterStatus) -> Result<(), ReconcileError> {
        if self.cluster.status.as_ref() == Some(status) {
            return Ok(());
        }
        let name = self.cluster.name_any();
        let patch = json!({
            "apiVersion": Cluster::api_version(&()),
            "kind": Cluster::kind(&()),
            "metadata": {"name": name},
            "status": status,
        });
        self.api
            .patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch))
            .await?;
        Ok(())
    }

    /// Does one thing. Gives whether a removal has come to its end.
    async fn act(&self, set: &StatefulSet, link: Option<&C::Link>, act: Act) -> Result<bool, ReconcileError> {
        match (act, link) {
            (Act::Raise { to }, _) => self.scale(set, to).await?,
            (Act::Lower { to, id }, Some(link)) => {
                // What was described may be older than what is, also when it knows no such broker; the answer to this is not.
                match link.drain(id, false).await {
                    Ok(0) => self.scale(set, to).await?,
                    Ok(left) => tracing::warn!(broker = id, left, "is not empty after all, and stays"),
                    Err(error) if error.code == Some(ErrorCode::UnknownBroker) => self.scale(set, to).await?,
                    Err(error) => return Err(error.into()),
                }
            }
            (Act::Drain { id }, Some(link)) => drop(link.drain(id, false).await?),
            (Act::Undrain { id }, Some(link)) => drop(link.drain(id, true).await?),
            (Act::Unregister { id, ordinal }, Some(link)) => {
                link.unregister(id).await?;
                return match self.cluster.spec.volumes {
                    VolumePolicy::Retain => Ok(true),
                    VolumePolicy::Delete => self.delete_volumes(set, ordinal).await,
                };
            }
            (Act::Wait, _) | (_, None) => {}
        }
        Ok(false)
    }

    /// Sets the number of pods, unless the StatefulSet has changed since it was looked at.
    async fn scale(&self, set: &StatefulSet, to: i32) -> Result<(), ReconcileError> {
        let patch =
            json!({"metadata": {"resourceVersion": set.resource_version()}, "spec": {"replicas": to}});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        self.sets.patch_scale(&set.name_any(), &params, &Patch::Merge(patch)).await?;
        tracing::info!(statefulset = set.name_any(), replicas = to, "scaled");
        Ok(())
    }

    /// Deletes the claims of a pod that is gone. Gives whether none is left: one that any pod mounts stays.
    async fn delete_volumes(&self, set: &StatefulSet, ordinal: i32) -> Result<bool, ReconcileError> {
        let claims = claims(set, ordinal);
        if claims.is_empty() {
            return Ok(true);
        }
        let pods = self.pods.list(&ListParams::default()).await?.items;
        let mut all = true;
        for claim in claims {
            let Some(found) = self.claims.get_opt(&claim).await? else { continue };
            if let Some(pod) = pods.iter().find(|pod| mounts(pod, &claim)) {
                tracing::warn!(claim, pod = pod.name_any(), "is mounted, and stays until it is not");
                all = false;
                continue;
            }
            // This very claim, and not one that was made anew meanwhile.
            let preconditions =
                Preconditions { uid: found.uid(), resource_version: found.resource_version() };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match self.claims.delete(&claim, &params).await {
                Ok(_) => tracing::info!(claim, "deleted with its broker"),
                Err(error) if crate::context::api_code(&error) == Some(404) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all)
    }
}
