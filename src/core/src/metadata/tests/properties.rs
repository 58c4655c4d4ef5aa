//! Random histories: whatever is asked in whatever order, the invariants hold, and every replica of the machine agrees.

use super::coordinators::{coordinator, offsets_topic};
use super::*;
use crate::metadata::codec::{decode_command, decode_image, encode_command, encode_image};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A request drawn at random; what it refers to is looked up in the image when its turn comes, so that most are good.
#[derive(Debug, Clone)]
enum Op {
    Register { broker: i32, incarnation: u8, other_disk: bool, clean: bool, rack: u8 },
    Broker { kind: u8, broker: i32, stale: bool },
    Create { topic: u8, partitions: i32, factor: i32, seed: u64, unclean: bool },
    CreateExplicit { topic: u8, assignments: Vec<Vec<i32>> },
    Delete { topic: u8, by_id: bool },
    Grow { topic: u8, total: i32, seed: u64 },
    Configure { topic: u8, key: usize, value: u8, remove: bool },
    ProducerIds { broker: i32, count: i32 },
    AlterPartition { topic: u8, partition: i32, isr: Vec<i32>, behind: i32, not_leader: bool },
    AlterMany { topic: u8, leader: i32, isr: Vec<i32> },
    Reassign { topic: u8, partition: i32, target: Option<Vec<i32>> },
    Drain { broker: i32, cancel: bool },
    Controller { id: u64, port: u16, remove: bool },
    Elect { topics: Vec<u8>, unclean: bool },
    CreateOffsets { partitions: i32 },
    CoordinatorComes { id: i32, incarnation: u8 },
    CoordinatorGoes { id: i32, stale: bool, politely: bool },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let broker = || 0i32..5;
    let topic = || 0u8..4;
    let op = prop_oneof![
        3 => (broker(), 0u8..3, prop::bool::weighted(0.2), any::<bool>(), 0u8..3)
            .prop_map(|(broker, incarnation, other_disk, clean, rack)| Op::Register { broker, incarnation, other_disk, clean, rack }),
        8 => (prop::sample::select(vec![0u8, 0, 0, 1, 1, 1, 1, 2, 3]), broker(), prop::bool::weighted(0.1))
            .prop_map(|(kind, broker, stale)| Op::Broker { kind, broker, stale }),
        3 => (topic(), -1i32..9, 0i32..5, any::<u64>(), prop::bool::weighted(0.3))
            .prop_map(|(topic, partitions, factor, seed, unclean)| Op::Create { topic, partitions, factor, seed, unclean }),
        1 => (topic(), prop::collection::vec(prop::collection::vec(broker(), 0..4), 0..4))
            .prop_map(|(topic, assignments)| Op::CreateExplicit { topic, assignments }),
        1 => (1u8..4, any::<bool>()).prop_map(|(topic, by_id)| Op::Delete { topic, by_id }),
        1 => (topic(), 0i32..12, any::<u64>()).prop_map(|(topic, total, seed)| Op::Grow { topic, total, seed }),
        3 => (topic(), 0usize..6, any::<u8>(), any::<bool>())
            .prop_map(|(topic, key, value, remove)| Op::Configure { topic, key, value, remove }),
        1 => (broker(), -1i32..2000).prop_map(|(broker, count)| Op::ProducerIds { broker, count }),
        8 => (0u8..2, -1i32..5, prop::collection::vec(broker(), 0..5), prop::sample::select(vec![-1i32, 0, 0, 0, 0]), prop::bool::weighted(0.1))
            .prop_map(|(topic, partition, isr, behind, not_leader)| Op::AlterPartition { topic, partition, isr, behind, not_leader }),
        4 => (0u8..2, broker(), prop::collection::vec(broker(), 0..5))
            .prop_map(|(topic, leader, isr)| Op::AlterMany { topic, leader, isr }),
        5 => (0u8..2, 0i32..4, prop::option::weighted(0.8, prop::collection::vec(broker(), 0..4)))
            .prop_map(|(topic, partition, target)| Op::Reassign { topic, partition, target }),
        1 => (broker(), prop::bool::weighted(0.7)).prop_map(|(broker, cancel)| Op::Drain { broker, cancel }),
        1 => (0u64..4, 0u16..3, any::<bool>()).prop_map(|(id, port, remove)| Op::Controller { id, port, remove }),
        2 => (prop::collection::vec(0u8..3, 0..2), any::<bool>())
            .prop_map(|(topics, unclean)| Op::Elect { topics, unclean }),
        1 => (1i32..9).prop_map(|partitions| Op::CreateOffsets { partitions }),
        3 => (0i32..4, 0u8..3).prop_map(|(id, incarnation)| Op::CoordinatorComes { id, incarnation }),
        2 => (0i32..4, prop::bool::weighted(0.1), any::<bool>())
            .prop_map(|(id, stale, politely)| Op::CoordinatorGoes { id, stale, politely }),
    ];
    prop::collection::vec(op, 1..80)
}

fn topic_name(topic: u8) -> TopicName {
    name(&format!("topic-{topic}"))
}

fn command_for(op: &Op, image: &MetadataImage) -> Command {
    let broker = |id: i32| {
        let epoch = image.broker(BrokerId(id)).map_or(BrokerEpoch(0), |broker| broker.epoch);
        BrokerRef { id: BrokerId(id), epoch }
    };
    // A topic created anew gets a new id, as the proposer would draw one.
    let fresh_id = |topic: u8| {
        let mut id = [topic + 1; 16];
        id[8..].copy_from_slice(&image.version().get().to_be_bytes());
        TopicId(id)
    };
    match op.clone() {
        Op::Register { broker: id, incarnation, other_disk, clean, rack } => {
            let disk = format!("disk-of-{id}{}", if other_disk { "-new" } else { "" });
            let rack = (rack > 0).then(|| format!("rack-{rack}"));
            let clean_shutdown_epoch = clean.then(|| broker(id).epoch);
            let plain = registration(id, incarnation);
            Command::RegisterBroker(RegisterBroker {
                log_dirs: vec![disk],
                rack,
                clean_shutdown_epoch,
                ..plain
            })
        }
        Op::Broker { kind, broker: id, stale } => {
            let mut broker = broker(id);
            broker.epoch.0 -= i64::from(stale);
            match kind {
                0 => Command::FenceBroker(broker),
                1 => Command::UnfenceBroker(broker),
                2 => Command::BeginControlledShutdown(broker),
                _ => Command::UnregisterBroker(broker),
            }
        }
        Op::Create { topic, partitions, factor, seed, unclean } => Command::CreateTopic(CreateTopic {
            name: topic_name(topic),
            id: fresh_id(topic),
            placement: counts(partitions, factor),
            overrides: overrides(if unclean { &[("unclean.leader.election.enable", "true")] } else { &[] }),
            seed,
            internal: false,
        }),
        Op::CreateExplicit { topic, assignments } => Command::CreateTopic(CreateTopic {
            name: topic_name(topic),
            id: fresh_id(topic),
            placement: PlacementSpec::Explicit(
                assignments.into_iter().map(|ids| ids.into_iter().map(BrokerId).collect()).collect(),
            ),
            overrides: Overrides::new(),
            seed: 0,
            internal: false,
        }),
        Op::Delete { topic, by_id } => {
            let name = topic_name(topic);
            let id = image.topic(name.as_str()).map_or(TopicId([1; 16]), |topic| topic.id);
            let topic = if by_id { TopicRef::Id(id) } else { TopicRef::Name(name) };
            Command::DeleteTopic(DeleteTopic { topic })
        }
        Op::Grow { topic, total, seed } => Command::CreatePartitions(CreatePartitions {
            name: topic_name(topic),
            new_total: total,
            assignments: None,
            seed,
        }),
        Op::Configure { topic, key, value, remove } => {
            let (key, value) = [
                ("retention.ms", value.to_string()),
                ("unclean.leader.election.enable", (value < 128).to_string()),
                ("segment.bytes", (u64::from(value) << 15).to_string()),
                ("no.such.key", String::new()),
                ("write.caching", "true".to_owned()),
                ("min.insync.replicas", (value % 3 + 1).to_string()),
            ][key]
                .clone();
            let pair = [(key, value.as_str())];
            let (set, gone): (&[_], &[_]) = if remove { (&[], &[key]) } else { (&pair, &[]) };
            alter(topic_name(topic).as_str(), set, gone)
        }
        Op::ProducerIds { broker: id, count } => {
            Command::AllocateProducerIds(AllocateProducerIds { broker: broker(id), count })
        }
        Op::AlterPartition { topic, partition, isr, behind, not_leader } => {
            let topic = image.topic(topic_name(topic).as_str());
            let now = topic.and_then(|topic| topic.partition(PartitionId(partition)));
            let leader = now.map_or(BrokerId(0), |now| now.leader).get() + i32::from(not_leader);
            let members: BTreeSet<i32> = isr.into_iter().chain([leader]).collect();
            // Mostly members that may be in it, so that many changes are accepted; partition 0 takes anyone.
            let may_join =
                |id: BrokerId| image.broker(id).is_some_and(|broker| broker.is_active()) || partition == 0;
            let replica = |id: &i32| {
                let id = BrokerId(*id);
                now.is_none_or(|now| now.leader == id || (now.replicas.contains(&id) && may_join(id)))
            };
            Command::AlterPartition(AlterPartition {
                broker: broker(leader),
                topic_id: topic.map_or(TopicId::default(), |topic| topic.id),
                partition: PartitionId(partition),
                leader_epoch: now.map_or(LeaderEpoch(0), |now| now.leader_epoch),
                partition_epoch: PartitionEpoch(
                    now.map_or(0, |now| now.partition_epoch.get()) + behind.min(0),
                ),
                isr: members.into_iter().filter(replica).map(broker).collect(),
            })
        }
        Op::AlterMany { topic, leader, isr } => {
            let topic = image.topic(topic_name(topic).as_str());
            let change = |(id, now): (PartitionId, &std::sync::Arc<PartitionImage>)| {
                let members: BTreeSet<i32> = isr.iter().copied().chain([leader]).collect();
                let member = |id: &i32| now.replicas.contains(&BrokerId(*id));
                IsrChange {
                    topic_id: topic.map_or(TopicId::default(), |topic| topic.id),
                    partition: id,
                    leader_epoch: now.leader_epoch,
                    partition_epoch: now.partition_epoch,
                    isr: members.into_iter().filter(member).map(broker).collect(),
                }
            };
            let changes = topic.into_iter().flat_map(|topic| topic.partitions()).map(change).collect();
            Command::AlterPartitions(AlterPartitions { broker: broker(leader), changes })
        }
        Op::Reassign { topic, partition, target } => {
            let partition = TopicPartition::new(topic_name(topic), PartitionId(partition));
            let replicas = target.map(|ids| {
                let distinct: BTreeSet<i32> = ids.iter().copied().collect();
                let ids = if distinct.len() > 1 { distinct.into_iter().collect() } else { ids };
                ids.into_iter().map(BrokerId).collect()
            });
            Command::ReassignPartitions(ReassignPartitions {
                moves: vec![PartitionMove { partition, replicas }],
            })
        }
        Op::Drain { broker, cancel } => Command::DrainBroker(DrainBroker { id: BrokerId(broker), cancel }),
        Op::Controller { id, remove: true, .. } => Command::RemoveController(NodeId(id)),
        Op::Controller { id, port, .. } => Command::PutController(PutController {
            id: NodeId(id),
            endpoint: Endpoint { host: "controller".to_owned(), port },
        }),
        Op::Elect { topics, unclean } => {
            let at = |topic| TopicPartition::new(topic_name(topic), PartitionId(0));
            Command::ElectLeaders(ElectLeaders { partitions: topics.into_iter().map(at).collect(), unclean })
        }
        Op::CreateOffsets { partitions } => {
            Command::CreateTopic(CreateTopic { id: fresh_id(9), ..offsets_topic(partitions) })
        }
        Op::CoordinatorComes { id, incarnation } => {
            Command::RegisterCoordinator(coordinator(id, incarnation))
        }
        Op::CoordinatorGoes { id, stale, politely } => {
            let known = image.coordinator(CoordinatorId(id));
            let epoch = known.map_or(0, |known| known.epoch.get()) - i64::from(stale);
            let at = CoordinatorRef { id: CoordinatorId(id), epoch: CoordinatorEpoch(epoch) };
            match (politely, known.is_some_and(|known| !known.is_active())) {
                (_, true) if id % 2 == 0 => Command::UnregisterCoordinator(at),
                (true, _) => Command::BeginCoordinatorShutdown(at),
                (false, _) => Command::FenceCoordinator(at),
            }
        }
    }
}

/// What must hold between an image and the next one.
fn check_step(before: &MetadataImage, after: &MetadataImage, command: &Command) -> Result<(), TestCaseError> {
    for topic in after.topics() {
        for (id, partition) in topic.partitions() {
            let what = format!("{}-{id} {partition:?} after {command:?}", topic.name);
            let could_lead = |id: &BrokerId| after.broker(*id).is_some_and(|broker| broker.is_active());
            prop_assert!(
                partition.is_online()
                    || !partition.replicas.iter().any(|id| partition.is_eligible(*id) && could_lead(id)),
                "needless outage: {}",
                what
            );
            let enough = partition.isr.len() >= topic.min_insync(partition);
            prop_assert!(partition.elr.is_empty() || !partition.is_online() || !enough, "{}", what);
            if partition.is_reassigning()
                && partition.is_online()
                && matches!(command, Command::ReassignPartitions(_))
            {
                let lacking = |id: &BrokerId| !partition.isr.contains(id);
                let few = partition.target_replicas().filter(|id| !lacking(id)).count()
                    < topic.min_insync(partition);
                let leads = partition.target_replicas().any(|id| !lacking(&id) && could_lead(&id));
                prop_assert!(
                    partition.adding.iter().any(lacking) || few || !leads,
                    "it should have ended: {}",
                    what
                );
            }
            let Some(old) = before.topic_by_id(topic.id).and_then(|topic| topic.partition(id)) else {
                continue;
            };
            let moved = old.replicas != partition.replicas;
            let by_reassignment = matches!(command, Command::ReassignPartitions(_));
            let by_its_end = old.is_reassigning()
                && !partition.is_reassigning()
                && old.target_replicas().eq(partition.replicas.iter().copied());
            prop_assert!(!moved || by_reassignment || by_its_end, "{}", what);
            prop_assert_eq!(
                old.leader != partition.leader,
                old.leader_epoch < partition.leader_epoch,
                "{}",
                what
            );
            prop_assert_eq!(old == partition, old.partition_epoch == partition.partition_epoch, "{}", what);
            prop_assert!(old.leader_epoch <= partition.leader_epoch, "{}", what);
            prop_assert!(old.partition_epoch <= partition.partition_epoch, "{}", what);
            let unclean = topic.config.unclean_leader_election_enable
                || matches!(command, Command::ElectLeaders(ElectLeaders { unclean: true, .. }));
            let led_by_stranger = partition.is_online()
                && partition.leader != old.leader
                && !old.is_eligible(partition.leader)
                // A new replica leads if it is in sync, by the word of the leader before it, and that is why it ended.
                && !by_its_end;
            prop_assert!(!led_by_stranger || unclean, "acknowledged records may be lost: {}", what);
        }
        if let Some(old) = before.topic_by_id(topic.id) {
            prop_assert!(old.partitions.len() <= topic.partitions.len(), "{} shrank", topic.name);
        }
    }
    for broker in after.brokers() {
        let old = before.broker(broker.id).map_or(BrokerEpoch(0), |broker| broker.epoch);
        prop_assert!(old <= broker.epoch);
    }
    let anyone = after.coordinators().any(|one| one.is_active());
    for (shard, lease) in after.leases() {
        let what = format!("{shard} {lease:?} after {command:?}");
        prop_assert_eq!(lease.coordinator.is_some(), anyone, "{}", what);
        let Some(old) = before.lease(shard) else { continue };
        prop_assert!(old.epoch <= lease.epoch, "{}", what);
        prop_assert!(old.coordinator == lease.coordinator || old.epoch < lease.epoch, "{}", what);
        prop_assert!(
            old.epoch == lease.epoch
                || lease.coordinator.is_none()
                || old.producer_id != lease.producer_id
                || old.producer_epoch < lease.producer_epoch,
            "a former owner could write: {}",
            what
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn histories_keep_the_invariants_and_replay_to_the_same_image(ops in ops(), snapshot_at in 0usize..80) {
        let mut image = MetadataImage::new();
        apply(&mut image, MetadataVersion(1), &init("c1")).unwrap();
        for id in 0..4 {
            let index = image.version().get() + 1;
            apply(&mut image, MetadataVersion(index), &register(id, 1)).unwrap();
            let broker = BrokerRef { id: BrokerId(id), epoch: BrokerEpoch(index as i64) };
            apply(&mut image, MetadataVersion(index + 1), &Command::UnfenceBroker(broker)).unwrap();
        }
        for (topic, factor) in [(0, 3), (1, 2)] {
            let placement = counts(4, factor);
            let command = Command::CreateTopic(CreateTopic { placement, ..super::topic(&format!("topic-{topic}"), counts(1, 1), &[]) });
            let index = image.version().get() + 1;
            apply(&mut image, MetadataVersion(index), &command).unwrap();
        }
        let beginning = image.clone();
        let mut log = Vec::new();
        let mut snapshot = (0, encode_image(&image));
        let mut given = 0;
        for (step, op) in ops.iter().enumerate() {
            let command = command_for(op, &image);
            let index = MetadataVersion(image.version().get() + 1 + step as u64 % 3);
            let before = image.clone();
            let outcome = apply(&mut image, index, &command);
            invariants::check(&image).map_err(|violation| TestCaseError::fail(format!("{violation} after {command:?}")))?;
            match &outcome {
                Err(refusal) => {
                    prop_assert_eq!(&image, &MetadataImage { version: index, ..before.clone() }, "{}", refusal);
                    prop_assert!(refusal.code != ErrorCode::Internal, "{}", refusal);
                    prop_assert!(!refusal.message.is_empty());
                }
                Ok(Response::ProducerIds(block)) => {
                    prop_assert!(block.first.get() >= given, "a producer id was given twice");
                    given = block.first.get() + i64::from(block.count);
                }
                Ok(_) => {}
            }
            check_step(&before, &image, &command)?;
            let bytes = encode_command(&command).unwrap();
            prop_assert_eq!(&decode_command(&bytes).unwrap(), &command);
            log.push((index, bytes, outcome));
            if step == snapshot_at {
                snapshot = (log.len(), encode_image(&image));
                prop_assert_eq!(&decode_image(&snapshot.1).unwrap(), &image);
            }
        }

        // The same commands from the bytes of the log, from the beginning and from the snapshot.
        let from_snapshot = decode_image(&snapshot.1).unwrap();
        for (mut replica, entries) in [(beginning, &log[..]), (from_snapshot, &log[snapshot.0..])] {
            for (index, bytes, outcome) in entries {
                prop_assert_eq!(&apply(&mut replica, *index, &decode_command(bytes).unwrap()), outcome);
            }
            prop_assert_eq!(&replica, &image);
            prop_assert_eq!(encode_image(&replica), encode_image(&image));
        }
    }

    #[test]
    fn decoding_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), flip in 0usize..4000, to: u8) {
        let _ = decode_command(&[&[1], &bytes[..]].concat());
        let _ = decode_image(&[&[1], &bytes[..]].concat());
        let mut cluster = Cluster::with_brokers(&[0, 1]);
        cluster.run(create("a", counts(3, 2))).unwrap();
        let mut image = encode_image(&cluster.image);
        let at = flip % image.len();
        image[at] = to;
        if let Ok(image) = decode_image(&image) {
            invariants::check(&image).unwrap();
        }
    }
}
