//! Plans, carried out until there is nothing left to do.

use super::*;
use crate::metadata::balance::{BalanceLimits, StuckDrain, leader_imbalance, plan, stuck_drains};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const LIMITS: BalanceLimits =
    BalanceLimits { max_moves: 20, max_moves_per_broker: 5, tolerance_percent: 10, automatic: true };

impl Cluster {
    fn start_in(&mut self, id: i32, rack: Option<&str>) {
        let rack = rack.map(str::to_owned);
        self.run(Command::RegisterBroker(RegisterBroker { rack, ..registration(id, 1) })).unwrap();
        self.unfence(id);
    }

    fn drain(&mut self, id: i32) {
        self.run(Command::DrainBroker(DrainBroker { id: BrokerId(id), cancel: false })).unwrap();
    }

    fn begin(&mut self, moves: Vec<PartitionMove>) {
        let Ok(Response::Moves(outcomes)) =
            self.run(Command::ReassignPartitions(ReassignPartitions { moves }))
        else {
            panic!()
        };
        for outcome in outcomes {
            outcome.unwrap();
        }
    }

    /// All that is being added catches up.
    fn catch_up(&mut self) {
        let under_way: Vec<_> = self
            .image
            .reassignments()
            .map(|(topic, id, now)| {
                let active = now.replicas.iter().filter(|id| self.image.broker(**id).unwrap().is_active());
                (topic.name.clone(), id.get(), active.map(|id| id.get()).collect::<Vec<_>>())
            })
            .collect();
        for (topic, id, isr) in under_way {
            self.set_isr(topic.as_str(), id, &isr);
        }
    }

    /// Carries out plans until there are none. Returns how many replicas moved.
    fn settle(&mut self, limits: &BalanceLimits) -> usize {
        let mut moved = 0;
        for _ in 0..10_000 {
            let moves = plan(&self.image, limits);
            if moves.is_empty() {
                return moved;
            }
            self.begin(moves);
            let adding: Vec<_> = self.image.reassignments().map(|(_, _, now)| now.adding.clone()).collect();
            assert!(adding.len() <= limits.max_moves);
            moved += adding.iter().map(Vec::len).sum::<usize>();
            self.catch_up();
        }
        panic!("it never ends");
    }

    fn replicas_and_preferred(&self) -> BTreeMap<i32, (usize, usize)> {
        let mut counted: BTreeMap<i32, (usize, usize)> =
            self.image.brokers().map(|broker| (broker.id.get(), (0, 0))).collect();
        for partition in self.image.topics().flat_map(|topic| topic.partitions.iter()) {
            for (place, id) in partition.target_replicas().enumerate() {
                let broker = counted.get_mut(&id.get()).unwrap();
                broker.0 += 1;
                broker.1 += usize::from(place == 0);
            }
        }
        counted
    }
}

#[test]
fn a_broker_that_joins_gets_its_share_of_replicas_and_leaders() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    cluster.run(create("a", counts(60, 3))).unwrap();
    cluster.run(create("b", counts(20, 3))).unwrap();
    assert_eq!(plan(&cluster.image, &LIMITS), []);
    cluster.start(4, 1);
    let first = plan(&cluster.image, &LIMITS);
    assert_eq!(first.len(), 5, "not more at once than one broker may get");
    assert_eq!(plan(&cluster.image, &LIMITS), first, "the same image, the same plan");
    cluster.begin(first);
    assert_eq!(plan(&cluster.image, &LIMITS), [], "they are under way");
    cluster.catch_up();
    let moved = 5 + cluster.settle(&LIMITS);
    assert!((54..=60).contains(&moved), "a quarter of 240, not more: {moved}");
    for (id, (replicas, preferred)) in cluster.replicas_and_preferred() {
        assert!((54..=66).contains(&replicas), "broker {id} has {replicas} of 240");
        assert!((18..=22).contains(&preferred), "broker {id} is first {preferred} times of 80");
    }
    let of_b = cluster.image.topic("b").unwrap();
    let on_four =
        of_b.partitions.iter().filter(|partition| partition.replicas.contains(&BrokerId(4))).count();
    assert!((10..=20).contains(&on_four), "of each topic its share: {on_four}");
    assert!(!leader_imbalance(&cluster.image, 10).is_empty());
    let partitions = leader_imbalance(&cluster.image, 10);
    cluster.run(Command::ElectLeaders(ElectLeaders { partitions, unclean: false })).unwrap();
    assert_eq!(leader_imbalance(&cluster.image, 10), []);
    assert!((18..=22).contains(&cluster.image.leaderships_of(BrokerId(4))));
}

#[test]
fn a_drained_broker_is_emptied_even_when_it_is_dead() {
    for dead in [false, true] {
        let mut cluster = Cluster::with_brokers(&[1, 2, 3, 4]);
        cluster.run(create("a", counts(40, 3))).unwrap();
        if dead {
            cluster.fence(1);
            assert_eq!(plan(&cluster.image, &LIMITS), [], "one that is only fenced may come back");
        }
        cluster.drain(1);
        let limits = BalanceLimits { automatic: false, ..LIMITS };
        assert_eq!(cluster.settle(&limits), 30);
        assert_eq!(cluster.image.replicas_of(BrokerId(1)), 0);
        assert_eq!(cluster.image.leaderships_of(BrokerId(1)), 0);
        cluster.run(Command::UnregisterBroker(cluster.broker(1))).unwrap();
        for (id, (replicas, _)) in cluster.replicas_and_preferred() {
            assert_eq!(replicas, 40, "broker {id}");
        }
    }
}

#[test]
fn a_broker_that_nobody_can_replace_keeps_what_it_has() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    cluster.run(create("a", counts(4, 3))).unwrap();
    cluster.run(create("b", explicit(&[&[1, 2]]))).unwrap();
    cluster.drain(1);
    cluster.settle(&LIMITS);
    assert_eq!(cluster.image.replicas_of(BrokerId(1)), 4);
    assert_eq!(cluster.replicas("b", 0).split(' ').collect::<BTreeSet<_>>(), BTreeSet::from(["2", "3"]));
    // One that can take them appears.
    cluster.start(4, 1);
    cluster.settle(&LIMITS);
    assert_eq!(cluster.image.replicas_of(BrokerId(1)), 0);
}

#[test]
fn what_moves_to_a_broker_that_is_drained_then_moves_on() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3, 4]);
    cluster.run(create("a", explicit(&[&[1, 2]]))).unwrap();
    cluster.reassign("a", 0, Some(&[1, 3])).unwrap();
    cluster.drain(3);
    cluster.fence(3);
    cluster.settle(&LIMITS);
    assert_eq!(cluster.image.replicas_of(BrokerId(3)), 0);
    assert_eq!(cluster.image.reassignments().count(), 0);
}

#[test]
fn a_drain_does_not_wait_for_a_target_that_died() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3, 4]);
    cluster.run(create("a", explicit(&[&[1, 2]]))).unwrap();
    cluster.drain(1);
    cluster.begin(plan(&cluster.image, &LIMITS));
    assert_eq!(cluster.replicas("a", 0), "3 2 1 +3 -1", "the place of 1 is given to 3");
    assert_eq!(plan(&cluster.image, &LIMITS), [], "it is on its way");
    cluster.fence(3);
    cluster.settle(&LIMITS);
    assert_eq!(cluster.image.replicas_of(BrokerId(1)), 0);
    assert_eq!(cluster.image.replicas_of(BrokerId(3)), 0);
    assert_eq!(cluster.image.reassignments().count(), 0);
}

#[test]
fn a_move_between_brokers_that_stay_waits_for_a_target_that_died() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3, 4]);
    cluster.run(create("a", explicit(&[&[1, 2]]))).unwrap();
    cluster.reassign("a", 0, Some(&[1, 3])).unwrap();
    cluster.fence(3);
    assert_eq!(plan(&cluster.image, &LIMITS), [], "it may come back, and nothing is missing");
    // But when somebody else on the partition is drained, the rest must not wait for it.
    cluster.drain(1);
    cluster.settle(&LIMITS);
    assert_eq!(cluster.image.replicas_of(BrokerId(1)), 0);
    assert_eq!(cluster.image.reassignments().count(), 0);
}

#[test]
fn a_drain_that_cannot_end_says_why() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    cluster.run(create("a", counts(4, 3))).unwrap();
    cluster.run(create("b", explicit(&[&[1], &[1]]))).unwrap();
    assert!(stuck_drains(&cluster.image).is_empty());
    cluster.drain(1);
    let stuck = |cluster: &Cluster| stuck_drains(&cluster.image).remove(&BrokerId(1));
    assert_eq!(stuck(&cluster), Some(StuckDrain { nowhere_to_go: 4, offline: 0 }));
    cluster.fence(1);
    assert_eq!(stuck(&cluster), Some(StuckDrain { nowhere_to_go: 4, offline: 2 }));
    cluster.unfence(1);
    cluster.start(4, 1);
    assert_eq!(stuck(&cluster), None);
    // The only one that could take them dies while it is given them.
    cluster.begin(plan(&cluster.image, &LIMITS));
    cluster.fence(4);
    assert_eq!(stuck(&cluster), Some(StuckDrain { nowhere_to_go: 4, offline: 0 }));
}

#[test]
fn a_partition_that_waits_for_a_dead_broker_does_not_grow() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3, 4]);
    let same: Vec<&[i32]> = vec![&[1, 2, 3]; 12];
    cluster.run(create("a", explicit(&same))).unwrap();
    cluster.reassign("a", 0, Some(&[1, 2, 4])).unwrap();
    cluster.fence(4);
    let moves = plan(&cluster.image, &LIMITS);
    assert!(!moves.is_empty(), "the others change places");
    assert!(moves.iter().all(|one| one.replicas.as_ref().unwrap().len() == 3), "{moves:?}");
}

#[test]
fn racks_stay_as_spread_as_they_are() {
    let mut cluster = Cluster::with_brokers(&[]);
    for (id, rack) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")] {
        cluster.start_in(id, Some(rack));
    }
    cluster.run(create("a", counts(30, 3))).unwrap();
    cluster.start_in(6, Some("a"));
    cluster.drain(3);
    cluster.settle(&LIMITS);
    for partition in &cluster.image.topic("a").unwrap().partitions {
        let racks: BTreeSet<_> =
            partition.replicas.iter().map(|id| cluster.image.broker(*id).unwrap().rack.clone()).collect();
        assert_eq!(racks.len(), 3, "{:?}", partition.replicas);
    }
    let counted = cluster.replicas_and_preferred();
    assert_eq!((counted[&3].0, counted[&4].0, counted[&5].0), (0, 30, 30), "alone in their racks");
    assert!([1, 2, 6].iter().all(|id| (8..=12).contains(&counted[id].0)), "{counted:?}");
}

#[test]
fn nothing_is_balanced_while_replicas_are_missing() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    cluster.run(create("a", counts(30, 2))).unwrap();
    cluster.start(4, 1);
    cluster.fence(2);
    assert_eq!(plan(&cluster.image, &LIMITS), []);
    cluster.unfence(2);
    assert_eq!(plan(&cluster.image, &LIMITS), [], "it has not caught up yet");
    for partition in 0..30 {
        let replicas = cluster.image.topic("a").unwrap().partitions[partition as usize].replicas.clone();
        cluster.set_isr("a", partition, &replicas.iter().map(|id| id.get()).collect::<Vec<_>>());
    }
    assert_eq!(plan(&cluster.image, &LIMITS).len(), 5);
    assert_eq!(plan(&cluster.image, &BalanceLimits { automatic: false, ..LIMITS }), []);
    assert_eq!(plan(&cluster.image, &BalanceLimits { max_moves: 2, ..LIMITS }).len(), 2);
}

#[test]
fn moves_to_a_broker_that_went_away_do_not_stop_the_others() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    cluster.run(create("a", counts(30, 2))).unwrap();
    cluster.start(4, 1);
    cluster.begin(plan(&cluster.image, &LIMITS));
    cluster.fence(4);
    cluster.start(5, 1);
    assert_eq!(plan(&cluster.image, &BalanceLimits { max_moves: 5, ..LIMITS }).len(), 5);
}

#[test]
fn replicas_that_lead_too_often_change_places() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    let same: Vec<&[i32]> = vec![&[1, 2, 3]; 12];
    cluster.run(create("a", explicit(&same))).unwrap();
    assert_eq!(cluster.settle(&LIMITS), 0, "no replica moves");
    for (id, (_, preferred)) in cluster.replicas_and_preferred() {
        assert!((3..=5).contains(&preferred), "broker {id} is first {preferred} times of 12");
    }
    let elsewhere = leader_imbalance(&cluster.image, 10).len();
    assert_eq!(elsewhere, 12 - cluster.replicas_and_preferred()[&1].1);
    assert_eq!(leader_imbalance(&cluster.image, 100), []);
}

#[test]
fn only_what_can_lead_is_out_of_balance() {
    let mut cluster = Cluster::with_brokers(&[1, 2]);
    cluster.run(create("a", explicit(&[&[1, 2], &[1, 2]]))).unwrap();
    cluster.fence(1);
    assert_eq!(leader_imbalance(&cluster.image, 10), []);
    cluster.unfence(1);
    assert_eq!(leader_imbalance(&cluster.image, 10), [], "it is not in sync");
    cluster.set_isr("a", 1, &[1, 2]);
    assert_eq!(leader_imbalance(&cluster.image, 10), [TopicPartition::new(name("a"), PartitionId(1))]);
    assert_eq!(leader_imbalance(&cluster.image, 50), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn plans_come_to_an_end_and_leave_the_cluster_even(
        racks in prop::collection::vec(prop::sample::select(vec![None, Some("a"), Some("b"), Some("c")]), 2..7),
        joins in 0usize..3,
        drains in prop::collection::btree_set(0i32..8, 0..3),
        topics in prop::collection::vec((1i32..12, 1i32..4), 1..4),
        tolerance_percent in 0u32..30,
    ) {
        let mut cluster = Cluster::with_brokers(&[]);
        for (id, rack) in racks.iter().enumerate() {
            cluster.start_in(id as i32, *rack);
        }
        for (number, (partitions, factor)) in topics.iter().enumerate() {
            let factor = (*factor).min(racks.len() as i32);
            cluster.run(create(&format!("topic-{number}"), counts(*partitions, factor))).unwrap();
        }
        let brokers = racks.len() + joins;
        for id in racks.len()..brokers {
            cluster.start_in(id as i32, racks[id % racks.len()]);
        }
        let drained: Vec<i32> = drains.into_iter().filter(|id| (*id as usize) < brokers).collect();
        for id in &drained {
            cluster.drain(*id);
        }
        let limits = BalanceLimits { tolerance_percent, ..LIMITS };
        cluster.settle(&limits);
        let factor = topics.iter().map(|(_, factor)| *factor as usize).max().unwrap().min(racks.len());
        if brokers - drained.len() >= factor {
            for id in &drained {
                prop_assert_eq!(cluster.image.replicas_of(BrokerId(*id)), 0);
            }
        }
        if racks.iter().all(Option::is_none) && brokers - drained.len() >= factor {
            let counted = cluster.replicas_and_preferred();
            let takers: Vec<_> = counted.iter().filter(|(id, _)| !drained.contains(id)).map(|(_, n)| n.0).collect();
            let share = takers.iter().sum::<usize>() as f64 / takers.len() as f64;
            for has in takers {
                let allowed = share * f64::from(tolerance_percent) / 100.0 + 1.0;
                prop_assert!((has as f64 - share).abs() <= allowed + 1e-9, "{has} of {share}: {counted:?}");
            }
        }
    }
}
