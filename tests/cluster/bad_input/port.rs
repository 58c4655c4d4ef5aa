//! Bytes on the port that are no gRPC.

use super::canary::Canary;
use crate::harness::{Api, Dev};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Sends bytes and reads to the end, or as long as a server may think about it.
fn send(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    // The server may hang up before it has read everything.
    drop(stream.write_all(bytes));
    drop(stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    answer
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn random_bytes_on_the_port_harm_nobody() {
    let mut dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    let before = api.broker().await.resident_bytes;
    let addr = dev.addr();

    let mut inputs: Vec<Vec<u8>> = Vec::new();
    for seed in 0..20 {
        inputs.push(noise(seed, 1 + (seed as usize * 997) % 20_000));
        inputs.push([PREFACE, &noise(seed + 100, 5000)].concat());
        // A settings frame that is right, then frames that are not.
        inputs.push([PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &noise(seed + 200, 3000)].concat());
    }
    inputs.push(Vec::new());
    inputs.push(PREFACE[..10].to_vec());
    inputs.push(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec());
    inputs.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec());
    inputs.push(vec![0; 4 << 20]);
    // A frame that says it has 16 MiB.
    inputs.push([PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat());
    let sent = tokio::task::spawn_blocking(move || {
        std::thread::scope(|scope| {
            for inputs in inputs.chunks(8) {
                scope.spawn(move || inputs.iter().for_each(|input| drop(send(addr, input))));
            }
        });
    });
    sent.await.unwrap();
    canary.sings(&api).await;

    // Connections that say nothing do not keep others out.
    let idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(addr).unwrap()).collect();
    canary.sings(&Api::connect(&dev).await).await;
    drop(idle);
    let after = api.broker().await.resident_bytes;
    assert!(after < before + (128 << 20), "{before} bytes resident before, {after} after");
    canary.sings_after_a_kill(&mut dev).await;
}
