//! Feature levels: what a level lets in, and how it is raised.

use super::coordinators::coordinator;
use super::*;
use crate::metadata::codec::*;
use crate::metadata::features::*;
use crate::metadata::image::FEATURE_LEVEL;

const REFUSED: ErrorCode = ErrorCode::IncompatibleFeatureLevel;

/// A cluster as 0.1.0 founded it.
fn at_level_1() -> Cluster {
    let mut cluster = Cluster { image: MetadataImage::new() };
    cluster
        .run(Command::InitCluster(InitCluster { cluster_id: ClusterId("c1".into()), feature_level: 1 }))
        .unwrap();
    cluster
}

#[test]
fn a_level_is_raised_for_the_processes_that_were_asked() {
    let mut cluster = at_level_1();
    cluster.start(0, 1);
    cluster.run(Command::RegisterCoordinator(coordinator(5, 1))).unwrap();
    cluster.run(Command::RegisterCoordinator(coordinator(6, 1))).unwrap();
    let asked = finalize(&cluster.image, 2);

    // A broker starts anew, or comes; a coordinator too.
    let mut other = Cluster { image: cluster.image.clone() };
    other.start(0, 2);
    assert_eq!(other.refused(asked.clone()).0, REFUSED);
    let mut other = Cluster { image: cluster.image.clone() };
    other.run(register(1, 1)).unwrap();
    let (code, message) = other.refused(asked.clone());
    assert_eq!(code, REFUSED);
    assert!(message.contains("broker 1 has registered meanwhile"), "{message}");
    let mut other = Cluster { image: cluster.image.clone() };
    other.run(Command::RegisterCoordinator(coordinator(6, 2))).unwrap();
    assert_eq!(other.refused(asked.clone()).0, REFUSED);
    assert_eq!(other.image.feature_level(), 1);

    // One that went since is no hindrance.
    let gone = cluster.image.coordinator(CoordinatorId(6)).unwrap();
    let gone = CoordinatorRef { id: gone.id, epoch: gone.epoch };
    cluster.run(Command::FenceCoordinator(gone)).unwrap();
    assert_eq!(cluster.run(asked.clone()), Ok(Response::Done));
    assert_eq!(cluster.image.feature_level(), 2);
    assert_eq!(cluster.run(asked), Ok(Response::Done), "the same again");
    assert_eq!(decode_image(&encode_image(&cluster.image)).unwrap().feature_level(), 2);
}

#[test]
fn a_level_is_never_lowered_nor_raised_beyond_what_is_known() {
    let mut cluster = Cluster::with_brokers(&[0]);
    assert_eq!(cluster.image.feature_level(), FEATURE_LEVEL, "new clusters begin at the newest");
    let (code, message) = cluster.refused(finalize(&cluster.image.clone(), 1));
    assert_eq!(code, REFUSED);
    assert!(message.contains("never lowered"), "{message}");
    let newer = finalize(&cluster.image, FEATURE_LEVEL + 1);
    assert_eq!(cluster.refused(newer.clone()).0, REFUSED);

    // To read it at all would be to pass over it: whoever cannot follow must stop instead.
    let bytes = encode_command(&newer).unwrap();
    let level = FEATURE_LEVEL + 1;
    assert_eq!(decode_command(&bytes), Err(CodecError::UnsupportedLevel { level }));
    let mut image = encode_image(&cluster.image);
    let at = image.windows(14).position(|window| window.starts_with(b"\xadfeature_level")).unwrap();
    assert_eq!(u16::from(image[at + 14]), FEATURE_LEVEL);
    image[at + 14] = level as u8;
    let error = decode_image(&image).unwrap_err();
    assert_eq!((error.clone(), error.code()), (CodecError::UnsupportedLevel { level }, REFUSED));
}

#[test]
fn a_command_waits_for_its_level() {
    let everything_old = Command::DrainBroker(DrainBroker { id: BrokerId(1), cancel: false });
    assert!(everything_old.check_level(1).is_ok());
    let raise = finalize(&MetadataImage::new(), 2);
    assert!(raise.check_level(1).is_ok(), "it comes before what it brings");
    for level in 1..=FEATURE_LEVEL {
        assert!(raise.needs_level() <= level);
    }
    assert_eq!(WHAT_LEVELS_BRING.len(), usize::from(FEATURE_LEVEL));
}

#[test]
fn a_process_is_admitted_if_it_supports_the_level() {
    let levels = |min, max| FeatureLevels { min, max };
    assert_eq!(FeatureLevels::said(0, 0), Some(FeatureLevels::UNSAID));
    assert_eq!(FeatureLevels::said(1, 3), Some(levels(1, 3)));
    assert_eq!([(2, 1), (0, 2), (1, 65_536)].map(|(min, max)| FeatureLevels::said(min, max)), [None; 3]);
    assert!(FeatureLevels::OURS.admit("broker 1", FEATURE_LEVEL).is_ok());
    assert!(FeatureLevels::UNSAID.admit("controller 1", 0).is_ok(), "not founded yet");
    let old = FeatureLevels::UNSAID.admit("broker 1", 2).unwrap_err();
    assert_eq!(old.code, REFUSED);
    assert_eq!(
        old.message,
        "the cluster is at feature level 2, broker 1 supports level 1; it is too old: start it with a newer version of the program"
    );
    let new = levels(3, 4).admit("broker 1", 2).unwrap_err();
    assert!(
        new.message.contains("broker 1 supports levels 3 to 4; the cluster is too old for it"),
        "{}",
        new.message
    );
}

/// The bytes of the command, for ever.
#[test]
fn the_command_has_its_form() {
    let command = Command::FinalizeFeatureLevel(FinalizeFeatureLevel {
        level: 2,
        brokers: vec![BrokerRef { id: BrokerId(1), epoch: BrokerEpoch(7) }],
        coordinators: vec![CoordinatorRef { id: CoordinatorId(5), epoch: CoordinatorEpoch(9) }],
    });
    let mut golden =
        b"\x01\x81\xb4FinalizeFeatureLevel\x83\xa5level\x02\xa7brokers\x91\x82\xa2id\x01\xa5epoch\x07"
            .to_vec();
    golden.extend(b"\xaccoordinators\x91\x82\xa2id\x05\xa5epoch\x09");
    assert_eq!(encode_command(&command).unwrap(), golden);
    assert_eq!(decode_command(&golden), Ok(command));
}

/// A snapshot of a cluster at level 1, byte for byte as 0.1.0 wrote and read it: below level 2 nothing else may be in it.
#[test]
fn a_snapshot_of_level_1_is_what_it_was() {
    let mut golden = b"\x01\x87\xa7version\x07\xaacluster_id\xa2c1\xadfeature_level\x01".to_vec();
    golden.extend(b"\xb0next_producer_id\x00\xa7brokers\x91\x8a\xa2id\x03\xa5epoch\x03\xabincarnation");
    golden.extend([0xdc, 0, 16]);
    golden.extend([1; 16]);
    golden.extend(b"\xa8endpoint\x82\xa4host\xaebroker.example\xa4port\xcd\x24\x4c");
    golden.extend(b"\xb1internal_endpoint\x82\xa4host\xa810.0.0.1\xa4port\xcd\x24\x4d");
    golden.extend(b"\xa4rack\xc0\xa8log_dirs\x91\xa9disk-of-3\xa6fenced\xc2\xb6in_controlled_shutdown\xc2");
    golden.extend(b"\xa8draining\xc2\xa6topics\x90\xabcontrollers\x91\x92\x01\x82\xa4host\xa1a\xa4port\x09");
    let mut cluster = at_level_1();
    cluster.start(3, 1);
    let at = Endpoint::new("a", 9).unwrap();
    cluster.run(Command::PutController(PutController { id: NodeId(1), endpoint: at })).unwrap();
    let written = encode_image(&cluster.image);
    assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&golden));
    assert_eq!(written, golden);
    assert_eq!(decode_image(&golden), Ok(cluster.image));
}
