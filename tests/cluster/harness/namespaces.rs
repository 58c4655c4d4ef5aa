//! Network namespaces: each broker behind a cable that can be pulled.
//!
//! ```text
//!   hub: bridge 10.x.y.1, controllers, clients ──┬── veth ── broker 1: 10.x.y.11
//!                                                ├── veth ── broker 2: 10.x.y.12
//!                                                └── veth ── broker 3: 10.x.y.13
//! ```
//! The hub is a namespace too: nothing of the machine's own network is touched.

use super::cluster::Places;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static MADE: AtomicU32 = AtomicU32::new(0);

/// A hub and a namespace for each broker. Dropping it removes them.
#[derive(Debug)]
pub struct Namespaces {
    name: String,
    subnet: String,
    brokers: Vec<i32>,
}

impl Namespaces {
    /// Makes them, or says why this machine does not let us.
    pub fn make(brokers: &[i32]) -> Result<Namespaces, String> {
        let pid = std::process::id();
        let name = format!("tw{pid}-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let subnet = format!("10.{}.{}", 64 + (pid >> 8) % 128, pid % 256);
        // Made before the first step, so that what was made is removed when a later one fails.
        let made = Namespaces { name, subnet, brokers: brokers.to_vec() };
        let hub = made.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &hub, "address", "add", &format!("{}.1/24", made.subnet), "dev", "br0"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        for broker in brokers {
            let (own, port) = (made.own(*broker), port(*broker));
            ip(&["netns", "add", &own])?;
            ip(&["-n", &own, "link", "set", "lo", "up"])?;
            let pair = ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &own];
            ip(&[&["-n", &hub][..], &pair[..]].concat())?;
            ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &own, "address", "add", &format!("{}/24", made.address(*broker)), "dev", "eth0"])?;
            ip(&["-n", &own, "link", "set", "eth0", "up"])?;
        }
        Ok(made)
    }

    /// A handle for the cluster's places.
    pub fn places(&self) -> Box<dyn Places> {
        let handle = Handle { name: self.name.clone(), subnet: self.subnet.clone() };
        Box::new(handle)
    }

    /// Pulls a broker's cable: what it sends is lost without a word, and so is what is sent to it.
    pub fn cut(&self, broker: i32) {
        ip(&["-n", &self.hub(), "link", "set", &port(broker), "down"]).unwrap();
    }

    /// Puts it back.
    pub fn mend(&self, broker: i32) {
        ip(&["-n", &self.hub(), "link", "set", &port(broker), "up"]).unwrap();
    }

    /// The namespace of a broker: what runs there reaches that broker when its cable is pulled.
    pub fn own(&self, broker: i32) -> String {
        format!("{}-b{broker}", self.name)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn address(&self, broker: i32) -> String {
        format!("{}.{}", self.subnet, 10 + broker)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Removing a namespace removes its ends of the cables, and with them the others'.
        for broker in &self.brokers {
            drop(ip(&["netns", "delete", &self.own(*broker)]));
        }
        drop(ip(&["netns", "delete", &self.hub()]));
    }
}

/// The end of a broker's cable in the hub.
fn port(broker: i32) -> String {
    format!("port{broker}")
}

struct Handle {
    name: String,
    subnet: String,
}

impl Places for Handle {
    fn broker(&self, id: i32) -> (Option<String>, String) {
        (Some(format!("{}-b{id}", self.name)), format!("{}.{}", self.subnet, 10 + id))
    }

    fn rest(&self) -> (Option<String>, String) {
        (Some(format!("{}-hub", self.name)), format!("{}.1", self.subnet))
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("ip {}: {said}", args.join(" ")))
}
