//! Ports that stay free while a server is down.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range from which systems give ports to outgoing connections: none of those takes a killed server's port before it is
/// back.
const FIRST: u32 = 12_000;
/// How many there are.
const COUNT: u32 = 18_000;
/// Different test processes begin at different places.
const STRIDE: u32 = 211;

static TAKEN: AtomicU32 = AtomicU32::new(0);

/// So many ports of the loopback address that nobody listens on.
pub fn free_ports(count: usize) -> Vec<u16> {
    let begin = std::process::id().wrapping_mul(STRIDE) % COUNT;
    let mut ports = Vec::with_capacity(count);
    for _ in 0..COUNT {
        if ports.len() == count {
            return ports;
        }
        let port = FIRST + (begin + TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(port).expect("the range lies below 65,536");
        if TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), port)).is_ok() {
            ports.push(port);
        }
    }
    panic!("no {count} free ports from {FIRST} on")
}
