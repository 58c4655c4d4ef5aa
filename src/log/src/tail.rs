//! Batches that were just appended, kept in memory until the log's followers were given them: they need not be read back from
//! the file that they were written to a moment ago (ADR 23).
//!
//! ```text
//!   append ──► [ batch ][ batch ][ batch ]   the log's tail
//!                 ▲                  └ dropped once every follower that keeps up was given it
//!                 └ dropped first, whichever log it is of, when all tails together hold too much
//! ```
//! A tail is a cache of the file's end, never more: who finds nothing here reads the file.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_core::Offset;
use thalweg_core::batch::BatchHeader;

/// What all tails of a process hold together, in bytes.
pub const DEFAULT_TAIL_BYTES: usize = 64 << 20;
/// What one log's tail holds at most, in bytes: a follower that is further behind reads the file.
const LOG_BYTES: usize = 16 << 20;
/// Batches below this size are copied, in bytes, so that they do not keep the transport's buffer alive.
const COPY_BELOW: usize = 16 << 10;
/// What a batch that is not copied may keep alive and is counted as, in bytes: a buffer of the transport, which holds a frame.
const PINNED_BYTES: usize = 256 << 10;
/// What a batch takes beside its bytes.
const OVERHEAD_BYTES: usize = 256;
/// Batches that one read takes at most: beyond that many small ones a read of the file is as good.
const MAX_BATCHES: usize = 512;
/// Places in the budget's queue that may be vacant before it is tidied up.
const VACANT_PLACES: usize = 64;

// Under these locks values are whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all tails hold together, oldest first.
#[derive(Debug)]
pub(crate) struct TailBudget {
    max_bytes: usize,
    held: Arc<Held>,
    queue: Mutex<VecDeque<Arc<Kept>>>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: AtomicUsize,
    batches: AtomicUsize,
}

/// One batch, until somebody drops it: its log, or the budget.
#[derive(Debug)]
struct Kept {
    charge: usize,
    held: Arc<Held>,
    parts: Mutex<Option<Parts>>,
}

/// The bytes of a batch: header and body, or both in one piece.
#[derive(Debug, Clone)]
enum Parts {
    One(Bytes),
    Two(Bytes, Bytes),
}

impl Kept {
    fn parts(&self) -> Option<Parts> {
        lock(&self.parts).clone()
    }

    fn is_vacant(&self) -> bool {
        lock(&self.parts).is_none()
    }

    fn release(&self) {
        if let Some(parts) = lock(&self.parts).take() {
            self.held.bytes.fetch_sub(self.charge, Ordering::Relaxed);
            self.held.batches.fetch_sub(1, Ordering::Relaxed);
            drop(parts);
        }
    }
}

// === impl TailBudget ===

impl TailBudget {
    /// A budget of that many bytes for all tails.
    pub fn new(max_bytes: usize) -> Arc<TailBudget> {
        Arc::new(TailBudget { max_bytes, held: Arc::default(), queue: Mutex::default() })
    }

    /// Bytes that the tails hold.
    pub fn held_bytes(&self) -> usize {
        self.held.bytes.load(Ordering::Relaxed)
    }

    fn keep(&self, charge: usize, parts: Parts) -> Arc<Kept> {
        self.held.bytes.fetch_add(charge, Ordering::Relaxed);
        self.held.batches.fetch_add(1, Ordering::Relaxed);
        let kept = Arc::new(Kept { charge, held: Arc::clone(&self.held), parts: Mutex::new(Some(parts)) });
        let mut queue = lock(&self.queue);
        queue.push_back(Arc::clone(&kept));
        while queue.front().is_some_and(|oldest| self.held_bytes() > self.max_bytes || oldest.is_vacant()) {
            if let Some(oldest) = queue.pop_front() {
                oldest.release();
            }
        }
        if queue.len() > 2 * self.held.batches.load(Ordering::Relaxed) + VACANT_PLACES {
            queue.retain(|kept| !kept.is_vacant());
        }
        kept
    }
}

/// One log's tail.
#[derive(Debug)]
pub(crate) struct Tail {
    budget: Arc<TailBudget>,
    /// So that a log without followers takes no lock for it.
    readers: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    // One behind the other, without a gap between.
    batches: VecDeque<Batch>,
    charged: usize,
    readers: Vec<Reader>,
    next_reader: u64,
}

#[derive(Debug)]
struct Batch {
    base: Offset,
    next: Offset,
    size: usize,
    kept: Arc<Kept>,
}

#[derive(Debug)]
struct Reader {
    id: u64,
    // What it will ask for next.
    next: Offset,
}

/// Whole batches of a tail.
#[derive(Debug)]
pub(crate) struct TailPiece {
    pub data: Vec<Bytes>,
    pub next_offset: Offset,
}

impl Tail {
    pub fn new(budget: Arc<TailBudget>) -> Tail {
        Tail { budget, readers: AtomicUsize::new(0), state: Mutex::default() }
    }

    /// A follower that will ask for `next`. Returns what it is called here.
    pub fn enter(&self, next: Offset) -> u64 {
        let mut state = lock(&self.state);
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.push(Reader { id, next });
        self.readers.store(state.readers.len(), Ordering::Release);
        id
    }

    /// It asks no more.
    pub fn leave(&self, id: u64) {
        let mut state = lock(&self.state);
        state.readers.retain(|reader| reader.id != id);
        self.readers.store(state.readers.len(), Ordering::Release);
        if state.readers.is_empty() {
            state.clear();
        } else {
            state.drop_taken();
        }
    }

    /// Keeps a batch that was written at the log's end. The caller holds the append lock.
    pub fn push(&self, header: &BatchHeader, header_bytes: &[u8], body: impl FnOnce() -> Bytes) {
        if self.readers.load(Ordering::Acquire) == 0 {
            return;
        }
        let body = body();
        let size = header_bytes.len() + body.len();
        let (charge, parts) = if size < COPY_BELOW {
            (size, Parts::One([header_bytes, &body].concat().into()))
        } else {
            (size.max(PINNED_BYTES), Parts::Two(Bytes::copy_from_slice(header_bytes), body))
        };
        let kept = self.budget.keep(charge + OVERHEAD_BYTES, parts);
        let mut state = lock(&self.state);
        // Whoever left in between took what was there with it.
        if state.readers.is_empty() {
            kept.release();
            return;
        }
        if state.batches.back().is_some_and(|last| last.next != header.base_offset) {
            state.clear();
        }
        state.charged += kept.charge;
        state.batches.push_back(Batch { base: header.base_offset, next: header.next_offset(), size, kept });
        while state.charged > LOG_BYTES && state.batches.len() > 1 {
            state.drop_first();
        }
    }

    /// Whole batches from the one that holds `from`, at most `max_bytes` or one, that end at or below `end`. `None` if the one
    /// that holds `from` is not here.
    pub fn read(&self, reader: u64, from: Offset, max_bytes: usize, end: Offset) -> Option<TailPiece> {
        let mut state = lock(&self.state);
        state.asks(reader, from);
        let first = state.batches.partition_point(|batch| batch.next <= from);
        let mut piece = TailPiece { data: Vec::new(), next_offset: from };
        let mut bytes = 0;
        for batch in state.batches.range(first..).take(MAX_BATCHES) {
            let too_much = bytes > 0 && bytes + batch.size > max_bytes;
            if batch.base > piece.next_offset || batch.next > end || too_much {
                break;
            }
            // The budget may have dropped it.
            let Some(parts) = batch.kept.parts() else { break };
            match parts {
                Parts::One(all) => piece.data.push(all),
                Parts::Two(header, body) => piece.data.extend([header, body]),
            }
            bytes += batch.size;
            piece.next_offset = batch.next;
        }
        if piece.data.is_empty() {
            return None;
        }
        state.asks(reader, piece.next_offset);
        Some(piece)
    }

    /// A follower reads the file, from `from` on.
    pub fn reads_file(&self, reader: u64, from: Offset) {
        lock(&self.state).asks(reader, from);
    }

    /// Drops everything: the log's end is about to change, or nobody is to be served from memory.
    pub fn clear(&self) {
        lock(&self.state).clear();
    }
}

impl State {
    fn asks(&mut self, reader: u64, next: Offset) {
        if let Some(reader) = self.readers.iter_mut().find(|known| known.id == reader) {
            reader.next = next;
        }
        self.drop_taken();
    }

    /// Drops what every follower that keeps up was given. One that is behind all that is here does not count: it reads the
    /// file until it comes near.
    fn drop_taken(&mut self) {
        while let Some(first) = self.batches.front() {
            let keeping_up = self.readers.iter().filter(|reader| reader.next >= first.base);
            let slowest = keeping_up.map(|reader| reader.next).min();
            if slowest.is_some_and(|slowest| slowest >= first.next) || first.kept.is_vacant() {
                self.drop_first();
            } else {
                break;
            }
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.batches.pop_front() {
            self.charged -= first.kept.charge;
            first.kept.release();
        }
    }

    fn clear(&mut self) {
        while !self.batches.is_empty() {
            self.drop_first();
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests;
