//! Letters of which only the latest to each addressee counts: bounded by the addressees, however fast letters come.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A mailbox with one reader.
#[derive(Debug)]
pub struct Mailbox<K, V> {
    // Sorted, so that a simulation's order of events does not depend on a hash.
    letters: Mutex<BTreeMap<K, V>>,
    came: Notify,
}

impl<K, V> Default for Mailbox<K, V> {
    fn default() -> Mailbox<K, V> {
        Mailbox { letters: Mutex::default(), came: Notify::new() }
    }
}

impl<K: Ord, V> Mailbox<K, V> {
    /// Leaves a letter in the place of an unread one to the same.
    pub fn put(&self, to: K, letter: V) {
        self.lock().insert(to, letter);
        self.came.notify_one();
    }

    /// Takes all letters.
    pub fn take(&self) -> BTreeMap<K, V> {
        std::mem::take(&mut *self.lock())
    }

    /// Waits for letters. Those that came before the call count. Safe to drop and call again.
    pub async fn wait(&self) {
        loop {
            if !self.lock().is_empty() {
                return;
            }
            self.came.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, V>> {
        // Nothing panics under it.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn the_latest_letter_counts_and_wakes_the_reader() {
        let mailbox = Mailbox::default();
        assert!(mailbox.wait().now_or_never().is_none());
        mailbox.put(2, "old");
        mailbox.put(1, "one");
        mailbox.put(2, "new");
        assert!(mailbox.wait().now_or_never().is_some());
        assert!(mailbox.wait().now_or_never().is_some(), "until it is taken");
        assert_eq!(mailbox.take().into_iter().collect::<Vec<_>>(), [(1, "one"), (2, "new")]);
        assert!(mailbox.wait().now_or_never().is_none());
    }
}
