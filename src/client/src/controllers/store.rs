//! A service's copy of the cluster's metadata: an immutable image, swapped as a whole, and a bell that rings when it was.

use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;
use thalweg_core::MetadataVersion;
use thalweg_core::metadata::MetadataImage;
use tokio::sync::watch;

/// Holds the newest image. Whoever learns of changes publishes them: the watch does, and so may a test.
#[derive(Debug)]
pub struct MetadataStore {
    image: ArcSwap<MetadataImage>,
    version: watch::Sender<MetadataVersion>,
}

impl Default for MetadataStore {
    fn default() -> MetadataStore {
        MetadataStore::new()
    }
}

impl MetadataStore {
    /// A store with the empty image.
    pub fn new() -> MetadataStore {
        let image = MetadataImage::new();
        let version = watch::Sender::new(image.version());
        MetadataStore { image: ArcSwap::from_pointee(image), version }
    }

    /// The newest image. Cheap; keep the guard no longer than a look takes.
    pub fn image(&self) -> Guard<Arc<MetadataImage>> {
        self.image.load()
    }

    /// The newest image, to keep.
    pub fn snapshot(&self) -> Arc<MetadataImage> {
        self.image.load_full()
    }

    /// Replaces the image. One caller at a time. An older image is ignored: the version never goes back.
    pub fn publish(&self, image: Arc<MetadataImage>) {
        let version = image.version();
        if version < self.image.load().version() {
            tracing::warn!(%version, "older metadata ignored");
            return;
        }
        self.image.store(image);
        self.version.send_replace(version);
    }

    /// Tells of each new version, the current one included.
    pub fn watch(&self) -> watch::Receiver<MetadataVersion> {
        let mut versions = self.version.subscribe();
        versions.mark_changed();
        versions
    }

    /// How many partitions a topic has; above 0. `None` if there is no such topic.
    pub fn partition_count(&self, topic: &str) -> Option<u32> {
        let count = self.image.load().topic(topic).map(|topic| topic.partitions.len())?;
        u32::try_from(count).ok().filter(|n| *n > 0)
    }
}
