//! The metadata as it changes, for one watcher.

use crate::feed::MAX_PAGE;
use crate::quorum::{Quorum, no_leader};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::time::Duration;
use thalweg_core::metadata::codec;
use thalweg_core::{ErrorCode, MetadataVersion};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::{
    ImageCommand, ImageDelta, WatchImageResponse, watch_image_response::Update,
};
use thalweg_raft::RaftStatus;
use thalweg_runtime::Shutdown;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// How long a controller without a leader goes on serving a watcher: longer than an election takes. After that it is cut off
/// from the others, or was removed, and the watcher should ask another.
const LEADERLESS: Duration = Duration::from_secs(3);

/// One watcher: a snapshot when it holds nothing or too little, then pages of commands.
pub struct Watch {
    quorum: Quorum,
    status: watch::Receiver<RaftStatus>,
    changed: watch::Receiver<MetadataVersion>,
    sent: MetadataVersion,
    fresh: bool,
    leaderless_since: Option<Instant>,
    shutdown: Shutdown,
}

impl Watch {
    /// What comes after `from`; all of it if that is 0.
    pub fn new(quorum: Quorum, from: MetadataVersion, shutdown: Shutdown) -> Watch {
        Watch {
            status: quorum.status(),
            changed: quorum.published().feed.version(),
            sent: from,
            fresh: from == MetadataVersion(0),
            leaderless_since: None,
            shutdown,
            quorum,
        }
    }

    /// Every update in order, until this controller cannot tell any more.
    pub fn into_stream(self) -> BoxStream<'static, Result<WatchImageResponse, Status>> {
        let updates = stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(update) => Some((Ok(update), Some(watch))),
                Err(error) => Some((Err(error.to_status()), None)),
            }
        });
        updates.boxed()
    }

    async fn next(&mut self) -> Result<WatchImageResponse, ApiError> {
        loop {
            // Marked as seen before the feed is read, so that what comes in between wakes the next wait.
            self.changed.borrow_and_update();
            let page = if self.fresh { None } else { self.quorum.published().feed.since(self.sent) };
            match page {
                None => return Ok(self.snapshot()),
                Some(page) if !page.is_empty() => return Ok(self.delta(page)),
                Some(_) => {}
            }
            let leaderless = self.status.borrow_and_update().leader.is_none();
            self.leaderless_since = leaderless.then(|| self.leaderless_since.unwrap_or_else(Instant::now));
            let end = self.leaderless_since.map(|since| since + LEADERLESS);
            tokio::select! {
                changed = self.changed.changed() => changed.map_err(|_| stopping())?,
                changed = self.status.changed() => changed.map_err(|_| stopping())?,
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => return Err(no_leader()),
                () = self.shutdown.triggered() => return Err(stopping()),
            }
        }
    }

    fn snapshot(&mut self) -> WatchImageResponse {
        let image = self.quorum.published().image();
        self.sent = image.version();
        self.fresh = false;
        let snapshot = Bytes::from(codec::encode_image(&image));
        WatchImageResponse { update: Some(Update::Snapshot(snapshot)) }
    }

    fn delta(&mut self, page: Vec<(MetadataVersion, Bytes)>) -> WatchImageResponse {
        debug_assert!(page.len() <= MAX_PAGE);
        let commands = page
            .into_iter()
            .map(|(version, command)| {
                self.sent = version;
                ImageCommand { version: version.get(), command }
            })
            .collect();
        WatchImageResponse { update: Some(Update::Delta(ImageDelta { commands })) }
    }
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "this controller is stopping; ask another")
}
