//! `thalweg broker`, the server.

use super::{Process, broker_not_started, reachable, resolve};
use crate::args::BrokerArgs;
use crate::error::CliError;
use std::sync::Arc;
use thalweg_broker::{Broker, BrokerConfig, BrokerIntervals, ReplicationConfig, WallClock};
use thalweg_core::{BrokerId, ClusterId};
use thalweg_log::storage::OsStorage;

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(args: BrokerArgs) -> Result<(), CliError> {
    let process = Process::begin("thalweg-broker", &args.server, "info")?;
    let served = serve(&process, args).await;
    process.end().await;
    served
}

async fn serve(process: &Process, args: BrokerArgs) -> Result<(), CliError> {
    let config = config(args).await?;
    let shutdown = process.shutdown.clone();
    let broker = Broker::start(config, Arc::new(WallClock), Arc::new(OsStorage::new()), shutdown)
        .await
        .map_err(broker_not_started)?;
    broker.observe(&process.metrics);
    process.serves(broker.listen_addr(), &["thalweg.broker"]).await;
    broker.join().await.map_err(CliError::failed)
}

async fn config(args: BrokerArgs) -> Result<BrokerConfig, CliError> {
    let node_id = args.node_id.ok_or_else(|| CliError::usage("--node-id is missing"))?;
    let listen = resolve("--listen", &args.listen).await?;
    let internal_listen = resolve("--internal-listen", &args.internal_listen).await?;
    reachable("--listen", listen, args.advertise.as_ref(), "--advertise")?;
    let internal = args.internal_advertise.as_ref().or(args.advertise.as_ref());
    reachable("--internal-listen", internal_listen, internal, "--internal-advertise")?;
    Ok(BrokerConfig {
        listen,
        advertise: args.advertise.map(|advertise| advertise.to_string()),
        internal_listen,
        internal_advertise: args.internal_advertise.map(|advertise| advertise.to_string()),
        rack: args.rack,
        cluster_id: args.cluster_id.map(|id| ClusterId(id.into())),
        replication: ReplicationConfig {
            lag_time_max: args.replica_lag_time_max,
            throttled_rate: args.replication_throttled_rate,
        },
        cleaner: args.cleaner.config(),
        intervals: BrokerIntervals {
            session: args.broker_session,
            heartbeat: args.heartbeat_interval,
            ..BrokerIntervals::default()
        },
        ..BrokerConfig::new(
            BrokerId(node_id),
            args.controllers.iter().map(ToString::to_string).collect(),
            args.data_dir,
        )
    })
}
