//! Calls that came before their shard was loaded.

use super::waiting::Waiting;
use super::{Call, Message};
use crate::shard::{CallId, ShardCall};
use std::collections::BTreeMap;
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;
use tokio::time::Instant;

/// Calls in the order of their number, which is the one in which a broker sent them.
#[derive(Debug)]
pub struct Early {
    calls: BTreeMap<CallId, (ShardCall, usize)>,
    bytes: usize,
    most: usize,
}

impl Early {
    /// Holds at most so many bytes.
    pub fn new(most: usize) -> Early {
        Early { calls: BTreeMap::new(), bytes: 0, most }
    }

    /// Takes a message in. What there is no room for is refused at once.
    pub fn take(&mut self, message: Message, waiting: &mut Waiting) {
        match message {
            Message::Calls(calls) => {
                for Call { id, what, answer, until } in calls {
                    let bytes = what.bytes();
                    if self.bytes + bytes > self.most {
                        answer.give(Err(loading()));
                        continue;
                    }
                    self.bytes += bytes;
                    self.calls.insert(id, (what, bytes));
                    waiting.add(id, answer, until);
                }
            }
            // Nobody waits for them, and nothing of them has happened.
            Message::Cancel(ids) => {
                for id in ids {
                    self.forget(id);
                    drop(waiting.take(id));
                }
            }
        }
    }

    /// Refuses the calls whose time is over. They are not carried out later: whoever sent them has sent them again.
    pub fn expire(&mut self, now: Instant, waiting: &mut Waiting) {
        for id in waiting.expire(now, &loading()) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: CallId) {
        if let Some((_, bytes)) = self.calls.remove(&id) {
            self.bytes -= bytes;
        }
    }

    /// The calls that somebody waits for.
    pub fn into_calls(self) -> impl Iterator<Item = (CallId, ShardCall)> {
        self.calls.into_iter().map(|(id, (call, _))| (id, call))
    }
}

fn loading() -> ApiError {
    ApiError::new(ErrorCode::CoordinatorNotAvailable, "the coordinator is still loading the group; retry")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Answer;
    use std::time::Duration;
    use thalweg_proto::v1;

    type Told =
        tokio::sync::oneshot::Receiver<Result<thalweg_proto::internal::v1::group_reply::Reply, ApiError>>;

    fn call(id: u64, until: Option<Instant>) -> (Call, Told) {
        let (answer, told) = Answer::here();
        let request = v1::FetchOffsetsRequest { group_id: "g".into(), ..Default::default() };
        (Call { id: CallId(id), what: ShardCall::FetchOffsets(request), answer, until }, told)
    }

    fn refused(told: &mut Told) -> bool {
        matches!(told.try_recv(), Ok(Err(error)) if error.code == ErrorCode::CoordinatorNotAvailable)
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_carried_out_and_what_is_too_much_is_refused() {
        let now = Instant::now();
        let (short, mut short_told) = call(1, Some(now + Duration::from_millis(1)));
        let (gone, _gone_told) = call(2, None);
        let (stays, mut stays_told) = call(3, None);
        let (much, mut much_told) = call(4, None);
        let (late, mut late_told) = call(5, None);
        let (mut early, mut waiting) = (Early::new(3 * short.what.bytes()), Waiting::default());
        early.take(Message::Calls(vec![short, gone, stays, much]), &mut waiting);
        assert!(refused(&mut much_told), "three are as much as there may be");
        early.take(Message::Cancel(vec![CallId(2)]), &mut waiting);
        early.expire(now + Duration::from_millis(2), &mut waiting);
        assert!(refused(&mut short_told));
        // There is room again.
        early.take(Message::Calls(vec![late]), &mut waiting);
        let left: Vec<_> = early.into_calls().map(|(id, _)| id.0).collect();
        assert_eq!(left, [3, 5]);
        assert!(stays_told.try_recv().is_err() && late_told.try_recv().is_err());
    }
}
