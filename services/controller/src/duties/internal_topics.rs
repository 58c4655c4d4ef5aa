//! The cluster's own topic is created as soon as somebody can serve and hold it.

use crate::quorum::Quorum;
use std::time::Duration;
use thalweg_core::config::Overrides;
use thalweg_core::group::OFFSETS_TOPIC;
use thalweg_core::metadata::command::{CreateTopic, PlacementSpec};
use thalweg_core::metadata::{Command, MetadataImage};
use thalweg_core::{TopicId, TopicName};

/// Pause before what the group did not take is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Bytes of a segment: small, so that the cleaner, which leaves the newest one alone, keeps what must be replayed short.
const SEGMENT_BYTES: &str = "104857600";

/// Bytes of a batch: a member with as many partitions as there are is one record.
const MESSAGE_BYTES: &str = "8388608";

/// How the topic of groups and their offsets shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetsTopic {
    /// Its partitions, for ever: where a group lives depends on their number.
    pub partitions: i32,
    /// Its replicas. It waits for as many brokers.
    pub replication_factor: i32,
}

/// Creates it for as long as this controller leads.
pub async fn run(quorum: &Quorum, wanted: OffsetsTopic) {
    let mut changed = quorum.published().feed.version();
    let mut told = None;
    loop {
        changed.borrow_and_update();
        let image = quorum.published().image();
        let next = next(&image, wanted);
        if told.replace(next) != Some(next) {
            tell(next, &image, wanted);
        }
        if next == Next::Create {
            match quorum.propose(&create(wanted, rand::random(), rand::random())).await {
                Ok(_) => tracing::info!(
                    topic = OFFSETS_TOPIC,
                    partitions = wanted.partitions,
                    replication_factor = wanted.replication_factor,
                    "internal topic created"
                ),
                Err(error) => {
                    tracing::warn!(topic = OFFSETS_TOPIC, %error, "internal topic not created yet; trying again");
                    tokio::time::sleep(TRY_AGAIN).await;
                    continue;
                }
            }
        }
        if changed.changed().await.is_err() {
            // Without the node this duty ends with the leadership.
            return std::future::pending().await;
        }
    }
}

/// What is to be done about the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It is there.
    Nothing,
    /// Nobody would serve it.
    AwaitCoordinator,
    /// Too few brokers could hold it.
    AwaitBrokers,
    /// A user has a topic of that name, from before it was reserved.
    NameTaken,
    /// Its time has come.
    Create,
}

fn next(image: &MetadataImage, wanted: OffsetsTopic) -> Next {
    match image.topic(OFFSETS_TOPIC) {
        Some(topic) if topic.internal => Next::Nothing,
        Some(_) => Next::NameTaken,
        None if image.coordinators().len() == 0 => Next::AwaitCoordinator,
        None if takers(image) < usize::try_from(wanted.replication_factor).unwrap_or(usize::MAX) => {
            Next::AwaitBrokers
        }
        None => Next::Create,
    }
}

/// Brokers that could hold a replica.
fn takers(image: &MetadataImage) -> usize {
    image.brokers().filter(|broker| broker.takes_replicas()).count()
}

/// Says once what it waits for.
fn tell(next: Next, image: &MetadataImage, wanted: OffsetsTopic) {
    match next {
        Next::AwaitBrokers => tracing::warn!(
            topic = OFFSETS_TOPIC,
            brokers = takers(image),
            needed = wanted.replication_factor,
            "groups wait for more brokers: their topic needs one for each replica; start them, or set a smaller replication factor for it"
        ),
        Next::NameTaken => tracing::error!(
            topic = OFFSETS_TOPIC,
            "groups cannot be served: a user's topic has the name of the cluster's own; delete it"
        ),
        Next::Nothing | Next::AwaitCoordinator | Next::Create => {}
    }
}

fn create(wanted: OffsetsTopic, id: [u8; 16], seed: u64) -> Command {
    let OffsetsTopic { partitions, replication_factor } = wanted;
    let min_insync = if replication_factor >= 3 { "2" } else { "1" };
    let overrides: Overrides = [
        ("cleanup.policy", "compact"),
        ("compression.type", "producer"),
        ("max.message.bytes", MESSAGE_BYTES),
        ("min.insync.replicas", min_insync),
        ("segment.bytes", SEGMENT_BYTES),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    Command::CreateTopic(CreateTopic {
        name: TopicName::new(OFFSETS_TOPIC).expect("the constant has only letters and underscores"),
        id: TopicId(id),
        placement: PlacementSpec::Counts { partitions, replication_factor },
        overrides,
        seed,
        internal: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::metadata::apply;
    use thalweg_core::metadata::command::{
        BrokerRef, DrainBroker, InitCluster, RegisterBroker, RegisterCoordinator,
    };
    use thalweg_core::{BrokerEpoch, BrokerId, ClusterId, CoordinatorId, MetadataVersion};

    const WANTED: OffsetsTopic = OffsetsTopic { partitions: 5, replication_factor: 3 };

    fn run(image: &mut MetadataImage, command: Command) {
        let version = MetadataVersion(image.version().get() + 1);
        apply(image, version, &command).unwrap();
    }

    fn founded() -> MetadataImage {
        let mut image = MetadataImage::new();
        let init = InitCluster { cluster_id: ClusterId("x".into()), feature_level: 1 };
        run(&mut image, Command::InitCluster(init));
        image
    }

    fn broker(image: &mut MetadataImage, id: i32) {
        let id = BrokerId(id);
        let register = RegisterBroker {
            id,
            cluster_id: None,
            incarnation: [1; 16],
            endpoint: "b:1".parse().unwrap(),
            internal_endpoint: "b:2".parse().unwrap(),
            rack: None,
            log_dirs: vec![format!("disk-of-{id}")],
            clean_shutdown_epoch: None,
            damaged: false,
        };
        run(image, Command::RegisterBroker(register));
        let epoch = BrokerEpoch(image.version().get() as i64);
        run(image, Command::UnfenceBroker(BrokerRef { id, epoch }));
    }

    fn coordinator(image: &mut MetadataImage) {
        let register = RegisterCoordinator {
            id: CoordinatorId(0),
            cluster_id: None,
            incarnation: [1; 16],
            endpoint: "c:1".parse().unwrap(),
            rack: None,
        };
        run(image, Command::RegisterCoordinator(register));
    }

    #[test]
    fn it_waits_for_a_coordinator_and_for_brokers() {
        let mut image = founded();
        (0..3).for_each(|id| broker(&mut image, id));
        assert_eq!(next(&image, WANTED), Next::AwaitCoordinator);
        coordinator(&mut image);
        run(&mut image, Command::DrainBroker(DrainBroker { id: BrokerId(1), cancel: false }));
        assert_eq!(next(&image, WANTED), Next::AwaitBrokers, "one that is drained takes nothing");
        broker(&mut image, 7);
        assert_eq!(next(&image, WANTED), Next::Create);
        run(&mut image, create(WANTED, [1; 16], 2));
        assert_eq!(next(&image, WANTED), Next::Nothing);
        let topic = image.topic(OFFSETS_TOPIC).unwrap();
        assert!(topic.internal);
        assert_eq!((topic.partitions.len(), topic.replication_factor()), (5, 3));
        assert_eq!((topic.config.min_insync_replicas, topic.config.segment_bytes), (2, 100 << 20));
        assert_eq!(topic.overrides["cleanup.policy"], "compact");
        assert_eq!(topic.config.max_message_bytes, 8 << 20);
        assert!(image.leases().all(|(_, lease)| lease.coordinator == Some(CoordinatorId(0))));
        assert_eq!(image.leases().len(), 5);
    }

    #[test]
    fn one_broker_is_enough_where_one_replica_is() {
        let wanted = OffsetsTopic { partitions: 1, replication_factor: 1 };
        let mut image = founded();
        broker(&mut image, 0);
        coordinator(&mut image);
        run(&mut image, create(wanted, [1; 16], 2));
        let topic = image.topic(OFFSETS_TOPIC).unwrap();
        assert_eq!((topic.config.min_insync_replicas, topic.replication_factor()), (1, 1));
    }

    #[test]
    fn a_users_topic_is_left_alone() {
        let mut image = founded();
        broker(&mut image, 0);
        let Command::CreateTopic(topic) = create(WANTED, [1; 16], 2) else { unreachable!() };
        let placement = PlacementSpec::Counts { partitions: 1, replication_factor: 1 };
        let users = CreateTopic { internal: false, placement, overrides: Overrides::new(), ..topic };
        run(&mut image, Command::CreateTopic(users));
        assert_eq!(next(&image, WANTED), Next::NameTaken);
    }
}
