//! Eligible leader replicas, and brokers that return with less than they had.

use super::*;

fn cached(min_insync: &str) -> Cluster {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    let config = [("min.insync.replicas", min_insync), ("write.caching", "true")];
    cluster.run(Command::CreateTopic(topic("a", explicit(&[&[1, 2, 3]]), &config))).unwrap();
    cluster
}

#[test]
fn after_a_clean_stop_a_cached_replica_keeps_its_place_and_after_another_it_does_not() {
    let mut cluster = cached("2");
    cluster.set_isr("a", 0, &[1, 2]);
    cluster.run(Command::BeginControlledShutdown(cluster.broker(2))).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1] 2 0/2");
    cluster.fence(2);
    cluster.start_after_clean_stop(2, 2);
    assert_eq!(cluster.state("a", 0), "1 [1] 2 0/2");
    // An epoch before the last is no clean stop of the last process.
    let long_ago = Some(cluster.broker(2).epoch);
    cluster.start_after_clean_stop(2, 3);
    let command = RegisterBroker { clean_shutdown_epoch: long_ago, ..registration(2, 4) };
    cluster.run(Command::RegisterBroker(command)).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1] 0/3");
}

#[test]
fn all_cached_replicas_lose_their_power_and_come_back_in_any_order() {
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        for min in ["1", "2", "3"] {
            let mut cluster = cached(min);
            for id in [1, 2, 3] {
                cluster.fence(id);
            }
            for id in order {
                cluster.start(id, 2);
            }
            let state = cluster.state("a", 0);
            let online = cluster.image.topic("a").unwrap().partitions[0].is_online();
            assert!(online, "somebody has the most of what is left: {order:?} {min} {state}");
        }
    }
}

#[test]
fn a_damaged_disk_costs_the_places_that_others_can_fill_even_after_a_clean_stop() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    let config = [("min.insync.replicas", "2")];
    cluster.run(Command::CreateTopic(topic("a", explicit(&[&[1, 2]]), &config))).unwrap();
    cluster.run(create("alone", explicit(&[&[2]]))).unwrap();
    cluster.fence(2);
    assert_eq!(cluster.state("a", 0), "1 [1] 2 0/1", "eligible: nothing is committed without it");
    let clean_shutdown_epoch = Some(cluster.broker(2).epoch);
    let command = RegisterBroker { clean_shutdown_epoch, damaged: true, ..registration(2, 2) };
    cluster.run(Command::RegisterBroker(command)).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1] 0/2");
    cluster.unfence(2);
    cluster.fence(1);
    assert!(!cluster.image.topic("a").unwrap().partitions[0].is_online(), "it is not elected");
    // Nobody else has what is left.
    let alone = &cluster.image.topic("alone").unwrap().partitions[0];
    assert!(alone.is_online() && alone.isr == [BrokerId(2)] && !alone.lost);
}

#[test]
fn an_empty_disk_costs_every_place_that_others_can_fill() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    cluster.run(create("pair", explicit(&[&[1, 2], &[2, 1]]))).unwrap();
    cluster.run(create("alone", explicit(&[&[1]]))).unwrap();
    // Registered again before anyone saw that it was gone.
    cluster.run(register(1, 2)).unwrap();
    cluster.unfence(1);
    assert_eq!(cluster.state("alone", 0), "1 [1] 2/2");
    cluster.fence(1);
    cluster.start_with_disks(1, 3, &["new-disk"]);
    assert_eq!(cluster.state("pair", 0), "2 [2] 1/1");
    assert_eq!(cluster.state("pair", 1), "2 [2] 0/1");
    assert_eq!(cluster.state("alone", 0), "-1 [1] lost 3/4");
    // What is created since is no different from anything else.
    cluster.run(create("new", explicit(&[&[1]]))).unwrap();
    cluster.start_with_disks(1, 4, &["new-disk"]);
    assert_eq!(cluster.state("new", 0), "1 [1] 2/2");
    assert_eq!(cluster.state("alone", 0), "-1 [1] lost 3/4");
    // The old disk was not mounted, that was all.
    cluster.start_with_disks(1, 5, &["disk-of-1"]);
    assert_eq!(cluster.state("alone", 0), "1 [1] 4/6");
    assert_eq!(cluster.state("new", 0), "-1 [1] lost 3/4");
    // It could bring the other one back as well.
    cluster.start_with_disks(1, 6, &["new-disk", "disk-of-1"]);
    assert_eq!(cluster.state("new", 0), "1 [1] 4/6");
    assert!(cluster.image.broker(BrokerId(1)).unwrap().needed_log_dirs.is_empty());
}

#[test]
fn one_disk_of_several_puts_all_in_doubt() {
    let mut cluster = Cluster::with_brokers(&[2]);
    cluster.start_with_disks(1, 1, &["x", "y"]);
    cluster.run(create("alone", explicit(&[&[1]]))).unwrap();
    cluster.run(create("pair", explicit(&[&[1, 2]]))).unwrap();
    cluster.start_with_disks(1, 2, &["y", "z"]);
    assert_eq!(cluster.state("alone", 0), "-1 [1] lost 1/1");
    assert_eq!(cluster.state("pair", 0), "2 [2] 1/1");
    // The log may be on either of the two that it had.
    cluster.start_with_disks(1, 3, &["x", "z"]);
    assert_eq!(cluster.state("alone", 0), "-1 [1] lost 1/1");
    cluster.start_with_disks(1, 4, &["z", "y", "x"]);
    assert_eq!(cluster.state("alone", 0), "1 [1] 2/3");
    // A disk more is no reason for doubt.
    cluster.start_with_disks(1, 5, &["z", "y", "x", "w"]);
    assert_eq!(cluster.state("alone", 0), "1 [1] 4/5");
}

#[test]
fn a_list_of_needed_disks_that_was_cut_short_is_never_all_there() {
    let mut cluster = Cluster::with_brokers(&[]);
    let dirs = |prefix: &str| (0..limits::MAX_LOG_DIRS).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    let mut incarnation = 0;
    let mut start = |cluster: &mut Cluster, dirs: &[String]| {
        incarnation += 1;
        cluster.start_with_disks(1, incarnation, &dirs.iter().map(String::as_str).collect::<Vec<_>>());
    };
    start(&mut cluster, &dirs("a"));
    cluster.run(create("old", explicit(&[&[1]]))).unwrap();
    start(&mut cluster, &dirs("b"));
    cluster.run(create("new", explicit(&[&[1]]))).unwrap();
    start(&mut cluster, &dirs("c"));
    assert_eq!(cluster.image.broker(BrokerId(1)).unwrap().needed_log_dirs.len(), limits::MAX_NEEDED_LOG_DIRS);
    start(&mut cluster, &dirs("a"));
    assert!(cluster.state("old", 0).contains("lost") && cluster.state("new", 0).contains("lost"));
}

#[test]
fn fewer_that_must_be_in_sync_make_fewer_eligible() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    let min = |value: &str| alter("a", &[("min.insync.replicas", value)], &[]);
    cluster.run(create("a", explicit(&[&[1, 2, 3]]))).unwrap();
    cluster.run(min("3")).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1 2 3] 0/0");
    cluster.fence(3);
    cluster.fence(2);
    assert_eq!(cluster.state("a", 0), "1 [1] 2 3 0/2");
    cluster.run(min("2")).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1] 2 3 0/2");
    cluster.run(min("1")).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1] 0/3", "it commits alone from now on");
    cluster.run(min("2")).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1] 0/3", "and may have done so");
}

#[test]
fn ten_thousand_partitions_change_their_leader_in_one_pass() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    cluster.run(create("big", counts(10_000, 3))).unwrap();
    for small in 0..100 {
        cluster.run(create(&format!("small-{small}"), counts(20, 3))).unwrap();
    }
    let before = cluster.image.clone();
    cluster.fence(1);
    assert_eq!(cluster.image.leaderships_of(BrokerId(1)), 0);
    let all = cluster.image.topics().flat_map(|topic| topic.partitions.iter());
    assert!(all.into_iter().all(|partition| partition.is_online() && partition.isr.len() == 2));
    assert!(before.leaderships_of(BrokerId(1)) > 3_900, "the older image is as it was");
}
