//! Another coordinator takes over.

use super::client::settle;
use super::*;

#[test]
fn members_go_on_where_they_were_and_have_a_whole_session() {
    let mut rig = Rig::new(4);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut a, &mut b]);
    a.commit(&mut rig, &[(a.partitions()[0], 4)]).unwrap();
    let before = (a.clone(), b.clone(), rig.committed("g"), rig.group("g").clone());
    rig.pass(40_000);
    rig.fail_over(usize::MAX);
    assert_eq!(*rig.group("g"), before.3);
    rig.pass(44_000);
    a.beat(&mut rig).unwrap();
    b.beat(&mut rig).unwrap();
    assert_eq!(
        (&a.has, a.epoch, &b.has, b.epoch),
        (&before.0.has, before.0.epoch, &before.1.has, before.1.epoch)
    );
    assert_eq!(rig.committed("g"), before.2);
    rig.pass(45_000);
    assert_eq!(rig.shard.member_count(), 0, "who is not heard from is out");
}

#[test]
fn a_static_member_returns_to_its_partitions_after_a_failover_and_its_old_process_stays_fenced() {
    let mut rig = Rig::new(4);
    let mut a = Client::new("g", "a1").instance("i");
    let mut b = Client::new("g", "b");
    a.join(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut a, &mut b]);
    // The coordinator fails while the member is away for now.
    a.leave(&mut rig, -2).unwrap();
    rig.fail_over(usize::MAX);
    rig.pass(20_000);
    let mut again = Client::new("g", "a2").instance("i");
    again.join(&mut rig).unwrap();
    assert_eq!(again.has, a.has);
    rig.fail_over(usize::MAX);
    assert_eq!(a.beat(&mut rig), Err(ErrorCode::FencedInstance));
    assert_eq!(a.commit(&mut rig, &[(a.partitions()[0], 1)]), Err(ErrorCode::FencedInstance));
    assert_eq!(again.beat(&mut rig).map(|told| told.epoch), Ok(again.epoch));
}

#[test]
fn a_revocation_and_an_assignment_under_way_are_taken_up_again() {
    let mut rig = Rig::new(2);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.rebalance_ms = 10_000;
    a.join(&mut rig).unwrap();
    a.beat(&mut rig).unwrap();
    // The join is durable, the assignment was never made.
    b.join(&mut rig).unwrap();
    rig.fail_over(usize::MAX);
    rig.pass(100);
    assert_eq!(rig.state("g"), v1::GroupState::Reconciling);
    let had = a.has.clone();
    assert_eq!(a.beat(&mut rig).unwrap().assignment.map(|kept| kept.len()), Some(1));
    rig.pass(9_000);
    rig.fail_over(usize::MAX);
    // It has its whole time again, and no more.
    rig.pass(9_999);
    assert_eq!(rig.shard.member_count(), 2);
    (a.has, a.says) = (had, true);
    a.send(&mut rig, 0);
    rig.pass(1);
    assert_eq!(rig.shard.member_count(), 1);
}

#[test]
fn every_prefix_of_a_log_is_a_state_to_go_on_from() {
    let mut rig = Rig::new(4);
    let mut a = Client::new("g", "a1").instance("i");
    let (mut b, mut c) = (Client::new("g", "b"), Client::new("g", "c"));
    a.join(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut a, &mut b]);
    a.leave(&mut rig, -2).unwrap();
    let mut again = Client::new("g", "a2").instance("i");
    again.join(&mut rig).unwrap();
    again.commit(&mut rig, &[(again.partitions()[0], 1)]).unwrap();
    c.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut again, &mut b, &mut c]);
    b.leave(&mut rig, -1).unwrap();
    settle(&mut rig, &mut [&mut again, &mut c]);
    let all = rig.records();
    for keep in 0..=all.len() {
        for records in [all[..keep].to_vec(), compacted(&all[..keep], true), compacted(&all[..keep], false)] {
            let mut rig = Rig::new(4);
            rig.older = records;
            rig.fail_over(usize::MAX);
            // Whatever the members were: newcomers get everything in the end.
            let mut x = Client::new("g", "x");
            if x.join(&mut rig).is_err() {
                continue;
            }
            for _ in 0..30 {
                rig.pass(3_000);
                x.beat(&mut rig).unwrap();
            }
            assert_eq!(x.partitions(), [0, 1, 2, 3], "after {keep} records");
        }
    }
}

#[test]
fn a_compacted_log_with_orphan_tombstones_is_the_same_group() {
    let mut rig = Rig::new(4);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut a, &mut b]);
    // a's own record comes behind what it has.
    let mut wish = a.request(0);
    wish.subscription =
        Some(v1::GroupSubscription { topics: vec!["t".to_owned(), "u".to_owned()], ..Default::default() });
    rig.ask(ShardCall::Heartbeat { request: wish, host: "h".into() }).unwrap();
    rig.commit_outside("h", &[(0, 1)]);
    b.leave(&mut rig, -1).unwrap();
    settle(&mut rig, &mut [&mut a]);
    let wanted = rig.group("g").clone();
    for tombstones in [true, false] {
        let records = compacted(&rig.records(), tombstones);
        let shard = load(&records, &rig.config, rig.now);
        let group = shard.groups().find(|(id, _)| id.as_str() == "g").unwrap().1;
        assert_eq!(*group, wanted);
        assert_eq!((shard.member_count(), shard.offset_count()), (1, 1));
    }
    // Tombstones of what was never seen change nothing.
    let orphans: Vec<GroupRecord> =
        rig.records().into_iter().filter(|record| record.encode().1.is_none()).collect();
    assert!(!orphans.is_empty());
    assert_eq!(load(&orphans, &rig.config, rig.now).groups().len(), 0);
    let mut shard = Shard::new(PartitionId(0), GroupConfig::default());
    let (key, value) =
        thalweg_core::group::lease_marker(thalweg_core::LeaseEpoch(1), thalweg_core::CoordinatorId(1));
    assert_eq!(shard.replay(&key, Some(&value)), Ok(()), "a marker is passed over");
    assert!(shard.replay(&[0, 1, 0], None).is_err(), "damage is not");
}
