//! `thalweg dev`: the whole system in one process on one data folder. The same code as a cluster: one voter, one broker.

use crate::args::{DevArgs, OutputFormat};
use crate::error::CliError;
use crate::output::print_line;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use thalweg_broker::{Broker, BrokerConfig, WallClock};
use thalweg_controller::{Controller, ControllerConfig};
use thalweg_core::{BrokerId, NodeId};
use thalweg_log::storage::OsStorage;
use thalweg_runtime::config::HostPort;
use thalweg_runtime::{LogFormat, Shutdown, init_logging, shutdown_on_signals};

/// The one controller's id in the Raft group.
const CONTROLLER_ID: NodeId = NodeId(1);
/// The one broker's id.
const BROKER_ID: BrokerId = BrokerId(0);

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(args: DevArgs) -> Result<(), CliError> {
    let format = match args.log_format {
        OutputFormat::Text => LogFormat::Text,
        OutputFormat::Json => LogFormat::Json,
    };
    let _log = init_logging(format, &args.log_level)
        .map_err(|error| CliError::usage(format_args!("--log-level {:?}: {error}", args.log_level)))?;
    if let Err(error) = thalweg_runtime::process::raise_nofile_limit() {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let shutdown = Shutdown::new();
    shutdown_on_signals(&shutdown)
        .map_err(|error| CliError::failed(format_args!("signals cannot be watched: {error}")))?;

    let listen = resolve(&args.listen).await?;

    // The controller outlives the broker, which tells it goodbye.
    let controller_shutdown = Shutdown::new();
    let controller = Controller::start(
        ControllerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..ControllerConfig::new(CONTROLLER_ID, Vec::new(), args.data_dir.join("controller"))
        },
        controller_shutdown.clone(),
    )
    .await
    .map_err(not_started)?;

    let config = BrokerConfig {
        listen,
        advertise: args.advertise.clone(),
        ..BrokerConfig::new(
            BROKER_ID,
            vec![controller.listen_addr().to_string()],
            vec![args.data_dir.join("logs")],
        )
    };
    let started =
        Broker::start(config, Arc::new(WallClock), Arc::new(OsStorage::new()), shutdown.clone()).await;
    let result = match started {
        Ok(broker) => {
            let endpoint = broker.listen_addr();
            for line in [format!("ready on {endpoint}"), next_commands(endpoint)] {
                // Nobody reads it: no reason to stop serving, and none to leave without the clean stop below.
                if let Err(error) = print_line(&line) {
                    tracing::debug!(%error, "standard output is closed");
                }
            }
            // Either may die on its own; then the other is stopped too.
            tokio::select! {
                () = shutdown.triggered() => {}
                () = controller_shutdown.triggered() => shutdown.trigger(),
            }
            broker.join().await.map_err(CliError::failed)
        }
        Err(error) => Err(CliError::failed(error)),
    };
    controller_shutdown.trigger();
    let stopped = controller.join().await.map_err(CliError::failed);
    result.and(stopped)
}

/// The first address of a host, so that a name such as localhost can be listened on.
async fn resolve(listen: &HostPort) -> Result<SocketAddr, CliError> {
    let found = tokio::net::lookup_host((listen.host.as_str(), listen.port)).await;
    let found = found.map_err(|error| CliError::usage(format_args!("--listen {listen}: {error}")))?.next();
    found.ok_or_else(|| CliError::usage(format_args!("--listen {listen}: the host has no address")))
}

fn not_started(error: thalweg_controller::StartError) -> CliError {
    let in_use = error.is_in_use();
    let failed = CliError::failed(error);
    if in_use {
        failed.with_hint(
            "another thalweg runs on this folder: stop it, or choose another folder with --data-dir",
        )
    } else {
        failed
    }
}

fn next_commands(mut endpoint: SocketAddr) -> String {
    if endpoint.ip().is_unspecified() {
        endpoint.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let bootstrap = if endpoint.port() == 9292 { String::new() } else { format!(" --bootstrap {endpoint}") };
    format!(
        "try, in another terminal:
  thalweg{bootstrap} topic create events --partitions 3
  thalweg{bootstrap} produce events README.md
  thalweg{bootstrap} consume events --from-beginning
  thalweg{bootstrap} topic describe events
(thalweg is target/release/thalweg; Ctrl-C stops it and keeps the data)"
    )
}
