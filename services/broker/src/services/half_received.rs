//! What one request or stream holds of a message that has not come to its end, against what all of them may hold.
//!
//! ```text
//!   held by all     0 ──────────── limit ───────────── twice the limit
//!   more is read    yes            when there is room   no: THROTTLED, unless it is small
//! ```
//! Whoever has to wait is not read, which HTTP/2's flow control lets its peer feel. A message that was begun long ago ends
//! with THROTTLED while there is no room: half a message of a peer that sends slowly, or not at all, must not keep out others.

use crate::in_flight::{Charge, InFlight};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;
use tokio::time::{Instant, Sleep};
use tonic::Status;

/// How long a message may take while there is no room.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// After that, how often it is looked whether there is room.
const RECHECK: Duration = Duration::from_secs(1);
/// What holds no more than this, in bytes, is taken in whatever the others hold: small requests are always served.
const SMALL: usize = 16 * 1024;

/// One message's share, until it is [cleared](HalfReceived::clear) or dropped.
pub struct HalfReceived {
    held: Charge,
    room: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    timer: Option<Pin<Box<Sleep>>>,
    is_timed: bool,
    patience: Duration,
    recheck: Duration,
}

impl HalfReceived {
    /// A share of `budget` that holds nothing yet.
    pub fn new(budget: &Arc<InFlight>) -> HalfReceived {
        HalfReceived {
            held: budget.charge(0),
            room: None,
            timer: None,
            is_timed: false,
            patience: PATIENCE,
            recheck: RECHECK,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Nothing is held any more: the message is whole and goes on.
    pub fn clear(&mut self) {
        if self.bytes() > 0 {
            self.held.resize(0);
            self.room = None;
        }
        self.is_timed = false;
    }

    /// Counts the message as `bytes` long so far. Errors: `THROTTLED`.
    pub fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        let budget = self.held.budget();
        let others = budget.used() - self.bytes();
        if bytes > SMALL && others + bytes > budget.limit().saturating_mul(2) {
            budget.refuse();
            return Err(throttled());
        }
        self.held.resize(bytes);
        Ok(())
    }

    /// Ready when more of the message may be read. Errors: `THROTTLED`, after [`PATIENCE`].
    pub fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.held.budget().has_room() {
            self.room = None;
            return Poll::Ready(Ok(()));
        }
        let budget = self.held.budget();
        let room = self.room.get_or_insert_with(|| {
            let budget = Arc::clone(budget);
            Box::pin(async move { budget.room().await })
        });
        if room.as_mut().poll(context).is_ready() {
            self.room = None;
            return Poll::Ready(Ok(()));
        }
        self.poll_overdue(context).map(Err)
    }

    /// To be polled while the peer sends nothing: ready when the message has to make room for others.
    pub fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let patience = self.patience;
        let first = || Instant::now() + patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(first())));
        if !self.is_timed {
            timer.as_mut().reset(first());
            self.is_timed = true;
        }
        loop {
            ready!(timer.as_mut().poll(context));
            if !self.held.budget().has_room() {
                self.held.budget().refuse();
                return Poll::Ready(throttled());
            }
            timer.as_mut().reset(Instant::now() + self.recheck);
        }
    }
}

fn throttled() -> Status {
    ApiError::new(
        ErrorCode::Throttled,
        "the broker is receiving as many bytes of requests as it may hold; retry after a pause",
    )
    .to_status()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::poll_fn;

    fn room(half: &mut HalfReceived) -> Option<Result<(), Status>> {
        poll_fn(|context| half.poll_room(context)).now_or_never()
    }

    fn impatient(budget: &Arc<InFlight>) -> HalfReceived {
        let (patience, recheck) = (Duration::from_millis(20), Duration::from_millis(5));
        HalfReceived { patience, recheck, ..HalfReceived::new(budget) }
    }

    #[tokio::test]
    async fn the_message_that_takes_long_makes_room_for_the_others() {
        let budget = InFlight::new(100_000);
        let (mut slow, mut next) = (impatient(&budget), HalfReceived::new(&budget));
        slow.hold(100_000).unwrap();
        next.hold(20_000).unwrap();
        assert!(room(&mut slow).is_none() && room(&mut next).is_none(), "both wait");
        assert!(next.hold(100_001).is_err(), "nobody goes beyond twice the limit");
        slow.hold(180_000).unwrap();
        let mut small = HalfReceived::new(&budget);
        small.hold(SMALL).unwrap();
        drop(small);

        let status = poll_fn(|context| slow.poll_room(context)).await.unwrap_err();
        assert_eq!(ApiError::from_status(&status).unwrap().code, ErrorCode::Throttled);
        assert!(room(&mut next).is_none());
        drop(slow);
        assert!(room(&mut next).unwrap().is_ok(), "there is room now");
        next.clear();
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_slow_message_is_left_alone_while_there_is_room() {
        let budget = InFlight::new(100_000);
        let mut slow = impatient(&budget);
        slow.hold(50_000).unwrap();
        let overdue = tokio::spawn(async move { poll_fn(|context| slow.poll_overdue(context)).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!overdue.is_finished());
        let full = budget.charge(60_000);
        assert_eq!(overdue.await.unwrap().code(), tonic::Code::ResourceExhausted);
        drop(full);
        assert_eq!(budget.used(), 0);
    }
}
