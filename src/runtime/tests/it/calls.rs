//! Calls that go well, and handlers that do not: health, reflection, panics, counts, addresses.

use futures_util::StreamExt;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use thalweg_runtime::metrics::OTHER_METHOD;
use thalweg_runtime::server::BuildError;
use thalweg_runtime::{Incoming, ServerConfig, Shutdown};
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::{v1, v1alpha};

use crate::echo::{self, BREAK, PANIC, QUIET, REMOTE, Server, UNARY, open, read_out, unary};

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

fn status(response: &HealthCheckResponse) -> ServingStatus {
    response.status()
}

#[tokio::test]
async fn health_tells_each_service_and_the_whole() {
    let mut server = Server::start(ServerConfig::default());
    let mut client = HealthClient::new(server.connect().await);
    for name in ["", "test.v1.Echo"] {
        let response = client.check(of(name)).await.unwrap();
        assert_eq!(status(response.get_ref()), ServingStatus::Serving, "{name:?}");
    }
    assert_eq!(client.check(of("none")).await.unwrap_err().code(), Code::NotFound);

    server.health.set_not_serving("test.v1.Echo").await;
    let one = client.check(of("test.v1.Echo")).await.unwrap();
    assert_eq!(status(one.get_ref()), ServingStatus::NotServing);
    assert_eq!(status(client.check(of("")).await.unwrap().get_ref()), ServingStatus::Serving);
    server.health.set_serving("test.v1.Echo").await;

    // A watcher hears of the shutdown, and does not hold it up.
    let mut watch = client.watch(of("test.v1.Echo")).await.unwrap().into_inner();
    assert_eq!(status(&watch.next().await.unwrap().unwrap()), ServingStatus::Serving);
    server.shutdown.trigger();
    assert_eq!(status(&watch.next().await.unwrap().unwrap()), ServingStatus::NotServing);
    let (_, ended) = read_out(watch).await;
    ended.unwrap();
    assert_eq!(server.ended().await.cut, 0);
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let server = Server::start(ServerConfig::default());
    let channel = server.connect().await;
    let wanted = ["grpc.health.v1.Health", "test.v1.Echo"];

    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let path = PathAndQuery::from_static("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    let codec = ProstCodec::<v1::ServerReflectionRequest, v1::ServerReflectionResponse>::default();
    let mut answers = grpc.server_streaming(Request::new(request), path, codec).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(wanted.iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");

    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let path = PathAndQuery::from_static("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
    let codec = ProstCodec::<v1alpha::ServerReflectionRequest, v1alpha::ServerReflectionResponse>::default();
    let mut answers = grpc.server_streaming(Request::new(request), path, codec).await.unwrap().into_inner();
    assert!(answers.next().await.unwrap().unwrap().message_response.is_some());
}

#[tokio::test]
async fn a_panic_is_internal_and_ends_nothing_else() {
    let server = Server::start(ServerConfig::default());
    let channel = server.connect().await;
    let mut quiet = open(&channel, QUIET, None).await.unwrap();
    quiet.next().await.unwrap().unwrap();

    let status = unary(&channel, PANIC, None).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("as asked"), "the panic's text stays in the log: {status}");
    let (count, ended) = read_out(open(&channel, BREAK, None).await.unwrap()).await;
    assert!(ended.is_err(), "a broken stream does not look whole");
    assert!(count <= 1);

    assert_eq!(unary(&channel, UNARY, None).await.unwrap(), "hello deadline=true");
    // The stream on the same connection is still there, and ends in order.
    server.shutdown.trigger();
    let (_, ended) = read_out(quiet).await;
    ended.unwrap();
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let server = Server::start(ServerConfig::default());
    let channel = server.connect().await;
    for _ in 0..3 {
        unary(&channel, UNARY, None).await.unwrap();
    }
    unary(&channel, PANIC, None).await.unwrap_err();
    unary(&channel, "/none.v1.None/Call", None).await.unwrap_err();
    let mut stream = open(&channel, QUIET, None).await.unwrap();
    stream.next().await.unwrap().unwrap();

    let counts: Vec<_> = server
        .metrics
        .snapshot()
        .into_iter()
        .map(|method| (method.method, method.codes, method.streams_opened))
        .collect();
    assert_eq!(
        counts,
        [
            (PANIC.to_owned(), vec![(Code::Internal, 1)], 0),
            (QUIET.to_owned(), vec![], 1),
            (UNARY.to_owned(), vec![(Code::Ok, 3)], 0),
            (OTHER_METHOD.to_owned(), vec![(Code::Unimplemented, 1)], 0),
        ]
    );
}

#[tokio::test]
async fn handlers_see_where_a_call_comes_from() {
    let server = Server::start(ServerConfig::default());
    let remote = unary(&server.connect().await, REMOTE, None).await.unwrap();
    assert!(remote.starts_with("127.0.0.1:"), "{remote}");
}

#[tokio::test]
async fn any_stream_of_connections_can_be_served() {
    let shutdown = Shutdown::new();
    let (client, served) = tokio::io::duplex(1 << 16);
    let (builder, _) = echo::builder(ServerConfig::default(), &shutdown);
    let incoming = Incoming::from_io(futures_util::stream::iter([Ok(served)]));
    let serving = tokio::spawn(builder.build().unwrap().serve(incoming, shutdown.clone()));

    let mut client = Some(client);
    let connector = tower::service_fn(move |_| {
        let io = client.take().map(TokioIo::new).ok_or(std::io::ErrorKind::ConnectionRefused);
        std::future::ready(io.map_err(std::io::Error::from))
    });
    let channel = Endpoint::from_static("http://simulated").connect_with_connector(connector).await.unwrap();
    assert_eq!(unary(&channel, UNARY, None).await.unwrap(), "hello deadline=true");
    assert_eq!(unary(&channel, REMOTE, None).await.unwrap(), "");
    // The incoming stream has ended; the connection goes on until the shutdown.
    shutdown.trigger();
    assert_eq!(serving.await.unwrap().cut, 0);
}

#[tokio::test]
async fn mistakes_in_the_parts_are_told() {
    let shutdown = Shutdown::new();
    let echo = |config| echo::builder(config, &shutdown).0;
    let narrow = ServerConfig { connection_window: 1, ..ServerConfig::default() };
    assert!(matches!(echo(narrow).build(), Err(BuildError::Config(_))));
    let twice = echo(ServerConfig::default()).service(tonic_health::server::health_reporter().1).build();
    assert!(matches!(twice, Err(BuildError::Twice("grpc.health.v1.Health"))));
    let junk = echo(ServerConfig::default()).descriptors(&[0xff, 0xff]).build();
    assert!(matches!(junk, Err(BuildError::Descriptors(_))));
}
