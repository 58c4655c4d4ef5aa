//! Waiting for a leader.

use crate::node::Node;
use std::time::Duration;
use thalweg_core::MetadataVersion;
use tokio::sync::watch;
use tokio::time::Instant;

/// First pause where no news of the metadata comes; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Waits between tries, up to a point in time.
#[derive(Debug)]
pub struct Patience {
    until: Instant,
    pause: Duration,
    versions: watch::Receiver<MetadataVersion>,
}

impl Patience {
    /// Patience until `until`.
    pub fn new(node: &Node, until: Instant) -> Patience {
        Patience { until, pause: FIRST_PAUSE, versions: node.replicas.watch() }
    }

    /// Begins with short pauses again.
    pub fn calm(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// To be called before the leader is looked up: what changes from here on ends the next wait.
    pub fn look(&mut self) {
        self.versions.mark_unchanged();
    }

    /// Waits for other metadata, or a pause. `false` when there is no time left, or the broker stops.
    pub async fn wait(&mut self, node: &Node) -> bool {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        let wake = Instant::now() + pause;
        if wake >= self.until {
            return false;
        }
        tokio::select! {
            changed = self.versions.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(wake) => true,
            () = node.shutdown.triggered() => false,
        }
    }
}
