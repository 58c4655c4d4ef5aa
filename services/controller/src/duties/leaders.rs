//! Leaderships go back to the preferred replicas when too many are elsewhere, as after a restart of brokers.

use crate::quorum::{Proposed, Quorum};
use std::time::Duration;
use thalweg_core::metadata::balance::leader_imbalance;
use thalweg_core::metadata::command::ElectLeaders;
use thalweg_core::metadata::{Command, MetadataImage, Response};

/// Pause before leaderships that did not go back are looked at again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Looks every `interval` for as long as this controller leads; never if that is zero.
pub async fn run(quorum: &Quorum, interval: Duration, percent: u32) {
    if interval.is_zero() {
        return std::future::pending().await;
    }
    let mut pause = interval;
    loop {
        tokio::time::sleep(pause).await;
        let command = back_to_preferred(&quorum.published().image(), percent);
        let done = match &command {
            Some(command) => note(quorum.propose(command).await),
            None => true,
        };
        pause = if done { interval } else { interval.min(TRY_AGAIN) };
    }
}

/// Moves leaderships to their preferred replicas; `None` when that is where they are.
pub fn back_to_preferred(image: &MetadataImage, percent: u32) -> Option<Command> {
    let partitions = leader_imbalance(image, percent);
    // No partitions would be all of them.
    (!partitions.is_empty()).then_some(Command::ElectLeaders(ElectLeaders { partitions, unclean: false }))
}

/// Logs what came of it; `false` if that must be tried again.
pub fn note(outcome: Proposed) -> bool {
    match outcome {
        Ok((_, Response::Elected(moved))) => {
            tracing::info!(partitions = moved.len(), "leaderships went back to their preferred replicas");
            true
        }
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "leaderships are not balanced yet; trying again");
            false
        }
    }
}
