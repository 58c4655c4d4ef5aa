//! What only the leading controller does. Each duty is a pure decision over the image and a thin loop around it; all of them
//! begin with a leadership and end with it.

mod addresses;
mod balance;
mod fencing;
mod forgetting;
mod internal_topics;
mod leaders;

use crate::config::ControllerConfig;
use crate::kind::{Brokers, Coordinators};
use crate::members::Members;
use crate::peers::Peers;
use crate::quorum::Quorum;
use crate::service::Voters;
use crate::service::features::founding_level;
use crate::sessions::Patience;
use internal_topics::OffsetsTopic;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::ClusterId;
use thalweg_core::metadata::Command;
use thalweg_core::metadata::balance::BalanceLimits;
use thalweg_core::metadata::command::InitCluster;
use thalweg_raft::RaftStatus;
use thalweg_runtime::Shutdown;
use tokio::sync::watch;

/// Pause before what the group did not take is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// What the duties work with.
pub struct Duties {
    quorum: Quorum,
    peers: Arc<Peers>,
    brokers: Members<Brokers>,
    coordinators: Members<Coordinators>,
    voters: Voters,
    config: ControllerConfig,
}

impl Duties {
    /// The duties of this controller whenever it leads.
    pub fn new(
        quorum: Quorum,
        peers: Arc<Peers>,
        brokers: Members<Brokers>,
        coordinators: Members<Coordinators>,
        voters: Voters,
        config: ControllerConfig,
    ) -> Duties {
        Duties { quorum, peers, brokers, coordinators, voters, config }
    }

    /// Runs until the controller stops.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        let mut status = self.quorum.status();
        loop {
            tokio::select! {
                () = shutdown.triggered() => return Ok(()),
                node_ended = reach(&mut status, true) => if node_ended {
                    // Its own task says why.
                    shutdown.triggered().await;
                    return Ok(());
                },
            }
            tracing::info!(term = status.borrow().term, "this controller leads the cluster");
            tokio::select! {
                () = shutdown.triggered() => return Ok(()),
                _ = reach(&mut status, false) => {}
                () = self.lead() => {}
            }
            // The next leadership begins every session anew.
            self.brokers.clear();
            self.coordinators.clear();
        }
    }

    async fn lead(&self) {
        self.found().await;
        let grace = self.config.session_grace;
        let brokers = Patience { session: self.config.broker_session, grace };
        let coordinators = Patience { session: self.config.coordinator_session, grace };
        let offsets = OffsetsTopic {
            partitions: self.config.offsets_topic_partitions,
            replication_factor: self.config.offsets_topic_replication_factor,
        };
        let limits = BalanceLimits {
            max_moves: self.config.max_moves,
            max_moves_per_broker: self.config.max_moves_per_broker,
            automatic: self.config.auto_balance,
            ..BalanceLimits::default()
        };
        tokio::join!(
            balance::run(&self.quorum, limits),
            fencing::run(&self.brokers, brokers),
            fencing::run(&self.coordinators, coordinators),
            forgetting::run(&self.quorum, self.config.coordinator_forget_after),
            internal_topics::run(&self.quorum, offsets),
            addresses::run(&self.quorum, &self.peers, &self.voters),
            leaders::run(
                &self.quorum,
                self.config.leader_balance_interval,
                self.config.leader_imbalance_percent
            ),
        );
    }

    /// Gives a new cluster its id. Another leader may have been faster; then that one's counts.
    async fn found(&self) {
        while self.quorum.published().image().cluster_id().is_none() {
            let drawn: String = rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
            let cluster_id = self.quorum.published().cluster_id().cloned();
            let cluster_id = cluster_id.unwrap_or_else(|| ClusterId(drawn.into()));
            let voters = self.quorum.status().borrow().voters.clone();
            let heard = voters.iter().filter_map(|voter| self.peers.levels(*voter));
            let init = InitCluster { cluster_id: cluster_id.clone(), feature_level: founding_level(heard) };
            match self.quorum.propose(&Command::InitCluster(init)).await {
                Ok(_) => tracing::info!(cluster = %cluster_id, "cluster founded"),
                Err(error) => {
                    tracing::warn!(cluster = %cluster_id, %error, "cluster not founded yet; trying again");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }
}

/// Waits until this controller serves as the leader, or does so no more. Gives whether its node has ended instead.
async fn reach(status: &mut watch::Receiver<RaftStatus>, serving: bool) -> bool {
    status.wait_for(|status| status.serving == serving).await.is_err()
}
