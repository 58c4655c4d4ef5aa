//! A cluster of controllers, brokers and coordinators, each a process of its own.

mod replicas;
mod state;

pub use state::PartitionState;

use super::api::Api;
use super::cli::Cli;
use super::ports::free_ports;
use super::server::Server;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the cluster may take for what it does by itself, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(100);

/// All services on one machine, and their folders. Dropping it kills them all.
pub struct Cluster {
    // Dropped first: the processes must be gone before their folders.
    controllers: Vec<(u64, Server)>,
    brokers: Vec<(i32, Server)>,
    coordinators: Vec<(i32, Server)>,
    hosts: Hosts,
    home: TempDir,
    voters: Vec<String>,
    broker_flags: Vec<String>,
    controller_flags: Vec<String>,
    coordinator_flags: Vec<String>,
    /// Where clients reach each broker.
    endpoints: Vec<(i32, String)>,
    shows_metrics: bool,
    program: Option<PathBuf>,
    variables: Vec<(String, String)>,
    metrics: Vec<(String, String)>,
}

/// Where the processes run.
pub trait Places: Send {
    /// The network namespace of a broker, and its address there.
    fn broker(&self, id: i32) -> (Option<String>, String);
    /// The network namespace of controllers, coordinators and clients, and their address there.
    fn rest(&self) -> (Option<String>, String);
}

type Hosts = Box<dyn Places>;

/// Everything on the loopback address.
struct Loopback;

impl Places for Loopback {
    fn broker(&self, _: i32) -> (Option<String>, String) {
        self.rest()
    }

    fn rest(&self) -> (Option<String>, String) {
        (None, "127.0.0.1".to_owned())
    }
}

/// What a cluster is started with.
pub struct Setup {
    pub controllers: u64,
    pub brokers: i32,
    /// Of consumer groups. Without any there is no internal topic either.
    pub coordinators: i32,
    pub controller_flags: Vec<&'static str>,
    pub broker_flags: Vec<&'static str>,
    /// Whether each process shows its metrics; see [`Cluster::metrics`].
    pub metrics: bool,
    /// Started instead of the program under test.
    pub program: Option<PathBuf>,
    /// Of every process.
    pub variables: Vec<(String, String)>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            controllers: 3,
            brokers: 3,
            coordinators: 0,
            controller_flags: Vec::new(),
            broker_flags: Vec::new(),
            metrics: false,
            program: None,
            variables: Vec::new(),
        }
    }
}

impl Cluster {
    /// Three controllers, three brokers, and waits until all serve.
    pub fn start() -> Cluster {
        Cluster::start_with(Setup::default())
    }

    /// The same with two coordinators and an internal topic of a few partitions.
    pub fn with_groups() -> Cluster {
        Cluster::start_with(Setup {
            coordinators: 2,
            controller_flags: vec!["--offsets-topic-partitions", "8"],
            ..Setup::default()
        })
    }

    /// The same with other numbers and flags.
    pub fn start_with(setup: Setup) -> Cluster {
        Cluster::start_in(setup, Box::new(Loopback))
    }

    /// The same in places of their own.
    pub fn start_in(setup: Setup, hosts: Box<dyn Places>) -> Cluster {
        let home = tempfile::tempdir().unwrap();
        let (_, host) = hosts.rest();
        let ports = free_ports(usize::try_from(setup.controllers).unwrap());
        let voters = (1..).zip(ports).map(|(id, port): (u64, u16)| format!("{id}@{host}:{port}")).collect();
        let log_level = std::env::var("THALWEG_TEST_LOG_LEVEL").unwrap_or("info".to_owned());
        let owned = |flags: Vec<&str>| {
            let mut flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
            flags.extend(["--log-level".to_owned(), log_level.clone()]);
            flags
        };
        let mut cluster = Cluster {
            controllers: Vec::new(),
            brokers: Vec::new(),
            coordinators: Vec::new(),
            hosts,
            home,
            voters,
            broker_flags: owned(setup.broker_flags),
            controller_flags: owned(setup.controller_flags),
            coordinator_flags: owned(Vec::new()),
            endpoints: Vec::new(),
            shows_metrics: setup.metrics,
            program: setup.program,
            variables: setup.variables,
            metrics: Vec::new(),
        };
        for voter in cluster.voters.clone() {
            let (id, listen) = voter.split_once('@').unwrap();
            let voters = cluster.voters.join(",");
            cluster.new_controller(id.parse().unwrap(), listen, &["--voters", &voters]);
        }
        cluster.controllers.iter_mut().for_each(|(_, server)| server.spawn());
        cluster.controllers.iter_mut().for_each(|(_, server)| drop(server.await_ready()));
        for id in 1..=setup.brokers {
            cluster.new_broker(id, &[]);
        }
        (1..=setup.coordinators).for_each(|id| cluster.new_coordinator(id));
        let rest = cluster.brokers.iter_mut().chain(&mut cluster.coordinators);
        rest.for_each(|(_, server)| server.spawn());
        let rest = cluster.brokers.iter_mut().chain(&mut cluster.coordinators);
        rest.for_each(|(_, server)| drop(server.await_ready()));
        cluster
    }

    /// Adds a controller that is not started yet.
    fn new_controller(&mut self, id: u64, listen: &str, more: &[&str]) {
        let folder = self.home.path().join(format!("controller-{id}"));
        let mut args: Vec<String> =
            ["controller", "--node-id", &id.to_string(), "--listen", listen, "--data-dir"]
                .map(str::to_owned)
                .to_vec();
        args.push(folder.to_str().unwrap().to_owned());
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args.extend(self.controller_flags.iter().cloned());
        let (namespace, host) = self.hosts.rest();
        args.extend(self.metrics_flag(&format!("controller {id}"), &host));
        let stderr = self.home.path().join(format!("controller-{id}.log"));
        let mut server = Server::new(&format!("controller {id}"), namespace.as_deref(), args, stderr);
        server.set_program(self.program.clone());
        server.set_variables(self.variables.clone());
        self.controllers.push((id, server));
    }

    /// Adds a broker that is not started yet.
    pub fn new_broker(&mut self, id: i32, more: &[&str]) {
        let (namespace, host) = self.hosts.broker(id);
        let ports = free_ports(2);
        let (public, internal) = (format!("{host}:{}", ports[0]), format!("{host}:{}", ports[1]));
        let controllers = self.controllers();
        let mut args: Vec<String> = [
            "broker",
            "--node-id",
            &id.to_string(),
            "--listen",
            &public,
            "--internal-listen",
            &internal,
            "--controllers",
            &controllers,
            "--data-dir",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(self.broker_dir(id).to_str().unwrap().to_owned());
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args.extend(self.broker_flags.iter().cloned());
        args.extend(self.metrics_flag(&format!("broker {id}"), &host));
        let stderr = self.home.path().join(format!("broker-{id}.log"));
        let mut server = Server::new(&format!("broker {id}"), namespace.as_deref(), args, stderr);
        server.set_program(self.program.clone());
        server.set_variables(self.variables.clone());
        self.brokers.push((id, server));
        self.endpoints.push((id, public));
    }

    /// Adds a coordinator that is not started yet.
    pub fn new_coordinator(&mut self, id: i32) {
        let (namespace, host) = self.hosts.rest();
        let listen = format!("{host}:{}", free_ports(1)[0]);
        let args = ["coordinator", "--node-id", &id.to_string(), "--listen", &listen, "--controllers"];
        let mut args = args.map(str::to_owned).to_vec();
        args.push(self.controllers());
        args.extend(self.coordinator_flags.iter().cloned());
        args.extend(self.metrics_flag(&format!("coordinator {id}"), &host));
        let stderr = self.home.path().join(format!("coordinator-{id}.log"));
        let mut server = Server::new(&format!("coordinator {id}"), namespace.as_deref(), args, stderr);
        server.set_program(self.program.clone());
        server.set_variables(self.variables.clone());
        self.coordinators.push((id, server));
    }

    fn metrics_flag(&mut self, name: &str, host: &str) -> Vec<String> {
        if !self.shows_metrics {
            return Vec::new();
        }
        let address = format!("{host}:{}", free_ports(1)[0]);
        self.metrics.push((name.to_owned(), address.clone()));
        vec!["--metrics-listen".to_owned(), address]
    }

    /// Where each process shows its metrics, by its name, such as "broker 1".
    pub fn metrics(&self) -> &[(String, String)] {
        &self.metrics
    }

    /// Adds a broker and waits until it serves.
    pub fn join_broker(&mut self, id: i32, more: &[&str]) {
        self.new_broker(id, more);
        self.broker(id).start();
    }

    /// Adds a controller that waits to be taken in, waits until it serves, and gives its address.
    pub fn join_controller(&mut self, id: u64) -> String {
        let (_, host) = self.hosts.rest();
        let listen = format!("{host}:{}", free_ports(1)[0]);
        let voters = self.voters.join(",");
        self.new_controller(id, &listen, &["--join", "--voters", &voters]);
        self.controller(id).start();
        listen
    }

    /// Starts a controller that believes to have founded the group with others than it was.
    pub fn stray_controller(&mut self, id: u64, others: &str) {
        let (_, host) = self.hosts.rest();
        let listen = format!("{host}:{}", free_ports(1)[0]);
        let voters = format!("{others},{id}@{listen}");
        self.new_controller(id, &listen, &["--voters", &voters]);
        self.controller(id).spawn();
    }

    /// The broker that was added last, even if another has its id.
    pub fn last_broker(&mut self) -> &mut Server {
        &mut self.brokers.last_mut().expect("a broker was added").1
    }

    /// One broker's process.
    pub fn broker(&mut self, id: i32) -> &mut Server {
        let found = self.brokers.iter_mut().find(|(broker, _)| *broker == id);
        &mut found.unwrap_or_else(|| panic!("no broker {id}")).1
    }

    /// One controller's process.
    pub fn controller(&mut self, id: u64) -> &mut Server {
        let found = self.controllers.iter_mut().find(|(controller, _)| *controller == id);
        &mut found.unwrap_or_else(|| panic!("no controller {id}")).1
    }

    /// One coordinator's process.
    pub fn coordinator(&mut self, id: i32) -> &mut Server {
        let found = self.coordinators.iter_mut().find(|(coordinator, _)| *coordinator == id);
        &mut found.unwrap_or_else(|| panic!("no coordinator {id}")).1
    }

    /// The ids of the coordinators.
    pub fn coordinator_ids(&self) -> Vec<i32> {
        self.coordinators.iter().map(|(id, _)| *id).collect()
    }

    /// The ids of the brokers.
    pub fn broker_ids(&self) -> Vec<i32> {
        self.brokers.iter().map(|(id, _)| *id).collect()
    }

    /// The ids of the controllers.
    pub fn controller_ids(&self) -> Vec<u64> {
        self.controllers.iter().map(|(id, _)| *id).collect()
    }

    /// A broker's folder.
    pub fn broker_dir(&self, id: i32) -> PathBuf {
        self.home.path().join(format!("broker-{id}"))
    }

    /// Where clients reach a broker.
    pub fn endpoint(&self, id: i32) -> &str {
        let found = self.endpoints.iter().find(|(broker, _)| *broker == id);
        &found.unwrap_or_else(|| panic!("no broker {id}")).1
    }

    /// All brokers, as `--bootstrap` takes them.
    pub fn bootstrap(&self) -> String {
        let endpoints: Vec<&str> = self.endpoints.iter().map(|(_, endpoint)| endpoint.as_str()).collect();
        endpoints.join(",")
    }

    /// The founding controllers, as `--voters` takes them.
    pub fn voters(&self) -> String {
        self.voters.join(",")
    }

    /// Where the founding controllers are, as `--controllers` takes it.
    pub fn controllers(&self) -> String {
        let endpoints: Vec<&str> =
            self.voters.iter().filter_map(|voter| Some(voter.split_once('@')?.1)).collect();
        endpoints.join(",")
    }

    /// The namespace that commands run in.
    pub fn namespace(&self) -> Option<String> {
        self.hosts.rest().0
    }

    /// A command that may talk to any broker.
    pub fn cli(&self, args: &[&str]) -> Cli {
        Cli::new_in(self.namespace().as_deref(), args).args(["--bootstrap", &self.bootstrap()])
    }

    /// A command that talks to one broker.
    pub fn cli_at(&self, id: i32, args: &[&str]) -> Cli {
        Cli::new_in(self.namespace().as_deref(), args).args(["--bootstrap", self.endpoint(id)])
    }

    /// Plain gRPC to one broker.
    pub async fn api(&self, id: i32) -> Api {
        Api::at(self.endpoint(id)).await
    }

    /// Creates a topic with factor 3, or a replica on each of fewer brokers, and `min.insync.replicas=2`, and waits until every replica
    /// is in sync.
    pub fn create_topic(&self, name: &str, partitions: u32, configs: &[&str]) {
        let (partitions, factor) = (partitions.to_string(), self.endpoints.len().min(3).to_string());
        let create = ["topic", "create", name, "--partitions", &partitions, "--replication-factor", &factor];
        let configs = ["min.insync.replicas=2"].iter().chain(configs);
        let configs = configs.flat_map(|config| ["--config", config]);
        self.cli(&create).args(configs).run().ok();
        self.await_in_sync(name);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let keep = std::env::var_os("THALWEG_TEST_KEEP").is_some();
        if thread::panicking() {
            let controllers = self.controllers.iter().map(|(_, server)| server);
            let rest = self.brokers.iter().chain(&self.coordinators).map(|(_, server)| server);
            for server in controllers.chain(rest) {
                eprintln!("--- the end of a server's standard error:\n{}", server.stderr_tail());
            }
        }
        if keep {
            let kept = std::mem::replace(&mut self.home, tempfile::tempdir().unwrap()).keep();
            eprintln!("--- the folders are kept in {}", kept.display());
        }
    }
}

/// Waits until something is so.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(POLL);
    }
}
