//! One follower's stream: one state machine that the response polls. It reads while there are credit and data, and sleeps until
//! a mark, a word of the follower or the shutdown otherwise.
//!
//! ```text
//!   Partition.appended ──mark──► Session ──► Feed: read ──► PartitionNews (batches as they lie in the log)
//!                                              ▲
//!   inbound task: follow, unfollow, credit ────┘      positions go straight to the partitions
//! ```

use super::admission::out_of_range;
use crate::node::Node;
use crate::refusal;
use crate::replicas::{Partition, Registration, Session};
use bytes::Bytes;
use futures_util::{Stream, stream};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_core::metadata::command::BrokerRef;
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, PartitionEpoch};
use thalweg_log::{ReadError, TailRead, TailReader};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::partition_end::Reason;
use tokio::time::{Instant, Sleep};
use tonic::Status;

/// Batches of one partition in one message, in bytes; a single batch may be larger.
const CHUNK_BYTES: usize = 1024 * 1024;
/// What is read for little credit all the same, in bytes: a usual batch, which otherwise would be read twice.
const MIN_CHUNK_BYTES: usize = 256 * 1024;
/// How long a moved high watermark may wait for batches to travel with. Nobody reads from followers, so nobody waits for it.
const HIGH_WATERMARK_LINGER: Duration = Duration::from_millis(20);

/// What the inbound side tells the feed.
#[derive(Debug)]
pub enum Word {
    /// Send this partition from here on.
    Follow {
        /// What it is called on the stream.
        slot: u32,
        /// The follower.
        who: BrokerRef,
        /// The partition.
        partition: Arc<Partition>,
        /// The epoch in which it is led.
        leader_epoch: LeaderEpoch,
        /// The first offset to send.
        from: Offset,
    },
    /// Send it no more.
    Unfollow(u32),
    /// A slot that never was: tell why.
    End(u32, Reason),
    /// The stream is over.
    Over(Result<(), Status>),
}

/// What both sides of a stream share.
#[derive(Debug)]
pub struct Line {
    words: Mutex<Vec<Word>>,
    credit: AtomicI64,
    session: Arc<Session>,
}

impl Line {
    /// A line without credit.
    pub fn new() -> Arc<Line> {
        Arc::new(Line { words: Mutex::default(), credit: AtomicI64::new(0), session: Session::new() })
    }

    /// Tells the feed.
    pub fn say(&self, word: Word) {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).push(word);
        self.session.wake();
    }

    /// Gives credit.
    pub fn grant(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let add = |credit: i64| Some(credit.saturating_add(bytes));
        let before = self.credit.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        // One that still has credit has not stopped for want of it.
        if before.is_ok_and(|before| before <= 0) {
            self.session.wake();
        }
    }

    /// Bytes of batches that the next message may have; `None` without credit.
    fn chunk(&self) -> Option<usize> {
        let credit = self.credit.load(Ordering::Acquire);
        // A follower that gives credit in small pieces, to spare the others, gets small pieces.
        let bytes = usize::try_from(credit).unwrap_or(0).clamp(MIN_CHUNK_BYTES, CHUNK_BYTES);
        (credit > 0).then_some(bytes)
    }

    fn spend(&self, bytes: usize) {
        self.credit.fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::AcqRel);
    }

    fn words(&self) -> Vec<Word> {
        std::mem::take(&mut *self.words.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One message to a follower: news of a partition, and the batches that belong into them.
#[derive(Debug)]
pub struct News {
    /// The news, without batches.
    pub around: internal::ReplicateResponse,
    /// Whole batches, cut anywhere.
    pub batches: Vec<Bytes>,
}

impl News {
    fn new(news: internal::PartitionNews, batches: Vec<Bytes>) -> News {
        News { around: internal::ReplicateResponse { partitions: vec![news] }, batches }
    }

    /// The same, with what is traced among the batches.
    fn with(mut self, traces: Vec<internal::BatchTrace>) -> News {
        if let [news] = &mut self.around.partitions[..] {
            news.traces = traces;
        }
        self
    }
}

/// Ends a task when it is dropped.
#[derive(Debug)]
pub struct AbortOnDrop(pub tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The messages to one follower. `inbound` ends with them.
pub fn serve(
    node: Arc<Node>,
    line: Arc<Line>,
    inbound: AbortOnDrop,
) -> impl Stream<Item = Result<News, Status>> + Send {
    let last_call = {
        let node = Arc::clone(&node);
        // Until then writes that are on their way may still be acknowledged.
        Box::pin(async move { node.last_call().await })
    };
    let feed = Feed {
        line,
        slots: HashMap::new(),
        ready: VecDeque::new(),
        ends: VecDeque::new(),
        owing: Vec::new(),
        due: VecDeque::new(),
        marked: Vec::new(),
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        armed: false,
        last_call,
        done: false,
        _inbound: inbound,
    };
    stream::unfold(feed, |mut feed| async move {
        let message = feed.next().await?;
        Some((message, feed))
    })
}

struct Feed {
    line: Arc<Line>,
    slots: HashMap<u32, Followed>,
    // Slots that may have batches, each at most once, in the order of their turns.
    ready: VecDeque<u32>,
    ends: VecDeque<News>,
    // Slots whose follower was not told all of the high watermark yet, each at most once.
    owing: Vec<u32>,
    // Those of them whose time has come.
    due: VecDeque<u32>,
    marked: Vec<u32>,
    timer: Pin<Box<Sleep>>,
    armed: bool,
    last_call: Pin<Box<dyn Future<Output = ()> + Send>>,
    done: bool,
    _inbound: AbortOnDrop,
}

#[derive(Debug)]
struct Followed {
    who: BrokerRef,
    leader_epoch: LeaderEpoch,
    // In which the follower was known to be heard; `None` before the first look.
    partition_epoch: Option<PartitionEpoch>,
    next: Offset,
    // What the follower was told last.
    high_watermark: Offset,
    log_start: Offset,
    is_ready: bool,
    is_owing: bool,
    tail: TailReader,
    registration: Registration,
}

impl Feed {
    async fn next(&mut self) -> Option<Result<News, Status>> {
        loop {
            if self.done {
                return None;
            }
            if let Some(over) = self.listen() {
                self.done = true;
                return over.err().map(Err);
            }
            if let Some(end) = self.ends.pop_front() {
                return Some(Ok(end));
            }
            if let Some(news) = self.batches().or_else(|| self.due_high_watermark()) {
                return Some(Ok(news));
            }
            tokio::select! {
                biased;
                () = self.line.session.marked() => {}
                () = self.timer.as_mut(), if self.armed => self.linger_is_over(),
                () = self.last_call.as_mut() => {
                    self.done = true;
                    return Some(Err(refusal::shutting_down().to_status()));
                }
            }
        }
    }

    /// Takes in what the inbound side and the partitions have to say; `Some` when the stream is over.
    fn listen(&mut self) -> Option<Result<(), Status>> {
        for word in self.line.words() {
            match word {
                Word::Follow { slot, who, partition, leader_epoch, from } => {
                    let registration = partition.register_follower(self.line.session.slot(slot));
                    let followed = Followed {
                        who,
                        leader_epoch,
                        partition_epoch: None,
                        next: from,
                        high_watermark: Offset::NONE,
                        log_start: Offset::NONE,
                        // What is there already marks nobody.
                        is_ready: true,
                        is_owing: false,
                        tail: partition.log().tail_reader(from),
                        registration,
                    };
                    self.slots.insert(slot, followed);
                    self.ready.push_back(slot);
                }
                // What is queued of it finds nothing any more.
                Word::Unfollow(slot) => drop(self.slots.remove(&slot)),
                Word::End(slot, reason) => self.ends.push_back(ended(slot, reason)),
                Word::Over(result) => return Some(result),
            }
        }
        self.line.session.take_ready(&mut self.marked);
        for slot in self.marked.drain(..) {
            if let Some(followed) = self.slots.get_mut(&slot)
                && !followed.is_ready
            {
                followed.is_ready = true;
                self.ready.push_back(slot);
            }
        }
        None
    }

    /// The next partition's batches, or its end.
    fn batches(&mut self) -> Option<News> {
        while let Some(chunk) = self.line.chunk()
            && let Some(slot) = self.ready.pop_front()
        {
            let Some(followed) = self.slots.get_mut(&slot) else { continue };
            followed.is_ready = false;
            followed.registration.acknowledge();
            let read = match followed.read(chunk) {
                Ok(read) => read,
                Err(reason) => {
                    self.slots.remove(&slot);
                    return Some(ended(slot, reason));
                }
            };
            let first = followed.high_watermark == Offset::NONE;
            if read.data.is_empty() && !first {
                if read.high_watermark > followed.high_watermark || read.log_start_offset > followed.log_start
                {
                    self.owe(slot);
                }
                continue;
            }
            let bytes = read.bytes();
            followed.registration.partition().traffic().sent(bytes);
            let traces = followed.carried(read.next_offset);
            followed.next = read.next_offset;
            // The others first.
            if read.next_offset < read.log_end_offset {
                followed.is_ready = true;
                self.ready.push_back(slot);
            }
            let news = followed.news(slot, read.high_watermark, read.log_start_offset, read.data);
            let news = news.with(traces);
            self.line.spend(bytes);
            if read.high_watermark < read.next_offset {
                self.owe(slot);
            }
            return Some(news);
        }
        None
    }

    /// The high watermark of this slot is to be told within the linger.
    fn owe(&mut self, slot: u32) {
        let Some(followed) = self.slots.get_mut(&slot).filter(|followed| !followed.is_owing) else { return };
        followed.is_owing = true;
        self.owing.push(slot);
        if !self.armed {
            self.timer.as_mut().reset(Instant::now() + HIGH_WATERMARK_LINGER);
            self.armed = true;
        }
    }

    fn linger_is_over(&mut self) {
        self.armed = false;
        self.due.extend(self.owing.drain(..));
    }

    fn due_high_watermark(&mut self) -> Option<News> {
        while let Some(slot) = self.due.pop_front() {
            let Some(followed) = self.slots.get_mut(&slot) else { continue };
            followed.is_owing = false;
            let partition = Arc::clone(followed.registration.partition());
            // The end of the role is told with the next turn.
            if !leads(&partition, followed.leader_epoch) {
                continue;
            }
            let log = partition.log();
            if log.high_watermark() < followed.next {
                // No timer runs for one that stands still: its next move marks the slot.
                followed.registration.want_high_watermark();
            }
            let (high_watermark, log_start) = (log.high_watermark(), log.log_start_offset());
            if high_watermark > followed.high_watermark || log_start > followed.log_start {
                return Some(followed.news(slot, high_watermark, log_start, Vec::new()));
            }
        }
        None
    }
}

fn leads(partition: &Partition, epoch: LeaderEpoch) -> bool {
    partition.leading().is_some_and(|role| role.leader_epoch == epoch)
}

impl Followed {
    /// The traced ones among the batches up to `end`.
    fn carried(&self, end: Offset) -> Vec<internal::BatchTrace> {
        self.registration.partition().traces().carried(self.who.id, self.next..end)
    }

    /// Whole batches from where the last ones ended.
    fn read(&mut self, chunk: usize) -> Result<TailRead, Reason> {
        let partition = self.registration.partition();
        let read = self.tail.read(self.next, chunk);
        // Behind the read: a log is cut only when another leads.
        let role = partition.leading().filter(|role| role.leader_epoch == self.leader_epoch);
        let Some(epoch) = role.map(|role| role.partition_epoch) else { return Err(no_longer_heard()) };
        if self.partition_epoch != Some(epoch) {
            // It may have been removed and added again meanwhile, and not know.
            if !partition.hears(self.who, self.leader_epoch) {
                return Err(no_longer_heard());
            }
            self.partition_epoch = Some(epoch);
        }
        read.map_err(|error| match error {
            ReadError::OffsetOutOfRange { requested, .. } => out_of_range(partition, requested),
            error => {
                let tp = partition.topic_partition();
                tracing::error!(partition = %tp, %error, "a follower cannot be served");
                let high_watermark = partition.log().high_watermark();
                Reason::Error(refusal::read(&error, high_watermark).to_proto())
            }
        })
    }

    fn news(&mut self, slot: u32, high_watermark: Offset, log_start: Offset, batches: Vec<Bytes>) -> News {
        (self.high_watermark, self.log_start) = (high_watermark, log_start);
        let news = internal::PartitionNews {
            slot,
            high_watermark: high_watermark.get(),
            log_start_offset: log_start.get(),
            ..Default::default()
        };
        News::new(news, batches)
    }
}

/// Why a slot ends whose follower is to follow anew, if it is still to follow at all.
pub fn no_longer_heard() -> Reason {
    let text =
        "this broker no longer leads the partition in that epoch, or the follower was no replica meanwhile";
    Reason::Error(ApiError::new(ErrorCode::NotLeader, text).to_proto())
}

fn ended(slot: u32, reason: Reason) -> News {
    let end = Some(internal::PartitionEnd { reason: Some(reason) });
    News::new(internal::PartitionNews { slot, end, ..Default::default() }, Vec::new())
}
