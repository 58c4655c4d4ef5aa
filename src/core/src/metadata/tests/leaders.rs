//! What elections came to.

use super::*;
use crate::metadata::leaders::{Elections, elections};

fn counted(cluster: &mut Cluster, step: impl FnOnce(&mut Cluster)) -> (u64, u64) {
    let before = cluster.image.clone();
    step(cluster);
    let Elections { all, unclean } = elections(&before, &cluster.image);
    (all, unclean)
}

#[test]
fn a_leader_from_the_isr_is_clean() {
    let mut cluster = Cluster::with_brokers(&[1, 2]);
    assert_eq!(counted(&mut cluster, |c| drop(c.run(create("a", explicit(&[&[1, 2], &[2, 1]]))))), (0, 0));
    assert_eq!(counted(&mut cluster, |c| c.fence(1)), (1, 0));
    // It comes back in no ISR, and leads nothing.
    assert_eq!(counted(&mut cluster, |c| c.unfence(1)), (0, 0));
    let unclean = |c: &mut Cluster| {
        c.fence(2);
        assert_eq!(c.state("a", 0).split(' ').next(), Some("-1"));
    };
    // Nobody may lead: no election.
    assert_eq!(counted(&mut cluster, unclean), (0, 0));
    assert_eq!(counted(&mut cluster, |c| c.unfence(2)), (2, 0));
}

#[test]
fn a_leader_that_lacks_records_is_unclean() {
    let mut cluster = Cluster::with_brokers(&[1, 2]);
    cluster.run(create("a", explicit(&[&[1, 2]]))).unwrap();
    cluster.set_isr("a", 0, &[1]);
    cluster.fence(1);
    let elect = |c: &mut Cluster| {
        c.run(Command::ElectLeaders(ElectLeaders { partitions: vec![], unclean: true })).unwrap();
    };
    assert_eq!(counted(&mut cluster, elect), (1, 1));
    assert_eq!(cluster.image.topic("a").unwrap().partitions[0].leader, BrokerId(2));
}

#[test]
fn the_end_of_a_reassignment_is_clean() {
    let mut cluster = Cluster::with_brokers(&[1, 2]);
    cluster.run(create("a", explicit(&[&[1]]))).unwrap();
    cluster.reassign("a", 0, Some(&[2])).unwrap();
    assert_eq!(counted(&mut cluster, |c| c.set_isr("a", 0, &[1, 2])), (1, 0));
    assert_eq!(cluster.state("a", 0), "2 [2] 1/2");
}
