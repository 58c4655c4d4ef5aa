//! Replicas move off brokers that are drained, and to brokers that have less than their share.

use super::leaders;
use crate::quorum::Quorum;
use std::time::Duration;
use thalweg_core::metadata::balance::{BalanceLimits, leader_imbalance, plan};
use thalweg_core::metadata::command::ReassignPartitions;
use thalweg_core::metadata::{Command, MetadataImage, Response};
use thalweg_runtime::blocking;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Begins moves for as long as this controller leads. What it began goes on without it.
pub async fn run(quorum: &Quorum, limits: BalanceLimits) {
    let mut changed = quorum.published().feed.version();
    // A leader before this one may have begun moves.
    let mut leaders_owed = is_moving(&quorum.published().image());
    loop {
        changed.borrow_and_update();
        let image = quorum.published().image();
        let planned = blocking::run({
            let image = image.clone();
            move || plan(&image, &limits)
        });
        match planned.await {
            Ok(moves) if !moves.is_empty() => {
                leaders_owed = true;
                let count = moves.len();
                let command = Command::ReassignPartitions(ReassignPartitions { moves });
                match quorum.propose(&command).await {
                    Ok((_, Response::Moves(outcomes))) => {
                        let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).next();
                        tracing::info!(
                            partitions = count,
                            refused = refused.map(tracing::field::display),
                            "partitions move"
                        );
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "partitions do not move yet"),
                }
            }
            Ok(_) if leaders_owed && !is_moving(&image) => {
                leaders_owed = false;
                leaders::elect(quorum, leader_imbalance(&image, 0)).await;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the planner of moves died"),
        }
        tokio::time::sleep(PAUSE).await;
        if changed.changed().await.is_err() {
            // Without the node this duty ends with the leadership.
            return std::future::pending().await;
        }
    }
}

/// Whether any partition gets another replica at the moment.
fn is_moving(image: &MetadataImage) -> bool {
    image.topics().flat_map(|topic| &topic.partitions).any(|partition| !partition.adding.is_empty())
}
