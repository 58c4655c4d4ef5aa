//! How a group is made from its records.
//!
//! A log that was compacted has only the newest record of each key, where it was written. So a member's record may come behind
//! what the member has, and tombstones may come for what was never seen.

use super::assignor::Assignor;
use super::ids::MemberId;
use super::records::{Change, GroupValue, MemberValue};
use super::state::{Group, Member, Subscription};
use std::sync::Arc;
use std::time::Duration;

impl Group {
    /// Takes in a change, in the order of the log.
    pub fn replay(&mut self, change: &Change) {
        match change {
            Change::Offset(topic, partition, Some(offset)) => {
                self.offsets.insert((topic.clone(), *partition), offset.clone());
            }
            Change::Offset(topic, partition, None) => {
                self.offsets.remove(&(topic.clone(), *partition));
            }
            Change::Group(Some(value)) => {
                self.epoch = value.epoch;
                self.target_epoch = value.target_epoch;
                // One that only a newer version knows is not worth losing the group for.
                self.assignor = value.assignor.parse().unwrap_or_default();
                self.topics_hash = value.topics_hash;
                self.empty_since = value.empty_since;
            }
            // All that the group had was forgotten record by record. What is still there in a compacted log was written later.
            Change::Group(None) => {
                self.epoch = Default::default();
                self.target_epoch = Default::default();
                self.assignor = Assignor::default();
                self.topics_hash = 0;
                self.empty_since = None;
            }
            Change::Member(id, Some(value)) => self.put_member(id, value),
            Change::Member(id, None) => self.remove_member(id),
            Change::Target(id, Some(target)) => {
                self.target.insert(id.clone(), Arc::clone(target));
            }
            Change::Target(id, None) => {
                self.target.remove(id);
            }
            Change::Current(id, Some(current)) if !self.members.contains_key(id) => {
                self.early.insert(id.clone(), current.clone());
            }
            Change::Current(id, current) => {
                self.early.remove(id);
                self.set_current(id, current.clone().unwrap_or_default());
            }
        }
    }

    /// The log has come to its end: what belongs to no member is let go.
    pub fn replayed(&mut self) {
        self.early.clear();
        self.target.retain(|id, _| self.members.contains_key(id));
    }

    /// Whether nothing is known of it, so that it need not be kept.
    pub fn is_void(&self) -> bool {
        *self == Group::default()
    }

    fn put_member(&mut self, id: &MemberId, value: &MemberValue) {
        let before = self.members.get(id);
        let gave_up = before.and_then(|before| before.instance.clone());
        if let Some(instance) = gave_up.filter(|instance| value.instance.as_ref() != Some(instance))
            && self.instances.get(&instance) == Some(id)
        {
            self.instances.remove(&instance);
        }
        if let Some(instance) = &value.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        let had = before.map(|member| member.current.clone());
        let early = self.early.remove(id);
        let member = Member {
            subscription: self.shared(&value.subscription),
            instance: value.instance.clone(),
            client_id: Arc::clone(&value.client_id),
            host: Arc::clone(&value.host),
            session_timeout: Duration::from_millis(value.session_timeout_ms),
            rebalance_timeout: Duration::from_millis(value.rebalance_timeout_ms),
            current: had.unwrap_or_default(),
        };
        self.members.insert(id.clone(), Arc::new(member));
        if let Some(early) = early {
            self.set_current(id, early);
        }
    }

    /// The subscription, kept once for members that ask for the same, as those of most groups do.
    fn shared(&self, wanted: &Subscription) -> Arc<Subscription> {
        let known = self.members.values().next().map(|member| &member.subscription);
        known.filter(|known| ***known == *wanted).map_or_else(|| Arc::new(wanted.clone()), Arc::clone)
    }

    /// The group's own record.
    pub(super) fn value(&self) -> GroupValue {
        GroupValue {
            epoch: self.epoch,
            target_epoch: self.target_epoch,
            assignor: Assignor::name(self.assignor).to_owned(),
            topics_hash: self.topics_hash,
            empty_since: self.empty_since,
        }
    }

    /// The group's own record after something happened that may change the assignment.
    pub(super) fn bumped(&self) -> GroupValue {
        let mut value = self.value();
        value.epoch.0 = value.epoch.0.saturating_add(1);
        value
    }
}

impl Member {
    /// The member's record.
    pub(super) fn value(&self) -> MemberValue {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        MemberValue {
            subscription: Subscription::clone(&self.subscription),
            instance: self.instance.clone(),
            client_id: Arc::clone(&self.client_id),
            host: Arc::clone(&self.host),
            session_timeout_ms: millis(self.session_timeout),
            rebalance_timeout_ms: millis(self.rebalance_timeout),
        }
    }
}
