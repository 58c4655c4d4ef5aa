//! Partitions that come and go.

use super::Consumer;
use super::commits::Offsets;
use super::error::{CommitError, ConsumerError};
use super::heartbeats::{Given, Notice, Wish};
use super::hooks::{OffsetAndMetadata, Rebalance};
use super::{Member, Owned};
use std::collections::BTreeSet;
use std::time::Duration;
use thalweg_core::group::member::{Loss, Timeouts};
use thalweg_core::group::state::Partitions;
use thalweg_core::{Offset, TopicPartition};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// How long the task has, beyond its own limit, to say that it has left.
const TO_SAY_GOODBYE: Duration = Duration::from_secs(1);

/// What a listener wished for: offsets to commit, and where to begin.
type Wishes = (Vec<(TopicPartition, OffsetAndMetadata)>, Vec<(TopicPartition, Offset)>);
type Answer = oneshot::Receiver<Result<(), CommitError>>;

/// A revocation that is under way. Each step is kept here, so that a call that is dropped loses none.
pub(super) struct Revocation {
    ids: Partitions,
    at: Vec<TopicPartition>,
    until: Instant,
    stage: Stage,
}

enum Stage {
    New,
    /// What is done is being committed.
    Commits(Option<Answer>),
    /// What the listener wished for is being committed.
    Last(Option<Answer>),
}

impl Revocation {
    pub(super) fn names(&self, at: &TopicPartition) -> bool {
        self.at.contains(at)
    }
}

impl Consumer {
    pub(super) fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Assigned(given) => self.assigned(given),
            Notice::Revoke { ids, at, until } => {
                self.revoking.push_back(Revocation { ids, at, until, stage: Stage::New });
            }
            Notice::Lost { at, why } => self.lost(&at, &why),
            Notice::Left => {}
            Notice::Failed(refusal) => self.rejected = Some(refusal),
        }
    }

    fn assigned(&mut self, given: Vec<Given>) {
        let mut new: BTreeSet<TopicPartition> = BTreeSet::new();
        for Given { at, topic_id, since } in given {
            self.owned.insert(at.clone(), Owned { topic_id, since, high_watermark: None });
            new.insert(at);
        }
        tracing::info!(group = %self.config.group, partitions = new.len(), "partitions are assigned");
        let partitions: Vec<TopicPartition> = new.iter().cloned().collect();
        let (_, seeks) = self.tell(&partitions, |listener, rebalance| listener.on_assigned(rebalance));
        for (at, offset) in seeks {
            if offset >= Offset::ZERO {
                self.go_on(&at, offset);
                new.remove(&at);
            }
        }
        let new = new.into_iter().filter_map(|at| Some((at.clone(), self.topic_id(&at)?)));
        self.starts.search(new.collect());
    }

    fn lost(&mut self, partitions: &[TopicPartition], why: &Loss) {
        let lost: Vec<TopicPartition> =
            partitions.iter().filter(|at| self.owned.contains_key(*at)).cloned().collect();
        for at in &lost {
            self.drop_partition(at);
        }
        self.revoking.retain_mut(|revocation| {
            revocation.at.retain(|at| !lost.contains(at));
            !revocation.at.is_empty()
        });
        if let Some(listener) = self.config.listener.clone().filter(|_| !lost.is_empty()) {
            listener.on_lost(&lost);
        }
        if *why == Loss::NotPolled {
            self.errors.push_back(ConsumerError::PollInterval { interval: self.config.max_poll_interval });
        }
    }

    fn drop_partition(&mut self, at: &TopicPartition) {
        self.starts.forget(at);
        self.stop_reading(at);
        self.positions.remove(at);
        self.paused.remove(at);
        self.owned.remove(at);
    }

    /// Calls the listener, and gives what it wished for.
    fn tell(
        &self,
        partitions: &[TopicPartition],
        call: impl FnOnce(&dyn super::RebalanceListener, &mut Rebalance<'_>),
    ) -> Wishes {
        let (commits, seeks) = (Vec::new(), Vec::new());
        let mut rebalance = Rebalance { partitions, positions: &self.positions, commits, seeks };
        if let Some(listener) = &self.config.listener
            && !partitions.is_empty()
        {
            call(&**listener, &mut rebalance);
        }
        (rebalance.commits, rebalance.seeks)
    }

    /// Takes the first revocation a step further. Cancel safe.
    pub(super) async fn give_back(&mut self) {
        let Some(revocation) = self.revoking.front_mut() else { return };
        let until = revocation.until;
        match &mut revocation.stage {
            Stage::New => {
                let at = revocation.at.clone();
                at.iter().for_each(|at| {
                    self.starts.forget(at);
                    self.stop_reading(at);
                });
                let answer = self.commit_before_giving_back(&at);
                self.move_on(Stage::Commits(answer));
            }
            Stage::Commits(answer) => {
                self::wait(answer, until, &self.config.group).await;
                let at = revocation.at.clone();
                let (commits, _) = self.tell(&at, |listener, rebalance| listener.on_revoked(rebalance));
                let offsets = self.named_offsets(commits);
                let answer = (!offsets.is_empty()).then(|| self.ask(offsets));
                self.move_on(Stage::Last(answer));
            }
            Stage::Last(answer) => {
                self::wait(answer, until, &self.config.group).await;
                let Some(revocation) = self.revoking.pop_front() else { return };
                for at in &revocation.at {
                    self.drop_partition(at);
                }
                tracing::info!(group = %self.config.group, partitions = revocation.at.len(), "partitions are given back");
                if let Some(member) = &self.member {
                    // A task that has ended says why with its last notice.
                    let _ = member.wishes.send(Wish::GaveBack(revocation.ids));
                }
            }
        }
    }

    fn move_on(&mut self, stage: Stage) {
        if let Some(revocation) = self.revoking.front_mut() {
            revocation.stage = stage;
        }
    }

    fn commit_before_giving_back(&self, partitions: &[TopicPartition]) -> Option<Answer> {
        let offsets = match self.config.enable_auto_commit {
            true => self.done_offsets(|at| partitions.contains(at)),
            false => Offsets::new(),
        };
        (!offsets.is_empty()).then(|| self.ask(offsets))
    }

    /// Gives everything back and leaves the group.
    pub(super) async fn leave(&mut self, for_now: bool) -> Result<(), ConsumerError> {
        self.shared.waits();
        self.done();
        let Some(mut member) = self.member.take() else { return Ok(()) };
        while let Ok(notice) = member.notices.try_recv() {
            self.notice(notice);
        }
        self.note_durable();
        self.revoking.clear();
        let partitions = self.assignment();
        partitions.iter().for_each(|at| self.stop_reading(at));
        let mut outcome = Ok(());
        if self.shared.epoch().is_some() {
            // Also without anything to commit: what was handed in before goes first.
            let answer = self.commit_before_giving_back(&partitions);
            let answer = answer.unwrap_or_else(|| self.ask(Offsets::new()));
            outcome = last_commit(answer, self.config.api_timeout).await;
            let (commits, _) = self.tell(&partitions, |listener, rebalance| listener.on_revoked(rebalance));
            let offsets = self.named_offsets(commits);
            if !offsets.is_empty() {
                let answer = self.ask(offsets);
                outcome = outcome.and(last_commit(answer, self.config.api_timeout).await);
            }
        }
        say_goodbye(&mut member, for_now).await;
        for at in &partitions {
            self.drop_partition(at);
        }
        self.errors.clear();
        self.rejected = None;
        Ok(outcome?)
    }
}

// Neither borrows the consumer: it cannot be shared between threads, and its calls shall be awaited on any.

async fn last_commit(answer: Answer, within: Duration) -> Result<(), CommitError> {
    let limit = Instant::now() + within;
    match timeout_at(limit, answer).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) | Err(_) => Err(CommitError::NotMember),
    }
}

async fn say_goodbye(member: &mut Member, for_now: bool) {
    let until = Instant::now() + Timeouts::default().leave + TO_SAY_GOODBYE;
    // A task that has ended already has nothing to leave.
    let _ = member.wishes.send(Wish::Leave { for_now });
    loop {
        match timeout_at(until, member.notices.recv()).await {
            Ok(Some(Notice::Left | Notice::Failed(_)) | None) | Err(_) => return,
            Ok(Some(_)) => {}
        }
    }
}

/// Waits for a commit before a partition goes, as long as there is time.
async fn wait(answer: &mut Option<Answer>, until: Instant, group: &str) {
    let Some(waiting) = answer else { return };
    match timeout_at(until, waiting).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => {
            tracing::warn!(group, %error, "the commit before a revocation failed; its records are given again");
        }
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(
                group,
                "the commit before a revocation did not end in time; its records are given again"
            );
        }
    }
    *answer = None;
}
