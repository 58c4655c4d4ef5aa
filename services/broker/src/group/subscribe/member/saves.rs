//! What is committed, and when.

use super::{Committing, Subscription};
use crate::group::call;
use crate::group::check;
use crate::group::subscribe::commits::{Next, Waiting};
use std::sync::Arc;
use thalweg_core::group::MemberEpoch;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::positions::Position;
use thalweg_core::{ErrorCode, Offset};
use thalweg_proto::v1::subscribe_response::Event as Told;
use thalweg_proto::{ApiError, v1};

impl Subscription {
    /// Commits what the client has dealt with.
    pub(super) fn commit_done(&mut self) {
        if self.commits.has_automatic() {
            return;
        }
        let offsets = self.uncommitted(|_| true);
        if !offsets.is_empty() {
            self.commit_automatically(offsets);
        }
    }

    pub(super) fn commit_automatically(&mut self, offsets: Vec<v1::OffsetToCommit>) {
        let epoch = self.member.epoch();
        self.commits.push(Waiting::Commit { id: 0, epoch, offsets, failures: Vec::new() });
    }

    /// What the client has dealt with and is not known to be committed.
    pub(super) fn uncommitted(&self, which: impl Fn(&TopicIdPartition) -> bool) -> Vec<v1::OffsetToCommit> {
        let behind = self.positions.to_commit().into_iter().filter(|(at, _)| which(at));
        let offset = |(at, position): (TopicIdPartition, Position)| {
            let (topic, partition) = self.parts.get(&at)?.key(&at)?;
            let (topic_id, offset) = (at.topic.0.to_vec().into(), position.offset.get());
            Some(v1::OffsetToCommit { topic, partition, offset, topic_id, ..Default::default() })
        };
        behind.filter_map(offset).take(check::MAX_PARTITIONS).collect()
    }

    pub(super) fn go_on_committing(&mut self) {
        while let Some(next) = self.commits.next() {
            match next {
                Next::Call(epoch, offsets) => self.committing = Some(self.call(epoch, offsets)),
                Next::Told(told) if told.commit_id != 0 || !told.failures.is_empty() => {
                    self.events.push_back(Told::Committed(told))
                }
                Next::Told(_) => {}
                Next::GiveBack(partitions) => self.give_back(&partitions),
                Next::Leave => {
                    let now = self.now();
                    self.member.leave(self.options.instance.is_some(), now);
                    while let Some(event) = self.member.poll(now) {
                        self.happened(event);
                    }
                }
            }
        }
    }

    /// `epoch` is that of when it was asked for: with the present one it would count for a life that it is not of.
    pub(super) fn call(&self, epoch: MemberEpoch, offsets: Vec<v1::OffsetToCommit>) -> Committing {
        let request = v1::CommitOffsetsRequest {
            group_id: self.options.group.to_string(),
            member_id: self.options.member.to_string(),
            member_epoch: epoch.0,
            instance_id: self.options.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
            offsets,
            ..Default::default()
        };
        let is_out = epoch <= MemberEpoch::JOIN || self.member.epoch() <= MemberEpoch::JOIN;
        let (node, caller, group) = (Arc::clone(&self.node), self.caller.clone(), self.options.group.clone());
        Box::pin(async move {
            if is_out {
                let message = "the member is not in the group at the moment; it joins anew by itself";
                return Err(ApiError::new(ErrorCode::UnknownMember, message));
            }
            call::commit(&node, &caller, &group, request).await
        })
    }

    pub(super) fn committed(&mut self, outcome: Result<v1::CommitOffsetsResponse, ApiError>) {
        self.committing = None;
        let (durable, told) = self.commits.answered(outcome);
        for ((topic, partition), offset) in durable {
            if let Some(at) = self.parts.named(&topic, partition) {
                self.positions.committed(&at, Offset(offset));
            }
        }
        self.events.extend(told.into_iter().map(Told::Committed));
    }
}
