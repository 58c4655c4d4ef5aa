//! The replicated state machine: the domain's image behind Raft, and what it publishes.

use crate::feed::Feed;
use crate::metrics::Tally;
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::sync::{Arc, OnceLock};
use thalweg_core::metadata::leaders::elections;
use thalweg_core::metadata::{MetadataImage, Refusal, Response, apply, codec};
use thalweg_core::{ClusterId, ErrorCode, MetadataVersion};
use thalweg_raft::{ApplyError, RestoreError, Role, StateMachine};
use tokio::time::Instant;

/// What everyone but the Raft node reads.
pub struct Published {
    image: ArcSwap<MetadataImage>,
    cluster_id: OnceLock<ClusterId>,
    /// The commands behind the image.
    pub feed: Feed,
    /// What happened so far, for metrics.
    pub tally: Tally,
}

impl Published {
    /// Nothing yet, but perhaps the cluster that the store belongs to.
    pub fn new(cluster_id: Option<ClusterId>) -> Arc<Published> {
        let known = OnceLock::new();
        if let Some(cluster_id) = cluster_id {
            known.get_or_init(|| cluster_id);
        }
        Arc::new(Published {
            image: ArcSwap::from_pointee(MetadataImage::new()),
            cluster_id: known,
            feed: Feed::new(),
            tally: Tally::default(),
        })
    }

    /// The newest image.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.image.load_full()
    }

    /// The cluster, as soon as this controller has learned it: before the image says so, after a restart.
    pub fn cluster_id(&self) -> Option<&ClusterId> {
        self.cluster_id.get()
    }

    fn put(&self, image: &MetadataImage) {
        if let Some(cluster_id) = image.cluster_id() {
            self.cluster_id.get_or_init(|| cluster_id.clone());
        }
        self.image.store(Arc::new(image.clone()));
    }
}

/// Applies committed commands. Owned by the Raft node.
pub struct MetadataMachine {
    image: MetadataImage,
    published: Arc<Published>,
    // Whether this controller leads: then what is applied happens now, and is not told anew after a restart.
    leads: bool,
}

impl MetadataMachine {
    /// An empty cluster that publishes to `published`.
    pub fn new(published: Arc<Published>) -> MetadataMachine {
        MetadataMachine { image: MetadataImage::new(), published, leads: false }
    }
}

impl StateMachine for MetadataMachine {
    type Output = Result<Response, Refusal>;

    fn check(&self, index: u64, command: &[u8]) -> Result<(), ApplyError> {
        // A newer version wrote it: whoever passed over it would no longer have the metadata that the others have.
        let checked = codec::decode_command(command);
        checked.map(drop).map_err(|error| ApplyError { index, reason: error.to_string() })
    }

    fn apply(&mut self, index: u64, command: &[u8]) -> Self::Output {
        let begun = Instant::now();
        let version = MetadataVersion(index);
        let result = match codec::decode_command(command) {
            Ok(decoded) => apply(&mut self.image, version, &decoded),
            Err(error) => {
                // Every voter of this version answers the same, so that they stay equal.
                tracing::error!(index, %error, "committed command cannot be read");
                Err(Refusal::new(ErrorCode::Unsupported, format!("the command cannot be read: {error}")))
            }
        };
        if let Err(refusal) = &result {
            tracing::debug!(index, code = %refusal.code, reason = %refusal.message, "command refused");
        }
        if self.leads {
            let found = elections(&self.published.image.load(), &self.image);
            if found.unclean > 0 {
                tracing::warn!(index, partitions = found.unclean, "leaders elected that may lack records");
            }
            self.published.tally.elected(found);
        }
        // First the image, then the word of it: whoever hears of a version finds it.
        self.published.put(&self.image);
        self.published.feed.push(version, Bytes::copy_from_slice(command));
        self.published.tally.applies.record(begun.elapsed());
        result
    }

    fn snapshot(&self) -> Bytes {
        Bytes::from(codec::encode_image(&self.image))
    }

    fn restore(&mut self, index: u64, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.image =
            codec::decode_image(snapshot).map_err(|error| RestoreError { reason: error.to_string() })?;
        tracing::info!(index, version = %self.image.version(), topics = self.image.topics().len(), "metadata restored");
        self.published.put(&self.image);
        self.published.feed.reset(self.image.version());
        Ok(())
    }

    fn cluster_id(&self) -> Option<&ClusterId> {
        self.image.cluster_id()
    }

    fn role_changed(&mut self, role: Role) {
        self.leads = role == Role::Leader;
    }
}
