//! The member behind a stream: what each happening does to its membership, its partitions, what is read and what is committed.

use super::Checked;
use super::commits::{Commits, Next, Waiting};
use super::parts::{Parts, State};
use super::progress::{Done, Progress};
use crate::forward::relay::{Relay, weight};
use crate::group::call::{self, Caller};
use crate::group::options::{Options, millis};
use crate::group::poll::failed;
use crate::group::starts::{self, Named, Reading, Start};
use crate::group::check;
use crate::node::Node;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::member::{Answer, Event, Membership, Outgoing, Timeouts};
use thalweg_core::group::positions::{Position, Positions};
use thalweg_core::group::state::Partitions;
use thalweg_core::group::{MemberEpoch, member};
use thalweg_core::metadata::Refusal;
use thalweg_core::{ErrorCode, MetadataVersion, Offset};
use thalweg_proto::v1::subscribe_request::Command;
use thalweg_proto::v1::subscribe_response::Event as Told;
use thalweg_proto::{ApiError, v1};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long the answer to a heartbeat may be held: the most that a quiet member costs is one of them in this time.
const HOLD: Duration = Duration::from_secs(10);
/// Between two words of how the member stands.
const STANDING: Duration = Duration::from_secs(3);
/// Before what failed with a partition is tried again.
const RETRY: Duration = Duration::from_secs(1);
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

/// What a turn brought.
pub enum Turn {
    /// Records, or an error, of one partition.
    Read(v1::PartitionData),
    /// Something was done.
    Worked,
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
    pub fn new(node: Arc<Node>, caller: Caller, checked: Checked, fetch: v1::FetchStreamStart) -> Subscription {
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
            self.parts.retry();
            self.find_due = true;
        }
        if self.find_due {
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

    /// Waits for what comes from inside; for records only with `room` for them. Safe to drop and call again.
    pub async fn turn(&mut self, room: bool) -> Turn {
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
            data = self.relay.next(), if room => return Turn::Read(data),
        }
        Turn::Worked
    }

    // === membership ===

    fn happened(&mut self, event: Event) {
        match event {
            Event::Send(outgoing) => self.send(outgoing),
            Event::Assigned(partitions) => {
                self.parts.add(&partitions);
                self.find_due = true;
            }
            Event::Revoke { partitions, until } => self.revoke(partitions, until),
            Event::Lost { partitions, why } => self.lost(&partitions, &why),
            Event::Left => self.end = Some(Ok(())),
            Event::Failed(refusal) => self.end = Some(Err(error_of(&refusal))),
        }
    }

    fn send(&mut self, outgoing: Outgoing) {
        let Outgoing { number, epoch, subscription, has, max_wait } = outgoing;
        let mut request = self.options.beat(epoch);
        request.max_wait_ms = Some(millis(max_wait.min(check::longest_wait(self.options.session))));
        request.has = has.as_ref().map(|has| starts::assigned(has));
        if subscription.is_some() {
            request = v1::HeartbeatRequest {
                has: request.has,
                max_wait_ms: request.max_wait_ms,
                member_epoch: request.member_epoch,
                ..self.options.joining()
            };
        }
        let (node, caller, group) = (Arc::clone(&self.node), self.caller.clone(), self.options.group.clone());
        let beat = async move { call::heartbeat(&node, &caller, &group, request).await };
        // The former one is dropped, and with that given up.
        self.beat = Some((number, Box::pin(beat)));
    }

    fn beaten(&mut self, outcome: Result<v1::HeartbeatResponse, ApiError>) {
        let Some((number, _)) = self.beat.take() else { return };
        let outcome = outcome.and_then(|answer| {
            Ok(Answer {
                epoch: MemberEpoch(answer.member_epoch),
                assignment: answer.assignment.as_ref().map(starts::partitions).transpose()?,
                interval: Duration::from_millis(answer.heartbeat_interval_ms.into()),
            })
        });
        let refusal = |error: ApiError| Refusal { code: error.code, field: error.field, message: error.message };
        let now = self.now();
        self.member.answered(number, outcome.map_err(refusal), now);
        if self.member.is_joined() && !self.is_told_joined {
            self.is_told_joined = true;
            let (member_id, member_epoch) = (self.options.member.to_string(), self.member.epoch().0);
            self.events.push_back(Told::Joined(v1::SubscribeJoined { member_id, member_epoch }));
        }
    }

    fn revoke(&mut self, partitions: Partitions, until: Duration) {
        self.stop_reading(&partitions);
        let (told, silent): (Partitions, Partitions) = partitions
            .into_iter()
            .partition(|at| self.parts.get_mut(at).is_some_and(|part| part.is_told));
        for at in &told {
            if let Some(part) = self.parts.get_mut(at) {
                part.state = State::Revoking;
            }
        }
        // What the client never heard of it need not give back.
        self.give_back(&silent);
        if told.is_empty() {
            return;
        }
        let revocation_id = self.number();
        let timeout = until.saturating_sub(self.now()).min(self.revoke_timeout);
        self.events.push_back(Told::Revoke(v1::SubscribeRevoke {
            revocation_id,
            partitions: self.parts.describe(&told),
            timeout_ms: millis(timeout),
        }));
        let until = Instant::now() + self.revoke_timeout;
        self.revocations.insert(revocation_id, Revocation { partitions: told, until });
    }

    fn give_back(&mut self, partitions: &Partitions) {
        self.forget(partitions);
        let now = self.now();
        self.member.gave_back(partitions, now);
    }

    fn lost(&mut self, partitions: &Partitions, why: &member::Loss) {
        self.stop_reading(partitions);
        let told: Partitions =
            partitions.iter().filter(|at| self.parts.get_mut(at).is_some_and(|part| part.is_told)).copied().collect();
        let error = error_of(&why.refusal()).to_proto();
        if !told.is_empty() || matches!(why, member::Loss::NotPolled) {
            let partitions = self.parts.describe(&told);
            self.events.push_back(Told::Lost(v1::SubscribeLost { partitions, error: Some(error) }));
        }
        self.forget(partitions);
    }

    fn forget(&mut self, partitions: &Partitions) {
        for at in partitions {
            self.parts.remove(at);
            self.positions.remove(at);
        }
        self.progress.forget(partitions);
        self.revocations.retain(|_, revocation| {
            revocation.partitions.retain(|at| !partitions.contains(at));
            !revocation.partitions.is_empty()
        });
    }

    /// The client may have less time than the member.
    fn take_what_was_not_given_back(&mut self, now: Instant) {
        while let Some((id, _)) = self.revocations.iter().find(|(_, revocation)| revocation.until <= now) {
            let id = *id;
            let Some(Revocation { partitions, .. }) = self.revocations.remove(&id) else { return };
            self.lost(&partitions, &member::Loss::NotGivenBack);
            let now = self.now();
            self.member.gave_back(&partitions, now);
        }
    }

    fn stop_reading(&mut self, partitions: &Partitions) {
        let keys: Vec<_> = partitions.iter().filter_map(|at| self.parts.get_mut(at)?.key(at)).collect();
        self.relay.unassign(keys);
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    // === where partitions begin ===

    fn reading(&self) -> Reading {
        Reading {
            group: self.options.group.clone(),
            member: self.options.member.clone(),
            epoch: self.member.epoch(),
            reset: self.options.reset,
            isolation: self.options.isolation,
        }
    }

    fn find_new(&mut self) {
        self.versions.mark_unchanged();
        let job = self.number();
        let named = self.parts.name(&self.node.metadata.snapshot(), job);
        if named.is_empty() {
            return;
        }
        let (node, caller, reading) = (Arc::clone(&self.node), self.caller.clone(), self.reading());
        self.finding.push(Box::pin(async move {
            let outcome = starts::find(&node, &caller, &reading, named.clone()).await;
            Found { job, named, is_reset: false, outcome }
        }));
    }

    fn find_reset(&mut self, at: TopicIdPartition) {
        let job = self.number();
        let Some(part) = self.parts.get_mut(&at) else { return };
        let Some(topic) = part.topic.clone() else { return };
        part.state = State::Finding(job);
        let (node, caller, reading) = (Arc::clone(&self.node), self.caller.clone(), self.reading());
        self.finding.push(Box::pin(async move {
            let named = vec![(at, topic.clone())];
            let mut next = starts::reset(&node, &caller, &reading, &named).await;
            let next = next.pop().unwrap_or(Ok(None));
            let outcome = Ok(vec![Start { at, topic, committed: None, next }]);
            Found { job, named, is_reset: true, outcome }
        }));
    }

    fn found(&mut self, found: Found) {
        let Found { job, named, is_reset, outcome } = found;
        let wanted = |parts: &mut Parts, at: &TopicIdPartition| {
            parts.get_mut(at).is_some_and(|part| part.state == State::Finding(job))
        };
        let starts = match outcome {
            Ok(starts) => starts,
            Err(error) => {
                tracing::debug!(group = %self.options.group, %error, "where partitions begin was not found; trying again");
                for (at, _) in named {
                    if wanted(&mut self.parts, &at) {
                        self.fail(&at);
                    }
                }
                return;
            }
        };
        let (mut told, mut reading) = (Vec::new(), Vec::new());
        let mut nowhere = Vec::new();
        for Start { at, topic, committed, next } in starts {
            if !wanted(&mut self.parts, &at) {
                continue;
            }
            let Some(part) = self.parts.get_mut(&at) else { continue };
            let next = match (part.sought.take(), next) {
                (Some(sought), _) => Some(sought),
                (None, Ok(next)) => next,
                (None, Err(error)) => {
                    tracing::debug!(%topic, %error, "where a partition begins was not found; trying again");
                    self.fail(&at);
                    continue;
                }
            };
            part.next = next.unwrap_or(Offset::NONE.get());
            part.state = if next.is_some() { State::Reading } else { State::Nowhere };
            if !part.is_told {
                part.is_told = true;
                told.push(v1::AssignedPartition {
                    topic_id: at.topic.0.to_vec().into(),
                    topic: topic.to_string(),
                    partition: at.partition.get(),
                    offset: part.next,
                });
            }
            match next {
                Some(offset) if !part.is_paused => {
                    reading.push(place(topic.as_str(), at.partition.get(), offset));
                }
                Some(_) => {}
                None => nowhere.push(failed(&topic, at, &starts::nowhere())),
            }
            if is_reset {
                self.positions.seek(&at, Offset(next.unwrap_or(-1)));
            } else {
                let begin = Position::at(Offset(next.unwrap_or(-1)));
                self.positions.assign(at, begin, committed.map(Offset));
            }
        }
        if !told.is_empty() {
            let member_epoch = self.member.epoch().0;
            self.events.push_back(Told::Assigned(v1::SubscribeAssigned { partitions: told, member_epoch }));
        }
        for data in nowhere {
            let data = self.tagged(data);
            self.events.push_back(Told::Records(data));
        }
        if !reading.is_empty() {
            self.relay.assign(reading);
        }
    }

    fn fail(&mut self, at: &TopicIdPartition) {
        if let Some(part) = self.parts.get_mut(at) {
            part.state = State::Failed;
            self.retry_at.get_or_insert(Instant::now() + RETRY);
        }
    }

    // === records ===

    /// Takes what the relay brought, and sends it.
    pub fn read(&mut self, data: v1::PartitionData) {
        let Some(at) = self.parts.named(&data.topic, data.partition) else { return };
        let Some(part) = self.parts.get_mut(&at).filter(|part| part.state == State::Reading) else { return };
        if let Some(error) = &data.error {
            if error.code == ErrorCode::OffsetOutOfRange as i32 {
                if self.options.reset.spec().is_some() {
                    self.find_reset(at);
                    return;
                }
                part.state = State::Nowhere;
                part.next = Offset::NONE.get();
            } else {
                self.fail(&at);
            }
            let data = self.tagged(data);
            self.events.push_back(Told::Records(data));
            return;
        }
        part.next = data.next_offset;
        let next = Offset(data.next_offset);
        let (bytes, records) = weight(&data);
        self.positions.given(&at, Position::at(next));
        self.progress.sent(at, next, bytes, records);
        if !self.is_working {
            self.is_working = true;
            let now = self.now();
            self.member.works(now);
        }
        let data = self.tagged(data);
        self.events.push_back(Told::Records(data));
    }

    /// Tells data from before a seek from data after it.
    fn tagged(&self, data: v1::PartitionData) -> v1::PartitionData {
        v1::PartitionData { tag: self.seeks, ..data }
    }

    // === what the client says ===

    /// Does what the client says; an error ends the stream.
    pub fn said(&mut self, message: v1::SubscribeRequest) -> Result<(), ApiError> {
        let Some(command) = message.command else {
            let message = "say credit, commit, revoked, seek, pause, resume, subscription or alive";
            return Err(ApiError::invalid("command", message));
        };
        let counted = message.dealt_with.map(|messages| self.progress.dealt_with(messages));
        let said = match &command {
            Command::Credit(more) => self.progress.credit(*more),
            _ => self.progress.said(),
        };
        self.done(counted.into_iter().flatten().chain(said));
        let now = self.now();
        self.member.waits(now);
        self.is_working = self.progress.is_owed();
        if self.is_working {
            self.member.works(now);
        }
        match command {
            Command::Start(_) => Err(ApiError::invalid("start", "start is the first message, once")),
            Command::Credit(more) => {
                self.relay.allow(more);
                Ok(())
            }
            Command::Commit(commit) => self.commit(commit),
            Command::Revoked(revoked) => {
                self.revoked(revoked.revocation_id);
                Ok(())
            }
            Command::Seek(seek) => self.seek(seek),
            Command::Pause(pause) => {
                self.pause(&pause.partitions);
                Ok(())
            }
            Command::Resume(resume) => {
                self.resume(&resume.partitions);
                Ok(())
            }
            Command::Subscription(wish) => {
                let subscription = check::subscription(&wish, "subscription")?;
                (self.options.wish, self.options.subscription) = (wish, subscription.clone());
                self.member.subscribe(subscription, now);
                Ok(())
            }
            Command::Alive(_) => Ok(()),
        }
    }

    fn done(&mut self, done: impl Iterator<Item = Done>) {
        for (at, next) in done {
            self.positions.done_to(&at, Position::at(next));
        }
    }

    fn commit(&mut self, commit: v1::SubscribeCommit) -> Result<(), ApiError> {
        if commit.commit_id == 0 {
            return Err(ApiError::invalid("commit.commit_id", "commits are numbered from 1"));
        }
        let offsets = match commit.offsets.is_empty() {
            true => self.to_commit(|_| true),
            false => {
                check::offsets(&commit.offsets, "commit.offsets")?;
                commit.offsets
            }
        };
        self.commits.push(Waiting::Commit { id: commit.commit_id, offsets });
        Ok(())
    }

    fn revoked(&mut self, id: u64) {
        // One that is not known was taken meanwhile; the client has been told.
        let Some(Revocation { partitions, .. }) = self.revocations.remove(&id) else { return };
        if self.options.auto_commit.is_some() {
            // Its last word for these: whatever it got of them it has dealt with.
            partitions.iter().for_each(|at| self.positions.done(at));
            let offsets = self.to_commit(|at| partitions.contains(at));
            self.commits.push(Waiting::Commit { id: 0, offsets });
        }
        self.commits.push(Waiting::GiveBack(partitions));
    }

    fn seek(&mut self, seek: v1::SubscribeSeek) -> Result<(), ApiError> {
        if seek.positions.len() > check::MAX_PARTITIONS {
            let message = format!("name at most {} partitions", check::MAX_PARTITIONS);
            return Err(ApiError::invalid("seek.positions", message));
        }
        if seek.positions.iter().any(|position| position.offset < 0) {
            return Err(ApiError::invalid("seek.positions.offset", "an offset is 0 or more"));
        }
        self.seeks += 1;
        let (mut reading, mut sought) = (Vec::new(), Partitions::new());
        for position in seek.positions {
            let at = self.parts.named(&position.topic, position.partition);
            let part = at.and_then(|at| Some((at, self.parts.get_mut(&at)?)));
            match part {
                Some((at, part)) if matches!(part.state, State::Reading | State::Nowhere) => {
                    part.state = State::Reading;
                    part.next = position.offset;
                    sought.insert(at);
                    if !part.is_paused {
                        reading.push(place(&position.topic, position.partition, position.offset));
                    }
                    self.positions.seek(&at, Offset(position.offset));
                }
                Some((_, part)) if part.state != State::Revoking => part.sought = Some(position.offset),
                // It may have been taken while the client said so.
                _ => self.not_assigned(position),
            }
        }
        self.progress.forget(&sought);
        if !reading.is_empty() {
            self.relay.assign(reading);
        }
        Ok(())
    }

    fn not_assigned(&mut self, position: v1::PartitionPosition) {
        let message = "the member does not have this partition (any more)";
        let error = ApiError::new(ErrorCode::StaleMemberEpoch, message).with_field("seek.positions");
        let data = crate::forward::relay::refused(position.topic, position.partition, self.seeks, &error);
        self.events.push_back(Told::Records(data));
    }

    fn pause(&mut self, topics: &[v1::TopicPartitions]) {
        let mut paused = Vec::new();
        for at in self.parts.resolve(topics) {
            if let Some(part) = self.parts.get_mut(&at) {
                part.is_paused = true;
                paused.extend(part.key(&at));
            }
        }
        self.relay.unassign(paused);
    }

    fn resume(&mut self, topics: &[v1::TopicPartitions]) {
        let mut resumed = Vec::new();
        for at in self.parts.resolve(topics) {
            let Some(part) = self.parts.get_mut(&at).filter(|part| part.is_paused) else { continue };
            part.is_paused = false;
            if part.state == State::Reading
                && let Some((topic, partition)) = part.key(&at)
            {
                resumed.push(place(&topic, partition, part.next));
            }
        }
        if !resumed.is_empty() {
            self.relay.assign(resumed);
        }
    }

    /// The client says no more: the member leaves when what it committed is durable.
    pub fn goodbye(&mut self) {
        self.has_said_goodbye = true;
        let all: Partitions = self.parts.iter().map(|(at, _)| *at).collect();
        self.stop_reading(&all);
        if self.options.auto_commit.is_some() {
            let offsets = self.to_commit(|_| true);
            self.commits.push(Waiting::Commit { id: 0, offsets });
        }
        self.commits.push(Waiting::Leave);
    }

    // === commits ===

    /// Commits what the client has dealt with.
    fn commit_done(&mut self) {
        if self.commits.has_automatic() {
            return;
        }
        let offsets = self.to_commit(|_| true);
        if !offsets.is_empty() {
            self.commits.push(Waiting::Commit { id: 0, offsets });
        }
    }

    fn to_commit(&mut self, which: impl Fn(&TopicIdPartition) -> bool) -> Vec<v1::OffsetToCommit> {
        let behind = self.positions.to_commit().into_iter().filter(|(at, _)| which(at));
        let offset = |(at, position): (TopicIdPartition, Position)| {
            let (topic, partition) = self.parts.get_mut(&at)?.key(&at)?;
            let (topic_id, offset) = (at.topic.0.to_vec().into(), position.offset.get());
            Some(v1::OffsetToCommit { topic, partition, offset, topic_id, ..Default::default() })
        };
        behind.filter_map(offset).take(check::MAX_PARTITIONS).collect()
    }

    fn go_on_committing(&mut self) {
        while let Some(next) = self.commits.next() {
            match next {
                Next::Call(offsets) => self.committing = Some(self.call(offsets)),
                Next::Told(told) if told.commit_id != 0 => self.events.push_back(Told::Committed(told)),
                Next::Told(_) => {}
                Next::GiveBack(partitions) => self.give_back(&partitions),
                Next::Leave => {
                    let now = self.now();
                    self.member.leave(self.options.instance.is_some(), now);
                    while let Some(event) = self.member.poll(now) {
                        self.happened(event);
                    }
                }
            }
        }
    }

    fn call(&self, offsets: Vec<v1::OffsetToCommit>) -> Committing {
        let request = v1::CommitOffsetsRequest {
            group_id: self.options.group.to_string(),
            member_id: self.options.member.to_string(),
            member_epoch: self.member.epoch().0,
            instance_id: self.options.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
            offsets,
            ..Default::default()
        };
        let is_out = self.member.epoch() <= MemberEpoch::JOIN;
        let (node, caller, group) = (Arc::clone(&self.node), self.caller.clone(), self.options.group.clone());
        Box::pin(async move {
            if is_out {
                let message = "the member is not in the group at the moment; it joins anew by itself";
                return Err(ApiError::new(ErrorCode::UnknownMember, message));
            }
            call::commit(&node, &caller, &group, request).await
        })
    }

    fn committed(&mut self, outcome: Result<v1::CommitOffsetsResponse, ApiError>) {
        self.committing = None;
        let (durable, told) = self.commits.answered(outcome);
        for ((topic, partition), offset) in durable {
            if let Some(at) = self.parts.named(&topic, partition) {
                self.positions.committed(&at, Offset(offset));
            }
        }
        self.events.extend(told.into_iter().map(Told::Committed));
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
