//! A small service for the tests, and a client for it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use http::uri::PathAndQuery;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};
use thalweg_runtime::server::GrpcServerBuilder;
use thalweg_runtime::{
    CallMetrics, Drained, GrpcServer, HealthHandle, RequestDeadline, ServerConfig, Shutdown, bind,
};
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// Long enough that only a fault reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const UNARY: &str = "/test.v1.Echo/Unary";
pub const PANIC: &str = "/test.v1.Echo/Panic";
pub const HANG: &str = "/test.v1.Echo/Hang";
pub const REMOTE: &str = "/test.v1.Echo/Remote";
/// Messages without a pause, until the shutdown.
pub const FLOOD: &str = "/test.v1.Echo/Flood";
/// One message, then nothing until the shutdown.
pub const QUIET: &str = "/test.v1.Echo/Quiet";
/// One message, then nothing ever.
pub const STUBBORN: &str = "/test.v1.Echo/Stubborn";
/// Each message back.
pub const TALK: &str = "/test.v1.Echo/Talk";
/// One message, then a panic.
pub const BREAK: &str = "/test.v1.Echo/Break";

static DESCRIPTORS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let method = |path: &str, streaming| MethodDescriptorProto {
        client_streaming: Some(path == TALK),
        name: Some(path.rsplit('/').next().unwrap().to_owned()),
        input_type: Some(".test.v1.Empty".into()),
        output_type: Some(".test.v1.Empty".into()),
        server_streaming: Some(streaming),
        ..Default::default()
    };
    let service = ServiceDescriptorProto {
        name: Some("Echo".into()),
        method: [UNARY, PANIC, HANG, REMOTE]
            .map(|path| method(path, false))
            .into_iter()
            .chain([FLOOD, QUIET, STUBBORN, BREAK, TALK].map(|path| method(path, true)))
            .collect(),
        ..Default::default()
    };
    let file = FileDescriptorProto {
        name: Some("test/v1/echo.proto".into()),
        package: Some("test.v1".into()),
        message_type: vec![prost_types::DescriptorProto { name: Some("Empty".into()), ..Default::default() }],
        service: vec![service],
        ..Default::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
});

#[derive(Clone)]
pub struct Echo {
    shutdown: Shutdown,
    /// Handlers and streams now alive.
    live: Arc<AtomicUsize>,
}

struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.v1.Echo";
}

type Texts = BoxStream<'static, Result<String, Status>>;

impl Echo {
    async fn unary(&self, path: &str, request: Request<String>) -> Result<Response<String>, Status> {
        let _alive = Alive::new(&self.live);
        match path {
            UNARY => {
                let deadline = request.extensions().get::<RequestDeadline>().is_some();
                Ok(Response::new(format!("{} deadline={deadline}", request.get_ref())))
            }
            REMOTE => Ok(Response::new(request.remote_addr().map(|a| a.to_string()).unwrap_or_default())),
            HANG => std::future::pending().await,
            _ => panic!("as asked"),
        }
    }

    fn stream(&self, path: &str) -> Texts {
        let alive = Alive::new(&self.live);
        let shutdown = self.shutdown.clone();
        let kept = move |texts: Texts| {
            texts
                .map(move |text| {
                    let _alive = &alive;
                    text
                })
                .boxed()
        };
        let first = stream::once(async { Ok("first".to_owned()) });
        kept(match path {
            FLOOD => stream::repeat_with(|| Ok("drop".to_owned()))
                .take_until(async move { shutdown.triggered().await })
                .boxed(),
            QUIET => {
                first.chain(stream::pending().take_until(async move { shutdown.triggered().await })).boxed()
            }
            BREAK => first.chain(stream::poll_fn(|_| panic!("in the stream"))).boxed(),
            _ => first.chain(stream::pending()).boxed(),
        })
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        let path = request.uri().path().to_owned();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            Ok(if [UNARY, PANIC, HANG, REMOTE].contains(&path.as_str()) {
                let method = service_fn(|request: Request<String>| {
                    let (echo, path) = (echo.clone(), path.clone());
                    async move { echo.unary(&path, request).await }
                });
                grpc.unary(method, request).await
            } else if path == TALK {
                let alive = Alive::new(&echo.live);
                let method = service_fn(move |request: Request<Streaming<String>>| {
                    let alive = Alive::new(&alive.0);
                    let back = request.into_inner().map(move |text| {
                        let _alive = &alive;
                        text
                    });
                    std::future::ready(Ok::<_, Status>(Response::new(back)))
                });
                grpc.streaming(method, request).await
            } else {
                let method = service_fn(|_: Request<String>| {
                    std::future::ready(Ok::<_, Status>(Response::new(echo.stream(&path))))
                });
                grpc.server_streaming(method, request).await
            })
        })
    }
}

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub shutdown: Shutdown,
    pub health: HealthHandle,
    pub metrics: CallMetrics,
    live: Arc<AtomicUsize>,
    task: JoinHandle<Drained>,
}

/// The builder with the echo service in it.
pub fn builder(config: ServerConfig, shutdown: &Shutdown) -> (GrpcServerBuilder, Arc<AtomicUsize>) {
    let live = Arc::new(AtomicUsize::new(0));
    let echo = Echo { shutdown: shutdown.clone(), live: Arc::clone(&live) };
    let builder = GrpcServer::builder("test").config(config).service(echo).descriptors(&DESCRIPTORS);
    (builder, live)
}

impl Server {
    pub fn start(config: ServerConfig) -> Self {
        let shutdown = Shutdown::new();
        let (builder, live) = builder(config, &shutdown);
        let server = builder.build().unwrap();
        let (health, metrics) = (server.health(), server.metrics());
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(server.serve_listener(listener, shutdown.clone()));
        Self { address, shutdown, health, metrics, live, task }
    }

    /// A new connection.
    pub async fn connect(&self) -> Channel {
        Endpoint::try_from(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// Waits for the end of the serving task.
    pub async fn ended(&mut self) -> Drained {
        tokio::time::timeout(PATIENCE, &mut self.task).await.expect("the server ends").unwrap()
    }

    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Waits until so many handlers and streams are alive.
    pub async fn wait_live(&self, wanted: usize) {
        let reached = async {
            while self.live() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached)
            .await
            .unwrap_or_else(|_| panic!("{} alive, waited for {wanted}", self.live()));
    }
}

fn request(timeout: Option<&'static str>) -> Request<String> {
    let mut request = Request::new("hello".to_owned());
    if let Some(timeout) = timeout {
        request.metadata_mut().insert("grpc-timeout", MetadataValue::from_static(timeout));
    }
    request
}

pub async fn unary(
    channel: &Channel,
    path: &'static str,
    timeout: Option<&'static str>,
) -> Result<String, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<String, String>::default();
    let call = grpc.unary(request(timeout), PathAndQuery::from_static(path), codec);
    let answered = tokio::time::timeout(PATIENCE, call).await.expect("the call ends");
    answered.map(Response::into_inner)
}

pub async fn open(
    channel: &Channel,
    path: &'static str,
    timeout: Option<&'static str>,
) -> Result<Streaming<String>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<String, String>::default();
    grpc.server_streaming(request(timeout), PathAndQuery::from_static(path), codec)
        .await
        .map(Response::into_inner)
}

/// Reads to the end: how many messages came, and how it ended.
pub async fn read_out<T>(messages: impl Stream<Item = Result<T, Status>>) -> (usize, Result<(), Status>) {
    let mut messages = std::pin::pin!(messages);
    let mut count = 0;
    let reading = async {
        while let Some(message) = messages.next().await {
            match message {
                Ok(_) => count += 1,
                Err(status) => return Err(status),
            }
        }
        Ok(())
    };
    let ended = tokio::time::timeout(PATIENCE, reading).await.expect("the stream ends");
    (count, ended)
}
