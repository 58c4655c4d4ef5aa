//! The machine from outside: commands in, images out.

mod balance;
mod brokers;
mod catalogue;
mod codec;
mod committed;
mod coordinators;
mod eligible;
mod features;
mod leaders;
mod properties;
mod reassignments;
mod topics;

use super::command::*;
use super::*;
use crate::config::Overrides;
use crate::*;

/// An image with the helpers that make tests short. Every helper is a command.
pub(super) struct Cluster {
    pub(super) image: MetadataImage,
}

pub(super) type Outcome = Result<Response, Refusal>;

impl Cluster {
    /// A cluster with active brokers of these ids.
    pub(super) fn with_brokers(ids: &[i32]) -> Cluster {
        let mut cluster = Cluster { image: MetadataImage::new() };
        cluster.run(init("c1")).unwrap();
        for id in ids {
            cluster.start(*id, 1);
        }
        cluster
    }

    pub(super) fn run(&mut self, command: Command) -> Outcome {
        let before = self.image.clone();
        // Indexes have gaps, as Raft uses some itself.
        let index = MetadataVersion(before.version().get() + 1 + before.version().get() % 2);
        let outcome = apply(&mut self.image, index, &command);
        invariants::check(&self.image).unwrap();
        assert_eq!(self.image.version(), index);
        if outcome.is_err() {
            let untouched = MetadataImage { version: index, ..before };
            assert_eq!(self.image, untouched, "{command:?} was refused but changed something");
        }
        outcome
    }

    #[track_caller]
    pub(super) fn refused(&mut self, command: Command) -> (ErrorCode, String) {
        let refusal = self.run(command).unwrap_err();
        (refusal.code, refusal.message)
    }

    /// Registers process `incarnation` of a broker, and unfences it.
    pub(super) fn start(&mut self, id: i32, incarnation: u8) {
        self.run(register(id, incarnation)).unwrap();
        self.run(Command::UnfenceBroker(self.broker(id))).unwrap();
    }

    pub(super) fn broker(&self, id: i32) -> BrokerRef {
        let epoch = self.image.broker(BrokerId(id)).map_or(BrokerEpoch(-1), |broker| broker.epoch);
        BrokerRef { id: BrokerId(id), epoch }
    }

    /// Registers process `incarnation` of a broker that was closed cleanly, and unfences it.
    pub(super) fn start_after_clean_stop(&mut self, id: i32, incarnation: u8) {
        let clean_shutdown_epoch = Some(self.broker(id).epoch);
        let command = RegisterBroker { clean_shutdown_epoch, ..registration(id, incarnation) };
        self.run(Command::RegisterBroker(command)).unwrap();
        self.unfence(id);
    }

    /// The same, of one that was not closed cleanly and has these log directories now. If that is none of those that it had, it
    /// must have been fenced before.
    pub(super) fn start_with_disks(&mut self, id: i32, incarnation: u8, dirs: &[&str]) {
        let log_dirs: Vec<String> = dirs.iter().map(|dir| (*dir).to_owned()).collect();
        let before = self.image.broker(BrokerId(id));
        if before.is_some_and(|before| !before.log_dirs.iter().any(|dir| log_dirs.contains(dir))) {
            self.fence(id);
        }
        self.run(Command::RegisterBroker(RegisterBroker { log_dirs, ..registration(id, incarnation) }))
            .unwrap();
        self.unfence(id);
    }

    /// The leader of a partition changes its ISR, with every epoch as it is now.
    #[track_caller]
    pub(super) fn set_isr(&mut self, topic: &str, partition: i32, isr: &[i32]) {
        let command = self.isr_change(topic, partition, isr);
        self.run(Command::AlterPartition(command)).unwrap();
    }

    pub(super) fn isr_change(&self, topic: &str, partition: i32, isr: &[i32]) -> AlterPartition {
        let image = self.image.topic(topic).unwrap();
        let now = image.partition(PartitionId(partition)).unwrap();
        AlterPartition {
            broker: self.broker(now.leader.get()),
            topic_id: image.id,
            partition: PartitionId(partition),
            leader_epoch: now.leader_epoch,
            partition_epoch: now.partition_epoch,
            isr: isr.iter().map(|id| self.broker(*id)).collect(),
        }
    }

    /// Asks for one reassignment; none cancels.
    pub(super) fn reassign(
        &mut self,
        topic: &str,
        partition: i32,
        to: Option<&[i32]>,
    ) -> Result<(), Refusal> {
        let partition = TopicPartition::new(name(topic), PartitionId(partition));
        let replicas = to.map(|ids| ids.iter().copied().map(BrokerId).collect());
        let moves = vec![PartitionMove { partition, replicas }];
        match self.run(Command::ReassignPartitions(ReassignPartitions { moves })) {
            Ok(Response::Moves(outcomes)) => outcomes.into_iter().next().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// "replicas +adding -removing" of one partition.
    pub(super) fn replicas(&self, topic: &str, partition: i32) -> String {
        let partition = self.image.topic(topic).unwrap().partition(PartitionId(partition)).unwrap();
        let list = |ids: &[BrokerId], sign: &str| {
            ids.iter().map(|id| format!("{sign}{id}")).collect::<Vec<_>>().join(" ")
        };
        let parts =
            [list(&partition.replicas, ""), list(&partition.adding, "+"), list(&partition.removing, "-")];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn fence(&mut self, id: i32) {
        self.run(Command::FenceBroker(self.broker(id))).unwrap();
    }

    pub(super) fn unfence(&mut self, id: i32) {
        self.run(Command::UnfenceBroker(self.broker(id))).unwrap();
    }

    /// "leader [isr] elr leader-epoch/partition-epoch" of one partition; "lost" behind the ISR if it is.
    pub(super) fn state(&self, topic: &str, partition: i32) -> String {
        let partition = self.image.topic(topic).unwrap().partition(PartitionId(partition)).unwrap();
        let list = |ids: &[BrokerId]| ids.iter().map(BrokerId::to_string).collect::<Vec<_>>().join(" ");
        let elr = if partition.elr.is_empty() { String::new() } else { format!("{} ", list(&partition.elr)) };
        let lost = if partition.lost { "lost " } else { "" };
        let epochs = format!("{}/{}", partition.leader_epoch, partition.partition_epoch);
        format!("{} [{}] {elr}{lost}{epochs}", partition.leader, list(&partition.isr))
    }
}

pub(super) fn init(id: &str) -> Command {
    Command::InitCluster(InitCluster {
        cluster_id: ClusterId(id.into()),
        feature_level: image::FEATURE_LEVEL,
    })
}

pub(super) fn registration(id: i32, incarnation: u8) -> RegisterBroker {
    RegisterBroker {
        id: BrokerId(id),
        cluster_id: Some(ClusterId("c1".into())),
        incarnation: [incarnation; 16],
        endpoint: Endpoint::new("broker.example", 9292).unwrap(),
        internal_endpoint: Endpoint::new("10.0.0.1", 9293).unwrap(),
        rack: None,
        log_dirs: vec![format!("disk-of-{id}")],
        clean_shutdown_epoch: None,
        damaged: false,
    }
}

pub(super) fn register(id: i32, incarnation: u8) -> Command {
    Command::RegisterBroker(registration(id, incarnation))
}

pub(super) fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

pub(super) fn topic_id(name: &str) -> TopicId {
    let mut id = [7; 16];
    name.bytes().take(16).enumerate().for_each(|(i, byte)| id[i] = byte);
    TopicId(id)
}

pub(super) fn counts(partitions: i32, replication_factor: i32) -> PlacementSpec {
    PlacementSpec::Counts { partitions, replication_factor }
}

pub(super) fn explicit(assignments: &[&[i32]]) -> PlacementSpec {
    PlacementSpec::Explicit(lists(assignments))
}

pub(super) fn lists(assignments: &[&[i32]]) -> Vec<Vec<BrokerId>> {
    assignments.iter().map(|ids| ids.iter().copied().map(BrokerId).collect()).collect()
}

pub(super) fn overrides(pairs: &[(&str, &str)]) -> Overrides {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn topic(text: &str, placement: PlacementSpec, configs: &[(&str, &str)]) -> CreateTopic {
    let (id, overrides) = (topic_id(text), overrides(configs));
    CreateTopic { name: name(text), id, placement, overrides, seed: 1, internal: false }
}

pub(super) fn create(text: &str, placement: PlacementSpec) -> Command {
    Command::CreateTopic(topic(text, placement, &[]))
}

pub(super) fn grow(text: &str, new_total: i32) -> Command {
    Command::CreatePartitions(CreatePartitions { name: name(text), new_total, assignments: None, seed: 3 })
}

pub(super) fn alter(text: &str, set: &[(&str, &str)], remove: &[&str]) -> Command {
    Command::AlterTopicConfig(AlterTopicConfig {
        name: name(text),
        set: overrides(set),
        remove: remove.iter().map(|key| (*key).to_owned()).collect(),
    })
}
