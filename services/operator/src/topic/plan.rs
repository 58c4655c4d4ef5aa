//! From what is asked for and what is there to what is to be done: pure.

use super::validate::{Refusal, Wanted};
use crate::thalweg::TopicView;
use std::collections::BTreeMap;
use std::fmt;

/// What the resource's status remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The topic's id.
    pub topic_id: Option<String>,
    /// The cluster's id.
    pub cluster_id: Option<String>,
}

/// One difference between what is there and what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The topic is not there.
    Create {
        /// Partitions, if it is said how many.
        partitions: Option<i32>,
        /// Replicas, if it is said how many.
        replication_factor: Option<i32>,
    },
    /// It has another number of partitions.
    Partitions {
        /// What it has.
        from: i32,
        /// What is asked for.
        to: i32,
    },
    /// It has another replication factor.
    Factor {
        /// What it has.
        from: i32,
        /// What is asked for.
        to: i32,
    },
    /// A key has another value, or none.
    Set {
        /// The key.
        key: String,
        /// What it is set to now.
        from: Option<String>,
        /// What is asked for.
        to: String,
    },
    /// A key is set that is not asked for.
    Unset {
        /// The key.
        key: String,
        /// What it is set to now.
        from: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = |value: &Option<i32>| value.map_or("default".to_owned(), |value| value.to_string());
        match self {
            Change::Create { partitions, replication_factor } => write!(
                f,
                "create: partitions {}, replicationFactor {}",
                default(partitions),
                default(replication_factor)
            ),
            Change::Partitions { from, to } => write!(f, "partitions: {from} -> {to}"),
            Change::Factor { from, to } => write!(f, "replicationFactor: {from} -> {to}"),
            Change::Set { key, from: Some(from), to } => write!(f, "config {key}: {from} -> {to}"),
            Change::Set { key, from: None, to } => write!(f, "config {key}: default -> {to}"),
            Change::Unset { key, from } => write!(f, "config {key}: {from} -> default"),
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: it is as asked for.
    Nothing,
    /// Nothing, because it was asked only what would be done.
    DryRun,
    /// Create the topic.
    Create,
    /// Change it: first the keys, which can be taken back, then the partitions, which cannot.
    Alter {
        /// Keys to set.
        set: BTreeMap<String, String>,
        /// Keys to return to their default.
        unset: Vec<String>,
        /// Partitions in all, if there shall be more.
        grow: Option<i32>,
    },
    /// Nothing, because it cannot be.
    Refuse(Refusal),
}

/// A plan, and what it would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What is to be done.
    pub plan: Plan,
    /// All differences.
    pub changes: Vec<Change>,
}

/// Decides. `brokers` are those that are alive; `found` is the topic of that name, if there is one.
///
/// A topic that this resource did not create is taken over only if that changes nothing but its number of partitions, which may grow:
/// its records were written by somebody who relied on its configuration.
pub fn decide(
    wanted: &Wanted,
    known: &Known,
    cluster_id: &str,
    brokers: usize,
    found: Option<&TopicView>,
) -> Decision {
    let changes = differences(wanted, found);
    let plan = match refusal(wanted, known, cluster_id, brokers, found, &changes) {
        Some(refusal) => Plan::Refuse(refusal),
        None if changes.is_empty() => Plan::Nothing,
        None if wanted.dry_run => Plan::DryRun,
        None if found.is_none() => Plan::Create,
        None => alter(&changes),
    };
    Decision { plan, changes }
}

fn differences(wanted: &Wanted, found: Option<&TopicView>) -> Vec<Change> {
    let Some(found) = found else {
        let create =
            Change::Create { partitions: wanted.partitions, replication_factor: wanted.replication_factor };
        let set =
            |(key, to): (&String, &String)| Change::Set { key: key.clone(), from: None, to: to.clone() };
        return std::iter::once(create).chain(wanted.configs.iter().map(set)).collect();
    };
    let mut changes = Vec::new();
    if let Some(to) = wanted.partitions.filter(|to| *to != found.partitions) {
        changes.push(Change::Partitions { from: found.partitions, to });
    }
    if let Some(to) = wanted.replication_factor.filter(|to| *to != found.replication_factor) {
        changes.push(Change::Factor { from: found.replication_factor, to });
    }
    for (key, to) in &wanted.configs {
        let from = found.configs.get(key);
        if from != Some(to) {
            changes.push(Change::Set { key: key.clone(), from: from.cloned(), to: to.clone() });
        }
    }
    let surplus = found.configs.iter().filter(|(key, _)| !wanted.configs.contains_key(*key));
    changes.extend(surplus.map(|(key, from)| Change::Unset { key: key.clone(), from: from.clone() }));
    changes
}

fn refusal(
    wanted: &Wanted,
    known: &Known,
    cluster_id: &str,
    brokers: usize,
    found: Option<&TopicView>,
    changes: &[Change],
) -> Option<Refusal> {
    if let Some(before) = known.cluster_id.as_deref().filter(|before| *before != cluster_id) {
        let why = format!(
            "this resource's topic is in cluster {before}, and the reference leads to cluster {cluster_id}: restore the reference, or \
             make another resource"
        );
        return Some(Refusal::new("OtherCluster", why));
    }
    for change in changes {
        match change {
            Change::Partitions { from, to } if to < from => {
                let why = format!(
                    "{} has {from} partitions and partitions never shrink: set spec.partitions to at least {from}",
                    wanted.name
                );
                return Some(Refusal::new("PartitionsShrink", why));
            }
            Change::Factor { from, to } => {
                let why = format!(
                    "{} has replication factor {from}, not {to}, and that does not change here: move its partitions with \
                     `thalweg topic reassign`",
                    wanted.name
                );
                return Some(Refusal::new("ReplicationFactorChanged", why));
            }
            Change::Create { replication_factor: Some(factor), .. }
                if usize::try_from(*factor).unwrap_or(0) > brokers =>
            {
                let why = format!(
                    "spec.replicationFactor is {factor} and {brokers} brokers are alive: the topic is created when there are enough"
                );
                return Some(Refusal::new("FactorAboveBrokers", why));
            }
            _ => {}
        }
    }
    let stranger = found.is_some_and(|found| known.topic_id.as_deref() != Some(found.id.as_str()));
    let reconfigures =
        changes.iter().any(|change| matches!(change, Change::Set { .. } | Change::Unset { .. }));
    if stranger && reconfigures {
        let why = format!(
            "topic {} is there already, with another configuration: write that into spec.config to take the topic over, or choose \
             another spec.topicName",
            wanted.name
        );
        return Some(Refusal::new("TopicExists", why));
    }
    None
}

fn alter(changes: &[Change]) -> Plan {
    let (mut set, mut unset, mut grow) = (BTreeMap::new(), Vec::new(), None);
    for change in changes {
        match change {
            Change::Set { key, to, .. } => drop(set.insert(key.clone(), to.clone())),
            Change::Unset { key, .. } => unset.push(key.clone()),
            Change::Partitions { to, .. } => grow = Some(*to),
            Change::Create { .. } | Change::Factor { .. } => {}
        }
    }
    Plan::Alter { set, unset, grow }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::DeletionPolicy;

    fn wanted() -> Wanted {
        Wanted {
            name: "t".to_owned(),
            partitions: Some(6),
            replication_factor: Some(3),
            configs: BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]),
            deletion_policy: DeletionPolicy::Retain,
            dry_run: false,
        }
    }

    fn found() -> TopicView {
        TopicView { id: "id".to_owned(), partitions: 6, replication_factor: 3, configs: wanted().configs }
    }

    fn ours() -> Known {
        Known { topic_id: Some("id".to_owned()), cluster_id: Some("c".to_owned()) }
    }

    fn plan(wanted: &Wanted, known: &Known, found: Option<&TopicView>) -> Plan {
        decide(wanted, known, "c", 3, found).plan
    }

    fn reason(plan: Plan) -> String {
        match plan {
            Plan::Refuse(refusal) => refusal.reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_missing_is_created_and_what_is_there_is_left_alone() {
        assert_eq!(plan(&wanted(), &Known::default(), None), Plan::Create);
        assert_eq!(plan(&wanted(), &ours(), Some(&found())), Plan::Nothing);
        // Deleted outside: made anew.
        assert_eq!(plan(&wanted(), &ours(), None), Plan::Create);
    }

    #[test]
    fn a_topic_of_ours_is_grown_and_its_keys_are_set_and_returned() {
        let mut found = found();
        found.partitions = 3;
        found.configs = BTreeMap::from(
            [("retention.ms", "5"), ("cleanup.policy", "compact")].map(|(k, v)| (k.into(), v.into())),
        );
        let decision = decide(&wanted(), &ours(), "c", 3, Some(&found));
        let set = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
        let unset = vec!["cleanup.policy".to_owned()];
        assert_eq!(decision.plan, Plan::Alter { set, unset, grow: Some(6) });
        let told: Vec<String> = decision.changes.iter().map(ToString::to_string).collect();
        let lines = [
            "partitions: 3 -> 6",
            "config retention.ms: 5 -> 1000",
            "config cleanup.policy: compact -> default",
        ];
        assert_eq!(told, lines);
    }

    #[test]
    fn what_is_not_said_is_left_as_it_is() {
        let wanted = Wanted { partitions: None, replication_factor: None, ..wanted() };
        let found = TopicView { partitions: 17, replication_factor: 1, ..found() };
        assert_eq!(plan(&wanted, &ours(), Some(&found)), Plan::Nothing);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let more = TopicView { partitions: 7, ..found() };
        assert_eq!(reason(plan(&wanted(), &ours(), Some(&more))), "PartitionsShrink");
        let factor = TopicView { replication_factor: 2, ..found() };
        assert_eq!(reason(plan(&wanted(), &ours(), Some(&factor))), "ReplicationFactorChanged");
        assert_eq!(reason(decide(&wanted(), &Known::default(), "c", 2, None).plan), "FactorAboveBrokers");
        assert_eq!(reason(decide(&wanted(), &ours(), "other", 3, Some(&found())).plan), "OtherCluster");
        // What cannot be done is refused whole: nothing of it is done.
        let mixed = TopicView { partitions: 7, configs: BTreeMap::new(), ..found() };
        let decision = decide(&wanted(), &ours(), "c", 3, Some(&mixed));
        assert_eq!((decision.changes.len(), reason(decision.plan).as_str()), (2, "PartitionsShrink"));
    }

    #[test]
    fn a_stranger_is_taken_over_only_as_it_is_or_grown() {
        let stranger = Known::default();
        assert_eq!(plan(&wanted(), &stranger, Some(&found())), Plan::Nothing);
        let smaller = TopicView { partitions: 1, ..found() };
        assert!(matches!(plan(&wanted(), &stranger, Some(&smaller)), Plan::Alter { grow: Some(6), .. }));
        let other = TopicView { configs: BTreeMap::new(), ..found() };
        assert_eq!(reason(plan(&wanted(), &stranger, Some(&other))), "TopicExists");
        // Deleted and made anew by somebody else: a stranger too.
        let reborn = TopicView { id: "id-2".to_owned(), ..other };
        assert_eq!(reason(plan(&wanted(), &ours(), Some(&reborn))), "TopicExists");
    }

    #[test]
    fn a_dry_run_tells_and_does_nothing() {
        let wanted = Wanted { dry_run: true, ..wanted() };
        let decision = decide(&wanted, &Known::default(), "c", 3, None);
        assert_eq!((decision.plan, decision.changes.len()), (Plan::DryRun, 2));
        assert_eq!(plan(&wanted, &ours(), Some(&found())), Plan::Nothing);
    }
}
