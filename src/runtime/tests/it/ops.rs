//! The operations port, as a scraper, a probe and an operator use it.

use std::net::SocketAddr;
use std::sync::Arc;

use thalweg_runtime::observe::{Family, OpsPort, ProcessSource, Registry, Samples, Source};
use thalweg_runtime::{LogFormat, Shutdown, init_logging};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

static THINGS: Family = Family::gauge("thalweg_things", "Things.", &["name"]);

struct Things;

impl Source for Things {
    fn collect(&self, samples: &mut Samples<'_>) {
        samples.count(&THINGS, &["a"], 7);
    }
}

async fn say(to: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(to: SocketAddr, path: &str) -> String {
    say(to, &format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")).await
}

async fn put(to: SocketAddr, path: &str, body: &str) -> String {
    let length = body.len();
    say(
        to,
        &format!(
            "PUT {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        ),
    )
    .await
}

#[tokio::test]
async fn metrics_health_and_the_log_filter_share_a_port() {
    let registry = Registry::new();
    registry.add_process(Arc::new(ProcessSource { version: "1.2.3" }));
    registry.add("broker", 3, Arc::new(Things));
    let log = init_logging(LogFormat::Text, "warn").unwrap();
    let shutdown = Shutdown::new();
    let port = OpsPort::open("127.0.0.1:0".parse().unwrap(), registry, log, shutdown.clone()).unwrap();
    let at = port.address();

    let metrics = get(at, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{metrics}");
    assert!(metrics.contains("thalweg_things{service=\"broker\",node=\"3\",name=\"a\"} 7\n"), "{metrics}");
    assert!(metrics.contains("thalweg_build_info{version=\"1.2.3\"} 1\n"), "{metrics}");
    assert!(get(at, "/secrets").await.starts_with("HTTP/1.1 404 "));

    let channel = tonic::transport::Endpoint::new(format!("http://{at}")).unwrap().connect_lazy();
    let mut probe = HealthClient::new(channel);
    let mut health = async |name: &str| {
        let answer = probe.check(HealthCheckRequest { service: name.to_owned() }).await;
        answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
    };
    assert_eq!(health("").await, Ok(ServingStatus::NotServing));
    assert_eq!(health("thalweg.live").await, Ok(ServingStatus::Serving));
    assert_eq!(health("thalweg.broker").await, Err(tonic::Code::NotFound));
    port.set_ready(true, &["thalweg.broker"]).await;
    assert_eq!(health("").await, Ok(ServingStatus::Serving));
    assert_eq!(health("thalweg.broker").await, Ok(ServingStatus::Serving));

    assert!(get(at, "/log-filter").await.ends_with("\r\n\r\nwarn\n"));
    assert!(put(at, "/log-filter", "=,=").await.starts_with("HTTP/1.1 400 "));
    assert!(put(at, "/log-filter", &"x".repeat(5_000)).await.starts_with("HTTP/1.1 400 "));
    assert!(put(at, "/log-filter", "error\n").await.ends_with("\r\n\r\nerror\n"));
    shutdown.trigger();
}
