//! Which records count as dealt with: what an automatic commit may take.
//!
//! ```text
//!   sent ──► on its way ──► the client has it ──► it says so: dealt with
//! ```
//! A client that reads ahead has records on their way to it when it says something, and would lose them in a crash if they
//! counted. So a credit counts for as much as it allows: who reads ahead allows anew what it has dealt with. A client that numbers
//! what it has dealt with is believed exactly. A commit of everything counts for all that was sent; any other message, for nothing.

use std::collections::{BTreeSet, VecDeque};
use thalweg_core::Offset;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_proto::v1;

/// Messages that are remembered one by one; beyond it the older ones are taken together.
const MAX_REMEMBERED: usize = 4096;

/// What was sent on one stream and is not dealt with.
#[derive(Debug, Default)]
pub struct Progress {
    on_the_way: VecDeque<Sent>,
    // Sums from the stream's beginning on.
    messages: u64,
    bytes: u64,
    records: u64,
    // What was allowed beyond the first credit, which is how far the client reads ahead.
    has_window: bool,
    allowed_bytes: u64,
    allowed_records: u64,
    // It numbers what it has dealt with.
    counts: bool,
    // Messages that were sent when it last spoke of something else than credit.
    spoke_at: u64,
}

/// Where a partition is dealt with up to.
pub type Done = (TopicIdPartition, Offset);

#[derive(Debug)]
struct Sent {
    // The sums with this one.
    messages: u64,
    bytes: u64,
    records: u64,
    // `None`: it concerns nobody any more.
    done: Vec<Done>,
}

impl Progress {
    /// Whether the client owes a word: records are out that it has not dealt with, nor spoken since they were sent.
    pub fn is_owed(&self) -> bool {
        self.on_the_way.back().is_some_and(|last| self.counts || last.messages > self.spoke_at)
    }

    /// The client spoke of something else than credit: it lives, and nothing counts by that.
    pub fn spoke(&mut self) {
        self.spoke_at = self.messages;
    }

    /// A message of records was sent.
    pub fn sent(&mut self, at: TopicIdPartition, next: Offset, bytes: usize, records: u64) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.records = self.records.saturating_add(records);
        let (messages, bytes, records) = (self.messages, self.bytes, self.records);
        self.on_the_way.push_back(Sent { messages, bytes, records, done: vec![(at, next)] });
        if self.on_the_way.len() > MAX_REMEMBERED {
            self.shorten();
        }
    }

    /// The client allows more.
    pub fn credit(&mut self, more: v1::FetchStreamCredit) -> Vec<Done> {
        if !self.has_window {
            self.has_window = true;
            return Vec::new();
        }
        self.allowed_bytes = self.allowed_bytes.saturating_add(more.bytes);
        self.allowed_records = self.allowed_records.saturating_add(more.records.unwrap_or(0));
        if self.counts {
            return Vec::new();
        }
        let (bytes, records) = (self.allowed_bytes, self.allowed_records);
        // Who counts records allows bytes without counting them.
        match more.records {
            Some(_) => self.take(|sent| sent.records <= records),
            None => self.take(|sent| sent.bytes <= bytes),
        }
    }

    /// The client numbers what it has dealt with: so many messages of records since the stream began.
    pub fn dealt_with(&mut self, messages: u64) -> Vec<Done> {
        self.counts = true;
        self.take(|sent| sent.messages <= messages)
    }

    /// Whether the client numbers what it has dealt with.
    pub fn counts(&self) -> bool {
        self.counts
    }

    /// The client says that it has dealt with all; who counts is believed by its count alone.
    pub fn all(&mut self) -> Vec<Done> {
        if self.counts { Vec::new() } else { self.take(|_| true) }
    }

    /// These have been given back, or are read from elsewhere.
    pub fn forget(&mut self, partitions: &BTreeSet<TopicIdPartition>) {
        for sent in &mut self.on_the_way {
            sent.done.retain(|(at, _)| !partitions.contains(at));
        }
    }

    fn take(&mut self, counts: impl Fn(&Sent) -> bool) -> Vec<Done> {
        let mut all = Vec::new();
        while self.on_the_way.front().is_some_and(&counts) {
            all.extend(self.on_the_way.pop_front().into_iter().flat_map(|sent| sent.done));
        }
        all
    }

    /// The older half counts as one message that is dealt with when its last one is.
    fn shorten(&mut self) {
        let half = self.on_the_way.len() / 2;
        let mut done = std::collections::BTreeMap::new();
        let mut last = None;
        for sent in self.on_the_way.drain(..half) {
            done.extend(sent.done);
            last = Some((sent.messages, sent.bytes, sent.records));
        }
        if let Some((messages, bytes, records)) = last {
            let done = done.into_iter().collect();
            self.on_the_way.push_front(Sent { messages, bytes, records, done });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::{PartitionId, TopicId};

    fn p(n: i32) -> TopicIdPartition {
        TopicIdPartition { topic: TopicId([1; 16]), partition: PartitionId(n) }
    }

    fn credit(bytes: u64, records: Option<u64>) -> v1::FetchStreamCredit {
        v1::FetchStreamCredit { bytes, records }
    }

    fn sent(count: i64) -> Progress {
        let mut progress = Progress::default();
        assert_eq!(progress.credit(credit(1000, None)), []);
        (1..=count).for_each(|n| progress.sent(p(0), Offset(n * 10), 100, 10));
        progress
    }

    #[test]
    fn a_credit_counts_for_as_much_as_it_allows() {
        let mut progress = sent(3);
        assert_eq!(progress.credit(credit(99, None)), []);
        assert_eq!(progress.credit(credit(1, None)), [(p(0), Offset(10))]);
        assert_eq!(progress.credit(credit(u64::MAX, Some(20))), [(p(0), Offset(20))]);
        assert!(progress.is_owed());
        assert_eq!(progress.all(), [(p(0), Offset(30))]);
        assert!(!progress.is_owed());
    }

    #[test]
    fn who_speaks_owes_nothing_until_more_is_sent_and_yet_nothing_counts() {
        let mut progress = sent(2);
        assert!(progress.is_owed());
        progress.spoke();
        assert!(!progress.is_owed());
        progress.sent(p(0), Offset(30), 100, 10);
        assert!(progress.is_owed());
        assert_eq!(
            progress.credit(credit(200, None)),
            [(p(0), Offset(10)), (p(0), Offset(20))],
            "only by credit"
        );
        progress.dealt_with(2);
        progress.spoke();
        assert!(progress.is_owed(), "who counts owes what it has not counted");
    }

    #[test]
    fn a_client_that_counts_is_believed_exactly() {
        let mut progress = sent(3);
        assert_eq!(progress.dealt_with(1), [(p(0), Offset(10))]);
        assert_eq!(progress.all(), []);
        assert_eq!(progress.credit(credit(u64::MAX, None)), []);
        assert_eq!(progress.dealt_with(7), [(p(0), Offset(20)), (p(0), Offset(30))]);
    }

    #[test]
    fn what_was_sought_away_from_is_never_done() {
        let mut progress = sent(2);
        progress.sent(p(1), Offset(7), 100, 1);
        progress.forget(&BTreeSet::from([p(0)]));
        assert_eq!(progress.all(), [(p(1), Offset(7))]);
    }

    #[test]
    fn memory_is_bounded_and_nothing_counts_too_early() {
        let mut progress = sent(3 * MAX_REMEMBERED as i64);
        assert!(progress.on_the_way.len() <= MAX_REMEMBERED);
        let done = progress.dealt_with(2 * MAX_REMEMBERED as u64);
        assert!(done.iter().all(|(_, next)| next.get() <= 20 * MAX_REMEMBERED as i64));
        let all = progress.dealt_with(u64::MAX);
        assert_eq!(all.last(), Some(&(p(0), Offset(30 * MAX_REMEMBERED as i64))));
    }
}
