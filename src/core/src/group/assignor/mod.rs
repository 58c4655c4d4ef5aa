//! Which member of a group gets which partitions: deterministic functions of the members, the topics and what the members
//! hold already.
//!
//! ```text
//!   members (topics, rack, held) + topics (partitions, racks of their replicas) ──► Assignment { member -> partitions }
//! ```
//! Every partition of a topic to which somebody subscribed goes to exactly one subscriber of it.

mod alike;
mod range;
mod round_robin;
#[cfg(test)]
mod tests;
mod uniform;

use crate::{PartitionId, TopicId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A partition of a topic that is known by its id: one that was created anew under the same name is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicIdPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

/// What an assignor knows of one member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscriber {
    /// The topics that it wants, those that exist. Shared by members that want the same.
    pub topics: Arc<BTreeSet<TopicId>>,
    /// Its rack or zone, if it said so.
    pub rack: Option<Arc<str>>,
    /// The partitions that the last assignment gave it.
    pub held: BTreeSet<TopicIdPartition>,
}

/// What an assignor knows of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicSpec {
    /// Its name: the order in which topics are looked at.
    pub name: Arc<str>,
    /// For each partition the racks of its replicas; empty where none is known.
    pub racks: Vec<BTreeSet<Arc<str>>>,
}

/// Members by their id, in order.
pub type Subscribers = BTreeMap<Arc<str>, Subscriber>;
/// Topics by their id.
pub type Topics = BTreeMap<TopicId, TopicSpec>;
/// What each member gets; a member that gets nothing has an empty set.
pub type Assignment = BTreeMap<Arc<str>, BTreeSet<TopicIdPartition>>;

/// A way to assign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Assignor {
    /// For each topic, members get partitions in a row. The first members of each topic get one more when it does not come out
    /// even. Topics of equally many partitions are co-partitioned.
    Range,
    /// All partitions are dealt in turn, topic by topic.
    RoundRobin,
    /// As even as can be, moving as little as can be, in the same rack where that costs neither. Kafka's `uniform` assignor
    /// (KIP-848); `sticky` is another name for it.
    #[default]
    Uniform,
}

/// No assignor has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no assignor; use \"uniform\" (or \"sticky\"), \"range\" or \"roundrobin\"")]
pub struct UnknownAssignor(pub String);

impl Assignor {
    /// Its name, as in a group's configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::RoundRobin => "roundrobin",
            Assignor::Uniform => "uniform",
        }
    }

    /// Assigns every partition of every topic that somebody wants.
    pub fn assign(self, members: &Subscribers, topics: &Topics) -> Assignment {
        match self {
            Assignor::Range => range::assign(members, topics),
            Assignor::RoundRobin => round_robin::assign(members, topics),
            Assignor::Uniform => {
                alike::assign(members, topics).unwrap_or_else(|| uniform::assign(members, topics))
            }
        }
    }
}

impl FromStr for Assignor {
    type Err = UnknownAssignor;

    fn from_str(name: &str) -> Result<Assignor, UnknownAssignor> {
        match name {
            "range" => Ok(Assignor::Range),
            "roundrobin" => Ok(Assignor::RoundRobin),
            "uniform" | "sticky" => Ok(Assignor::Uniform),
            _ => Err(UnknownAssignor(name.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Assignor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Nothing for anybody yet.
fn nothing(members: &Subscribers) -> Assignment {
    members.keys().map(|id| (Arc::clone(id), BTreeSet::new())).collect()
}

/// The topics in the order of their name, with those who want them in the order of their id.
fn wanted<'a>(
    members: &'a Subscribers,
    topics: &'a Topics,
) -> Vec<(TopicId, &'a TopicSpec, Vec<&'a Arc<str>>)> {
    let mut subscribers: BTreeMap<TopicId, Vec<&Arc<str>>> = BTreeMap::new();
    for (id, member) in members {
        for topic in member.topics.iter() {
            subscribers.entry(*topic).or_default().push(id);
        }
    }
    let mut wanted: Vec<_> = subscribers
        .into_iter()
        .filter_map(|(topic, subscribers)| Some((topic, topics.get(&topic)?, subscribers)))
        .collect();
    wanted.sort_by(|a, b| (&a.1.name, a.0).cmp(&(&b.1.name, b.0)));
    wanted
}

fn partitions(topic: TopicId, spec: &TopicSpec) -> impl Iterator<Item = TopicIdPartition> {
    // Topics have at most MAX_PARTITIONS_PER_TOPIC partitions, so the index fits.
    (0..spec.racks.len() as i32).map(move |index| TopicIdPartition { topic, partition: PartitionId(index) })
}
