//! Reads partitions at offsets that the caller keeps, straight from their leaders.

mod assignments;
mod chunk;
mod error;
mod link;

pub use chunk::{Chunk, ChunkRecords, ChunkTopic};
pub use error::ReadError;

use crate::admin::resolve;
use crate::client::Client;
use crate::metadata::Leader;
use crate::net::Backoff;
use crate::trace::{Receiver, Receiving};
use crate::{ClientError, ConfigError, Isolation, Start};
use assignments::{Accepted, Assignments, Fate, Key};
use link::Link;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use thalweg_core::{ErrorCode, Offset, PartitionId, TopicName, TopicPartition};
use thalweg_proto::{ApiError, Detail};
use tokio::time::{Instant, Sleep};

/// The largest chunk that a broker takes.
const MAX_CHUNK_BYTES: u32 = 8 << 20;
/// Messages that are taken in a row before the others get a turn.
const MAX_MESSAGES_A_TURN: usize = 64;

/// What a reader does when its offset is outside the log (`auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffsetReset {
    /// It fails with [`ReadError::OffsetOutOfRange`]; the partition waits for a new `assign`.
    #[default]
    None,
    /// It goes on at the first offset that is still there.
    Earliest,
    /// It goes on at the high watermark.
    Latest,
}

/// Settings of a [`PartitionReader`].
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// Which records are seen (`isolation.level`). Default: uncommitted too.
    pub isolation: Isolation,
    /// Bytes that each leader may send ahead of the caller. Default 16 MiB.
    pub credit_bytes: u64,
    /// Bytes of one chunk (`max.partition.fetch.bytes`). Default 1 MiB; at most 8 MiB. A larger batch still comes whole.
    pub max_chunk_bytes: u32,
    /// Whether each batch's checksum is checked (`check.crcs`). Default true.
    pub check_crcs: bool,
    /// What to do when an offset is outside the log (`auto.offset.reset`). Default [`OffsetReset::None`].
    pub offset_reset: OffsetReset,
}

impl Default for ReaderConfig {
    fn default() -> ReaderConfig {
        ReaderConfig {
            isolation: Isolation::default(),
            credit_bytes: 16 << 20,
            max_chunk_bytes: 1 << 20,
            check_crcs: true,
            offset_reset: OffsetReset::default(),
        }
    }
}

/// Reads any number of partitions, with one stream for each leader. Every record from the start of an assignment on is
/// given once and in order within its partition, over broken streams and moved leaders. Positions are the caller's: a
/// chunk's `next_offset` is where to begin again.
pub struct PartitionReader {
    client: Client,
    config: ReaderConfig,
    assignments: Assignments,
    links: HashMap<Arc<str>, Link>,
    /// Errors that belong to partitions and wait to be told. At most one for each.
    errors: VecDeque<ReadError>,
    /// The search for leaders that is under way.
    search: Option<Search>,
    search_not_before: Pin<Box<Sleep>>,
    backoff: Backoff,
    /// The link that is asked first, so that each gets its turn.
    turn: usize,
}

type Search = Pin<Box<dyn Future<Output = Vec<(Key, Result<Found, ClientError>)>> + Send>>;

/// Where a partition is to be read.
struct Found {
    leader: Leader,
    /// A new position, where the old one was outside the log.
    reset: Option<Offset>,
}

impl PartitionReader {
    pub(crate) fn new(client: Client, config: ReaderConfig) -> Result<PartitionReader, ClientError> {
        if config.credit_bytes == 0 {
            return Err(
                ConfigError::new("credit_bytes", "without credit nothing is ever sent; raise it").into()
            );
        }
        if config.max_chunk_bytes == 0 || config.max_chunk_bytes > MAX_CHUNK_BYTES {
            let reason = format!("it must be between 1 and {MAX_CHUNK_BYTES}");
            return Err(ConfigError::new("max_chunk_bytes", reason).into());
        }
        let backoff = Backoff::new(client.config().retry_backoff, client.config().retry_backoff_max);
        Ok(PartitionReader {
            client,
            config,
            assignments: Assignments::default(),
            links: HashMap::new(),
            errors: VecDeque::new(),
            search: None,
            search_not_before: Box::pin(tokio::time::sleep_until(Instant::now())),
            backoff,
            turn: 0,
        })
    }

    /// Reads a partition from `start` on; one that is assigned already moves there.
    pub async fn assign(
        &mut self,
        topic: &str,
        partition: PartitionId,
        start: Start,
    ) -> Result<(), ReadError> {
        let metadata = self.client.metadata(topic).await?;
        if metadata.partition(partition).is_none() {
            let metadata = self.client.refresh(topic).await?;
            if metadata.partition(partition).is_none() {
                return Err(ClientError::from(crate::client::unknown_partition(&metadata, partition)).into());
            }
        }
        let offset = resolve(&self.client, topic, partition, start, self.config.isolation).await?;
        self.release((metadata.name.clone(), partition));
        self.assignments.assign((metadata.name.clone(), partition), offset);
        // A new partition does not wait for the pause of another one's retry.
        self.search_at(Instant::now());
        Ok(())
    }

    /// The same as [`assign`](Self::assign) for a partition that is assigned.
    pub async fn seek(&mut self, topic: &str, partition: PartitionId, start: Start) -> Result<(), ReadError> {
        self.assign(topic, partition, start).await
    }

    /// Stops reading a partition. What was sent ahead is dropped.
    pub async fn unassign(&mut self, topic: &str, partition: PartitionId) -> Result<(), ReadError> {
        if let Some(key) = self.key(topic, partition) {
            self.release(key.clone());
            self.assignments.remove(&key);
        }
        Ok(())
    }

    /// Stops reading a partition for now; its position stays. What was sent ahead is dropped and read again later.
    pub fn pause(&mut self, topic: &str, partition: PartitionId) {
        if let Some(key) = self.key(topic, partition) {
            self.release(key.clone());
            self.assignments.pause(&key);
        }
    }

    /// Goes on reading a paused partition.
    pub fn resume(&mut self, topic: &str, partition: PartitionId) {
        if let Some(key) = self.key(topic, partition) {
            self.assignments.resume(&key);
            self.search_at(Instant::now());
        }
    }

    /// The next offset that `next` will give of a partition, if it is assigned.
    pub fn position(&self, topic: &str, partition: PartitionId) -> Option<Offset> {
        let key = self.key(topic, partition)?;
        self.assignments.position(&key)
    }

    /// Why some assigned partition is not read at the moment, as a sentence that names it: its broker is gone, or nobody
    /// leads it. `None` while every stream is open, whether data comes or not. It tells how far [`next`](Self::next) has
    /// got, so ask after having waited there.
    pub fn last_failure(&self) -> Option<String> {
        let open = |endpoint: &Arc<str>| self.links.get(endpoint).is_some_and(Link::is_open);
        let ((topic, partition), why) = self.assignments.failure(open)?;
        Some(format!("{topic}-{partition} is not read at the moment: {why}"))
    }

    /// The next chunk of any assigned partition, never an empty one. Waits for data; waits for ever if nothing is
    /// assigned. Cancel safe: dropped while it waits, nothing is lost.
    ///
    /// Broken streams and moved leaders are mended inside. After an error that names a partition, that partition waits for
    /// a new `assign`, and the others go on.
    pub async fn next(&mut self) -> Result<Chunk, ReadError> {
        let receiving = Receiving::begin(self.client.tracing());
        let next = self.next_untold().await;
        if let Ok(chunk) = &next {
            receiving.chunk(self.receiver(), chunk);
        }
        next
    }

    /// The same without a span, for a consumer that tells of it itself.
    pub(crate) async fn next_untold(&mut self) -> Result<Chunk, ReadError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn receiver(&self) -> Receiver<'_> {
        let client = &self.client;
        Receiver { tracing: client.tracing(), client_id: &client.config().client_id, group: None }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, ReadError>> {
        loop {
            if let Some(error) = self.errors.pop_front() {
                return Poll::Ready(Err(error));
            }
            if let Some(chunk) = self.poll_links(cx) {
                return Poll::Ready(Ok(chunk));
            }
            let searched = self.poll_search(cx);
            if self.errors.is_empty() && !searched {
                return Poll::Pending;
            }
        }
    }

    /// Asks each link for data, another one first each time.
    fn poll_links(&mut self, cx: &mut Context<'_>) -> Option<Chunk> {
        let endpoints: Vec<Arc<str>> = self.links.keys().cloned().collect();
        let count = endpoints.len();
        self.turn = self.turn.wrapping_add(1);
        for index in 0..count {
            let endpoint = &endpoints[(self.turn.wrapping_add(index)) % count];
            for polled in 0.. {
                if polled == MAX_MESSAGES_A_TURN {
                    // The link has not said yet that it has nothing: nobody but us would wake us.
                    cx.waker().wake_by_ref();
                    break;
                }
                let Some(link) = self.links.get_mut(endpoint) else { break };
                let Poll::Ready(event) = link.poll(cx) else { break };
                match event {
                    Ok(data) => {
                        let taken = self.assignments.accept(&data, self.config.check_crcs);
                        match taken {
                            Accepted::Chunk(chunk) => {
                                self.backoff.reset();
                                return Some(chunk);
                            }
                            Accepted::Nothing => {}
                            Accepted::Refused(key, error) => self.refused(&key, error),
                            Accepted::Broken(key, error) => {
                                self.release(key.clone());
                                self.assignments.park(&key);
                                self.errors.push_back(error);
                            }
                        }
                    }
                    Err(why) => {
                        tracing::info!(%endpoint, reason = why, "fetch stream ended");
                        self.links.remove(endpoint);
                        self.assignments.lost(endpoint, &why);
                        self.pause_search();
                        break;
                    }
                }
            }
        }
        if count > 0 && !self.errors.is_empty() {
            cx.waker().wake_by_ref();
        }
        None
    }

    /// A leader refused a partition, and has forgotten it.
    fn refused(&mut self, key: &Key, error: ApiError) {
        match (error.code, &error.detail) {
            (ErrorCode::OffsetOutOfRange, detail) => match self.config.offset_reset {
                OffsetReset::None => {
                    let range = match detail {
                        Some(Detail::OffsetRange { log_start, high_watermark, .. }) => {
                            (*log_start, *high_watermark)
                        }
                        _ => (Offset::NONE, Offset::NONE),
                    };
                    let requested = self.assignments.position(key).unwrap_or(Offset::NONE);
                    self.assignments.park(key);
                    self.errors.push_back(ReadError::out_of_range(key, requested, range));
                }
                OffsetReset::Earliest => self.assignments.search(key, Fate::Reset(Start::Earliest)),
                OffsetReset::Latest => self.assignments.search(key, Fate::Reset(Start::Latest)),
            },
            (ErrorCode::NotLeader, Some(Detail::NotLeader { leader, endpoint, epoch })) => {
                let cache = self.client.cache();
                if cache.follow(key.0.as_str(), key.1, *leader, endpoint, *epoch) && self.backoff.is_fresh() {
                    self.backoff.next_pause();
                    self.assignments.search(key, Fate::Follow);
                } else {
                    self.assignments.search(key, Fate::Refresh);
                    self.pause_search();
                }
            }
            _ if error.retriable() != thalweg_core::Retriable::No => {
                tracing::debug!(topic = %key.0, partition = %key.1, %error, "fetch refused; it is tried again");
                self.retry(key, error.into());
            }
            _ => {
                self.assignments.park(key);
                self.errors.push_back(ReadError::refused(key, error));
            }
        }
    }

    /// Tries a partition again after a pause, unless it has failed for longer than a call may take.
    fn retry(&mut self, key: &Key, error: ClientError) {
        self.assignments.failed(key, error.to_string());
        let limit = self.client.config().request_timeout;
        let unknown = matches!(error.code(), Some(ErrorCode::UnknownTopic | ErrorCode::UnknownPartition));
        if unknown && self.assignments.failing_for(key, Instant::now()) >= limit {
            self.assignments.park(key);
            self.errors.push_back(error.into());
            return;
        }
        self.assignments.search(key, Fate::Refresh);
        self.pause_search();
    }

    /// Finds leaders for the partitions that have none. Says whether anything changed.
    fn poll_search(&mut self, cx: &mut Context<'_>) -> bool {
        if self.search.is_none() {
            let wanted = self.assignments.wanted();
            if wanted.is_empty() || self.search_not_before.as_mut().poll(cx).is_pending() {
                return false;
            }
            let (client, isolation) = (self.client.clone(), self.config.isolation);
            self.search = Some(Box::pin(async move {
                let mut found = Vec::with_capacity(wanted.len());
                // Each topic's metadata is fetched once, however many of its partitions lost their leader.
                let mut refreshed = HashSet::new();
                for (key, fate) in wanted {
                    let stale = fate == Fate::Refresh && !refreshed.contains(&key.0);
                    let outcome = find(&client, &key, fate, stale, isolation).await;
                    if stale && outcome.is_ok() {
                        refreshed.insert(key.0.clone());
                    }
                    found.push((key, outcome));
                }
                found
            }));
        }
        let Some(search) = self.search.as_mut() else { return false };
        let Poll::Ready(found) = search.as_mut().poll(cx) else { return false };
        self.search = None;
        for (key, outcome) in found {
            match outcome {
                Ok(found) => self.attach(&key, found),
                Err(error) if error.retriable() => self.retry(&key, error),
                Err(error) => {
                    self.assignments.park(&key);
                    self.errors.push_back(error.into());
                }
            }
        }
        true
    }

    /// Reads a partition from its leader.
    fn attach(&mut self, key: &Key, found: Found) {
        let endpoint = found.leader.endpoint;
        let Some((offset, tag)) = self.assignments.attach(key, &endpoint, found.reset) else { return };
        let link = self
            .links
            .entry(Arc::clone(&endpoint))
            .or_insert_with(|| Link::open(&self.client, &endpoint, &self.config));
        link.assign(key, offset, tag);
    }

    /// Tells the leader, if there is one, to stop sending a partition.
    fn release(&mut self, key: Key) {
        if let Some(endpoint) = self.assignments.detach(&key)
            && let Some(link) = self.links.get_mut(&endpoint)
        {
            link.unassign(&key);
        }
    }

    /// Reads a partition that is known to exist from an offset on; one that is assigned already moves there. Does not wait.
    pub(crate) fn read_from(&mut self, at: &TopicPartition, offset: Offset) {
        let key = (at.topic.clone(), at.partition);
        self.release(key.clone());
        self.assignments.assign(key, offset);
        self.search_at(Instant::now());
    }

    /// Stops reading a partition. What was sent ahead is dropped.
    pub(crate) fn forget(&mut self, at: &TopicPartition) {
        let key = (at.topic.clone(), at.partition);
        self.release(key.clone());
        self.assignments.remove(&key);
    }

    fn key(&self, topic: &str, partition: PartitionId) -> Option<Key> {
        Some((TopicName::new(topic).ok()?, partition))
    }

    fn pause_search(&mut self) {
        let pause = self.backoff.next_pause();
        self.search_at(Instant::now() + pause);
    }

    fn search_at(&mut self, at: Instant) {
        self.search_not_before.as_mut().reset(at);
    }
}

/// A partition's leader, and where to go on if its position was outside the log.
async fn find(
    client: &Client,
    key: &Key,
    fate: Fate,
    stale: bool,
    isolation: Isolation,
) -> Result<Found, ClientError> {
    let (topic, partition) = (key.0.as_str(), key.1);
    if stale {
        client.refresh(topic).await?;
    }
    let reset = match fate {
        Fate::Reset(start) => Some(resolve(client, topic, partition, start, isolation).await?),
        Fate::Follow | Fate::Refresh => None,
    };
    Ok(Found { leader: client.leader(topic, partition).await?, reset })
}
