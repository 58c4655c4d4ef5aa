//! When the spans of an appended batch end: a follower's when it holds the batch, the last when the high watermark has passed
//! it. Pure: what a span is, is not asked here.

use thalweg_core::{BrokerId, Offset};

/// A batch whose spans have not all ended.
#[derive(Debug)]
pub struct Waiting<S> {
    last: Offset,
    commit: S,
    followers: Vec<(BrokerId, S)>,
}

/// Why a span ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The batch got there.
    Passed,
    /// The batch is committed without this follower: it is in sync no more.
    LeftBehind,
}

impl<S> Waiting<S> {
    /// A batch that ends at `last`, with a span for each follower and one for the high watermark.
    pub fn new(last: Offset, commit: S, followers: Vec<(BrokerId, S)>) -> Waiting<S> {
        Waiting { last, commit, followers }
    }

    /// Its last offset.
    pub fn last(&self) -> Offset {
        self.last
    }

    /// The span of a follower that does not hold it yet.
    pub fn follower(&self, id: BrokerId) -> Option<&S> {
        self.followers.iter().find(|(follower, _)| *follower == id).map(|(_, span)| span)
    }

    /// Everything that has not ended.
    pub fn into_spans(self) -> impl Iterator<Item = S> {
        self.followers.into_iter().map(|(_, span)| span).chain([self.commit])
    }

    /// Ends what is due. `end_of` is the offset below which a follower holds everything. Says whether the batch is committed: then
    /// nothing is left of it.
    pub fn look(
        &mut self,
        high_watermark: Offset,
        end_of: impl Fn(BrokerId) -> Option<Offset>,
        mut over: impl FnMut(&S, End),
    ) -> bool {
        let last = self.last;
        self.followers.retain(|(id, span)| {
            let passed = end_of(*id).is_some_and(|end| end > last);
            if passed {
                over(span, End::Passed);
            }
            !passed
        });
        if high_watermark <= last {
            return false;
        }
        for (_, span) in self.followers.drain(..) {
            over(&span, End::LeftBehind);
        }
        over(&self.commit, End::Passed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Waiting<&'static str> {
        let followers = vec![(BrokerId(2), "to 2"), (BrokerId(3), "to 3")];
        Waiting::new(Offset(9), "commit", followers)
    }

    fn look(
        batch: &mut Waiting<&'static str>,
        high: i64,
        ends: [i64; 2],
    ) -> (bool, Vec<(&'static str, End)>) {
        let mut over = Vec::new();
        let end_of = |id: BrokerId| Some(Offset(ends[usize::try_from(id.get()).unwrap() - 2]));
        let done = batch.look(Offset(high), end_of, |span, end| over.push((*span, end)));
        (done, over)
    }

    #[test]
    fn each_span_ends_once_when_the_batch_got_there() {
        let mut batch = batch();
        assert_eq!(look(&mut batch, 9, [9, 9]), (false, vec![]), "the last record is not there yet");
        assert_eq!(look(&mut batch, 9, [10, 9]), (false, vec![("to 2", End::Passed)]));
        assert_eq!((batch.follower(BrokerId(2)), batch.follower(BrokerId(3))), (None, Some(&"to 3")));
        assert_eq!(look(&mut batch, 9, [10, 9]), (false, vec![]));
        let rest = vec![("to 3", End::Passed), ("commit", End::Passed)];
        assert_eq!(look(&mut batch, 10, [10, 20]), (true, rest));
    }

    #[test]
    fn a_committed_batch_waits_for_nobody() {
        let mut batch = batch();
        let rest = vec![("to 2", End::Passed), ("to 3", End::LeftBehind), ("commit", End::Passed)];
        assert_eq!(look(&mut batch, 10, [10, 4]), (true, rest));
    }

    #[test]
    fn a_follower_that_has_said_nothing_holds_nothing() {
        let mut batch = batch();
        assert!(!batch.look(Offset(0), |_| None, |_, _| panic!("nothing ends")));
        assert_eq!(batch.into_spans().collect::<Vec<_>>(), ["to 2", "to 3", "commit"]);
    }
}
