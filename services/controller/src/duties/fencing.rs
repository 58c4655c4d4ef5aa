//! Brokers that gave no sign of life for too long are fenced.

use crate::heartbeat::Heartbeats;
use crate::quorum::{Proposed, Quorum};
use crate::sessions::Patience;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeSet;
use std::time::Duration;
use thalweg_core::metadata::Command;
use thalweg_core::metadata::command::BrokerRef;
use thalweg_core::{BrokerEpoch, BrokerId};
use tokio::time::{Instant, sleep_until};

/// How often the leader looks for silent brokers.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Brokers that are being fenced at once. Those beyond are told again with the next look.
const MAX_AT_ONCE: usize = 64;

/// Watches for as long as this controller leads.
pub async fn run(quorum: &Quorum, heartbeats: &Heartbeats, patience: Patience) {
    watch(&Leading { quorum, heartbeats, patience }).await;
}

/// What the watch needs of the controller.
trait Watched {
    /// When a broker whose stream broke has had its grace.
    fn next_grace(&self) -> Option<Instant>;
    /// Ends when somebody's grace begins.
    fn broken(&self) -> impl Future<Output = ()>;
    /// The brokers that are not fenced and gave no sign of life for too long.
    fn expired(&self, now: Instant) -> Vec<(BrokerId, BrokerEpoch)>;
    /// Fences one.
    fn fence(&self, broker: BrokerRef) -> impl Future<Output = Proposed>;
}

struct Leading<'a> {
    quorum: &'a Quorum,
    heartbeats: &'a Heartbeats,
    patience: Patience,
}

impl Watched for Leading<'_> {
    fn next_grace(&self) -> Option<Instant> {
        self.heartbeats.sessions().next_grace(self.patience)
    }

    fn broken(&self) -> impl Future<Output = ()> {
        self.heartbeats.broken()
    }

    fn expired(&self, now: Instant) -> Vec<(BrokerId, BrokerEpoch)> {
        let image = self.quorum.published().image();
        let alive = image.brokers().filter(|broker| !broker.fenced).map(|broker| (broker.id, broker.epoch));
        self.heartbeats.sessions().expired(alive, self.patience, now)
    }

    async fn fence(&self, broker: BrokerRef) -> Proposed {
        self.quorum.propose(&Command::FenceBroker(broker)).await
    }
}

/// Looks on time whatever happens meanwhile: sessions that break by the dozen do not put it off, and it does not wait for the
/// group to agree on a fencing. Looks far apart would be taken for a standstill, which gives every broker a new session.
async fn watch(watched: &impl Watched) {
    let mut regular = Instant::now() + CHECK_EVERY;
    let mut under_way = BTreeSet::new();
    let mut fencings = FuturesUnordered::new();
    loop {
        let grace = watched.next_grace();
        tokio::select! {
            biased;
            () = sleep_until(grace.map_or(regular, |grace| grace.min(regular))) => {}
            Some((id, epoch, outcome)) = fencings.next() => {
                under_way.remove(&(id, epoch));
                note(id, epoch, outcome);
                continue;
            }
            // The wait may have to be shorter.
            () = watched.broken() => continue,
        }
        let now = Instant::now();
        regular = now + CHECK_EVERY;
        for (id, epoch) in watched.expired(now) {
            if under_way.len() < MAX_AT_ONCE && under_way.insert((id, epoch)) {
                fencings.push(async move { (id, epoch, watched.fence(BrokerRef { id, epoch }).await) });
            }
        }
    }
}

fn note(id: BrokerId, epoch: BrokerEpoch, outcome: Proposed) {
    match outcome {
        Ok(_) => tracing::warn!(broker = %id, %epoch, "broker fenced: no sign of life"),
        Err(error) => tracing::warn!(broker = %id, %epoch, %error, "broker not fenced yet; trying again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use thalweg_core::ErrorCode;
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

        async fn fence(&self, broker: BrokerRef) -> Proposed {
            self.asked.borrow_mut().push(broker.id.get());
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
