//! The one that makes things go wrong, on a plan drawn from the seed.

mod fault;
mod links;

pub use fault::Fault;

use crate::cluster::{Cluster, NodeKind};
use crate::dice::Dice;
use crate::plan::Profile;
use links::Links;
use std::time::Duration;
use thalweg_core::BrokerEpoch;

/// Between two faults.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(18));
/// How long one lasts.
const LASTS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(25));
/// Both, where the profile wants its own kind again and again.
const EAGER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(7));
/// A broker whose power is to go at a write may not write: then it goes without.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// A lost disk is replaced within this.
const VOLUME_LASTS: Duration = Duration::from_millis(400);
/// When the next broker goes after that, unless the empty one is in sync sooner.
const AFTER_VOLUME: Duration = Duration::from_secs(5);
/// The longest that a message between the two takes meanwhile.
const FILLS_SLOWLY: Duration = Duration::from_secs(3);
/// How long a coordinator is without its controllers while another gets its shards: longer than its session, and than that one takes
/// to load them.
const USURPED: (Duration, Duration) = (Duration::from_secs(9), Duration::from_secs(20));
/// Of 100 faults, so many do not care whether a majority is left.
const RECKLESS_PERCENT: u64 = 20;

/// A fault that lasts.
struct Active {
    fault: Fault,
    until: Duration,
    /// For those that take the node down only later.
    crash_by: Option<Duration>,
    /// And sooner, once this incarnation of a broker is succeeded by one that is in sync.
    crash_after: Option<(String, BrokerEpoch)>,
}

/// Draws faults, begins and ends them.
pub struct Nemesis {
    dice: Dice,
    next: Duration,
    active: Vec<Active>,
    links: Links,
    injected: u64,
    profile: Profile,
    /// A disk was lost, and not every replica is whole again. A broker without its disk counts as alive until its session ends, so
    /// two more failures could by rights leave it as the last replica in sync.
    one_disk_short: bool,
}

impl Nemesis {
    /// A nemesis that begins at its first turn.
    pub fn new(profile: Profile, dice: Dice) -> Nemesis {
        let (active, links) = (Vec::new(), Links::default());
        Nemesis { dice, next: Duration::ZERO, active, links, injected: 0, profile, one_disk_short: false }
    }

    /// Faults so far.
    pub fn injected(&self) -> u64 {
        self.injected
    }

    /// Does what is due at `now`.
    pub fn turn(&mut self, now: Duration, cluster: &mut Cluster) {
        self.crash_what_is_due(now, cluster);
        let (over, lasting) = std::mem::take(&mut self.active).into_iter().partition(|one| one.until <= now);
        self.active = lasting;
        let over: Vec<Active> = over;
        for one in over {
            self.end(&one.fault, cluster);
            match one.fault {
                Fault::LostVolume { node: empty, next: node } => {
                    // It is filled slowly, so that what happens before it is full has time to happen.
                    let slow = Fault::Slow { a: empty, b: node.clone(), at_most: FILLS_SLOWLY };
                    self.begin(slow, now, now + AFTER_VOLUME, cluster);
                    let fault = Fault::PowerCut { node };
                    let crash = now + AFTER_VOLUME;
                    let until = crash + self.lasts();
                    self.active.push(Active {
                        fault,
                        until,
                        crash_by: Some(crash),
                        crash_after: one.crash_after,
                    });
                }
                Fault::Usurped { heir, .. } => {
                    let until = now + self.lasts();
                    self.begin(Fault::Kill { node: heir }, now, until, cluster);
                }
                _ => {}
            }
        }
        if self.next <= now {
            let first = self.next.is_zero();
            self.next = now + self.pause();
            if first {
                return;
            }
            // What those two do behind the others' backs shows only while they can reach somebody.
            if self.active.iter().any(|one| matches!(one.fault, Fault::Usurped { .. })) {
                return;
            }
            let down: Vec<String> = self.active.iter().flat_map(|one| takes_down(&one.fault)).collect();
            let calm = !self.dice.chance(RECKLESS_PERCENT);
            let whole = self.active.is_empty() && cluster.is_whole();
            self.one_disk_short &= !whole;
            if self.one_disk_short {
                return;
            }
            let busiest = cluster.busiest();
            let (roster, profile) = (cluster.roster(), self.profile);
            let fault = Fault::draw(&mut self.dice, roster, profile, &down, calm, whole, busiest.as_ref());
            let mut until = now + self.lasts();
            if let Some(fault) = fault {
                match fault {
                    Fault::LostVolume { .. } => until = now + self.dice.time(Duration::ZERO, VOLUME_LASTS),
                    Fault::Usurped { .. } => until = now + self.dice.time(USURPED.0, USURPED.1),
                    _ => {}
                }
                self.begin(fault, now, until, cluster);
            }
        }
    }

    fn pause(&mut self) -> Duration {
        let (least, most) = if self.profile == Profile::Mixed { PAUSE } else { EAGER };
        self.dice.time(least, most)
    }

    fn lasts(&mut self) -> Duration {
        let is_long = matches!(self.profile, Profile::Mixed | Profile::Coordinators);
        let (least, most) = if is_long { LASTS } else { EAGER };
        self.dice.time(least, most)
    }

    /// Ends all faults.
    pub fn heal(&mut self, cluster: &mut Cluster) {
        for one in std::mem::take(&mut self.active) {
            if one.crash_by.is_some() {
                self.crash(&one.fault, cluster);
            }
            self.end(&one.fault, cluster);
        }
    }

    fn begin(&mut self, fault: Fault, now: Duration, until: Duration, cluster: &mut Cluster) {
        tracing::info!(target: "thalweg_simulation", ?fault, for_ms = (until - now).as_millis() as u64, "fault");
        self.injected += 1;
        let (mut crash_by, mut crash_after) = (None, None);
        match &fault {
            Fault::Kill { .. } | Fault::PowerCut { .. } | Fault::Blackout { .. } => {
                self.crash(&fault, cluster)
            }
            Fault::LostVolume { node, .. } => {
                crash_after = cluster.epoch_of(node).map(|epoch| (node.clone(), epoch));
                self.crash(&fault, cluster);
                self.one_disk_short = true;
                cluster.replace_disk(node, self.dice.next());
            }
            Fault::PowerCutAtWrite { node, after } => {
                cluster.disk(node).cut_after_ops(*after);
                crash_by = Some(now + WRITE_PATIENCE);
            }
            Fault::SyncFails { node } => {
                cluster.disk(node).fail_next_sync();
                crash_by = Some(until);
            }
            Fault::Split { side } => {
                let pairs = crossing(cluster, side);
                self.links.cut(&pairs, cluster.sim());
            }
            Fault::Deaf { from, to } => {
                let pairs: Vec<_> = to.iter().map(|to| (from.clone(), to.clone())).collect();
                self.links.cut(&pairs, cluster.sim());
            }
            Fault::Slow { a, b, at_most } => self.links.slow(a, b, *at_most, cluster.sim()),
            Fault::Lagging { node, at_most } => {
                for other in others(cluster, node) {
                    self.links.slow(node, &other, *at_most, cluster.sim());
                }
            }
            Fault::Usurped { node, broker, .. } => {
                let pairs = to_controllers(cluster, &[node, broker]);
                self.links.cut(&pairs, cluster.sim());
            }
            Fault::FullDisk { node, left } => {
                let disk = cluster.disk(node);
                disk.set_capacity(Some(disk.used_bytes() + left));
            }
        }
        // Crashed at the latest a moment before it comes back.
        let until = crash_by.map_or(until, |crash| until.max(crash + Duration::from_millis(500)));
        self.active.push(Active { fault, until, crash_by, crash_after });
    }

    fn crash_what_is_due(&mut self, now: Duration, cluster: &mut Cluster) {
        for place in 0..self.active.len() {
            let Some(crash_by) = self.active[place].crash_by else { continue };
            let fault = self.active[place].fault.clone();
            let off = matches!(&fault, Fault::PowerCutAtWrite { node, .. } if cluster.disk(node).is_off());
            let rejoined = match &self.active[place].crash_after {
                Some((node, epoch)) => cluster.has_rejoined(node, *epoch),
                None => false,
            };
            if off || rejoined || crash_by <= now {
                self.active[place].crash_by = None;
                self.crash(&fault, cluster);
            }
        }
    }

    fn crash(&mut self, fault: &Fault, cluster: &mut Cluster) {
        match fault {
            // One that loses its disk closes its connections, so that it is soon taken in again.
            Fault::Kill { node } | Fault::SyncFails { node } | Fault::LostVolume { node, .. } => {
                cluster.crash(node);
            }
            Fault::PowerCut { node } | Fault::PowerCutAtWrite { node, .. } => self.cut_power(node, cluster),
            Fault::Blackout { nodes } => nodes.iter().for_each(|node| self.cut_power(node, cluster)),
            _ => {}
        }
    }

    fn cut_power(&mut self, node: &String, cluster: &mut Cluster) {
        // First the silence: a machine without power closes no connection.
        self.links.cut(&crossing(cluster, std::slice::from_ref(node)), cluster.sim());
        cluster.crash(node);
        if cluster.roster().kind(node) == Some(NodeKind::Broker) {
            cluster.disk(node).power_cut();
        }
    }

    fn give_power(&mut self, node: &String, cluster: &mut Cluster) {
        self.links.mend(&crossing(cluster, std::slice::from_ref(node)), cluster.sim());
        cluster.start(node);
    }

    fn end(&mut self, fault: &Fault, cluster: &mut Cluster) {
        tracing::info!(target: "thalweg_simulation", ?fault, "fault ends");
        match fault {
            Fault::Kill { node } | Fault::LostVolume { node, .. } => cluster.start(node),
            Fault::SyncFails { node } => {
                cluster.disk(node).clear_faults();
                cluster.start(node);
            }
            Fault::PowerCut { node } | Fault::PowerCutAtWrite { node, .. } => self.give_power(node, cluster),
            Fault::Blackout { nodes } => nodes.iter().for_each(|node| self.give_power(node, cluster)),
            Fault::Split { side } => {
                let pairs = crossing(cluster, side);
                self.links.mend(&pairs, cluster.sim());
            }
            Fault::Deaf { from, to } => {
                let pairs: Vec<_> = to.iter().map(|to| (from.clone(), to.clone())).collect();
                self.links.mend(&pairs, cluster.sim());
            }
            Fault::Slow { a, b, .. } => self.links.hurry(a, b, cluster.sim()),
            Fault::Lagging { node, .. } => {
                for other in others(cluster, node) {
                    self.links.hurry(node, &other, cluster.sim());
                }
            }
            Fault::Usurped { node, broker, .. } => {
                let pairs = to_controllers(cluster, &[node, broker]);
                self.links.mend(&pairs, cluster.sim());
            }
            Fault::FullDisk { node, .. } => cluster.disk(node).set_capacity(None),
        }
    }
}

fn takes_down(fault: &Fault) -> Vec<String> {
    match fault {
        Fault::Kill { node }
        | Fault::PowerCut { node }
        | Fault::PowerCutAtWrite { node, .. }
        | Fault::SyncFails { node } => vec![node.clone()],
        Fault::Blackout { nodes } => nodes.clone(),
        Fault::LostVolume { node, next } => vec![node.clone(), next.clone()],
        // Neither may be killed by another fault: the one is to live on, and the other to take its place.
        Fault::Usurped { node, heir, .. } => vec![node.clone(), heir.clone()],
        _ => Vec::new(),
    }
}

/// Everyone but one.
fn others(cluster: &Cluster, node: &str) -> Vec<String> {
    cluster.roster().all().into_iter().filter(|other| other != node).collect()
}

/// Both ways between the nodes of one side and all others.
fn crossing(cluster: &Cluster, side: &[String]) -> Vec<(String, String)> {
    let others: Vec<String> =
        cluster.roster().all().into_iter().filter(|node| !side.contains(node)).collect();
    both_ways(&side.iter().collect::<Vec<_>>(), &others)
}

/// Both ways between some nodes and the controllers.
fn to_controllers(cluster: &Cluster, nodes: &[&String]) -> Vec<(String, String)> {
    both_ways(nodes, &cluster.roster().of(NodeKind::Controller))
}

fn both_ways(some: &[&String], others: &[String]) -> Vec<(String, String)> {
    let ways = |a: &String, b: &String| [(a.clone(), b.clone()), (b.clone(), a.clone())];
    some.iter().flat_map(|a| others.iter().flat_map(move |b| ways(a, b))).collect()
}
