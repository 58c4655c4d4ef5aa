//! The changes of ISR that this broker asks for, for all partitions that it leads: batched, one request at a time. What comes of
//! them counts when the metadata brings it.

use super::state::{JOIN_HOLD, Outcome};
use crate::node::Node;
use crate::replicas::{IsrProposal, Partition};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_core::metadata::limits::MAX_PARTITION_CHANGES;
use thalweg_core::{BrokerId, ErrorCode, PartitionId, TopicId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Before a change that failed is asked for again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

type Key = (TopicId, PartitionId);
type Partitions = HashMap<Key, Arc<Partition>>;

fn key(partition: &Partition) -> Key {
    (partition.topic_id(), partition.topic_partition().partition)
}

/// Rung for each partition whose ISR should be looked at.
#[derive(Debug, Default)]
pub struct IsrBell {
    rung: Mutex<Partitions>,
    notify: Notify,
}

impl IsrBell {
    /// Asks for a look.
    pub fn ring(&self, partition: &Arc<Partition>) {
        self.rung
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key(partition), Arc::clone(partition));
        self.notify.notify_one();
    }

    fn take(&self) -> Partitions {
        std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Change = (Arc<Partition>, IsrProposal);
type Sending = Pin<Box<dyn Future<Output = Vec<(Change, Outcome)>> + Send>>;

/// Keeps the ISRs of the partitions that this broker leads true, for as long as it runs.
pub async fn keep(node: Arc<Node>) {
    let every = (node.config.replication.lag_time_max / 2).max(Duration::from_millis(1));
    let mut keeper = Keeper {
        waiting: HashMap::new(),
        node: Arc::clone(&node),
        again_at: None,
        sending: None,
        quiet_until: None,
    };
    let mut applied = node.replicas.watch();
    let mut next_round = Instant::now() + every;
    loop {
        let again_at = keeper.again_at;
        let partitions = tokio::select! {
            () = node.isr.notify.notified() => node.isr.take(),
            // Who was not active may be now; and what was asked for may be in force.
            changed = applied.changed(), if !keeper.waiting.is_empty() => match changed {
                Ok(()) => std::mem::take(&mut keeper.waiting),
                Err(_) => return,
            },
            () = tokio::time::sleep_until(next_round) => {
                next_round = Instant::now() + every;
                node.replicas.led().into_iter().map(|led| (key(&led), led)).collect()
            }
            () = tokio::time::sleep_until(again_at.unwrap_or(next_round)), if again_at.is_some() => {
                keeper.again_at = None;
                std::mem::take(&mut keeper.waiting)
            }
            answers = async { keeper.sending.as_mut().expect("polled only while there is one").await },
                if keeper.sending.is_some() =>
            {
                keeper.sending = None;
                keeper.answered(answers);
                std::mem::take(&mut keeper.waiting)
            }
            () = node.shutdown.triggered() => return,
        };
        keeper.look(partitions);
    }
}

struct Keeper {
    node: Arc<Node>,
    // Partitions whose ISR is not what it should be, as far as is known.
    waiting: Partitions,
    again_at: Option<Instant>,
    sending: Option<Sending>,
    // After an attempt that came to nothing: where controllers refuse connections at once, the next would too.
    quiet_until: Option<Instant>,
}

impl Keeper {
    fn look(&mut self, partitions: Partitions) {
        let Some(own_epoch) = self.node.controller.epoch() else {
            self.waiting.extend(partitions);
            return;
        };
        let image = self.node.metadata.snapshot();
        let max_lag = self.node.config.replication.lag_time_max;
        let active =
            |id: BrokerId| image.broker(id).filter(|broker| broker.is_active()).map(|broker| broker.epoch);
        let mut changes: Vec<Change> = Vec::new();
        let mut holding = false;
        let quiet = self.quiet_until.is_some_and(|until| Instant::now() < until);
        for (key, partition) in partitions {
            if partition.leading().is_none() {
                self.waiting.remove(&key);
                continue;
            }
            // Whatever is on its way: it may take long, and nobody else gives up on those who do not come.
            holding |= partition.release_holds();
            // One request at a time; the others are looked at when its answer comes.
            let free = self.sending.is_none() && !quiet && changes.len() < MAX_PARTITION_CHANGES;
            if !free {
                self.waiting.insert(key, partition);
                continue;
            }
            if let Some(proposal) = partition.propose_isr(own_epoch, max_lag, active) {
                changes.push((Arc::clone(&partition), proposal));
            }
            holding |= partition.is_holding();
            let complete = {
                let role = partition.role();
                role.isr.len() == role.replicas.len()
            };
            if complete {
                self.waiting.remove(&key);
            } else {
                self.waiting.insert(key, partition);
            }
        }
        if holding {
            self.again_in(JOIN_HOLD);
        }
        if changes.is_empty() {
            return;
        }
        for (partition, proposal) in &changes {
            let isr: Vec<_> = proposal.isr.iter().map(|member| member.id.get()).collect();
            tracing::info!(
                partition = %partition.topic_partition(), before = ?partition.role().isr, wanted = ?isr,
                "asking for another isr"
            );
        }
        self.sending = Some(Box::pin(send(Arc::clone(&self.node), own_epoch.get(), changes)));
    }

    fn again_in(&mut self, pause: Duration) {
        let at = Instant::now() + pause;
        self.again_at = Some(self.again_at.map_or(at, |before| before.min(at)));
    }

    fn answered(&mut self, answers: Vec<(Change, Outcome)>) {
        for ((partition, proposal), outcome) in answers {
            if partition.isr_answered(&proposal, outcome) {
                self.waiting.insert(key(&partition), partition);
                self.quiet_until = Some(Instant::now() + AGAIN_AFTER);
                self.again_in(AGAIN_AFTER);
            }
        }
    }
}

async fn send(node: Arc<Node>, own_epoch: i64, changes: Vec<Change>) -> Vec<(Change, Outcome)> {
    let request = internal::AlterPartitionsRequest {
        broker_id: node.config.node_id.get(),
        broker_epoch: own_epoch,
        changes: changes.iter().map(|(partition, proposal)| change(partition, proposal)).collect(),
    };
    let results = match node.controller.alter_partitions(request, node.config.intervals.controller_call).await
    {
        Ok(answer) if answer.results.len() == changes.len() => answer.results,
        Ok(_) => {
            tracing::error!("a controller answered for other partitions than it was asked for");
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(%error, partitions = changes.len(), "no word on a change of isr; asking again");
            Vec::new()
        }
    };
    let mut results = results.into_iter();
    changes
        .into_iter()
        .map(|change| {
            let outcome = match results.next() {
                None => Outcome::Unknown,
                Some(result) => outcome(&change.0, result.error.as_ref().map(ApiError::from_proto)),
            };
            (change, outcome)
        })
        .collect()
}

fn change(partition: &Partition, proposal: &IsrProposal) -> internal::PartitionChange {
    let member = |member: &thalweg_core::metadata::command::BrokerRef| internal::IsrMember {
        broker_id: member.id.get(),
        broker_epoch: member.epoch.get(),
    };
    internal::PartitionChange {
        topic_id: partition.topic_id().0.to_vec().into(),
        partition: partition.topic_partition().partition.get(),
        leader_epoch: proposal.leader_epoch.get(),
        partition_epoch: proposal.partition_epoch.get(),
        isr: proposal.isr.iter().map(member).collect(),
    }
}

fn outcome(partition: &Partition, error: Option<ApiError>) -> Outcome {
    let Some(error) = error else { return Outcome::Wait };
    tracing::info!(partition = %partition.topic_partition(), %error, "a change of isr was refused");
    match error.code {
        // The epochs were the current ones, so nothing that was sent at them is in force.
        ErrorCode::InvalidRequest => Outcome::Refused,
        // The metadata is ahead of this broker's, and on its way.
        ErrorCode::InvalidPartitionEpoch
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::NotLeader
        | ErrorCode::UnknownTopic
        | ErrorCode::UnknownPartition => Outcome::Wait,
        _ => Outcome::Unknown,
    }
}
