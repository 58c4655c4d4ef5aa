//! Keeps the metadata fresh: a snapshot, then the commands that the controllers committed, applied by the same function.

use super::link::{Controllers, is_unavailable};
use super::store::MetadataStore;
use std::sync::Arc;
use thalweg_core::MetadataVersion;
use thalweg_core::metadata::codec::{CodecError, decode_command, decode_image};
use thalweg_core::metadata::{MetadataImage, apply};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use tonic::Status;

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("{}", .0.message())]
    Status(#[from] Status),
    #[error(transparent)]
    Address(#[from] ApiError),
    #[error("metadata cannot be read: {0}")]
    Codec(#[from] CodecError),
    #[error("the controllers are of cluster {theirs}, this service is of {ours}")]
    OtherCluster { ours: String, theirs: String },
}

/// Watches at one controller after the other, and publishes every image. It never ends by itself; drop it to stop.
pub async fn watch_metadata(link: Arc<Controllers>, store: Arc<MetadataStore>) {
    let mut pause = link.timing().retry_first;
    let mut from = MetadataVersion(0);
    let mut address = link.addresses().favourite();
    loop {
        let before = store.image().version();
        let ended = watch_once(&link, &address, &store, from).await;
        if store.image().version() > before {
            pause = link.timing().retry_first;
        }
        from = store.image().version();
        match ended {
            Ok(()) => tracing::debug!(controller = %address, "the metadata watch ended"),
            Err(WatchError::Status(status)) if is_unavailable(&status) => {
                tracing::debug!(controller = %address, %status, "the metadata watch broke");
            }
            Err(error) => {
                tracing::warn!(controller = %address, %error, "the metadata watch failed");
                // Begin with a whole image: what is held here may be what does not fit.
                from = MetadataVersion(0);
            }
        }
        address = link.addresses().after(&address);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(link.timing().retry_most);
    }
}

async fn watch_once(
    link: &Controllers,
    address: &str,
    store: &MetadataStore,
    from: MetadataVersion,
) -> Result<(), WatchError> {
    // A connection of its own: a large answer of another call must not hold it up.
    let channel = link.own_channel(address)?;
    let cluster_id = store.image().cluster_id().map(|id| id.0.to_string()).unwrap_or_default();
    let request = internal::WatchImageRequest { from_version: from.get(), cluster_id };
    // The stream has no deadline; the connection's keepalive notices a dead peer.
    let mut updates = Controllers::client(&channel).watch_image(request).await?.into_inner();
    while let Some(message) = updates.message().await? {
        let Some(update) = message.update else { continue };
        let held = store.snapshot();
        let image = next_image(&held, update)?;
        if let (Some(ours), Some(theirs)) = (held.cluster_id(), image.cluster_id())
            && ours != theirs
        {
            return Err(WatchError::OtherCluster { ours: ours.to_string(), theirs: theirs.to_string() });
        }
        link.learn(&image);
        store.publish(Arc::new(image));
    }
    Ok(())
}

fn next_image(
    held: &MetadataImage,
    update: internal::watch_image_response::Update,
) -> Result<MetadataImage, CodecError> {
    match update {
        internal::watch_image_response::Update::Snapshot(bytes) => decode_image(&bytes),
        internal::watch_image_response::Update::Delta(delta) => {
            let mut image = held.clone();
            for command in delta.commands {
                let version = MetadataVersion(command.version);
                if version <= image.version() {
                    continue;
                }
                // A command that the controller refused is refused here too, and counts as applied.
                if let Err(refusal) = apply(&mut image, version, &decode_command(&command.command)?) {
                    tracing::debug!(%version, %refusal, "refused command in the metadata");
                }
            }
            Ok(image)
        }
    }
}
