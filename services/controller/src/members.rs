//! The processes of one kind, as the leading controller hears of them.

use crate::kind::{Incarnation, Kind};
use crate::quorum::{Proposed, Quorum};
use crate::sessions::{Patience, Sessions};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_core::metadata::FeatureLevels;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What each incarnation supports.
type Levels<K> = BTreeMap<<K as Kind>::Id, (<K as Kind>::Epoch, FeatureLevels)>;

/// Their signs of life, shared by whoever takes them and the duty that fences.
pub struct Members<K: Kind> {
    quorum: Quorum,
    sessions: Arc<Mutex<Sessions<K>>>,
    /// Told when a stream broke, so that the grace is watched.
    broke: Arc<Notify>,
    /// What each of them supports. Only of those that the metadata names, so there are no more than those.
    levels: Arc<Mutex<Levels<K>>>,
}

impl<K: Kind> Clone for Members<K> {
    fn clone(&self) -> Self {
        Members {
            quorum: self.quorum.clone(),
            sessions: Arc::clone(&self.sessions),
            broke: Arc::clone(&self.broke),
            levels: Arc::clone(&self.levels),
        }
    }
}

impl<K: Kind> Members<K> {
    /// Nobody was heard yet.
    pub fn new(quorum: Quorum) -> Members<K> {
        Members { quorum, sessions: Arc::default(), broke: Arc::default(), levels: Arc::default() }
    }

    /// The group that knows them.
    pub fn quorum(&self) -> &Quorum {
        &self.quorum
    }

    /// One of them is alive.
    pub fn touch(&self, who: Incarnation<K>) {
        self.lock().touch(who, Instant::now());
    }

    /// One of them says which feature levels it supports.
    pub fn supports(&self, (id, epoch): Incarnation<K>, levels: FeatureLevels) {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (epoch, levels));
    }

    /// Which feature levels one of them supports, if it was heard.
    pub fn levels(&self, (id, epoch): Incarnation<K>) -> Option<FeatureLevels> {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        levels.get(&id).filter(|(of, _)| *of == epoch).map(|(_, levels)| *levels)
    }

    /// One of them has a stream now.
    pub fn opened(&self, who: Incarnation<K>) {
        self.lock().opened(who);
    }

    /// That stream ended. `broke`: on the other side, and not because that one stops.
    pub fn closed(&self, who: Incarnation<K>, broke: bool) {
        if self.lock().closed(who, broke, Instant::now()) {
            tracing::info!(kind = K::NAME, id = %who.0, epoch = %who.1, "session broke");
            self.broke.notify_one();
        }
    }

    /// Waits until a stream breaks.
    pub async fn broken(&self) {
        self.broke.notified().await;
    }

    /// Forgets what was heard: this controller does not lead.
    pub fn clear(&self) {
        self.lock().clear();
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// When the next grace after a broken stream ends.
    pub fn next_grace(&self, patience: Patience) -> Option<Instant> {
        self.lock().next_grace(patience)
    }

    /// Those that are not fenced and gave no sign of life for too long.
    pub fn expired(&self, patience: Patience, now: Instant) -> Vec<Incarnation<K>> {
        let image = self.quorum.published().image();
        self.lock().expired(K::alive(&image), patience, now)
    }

    /// Fences one.
    pub async fn fence(&self, who: Incarnation<K>) -> Proposed {
        self.quorum.propose(&K::fencing(who)).await
    }

    fn lock(&self) -> MutexGuard<'_, Sessions<K>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
