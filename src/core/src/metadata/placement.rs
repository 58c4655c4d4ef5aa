//! Where the replicas of new partitions go: spread over racks, with as many leaders on every broker.

use crate::BrokerId;
use std::collections::BTreeMap;

/// A broker that can take replicas.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    /// Its id.
    pub(super) id: BrokerId,
    /// Its rack; brokers without one form a group of their own.
    pub(super) rack: Option<&'a str>,
}

/// Spreads partitions over brokers.
///
/// Brokers are put in a row in which racks take turns. Leaders walk along that row, so no broker leads more than one
/// partition more than another. Followers are looked for behind the leader, first where no replica of the partition is in
/// the same rack; each time the leaders have walked the whole row the followers start one place further on, so that the
/// partitions of a lost leader do not all fall to the same broker.
#[derive(Debug)]
pub(super) struct Placer {
    /// Brokers with the number of their rack.
    row: Vec<(BrokerId, usize)>,
    racks: usize,
    next: usize,
    shift: usize,
    placed: usize,
}

impl Placer {
    /// Starts at a place drawn from `seed`, or behind the leader of the partition placed last, if there was one.
    pub(super) fn new(candidates: &[Candidate<'_>], seed: u64, behind: Option<BrokerId>) -> Placer {
        let mut by_rack: BTreeMap<Option<&str>, Vec<BrokerId>> = BTreeMap::new();
        for candidate in candidates {
            by_rack.entry(candidate.rack).or_default().push(candidate.id);
        }
        let longest = by_rack.values().map(Vec::len).max().unwrap_or(0);
        let mut row = Vec::with_capacity(candidates.len());
        for turn in 0..longest {
            for (rack, brokers) in by_rack.values().enumerate() {
                if let Some(id) = brokers.get(turn) {
                    row.push((*id, rack));
                }
            }
        }
        let mut racks = by_rack.len();
        if racks == 1 {
            // One rack is no constraint: let every broker be its own.
            row.iter_mut().enumerate().for_each(|(index, broker)| broker.1 = index);
            racks = row.len();
        }
        let mut random = Mix(seed);
        let (start, shift) = (random.below(row.len()), random.below(row.len()));
        let behind = behind.and_then(|leader| row.iter().position(|(id, _)| *id == leader));
        Placer { row, racks, next: behind.map_or(start, |at| at + 1), shift, placed: 0 }
    }

    /// The replicas of the next partition, the leader first. `replication_factor` must not exceed the candidates.
    pub(super) fn place(&mut self, replication_factor: usize) -> Vec<BrokerId> {
        let brokers = self.row.len();
        debug_assert!(replication_factor <= brokers, "checked by the caller");
        let wanted = replication_factor.min(brokers);
        let mut replicas = Vec::with_capacity(wanted);
        if wanted == 0 {
            return replicas;
        }
        let first = self.next % brokers;
        let shift = self.shift + self.placed / brokers;
        self.next = first + 1;
        self.placed += 1;

        let (leader, leader_rack) = self.row[first];
        replicas.push(leader);
        let mut in_rack = vec![0usize; self.racks];
        in_rack[leader_rack] = 1;
        // In each round every rack may get one replica more; a round ends when all did, or when all brokers were asked.
        let (mut round, mut taken, mut asked, mut step) = (0, 1, 0, 0);
        while replicas.len() < wanted {
            if taken == self.racks || asked == brokers - 1 {
                (round, taken, asked) = (round + 1, 0, 0);
            }
            let (id, rack) = self.row[(first + 1 + (shift + step) % (brokers - 1)) % brokers];
            step += 1;
            asked += 1;
            if in_rack[rack] <= round && !replicas.contains(&id) {
                replicas.push(id);
                in_rack[rack] += 1;
                taken += 1;
            }
        }
        replicas
    }
}

/// SplitMix64: enough to choose a start, and the same on every machine for ever.
struct Mix(u64);

impl Mix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn candidates(racks: &[Option<&'static str>]) -> Vec<Candidate<'static>> {
        racks.iter().zip(0..).map(|(rack, id)| Candidate { id: BrokerId(id), rack: *rack }).collect()
    }

    fn place(racks: &[Option<&'static str>], partitions: usize, factor: usize, seed: u64) -> Vec<Vec<i32>> {
        let mut placer = Placer::new(&candidates(racks), seed, None);
        let ids = |replicas: Vec<BrokerId>| replicas.into_iter().map(BrokerId::get).collect();
        (0..partitions).map(|_| ids(placer.place(factor))).collect()
    }

    #[test]
    fn a_single_broker_gets_everything() {
        assert_eq!(place(&[None], 3, 1, 7), vec![vec![0]; 3]);
    }

    #[test]
    fn the_start_depends_on_the_seed_and_the_result_on_nothing_else() {
        let starts: BTreeSet<i32> = (0..64).map(|seed| place(&[None; 5], 1, 1, seed)[0][0]).collect();
        assert_eq!(starts.len(), 5, "all five brokers are some seed's start");
        assert_eq!(place(&[None; 5], 20, 3, 9), place(&[None; 5], 20, 3, 9));
    }

    #[test]
    fn racks_take_turns() {
        let racks = [Some("a"), Some("a"), Some("b"), Some("b"), Some("c"), Some("c")];
        for replicas in place(&racks, 60, 3, 1) {
            let used: BTreeSet<_> = replicas.iter().map(|id| racks[*id as usize]).collect();
            assert_eq!(used.len(), 3, "{replicas:?}");
        }
        for replicas in place(&racks, 60, 6, 1) {
            assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), 6);
        }
        for replicas in place(&[Some("a"), Some("a"), Some("a"), Some("b"), Some("b")], 60, 4, 1) {
            let in_b = replicas.iter().filter(|id| **id >= 3).count();
            assert_eq!(in_b, 2, "four replicas on two racks are two and two: {replicas:?}");
        }
    }

    #[test]
    fn a_lost_leaders_partitions_spread_over_the_others() {
        let mut heirs = BTreeSet::new();
        for replicas in place(&[None; 5], 100, 2, 3).iter().filter(|replicas| replicas[0] == 0) {
            heirs.insert(replicas[1]);
        }
        assert_eq!(heirs.len(), 4);
    }

    #[test]
    fn growth_goes_on_behind_the_last_leader() {
        let mut placer = Placer::new(&candidates(&[None; 3]), 5, Some(BrokerId(1)));
        assert_eq!(placer.place(1), [BrokerId(2)]);
        assert_eq!(placer.place(1), [BrokerId(0)]);
    }

    proptest! {
        #[test]
        fn replicas_are_distinct_leaders_even_and_racks_used_evenly(
            racks in prop::collection::vec(prop::sample::select(vec![None, Some("a"), Some("b"), Some("c")]), 1..12),
            partitions in 1usize..60,
            factor in 1usize..12,
            seed: u64,
        ) {
            let factor = factor.min(racks.len());
            let placed = place(&racks, partitions, factor, seed);
            let mut leads = vec![0usize; racks.len()];
            let groups: BTreeSet<_> = racks.iter().collect();
            for replicas in &placed {
                prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), factor);
                leads[replicas[0] as usize] += 1;
                let used: BTreeSet<_> = replicas.iter().map(|id| racks[*id as usize]).collect();
                prop_assert_eq!(used.len(), groups.len().min(factor), "as many racks as possible");
            }
            let (most, least) = (leads.iter().max().unwrap(), leads.iter().min().unwrap());
            prop_assert!(most - least <= 1, "{:?}", leads);
        }
    }
}
