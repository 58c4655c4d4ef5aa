//! The member behind a stream: what each happening does to its membership, its partitions, what is read and what is committed.

mod begin;
mod membership;
mod said;
mod saves;

use super::Checked;
use super::commits::Commits;
use super::parts::Parts;
use super::progress::Progress;
use crate::forward::relay::Relay;
use crate::group::call::Caller;
use crate::group::options::Options;
use crate::group::starts::{Named, Start};
use crate::node::Node;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::MetadataVersion;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::member::{Membership, Timeouts};
use thalweg_core::group::positions::Positions;
use thalweg_core::group::state::Partitions;
use thalweg_core::metadata::Refusal;
use thalweg_proto::v1::subscribe_response::Event as Told;
use thalweg_proto::{ApiError, v1};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long the answer to a heartbeat may be held: the most that a quiet member costs is one of them in this time.
const HOLD: Duration = Duration::from_secs(10);
/// Between two words of how the member stands.
const STANDING: Duration = Duration::from_secs(3);
/// Before a partition's place is looked for again.
const RETRY: Duration = Duration::from_millis(250);
/// Before a partition that could not be read, as the client was told, is read again.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Events that may wait for the client before it is read on.
const MAX_EVENTS: usize = 1024;
/// When nothing is due.
const FAR: Duration = Duration::from_secs(3600);

type Beat = (u64, BoxFuture<'static, Result<v1::HeartbeatResponse, ApiError>>);
type Committing = BoxFuture<'static, Result<v1::CommitOffsetsResponse, ApiError>>;

/// Places that were looked for, by a job of that number.
struct Found {
    job: u64,
    named: Vec<Named>,
    // A partition's place was outside the log: this is where it goes on.
    is_reset: bool,
    outcome: Result<Vec<Start>, ApiError>,
}

/// What the client is to give back.
struct Revocation {
    partitions: Partitions,
    // The client's own patience; the member's may end earlier.
    until: Instant,
}

/// One member on one stream.
pub struct Subscription {
    node: Arc<Node>,
    caller: Caller,
    options: Options,
    began: Instant,
    member: Membership,
    is_told_joined: bool,
    relay: Relay,
    parts: Parts,
    positions: Positions<TopicIdPartition>,
    progress: Progress,
    commits: Commits,
    committing: Option<Committing>,
    beat: Option<Beat>,
    finding: FuturesUnordered<BoxFuture<'static, Found>>,
    revocations: BTreeMap<u64, Revocation>,
    revoke_timeout: Duration,
    // New partitions may be known by name now.
    find_due: bool,
    events: VecDeque<Told>,
    versions: watch::Receiver<MetadataVersion>,
    last_number: u64,
    // How many seeks were taken.
    seeks: u64,
    is_working: bool,
    has_said_goodbye: bool,
    next_standing: Instant,
    next_commit: Option<Instant>,
    retry_at: Option<Instant>,
    end: Option<Result<(), ApiError>>,
}

impl Subscription {
    /// A member that joins.
    pub fn new(
        node: Arc<Node>,
        caller: Caller,
        checked: Checked,
        fetch: v1::FetchStreamStart,
    ) -> Subscription {
        let Checked { options, revoke } = checked;
        let began = Instant::now();
        let timeouts = Timeouts {
            session: options.session,
            rebalance: options.rebalance,
            hold: HOLD,
            ..Timeouts::default()
        };
        let (id, instance) = (options.member.clone(), options.instance.clone());
        let member = Membership::new(id, instance, options.subscription.clone(), timeouts, Duration::ZERO);
        let relay = Relay::new(Arc::clone(&node), fetch);
        Subscription {
            versions: node.metadata.watch(),
            next_commit: options.auto_commit.map(|every| began + every),
            node,
            caller,
            options,
            began,
            member,
            is_told_joined: false,
            relay,
            parts: Parts::default(),
            positions: Positions::default(),
            progress: Progress::default(),
            commits: Commits::default(),
            committing: None,
            beat: None,
            finding: FuturesUnordered::new(),
            revocations: BTreeMap::new(),
            revoke_timeout: revoke,
            find_due: false,
            events: VecDeque::new(),
            last_number: 0,
            seeks: 0,
            is_working: false,
            has_said_goodbye: false,
            next_standing: began + STANDING,
            retry_at: None,
            end: None,
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Does all that is due.
    pub fn advance(&mut self) {
        let now = Instant::now();
        while let Some(event) = self.member.poll(self.now()) {
            self.happened(event);
        }
        if !self.member.is_joined() {
            self.is_told_joined = false;
        }
        self.take_what_was_not_given_back(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.retry();
        }
        // Who has said goodbye reads nothing more.
        if self.find_due && !self.has_said_goodbye {
            self.find_due = false;
            self.find_new();
        }
        if let (Some(at), Some(every)) = (self.next_commit, self.options.auto_commit)
            && at <= now
        {
            self.next_commit = Some(now + every);
            self.commit_done();
        }
        self.go_on_committing();
        if self.next_standing <= now {
            self.next_standing = now + STANDING;
            // One that was not taken yet says as much.
            if self.events.is_empty() && self.member.is_joined() {
                let partitions = u32::try_from(self.parts.count()).unwrap_or(u32::MAX);
                let member_epoch = self.member.epoch().0;
                self.events.push_back(Told::Heartbeat(v1::SubscribeHeartbeat { member_epoch, partitions }));
            }
        }
    }

    /// When to advance though nothing happened.
    pub fn next_wake(&self) -> Instant {
        let member = self.member.next_wake().map(|at| self.began + at);
        let revoked = self.revocations.values().map(|revocation| revocation.until).min();
        let times = [member, revoked, self.next_commit, self.retry_at, Some(self.next_standing)];
        times.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + FAR)
    }

    /// How the stream ends, once it does.
    pub fn take_end(&mut self) -> Option<Result<(), ApiError>> {
        self.end.take()
    }

    /// The next event for the client, records apart.
    pub fn next_event(&mut self) -> Option<Told> {
        self.events.pop_front()
    }

    /// Whether it may have something for the client.
    pub fn has_something_to_send(&self) -> bool {
        !self.events.is_empty() || !self.has_said_goodbye
    }

    /// Whether the client may say more.
    pub fn has_room(&self) -> bool {
        self.relay.has_room() && self.commits.has_room() && self.events.len() < MAX_EVENTS
    }

    /// Waits for what comes from inside, and does it; records, or a partition's error, it gives, and takes them only with `room` for
    /// them. Safe to drop and call again.
    pub async fn turn(&mut self, room: bool) -> Option<v1::PartitionData> {
        let beating = async {
            match &mut self.beat {
                Some((_, beat)) => beat.await,
                None => std::future::pending().await,
            }
        };
        let committing = async {
            match &mut self.committing {
                Some(commit) => commit.await,
                None => std::future::pending().await,
            }
        };
        let has_new = self.parts.has_new();
        tokio::select! {
            biased;
            outcome = beating => self.beaten(outcome),
            outcome = committing => self.committed(outcome),
            Some(found) = self.finding.next(), if !self.finding.is_empty() => self.found(found),
            Ok(()) = self.versions.changed(), if has_new => self.find_due = true,
            data = self.relay.next(), if room => return Some(data),
        }
        None
    }
}

fn place(topic: &str, partition: i32, offset: i64) -> v1::FetchStreamPartition {
    v1::FetchStreamPartition { topic: topic.to_owned(), partition, offset, tag: 0 }
}

fn error_of(refusal: &Refusal) -> ApiError {
    let error = ApiError::new(refusal.code, refusal.message.clone());
    match &refusal.field {
        Some(field) => error.with_field(field.clone()),
        None => error,
    }
}
