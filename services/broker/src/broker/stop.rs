//! The order of a stop: first the leaderships move while everything is served, then the servers and the rest end.

use crate::controller::{ControllerLink, Introduction, say_goodbye};
use std::sync::{Arc, OnceLock};
use thalweg_core::MetadataVersion;
use thalweg_runtime::Shutdown;
use tokio::sync::watch;

/// What a registered broker says before it stops.
#[derive(Debug)]
pub struct Goodbye {
    /// The controllers.
    pub link: Arc<ControllerLink>,
    /// Who stops.
    pub who: Introduction,
    /// The version of the metadata that the partitions here stand for.
    pub applied: watch::Receiver<MetadataVersion>,
}

/// Waits for `asked`, says goodbye if the broker was registered, and triggers `parts`. Ends early when the parts end by
/// themselves.
pub async fn in_order(asked: Shutdown, parts: Shutdown, goodbye: Arc<OnceLock<Goodbye>>) {
    tokio::select! {
        () = asked.triggered() => {}
        () = parts.triggered() => return,
    }
    if let Some(goodbye) = goodbye.get() {
        let applied = *goodbye.applied.borrow();
        tokio::select! {
            () = say_goodbye(&goodbye.link, &goodbye.who, applied) => {}
            () = parts.triggered() => {}
        }
    }
    parts.trigger();
}
