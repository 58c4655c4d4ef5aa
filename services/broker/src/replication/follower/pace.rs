//! How much credit the catch-up streams of a broker may give: a bucket of bytes that fills at `replication.throttled.rate`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Credit is given in pieces of no less than this, unless less is wanted: a usual batch. Larger ones would make those wait who
/// write meanwhile.
pub const PIECE_BYTES: u64 = 256 << 10;
/// What the bucket holds at most: this long of its rate, and at least one piece.
const BURST: Duration = Duration::from_millis(50);

/// The bucket, shared by the streams.
#[derive(Debug, Clone)]
pub struct Pace {
    // `None`: no bound.
    bucket: Option<Arc<Mutex<Bucket>>>,
    counts: Arc<PaceCounts>,
}

/// What a pace let through and held back, for metrics.
#[derive(Debug, Default)]
pub struct PaceCounts {
    given: AtomicU64,
    held_back: AtomicU64,
}

impl PaceCounts {
    /// Bytes that streams were let ask for.
    pub fn given_bytes(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// How often a stream wanted more and had to wait.
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Bucket {
    rate: u64,
    bytes: u64,
    // When the bytes were counted last.
    at: Option<Instant>,
}

impl Pace {
    /// A pace of `rate` bytes a second.
    pub fn new(rate: Option<u64>) -> Pace {
        let bucket = |rate: u64| Arc::new(Mutex::new(Bucket { rate: rate.max(1), bytes: 0, at: None }));
        Pace { bucket: rate.map(bucket), counts: Arc::default() }
    }

    /// The same, counted in `counts`.
    pub fn counted(self, counts: Arc<PaceCounts>) -> Pace {
        Pace { counts, ..self }
    }

    /// Takes up to `wanted` bytes; 0 while there is not a whole piece. With a `boost` each byte of the bucket counts that often.
    pub fn take(&self, wanted: u64, boost: u64, now: Instant) -> u64 {
        let Some(bucket) = &self.bucket else { return wanted };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.fill(now);
        let there = bucket.bytes.saturating_mul(boost);
        if there < wanted.min(PIECE_BYTES) {
            self.counts.held_back.fetch_add(1, Ordering::Relaxed);
            return 0;
        }
        let granted = wanted.min(there);
        self.counts.given.fetch_add(granted, Ordering::Relaxed);
        bucket.bytes = bucket.bytes.saturating_sub(granted.div_ceil(boost));
        granted
    }

    /// When [`take`](Pace::take) will give something.
    pub fn ready_at(&self, wanted: u64, boost: u64, now: Instant) -> Instant {
        let Some(bucket) = &self.bucket else { return now };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.fill(now);
        let lacking = wanted.min(PIECE_BYTES).div_ceil(boost).saturating_sub(bucket.bytes);
        // A millisecond more than computed, because the bucket counts whole bytes.
        let millis = lacking.saturating_mul(1000).div_ceil(bucket.rate).saturating_add(1);
        if lacking == 0 { now } else { now + Duration::from_millis(millis) }
    }
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let most = (self.rate.saturating_mul(BURST.as_millis() as u64) / 1000).max(PIECE_BYTES);
        let Some(at) = self.at else {
            (self.at, self.bytes) = (Some(now), most);
            return;
        };
        let millis = now.saturating_duration_since(at).as_millis().min(u128::from(u64::MAX)) as u64;
        // Whole milliseconds, so that no fraction is lost by looking often.
        if millis > 0 {
            let more = self.rate.saturating_mul(millis) / 1000;
            self.bytes = self.bytes.saturating_add(more).min(most);
            self.at = Some(at + Duration::from_millis(millis));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_time() {
        let rate = 10 << 20;
        let pace = Pace::new(Some(rate));
        let start = Instant::now();
        let (mut now, mut given) = (start, 0);
        while now < start + Duration::from_secs(10) {
            given += pace.take(4 << 20, 1, now);
            let ready = pace.ready_at(4 << 20, 1, now);
            assert!(ready > now, "the bucket is empty");
            now = ready;
        }
        assert_eq!(pace.counts.given_bytes(), given);
        let wanted = 10 * rate;
        assert!(given >= wanted * 9 / 10 && given <= wanted * 11 / 10, "{given} of {wanted}");
    }

    #[test]
    fn a_boost_counts_each_byte_more_often_and_no_rate_is_no_bound() {
        let now = Instant::now();
        let pace = Pace::new(Some(1 << 20));
        let plain = pace.take(u64::MAX, 1, now);
        let later = now + Duration::from_secs(5);
        assert_eq!(pace.take(u64::MAX, 4, later), 4 * plain);
        assert_eq!(pace.take(1, 1, later), 0);
        assert_eq!(pace.counts.held_back(), 1);
        let free = Pace::new(None);
        assert_eq!((free.take(7 << 30, 1, now), free.ready_at(1, 1, now)), (7 << 30, now));
    }

    #[test]
    fn a_rate_below_a_piece_a_second_still_gives() {
        let now = Instant::now();
        let pace = Pace::new(Some(1_000));
        assert_eq!(pace.take(1 << 20, 1, now), PIECE_BYTES);
        let ready = pace.ready_at(1 << 20, 1, now);
        assert!(pace.take(1 << 20, 1, ready) >= PIECE_BYTES);
    }
}
