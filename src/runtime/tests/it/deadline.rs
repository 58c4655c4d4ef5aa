//! Deadlines: before the response head, in the middle of a stream, and where there is none.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use thalweg_runtime::ServerConfig;
use thalweg_runtime::layers::deadline::DeadlineLayer;
use thalweg_runtime::methods::MethodTable;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, ServiceExt, service_fn};

use crate::echo::{FLOOD, HANG, QUIET, Server, UNARY, open, read_out, unary};

fn impatient() -> ServerConfig {
    ServerConfig { unary_timeout: Some(Duration::from_millis(50)), ..ServerConfig::default() }
}

// Below the transport: the client's own timer would answer first and hide what the server says.
#[tokio::test]
async fn the_clients_deadline_ends_a_call_without_an_answer() {
    let hanging = service_fn(|_: http::Request<Body>| std::future::pending::<Result<_, Infallible>>());
    let service = DeadlineLayer::new(None, Arc::new(MethodTable::default())).layer(hanging);
    let request = http::Request::builder().header("grpc-timeout", "20m").body(Body::empty()).unwrap();
    let response: http::Response<Body> = service.oneshot(request).await.unwrap();
    assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_servers_default_ends_unary_calls_and_frees_the_handler() {
    let server = Server::start(impatient());
    let channel = server.connect().await;
    let status = unary(&channel, HANG, None).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    server.wait_live(0).await;
}

#[tokio::test]
async fn streams_have_no_default_deadline() {
    let server = Server::start(impatient());
    let channel = server.connect().await;
    let mut quiet = open(&channel, QUIET, None).await.unwrap();
    quiet.next().await.unwrap().unwrap();
    // Outlive the default, by the word of a call that it cuts.
    for _ in 0..2 {
        assert_eq!(unary(&channel, HANG, None).await.unwrap_err().code(), Code::DeadlineExceeded);
    }
    assert_eq!(server.live(), 1, "the stream is alive");
    server.shutdown.trigger();
    let (_, ended) = read_out(quiet).await;
    ended.unwrap();
}

#[tokio::test]
async fn a_clients_deadline_ends_a_stream_in_the_middle() {
    let server = Server::start(ServerConfig::default());
    let channel = server.connect().await;
    for path in [QUIET, FLOOD] {
        let (count, ended) = read_out(open(&channel, path, Some("500m")).await.unwrap()).await;
        assert!(count >= 1, "{path} gave nothing");
        assert_eq!(ended.unwrap_err().code(), Code::DeadlineExceeded, "{path}");
        server.wait_live(0).await;
    }
    assert!(unary(&channel, UNARY, None).await.is_ok(), "the connection is as good as before");
}

#[tokio::test]
async fn handlers_see_the_deadline() {
    let config = ServerConfig { unary_timeout: None, ..ServerConfig::default() };
    let server = Server::start(config);
    let channel = server.connect().await;
    assert_eq!(unary(&channel, UNARY, None).await.unwrap(), "hello deadline=false");
    assert_eq!(unary(&channel, UNARY, Some("99999999H")).await.unwrap(), "hello deadline=true");
}

#[tokio::test]
async fn a_malformed_timeout_is_refused() {
    let server = Server::start(ServerConfig::default());
    let channel = server.connect().await;
    for timeout in ["123456789S", "1", "S", "1.5S", "1s"] {
        let status = unary(&channel, UNARY, Some(timeout)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{timeout}: {status}");
    }
}
