//! One group of the shard: what the log knows of it, and what only this coordinator does.

use super::call::{CallId, WriteId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::{Change, Group, Member, MemberEpoch, MemberId};

/// A group with its members' standing.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// What the log knows. Changed by [`Entry::apply`] only.
    pub(super) group: Group,
    /// One for each member.
    pub(super) presences: BTreeMap<MemberId, Presence>,
    /// The target the other way round: who shall have a partition.
    wanted: HashMap<TopicIdPartition, MemberId>,
    /// The last write of the group: answers about it wait for it.
    pub(super) last_write: WriteId,
    /// When its assignment is computed, if it has to be.
    pub(super) assign_at: Option<Duration>,
}

/// What this coordinator alone knows of a member. Another that takes over begins anew.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Presence {
    /// When it is out, unless it is heard from. Does not count while a heartbeat is held or its answer waits for a write.
    pub(super) session_at: Duration,
    /// When it is out, unless it gives back what was revoked.
    pub(super) revoke_at: Option<Duration>,
    /// What it was asked to give back.
    pub(super) revoking: BTreeMap<TopicIdPartition, MemberEpoch>,
    /// The write that asked it, until the first answer after it has left: its time counts from there.
    pub(super) asked_by: Option<WriteId>,
    /// Its heartbeat that waits for something to tell.
    pub(super) held: Option<Held>,
    /// Its answers that wait for a write.
    pub(super) parked: u32,
    /// Whether it is to be told what it may have with its next heartbeat, once more: it was told, and says nothing of it, as
    /// one does that did not hear.
    pub(super) unheard: bool,
    /// Whether it has not said what it has since it was told what it may have.
    pub(super) unconfirmed: bool,
    /// Where its timer stands.
    pub(super) armed: Option<Duration>,
}

/// A heartbeat that waits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    /// Its call.
    pub(super) call: CallId,
    /// The epoch that the member knows.
    pub(super) epoch: MemberEpoch,
    /// Until when.
    pub(super) until: Duration,
}

impl Presence {
    /// A member that was heard from just now.
    pub(super) fn new(now: Duration, session: Duration) -> Presence {
        Presence {
            session_at: now.saturating_add(session),
            revoke_at: None,
            revoking: BTreeMap::new(),
            asked_by: None,
            held: None,
            parked: 0,
            unheard: true,
            unconfirmed: true,
            armed: None,
        }
    }

    /// Begins the time that it has for what it shall give back, unless that is still the same.
    pub(super) fn ask(&mut self, member: &Member, by: Option<WriteId>, now: Duration) {
        let revoking = &member.current.revoking;
        if *revoking != self.revoking {
            self.revoking.clone_from(revoking);
            let until = now.saturating_add(member.rebalance_timeout);
            self.revoke_at = (!revoking.is_empty()).then_some(until);
            self.asked_by = by.filter(|_| !revoking.is_empty());
        }
    }

    /// When something is due for the member.
    pub(super) fn due(&self) -> Option<Duration> {
        let alive = match (&self.held, self.parked) {
            (Some(held), _) => Some(held.until),
            (None, 0) => Some(self.session_at),
            (None, _) => None,
        };
        alive.into_iter().chain(self.revoke_at).min()
    }
}

/// What applying changes brought.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Members who may be able to take a step: a partition that they shall have got free.
    pub(super) movable: BTreeSet<MemberId>,
    /// Members whose record or possession changed.
    pub(super) touched: BTreeSet<MemberId>,
    /// The target is another one.
    pub(super) assigned: bool,
}

impl Entry {
    /// Changes the group, and keeps the inverse of its target.
    pub(super) fn apply(&mut self, change: &Change, applied: &mut Applied) {
        match change {
            Change::Target(id, target) => {
                for at in self.group.target.get(id).iter().flat_map(|before| before.iter()) {
                    if self.wanted.get(at) == Some(id) {
                        self.wanted.remove(at);
                    }
                }
                for at in target.iter().flat_map(|target| target.iter()) {
                    self.wanted.insert(*at, id.clone());
                }
                self.group.replay(change);
            }
            Change::Current(id, _) => {
                let before = self.group.members.get(id).cloned();
                self.group.replay(change);
                if let Some(before) = before {
                    let had = before.current.owned.keys().chain(before.current.revoking.keys());
                    let free = had.filter(|at| !self.group.owners.contains_key(*at));
                    applied.movable.extend(free.filter_map(|at| self.wanted.get(at)).cloned());
                }
                applied.touched.insert(id.clone());
            }
            Change::Member(id, _) => {
                self.group.replay(change);
                applied.touched.insert(id.clone());
            }
            Change::Group(value) => {
                let before = self.group.target_epoch;
                applied.assigned |= value.as_ref().is_some_and(|value| value.target_epoch != before);
                self.group.replay(change);
            }
            Change::Offset(..) => self.group.replay(change),
        }
    }

    /// The log has come to its end.
    pub(super) fn replayed(&mut self) {
        self.group.replayed();
        self.wanted.clear();
        for (id, target) in &self.group.target {
            self.wanted.extend(target.iter().map(|at| (*at, id.clone())));
        }
    }

    /// The members that can be told something without being asked, or that are away and need not be.
    pub(super) fn reachable(&self) -> Vec<MemberId> {
        let away = |id: &MemberId| {
            let member = self.group.members.get(id);
            member.is_some_and(|member| member.current.epoch == MemberEpoch::LEAVE_FOR_NOW)
        };
        let reachable = self.presences.iter().filter(|(id, presence)| presence.held.is_some() || away(id));
        reachable.map(|(id, _)| id.clone()).collect()
    }

    /// Whether there is anything to remember.
    pub(super) fn is_void(&self) -> bool {
        self.presences.is_empty() && self.group.is_void()
    }
}
