//! Committed commands, kept for a while, so that watchers get changes and not the whole image each time.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use thalweg_core::MetadataVersion;
use tokio::sync::watch;

/// Commands that are kept at most.
const MAX_COMMANDS: usize = 8192;
/// Bytes of commands that are kept at most.
const MAX_BYTES: usize = 8 << 20;
/// Commands that one message to a watcher carries at most.
pub const MAX_PAGE: usize = 512;

/// The newest committed commands. A watcher that is further behind starts again from a snapshot.
#[derive(Debug)]
pub struct Feed {
    kept: Mutex<Kept>,
    version: watch::Sender<MetadataVersion>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The version in front of the first kept command: whoever holds it can be served from here.
    from: MetadataVersion,
    commands: VecDeque<(MetadataVersion, Bytes)>,
    bytes: usize,
}

impl Feed {
    /// An empty feed.
    pub fn new() -> Feed {
        Feed { kept: Mutex::default(), version: watch::Sender::new(MetadataVersion::default()) }
    }

    /// Adds a committed command.
    pub fn push(&self, version: MetadataVersion, command: Bytes) {
        let mut kept = self.lock();
        kept.bytes += command.len();
        kept.commands.push_back((version, command));
        while kept.commands.len() > MAX_COMMANDS || kept.bytes > MAX_BYTES {
            let Some((version, command)) = kept.commands.pop_front() else { break };
            kept.from = version;
            kept.bytes -= command.len();
        }
        drop(kept);
        self.version.send_replace(version);
    }

    /// Forgets all: the image was replaced as a whole.
    pub fn reset(&self, version: MetadataVersion) {
        *self.lock() = Kept { from: version, ..Kept::default() };
        self.version.send_replace(version);
    }

    /// The commands behind `version`, at most [`MAX_PAGE`]; none if some of them are no longer kept.
    pub fn since(&self, version: MetadataVersion) -> Option<Vec<(MetadataVersion, Bytes)>> {
        let kept = self.lock();
        if version < kept.from {
            return None;
        }
        let start = kept.commands.partition_point(|(at, _)| *at <= version);
        Some(kept.commands.range(start..).take(MAX_PAGE).cloned().collect())
    }

    /// Tells the version of the last command.
    pub fn version(&self) -> watch::Receiver<MetadataVersion> {
        self.version.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(n: u64) -> (MetadataVersion, Bytes) {
        (MetadataVersion(n), Bytes::from(n.to_string()))
    }

    #[test]
    fn a_watcher_gets_what_it_lacks_and_no_more() {
        let feed = Feed::new();
        feed.reset(MetadataVersion(2));
        for n in [3, 5, 6] {
            let (version, bytes) = command(n);
            feed.push(version, bytes);
        }
        assert_eq!(feed.since(MetadataVersion(2)), Some(vec![command(3), command(5), command(6)]));
        assert_eq!(feed.since(MetadataVersion(5)), Some(vec![command(6)]));
        assert_eq!(feed.since(MetadataVersion(6)), Some(vec![]));
        assert_eq!(feed.since(MetadataVersion(1)), None);
        assert_eq!(*feed.version().borrow(), MetadataVersion(6));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let feed = Feed::new();
        for n in 1..=MAX_COMMANDS as u64 + 10 {
            feed.push(MetadataVersion(n), Bytes::from_static(b"x"));
        }
        assert_eq!(feed.since(MetadataVersion(9)), None);
        assert_eq!(feed.since(MetadataVersion(10)).map(|page| page.len()), Some(MAX_PAGE));
        feed.push(MetadataVersion(100_000), Bytes::from(vec![0; MAX_BYTES]));
        assert_eq!(feed.since(MetadataVersion(99_999)).map(|page| page.len()), Some(1));
    }
}
