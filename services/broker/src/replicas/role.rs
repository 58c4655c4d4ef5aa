//! What the metadata says of a partition, and what its leader asks to have changed.

use crate::replication::leader::state::Terms;
use crate::settings::TopicSettings;
use thalweg_core::metadata::PartitionImage;
use thalweg_core::metadata::command::BrokerRef;
use thalweg_core::{BrokerId, LeaderEpoch, PartitionEpoch};

/// What the metadata says of a partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Role {
    /// The leader; [`BrokerId::NONE`] if there is none.
    pub leader: BrokerId,
    /// Its epoch.
    pub leader_epoch: LeaderEpoch,
    /// Counts every change of the partition.
    pub partition_epoch: PartitionEpoch,
    /// Every replica, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// The replicas in sync.
    pub isr: Vec<BrokerId>,
    /// The replicas that a reassignment adds.
    pub adding: Vec<BrokerId>,
    /// The topic's configuration.
    pub settings: TopicSettings,
}

/// What an ISR change that is to be sent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsrProposal {
    /// The epoch in which this broker leads.
    pub leader_epoch: LeaderEpoch,
    /// The partition's epoch as it knows it.
    pub partition_epoch: PartitionEpoch,
    /// The ISR that it wants.
    pub isr: Vec<BrokerRef>,
}

impl Role {
    /// What an image says of a partition.
    pub fn of(state: &PartitionImage, settings: &TopicSettings) -> Role {
        Role {
            leader: state.leader,
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            replicas: state.replicas.clone(),
            isr: state.isr.clone(),
            adding: state.adding.clone(),
            settings: settings.clone(),
        }
    }

    /// How many replicas must be in sync for acks=all: the same as for the high watermark to move, so that no write is taken that
    /// cannot be committed, and none is refused that can.
    pub fn min_isr(&self) -> usize {
        self.terms().min_isr()
    }

    /// What of it the leader's state is told.
    pub(super) fn terms(&self) -> Terms<'_> {
        Terms {
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            replicas: &self.replicas,
            adding: &self.adding,
            isr: &self.isr,
            min_insync_replicas: self.settings.min_insync_replicas,
            write_caching: self.settings.write_caching,
        }
    }
}
