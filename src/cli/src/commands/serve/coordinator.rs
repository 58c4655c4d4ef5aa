//! `thalweg coordinator`.

use super::{Process, coordinator_not_started, reachable, resolve};
use crate::args::CoordinatorArgs;
use crate::error::CliError;
use thalweg_coordinator::{Coordinator, CoordinatorConfig};
use thalweg_core::{ClusterId, CoordinatorId};

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(args: CoordinatorArgs) -> Result<(), CliError> {
    let process = Process::begin("thalweg-coordinator", &args.server, "info")?;
    let served = serve(&process, args).await;
    process.end().await;
    served
}

async fn serve(process: &Process, args: CoordinatorArgs) -> Result<(), CliError> {
    let config = config(args).await?;
    let coordinator =
        Coordinator::start(config, process.shutdown.clone()).await.map_err(coordinator_not_started)?;
    coordinator.observe(&process.metrics);
    process.serves(coordinator.listen_addr(), &["thalweg.coordinator"]).await;
    coordinator.join().await.map_err(CliError::failed)
}

async fn config(args: CoordinatorArgs) -> Result<CoordinatorConfig, CliError> {
    let listen = resolve("--listen", &args.listen).await?;
    reachable("--listen", listen, args.advertise.as_ref(), "--advertise")?;
    Ok(CoordinatorConfig {
        listen,
        advertise: args.advertise.map(|advertise| advertise.to_string()),
        rack: args.rack,
        cluster_id: args.cluster_id.map(|id| ClusterId(id.into())),
        ..CoordinatorConfig::new(
            CoordinatorId(args.node_id),
            args.controllers.iter().map(ToString::to_string).collect(),
        )
    })
}
