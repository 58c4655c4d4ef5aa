//! Leaderships go back to the preferred replicas when too many are elsewhere, as after a restart of brokers.

use crate::quorum::Quorum;
use std::time::Duration;
use thalweg_core::TopicPartition;
use thalweg_core::metadata::balance::leader_imbalance;
use thalweg_core::metadata::command::ElectLeaders;
use thalweg_core::metadata::{Command, Response};

/// Looks every `interval` for as long as this controller leads; never if that is zero.
pub async fn run(quorum: &Quorum, interval: Duration, percent: u32) {
    if interval.is_zero() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(interval).await;
        let partitions = leader_imbalance(&quorum.published().image(), percent);
        elect(quorum, partitions).await;
    }
}

/// Moves leaderships to the preferred replicas of these partitions; no partitions are none here, not all.
pub async fn elect(quorum: &Quorum, partitions: Vec<TopicPartition>) {
    if partitions.is_empty() {
        return;
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
