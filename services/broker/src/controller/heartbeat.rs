//! Signs of life, and the goodbye.

use super::link::{ControllerLink, Repeat, timed};
use super::registration::{Introduction, RegisterError, register};
use std::sync::Arc;
use thalweg_core::{ErrorCode, MetadataVersion};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use thalweg_runtime::Shutdown;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

/// Keeps a registration alive.
#[derive(Debug)]
pub struct Heartbeats {
    /// The controllers.
    pub link: Arc<ControllerLink>,
    /// Who is alive.
    pub who: Introduction,
    /// The version of the metadata that the partitions here stand for.
    pub applied: watch::Receiver<MetadataVersion>,
}

impl Heartbeats {
    /// Beats until the shutdown. A registration that the cluster no longer knows is renewed; one that another process took
    /// over ends the broker.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), RegisterError> {
        let mut beat = tokio::time::interval(self.link.intervals().heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fenced = true;
        let mut soon = self.link.intervals().retry_first;
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                () = shutdown.triggered() => return Ok(()),
            }
            let answer = tokio::select! {
                answer = self.beat_once(false) => answer,
                () = shutdown.triggered() => return Ok(()),
            };
            match answer {
                Ok(state) => {
                    if state.fenced != fenced {
                        fenced = state.fenced;
                        tracing::info!(broker = %self.who.node_id, fenced, "the cluster's view of this broker changed");
                    }
                    if fenced {
                        // It waits for the metadata to be applied here; the next beat that says so lets it in.
                        beat.reset_after(soon);
                        soon = (soon * 2).min(self.link.intervals().heartbeat);
                    } else {
                        soon = self.link.intervals().retry_first;
                    }
                }
                Err(error)
                    if matches!(error.code, ErrorCode::BrokerNotRegistered | ErrorCode::StaleBrokerEpoch) =>
                {
                    tracing::warn!(broker = %self.who.node_id, %error, "registering again");
                    let within = self.link.intervals().start;
                    tokio::select! {
                        registered = register(&self.link, &self.who, within) => drop(registered?),
                        () = shutdown.triggered() => return Ok(()),
                    }
                    beat.reset_immediately();
                }
                Err(error) => tracing::warn!(broker = %self.who.node_id, %error, "heartbeat not answered"),
            }
        }
    }

    async fn beat_once(&self, want_shutdown: bool) -> Result<internal::BrokerHeartbeatResponse, ApiError> {
        let version = *self.applied.borrow();
        beat(&self.link, &self.who, version, want_shutdown).await
    }
}

/// Tells the cluster that this broker stops, and waits until it may, or as long as the configuration says.
pub async fn say_goodbye(link: &ControllerLink, who: &Introduction, applied: MetadataVersion) {
    let intervals = link.intervals();
    let deadline = Instant::now() + intervals.controlled_shutdown;
    while Instant::now() < deadline {
        let answer = tokio::time::timeout_at(deadline, beat(link, who, applied, true)).await;
        match answer {
            Ok(Ok(state)) if state.may_shutdown => return,
            Ok(Ok(_)) => tokio::time::sleep(intervals.retry_first).await,
            Ok(Err(error)) => {
                tracing::warn!(broker = %who.node_id, %error, "goodbye not answered");
                return;
            }
            Err(_) => break,
        }
    }
    tracing::warn!(broker = %who.node_id, "stopping although the cluster has not let go of this broker");
}

async fn beat(
    link: &ControllerLink,
    who: &Introduction,
    applied: MetadataVersion,
    want_shutdown: bool,
) -> Result<internal::BrokerHeartbeatResponse, ApiError> {
    let Some(epoch) = link.epoch() else {
        return Err(ApiError::new(ErrorCode::BrokerNotRegistered, "not registered yet"));
    };
    let request = internal::BrokerHeartbeatRequest {
        broker_id: who.node_id.get(),
        broker_epoch: epoch.get(),
        metadata_version: applied.get(),
        want_shutdown,
    };
    let within = link.intervals().controller_call;
    link.call(Repeat::Safe, within, |channel| {
        let mut client = ControllerLink::controller(channel);
        let request = timed(request, within);
        async move { Ok(client.broker_heartbeat(request).await?.into_inner()) }
    })
    .await
}
