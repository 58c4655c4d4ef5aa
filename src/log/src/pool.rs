//! Buffers for reads that are used again and again: neither zeroed nor page-faulted each time.

use crate::tail::TailBudget;
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// What the logs of a process share: buffers for reads, and what their tails may hold.
#[derive(Debug)]
pub(crate) struct Memory {
    pub pool: Arc<BufferPool>,
    pub tails: Arc<TailBudget>,
}

/// The smallest buffer, in bytes.
const MIN_BUFFER: usize = 4 << 10;
/// The largest buffer that is kept, in bytes. Larger reads get a buffer of their own, which is freed after use.
const MAX_POOLED: usize = 4 << 20;
/// Sizes are powers of two from [`MIN_BUFFER`] to [`MAX_POOLED`].
const CLASSES: usize = (MAX_POOLED.ilog2() - MIN_BUFFER.ilog2() + 1) as usize;

/// Keeps free buffers up to a bound; beyond it they go back to the allocator. How many are out at a time is bounded by who
/// reads, not here.
#[derive(Debug)]
pub struct BufferPool {
    free: Mutex<Free>,
    max_free_bytes: usize,
}

#[derive(Debug, Default)]
struct Free {
    classes: [Class; CLASSES],
    bytes: usize,
}

#[derive(Debug, Default)]
struct Class {
    buffers: Vec<Box<[u8]>>,
    /// The fewest free buffers since the last [`BufferPool::trim`]: so many were of no use.
    idle: usize,
}

impl BufferPool {
    /// A pool that keeps at most this many free bytes.
    pub fn new(max_free_bytes: usize) -> Arc<BufferPool> {
        Arc::new(BufferPool { free: Mutex::default(), max_free_bytes })
    }

    /// A buffer of at least `len` bytes, with arbitrary content.
    pub fn take(self: &Arc<Self>, len: usize) -> PooledBuffer {
        let size = len.max(MIN_BUFFER);
        let Some(class) = class_of(size) else {
            return PooledBuffer { bytes: vec![0; size].into_boxed_slice(), pool: None };
        };
        let found = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = &mut free.classes[class];
            let found = entry.buffers.pop();
            entry.idle = entry.idle.min(entry.buffers.len());
            if found.is_some() {
                free.bytes -= MIN_BUFFER << class;
            }
            found
        };
        let bytes = found.unwrap_or_else(|| vec![0; MIN_BUFFER << class].into_boxed_slice());
        PooledBuffer { bytes, pool: Some(Arc::clone(self)) }
    }

    /// Frees the buffers that nobody needed since the last call.
    pub fn trim(&self) {
        let mut freed = Vec::new();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        for (class, entry) in free.classes.iter_mut().enumerate() {
            let keep = entry.buffers.len() - entry.idle.min(entry.buffers.len());
            freed.extend(entry.buffers.drain(keep..));
            entry.idle = entry.buffers.len();
            bytes += entry.buffers.len() * (MIN_BUFFER << class);
        }
        free.bytes = bytes;
        drop(free);
    }

    /// Bytes in free buffers.
    pub fn free_bytes(&self) -> usize {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    fn give_back(&self, bytes: Box<[u8]>) {
        let Some(class) = class_of(bytes.len()) else { return };
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.bytes + bytes.len() <= self.max_free_bytes {
            free.bytes += bytes.len();
            free.classes[class].buffers.push(bytes);
        }
    }
}

/// The class whose buffers hold `size` bytes; `None` if they are not kept.
fn class_of(size: usize) -> Option<usize> {
    let class = size.next_power_of_two().ilog2() - MIN_BUFFER.ilog2();
    ((class as usize) < CLASSES).then_some(class as usize)
}

/// A buffer that goes back to its pool when it is dropped.
#[derive(Debug)]
pub struct PooledBuffer {
    bytes: Box<[u8]>,
    pool: Option<Arc<BufferPool>>,
}

impl PooledBuffer {
    /// The whole buffer, with arbitrary content.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// A part of it as shared bytes; the buffer goes back when the last of them is dropped.
    pub fn freeze(self, range: std::ops::Range<usize>) -> Bytes {
        Bytes::from_owner(self).slice(range)
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_bytes_are_dropped() {
        let pool = BufferPool::new(1 << 20);
        let buffer = pool.take(10_000);
        let address = buffer.as_ref().as_ptr();
        assert_eq!(buffer.as_ref().len(), 16 << 10);
        let bytes = buffer.freeze(0..5);
        let clone = bytes.clone();
        drop(bytes);
        assert_eq!(pool.free_bytes(), 0);
        drop(clone);
        assert_eq!(pool.free_bytes(), 16 << 10);
        assert_eq!(pool.take(16 << 10).as_ref().as_ptr(), address);
    }

    #[test]
    fn no_more_is_kept_than_the_bound() {
        let pool = BufferPool::new(10 << 10);
        let buffers: Vec<_> = (0..5).map(|_| pool.take(1)).collect();
        drop(buffers);
        assert_eq!(pool.free_bytes(), 8 << 10);
        assert_eq!(pool.take(MAX_POOLED + 1).as_ref().len(), MAX_POOLED + 1);
        assert_eq!(pool.free_bytes(), 8 << 10);
    }

    #[test]
    fn trimming_frees_what_was_idle() {
        let pool = BufferPool::new(1 << 20);
        let buffers: Vec<_> = (0..4).map(|_| pool.take(1)).collect();
        drop(buffers);
        pool.trim(); // all four were out since the beginning
        assert_eq!(pool.free_bytes(), 16 << 10);
        drop((pool.take(1), pool.take(1)));
        pool.trim();
        assert_eq!(pool.free_bytes(), 8 << 10);
        pool.trim();
        assert_eq!(pool.free_bytes(), 0);
    }
}
