//! The bounds on connections and on the calls of one connection.

use std::time::Duration;

use futures_util::StreamExt;
use thalweg_runtime::ServerConfig;
use tonic::Code;

use crate::echo::{HANG, PATIENCE, STUBBORN, Server, UNARY, open, read_out, unary};

#[tokio::test]
async fn connections_past_the_bound_wait_their_turn() {
    let server = Server::start(ServerConfig { max_connections: 1, ..ServerConfig::default() });
    let first = server.connect().await;
    let mut stubborn = open(&first, STUBBORN, None).await.unwrap();
    stubborn.next().await.unwrap().unwrap();

    // The system's backlog takes it, and the server does not.
    let second = server.connect().await;
    let mut waiting = tokio::spawn(async move { unary(&second, UNARY, None).await });
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    drop((stubborn, first));
    tokio::time::timeout(PATIENCE, waiting).await.expect("its turn comes").unwrap().unwrap();
}

#[tokio::test]
async fn calls_past_a_connections_limit_wait_on_their_own_deadline() {
    let config = ServerConfig { concurrency_limit_per_connection: Some(1), ..ServerConfig::default() };
    let server = Server::start(config);
    let channel = server.connect().await;
    let hanging = tokio::spawn({
        let channel = channel.clone();
        async move { unary(&channel, HANG, None).await }
    });
    server.wait_live(1).await;

    // Its deadline counts while it waits; which end says so first does not matter here.
    let status = unary(&channel, UNARY, Some("50m")).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    // Another connection has a limit of its own.
    unary(&server.connect().await, UNARY, None).await.unwrap();
    // A client that gives up frees its place.
    hanging.abort();
    let freed = tokio::time::timeout(PATIENCE, unary(&channel, UNARY, None)).await;
    freed.expect("the place is free").unwrap();
}

#[tokio::test]
async fn an_aged_connection_is_closed_and_the_server_goes_on() {
    let config = ServerConfig {
        max_connection_age: Some(Duration::from_millis(100)),
        max_connection_age_grace: Duration::from_millis(100),
        ..ServerConfig::default()
    };
    let server = Server::start(config);
    let mut stubborn = open(&server.connect().await, STUBBORN, None).await.unwrap();
    stubborn.next().await.unwrap().unwrap();
    let (_, ended) = read_out(stubborn).await;
    ended.unwrap_err();
    server.wait_live(0).await;
    unary(&server.connect().await, UNARY, None).await.unwrap();
}
