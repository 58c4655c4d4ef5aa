//! The producer's buffer memory: a bound on bytes, and the buffers that go round in it.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// The memory of all batches of one producer.
#[derive(Debug)]
pub(crate) struct Memory {
    total: usize,
    buffer_size: usize,
    permits: Semaphore,
    /// Buffers to use again, at most `total / buffer_size`. New memory costs more than the records' copy.
    free: Mutex<Vec<Vec<u8>>>,
}

/// A share of the memory; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Reserved {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(total: usize, buffer_size: usize) -> Arc<Memory> {
        let total = total.min(Semaphore::MAX_PERMITS);
        Arc::new(Memory { total, buffer_size, permits: Semaphore::new(total), free: Mutex::default() })
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Takes `bytes`, if they are free and nobody waits for them.
    pub(crate) fn try_reserve(self: &Arc<Memory>, bytes: usize) -> Option<Reserved> {
        let permits = self.permits.try_acquire_many(u32::try_from(bytes).ok()?).ok()?;
        permits.forget();
        Some(Reserved { memory: Arc::clone(self), bytes })
    }

    /// Waits for `bytes`, first come, first served. `bytes` must not be more than the total.
    pub(crate) async fn reserve(self: &Arc<Memory>, bytes: usize) -> Option<Reserved> {
        let permits = self.permits.acquire_many(u32::try_from(bytes).ok()?).await.ok()?;
        permits.forget();
        Some(Reserved { memory: Arc::clone(self), bytes })
    }

    /// A buffer, used before if there is one.
    pub(crate) fn buffer(&self, size: usize) -> Vec<u8> {
        if size == self.buffer_size
            && let Some(buffer) = self.lock().pop()
        {
            return buffer;
        }
        Vec::with_capacity(size)
    }

    /// Takes a batch's buffer back, if nobody else holds it any more.
    pub(crate) fn recycle(&self, mut batch: Bytes) {
        if !batch.is_unique() {
            return;
        }
        // Empty first: the conversion then moves no bytes.
        batch.clear();
        let buffer = Vec::from(batch);
        let mut free = self.lock();
        if buffer.capacity() >= self.buffer_size
            && buffer.capacity() <= self.buffer_size * 2
            && free.len() < self.total / self.buffer_size
        {
            free.push(buffer);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserved {
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.memory.permits.add_permits(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let memory = Memory::new(100, 60);
        let first = memory.try_reserve(60).unwrap();
        assert!(memory.try_reserve(41).is_none());
        let second = memory.try_reserve(40).unwrap();
        drop(first);
        assert!(memory.try_reserve(61).is_none());
        drop(second);
        assert!(memory.try_reserve(100).is_some());
    }

    #[test]
    fn a_buffer_goes_round() {
        let memory = Memory::new(1 << 20, 1 << 10);
        let mut buffer = memory.buffer(1 << 10);
        let at = buffer.as_ptr();
        buffer.extend_from_slice(&[1; 700]);
        let batch = Bytes::from(buffer);
        let held = batch.clone();
        memory.recycle(batch);
        assert!(memory.lock().is_empty(), "somebody still holds it");
        memory.recycle(held);
        let again = memory.buffer(1 << 10);
        assert_eq!((again.as_ptr(), again.len()), (at, 0));
        assert!(memory.buffer(5000).capacity() >= 5000);
    }

    #[tokio::test]
    async fn who_waits_is_served_before_who_tries() {
        let memory = Memory::new(100, 60);
        let held = memory.try_reserve(100).unwrap();
        let waiter = tokio::spawn({
            let memory = Arc::clone(&memory);
            async move { memory.reserve(80).await }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert!(memory.try_reserve(80).is_none());
        assert!(waiter.await.unwrap().is_some());
    }
}
