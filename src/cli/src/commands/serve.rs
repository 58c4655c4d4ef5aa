//! What the servers `dev`, `controller`, `broker`, `coordinator` and `operator` have in common: their log, their signals, their addresses.

mod broker;
mod controller;
mod coordinator;
mod dev;
mod operator;

pub use broker::run as broker;
pub use controller::run as controller;
pub use coordinator::run as coordinator;
pub use dev::run as dev;
pub use operator::run as operator;

use crate::args::{OutputFormat, ServerArgs};
use crate::error::CliError;
use crate::output::print_line;
use std::fmt::Display;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use thalweg_broker::StartError as BrokerStart;
use thalweg_controller::StartError as ControllerStart;
use thalweg_coordinator::StartError as CoordinatorStart;
use thalweg_runtime::config::HostPort;
use thalweg_runtime::observe::{OpsPort, ProcessSource, Registry};
use thalweg_runtime::telemetry::About;
use thalweg_runtime::{LogFormat, LogHandle, Shutdown, Telemetry, shutdown_on_signals};

/// A server's surroundings. Dropped last, so that the last words are written.
pub(super) struct Process {
    /// Triggered by SIGTERM and Ctrl-C.
    pub(super) shutdown: Shutdown,
    /// What is shown of it.
    pub(super) metrics: Registry,
    ops: Option<OpsPort>,
    telemetry: Telemetry,
}

impl Process {
    /// Sets up the log and what is exported, the limit of open files and the signals. `service` is the server's name in what it
    /// exports, such as `thalweg-broker`.
    pub(super) fn begin(
        service: &'static str,
        args: &ServerArgs,
        default_level: &str,
    ) -> Result<Process, CliError> {
        let format = match args.log_format {
            OutputFormat::Text => LogFormat::Text,
            OutputFormat::Json => LogFormat::Json,
        };
        let level = args.log_level.as_deref().unwrap_or(default_level);
        let metrics = Registry::new();
        let about = About { service, version: env!("CARGO_PKG_VERSION") };
        let (telemetry, log) = Telemetry::of_server(about, format, level, &metrics)
            .map_err(|error| CliError::usage(format_args!("--log-level {level:?}: {error}")))?;
        if let Err(error) = thalweg_runtime::process::raise_nofile_limit() {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
        let shutdown = Shutdown::new();
        shutdown_on_signals(&shutdown)
            .map_err(|error| CliError::failed(format_args!("signals cannot be watched: {error}")))?;
        metrics.add_process(Arc::new(ProcessSource { version: env!("CARGO_PKG_VERSION") }));
        let ops = args.metrics_listen.as_ref().map(|listen| open_ops(listen, &metrics, &log)).transpose()?;
        Ok(Process { shutdown, metrics, ops, telemetry })
    }

    /// Exports the last of what there is to tell. Whatever way a server ends, this comes last.
    pub(super) async fn end(self) {
        self.telemetry.end().await;
    }

    /// Says on standard output, and to probes of the operations port, that the process serves, until it is told to stop. `services`
    /// are the names that probes may ask for.
    pub(super) async fn serves(&self, endpoint: impl Display, services: &'static [&'static str]) {
        if let Some(ops) = &self.ops {
            ops.set_ready(true, services).await;
            let (ops, shutdown) = (ops.clone(), self.shutdown.clone());
            tokio::spawn(async move {
                shutdown.triggered().await;
                ops.set_ready(false, services).await;
            });
        }
        ready(endpoint);
    }
}

/// Opens the operations port. It stays open while the process drains: it is then that people look.
fn open_ops(listen: &HostPort, metrics: &Registry, log: &LogHandle) -> Result<OpsPort, CliError> {
    let wrong = |error: &dyn Display| CliError::usage(format_args!("--metrics-listen {listen}: {error}"));
    let mut found = (listen.host.as_str(), listen.port).to_socket_addrs().map_err(|error| wrong(&error))?;
    let address = found.next().ok_or_else(|| wrong(&"the host has no address"))?;
    OpsPort::open(address, metrics.clone(), log.clone(), Shutdown::new()).map_err(|error| wrong(&error))
}

/// Says that the server serves.
fn ready(endpoint: impl Display) {
    say(&format!("ready on {endpoint}"));
}

/// Prints a line. Nobody reads it: no reason to stop serving, and none to leave without a clean stop.
pub(super) fn say(line: &str) {
    if let Err(error) = print_line(line) {
        tracing::debug!(%error, "standard output is closed");
    }
}

/// The first address of a host, so that a name such as localhost can be listened on.
pub(super) async fn resolve(flag: &str, listen: &HostPort) -> Result<SocketAddr, CliError> {
    let found = tokio::net::lookup_host((listen.host.as_str(), listen.port)).await;
    let found = found.map_err(|error| CliError::usage(format_args!("{flag} {listen}: {error}")))?.next();
    found.ok_or_else(|| CliError::usage(format_args!("{flag} {listen}: the host has no address")))
}

/// Refuses to listen on every address without a name that others could use.
pub(super) fn reachable(
    flag: &str,
    listen: SocketAddr,
    advertise: Option<&HostPort>,
    advertise_flag: &str,
) -> Result<(), CliError> {
    if listen.ip().is_unspecified() && advertise.is_none() {
        return Err(CliError::usage(format_args!(
            "{flag} {listen} listens on every address of this machine, none of which others know"
        ))
        .with_hint(format!("name the one that they shall use with {advertise_flag} HOST:PORT")));
    }
    Ok(())
}

/// What a controller that did not start says.
pub(super) fn controller_not_started(error: ControllerStart) -> CliError {
    let in_use = error.is_in_use();
    let failed = match error {
        ControllerStart::Config(_) => CliError::usage(error),
        _ => CliError::failed(error),
    };
    if in_use {
        failed.with_hint(
            "another thalweg runs on this folder: stop it, or choose another folder with --data-dir",
        )
    } else {
        failed
    }
}

/// What a broker that did not start says.
pub(super) fn broker_not_started(error: BrokerStart) -> CliError {
    match error {
        BrokerStart::Config(_) => CliError::usage(error),
        _ => CliError::failed(error),
    }
}

/// What a coordinator that did not start says.
pub(super) fn coordinator_not_started(error: CoordinatorStart) -> CliError {
    match error {
        CoordinatorStart::Config(_) => CliError::usage(error),
        _ => CliError::failed(error),
    }
}
