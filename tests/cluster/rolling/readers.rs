//! A consumer group that reads all the time, and what it was given.

use super::{PARTITIONS, TOPIC};
use crate::harness::{Cluster, Member, OffsetWatch, Reading, await_sizes, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const GROUP: &str = "rollers";

/// Three members, and a watch over what they commit.
pub struct Readers {
    members: Vec<Member>,
    watch: OffsetWatch,
    begun: Instant,
}

/// What they were given, in the order in which each partition's records came.
pub struct Given {
    records: BTreeMap<i32, Vec<i64>>,
    committed: BTreeMap<(String, i32), i64>,
    longest_gap: Duration,
}

impl Readers {
    /// Starts them and waits until each has its share.
    pub fn start(cluster: &Cluster) -> Readers {
        let bootstrap = cluster.bootstrap();
        let member = |id: i32| {
            let id = format!("reader-{id}");
            Member::start(&bootstrap, TOPIC, GROUP, &["--member-id", &id, "--commit-interval-ms", "500"])
        };
        let members = (0..3).map(member).collect();
        await_sizes(&bootstrap, GROUP, &[2, 2, 2]);
        Readers { members, watch: OffsetWatch::start(&bootstrap, GROUP), begun: Instant::now() }
    }

    /// Waits until they were given so many different records, and lets them leave.
    #[track_caller]
    pub fn finish(mut self, records: usize) -> Given {
        let partitions = 0..PARTITIONS.cast_signed();
        let given = |members: &[Member]| {
            let mut all: BTreeMap<i32, Vec<(Instant, i64)>> = BTreeMap::new();
            for one in members.iter().flat_map(Member::seen) {
                all.entry(one.partition).or_default().push((one.at, one.offset));
            }
            all.values_mut().for_each(|records| records.sort());
            all
        };
        eventually("the group is given every record", || {
            let all = given(&self.members);
            let different = |records: &Vec<(Instant, i64)>| {
                records.iter().map(|(_, offset)| *offset).collect::<BTreeSet<i64>>().len()
            };
            (all.values().map(different).sum::<usize>() >= records).then_some(())
        });
        self.members.iter_mut().for_each(Member::leave);
        let all = given(&self.members);
        let longest = |partition: i32| {
            let times = all.get(&partition).into_iter().flatten().map(|(at, _)| *at);
            let mut last = self.begun;
            let mut longest = Duration::ZERO;
            for at in times {
                longest = longest.max(at.saturating_duration_since(last));
                last = at;
            }
            longest
        };
        let longest_gap = partitions.map(longest).max().unwrap_or_default();
        let offsets = |records: Vec<(Instant, i64)>| records.into_iter().map(|(_, offset)| offset).collect();
        Given {
            records: all.into_iter().map(|(partition, records)| (partition, offsets(records))).collect(),
            committed: self.watch.finish().offsets,
            longest_gap,
        }
    }
}

impl Given {
    /// Checks that every record was given, and that all of them are committed.
    #[track_caller]
    pub fn check(&self, stored: &Reading) {
        for (partition, values) in stored {
            let end = i64::try_from(values.len()).unwrap();
            let given: BTreeSet<i64> = self.records[partition].iter().copied().collect();
            assert!(given.iter().copied().eq(0..end), "partition {partition}: the group missed a record");
            let committed = self.committed.get(&(TOPIC.to_owned(), *partition));
            assert_eq!(committed, Some(&end), "partition {partition}: what was read is committed");
        }
    }

    /// How many records were given once more than needed.
    pub fn doubled(&self) -> usize {
        let more = |records: &Vec<i64>| records.len() - records.iter().collect::<BTreeSet<_>>().len();
        self.records.values().map(more).sum()
    }

    /// The longest time between two records of some partition, from when the group was whole.
    pub fn longest_gap(&self) -> Duration {
        self.longest_gap
    }

    /// Checks that each record was given once, and those of a partition in order.
    #[track_caller]
    pub fn assert_none_doubled(&self) {
        for (partition, records) in &self.records {
            let back = records.windows(2).find(|pair| pair[1] <= pair[0]);
            assert_eq!(back, None, "partition {partition}: a record was given again");
        }
    }
}
