//! The end of a server: what ends by itself is waited for, what does not is cut.

use std::time::Duration;

use futures_util::StreamExt;
use thalweg_runtime::{Incoming, ServerConfig, Shutdown, Supervisor, bind};
use tonic::transport::Endpoint;

use crate::echo::{HANG, PATIENCE, QUIET, STUBBORN, Server, UNARY, builder, open, read_out, unary};

fn draining(deadline: Duration) -> ServerConfig {
    ServerConfig { drain_deadline: deadline, ..ServerConfig::default() }
}

#[tokio::test]
async fn streams_that_end_on_the_shutdown_end_whole() {
    let mut server = Server::start(draining(PATIENCE));
    let channel = server.connect().await;
    let mut quiet = open(&channel, QUIET, None).await.unwrap();
    quiet.next().await.unwrap().unwrap();
    server.shutdown.trigger();
    let (_, ended) = read_out(quiet).await;
    ended.unwrap();
    assert_eq!(server.ended().await.cut, 0);
}

#[tokio::test]
async fn the_listener_closes_before_the_drain_ends() {
    let shutdown = Shutdown::new();
    let (parts, _) = builder(draining(PATIENCE), &shutdown);
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    // Goes with the listener. The port itself says nothing: another test may have it by then.
    let (held, closed) = tokio::sync::oneshot::channel::<()>();
    let incoming = Incoming::from_stream(Incoming::from_listener(listener, true).inspect(move |_| {
        let _held = &held;
    }));
    let serving = tokio::spawn(parts.build().unwrap().serve(incoming, shutdown.clone()));
    let channel = Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut stubborn = open(&channel, STUBBORN, None).await.unwrap();
    stubborn.next().await.unwrap().unwrap();

    shutdown.trigger();
    tokio::time::timeout(PATIENCE, closed).await.expect("the listener is dropped").unwrap_err();
    assert!(!serving.is_finished(), "the stream is still open");
    drop((stubborn, channel));
    assert_eq!(serving.await.unwrap().cut, 0);
}

#[tokio::test]
async fn streams_that_do_not_end_are_cut_at_the_deadline() {
    let mut server = Server::start(draining(Duration::from_millis(100)));
    let (first, second) = (server.connect().await, server.connect().await);
    let mut stubborn = open(&first, STUBBORN, None).await.unwrap();
    stubborn.next().await.unwrap().unwrap();
    let hanging = tokio::spawn(async move { unary(&second, HANG, None).await });
    server.wait_live(2).await;

    server.shutdown.trigger();
    assert_eq!(server.ended().await.cut, 2);
    let (_, ended) = read_out(stubborn).await;
    ended.unwrap_err();
    hanging.await.unwrap().unwrap_err();
    // Nothing of the handlers is left behind.
    server.wait_live(0).await;
}

#[tokio::test]
async fn idle_and_unfinished_connections_do_not_hold_the_drain() {
    let mut server = Server::start(draining(PATIENCE));
    let idle = server.connect().await;
    unary(&idle, UNARY, None).await.unwrap();
    let silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
    // Accepted after the silent one, so that one is in the server's hands.
    unary(&server.connect().await, UNARY, None).await.unwrap();
    server.shutdown.trigger();
    assert_eq!(server.ended().await.cut, 0);
    drop((idle, silent));
}

#[tokio::test]
async fn a_dropped_server_leaves_no_connection_behind() {
    let supervisor = Supervisor::new(Shutdown::new());
    let (parts, live) = builder(draining(PATIENCE), supervisor.shutdown());
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = parts.build().unwrap().serve_listener(listener, supervisor.shutdown().clone());
    supervisor.spawn_critical("grpc", serving);
    let channel = Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut stubborn = open(&channel, STUBBORN, None).await.unwrap();
    stubborn.next().await.unwrap().unwrap();

    supervisor.shutdown().trigger();
    let error = supervisor.join(Duration::from_millis(50)).await.unwrap_err();
    assert!(error.to_string().contains("grpc"), "{error}");
    let (_, ended) = read_out(stubborn).await;
    ended.unwrap_err();
    let gone = async {
        while live.load(std::sync::atomic::Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the handler's stream is dropped");
}
