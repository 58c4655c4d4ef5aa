//! What the client says, and the records that it is sent.

use super::{READ_AGAIN, Revocation, Subscription, place};
use crate::forward::relay::{refused, weight};
use crate::group::check;
use crate::group::subscribe::commits::{Waiting, failure};
use crate::group::subscribe::parts::State;
use crate::group::subscribe::progress::Done;
use thalweg_core::group::MemberEpoch;
use thalweg_core::group::positions::Position;
use thalweg_core::group::state::Partitions;
use thalweg_core::{ErrorCode, Offset};
use thalweg_proto::v1::subscribe_request::Command;
use thalweg_proto::v1::subscribe_response::Event as Told;
use thalweg_proto::{ApiError, v1};

impl Subscription {
    /// Takes what the relay brought, and sends it.
    pub fn read(&mut self, data: v1::PartitionData) {
        let Some(at) = self.parts.named(&data.topic, data.partition) else { return };
        let Some(part) = self.parts.get_mut(&at).filter(|part| part.state == State::Reading) else { return };
        if let Some(error) = &data.error {
            if error.code == ErrorCode::OffsetOutOfRange as i32 {
                if self.options.reset.spec().is_some() {
                    self.find_reset(at);
                    return;
                }
                part.state = State::Nowhere;
                part.next = Offset::NONE.get();
            } else {
                self.fail(&at, READ_AGAIN);
            }
            let data = self.tagged(data);
            self.events.push_back(Told::Records(data));
            return;
        }
        part.next = data.next_offset;
        let next = Offset(data.next_offset);
        let (bytes, records) = weight(&data);
        self.positions.given(&at, Position::at(next));
        self.progress.sent(at, next, bytes, records);
        if !self.is_working {
            self.is_working = true;
            let now = self.now();
            self.member.works(now);
        }
        let data = self.tagged(data);
        self.events.push_back(Told::Records(data));
    }

    /// Tells data from before a seek from data after it.
    pub(super) fn tagged(&self, data: v1::PartitionData) -> v1::PartitionData {
        v1::PartitionData { tag: self.seeks, ..data }
    }

    /// Does what the client says; an error ends the stream.
    pub fn said(&mut self, message: v1::SubscribeRequest) -> Result<(), ApiError> {
        let Some(command) = message.command else {
            let message = "say credit, commit, revoked, seek, pause, resume, subscription or alive";
            return Err(ApiError::invalid("command", message));
        };
        let counted = message.dealt_with.map(|messages| self.progress.dealt_with(messages));
        let said = match &command {
            Command::Credit(more) => self.progress.credit(*more),
            // "Everything that was handed out": it has it all.
            Command::Commit(commit) if commit.offsets.is_empty() => self.progress.all(),
            _ => Vec::new(),
        };
        if !matches!(command, Command::Credit(_)) {
            self.progress.spoke();
        }
        self.done(counted.into_iter().flatten().chain(said));
        let now = self.now();
        self.member.waits(now);
        self.is_working = self.progress.is_owed();
        if self.is_working {
            self.member.works(now);
        }
        match command {
            Command::Start(_) => Err(ApiError::invalid("start", "start is the first message, once")),
            Command::Credit(more) => {
                self.relay.allow(more);
                Ok(())
            }
            Command::Commit(commit) => self.commit(commit),
            Command::Revoked(revoked) => {
                self.revoked(revoked.revocation_id);
                Ok(())
            }
            Command::Seek(seek) => self.seek(seek),
            Command::Pause(pause) => {
                self.pause(&pause.partitions);
                Ok(())
            }
            Command::Resume(resume) => {
                self.resume(&resume.partitions);
                Ok(())
            }
            Command::Subscription(wish) => {
                let subscription = check::subscription(&wish, "subscription")?;
                (self.options.wish, self.options.subscription) = (wish, subscription.clone());
                self.member.subscribe(subscription, now);
                Ok(())
            }
            Command::Alive(_) => Ok(()),
        }
    }

    pub(super) fn done(&mut self, done: impl Iterator<Item = Done>) {
        for (at, next) in done {
            self.positions.done_to(&at, Position::at(next));
        }
    }

    pub(super) fn commit(&mut self, commit: v1::SubscribeCommit) -> Result<(), ApiError> {
        if commit.commit_id == 0 {
            return Err(ApiError::invalid("commit.commit_id", "commits are numbered from 1"));
        }
        if !commit.offsets.is_empty() {
            check::offsets(&commit.offsets, "commit.offsets")?;
        }
        let id = commit.commit_id;
        let now = self.member.epoch();
        let epoch = commit.member_epoch.map_or(now, MemberEpoch);
        if epoch <= MemberEpoch::JOIN && commit.member_epoch.is_some() {
            return Err(ApiError::invalid("commit.member_epoch", "the epoch of an assignment is 1 or more"));
        }
        if epoch > now {
            let message = format!("the member is at epoch {now}, not {epoch}");
            let error =
                ApiError::new(ErrorCode::FencedMemberEpoch, message).with_field("commit.member_epoch");
            let error = Some(error.to_proto());
            self.commits.push(Waiting::Refused(v1::SubscribeCommitted {
                commit_id: id,
                failures: vec![],
                error,
            }));
            return Ok(());
        }
        let (offsets, failures) = match commit.offsets.is_empty() {
            true => (self.uncommitted(|_| true), Vec::new()),
            // Out of the group: the whole of it is refused.
            false if now <= MemberEpoch::JOIN => (commit.offsets, Vec::new()),
            false => self.may_commit(commit.offsets),
        };
        // What it commits itself it has dealt with: an automatic commit shall not go back behind it.
        for offset in &offsets {
            if let Some(at) = self.parts.named(&offset.topic, offset.partition) {
                self.positions.done_to(&at, Position::at(Offset(offset.offset)));
            }
        }
        self.commits.push(Waiting::Commit { id, epoch, offsets, failures });
        Ok(())
    }

    /// Sorts out what is of an earlier assignment: it is as if it had come before the partition was lost, and others may have
    /// gone on since. The epoch alone does not tell, as it can be the same again.
    fn may_commit(
        &self,
        offsets: Vec<v1::OffsetToCommit>,
    ) -> (Vec<v1::OffsetToCommit>, Vec<v1::CommitResult>) {
        let may = |offset: &v1::OffsetToCommit| {
            let part = self.parts.named(&offset.topic, offset.partition).and_then(|at| self.parts.get(&at));
            part.is_some_and(|part| part.may_commit(offset.offset))
        };
        let (may, may_not): (Vec<_>, Vec<_>) = offsets.into_iter().partition(may);
        let message = "the member does not have the partition, or got it again behind this offset; \
                       seek to commit an earlier one";
        let error = ApiError::new(ErrorCode::StaleMemberEpoch, message).to_proto();
        let failures =
            may_not.into_iter().map(|offset| failure((offset.topic, offset.partition), &error)).collect();
        (may, failures)
    }

    pub(super) fn revoked(&mut self, id: u64) {
        // One that is not known was taken meanwhile; the client has been told.
        let Some(Revocation { partitions, .. }) = self.revocations.remove(&id) else { return };
        if self.options.auto_commit.is_some() {
            // Its last word for these: whatever it got of them it has dealt with. Who counts has said how much that is.
            if !self.progress.counts() {
                partitions.iter().for_each(|at| self.positions.done(at));
            }
            let offsets = self.uncommitted(|at| partitions.contains(at));
            self.commit_automatically(offsets);
        }
        self.commits.push(Waiting::GiveBack(partitions));
    }

    pub(super) fn seek(&mut self, seek: v1::SubscribeSeek) -> Result<(), ApiError> {
        if seek.positions.len() > check::MAX_PARTITIONS {
            let message = format!("name at most {} partitions", check::MAX_PARTITIONS);
            return Err(ApiError::invalid("seek.positions", message));
        }
        if seek.positions.iter().any(|position| position.offset < 0) {
            return Err(ApiError::invalid("seek.positions.offset", "an offset is 0 or more"));
        }
        self.seeks += 1;
        let (mut reading, mut sought) = (Vec::new(), Partitions::new());
        for position in seek.positions {
            let at = self.parts.named(&position.topic, position.partition);
            let part = at.and_then(|at| Some((at, self.parts.get_mut(&at)?)));
            match part {
                Some((at, part))
                    if matches!(part.state, State::Reading | State::Nowhere)
                        || (part.state == State::Failed && part.is_placed()) =>
                {
                    part.state = State::Reading;
                    part.next = position.offset;
                    part.began = None;
                    sought.insert(at);
                    if !part.is_paused {
                        reading.push(place(&position.topic, position.partition, position.offset));
                    }
                    self.positions.seek(&at, Offset(position.offset));
                }
                Some((_, part)) if part.state != State::Revoking => {
                    part.sought = Some(position.offset);
                    part.began = None;
                }
                // It may have been taken while the client said so.
                _ => self.not_assigned(position),
            }
        }
        self.progress.forget(&sought);
        if !reading.is_empty() {
            self.relay.assign(reading);
        }
        Ok(())
    }

    pub(super) fn not_assigned(&mut self, position: v1::PartitionPosition) {
        let message = "the member does not have this partition (any more)";
        let error = ApiError::new(ErrorCode::StaleMemberEpoch, message).with_field("seek.positions");
        let data = refused(position.topic, position.partition, self.seeks, &error);
        self.events.push_back(Told::Records(data));
    }

    pub(super) fn pause(&mut self, topics: &[v1::TopicPartitions]) {
        let mut paused = Vec::new();
        for at in self.parts.resolve(topics) {
            if let Some(part) = self.parts.get_mut(&at) {
                part.is_paused = true;
                paused.extend(part.key(&at));
            }
        }
        self.relay.unassign(paused);
    }

    pub(super) fn resume(&mut self, topics: &[v1::TopicPartitions]) {
        let mut resumed = Vec::new();
        for at in self.parts.resolve(topics) {
            let Some(part) = self.parts.get_mut(&at).filter(|part| part.is_paused) else { continue };
            part.is_paused = false;
            if part.state == State::Reading
                && let Some((topic, partition)) = part.key(&at)
            {
                resumed.push(place(&topic, partition, part.next));
            }
        }
        if !resumed.is_empty() {
            self.relay.assign(resumed);
        }
    }

    /// The client says no more: the member leaves when what it committed is durable.
    pub fn goodbye(&mut self) {
        self.has_said_goodbye = true;
        let all: Partitions = self.parts.iter().map(|(at, _)| *at).collect();
        self.stop_reading(&all);
        if self.options.auto_commit.is_some() {
            let offsets = self.uncommitted(|_| true);
            self.commit_automatically(offsets);
        }
        self.commits.push(Waiting::Leave);
    }
}
