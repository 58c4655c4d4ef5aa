//! The metadata as clients are told it.

use crate::node::unknown_topic;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use thalweg_core::config::CATALOGUE;
use thalweg_core::group::OFFSETS_TOPIC;
use thalweg_core::metadata::balance::stuck_drains;
use thalweg_core::metadata::{BrokerRegistration, CoordinatorRegistration, MetadataImage, TopicImage};
use thalweg_core::{BrokerId, CoordinatorId, TopicName};
pub use thalweg_proto::convert::topic;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::{ApiError, v1};

/// Names in one request.
pub const MAX_NAMES: usize = 10_000;
/// Names on one page of a list, if the request does not say.
const DEFAULT_PAGE: usize = 1_000;

/// One broker.
pub fn broker(broker: &BrokerRegistration) -> v1::Broker {
    v1::Broker {
        id: broker.id.get(),
        endpoint: broker.endpoint.to_string(),
        rack: broker.rack.clone().unwrap_or_default(),
        fenced: broker.fenced,
        epoch: broker.epoch.get(),
        stopping: broker.in_controlled_shutdown,
        draining: broker.draining,
        replica_count: 0,
        leader_count: 0,
        drain_nowhere_to_go: 0,
        drain_offline: 0,
    }
}

/// The coordinators, by id.
fn coordinators(image: &MetadataImage) -> Vec<v1::Coordinator> {
    let mut shards: BTreeMap<CoordinatorId, u32> = BTreeMap::new();
    for owner in image.leases().filter_map(|(_, lease)| lease.coordinator) {
        *shards.entry(owner).or_default() += 1;
    }
    let described = |known: &Arc<CoordinatorRegistration>| v1::Coordinator {
        id: known.id.get(),
        endpoint: known.endpoint.to_string(),
        rack: known.rack.clone().unwrap_or_default(),
        fenced: known.fenced,
        stopping: known.in_controlled_shutdown,
        epoch: known.epoch.get(),
        shard_count: shards.get(&known.id).copied().unwrap_or(0),
    };
    image.coordinators().map(described).collect()
}

/// The named topics, each once however often it is named, or all that are not internal: the cluster bounds how many there
/// are. Names that do not exist have an error.
pub fn topics(image: &MetadataImage, names: &[String]) -> Result<Vec<v1::DescribeTopicResult>, ApiError> {
    if names.len() > MAX_NAMES {
        return Err(ApiError::invalid("names", format!("name at most {MAX_NAMES} topics")));
    }
    if names.is_empty() {
        let all = image.topics().filter(|topic| !topic.internal);
        return Ok(all.map(|found| described(found)).collect());
    }
    let mut seen = HashSet::with_capacity(names.len());
    Ok(names
        .iter()
        .filter(|name| seen.insert(name.as_str()))
        .map(|name| match image.topic(name) {
            Some(found) => described(found),
            None => v1::DescribeTopicResult {
                name: name.clone(),
                topic: None,
                error: Some(unknown_topic(name).to_proto()),
            },
        })
        .collect())
}

fn described(found: &TopicImage) -> v1::DescribeTopicResult {
    v1::DescribeTopicResult { name: found.name.to_string(), topic: Some(topic(found)), error: None }
}

/// One page of names.
pub fn list(
    image: &MetadataImage,
    request: &v1::ListTopicsRequest,
) -> Result<v1::ListTopicsResponse, ApiError> {
    let size = match request.page_size as usize {
        0 => DEFAULT_PAGE,
        size if size > MAX_NAMES => {
            return Err(ApiError::invalid("page_size", format!("at most {MAX_NAMES} names on one page")));
        }
        size => size,
    };
    // The token is the last name of the page before.
    if !request.page_token.is_empty() && TopicName::new(&request.page_token).is_err() {
        return Err(ApiError::invalid("page_token", "not a next_page_token of an earlier answer"));
    }
    let mut rest = image
        .topics_after(&request.page_token)
        .filter(|topic| request.include_internal || !topic.internal)
        .peekable();
    let topics: Vec<_> = rest
        .by_ref()
        .take(size)
        .map(|topic| v1::TopicListing {
            name: topic.name.to_string(),
            topic_id: topic.id.to_string(),
            partition_count: count(topic.partitions.len()),
            replication_factor: count(topic.replication_factor()),
            internal: topic.internal,
        })
        .collect();
    let next_page_token = match (rest.peek(), topics.last()) {
        (Some(_), Some(last)) => last.name.clone(),
        _ => String::new(),
    };
    Ok(v1::ListTopicsResponse { topics, next_page_token })
}

/// What a client needs to send straight to leaders.
pub fn metadata(image: &MetadataImage, names: &[String]) -> Result<v1::MetadataResponse, ApiError> {
    Ok(v1::MetadataResponse {
        cluster_id: image.cluster_id().map(ToString::to_string).unwrap_or_default(),
        version: image.version().get(),
        brokers: image.brokers().filter(|broker| !broker.fenced).map(|found| broker(found)).collect(),
        topics: topics(image, names)?,
    })
}

/// The whole configuration of a topic, or the defaults when `name` is empty.
pub fn configs(image: &MetadataImage, name: &str) -> Result<v1::DescribeConfigsResponse, ApiError> {
    let overrides = match name {
        "" => None,
        name => Some(&image.topic(name).ok_or_else(|| unknown_topic(name))?.overrides),
    };
    let configs = CATALOGUE.iter().map(|key| {
        let set = overrides.and_then(|overrides| overrides.get(key.name));
        v1::ConfigEntry {
            name: key.name.to_owned(),
            value: set.cloned().unwrap_or_else(|| key.default.to_owned()),
            default_value: key.default.to_owned(),
            is_overridden: set.is_some(),
            unit: key.unit.to_string(),
            documentation: key.doc.to_owned(),
        }
    });
    Ok(v1::DescribeConfigsResponse { configs: configs.collect() })
}

/// The cluster in numbers; the controllers are filled in by whoever knows them.
pub fn cluster(image: &MetadataImage) -> v1::DescribeClusterResponse {
    let mut brokers: BTreeMap<BrokerId, v1::Broker> =
        image.brokers().map(|found| (found.id, broker(found))).collect();
    let (mut under_replicated, mut offline) = (0, 0);
    for partition in image.topics().flat_map(|topic| topic.partitions.iter()) {
        under_replicated += u32::from(partition.is_under_replicated());
        offline += u32::from(!partition.is_online());
        for replica in &partition.replicas {
            if let Some(broker) = brokers.get_mut(replica) {
                broker.replica_count += 1;
            }
        }
        if let Some(leader) = brokers.get_mut(&partition.leader) {
            leader.leader_count += 1;
        }
    }
    // Only for drains: it looks at every partition once more.
    if image.brokers().any(|broker| broker.draining) {
        for (id, stuck) in stuck_drains(image) {
            if let Some(broker) = brokers.get_mut(&id) {
                broker.drain_nowhere_to_go = total(stuck.nowhere_to_go);
                broker.drain_offline = total(stuck.offline);
            }
        }
    }
    v1::DescribeClusterResponse {
        cluster_id: image.cluster_id().map(ToString::to_string).unwrap_or_default(),
        brokers: brokers.into_values().collect(),
        metadata_version: image.version().get(),
        topic_count: total(image.topics().len()),
        partition_count: total(image.partition_count()),
        under_replicated_partitions: under_replicated,
        offline_partitions: offline,
        coordinators: coordinators(image),
        ..Default::default()
    }
}

/// What groups wait for, when their topic shall have `needed` replicas; 0: nobody knows.
pub fn groups_wait(image: &MetadataImage, needed: u32) -> Option<v1::GroupsWait> {
    let brokers = total(image.brokers().filter(|broker| broker.takes_replicas()).count());
    let is_open = image.topic(OFFSETS_TOPIC).is_none() && image.coordinators().len() > 0;
    (is_open && brokers < needed).then_some(v1::GroupsWait { brokers, needed_brokers: needed })
}

/// Controllers by id: those of the Raft group, and those that the metadata knows.
pub fn controllers(image: &MetadataImage, quorum: &internal::DescribeQuorumResponse) -> Vec<v1::Controller> {
    let voters: BTreeSet<u64> = quorum.voters.iter().copied().collect();
    let known: BTreeMap<u64, String> =
        image.controllers().map(|(id, endpoint)| (id.get(), endpoint.to_string())).collect();
    let ids: BTreeSet<u64> = voters.iter().chain(&quorum.learners).chain(known.keys()).copied().collect();
    let endpoint = |id: u64| match known.get(&id) {
        Some(endpoint) => endpoint.clone(),
        None if id == quorum.leader_id => quorum.leader_endpoint.clone(),
        None => String::new(),
    };
    let described = |id| v1::Controller { id, voter: voters.contains(&id), endpoint: endpoint(id) };
    ids.into_iter().map(described).collect()
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn total(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::group::OFFSETS_TOPIC;
    use thalweg_core::metadata::command::{
        BrokerRef, CoordinatorRef, CreateTopic, DrainBroker, InitCluster, PlacementSpec, PutController,
        RegisterBroker, RegisterCoordinator,
    };
    use thalweg_core::metadata::{Command, Response, apply};
    use thalweg_core::{ClusterId, CoordinatorEpoch, MetadataVersion, NodeId, TopicId};

    fn image(topics: u32) -> MetadataImage {
        let (mut image, mut version) = (MetadataImage::new(), 0);
        let mut propose = |command| {
            version += 1;
            apply(&mut image, MetadataVersion(version), &command).unwrap()
        };
        let cluster_id = ClusterId("c".into());
        propose(Command::InitCluster(InitCluster { cluster_id, feature_level: 1 }));
        let id = BrokerId(0);
        let registered = propose(Command::RegisterBroker(RegisterBroker {
            id,
            cluster_id: None,
            incarnation: [1; 16],
            endpoint: "127.0.0.1:1".parse().unwrap(),
            internal_endpoint: "127.0.0.1:2".parse().unwrap(),
            rack: None,
            log_dirs: vec!["d".into()],
            clean_shutdown_epoch: None,
            damaged: false,
        }));
        let Response::BrokerRegistered { epoch } = registered else { panic!("{registered:?}") };
        propose(Command::UnfenceBroker(BrokerRef { id, epoch }));
        for n in 0..topics {
            propose(Command::CreateTopic(CreateTopic {
                name: TopicName::new(&format!("t{n}")).unwrap(),
                id: TopicId((u128::from(n) + 1).to_be_bytes()),
                placement: PlacementSpec::Counts { partitions: 1, replication_factor: 1 },
                overrides: Default::default(),
                seed: 0,
                internal: false,
            }));
        }
        image
    }

    #[test]
    fn a_topic_is_described_once_however_often_it_is_named() {
        let names: Vec<String> = ["t0", "x", "t0", "x", "t1", "t0"].map(str::to_owned).into();
        let found = topics(&image(2), &names).unwrap();
        let names: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["t0", "x", "t1"]);
        assert!(topics(&image(1), &vec!["t0".to_owned(); MAX_NAMES + 1]).is_err());
    }

    #[test]
    fn without_names_no_topic_is_left_out() {
        let many = u32::try_from(MAX_NAMES).unwrap() + 1;
        assert_eq!(topics(&image(many), &[]).unwrap().len(), many as usize);
    }

    #[test]
    fn brokers_are_described_with_what_they_hold() {
        let found = cluster(&image(3));
        assert_eq!((found.brokers[0].replica_count, found.brokers[0].leader_count), (3, 3));
        assert_eq!((found.partition_count, found.offline_partitions), (3, 0));
    }

    #[test]
    fn groups_wait_for_as_many_brokers_as_their_topic_has_replicas() {
        let mut image = image(0);
        assert_eq!(groups_wait(&image, 3), None, "nobody would serve them");
        let register = RegisterCoordinator {
            id: CoordinatorId(7),
            cluster_id: None,
            incarnation: [1; 16],
            endpoint: "127.0.0.1:3".parse().unwrap(),
            rack: None,
        };
        apply(&mut image, MetadataVersion(100), &Command::RegisterCoordinator(register)).unwrap();
        assert_eq!(groups_wait(&image, 3), Some(v1::GroupsWait { brokers: 1, needed_brokers: 3 }));
        assert_eq!(groups_wait(&image, 1), None, "it is about to be created");
        let topic = CreateTopic {
            name: TopicName::new(OFFSETS_TOPIC).unwrap(),
            id: TopicId([9; 16]),
            placement: PlacementSpec::Counts { partitions: 1, replication_factor: 1 },
            overrides: Default::default(),
            seed: 0,
            internal: true,
        };
        apply(&mut image, MetadataVersion(101), &Command::CreateTopic(topic)).unwrap();
        assert_eq!(groups_wait(&image, 3), None);
    }

    #[test]
    fn a_drain_that_cannot_end_says_so() {
        let mut image = image(3);
        let drain = DrainBroker { id: BrokerId(0), cancel: false };
        apply(&mut image, MetadataVersion(100), &Command::DrainBroker(drain)).unwrap();
        let found = cluster(&image);
        assert!(found.brokers[0].draining);
        assert_eq!((found.brokers[0].drain_nowhere_to_go, found.brokers[0].drain_offline), (3, 0));
    }

    #[test]
    fn coordinators_are_described_with_their_shards() {
        let mut image = image(0);
        let offsets = CreateTopic {
            name: TopicName::new(OFFSETS_TOPIC).unwrap(),
            id: TopicId([1; 16]),
            placement: PlacementSpec::Counts { partitions: 3, replication_factor: 1 },
            overrides: Default::default(),
            seed: 0,
            internal: true,
        };
        let register = |id: i32| {
            Command::RegisterCoordinator(RegisterCoordinator {
                id: CoordinatorId(id),
                cluster_id: None,
                incarnation: [1; 16],
                endpoint: format!("c{id}:1").parse().unwrap(),
                rack: Some("r".to_owned()),
            })
        };
        let stop = CoordinatorRef { id: CoordinatorId(7), epoch: CoordinatorEpoch(102) };
        let commands = [
            Command::CreateTopic(offsets),
            register(4),
            register(7),
            register(5),
            Command::BeginCoordinatorShutdown(stop),
        ];
        for (version, command) in (100..).zip(commands) {
            apply(&mut image, MetadataVersion(version), &command).unwrap();
        }
        let found = cluster(&image).coordinators;
        let shards: Vec<_> = found.iter().map(|one| (one.id, one.shard_count, one.stopping)).collect();
        assert_eq!(shards, [(4, 2, false), (5, 1, false), (7, 0, true)]);
        assert_eq!((found[0].endpoint.as_str(), found[0].rack.as_str(), found[0].epoch), ("c4:1", "r", 101));
    }

    #[test]
    fn controllers_are_those_of_the_group_and_of_the_metadata() {
        let mut image = image(0);
        let put = PutController { id: NodeId(2), endpoint: "b:1".parse().unwrap() };
        apply(&mut image, MetadataVersion(100), &Command::PutController(put)).unwrap();
        let quorum = internal::DescribeQuorumResponse {
            leader_id: 1,
            leader_endpoint: "a:1".into(),
            voters: vec![2, 1],
            learners: vec![3],
            ..Default::default()
        };
        let found: Vec<_> = controllers(&image, &quorum)
            .into_iter()
            .map(|controller| (controller.id, controller.voter, controller.endpoint))
            .collect();
        assert_eq!(found, [(1, true, "a:1".into()), (2, true, "b:1".into()), (3, false, String::new())]);
    }
}
