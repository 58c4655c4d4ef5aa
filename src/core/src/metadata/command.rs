//! What can be asked of the metadata, and what it answers. Commands are what the Raft log holds, so a field is never
//! renamed, and a new one has a default.

use super::image::Endpoint;
use crate::config::Overrides;
use crate::{
    BrokerEpoch, BrokerId, ClusterId, CoordinatorEpoch, CoordinatorId, ErrorCode, LeaderEpoch, LeaseEpoch,
    MetadataVersion, NodeId, PartitionEpoch, PartitionId, ProducerId, TopicId, TopicName, TopicPartition,
};
use serde::{Deserialize, Serialize};

/// One change of the metadata. Deterministic: ids and seeds are drawn by the proposer and carried along.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Gives the cluster its id. The first command of every cluster; the same again is accepted.
    InitCluster(InitCluster),
    /// Registers a broker's process.
    RegisterBroker(RegisterBroker),
    /// Holds a broker for gone: its leaderships move.
    FenceBroker(BrokerRef),
    /// Holds a broker for alive: it may lead.
    UnfenceBroker(BrokerRef),
    /// A broker asked to stop: its leaderships move where another replica can take them.
    BeginControlledShutdown(BrokerRef),
    /// Forgets a broker that holds no replica.
    UnregisterBroker(BrokerRef),
    /// Creates a topic.
    CreateTopic(CreateTopic),
    /// Deletes a topic.
    DeleteTopic(DeleteTopic),
    /// Adds partitions to a topic.
    CreatePartitions(CreatePartitions),
    /// Changes what a topic's configuration overrides.
    AlterTopicConfig(AlterTopicConfig),
    /// Gives a broker a block of producer ids.
    AllocateProducerIds(AllocateProducerIds),
    /// A leader changes its partition's ISR.
    AlterPartition(AlterPartition),
    /// The same for many partitions of one leader, each by itself.
    AlterPartitions(AlterPartitions),
    /// Moves leaderships to the preferred replicas, or revives partitions at the price of records.
    ElectLeaders(ElectLeaders),
    /// Gives partitions other replicas, or cancels that.
    ReassignPartitions(ReassignPartitions),
    /// Moves everything off a broker in time, or ceases to.
    DrainBroker(DrainBroker),
    /// Notes where a controller is reached.
    PutController(PutController),
    /// Forgets a controller that was removed from the Raft group.
    RemoveController(NodeId),
    /// Registers a coordinator's process, which gets shards at once.
    RegisterCoordinator(RegisterCoordinator),
    /// Holds a coordinator for gone: its shards go to others. It comes back by registering anew.
    FenceCoordinator(CoordinatorRef),
    /// A coordinator asked to stop: its shards go to others.
    BeginCoordinatorShutdown(CoordinatorRef),
    /// Forgets a coordinator that is gone, or that stops and has no shards.
    UnregisterCoordinator(CoordinatorRef),
    /// Gives a shard to its owner once more, under a new epoch.
    RenewShardLease(RenewShardLease),
    /// Raises the feature level.
    FinalizeFeatureLevel(FinalizeFeatureLevel),
}

/// See [`Command::InitCluster`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InitCluster {
    /// The id, drawn by the proposer.
    pub cluster_id: ClusterId,
    /// The feature level to start with.
    pub feature_level: u16,
}

/// See [`Command::RegisterBroker`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegisterBroker {
    /// The broker's id.
    pub id: BrokerId,
    /// The cluster that its data belongs to; `None` on a first start.
    pub cluster_id: Option<ClusterId>,
    /// Random, new at each start of the process.
    pub incarnation: [u8; 16],
    /// Where clients reach it.
    pub endpoint: Endpoint,
    /// Where the other services reach it.
    pub internal_endpoint: Endpoint,
    /// Its rack or zone.
    pub rack: Option<String>,
    /// The ids of its log directories.
    pub log_dirs: Vec<String>,
    /// The epoch of the registration under which its logs were last closed cleanly; `None` if they were not.
    #[serde(default)]
    pub clean_shutdown_epoch: Option<BrokerEpoch>,
    /// Whether a disk of its lost records that were stable.
    #[serde(default)]
    pub damaged: bool,
}

/// A broker at one incarnation. A command for an older one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRef {
    /// The broker's id.
    pub id: BrokerId,
    /// The epoch of its registration.
    pub epoch: BrokerEpoch,
}

/// Where the partitions of a topic go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PlacementSpec {
    /// So many partitions of so many replicas, spread evenly over the active brokers and their racks.
    Counts {
        /// Partitions.
        partitions: i32,
        /// Replicas of each.
        replication_factor: i32,
    },
    /// The replicas of each partition, the preferred leader first.
    Explicit(Vec<Vec<BrokerId>>),
}

/// See [`Command::CreateTopic`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateTopic {
    /// The topic's name.
    pub name: TopicName,
    /// The topic's id, drawn by the proposer. Not all zeros.
    pub id: TopicId,
    /// Where its partitions go.
    pub placement: PlacementSpec,
    /// What its configuration overrides.
    pub overrides: Overrides,
    /// Drawn by the proposer; where the spreading starts.
    pub seed: u64,
    /// Whether it belongs to the cluster itself. Only the services say so, never a user.
    #[serde(default)]
    pub internal: bool,
}

/// A topic by its name or its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopicRef {
    /// By name.
    Name(TopicName),
    /// By id: never hits a topic that was created anew under the same name.
    Id(TopicId),
}

/// See [`Command::DeleteTopic`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeleteTopic {
    /// Which one.
    pub topic: TopicRef,
}

/// See [`Command::CreatePartitions`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreatePartitions {
    /// The topic.
    pub name: TopicName,
    /// How many partitions it shall have then. More than it has: partitions never shrink.
    pub new_total: i32,
    /// The replicas of each new partition; `None`: spread evenly, as many replicas as the topic has.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
    /// Drawn by the proposer; where the spreading starts.
    pub seed: u64,
}

/// See [`Command::AlterTopicConfig`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlterTopicConfig {
    /// The topic.
    pub name: TopicName,
    /// Keys to override, with their values.
    pub set: Overrides,
    /// Keys to give their default again. One that is not overridden is accepted.
    pub remove: Vec<String>,
}

/// See [`Command::AllocateProducerIds`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocateProducerIds {
    /// Who asks.
    pub broker: BrokerRef,
    /// How many; usually [`super::limits::PRODUCER_ID_BLOCK`].
    pub count: i32,
}

/// See [`Command::AlterPartition`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlterPartition {
    /// The leader that asks.
    pub broker: BrokerRef,
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The epoch in which it leads.
    pub leader_epoch: LeaderEpoch,
    /// The partition's epoch as it knows it.
    pub partition_epoch: PartitionEpoch,
    /// The ISR that it wants, each member at the incarnation that caught up (KIP-903).
    pub isr: Vec<BrokerRef>,
}

/// See [`Command::AlterPartitions`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlterPartitions {
    /// The leader that asks.
    pub broker: BrokerRef,
    /// At most [`super::limits::MAX_PARTITION_CHANGES`].
    pub changes: Vec<IsrChange>,
}

/// One partition of [`AlterPartitions`]; the fields are those of [`AlterPartition`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IsrChange {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The epoch in which the broker leads.
    pub leader_epoch: LeaderEpoch,
    /// The partition's epoch as the broker knows it.
    pub partition_epoch: PartitionEpoch,
    /// The ISR that it wants.
    pub isr: Vec<BrokerRef>,
}

/// See [`Command::ReassignPartitions`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReassignPartitions {
    /// At most [`super::limits::MAX_PARTITION_CHANGES`], each by itself.
    pub moves: Vec<PartitionMove>,
}

/// Where one partition shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionMove {
    /// The partition.
    pub partition: TopicPartition,
    /// The brokers that shall hold it, the preferred leader first; `None`: cancel the reassignment under way.
    pub replicas: Option<Vec<BrokerId>>,
}

/// See [`Command::DrainBroker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainBroker {
    /// The broker.
    pub id: BrokerId,
    /// `true`: let it have replicas again.
    pub cancel: bool,
}

/// See [`Command::PutController`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutController {
    /// Its id in the Raft group.
    pub id: NodeId,
    /// Where services reach it.
    pub endpoint: Endpoint,
}

/// See [`Command::RegisterCoordinator`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterCoordinator {
    /// The coordinator's id.
    pub id: CoordinatorId,
    /// The cluster that it was told to belong to; `None` if it does not know.
    pub cluster_id: Option<ClusterId>,
    /// Random, new at each start of the process. Another one under the same id takes the place of the former at once.
    pub incarnation: [u8; 16],
    /// Where brokers reach it.
    pub endpoint: Endpoint,
    /// Its rack or zone.
    pub rack: Option<String>,
}

/// A coordinator at one incarnation. A command for an older one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorRef {
    /// The coordinator's id.
    pub id: CoordinatorId,
    /// The epoch of its registration.
    pub epoch: CoordinatorEpoch,
}

/// See [`Command::FinalizeFeatureLevel`]. It names the processes that were seen to support the level, so that one that registered
/// meanwhile is not passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalizeFeatureLevel {
    /// The level.
    pub level: u16,
    /// Every broker, fenced ones included: it holds replicas.
    pub brokers: Vec<BrokerRef>,
    /// Every coordinator that is not fenced; one that is holds nothing, and registers anew before it does anything.
    pub coordinators: Vec<CoordinatorRef>,
}

/// See [`Command::RenewShardLease`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewShardLease {
    /// The owner that asks.
    pub coordinator: CoordinatorRef,
    /// The shard.
    pub shard: TopicPartition,
    /// The epoch of the lease that it has.
    pub lease_epoch: LeaseEpoch,
}

/// See [`Command::ElectLeaders`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectLeaders {
    /// The partitions; empty: all.
    pub partitions: Vec<TopicPartition>,
    /// `false`: the preferred replica leads where it is in sync. `true`: a partition without leader gets any active replica,
    /// in sync or not, and loses what that one does not have.
    pub unclean: bool,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// It did what it says, and there is nothing to add.
    Done,
    /// The broker is registered under this epoch.
    BrokerRegistered {
        /// To be sent with every further call.
        epoch: BrokerEpoch,
    },
    /// The coordinator is registered under this epoch.
    CoordinatorRegistered {
        /// To be sent with every further call.
        epoch: CoordinatorEpoch,
    },
    /// The topic was created, grown, altered or deleted.
    Topic {
        /// Its name.
        name: TopicName,
        /// Its id.
        id: TopicId,
    },
    /// These producer ids are nobody else's.
    ProducerIds(ProducerIdBlock),
    /// The partition after the change.
    Partition(PartitionState),
    /// What became of each change of [`AlterPartitions`], in order.
    Partitions(Vec<Result<PartitionState, Refusal>>),
    /// What became of each move of [`ReassignPartitions`], in order.
    Moves(Vec<Result<(), Refusal>>),
    /// These partitions have another leader now.
    Elected(Vec<TopicPartition>),
}

/// A partition after its leader changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionState {
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// The epoch for the next change.
    pub partition_epoch: PartitionEpoch,
    /// The ISR in force.
    pub isr: Vec<BrokerId>,
}

/// Producer ids in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerIdBlock {
    /// The first.
    pub first: ProducerId,
    /// How many.
    pub count: i32,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The code for the caller; it knows whether to retry.
    pub code: ErrorCode,
    /// The field of the request that is at fault, if one is.
    pub field: Option<String>,
    /// A sentence that says what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal that no single field is to blame for.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { code, field: None, message: message.into() }
    }

    /// A refusal for the sake of one field.
    pub fn field(code: ErrorCode, field: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal { code, field: Some(field.into()), message: message.into() }
    }

    pub(super) fn already_applied(index: MetadataVersion, version: MetadataVersion) -> Refusal {
        Refusal::new(
            ErrorCode::Internal,
            format!("the command of version {index} came after version {version}"),
        )
    }
}
