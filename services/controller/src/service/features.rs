//! The feature level: what each process supports, as the leading controller has heard it, and how the level is raised.
//!
//! ```text
//!   a process registers  ─▶ refused if it does not support the level in force
//!   a heartbeat, a hello ─▶ notes what its process supports; a new leader hears of all within a heartbeat
//!   upgrade              ─▶ every process supports it? ─▶ the command, for exactly those processes ─▶ new commands may be proposed
//! ```

use crate::kind::{Brokers, Coordinators};
use crate::members::Members;
use crate::peers::Peers;
use crate::quorum::{Quorum, refused};
use crate::service::Voters;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::metadata::features::{check_target, finalize};
use thalweg_core::metadata::image::FEATURE_LEVEL;
use thalweg_core::metadata::{FeatureLevels, MetadataImage};
use thalweg_core::{ErrorCode, NodeId};
use thalweg_proto::ApiError;
use thalweg_proto::v1;
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::{Instant, sleep};

/// How long an upgrade waits for processes that are alive and were not heard yet: a new leader knows nobody at first, and a
/// heartbeat comes each second or two.
const HEARD: Duration = Duration::from_secs(4);
/// How often it looks meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Processes that a refusal names at most.
const NAMED: usize = 20;

/// The feature level, on the leader.
pub struct Features {
    quorum: Quorum,
    peers: Arc<Peers>,
    voters: Voters,
    brokers: Members<Brokers>,
    coordinators: Members<Coordinators>,
    /// Held by each registration from its check to its command, and by an upgrade alone: otherwise a process could be admitted to
    /// the level before and registered in the one after.
    admitting: RwLock<()>,
}

/// A process and what it supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Support {
    kind: v1::ProcessKind,
    id: u64,
    levels: Option<FeatureLevels>,
    fenced: bool,
}

impl Features {
    /// What these have told of themselves.
    pub fn new(
        quorum: Quorum,
        peers: Arc<Peers>,
        voters: Voters,
        brokers: Members<Brokers>,
        coordinators: Members<Coordinators>,
    ) -> Features {
        Features { quorum, peers, voters, brokers, coordinators, admitting: RwLock::default() }
    }

    /// Admits a process that wants to register; to be held until its command is through.
    ///
    /// Errors: `INCOMPATIBLE_FEATURE_LEVEL`.
    pub async fn admit(&self, who: &str, levels: FeatureLevels) -> Result<RwLockReadGuard<'_, ()>, ApiError> {
        let held = self.admitting.read().await;
        let level = self.quorum.published().image().feature_level();
        levels.admit(who, level).map_err(|refusal| {
            tracing::warn!(who, level, supports = %levels, "not registered: another feature level");
            refused(refusal)
        })?;
        Ok(held)
    }

    /// The level in force and what each process supports.
    pub async fn describe(
        &self,
        _: v1::DescribeFeaturesRequest,
    ) -> Result<v1::DescribeFeaturesResponse, ApiError> {
        let image = self.quorum.current_image().await?;
        Ok(v1::DescribeFeaturesResponse {
            level: image.feature_level().into(),
            newest_level: FEATURE_LEVEL.into(),
            processes: self.processes(&image).map(Support::to_proto).collect(),
            metadata_version: image.version().get(),
        })
    }

    /// Raises the level. Goes on when the caller goes away.
    ///
    /// Errors: `INCOMPATIBLE_FEATURE_LEVEL` naming who is in the way.
    pub async fn upgrade(
        self: &Arc<Self>,
        request: v1::UpgradeFeaturesRequest,
    ) -> Result<v1::UpgradeFeaturesResponse, ApiError> {
        let this = Arc::clone(self);
        // A call that is cancelled must not let anyone register while its command is on its way.
        let raised = tokio::spawn(async move { this.raise(request).await });
        raised.await.map_err(|error| ApiError::new(ErrorCode::ShuttingDown, error.to_string()))?
    }

    async fn raise(
        &self,
        request: v1::UpgradeFeaturesRequest,
    ) -> Result<v1::UpgradeFeaturesResponse, ApiError> {
        let level = match request.level {
            0 => FEATURE_LEVEL,
            // What does not fit is newer than anything known here.
            level => u16::try_from(level).unwrap_or(u16::MAX),
        };
        let _nobody_registers = self.admitting.write().await;
        let _no_voter_comes = self.voters.change().await?;
        let deadline = Instant::now() + HEARD;
        loop {
            let image = self.quorum.current_image().await?;
            let previous = image.feature_level();
            check_target(previous, level).map_err(refused)?;
            let in_the_way = hindrances(self.processes(&image), level);
            if in_the_way.is_empty() || previous == level {
                let answer = v1::UpgradeFeaturesResponse {
                    level: level.into(),
                    previous_level: previous.into(),
                    metadata_version: 0,
                };
                if request.validate_only || previous == level {
                    return Ok(answer);
                }
                let (version, _) = self.quorum.propose(&finalize(&image, level)).await?;
                tracing::info!(from = previous, to = level, "feature level raised");
                return Ok(v1::UpgradeFeaturesResponse { metadata_version: version.get(), ..answer });
            }
            let may_be_heard =
                in_the_way.iter().all(|(support, _)| support.levels.is_none() && !support.fenced);
            if !may_be_heard || Instant::now() >= deadline {
                return Err(in_the_way_error(level, &in_the_way));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn processes(&self, image: &MetadataImage) -> impl Iterator<Item = Support> {
        let members: Vec<NodeId> = {
            let status = self.quorum.status();
            let status = status.borrow();
            let mut members = [status.voters.clone(), status.learners.clone()].concat();
            members.sort_unstable();
            members.dedup();
            members
        };
        let controllers = members.into_iter().map(|id| Support {
            kind: v1::ProcessKind::Controller,
            id: id.get(),
            levels: self.peers.levels(id),
            fenced: false,
        });
        // Ids are 0 or more.
        let number = |id: i32| u64::try_from(id).unwrap_or_default();
        let brokers = image.brokers().map(|one| Support {
            kind: v1::ProcessKind::Broker,
            id: number(one.id.get()),
            levels: self.brokers.levels((one.id, one.epoch)),
            fenced: one.fenced,
        });
        let coordinators = image.coordinators().map(|one| Support {
            kind: v1::ProcessKind::Coordinator,
            id: number(one.id.get()),
            levels: self.coordinators.levels((one.id, one.epoch)),
            fenced: one.fenced,
        });
        controllers.chain(brokers).chain(coordinators).collect::<Vec<_>>().into_iter()
    }
}

/// Who keeps the cluster from being raised to `level`, and why.
fn hindrances(processes: impl Iterator<Item = Support>, level: u16) -> Vec<(Support, String)> {
    let why = |support: &Support| match support.levels {
        Some(levels) if levels.contain(level) => None,
        // It holds nothing, and is refused if it comes back too old.
        _ if support.fenced && support.kind == v1::ProcessKind::Coordinator => None,
        Some(levels) => Some(format!("{support} supports {levels}")),
        None if support.fenced => Some(format!("{support} is away: start it, or unregister it")),
        None => Some(format!("{support} was not heard")),
    };
    processes.filter_map(|support| Some((support, why(&support)?))).collect()
}

fn in_the_way_error(level: u16, in_the_way: &[(Support, String)]) -> ApiError {
    let mut named: Vec<String> = in_the_way.iter().take(NAMED).map(|(_, why)| why.clone()).collect();
    if in_the_way.len() > NAMED {
        named.push(format!("and {} more", in_the_way.len() - NAMED));
    }
    let message = format!(
        "feature level {level} needs a newer version of every process first: {}; thalweg cluster features shows them all",
        named.join(", ")
    );
    ApiError::new(ErrorCode::IncompatibleFeatureLevel, message).with_field("level")
}

/// The level at which a new cluster is founded: the newest that all voters support which were heard so far. One that was not is
/// refused later, if it is too old.
pub fn founding_level(heard: impl Iterator<Item = FeatureLevels>) -> u16 {
    heard.map(|levels| levels.max).fold(FEATURE_LEVEL, u16::min)
}

impl Support {
    fn to_proto(self) -> v1::FeatureSupport {
        let (min, max) = self.levels.map_or((0, 0), |levels| (levels.min, levels.max));
        v1::FeatureSupport {
            kind: self.kind.into(),
            id: self.id,
            known: self.levels.is_some(),
            min_level: min.into(),
            max_level: max.into(),
            fenced: self.fenced,
        }
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            v1::ProcessKind::Controller => "controller",
            v1::ProcessKind::Broker => "broker",
            v1::ProcessKind::Coordinator => "coordinator",
            v1::ProcessKind::Unspecified => "process",
        };
        write!(f, "{kind} {}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_could_do_harm_is_in_the_way() {
        let old = Some(FeatureLevels::UNSAID);
        let new = Some(FeatureLevels { min: 1, max: 2 });
        let (controller, broker, coordinator) =
            (v1::ProcessKind::Controller, v1::ProcessKind::Broker, v1::ProcessKind::Coordinator);
        for (kind, levels, fenced, expected) in [
            (controller, new, false, None),
            (controller, old, false, Some("controller 7 supports level 1")),
            (controller, None, false, Some("controller 7 was not heard")),
            (broker, new, true, None),
            (broker, old, false, Some("broker 7 supports level 1")),
            (broker, None, true, Some("broker 7 is away: start it, or unregister it")),
            (broker, None, false, Some("broker 7 was not heard")),
            (coordinator, old, false, Some("coordinator 7 supports level 1")),
            (coordinator, old, true, None),
            (coordinator, None, true, None),
        ] {
            let support = Support { kind, id: 7, levels, fenced };
            let found = hindrances([support].into_iter(), 2).pop().map(|(_, why)| why);
            assert_eq!(found.as_deref(), expected, "{support:?}");
        }
        let many = (0..30).map(|id| Support { kind: broker, id, levels: old, fenced: false });
        let error = in_the_way_error(2, &hindrances(many, 2));
        assert_eq!(error.code, ErrorCode::IncompatibleFeatureLevel);
        assert!(error.message.contains("broker 19 supports level 1, and 10 more;"), "{}", error.message);
    }

    #[test]
    fn a_cluster_is_founded_at_what_its_voters_know() {
        assert_eq!(founding_level(std::iter::empty()), FEATURE_LEVEL);
        assert_eq!(founding_level([FeatureLevels::OURS, FeatureLevels::UNSAID].into_iter()), 1);
        assert_eq!(founding_level([FeatureLevels { min: 1, max: 9 }].into_iter()), FEATURE_LEVEL);
    }
}
