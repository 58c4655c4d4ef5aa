//! The faults there are, and how they are drawn.

use crate::cluster::{NodeKind, Roster};
use crate::dice::Dice;
use crate::plan::Profile;
use std::time::Duration;

/// How slow a lagging node is at most.
const LAG: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(6));

/// Something that goes wrong for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A process is killed. What it wrote is in the page cache; its connections are closed by the kernel.
    Kill {
        /// Which.
        node: String,
    },
    /// A machine loses its power: unsynced writes are lost or torn, its peers hear nothing.
    PowerCut {
        /// Which.
        node: String,
    },
    /// The same for a broker in the middle of its writes: after so many more calls to the disk.
    PowerCutAtWrite {
        /// Which.
        node: String,
        /// Calls that still go through.
        after: u64,
    },
    /// All brokers lose their power at once.
    Blackout {
        /// Who.
        nodes: Vec<String>,
    },
    /// A broker comes back with an empty disk, and soon after another loses its power.
    LostVolume {
        /// Whose disk is lost.
        node: String,
        /// Who goes next.
        next: String,
    },
    /// Some nodes and the others hear nothing of one another.
    Split {
        /// One side; the rest is the other.
        side: Vec<String>,
    },
    /// Messages from one node do not arrive; those to it do.
    Deaf {
        /// Whose messages are lost.
        from: String,
        /// Where they would go.
        to: Vec<String>,
    },
    /// Messages between two nodes take long, and differently long.
    Slow {
        /// One.
        a: String,
        /// The other.
        b: String,
        /// At most so long.
        at_most: Duration,
    },
    /// Everything that one node sends or is sent takes long: what it did before it was given up arrives after.
    Lagging {
        /// Which.
        node: String,
        /// At most so long.
        at_most: Duration,
    },
    /// A coordinator and a broker lose the controllers, and nobody else: the cluster gives the shards to others, and neither of
    /// the two hears of it. After that the heir is killed, so that somebody loads what is in the log by then.
    Usurped {
        /// Who had the shards.
        node: String,
        /// Who still sends the calls of its clients there.
        broker: String,
        /// Who gets the shards.
        heir: String,
    },
    /// A broker's disk has so many bytes left.
    FullDisk {
        /// Which.
        node: String,
        /// Bytes.
        left: u64,
    },
    /// The next sync of a broker's disk fails with EIO; the process is killed and started again later.
    SyncFails {
        /// Which.
        node: String,
    },
}

impl Fault {
    /// Draws a fault. `calm` leaves a majority of the brokers and of the controllers alone; `whole` says that every replica
    /// is there and in sync, so that one may be lost; `busiest` leads most partitions.
    pub fn draw(
        dice: &mut Dice,
        roster: &Roster,
        profile: Profile,
        down: &[String],
        calm: bool,
        whole: bool,
        busiest: Option<&String>,
    ) -> Option<Fault> {
        let brokers = roster.of(NodeKind::Broker);
        let controllers = roster.of(NodeKind::Controller);
        let coordinators = roster.of(NodeKind::Coordinator);
        let servers: Vec<String> = brokers.iter().chain(&controllers).chain(&coordinators).cloned().collect();
        let all = roster.all();
        let spare = |group: &[String]| {
            let away = group.iter().filter(|node| down.contains(node)).count();
            // One coordinator can do everything.
            let least = if group == coordinators { 1 } else { group.len() / 2 + 1 };
            !calm || away + least < group.len() || (group.len() == 1 && away == 0)
        };
        let group = match dice.below(100) {
            0..70 if coordinators.is_empty() => &brokers,
            _ if coordinators.is_empty() => &controllers,
            0..50 => &brokers,
            50..68 => &controllers,
            _ => &coordinators,
        };
        let victim = dice.pick(group).clone();
        let crashable = spare(group) && !down.contains(&victim);
        let is_broker = brokers.contains(&victim);
        let favourite = dice.chance(60);
        match profile {
            Profile::Blackouts if favourite && down.is_empty() => {
                return Some(Fault::Blackout { nodes: brokers });
            }
            Profile::Coordinators if favourite && !coordinators.is_empty() => {
                let crashable = spare(&coordinators);
                let node = dice.pick(&coordinators).clone();
                let crashable = crashable && !down.contains(&node);
                let there = |other: &&String| **other != node && !down.contains(other);
                let heirs: Vec<String> = coordinators.iter().filter(there).cloned().collect();
                // One that is down has nothing that could be taken from it.
                let heirs = if down.contains(&node) { Vec::new() } else { heirs };
                return Some(Fault::of_coordinator(dice, node, &all, crashable, &heirs));
            }
            Profile::Volumes if favourite => return Fault::lost_volume(dice, &brokers, whole, busiest),
            _ => {}
        }
        match dice.below(100) {
            0..20 if crashable => Some(Fault::Kill { node: victim }),
            20..38 if crashable => Some(Fault::PowerCut { node: victim }),
            38..48 if crashable && is_broker => {
                Some(Fault::PowerCutAtWrite { node: victim, after: dice.below(60) })
            }
            48..50 => Fault::lost_volume(dice, &brokers, whole, busiest),
            50..53 if !calm && down.is_empty() => Some(Fault::Blackout { nodes: brokers }),
            50..58 => Some(Fault::Split { side: vec![victim] }),
            58..66 => {
                let mut side: Vec<String> = all.iter().filter(|_| dice.chance(50)).cloned().collect();
                if side.is_empty() || side.len() == all.len() {
                    side = vec![victim];
                }
                Some(Fault::Split { side })
            }
            66..74 => {
                let from = dice.pick(&servers).clone();
                let mut to: Vec<String> =
                    all.iter().filter(|node| **node != from && dice.chance(50)).cloned().collect();
                if to.is_empty() {
                    to = all.iter().filter(|node| **node != from).cloned().collect();
                }
                Some(Fault::Deaf { from, to })
            }
            74..84 => {
                let a = dice.pick(&servers).clone();
                let others: Vec<String> = all.into_iter().filter(|node| *node != a).collect();
                let b = dice.pick(&others).clone();
                let at_most = dice.time(Duration::from_millis(200), Duration::from_secs(4));
                Some(Fault::Slow { a, b, at_most })
            }
            84..92 => Some(Fault::FullDisk { node: dice.pick(&brokers).clone(), left: dice.below(64 << 10) }),
            92..96 if crashable && is_broker => Some(Fault::SyncFails { node: victim }),
            96..100 if coordinators.contains(&victim) => {
                Some(Fault::Lagging { node: victim, at_most: dice.time(LAG.0, LAG.1) })
            }
            _ => None,
        }
    }

    /// What a coordinator suffers: a crash, or that it lives on while others take it for dead. `heirs` could take its shards.
    fn of_coordinator(
        dice: &mut Dice,
        node: String,
        all: &[String],
        crashable: bool,
        heirs: &[String],
    ) -> Fault {
        let named = |kind: &str| -> Vec<String> {
            all.iter().filter(|other| other.starts_with(kind)).cloned().collect()
        };
        match dice.below(100) {
            0..30 if crashable => Fault::Kill { node },
            30..38 if crashable => Fault::PowerCut { node },
            38..50 => Fault::Deaf { from: node, to: vec![dice.pick(&named("broker")).clone()] },
            50..62 => Fault::Lagging { node, at_most: dice.time(LAG.0, LAG.1) },
            62..74 => Fault::Deaf { to: named("controller"), from: node },
            74..88 if !heirs.is_empty() => {
                let (broker, heir) = (dice.pick(&named("broker")).clone(), dice.pick(heirs).clone());
                Fault::Usurped { node, broker, heir }
            }
            _ => Fault::Split { side: vec![node] },
        }
    }

    /// Only while all replicas are whole: what two lost disks held is gone by rights.
    fn lost_volume(
        dice: &mut Dice,
        brokers: &[String],
        whole: bool,
        busiest: Option<&String>,
    ) -> Option<Fault> {
        let at = dice.below(brokers.len() as u64) as usize;
        let mut next = (at + dice.between(1, (brokers.len() as u64 - 1).max(1)) as usize) % brokers.len();
        // Mostly the one that has most to hand over.
        if let Some(leader) = brokers.iter().position(|broker| Some(broker) == busiest)
            && leader != at
            && dice.chance(75)
        {
            next = leader;
        }
        let fault = Fault::LostVolume { node: brokers[at].clone(), next: brokers[next].clone() };
        (whole && brokers.len() > 2).then_some(fault)
    }
}
