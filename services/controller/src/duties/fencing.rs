//! Who gave no sign of life for too long is fenced.

use crate::kind::{Incarnation, Kind};
use crate::members::Members;
use crate::quorum::Proposed;
use crate::sessions::Patience;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How often the leader looks for those that are silent.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Fencings under way at once. Those beyond are told again with the next look.
const MAX_AT_ONCE: usize = 64;

/// Watches over one kind for as long as this controller leads.
pub async fn run<K: Kind>(members: &Members<K>, patience: Patience) {
    watch(&Leading { members, patience }).await;
}

/// What the watch needs of the controller.
trait Watched {
    /// Who is watched over.
    type Kind: Kind;
    /// When one whose stream broke has had its grace.
    fn next_grace(&self) -> Option<Instant>;
    /// Ends when somebody's grace begins.
    fn broken(&self) -> impl Future<Output = ()>;
    /// Those that are not fenced and gave no sign of life for too long.
    fn expired(&self, now: Instant) -> Vec<Incarnation<Self::Kind>>;
    /// Fences one.
    fn fence(&self, who: Incarnation<Self::Kind>) -> impl Future<Output = Proposed>;
}

struct Leading<'a, K: Kind> {
    members: &'a Members<K>,
    patience: Patience,
}

impl<K: Kind> Watched for Leading<'_, K> {
    type Kind = K;

    fn next_grace(&self) -> Option<Instant> {
        self.members.next_grace(self.patience)
    }

    fn broken(&self) -> impl Future<Output = ()> {
        self.members.broken()
    }

    fn expired(&self, now: Instant) -> Vec<Incarnation<K>> {
        self.members.expired(self.patience, now)
    }

    fn fence(&self, who: Incarnation<K>) -> impl Future<Output = Proposed> {
        self.members.fence(who)
    }
}

/// Looks on time whatever happens meanwhile: sessions that break by the dozen do not put it off, and it does not wait for the
/// group to agree on a fencing. Looks far apart would be taken for a standstill, which gives everyone a new session.
async fn watch<W: Watched>(watched: &W) {
    let mut regular = Instant::now() + CHECK_EVERY;
    let mut under_way = BTreeSet::new();
    let mut fencings = FuturesUnordered::new();
    loop {
        let grace = watched.next_grace();
        tokio::select! {
            biased;
            () = sleep_until(grace.map_or(regular, |grace| grace.min(regular))) => {}
            Some((who, outcome)) = fencings.next() => {
                under_way.remove(&who);
                note::<W::Kind>(who, outcome);
                continue;
            }
            // The wait may have to be shorter.
            () = watched.broken() => continue,
        }
        let now = Instant::now();
        regular = now + CHECK_EVERY;
        for who in watched.expired(now) {
            if under_way.len() < MAX_AT_ONCE && under_way.insert(who) {
                fencings.push(async move { (who, watched.fence(who).await) });
            }
        }
    }
}

fn note<K: Kind>((id, epoch): Incarnation<K>, outcome: Proposed) {
    match outcome {
        Ok(_) => tracing::warn!(kind = K::NAME, %id, %epoch, "fenced: no sign of life"),
        Err(error) => tracing::warn!(kind = K::NAME, %id, %epoch, %error, "not fenced yet; trying again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Brokers;
    use std::cell::{Cell, RefCell};
    use thalweg_core::{BrokerEpoch, BrokerId, ErrorCode};
    use thalweg_proto::ApiError;

    /// Three brokers that die one second apart, sessions that break all the time, and a group that agrees on nothing.
    struct Troubled {
        begun: Instant,
        breaks_every: Duration,
        looks: RefCell<Vec<Instant>>,
        asked: RefCell<Vec<i32>>,
        ended: Cell<usize>,
    }

    impl Watched for Troubled {
        type Kind = Brokers;

        fn next_grace(&self) -> Option<Instant> {
            None
        }

        async fn broken(&self) {
            tokio::time::sleep(self.breaks_every).await;
        }

        fn expired(&self, now: Instant) -> Vec<(BrokerId, BrokerEpoch)> {
            self.looks.borrow_mut().push(now);
            let dead = (now - self.begun).as_secs().min(3) as i32;
            (1..=dead).map(|id| (BrokerId(id), BrokerEpoch(7))).collect()
        }

        async fn fence(&self, (id, _): Incarnation<Brokers>) -> Proposed {
            self.asked.borrow_mut().push(id.get());
            tokio::time::sleep(Duration::from_secs(10)).await;
            self.ended.set(self.ended.get() + 1);
            Err(ApiError::new(ErrorCode::RequestTimedOut, "nobody agrees"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_puts_a_look_off() {
        let watched = Troubled {
            begun: Instant::now(),
            breaks_every: Duration::from_millis(120),
            looks: RefCell::default(),
            asked: RefCell::default(),
            ended: Cell::new(0),
        };
        tokio::select! {
            () = watch(&watched) => {}
            () = tokio::time::sleep(Duration::from_millis(9_900)) => {}
        }
        // Paused time: these are exact, however slow the machine is.
        let looks = watched.looks.take();
        assert_eq!(looks.len(), 19);
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] <= CHECK_EVERY + Duration::from_millis(5)));
        assert_eq!(watched.asked.take(), [1, 2, 3], "each at once, and once while it is under way");
        assert_eq!(watched.ended.get(), 0);
        tokio::select! {
            () = watch(&watched) => {}
            () = tokio::time::sleep(Duration::from_secs(25)) => {}
        }
        assert_eq!(watched.asked.borrow().len(), 3 * 3, "what fails is tried again");
    }
}
