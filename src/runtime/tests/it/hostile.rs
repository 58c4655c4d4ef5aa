//! Bytes that are no gRPC: the server closes on them and serves the next.

use std::time::Duration;

use thalweg_runtime::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::echo::{PATIENCE, Server, UNARY, unary};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// xorshift64*: the same bytes in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.next() % 4_000 + 1;
        (0..len).map(|_| (self.next() >> 56) as u8).collect()
    }
}

/// Sends `bytes` and waits for the server to close.
async fn send_and_wait(server: &Server, bytes: &[u8]) {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    // The server may close in the middle of it.
    let _ = socket.write_all(bytes).await;
    let closed = async {
        let mut answer = [0; 1_024];
        while matches!(socket.read(&mut answer).await, Ok(1..)) {}
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("the server closes the connection");
}

async fn still_serves(server: &Server) {
    let call = unary(&server.connect().await, UNARY, None).await;
    assert_eq!(call.unwrap(), "hello deadline=true");
}

#[tokio::test]
async fn random_bytes_are_closed_on() {
    let server = Server::start(ServerConfig::default());
    let mut noise = Noise(0x7A1E);
    for _ in 0..50 {
        send_and_wait(&server, &noise.bytes()).await;
    }
    for text in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        send_and_wait(&server, text).await;
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn random_frames_do_not_end_the_server() {
    // A stream that says nothing wrong may stay open; it must not outlive the ping's timeout.
    let config = ServerConfig {
        keepalive_interval: Duration::from_millis(100),
        keepalive_timeout: Duration::from_millis(100),
        ..ServerConfig::default()
    };
    let server = Server::start(config);
    let mut noise = Noise(0xF4A3);
    for _ in 0..50 {
        let mut bytes = [PREFACE, EMPTY_SETTINGS].concat();
        for _ in 0..8 {
            // A plausible frame head before the noise, so that it gets past the first check.
            let body = noise.bytes();
            let kind = (noise.next() % 11) as u8;
            let flags = (noise.next() >> 56) as u8;
            bytes.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
            bytes.extend_from_slice(&[kind, flags]);
            bytes.extend_from_slice(&((noise.next() % 8) as u32).to_be_bytes());
            bytes.extend_from_slice(&body);
        }
        send_and_wait(&server, &bytes).await;
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn a_connection_that_never_speaks_is_closed() {
    let config = ServerConfig { handshake_timeout: Duration::from_millis(50), ..ServerConfig::default() };
    let server = Server::start(config);
    send_and_wait(&server, b"").await;
    send_and_wait(&server, &PREFACE[..10]).await;
    still_serves(&server).await;
}

#[tokio::test]
async fn a_rapid_reset_closes_the_connection() {
    let server = Server::start(ServerConfig::default());
    let mut bytes = [PREFACE, EMPTY_SETTINGS].concat();
    for stream in 0..2_000_u32 {
        let id = (2 * stream + 1).to_be_bytes();
        // HEADERS with END_HEADERS and END_STREAM: POST, http, `/`; then RST_STREAM with CANCEL.
        bytes.extend_from_slice(&[0, 0, 3, 1, 5]);
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&[0x83, 0x86, 0x84]);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&[0, 0, 0, 8]);
    }
    // Closed long before the keepalive (30 s) would do it.
    send_and_wait(&server, &bytes).await;
    still_serves(&server).await;
}
