//! Leaderships go back to the preferred replicas when too many are elsewhere, as after a restart of brokers.

use crate::quorum::Quorum;
use std::collections::BTreeMap;
use std::time::Duration;
use thalweg_core::metadata::command::ElectLeaders;
use thalweg_core::metadata::limits::MAX_ELECTIONS;
use thalweg_core::metadata::{Command, MetadataImage, Response};
use thalweg_core::{BrokerId, TopicPartition};

/// Looks every `interval` for as long as this controller leads; never if that is zero.
pub async fn run(quorum: &Quorum, interval: Duration, percent: u32) {
    if interval.is_zero() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(interval).await;
        let partitions = plan(&quorum.published().image(), percent);
        if partitions.is_empty() {
            continue;
        }
        let command = Command::ElectLeaders(ElectLeaders { partitions, unclean: false });
        match quorum.propose(&command).await {
            Ok((_, Response::Elected(moved))) => {
                tracing::info!(partitions = moved.len(), "leaderships went back to their preferred replicas");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "leaderships are not balanced yet"),
        }
    }
}

/// The partitions to be led by their preferred replica: all that could be, of the brokers that are missing more than `percent`
/// of the leaderships they should have. At most [`MAX_ELECTIONS`].
pub fn plan(image: &MetadataImage, percent: u32) -> Vec<TopicPartition> {
    let active = |id: BrokerId| image.broker(id).is_some_and(|broker| broker.is_active());
    let mut missing: BTreeMap<BrokerId, (usize, Vec<TopicPartition>)> = BTreeMap::new();
    for topic in image.topics() {
        for (index, partition) in topic.partitions() {
            let preferred = partition.preferred_leader();
            let of = missing.entry(preferred).or_default();
            of.0 += 1;
            if partition.leader != preferred && active(preferred) && partition.isr.contains(&preferred) {
                of.1.push(TopicPartition::new(topic.name.clone(), index));
            }
        }
    }
    let too_many = |(all, elsewhere): &(usize, Vec<TopicPartition>)| {
        elsewhere.len() as u64 * 100 > *all as u64 * u64::from(percent)
    };
    missing.into_values().filter(too_many).flat_map(|(_, elsewhere)| elsewhere).take(MAX_ELECTIONS).collect()
}
