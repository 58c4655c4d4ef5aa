//! Bytes in the Raft log and in snapshots.

use super::*;
use crate::metadata::codec::*;

fn sample() -> MetadataImage {
    let mut cluster = Cluster::with_brokers(&[0, 1, 2]);
    cluster.run(Command::CreateTopic(topic("a", counts(5, 2), &[("retention.ms", "5")]))).unwrap();
    cluster.run(create("b", counts(1, 3))).unwrap();
    cluster.fence(2);
    cluster.image
}

/// The bytes of a command that older logs hold. Whatever changes, this must decode for ever.
#[test]
fn commands_of_format_1_stay_readable() {
    let command = Command::CreatePartitions(CreatePartitions {
        name: name("ab"),
        new_total: 300,
        assignments: Some(lists(&[&[1, 2]])),
        seed: 7,
    });
    let mut golden = vec![1u8, 0x81, 0xb0];
    golden.extend(b"CreatePartitions");
    golden.extend([0x84, 0xa4]);
    golden.extend(b"name\xa2ab\xa9new_total");
    golden.extend([0xcd, 0x01, 0x2c, 0xab]);
    golden.extend(b"assignments");
    golden.extend([0x91, 0x92, 1, 2, 0xa4]);
    golden.extend(b"seed\x07");
    assert_eq!(encode_command(&command).unwrap(), golden);
    assert_eq!(decode_command(&golden), Ok(command));
}

#[test]
fn fields_of_a_newer_version_are_passed_over_and_those_of_an_older_one_filled_in() {
    // CreateTopic without `internal`, as before that field, and with one that nobody knows yet.
    let mut bytes = vec![1u8, 0x81, 0xab];
    bytes.extend(b"CreateTopic");
    bytes.extend([0x86, 0xa4]);
    bytes.extend(b"name\xa1x\xa2id");
    bytes.extend([0xdc, 0, 16]);
    bytes.extend([3; 16]);
    bytes.extend(b"\xa9placement\x81\xa6Counts\x82\xaapartitions\x01\xb2replication_factor\x01");
    bytes.extend(b"\xa9overrides\x80\xa4seed\x00\xa6future\x92\xc0\xa1y");
    let Ok(Command::CreateTopic(command)) = decode_command(&bytes) else {
        panic!("{:?}", decode_command(&bytes));
    };
    assert_eq!((command.name.as_str(), command.id, command.internal), ("x", TopicId([3; 16]), false));
}

/// A snapshot and a command from before partitions could be moved, byte for byte as that version wrote them.
#[test]
fn a_snapshot_of_a_version_without_reassignments_stays_readable() {
    let mut old = b"\x01\x86\xa7version\x06\xaacluster_id\xa2c1\xadfeature_level\x01".to_vec();
    old.extend(b"\xb0next_producer_id\x00\xa7brokers\x91\x89\xa2id\x01\xa5epoch\x03\xabincarnation");
    old.extend([0xdc, 0, 16]);
    old.extend([1; 16]);
    old.extend(
        b"\xa8endpoint\x82\xa4host\xa1a\xa4port\x01\xb1internal_endpoint\x82\xa4host\xa1b\xa4port\x02",
    );
    old.extend(b"\xa4rack\xc0\xa8log_dirs\x91\xa1d\xa6fenced\xc2\xb6in_controlled_shutdown\xc2");
    old.extend(b"\xa6topics\x91\x85\xa2id");
    old.extend([0xdc, 0, 16]);
    old.extend([3; 16]);
    old.extend(b"\xa4name\xa1t\xa8internal\xc2\xa9overrides\x80\xaapartitions\x91\x85\xa6leader\x01");
    old.extend(b"\xacleader_epoch\x04\xafpartition_epoch\x05\xa8replicas\x91\x01\xa3isr\x91\x01");
    let image = decode_image(&old).unwrap();
    let partition = &image.topic("t").unwrap().partitions[0];
    let epochs = (partition.leader_epoch, partition.partition_epoch);
    assert_eq!((partition.leader, epochs), (BrokerId(1), (LeaderEpoch(4), PartitionEpoch(5))));
    assert!(partition.elr.is_empty() && !partition.is_reassigning() && !partition.lost);
    let broker = image.broker(BrokerId(1)).unwrap();
    assert!(!broker.draining && broker.needed_log_dirs.is_empty());
    assert_eq!(image.controllers().len(), 0);
    // What the partition and the broker have not, they do not write.
    let written = encode_image(&image);
    let has = |key: &[u8]| written.windows(key.len()).any(|window| window == key);
    assert!(![&b"elr"[..], b"adding", b"removing", b"lost", b"needed_log_dirs"].iter().any(|key| has(key)));

    let mut old = b"\x01\x81\xaeRegisterBroker\x87\xa2id\x01\xaacluster_id\xc0\xabincarnation".to_vec();
    old.extend([0xdc, 0, 16]);
    old.extend([1; 16]);
    old.extend(
        b"\xa8endpoint\x82\xa4host\xa1a\xa4port\x01\xb1internal_endpoint\x82\xa4host\xa1b\xa4port\x02",
    );
    old.extend(b"\xa4rack\xc0\xa8log_dirs\x91\xa1d");
    let Ok(Command::RegisterBroker(command)) = decode_command(&old) else {
        panic!("{:?}", decode_command(&old));
    };
    assert_eq!((command.id, command.clean_shutdown_epoch, command.damaged), (BrokerId(1), None, false));
}

#[test]
fn what_a_reassignment_adds_is_in_the_snapshot() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    let config = [("min.insync.replicas", "2")];
    cluster.run(Command::CreateTopic(topic("a", explicit(&[&[1, 2], &[3, 1]]), &config))).unwrap();
    cluster.reassign("a", 0, Some(&[1, 3])).unwrap();
    cluster.fence(3);
    cluster.fence(1);
    cluster.start_with_disks(1, 2, &["new-disk"]);
    cluster.start_with_disks(2, 2, &["new-disk-too"]);
    let states = [cluster.state("a", 0), cluster.state("a", 1), cluster.replicas("a", 0)];
    assert_eq!(states, ["-1 [2] lost 2/5", "-1 [3] 2/3", "1 3 2 +3 -2"]);
    assert_eq!(decode_image(&encode_image(&cluster.image)), Ok(cluster.image));
}

#[test]
fn what_is_no_command_is_refused() {
    let good = encode_command(&create("a", counts(1, 1))).unwrap();
    assert_eq!(decode_command(&[]), Err(CodecError::Empty));
    let mut newer = good.clone();
    newer[0] = 2;
    assert_eq!(decode_command(&newer), Err(CodecError::UnknownFormat { format: 2, known: 1 }));
    for end in 1..good.len() {
        assert!(matches!(decode_command(&good[..end]), Err(CodecError::Malformed(_))), "cut at {end}");
    }
    let mut longer = good.clone();
    longer.push(0xc0);
    assert_eq!(decode_command(&longer), Err(CodecError::Malformed("1 bytes follow the value".to_owned())));
    let long = vec![1; MAX_COMMAND_BYTES + 1];
    let too_large = CodecError::TooLarge { len: long.len(), limit: MAX_COMMAND_BYTES };
    assert_eq!(decode_command(&long), Err(too_large));
    // A name that is none, though the bytes are well-formed.
    let mut bytes = vec![1u8, 0x81, 0xab];
    bytes.extend(b"DeleteTopic\x81\xa5topic\x81\xa4Name\xa3a/b");
    let error = decode_command(&bytes).unwrap_err();
    assert!(error.to_string().contains("a topic name can only have"), "{error}");
}

#[test]
fn claimed_lengths_are_not_believed() {
    // An array, a map and a string of 4 Gi elements, and nesting without end.
    for body in [
        &b"\xdd\xff\xff\xff\xff"[..],
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ] {
        let mut bytes = vec![1u8, 0x81, 0xac];
        bytes.extend(b"ElectLeaders\x82\xaapartitions");
        bytes.extend(body);
        assert!(matches!(decode_command(&bytes), Err(CodecError::Malformed(_))));
        assert!(matches!(decode_image(&[&[1][..], body].concat()), Err(CodecError::Malformed(_))));
    }
    let deep = vec![0x91; MAX_COMMAND_BYTES - 1];
    assert!(decode_command(&[&[1][..], &deep].concat()).is_err());
    let mut unknown_field = b"\x01\x81\xacElectLeaders\x81\xa1x".to_vec();
    unknown_field.extend(vec![0x91; 100_000]);
    assert!(decode_command(&unknown_field).is_err());
}

#[test]
fn the_largest_assignment_fits_a_command() {
    let wide: Vec<BrokerId> =
        (10_000..10_000 + limits::MAX_REPLICATION_FACTOR as i32).map(BrokerId).collect();
    let assignments = vec![wide; limits::MAX_PARTITIONS_PER_TOPIC];
    let fits = Command::CreateTopic(topic("a", PlacementSpec::Explicit(assignments.clone()), &[]));
    assert!(encode_command(&fits).is_ok());
    let too_much =
        Command::CreateTopic(topic("a", PlacementSpec::Explicit(vec![assignments; 5].concat()), &[]));
    assert!(matches!(encode_command(&too_much), Err(CodecError::TooLarge { .. })));
}

#[test]
fn the_largest_batches_of_changes_fit_a_command() {
    let member = BrokerRef { id: BrokerId(100_000), epoch: BrokerEpoch(i64::MAX) };
    let change = IsrChange {
        topic_id: TopicId([255; 16]),
        partition: PartitionId(9_999),
        leader_epoch: LeaderEpoch(i32::MAX),
        partition_epoch: PartitionEpoch(i32::MAX),
        isr: vec![member; 10],
    };
    let changes = vec![change; limits::MAX_PARTITION_CHANGES];
    let alter = Command::AlterPartitions(AlterPartitions { broker: member, changes });
    let partition = TopicPartition::new(name(&"n".repeat(249)), PartitionId(9_999));
    let partitions = vec![partition.clone(); limits::MAX_ELECTIONS];
    let elect = Command::ElectLeaders(ElectLeaders { partitions, unclean: false });
    let replicas = Some(vec![BrokerId(100_000); limits::MAX_REPLICATION_FACTOR]);
    let moves = vec![PartitionMove { partition, replicas }; limits::MAX_PLANNED_MOVES];
    for command in [alter, elect, Command::ReassignPartitions(ReassignPartitions { moves })] {
        encode_command(&command).unwrap();
    }
}

#[test]
fn a_snapshot_is_the_image() {
    let image = sample();
    assert_eq!(decode_image(&encode_image(&image)), Ok(image.clone()));
    let empty = MetadataImage::new();
    assert_eq!(decode_image(&encode_image(&empty)), Ok(empty));
    assert_eq!(encode_image(&image), encode_image(&sample()), "equal images have equal bytes");
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let good = encode_image(&sample());
    for end in 0..good.len() {
        assert!(decode_image(&good[..end]).is_err(), "cut at {end}");
    }
    let replaced = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|window| window == from).unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    // A leader that is no replica; no ISR; a producer id below zero; a topic twice.
    let leader = good.windows(8).find(|window| window.starts_with(b"\xa6leader")).unwrap();
    for (from, to) in [
        (leader, &b"\xa6leader\x63"[..]),
        (b"\xb0next_producer_id\x00", b"\xb0next_producer_id\xff"),
        (b"\xa4name\xa1b", b"\xa4name\xa1a"),
    ] {
        let error = decode_image(&replaced(from, to)).unwrap_err();
        assert!(matches!(error, CodecError::Inconsistent(_) | CodecError::Malformed(_)), "{error}");
    }
    let mut newer = good.clone();
    newer[0] = 9;
    assert_eq!(decode_image(&newer), Err(CodecError::UnknownFormat { format: 9, known: 1 }));
}

#[test]
fn a_snapshot_with_a_key_of_another_version_stays_readable() {
    let mut cluster = Cluster::with_brokers(&[0]);
    cluster
        .run(Command::CreateTopic(topic("a", counts(1, 1), &[("retention.ms", "5"), ("segment.ms", "9")])))
        .unwrap();
    let bytes = encode_image(&cluster.image);
    let at = bytes.windows(12).position(|window| window == b"retention.ms").unwrap();
    let mut other = bytes.clone();
    other[at..at + 12].copy_from_slice(b"retention.xx");
    let image = decode_image(&other).unwrap();
    let topic = image.topic("a").unwrap();
    assert_eq!(topic.config.retention_ms, config::TopicConfig::default().retention_ms);
    assert_eq!((topic.config.segment_ms, topic.overrides["retention.xx"].as_str()), (9, "5"));
    // It is kept until it is removed, and can be.
    cluster.image = image;
    assert_eq!(cluster.refused(alter("a", &[("segment.ms", "1")], &[])).0, ErrorCode::InvalidConfig);
    cluster.run(alter("a", &[("segment.ms", "1")], &["retention.xx"])).unwrap();
}
