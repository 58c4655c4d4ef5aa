//! Controllers in one process, each on a runtime of its own, so that one can be killed between two instructions.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thalweg_controller::{Controller, ControllerConfig, ControllerSeams, StartError, Voter};
use thalweg_core::metadata::{MetadataImage, codec};
use thalweg_core::{ErrorCode, NodeId};
use thalweg_proto::internal::v1 as wire;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use thalweg_proto::internal::v1::watch_image_response::Update;
use thalweg_proto::v1::admin_service_client::AdminServiceClient;
use thalweg_proto::{ApiError, v1};
use thalweg_raft::RaftStatus;
use thalweg_runtime::{Dialer, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Longer than anything here takes; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// The code of an error that a controller made.
pub fn code(status: &Status) -> ErrorCode {
    ApiError::from_status(status).unwrap_or_else(|| panic!("no details in {status}")).code
}

/// Looks until there is something to see.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

// === a network that can be cut ===

#[derive(Default)]
struct Cuts {
    cut: BTreeSet<(u64, u64)>,
    /// Counts the cuts of each pair: a connection that lost bytes never works again.
    times: BTreeMap<(u64, u64), u64>,
}

/// What is between the controllers. Cut, it swallows bytes without a word.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<Cuts>>);

fn pair(one: u64, other: u64) -> (u64, u64) {
    (one.min(other), one.max(other))
}

impl Net {
    /// Cuts a controller off from these others.
    pub fn isolate(&self, node: u64, others: &[u64]) {
        let mut cuts = self.0.lock().unwrap();
        for other in others.iter().filter(|other| **other != node) {
            cuts.cut.insert(pair(node, *other));
            *cuts.times.entry(pair(node, *other)).or_default() += 1;
        }
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().cut.clear();
    }

    fn state(&self, link: (u64, u64)) -> (bool, u64) {
        let cuts = self.0.lock().unwrap();
        (cuts.cut.contains(&link), cuts.times.get(&link).copied().unwrap_or(0))
    }

    fn dialer(&self, from: u64, ports: BTreeMap<u16, u64>) -> Dialer {
        let net = self.clone();
        Dialer::from_fn(move |address: String| {
            let (net, ports) = (net.clone(), ports.clone());
            async move {
                let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0);
                let link = pair(from, ports.get(&port).copied().unwrap_or(0));
                let (cut, times) = net.state(link);
                if cut {
                    std::future::pending::<()>().await;
                }
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Link { stream, net, link, times })
            }
        })
    }
}

struct Link {
    stream: TcpStream,
    net: Net,
    link: (u64, u64),
    times: u64,
}

impl Link {
    /// Whether bytes vanish at the moment. An error once they have and the network works again.
    fn swallows(&self) -> io::Result<bool> {
        let (cut, times) = self.net.state(self.link);
        if cut || times == self.times { Ok(cut) } else { Err(io::ErrorKind::ConnectionReset.into()) }
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            if !self.swallows()? {
                return Poll::Ready(Ok(()));
            }
            if buf.filled().len() == before {
                // The other end closed; nobody hears of it.
                return Poll::Pending;
            }
            buf.set_filled(before);
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.swallows()? {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// === a group ===

/// One controller that runs.
struct Node {
    runtime: Runtime,
    shutdown: Shutdown,
    controller: Controller,
    status: watch::Receiver<RaftStatus>,
    channel: Channel,
}

/// A group of controllers, some of which run.
pub struct Group {
    pub net: Net,
    folder: TempDir,
    addresses: BTreeMap<u64, SocketAddr>,
    voters: Vec<u64>,
    nodes: BTreeMap<u64, Node>,
    tune: fn(&mut ControllerConfig),
}

/// A port that is free and stays so while its controller is down: none of those that the system gives to others.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = (std::process::id() as u16 % 60) * 200 + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + offset % 12_000));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// What came of a call, once it is no longer for the want of a leader.
pub async fn settled<T, F: Future<Output = Result<T, Status>>>(call: impl Fn() -> F) -> Result<T, Status> {
    until("a settled answer", || async {
        match call().await {
            Err(status)
                if matches!(
                    code(&status),
                    ErrorCode::ControllerNotAvailable | ErrorCode::RequestTimedOut
                ) =>
            {
                None
            }
            answer => Some(answer),
        }
    })
    .await
}

impl Group {
    /// A group of these founding voters, none of which runs yet.
    pub fn prepare(voters: &[u64], tune: fn(&mut ControllerConfig)) -> Group {
        let mut group = Group {
            net: Net::default(),
            folder: tempfile::tempdir().unwrap(),
            addresses: BTreeMap::new(),
            voters: voters.to_vec(),
            nodes: BTreeMap::new(),
            tune,
        };
        // More than the voters: those that join later are on the network too.
        for id in 1..=5 {
            group.addresses.insert(id, free_port());
        }
        group
    }

    /// A group of these founding voters, all of which run.
    pub async fn start(voters: &[u64]) -> Group {
        Group::start_tuned(voters, |_| {}).await
    }

    pub async fn start_tuned(voters: &[u64], tune: fn(&mut ControllerConfig)) -> Group {
        let mut group = Group::prepare(voters, tune);
        for id in voters {
            group.boot(*id).await;
        }
        group
    }

    pub fn address(&self, id: u64) -> String {
        self.addresses[&id].to_string()
    }

    /// Moves a controller to another address.
    pub fn move_away(&mut self, id: u64) {
        self.addresses.insert(id, free_port());
    }

    pub fn list(&self, ids: &[u64]) -> Vec<Voter> {
        ids.iter().map(|id| format!("{id}@{}", self.address(*id)).parse().unwrap()).collect()
    }

    pub fn config(&self, id: u64) -> ControllerConfig {
        let folder: PathBuf = self.folder.path().join(id.to_string());
        let mut config = ControllerConfig::new(NodeId(id), self.list(&self.voters), folder);
        config.join = !self.voters.contains(&id);
        config.listen = self.addresses[&id];
        config.advertise = Some(self.address(id).parse().unwrap());
        (self.tune)(&mut config);
        config
    }

    /// Starts a controller on its folder. One that is no founding voter joins.
    pub async fn boot(&mut self, id: u64) {
        let config = self.config(id);
        self.boot_with(id, config).await;
    }

    pub async fn boot_with(&mut self, id: u64, config: ControllerConfig) {
        let ports = self.addresses.iter().map(|(id, address)| (address.port(), *id)).collect();
        let dialer = self.net.dialer(id, ports);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shutdown = Shutdown::new();
        let begin = Instant::now();
        let controller = loop {
            let (config, dialer, shutdown) = (config.clone(), dialer.clone(), shutdown.clone());
            let started = runtime.spawn(async move {
                let mut seams = ControllerSeams::real(config.listen)?;
                seams.dialer = dialer;
                Controller::start_with(config, seams, shutdown).await
            });
            match started.await.unwrap() {
                Ok(controller) => break controller,
                // The threads of the one that was killed are still on their way out.
                Err(StartError::Bind(_)) if begin.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
                Err(error) if begin.elapsed() < PATIENCE && error.is_in_use() => {
                    tokio::time::sleep(PAUSE).await
                }
                Err(error) => panic!("controller {id} does not start: {error}"),
            }
        };
        let endpoint = format!("http://{}", controller.listen_addr());
        let channel = Channel::from_shared(endpoint).unwrap().timeout(PATIENCE).connect_lazy();
        let status = controller.status();
        self.nodes.insert(id, Node { runtime, shutdown, controller, status, channel });
    }

    /// The process is gone, in the middle of whatever it did.
    pub fn kill(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().runtime.shutdown_background();
    }

    /// Stops a controller as SIGTERM does.
    pub async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap();
        node.shutdown.trigger();
        drop(node.channel);
        node.runtime.spawn(node.controller.join()).await.unwrap().expect("it stops cleanly");
        node.runtime.shutdown_background();
    }

    pub fn running(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub fn status(&self, id: u64) -> RaftStatus {
        self.nodes[&id].status.borrow().clone()
    }

    /// Waits until one of those that run leads them.
    pub async fn leader(&self) -> u64 {
        self.leader_other_than(&[]).await
    }

    pub async fn leader_other_than(&self, not: &[u64]) -> u64 {
        until("a leader", || async {
            let top = self.nodes.keys().map(|id| self.status(*id).term).max()?;
            let leads = |id: &u64| {
                let status = self.status(*id);
                status.serving && status.term == top && !not.contains(id)
            };
            self.running().into_iter().find(leads)
        })
        .await
    }

    /// Those that run and do not lead.
    pub async fn followers(&self) -> Vec<u64> {
        let leader = self.leader().await;
        let follower = |id: &u64| *id != leader;
        let followers: Vec<u64> = self.running().into_iter().filter(follower).collect();
        let known = || async {
            followers.iter().all(|id| self.status(*id).leader == Some(NodeId(leader))).then_some(())
        };
        until("the followers to know their leader", known).await;
        followers
    }

    pub fn admin(&self, id: u64) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.nodes[&id].channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn internal(&self, id: u64) -> ControllerServiceClient<Channel> {
        ControllerServiceClient::new(self.nodes[&id].channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn channel(&self, id: u64) -> Channel {
        self.nodes[&id].channel.clone()
    }

    /// Registers a broker by way of controller `id` and unfences it; gives its epoch.
    pub async fn register(&self, id: u64, broker: i32) -> i64 {
        let registration = wire::RegisterBrokerRequest {
            broker_id: broker,
            incarnation_id: vec![broker as u8; 16].into(),
            endpoint: format!("127.0.0.1:{}", 9000 + broker),
            internal_endpoint: format!("127.0.0.1:{}", 9500 + broker),
            log_directory_ids: vec![format!("dir-{broker}")],
            feature_levels: Some(wire::FeatureLevels::OURS),
            ..Default::default()
        };
        let registered = until("the registration", || async {
            match self.internal(id).register_broker(registration.clone()).await {
                Ok(registered) => Some(registered.into_inner()),
                Err(status) if status.code() == Code::Unavailable => None,
                Err(status) => panic!("{status}"),
            }
        })
        .await;
        let heartbeat = heartbeat(broker, registered.broker_epoch);
        until("the broker to be unfenced", || async {
            let answer = self.internal(id).broker_heartbeat(heartbeat).await;
            answer.ok().filter(|answer| !answer.get_ref().fenced)
        })
        .await;
        registered.broker_epoch
    }

    /// Creates a topic by way of controller `id`.
    pub async fn create(
        &self,
        id: u64,
        name: &str,
        partitions: i32,
    ) -> Result<v1::CreateTopicsResponse, Status> {
        let topic = v1::NewTopic { name: name.into(), partitions: Some(partitions), ..Default::default() };
        let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false };
        self.admin(id).create_topics(request).await.map(tonic::Response::into_inner)
    }

    /// The same, tried again while no controller leads. A topic that exists then was created by an attempt without answer.
    pub async fn create_in_the_end(&self, id: u64, name: &str) {
        until("the topic to be created", || async {
            match self.create(id, name, 1).await {
                Ok(_) => Some(()),
                Err(status) => match code(&status) {
                    ErrorCode::TopicAlreadyExists => Some(()),
                    ErrorCode::ControllerNotAvailable | ErrorCode::RequestTimedOut => None,
                    _ => panic!("{status}"),
                },
            }
        })
        .await;
    }

    /// What a controller tells a new watcher.
    pub async fn image(&self, id: u64) -> Result<MetadataImage, Status> {
        let mut watch = self.internal(id).watch_image(wire::WatchImageRequest::default()).await?.into_inner();
        match watch.message().await?.and_then(|update| update.update) {
            Some(Update::Snapshot(bytes)) => Ok(codec::decode_image(&bytes).unwrap()),
            other => panic!("a snapshot comes first, not {other:?}"),
        }
    }

    /// The same, tried again while the controller is not current.
    pub async fn image_in_the_end(&self, id: u64) -> MetadataImage {
        until("the image", || async { self.image(id).await.ok() }).await
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A runtime may not be dropped where others run.
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.runtime.shutdown_background();
        }
    }
}

pub fn heartbeat(broker: i32, epoch: i64) -> wire::BrokerHeartbeatRequest {
    wire::BrokerHeartbeatRequest {
        broker_id: broker,
        broker_epoch: epoch,
        metadata_version: u64::MAX / 2,
        want_shutdown: false,
        feature_levels: Some(wire::FeatureLevels::OURS),
    }
}
