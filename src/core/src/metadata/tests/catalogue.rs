//! Entries of the bug catalogue, as far as the metadata decides them.

use super::*;

fn three_replicas(min_insync: &str) -> Cluster {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    let config = [("min.insync.replicas", min_insync)];
    cluster.run(Command::CreateTopic(topic("a", explicit(&[&[1, 2, 3]]), &config))).unwrap();
    cluster
}

/// B catches up, its ISR change is delayed, B returns with an empty disk: refused by the broker epoch (KIP-903).
#[test]
fn catalogue_8_an_isr_change_for_a_process_that_is_gone_is_refused() {
    for disk in ["disk-of-2", "new-disk"] {
        let mut cluster = three_replicas("2");
        cluster.fence(2);
        cluster.unfence(2);
        assert_eq!(cluster.state("a", 0), "1 [1 3] 0/1");
        let delayed = cluster.isr_change("a", 0, &[1, 2, 3]);
        cluster.start_with_disks(2, 2, &[disk]);
        assert_eq!(cluster.state("a", 0), "1 [1 3] 0/1", "the partition's epoch alone would not tell");
        let refusal = cluster.run(Command::AlterPartition(delayed.clone())).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_deref()), (ErrorCode::InvalidRequest, Some("isr")));
        assert!(refusal.message.contains("broker 2 with epoch"), "{refusal}");
        // The same among others that are good: it alone is refused.
        let AlterPartition { broker, topic_id, partition, leader_epoch, partition_epoch, isr } = delayed;
        let bad = IsrChange { topic_id, partition, leader_epoch, partition_epoch, isr };
        let good = IsrChange { isr: vec![broker], ..bad.clone() };
        let both = Command::AlterPartitions(AlterPartitions { broker, changes: vec![bad, good] });
        let Ok(Response::Partitions(outcomes)) = cluster.run(both) else { panic!() };
        assert_eq!(outcomes[0].as_ref().unwrap_err().code, ErrorCode::InvalidRequest);
        assert_eq!(outcomes[1].as_ref().unwrap().isr, [BrokerId(1)]);
        // The new process has caught up by itself.
        cluster.set_isr("a", 0, &[1, 2, 3]);
        assert_eq!(cluster.state("a", 0), "1 [1 2 3] 0/3");
    }
}

/// An ISR change that comes to another term of the partition, or names a fenced broker, is refused; nothing changes by it.
#[test]
fn catalogue_9_an_isr_change_that_comes_late_or_names_a_fenced_broker_is_refused() {
    let mut cluster = three_replicas("2");
    cluster.fence(3);
    let names_fenced = cluster.isr_change("a", 0, &[1, 2, 3]);
    assert_eq!(
        cluster.run(Command::AlterPartition(names_fenced)).unwrap_err().code,
        ErrorCode::InvalidRequest
    );
    // While it was on its way the partition changed.
    let late = cluster.isr_change("a", 0, &[1]);
    cluster.unfence(3);
    cluster.set_isr("a", 0, &[1, 2, 3]);
    let refusal = cluster.run(Command::AlterPartition(late)).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::InvalidPartitionEpoch);
    // Or another one leads.
    let late = cluster.isr_change("a", 0, &[1, 3]);
    cluster.fence(1);
    cluster.unfence(1);
    let refusal = cluster.run(Command::AlterPartition(late)).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::FencedLeaderEpoch);
    assert_eq!(cluster.state("a", 0), "2 [2 3] 1/3");
}

/// The ISR shrinks to 1, then that broker loses its power: no committed loss (KIP-966).
#[test]
fn catalogue_10_the_last_replica_in_sync_loses_its_power() {
    // It comes back with what it had fsynced, and with min.insync.replicas 2 nothing was committed since: either may lead.
    let mut cluster = three_replicas("2");
    cluster.set_isr("a", 0, &[1, 2]);
    cluster.set_isr("a", 0, &[1]);
    assert_eq!(cluster.state("a", 0), "1 [1] 2 0/2");
    cluster.fence(1);
    assert_eq!(cluster.state("a", 0), "2 [2] 1 1/3", "broker 3 left when more could be committed");
    cluster.fence(2);
    assert_eq!(cluster.state("a", 0), "-1 [2] 1 2/4");
    cluster.start(1, 2);
    assert_eq!(cluster.state("a", 0), "1 [1] 2 3/5");

    // With min.insync.replicas 1 it committed alone: nobody else may lead before it returns.
    let mut cluster = three_replicas("1");
    cluster.set_isr("a", 0, &[1]);
    cluster.fence(1);
    assert_eq!(cluster.state("a", 0), "-1 [1] 1/2");
    cluster.start(1, 2);
    assert_eq!(cluster.state("a", 0), "1 [1] 2/3");

    // The same, and its disk is gone with the power: offline until someone decides what is to be given up.
    cluster.fence(1);
    cluster.start_with_disks(1, 3, &["new-disk"]);
    assert_eq!(cluster.state("a", 0), "-1 [1] lost 3/5");
    let elect = |unclean| Command::ElectLeaders(ElectLeaders { partitions: vec![], unclean });
    assert_eq!(cluster.run(elect(false)), Ok(Response::Elected(vec![])));
    cluster.run(elect(true)).unwrap();
    assert_eq!(cluster.state("a", 0), "2 [2] 4/6", "one with some of the data, not the one without");
}
