//! `thalweg dev`: the whole system in one process on one data folder. The same code as a cluster, by default with one
//! controller, one broker and one coordinator.

use super::{Process, broker_not_started, controller_not_started, coordinator_not_started, resolve, say};
use crate::args::DevArgs;
use crate::error::CliError;
use futures_util::future::try_join_all;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_broker::{Broker, BrokerConfig, BrokerHandle, WallClock};
use thalweg_controller::{Controller, ControllerConfig, Voter};
use thalweg_coordinator::{Coordinator, CoordinatorConfig, CoordinatorHandle};
use thalweg_core::metadata::Endpoint;
use thalweg_core::{BrokerId, CoordinatorId, NodeId};
use thalweg_log::storage::OsStorage;
use thalweg_runtime::Shutdown;
use thalweg_runtime::observe::Registry;
use tokio::task::{JoinError, JoinSet};

/// The port of the first of several controllers lies so far behind that of the first broker, as in the defaults of
/// `thalweg controller` and `thalweg broker`.
const CONTROLLER_PORTS: u16 = 198;
/// The replication factor of new topics at most, if nothing else is said.
const DEFAULT_REPLICAS: u16 = 3;

/// Partitions of the topic that keeps consumer groups: a desk has few of them, and each partition is a folder to make at the first
/// start.
const OFFSETS_TOPIC_PARTITIONS: i32 = 8;

/// Everything that runs, each kind with its own end: coordinators stop first, because they write through the brokers, and
/// controllers last, because all others tell them goodbye.
#[derive(Default)]
struct Parts {
    controllers: Vec<Controller>,
    brokers: Vec<BrokerHandle>,
    coordinators: Vec<CoordinatorHandle>,
    stop_controllers: Shutdown,
    stop_brokers: Shutdown,
    stop_coordinators: Shutdown,
}

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(args: DevArgs) -> Result<(), CliError> {
    let process = Process::begin("thalweg-dev", &args.server, "warn")?;
    let served = serve(&process, args).await;
    process.end().await;
    served
}

async fn serve(process: &Process, args: DevArgs) -> Result<(), CliError> {
    let listen = resolve("--listen", &args.listen).await?;
    let mut parts = Parts::default();
    let started = tokio::select! {
        started = parts.start(&args, listen) => started,
        // Asked to stop before it was there.
        () = process.shutdown.triggered() => Ok(false),
    };
    if let Ok(true) = started {
        parts.observe(&process.metrics);
        greet(process, &parts.brokers).await;
    }
    parts.run(&process.shutdown, started).await
}

impl Parts {
    async fn start(&mut self, args: &DevArgs, listen: SocketAddr) -> Result<bool, CliError> {
        self.controllers = start_controllers(args, listen, &self.stop_controllers).await?;
        let controllers: Vec<String> =
            self.controllers.iter().map(|one| one.listen_addr().to_string()).collect();
        start_brokers(args, listen, &controllers, &self.stop_brokers, &mut self.brokers).await?;
        for index in 0..args.coordinators {
            let id = CoordinatorId(i32::from(index));
            let config = CoordinatorConfig::new(id, controllers.clone());
            let coordinator = Coordinator::start(config, self.stop_coordinators.clone()).await;
            self.coordinators.push(coordinator.map_err(coordinator_not_started)?);
        }
        Ok(true)
    }

    fn observe(&self, metrics: &Registry) {
        self.controllers.iter().for_each(|controller| controller.observe(metrics));
        self.brokers.iter().for_each(|broker| broker.observe(metrics));
        self.coordinators.iter().for_each(|coordinator| coordinator.observe(metrics));
    }

    /// Waits for the end, and stops all parts, in their order. The first failure is what is told.
    async fn run(self, asked: &Shutdown, started: Result<bool, CliError>) -> Result<(), CliError> {
        let mut coordinators: Ends = self.coordinators.into_iter().map(|one| ended(one.join())).collect();
        let mut brokers: Ends = self.brokers.into_iter().map(|one| ended(one.join())).collect();
        let mut result = match started {
            Err(error) => Err(error),
            Ok(false) => Ok(()),
            // Any may die on its own; then the others are stopped too.
            Ok(true) => tokio::select! {
                () = asked.triggered() => Ok(()),
                () = self.stop_controllers.triggered() => Ok(()),
                // A broker that lost its disk, or a part of it.
                Some(ended) = brokers.join_next() => stopped(ended),
                Some(ended) = coordinators.join_next() => stopped(ended),
            },
        };
        for (stop, mut ends) in [(self.stop_coordinators, coordinators), (self.stop_brokers, brokers)] {
            stop.trigger();
            while let Some(ended) = ends.join_next().await {
                result = result.and(stopped(ended));
            }
        }
        self.stop_controllers.trigger();
        for controller in self.controllers {
            result = result.and(controller.join().await.map_err(CliError::failed));
        }
        result
    }
}

/// The ends of all parts of a kind.
type Ends = JoinSet<Result<(), CliError>>;

async fn ended<E: Display>(end: impl Future<Output = Result<(), E>>) -> Result<(), CliError> {
    end.await.map_err(CliError::failed)
}

fn stopped(ended: Result<Result<(), CliError>, JoinError>) -> Result<(), CliError> {
    ended.unwrap_or_else(|died| Err(CliError::failed(format_args!("a part's stop died: {died}"))))
}

async fn start_controllers(
    args: &DevArgs,
    listen: SocketAddr,
    shutdown: &Shutdown,
) -> Result<Vec<Controller>, CliError> {
    let default_replication_factor = i32::from(args.brokers.min(DEFAULT_REPLICAS));
    let voters = voters(args.controllers, listen)?;
    // All at once: one alone may wait for the others.
    let starting = (0..args.controllers).map(|index| {
        let node_id = NodeId(u64::from(index) + 1);
        let own = voters.iter().find(|voter| voter.id == node_id);
        let port = own.map_or(0, |voter| voter.endpoint.port);
        let config = ControllerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            default_replication_factor,
            offsets_topic_partitions: OFFSETS_TOPIC_PARTITIONS,
            offsets_topic_replication_factor: default_replication_factor,
            ..ControllerConfig::new(node_id, voters.clone(), nth(&args.data_dir, "controller", index))
        };
        Controller::start(config, shutdown.clone())
    });
    try_join_all(starting).await.map_err(controller_not_started)
}

/// Where the controllers find each other. One alone needs nobody, and takes any free port. Several keep their ports: the group
/// remembers where its members are.
fn voters(controllers: u16, listen: SocketAddr) -> Result<Vec<Voter>, CliError> {
    if controllers == 1 {
        return Ok(Vec::new());
    }
    let mut reserved = Vec::new();
    let mut voters = Vec::new();
    for index in 0..controllers {
        let port = match listen.port() {
            0 => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
                let listener =
                    listener.map_err(|error| CliError::failed(format_args!("no free port: {error}")))?;
                let address = listener.local_addr().map_err(CliError::failed)?;
                // Held until all are found, or the same one would be found again.
                reserved.push(listener);
                address.port()
            }
            first => first.checked_add(CONTROLLER_PORTS + index).ok_or_else(|| {
                CliError::usage(format_args!(
                    "--listen {listen}: the controllers take the ports from {} above it on",
                    CONTROLLER_PORTS
                ))
            })?,
        };
        let endpoint = Endpoint::new(&Ipv4Addr::LOCALHOST.to_string(), port).map_err(CliError::failed)?;
        voters.push(Voter { id: NodeId(u64::from(index) + 1), endpoint });
    }
    Ok(voters)
}

async fn start_brokers(
    args: &DevArgs,
    listen: SocketAddr,
    controllers: &[String],
    shutdown: &Shutdown,
    started: &mut Vec<BrokerHandle>,
) -> Result<(), CliError> {
    for index in 0..args.brokers {
        let port = match listen.port() {
            0 => 0,
            first => first.checked_add(index).ok_or_else(|| {
                CliError::usage(format_args!(
                    "--listen {listen}: there are not {} ports behind it",
                    args.brokers
                ))
            })?,
        };
        let config = BrokerConfig {
            listen: SocketAddr::new(listen.ip(), port),
            advertise: args.advertise.as_ref().map(|advertise| {
                let mut advertise = advertise.clone();
                advertise.port = advertise.port.saturating_add(index);
                advertise.to_string()
            }),
            cleaner: args.cleaner.config(),
            ..BrokerConfig::new(
                BrokerId(i32::from(index)),
                controllers.to_vec(),
                vec![nth(&args.data_dir, "logs", index)],
            )
        };
        let clock = Arc::new(WallClock);
        let broker = Broker::start(config, clock, Arc::new(OsStorage::new()), shutdown.clone()).await;
        started.push(broker.map_err(broker_not_started)?);
    }
    Ok(())
}

/// The folder of the first, second, third of a kind: `logs`, `logs-1`, `logs-2`. A folder that began with one goes on with several.
fn nth(data_dir: &Path, kind: &str, index: u16) -> PathBuf {
    data_dir.join(if index == 0 { kind.to_owned() } else { format!("{kind}-{index}") })
}

async fn greet(process: &Process, brokers: &[BrokerHandle]) {
    let endpoints: Vec<SocketAddr> = brokers.iter().map(BrokerHandle::listen_addr).map(from_here).collect();
    let Some((broker, others)) = brokers.split_first() else { return };
    process
        .serves(broker.listen_addr(), &["thalweg.controller", "thalweg.broker", "thalweg.coordinator"])
        .await;
    for other in others {
        say(&format!("broker on {}", other.listen_addr()));
    }
    say(&next_commands(&endpoints));
}

/// The address as a command on this machine can use it.
fn from_here(mut endpoint: SocketAddr) -> SocketAddr {
    if endpoint.ip().is_unspecified() {
        endpoint.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    endpoint
}

fn next_commands(endpoints: &[SocketAddr]) -> String {
    let known = endpoints.first().is_some_and(|endpoint| endpoint.port() == 9292);
    let bootstrap = match endpoints.first() {
        Some(endpoint) if !known => format!(" --bootstrap {endpoint}"),
        _ => String::new(),
    };
    format!(
        "try, in another terminal:
  thalweg{bootstrap} topic create events --partitions 3
  thalweg{bootstrap} produce events README.md
  thalweg{bootstrap} consume events --from-beginning
  thalweg{bootstrap} topic describe events
(thalweg is target/release/thalweg; Ctrl-C stops it and keeps the data)"
    )
}
