//! Topics: creation, growth, configuration, deletion, and looking them up.

use super::*;
use crate::metadata::limits::*;

#[test]
fn a_topic_is_created_with_even_leaders() {
    let mut cluster = Cluster::with_brokers(&[0, 1, 2]);
    let command = topic("logs", counts(7, 2), &[("retention.ms", "007")]);
    let done = Response::Topic { name: name("logs"), id: topic_id("logs") };
    assert_eq!(cluster.run(Command::CreateTopic(command)), Ok(done));
    let logs = cluster.image.topic("logs").unwrap();
    assert_eq!(cluster.image.topic_by_id(topic_id("logs")), Some(logs));
    assert_eq!((logs.partitions.len(), logs.replication_factor()), (7, 2));
    assert_eq!((logs.config.retention_ms, logs.overrides["retention.ms"].as_str()), (Some(7), "7"));
    assert!(!logs.internal);
    let mut leads = [0; 3];
    for (_, partition) in logs.partitions() {
        assert_eq!(partition.isr, partition.replicas);
        assert_eq!(partition.leader, partition.preferred_leader());
        leads[partition.leader.get() as usize] += 1;
    }
    leads.sort_unstable();
    assert_eq!(leads, [2, 2, 3]);
    assert_eq!(cluster.image.partition_count(), 7);
}

#[test]
fn what_is_wrong_with_a_new_topic_is_said_with_its_field() {
    use ErrorCode::*;
    let mut cluster = Cluster::with_brokers(&[0, 1]);
    cluster.run(create("taken", counts(1, 1))).unwrap();
    let cases = [
        (topic("taken", counts(1, 1), &[]), TopicAlreadyExists, "name", "topic \"taken\" exists already"),
        (
            CreateTopic { id: TopicId([0; 16]), ..topic("b", counts(1, 1), &[]) },
            InvalidRequest,
            "topic_id",
            "taken or",
        ),
        (
            CreateTopic { id: topic_id("taken"), ..topic("b", counts(1, 1), &[]) },
            InvalidRequest,
            "topic_id",
            "draw an",
        ),
        (topic("b", counts(0, 1), &[]), InvalidPartitions, "partitions", "1 to 10000 partitions, not 0"),
        (topic("b", counts(-3, 1), &[]), InvalidPartitions, "partitions", "not -3"),
        (topic("b", counts(10_001, 1), &[]), InvalidPartitions, "partitions", "not 10001"),
        (topic("b", counts(1, 0), &[]), InvalidReplicationFactor, "replication_factor", "not 0"),
        (topic("b", counts(1, 33), &[]), InvalidReplicationFactor, "replication_factor", "1 to 32"),
        (
            topic("b", counts(1, 3), &[]),
            InvalidReplicationFactor,
            "replication_factor",
            "there are 2; use 2 or less",
        ),
        (topic("b", explicit(&[]), &[]), InvalidPartitions, "assignments", "not 0"),
        (topic("b", explicit(&[&[]]), &[]), InvalidReplicationFactor, "assignments[0]", "this one has 0"),
        (
            topic("b", explicit(&[&[0], &[0, 1]]), &[]),
            InvalidReplicationFactor,
            "assignments[1]",
            "this one has 2",
        ),
        (topic("b", explicit(&[&[0, 0]]), &[]), InvalidRequest, "assignments[0]", "named twice"),
        (
            topic("b", explicit(&[&[0], &[7]]), &[]),
            InvalidRequest,
            "assignments[1]",
            "broker 7 is not registered",
        ),
        (
            topic("b", counts(1, 1), &[("segment.bytes", "1")]),
            InvalidConfig,
            "configs[segment.bytes]",
            "1048576",
        ),
        (
            topic("b", counts(1, 1), &[("nope", "1")]),
            InvalidConfig,
            "configs[nope]",
            "there is no topic config",
        ),
        (
            topic("b", counts(1, 1), &[("cleanup.policy", "forget")]),
            InvalidConfig,
            "configs[cleanup.policy]",
            "a list of compact, delete",
        ),
    ];
    for (command, code, field, says) in cases {
        let refusal = cluster.run(Command::CreateTopic(command)).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_deref()), (code, Some(field)), "{refusal}");
        assert!(refusal.message.contains(says), "{refusal}");
    }
    let many: Vec<String> = (0..=MAX_CONFIG_ENTRIES).map(|i| format!("k{i}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "1")).collect();
    let refusal = cluster.run(Command::CreateTopic(topic("b", counts(1, 1), &many))).unwrap_err();
    assert_eq!((refusal.code, refusal.field.as_deref()), (InvalidConfig, Some("configs")));
}

#[test]
fn replicas_on_absent_brokers_start_out_of_sync() {
    let mut cluster = Cluster::with_brokers(&[0, 1]);
    let no_brokers = Cluster::with_brokers(&[]).refused(create("a", counts(1, 1)));
    assert_eq!(no_brokers.1, "no broker is active; start one and try again");
    cluster.fence(0);
    cluster.run(create("a", explicit(&[&[0, 1]]))).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1] 0/0");
    let (code, message) = cluster.refused(create("b", explicit(&[&[0]])));
    assert_eq!((code, message.contains("nobody could lead")), (ErrorCode::InvalidRequest, true));
}

#[test]
fn partitions_grow_and_never_shrink() {
    let mut cluster = Cluster::with_brokers(&[0, 1, 2]);
    cluster.run(create("a", explicit(&[&[0, 1], &[1, 2], &[2, 0]]))).unwrap();
    for total in [1, 3] {
        let (code, message) = cluster.refused(grow("a", total));
        assert_eq!(code, ErrorCode::InvalidPartitions);
        assert_eq!(message, "topic \"a\" has 3 partitions and partitions never shrink; ask for more than 3");
    }
    assert_eq!(cluster.refused(grow("a", 10_001)).0, ErrorCode::InvalidPartitions);
    assert_eq!(cluster.refused(grow("a", 0)).0, ErrorCode::InvalidPartitions);
    assert_eq!(cluster.refused(grow("b", 2)).0, ErrorCode::UnknownTopic);
    cluster.run(grow("a", 6)).unwrap();
    let a = cluster.image.topic("a").unwrap();
    let leaders: Vec<i32> = a.partitions().map(|(_, partition)| partition.leader.get()).collect();
    assert_eq!(leaders, [0, 1, 2, 0, 1, 2], "growth goes on where creation ended");
    assert_eq!(cluster.image.partition_count(), 6);

    let explicit = |assignments: &[&[i32]]| {
        let (name, assignments) = (name("a"), Some(lists(assignments)));
        Command::CreatePartitions(CreatePartitions { name, new_total: 7, assignments, seed: 0 })
    };
    let (code, message) = cluster.refused(explicit(&[&[0, 1], &[1, 2]]));
    assert_eq!(code, ErrorCode::InvalidRequest);
    assert_eq!(message, "1 partitions are added, so 1 assignments are needed, not 2");
    assert_eq!(cluster.refused(explicit(&[&[0]])).0, ErrorCode::InvalidReplicationFactor);
    cluster.run(explicit(&[&[2, 1]])).unwrap();
    assert_eq!(cluster.state("a", 6), "2 [2 1] 0/0");
    cluster.fence(0);
    cluster.fence(1);
    assert_eq!(cluster.refused(grow("a", 8)).0, ErrorCode::InvalidReplicationFactor);
}

#[test]
fn the_clusters_own_topics_stay_as_they_are() {
    let mut cluster = Cluster::with_brokers(&[0]);
    let offsets = CreateTopic { internal: true, ..topic("__consumer_offsets", counts(2, 1), &[]) };
    cluster.run(Command::CreateTopic(offsets)).unwrap();
    assert_eq!(cluster.refused(grow("__consumer_offsets", 5)).0, ErrorCode::PolicyViolation);
    let delete = Command::DeleteTopic(DeleteTopic { topic: TopicRef::Name(name("__consumer_offsets")) });
    assert_eq!(cluster.refused(delete).0, ErrorCode::PolicyViolation);
}

#[test]
fn the_cluster_is_bounded() {
    let mut cluster = Cluster::with_brokers(&[0]);
    for i in 0..9 {
        cluster.run(create(&format!("t{i}"), counts(10_000, 1))).unwrap();
    }
    cluster.run(create("nearly", counts(9_999, 1))).unwrap();
    let (code, message) = cluster.refused(create("full", counts(2, 1)));
    assert_eq!(code, ErrorCode::InvalidPartitions);
    assert_eq!(message, "the cluster has 99999 partitions and can have 100000; 2 more do not fit");
    assert_eq!(cluster.refused(create("full", explicit(&[&[0], &[0]]))).0, ErrorCode::InvalidPartitions);
    cluster.run(grow("nearly", 10_000)).unwrap();
    assert_eq!(cluster.refused(create("full", counts(1, 1))).0, ErrorCode::InvalidPartitions);
    let delete = Command::DeleteTopic(DeleteTopic { topic: TopicRef::Name(name("t0")) });
    cluster.run(delete).unwrap();
    cluster.run(create("full", counts(2, 1))).unwrap();
}

#[test]
fn configurations_change_by_key() {
    let mut cluster = Cluster::with_brokers(&[0]);
    cluster.run(Command::CreateTopic(topic("a", counts(2, 1), &[("segment.ms", "5")]))).unwrap();
    cluster.run(alter("a", &[("retention.ms", "10"), ("write.caching", "TRUE")], &["segment.ms"])).unwrap();
    let a = cluster.image.topic("a").unwrap();
    assert_eq!(*a.overrides, overrides(&[("retention.ms", "10"), ("write.caching", "true")]));
    assert_eq!((a.config.retention_ms, a.config.write_caching), (Some(10), true));
    assert_eq!(a.config.segment_ms, config::TopicConfig::default().segment_ms);
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str], ErrorCode, &'a str);
    let cases: [Case<'_>; 7] = [
        ("a", &[("retention.ms", "x")], &[], ErrorCode::InvalidConfig, "set[retention.ms]"),
        ("a", &[("retention.mss", "1")], &[], ErrorCode::InvalidConfig, "set[retention.mss]"),
        ("a", &[("flush.ms", "1")], &["segment.ms", "flush.ms"], ErrorCode::InvalidConfig, "unset[1]"),
        ("a", &[], &["nope"], ErrorCode::InvalidConfig, "unset[0]"),
        // Each is good, together they are not.
        (
            "a",
            &[("min.compaction.lag.ms", "9"), ("max.compaction.lag.ms", "8")],
            &[],
            ErrorCode::InvalidConfig,
            "set[min.compaction.lag.ms]",
        ),
        ("a", &[("cleanup.policy", "forget")], &[], ErrorCode::InvalidConfig, "set[cleanup.policy]"),
        ("b", &[], &[], ErrorCode::UnknownTopic, "topic"),
    ];
    for (topic, set, remove, code, field) in cases {
        let refusal = cluster.run(alter(topic, set, remove)).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_deref()), (code, Some(field)), "{refusal}");
    }
    let before = cluster.image.clone();
    cluster.run(alter("a", &[("retention.ms", "10")], &["flush.ms"])).unwrap();
    assert!(cluster.image.changes_since(&before).changed.is_empty(), "nothing differs");
}

#[test]
fn a_topic_is_deleted_by_name_or_by_id() {
    let mut cluster = Cluster::with_brokers(&[0]);
    cluster.run(create("a", counts(2, 1))).unwrap();
    cluster.run(create("b", counts(3, 1))).unwrap();
    let delete = |topic| Command::DeleteTopic(DeleteTopic { topic });
    let by_id = delete(TopicRef::Id(topic_id("a")));
    let done = Response::Topic { name: name("a"), id: topic_id("a") };
    assert_eq!(cluster.run(by_id.clone()), Ok(done));
    assert_eq!(cluster.refused(by_id).0, ErrorCode::UnknownTopic);
    assert_eq!(cluster.refused(delete(TopicRef::Name(name("a")))).0, ErrorCode::UnknownTopic);
    assert_eq!((cluster.image.topics().len(), cluster.image.partition_count()), (1, 3));
    assert!(cluster.image.topic("a").is_none() && cluster.image.topic_by_id(topic_id("a")).is_none());
}

#[test]
fn a_dry_run_tells_and_does_not_do() {
    let mut cluster = Cluster::with_brokers(&[0]);
    let before = cluster.image.clone();
    let (response, after) = dry_run(&cluster.image, &create("a", counts(2, 1))).unwrap();
    assert_eq!(cluster.image, before);
    assert_eq!(after.topic("a").unwrap().partitions.len(), 2);
    assert_eq!(cluster.run(create("a", counts(2, 1))), Ok(response));
    let refusal = dry_run(&cluster.image, &create("a", counts(2, 1))).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::TopicAlreadyExists);
}

#[test]
fn lookups_take_any_text_and_number() {
    let mut cluster = Cluster::with_brokers(&[0]);
    for topic in ["a", "b", "c"] {
        cluster.run(create(topic, counts(1, 1))).unwrap();
    }
    let image = &cluster.image;
    assert!(image.topic("").is_none() && image.topic("not/a name").is_none());
    let names =
        |after: &str| image.topics_after(after).map(|topic| topic.name.to_string()).collect::<Vec<_>>();
    assert_eq!(
        (names(""), names("a"), names("bb")),
        (vec!["a".into(), "b".into(), "c".into()], vec!["b".into(), "c".into()], vec!["c".into()])
    );
    assert!(names("c").is_empty());
    for (partition, there) in [(0, true), (1, false), (-1, false), (i32::MIN, false), (i32::MAX, false)] {
        let at = TopicPartition::new(name("a"), PartitionId(partition));
        assert_eq!(image.partition(&at).is_some(), there, "{partition}");
    }
}

#[test]
fn changes_are_found_between_images() {
    let mut cluster = Cluster::with_brokers(&[0]);
    for topic in ["kept", "grown", "gone", "anew"] {
        cluster.run(create(topic, counts(1, 1))).unwrap();
    }
    let before = cluster.image.clone();
    assert_eq!(cluster.image.changes_since(&before), Changes::default());
    for topic in ["gone", "anew"] {
        cluster.run(Command::DeleteTopic(DeleteTopic { topic: TopicRef::Name(name(topic)) })).unwrap();
    }
    let anew = CreateTopic { id: TopicId([5; 16]), ..topic("anew", counts(1, 1), &[]) };
    cluster.run(Command::CreateTopic(anew)).unwrap();
    cluster.run(grow("grown", 2)).unwrap();
    cluster.run(create("new", counts(1, 1))).unwrap();
    let changes = cluster.image.changes_since(&before);
    let names = |topics: &[std::sync::Arc<TopicImage>]| -> Vec<String> {
        topics.iter().map(|topic| topic.name.to_string()).collect()
    };
    assert_eq!(names(&changes.changed), ["anew", "grown", "new"]);
    assert_eq!(names(&changes.removed), ["anew", "gone"]);
    assert_eq!(changes.removed[0].id, topic_id("anew"), "as it was");
}

#[test]
fn a_change_of_one_partition_shares_the_rest() {
    let mut cluster = Cluster::with_brokers(&[0, 1]);
    cluster.run(create("big", counts(10_000, 1))).unwrap();
    cluster.run(create("other", explicit(&[&[0, 1]]))).unwrap();
    let before = cluster.image.clone();
    cluster.fence(1);
    let of = |image: &MetadataImage, topic: &str| image.topic(topic).map(std::sync::Arc::clone).unwrap();
    let (old, new) = (of(&before, "big"), of(&cluster.image, "big"));
    let shared = old.partitions.iter().zip(&new.partitions).filter(|(a, b)| std::sync::Arc::ptr_eq(a, b));
    assert_eq!(shared.count(), 5_000, "those of broker 0");
    assert_eq!(before.topic("other").unwrap().partitions[0].isr.len(), 2, "the old image is as it was");
}
