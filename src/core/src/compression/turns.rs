//! Bounds what the threads of a process hold together of what they inflate.
//!
//! A usual batch inflates to a few megabytes, and each thread may have one of those. One that goes beyond is begun again, and
//! finished only when it is its turn: so many at once, whatever the number of threads. Threads wait for each other's
//! computing only, never for I/O or a peer.

use super::{Compression, InflateError};
use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes to which a batch may inflate without a turn: 8 MiB.
pub const FREE_INFLATED_BYTES: usize = 8 << 20;
/// Larger inflations at once in the process.
pub const MAX_LARGE_INFLATIONS: usize = 2;

static TURNS: Turns = Turns::new(MAX_LARGE_INFLATIONS);

/// The right to hold what was inflated. Give the memory back first, then drop this.
#[derive(Debug)]
#[must_use = "what was inflated is counted only as long as its turn lives"]
pub struct Turn {
    _large: Option<Large<'static>>,
}

impl Compression {
    /// As [`inflate`](Compression::inflate), and waits its turn if that takes more than [`FREE_INFLATED_BYTES`], while
    /// [`MAX_LARGE_INFLATIONS`] others do. No thread may take a second turn while it has one.
    ///
    /// On an error `out` is as small as before the turn.
    pub fn inflate_in_turn(
        self,
        input: &[u8],
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Result<Turn, InflateError> {
        match self.inflate(input, out, limit.min(FREE_INFLATED_BYTES)) {
            Ok(()) => return Ok(Turn { _large: None }),
            Err(InflateError::TooLarge { .. }) if limit > FREE_INFLATED_BYTES => {}
            Err(error) => return Err(error),
        }
        // Whoever waits holds nothing.
        *out = Vec::new();
        let turn = Turn { _large: Some(TURNS.take()) };
        self.inflate(input, out, limit).inspect_err(|_| {
            out.clear();
            out.shrink_to(FREE_INFLATED_BYTES);
        })?;
        Ok(turn)
    }
}

#[derive(Debug)]
struct Turns {
    left: Mutex<usize>,
    freed: Condvar,
}

#[derive(Debug)]
struct Large<'a>(&'a Turns);

impl Turns {
    const fn new(count: usize) -> Turns {
        Turns { left: Mutex::new(count), freed: Condvar::new() }
    }

    fn take(&self) -> Large<'_> {
        // A count is right whoever panicked.
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self.freed.wait_while(left, |left| *left == 0).unwrap_or_else(PoisonError::into_inner);
        *left -= 1;
        Large(self)
    }
}

impl Drop for Large<'_> {
    fn drop(&mut self) {
        *self.0.left.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_than_so_many_have_their_turn_at_once() {
        let (turns, now, most) = (Turns::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let turn = turns.take();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        drop(turn);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 2);
        assert_eq!(*turns.left.lock().unwrap(), 2);
    }

    #[test]
    fn only_what_is_large_takes_a_turn_and_a_failure_gives_everything_back() {
        let mut packed = Vec::new();
        Compression::Lz4.compress(&vec![0; FREE_INFLATED_BYTES + 1], &mut packed).unwrap();
        let mut out = Vec::new();
        let limit = 2 * FREE_INFLATED_BYTES;
        let turn = Compression::Lz4.inflate_in_turn(&packed, &mut out, limit).unwrap();
        assert!(turn._large.is_some());
        assert_eq!(out.len(), FREE_INFLATED_BYTES + 1);
        drop(turn);

        let mut bomb = Vec::new();
        Compression::Lz4.compress(&vec![0; limit + 1], &mut bomb).unwrap();
        let refused = Compression::Lz4.inflate_in_turn(&bomb, &mut out, limit).unwrap_err();
        assert_eq!(refused, InflateError::TooLarge { limit });
        assert!(out.capacity() <= FREE_INFLATED_BYTES);

        let mut small = Vec::new();
        Compression::Lz4.compress(b"small", &mut small).unwrap();
        let turn = Compression::Lz4.inflate_in_turn(&small, &mut out, limit).unwrap();
        assert!(turn._large.is_none());
        assert_eq!(out, b"small");
    }
}
