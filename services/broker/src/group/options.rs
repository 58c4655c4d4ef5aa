//! How a member wants to be treated: the same for Subscribe and Join.

use super::check;
use crate::read::{Format, bound_of};
use std::time::Duration;
use thalweg_core::group::{GroupId, InstanceId, MemberEpoch, MemberId, Subscription};
use thalweg_proto::{ApiError, v1};

/// The longest `auto.commit.interval.ms`: a day.
const MAX_AUTO_COMMIT_MS: u32 = 86_400_000;
/// The shortest that is kept; what is asked for below it counts as this.
const MIN_AUTO_COMMIT: Duration = Duration::from_millis(10);

/// Where a partition without a committed offset, or with one outside the log, begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reset {
    /// At the end.
    Latest = 1,
    /// At the first offset that is still there.
    Earliest = 2,
    /// Nowhere, until the member seeks.
    None = 3,
}

impl Reset {
    /// Reads a request's field.
    pub fn of(number: i32, field: &str) -> Result<Reset, ApiError> {
        match v1::OffsetReset::try_from(number) {
            Ok(v1::OffsetReset::Unspecified | v1::OffsetReset::Latest) => Ok(Reset::Latest),
            Ok(v1::OffsetReset::Earliest) => Ok(Reset::Earliest),
            Ok(v1::OffsetReset::None) => Ok(Reset::None),
            Err(_) => {
                let message = format!("{number} is no offset reset: 1 latest, 2 earliest, 3 none");
                Err(ApiError::invalid(field, message))
            }
        }
    }

    /// Reads a cursor's byte.
    pub fn from_number(number: u8) -> Option<Reset> {
        [Reset::Latest, Reset::Earliest, Reset::None].into_iter().find(|reset| *reset as u8 == number)
    }

    /// Which offset that is, if it is any.
    pub fn spec(self) -> Option<v1::OffsetSpec> {
        match self {
            Reset::Latest => Some(v1::OffsetSpec::Latest),
            Reset::Earliest => Some(v1::OffsetSpec::Earliest),
            Reset::None => None,
        }
    }
}

/// A member's options, checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub member: MemberId,
    /// Drawn anew for each Subscribe and Join; see [`v1::HeartbeatRequest::join_life`].
    pub life: u64,
    /// A static member's name.
    pub instance: Option<InstanceId>,
    /// What it wants to read.
    pub subscription: Subscription,
    /// The same, as it was said.
    pub wish: v1::GroupSubscription,
    /// What it calls itself.
    pub client_id: String,
    /// `session.timeout.ms`.
    pub session: Duration,
    /// `max.poll.interval.ms`.
    pub rebalance: Duration,
    /// `auto.offset.reset`.
    pub reset: Reset,
    /// `auto.commit.interval.ms`, if it wants that.
    pub auto_commit: Option<Duration>,
    /// The number of a [`v1::RecordFormat`].
    pub format: i32,
    /// The number of a [`v1::IsolationLevel`].
    pub isolation: i32,
}

impl Options {
    /// Checks them. `field` is where they stand in the request. A member without a name gets one.
    pub fn of(options: Option<v1::MemberOptions>, field: &str) -> Result<Options, ApiError> {
        let options = options.ok_or_else(|| ApiError::invalid(field, "say who joins which group"))?;
        let at = |part: &str| format!("{field}.{part}");
        let wish = options.subscription.unwrap_or_default();
        let auto_commit = options.auto_commit_interval_ms.unwrap_or(0);
        if auto_commit > MAX_AUTO_COMMIT_MS {
            let message = format!("at most {MAX_AUTO_COMMIT_MS} ms");
            return Err(ApiError::invalid(at("auto_commit_interval_ms"), message));
        }
        check::client_id(&options.client_id, &at("client_id"))?;
        let renamed = |error: ApiError, part: &str| error.with_field(at(part));
        Format::of(options.format).map_err(|error| renamed(error, "format"))?;
        bound_of(options.isolation_level).map_err(|error| renamed(error, "isolation_level"))?;
        let member = match options.member_id.is_empty() {
            true => drawn(),
            false => options.member_id,
        };
        let auto_commit = Duration::from_millis(auto_commit.into());
        Ok(Options {
            group: check::group(&options.group_id, &at("group_id"))?,
            member: check::member(&member, &at("member_id"))?,
            life: rand::random(),
            instance: check::instance(&options.instance_id, &at("instance_id"))?,
            subscription: check::subscription(&wish, &at("subscription"))?,
            wish,
            client_id: options.client_id,
            session: check::session(options.session_timeout_ms, &at("session_timeout_ms"))?,
            rebalance: check::rebalance(options.max_poll_interval_ms, &at("max_poll_interval_ms"))?,
            reset: Reset::of(options.offset_reset, &at("offset_reset"))?,
            auto_commit: Some(auto_commit).filter(|every| !every.is_zero()).map(|e| e.max(MIN_AUTO_COMMIT)),
            format: options.format,
            isolation: options.isolation_level,
        })
    }

    /// The heartbeat that says all of this: the attempt to join of that number, if it joins.
    pub fn joining(&self, attempt: u64) -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            subscription: Some(self.wish.clone()),
            has: Some(v1::AssignedPartitions::default()),
            client_id: self.client_id.clone(),
            session_timeout_ms: Some(millis(self.session)),
            rebalance_timeout_ms: Some(millis(self.rebalance)),
            join_life: Some(self.life),
            join_attempt: Some(attempt),
            ..self.beat(MemberEpoch::JOIN)
        }
    }

    /// A heartbeat that says who it is, and nothing else.
    pub fn beat(&self, epoch: MemberEpoch) -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            group_id: self.group.to_string(),
            member_id: self.member.to_string(),
            member_epoch: epoch.0,
            instance_id: self.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        }
    }
}

/// Milliseconds as the API says them.
pub fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// A random UUID (version 4).
fn drawn() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_illegal_option_names_its_field() {
        let good = v1::MemberOptions {
            group_id: "g".into(),
            subscription: Some(v1::GroupSubscription { topics: vec!["t".into()], ..Default::default() }),
            ..Default::default()
        };
        let options = Options::of(Some(good.clone()), "options").unwrap();
        assert_eq!((options.member.as_str().len(), options.auto_commit), (36, None));
        let field = |change: &dyn Fn(&mut v1::MemberOptions)| {
            let mut options = good.clone();
            change(&mut options);
            Options::of(Some(options), "o").unwrap_err().field.unwrap()
        };
        assert_eq!(Options::of(None, "options").unwrap_err().field.as_deref(), Some("options"));
        assert_eq!(field(&|o| o.group_id.clear()), "o.group_id");
        assert_eq!(field(&|o| o.member_id = "\n".into()), "o.member_id");
        assert_eq!(field(&|o| o.instance_id = "\n".into()), "o.instance_id");
        assert_eq!(field(&|o| o.subscription = None), "o.subscription.topics");
        assert_eq!(field(&|o| o.client_id = "\n".into()), "o.client_id");
        assert_eq!(field(&|o| o.session_timeout_ms = Some(1)), "o.session_timeout_ms");
        assert_eq!(field(&|o| o.max_poll_interval_ms = Some(1)), "o.max_poll_interval_ms");
        assert_eq!(field(&|o| o.offset_reset = 9), "o.offset_reset");
        assert_eq!(field(&|o| o.auto_commit_interval_ms = Some(u32::MAX)), "o.auto_commit_interval_ms");
        assert_eq!(field(&|o| o.format = 9), "o.format");
        assert_eq!(field(&|o| o.isolation_level = 9), "o.isolation_level");
    }
}
