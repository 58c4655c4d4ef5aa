//! Feature levels: what the processes of a cluster have agreed to say to each other (KIP-584 in spirit).
//!
//! ```text
//!   every process   tells the leading controller which levels it supports, when it registers and with each heartbeat
//!   the image       holds the one level in force; it only rises, by a command
//!   a command       needs a level; below it the leader refuses it, so that older voters never meet what they cannot read
//! ```
//! While programs of two versions run side by side the level stays that of the older one. It is raised once the last process is new.

use super::command::{BrokerRef, Command, CoordinatorRef, FinalizeFeatureLevel, Refusal, Response};
use super::image::{FEATURE_LEVEL, MetadataImage};
use crate::ErrorCode;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The oldest feature level that this program can work under.
pub const OLDEST_FEATURE_LEVEL: u16 = 1;

/// What each level has that the one before had not, from level 1 on.
pub const WHAT_LEVELS_BRING: [&str; FEATURE_LEVEL as usize] = [
    "everything of 0.1.0 before levels could be raised",
    "coordinators can be unregistered, and the lease of a single shard renewed",
];

/// The feature levels that a process supports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FeatureLevels {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl FeatureLevels {
    /// Those of this program.
    pub const OURS: FeatureLevels = FeatureLevels { min: OLDEST_FEATURE_LEVEL, max: FEATURE_LEVEL };
    /// Those of a process that says nothing of levels: it is of a version that knew only the first.
    pub const UNSAID: FeatureLevels = FeatureLevels { min: 1, max: 1 };

    /// What a process says of itself; 0 and 0 is to say nothing. `None`: no range.
    pub fn said(min: u32, max: u32) -> Option<FeatureLevels> {
        match (u16::try_from(min).ok()?, u16::try_from(max).ok()?) {
            (0, 0) => Some(FeatureLevels::UNSAID),
            (min, max) if min >= 1 && min <= max => Some(FeatureLevels { min, max }),
            _ => None,
        }
    }

    /// Whether a process of these can be part of a cluster at `level`.
    pub const fn contain(self, level: u16) -> bool {
        self.min <= level && level <= self.max
    }

    /// Refuses a process that cannot be part of a cluster at `level`. `who` names it, as "broker 3".
    pub fn admit(self, who: &str, level: u16) -> Result<(), Refusal> {
        // Before the cluster is founded it has none.
        if level == 0 || self.contain(level) {
            return Ok(());
        }
        let advice = if level > self.max {
            "it is too old: start it with a newer version of the program"
        } else {
            "the cluster is too old for it: start it with an older version, and raise the level before the next one"
        };
        let message = format!("the cluster is at feature level {level}, {who} supports {self}; {advice}");
        Err(Refusal::field(ErrorCode::IncompatibleFeatureLevel, "feature_levels", message))
    }
}

impl fmt::Display for FeatureLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "level {}", self.min)
        } else {
            write!(f, "levels {} to {}", self.min, self.max)
        }
    }
}

impl Command {
    /// The first feature level that has this command. An older program cannot read it.
    pub const fn needs_level(&self) -> u16 {
        match self {
            Command::InitCluster(_)
            | Command::RegisterBroker(_)
            | Command::FenceBroker(_)
            | Command::UnfenceBroker(_)
            | Command::BeginControlledShutdown(_)
            | Command::UnregisterBroker(_)
            | Command::CreateTopic(_)
            | Command::DeleteTopic(_)
            | Command::CreatePartitions(_)
            | Command::AlterTopicConfig(_)
            | Command::AllocateProducerIds(_)
            | Command::AlterPartition(_)
            | Command::AlterPartitions(_)
            | Command::ElectLeaders(_)
            | Command::ReassignPartitions(_)
            | Command::DrainBroker(_)
            | Command::PutController(_)
            | Command::RemoveController(_)
            | Command::RegisterCoordinator(_)
            | Command::FenceCoordinator(_)
            | Command::BeginCoordinatorShutdown(_) => 1,
            Command::UnregisterCoordinator(_) | Command::RenewShardLease(_) => 2,
            // It comes before the level that it brings: whoever proposes it has seen that every process supports that one.
            Command::FinalizeFeatureLevel(_) => 1,
        }
    }

    /// Refuses a command that the level in force does not have yet.
    ///
    /// Errors: `INCOMPATIBLE_FEATURE_LEVEL`.
    pub fn check_level(&self, level: u16) -> Result<(), Refusal> {
        let needed = self.needs_level();
        // Before the cluster is founded there is none.
        if level == 0 || needed <= level {
            return Ok(());
        }
        let message = format!(
            "this needs feature level {needed}, and the cluster is at level {level}; when every process is new enough, raise it: \
             thalweg cluster features upgrade"
        );
        Err(Refusal::new(ErrorCode::IncompatibleFeatureLevel, message))
    }
}

/// The command that raises the level for exactly the processes that `image` names: one that registers meanwhile makes it fail.
pub fn finalize(image: &MetadataImage, level: u16) -> Command {
    let brokers = image.brokers().map(|broker| BrokerRef { id: broker.id, epoch: broker.epoch });
    let coordinators = image.coordinators().filter(|one| !one.fenced);
    let coordinators = coordinators.map(|one| CoordinatorRef { id: one.id, epoch: one.epoch });
    Command::FinalizeFeatureLevel(FinalizeFeatureLevel {
        level,
        brokers: brokers.collect(),
        coordinators: coordinators.collect(),
    })
}

pub(super) fn apply_level(
    image: &mut MetadataImage,
    command: &FinalizeFeatureLevel,
) -> Result<Response, Refusal> {
    let FinalizeFeatureLevel { level, brokers, coordinators } = command;
    check_target(image.feature_level, *level)?;
    if *level == image.feature_level {
        return Ok(Response::Done);
    }
    let Command::FinalizeFeatureLevel(now) = finalize(image, *level) else { return Ok(Response::Done) };
    let unseen =
        now.brokers.iter().find(|broker| !brokers.contains(broker)).map(|one| format!("broker {}", one.id));
    let unseen = unseen.or_else(|| {
        let one = now.coordinators.iter().find(|one| !coordinators.contains(one))?;
        Some(format!("coordinator {}", one.id))
    });
    if let Some(who) = unseen {
        let message =
            format!("{who} has registered meanwhile, and was not asked what it supports; try again");
        return Err(Refusal::new(ErrorCode::IncompatibleFeatureLevel, message));
    }
    image.feature_level = *level;
    Ok(Response::Done)
}

/// Whether a cluster at level `from` can be brought to level `to` by this program, as far as the numbers go.
///
/// Errors: `INCOMPATIBLE_FEATURE_LEVEL`.
pub fn check_target(from: u16, to: u16) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::field(ErrorCode::IncompatibleFeatureLevel, "level", message));
    if to < from {
        return refuse(format!(
            "the cluster is at feature level {from}, and a level is never lowered: what it brought may be in the metadata already"
        ));
    }
    if to > FEATURE_LEVEL {
        return refuse(format!(
            "feature level {to} is not known here, only levels up to {FEATURE_LEVEL}; install a newer version first"
        ));
    }
    Ok(())
}
