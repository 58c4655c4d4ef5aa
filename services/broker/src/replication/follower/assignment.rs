//! What the replica manager tells the follower side: whom each partition follows.

use super::mailbox::Mailbox;
use crate::replicas::Partition;
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_core::{BrokerId, LeaderEpoch, TopicPartition};

/// Whom a partition follows from now on.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The partition.
    pub partition: Arc<Partition>,
    /// `None`: nobody, because this broker leads it, there is no leader, or the partition is gone from here.
    pub target: Option<Target>,
}

/// A leader to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The leader.
    pub leader: BrokerId,
    /// Its epoch.
    pub epoch: LeaderEpoch,
    /// Whether a reassignment adds this broker's replica.
    pub adding: bool,
}

impl Assignment {
    /// What the partition's role says.
    pub fn of(partition: &Arc<Partition>, me: BrokerId) -> Assignment {
        let target = partition.following().map(|role| Target {
            leader: role.leader,
            epoch: role.leader_epoch,
            adding: role.adding.contains(&me),
        });
        Assignment { partition: Arc::clone(partition), target }
    }

    /// It follows nobody.
    pub fn none(partition: &Arc<Partition>) -> Assignment {
        Assignment { partition: Arc::clone(partition), target: None }
    }
}

/// Assignments that the follower side has not seen, the latest of each partition.
#[derive(Debug, Default)]
pub struct Assignments {
    unread: Mailbox<TopicPartition, Assignment>,
}

impl Assignments {
    /// Tells one. To be called after the log and the role are in the assignment's epoch.
    pub fn post(&self, assignment: Assignment) {
        self.unread.put(assignment.partition.topic_partition().clone(), assignment);
    }

    /// Waits until there are some.
    pub async fn wait(&self) {
        self.unread.wait().await;
    }

    /// Takes them.
    pub fn take(&self) -> BTreeMap<TopicPartition, Assignment> {
        self.unread.take()
    }
}
