//! Waits for records, and does what comes up meanwhile.

use super::commits::{Offsets, ToCommit};
use super::error::{CommitError, ConsumerError};
use super::heartbeats::Notice;
use super::hooks::OffsetAndMetadata;
use super::records::{ConsumerRecord, Decoding};
use super::starts::Found;
use super::{Away, Consumer};
use crate::{Chunk, ReadError};
use std::future::poll_fn;
use std::sync::Arc;
use thalweg_core::group::{MemberEpoch, Position};
use thalweg_core::metadata::command::Refusal;
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, TopicId, TopicPartition};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What a wait ended with.
enum Woken {
    Notice(Option<Notice>),
    Found(Vec<(TopicPartition, Found)>),
    Durable(Option<super::commits::Durable>),
    Chunk(Result<Chunk, ReadError>),
    Time,
}

impl Consumer {
    /// The application is back: it is done with what it was given.
    pub(super) fn back(&mut self) -> Away {
        self.shared.waits();
        self.done();
        Away(Arc::clone(&self.shared))
    }

    pub(super) fn done(&mut self) {
        for at in self.touched.drain(..) {
            self.positions.done(&at);
        }
    }

    /// Waits until there is a chunk in the buffer. Cancel safe.
    pub(super) async fn fill(&mut self) -> Result<(), ConsumerError> {
        loop {
            while let Some(Ok(notice)) = self.member.as_mut().map(|member| member.notices.try_recv()) {
                self.notice(notice);
            }
            self.note_durable();
            if let Some(error) = self.errors.pop_front() {
                return Err(error);
            }
            if let Some(refusal) = &self.rejected {
                return Err(ConsumerError::Rejected(refusal.clone()));
            }
            if !self.revoking.is_empty() {
                self.give_back().await;
                continue;
            }
            if self.buffer.is_some() {
                return Ok(());
            }
            self.commit_if_due();
            let woken = {
                let Consumer { member, starts, durable, reader, .. } = self;
                let Some(member) = member else { return Err(ConsumerError::NotSubscribed) };
                tokio::select! {
                    biased;
                    notice = member.notices.recv() => Woken::Notice(notice),
                    found = poll_fn(|cx| starts.poll_found(cx)) => Woken::Found(found),
                    durable = durable.recv() => Woken::Durable(durable),
                    chunk = reader.next_untold() => Woken::Chunk(chunk),
                    () = tokio::time::sleep_until(self.next_auto_commit), if self.config.enable_auto_commit => Woken::Time,
                }
            };
            match woken {
                Woken::Notice(Some(notice)) => self.notice(notice),
                Woken::Notice(None) => {
                    let why = "the task that keeps the membership has ended";
                    self.rejected = Some(Refusal::new(ErrorCode::Internal, why));
                }
                Woken::Found(found) => found.into_iter().for_each(|(at, found)| self.found(at, found)),
                Woken::Durable(durable) => durable.into_iter().for_each(|durable| self.is_durable(durable)),
                Woken::Chunk(Ok(chunk)) => self.take_in(chunk),
                Woken::Chunk(Err(error)) => self.cannot_read(error)?,
                Woken::Time => {}
            }
        }
    }

    /// It is known where a partition begins, or that it is not.
    fn found(&mut self, at: TopicPartition, found: Found) {
        if !self.owned.contains_key(&at) {
            return;
        }
        match found {
            Found::Committed(committed) => {
                let start = Position::new(committed.offset, committed.leader_epoch);
                self.positions.assign(at.clone(), start, Some(committed.offset));
            }
            Found::Reset(offset) => self.positions.assign(at.clone(), Position::at(offset), None),
            Found::Nowhere => {
                self.positions.assign(at.clone(), Position::at(Offset::NONE), None);
                self.errors.push_back(ConsumerError::NoOffset { at });
                return;
            }
            Found::Failed(source) => {
                self.positions.assign(at.clone(), Position::at(Offset::NONE), None);
                self.errors.push_back(ConsumerError::NoPosition { at, source });
                return;
            }
        }
        self.read(&at);
    }

    fn take_in(&mut self, chunk: Chunk) {
        let decoding = Decoding::new(chunk);
        let at = decoding.at();
        let Some(places) = self.positions.get(at).filter(|_| !self.paused.contains(at)) else { return };
        // The reader began again at the log's start: its position was outside the log.
        if decoding.next() < places.given.offset {
            self.positions.seek(at, decoding.next());
        }
        if let Some(owned) = self.owned.get_mut(at) {
            owned.high_watermark = Some(decoding.high_watermark());
        }
        self.buffer = Some(decoding);
    }

    /// A partition that is not the consumer's any more fails for nobody.
    fn cannot_read(&self, error: ReadError) -> Result<(), ConsumerError> {
        let named = match &error {
            ReadError::OffsetOutOfRange { topic, partition, .. }
            | ReadError::Refused { topic, partition, .. }
            | ReadError::Corrupt { topic, partition, .. } => {
                Some(TopicPartition::new(topic.clone(), *partition))
            }
            ReadError::Client(_) => None,
        };
        if named.is_some_and(|at| !self.owned.contains_key(&at)) { Ok(()) } else { Err(error.into()) }
    }

    /// The next record of the buffer; `None` when that is at its end.
    pub(super) fn take_record(&mut self) -> Option<Result<ConsumerRecord, ConsumerError>> {
        let decoding = self.buffer.as_mut()?;
        match decoding.next_record() {
            Some(Ok(record)) => {
                let next = Position::new(record.offset.advance(1), record.leader_epoch);
                self.give(record.at(), next);
                Some(Ok(record))
            }
            Some(Err(source)) => {
                let (at, offset) = (decoding.at().clone(), decoding.next());
                self.stop_reading(&at);
                Some(Err(ConsumerError::Corrupt { at, offset, source }))
            }
            None => {
                let (at, (end, epoch)) = (decoding.at().clone(), decoding.end());
                self.buffer = None;
                self.give(at, Position::new(end, epoch));
                None
            }
        }
    }

    pub(super) fn give(&mut self, at: TopicPartition, next: Position) {
        self.positions.given(&at, next);
        if self.touched.last() != Some(&at) {
            self.touched.push(at);
        }
    }

    pub(super) fn intercept(&self, records: Vec<ConsumerRecord>) -> Vec<ConsumerRecord> {
        let interceptors = self.config.interceptors.iter();
        interceptors.fold(records, |records, interceptor| interceptor.on_consume(records))
    }

    /// Reads a partition from where the application is, if that is known and nothing stands against it.
    pub(super) fn read(&mut self, at: &TopicPartition) {
        let leaving = self.revoking.iter().any(|revocation| revocation.names(at));
        if let Some(places) = self.positions.get(at)
            && places.given.offset >= Offset::ZERO
            && !self.paused.contains(at)
            && !leaving
        {
            self.reader.read_from(at, places.given.offset);
        }
    }

    /// Reads no more of a partition, and forgets what was read ahead.
    pub(super) fn stop_reading(&mut self, at: &TopicPartition) {
        self.reader.forget(at);
        if self.buffer.as_ref().is_some_and(|decoding| decoding.at() == at) {
            self.buffer = None;
        }
    }

    /// Goes on elsewhere.
    pub(super) fn go_on(&mut self, at: &TopicPartition, offset: Offset) {
        self.starts.forget(at);
        self.stop_reading(at);
        if !self.positions.seek(at, offset) {
            self.positions.assign(at.clone(), Position::at(offset), None);
        }
        self.read(at);
    }

    /// Hands in an automatic commit when it is time, and the one before is through.
    fn commit_if_due(&mut self) {
        if !self.config.enable_auto_commit || Instant::now() < self.next_auto_commit {
            return;
        }
        self.next_auto_commit = Instant::now() + self.config.auto_commit_interval;
        if let Some(before) = &mut self.auto_commit {
            match before.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                Ok(Err(error)) => {
                    tracing::warn!(group = %self.config.group, %error, "automatic commit failed; the next one says it again");
                }
                Ok(Ok(())) | Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
        let offsets = self.done_offsets(|_| true);
        self.auto_commit = if offsets.is_empty() { None } else { Some(self.ask(offsets)) };
    }

    /// Hands in a commit, with an answer to wait for.
    pub(super) fn ask(&self, offsets: Offsets) -> oneshot::Receiver<Result<(), CommitError>> {
        match self.shared.epoch() {
            Some(_) => self.commits.ask(self.seen(&offsets), offsets),
            None => {
                let (answer, receiver) = oneshot::channel();
                // The receiver is here.
                let _ = answer.send(Err(CommitError::NotMember));
                receiver
            }
        }
    }

    /// The newest epoch at which the application saw one of these partitions come: what a commit of them is fenced by. The
    /// member's own epoch may be ahead of what the application knows: it may have lost them, and have them again.
    pub(super) fn seen(&self, offsets: &Offsets) -> MemberEpoch {
        let since = offsets.keys().filter_map(|at| self.owned.get(at)).map(|owned| owned.since);
        since.max().unwrap_or(MemberEpoch::JOIN)
    }

    /// The id of a partition's topic, if the consumer has the partition.
    pub(super) fn topic_id(&self, at: &TopicPartition) -> Option<TopicId> {
        self.owned.get(at).map(|owned| owned.topic_id)
    }

    /// What is done and not durable.
    pub(super) fn done_offsets(&self, which: impl Fn(&TopicPartition) -> bool) -> Offsets {
        let done = self.positions.to_commit().into_iter().filter(|(at, _)| which(at));
        self.to_commit(done.map(|(at, position)| (at, position.into())))
    }

    /// What was given and is not durable.
    pub(super) fn given_offsets(&self) -> Offsets {
        let given = self.positions.iter().filter(|(_, places)| {
            places.given.offset >= Offset::ZERO && places.committed != Some(places.given.offset)
        });
        self.to_commit(given.map(|(at, places)| (at.clone(), places.given.into())))
    }

    pub(super) fn named_offsets(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
    ) -> Offsets {
        self.to_commit(offsets.into_iter())
    }

    fn to_commit(&self, offsets: impl Iterator<Item = (TopicPartition, OffsetAndMetadata)>) -> Offsets {
        offsets.map(|(at, what)| (at.clone(), ToCommit { topic_id: self.topic_id(&at), what })).collect()
    }

    pub(super) fn note_durable(&mut self) {
        while let Ok(durable) = self.durable.try_recv() {
            self.is_durable(durable);
        }
    }

    fn is_durable(&mut self, durable: super::commits::Durable) {
        for (at, offset) in durable.offsets {
            // One from before the partition came back says nothing: another may have committed meanwhile.
            if self.owned.get(&at).is_some_and(|owned| owned.since <= durable.epoch) {
                self.positions.committed(&at, offset);
            }
        }
    }
}

impl From<Position> for OffsetAndMetadata {
    fn from(position: Position) -> OffsetAndMetadata {
        let Position { offset, leader_epoch } = position;
        let leader_epoch = if leader_epoch.get() < 0 { LeaderEpoch::NONE } else { leader_epoch };
        OffsetAndMetadata { offset, leader_epoch, metadata: String::new() }
    }
}
