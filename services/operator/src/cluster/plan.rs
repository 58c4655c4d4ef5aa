//! From what is asked for and what is there to the next step: pure.

use super::observe::SetView;
use crate::thalweg::{BrokerView, ClusterView};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeSet;
use std::time::Duration;

/// All that the next step depends on.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Brokers that are asked for.
    pub desired: i32,
    /// From a pod's number to its broker's id.
    pub id_offset: i32,
    /// The StatefulSet.
    pub set: SetView,
    /// The numbers of the pods that exist, also of those that are stopping.
    pub pods: BTreeSet<i32>,
    /// Of those, the ones that are ready: their brokers are registered.
    pub ready: BTreeSet<i32>,
    /// The cluster, or why it did not answer.
    pub cluster: Result<ClusterView, String>,
    /// Partitions that move.
    pub moving: usize,
    /// The largest replication factor of any topic.
    pub largest_factor: i32,
    /// The broker that is being removed, as the status remembers it.
    pub removing: Option<i32>,
    /// The pods that there were, as the status remembers it.
    pub pods_before: i32,
    /// Whether brokers were coming or going, as the status remembers it.
    pub progressing: bool,
    /// Since when nothing moves, as the status remembers it.
    pub quiet_since: Option<Timestamp>,
    /// How long nothing may move before new brokers count as having their share.
    pub quiet: Duration,
    /// Now.
    pub now: Timestamp,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Wait,
    /// Raise the StatefulSet's replicas.
    Raise {
        /// To this.
        to: i32,
    },
    /// Move everything off a broker.
    Drain {
        /// The broker.
        id: i32,
    },
    /// Let a broker have replicas again.
    Undrain {
        /// The broker.
        id: i32,
    },
    /// Lower the StatefulSet's replicas, if the controllers confirm that the broker holds nothing, or that there is none.
    Lower {
        /// To this: one less.
        to: i32,
        /// The broker whose pod goes.
        id: i32,
    },
    /// Forget a broker whose pod is gone.
    Unregister {
        /// The broker.
        id: i32,
        /// Its pod's number.
        ordinal: i32,
    },
}

/// Where the cluster is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There.
    Done,
    /// On it.
    Moving,
    /// It cannot go on, or not without help.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// The next step, and what is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What to do now.
    pub act: Act,
    /// How far it is.
    pub phase: Phase,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// The broker that is being removed from now on.
    pub removing: Option<i32>,
    /// Since when nothing moves.
    pub quiet_since: Option<Timestamp>,
}

impl Plan {
    fn new(act: Act, phase: Phase, reason: &'static str, message: String) -> Plan {
        Plan { act, phase, reason, message, removing: None, quiet_since: None }
    }

    fn moving(act: Act, reason: &'static str, message: String) -> Plan {
        Plan::new(act, Phase::Moving, reason, message)
    }

    fn removing(self, id: i32) -> Plan {
        Plan { removing: Some(id), ..self }
    }
}

impl Observed {
    /// The id of a pod's broker.
    pub fn id_of(&self, ordinal: i32) -> i32 {
        ordinal.saturating_add(self.id_offset)
    }

    /// The number of a broker's pod.
    pub fn ordinal_of(&self, id: i32) -> i32 {
        id.saturating_sub(self.id_offset)
    }

    /// The first number that no pod has with so many replicas.
    fn end(&self, replicas: i32) -> i32 {
        self.set.first.saturating_add(replicas)
    }

    /// The pods for the status to remember. Those that somebody took away count until their brokers are forgotten: nothing else tells
    /// later that there were such.
    pub fn pods_to_remember(&self) -> i32 {
        let pods = self.set.pods;
        let Ok(cluster) = &self.cluster else { return pods.max(self.pods_before) };
        let gone = self.end(pods)..self.end(self.pods_before);
        let known = cluster.brokers.iter().map(|broker| self.ordinal_of(broker.id));
        let last = known.filter(|ordinal| gone.contains(ordinal)).max();
        last.map_or(pods, |last| last.saturating_sub(self.set.first).saturating_add(1))
    }
}

/// Decides.
pub fn decide(seen: &Observed) -> Plan {
    let cluster = match &seen.cluster {
        Ok(cluster) => cluster,
        // More brokers are never wrong, and without any nobody answers.
        Err(_) if seen.set.replicas < seen.desired => return remember(raise(seen), seen),
        Err(why) => {
            let message = format!("the cluster does not answer: {why}");
            return remember(Plan::new(Act::Wait, Phase::Unknown, "ClusterUnreachable", message), seen);
        }
    };
    let removing = seen.removing.or_else(|| taken(seen, cluster));
    if let Some(plan) = removing.and_then(|id| removal(seen, cluster, id)) {
        return plan;
    }
    if seen.set.replicas < seen.desired {
        return raise(seen);
    }
    if seen.set.replicas > seen.desired {
        return fewer(seen, cluster);
    }
    settled(seen, cluster)
}

/// What is being removed stays so.
fn remember(plan: Plan, seen: &Observed) -> Plan {
    Plan { removing: seen.removing, ..plan }
}

/// A broker whose pod somebody else than the operator took away, by lowering the StatefulSet: it is removed as it should have been, and if
/// it holds anything, it is first started again. Of several the last one that holds anything: raised to that, the StatefulSet starts the
/// others too.
fn taken(seen: &Observed, cluster: &ClusterView) -> Option<i32> {
    let gone = seen.end(seen.set.replicas)..seen.end(seen.pods_before);
    let brokers = cluster.brokers.iter().filter(|broker| gone.contains(&seen.ordinal_of(broker.id)));
    brokers.max_by_key(|broker| (broker.replicas > 0, broker.id)).map(|broker| broker.id)
}

fn raise(seen: &Observed) -> Plan {
    let message = format!("the StatefulSet goes from {} to {} replicas", seen.set.replicas, seen.desired);
    Plan::moving(Act::Raise { to: seen.desired }, "ScalingOut", message)
}

/// What is left to do for the broker that is being removed, unless its pod runs still and shall go.
fn removal(seen: &Observed, cluster: &ClusterView, id: i32) -> Option<Plan> {
    let ordinal = seen.ordinal_of(id);
    let broker = cluster.broker(id);
    if ordinal < seen.end(seen.desired) {
        // It shall stay after all.
        return broker.filter(|broker| broker.draining).map(|_| {
            let message = format!("broker {id} stays: its drain is taken back");
            Plan::moving(Act::Undrain { id }, "DrainCancelled", message)
        });
    }
    if ordinal < seen.end(seen.set.replicas) {
        return None;
    }
    if seen.pods.contains(&ordinal) {
        let message = format!("broker {id} holds nothing more, and its pod stops");
        return Some(Plan::moving(Act::Wait, "StoppingBroker", message).removing(id));
    }
    match broker {
        Some(broker) if broker.replicas > 0 => {
            // Its pod was taken before it was drained, or it was given partitions since.
            let message = format!(
                "broker {id} was stopped and holds {} replicas: it is started again",
                broker.replicas
            );
            let to = ordinal.saturating_sub(seen.set.first).saturating_add(1);
            Some(Plan::moving(Act::Raise { to }, "BrokerHoldsReplicas", message).removing(id))
        }
        _ => {
            let message = format!("broker {id} is gone, and is forgotten");
            Some(Plan::moving(Act::Unregister { id, ordinal }, "ForgettingBroker", message).removing(id))
        }
    }
}

fn fewer(seen: &Observed, cluster: &ClusterView) -> Plan {
    if let Some(message) = too_few(seen, cluster) {
        return match seen.removing {
            // Half drained it could neither go nor serve.
            Some(id) if cluster.broker(id).is_some_and(|broker| broker.draining) => {
                Plan::new(Act::Undrain { id }, Phase::Refused, "ScaleInRefused", message)
            }
            _ => Plan::new(Act::Wait, Phase::Refused, "ScaleInRefused", message),
        };
    }
    if let Some(message) = unknown(seen, cluster) {
        return remember(Plan::new(Act::Wait, Phase::Refused, "BrokersUnknown", message), seen);
    }
    let to = seen.set.replicas - 1;
    let id = seen.id_of(seen.end(to));
    let Some(broker) = cluster.broker(id) else {
        let message = format!("no broker {id} is known to the cluster, so its pod goes");
        return Plan::moving(Act::Lower { to, id }, "RemovingBroker", message).removing(id);
    };
    if !broker.draining || seen.removing != Some(id) {
        let message = format!("broker {id} is drained: {} replicas are to move", broker.replicas);
        return Plan::moving(Act::Drain { id }, "Draining", message).removing(id);
    }
    draining(broker, to)
}

fn draining(broker: &BrokerView, to: i32) -> Plan {
    let (id, left) = (broker.id, broker.replicas);
    if left == 0 {
        let message = format!("broker {id} holds nothing more, and is stopped");
        return Plan::moving(Act::Lower { to, id }, "RemovingBroker", message).removing(id);
    }
    if broker.stuck > 0 {
        let message = format!(
            "broker {id} holds {left} replicas, of which {} cannot leave it: the other brokers have these partitions already, or these \
             have no leader to copy from",
            broker.stuck
        );
        return Plan::new(Act::Wait, Phase::Refused, "DrainStuck", message).removing(id);
    }
    Plan::moving(Act::Wait, "Draining", format!("broker {id} is drained: {left} replicas are left"))
        .removing(id)
}

/// Why it is not sure which pod is which broker. If the brokers' ids are others than is thought, the wrong pod would be stopped, full of
/// records.
fn unknown(seen: &Observed, cluster: &ClusterView) -> Option<String> {
    let last = seen.end(seen.set.replicas);
    let stay = seen.set.first..seen.end(seen.desired);
    let ready = seen.ready.iter().copied().filter(|ordinal| (stay.end..last).contains(ordinal));
    let ordinal = stay.clone().chain(ready).find(|ordinal| cluster.broker(seen.id_of(*ordinal)).is_none())?;
    Some(format!(
        "pod {ordinal} should run broker {}, and the cluster knows no such broker: wait until it has registered; if brokers' ids are not \
         their pods' numbers and {}, make a Cluster with another spec.brokerIdOffset",
        seen.id_of(ordinal),
        seen.id_offset
    ))
}

/// Why there cannot be so few brokers.
fn too_few(seen: &Observed, cluster: &ClusterView) -> Option<String> {
    if seen.desired < 1 {
        return Some(format!("spec.brokers is {}: at least one broker has to stay", seen.desired));
    }
    // Brokers that this resource does not look after count too, if they can take replicas.
    let ours = seen.set.first..seen.end(seen.set.replicas);
    let others = cluster.brokers.iter().filter(|broker| {
        !broker.fenced
            && !broker.draining
            && Some(broker.id) != seen.removing
            && !ours.contains(&seen.ordinal_of(broker.id))
    });
    let left = i32::try_from(others.count()).unwrap_or(i32::MAX).saturating_add(seen.desired);
    (left < seen.largest_factor).then(|| {
        format!(
            "{left} brokers would be left, and a topic has {} replicas of each partition: set spec.brokers to at least {}, or lower the \
             factor with `thalweg topic reassign`",
            seen.largest_factor,
            seen.largest_factor - (left - seen.desired)
        )
    })
}

fn settled(seen: &Observed, cluster: &ClusterView) -> Plan {
    let wanted = seen.set.first..seen.end(seen.desired);
    let absent = wanted.filter(|ordinal| cluster.broker(seen.id_of(*ordinal)).is_none_or(|one| one.fenced));
    let absent = absent.count();
    if absent > 0 {
        let message = format!("{absent} of {} brokers are not there yet", seen.desired);
        return Plan::moving(Act::Wait, "WaitingForBrokers", message);
    }
    if seen.progressing {
        if seen.moving > 0 || cluster.under_replicated > 0 {
            let message = format!(
                "partitions move to the brokers that came: {} move, {} are not in sync everywhere",
                seen.moving, cluster.under_replicated
            );
            return Plan::moving(Act::Wait, "Balancing", message);
        }
        let since = seen.quiet_since.filter(|since| *since <= seen.now).unwrap_or(seen.now);
        let quiet = Duration::try_from(seen.now.duration_since(since)).unwrap_or_default();
        if quiet < seen.quiet {
            let message = "all brokers are there; whether partitions begin to move is waited for".to_owned();
            let plan = Plan::moving(Act::Wait, "Balancing", message);
            return Plan { quiet_since: Some(since), ..plan };
        }
    }
    let message = format!("{} brokers serve", seen.desired);
    Plan::new(Act::Wait, Phase::Done, "AsWanted", message)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
