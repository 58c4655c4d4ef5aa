//! The commits of one stream, one call after the other, so that none overtakes another. Those that wait go together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use thalweg_core::group::MemberEpoch;
use thalweg_core::group::state::Partitions;
use thalweg_proto::{ApiError, v1};

/// Offsets of one call at most.
const MAX_OFFSETS: usize = 10_000;
/// Commits that may wait before the client is read on.
const MAX_WAITING: usize = 256;

/// What stands in line.
#[derive(Debug)]
pub enum Waiting {
    /// A client's commit, or with the number 0 an automatic one.
    Commit {
        /// The client's number.
        id: u64,
        /// The member's epoch when it was asked for: what it says may not count for a later life of the member.
        epoch: MemberEpoch,
        /// What it commits; can be nothing.
        offsets: Vec<v1::OffsetToCommit>,
        /// What of it has failed already.
        failures: Vec<v1::CommitResult>,
    },
    /// A client's commit that failed as a whole.
    Refused(v1::SubscribeCommitted),
    /// These are given back once everything before is durable.
    GiveBack(Partitions),
    /// The member leaves once everything before is durable.
    Leave,
}

/// What is next.
#[derive(Debug)]
pub enum Next {
    /// Make this call with that epoch, and bring its answer.
    Call(MemberEpoch, Vec<v1::OffsetToCommit>),
    /// Nothing is left to be committed.
    Told(v1::SubscribeCommitted),
    /// Give these back.
    GiveBack(Partitions),
    /// Leave.
    Leave,
}

/// A partition by its topic's name.
pub type Key = (String, i32);

#[derive(Debug)]
struct UnderWay {
    id: u64,
    offsets: Vec<v1::OffsetToCommit>,
    failures: Vec<v1::CommitResult>,
}

/// The line of one stream.
#[derive(Debug, Default)]
pub struct Commits {
    waiting: VecDeque<Waiting>,
    offsets: usize,
    // What the call under way is for.
    under_way: Vec<UnderWay>,
}

impl Commits {
    /// Whether the client may say more.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.offsets < MAX_OFFSETS
    }

    /// Whether an automatic commit stands in line or is under way.
    pub fn has_automatic(&self) -> bool {
        self.under_way.iter().any(|commit| commit.id == 0)
            || self.waiting.iter().any(|waiting| matches!(waiting, Waiting::Commit { id: 0, .. }))
    }

    /// Gets in line.
    pub fn push(&mut self, waiting: Waiting) {
        if let Waiting::Commit { offsets, .. } = &waiting {
            self.offsets += offsets.len();
        }
        self.waiting.push_back(waiting);
    }

    /// What is to be done now; nothing while a call is under way.
    pub fn next(&mut self) -> Option<Next> {
        if !self.under_way.is_empty() {
            return None;
        }
        match self.waiting.front()? {
            Waiting::GiveBack(_) | Waiting::Leave | Waiting::Refused(_) => {}
            Waiting::Commit { offsets, .. } if offsets.is_empty() => {}
            Waiting::Commit { epoch, .. } => {
                let epoch = *epoch;
                return Some(Next::Call(epoch, self.gather(epoch)));
            }
        }
        Some(match self.waiting.pop_front()? {
            Waiting::GiveBack(partitions) => Next::GiveBack(partitions),
            Waiting::Leave => Next::Leave,
            Waiting::Refused(told) => Next::Told(told),
            Waiting::Commit { id, failures, .. } => {
                Next::Told(v1::SubscribeCommitted { commit_id: id, failures, error: None })
            }
        })
    }

    /// These partitions are lost: what stands in line for them fails, and is told in its turn.
    pub fn lose(&mut self, lost: &BTreeSet<Key>, error: &v1::Error) {
        for waiting in &mut self.waiting {
            let Waiting::Commit { offsets, failures, .. } = waiting else { continue };
            let before = offsets.len();
            offsets.retain(|offset| {
                let key = (offset.topic.clone(), offset.partition);
                let keeps = !lost.contains(&key);
                if !keeps {
                    failures.push(failure(key, error));
                }
                keeps
            });
            self.offsets -= before - offsets.len();
        }
    }

    /// Takes what waits with one epoch into one call; of two commits for a partition the later one counts.
    fn gather(&mut self, with: MemberEpoch) -> Vec<v1::OffsetToCommit> {
        let mut call: BTreeMap<Key, v1::OffsetToCommit> = BTreeMap::new();
        while let Some(Waiting::Commit { epoch, offsets, .. }) = self.waiting.front() {
            if *epoch != with || (!call.is_empty() && call.len() + offsets.len() > MAX_OFFSETS) {
                break;
            }
            let Some(Waiting::Commit { id, offsets, failures, .. }) = self.waiting.pop_front() else { break };
            self.offsets -= offsets.len();
            call.extend(
                offsets.iter().map(|offset| ((offset.topic.clone(), offset.partition), offset.clone())),
            );
            self.under_way.push(UnderWay { id, offsets, failures });
        }
        call.into_values().collect()
    }

    /// The call was answered. Gives what is durable now, and what the client is to be told: of an automatic commit only that it
    /// failed.
    pub fn answered(
        &mut self,
        outcome: Result<v1::CommitOffsetsResponse, ApiError>,
    ) -> (Vec<(Key, i64)>, Vec<v1::SubscribeCommitted>) {
        let whole = outcome.as_ref().err().map(ApiError::to_proto);
        let results = outcome.map(|answer| answer.results).unwrap_or_default();
        let failed: BTreeMap<Key, v1::Error> = results
            .into_iter()
            .filter_map(|result| Some(((result.topic, result.partition), result.error?)))
            .collect();
        let (mut durable, mut told) = (BTreeMap::new(), Vec::new());
        for UnderWay { id, offsets, mut failures } in self.under_way.drain(..) {
            for offset in offsets {
                let key = (offset.topic, offset.partition);
                match failed.get(&key) {
                    _ if whole.is_some() => {}
                    None => drop(durable.insert(key, offset.offset)),
                    Some(error) => failures.push(failure(key, error)),
                }
            }
            if id != 0 || whole.is_some() || !failures.is_empty() {
                told.push(v1::SubscribeCommitted { commit_id: id, failures, error: whole.clone() });
            }
        }
        (durable.into_iter().collect(), told)
    }
}

/// One partition's commit failed.
pub fn failure(key: Key, error: &v1::Error) -> v1::CommitResult {
    v1::CommitResult { topic: key.0, partition: key.1, error: Some(error.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::ErrorCode;

    fn offset(partition: i32, offset: i64) -> v1::OffsetToCommit {
        v1::OffsetToCommit { topic: "t".into(), partition, offset, ..Default::default() }
    }

    fn commit(id: u64, offsets: &[(i32, i64)]) -> Waiting {
        at_epoch(1, id, offsets)
    }

    fn at_epoch(epoch: i32, id: u64, offsets: &[(i32, i64)]) -> Waiting {
        let offsets = offsets.iter().map(|(p, o)| offset(*p, *o)).collect();
        Waiting::Commit { id, epoch: MemberEpoch(epoch), offsets, failures: Vec::new() }
    }

    #[test]
    fn what_waits_goes_together_and_each_hears_its_own() {
        let mut commits = Commits::default();
        commits.push(commit(1, &[(0, 5)]));
        let Some(Next::Call(_, first)) = commits.next() else { panic!() };
        assert_eq!(first, [offset(0, 5)]);
        commits.push(commit(2, &[(0, 6), (1, 1)]));
        commits.push(commit(3, &[(0, 7)]));
        commits.push(Waiting::GiveBack(Partitions::new()));
        commits.push(commit(4, &[]));
        assert!(commits.next().is_none(), "one call at a time");
        let (durable, told) = commits.answered(Ok(v1::CommitOffsetsResponse::default()));
        assert_eq!((durable, told.len()), (vec![(("t".into(), 0), 5)], 1));
        let Some(Next::Call(_, second)) = commits.next() else { panic!() };
        assert_eq!(second, [offset(0, 7), offset(1, 1)], "the later one counts");
        let stale = ApiError::new(ErrorCode::StaleMemberEpoch, "not yours").to_proto();
        let result = |partition, error| v1::CommitResult { topic: "t".into(), partition, error };
        let results = vec![result(0, None), result(1, Some(stale))];
        let (durable, told) = commits.answered(Ok(v1::CommitOffsetsResponse { results }));
        assert_eq!(durable, [(("t".into(), 0), 7)]);
        assert_eq!((told[0].commit_id, told[0].failures.len()), (2, 1));
        assert_eq!((told[1].commit_id, told[1].failures.len()), (3, 0));
        assert!(matches!(commits.next(), Some(Next::GiveBack(_))), "only now");
        assert!(matches!(commits.next(), Some(Next::Told(told)) if told.commit_id == 4));
        assert!(commits.next().is_none());
    }

    #[test]
    fn a_commit_keeps_the_epoch_it_was_asked_with() {
        let mut commits = Commits::default();
        commits.push(at_epoch(4, 1, &[(0, 5)]));
        commits.push(at_epoch(4, 2, &[(1, 5)]));
        commits.push(at_epoch(6, 3, &[(0, 6)]));
        let Some(Next::Call(epoch, offsets)) = commits.next() else { panic!() };
        assert_eq!((epoch, offsets.len()), (MemberEpoch(4), 2));
        assert_eq!(commits.answered(Ok(v1::CommitOffsetsResponse::default())).1.len(), 2);
        assert!(matches!(commits.next(), Some(Next::Call(MemberEpoch(6), offsets)) if offsets.len() == 1));
    }

    #[test]
    fn what_waits_for_a_lost_partition_fails_in_its_turn() {
        let mut commits = Commits::default();
        commits.push(commit(1, &[(0, 5), (1, 5)]));
        commits.push(commit(2, &[(0, 6)]));
        let lost = ApiError::new(ErrorCode::UnknownMember, "put out").to_proto();
        commits.lose(&BTreeSet::from([("t".to_owned(), 0)]), &lost);
        let Some(Next::Call(_, offsets)) = commits.next() else { panic!() };
        assert_eq!(offsets, [offset(1, 5)], "the other one goes");
        let (durable, told) = commits.answered(Ok(v1::CommitOffsetsResponse::default()));
        assert_eq!((durable, told.len()), (vec![(("t".into(), 1), 5)], 2));
        assert!(told.iter().all(|told| told.failures == [failure(("t".into(), 0), &lost)]));
        commits.push(commit(3, &[(0, 7)]));
        commits.lose(&BTreeSet::from([("t".to_owned(), 0)]), &lost);
        assert!(
            matches!(commits.next(), Some(Next::Told(told)) if told.commit_id == 3 && told.failures.len() == 1)
        );
        assert!(commits.next().is_none() && commits.has_room());
    }

    #[test]
    fn an_automatic_commit_is_told_only_when_it_failed() {
        let mut commits = Commits::default();
        commits.push(commit(0, &[(0, 5)]));
        assert!(commits.has_automatic());
        assert!(matches!(commits.next(), Some(Next::Call(..))));
        assert!(commits.has_automatic());
        assert_eq!(commits.answered(Ok(v1::CommitOffsetsResponse::default())).1, []);
        commits.push(commit(0, &[(0, 5)]));
        assert!(matches!(commits.next(), Some(Next::Call(..))));
        let (durable, told) = commits.answered(Err(ApiError::new(ErrorCode::UnknownMember, "gone")));
        assert_eq!((durable.len(), told.len()), (0, 1));
        assert!(told[0].error.is_some() && !commits.has_automatic());
    }
}
