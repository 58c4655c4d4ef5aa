//! `thalweg controller`.

use super::{Process, controller_not_started, reachable, resolve};
use crate::args::ControllerArgs;
use crate::error::CliError;
use thalweg_controller::{Controller, ControllerConfig};
use thalweg_core::NodeId;
use thalweg_core::metadata::Endpoint;
use thalweg_runtime::config::HostPort;

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(args: ControllerArgs) -> Result<(), CliError> {
    let process = Process::begin("thalweg-controller", &args.server, "info")?;
    let served = serve(&process, args).await;
    process.end().await;
    served
}

async fn serve(process: &Process, args: ControllerArgs) -> Result<(), CliError> {
    let config = config(args).await?;
    let controller =
        Controller::start(config, process.shutdown.clone()).await.map_err(controller_not_started)?;
    controller.observe(&process.metrics);
    process.serves(controller.listen_addr(), &["thalweg.controller"]).await;
    controller.join().await.map_err(CliError::failed)
}

async fn config(args: ControllerArgs) -> Result<ControllerConfig, CliError> {
    let listen = resolve("--listen", &args.listen).await?;
    let node_id = NodeId(args.node_id);
    if !args.voters.iter().any(|voter| voter.id == node_id) {
        reachable("--listen", listen, args.advertise.as_ref(), "--advertise")?;
    }
    Ok(ControllerConfig {
        listen,
        join: args.join,
        advertise: args.advertise.as_ref().map(endpoint).transpose()?,
        default_partitions: args.default_partitions,
        default_replication_factor: args.default_replication_factor,
        broker_session: args.broker_session,
        coordinator_session: args.coordinator_session,
        coordinator_forget_after: args.coordinator_forget_after,
        session_grace: args.session_grace,
        offsets_topic_partitions: args.offsets_topic_partitions,
        offsets_topic_replication_factor: args.offsets_topic_replication_factor,
        leader_balance_interval: args.leader_balance_interval,
        leader_imbalance_percent: args.leader_imbalance_percent,
        auto_balance: args.auto_balance,
        max_moves_per_broker: args.max_moves_per_broker,
        max_moves: args.max_moves,
        raft_tick: args.raft_tick,
        ..ControllerConfig::new(node_id, args.voters, args.data_dir)
    })
}

fn endpoint(advertise: &HostPort) -> Result<Endpoint, CliError> {
    Endpoint::new(&advertise.host, advertise.port)
        .map_err(|error| CliError::usage(format_args!("--advertise {advertise}: {error}")))
}
