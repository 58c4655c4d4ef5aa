//! Coordinators come and go, and every shard has one of them.

use super::*;
use crate::group::OFFSETS_TOPIC;
use crate::metadata::codec::{decode_command, decode_image, encode_command, encode_image};
use crate::metadata::shards::{hand_out, is_reserved};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn coordinator(id: i32, incarnation: u8) -> RegisterCoordinator {
    RegisterCoordinator {
        id: CoordinatorId(id),
        cluster_id: Some(ClusterId("c1".into())),
        incarnation: [incarnation; 16],
        endpoint: Endpoint::new("coordinator.example", 9494).unwrap(),
        rack: None,
    }
}

pub(super) fn offsets_topic(partitions: i32) -> CreateTopic {
    CreateTopic { internal: true, ..topic(OFFSETS_TOPIC, counts(partitions, 1), &[]) }
}

fn shard(partition: i32) -> TopicPartition {
    TopicPartition::new(name(OFFSETS_TOPIC), PartitionId(partition))
}

impl Cluster {
    /// One broker, and the internal topic.
    fn with_shards(partitions: i32) -> Cluster {
        let mut cluster = Cluster::with_brokers(&[0]);
        cluster.run(Command::CreateTopic(offsets_topic(partitions))).unwrap();
        cluster
    }

    fn come(&mut self, id: i32, incarnation: u8) -> i64 {
        match self.run(Command::RegisterCoordinator(coordinator(id, incarnation))) {
            Ok(Response::CoordinatorRegistered { epoch }) => epoch.get(),
            other => panic!("{other:?}"),
        }
    }

    fn at(&self, id: i32) -> CoordinatorRef {
        let epoch = self.image.coordinator(CoordinatorId(id)).map_or(CoordinatorEpoch(-1), |one| one.epoch);
        CoordinatorRef { id: CoordinatorId(id), epoch }
    }

    fn go(&mut self, id: i32) {
        self.run(Command::FenceCoordinator(self.at(id))).unwrap();
    }

    /// "owner/lease epoch p<producer id>/<producer epoch>" of each shard.
    fn leases(&self) -> Vec<String> {
        let one = |lease: &ShardLease| {
            let owner = lease.coordinator.map_or("-".to_owned(), |id| id.to_string());
            format!("{owner}/{} p{}/{}", lease.epoch, lease.producer_id, lease.producer_epoch)
        };
        self.image.leases().map(|(_, lease)| one(lease)).collect()
    }

    fn owners(&self) -> Vec<i32> {
        self.image.leases().map(|(_, lease)| lease.coordinator.map_or(-1, CoordinatorId::get)).collect()
    }
}

#[test]
fn shards_go_to_whoever_is_there() {
    let mut cluster = Cluster::with_brokers(&[0]);
    cluster.come(7, 1);
    assert!(cluster.leases().is_empty(), "there is nothing to lease yet");
    cluster.run(Command::CreateTopic(offsets_topic(4))).unwrap();
    assert_eq!(cluster.leases(), ["7/1 p0/0", "7/1 p1/0", "7/1 p2/0", "7/1 p3/0"]);
    assert_eq!(cluster.image.next_producer_id(), 4);

    cluster.come(3, 1);
    assert_eq!(cluster.leases(), ["7/1 p0/0", "7/1 p1/0", "3/2 p2/1", "3/2 p3/1"]);
    cluster.come(5, 1);
    assert_eq!(cluster.leases(), ["7/1 p0/0", "5/2 p1/1", "3/2 p2/1", "3/2 p3/1"]);
    cluster.go(3);
    assert_eq!(cluster.leases(), ["7/1 p0/0", "5/2 p1/1", "5/3 p2/2", "7/3 p3/2"]);
    cluster.go(3);
    cluster.go(7);
    cluster.go(5);
    assert_eq!(cluster.leases(), ["-/3 p0/1", "-/3 p1/1", "-/4 p2/2", "-/5 p3/3"]);
    assert!(cluster.image.coordinators().all(|one| one.fenced));
    cluster.come(5, 1);
    assert_eq!(cluster.leases(), ["5/4 p0/2", "5/4 p1/2", "5/5 p2/3", "5/6 p3/4"]);
    assert_eq!(cluster.image.next_producer_id(), 4, "producers keep their ids");
}

#[test]
fn shards_without_coordinator_wait_for_one() {
    let mut cluster = Cluster::with_shards(2);
    assert_eq!(cluster.leases(), ["-/0 p-1/-1", "-/0 p-1/-1"]);
    assert_eq!(cluster.image.lease(&shard(1)), Some(&ShardLease::NEW));
    assert_eq!(cluster.image.lease(&shard(2)), None);
    cluster.come(0, 1);
    assert_eq!(cluster.leases(), ["0/1 p0/0", "0/1 p1/0"]);
}

#[test]
fn only_the_clusters_own_topic_has_shards() {
    let mut cluster = Cluster::with_brokers(&[0]);
    cluster.come(0, 1);
    cluster.run(create(OFFSETS_TOPIC, counts(3, 1))).unwrap();
    cluster.run(create("events", counts(3, 1))).unwrap();
    assert!(cluster.leases().is_empty(), "a user's topic of that name, from before it was reserved");
    assert!(is_reserved(OFFSETS_TOPIC) && is_reserved("__transaction_state"));
    assert!(!is_reserved("__mine") && !is_reserved("consumer_offsets"));
}

#[test]
fn another_process_takes_the_place_of_the_former_one() {
    let mut cluster = Cluster::with_shards(3);
    cluster.come(1, 1);
    let epoch = cluster.come(2, 1);
    assert_eq!(cluster.leases(), ["1/1 p0/0", "1/1 p1/0", "2/2 p2/1"]);
    assert_eq!(cluster.come(2, 1), epoch, "the answer was lost, not the process");
    assert_eq!(cluster.leases(), ["1/1 p0/0", "1/1 p1/0", "2/2 p2/1"]);
    let former = cluster.at(2);
    assert!(cluster.come(2, 2) > epoch);
    assert_eq!(cluster.leases(), ["1/1 p0/0", "1/1 p1/0", "2/3 p2/2"], "its shards are still its own, newly");
    for late in [Command::FenceCoordinator(former), Command::BeginCoordinatorShutdown(former)] {
        assert_eq!(cluster.refused(late).0, ErrorCode::StaleCoordinatorEpoch);
    }
    let stranger = CoordinatorRef { id: CoordinatorId(9), epoch: CoordinatorEpoch(1) };
    assert_eq!(cluster.refused(Command::FenceCoordinator(stranger)).0, ErrorCode::StaleCoordinatorEpoch);
    // One that was held for gone and is the same process: it has lost its shards, so it is new.
    cluster.go(2);
    let fenced = cluster.at(2);
    assert!(cluster.come(2, 2) > fenced.epoch.get());
    assert!(cluster.image.coordinator(CoordinatorId(2)).unwrap().is_active());
    assert_eq!(cluster.owners(), [1, 1, 2]);
}

#[test]
fn one_that_stops_gives_its_shards_away_first() {
    let mut cluster = Cluster::with_shards(4);
    cluster.come(1, 1);
    cluster.come(2, 1);
    let stop = Command::BeginCoordinatorShutdown(cluster.at(1));
    cluster.run(stop.clone()).unwrap();
    assert_eq!(cluster.owners(), [2, 2, 2, 2]);
    let leases = cluster.leases();
    cluster.run(stop).unwrap();
    cluster.come(1, 1);
    assert_eq!(cluster.leases(), leases, "asked twice, and a registration that was late: nothing changes");
    assert!(cluster.image.coordinator(CoordinatorId(1)).unwrap().in_controlled_shutdown);
    cluster.run(Command::BeginCoordinatorShutdown(cluster.at(2))).unwrap();
    assert_eq!(cluster.owners(), [-1; 4]);
    cluster.come(1, 2);
    assert_eq!(cluster.owners(), [1; 4]);
}

#[test]
fn used_up_producer_epochs_bring_a_new_producer() {
    let mut cluster = Cluster::with_shards(1);
    cluster.come(1, 1);
    let mut leases = cluster.image.leases.as_ref().clone();
    leases.get_mut(&shard(0)).unwrap().producer_epoch = ProducerEpoch(i16::MAX - 1);
    cluster.image.leases = std::sync::Arc::new(leases);
    cluster.come(1, 2);
    assert_eq!(cluster.leases(), ["1/2 p0/32767"]);
    cluster.come(1, 3);
    assert_eq!(cluster.leases(), ["1/3 p1/0"]);
    assert_eq!(cluster.image.next_producer_id(), 2);
    // Without any id left nobody may write.
    cluster.image.next_producer_id = i64::MAX;
    let mut leases = cluster.image.leases.as_ref().clone();
    leases.get_mut(&shard(0)).unwrap().producer_epoch = ProducerEpoch(i16::MAX);
    cluster.image.leases = std::sync::Arc::new(leases);
    cluster.come(1, 4);
    assert_eq!(cluster.leases(), ["-/4 p1/32767"]);
}

#[test]
fn registrations_that_cannot_be_are_refused() {
    use ErrorCode::*;
    let mut cluster = Cluster::with_brokers(&[]);
    let good = coordinator(1, 1);
    let nowhere = Endpoint { host: "a b".to_owned(), port: 1 };
    for (bad, code, field) in [
        (
            RegisterCoordinator { cluster_id: Some(ClusterId("c2".into())), ..good.clone() },
            InconsistentClusterId,
            "cluster_id",
        ),
        (RegisterCoordinator { id: CoordinatorId(-1), ..good.clone() }, InvalidRequest, "coordinator_id"),
        (RegisterCoordinator { endpoint: nowhere, ..good.clone() }, InvalidRequest, "endpoint"),
        (RegisterCoordinator { rack: Some("a b".to_owned()), ..good.clone() }, InvalidRequest, "rack"),
        (RegisterCoordinator { rack: Some("r".repeat(129)), ..good.clone() }, InvalidRequest, "rack"),
    ] {
        let refusal = cluster.run(Command::RegisterCoordinator(bad)).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_deref()), (code, Some(field)), "{refusal}");
    }
    cluster.run(Command::RegisterCoordinator(RegisterCoordinator { cluster_id: None, ..good })).unwrap();
}

#[test]
fn the_oldest_of_those_that_are_gone_makes_room() {
    let mut cluster = Cluster::with_brokers(&[]);
    for id in 0..limits::MAX_COORDINATORS as i32 {
        cluster.come(id, 1);
    }
    let late = Command::RegisterCoordinator(coordinator(5_000, 1));
    assert_eq!(cluster.refused(late.clone()).0, ErrorCode::PolicyViolation);
    cluster.come(3, 2);
    for id in [3, 900, 40] {
        cluster.go(id);
    }
    cluster.run(late).unwrap();
    let known = |id: i32| cluster.image.coordinator(CoordinatorId(id)).is_some();
    assert_eq!([3, 40, 900, 5_000].map(known), [true, false, true, true]);
}

#[test]
fn coordinators_and_leases_are_in_the_snapshot() {
    let mut cluster = Cluster::with_shards(3);
    cluster.come(1, 1);
    let with_rack = RegisterCoordinator { rack: Some("r1".to_owned()), ..coordinator(2, 1) };
    cluster.run(Command::RegisterCoordinator(with_rack)).unwrap();
    cluster.go(1);
    assert_eq!(decode_image(&encode_image(&cluster.image)), Ok(cluster.image.clone()));
    // An image without them is written as before there were any.
    let written = encode_image(&Cluster::with_brokers(&[0]).image);
    let has = |key: &[u8]| written.windows(key.len()).any(|window| window == key);
    assert!(!has(b"coordinators") && !has(b"leases"));

    let broken = |change: fn(&mut BTreeMap<TopicPartition, ShardLease>)| {
        let mut image = cluster.image.clone();
        change(std::sync::Arc::make_mut(&mut image.leases));
        decode_image(&encode_image(&image)).is_err()
    };
    assert!(!broken(|_| {}), "the test can fail");
    assert!(broken(|leases| _ = leases.insert(shard(3), ShardLease::NEW)));
    assert!(broken(|leases| leases.get_mut(&shard(0)).unwrap().coordinator = Some(CoordinatorId(1))));
    assert!(broken(|leases| leases.get_mut(&shard(0)).unwrap().producer_id = ProducerId(1)));
    assert!(broken(|leases| leases.get_mut(&shard(0)).unwrap().producer_id = ProducerId(3)));
    assert!(broken(|leases| leases.get_mut(&shard(0)).unwrap().producer_epoch = ProducerEpoch(-1)));
    assert!(broken(|leases| leases.get_mut(&shard(0)).unwrap().epoch = LeaseEpoch(0)));
    let lost = |leases: &mut BTreeMap<TopicPartition, ShardLease>| _ = leases.remove(&shard(0));
    assert!(!broken(lost), "a version that handed nothing out may have written it");
}

#[test]
fn commands_of_coordinators_have_their_bytes() {
    let mut golden =
        b"\x01\x81\xb3RegisterCoordinator\x85\xa2id\x01\xaacluster_id\xa2c1\xabincarnation".to_vec();
    golden.extend([0xdc, 0, 16]);
    golden.extend([2; 16]);
    golden.extend(b"\xa8endpoint\x82\xa4host\xa1a\xa4port\x05\xa4rack\xa1r");
    let register = Command::RegisterCoordinator(RegisterCoordinator {
        endpoint: Endpoint::new("a", 5).unwrap(),
        rack: Some("r".to_owned()),
        ..coordinator(1, 2)
    });
    let at = CoordinatorRef { id: CoordinatorId(1), epoch: CoordinatorEpoch(7) };
    for (command, bytes) in [
        (register, &golden[..]),
        (Command::FenceCoordinator(at), b"\x01\x81\xb0FenceCoordinator\x82\xa2id\x01\xa5epoch\x07"),
        (
            Command::BeginCoordinatorShutdown(at),
            b"\x01\x81\xb8BeginCoordinatorShutdown\x82\xa2id\x01\xa5epoch\x07",
        ),
        (Command::UnregisterCoordinator(at), b"\x01\x81\xb5UnregisterCoordinator\x82\xa2id\x01\xa5epoch\x07"),
    ] {
        assert_eq!(encode_command(&command).unwrap(), bytes);
        assert_eq!(decode_command(bytes), Ok(command));
    }
}

/// What happens to the coordinators or to the topic.
#[derive(Debug, Clone, Copy)]
enum Event {
    Comes(i32),
    Goes(i32),
    Shards(i32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0i32..7).prop_map(Event::Comes),
        3 => (0i32..7).prop_map(Event::Goes),
        1 => prop::sample::select(vec![0, 1, 5, 12, 13, 50]).prop_map(Event::Shards),
    ];
    prop::collection::vec(event, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// The commands refuse to grow or delete the topic; the rule does not depend on that.
    #[test]
    fn shards_are_even_moves_few_and_epochs_never_go_back(events in events()) {
        let (mut active, mut shards) = (BTreeSet::new(), 0);
        let (mut leases, mut next) = (BTreeMap::new(), 100);
        for event in events {
            let restarted = match event {
                Event::Comes(id) => {
                    active.insert(CoordinatorId(id));
                    Some(CoordinatorId(id))
                }
                Event::Goes(id) => {
                    active.remove(&CoordinatorId(id));
                    None
                }
                Event::Shards(count) => {
                    shards = count;
                    None
                }
            };
            let drawn = next;
            let again = hand_out(&leases, (0..shards).map(shard), active.iter().copied(), restarted, &mut { next });
            let now = hand_out(&leases, (0..shards).map(shard), active.iter().copied(), restarted, &mut next);
            prop_assert_eq!(&again, &now, "same arguments, same result");
            let before = std::mem::replace(&mut leases, now);
            prop_assert_eq!(leases.keys().cloned().collect::<Vec<_>>(), (0..shards).map(shard).collect::<Vec<_>>());

            // Even, and nobody is left out.
            let mut counts: BTreeMap<_, usize> = active.iter().map(|id| (*id, 0)).collect();
            for lease in leases.values() {
                prop_assert_eq!(lease.coordinator.is_some(), !active.is_empty());
                if let Some(owner) = lease.coordinator {
                    *counts.get_mut(&owner).expect("it is active") += 1;
                }
            }
            let spread = counts.values().max().unwrap_or(&0) - counts.values().min().unwrap_or(&0);
            prop_assert!(spread <= 1, "{:?}", counts);

            // No more moves than evenness asks for: everybody keeps its share of what it had, and one more as far as there are
            // shards over.
            let still = before.iter().filter(|(at, _)| leases.contains_key(at)).filter_map(|(_, lease)| lease.coordinator);
            let mut had: BTreeMap<_, usize> = active.iter().map(|id| (*id, 0)).collect();
            still.for_each(|owner| _ = had.get_mut(&owner).map(|count| *count += 1));
            let kept = leases.iter().filter(|(at, now)| {
                now.coordinator.is_some() && before.get(at).is_some_and(|old| old.coordinator == now.coordinator)
            });
            let (share, over) = (leases.len() / active.len().max(1), leases.len() % active.len().max(1));
            let could = had.values().map(|had| *had.min(&share)).sum::<usize>()
                + over.min(had.values().filter(|had| **had > share).count());
            prop_assert_eq!(kept.count(), could);

            // The fence of each shard.
            let mut writers = BTreeSet::new();
            for (at, now) in &leases {
                prop_assert!(now.producer_id == ProducerId::NONE || writers.insert(now.producer_id));
                prop_assert!(now.producer_id.get() < next);
                let Some(old) = before.get(at) else {
                    prop_assert!(!now.producer_id.is_some() || now.producer_id.get() >= drawn, "a shard that is new has a new writer");
                    continue;
                };
                let changed = old.coordinator != now.coordinator;
                let anew = changed || (restarted.is_some() && now.coordinator == restarted);
                prop_assert_eq!(now.epoch.get(), old.epoch.get() + i32::from(anew));
                let written_anew = anew && now.coordinator.is_some();
                if old.producer_id.is_some() {
                    prop_assert_eq!(now.producer_id, old.producer_id);
                    prop_assert_eq!(now.producer_epoch.get(), old.producer_epoch.get() + i16::from(written_anew));
                } else {
                    prop_assert_eq!(now.producer_id.is_some(), written_anew);
                }
            }
        }
    }
}

#[test]
fn a_coordinator_is_forgotten_when_it_is_gone_or_stops() {
    let mut cluster = Cluster::with_shards(4);
    for id in 1..=3 {
        cluster.come(id, 1);
    }
    let alive = cluster.refused(Command::UnregisterCoordinator(cluster.at(1)));
    assert!(alive.0 == ErrorCode::PolicyViolation && alive.1.contains("is alive"), "{alive:?}");
    cluster.go(1);
    let late = CoordinatorRef { epoch: CoordinatorEpoch(1), ..cluster.at(1) };
    assert_eq!(cluster.refused(Command::UnregisterCoordinator(late)).0, ErrorCode::StaleCoordinatorEpoch);
    let at = cluster.at(1);
    cluster.run(Command::UnregisterCoordinator(at)).unwrap();
    assert!(cluster.image.coordinator(CoordinatorId(1)).is_none());
    assert_eq!(cluster.refused(Command::UnregisterCoordinator(at)).0, ErrorCode::StaleCoordinatorEpoch);
    // One that stops has given its shards away.
    cluster.run(Command::BeginCoordinatorShutdown(cluster.at(2))).unwrap();
    cluster.run(Command::UnregisterCoordinator(cluster.at(2))).unwrap();
    assert!(cluster.image.coordinator(CoordinatorId(2)).is_none());
    assert!(cluster.image.leases().all(|(_, lease)| lease.coordinator == Some(CoordinatorId(3))));
    // It may come again, under a new epoch.
    let again = cluster.come(1, 1);
    assert!(again > at.epoch.get());
}

#[test]
fn one_shard_is_given_to_its_owner_again() {
    let mut cluster = Cluster::with_shards(2);
    cluster.come(1, 1);
    assert_eq!(cluster.leases(), ["1/1 p0/0", "1/1 p1/0"]);
    let renew = |cluster: &Cluster, lease_epoch| {
        let coordinator = cluster.at(1);
        Command::RenewShardLease(RenewShardLease { coordinator, shard: shard(1), lease_epoch })
    };
    let (stale, good) = (renew(&cluster, LeaseEpoch(0)), renew(&cluster, LeaseEpoch(1)));
    assert_eq!(cluster.refused(stale).0, ErrorCode::StaleCoordinatorEpoch);
    cluster.run(good.clone()).unwrap();
    assert_eq!(cluster.leases(), ["1/1 p0/0", "1/2 p1/1"], "the other one stays as it is");
    assert_eq!(cluster.refused(good).0, ErrorCode::StaleCoordinatorEpoch, "once");
    cluster.come(2, 1);
    let others = Command::RenewShardLease(RenewShardLease {
        coordinator: cluster.at(2),
        shard: shard(0),
        lease_epoch: LeaseEpoch(1),
    });
    assert_eq!(cluster.refused(others).0, ErrorCode::StaleCoordinatorEpoch);
    let bytes = encode_command(&renew(&cluster, LeaseEpoch(3))).unwrap();
    assert_eq!(decode_command(&bytes).unwrap(), renew(&cluster, LeaseEpoch(3)));
}
