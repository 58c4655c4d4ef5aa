//! The commits of one stream, one call after the other, so that none overtakes another. Those that wait go together.

use std::collections::{BTreeMap, VecDeque};
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
        /// What it commits; can be nothing.
        offsets: Vec<v1::OffsetToCommit>,
    },
    /// These are given back once everything before is durable.
    GiveBack(Partitions),
    /// The member leaves once everything before is durable.
    Leave,
}

/// What is next.
#[derive(Debug)]
pub enum Next {
    /// Make this call, and bring its answer.
    Call(Vec<v1::OffsetToCommit>),
    /// Nothing had to be committed.
    Told(v1::SubscribeCommitted),
    /// Give these back.
    GiveBack(Partitions),
    /// Leave.
    Leave,
}

type Key = (String, i32);

/// The line of one stream.
#[derive(Debug, Default)]
pub struct Commits {
    waiting: VecDeque<Waiting>,
    offsets: usize,
    // What the call under way is for.
    under_way: Vec<(u64, Vec<v1::OffsetToCommit>)>,
}

impl Commits {
    /// Whether the client may say more.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.offsets < MAX_OFFSETS
    }

    /// Whether an automatic commit stands in line or is under way.
    pub fn has_automatic(&self) -> bool {
        self.under_way.iter().any(|(id, _)| *id == 0)
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
            Waiting::GiveBack(_) | Waiting::Leave => {}
            Waiting::Commit { offsets, .. } if offsets.is_empty() => {}
            Waiting::Commit { .. } => return Some(Next::Call(self.gather())),
        }
        Some(match self.waiting.pop_front()? {
            Waiting::GiveBack(partitions) => Next::GiveBack(partitions),
            Waiting::Leave => Next::Leave,
            Waiting::Commit { id, .. } => {
                Next::Told(v1::SubscribeCommitted { commit_id: id, ..Default::default() })
            }
        })
    }

    /// Takes what waits into one call; of two commits for a partition the later one counts.
    fn gather(&mut self) -> Vec<v1::OffsetToCommit> {
        let mut call: BTreeMap<Key, v1::OffsetToCommit> = BTreeMap::new();
        while let Some(Waiting::Commit { offsets, .. }) = self.waiting.front() {
            if !call.is_empty() && call.len() + offsets.len() > MAX_OFFSETS {
                break;
            }
            let Some(Waiting::Commit { id, offsets }) = self.waiting.pop_front() else { break };
            self.offsets -= offsets.len();
            call.extend(
                offsets.iter().map(|offset| ((offset.topic.clone(), offset.partition), offset.clone())),
            );
            self.under_way.push((id, offsets));
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
        for (id, offsets) in self.under_way.drain(..) {
            let mut failures = Vec::new();
            for offset in offsets {
                let key = (offset.topic, offset.partition);
                match failed.get(&key) {
                    _ if whole.is_some() => {}
                    None => drop(durable.insert(key, offset.offset)),
                    Some(error) => failures.push(v1::CommitResult {
                        topic: key.0,
                        partition: key.1,
                        error: Some(error.clone()),
                    }),
                }
            }
            if id != 0 || whole.is_some() || !failures.is_empty() {
                told.push(v1::SubscribeCommitted { commit_id: id, failures, error: whole.clone() });
            }
        }
        (durable.into_iter().collect(), told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::ErrorCode;

    fn offset(partition: i32, offset: i64) -> v1::OffsetToCommit {
        v1::OffsetToCommit { topic: "t".into(), partition, offset, ..Default::default() }
    }

    fn commit(id: u64, offsets: &[(i32, i64)]) -> Waiting {
        Waiting::Commit { id, offsets: offsets.iter().map(|(p, o)| offset(*p, *o)).collect() }
    }

    #[test]
    fn what_waits_goes_together_and_each_hears_its_own() {
        let mut commits = Commits::default();
        commits.push(commit(1, &[(0, 5)]));
        let Some(Next::Call(first)) = commits.next() else { panic!() };
        assert_eq!(first, [offset(0, 5)]);
        commits.push(commit(2, &[(0, 6), (1, 1)]));
        commits.push(commit(3, &[(0, 7)]));
        commits.push(Waiting::GiveBack(Partitions::new()));
        commits.push(commit(4, &[]));
        assert!(commits.next().is_none(), "one call at a time");
        let (durable, told) = commits.answered(Ok(v1::CommitOffsetsResponse::default()));
        assert_eq!((durable, told.len()), (vec![(("t".into(), 0), 5)], 1));
        let Some(Next::Call(second)) = commits.next() else { panic!() };
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
    fn an_automatic_commit_is_told_only_when_it_failed() {
        let mut commits = Commits::default();
        commits.push(commit(0, &[(0, 5)]));
        assert!(commits.has_automatic());
        assert!(matches!(commits.next(), Some(Next::Call(_))));
        assert!(commits.has_automatic());
        assert_eq!(commits.answered(Ok(v1::CommitOffsetsResponse::default())).1, []);
        commits.push(commit(0, &[(0, 5)]));
        assert!(matches!(commits.next(), Some(Next::Call(_))));
        let (durable, told) = commits.answered(Err(ApiError::new(ErrorCode::UnknownMember, "gone")));
        assert_eq!((durable.len(), told.len()), (0, 1));
        assert!(told[0].error.is_some() && !commits.has_automatic());
    }
}
