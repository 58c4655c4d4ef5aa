//! Settings of a consumer.

use super::hooks::{ConsumerInterceptor, RebalanceListener};
use crate::reader::ReaderConfig;
use crate::{ConfigError, Isolation, OffsetReset};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::group::member::Timeouts;
use thalweg_core::group::{Assignor, GroupId, InstanceId, MemberId};

/// Settings of a [`Consumer`](super::Consumer). Kafka's names stand behind each field.
#[derive(Clone)]
#[non_exhaustive]
pub struct ConsumerConfig {
    /// The group (`group.id`): 1 to 249 bytes.
    pub group: String,
    /// The member's id: 1 to 249 bytes, which no other member of the group has. Default: drawn anew for each consumer.
    pub member_id: Option<String>,
    /// Makes the consumer a static member of this name: it keeps its partitions while it is away for less than its session
    /// (`group.instance.id`). Default: none.
    pub instance_id: Option<String>,
    /// The assignor that the member would like: `uniform` (also `sticky`), `range` or `roundrobin`; the group takes the one that
    /// most members name (`group.remote.assignor`). Default: none, which is `uniform`.
    pub assignor: Option<String>,
    /// The member's rack or zone, for assignors that look at it (`client.rack`). Default: none.
    pub rack: Option<String>,
    /// Without a sign of life for so long the member is out (`session.timeout.ms`). Default 45 s; 1 s to 30 min.
    pub session_timeout: Duration,
    /// A member that takes longer to come back for records, or to give back what was revoked, is out
    /// (`max.poll.interval.ms`). Default 300 s; 1 s to 24 h.
    pub max_poll_interval: Duration,
    /// Records that one [`poll`](super::Consumer::poll) gives at most (`max.poll.records`). Default 500.
    pub max_poll_records: usize,
    /// Whether what was given is committed by itself: every [`auto_commit_interval`](Self::auto_commit_interval), before a
    /// partition is given back and when the consumer closes (`enable.auto.commit`). What was given counts when the application
    /// has come back for more. Default true.
    pub enable_auto_commit: bool,
    /// How often (`auto.commit.interval.ms`). Default 5 s.
    pub auto_commit_interval: Duration,
    /// Where a partition without a committed offset, or with one outside the log, begins (`auto.offset.reset`). Default latest.
    pub offset_reset: OffsetReset,
    /// How long a commit or another call to the group may take, retries included (`default.api.timeout.ms`). Default 60 s.
    pub api_timeout: Duration,
    /// Which records are seen (`isolation.level`). Default: uncommitted too.
    pub isolation: Isolation,
    /// Bytes that each leader may send ahead of the caller. Default 16 MiB.
    pub credit_bytes: u64,
    /// Bytes of one chunk (`max.partition.fetch.bytes`). Default 1 MiB; at most 8 MiB. A larger batch still comes whole.
    pub max_chunk_bytes: u32,
    /// Whether each batch's checksum is checked (`check.crcs`). Default true.
    pub check_crcs: bool,
    /// Told when partitions come and go.
    pub listener: Option<Arc<dyn RebalanceListener>>,
    /// See records and commits, in this order (`interceptor.classes`).
    pub interceptors: Vec<Arc<dyn ConsumerInterceptor>>,
}

impl ConsumerConfig {
    /// The defaults, for a group.
    pub fn new(group: impl Into<String>) -> ConsumerConfig {
        let reader = ReaderConfig::default();
        ConsumerConfig {
            group: group.into(),
            member_id: None,
            instance_id: None,
            assignor: None,
            rack: None,
            session_timeout: Duration::from_secs(45),
            max_poll_interval: Duration::from_secs(300),
            max_poll_records: 500,
            enable_auto_commit: true,
            auto_commit_interval: Duration::from_secs(5),
            offset_reset: OffsetReset::Latest,
            api_timeout: Duration::from_secs(60),
            isolation: Isolation::default(),
            credit_bytes: reader.credit_bytes,
            max_chunk_bytes: reader.max_chunk_bytes,
            check_crcs: reader.check_crcs,
            listener: None,
            interceptors: Vec::new(),
        }
    }

    pub(super) fn check(&self) -> Result<(GroupId, Option<InstanceId>), ConfigError> {
        let group =
            GroupId::new(&self.group).map_err(|error| ConfigError::new("group", error.to_string()))?;
        let instance = self.instance_id.as_deref().map(InstanceId::new).transpose();
        let instance = instance.map_err(|error| ConfigError::new("instance_id", error.to_string()))?;
        if let Some(Err(error)) = self.member_id.as_deref().map(MemberId::new) {
            return Err(ConfigError::new("member_id", error.to_string()));
        }
        if let Some(Err(error)) = self.assignor.as_deref().map(str::parse::<Assignor>) {
            return Err(ConfigError::new("assignor", error.to_string()));
        }
        let between = |setting, value: Duration, most: Duration| {
            let least = Duration::from_secs(1);
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::new(setting, format!("it must be between {least:?} and {most:?}")))
            }
        };
        between("session_timeout", self.session_timeout, Duration::from_secs(1_800))?;
        between("max_poll_interval", self.max_poll_interval, Duration::from_secs(86_400))?;
        if self.max_poll_records == 0 {
            return Err(ConfigError::new("max_poll_records", "no poll would ever give a record; raise it"));
        }
        if self.enable_auto_commit && self.auto_commit_interval.is_zero() {
            let reason = "give a time, or turn enable_auto_commit off";
            return Err(ConfigError::new("auto_commit_interval", reason));
        }
        Ok((group, instance))
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts { session: self.session_timeout, rebalance: self.max_poll_interval, ..Timeouts::default() }
    }

    pub(super) fn reader(&self) -> ReaderConfig {
        ReaderConfig {
            isolation: self.isolation,
            credit_bytes: self.credit_bytes,
            max_chunk_bytes: self.max_chunk_bytes,
            check_crcs: self.check_crcs,
            offset_reset: self.offset_reset,
        }
    }
}

impl fmt::Debug for ConsumerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerConfig")
            .field("group", &self.group)
            .field("instance_id", &self.instance_id)
            .field("session_timeout", &self.session_timeout)
            .field("max_poll_interval", &self.max_poll_interval)
            .field("enable_auto_commit", &self.enable_auto_commit)
            .field("offset_reset", &self.offset_reset)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let wrong = |change: &dyn Fn(&mut ConsumerConfig)| {
            let mut config = ConsumerConfig::new("g");
            change(&mut config);
            config.check().map(drop).map_err(|error| error.setting)
        };
        assert_eq!(wrong(&|_| ()), Ok(()));
        assert_eq!(wrong(&|config| config.group.clear()), Err("group"));
        assert_eq!(wrong(&|config| config.member_id = Some(String::new())), Err("member_id"));
        assert_eq!(wrong(&|config| config.instance_id = Some(String::new())), Err("instance_id"));
        assert_eq!(wrong(&|config| config.assignor = Some("best".into())), Err("assignor"));
        assert_eq!(wrong(&|config| config.session_timeout = Duration::ZERO), Err("session_timeout"));
        assert_eq!(wrong(&|config| config.max_poll_interval = Duration::MAX), Err("max_poll_interval"));
        assert_eq!(wrong(&|config| config.max_poll_records = 0), Err("max_poll_records"));
        assert_eq!(
            wrong(&|config| config.auto_commit_interval = Duration::ZERO),
            Err("auto_commit_interval")
        );
    }
}
