//! Brokers that gave no sign of life for too long are fenced.

use crate::heartbeat::Heartbeats;
use crate::quorum::Quorum;
use crate::sessions::Patience;
use std::time::Duration;
use thalweg_core::metadata::Command;
use thalweg_core::metadata::command::BrokerRef;
use tokio::time::{Instant, sleep_until};

/// How often the leader looks for silent brokers.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// Watches for as long as this controller leads.
pub async fn run(quorum: &Quorum, heartbeats: &Heartbeats, patience: Patience) {
    loop {
        let regular = Instant::now() + CHECK_EVERY;
        let grace = heartbeats.sessions().next_grace(patience);
        tokio::select! {
            () = sleep_until(grace.map_or(regular, |grace| grace.min(regular))) => {}
            // Somebody's grace begins; the wait may have to be shorter.
            () = heartbeats.broken() => continue,
        }
        let image = quorum.published().image();
        let alive = image.brokers().filter(|broker| !broker.fenced).map(|broker| (broker.id, broker.epoch));
        let expired = heartbeats.sessions().expired(alive, patience, Instant::now());
        for (id, epoch) in expired {
            match quorum.propose(&Command::FenceBroker(BrokerRef { id, epoch })).await {
                Ok(_) => tracing::warn!(broker = %id, %epoch, "broker fenced: no sign of life"),
                Err(error) => {
                    tracing::warn!(broker = %id, %epoch, %error, "broker not fenced yet; trying again")
                }
            }
        }
    }
}
